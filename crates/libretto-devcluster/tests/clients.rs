//! The API as the Rust client uses it.

#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeMap;

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::{
    api::{
        apps::v1::Deployment,
        core::v1::{ConfigMap, Event, Namespace, Secret},
    },
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{
    Api, Discovery, ResourceExt,
    api::{
        ApiResource, DeleteParams, DynamicObject, GroupVersionKind, ListParams, Patch, PatchParams,
        PostParams, WatchEvent, WatchParams,
    },
    runtime::{
        WatchStreamExt,
        events::{Event as NewEvent, EventType, Recorder, Reporter},
        finalizer::{Event as FinalizerEvent, finalizer},
        wait::{await_condition, conditions},
        watcher,
    },
};
use serde_json::json;
use support::cluster;

fn config(name: &str, value: &str) -> ConfigMap {
    ConfigMap {
        metadata: kube::api::ObjectMeta {
            name: Some(name.to_owned()),
            ..Default::default()
        },
        data: Some(BTreeMap::from([("k".to_owned(), value.to_owned())])),
        ..Default::default()
    }
}

fn code<T: std::fmt::Debug>(result: kube::Result<T>) -> u16 {
    match result.unwrap_err() {
        kube::Error::Api(status) => status.code,
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn objects_are_created_read_replaced_patched_and_deleted() {
    let (_cluster, client) = cluster().await;
    let api: Api<ConfigMap> = Api::default_namespaced(client);
    let created = api
        .create(&PostParams::default(), &config("a", "1"))
        .await
        .unwrap();
    assert_eq!(api.get("a").await.unwrap(), created);
    assert_eq!(
        code(api.create(&PostParams::default(), &config("a", "1")).await),
        409
    );

    let mut replacement = created.clone();
    replacement
        .data
        .as_mut()
        .unwrap()
        .insert("k".to_owned(), "2".to_owned());
    let replaced = api
        .replace("a", &PostParams::default(), &replacement)
        .await
        .unwrap();
    assert_ne!(replaced.resource_version(), created.resource_version());
    assert_eq!(
        code(api.replace("a", &PostParams::default(), &replacement).await),
        409
    );

    let params = PatchParams::apply("tester").force();
    let applied = api
        .patch(
            "a",
            &params,
            &Patch::Apply(json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"j": "3"}})),
        )
        .await
        .unwrap();
    assert_eq!(applied.data.unwrap().len(), 2);
    let merged = api
        .patch(
            "a",
            &PatchParams::default(),
            &Patch::Merge(json!({"data": {"j": null}})),
        )
        .await
        .unwrap();
    assert_eq!(merged.data.unwrap().len(), 1);
    let strict = PatchParams {
        field_validation: Some(kube::core::params::ValidationDirective::Strict),
        ..PatchParams::apply("x")
    };
    let unknown = json!({"apiVersion": "v1", "kind": "ConfigMap", "daten": {}});
    assert_eq!(
        code(api.patch("b", &strict, &Patch::Apply(unknown)).await),
        500
    );

    assert!(
        api.delete("a", &DeleteParams::default())
            .await
            .unwrap()
            .is_right()
    );
    assert_eq!(code(api.get("a").await), 404);
    for name in ["x", "y"] {
        api.create(&PostParams::default(), &config(name, "1"))
            .await
            .unwrap();
    }
    let gone = api
        .delete_collection(&DeleteParams::default(), &ListParams::default())
        .await
        .unwrap();
    assert_eq!(gone.left().unwrap().items.len(), 2);
    assert!(
        api.list(&ListParams::default())
            .await
            .unwrap()
            .items
            .is_empty()
    );
}

#[tokio::test]
async fn discovery_finds_everything_both_ways() {
    let (_cluster, client) = cluster().await;
    let legacy = Discovery::new(client.clone()).run().await.unwrap();
    let aggregated = Discovery::new(client.clone())
        .run_aggregated()
        .await
        .unwrap();
    let kinds = |discovery: &Discovery| {
        let mut kinds: Vec<_> = discovery
            .groups()
            .flat_map(|group| group.recommended_resources())
            .map(|(resource, capabilities)| {
                (
                    resource.group,
                    resource.kind,
                    resource.plural,
                    format!("{:?}", capabilities.scope),
                )
            })
            .collect();
        kinds.sort();
        kinds
    };
    let found = kinds(&legacy);
    assert_eq!(found, kinds(&aggregated));
    assert!(
        found
            .iter()
            .any(|(group, kind, ..)| group == "apps" && kind == "StatefulSet")
    );
    assert_eq!(
        client.apiserver_version().await.unwrap().git_version,
        "v1.37.0+libretto"
    );
}

