//! What the API server owns in `metadata`: names, uids, time stamps, finalizers. Pure apart from clock and randomness at the edges.

use rand::Rng;
use serde_json::{Map, Value};

use crate::{
    error::{ApiError, FieldError},
    registry::{NameRule, Resource},
    schema::names,
};

/// Characters of generated names: no vowels, nothing that looks alike (Kubernetes' own set).
const NAME_ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
/// 63 (a label) less the five random characters.
const GENERATE_NAME_LIMIT: usize = 58;

/// Now, as the API writes time stamps.
pub fn now() -> String {
    time_text(jiff::Timestamp::now())
}

pub(super) fn time_text(time: jiff::Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// `metadata` of an object that has passed `check_shape`.
pub(super) fn metadata(object: &mut Value) -> &mut Map<String, Value> {
    object["metadata"]
        .as_object_mut()
        .expect("check_shape made metadata an object")
}

/// A text field of `metadata`, empty when absent.
pub(super) fn text<'a>(object: &'a Value, field: &str) -> &'a str {
    object["metadata"][field].as_str().unwrap_or_default()
}

/// A child that is an object, made when absent; `None` when something else is in its place.
pub(super) fn child<'a>(object: &'a mut Value, name: &str) -> Option<&'a mut Map<String, Value>> {
    let slot = object
        .as_object_mut()?
        .entry(name.to_owned())
        .or_insert(Value::Null);
    if slot.is_null() {
        *slot = Value::Object(Map::new());
    }
    slot.as_object_mut()
}

