//! Tables as kubectl prints them.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use serde_json::{Value, json};

use super::{IncludeObject, TableKind, render};
use crate::crd::Column;

/// 2026-01-01T01:00:00Z, one hour after every object here was created.
const NOW: i64 = 1_767_229_200;

fn table(kind: TableKind<'_>, object: Value, include: IncludeObject) -> Value {
    render(kind, &[Arc::new(object)], include, true, "7", NOW)
}

/// Titles and cells as kubectl shows them, wide columns in brackets.
#[track_caller]
fn check(group: &str, kind: &str, mut object: Value, expected: &[(&str, Value)]) {
    object["metadata"]["creationTimestamp"] = "2026-01-01T00:00:00Z".into();
    if object["metadata"]["name"].is_null() {
        object["metadata"]["name"] = "x".into();
    }
    let table = table(
        TableKind::BuiltIn { group, kind },
        object,
        IncludeObject::None,
    );
    let titles = table["columnDefinitions"].as_array().unwrap();
    let cells = table["rows"][0]["cells"].as_array().unwrap();
    assert_eq!(titles.len(), cells.len(), "{kind}");
    for (title, value) in expected {
        let position = titles.iter().position(|column| column["name"] == *title);
        let position = position.unwrap_or_else(|| panic!("{kind} has no column {title}"));
        assert_eq!(&cells[position], value, "{kind} {title}");
    }
}

fn pod(status: &Value, spec: &Value) -> Value {
    json!({"kind": "Pod", "metadata": {}, "spec": spec, "status": status})
}

#[test]
fn pods() {
    let two = json!({"containers": [{"name": "a"}, {"name": "b"}], "nodeName": "n"});
    let running = json!({"name": "a", "ready": true, "restartCount": 0, "state": {"running": {}}});
    let waiting = |reason: &str| {
        json!({"name": "b", "ready": false, "restartCount": 1, "state": {"waiting": {"reason": reason}},
        "lastState": {"terminated": {"finishedAt": "2026-01-01T00:55:00Z"}}})
    };
    for (status, ready, shown, restarts) in [
        (json!({"phase": "Pending"}), "0/2", "Pending", "0"),
        (
            json!({"phase": "Running", "containerStatuses": [running, running]}),
            "2/2",
            "Running",
            "0",
        ),
        (
            json!({"phase": "Running", "containerStatuses": [running, waiting("CrashLoopBackOff")]}),
            "1/2",
            "CrashLoopBackOff",
            "1 (5m ago)",
        ),
        (
            json!({"phase": "Pending", "containerStatuses": [waiting("ErrImagePull"), waiting("ContainerCreating")]}),
            "0/2",
            "ErrImagePull",
            "2 (5m ago)",
        ),
        (
            json!({"phase": "Succeeded", "containerStatuses": [{"state": {"terminated": {"reason": "Completed", "exitCode": 0}}}]}),
            "0/2",
            "Completed",
            "0",
        ),
        (
            json!({"phase": "Failed", "reason": "Evicted"}),
            "0/2",
            "Evicted",
            "0",
        ),
        (
            json!({"phase": "Failed", "containerStatuses": [{"state": {"terminated": {"exitCode": 3}}}]}),
            "0/2",
            "ExitCode:3",
            "0",
        ),
        (
            json!({"phase": "Failed", "containerStatuses": [{"state": {"terminated": {"signal": 9, "exitCode": 137}}}]}),
            "0/2",
            "Signal:9",
            "0",
        ),
        (
            json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}],
                "containerStatuses": [{"state": {"terminated": {"reason": "Completed", "exitCode": 0}}}, running]}),
            "1/2",
            "Running",
            "0",
        ),
    ] {
        check(
            "",
            "Pod",
            pod(&status, &two),
            &[
                ("Ready", ready.into()),
                ("Status", shown.into()),
                ("Restarts", restarts.into()),
                ("Age", "60m".into()),
                ("Node", "n".into()),
                ("IP", "<none>".into()),
            ],
        );
    }
    let mut going = pod(&json!({"phase": "Running"}), &two);
    going["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
    check("", "Pod", going, &[("Status", "Terminating".into())]);
}

