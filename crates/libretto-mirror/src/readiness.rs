//! When an object of a built-in Kind is ready.

use libretto_api::object::Gvk;
use serde_json::Value;

/// Whether the object does its work now, by the Kind's own status. Kinds without a rule are ready by being there.
pub fn ready(gvk: &Gvk, object: &Value) -> bool {
    let int = |path: &str| object.pointer(path).and_then(Value::as_i64);
    let condition = |kind: &str| {
        object
            .pointer("/status/conditions")
            .and_then(Value::as_array)
            .is_some_and(|conditions| {
                conditions.iter().any(|condition| {
                    condition.get("type").and_then(Value::as_str) == Some(kind)
                        && condition.get("status").and_then(Value::as_str) == Some("True")
                })
            })
    };
    // A controller that has not looked at this generation yet reports on an older wish.
    let observed = || {
        int("/status/observedGeneration").unwrap_or(0) >= int("/metadata/generation").unwrap_or(0)
    };
    match (gvk.group.as_str(), gvk.kind.as_str()) {
        ("apps", "Deployment") => {
            let wanted = int("/spec/replicas").unwrap_or(1);
            observed()
                && int("/status/updatedReplicas").unwrap_or(0) >= wanted
                && int("/status/availableReplicas").unwrap_or(0) >= wanted
                && int("/status/replicas").unwrap_or(0) <= wanted
        }
        ("apps", "StatefulSet") => {
            let wanted = int("/spec/replicas").unwrap_or(1);
            // With OnDelete somebody else decides when pods are replaced; the set does its work with pods of two revisions.
            let on_delete = object
                .pointer("/spec/updateStrategy/type")
                .and_then(Value::as_str)
                == Some("OnDelete");
            let partition = int("/spec/updateStrategy/rollingUpdate/partition").unwrap_or(0);
            observed()
                && int("/status/readyReplicas").unwrap_or(0) >= wanted
                && (on_delete
                    || int("/status/updatedReplicas").unwrap_or(0) >= (wanted - partition).max(0))
        }
        ("apps", "DaemonSet") => {
            let wanted = int("/status/desiredNumberScheduled").unwrap_or(0);
            observed()
                && int("/status/numberReady").unwrap_or(0) >= wanted
                && int("/status/updatedNumberScheduled").unwrap_or(0) >= wanted
        }
        ("batch", "Job") => condition("Complete"),
        ("", "PersistentVolumeClaim") => {
            object.pointer("/status/phase").and_then(Value::as_str) == Some("Bound")
        }
        ("", "Service") => {
            object.pointer("/spec/type").and_then(Value::as_str) != Some("LoadBalancer")
                || object
                    .pointer("/status/loadBalancer/ingress")
                    .and_then(Value::as_array)
                    .is_some_and(|ingress| !ingress.is_empty())
        }
        ("apiextensions.k8s.io", "CustomResourceDefinition") => condition("Established"),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn built_in_kinds_have_their_own_rule() {
        let cases = [
            (
                "apps/v1/StatefulSet",
                json!({"metadata": {"generation": 2}, "spec": {"replicas": 3}, "status": {"observedGeneration": 2, "readyReplicas": 3, "updatedReplicas": 3}}),
                true,
            ),
            (
                "apps/v1/StatefulSet",
                json!({"metadata": {"generation": 2}, "spec": {"replicas": 3}, "status": {"observedGeneration": 1, "readyReplicas": 3, "updatedReplicas": 3}}),
                false,
            ),
            (
                "apps/v1/StatefulSet",
                json!({"metadata": {"generation": 1}, "spec": {"replicas": 3, "updateStrategy": {"type": "OnDelete"}}, "status": {"observedGeneration": 1, "readyReplicas": 3, "updatedReplicas": 1}}),
                true,
            ),
            (
                "apps/v1/StatefulSet",
                json!({"metadata": {"generation": 1}, "spec": {"replicas": 3}, "status": {"observedGeneration": 1, "readyReplicas": 3, "updatedReplicas": 1}}),
                false,
            ),
            (
                "apps/v1/StatefulSet",
                json!({"metadata": {"generation": 1}, "spec": {"replicas": 0}, "status": {"observedGeneration": 1}}),
                true,
            ),
            (
                "apps/v1/Deployment",
                json!({"metadata": {"generation": 1}, "spec": {}, "status": {"observedGeneration": 1, "updatedReplicas": 1, "availableReplicas": 1, "replicas": 1}}),
                true,
            ),
            (
                "apps/v1/Deployment",
                json!({"metadata": {"generation": 1}, "spec": {}, "status": {"observedGeneration": 1, "updatedReplicas": 1, "availableReplicas": 1, "replicas": 2}}),
                false,
            ),
            (
                "apps/v1/Deployment",
                json!({"metadata": {"generation": 1}, "spec": {}}),
                false,
            ),
            (
                "apps/v1/DaemonSet",
                json!({"metadata": {"generation": 1}, "status": {"observedGeneration": 1, "desiredNumberScheduled": 2, "numberReady": 1, "updatedNumberScheduled": 2}}),
                false,
            ),
            (
                "batch/v1/Job",
                json!({"status": {"conditions": [{"type": "Complete", "status": "True"}]}}),
                true,
            ),
            ("batch/v1/Job", json!({"status": {"active": 1}}), false),
            (
                "v1/PersistentVolumeClaim",
                json!({"status": {"phase": "Bound"}}),
                true,
            ),
            (
                "v1/PersistentVolumeClaim",
                json!({"status": {"phase": "Pending"}}),
                false,
            ),
            ("v1/Service", json!({"spec": {"type": "ClusterIP"}}), true),
            (
                "v1/Service",
                json!({"spec": {"type": "LoadBalancer"}, "status": {"loadBalancer": {}}}),
                false,
            ),
            (
                "v1/Service",
                json!({"spec": {"type": "LoadBalancer"}, "status": {"loadBalancer": {"ingress": [{"ip": "1"}]}}}),
                true,
            ),
            (
                "apiextensions.k8s.io/v1/CustomResourceDefinition",
                json!({"status": {"conditions": [{"type": "Established", "status": "False"}]}}),
                false,
            ),
            ("v1/ConfigMap", json!({}), true),
        ];
        for (gvk, object, expected) in cases {
            assert_eq!(
                ready(&gvk.parse().expect("a kind"), &object),
                expected,
                "{gvk} {object}"
            );
        }
    }
}
