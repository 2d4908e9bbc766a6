//! Metrics as facts: scrapes an endpoint in Prometheus' text format, or asks a Prometheus server an instant query.
//!
//! The format is that of <https://prometheus.io/docs/instrumenting/exposition_formats/>. It is read here because the crates that read
//! it fold histograms into types of their own, while a package wants the series as they are written.

use std::collections::BTreeMap;

use libretto_api::intent::{Failure, FailureKind, HttpCall, Series};
use serde_json::{Map, Value, json};

use crate::{failed, http, reach::Reach, secret::Resolver};

/// Most series that become an answer. A node exporter has a thousand; what has more is asked for by name.
const SERIES_LIMIT: usize = 5_000;

pub(crate) async fn probe(
    reach: &Reach,
    resolver: &Resolver<'_>,
    page: &HttpCall,
    read: &Series,
) -> Result<Value, Failure> {
    let answer = http::probe(reach, resolver, page).await?;
    let refused = |why: String| failed(FailureKind::Refused, format!("GET {}: {why}", page.url));
    let status = answer["status"].as_u64().unwrap_or_default();
    match read {
        Series::Scrape { only } => {
            if status != 200 {
                return Err(refused(format!("status {status}")));
            }
            let text = answer["body"].as_str().unwrap_or_default();
            scraped(text, only).map_err(refused)
        }
        Series::Query => queried(status, &answer["body"]).map_err(refused),
    }
}

/// Series by metric.
fn scraped(text: &str, only: &[String]) -> Result<Value, String> {
    let mut metrics: BTreeMap<&str, Vec<Value>> = BTreeMap::new();
    let mut count = 0;
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (name, labels, value) =
            sample(line).ok_or_else(|| format!("line {} is not a metric", number + 1))?;
        if !only.is_empty() && !only.iter().any(|wanted| wanted == name) {
            continue;
        }
        count += 1;
        if count > SERIES_LIMIT {
            return Err(format!(
                "more than {SERIES_LIMIT} series: name the ones that matter with `metrics`"
            ));
        }
        metrics.entry(name).or_default().push(series(labels, value));
    }
    Ok(json!(metrics))
}

/// What stands in a line: `name{label="value",…} 1.5 [time]`.
fn sample(line: &str) -> Option<(&str, Map<String, Value>, f64)> {
    let end = line.find(|c: char| c == '{' || c.is_whitespace())?;
    let (name, mut rest) = line.split_at(end);
    let mut labels = Map::new();
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside;
        loop {
            rest = rest.trim_start_matches([' ', ',']);
            if let Some(after) = rest.strip_prefix('}') {
                rest = after;
                break;
            }
            let (label, after) = rest.split_once('=')?;
            let (value, after) = quoted(after.trim_start())?;
            labels.insert(label.trim().to_owned(), Value::String(value));
            rest = after;
        }
    }
    let value = match rest.split_whitespace().next()? {
        "+Inf" | "Inf" => f64::INFINITY,
        "-Inf" => f64::NEG_INFINITY,
        "NaN" => f64::NAN,
        number => number.parse().ok()?,
    };
    (!name.is_empty()).then_some((name, labels, value))
}

/// A quoted text, where `\\`, `\"` and `\n` are escapes, and what comes after it.
fn quoted(text: &str) -> Option<(String, &str)> {
    let text = text.strip_prefix('"')?;
    let mut value = String::new();
    let mut letters = text.char_indices();
    while let Some((place, letter)) = letters.next() {
        match letter {
            '"' => return Some((value, &text[place + 1..])),
            '\\' => match letters.next()?.1 {
                'n' => value.push('\n'),
                other => value.push(other),
            },
            other => value.push(other),
        }
    }
    None
}

/// JSON has no infinity: what is not a number is NULL to a package.
fn series(mut labels: Map<String, Value>, value: f64) -> Value {
    labels.insert("value".to_owned(), json!(value));
    Value::Object(labels)
}

