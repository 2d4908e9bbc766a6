//! Sends the steps of a case to one cluster and returns its normalised answers.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use futures::{AsyncBufReadExt as _, TryStreamExt as _};
use http::{HeaderMap, Request, StatusCode, header};
use kube::client::Body;
use serde_json::{Value, json};

use super::{
    case::{Case, CaseStep},
    kubectl,
    normalise::Normaliser,
    path::Path,
    place::Place,
};
use crate::{Failure, Step};

/// Until a `wait` must have come true: pods start within seconds, also when many cases run at once.
const WAIT_LIMIT: Duration = Duration::from_secs(120);
/// Between two looks of a `wait`.
const LOOK: Duration = Duration::from_millis(100);
/// Until the expected events of a watch must have come.
const WATCH_LIMIT: Duration = Duration::from_secs(30);
/// Longest time of one request; API servers give up after a minute themselves.
const REQUEST_LIMIT: Duration = Duration::from_secs(20);
/// Who the requests say they come from; managedFields name it.
const AGENT: &str = "likeness/1.0";
/// Headers that are part of the answer.
const HEADERS: [&str; 3] = ["content-type", "warning", "retry-after"];

/// Placeholders and what they stand for, on one cluster.
#[derive(Debug)]
pub struct Words {
    values: BTreeMap<String, String>,
    normaliser: Normaliser,
}

impl Words {
    pub fn get(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(String::as_str)
    }

    /// Replaces `{name}` for every name that is known; other braces belong to the text.
    pub fn fill(&self, text: &str) -> Step<String> {
        let mut filled = text.to_owned();
        for (name, value) in &self.values {
            filled = filled.replace(&format!("{{{name}}}"), value);
        }
        Ok(filled)
    }

    pub fn normaliser(&self) -> &Normaliser {
        &self.normaliser
    }
}

/// What one run of a case brought: the answers so far, and why it went no further.
#[derive(Debug, Default)]
pub struct Outcome {
    pub answers: Vec<Value>,
    pub failure: Option<String>,
}

/// Five letters that no other case has, in the style of generated names but with vowels, so that nothing mistakes them for one.
pub fn identity() -> String {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let clock = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| since.as_millis());
    let mut number = clock * 1000 + u128::from(NEXT.fetch_add(1, Ordering::Relaxed));
    let mut text = String::new();
    for _ in 0..8 {
        let digit = u8::try_from(number % 26).unwrap_or_default();
        text.push(char::from(b'a' + digit));
        number /= 26;
    }
    // A vowel in every group of five keeps the pattern of generated suffixes away.
    format!("{}o{}e", &text[..4], &text[4..])
}

/// Runs the steps that come before the cases of a file, whose answers count only when they are refusals, and makes the namespace
/// that its cases without effects share.
pub async fn prepare(place: &Place, steps: &[CaseStep], shared: &str) -> Step {
    place.create_namespace(&namespace(shared)).await?;
    let mut words = words(place, shared, None, &[])?;
    for step in steps {
        let answer = perform(place, step, &mut words).await?;
        let status = answer["status"].as_u64().unwrap_or(0);
        if !(200..300).contains(&status) {
            return Err(format!("{}: {answer}", step.title()).into());
        }
    }
    Ok(())
}

fn namespace(identity: &str) -> String {
    format!("likeness-{identity}")
}

/// Runs a case in a namespace of its own, or without effects in the one of its file.
pub async fn run(place: &Place, case: &Case, shared: &str) -> Outcome {
    let own = case.namespaced() && !case.dry();
    let identity = identity();
    let mut outcome = Outcome::default();
    let namespace = namespace(if own { &identity } else { shared });
    let result: Step = async {
        let mut words = words(place, shared, Some((&identity, &namespace)), &case.replace)?;
        if own {
            place.create_namespace(&namespace).await?;
        }
        for step in &case.steps {
            let mut answer = Box::pin(perform(place, step, &mut words))
                .await
                .map_err(|failure| Failure::from(format!("{}: {failure}", step.title())))?;
            answer["step"] = step.title().into();
            outcome.answers.push(answer);
        }
        for path in &case.cleanup {
            place.delete(&words.fill(path)?).await;
        }
        Ok(())
    }
    .await;
    outcome.failure = result.err().map(|failure| failure.to_string());
    if own {
        if case.finalizers() {
            place.release(&namespace).await;
        }
        place
            .delete(&format!("/api/v1/namespaces/{namespace}"))
            .await;
    }
    outcome
}

