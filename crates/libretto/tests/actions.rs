#![allow(clippy::unwrap_used)]
//! What actions do to an API server, seen in what it stores.

mod common;

use std::{collections::HashMap, sync::Arc};

use common::{Cluster, reference};
use libretto_actions::{Actions, NoSecrets, Reach};
use libretto_api::{
    intent::{Effect, EventKind, FailureKind, Intent, Outcome},
    object::InstanceRef,
};
use serde_json::{Value, json};

fn actions(cluster: &Cluster) -> Actions {
    let reporters = HashMap::from([("named".to_owned(), "redis-operator".to_owned())]);
    Actions::new(
        cluster.kube.clone(),
        Arc::new(NoSecrets),
        reporters,
        Reach::default(),
    )
}

fn intent(instance: &InstanceRef, effect: Effect) -> Intent {
    Intent {
        instance: instance.clone(),
        rule: "r".into(),
        key: "k".into(),
        fingerprint: "f".into(),
        effect,
    }
}

fn config_map(instance: &InstanceRef, name: &str, data: &Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {
            "name": name, "namespace": "default",
            "ownerReferences": [{"apiVersion": "v1", "kind": "ConfigMap", "name": instance.name, "uid": instance.uid, "controller": true}],
        },
        "data": data,
    })
}

fn apply(instance: &InstanceRef, object: Value, adopt: bool) -> Intent {
    intent(instance, Effect::Apply { object, adopt })
}

fn done(outcome: Outcome) -> Value {
    match outcome {
        Outcome::Done { object } => object.unwrap_or_default(),
        other => panic!("{other:?}"),
    }
}

fn failed(outcome: Outcome) -> (FailureKind, String) {
    match outcome {
        Outcome::Failed(failure) => (failure.kind, failure.message),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn apply_creates_takes_back_its_own_fields_and_drops_what_is_no_longer_given() {
    let cluster = Cluster::start().await;
    let actions = actions(&cluster);
    let instance = cluster.owner("cr").await;
    let object = config_map(&instance, "a", &json!({"x": "1", "y": "1"}));
    done(
        actions
            .execute(&apply(&instance, object, false), false)
            .await,
    );
    // Somebody edits our field; it comes back, by force, because the object is ours.
    let foreign = json!({"data": {"x": "edited", "theirs": "kept"}});
    let params = kube::api::PatchParams::default();
    cluster
        .kube
        .patch(
            &reference("v1/ConfigMap", "a"),
            None,
            &params,
            &kube::api::Patch::Merge(&foreign),
        )
        .await
        .unwrap();
    let object = config_map(&instance, "a", &json!({"x": "2"}));
    let live = done(
        actions
            .execute(&apply(&instance, object.clone(), false), false)
            .await,
    );
    assert_eq!(live["data"], json!({"x": "2", "theirs": "kept"}));
    // Applying the same again writes nothing.
    let again = done(
        actions
            .execute(&apply(&instance, object, false), true)
            .await,
    );
    assert_eq!(
        again["metadata"]["resourceVersion"],
        live["metadata"]["resourceVersion"]
    );
}

#[tokio::test]
async fn an_object_of_somebody_else_is_refused_unless_adopted() {
    let cluster = Cluster::start().await;
    let actions = actions(&cluster);
    let instance = cluster.owner("cr").await;
    cluster
        .create(json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "namespace": "default"}, "data": {"x": "theirs"}}))
        .await;
    let object = config_map(&instance, "a", &json!({"x": "ours"}));
    let (kind, message) = failed(
        actions
            .execute(&apply(&instance, object.clone(), false), false)
            .await,
    );
    assert_eq!(kind, FailureKind::Conflict);
    assert!(
        message.starts_with("ConfigMap default/a exists and belongs to nobody in particular"),
        "{message}"
    );
    assert_eq!(
        cluster.get("v1/ConfigMap", "a").await.unwrap()["data"]["x"],
        "theirs"
    );
    let live = done(
        actions
            .execute(&apply(&instance, object, true), false)
            .await,
    );
    assert_eq!(live["data"]["x"], "ours");
    assert_eq!(
        live["metadata"]["ownerReferences"][0]["uid"],
        instance.uid.as_str()
    );
}

