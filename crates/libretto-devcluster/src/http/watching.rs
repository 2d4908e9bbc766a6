//! Watches over HTTP: one JSON document per line, until time is up, the history is lost, or the server ends.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use axum::{body::Body, response::Response};
use bytes::Bytes;
use http::{HeaderValue, header};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{Shared, listing, negotiate::Form, path::Query};
use crate::{
    api::{Gvr, ListOptions, ListQuery, Watch, WatchEvent},
    error::{ApiError, FieldError},
    registry::Resource,
    table::IncludeObject,
};

/// As Kubernetes: between one and two times this unless the client says otherwise, so that clients do not all return at once.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30 * 60);

/// How events look.
#[derive(Debug)]
struct Presentation {
    resource: Arc<Resource>,
    version: String,
    form: Form,
    include: IncludeObject,
    /// A Table names its columns once.
    columns_sent: bool,
}

#[derive(Debug)]
struct Stream {
    presentation: Presentation,
    /// Events to send before the first change.
    initial: VecDeque<WatchEvent>,
    /// Bookmark that ends the initial events.
    initial_end: Option<u64>,
    /// `None` when the stream has ended.
    watch: Option<Watch>,
    bookmarks: bool,
    until: Instant,
}

#[derive(Serialize)]
struct Line<'a, T: Serialize> {
    r#type: &'a str,
    object: T,
}

pub(super) fn start(
    shared: &Shared,
    resource: &Arc<Resource>,
    gvr: &Gvr,
    namespace: Option<&str>,
    options: &ListOptions,
    query: &Query,
    form: Form,
) -> Result<Response, ApiError> {
    let bookmarks = query.flag("allowWatchBookmarks")?;
    let streaming = query
        .get("sendInitialEvents")
        .map(|_| query.flag("sendInitialEvents"))
        .transpose()?;
    let matching = query.get("resourceVersionMatch");
    let revision = query.revision()?;
    match (streaming, matching) {
        (Some(_), Some("NotOlderThan")) | (None, None) => {}
        (Some(_), given) => {
            let mut causes = vec![super::resources::match_forbidden(
                "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
            )];
            if let Some(given) = given {
                causes.push(FieldError {
                    reason: "FieldValueNotSupported",
                    field: "resourceVersionMatch".to_owned(),
                    message: format!(
                        "Unsupported value: {given:?}: supported values: \"NotOlderThan\""
                    ),
                });
            }
            return Err(ApiError::invalid("meta.k8s.io", "ListOptions", "", &causes));
        }
        (None, Some(_)) => {
            return Err(ApiError::invalid_options(
                "ListOptions",
                super::resources::match_forbidden(
                    "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
                ),
            ));
        }
    }
    let with_initial = streaming.unwrap_or_else(|| revision.unwrap_or(0) == 0);
    let mut initial = VecDeque::new();
    let mut initial_end = None;
    let from = if with_initial {
        let page = shared.api.page(
            gvr,
            &ListQuery {
                namespace,
                options: &ListOptions {
                    limit: None,
                    continue_token: None,
                    ..options.clone()
                },
                at: None,
            },
        )?;
        if revision.is_some_and(|wanted| wanted > page.revision) {
            return Err(super::resources::too_large(
                revision.unwrap_or(0),
                page.revision,
            ));
        }
        initial.extend(page.items.into_iter().map(WatchEvent::Added));
        if streaming == Some(true) && bookmarks {
            initial_end = Some(page.revision);
        }
        page.revision
    } else {
        revision
            .filter(|revision| *revision > 0)
            .unwrap_or_else(|| shared.api.revision())
    };
    let watch = shared.api.watch(gvr, namespace, options, from)?;
    let timeout = query
        .number("timeoutSeconds")?
        .and_then(|seconds| u64::try_from(seconds).ok())
        .filter(|seconds| *seconds > 0)
        .map_or_else(
            || DEFAULT_TIMEOUT.mul_f64(1.0 + rand::random::<f64>()),
            Duration::from_secs,
        );
    let stream = Stream {
        presentation: Presentation {
            resource: resource.clone(),
            version: gvr.version.to_string(),
            form,
            include: listing::include_object(query)?,
            columns_sent: false,
        },
        initial,
        initial_end,
        watch: Some(watch),
        bookmarks,
        until: Instant::now() + timeout,
    };
    let lines = futures::stream::unfold(stream, |mut stream| async move {
        let line = stream.next().await?;
        Some((Ok::<_, std::convert::Infallible>(line), stream))
    });
    let mut response = Response::new(Body::from_stream(lines));
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    Ok(response)
}

