//! Which part of a live object is ours: the fields `metadata.managedFields` says our manager applied.
//!
//! Comparing only these means that what the API server defaults and what other managers set is never mistaken for drift.

use serde_json::{Map, Value};

use crate::{ColumnPath, canonical_json, digest};

/// Digest of the fields that `manager` holds by server-side apply; empty when it holds none.
pub fn held_digest(object: &Value, manager: &str) -> String {
    held_digest_ignoring(object, manager, &[])
}

/// Like [`held_digest`], without the values at `ignore`.
pub fn held_digest_ignoring(object: &Value, manager: &str, ignore: &[ColumnPath]) -> String {
    let Some(fields) = applied_fields(object, manager) else {
        return String::new();
    };
    let mut held = project(object, fields, true);
    for path in ignore {
        path.remove(&mut held);
    }
    digest(canonical_json(&held).as_bytes())
}

/// The fields that `manager` holds by server-side apply, in the object's own shape; `None` when it holds none.
pub fn held_fields(object: &Value, manager: &str) -> Option<Value> {
    Some(project(object, applied_fields(object, manager)?, false))
}

/// When `manager` last applied something else than before, as the API server wrote it down.
pub fn held_since<'a>(object: &'a Value, manager: &str) -> Option<&'a str> {
    apply_entry(object, manager)?.get("time")?.as_str()
}

/// `fieldsV1` of the manager's apply entry for the object itself (not for a subresource).
fn applied_fields<'a>(object: &'a Value, manager: &str) -> Option<&'a Map<String, Value>> {
    apply_entry(object, manager)?.get("fieldsV1")?.as_object()
}

fn apply_entry<'a>(object: &'a Value, manager: &str) -> Option<&'a Value> {
    object
        .pointer("/metadata/managedFields")?
        .as_array()?
        .iter()
        .find(|entry| {
            entry.get("manager").and_then(Value::as_str) == Some(manager)
                && entry.get("operation").and_then(Value::as_str) == Some("Apply")
                && entry
                    .get("subresource")
                    .and_then(Value::as_str)
                    .unwrap_or_default()
                    .is_empty()
        })
}

/// The part of a value that a set of fields covers. A field without children covers its whole value. With `named`, an element of a
/// list stands beside the name by which it is held.
fn project(value: &Value, fields: &Map<String, Value>, named: bool) -> Value {
    let children: Vec<(&String, &Map<String, Value>)> = fields
        .iter()
        .filter(|(name, _)| name.as_str() != ".")
        .filter_map(|(name, nested)| Some((name, nested.as_object()?)))
        .collect();
    if children.is_empty() {
        // `{".": {}}` owns that the map exists, `{}` owns the value.
        return if fields.contains_key(".") {
            Value::Object(Map::new())
        } else {
            value.clone()
        };
    }
    match value {
        Value::Object(map) => {
            let mut held = Map::new();
            for (name, nested) in children {
                if let Some(key) = name.strip_prefix("f:")
                    && let Some(found) = map.get(key)
                {
                    held.insert(key.to_owned(), project(found, nested, named));
                }
            }
            Value::Object(held)
        }
        Value::Array(items) => {
            let mut held = Vec::new();
            for (name, nested) in children {
                if let Some(place) = element(items, name) {
                    held.push((place, name, project(&items[place], nested, named)));
                }
            }
            if !named {
                held.sort_by_key(|(place, ..)| *place);
            }
            held.into_iter()
                .map(|(_, name, value)| {
                    if named {
                        // The element's own keys are named with it: a moved or duplicated element must not look the same.
                        Value::Array(vec![Value::from(name.as_str()), value])
                    } else {
                        value
                    }
                })
                .collect()
        }
        scalar => scalar.clone(),
    }
}

