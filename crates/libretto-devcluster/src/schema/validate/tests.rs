//! Validation of built-in kinds, in upstream's words.

#![allow(clippy::unwrap_used)]

use serde_json::{Value, json};

use crate::{patch, schema::TypeSchema};

fn pod_spec() -> Value {
    json!({"containers": [{"name": "main", "image": "redis:7"}]})
}

fn template() -> Value {
    json!({"metadata": {"labels": {"app": "x"}}, "spec": pod_spec()})
}

/// A good object of each kind; cases change it.
fn good(kind: &str) -> (TypeSchema, Value) {
    let selector = json!({"matchLabels": {"app": "x"}});
    let (group, version, spec) = match kind {
        "Pod" => ("", "v1", pod_spec()),
        "Deployment" | "ReplicaSet" | "DaemonSet" => (
            "apps",
            "v1",
            json!({"selector": selector, "template": template()}),
        ),
        "StatefulSet" => (
            "apps",
            "v1",
            json!({"selector": selector, "template": template(), "serviceName": "x", "volumeClaimTemplates": [
                {"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}},
            ]}),
        ),
        "Job" => {
            let mut template = template();
            template["spec"]["restartPolicy"] = "Never".into();
            ("batch", "v1", json!({"template": template}))
        }
        "CronJob" => {
            let mut template = template();
            template["spec"]["restartPolicy"] = "Never".into();
            (
                "batch",
                "v1",
                json!({"schedule": "*/5 * * * *", "jobTemplate": {"spec": {"template": template}}}),
            )
        }
        "Service" => (
            "",
            "v1",
            json!({"clusterIP": "10.96.0.10", "selector": {"app": "x"}, "ports": [{"port": 80}]}),
        ),
        "PersistentVolumeClaim" => (
            "",
            "v1",
            json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}),
        ),
        "PodDisruptionBudget" => (
            "policy",
            "v1",
            json!({"minAvailable": 1, "selector": selector}),
        ),
        "ConfigMap" | "Secret" => ("", "v1", Value::Null),
        other => panic!("{other}"),
    };
    let schema = TypeSchema::built_in(group, version, kind).unwrap();
    let mut object = json!({"metadata": {"name": "x", "namespace": "default"}});
    if !spec.is_null() {
        object["spec"] = spec;
    }
    schema.default(&mut object);
    (schema, object)
}

fn errors(schema: &TypeSchema, new: &Value, old: Option<&Value>) -> Vec<String> {
    schema
        .validate(new, old)
        .iter()
        .map(|error| format!("{}: {}", error.field, error.message))
        .collect()
}

#[test]
fn good_objects_are_good() {
    for kind in [
        "Pod",
        "Deployment",
        "ReplicaSet",
        "DaemonSet",
        "StatefulSet",
        "Job",
        "CronJob",
        "Service",
        "PersistentVolumeClaim",
        "PodDisruptionBudget",
        "ConfigMap",
        "Secret",
    ] {
        let (schema, object) = good(kind);
        assert_eq!(errors(&schema, &object, None), [] as [&str; 0], "{kind}");
        assert_eq!(
            errors(&schema, &object, Some(&object)),
            [] as [&str; 0],
            "{kind}"
        );
    }
}

