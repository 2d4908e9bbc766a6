//! Defaults of built-in kinds, as upstream fills them in.

#![allow(clippy::unwrap_used)]

use serde_json::{Value, json};

use crate::schema::TypeSchema;

/// Every field of `expected` is in the defaulted object with that value.
fn check(group: &str, version: &str, kind: &str, mut object: Value, expected: &Value) {
    let schema = TypeSchema::built_in(group, version, kind).unwrap();
    schema.default(&mut object);
    contains(&object, expected, kind);
    let once = object.clone();
    schema.default(&mut object);
    assert_eq!(
        object, once,
        "{kind}: defaulting twice changes nothing more"
    );
}

fn contains(value: &Value, expected: &Value, path: &str) {
    match expected {
        Value::Object(fields) => {
            for (name, expected) in fields {
                contains(&value[name.as_str()], expected, &format!("{path}.{name}"));
            }
        }
        Value::Array(items) => {
            assert_eq!(value.as_array().map(Vec::len), Some(items.len()), "{path}");
            for (index, expected) in items.iter().enumerate() {
                contains(&value[index], expected, &format!("{path}[{index}]"));
            }
        }
        _ => assert_eq!(value, expected, "{path}"),
    }
}

#[test]
fn pods() {
    check(
        "",
        "v1",
        "Pod",
        json!({
            "metadata": {"name": "x", "creationTimestamp": null},
            "spec": {
                "containers": [
                    {"name": "a", "image": "redis", "ports": [{"containerPort": 6379}],
                     "livenessProbe": {"httpGet": {"port": 80}},
                     "resources": {"limits": {"cpu": 0.5, "memory": "1024Mi"}}},
                    {"name": "b", "image": "host:5000/redis:7"},
                    {"name": "c", "image": "redis@sha256:abc"},
                    {"name": "d", "image": "redis:latest", "imagePullPolicy": "Never"},
                ],
                "volumes": [{"name": "e"}, {"name": "c", "configMap": {"name": "c"}}, {"name": "s", "secret": {"secretName": "s"}},
                            {"name": "p", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}}],
            },
        }),
        &json!({
            "metadata": {"name": "x", "creationTimestamp": null},
            "spec": {
                "restartPolicy": "Always", "dnsPolicy": "ClusterFirst", "schedulerName": "default-scheduler",
                "terminationGracePeriodSeconds": 30, "securityContext": {}, "enableServiceLinks": true,
                "containers": [
                    {"imagePullPolicy": "Always", "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
                     "ports": [{"protocol": "TCP"}],
                     "resources": {"limits": {"cpu": "500m", "memory": "1Gi"}, "requests": {"cpu": "500m", "memory": "1Gi"}},
                     "livenessProbe": {"httpGet": {"path": "/", "scheme": "HTTP"}, "timeoutSeconds": 1, "periodSeconds": 10,
                                       "successThreshold": 1, "failureThreshold": 3}},
                    {"imagePullPolicy": "IfNotPresent"},
                    {"imagePullPolicy": "IfNotPresent"},
                    {"imagePullPolicy": "Never"},
                ],
                "volumes": [{"emptyDir": {}}, {"configMap": {"defaultMode": 420}}, {"secret": {"defaultMode": 420}},
                            {"projected": {"defaultMode": 420, "sources": [{"serviceAccountToken": {"expirationSeconds": 3600}}]}}],
            },
            "status": {"phase": "Pending"},
        }),
    );
}

