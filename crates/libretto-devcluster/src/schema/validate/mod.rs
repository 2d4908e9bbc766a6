//! What the API server refuses to store: shared rules for metadata and required fields, then the rules of each kind.
//!
//! The rules are those that matter to somebody who writes manifests or operators; messages are upstream's. Not here: names (the API server
//! knows the resource) and whatever needs other objects.

mod metadata;
mod pod;
mod pod_spec;
mod service;
mod storage;
mod workload;

#[cfg(test)]
mod tests;

use serde_json::Value;

use super::{
    TypeSchema,
    field::{child, invalid, required},
    node::Node,
    types,
};
use crate::error::FieldError;

/// Upstream's detail for every immutable field.
pub(super) const IMMUTABLE: &str = "field is immutable";

/// Collects errors; paths are built where they are needed.
pub(super) type Errors = Vec<FieldError>;

pub(super) fn validate(schema: &TypeSchema, new: &Value, old: Option<&Value>) -> Errors {
    let mut errors = Errors::new();
    match schema {
        TypeSchema::Custom(custom) => {
            errors.extend(custom.validate(new, old));
            metadata::validate(new, old, &mut errors);
        }
        TypeSchema::BuiltIn(name) => {
            let mismatches =
                types::check(schema.root(), name.rsplit('.').next().unwrap_or(name), new);
            if !mismatches.is_empty() {
                // The other rules take the types for granted.
                return mismatches
                    .iter()
                    .map(types::Mismatch::field_error)
                    .collect();
            }
            metadata::validate(new, old, &mut errors);
            metadata::finalizers(new, &mut errors);
            required_fields(schema.root(), new, "", &mut errors);
            built_in(name, new, old, &mut errors);
        }
    }
    let mut seen = Errors::new();
    errors.retain(|error| {
        let fresh = !seen.contains(error);
        seen.push(error.clone());
        fresh
    });
    errors
}

fn built_in(name: &str, new: &Value, old: Option<&Value>, errors: &mut Errors) {
    match name.strip_prefix("io.k8s.api.").unwrap_or(name) {
        "core.v1.Pod" => pod::pod(new, old, errors),
        "core.v1.PodTemplate" => pod_spec::template(&new["template"], "template", errors),
        "core.v1.Service" => service::service(new, old, errors),
        "core.v1.ConfigMap" => storage::config_map(new, old, errors),
        "core.v1.Secret" => storage::secret(new, old, errors),
        "core.v1.PersistentVolumeClaim" => storage::claim(new, old, errors),
        "core.v1.PersistentVolume" => storage::volume(new, old, errors),
        "storage.v1.StorageClass" => storage::class(new, old, errors),
        "apps.v1.Deployment" => workload::deployment(new, old, errors),
        "apps.v1.ReplicaSet" => workload::replica_set(new, old, errors),
        "apps.v1.StatefulSet" => workload::stateful_set(new, old, errors),
        "apps.v1.DaemonSet" => workload::daemon_set(new, old, errors),
        "batch.v1.Job" => workload::job(new, old, errors),
        "batch.v1.CronJob" => workload::cron_job(new, errors),
        "policy.v1.PodDisruptionBudget" => workload::disruption_budget(new, errors),
        "apps.v1.ControllerRevision" => immutable(new, old, "data", errors),
        "rbac.v1.RoleBinding" | "rbac.v1.ClusterRoleBinding" => role_ref(name, new, old, errors),
        "scheduling.v1.PriorityClass" => priority_class(new, errors),
        "networking.v1.Ingress" => service::ingress(new, errors),
        "coordination.v1.Lease" => lease(new, errors),
        "core.v1.Event" => event(new, errors),
        _ => {}
    }
}

fn lease(new: &Value, errors: &mut Errors) {
    let duration = at(new, "spec.leaseDurationSeconds");
    if duration.as_i64().is_some_and(|seconds| seconds <= 0) {
        errors.push(invalid(
            "spec.leaseDurationSeconds",
            duration,
            "must be greater than 0",
        ));
    }
    not_negative(new, "spec.leaseTransitions", errors);
}

/// Events are about objects of their own namespace, or of none.
fn event(new: &Value, errors: &mut Errors) {
    let about = at(new, "involvedObject.namespace");
    let own = at(new, "metadata.namespace");
    if about.as_str().is_some_and(|about| !about.is_empty()) && about != own {
        errors.push(invalid(
            "involvedObject.namespace",
            about,
            "does not match event.namespace",
        ));
    }
}

