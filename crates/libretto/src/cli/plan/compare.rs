//! An object as it is against an object as it is wanted, by the fields that count: those that are held, and those that will be. Pure.

use std::collections::BTreeSet;

use base64::Engine as _;
use libretto_api::secret::MARK;
use libretto_mirror::{held_fields, parse_quantity};
use serde_json::{Map, Value};
use similar::TextDiff;

use crate::cli::{
    CliError,
    print::{Document, document},
    spoken,
};

/// Lines around a change, as diff has it.
const CONTEXT: usize = 3;
/// Shorter values are no secrets that could be told apart from words that happen to be the same.
const SECRET_LENGTH: usize = 4;

/// Values of this length are not part of anything else.
const UNMISTAKABLE: usize = 8;

/// Keys by which elements of lists are told apart, as server-side apply does it: the first that all of them have.
const KEYS: &[&str] = &[
    "name",
    "containerPort",
    "port",
    "mountPath",
    "devicePath",
    "key",
    "type",
    "ip",
    "uid",
    "topologyKey",
];

/// Members that the API server fills in within structures that are held as a whole, so that they seem to be held too.
const FILLED_IN: &[(&str, &str)] = &[("fieldRef", "apiVersion"), ("resourceFieldRef", "divisor")];

/// Values that must not be shown.
#[derive(Debug, Default)]
pub(in crate::cli) struct Secrets(BTreeSet<String>);

impl Secrets {
    /// What an object knows that nobody else may: a Secret's data.
    pub(in crate::cli) fn of_object(&mut self, object: &Value) {
        if object["kind"] != "Secret" || object["apiVersion"] != "v1" {
            return;
        }
        for encoded in object["data"].as_object().into_iter().flat_map(Map::values) {
            let Some(encoded) = encoded.as_str() else {
                continue;
            };
            self.add(encoded);
            let decoded = base64::engine::general_purpose::STANDARD.decode(encoded);
            if let Ok(text) = decoded
                .map_err(drop)
                .and_then(|bytes| String::from_utf8(bytes).map_err(drop))
            {
                self.add(&text);
            }
        }
    }

    pub(super) fn add(&mut self, value: &str) {
        if value.len() >= SECRET_LENGTH {
            self.0.insert(value.to_owned());
        }
    }

    /// The text without any of the values.
    pub(in crate::cli) fn scrubbed(&self, text: &str) -> String {
        let mut text = text.to_owned();
        // The longest first: one may be part of another.
        let mut values: Vec<&String> = self.0.iter().collect();
        values.sort_by_key(|value| std::cmp::Reverse(value.len()));
        for value in values {
            if text.contains(value.as_str()) {
                text = without(&text, value);
            }
        }
        text
    }

    /// The same of every text in a value.
    pub(in crate::cli) fn scrubbed_value(&self, value: &Value) -> Value {
        match value {
            Value::String(text) => self.scrubbed(text).into(),
            Value::Array(items) => items.iter().map(|item| self.scrubbed_value(item)).collect(),
            Value::Object(map) => map
                .iter()
                .map(|(key, member)| (key.clone(), self.scrubbed_value(member)))
                .collect(),
            other => other.clone(),
        }
    }
}

/// A short value may be part of a word that is no secret (`redis` of `redis-cluster-test`): there it counts only by itself.
fn without(text: &str, value: &str) -> String {
    if value.len() >= UNMISTAKABLE {
        return text.replace(value, "***");
    }
    let word = |letter: char| letter.is_alphanumeric() || "-_./".contains(letter);
    let (mut said, mut rest) = (String::new(), text);
    while let Some(place) = rest.find(value) {
        let (before, behind) = (&rest[..place], &rest[place + value.len()..]);
        let alone = !before.ends_with(word) && !behind.starts_with(word);
        said.push_str(before);
        said.push_str(if alone { "***" } else { value });
        rest = behind;
    }
    said.push_str(rest);
    said
}

/// The change of an object that `manager` writes, as a unified diff; without `live` all of it is new.
pub(super) fn object(
    live: Option<&Value>,
    wanted: &Value,
    manager: &str,
    secrets: &Secrets,
) -> Result<String, CliError> {
    let wanted = with_data(wanted);
    let hidden = wanted["kind"] == "Secret";
    let after = shown(&wanted, hidden);
    let Some(live) = live else {
        return unified(None, Some(&after), secrets);
    };
    let held = held_fields(live, manager);
    let before = aligned(live, held.as_ref(), Some(&wanted), hidden);
    let after = without_nothing(after, &before);
    unified(Some(&before), Some(&after), secrets)
}