#[tokio::test]
async fn watchers_list_follow_and_recover_from_lost_history() {
    let (cluster, client) = cluster().await;
    let api: Api<ConfigMap> = Api::default_namespaced(client);
    api.create(&PostParams::default(), &config("before", "1"))
        .await
        .unwrap();
    for streaming in [false, true] {
        let mut settings = watcher::Config::default();
        if streaming {
            settings = settings.streaming_lists();
        }
        let mut events = Box::pin(watcher(api.clone(), settings).applied_objects());
        assert_eq!(
            events.try_next().await.unwrap().unwrap().name_any(),
            "before"
        );
        let name = format!("during-{streaming}");
        api.create(&PostParams::default(), &config(&name, "1"))
            .await
            .unwrap();
        // The initial list is in no order the test knows.
        loop {
            if events.try_next().await.unwrap().unwrap().name_any() == name {
                break;
            }
        }
    }
    // A position in forgotten history is answered with 410, in the stream.
    let revision = api
        .list(&ListParams::default())
        .await
        .unwrap()
        .metadata
        .resource_version
        .unwrap();
    api.create(&PostParams::default(), &config("after", "1"))
        .await
        .unwrap();
    cluster
        .api()
        .expire_watches(&libretto_devcluster::api::Gvr::new("", "v1", "configmaps"))
        .unwrap();
    let mut stream = api
        .watch(&WatchParams::default(), &revision)
        .await
        .unwrap()
        .boxed();
    let Some(Ok(WatchEvent::Error(status))) = stream.next().await else {
        panic!("expected an error event")
    };
    assert_eq!(status.code, 410);
    assert!(stream.next().await.is_none());
}

#[tokio::test]
async fn pages_show_one_moment() {
    let (_cluster, client) = cluster().await;
    let api: Api<ConfigMap> = Api::default_namespaced(client);
    for index in 0..7 {
        api.create(&PostParams::default(), &config(&format!("c{index}"), "1"))
            .await
            .unwrap();
    }
    let mut params = ListParams::default().limit(3);
    let mut names = Vec::new();
    let mut revisions = Vec::new();
    loop {
        let page = api.list(&params).await.unwrap();
        revisions.push(page.metadata.resource_version.clone());
        names.extend(page.iter().map(ResourceExt::name_any));
        if names.len() == 3 {
            assert_eq!(page.metadata.remaining_item_count, Some(4));
            api.delete("c5", &DeleteParams::default()).await.unwrap();
        }
        match page.metadata.continue_ {
            Some(token) if !token.is_empty() => params = params.continue_token(&token),
            _ => break,
        }
    }
    assert_eq!(names, ["c0", "c1", "c2", "c3", "c4", "c5", "c6"]);
    revisions.dedup();
    assert_eq!(revisions.len(), 1);
}

#[tokio::test]
async fn custom_resources_are_usable_as_soon_as_their_definition_is() {
    let (_cluster, client) = cluster().await;
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    let definition: CustomResourceDefinition = serde_json::from_value(json!({
        "metadata": {"name": "toys.example.org"},
        "spec": {"group": "example.org", "scope": "Namespaced", "names": {"plural": "toys", "kind": "Toy"},
            "versions": [{"name": "v1", "served": true, "storage": true, "subresources": {"status": {}},
                "schema": {"openAPIV3Schema": {"type": "object", "properties": {
                    "spec": {"type": "object", "properties": {"size": {"type": "integer", "minimum": 1}},
                        "x-kubernetes-validations": [{"rule": "self.size < 100", "message": "too big"}]},
                    "status": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}}}]},
    }))
    .unwrap();
    definitions
        .create(&PostParams::default(), &definition)
        .await
        .unwrap();
    await_condition(
        definitions.clone(),
        "toys.example.org",
        conditions::is_crd_established(),
    )
    .await
    .unwrap();
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk("example.org", "v1", "Toy"));
    let toys: Api<DynamicObject> = Api::default_namespaced_with(client.clone(), &resource);
    let toy = |size: i64| {
        DynamicObject::new("t", &resource).data(json!({"spec": {"size": size, "typo": 1}}))
    };
    assert_eq!(
        code(toys.create(&PostParams::default(), &toy(0)).await),
        422
    );
    assert_eq!(
        code(toys.create(&PostParams::default(), &toy(500)).await),
        422
    );
    let created = toys.create(&PostParams::default(), &toy(5)).await.unwrap();
    assert_eq!(
        created.data,
        json!({"spec": {"size": 5}}),
        "unknown fields are pruned"
    );
    let status = Patch::Merge(json!({"status": {"ready": true}, "spec": {"size": 6}}));
    let patched = toys
        .patch_status("t", &PatchParams::default(), &status)
        .await
        .unwrap();
    assert_eq!(patched.data["spec"]["size"], 5);
    assert_eq!(patched.data["status"]["ready"], true);
    // A custom resource cannot be replaced blindly.
    assert_eq!(
        code(toys.replace("t", &PostParams::default(), &toy(7)).await),
        422
    );
    definitions
        .delete("toys.example.org", &DeleteParams::default())
        .await
        .unwrap();
    assert_eq!(code(toys.get("t").await), 404);
}

