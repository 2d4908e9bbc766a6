//! What a person may ask of an instance whatever its Kind: to be left as it is for a while, to be stopped, to have some objects
//! otherwise than the package makes them.
//!
//! Asked for by fields of the instance called `paused`, `stopped` and `overrides`, which a Kind in short form has by itself, or by
//! annotations, which work for every Kind.

use libretto_mirror::Snapshot;
use serde_json::{Map, Value, json};

use crate::merge::merge;

/// Annotation with the meaning of `paused: true`.
pub(crate) const PAUSED: &str = "libretto.dev/paused";
/// Annotation with the meaning of `stopped: true`.
pub(crate) const STOPPED: &str = "libretto.dev/stopped";
/// Fields of an instance that are asked for by name.
pub(crate) const FIELDS: &[&str] = &["paused", "stopped", "overrides"];

/// What is asked of an instance.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Controls {
    /// Nothing is written but the status.
    pub(crate) paused: bool,
    /// Workloads have no replicas.
    pub(crate) stopped: bool,
    pub(crate) overrides: Vec<Override>,
    /// What is wrong with `overrides`; none of them is used then.
    pub(crate) problem: Option<String>,
}

/// Fields laid over objects of the package.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Override {
    pub(crate) kind: String,
    /// Absent: every object of the Kind.
    pub(crate) name: Option<String>,
    patch: Value,
}

impl Controls {
    pub(crate) fn of(snapshot: &Snapshot) -> Self {
        let annotations: Map<String, Value> = snapshot
            .cr("annotations")
            .as_str()
            .filter(|text| text.contains("libretto.dev/"))
            .and_then(|text| serde_json::from_str(text).ok())
            .unwrap_or_default();
        let asked = |field: &str, annotation: &str| {
            snapshot.cr(field).is_true()
                || annotations.get(annotation).and_then(Value::as_str) == Some("true")
        };
        // Deleting an instance is the last word: what was paused is taken down like any other.
        let paused = asked("paused", PAUSED) && !snapshot.cr("deleting").is_true();
        let stopped = asked("stopped", STOPPED);
        let overrides = snapshot
            .cr("overrides")
            .as_str()
            .and_then(|text| serde_json::from_str(text).ok())
            .map_or_else(|| Ok(Vec::new()), |value| overrides(&value));
        let (overrides, problem) = match overrides {
            Ok(overrides) => (overrides, None),
            Err(problem) => (Vec::new(), Some(problem)),
        };
        Self {
            paused,
            stopped,
            overrides,
            problem,
        }
    }

    /// Lays what is asked for over a manifest.
    pub(crate) fn lay_over(&self, object: &mut Value) {
        for wanted in &self.overrides {
            let kind = object["kind"].as_str().unwrap_or_default();
            let name = object["metadata"]["name"].as_str().unwrap_or_default();
            if wanted.fits(kind, name) {
                merge(object, &wanted.patch);
            }
        }
        if self.stopped {
            stop(object);
        }
    }
}

impl Override {
    pub(crate) fn fits(&self, kind: &str, name: &str) -> bool {
        self.kind == kind && self.name.as_deref().is_none_or(|wanted| wanted == name)
    }
}

/// Whether a manifest is of a Kind that is stopped by having no replicas.
pub(crate) fn has_replicas(object: &Value) -> bool {
    object["apiVersion"] == "apps/v1"
        && ["Deployment", "StatefulSet", "ReplicaSet"]
            .iter()
            .any(|kind| object["kind"] == *kind)
}

fn stop(object: &mut Value) {
    if has_replicas(object) {
        object["spec"]["replicas"] = json!(0);
    } else if object["apiVersion"] == "batch/v1" && object["kind"] == "CronJob" {
        object["spec"]["suspend"] = json!(true);
    }
}

fn overrides(value: &Value) -> Result<Vec<Override>, String> {
    let items = match value {
        Value::Null => return Ok(Vec::new()),
        Value::Array(items) => items,
        _ => return Err("overrides must be a list of {kind, name, patch}".to_owned()),
    };
    items
        .iter()
        .enumerate()
        .map(|(number, item)| {
            one(item).map_err(|problem| format!("overrides[{number}]: {problem}"))
        })
        .collect()
}

fn one(item: &Value) -> Result<Override, String> {
    let fields = item.as_object().ok_or("must be {kind, name, patch}")?;
    if let Some(other) = fields
        .keys()
        .find(|key| !["kind", "name", "patch"].contains(&key.as_str()))
    {
        return Err(format!("`{other}` is none of kind, name, patch"));
    }
    let kind = item["kind"]
        .as_str()
        .ok_or("needs `kind`, such as StatefulSet")?;
    let name = match item.get("name") {
        None | Some(Value::Null) => None,
        Some(Value::String(name)) => Some(name.clone()),
        Some(_) => return Err("`name` must be a text".to_owned()),
    };
    let patch = item
        .get("patch")
        .filter(|patch| patch.is_object())
        .ok_or("needs `patch`, a map of the fields to lay over the object")?;
    for fixed in [
        "/apiVersion",
        "/kind",
        "/status",
        "/metadata/name",
        "/metadata/namespace",
        "/metadata/ownerReferences",
        "/metadata/finalizers",
    ] {
        if patch.pointer(fixed).is_some() {
            let field = fixed.trim_start_matches('/').replace('/', ".");
            return Err(format!("patch.{field} is not for users to set"));
        }
    }
    Ok(Override {
        kind: kind.to_owned(),
        name,
        patch: patch.clone(),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn wrong_overrides_are_told_by_their_place() {
        for (value, told) in [
            (json!({}), "overrides must be a list"),
            (
                json!([{"kind": "Service", "patch": {}}, {"kind": "Pod"}]),
                "overrides[1]: needs `patch`",
            ),
            (json!([{"patch": {}}]), "overrides[0]: needs `kind`"),
            (
                json!([{"kind": "Pod", "patch": {}, "nmae": "x"}]),
                "`nmae` is none of",
            ),
            (
                json!([{"kind": "Pod", "patch": {"metadata": {"ownerReferences": []}}}]),
                "patch.metadata.ownerReferences is not for users to set",
            ),
        ] {
            let error = overrides(&value).unwrap_err();
            assert!(error.contains(told), "{error}");
        }
        assert_eq!(overrides(&Value::Null).unwrap(), Vec::new());
    }

    #[test]
    fn objects_are_stopped_by_their_kind() {
        let controls = Controls {
            stopped: true,
            ..Controls::default()
        };
        for (object, pointer, expected) in [
            (
                json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "spec": {"replicas": 3}}),
                "/spec/replicas",
                json!(0),
            ),
            (
                json!({"apiVersion": "batch/v1", "kind": "CronJob", "spec": {}}),
                "/spec/suspend",
                json!(true),
            ),
            (
                json!({"apiVersion": "v1", "kind": "Service", "spec": {"clusterIP": "None"}}),
                "/spec/clusterIP",
                json!("None"),
            ),
        ] {
            let mut object = object;
            controls.lay_over(&mut object);
            assert_eq!(object.pointer(pointer), Some(&expected));
        }
    }
}
