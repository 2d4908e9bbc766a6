//! Reading and building plain JSON objects: metadata, owners, conditions, time stamps.
//!
//! Absent and mistyped fields read as empty: the API validated the object, and a controller must not fall over what it does not use.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::kinds;
use crate::api::Gvr;

/// The text at a JSON pointer; empty when absent.
pub(crate) fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or("")
}

/// The integer at a JSON pointer.
pub(crate) fn int(value: &Value, pointer: &str) -> Option<i64> {
    value.pointer(pointer).and_then(Value::as_i64)
}

/// The flag at a JSON pointer; `false` when absent.
pub(crate) fn flag(value: &Value, pointer: &str) -> bool {
    value
        .pointer(pointer)
        .and_then(Value::as_bool)
        .unwrap_or(false)
}

/// The items of the list at a JSON pointer; none when absent.
pub(crate) fn items<'a>(value: &'a Value, pointer: &str) -> &'a [Value] {
    value
        .pointer(pointer)
        .and_then(Value::as_array)
        .map_or(&[], Vec::as_slice)
}

/// The entries of the map at a JSON pointer; none when absent.
pub(crate) fn entries<'a>(
    value: &'a Value,
    pointer: &str,
) -> impl Iterator<Item = (&'a String, &'a Value)> {
    value
        .pointer(pointer)
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
}

/// The time at a JSON pointer.
pub(crate) fn time(value: &Value, pointer: &str) -> Option<Timestamp> {
    text(value, pointer).parse().ok()
}

pub(crate) fn name(value: &Value) -> &str {
    text(value, "/metadata/name")
}

pub(crate) fn namespace(value: &Value) -> &str {
    text(value, "/metadata/namespace")
}

pub(crate) fn uid(value: &Value) -> &str {
    text(value, "/metadata/uid")
}

pub(crate) fn generation(value: &Value) -> i64 {
    int(value, "/metadata/generation").unwrap_or(0)
}

/// The resourceVersion as the number it is in this cluster; 0 when absent.
pub(crate) fn resource_version(value: &Value) -> u64 {
    text(value, "/metadata/resourceVersion")
        .parse()
        .unwrap_or(0)
}

pub(crate) fn created(value: &Value) -> Timestamp {
    time(value, "/metadata/creationTimestamp").unwrap_or(Timestamp::UNIX_EPOCH)
}

pub(crate) fn deleting(value: &Value) -> bool {
    !text(value, "/metadata/deletionTimestamp").is_empty()
}

pub(crate) fn label<'a>(value: &'a Value, key: &str) -> &'a str {
    member(value, "labels", key)
}

pub(crate) fn annotation<'a>(value: &'a Value, key: &str) -> &'a str {
    member(value, "annotations", key)
}

fn member<'a>(value: &'a Value, map: &str, key: &str) -> &'a str {
    value
        .get("metadata")
        .and_then(|metadata| metadata.get(map))
        .and_then(|map| map.get(key))
        .and_then(Value::as_str)
        .unwrap_or("")
}

pub(crate) fn finalizers(value: &Value) -> impl Iterator<Item = &str> {
    items(value, "/metadata/finalizers")
        .iter()
        .filter_map(Value::as_str)
}

pub(crate) fn has_finalizer(value: &Value, finalizer: &str) -> bool {
    finalizers(value).any(|held| held == finalizer)
}

/// The object without one finalizer.
pub(crate) fn without_finalizer(value: &Value, finalizer: &str) -> Value {
    let mut value = value.clone();
    if let Some(list) = value
        .pointer_mut("/metadata/finalizers")
        .and_then(Value::as_array_mut)
    {
        list.retain(|held| held.as_str() != Some(finalizer));
    }
    value
}

/// The object with one finalizer more.
pub(crate) fn with_finalizer(value: &Value, finalizer: &str) -> Value {
    let mut value = value.clone();
    let list = entry(&mut value["metadata"], "finalizers", || json!([]));
    if let Some(list) = list.as_array_mut() {
        list.push(finalizer.into());
    }
    value
}

/// The owner reference with `controller: true`.
pub(crate) fn controller_of(value: &Value) -> Option<&Value> {
    items(value, "/metadata/ownerReferences")
        .iter()
        .find(|owner| flag(owner, "/controller"))
}

/// Uid of the controlling owner; empty when there is none.
pub(crate) fn controller_uid(value: &Value) -> &str {
    controller_of(value).map_or("", |owner| text(owner, "/uid"))
}

