//! What the operator of an instance wrote down for whoever comes after it. Writing it is an action.

use libretto_actions::{INVENTORY_KEY, inventory_name, kube::Kube};
use libretto_api::object::{Gvk, InstanceRef, ObjectRef};
use serde_json::Value;

/// The inventory of an instance; null when there is none, or only one of a same-named instance that is gone.
pub async fn read(kube: &Kube, instance: &InstanceRef) -> Result<Value, String> {
    let object = ObjectRef {
        gvk: Gvk::new("", "v1", "ConfigMap"),
        namespace: instance.namespace.clone(),
        name: inventory_name(instance),
    };
    let live = kube.get(&object).await.map_err(|error| error.to_string())?;
    match live {
        Some(map) if written_for(&map, instance) => map["data"][INVENTORY_KEY]
            .as_str()
            .map_or(Ok(Value::Null), serde_json::from_str)
            .map_err(|error| error.to_string()),
        _ => Ok(Value::Null),
    }
}

fn written_for(map: &Value, instance: &InstanceRef) -> bool {
    map["metadata"]["ownerReferences"]
        .as_array()
        .into_iter()
        .flatten()
        .any(|owner| owner["uid"] == instance.uid.as_str())
}
