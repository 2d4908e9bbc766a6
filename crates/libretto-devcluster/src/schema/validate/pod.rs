//! Rules for Pods, above all what may change after creation.

use serde_json::Value;

use super::{Errors, list, one_of, pod_spec};
use crate::schema::field::{forbidden, invalid};

const MAY_CHANGE: &str = "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,\
                          `spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),\
                          `spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

pub(super) fn pod(new: &Value, old: Option<&Value>, errors: &mut Errors) {
    one_of(
        new,
        "status.phase",
        &["Pending", "Running", "Succeeded", "Failed", "Unknown"],
        errors,
    );
    let Some(old) = old else {
        pod_spec::spec(&new["spec"], "spec", errors);
        return;
    };
    if old["spec"] == new["spec"] {
        return;
    }
    let (before, after) = (&old["spec"], &new["spec"]);
    if list(before, "containers").len() != list(after, "containers").len() {
        errors.push(forbidden(
            "spec.containers",
            "pod updates may not add or remove containers",
        ));
        return;
    }
    if list(before, "initContainers").len() != list(after, "initContainers").len() {
        errors.push(forbidden(
            "spec.initContainers",
            "pod updates may not add or remove containers",
        ));
        return;
    }
    for key in ["containers", "initContainers"] {
        for (index, container) in list(after, key).iter().enumerate() {
            if container["image"]
                .as_str()
                .is_none_or(|image| image.trim().is_empty())
            {
                errors.push(crate::schema::field::required(
                    format!("spec.{key}[{index}].image"),
                    "",
                ));
            }
        }
    }
    deadline(before, after, errors);
    tolerations(before, after, errors);
    if comparable(before, after) != comparable(after, after) {
        errors.push(forbidden("spec", MAY_CHANGE));
    }
}

/// `spec` with the changeable fields as in `model`, so that only forbidden differences remain.
fn comparable(spec: &Value, model: &Value) -> Value {
    let mut spec = spec.clone();
    for key in ["containers", "initContainers"] {
        let images: Vec<Value> = list(model, key)
            .iter()
            .map(|container| container["image"].clone())
            .collect();
        let containers = spec.get_mut(key).and_then(Value::as_array_mut);
        for (container, image) in containers.into_iter().flatten().zip(images) {
            container["image"] = image;
        }
    }
    let Some(object) = spec.as_object_mut() else {
        return spec;
    };
    let mut changeable = vec!["activeDeadlineSeconds", "tolerations"];
    // A negative one may become one second, and nothing else.
    if object["terminationGracePeriodSeconds"]
        .as_i64()
        .is_some_and(|seconds| seconds < 0)
        && model["terminationGracePeriodSeconds"] == 1
    {
        changeable.push("terminationGracePeriodSeconds");
    }
    // Binding sets the node once; a scheduling gate may only go.
    if model["nodeName"].is_string() && !object.contains_key("nodeName") {
        changeable.push("nodeName");
    }
    for key in changeable {
        match model.get(key) {
            Some(value) => object.insert(key.to_owned(), value.clone()),
            None => object.remove(key),
        };
    }
    spec
}

fn deadline(before: &Value, after: &Value, errors: &mut Errors) {
    const FIELD: &str = "activeDeadlineSeconds";
    let field = format!("spec.{FIELD}");
    match (before[FIELD].as_i64(), after[FIELD].as_i64()) {
        (Some(old), Some(new)) if new > old => {
            errors.push(invalid(
                field,
                &after[FIELD],
                &format!("must be less than or equal to previous value {old}"),
            ));
        }
        (Some(_), None) => {
            errors.push(invalid(
                field,
                &Value::Null,
                "must not update from a positive integer to nil value",
            ));
        }
        _ => {}
    }
}

fn tolerations(before: &Value, after: &Value, errors: &mut Errors) {
    let kept = list(after, "tolerations");
    let same = |old: &Value, new: &Value| {
        // The time of a toleration may be changed.
        ["key", "operator", "value", "effect"]
            .iter()
            .all(|key| old[*key] == new[*key])
    };
    let lost = list(before, "tolerations")
        .iter()
        .any(|old| !kept.iter().any(|new| same(old, new)));
    if lost {
        let why = "existing toleration can not be modified except its tolerationSeconds";
        errors.push(forbidden("spec.tolerations", why));
    }
}