/// An owner reference to `owner`, marked as its controller.
pub(crate) fn controller_reference(gvr: &Gvr, owner: &Value) -> Value {
    let mut reference = owner_reference(gvr, owner);
    reference["controller"] = true.into();
    reference["blockOwnerDeletion"] = true.into();
    reference
}

/// A plain owner reference.
pub(crate) fn owner_reference(gvr: &Gvr, owner: &Value) -> Value {
    let (api_version, kind) = kinds::type_of(gvr);
    json!({"apiVersion": api_version, "kind": kind, "name": name(owner), "uid": uid(owner)})
}

/// The object with `reference` among its owners, replacing one with the same uid.
pub(crate) fn with_owner(value: &Value, reference: Value) -> Value {
    let mut value = without_owner(value, text(&reference, "/uid"));
    let list = entry(&mut value["metadata"], "ownerReferences", || json!([]));
    if let Some(list) = list.as_array_mut() {
        list.push(reference);
    }
    value
}

/// The object without the owner of this uid.
pub(crate) fn without_owner(value: &Value, owner_uid: &str) -> Value {
    let mut value = value.clone();
    if let Some(list) = value
        .pointer_mut("/metadata/ownerReferences")
        .and_then(Value::as_array_mut)
    {
        list.retain(|owner| text(owner, "/uid") != owner_uid);
    }
    value
}

/// The member of an object, created when absent. `value` is made an object when it is not one.
pub(crate) fn entry<'a>(
    value: &'a mut Value,
    key: &str,
    default: impl FnOnce() -> Value,
) -> &'a mut Value {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    let map = value.as_object_mut().expect("made an object just above");
    let slot = map.entry(key).or_insert_with(default);
    if slot.is_null() {
        *slot = json!({});
    }
    slot
}

/// Sets one label.
pub(crate) fn set_label(value: &mut Value, key: &str, label: &str) {
    let metadata = entry(value, "metadata", || json!({}));
    entry(metadata, "labels", || json!({}))[key] = label.into();
}

/// Sets one annotation.
pub(crate) fn set_annotation(value: &mut Value, key: &str, annotation: &str) {
    let metadata = entry(value, "metadata", || json!({}));
    entry(metadata, "annotations", || json!({}))[key] = annotation.into();
}

/// `status.conditions` entry of this type.
pub(crate) fn condition<'a>(value: &'a Value, kind: &str) -> Option<&'a Value> {
    items(value, "/status/conditions")
        .iter()
        .find(|condition| text(condition, "/type") == kind)
}

/// `True`, `False`, `Unknown`, or empty when there is no such condition.
pub(crate) fn condition_status<'a>(value: &'a Value, kind: &str) -> &'a str {
    condition(value, kind).map_or("", |condition| text(condition, "/status"))
}

/// Puts a condition into a list of conditions, keeping `lastTransitionTime` while the status stays. Extra members of an existing
/// entry survive. Returns whether anything but time stamps changed.
pub(crate) fn set_condition(
    conditions: &mut Vec<Value>,
    kind: &str,
    status: &str,
    reason: &str,
    message: &str,
    now: Timestamp,
) -> bool {
    let existing = conditions
        .iter()
        .position(|condition| text(condition, "/type") == kind);
    let Some(position) = existing else {
        conditions.push(json!({
            "type": kind, "status": status, "reason": reason, "message": message,
            "lastTransitionTime": rfc3339(now),
        }));
        return true;
    };
    let condition = &mut conditions[position];
    let same_status = text(condition, "/status") == status;
    let same = same_status
        && text(condition, "/reason") == reason
        && text(condition, "/message") == message;
    if same {
        return false;
    }
    condition["status"] = status.into();
    condition["reason"] = reason.into();
    condition["message"] = message.into();
    if !same_status {
        condition["lastTransitionTime"] = rfc3339(now).into();
    }
    true
}

