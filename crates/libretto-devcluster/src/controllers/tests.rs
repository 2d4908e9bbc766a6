//! The controllers against the real API, in memory. A test plays the node: it moves pods on and never touches anything else.

#![allow(clippy::unwrap_used)]

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::{Value, json};

use super::kinds::*;
use super::object::{self, deleting, text};
use super::{Controllers, Options, VolumeStore, start};
use crate::api::{
    Api, DeleteOptions, Gvr, ListOptions, Patch, Propagation, Subresource, WriteOptions,
};

#[derive(Debug, Default)]
struct FakeVolumes {
    removed: Mutex<Vec<String>>,
}

impl VolumeStore for FakeVolumes {
    fn path(&self, volume: &str) -> PathBuf {
        PathBuf::from("/data/volumes").join(volume)
    }

    fn remove(&self, volume: &str) -> std::io::Result<()> {
        self.removed.lock().push(volume.to_owned());
        Ok(())
    }
}

struct Cluster {
    api: Api,
    volumes: Arc<FakeVolumes>,
    _controllers: Controllers,
}

impl Cluster {
    fn start() -> Self {
        let api = Api::in_memory();
        let volumes = Arc::new(FakeVolumes::default());
        let store: Arc<dyn VolumeStore> = Arc::<FakeVolumes>::clone(&volumes);
        let options = Options {
            api_server: "10.66.0.1:6443".parse().unwrap(),
            service_ip: "10.96.0.1".to_owned(),
            root_ca: "CERTIFICATE".to_owned(),
        };
        let controllers = start(api.clone(), store, options);
        let cluster = Self {
            api,
            volumes,
            _controllers: controllers,
        };
        cluster.create(
            &NODES,
            json!({
                "metadata": {"name": "local", "labels": {"kubernetes.io/hostname": "local"}},
                "status": {"allocatable": {"cpu": "4", "memory": "8Gi", "pods": "110"}},
            }),
        );
        cluster
    }

    fn create(&self, gvr: &Gvr, object: Value) -> Arc<Value> {
        let namespace = object::namespace(&object).to_owned();
        self.api
            .create(gvr, &namespace, object, &WriteOptions::default())
            .unwrap()
    }

    fn patch(&self, gvr: &Gvr, name: &str, patch: Value) {
        self.api
            .patch(
                gvr,
                "default",
                name,
                Subresource::None,
                Patch::Merge(patch),
                &WriteOptions::default(),
            )
            .unwrap();
    }

    fn delete(&self, gvr: &Gvr, namespace: &str, name: &str, propagation: Propagation) {
        let options = DeleteOptions {
            propagation: Some(propagation),
            ..DeleteOptions::default()
        };
        self.api.delete(gvr, namespace, name, &options).unwrap();
    }

    fn get(&self, gvr: &Gvr, name: &str) -> Option<Arc<Value>> {
        self.api.get(gvr, "default", name).ok()
    }

    fn list(&self, gvr: &Gvr) -> Vec<Arc<Value>> {
        let options = ListOptions::default();
        self.api.list(gvr, None, &options).unwrap().items
    }

    fn reasons(&self, about: &str) -> Vec<String> {
        self.list(&EVENTS)
            .iter()
            .filter(|event| text(event, "/involvedObject/name") == about)
            .map(|event| text(event, "/reason").to_owned())
            .collect()
    }

    /// One round of a kubelet: bound pods run and become ready, deleted ones end.
    fn node(&self) {
        for pod in self.list(&PODS) {
            let (namespace, name) = (object::namespace(&pod), object::name(&pod));
            if text(&pod, "/spec/nodeName").is_empty() {
                continue;
            }
            if deleting(&pod) {
                let now = DeleteOptions {
                    grace_period_seconds: Some(0),
                    ..DeleteOptions::default()
                };
                drop(self.api.delete(&PODS, namespace, name, &now));
            } else if text(&pod, "/status/phase") == "Pending" {
                let mut running = (*pod).clone();
                let job = object::label(&pod, "job-name");
                running["status"]["phase"] = if job.is_empty() {
                    "Running"
                } else {
                    "Succeeded"
                }
                .into();
                running["status"]["podIP"] = "10.66.0.2".into();
                running["status"]["conditions"] = json!([
                    {"type": "Ready", "status": if job.is_empty() { "True" } else { "False" }, "lastTransitionTime": "2026-01-01T00:00:00Z"},
                ]);
                drop(self.api.update(
                    &PODS,
                    namespace,
                    name,
                    Subresource::Status,
                    running,
                    &WriteOptions::default(),
                ));
            }
        }
    }

