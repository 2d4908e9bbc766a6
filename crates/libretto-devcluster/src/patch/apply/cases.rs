//! Cases of server-side apply as data: `cases.yaml` beside this file. Expectations follow upstream's own tests and documentation.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    crd::CustomSchema,
    patch::{ApplyError, Manager, apply, track_update},
    schema::TypeSchema,
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: String,
    /// `pod`, `service`, `deployment`, or the schema `custom` of the file.
    #[serde(default)]
    kind: String,
    steps: Vec<Step>,
}

/// One write and what must hold after it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Step {
    /// Applies this configuration.
    apply: Option<Value>,
    /// Replaces the object with this one.
    update: Option<Value>,
    by: String,
    #[serde(default)]
    subresource: String,
    #[serde(default)]
    force: bool,
    /// The object without identity and managedFields.
    object: Option<Value>,
    /// Manager → paths owned. Managers not named must own nothing.
    owners: Option<std::collections::BTreeMap<String, Vec<String>>>,
    /// `manager: path`.
    conflicts: Option<Vec<String>>,
    /// Part of the message of a refusal.
    refused: Option<String>,
    /// The write changes nothing at all, time stamps included.
    #[serde(default)]
    unchanged: bool,
}

#[derive(Deserialize)]
struct File {
    custom: Value,
    cases: Vec<Case>,
}

fn file() -> File {
    let value: Value = serde_saphyr::from_str(include_str!("cases.yaml")).unwrap();
    serde_json::from_value(value).unwrap()
}

pub(in crate::patch) fn custom() -> TypeSchema {
    TypeSchema::Custom(Arc::new(CustomSchema::for_tests(&file().custom)))
}

fn schema(kind: &str) -> (TypeSchema, Value) {
    let (group, version, name) = match kind {
        "pod" => ("", "v1", "Pod"),
        "service" => ("", "v1", "Service"),
        "deployment" => ("apps", "v1", "Deployment"),
        "configmap" => ("", "v1", "ConfigMap"),
        _ => {
            return (
                custom(),
                json!({"apiVersion": "example.com/v1", "kind": "Thing"}),
            );
        }
    };
    let api_version = if group.is_empty() {
        version.to_owned()
    } else {
        format!("{group}/{version}")
    };
    let identity = json!({"apiVersion": api_version, "kind": name});
    (
        TypeSchema::built_in(group, version, name).unwrap(),
        identity,
    )
}

fn with_identity(identity: &Value, body: &Value) -> Value {
    let mut object = body.clone();
    crate::patch::merge(&mut object, identity);
    crate::patch::merge(&mut object, &json!({"metadata": {"name": "x"}}));
    // RFC 7396 would drop explicit nulls of the body; put the body back on top.
    for (key, value) in body.as_object().unwrap() {
        if key != "metadata" {
            object[key] = value.clone();
        }
    }
    object
}

fn without_identity(object: &Value) -> Value {
    let mut object = object.clone();
    let map = object.as_object_mut().unwrap();
    map.remove("apiVersion");
    map.remove("kind");
    let metadata = map["metadata"].as_object_mut().unwrap();
    metadata.remove("managedFields");
    metadata.remove("name");
    if metadata.is_empty() {
        map.remove("metadata");
    }
    object
}

pub(super) fn owners(object: &Value) -> std::collections::BTreeMap<String, Vec<String>> {
    super::managers::entries(object)
        .into_iter()
        .map(|entry| {
            let suffix = if entry.subresource.is_empty() {
                String::new()
            } else {
                format!("/{}", entry.subresource)
            };
            (format!("{}{suffix}", entry.manager), entry.set.paths())
        })
        .collect()
}

#[test]
fn cases() {
    let file = file();
    assert!(file.cases.len() >= 60, "{} cases", file.cases.len());
    let failed: Vec<_> = file
        .cases
        .iter()
        .filter(|case| std::panic::catch_unwind(|| run(case)).is_err())
        .map(|case| &case.name)
        .collect();
    assert!(failed.is_empty(), "{failed:#?}");
}

fn run(case: &Case) {
    let (schema, identity) = schema(&case.kind);
    let mut live: Option<Value> = None;
    for (index, step) in case.steps.iter().enumerate() {
        let at = format!("{}, step {}", case.name, index + 1);
        let manager = Manager {
            name: step.by.clone(),
            subresource: step.subresource.clone(),
            api_version: identity["apiVersion"].as_str().unwrap().to_owned(),
            time: format!("2026-01-01T00:00:{index:02}Z"),
        };
        let outcome = match (&step.apply, &step.update) {
            (Some(config), None) => apply(
                &schema,
                live.as_ref(),
                &with_identity(&identity, config),
                &manager,
                step.force,
            ),
            (None, Some(object)) => Ok(track_update(
                &schema,
                live.as_ref(),
                with_identity(&identity, object),
                &manager,
            )),
            _ => panic!("{at}: exactly one of apply and update"),
        };
        match outcome {
            Ok(object) => {
                assert_eq!(step.conflicts, None, "{at}: expected conflicts");
                assert_eq!(step.refused, None, "{at}: expected a refusal");
                if let Some(expected) = &step.object {
                    assert_eq!(&without_identity(&object), expected, "{at}");
                }
                if let Some(expected) = &step.owners {
                    assert_eq!(&owners(&object), expected, "{at}");
                }
                if step.unchanged {
                    assert_eq!(Some(&object), live.as_ref(), "{at}");
                }
                live = Some(object);
            }
            Err(ApplyError::Conflicts(found)) => {
                let found: Vec<_> = found
                    .iter()
                    .map(|c| format!("{}: {}", c.manager, c.field))
                    .collect();
                assert_eq!(Some(&found), step.conflicts.as_ref(), "{at}");
            }
            Err(ApplyError::Malformed(message)) => {
                let expected = step
                    .refused
                    .as_deref()
                    .unwrap_or_else(|| panic!("{at}: {message}"));
                assert!(message.contains(expected), "{at}: {message}");
            }
        }
    }
}