#[test]
fn what_is_refused_on_creation() {
    for (kind, change, expected) in [
        (
            "Pod",
            json!({"spec": {"containers": []}}),
            "spec.containers: Required value",
        ),
        (
            "Pod",
            json!({"spec": {"containers": [{"name": "a"}]}}),
            "spec.containers[0].image: Required value",
        ),
        (
            "Pod",
            json!({"spec": {"containers": [{"name": "a", "image": "x"}, {"name": "a", "image": "x"}]}}),
            r#"spec.containers[1].name: Duplicate value: "a""#,
        ),
        (
            "Pod",
            json!({"spec": {"containers": [{"name": "a", "image": "x", "volumeMounts": [{"name": "v", "mountPath": "/v"}]}]}}),
            r#"spec.containers[0].volumeMounts[0].name: Not found: "v""#,
        ),
        (
            "Pod",
            json!({"spec": {"volumes": [{"name": "v", "emptyDir": {}, "secret": {"secretName": "s"}}]}}),
            "spec.volumes[0].secret: Forbidden: may not specify more than 1 volume type",
        ),
        (
            "Pod",
            json!({"spec": {"restartPolicy": "Sometimes"}}),
            r#"spec.restartPolicy: Unsupported value: "Sometimes": supported values: "Always", "OnFailure", "Never""#,
        ),
        (
            "Pod",
            json!({"spec": {"containers": [{"name": "a", "image": "x", "ports": [{"containerPort": 70000}]}]}}),
            "spec.containers[0].ports[0].containerPort: Invalid value: 70000: must be between 1 and 65535, inclusive",
        ),
        (
            "Pod",
            json!({"spec": {"containers": [{"name": "a", "image": "x", "ports": [{"containerPort": 1, "name": "much-too-long-name"}]}]}}),
            r#"spec.containers[0].ports[0].name: Invalid value: "much-too-long-name": must be no more than 15 characters"#,
        ),
        (
            "Pod",
            json!({"spec": {"containers": [{"name": "a", "image": "x", "resources":
            {"limits": {"cpu": "100m"}, "requests": {"cpu": "1"}}}]}}),
            r#"spec.containers[0].resources.requests: Invalid value: "1": must be less than or equal to cpu limit of 100m"#,
        ),
        (
            "Pod",
            json!({"spec": {"containers": [{"name": "a", "image": "x", "livenessProbe": {}}]}}),
            "spec.containers[0].livenessProbe: Required value: must specify a handler type",
        ),
        (
            "Pod",
            json!({"metadata": {"labels": {"a b": "c"}}}),
            "metadata.labels: Invalid value: \"a b\": name part must consist",
        ),
        (
            "Pod",
            json!({"metadata": {"labels": {"a": "c d"}}}),
            "metadata.labels: Invalid value: \"c d\": a valid label must be",
        ),
        (
            "Pod",
            json!({"metadata": {"ownerReferences": [{"apiVersion": "v1", "kind": "K", "name": "n", "uid": ""}]}}),
            r#"metadata.ownerReferences.uid: Invalid value: "": must not be empty"#,
        ),
        (
            "Deployment",
            json!({"spec": {"template": {"metadata": {"labels": {"app": "y"}}}}}),
            r#"spec.template.metadata.labels: Invalid value: {"app":"y"}: `selector` does not match template `labels`"#,
        ),
        (
            "Deployment",
            json!({"spec": {"selector": null}}),
            "spec.selector: Required value",
        ),
        (
            "Deployment",
            json!({"spec": {"replicas": -1}}),
            "spec.replicas: Invalid value: -1: must be greater than or equal to 0",
        ),
        (
            "Deployment",
            json!({"spec": {"template": {"spec": {"restartPolicy": "Never"}}}}),
            r#"spec.template.spec.restartPolicy: Unsupported value: "Never": supported values: "Always""#,
        ),
        (
            "Deployment",
            json!({"spec": {"strategy": {"rollingUpdate": {"maxSurge": 0, "maxUnavailable": 0}}}}),
            "spec.strategy.rollingUpdate.maxUnavailable: Invalid value: 0: may not be 0 when `maxSurge` is 0",
        ),
        (
            "Job",
            json!({"spec": {"template": {"spec": {"restartPolicy": "Always"}}}}),
            r#"spec.template.spec.restartPolicy: Required value: valid values: "OnFailure", "Never""#,
        ),
        (
            "CronJob",
            json!({"spec": {"schedule": "* *"}}),
            r#"spec.schedule: Invalid value: "* *": expected exactly 5 fields, found 2: [* *]"#,
        ),
        (
            "Service",
            json!({"spec": {"ports": []}}),
            "spec.ports: Required value",
        ),
        (
            "Service",
            json!({"spec": {"ports": [{"port": 1}, {"port": 2}]}}),
            "spec.ports[0].name: Required value",
        ),
        (
            "Service",
            json!({"spec": {"ports": [{"port": 1, "name": "a"}, {"port": 2, "name": "a"}]}}),
            r#"spec.ports[1].name: Duplicate value: "a""#,
        ),
        (
            "PersistentVolumeClaim",
            json!({"spec": {"resources": null}}),
            "spec.resources[storage]: Required value",
        ),
        (
            "PersistentVolumeClaim",
            json!({"spec": {"accessModes": ["ReadWriteTwice"]}}),
            "spec.accessModes: Unsupported value",
        ),
        (
            "PodDisruptionBudget",
            json!({"spec": {"maxUnavailable": 1}}),
            r#"spec: Invalid value: {"maxUnavailable":1,"minAvailable":1}: minAvailable and maxUnavailable cannot be both set"#,
        ),
        (
            "ConfigMap",
            json!({"data": {"a/b": "c"}}),
            "data[a/b]: Invalid value: \"a/b\": a valid config key",
        ),
        (
            "Secret",
            json!({"type": "kubernetes.io/tls"}),
            "data[tls.crt]: Required value",
        ),
        // Wrong types.
        (
            "Deployment",
            json!({"spec": {"replicas": "many"}}),
            r#"spec.replicas: Invalid value: "string": spec.replicas in body must be of type integer: "string""#,
        ),
        (
            "ConfigMap",
            json!({"data": {"a": 1}}),
            r#"data.a: Invalid value: "integer": data.a in body must be of type string: "integer""#,
        ),
        (
            "Pod",
            json!({"spec": {"containers": [{"name": "a", "image": "x", "resources": {"limits": {"cpu": "lots"}}}]}}),
            "quantities must match the regular expression",
        ),
    ] {
        let (schema, mut object) = good(kind);
        patch::merge(&mut object, &change);
        let found = errors(&schema, &object, None);
        assert!(
            found.iter().any(|error| error.contains(expected)),
            "{kind} {change}\nexpected {expected}\nfound {found:#?}"
        );
    }
}