#[test]
fn pods_with_init_containers() {
    let spec =
        json!({"initContainers": [{"name": "i"}, {"name": "j"}], "containers": [{"name": "a"}]});
    let done = json!({"name": "i", "state": {"terminated": {"exitCode": 0}}});
    for (init, shown) in [
        (
            json!([{"name": "i", "state": {"waiting": {"reason": "PodInitializing"}}}]),
            "Init:0/2",
        ),
        (
            json!([done, {"name": "j", "state": {"running": {}}}]),
            "Init:1/2",
        ),
        (
            json!([done, {"name": "j", "state": {"terminated": {"exitCode": 1, "reason": "Error"}}}]),
            "Init:Error",
        ),
        (
            json!([{"name": "i", "state": {"waiting": {"reason": "CrashLoopBackOff"}}}]),
            "Init:CrashLoopBackOff",
        ),
        (json!([done, done]), "Pending"),
    ] {
        check(
            "",
            "Pod",
            pod(
                &json!({"phase": "Pending", "initContainerStatuses": init}),
                &spec,
            ),
            &[("Ready", "0/1".into()), ("Status", shown.into())],
        );
    }
    let sidecar = json!({"initContainers": [{"name": "i", "restartPolicy": "Always"}], "containers": [{"name": "a"}]});
    let status = json!({"phase": "Running",
        "initContainerStatuses": [{"name": "i", "started": true, "ready": true, "restartCount": 2, "state": {"running": {}}}],
        "containerStatuses": [{"name": "a", "ready": true, "state": {"running": {}}}]});
    check(
        "",
        "Pod",
        pod(&status, &sidecar),
        &[
            ("Ready", "2/2".into()),
            ("Status", "Running".into()),
            ("Restarts", "2".into()),
        ],
    );
}