/// A server's answer to `/api/v1/query`.
fn queried(status: u64, body: &Value) -> Result<Value, String> {
    if body["status"] != "success" {
        let why = body["error"]
            .as_str()
            .unwrap_or("not the answer of a Prometheus server");
        return Err(format!("status {status}: {why}"));
    }
    let data = &body["data"];
    let number = |pair: &Value| -> f64 {
        let text = pair[1].as_str().unwrap_or_default();
        text.parse().unwrap_or(f64::NAN)
    };
    let found = match data["resultType"].as_str() {
        Some("vector") => data["result"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|entry| {
                let labels = entry["metric"].as_object().cloned().unwrap_or_default();
                series(labels, number(&entry["value"]))
            })
            .collect(),
        Some("scalar") => vec![series(Map::new(), number(&data["result"]))],
        other => {
            return Err(format!(
                "the query gives a {}, not a number or a list of numbers",
                other.unwrap_or("thing without a type")
            ));
        }
    };
    if found.len() > SERIES_LIMIT {
        return Err(format!("the query gives more than {SERIES_LIMIT} series"));
    }
    Ok(json!({"series": found}))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_page_is_read_as_it_is_written() {
        let page = r#"
# HELP http_requests_total Requests.
# TYPE http_requests_total counter
http_requests_total{method="post",code="200"} 1027 1395066363000
http_requests_total{method="post",code="400",} 3
path{p="C:\\DIR \"x\"\n,}"} 1.5e3
up 1
odd{le="+Inf"} +Inf
"#;
        let answer = scraped(page, &[]).unwrap();
        assert_eq!(
            answer,
            json!({
                "http_requests_total": [
                    {"method": "post", "code": "200", "value": 1027.0},
                    {"method": "post", "code": "400", "value": 3.0},
                ],
                "path": [{"p": "C:\\DIR \"x\"\n,}", "value": 1500.0}],
                "up": [{"value": 1.0}],
                "odd": [{"le": "+Inf", "value": null}],
            })
        );
        let one = scraped(page, &["up".to_owned()]).unwrap();
        assert_eq!(one, json!({"up": [{"value": 1.0}]}));
        for (wrong, line) in [("up", 1), ("up 1\nup x", 2), ("up{a=1} 1", 1), ("{} 1", 1)] {
            let error = scraped(wrong, &[]).unwrap_err();
            assert_eq!(error, format!("line {line} is not a metric"), "{wrong}");
        }
    }

    #[test]
    fn a_flood_of_series_is_refused() {
        let page: String = (0..=SERIES_LIMIT)
            .map(|number| format!("a{{n=\"{number}\"}} 1\n"))
            .collect();
        let error = scraped(&page, &[]).unwrap_err();
        assert!(error.contains("name the ones that matter"), "{error}");
        scraped(&page, &["b".to_owned()]).unwrap();
    }

    #[test]
    fn a_servers_answer_is_read() {
        let body = json!({"status": "success", "data": {"resultType": "vector", "result": [
            {"metric": {"pod": "a"}, "value": [1.0, "0.5"]},
        ]}});
        let expected = json!({"series": [{"pod": "a", "value": 0.5}]});
        assert_eq!(queried(200, &body).unwrap(), expected);
        let scalar =
            json!({"status": "success", "data": {"resultType": "scalar", "result": [1.0, "2"]}});
        assert_eq!(
            queried(200, &scalar).unwrap(),
            json!({"series": [{"value": 2.0}]})
        );
        let wrong = json!({"status": "error", "error": "parse error"});
        assert_eq!(queried(400, &wrong).unwrap_err(), "status 400: parse error");
        assert!(
            queried(200, &json!("<html>"))
                .unwrap_err()
                .contains("not the answer")
        );
        let text =
            json!({"status": "success", "data": {"resultType": "string", "result": [1, "a"]}});
        assert!(queried(200, &text).unwrap_err().contains("gives a string"));
    }
}