#[test]
fn what_may_not_change() {
    const CLAIM: &str = "spec: Forbidden: spec is immutable after creation except resources.requests and volumeAttributesClassName for \
                         bound claims";
    for (kind, change, expected) in [
        (
            "Pod",
            json!({"spec": {"containers": [{"name": "main", "image": "redis:8"}]}}),
            "",
        ),
        (
            "Pod",
            json!({"spec": {"tolerations": [{"operator": "Exists"}]}}),
            "",
        ),
        ("Pod", json!({"spec": {"nodeName": "n"}}), ""),
        (
            "Pod",
            json!({"spec": {"hostNetwork": true}}),
            "spec: Forbidden: pod updates may not change fields other than",
        ),
        (
            "Pod",
            json!({"spec": {"containers": [{"name": "a", "image": "x"}, {"name": "b", "image": "x"}]}}),
            "spec.containers: Forbidden: pod updates may not add or remove containers",
        ),
        (
            "Deployment",
            json!({"spec": {"replicas": 5, "template": {"metadata": {"labels": {"more": "y"}}}}}),
            "",
        ),
        (
            "Deployment",
            json!({"spec": {"selector": {"matchLabels": {"more": "y"}}, "template": {"metadata": {"labels": {"more": "y"}}}}}),
            r#"spec.selector: Invalid value: {"matchLabels":{"app":"x","more":"y"}}: field is immutable"#,
        ),
        (
            "StatefulSet",
            json!({"spec": {"replicas": 5, "minReadySeconds": 3}}),
            "",
        ),
        (
            "StatefulSet",
            json!({"spec": {"serviceName": "y"}}),
            "spec: Forbidden: updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', \
          'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden",
        ),
        (
            "StatefulSet",
            json!({"spec": {"volumeClaimTemplates": null}}),
            "spec: Forbidden: updates to statefulset spec",
        ),
        (
            "Job",
            json!({"spec": {"parallelism": 5, "suspend": true}}),
            "",
        ),
        (
            "Job",
            json!({"spec": {"completions": 5}}),
            "spec.completions: Invalid value: 5: field is immutable",
        ),
        (
            "Job",
            json!({"spec": {"template": {"spec": {"nodeName": "x"}}}}),
            "field is immutable",
        ),
        (
            "Service",
            json!({"spec": {"clusterIP": null}}),
            "spec.clusterIPs[0]: Invalid value: null: primary clusterIP can not be unset",
        ),
        (
            "PersistentVolumeClaim",
            json!({"spec": {"volumeName": "v", "storageClassName": "c"}}),
            "",
        ),
        (
            "PersistentVolumeClaim",
            json!({"spec": {"accessModes": ["ReadOnlyMany"]}}),
            CLAIM,
        ),
        (
            "PersistentVolumeClaim",
            json!({"spec": {"resources": {"requests": {"storage": "1Mi"}}}}),
            "spec.resources.requests.storage: Forbidden: field can not be less than",
        ),
        (
            "Secret",
            json!({"type": "other"}),
            r#"type: Invalid value: "other": field is immutable"#,
        ),
        (
            "ConfigMap",
            json!({"metadata": {"name": "y"}}),
            r#"metadata.name: Invalid value: "y": field is immutable"#,
        ),
    ] {
        let (schema, old) = good(kind);
        let mut new = old.clone();
        patch::merge(&mut new, &change);
        schema.default(&mut new);
        let found = errors(&schema, &new, Some(&old));
        if expected.is_empty() {
            assert_eq!(found, [] as [&str; 0], "{kind} {change}");
        } else {
            assert!(
                found.iter().any(|error| error.contains(expected)),
                "{kind} {change}\nexpected {expected}\nfound {found:#?}"
            );
        }
    }
}

