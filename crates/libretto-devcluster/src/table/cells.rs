//! What cells of many kinds are made of.

use serde_json::Value;

use super::duration;

pub(super) const NONE: &str = "<none>";
pub(super) const UNSET: &str = "<unset>";
pub(super) const UNKNOWN: &str = "<unknown>";

pub(super) fn name_and_age(object: &Value, now: i64) -> Vec<Value> {
    vec![name(object), age(object, now)]
}

pub(super) fn name(object: &Value) -> Value {
    text(&object["metadata"], "name").into()
}

pub(super) fn age(object: &Value, now: i64) -> Value {
    duration::age(object["metadata"]["creationTimestamp"].as_str(), now).into()
}

pub(super) fn text<'v>(value: &'v Value, key: &str) -> &'v str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

/// The text, or what stands for its absence.
pub(super) fn or<'v>(text: &'v str, otherwise: &'v str) -> &'v str {
    if text.is_empty() { otherwise } else { text }
}

pub(super) fn list<'v>(value: &'v Value, key: &str) -> &'v [Value] {
    value
        .get(key)
        .and_then(Value::as_array)
        .map(Vec::as_slice)
        .unwrap_or_default()
}

pub(super) fn number(value: &Value) -> i64 {
    value.as_i64().unwrap_or(0)
}

/// Joined by commas, `<none>` for nothing.
pub(super) fn joined<S: AsRef<str>>(parts: &[S]) -> String {
    if parts.is_empty() {
        return NONE.to_owned();
    }
    parts
        .iter()
        .map(AsRef::as_ref)
        .collect::<Vec<_>>()
        .join(",")
}

/// A map as `a=b,c=d`, `<none>` for an empty one.
pub(super) fn labels(map: &Value) -> String {
    let pairs: Vec<String> = map
        .as_object()
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
        .collect();
    joined(&pairs)
}

/// A label selector as kubectl writes it.
pub(super) fn selector(selector: &Value) -> String {
    let mut parts: Vec<String> = selector["matchLabels"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
        .collect();
    for expression in list(selector, "matchExpressions") {
        let key = text(expression, "key");
        let values: Vec<&str> = list(expression, "values")
            .iter()
            .filter_map(Value::as_str)
            .collect();
        parts.push(match text(expression, "operator") {
            "In" => format!("{key} in ({})", values.join(",")),
            "NotIn" => format!("{key} notin ({})", values.join(",")),
            "Exists" => key.to_owned(),
            _ => format!("!{key}"),
        });
    }
    joined(&parts)
}

/// Names and images of the containers of a pod specification.
pub(super) fn containers(spec: &Value) -> (String, String) {
    let column = |key: &str| {
        list(spec, "containers")
            .iter()
            .map(|container| text(container, key))
            .collect::<Vec<_>>()
            .join(",")
    };
    (column("name"), column("image"))
}