/// Fields that are given back.
pub(super) fn released(live: &Value, manager: &str, secrets: &Secrets) -> Result<String, CliError> {
    let held = held_fields(live, manager).unwrap_or_default();
    let before = shown(&held, live["kind"] == "Secret");
    unified(Some(&before), None, secrets)
}

/// One status against another. The times of conditions are when somebody looked.
pub(super) fn status(
    before: Option<&Value>,
    after: &Value,
    secrets: &Secrets,
) -> Result<String, CliError> {
    let timeless = |status: &Value| {
        let mut status = status.clone();
        let conditions = status["conditions"].as_array_mut();
        for condition in conditions.into_iter().flatten() {
            if let Some(condition) = condition.as_object_mut() {
                condition.retain(|key, _| {
                    !["lastTransitionTime", "lastUpdateTime"].contains(&key.as_str())
                });
            }
        }
        status
    };
    whole(before.map(timeless).as_ref(), &timeless(after), secrets)
}

/// One structure against another, as a whole.
pub(in crate::cli) fn whole(
    before: Option<&Value>,
    after: &Value,
    secrets: &Secrets,
) -> Result<String, CliError> {
    unified(
        before.map(spoken::value).as_ref(),
        Some(&spoken::value(after)),
        secrets,
    )
}

fn unified(
    before: Option<&Value>,
    after: Option<&Value>,
    secrets: &Secrets,
) -> Result<String, CliError> {
    let text = |value: Option<&Value>| match value {
        Some(value) => document(value, Document::Yaml).map(|text| secrets.scrubbed(&text)),
        None => Ok(String::new()),
    };
    let (before, after) = (text(before)?, text(after)?);
    if before == after {
        return Ok(" what differs is not shown: secrets, or how a value is written\n".to_owned());
    }
    let diff = TextDiff::from_lines(&before, &after);
    Ok(diff.unified_diff().context_radius(CONTEXT).to_string())
}

/// `stringData` becomes `data`, as it is sent.
fn with_data(wanted: &Value) -> Value {
    let mut wanted = wanted.clone();
    if wanted["kind"] == "Secret"
        && let Some(map) = wanted.as_object_mut()
        && let Some(Value::Object(strings)) = map.remove("stringData")
    {
        let data = map
            .entry("data")
            .or_insert_with(|| Value::Object(Map::new()));
        if let Some(data) = data.as_object_mut() {
            data.extend(strings);
        }
    }
    wanted
}

/// The object for people: handles by name, data of Secrets not at all.
fn shown(object: &Value, hidden: bool) -> Value {
    let mut said = spoken::value(object);
    if hidden {
        for (key, value) in said["data"].as_object_mut().into_iter().flatten() {
            let handle = object["data"][key]
                .as_str()
                .is_some_and(|text| text.contains(MARK));
            if !handle {
                *value = "***".into();
            }
        }
    }
    said
}

/// What is there, at the places that are held or wanted, in the form of what is wanted where the two are the same.
fn aligned(live: &Value, held: Option<&Value>, wanted: Option<&Value>, hidden: bool) -> Value {
    match (live, held, wanted) {
        (Value::Object(live), held, wanted) => {
            let mut map = Map::new();
            for (key, value) in live {
                let (held, wanted) = (
                    held.and_then(|held| held.get(key)),
                    wanted.and_then(|wanted| wanted.get(key)),
                );
                if held.is_none() && wanted.is_none() {
                    continue;
                }
                if let (Value::Object(members), Some(wanted)) = (value, wanted)
                    && let Some((_, filled)) = FILLED_IN.iter().find(|(whole, _)| whole == key)
                    && wanted.get(*filled).is_none()
                {
                    let mut members = members.clone();
                    members.remove(*filled);
                    map.insert(key.clone(), Value::Object(members));
                    continue;
                }
                let value = if hidden && key == "data" {
                    of_secret(value, wanted)
                } else {
                    aligned(value, held, wanted, false)
                };
                map.insert(key.clone(), value);
            }
            Value::Object(map)
        }
        (Value::Array(live), held, wanted) => {
            let (held, wanted) = (
                held.and_then(Value::as_array),
                wanted.and_then(Value::as_array),
            );
            Value::Array(elements(live, held, wanted))
        }
        (scalar, _, Some(wanted)) if same(scalar, wanted) => spoken::value(wanted),
        (scalar, ..) => scalar.clone(),
    }
}

