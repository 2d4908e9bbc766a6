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
    let object = kube
        .patch(&target, None, &params, &Patch::Apply(&body))
        .await
        .map_err(|error| error.failure(&format!("apply {target}")))?;
    Ok(Outcome::Done {
        object: Some(object),
    })
}

/// The instance is an owner, or the runtime put its label on (objects that cannot have an owner reference to it).
pub(crate) fn belongs(live: &Value, instance: &InstanceRef) -> bool {
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
    fn a_foreign_object_is_refused_with_its_owner() {
        let live = json!({"metadata": {"ownerReferences": [{"controller": true, "kind": "Deployment", "name": "web", "uid": "z"}]}});
        assert_eq!(
            foreign("ConfigMap default/x", &live, &instance()),
            "ConfigMap default/x exists and belongs to Deployment web, not to RedisCluster default/test; delete or rename it, or let the package adopt it"
        );
    }
}