#[tokio::test]
async fn a_patch_never_forces_never_creates_and_is_released() {
    let cluster = Cluster::start().await;
    let actions = actions(&cluster);
    let instance = cluster.owner("cr").await;
    let patch = |labels: Value| {
        let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "namespace": "default", "labels": labels}});
        intent(
            &instance,
            Effect::Patch {
                object,
                force: false,
            },
        )
    };
    let release = intent(
        &instance,
        Effect::Patch {
            object: json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "namespace": "default"}}),
            force: false,
        },
    );
    let (kind, message) = failed(
        actions
            .execute(&patch(json!({"role": "master"})), false)
            .await,
    );
    assert_eq!(kind, FailureKind::Refused);
    assert!(message.contains("a patch never creates"), "{message}");
    assert_eq!(actions.execute(&release, false).await, Outcome::Absent);
    assert!(cluster.get("v1/ConfigMap", "a").await.is_none());

    let theirs = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "namespace": "default", "labels": {"app": "x"}}});
    let params = kube::api::PatchParams::apply("somebody");
    cluster
        .kube
        .patch(
            &reference("v1/ConfigMap", "a"),
            None,
            &params,
            &kube::api::Patch::Apply(&theirs),
        )
        .await
        .unwrap();
    let live = done(
        actions
            .execute(&patch(json!({"role": "master"})), false)
            .await,
    );
    assert_eq!(
        live["metadata"]["labels"],
        json!({"app": "x", "role": "master"})
    );
    let (kind, message) = failed(actions.execute(&patch(json!({"app": "y"})), false).await);
    assert_eq!(kind, FailureKind::Conflict);
    assert!(
        message.contains(".metadata.labels.app") && message.contains("somebody"),
        "{message}"
    );
    let live = done(actions.execute(&release, false).await);
    assert_eq!(live["metadata"]["labels"], json!({"app": "x"}));
}

#[tokio::test]
async fn delete_takes_only_the_incarnation_it_means() {
    let cluster = Cluster::start().await;
    let actions = actions(&cluster);
    let instance = cluster.owner("cr").await;
    let other = cluster.owner("victim").await;
    let delete = |uid: Option<&str>| {
        intent(
            &instance,
            Effect::Delete {
                object: reference("v1/ConfigMap", "victim"),
                uid: uid.map(str::to_owned),
            },
        )
    };
    let wrong = actions
        .execute(&delete(Some("00000000-0000-0000-0000-000000000000")), false)
        .await;
    assert_eq!(wrong, Outcome::Absent, "that incarnation is not there");
    assert!(cluster.get("v1/ConfigMap", "victim").await.is_some());
    done(actions.execute(&delete(Some(&other.uid)), false).await);
    assert!(cluster.get("v1/ConfigMap", "victim").await.is_none());
    assert_eq!(actions.execute(&delete(None), false).await, Outcome::Absent);
}

#[tokio::test]
async fn the_same_event_again_is_a_series() {
    let cluster = Cluster::start().await;
    let actions = actions(&cluster);
    let instance = cluster.owner("cr").await;
    let named = InstanceRef {
        package: "named".into(),
        ..cluster.owner("other").await
    };
    let event = |instance: &InstanceRef| {
        intent(
            instance,
            Effect::Event {
                kind: EventKind::Warning,
                reason: "MasterLost".into(),
                message: "no master".into(),
            },
        )
    };
    for _ in 0..3 {
        done(actions.execute(&event(&instance), false).await);
    }
    let list = |gvk: &'static str| {
        let kube = cluster.kube.clone();
        async move {
            let gvk = gvk.parse().unwrap();
            kube.list(&gvk, "default", &kube::api::ListParams::default())
                .await
                .unwrap()
        }
    };
    let events = list("events.k8s.io/v1/Event").await;
    assert_eq!(events["items"].as_array().unwrap().len(), 1, "{events}");
    let event_seen = &events["items"][0];
    assert_eq!(event_seen["series"]["count"], 3);
    assert_eq!(event_seen["reportingController"], "libretto/test");
    // Somebody cleans up: the next one is a new event.
    let name = event_seen["metadata"]["name"].as_str().unwrap();
    let target = reference("events.k8s.io/v1/Event", name);
    cluster
        .kube
        .delete(&target, &kube::api::DeleteParams::default())
        .await
        .unwrap();
    done(actions.execute(&event(&instance), false).await);
    done(actions.execute(&event(&named), false).await);
    let events = list("events.k8s.io/v1/Event").await;
    let mut reporters: Vec<&str> = events["items"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|event| event["reportingController"].as_str())
        .collect();
    reporters.sort_unstable();
    assert_eq!(reporters, ["libretto/test", "redis-operator"]);
}