#[test]
fn workloads() {
    let template =
        json!({"spec": {"containers": [{"name": "a", "image": "i"}, {"name": "b", "image": "j"}]}});
    let selector = json!({"matchLabels": {"app": "x"}, "matchExpressions": [{"key": "t", "operator": "In", "values": ["a", "b"]}]});
    check(
        "apps",
        "Deployment",
        json!({"spec": {"replicas": 3, "template": template, "selector": selector}, "status": {"readyReplicas": 2, "updatedReplicas": 3}}),
        &[
            ("Ready", "2/3".into()),
            ("Up-to-date", 3.into()),
            ("Available", 0.into()),
            ("Age", "60m".into()),
            ("Containers", "a,b".into()),
            ("Images", "i,j".into()),
            ("Selector", "app=x,t in (a,b)".into()),
        ],
    );
    check(
        "apps",
        "ReplicaSet",
        json!({"spec": {"replicas": 3}, "status": {"replicas": 2, "readyReplicas": 1}}),
        &[
            ("Desired", 3.into()),
            ("Current", 2.into()),
            ("Ready", 1.into()),
        ],
    );
    check(
        "apps",
        "StatefulSet",
        json!({"spec": {"replicas": 3}, "status": {"readyReplicas": 1}}),
        &[("Ready", "1/3".into())],
    );
    check(
        "apps",
        "DaemonSet",
        json!({"spec": {}, "status": {"desiredNumberScheduled": 1}}),
        &[("Desired", 1.into()), ("Node Selector", "<none>".into())],
    );
    check(
        "apps",
        "ControllerRevision",
        json!({"revision": 2, "metadata": {"ownerReferences": [
        {"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "web", "controller": true}]}}),
        &[
            ("Controller", "statefulset.apps/web".into()),
            ("Revision", 2.into()),
        ],
    );
    check(
        "batch",
        "Job",
        json!({"spec": {"completions": 3}, "status": {"succeeded": 1, "startTime": "2026-01-01T00:59:00Z"}}),
        &[
            ("Status", "Running".into()),
            ("Completions", "1/3".into()),
            ("Duration", "60s".into()),
        ],
    );
    check(
        "batch",
        "Job",
        json!({"spec": {"completions": 1}, "status": {"succeeded": 1, "conditions": [{"type": "Complete", "status": "True"}],
        "startTime": "2026-01-01T00:00:00Z", "completionTime": "2026-01-01T00:00:05Z"}}),
        &[
            ("Status", "Complete".into()),
            ("Completions", "1/1".into()),
            ("Duration", "5s".into()),
        ],
    );
    check(
        "batch",
        "CronJob",
        json!({"spec": {"schedule": "* * * * *", "suspend": false}, "status": {"lastScheduleTime": "2026-01-01T00:59:30Z"}}),
        &[
            ("Suspend", "False".into()),
            ("Active", 0.into()),
            ("Last Schedule", "30s".into()),
            ("Timezone", "<none>".into()),
        ],
    );
    check(
        "policy",
        "PodDisruptionBudget",
        json!({"spec": {"minAvailable": "50%"}, "status": {"disruptionsAllowed": 1}}),
        &[
            ("Min Available", "50%".into()),
            ("Max Unavailable", "N/A".into()),
            ("Allowed Disruptions", 1.into()),
        ],
    );
}

#[test]
fn services_and_storage() {
    check(
        "",
        "Service",
        json!({"spec": {"type": "NodePort", "clusterIP": "10.0.0.1", "selector": {"a": "b"},
        "ports": [{"port": 80, "nodePort": 30080, "protocol": "TCP"}, {"port": 53, "protocol": "UDP"}]}}),
        &[
            ("Type", "NodePort".into()),
            ("Cluster-IP", "10.0.0.1".into()),
            ("External-IP", "<none>".into()),
            ("Port(s)", "80:30080/TCP,53/UDP".into()),
            ("Selector", "a=b".into()),
        ],
    );
    check(
        "",
        "Service",
        json!({"spec": {"type": "LoadBalancer", "clusterIP": "10.0.0.1", "ports": []}}),
        &[
            ("External-IP", "<pending>".into()),
            ("Port(s)", "<none>".into()),
        ],
    );
    let addresses: Vec<Value> = (1..=5)
        .map(|n| json!({"ip": format!("10.0.0.{n}")}))
        .collect();
    check(
        "",
        "Endpoints",
        json!({"subsets": [{"addresses": addresses, "ports": [{"port": 80}]}]}),
        &[(
            "Endpoints",
            "10.0.0.1:80,10.0.0.2:80,10.0.0.3:80 + 2 more...".into(),
        )],
    );
    check(
        "discovery.k8s.io",
        "EndpointSlice",
        json!({"addressType": "IPv4", "ports": [{"port": 80}], "endpoints": []}),
        &[("Ports", "80".into()), ("Endpoints", "<unset>".into())],
    );
    check(
        "",
        "ConfigMap",
        json!({"data": {"a": "1"}, "binaryData": {"b": "eA=="}}),
        &[("Data", 2.into())],
    );
    check(
        "",
        "Secret",
        json!({"type": "Opaque", "data": {"a": "eA=="}}),
        &[("Type", "Opaque".into()), ("Data", 1.into())],
    );
    check(
        "",
        "PersistentVolumeClaim",
        json!({"spec": {"volumeName": "v", "storageClassName": "local", "volumeMode": "Filesystem"},
        "status": {"phase": "Bound", "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce", "ReadOnlyMany"]}}),
        &[
            ("Status", "Bound".into()),
            ("Volume", "v".into()),
            ("Capacity", "1Gi".into()),
            ("Access Modes", "RWO,ROX".into()),
            ("StorageClass", "local".into()),
            ("VolumeAttributesClass", "<unset>".into()),
        ],
    );
    check(
        "",
        "PersistentVolume",
        json!({"spec": {"capacity": {"storage": "1Gi"}, "claimRef": {"namespace": "n", "name": "c"}}, "status": {"phase": "Bound"}}),
        &[("Claim", "n/c".into()), ("Status", "Bound".into())],
    );
    check(
        "storage.k8s.io",
        "StorageClass",
        json!({"provisioner": "p", "metadata": {"name": "local", "annotations":
        {"storageclass.kubernetes.io/is-default-class": "true"}}}),
        &[
            ("Name", "local (default)".into()),
            ("ReclaimPolicy", "Delete".into()),
        ],
    );
}

#[test]
fn the_cluster() {
    check(
        "",
        "Node",
        json!({"metadata": {"labels": {"node-role.kubernetes.io/control-plane": ""}}, "spec": {"unschedulable": true},
        "status": {"conditions": [{"type": "Ready", "status": "True"}], "nodeInfo": {"kubeletVersion": "v1.37.0"},
                   "addresses": [{"type": "InternalIP", "address": "10.0.0.1"}]}}),
        &[
            ("Status", "Ready,SchedulingDisabled".into()),
            ("Roles", "control-plane".into()),
            ("Version", "v1.37.0".into()),
            ("Internal-IP", "10.0.0.1".into()),
            ("External-IP", "<none>".into()),
            ("OS-Image", "<unknown>".into()),
        ],
    );
    check(
        "",
        "Event",
        json!({"type": "Normal", "reason": "Pulled", "message": "done\n", "involvedObject": {"kind": "Pod", "name": "p"},
        "lastTimestamp": "2026-01-01T00:59:00Z", "firstTimestamp": "2026-01-01T00:50:00Z", "count": 3}),
        &[
            ("Last Seen", "60s".into()),
            ("First Seen", "10m".into()),
            ("Object", "pod/p".into()),
            ("Message", "done".into()),
            ("Count", 3.into()),
        ],
    );
    check(
        "events.k8s.io",
        "Event",
        json!({"note": "n", "regarding": {"kind": "Pod", "name": "p"}, "eventTime": "2026-01-01T00:59:00.123456Z"}),
        &[
            ("Last Seen", "59s".into()),
            ("Object", "pod/p".into()),
            ("Message", "n".into()),
            ("Count", 1.into()),
        ],
    );
    check(
        "coordination.k8s.io",
        "Lease",
        json!({"spec": {"holderIdentity": "me"}}),
        &[("Holder", "me".into())],
    );
    check(
        "rbac.authorization.k8s.io",
        "Role",
        json!({}),
        &[("Created At", "2026-01-01T00:00:00Z".into())],
    );
    check(
        "rbac.authorization.k8s.io",
        "RoleBinding",
        json!({"roleRef": {"kind": "Role", "name": "r"},
        "subjects": [{"kind": "ServiceAccount", "namespace": "n", "name": "s"}]}),
        &[("Role", "Role/r".into()), ("ServiceAccounts", "n/s".into())],
    );
    check(
        "unknown.example",
        "Whatever",
        json!({}),
        &[("Name", "x".into()), ("Age", "60m".into())],
    );
}

#[test]
fn custom_columns() {
    let column = |name: &str, kind: &str, path: &str| Column {
        name: name.to_owned(),
        kind: kind.to_owned(),
        format: String::new(),
        description: String::new(),
        priority: 0,
        json_path: path.to_owned(),
    };
    let columns = [
        column("First", "string", ".status.conditions[*].type"),
        column(
            "Ready",
            "string",
            ".status.conditions[?(@.type==\"Ready\")].status",
        ),
        column("Replicas", "integer", ".spec.replicas"),
        column("Since", "date", ".metadata.creationTimestamp"),
        column("Broken", "date", ".spec.replicas"),
        column("Missing", "string", ".spec.missing"),
        column("Number", "string", ".spec.replicas"),
        column("Map", "string", ".spec.map"),
        column("Mismatch", "integer", ".status.conditions[0].type"),
    ];
    let object = json!({"metadata": {"name": "x", "creationTimestamp": "2026-01-01T00:00:00Z"}, "spec": {"replicas": 3, "map": {"a": 1}},
        "status": {"conditions": [{"type": "Synced", "status": "False"}, {"type": "Ready", "status": "True"}]}});
    let table_value = table(
        TableKind::Custom(&columns),
        object.clone(),
        IncludeObject::Metadata,
    );
    assert_eq!(
        table_value["rows"][0]["cells"],
        json!([
            "x",
            "Synced",
            "True",
            3,
            "60m",
            null,
            null,
            "3",
            "{\"a\":1}",
            null
        ])
    );
    assert_eq!(table_value["columnDefinitions"][0]["format"], "name");
    assert_eq!(
        table_value["rows"][0]["object"]["kind"],
        "PartialObjectMetadata"
    );
    assert_eq!(table_value["metadata"]["resourceVersion"], "7");
    let without = table(
        TableKind::Custom(&[]),
        object.clone(),
        IncludeObject::Object,
    );
    assert_eq!(without["rows"][0]["cells"], json!(["x", "60m"]));
    assert_eq!(without["rows"][0]["object"], object);
    let later = render(
        TableKind::Custom(&columns),
        &[Arc::new(object)],
        IncludeObject::None,
        false,
        "8",
        NOW,
    );
    assert_eq!(later["columnDefinitions"], Value::Null);
    assert_eq!(later["rows"][0]["object"], Value::Null);
}