/// Without empty maps and lists that are wanted where nothing is: an API server drops them.
fn without_nothing(wanted: Value, there: &Value) -> Value {
    let empty = |value: &Value| match value {
        Value::Null => true,
        Value::Object(map) => map.is_empty(),
        Value::Array(items) => items.is_empty(),
        _ => false,
    };
    match (wanted, there) {
        (Value::Object(wanted), Value::Object(there)) => wanted
            .into_iter()
            .filter(|(key, value)| there.contains_key(key) || !empty(value))
            .map(|(key, value)| {
                let there = there.get(&key).unwrap_or(&Value::Null);
                let value = without_nothing(value, there);
                (key, value)
            })
            .collect(),
        (Value::Array(wanted), Value::Array(there)) if wanted.len() == there.len() => wanted
            .into_iter()
            .zip(there)
            .map(|(wanted, there)| without_nothing(wanted, there))
            .collect(),
        (wanted, _) => wanted,
    }
}

/// Whether a value is what is wanted, as far as that can be told without knowing secrets.
fn same(live: &Value, wanted: &Value) -> bool {
    match (live, wanted) {
        (Value::String(_), Value::String(wanted)) if wanted.contains(MARK) => true,
        // An API server writes quantities its own way: 0.5 as 500m.
        (Value::String(live), wanted) => {
            let wanted = match wanted {
                Value::String(text) => text.clone(),
                Value::Number(number) => number.to_string(),
                _ => return false,
            };
            let unit = |text: &str| text.ends_with(|letter: char| letter.is_ascii_alphabetic());
            (unit(live) || unit(&wanted))
                && parse_quantity(live).is_some()
                && parse_quantity(live) == parse_quantity(&wanted)
        }
        _ => false,
    }
}

fn of_secret(live: &Value, wanted: Option<&Value>) -> Value {
    let members = live.as_object().into_iter().flatten().map(|(key, _)| {
        let wanted = wanted
            .and_then(|wanted| wanted.get(key))
            .and_then(Value::as_str);
        let said = match wanted {
            Some(wanted) if wanted.contains(MARK) => spoken::text(wanted),
            _ => "***".to_owned(),
        };
        (key.clone(), Value::from(said))
    });
    Value::Object(members.collect())
}