/// Names that the system keeps for itself.
fn priority_class(new: &Value, errors: &mut Errors) {
    let name = text(&new["metadata"], "name");
    let known = matches!(name, "system-node-critical" | "system-cluster-critical");
    if name.starts_with("system-") && !known {
        errors.push(super::field::forbidden(
            "metadata.name",
            &format!(
                "priority class names with 'system-' prefix are reserved for system use only. error: {name} is not a known system priority class"
            ),
        ));
    }
}

fn role_ref(name: &str, new: &Value, old: Option<&Value>, errors: &mut Errors) {
    let roles: &[&str] = if name.ends_with("ClusterRoleBinding") {
        &["ClusterRole"]
    } else {
        &["Role", "ClusterRole"]
    };
    one_of(new, "roleRef.kind", roles, errors);
    if text(&new["roleRef"], "name").is_empty() {
        errors.push(required("roleRef.name", ""));
    }
    for (index, subject) in list(new, "subjects").iter().enumerate() {
        let mut found = Errors::new();
        one_of(
            subject,
            "kind",
            &["ServiceAccount", "User", "Group"],
            &mut found,
        );
        errors.extend(found.into_iter().map(|mut error| {
            error.field = format!("subjects[{index}].{}", error.field);
            error
        }));
    }
    if let Some(old) = old
        && old["roleRef"] != new["roleRef"]
    {
        errors.push(invalid("roleRef", &new["roleRef"], "cannot change roleRef"));
    }
}

/// Fields the schema requires. Only in the desired part: statuses are written by controllers, which Go's zero values let off.
fn required_fields(node: &Node, value: &Value, path: &str, errors: &mut Errors) {
    /// Required by the published schema, but Go's decoder reads a missing list as an empty one and nobody minds.
    const LENIENT: &[&str] = &[
        "rules",
        "endpoints",
        "items",
        "groups",
        "driver",
        "drivers",
        "metadata",
        "names",
    ];
    let target = node.target();
    match value {
        Value::Object(object) => {
            for name in &target.required {
                let missing = object.get(&**name).is_none_or(Value::is_null);
                if missing && !LENIENT.contains(&&**name) {
                    errors.push(required(child(path, name), ""));
                }
            }
            for (name, value) in object {
                if path.is_empty() && matches!(name.as_str(), "status" | "metadata") {
                    continue;
                }
                if let (Some(field), _) = node.field(name) {
                    required_fields(field, value, &child(path, name), errors);
                }
            }
        }
        Value::Array(items) => {
            if let Some(item_node) = &target.items {
                for (index, item) in items.iter().enumerate() {
                    required_fields(item_node, item, &format!("{path}[{index}]"), errors);
                }
            }
        }
        _ => {}
    }
}

/// The value at a dotted path; null when absent.
pub(super) fn at<'v>(value: &'v Value, path: &str) -> &'v Value {
    static NULL: Value = Value::Null;
    path.split('.')
        .try_fold(value, |value, name| value.get(name))
        .unwrap_or(&NULL)
}

pub(super) fn text<'v>(value: &'v Value, key: &str) -> &'v str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

pub(super) fn list<'v>(value: &'v Value, key: &str) -> &'v [Value] {
    value
        .get(key)
        .and_then(Value::as_array)
        .map(Vec::as_slice)
        .unwrap_or_default()
}

/// On updates, the field at `path` may not change.
pub(super) fn immutable(new: &Value, old: Option<&Value>, path: &str, errors: &mut Errors) {
    if let Some(old) = old
        && at(old, path) != at(new, path)
    {
        errors.push(invalid(path, at(new, path), IMMUTABLE));
    }
}

/// An integer that must not be negative, where given.
pub(super) fn not_negative(value: &Value, path: &str, errors: &mut Errors) {
    let last = at(value, path);
    if last.as_i64().is_some_and(|number| number < 0) {
        errors.push(invalid(path, last, "must be greater than or equal to 0"));
    }
}

/// A string that must be one of a few, where given.
pub(super) fn one_of(value: &Value, path: &str, supported: &[&str], errors: &mut Errors) {
    let found = at(value, path);
    if !found.is_null()
        && !found
            .as_str()
            .is_some_and(|found| supported.contains(&found))
    {
        errors.push(super::field::not_supported(path, found, supported));
    }
}
