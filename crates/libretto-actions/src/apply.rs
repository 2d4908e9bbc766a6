//! Server-side apply of an object that an instance owns.
//!
//! Fields of other managers are taken back (`force`) only where the object is known to be the instance's: an object that happens to
//! have the wanted name is somebody's, and is left alone unless the package says `adopt`.

use kube::api::{Patch, PatchParams};
use libretto_api::{
    intent::{Failure, FailureKind, Outcome},
    object::{INSTANCE_LABEL, InstanceRef, field_manager},
};
use serde_json::Value;

use crate::{
    failed,
    kube::{Kube, object_ref},
    made,
    secret::Resolver,
};

pub(crate) async fn apply(
    kube: &Kube,
    resolver: &Resolver<'_>,
    object: &Value,
    adopt: bool,
    ours: bool,
) -> Result<Outcome, Failure> {
    let target = object_ref(object)?;
    let instance = resolver.instance();
    let object = &made::fill(kube, resolver, &target, object).await?;
    let body = resolver.object(object).await?;
    let mut params = PatchParams::apply(&field_manager(&instance.package));
    if ours {
        params = params.force();
    } else {
        let live = kube
            .get(&target)
            .await
            .map_err(|error| error.failure(&format!("read {target}")))?;
        match live {
            // Not forced: should somebody create it between the look and the write, differing fields are a conflict.
            None => {}
            Some(live) if adopt || belongs(&live, instance) => params = params.force(),
            Some(live) => {
                return Err(failed(
                    FailureKind::Conflict,
                    foreign(&target.to_string(), &live, instance),
                ));
            }
        }
    }
    let applied = kube
        .patch(&target, None, &params, &Patch::Apply(&body))
        .await;
    let object = match applied {
        // What somebody added to a list under another key (a Service's port changed by hand) stays when ours is put back, and the two
        // may exclude each other. Lists as a whole are what a merge patch sets; if that is refused too, it is the object.
        Err(error) if error.code() == Some(422) && params.force => {
            let merged = PatchParams {
                field_manager: params.field_manager.clone(),
                ..PatchParams::default()
            };
            let put_back = match lists(&body) {
                Some(lists) => kube
                    .patch(&target, None, &merged, &Patch::Merge(&lists))
                    .await
                    .is_ok(),
                None => false,
            };
            if !put_back {
                return Err(error.failure(&format!("apply {target}")));
            }
            kube.patch(&target, None, &params, &Patch::Apply(&body))
                .await
        }
        applied => applied,
    }
    .map_err(|error| error.failure(&format!("apply {target}")))?;
    Ok(Outcome::Done {
        object: Some(object),
    })
}

/// What of a manifest is in lists, without metadata and what is not in one.
fn lists(object: &Value) -> Option<Value> {
    let map = object.as_object()?;
    let lists: serde_json::Map<String, Value> = map
        .iter()
        .filter(|(key, _)| *key != "metadata")
        .filter_map(|(key, value)| {
            let value = match value {
                Value::Array(_) => value.clone(),
                Value::Object(_) => lists(value)?,
                _ => return None,
            };
            Some((key.clone(), value))
        })
        .collect();
    (!lists.is_empty()).then_some(Value::Object(lists))
}

/// The instance is an owner, or the runtime put its label on (objects that cannot have an owner reference to it).
pub fn belongs(live: &Value, instance: &InstanceRef) -> bool {
    let metadata = &live["metadata"];
    metadata["labels"][INSTANCE_LABEL] == instance.uid.as_str()
        || metadata["ownerReferences"]
            .as_array()
            .into_iter()
            .flatten()
            .any(|owner| owner["uid"] == instance.uid.as_str())
}

fn foreign(target: &str, live: &Value, instance: &InstanceRef) -> String {
    let owner = live["metadata"]["ownerReferences"]
        .as_array()
        .and_then(|owners| owners.iter().find(|owner| owner["controller"] == true))
        .map_or_else(
            || "nobody in particular".to_owned(),
            |owner| {
                format!(
                    "{} {}",
                    owner["kind"].as_str().unwrap_or("an object"),
                    owner["name"].as_str().unwrap_or_default()
                )
            },
        );
    format!(
        "{target} exists and belongs to {owner}, not to {instance}; delete or rename it, or let the package adopt it"
    )
}

#[cfg(test)]
mod tests {
    use libretto_api::object::Gvk;
    use serde_json::json;

    use super::*;

    fn instance() -> InstanceRef {
        InstanceRef {
            package: "redis".into(),
            gvk: Gvk::new("redis.kun", "v1beta1", "RedisCluster"),
            namespace: "default".into(),
            name: "test".into(),
            uid: "u1".into(),
        }
    }

    #[test]
    fn belonging_is_by_uid_never_by_name() {
        for (metadata, expected) in [
            (json!({"ownerReferences": [{"uid": "u1"}]}), true),
            (json!({"labels": {"libretto.dev/instance": "u1"}}), true),
            (
                json!({"ownerReferences": [{"uid": "u2", "name": "test", "kind": "RedisCluster"}]}),
                false,
            ),
            (json!({"labels": {"libretto.dev/instance": "u2"}}), false),
            (json!({}), false),
        ] {
            let live = json!({ "metadata": metadata });
            assert_eq!(belongs(&live, &instance()), expected, "{live}");
        }
    }

    #[test]
    fn lists_are_taken_with_the_way_to_them() {
        let service = json!({"kind": "Service", "metadata": {"finalizers": ["x"]}, "spec": {"type": "ClusterIP", "ports": [{"port": 80}], "selector": {"a": "b"}}});
        assert_eq!(
            lists(&service),
            Some(json!({"spec": {"ports": [{"port": 80}]}}))
        );
        assert_eq!(lists(&json!({"data": {"a": "b"}})), None);
    }

    #[test]
    fn a_foreign_object_is_refused_with_its_owner() {
        let live = json!({"metadata": {"ownerReferences": [{"controller": true, "kind": "Deployment", "name": "web", "uid": "z"}]}});
        assert_eq!(
            foreign("ConfigMap default/x", &live, &instance()),
            "ConfigMap default/x exists and belongs to Deployment web, not to RedisCluster default/test; delete or rename it, or let the package adopt it"
        );
    }
}