pub(super) fn finalizers(object: &Value) -> impl Iterator<Item = &str> {
    object["metadata"]["finalizers"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
}

pub(super) fn set_finalizers(object: &mut Value, names: Vec<String>) {
    let metadata = metadata(object);
    if names.is_empty() {
        metadata.remove("finalizers");
    } else {
        metadata.insert("finalizers".to_owned(), names.into());
    }
}

pub(super) fn terminating(object: &Value) -> bool {
    !object["metadata"]["deletionTimestamp"].is_null()
}

/// Whether a terminating object has nothing left that holds it. Only a Namespace is also held by its `spec`; elsewhere a field of that
/// name means something else.
pub(super) fn released(resource: &Resource, object: &Value) -> bool {
    terminating(object)
        && finalizers(object).next().is_none()
        && object["metadata"]["deletionGracePeriodSeconds"]
            .as_i64()
            .unwrap_or(0)
            == 0
        && (resource.qualified() != "namespaces"
            || object["spec"]["finalizers"]
                .as_array()
                .is_none_or(Vec::is_empty))
}

/// Refuses what later steps could not even look at: a body that is no object, metadata of the wrong types, another kind.
pub(super) fn check_shape(
    resource: &Resource,
    version: &str,
    object: &mut Value,
) -> Result<(), ApiError> {
    let api_version = resource.api_version(version);
    let Some(top) = object.as_object_mut() else {
        return Err(ApiError::bad_request(format!(
            "the body must be a JSON object of kind {}",
            resource.kind
        )));
    };
    for (field, expected) in [("apiVersion", &api_version), ("kind", &resource.kind)] {
        match top.get(field) {
            None | Some(Value::Null) => {
                top.insert(field.to_owned(), expected.as_str().into());
            }
            Some(Value::String(found)) if found.is_empty() => {
                top.insert(field.to_owned(), expected.as_str().into());
            }
            Some(Value::String(found)) if found == expected => {}
            Some(found) => {
                let found = found.as_str().unwrap_or_default().to_owned();
                return Err(other_type(resource, version, top, field, &found));
            }
        }
    }
    let metadata = top
        .entry("metadata")
        .or_insert_with(|| Value::Object(Map::new()));
    if metadata.is_null() {
        *metadata = Value::Object(Map::new());
    }
    let Some(metadata) = metadata.as_object_mut() else {
        return Err(wrong_type("metadata", "an object"));
    };
    metadata.retain(|_, value| !value.is_null());
    let of_strings = |value: &Value| match value {
        Value::Object(map) => map.values().all(|item| item.is_string() || item.is_null()),
        Value::Array(items) => items.iter().all(Value::is_string),
        _ => false,
    };
    for (field, value) in metadata.iter_mut() {
        let (right, expected) = match field.as_str() {
            "name" | "generateName" | "namespace" | "uid" | "resourceVersion"
            | "creationTimestamp" | "deletionTimestamp" => (value.is_string(), "a string"),
            "labels" | "annotations" => (
                value.is_object() && of_strings(value),
                "an object with string values",
            ),
            "finalizers" => (value.is_array() && of_strings(value), "a list of strings"),
            "ownerReferences" | "managedFields" => (
                value
                    .as_array()
                    .is_some_and(|items| items.iter().all(Value::is_object)),
                "a list of objects",
            ),
            _ => (true, ""),
        };
        if !right {
            return Err(wrong_type(&format!("metadata.{field}"), expected));
        }
        if matches!(field.as_str(), "labels" | "annotations")
            && let Some(map) = value.as_object_mut()
        {
            for item in map.values_mut().filter(|item| item.is_null()) {
                *item = "".into();
            }
        }
    }
    // Absent and empty are the same; keeping one form keeps no-op writes no-ops.
    metadata.retain(|field, value| {
        let empty = value.as_object().is_some_and(Map::is_empty)
            || value.as_array().is_some_and(Vec::is_empty);
        !(empty
            && matches!(
                field.as_str(),
                "labels" | "annotations" | "finalizers" | "ownerReferences"
            ))
    });
    metadata.remove("selfLink");
    Ok(())
}

/// Another kind or version than the path is for, in the words of upstream's decoders.
fn other_type(
    resource: &Resource,
    version: &str,
    top: &Map<String, Value>,
    field: &str,
    found: &str,
) -> ApiError {
    let text = |field: &str| top.get(field).and_then(Value::as_str).unwrap_or_default();
    let (kind, api_version) = (text("kind"), text("apiVersion"));
    match (resource.custom.is_some(), field) {
        (true, "kind") => ApiError::invalid(
            &resource.group,
            kind,
            top.get("metadata")
                .and_then(|metadata| metadata["name"].as_str())
                .unwrap_or_default(),
            &[invalid(
                "kind",
                format!("Invalid value: {found:?}: must be {}", resource.kind),
            )],
        ),
        (true, _) => ApiError::bad_request(format!(
            "the API version in the data ({found}) does not match the expected API version ({})",
            resource.api_version(version)
        )),
        (false, _) => ApiError::bad_request(format!(
            "{kind} in version {version:?} cannot be handled as a {}: no kind {kind:?} is registered for version {api_version:?}",
            resource.kind
        )),
    }
}

fn wrong_type(field: &str, expected: &str) -> ApiError {
    ApiError::bad_request(format!("{field} must be {expected}"))
}

/// The namespace of body and path must be one.
pub(super) fn settle_namespace(
    resource: &Resource,
    object: &mut Value,
    namespace: &str,
) -> Result<(), ApiError> {
    let metadata = metadata(object);
    if !resource.namespaced {
        metadata.remove("namespace");
        return Ok(());
    }
    let found = metadata
        .get("namespace")
        .and_then(Value::as_str)
        .unwrap_or_default();
    if !found.is_empty() && found != namespace {
        return Err(ApiError::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    metadata.insert("namespace".to_owned(), namespace.into());
    Ok(())
}

/// Five random characters behind `prefix`.
pub(super) fn generated_name(prefix: &str) -> String {
    let mut random = rand::rng();
    let mut name: String = prefix.chars().take(GENERATE_NAME_LIMIT).collect();
    for _ in 0..5 {
        name.push(char::from(
            NAME_ALPHABET[random.random_range(0..NAME_ALPHABET.len())],
        ));
    }
    name
}

/// What is wrong with the name; the rest of `metadata` is the schema's.
pub(super) fn validate(resource: &Resource, object: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let name = text(object, "name");
    if let Err(message) = check_name(resource.names, name) {
        errors.push(invalid(
            "metadata.name",
            format!("Invalid value: {name:?}: {message}"),
        ));
    }
    errors
}

fn invalid(field: impl Into<String>, message: String) -> FieldError {
    FieldError {
        reason: "FieldValueInvalid",
        field: field.into(),
        message,
    }
}

fn check_name(rule: NameRule, name: &str) -> Result<(), String> {
    let wrong = match rule {
        NameRule::Subdomain => names::dns1123_subdomain(name),
        NameRule::Label if name.contains('.') => Some("must not contain dots".to_owned()),
        NameRule::Label => names::dns1123_label(name),
        NameRule::Label1035 => names::dns1035_label(name),
        NameRule::Segment => {
            let right =
                !name.is_empty() && name != "." && name != ".." && !name.contains(['/', '%']);
            (!right).then(|| "may not be empty, '.', '..', nor contain '/' or '%'".to_owned())
        }
    };
    wrong.map_or(Ok(()), Err)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_rule_of_their_kind() {
        use NameRule::{Label, Label1035, Segment, Subdomain};
        for (rule, name, right) in [
            (Subdomain, "a", true),
            (Subdomain, "a.b-c.9", true),
            (Subdomain, "", false),
            (Subdomain, "A", false),
            (Subdomain, "a..b", false),
            (Subdomain, "-a", false),
            (Subdomain, "a_b", false),
            (Label, "a-1", true),
            (Label, "1a", true),
            (Label, "a.b", false),
            (Label1035, "1a", false),
            (Label1035, "a1", true),
            (Segment, "system:node", true),
            (Segment, "a/b", false),
            (Segment, "..", false),
        ] {
            assert_eq!(check_name(rule, name).is_ok(), right, "{rule:?} {name:?}");
        }
        assert!(check_name(Label, &"a".repeat(64)).is_err());
        assert!(check_name(Subdomain, &"a".repeat(254)).is_err());
    }

    #[test]
    fn generated_names_fit_a_label() {
        let name = generated_name(&"x".repeat(100));
        assert_eq!(name.len(), 63);
        assert!(check_name(NameRule::Label, &name).is_ok());
        assert_ne!(generated_name("a-"), generated_name("a-"));
    }
}