/// Deletes what `shared` steps have made.
pub async fn clean(place: &Place, paths: &[String], shared: &str) -> Step {
    let words = words(place, shared, None, &[])?;
    for path in paths {
        place.delete(&words.fill(path)?).await;
    }
    let namespace = namespace(shared);
    place
        .delete(&format!("/api/v1/namespaces/{namespace}"))
        .await;
    Ok(())
}

fn words(
    place: &Place,
    shared: &str,
    case: Option<(&str, &str)>,
    own: &[super::case::Replace],
) -> Step<Words> {
    let mut values = BTreeMap::from([("shared".to_owned(), shared.to_owned())]);
    let mut names = vec![(shared.to_owned(), "{shared}".to_owned())];
    if let Some((identity, namespace)) = case {
        // The namespace first: it contains the identity.
        names.insert(0, (identity.to_owned(), "{id}".to_owned()));
        names.insert(0, (namespace.to_owned(), "{ns}".to_owned()));
        values.insert("ns".to_owned(), namespace.to_owned());
        values.insert("id".to_owned(), identity.to_owned());
    }
    Ok(Words {
        values,
        normaliser: Normaliser::new(&names, &place.nodes, own)?,
    })
}

async fn perform(place: &Place, step: &CaseStep, words: &mut Words) -> Step<Value> {
    if step.kubectl.is_some() {
        return kubectl::run(place, step, words).await;
    }
    if step.watch.is_some() {
        return watch(place, step, words).await;
    }
    let (status, headers, body) = if step.wait.is_some() {
        wait(place, step, words).await?
    } else {
        exchange(place, step, words).await?
    };
    for (name, at) in &step.capture {
        let value = Path::parse(at)?.get(&body);
        let text = match &value {
            Value::String(text) => text.clone(),
            Value::Null => return Err(format!("no {at} to capture in {body}").into()),
            other => other.to_string(),
        };
        words.values.insert(name.clone(), text);
    }
    let mut answer = json!({"status": status.as_u16()});
    // What a wait ends with says all; its headers are those of any read.
    if step.wait.is_none() {
        answer["headers"] = words.normaliser.document(&headers);
    }
    if step.wait.is_none() || step.show.is_some() {
        answer["body"] = match &step.show {
            Some(places) => project(&words.normaliser.document(&body), places)?,
            None => words.normaliser.document(&body),
        };
    }
    Ok(answer)
}

fn project(document: &Value, places: &[String]) -> Step<Value> {
    let mut shown = serde_json::Map::new();
    for place in places {
        shown.insert(place.clone(), Path::parse(place)?.get(document));
    }
    Ok(shown.into())
}

fn media_type(short: &str) -> &str {
    match short {
        "json" => "application/json",
        "json-patch" => "application/json-patch+json",
        "merge" => "application/merge-patch+json",
        "strategic" => "application/strategic-merge-patch+json",
        "apply" => "application/apply-patch+yaml",
        "table" => "application/json;as=Table;v=v1;g=meta.k8s.io",
        "metadata" => "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io",
        "metadata-list" => "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io",
        "discovery" => "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList",
        other => other,
    }
}