#[derive(Debug, thiserror::Error)]
#[error("never")]
struct Never;

#[tokio::test]
async fn finalizer_helper_and_event_recorder_work() {
    let (_cluster, client) = cluster().await;
    let api: Api<Secret> = Api::default_namespaced(client.clone());
    let secret: Secret =
        serde_json::from_value(json!({"metadata": {"name": "s"}, "stringData": {"a": "b"}}))
            .unwrap();
    let secret = api.create(&PostParams::default(), &secret).await.unwrap();
    let reference = k8s_openapi::api::core::v1::ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Secret".to_owned()),
        name: secret.metadata.name.clone(),
        namespace: secret.metadata.namespace.clone(),
        uid: secret.metadata.uid.clone(),
        ..Default::default()
    };
    let run = async |expect_cleanup: bool| {
        let object = std::sync::Arc::new(api.get("s").await.unwrap());
        finalizer(&api, "example.org/f", object, async |event| {
            assert_eq!(matches!(event, FinalizerEvent::Cleanup(_)), expect_cleanup);
            Ok::<_, Never>(kube::runtime::controller::Action::await_change())
        })
        .await
        .unwrap();
    };
    run(false).await;
    run(false).await;
    assert_eq!(api.get("s").await.unwrap().finalizers(), ["example.org/f"]);
    api.delete("s", &DeleteParams::default()).await.unwrap();
    run(true).await;
    assert_eq!(code(api.get("s").await), 404);

    let recorder = Recorder::new(
        client.clone(),
        Reporter {
            controller: "tester".to_owned(),
            instance: Some("t-0".to_owned()),
        },
    );
    for _ in 0..2 {
        recorder
            .publish(
                &NewEvent {
                    type_: EventType::Normal,
                    reason: "Tested".to_owned(),
                    note: Some("a note".to_owned()),
                    action: "Test".to_owned(),
                    secondary: None,
                },
                &reference,
            )
            .await
            .unwrap();
    }
    let events: Api<Event> = Api::default_namespaced(client);
    let list = events
        .list(&ListParams::default().fields("involvedObject.name=s,type=Normal,reason=Tested"))
        .await
        .unwrap();
    assert_eq!(list.items.len(), 1, "{list:?}");
    let event = &list.items[0];
    assert_eq!(event.message.as_deref(), Some("a note"));
    assert_eq!(event.reporting_component.as_deref(), Some("tester"));
    assert_eq!(
        event.series.as_ref().and_then(|series| series.count),
        Some(2)
    );
}

#[tokio::test]
async fn scale_eviction_and_namespaces() {
    let (_cluster, client) = cluster().await;
    let deployments: Api<Deployment> = Api::default_namespaced(client.clone());
    let deployment: Deployment = serde_json::from_value(json!({"metadata": {"name": "d"}, "spec": {
        "replicas": 1, "selector": {"matchLabels": {"a": "b"}}, "template": {"metadata": {"labels": {"a": "b"}},
        "spec": {"containers": [{"name": "c", "image": "i"}]}}}})).unwrap();
    deployments
        .create(&PostParams::default(), &deployment)
        .await
        .unwrap();
    let scale = deployments
        .patch_scale(
            "d",
            &PatchParams::default(),
            &Patch::Merge(json!({"spec": {"replicas": 4}})),
        )
        .await
        .unwrap();
    assert_eq!(scale.spec.unwrap().replicas, Some(4));
    let read = deployments.get_scale("d").await.unwrap();
    assert_eq!(read.status.unwrap().selector.as_deref(), Some("a=b"));
    assert_eq!(deployments.get("d").await.unwrap().spec.replicas, Some(4));

    let pods: Api<k8s_openapi::api::core::v1::Pod> = Api::default_namespaced(client.clone());
    let pod = serde_json::from_value(
        json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}}),
    )
    .unwrap();
    pods.create(&PostParams::default(), &pod).await.unwrap();
    pods.evict("p", &kube::api::EvictParams::default())
        .await
        .unwrap();
    assert_eq!(code(pods.get("p").await), 404);

    let namespaces: Api<Namespace> = Api::all(client);
    let names: Vec<_> = namespaces
        .list(&ListParams::default())
        .await
        .unwrap()
        .iter()
        .map(ResourceExt::name_any)
        .collect();
    assert_eq!(
        names,
        ["default", "kube-node-lease", "kube-public", "kube-system"]
    );
}
