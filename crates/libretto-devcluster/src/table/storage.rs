//! Rows of what holds data.

use serde_json::Value;

use super::cells::{UNSET, age, list, name, or, text};

fn entries(object: &Value, field: &str) -> usize {
    object[field].as_object().map_or(0, serde_json::Map::len)
}

pub(super) fn config_map(object: &Value, now: i64) -> Vec<Value> {
    vec![
        name(object),
        (entries(object, "data") + entries(object, "binaryData")).into(),
        age(object, now),
    ]
}

pub(super) fn secret(object: &Value, now: i64) -> Vec<Value> {
    vec![
        name(object),
        text(object, "type").into(),
        entries(object, "data").into(),
        age(object, now),
    ]
}

/// `RWO,ROX`.
fn access_modes(modes: &[Value]) -> String {
    let has = |mode: &str| modes.iter().any(|other| other == mode);
    [
        ("ReadWriteOnce", "RWO"),
        ("ReadOnlyMany", "ROX"),
        ("ReadWriteMany", "RWX"),
        ("ReadWriteOncePod", "RWOP"),
    ]
    .into_iter()
    .filter(|(mode, _)| has(mode))
    .map(|(_, short)| short)
    .collect::<Vec<_>>()
    .join(",")
}

/// The class, from the field or from the annotation of old.
fn storage_class(object: &Value) -> &str {
    const ANNOTATION: &str = "volume.beta.kubernetes.io/storage-class";
    let annotated = object["metadata"]["annotations"]
        .get(ANNOTATION)
        .and_then(Value::as_str);
    annotated.unwrap_or_else(|| text(&object["spec"], "storageClassName"))
}

pub(super) fn claim(object: &Value, now: i64) -> Vec<Value> {
    let (spec, status) = (&object["spec"], &object["status"]);
    let deleting = object["metadata"]["deletionTimestamp"].is_string();
    let volume = text(spec, "volumeName");
    // Size and modes are the volume's; before there is one there is nothing to show.
    let (capacity, modes) = if volume.is_empty() {
        ("", String::new())
    } else {
        (
            text(&status["capacity"], "storage"),
            access_modes(list(status, "accessModes")),
        )
    };
    vec![
        name(object),
        if deleting {
            "Terminating"
        } else {
            text(status, "phase")
        }
        .into(),
        volume.into(),
        capacity.into(),
        modes.into(),
        storage_class(object).into(),
        or(text(spec, "volumeAttributesClassName"), UNSET).into(),
        age(object, now),
        or(text(spec, "volumeMode"), UNSET).into(),
    ]
}

pub(super) fn volume(object: &Value, now: i64) -> Vec<Value> {
    let (spec, status) = (&object["spec"], &object["status"]);
    let deleting = object["metadata"]["deletionTimestamp"].is_string();
    let claim = &spec["claimRef"];
    let claim = if claim.is_object() {
        format!("{}/{}", text(claim, "namespace"), text(claim, "name"))
    } else {
        String::new()
    };
    vec![
        name(object),
        text(&spec["capacity"], "storage").into(),
        access_modes(list(spec, "accessModes")).into(),
        text(spec, "persistentVolumeReclaimPolicy").into(),
        if deleting {
            "Terminating"
        } else {
            text(status, "phase")
        }
        .into(),
        claim.into(),
        storage_class(object).into(),
        or(text(spec, "volumeAttributesClassName"), UNSET).into(),
        text(status, "reason").into(),
        age(object, now),
        or(text(spec, "volumeMode"), UNSET).into(),
    ]
}

pub(super) fn class(object: &Value, now: i64) -> Vec<Value> {
    let annotations = &object["metadata"]["annotations"];
    let default = [
        "storageclass.kubernetes.io/is-default-class",
        "storageclass.beta.kubernetes.io/is-default-class",
    ]
    .iter()
    .any(|key| annotations.get(*key).is_some_and(|value| value == "true"));
    let mut shown = text(&object["metadata"], "name").to_owned();
    if default {
        shown.push_str(" (default)");
    }
    vec![
        shown.into(),
        text(object, "provisioner").into(),
        or(text(object, "reclaimPolicy"), "Delete").into(),
        or(text(object, "volumeBindingMode"), UNSET).into(),
        (object["allowVolumeExpansion"] == true).into(),
        age(object, now),
    ]
}