fn request(step: &CaseStep, words: &Words) -> Step<Request<Body>> {
    let line = words.fill(&step.title())?;
    let (method, path) = line
        .split_once(' ')
        .ok_or_else(|| format!("{line}: no method"))?;
    let method = match method {
        "watch" | "wait" => "GET",
        method => method,
    };
    let content = match (&step.text, step.content()?) {
        (Some(text), _) => words.fill(text)?,
        (None, Some(body)) => words.fill(&body.to_string())?,
        (None, None) => String::new(),
    };
    let mut builder = Request::builder()
        .method(method)
        .uri(path)
        .header(header::USER_AGENT, AGENT)
        .header(
            header::ACCEPT,
            media_type(step.accept.as_deref().unwrap_or("json")),
        );
    if !content.is_empty() {
        builder = builder.header(
            header::CONTENT_TYPE,
            media_type(step.r#type.as_deref().unwrap_or("json")),
        );
    }
    Ok(builder.body(Body::from(content.into_bytes()))?)
}

fn compared(headers: &HeaderMap) -> Value {
    let mut compared = serde_json::Map::new();
    for name in HEADERS {
        let values: Vec<_> = headers
            .get_all(name)
            .iter()
            .map(|value| Value::from(String::from_utf8_lossy(value.as_bytes())))
            .collect();
        if !values.is_empty() {
            compared.insert(name.to_owned(), values.into());
        }
    }
    compared.into()
}

async fn exchange(
    place: &Place,
    step: &CaseStep,
    words: &Words,
) -> Step<(StatusCode, Value, Value)> {
    let sent = async {
        let response = place.client.send(request(step, words)?).await?;
        let (status, headers) = (response.status(), compared(response.headers()));
        Step::Ok((status, headers, response.into_body().collect_bytes().await?))
    };
    let (status, headers, bytes) = tokio::time::timeout(REQUEST_LIMIT, sent)
        .await
        .map_err(|_| Failure::from("no complete answer came"))??;
    let body = serde_json::from_slice(&bytes)
        .unwrap_or_else(|_| Value::from(String::from_utf8_lossy(&bytes)));
    Ok((status, headers, body))
}

/// Repeats a read until everything in `until` holds.
async fn wait(place: &Place, step: &CaseStep, words: &Words) -> Step<(StatusCode, Value, Value)> {
    let started = Instant::now();
    loop {
        let (status, headers, body) = exchange(place, step, words).await?;
        let mut holds = true;
        for (at, wanted) in &step.until {
            let found = if at == "code" {
                Value::from(status.as_u16())
            } else {
                Path::parse(at)?.get(&body)
            };
            let wanted: Value = serde_json::from_str(&words.fill(&wanted.to_string())?)?;
            holds &= found == wanted;
        }
        if holds {
            return Ok((status, headers, body));
        }
        if started.elapsed() > WAIT_LIMIT {
            return Err(
                format!("{:?} did not come true, last: {status} {body}", step.until).into(),
            );
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Collects the events of a watch while other steps happen.
async fn watch(place: &Place, step: &CaseStep, words: &mut Words) -> Step<Value> {
    let response = place.client.send(request(step, words)?).await?;
    let status = response.status();
    let headers = compared(response.headers());
    let mut lines = response.into_body().into_data_stream_lines();
    let mut during = Vec::new();
    for inner in &step.during {
        let mut answer = Box::pin(perform(place, inner, words)).await?;
        answer["step"] = inner.title().into();
        during.push(answer);
    }
    let mut events = Vec::new();
    let started = Instant::now();
    while step.events.is_none_or(|wanted| events.len() < wanted) {
        let left = WATCH_LIMIT.saturating_sub(started.elapsed());
        let line = match tokio::time::timeout(left, lines.try_next()).await {
            Ok(line) => line?,
            Err(_) => return Err(format!("only {} events came: {events:?}", events.len()).into()),
        };
        let Some(line) = line else { break };
        let event: Value = serde_json::from_str(&line).unwrap_or_else(|_| line.as_str().into());
        let asked =
            event["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"].is_string();
        if event["type"] == "BOOKMARK" && !asked && !step.bookmarks {
            continue;
        }
        let mut event = words.normaliser.document(&event);
        if let (Some(places), true) = (&step.show, event.is_object()) {
            event["object"] = project(&event["object"], places)?;
        }
        events.push(event);
    }
    let mut answer = json!({"status": status.as_u16(), "headers": words.normaliser.document(&headers), "events": events});
    if !during.is_empty() {
        answer["during"] = during.into();
    }
    Ok(answer)
}

/// Lines of a body, as they come.
trait Lines {
    fn into_data_stream_lines(self)
    -> futures::stream::BoxStream<'static, std::io::Result<String>>;
}

impl Lines for Body {
    fn into_data_stream_lines(
        self,
    ) -> futures::stream::BoxStream<'static, std::io::Result<String>> {
        use http_body_util::BodyExt as _;
        let data = self
            .into_data_stream()
            .map_err(std::io::Error::other)
            .into_async_read();
        Box::pin(futures::io::BufReader::new(data).lines())
    }
}