impl Stream {
    async fn next(&mut self) -> Option<Bytes> {
        if let Some(event) = self.initial.pop_front() {
            return Some(self.presentation.line(&event));
        }
        if let Some(revision) = self.initial_end.take() {
            return Some(self.presentation.bookmark(revision, true));
        }
        loop {
            let watch = self.watch.as_mut()?;
            let event = tokio::select! {
                biased;
                event = watch.next() => event,
                () = tokio::time::sleep_until(self.until) => {
                    let position = watch.position();
                    self.watch = None;
                    // The last word lets a quiet client continue from here instead of from long ago.
                    return self.bookmarks.then(|| self.presentation.bookmark(position, false));
                }
            };
            match event {
                None => {
                    self.watch = None;
                    return None;
                }
                Some(WatchEvent::Bookmark(_)) if !self.bookmarks => {}
                Some(event) => {
                    if matches!(event, WatchEvent::Expired) {
                        self.watch = None;
                    }
                    return Some(self.presentation.line(&event));
                }
            }
        }
    }
}

impl Presentation {
    fn line(&mut self, event: &WatchEvent) -> Bytes {
        match event {
            WatchEvent::Added(object) => self.object("ADDED", object),
            WatchEvent::Modified(object) => self.object("MODIFIED", object),
            WatchEvent::Deleted(object) => self.object("DELETED", object),
            WatchEvent::Bookmark(revision) => self.bookmark(*revision, false),
            WatchEvent::Expired => text_line(
                "ERROR",
                &ApiError::expired("too old resource version: list again and watch from there")
                    .status(),
            ),
        }
    }

    fn object(&mut self, kind: &str, object: &Arc<Value>) -> Bytes {
        match self.form {
            Form::Plain | Form::AggregatedDiscovery => text_line(kind, object),
            Form::Metadata => text_line(kind, &listing::partial(object)),
            Form::Table => {
                let revision = object["metadata"]["resourceVersion"]
                    .as_str()
                    .unwrap_or_default();
                let table = listing::render_table(
                    &self.resource,
                    &self.version,
                    std::slice::from_ref(object),
                    self.include,
                    !self.columns_sent,
                    revision,
                );
                self.columns_sent = true;
                text_line(kind, &table)
            }
        }
    }

    fn bookmark(&mut self, revision: u64, initial_end: bool) -> Bytes {
        let revision = revision.to_string();
        if self.form == Form::Table {
            let table = listing::render_table(
                &self.resource,
                &self.version,
                &[],
                self.include,
                !self.columns_sent,
                &revision,
            );
            self.columns_sent = true;
            return text_line("BOOKMARK", &table);
        }
        let mut object = json!({
            "kind": self.resource.kind, "apiVersion": self.resource.api_version(&self.version),
            "metadata": {"resourceVersion": revision},
        });
        if self.form == Form::Metadata {
            object["kind"] = "PartialObjectMetadata".into();
            object["apiVersion"] = "meta.k8s.io/v1".into();
        }
        if initial_end {
            object["metadata"]["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        text_line("BOOKMARK", &object)
    }
}

fn text_line(kind: &str, object: &Value) -> Bytes {
    let mut line = serde_json::to_vec(&Line {
        r#type: kind,
        object,
    })
    .expect("JSON values have string keys only");
    line.push(b'\n');
    line.into()
}
