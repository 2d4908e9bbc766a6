//! Rules for `metadata` that hold for every kind.

use serde_json::Value;

use super::{Errors, IMMUTABLE, list, text};
use crate::schema::{
    field::{forbidden, invalid, required},
    names,
};

/// Upstream's bound on all annotations of an object together.
const ANNOTATION_BYTES: usize = 256 * 1024;

pub(super) fn validate(new: &Value, old: Option<&Value>, errors: &mut Errors) {
    let metadata = &new["metadata"];
    if !metadata.is_object() && !metadata.is_null() {
        errors.push(invalid("metadata", metadata, "must be an object"));
        return;
    }
    labels(metadata, "metadata.labels", errors);
    annotations(metadata, "metadata.annotations", errors);
    for owner in list(metadata, "ownerReferences") {
        owner_reference(owner, "metadata.ownerReferences", errors);
    }
    if let Some(generation) = metadata["generation"].as_i64()
        && generation < 0
    {
        errors.push(invalid(
            "metadata.generation",
            &metadata["generation"],
            "must be greater than or equal to 0",
        ));
    }
    let controllers = list(metadata, "ownerReferences")
        .iter()
        .filter(|owner| owner["controller"] == true)
        .count();
    if controllers > 1 {
        let why = "Only one reference can have Controller set to true. Found \"true\" in references for more than one owner";
        errors.push(invalid(
            "metadata.ownerReferences",
            &metadata["ownerReferences"],
            why,
        ));
    }
    for finalizer in list(metadata, "finalizers") {
        let name = finalizer.as_str().unwrap_or_default();
        if let Some(why) = names::qualified_name(name) {
            errors.push(invalid("metadata.finalizers", finalizer, &why));
        }
    }
    if let Some(old) = old {
        update(metadata, &old["metadata"], errors);
    }
}

/// Built-in kinds are stricter: a finalizer is a standard one or has a domain.
pub(super) fn finalizers(new: &Value, errors: &mut Errors) {
    let finalizers = list(&new["metadata"], "finalizers");
    for (index, finalizer) in finalizers.iter().enumerate() {
        let name = finalizer.as_str().unwrap_or_default();
        let standard = matches!(name, "kubernetes" | "orphan" | "foregroundDeletion");
        if !standard && !name.contains('/') {
            errors.push(invalid(
                format!("metadata.finalizers[{index}]"),
                finalizer,
                "name is neither a standard finalizer name nor is it fully qualified",
            ));
        }
    }
    let has = |name: &str| finalizers.iter().any(|one| one == name);
    if has("orphan") && has("foregroundDeletion") {
        errors.push(invalid(
            "metadata.finalizers",
            &new["metadata"]["finalizers"],
            "finalizer orphan and foregroundDeletion cannot be both set",
        ));
    }
}

pub(super) fn labels(metadata: &Value, path: &str, errors: &mut Errors) {
    for (key, value) in metadata["labels"].as_object().into_iter().flatten() {
        for why in names::key_problems(key) {
            errors.push(invalid(path, &key.as_str().into(), &why));
        }
        match value.as_str() {
            Some(text) => {
                if let Some(why) = names::label_value(text) {
                    errors.push(invalid(path, value, &why));
                }
            }
            None => errors.push(invalid(
                format!("{path}.{key}"),
                value,
                "must be a string; put quotes around it",
            )),
        }
    }
}

fn annotations(metadata: &Value, path: &str, errors: &mut Errors) {
    let mut bytes = 0;
    for (key, value) in metadata["annotations"].as_object().into_iter().flatten() {
        for why in names::key_problems(&key.to_lowercase()) {
            errors.push(invalid(path, &key.as_str().into(), &why));
        }
        if !value.is_string() {
            errors.push(invalid(
                format!("{path}.{key}"),
                value,
                "must be a string; put quotes around it",
            ));
        }
        bytes += key.len() + value.as_str().map_or(0, str::len);
    }
    if bytes > ANNOTATION_BYTES {
        errors.push(crate::schema::field::too_long(
            path,
            ANNOTATION_BYTES as u64,
        ));
    }
}