/// Place of an array element by `k:{"name":"http"}`, `v:"value"` or `i:0`.
fn element(items: &[Value], name: &str) -> Option<usize> {
    if let Some(keys) = name.strip_prefix("k:") {
        let keys: Map<String, Value> = serde_json::from_str(keys).ok()?;
        // A key that the API server defaulted may be absent in the object as stored by others; presence decides.
        return items.iter().position(|item| {
            keys.iter()
                .all(|(key, value)| item.get(key).is_none_or(|found| found == value))
                && keys.keys().any(|key| item.get(key).is_some())
        });
    }
    if let Some(value) = name.strip_prefix("v:") {
        let value: Value = serde_json::from_str(value).ok()?;
        return items.iter().position(|item| *item == value);
    }
    let place = name.strip_prefix("i:")?.parse().ok()?;
    (place < items.len()).then_some(place)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn object(replicas: i64, image: &str, foreign: &str) -> Value {
        json!({
            "metadata": {
                "name": "a", "resourceVersion": "9", "labels": {"ours": "1", "theirs": foreign},
                "managedFields": [
                    {"manager": "libretto:p", "operation": "Apply", "fieldsV1": {
                        "f:metadata": {"f:labels": {"f:ours": {}}},
                        "f:spec": {"f:replicas": {}, "f:containers": {"k:{\"name\":\"c\"}": {".": {}, "f:name": {}, "f:image": {}}}, "f:finalizers": {"v:\"x\"": {}}}
                    }},
                    {"manager": "libretto:p", "operation": "Apply", "subresource": "status", "fieldsV1": {"f:status": {}}},
                    {"manager": "kubectl", "operation": "Update", "fieldsV1": {"f:metadata": {"f:labels": {"f:theirs": {}}}}}
                ]
            },
            "spec": {"replicas": replicas, "defaulted": foreign, "finalizers": ["y", "x"],
                     "containers": [{"name": "side", "image": foreign}, {"name": "c", "image": image, "pull": foreign}]},
            "status": {"seen": foreign}
        })
    }

    #[test]
    fn only_our_fields_count() {
        let manager = "libretto:p";
        let base = held_digest(&object(3, "redis:7", "a"), manager);
        assert_eq!(base.len(), 32);
        assert_eq!(
            base,
            held_digest(&object(3, "redis:7", "b"), manager),
            "foreign fields"
        );
        assert_ne!(
            base,
            held_digest(&object(4, "redis:7", "a"), manager),
            "a scalar"
        );
        assert_ne!(
            base,
            held_digest(&object(3, "redis:8", "a"), manager),
            "inside a keyed list"
        );
        let ignore = ["spec.replicas".parse().expect("a path")];
        assert_eq!(
            held_digest_ignoring(&object(3, "redis:7", "a"), manager, &ignore),
            held_digest_ignoring(&object(5, "redis:7", "a"), manager, &ignore),
        );
    }

    #[test]
    fn what_is_held_has_the_shape_of_the_object() {
        let held = held_fields(&object(3, "redis:7", "a"), "libretto:p");
        let expected = json!({
            "metadata": {"labels": {"ours": "1"}},
            "spec": {"replicas": 3, "containers": [{"name": "c", "image": "redis:7"}], "finalizers": ["x"]},
        });
        assert_eq!(held, Some(expected));
    }

    #[test]
    fn a_stranger_holds_nothing() {
        assert_eq!(held_digest(&object(3, "i", "a"), "libretto:other"), "");
        assert_eq!(held_digest(&json!({"metadata": {}}), "libretto:p"), "");
        assert_eq!(held_fields(&object(3, "i", "a"), "libretto:other"), None);
    }

    #[test]
    fn a_lost_field_changes_what_is_held() {
        let mut taken = object(3, "redis:7", "a");
        let before = held_digest(&taken, "libretto:p");
        taken["metadata"]["managedFields"][0]["fieldsV1"]["f:spec"]
            .as_object_mut()
            .expect("an object")
            .remove("f:replicas");
        assert_ne!(before, held_digest(&taken, "libretto:p"));
    }
}