#[test]
fn workloads() {
    check(
        "apps",
        "v1",
        "Deployment",
        json!({"spec": {"template": {"spec": {"containers": [{"name": "a", "image": "x:1"}]}}}}),
        &json!({"spec": {
            "replicas": 1, "revisionHistoryLimit": 10, "progressDeadlineSeconds": 600,
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}},
            "template": {"spec": {"restartPolicy": "Always", "containers": [{"imagePullPolicy": "IfNotPresent"}]}},
        }}),
    );
    check(
        "apps",
        "v1",
        "StatefulSet",
        json!({"spec": {"replicas": 0, "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {}}]}}),
        &json!({"spec": {
            "replicas": 0, "podManagementPolicy": "OrderedReady", "revisionHistoryLimit": 10,
            "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 0}},
            "persistentVolumeClaimRetentionPolicy": {"whenDeleted": "Retain", "whenScaled": "Retain"},
            "volumeClaimTemplates": [{"apiVersion": "v1", "kind": "PersistentVolumeClaim",
                                      "spec": {"volumeMode": "Filesystem"}, "status": {"phase": "Pending"}}],
        }}),
    );
    check(
        "apps",
        "v1",
        "StatefulSet",
        json!({"spec": {"updateStrategy": {"type": "OnDelete"}}}),
        &json!({"spec": {"updateStrategy": {"type": "OnDelete", "rollingUpdate": null}}}),
    );
    check(
        "batch",
        "v1",
        "Job",
        json!({"spec": {"template": {"metadata": {"labels": {"a": "b"}}}}}),
        &json!({"metadata": {"labels": {"a": "b"}},
                "spec": {"completions": 1, "parallelism": 1, "backoffLimit": 6, "completionMode": "NonIndexed", "suspend": false}}),
    );
    check(
        "batch",
        "v1",
        "Job",
        json!({"spec": {"parallelism": 3}}),
        &json!({"spec": {"completions": null, "parallelism": 3}}),
    );
    check(
        "batch",
        "v1",
        "CronJob",
        json!({"spec": {"schedule": "* * * * *"}}),
        &json!({"spec": {"concurrencyPolicy": "Allow", "suspend": false, "successfulJobsHistoryLimit": 3, "failedJobsHistoryLimit": 1}}),
    );
}

#[test]
fn services_and_the_rest() {
    check(
        "",
        "v1",
        "Service",
        json!({"spec": {"ports": [{"port": 80}, {"port": 53, "protocol": "UDP", "targetPort": "dns"}]}}),
        &json!({"spec": {"type": "ClusterIP", "sessionAffinity": "None", "internalTrafficPolicy": "Cluster",
                         "ports": [{"protocol": "TCP", "targetPort": 80}, {"protocol": "UDP", "targetPort": "dns"}]},
                "status": {"loadBalancer": {}}}),
    );
    check(
        "",
        "v1",
        "Secret",
        json!({"stringData": {"a": "x"}, "data": {"b": "eQ=="}}),
        &json!({"type": "Opaque", "stringData": null, "data": {"a": "eA==", "b": "eQ=="}}),
    );
    check(
        "",
        "v1",
        "Namespace",
        json!({"metadata": {"name": "x"}}),
        &json!({"metadata": {"labels": {"kubernetes.io/metadata.name": "x"}}, "spec": {},
                "status": {"phase": "Active"}}),
    );
    check(
        "",
        "v1",
        "PersistentVolumeClaim",
        json!({"spec": {"resources": {"requests": {"storage": 1024}}}}),
        &json!({"spec": {"volumeMode": "Filesystem", "resources": {"requests": {"storage": "1024"}}}, "status": {"phase": "Pending"}}),
    );
    check(
        "rbac.authorization.k8s.io",
        "v1",
        "RoleBinding",
        json!({"roleRef": {"kind": "Role", "name": "x"}, "subjects": [{"kind": "User", "name": "u"}, {"kind": "ServiceAccount", "name": "s"}]}),
        &json!({"roleRef": {"apiGroup": "rbac.authorization.k8s.io"},
                "subjects": [{"apiGroup": "rbac.authorization.k8s.io"}, {"apiGroup": null}]}),
    );
    check(
        "networking.k8s.io",
        "v1",
        "NetworkPolicy",
        json!({"spec": {"egress": [{}]}}),
        &json!({"spec": {"policyTypes": ["Ingress", "Egress"]}}),
    );
}