fn owner_reference(owner: &Value, path: &str, errors: &mut Errors) {
    let version = text(owner, "apiVersion");
    if version.is_empty() || version.matches('/').count() > 1 {
        errors.push(invalid(
            format!("{path}.apiVersion"),
            &version.into(),
            "version must not be empty",
        ));
    }
    for key in ["kind", "name", "uid"] {
        if text(owner, key).is_empty() {
            errors.push(invalid(
                format!("{path}.{key}"),
                &"".into(),
                "must not be empty",
            ));
        }
    }
    if text(owner, "kind") == "Event" && text(owner, "apiVersion") == "v1" {
        errors.push(invalid(
            path,
            owner,
            "/v1, Kind=Event is disallowed from being an owner",
        ));
    }
}

fn update(new: &Value, old: &Value, errors: &mut Errors) {
    for key in ["name", "namespace", "uid", "creationTimestamp"] {
        let (before, after) = (&old[key], &new[key]);
        // Absent means unchanged: the API server fills these in.
        if !after.is_null() && !before.is_null() && before != after {
            errors.push(invalid(format!("metadata.{key}"), after, IMMUTABLE));
        }
    }
    if !old["deletionTimestamp"].is_null() {
        let added: Vec<&Value> = list(new, "finalizers")
            .iter()
            .filter(|name| !list(old, "finalizers").contains(name))
            .collect();
        if !added.is_empty() {
            let shown: Vec<String> = added.iter().map(|name| name.to_string()).collect();
            let why = format!(
                "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
                shown.join(", ")
            );
            errors.push(forbidden("metadata.finalizers", &why));
        }
    }
}

/// A label selector; an empty one is an error where `must_select`.
pub(super) fn selector(selector: &Value, path: &str, must_select: bool, errors: &mut Errors) {
    if selector.is_null() {
        errors.push(required(path, ""));
        return;
    }
    let labels_given = selector["matchLabels"]
        .as_object()
        .is_some_and(|labels| !labels.is_empty());
    let expressions = list(selector, "matchExpressions");
    if must_select && !labels_given && expressions.is_empty() {
        errors.push(invalid(
            path,
            selector,
            "empty selector is invalid for deployment",
        ));
    }
    for (key, value) in selector["matchLabels"].as_object().into_iter().flatten() {
        if let Some(why) = names::qualified_name(key) {
            errors.push(invalid(
                format!("{path}.matchLabels"),
                &key.as_str().into(),
                &why,
            ));
        }
        if let Some(why) = names::label_value(value.as_str().unwrap_or_default()) {
            errors.push(invalid(format!("{path}.matchLabels"), value, &why));
        }
    }
    for (index, expression) in expressions.iter().enumerate() {
        let path = format!("{path}.matchExpressions[{index}]");
        let values = list(expression, "values").len();
        match text(expression, "operator") {
            "In" | "NotIn" if values == 0 => errors.push(required(
                format!("{path}.values"),
                "must be specified when `operator` is 'In' or 'NotIn'",
            )),
            "Exists" | "DoesNotExist" if values > 0 => errors.push(forbidden(
                format!("{path}.values"),
                "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
            )),
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            _ => errors.push(invalid(
                format!("{path}.operator"),
                &expression["operator"],
                "not a valid selector operator",
            )),
        }
    }
}

/// Whether labels satisfy a label selector.
pub(super) fn matches(selector: &Value, labels: &Value) -> bool {
    let exact = selector["matchLabels"]
        .as_object()
        .into_iter()
        .flatten()
        .all(|(key, value)| labels.get(key) == Some(value));
    exact
        && list(selector, "matchExpressions").iter().all(|expression| {
            let found = labels.get(text(expression, "key"));
            let listed = found.is_some_and(|found| list(expression, "values").contains(found));
            match text(expression, "operator") {
                "In" => listed,
                "NotIn" => !listed,
                "Exists" => found.is_some(),
                "DoesNotExist" => found.is_none(),
                _ => false,
            }
        })
}