/// Time as `metav1.Time` writes it: UTC, whole seconds.
pub(crate) fn rfc3339(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// `time` plus seconds; stays at the maximum instead of overflowing.
pub(crate) fn after(time: Timestamp, seconds: i64) -> Timestamp {
    time.checked_add(jiff::SignedDuration::from_secs(seconds))
        .unwrap_or(Timestamp::MAX)
}

/// A short stable hash of a value, in the alphabet Kubernetes uses for name suffixes (no vowels, no digits that look like letters).
pub(crate) fn short_hash(parts: &[&Value]) -> String {
    const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let mut hasher = Sha256::new();
    for part in parts {
        canonical(part, &mut hasher);
        hasher.update([0xff]);
    }
    hasher
        .finalize()
        .iter()
        .take(10)
        .map(|byte| char::from(ALPHABET[usize::from(*byte) % ALPHABET.len()]))
        .collect()
}

/// Feeds a value with its keys sorted, so that the hash does not depend on the order in which a client wrote them.
fn canonical(value: &Value, hasher: &mut Sha256) {
    match value {
        Value::Object(map) => {
            hasher.update(b"{");
            for key in map.keys().collect::<BTreeSet<_>>() {
                hasher.update(key.as_bytes());
                hasher.update(b"\0:");
                canonical(&map[key], hasher);
            }
            hasher.update(b"}");
        }
        Value::Array(list) => {
            hasher.update(b"[");
            for item in list {
                canonical(item, hasher);
                hasher.update(b",");
            }
            hasher.update(b"]");
        }
        scalar => hasher.update(scalar.to_string().as_bytes()),
    }
}

/// `maxSurge`, `maxUnavailable`, `minAvailable`: a number or a percentage of `total`.
pub(crate) fn scaled(value: Option<&Value>, total: i64, round_up: bool) -> Option<i64> {
    let value = value?;
    if let Some(number) = value.as_i64() {
        return Some(number);
    }
    let percent: i64 = value.as_str()?.strip_suffix('%')?.parse().ok()?;
    let product = percent.saturating_mul(total);
    Some(if round_up {
        product.div_euclid(100) + i64::from(product.rem_euclid(100) != 0)
    } else {
        product.div_euclid(100)
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn scaling_rounds_as_asked() {
        for (value, total, up, expected) in [
            (json!(3), 10, true, Some(3)),
            (json!("25%"), 4, true, Some(1)),
            (json!("25%"), 5, true, Some(2)),
            (json!("25%"), 5, false, Some(1)),
            (json!("0%"), 5, true, Some(0)),
            (json!("x"), 5, true, None),
        ] {
            assert_eq!(scaled(Some(&value), total, up), expected, "{value}");
        }
        assert_eq!(scaled(None, 5, true), None);
    }

    #[test]
    fn hashes_ignore_key_order_and_see_values() {
        let a: Value = serde_json::from_str(r#"{"a":1,"b":{"c":[1,2],"d":"x"}}"#).unwrap();
        let b: Value = serde_json::from_str(r#"{"b":{"d":"x","c":[1,2]},"a":1}"#).unwrap();
        let c: Value = serde_json::from_str(r#"{"b":{"d":"x","c":[2,1]},"a":1}"#).unwrap();
        assert_eq!(short_hash(&[&a]), short_hash(&[&b]));
        assert_ne!(short_hash(&[&a]), short_hash(&[&c]));
        assert_eq!(short_hash(&[&a]).len(), 10);
    }

    #[test]
    fn conditions_keep_their_transition_time_until_the_status_flips() {
        let then: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let now: Timestamp = "2026-01-01T00:05:00Z".parse().unwrap();
        let mut list = Vec::new();
        assert!(set_condition(&mut list, "Ready", "False", "A", "", then));
        assert!(!set_condition(&mut list, "Ready", "False", "A", "", now));
        assert!(set_condition(&mut list, "Ready", "False", "B", "", now));
        assert_eq!(
            text(&list[0], "/lastTransitionTime"),
            "2026-01-01T00:00:00Z"
        );
        assert!(set_condition(&mut list, "Ready", "True", "B", "", now));
        assert_eq!(
            text(&list[0], "/lastTransitionTime"),
            "2026-01-01T00:05:00Z"
        );
        assert_eq!(list.len(), 1);
    }

    #[test]
    fn owners_are_replaced_by_uid() {
        let pod = json!({"metadata": {"name": "p"}});
        let owned = with_owner(&pod, json!({"uid": "1", "name": "a"}));
        let owned = with_owner(&owned, json!({"uid": "1", "name": "b"}));
        assert_eq!(
            owned["metadata"]["ownerReferences"],
            json!([{"uid": "1", "name": "b"}])
        );
        assert_eq!(
            without_owner(&owned, "1")["metadata"]["ownerReferences"],
            json!([])
        );
    }
}
