//! Sets the whole status of an instance, leaving exactly what was given.
//!
//! Server-side apply drops the fields we gave earlier and no longer give. Fields that somebody else put there (an older operator,
//! a hand edit) stay after an apply; they are removed by a second request, which a converged cluster never needs.

use kube::api::{Patch, PatchParams};
use libretto_api::{
    intent::{Failure, FailureKind, Outcome},
    object::{InstanceRef, ObjectRef, field_manager},
};
use serde_json::{Map, Value, json};

use crate::{failed, kube::Kube};

pub(crate) async fn status(
    kube: &Kube,
    instance: &InstanceRef,
    status: &Value,
) -> Result<Outcome, Failure> {
    let target = ObjectRef {
        gvk: instance.gvk.clone(),
        namespace: instance.namespace.clone(),
        name: instance.name.clone(),
    };
    let what = format!("status of {instance}");
    let resource = kube
        .resource(&instance.gvk)
        .await
        .map_err(|error| error.failure(&what))?;
    if !resource.subresources.iter().any(|name| name == "status") {
        return Err(failed(
            FailureKind::Invalid,
            format!(
                "{what}: its CustomResourceDefinition has no `subresources: {{status: {{}}}}`; add it"
            ),
        ));
    }
    let manager = field_manager(&instance.package);
    let body = json!({
        "apiVersion": instance.gvk.api_version(),
        "kind": instance.gvk.kind,
        // The uid keeps a status from reaching a same-named successor.
        "metadata": {"name": instance.name, "namespace": instance.namespace, "uid": instance.uid},
        "status": status,
    });
    let params = PatchParams::apply(&manager).force();
    let applied = match kube
        .patch(&target, Some("status"), &params, &Patch::Apply(&body))
        .await
    {
        Ok(applied) => applied,
        Err(error) if error.code() == Some(404) => return Ok(Outcome::Absent),
        // The instance was deleted and another one made under its name.
        Err(error)
            if error.code() == Some(409) && error.to_string().contains("UID in precondition") =>
        {
            return Ok(Outcome::Absent);
        }
        Err(error) => return Err(error.failure(&what)),
    };
    let Some(removal) = removal(status, &applied["status"]) else {
        return Ok(Outcome::Done {
            object: Some(applied),
        });
    };
    let merge = json!({"metadata": {"uid": instance.uid}, "status": removal});
    let params = PatchParams {
        field_manager: Some(manager),
        ..PatchParams::default()
    };
    let object = kube
        .patch(&target, Some("status"), &params, &Patch::Merge(&merge))
        .await
        .map_err(|error| error.failure(&what))?;
    Ok(Outcome::Done {
        object: Some(object),
    })
}

/// The merge patch that takes from `live` what `wanted` does not have; `None` when there is nothing to take.
fn removal(wanted: &Value, live: &Value) -> Option<Value> {
    match (wanted, live) {
        (Value::Object(wanted), Value::Object(live)) => {
            let patch: Map<String, Value> = live
                .iter()
                .filter_map(|(key, value)| match wanted.get(key) {
                    None => Some((key.clone(), Value::Null)),
                    Some(wanted) => Some((key.clone(), removal(wanted, value)?)),
                })
                .collect();
            (!patch.is_empty()).then_some(Value::Object(patch))
        }
        // A merge patch replaces lists whole. A shorter live list is the schema's doing (pruning), not an addition.
        (Value::Array(wanted), Value::Array(live)) => {
            let added = live.len() > wanted.len()
                || wanted
                    .iter()
                    .zip(live)
                    .any(|(wanted, live)| removal(wanted, live).is_some());
            added.then(|| Value::Array(wanted.clone()))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_not_given_is_removed() {
        for (wanted, live, expected) in [
            (json!({"a": 1}), json!({"a": 1}), None),
            (
                json!({"a": 1}),
                json!({"a": 1, "old": 2}),
                Some(json!({"old": null})),
            ),
            (
                json!({"a": {"b": 1}}),
                json!({"a": {"b": 1, "c": 2}}),
                Some(json!({"a": {"c": null}})),
            ),
            // Pruned by the schema: not ours to add again.
            (json!({"a": 1, "unknown": 2}), json!({"a": 1}), None),
            (
                json!({"conditions": [{"type": "A"}]}),
                json!({"conditions": [{"type": "A"}, {"type": "Foreign"}]}),
                Some(json!({"conditions": [{"type": "A"}]})),
            ),
            (json!({"l": [1, 2]}), json!({"l": [1, 2]}), None),
            (json!({}), Value::Null, None),
        ] {
            assert_eq!(removal(&wanted, &live), expected, "{wanted} over {live}");
        }
    }
}