    /// Plays the node until something holds.
    async fn until(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        // Ten seconds of one-millisecond rounds: far beyond what a loaded machine needs.
        for _ in 0..10_000 {
            if holds(self) {
                return;
            }
            self.node();
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let pods = self.list(&PODS);
        let events = self.list(&EVENTS);
        panic!("never: {what}; pods {pods:#?}, events {events:#?}");
    }

    /// Waits until nobody writes any more, then makes sure that it stays so.
    async fn quiet(&self) {
        let mut revision = 0;
        self.until("quiet", |_| true).await;
        for _ in 0..200 {
            let now = self.api.revision();
            if now == revision {
                for _ in 0..20 {
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
                if self.api.revision() == now {
                    return;
                }
            }
            revision = self.api.revision();
            self.node();
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        panic!("the cluster never comes to rest");
    }
}

fn workload(kind: &str, name: &str, image: &str, extra: &Value) -> Value {
    let mut object = json!({
        "apiVersion": "apps/v1", "kind": kind,
        "metadata": {"namespace": "default", "name": name},
        "spec": {
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {"containers": [{"name": "c", "image": image, "ports": [{"name": "http", "containerPort": 80}]}]},
            },
        },
    });
    for (member, value) in extra.as_object().unwrap() {
        object["spec"][member] = value.clone();
    }
    object
}

#[tokio::test]
async fn every_namespace_gets_its_account_and_certificate() {
    let cluster = Cluster::start();
    cluster.create(&NAMESPACES, json!({"metadata": {"name": "team"}}));
    cluster
        .until("account and certificate", |cluster| {
            let data = cluster.api.get(&CONFIG_MAPS, "team", "kube-root-ca.crt");
            data.is_ok_and(|data| text(&data, "/data/ca.crt") == "CERTIFICATE")
                && cluster
                    .api
                    .get(&SERVICE_ACCOUNTS, "team", "default")
                    .is_ok()
        })
        .await;
    let class = cluster.api.get(&STORAGE_CLASSES, "", "local").unwrap();
    assert_eq!(text(&class, "/provisioner"), "libretto.dev/directory");
    cluster
        .until("the kubernetes service", |cluster| {
            let service = cluster.get(&SERVICES, "kubernetes");
            let endpoints = cluster.get(&ENDPOINTS, "kubernetes");
            let slice = cluster.get(&ENDPOINT_SLICES, "kubernetes");
            service.is_some_and(|service| text(&service, "/spec/clusterIP") == "10.96.0.1")
                && endpoints.is_some_and(|endpoints| {
                    text(&endpoints, "/subsets/0/addresses/0/ip") == "10.66.0.1"
                })
                && slice
                    .is_some_and(|slice| text(&slice, "/endpoints/0/addresses/0") == "10.66.0.1")
        })
        .await;
    cluster.quiet().await;
    cluster.delete(&NAMESPACES, "", "team", Propagation::Background);
    cluster
        .until("namespace gone", |cluster| {
            cluster.api.get(&NAMESPACES, "", "team").is_err()
        })
        .await;
    assert!(
        cluster
            .api
            .get(&CONFIG_MAPS, "team", "kube-root-ca.crt")
            .is_err()
    );
}

#[tokio::test]
async fn a_stateful_set_with_volumes_and_its_end() {
    let cluster = Cluster::start();
    cluster.create(
        &SERVICES,
        json!({
            "metadata": {"namespace": "default", "name": "web"},
            "spec": {"clusterIP": "None", "selector": {"app": "web"}, "ports": [{"name": "http", "port": 80, "targetPort": "http"}]},
        }),
    );
    cluster.create(
        &STATEFUL_SETS,
        workload(
            "StatefulSet",
            "web",
            "a",
            &json!({"replicas": 2, "serviceName": "web", "volumeClaimTemplates": [{
                "metadata": {"name": "data"},
                "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
            }]}),
        ),
    );
    cluster
        .until("two ready replicas", |cluster| {
            let set = cluster.get(&STATEFUL_SETS, "web").unwrap();
            set["status"]["readyReplicas"] == 2 && set["status"]["currentReplicas"] == 2
        })
        .await;
    let claim = cluster
        .get(&PERSISTENT_VOLUME_CLAIMS, "data-web-0")
        .unwrap();
    assert_eq!(text(&claim, "/status/phase"), "Bound");
    assert_eq!(text(&claim, "/status/capacity/storage"), "1Gi");
    assert_eq!(text(&claim, "/spec/storageClassName"), "local");
    let volume_name = text(&claim, "/spec/volumeName").to_owned();
    let volume = cluster
        .api
        .get(&PERSISTENT_VOLUMES, "", &volume_name)
        .unwrap();
    assert_eq!(
        text(&volume, "/spec/local/path"),
        format!("/data/volumes/{volume_name}")
    );
    cluster
        .until("the volume is bound", |cluster| {
            let volume = cluster
                .api
                .get(&PERSISTENT_VOLUMES, "", &volume_name)
                .unwrap();
            text(&volume, "/status/phase") == "Bound"
        })
        .await;
    cluster
        .until("endpoints", |cluster| {
            cluster.get(&ENDPOINTS, "web").is_some_and(|endpoints| {
                object::items(&endpoints, "/subsets/0/addresses").len() == 2
            })
        })
        .await;
    let slices = cluster.list(&ENDPOINT_SLICES);
    let slice = slices
        .iter()
        .find(|slice| object::label(slice, "kubernetes.io/service-name") == "web")
        .unwrap();
    assert_eq!(text(slice, "/endpoints/0/hostname"), "web-0");
    assert_eq!(slice["endpoints"][0]["conditions"]["ready"], true);
    assert_eq!(slice["ports"][0]["port"], 80);
    assert!(cluster.reasons("web-0").contains(&"Scheduled".to_owned()));
    assert!(
        cluster
            .reasons("web")
            .contains(&"SuccessfulCreate".to_owned())
    );
    assert!(
        cluster
            .reasons("data-web-0")
            .contains(&"ProvisioningSucceeded".to_owned())
    );
    cluster.quiet().await;

    cluster.patch(
        &STATEFUL_SETS,
        "web",
        json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": "b"}]}}}}),
    );
    cluster
        .until("updated", |cluster| {
            let set = cluster.get(&STATEFUL_SETS, "web").unwrap();
            set["status"]["updatedReplicas"] == 2
                && set["status"]["readyReplicas"] == 2
                && set["status"]["currentRevision"] == set["status"]["updateRevision"]
        })
        .await;
    cluster.quiet().await;

    cluster.delete(&STATEFUL_SETS, "default", "web", Propagation::Foreground);
    cluster
        .until("set and pods gone", |cluster| {
            cluster.get(&STATEFUL_SETS, "web").is_none() && cluster.list(&PODS).is_empty()
        })
        .await;
    assert!(cluster.list(&CONTROLLER_REVISIONS).is_empty());
    assert_eq!(cluster.list(&PERSISTENT_VOLUME_CLAIMS).len(), 2);
    cluster.delete(
        &PERSISTENT_VOLUME_CLAIMS,
        "default",
        "data-web-0",
        Propagation::Background,
    );
    cluster
        .until("volume gone", |cluster| {
            cluster
                .api
                .get(&PERSISTENT_VOLUMES, "", &volume_name)
                .is_err()
        })
        .await;
    assert_eq!(*cluster.volumes.removed.lock(), [volume_name]);
    cluster.quiet().await;
}

#[tokio::test]
async fn a_deployment_rolls_and_cascades() {
    let cluster = Cluster::start();
    cluster.create(
        &DEPLOYMENTS,
        workload("Deployment", "api", "a", &json!({"replicas": 3})),
    );
    let done = |revision: &'static str| {
        move |cluster: &Cluster| {
            let deployment = cluster.get(&DEPLOYMENTS, "api").unwrap();
            object::annotation(&deployment, "deployment.kubernetes.io/revision") == revision
                && object::condition(&deployment, "Progressing")
                    .is_some_and(|one| text(one, "/reason") == "NewReplicaSetAvailable")
                && deployment["status"]["updatedReplicas"] == 3
                && deployment["status"]["replicas"] == 3
                && deployment["status"]["observedGeneration"]
                    == deployment["metadata"]["generation"]
        }
    };
    cluster.until("rolled out", done("1")).await;
    cluster.quiet().await;
    cluster.patch(
        &DEPLOYMENTS,
        "api",
        json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": "b"}]}}}}),
    );
    cluster.until("rolled on", done("2")).await;
    cluster.quiet().await;
    let images: Vec<_> = cluster
        .list(&PODS)
        .iter()
        .map(|pod| text(pod, "/spec/containers/0/image").to_owned())
        .collect();
    assert_eq!(images, ["b"; 3]);
    let events = cluster.list(&EVENTS);
    assert!(events.iter().any(|event| {
        text(event, "/message").starts_with("Scaled up replica set api-")
            && text(event, "/source/component") == "deployment-controller"
    }));
    assert!(
        events
            .iter()
            .any(|event| { text(event, "/message").starts_with("Created pod: api-") })
    );
    cluster.delete(&DEPLOYMENTS, "default", "api", Propagation::Background);
    cluster
        .until("everything gone", |cluster| {
            cluster.list(&REPLICA_SETS).is_empty() && cluster.list(&PODS).is_empty()
        })
        .await;
    cluster.quiet().await;
}

#[tokio::test]
async fn refused_pods_show_in_their_workload() {
    let cluster = Cluster::start();
    let replicas = json!({"replicas": 1});
    let mut refused = workload("Deployment", "web", "a", &replicas);
    refused["spec"]["template"]["spec"]["runtimeClassName"] = "gvisor".into();
    cluster.create(&DEPLOYMENTS, refused);
    let failure = |cluster: &Cluster, gvr: &Gvr| {
        cluster.list(gvr).iter().find_map(|one| {
            let failure = object::condition(one, "ReplicaFailure")?;
            Some(format!(
                "{}: {}",
                text(failure, "/reason"),
                text(failure, "/message")
            ))
        })
    };
    for gvr in [&REPLICA_SETS, &DEPLOYMENTS] {
        cluster
            .until("the refusal is told", |cluster| {
                failure(cluster, gvr).is_some_and(|told| {
                    told.starts_with("FailedCreate: ") && told.contains("runtimeClassName")
                })
            })
            .await;
    }
    let mend = json!({"spec": {"template": {"spec": {"runtimeClassName": null}}}});
    cluster.patch(&DEPLOYMENTS, "web", mend);
    cluster
        .until("the refusal is over", |cluster| {
            failure(cluster, &DEPLOYMENTS).is_none() && !cluster.list(&PODS).is_empty()
        })
        .await;
}

#[tokio::test]
async fn orphans_survive_their_owner() {
    let cluster = Cluster::start();
    cluster.create(
        &REPLICA_SETS,
        workload("ReplicaSet", "rs", "a", &json!({"replicas": 2})),
    );
    cluster
        .until("two ready", |cluster| {
            cluster.get(&REPLICA_SETS, "rs").unwrap()["status"]["readyReplicas"] == 2
        })
        .await;
    cluster.delete(&REPLICA_SETS, "default", "rs", Propagation::Orphan);
    cluster
        .until("owner gone", |cluster| {
            cluster.get(&REPLICA_SETS, "rs").is_none()
        })
        .await;
    cluster.quiet().await;
    let pods = cluster.list(&PODS);
    assert_eq!(pods.len(), 2);
    for pod in pods {
        assert!(object::items(&pod, "/metadata/ownerReferences").is_empty());
    }
}

#[tokio::test]
async fn jobs_daemons_and_budgets() {
    let cluster = Cluster::start();
    cluster.create(
        &JOBS,
        json!({
            "metadata": {"namespace": "default", "name": "work"},
            "spec": {"completions": 2, "template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "a"}]}}},
        }),
    );
    cluster.create(
        &DAEMON_SETS,
        workload("DaemonSet", "agent", "a", &json!({})),
    );
    cluster.create(
        &POD_DISRUPTION_BUDGETS,
        json!({
            "metadata": {"namespace": "default", "name": "agent"},
            "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "agent"}}},
        }),
    );
    cluster
        .until("job complete", |cluster| {
            object::condition_status(&cluster.get(&JOBS, "work").unwrap(), "Complete") == "True"
        })
        .await;
    assert_eq!(
        cluster.get(&JOBS, "work").unwrap()["status"]["succeeded"],
        2
    );
    cluster
        .until("daemon and budget", |cluster| {
            cluster.get(&DAEMON_SETS, "agent").unwrap()["status"]["numberReady"] == 1
                && cluster.get(&POD_DISRUPTION_BUDGETS, "agent").unwrap()["status"]["currentHealthy"] == 1
        })
        .await;
    cluster.quiet().await;
    cluster.delete(&JOBS, "default", "work", Propagation::Background);
    cluster
        .until("job's pods gone", |cluster| cluster.list(&PODS).len() == 1)
        .await;
}

#[tokio::test]
async fn a_missing_storage_class_is_said() {
    let cluster = Cluster::start();
    cluster.create(
        &PERSISTENT_VOLUME_CLAIMS,
        json!({
            "metadata": {"namespace": "default", "name": "data"},
            "spec": {"storageClassName": "fast", "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
        }),
    );
    cluster
        .until("said", |cluster| {
            cluster.list(&EVENTS).iter().any(|event| {
                text(event, "/message") == "storageclass.storage.k8s.io \"fast\" not found"
            })
        })
        .await;
    assert_eq!(
        text(
            &cluster.get(&PERSISTENT_VOLUME_CLAIMS, "data").unwrap(),
            "/status/phase"
        ),
        "Pending"
    );
    cluster.quiet().await;
}

#[tokio::test]
async fn expired_watches_are_survived() {
    let cluster = Cluster::start();
    cluster.create(
        &REPLICA_SETS,
        workload("ReplicaSet", "rs", "a", &json!({"replicas": 1})),
    );
    cluster
        .until("one ready", |cluster| {
            cluster.get(&REPLICA_SETS, "rs").unwrap()["status"]["readyReplicas"] == 1
        })
        .await;
    for gvr in [&PODS, &REPLICA_SETS] {
        cluster.api.expire_watches(gvr).unwrap();
    }
    cluster.patch(&REPLICA_SETS, "rs", json!({"spec": {"replicas": 3}}));
    cluster
        .until("three ready", |cluster| {
            cluster.get(&REPLICA_SETS, "rs").unwrap()["status"]["readyReplicas"] == 3
        })
        .await;
    assert_eq!(cluster.list(&PODS).len(), 3);
    cluster.quiet().await;
}

#[tokio::test]
async fn custom_owners_are_followed_and_collected() {
    let cluster = Cluster::start();
    let widgets = Gvr::new("example.com", "v1", "widgets");
    cluster.create(
        &CUSTOM_RESOURCE_DEFINITIONS,
        json!({
            "metadata": {"name": "widgets.example.com"},
            "spec": {
                "group": "example.com", "scope": "Namespaced",
                "names": {"kind": "Widget", "listKind": "WidgetList", "plural": "widgets", "singular": "widget"},
                "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object"}}}],
            },
        }),
    );
    cluster
        .until("widgets are served", |cluster| {
            cluster
                .api
                .list(&widgets, None, &ListOptions::default())
                .is_ok()
        })
        .await;
    let widget = cluster.create(
        &widgets,
        json!({"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"namespace": "default", "name": "w"}}),
    );
    let owned = |name: &str, owner: &str| {
        json!({"metadata": {"namespace": "default", "name": name, "ownerReferences": [
            {"apiVersion": "example.com/v1", "kind": "Widget", "name": "w", "uid": owner},
        ]}})
    };
    cluster.create(&CONFIG_MAPS, owned("kept", object::uid(&widget)));
    // Names an earlier incarnation.
    cluster.create(
        &CONFIG_MAPS,
        owned("stale", "00000000-0000-0000-0000-000000000000"),
    );
    cluster
        .until("the stale one is collected", |cluster| {
            cluster.get(&CONFIG_MAPS, "stale").is_none()
        })
        .await;
    assert!(cluster.get(&CONFIG_MAPS, "kept").is_some());
    cluster.quiet().await;
    // The definition takes its objects along, and those take theirs.
    cluster.delete(
        &CUSTOM_RESOURCE_DEFINITIONS,
        "",
        "widgets.example.com",
        Propagation::Background,
    );
    cluster
        .until("definition, widget and what it owned gone", |cluster| {
            cluster
                .api
                .get(&CUSTOM_RESOURCE_DEFINITIONS, "", "widgets.example.com")
                .is_err()
                && cluster.get(&CONFIG_MAPS, "kept").is_none()
        })
        .await;
    cluster.quiet().await;
}