fn crd() -> Value {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "things.example.dev"},
        "spec": {
            "group": "example.dev", "scope": "Namespaced",
            "names": {"kind": "Thing", "plural": "things", "singular": "thing", "listKind": "ThingList"},
            "versions": [{
                "name": "v1", "served": true, "storage": true, "subresources": {"status": {}},
                "schema": {"openAPIV3Schema": {"type": "object", "properties": {
                    "spec": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
                    "status": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
                }}},
            }],
        },
    })
}

#[tokio::test]
async fn status_is_exactly_what_was_given() {
    let cluster = Cluster::start().await;
    let actions = actions(&cluster);
    cluster.create(crd()).await;
    let thing = cluster
        .create(json!({"apiVersion": "example.dev/v1", "kind": "Thing", "metadata": {"name": "t", "namespace": "default"}, "spec": {}}))
        .await;
    let instance = InstanceRef {
        package: "test".into(),
        gvk: "example.dev/v1/Thing".parse().unwrap(),
        namespace: "default".into(),
        name: "t".into(),
        uid: thing["metadata"]["uid"].as_str().unwrap().into(),
    };
    let status = |status: Value| intent(&instance, Effect::Status { status });
    // An older operator left something there.
    let old = json!({"status": {"phase": "Old", "nested": {"mine": 1}}});
    cluster
        .kube
        .patch(
            &reference("example.dev/v1/Thing", "t"),
            Some("status"),
            &kube::api::PatchParams::default(),
            &kube::api::Patch::Merge(&old),
        )
        .await
        .unwrap();
    let wanted =
        json!({"ready": 1, "nested": {"ours": 2}, "conditions": [{"type": "A", "status": "True"}]});
    let live = done(actions.execute(&status(wanted.clone()), false).await);
    assert_eq!(live["status"], wanted);
    // A field no longer given goes, and the same again writes nothing.
    let live = done(actions.execute(&status(json!({"ready": 2})), false).await);
    assert_eq!(live["status"], json!({"ready": 2}));
    let again = done(actions.execute(&status(json!({"ready": 2})), false).await);
    assert_eq!(
        again["metadata"]["resourceVersion"],
        live["metadata"]["resourceVersion"]
    );
    // A same-named successor does not get the status of the one before.
    let former = InstanceRef {
        uid: "00000000-0000-0000-0000-000000000000".into(),
        ..instance.clone()
    };
    let outcome = actions
        .execute(
            &intent(
                &former,
                Effect::Status {
                    status: json!({"ready": 9}),
                },
            ),
            false,
        )
        .await;
    assert_eq!(outcome, Outcome::Absent);
    // Nor does a deleted one come back.
    let target = reference("example.dev/v1/Thing", "t");
    cluster
        .kube
        .delete(&target, &kube::api::DeleteParams::default())
        .await
        .unwrap();
    assert_eq!(
        actions.execute(&status(json!({"ready": 3})), false).await,
        Outcome::Absent
    );
    assert!(cluster.get("example.dev/v1/Thing", "t").await.is_none());
}

#[tokio::test]
async fn what_the_server_refuses_names_the_object() {
    let cluster = Cluster::start().await;
    let actions = actions(&cluster);
    let instance = cluster.owner("cr").await;
    let invalid = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "Not_A_Name", "namespace": "default"}});
    let (kind, message) = failed(
        actions
            .execute(&apply(&instance, invalid, false), false)
            .await,
    );
    assert_eq!(kind, FailureKind::Invalid);
    assert!(
        message.starts_with("apply ConfigMap default/Not_A_Name: "),
        "{message}"
    );
    let unknown = json!({"apiVersion": "example.dev/v1", "kind": "Nothing", "metadata": {"name": "x", "namespace": "default"}});
    let (kind, message) = failed(
        actions
            .execute(&apply(&instance, unknown, false), false)
            .await,
    );
    assert_eq!(kind, FailureKind::Invalid);
    assert!(
        message.contains("serves no example.dev/v1/Nothing"),
        "{message}"
    );
}

#[tokio::test]
async fn the_inventory_is_an_object_of_the_instance() {
    let cluster = Cluster::start().await;
    let actions = actions(&cluster);
    let instance = cluster.owner("cr").await;
    let write = intent(
        &instance,
        Effect::Inventory {
            inventory: json!({"objects": []}),
        },
    );
    done(actions.execute(&write, false).await);
    let map = cluster
        .get("v1/ConfigMap", "cr-configmap-inventory")
        .await
        .unwrap();
    assert_eq!(map["data"]["inventory"], r#"{"objects":[]}"#);
    assert_eq!(
        map["metadata"]["ownerReferences"][0]["uid"],
        instance.uid.as_str()
    );
}
