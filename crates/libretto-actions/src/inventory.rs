//! Writes an instance's inventory object: what the runtime must remember about it over a restart.

use kube::api::{Patch, PatchParams};
use libretto_api::{
    intent::{Failure, Outcome},
    object::{Gvk, InstanceRef, ObjectRef, PACKAGE_LABEL, field_manager},
};
use serde_json::{Value, json};

use crate::kube::Kube;

/// Label that every inventory object bears, with the value `true`.
pub const INVENTORY_LABEL: &str = "libretto.dev/inventory";
/// Key of the ConfigMap's `data` that holds the inventory as JSON.
pub const INVENTORY_KEY: &str = "inventory";

/// Name of an instance's inventory ConfigMap. The kind is part of it so that two instances of one name do not share one.
pub fn inventory_name(instance: &InstanceRef) -> String {
    let kind = instance.gvk.kind.to_ascii_lowercase();
    format!("{}-{kind}-inventory", instance.name)
}

pub(crate) async fn write(
    kube: &Kube,
    instance: &InstanceRef,
    inventory: &Value,
) -> Result<Outcome, Failure> {
    let object = config_map(instance, inventory);
    let target = ObjectRef {
        gvk: Gvk::new("", "v1", "ConfigMap"),
        namespace: instance.namespace.clone(),
        name: inventory_name(instance),
    };
    // Forced: nobody else has business in it, and a lost inventory would mean lost effects.
    let params = PatchParams::apply(&field_manager(&instance.package)).force();
    let object = kube
        .patch(&target, None, &params, &Patch::Apply(&object))
        .await
        .map_err(|error| error.failure(&format!("inventory of {instance}")))?;
    Ok(Outcome::Done {
        object: Some(object),
    })
}

fn config_map(instance: &InstanceRef, inventory: &Value) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": inventory_name(instance),
            "namespace": instance.namespace,
            "labels": {INVENTORY_LABEL: "true", PACKAGE_LABEL: instance.package},
            "ownerReferences": [{
                "apiVersion": instance.gvk.api_version(), "kind": instance.gvk.kind,
                "name": instance.name, "uid": instance.uid, "controller": true, "blockOwnerDeletion": false,
            }],
        },
        "data": {INVENTORY_KEY: inventory.to_string()},
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_inventory_goes_with_its_instance() {
        let instance = InstanceRef {
            package: "redis".into(),
            gvk: Gvk::new("redis.kun", "v1beta1", "RedisCluster"),
            namespace: "prod".into(),
            name: "test".into(),
            uid: "u1".into(),
        };
        let object = config_map(&instance, &json!({"a": 1}));
        assert_eq!(object["metadata"]["name"], "test-rediscluster-inventory");
        assert_eq!(object["metadata"]["ownerReferences"][0]["uid"], "u1");
        assert_eq!(object["data"]["inventory"], r#"{"a":1}"#);
    }
}
