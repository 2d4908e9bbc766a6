//! Pods whose image changes, whose hooks take their time, and whose node goes down between two steps.

use std::{sync::Arc, time::Duration};

use libretto_devcluster::{
    api::{PODS, Patch, Subresource, WriteOptions},
    node::Driver,
};
use serde_json::{Value, json};

use super::kubelet::{Cluster, condition, container};

pub(crate) async fn a_changed_image_restarts_the_container(cluster: &Cluster) {
    let spec = json!({"restartPolicy": "Never", "terminationGracePeriodSeconds": 0,
        "containers": [{"name": "c", "image": "busybox:1", "command": ["sleep", "1000"]}]});
    cluster.pod("changed", spec);
    cluster.ready("changed").await;
    let patch =
        Patch::Strategic(json!({"spec": {"containers": [{"name": "c", "image": "busybox:2"}]}}));
    cluster
        .api
        .patch(
            &PODS,
            "default",
            "changed",
            Subresource::None,
            patch,
            &WriteOptions::default(),
        )
        .unwrap();
    let pod = cluster
        .until("changed", "restarted", |pod| {
            container(pod)["restartCount"] == 1 && condition(pod, "Ready") == "True"
        })
        .await;
    assert_eq!(container(&pod)["image"], "busybox:2");
    cluster
        .event(
            "changed",
            "Killing: Container c definition changed, will be restarted",
        )
        .await;
    cluster.delete("changed", Some(0)).await;
}

pub(crate) async fn a_container_is_ready_after_its_hook(cluster: &Cluster) {
    let hook = "until test -e /state/go; do sleep 0.01; done";
    cluster.pod(
        "hooked",
        json!({"terminationGracePeriodSeconds": 0, "volumes": [{"name": "state", "emptyDir": {}}],
            "containers": [{"name": "c", "image": "busybox", "command": ["sleep", "1000"],
                "volumeMounts": [{"name": "state", "mountPath": "/state"}],
                "lifecycle": {"postStart": {"exec": {"command": ["sh", "-c", hook]}}}}]}),
    );
    let running = cluster
        .until("hooked", "running", |pod| {
            container(pod)["state"]["running"].is_object()
        })
        .await;
    assert_eq!(container(&running)["ready"], false);
    assert_eq!(container(&running)["started"], false);
    assert_eq!(cluster.exec("hooked", &["touch", "/state/go"]).await.0, 0);
    cluster.ready("hooked").await;
    cluster.delete("hooked", Some(0)).await;
}

pub(crate) async fn a_pod_between_init_and_start_goes_on_after_a_restart() {
    let cluster = Cluster::start(Driver::Namespaces).await;
    let spec = json!({"restartPolicy": "Never",
        "initContainers": [{"name": "i", "image": "busybox", "command": ["true"]}],
        // Held between its init container and its start.
        "containers": [{"name": "c", "image": "busybox", "command": ["true"],
            "env": [{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "later", "key": "a"}}}]}]});
    cluster.pod("held", spec);
    let initialized = |pod: &Value| condition(pod, "Initialized") == "True";
    let held: Arc<Value> = cluster.until("held", "initialized", initialized).await;
    assert_eq!(held["status"]["phase"], "Pending");
    let cluster = cluster.restart().await;
    let object = json!({"metadata": {"name": "later"}, "data": {"a": "b"}});
    cluster.create(&super::kubelet::CONFIG_MAPS, object);
    cluster.phase("held", "Succeeded").await;
    cluster.node.shutdown(Duration::from_secs(1)).await;
}