#[test]
fn immutable_data_stays() {
    let (schema, mut old) = good("ConfigMap");
    old["immutable"] = true.into();
    old["data"] = json!({"a": "1"});
    let mut new = old.clone();
    new["data"]["a"] = "2".into();
    new["immutable"] = false.into();
    assert_eq!(
        errors(&schema, &new, Some(&old)),
        [
            "immutable: Forbidden: field is immutable when `immutable` is set",
            "data: Forbidden: field is immutable when `immutable` is set",
        ]
    );
}

#[test]
fn finalizers_are_not_added_to_what_is_going() {
    let (schema, mut old) = good("ConfigMap");
    old["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
    old["metadata"]["finalizers"] = json!(["example.com/a"]);
    let mut new = old.clone();
    new["metadata"]["finalizers"] = json!(["example.com/a", "example.com/b"]);
    assert_eq!(
        errors(&schema, &new, Some(&old)),
        [
            "metadata.finalizers: Forbidden: no new finalizers can be added if the object is being deleted, found new finalizers \
             []string{\"example.com/b\"}"
        ]
    );
    new["metadata"]["finalizers"] = json!([]);
    assert_eq!(errors(&schema, &new, Some(&old)), [] as [&str; 0]);
}

#[test]
fn decode_errors_are_gos() {
    let (schema, mut object) = good("Deployment");
    assert_eq!(schema.decode_error(&object), None);
    object["spec"]["replicas"] = "many".into();
    assert_eq!(
        schema.decode_error(&object).unwrap(),
        "json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32"
    );
    let (schema, mut object) = good("ConfigMap");
    object["data"] = json!({"a": true});
    assert_eq!(
        schema.decode_error(&object).unwrap(),
        "json: cannot unmarshal bool into Go struct field ConfigMap.data of type string"
    );
    let (schema, mut object) = good("Pod");
    object["spec"]["containers"] = json!({"name": "x"});
    assert_eq!(
        schema.decode_error(&object).unwrap(),
        "json: cannot unmarshal object into Go struct field PodSpec.spec.containers of type []v1.Container"
    );
}

#[test]
fn unknown_fields_are_pruned_and_named() {
    let (schema, mut object) = good("Pod");
    object["spec"]["containers"][0]["imagee"] = "x".into();
    object["spek"] = json!({});
    object["metadata"]["managedFields"] = json!([{"fieldsV1": {"f:anything": {}}}]);
    assert_eq!(
        schema.prune(&mut object),
        ["spec.containers[0].imagee", "spek"]
    );
    assert_eq!(schema.prune(&mut object), [] as [&str; 0]);
    assert!(
        object["metadata"]["managedFields"][0]["fieldsV1"]
            .get("f:anything")
            .is_some()
    );
}