fn elements(live: &[Value], held: Option<&Vec<Value>>, wanted: Option<&Vec<Value>>) -> Vec<Value> {
    let all = || live.iter().chain(wanted.into_iter().flatten());
    let key = KEYS
        .iter()
        .find(|key| all().next().is_some() && all().all(|element| element.get(**key).is_some()));
    if let Some(key) = key {
        let find = |list: Option<&Vec<Value>>, element: &Value| -> Option<Value> {
            let mut list = list.into_iter().flatten();
            list.find(|other| other.get(*key) == element.get(*key))
                .cloned()
        };
        return live
            .iter()
            .filter_map(|element| {
                let (held, wanted) = (find(held, element), find(wanted, element));
                (held.is_some() || wanted.is_some())
                    .then(|| aligned(element, held.as_ref(), wanted.as_ref(), false))
            })
            .collect();
    }
    if live
        .iter()
        .any(|element| element.is_object() || element.is_array())
    {
        // Without keys a list is held as a whole, element by element.
        return live
            .iter()
            .enumerate()
            .map(|(place, element)| {
                aligned(
                    element,
                    Some(element),
                    wanted.and_then(|wanted| wanted.get(place)),
                    false,
                )
            })
            .collect();
    }
    let mut left: Vec<Value> = Vec::new();
    for (place, element) in live.iter().enumerate() {
        let listed = |list: Option<&Vec<Value>>| list.is_some_and(|list| list.contains(element));
        // A word with a secret in it stands at its place.
        let secret = wanted
            .and_then(|wanted| wanted.get(place))
            .filter(|wanted| same(element, wanted));
        if let Some(wanted) = secret {
            left.push(spoken::value(wanted));
        } else if held.is_none() || listed(held) || listed(wanted) {
            left.push(element.clone());
        }
    }
    left
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use libretto_api::secret::SecretHandle;
    use serde_json::json;

    use super::*;

    fn live(data: Value, fields: &Value) -> Value {
        let mut object = data;
        object["metadata"]["managedFields"] =
            json!([{"manager": "libretto:p", "operation": "Apply", "fieldsV1": fields}]);
        object
    }

    #[test]
    fn only_held_and_wanted_fields_are_compared() {
        let there = live(
            json!({"kind": "Pod", "metadata": {"name": "a", "labels": {"theirs": "x", "old": "was"}},
                "spec": {"defaulted": 1, "containers": [
                    {"name": "side", "image": "s"},
                    {"name": "c", "image": "one", "pull": "Always", "resources": {"limits": {"cpu": "500m"}}}]}}),
            &json!({"f:metadata": {"f:labels": {"f:old": {}}}, "f:spec": {"f:containers": {"k:{\"name\":\"c\"}": {".": {}, "f:name": {}, "f:image": {}}}}}),
        );
        let wanted = json!({"kind": "Pod", "metadata": {"name": "a"},
            "spec": {"containers": [{"name": "c", "image": "two", "resources": {"limits": {"cpu": 0.5}}}]}});
        let diff = object(Some(&there), &wanted, "libretto:p", &Secrets::default()).unwrap();
        let changed: Vec<&str> = diff
            .lines()
            .filter(|line| line.starts_with(['+', '-']))
            .map(|line| line.trim_start_matches(['+', '-']).trim())
            .collect();
        assert_eq!(
            changed,
            ["labels:", "old: was", "- image: one", "- image: two"],
            "{diff}"
        );
    }

    #[test]
    fn what_an_api_server_fills_in_or_drops_is_no_change() {
        let there = live(
            json!({"kind": "Pod", "metadata": {"name": "a"}, "spec": {"env": [{"name": "x", "fieldRef": {"apiVersion": "v1", "fieldPath": "f"}}], "size": 1}}),
            &json!({"f:spec": {"f:size": {}, "f:env": {"k:{\"name\":\"x\"}": {".": {}, "f:name": {}, "f:fieldRef": {}}}}}),
        );
        let wanted = json!({"kind": "Pod", "metadata": {"name": "a", "annotations": {}},
            "spec": {"env": [{"name": "x", "fieldRef": {"fieldPath": "f"}}], "size": 1, "list": []}});
        let diff = object(Some(&there), &wanted, "libretto:p", &Secrets::default()).unwrap();
        assert!(diff.contains("is not shown"), "{diff}");
        let old =
            json!({"conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "1"}]});
        let new = json!({"conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2"}], "size": 1});
        let diff = status(Some(&old), &new, &Secrets::default()).unwrap();
        assert!(
            diff.contains("+size: 1") && !diff.contains("lastTransition"),
            "{diff}"
        );
    }

    #[test]
    fn values_of_secrets_are_never_shown() {
        let handle = SecretHandle::Key {
            name: "auth".into(),
            key: "password".into(),
        }
        .text();
        let secret = live(
            json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "auth"}, "data": {"password": "aHVudGVyMg==", "old": "aHVudGVyMg=="}}),
            &json!({"f:data": {"f:password": {}, "f:old": {}}}),
        );
        let mut secrets = Secrets::default();
        secrets.of_object(&secret);
        let wanted = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "auth"}, "stringData": {"password": handle}, "data": {"new": "eA=="}});
        let diff = object(Some(&secret), &wanted, "libretto:p", &secrets).unwrap();
        assert!(diff.contains("-  old:") && diff.contains("***"), "{diff}");
        assert!(diff.contains("new: ") && !diff.contains("eA=="), "{diff}");
        assert!(
            !diff.contains("hunter2") && !diff.contains("aHVudGVy"),
            "{diff}"
        );
        let map = live(
            json!({"kind": "ConfigMap", "data": {"file": "requirepass hunter2", "gone": "x hunter2 y"}}),
            &json!({"f:data": {"f:file": {}, "f:gone": {}}}),
        );
        let wanted =
            json!({"kind": "ConfigMap", "data": {"file": format!("requirepass {handle}")}});
        let diff = object(Some(&map), &wanted, "libretto:p", &secrets).unwrap();
        assert!(
            diff.contains("gone: x *** y") && !diff.contains("hunter2"),
            "{diff}"
        );
        assert!(
            diff.contains("requirepass <secret auth/password>"),
            "{diff}"
        );
        let only = json!({"kind": "ConfigMap", "data": {"file": format!("requirepass {handle}"), "gone": "x hunter2 y"}});
        let diff = object(Some(&map), &only, "libretto:p", &secrets).unwrap();
        assert!(diff.contains("is not shown"), "{diff}");
    }

    #[test]
    fn short_values_are_struck_out_as_words() {
        let mut secrets = Secrets::default();
        for value in ["redis", "a-long-secret", "abc"] {
            secrets.add(value);
        }
        assert_eq!(
            secrets.scrubbed("redis-a \"redis\" xa-long-secretx abc redis"),
            "redis-a \"***\" x***x abc ***"
        );
    }

    #[test]
    fn what_is_new_is_all_added_and_what_is_released_all_removed() {
        let wanted = json!({"kind": "ConfigMap", "data": {"a": "1"}});
        let diff = object(None, &wanted, "libretto:p", &Secrets::default()).unwrap();
        assert!(
            diff.lines().skip(1).all(|line| line.starts_with('+')),
            "{diff}"
        );
        let there = live(
            json!({"kind": "ConfigMap", "data": {"a": "1", "b": "2"}}),
            &json!({"f:data": {"f:a": {}}}),
        );
        let diff = released(&there, "libretto:p", &Secrets::default()).unwrap();
        assert!(diff.contains("-  a:") && !diff.contains("b:"), "{diff}");
    }
}
