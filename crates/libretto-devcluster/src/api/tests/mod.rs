//! What requests mean: creation, updates, patches, deletion, definitions, selectors.

#![allow(clippy::unwrap_used, clippy::needless_pass_by_value)]

mod definitions;
mod upstream;

use serde_json::{Value, json};

use super::*;

const CONFIG_MAPS: Gvr = Gvr::new("", "v1", "configmaps");
const DEPLOYMENTS: Gvr = Gvr::new("apps", "v1", "deployments");
const DEFINITIONS: Gvr = Gvr::new("apiextensions.k8s.io", "v1", "customresourcedefinitions");
const SECRETS: Gvr = Gvr::new("", "v1", "secrets");
const NEW_EVENTS: Gvr = Gvr::new("events.k8s.io", "v1", "events");
const BUDGETS: Gvr = Gvr::new("policy", "v1", "poddisruptionbudgets");
const TOYS: Gvr = Gvr::new("example.org", "v1", "toys");

fn by(manager: &str) -> WriteOptions {
    WriteOptions {
        field_manager: manager.to_owned(),
        ..WriteOptions::default()
    }
}

fn create(api: &Api, gvr: &Gvr, object: Value) -> Arc<Value> {
    api.create(gvr, "default", object, &by("test")).unwrap()
}

fn config(name: &str, data: Value) -> Value {
    json!({"metadata": {"name": name}, "data": data})
}

fn deployment(replicas: i64) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "spec": {
        "replicas": replicas, "selector": {"matchLabels": {"app": "web"}},
        "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}})
}

fn pod(name: &str, node: Option<&str>) -> Value {
    let mut pod = json!({"metadata": {"name": name, "labels": {"app": "web"}},
        "spec": {"containers": [{"name": "c", "image": "i"}], "terminationGracePeriodSeconds": 7}});
    if let Some(node) = node {
        pod["spec"]["nodeName"] = node.into();
    }
    pod
}

fn toys() -> Value {
    json!({"metadata": {"name": "toys.example.org"}, "spec": {
        "group": "example.org", "scope": "Namespaced",
        "names": {"plural": "toys", "singular": "toy", "kind": "Toy", "listKind": "ToyList", "shortNames": ["ty"]},
        "versions": [
            {"name": "v1", "served": true, "storage": true, "subresources": {"status": {}, "scale": {"specReplicasPath": ".spec.size", "statusReplicasPath": ".status.size"}},
             "schema": {"openAPIV3Schema": {"type": "object", "properties": {
                "spec": {"type": "object", "required": ["size"], "properties": {"size": {"type": "integer", "minimum": 0}, "colour": {"type": "string", "default": "red"}}},
                "status": {"type": "object", "properties": {"size": {"type": "integer"}}}}}}},
            {"name": "v1beta1", "served": true, "storage": false,
             "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}]}})
}

fn toy(name: &str, size: i64) -> Value {
    json!({"apiVersion": "example.org/v1", "kind": "Toy", "metadata": {"name": name}, "spec": {"size": size}})
}

fn revision(object: &Value) -> &str {
    object["metadata"]["resourceVersion"].as_str().unwrap()
}

#[test]
fn create_sets_what_the_server_owns() {
    let api = Api::in_memory();
    let created = create(&api, &DEPLOYMENTS, deployment(2));
    let metadata = &created["metadata"];
    assert_eq!(metadata["namespace"], "default");
    assert_eq!(metadata["generation"], 1);
    assert_eq!(metadata["uid"].as_str().unwrap().len(), 36);
    assert!(
        metadata["creationTimestamp"]
            .as_str()
            .unwrap()
            .ends_with('Z')
    );
    assert_eq!(metadata["managedFields"][0]["manager"], "test");
    assert_eq!(created["kind"], "Deployment");
    assert_eq!(*api.get(&DEPLOYMENTS, "default", "web").unwrap(), *created);
}

#[test]
fn wrong_creates_are_refused_in_kubernetes_words() {
    let api = Api::in_memory();
    create(&api, &CONFIG_MAPS, config("taken", json!({})));
    for (namespace, object, code, part) in [
        (
            "default",
            config("taken", json!({})),
            409,
            "configmaps \"taken\" already exists",
        ),
        (
            "nowhere",
            config("a", json!({})),
            404,
            "namespaces \"nowhere\" not found",
        ),
        (
            "default",
            config("A", json!({})),
            422,
            "ConfigMap \"A\" is invalid: metadata.name",
        ),
        (
            "default",
            json!({"metadata": {}}),
            422,
            "metadata.name: Required value",
        ),
        (
            "default",
            json!({"metadata": "x"}),
            400,
            "of type v1.ObjectMeta",
        ),
        (
            "default",
            json!({"metadata": {"name": "a", "labels": {"a": 1}}}),
            400,
            "ObjectMeta.metadata.labels",
        ),
        (
            "default",
            json!({"metadata": {"name": "a", "namespace": "other"}}),
            400,
            "does not match the namespace",
        ),
        (
            "default",
            json!({"kind": "Pod", "metadata": {"name": "a"}}),
            400,
            "no kind \"Pod\" is registered",
        ),
        (
            "default",
            json!({"metadata": {"name": "a", "resourceVersion": "5"}}),
            500,
            "resourceVersion should not be set",
        ),
        ("default", json!([]), 400, "cannot unmarshal array"),
    ] {
        let error = api
            .create(&CONFIG_MAPS, namespace, object, &by("t"))
            .unwrap_err();
        assert_eq!(error.code, code, "{error}");
        assert!(error.message.contains(part), "{error} lacks {part}");
    }
}

#[test]
fn generated_names_and_dry_runs() {
    let api = Api::in_memory();
    let object = json!({"metadata": {"generateName": "a-"}});
    let first = create(&api, &CONFIG_MAPS, object.clone());
    let second = create(&api, &CONFIG_MAPS, object.clone());
    assert_ne!(first["metadata"]["name"], second["metadata"]["name"]);
    let before = api.revision();
    let options = WriteOptions {
        dry_run: true,
        ..by("t")
    };
    let dry = api
        .create(&CONFIG_MAPS, "default", object, &options)
        .unwrap();
    assert!(dry["metadata"]["name"].as_str().unwrap().starts_with("a-"));
    assert_eq!(api.revision(), before);
}

#[test]
fn updates_are_conditional_and_no_ops_are_free() {
    let api = Api::in_memory();
    let first = create(&api, &CONFIG_MAPS, config("c", json!({"a": "1"})));
    let update = |object: Value| {
        api.update(
            &CONFIG_MAPS,
            "default",
            "c",
            Subresource::None,
            object,
            &by("test"),
        )
    };
    let same = update((*first).clone()).unwrap();
    assert_eq!(revision(&same), revision(&first));
    let mut changed = (*first).clone();
    changed["data"]["a"] = "2".into();
    let second = update(changed.clone()).unwrap();
    assert_ne!(revision(&second), revision(&first));
    let error = update(changed).unwrap_err();
    assert_eq!((error.code, error.reason), (409, "Conflict"));
    assert!(
        error.message.contains("the object has been modified"),
        "{error}"
    );
    // Without a revision it is unconditional.
    let third = update(config("c", json!({"a": "3"}))).unwrap();
    assert_eq!(third["data"]["a"], "3");
    assert_eq!(third["metadata"]["uid"], first["metadata"]["uid"]);
    let error = update(json!({"metadata": {"name": "other"}})).unwrap_err();
    assert_eq!(error.code, 400, "{error}");
    let error = update(json!({"metadata": {"name": "c", "uid": "wrong"}})).unwrap_err();
    assert_eq!(error.code, 409, "{error}");
}

#[test]
fn status_and_the_rest_are_separate_and_generation_counts_the_rest() {
    let api = Api::in_memory();
    create(&api, &DEPLOYMENTS, deployment(1));
    let put = |subresource, object: Value| {
        api.update(
            &DEPLOYMENTS,
            "default",
            "web",
            subresource,
            object,
            &by("t"),
        )
        .unwrap()
    };
    let mut object = deployment(3);
    object["status"] = json!({"replicas": 9});
    let main = put(Subresource::None, object.clone());
    assert_eq!(main["spec"]["replicas"], 3);
    assert!(main["status"]["replicas"].is_null());
    assert_eq!(main["metadata"]["generation"], 2);
    object["spec"]["replicas"] = 5.into();
    object["metadata"]["labels"] = json!({"x": "y"});
    let status = put(Subresource::Status, object);
    assert_eq!(status["spec"]["replicas"], 3);
    assert_eq!(status["status"]["replicas"], 9);
    assert!(status["metadata"]["labels"].is_null());
    assert_eq!(status["metadata"]["generation"], 2);
    let entries = status["metadata"]["managedFields"].as_array().unwrap();
    assert!(
        entries.iter().any(|entry| entry["subresource"] == "status"),
        "{entries:?}"
    );
}

#[test]
fn patches_of_every_kind() {
    let api = Api::in_memory();
    create(&api, &DEPLOYMENTS, deployment(1));
    let patch = |patch| {
        api.patch(
            &DEPLOYMENTS,
            "default",
            "web",
            Subresource::None,
            patch,
            &by("t"),
        )
    };
    let object = patch(Patch::Merge(json!({"metadata": {"labels": {"a": "b"}}}))).unwrap();
    assert_eq!(object["metadata"]["labels"]["a"], "b");
    assert_eq!(object["metadata"]["generation"], 1);
    let object = patch(Patch::Strategic(
        json!({"spec": {"template": {"spec": {"containers": [{"name": "d", "image": "j"}]}}}}),
    ))
    .unwrap();
    assert_eq!(
        object["spec"]["template"]["spec"]["containers"]
            .as_array()
            .unwrap()
            .len(),
        2
    );
    let object = patch(Patch::Json(
        json!([{"op": "replace", "path": "/spec/replicas", "value": 4}]),
    ))
    .unwrap();
    assert_eq!(object["spec"]["replicas"], 4);
    let error = patch(Patch::Json(
        json!([{"op": "test", "path": "/spec/replicas", "value": 9}]),
    ))
    .unwrap_err();
    assert_eq!(error.code, 422, "{error}");
    let error = patch(Patch::Merge(json!({"metadata": {"resourceVersion": "1"}}))).unwrap_err();
    assert_eq!(error.code, 409, "{error}");
    let error = patch(Patch::Merge(json!({"metadata": {"name": "x"}}))).unwrap_err();
    assert_eq!(error.code, 400, "{error}");
    let before = api.revision();
    patch(Patch::Merge(json!({"spec": {"replicas": 4}}))).unwrap();
    assert_eq!(api.revision(), before, "a patch without effect is no write");
    let error = api
        .patch(
            &DEPLOYMENTS,
            "default",
            "absent",
            Subresource::None,
            Patch::Merge(json!({})),
            &by("t"),
        )
        .unwrap_err();
    assert_eq!(error.code, 404);
}

#[test]
fn server_side_apply_creates_owns_and_conflicts() {
    let api = Api::in_memory();
    let apply = |manager: &str, force: bool, value: &str| {
        let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": {"k": value}});
        let options = WriteOptions {
            force,
            ..by(manager)
        };
        api.patch(
            &CONFIG_MAPS,
            "default",
            "c",
            Subresource::None,
            Patch::Apply(object),
            &options,
        )
    };
    let created = apply("one", false, "1").unwrap();
    assert_eq!(
        created["metadata"]["managedFields"][0]["operation"],
        "Apply"
    );
    assert!(created["metadata"]["uid"].is_string());
    let again = apply("one", false, "1").unwrap();
    assert_eq!(revision(&again), revision(&created));
    let error = apply("two", false, "2").unwrap_err();
    assert_eq!((error.code, error.reason), (409, "Conflict"));
    assert_eq!(
        error.message,
        "Apply failed with 1 conflict: conflict with \"one\": .data.k"
    );
    assert_eq!(error.details["causes"][0]["reason"], "FieldManagerConflict");
    assert_eq!(apply("two", true, "2").unwrap()["data"]["k"], "2");
    assert_eq!(apply("", false, "2").unwrap_err().code, 422);
}

/// What kubectl does with an object of `kubectl apply` at the first `kubectl apply --server-side`: it hands the creator's fields to the
/// applier and applies again, which drops every owned field that the configuration lacks.
#[test]
fn what_admission_filled_in_belongs_to_nobody() {
    let api = Api::in_memory();
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
        "spec": {"selector": {"app": "web"}, "ports": [{"port": 80}]}});
    let mut plain = pod("web", None);
    plain["apiVersion"] = "v1".into();
    plain["kind"] = "Pod".into();
    for (gvr, config) in [(&PODS, plain), (&SERVICES, service)] {
        let apply = || {
            let config = Patch::Apply(config.clone());
            let who = by("kubectl");
            api.patch(gvr, "default", "web", Subresource::None, config, &who)
        };
        let creator = by("kubectl-client-side-apply");
        let created = api
            .create(gvr, "default", config.clone(), &creator)
            .unwrap();
        let owned = created["metadata"]["managedFields"][0]["fieldsV1"].to_string();
        for field in [
            "serviceAccount",
            "priority",
            "preemptionPolicy",
            "clusterIP",
        ] {
            assert!(!owned.contains(&format!("f:{field}")), "{field}: {owned}");
        }
        let mut migrated = (*apply().unwrap()).clone();
        let managers = migrated["metadata"]["managedFields"]
            .as_array_mut()
            .unwrap();
        managers.retain(|entry| entry["operation"] == "Update");
        managers[0]["manager"] = "kubectl".into();
        managers[0]["operation"] = "Apply".into();
        api.update(
            gvr,
            "default",
            "web",
            Subresource::None,
            migrated,
            &by("kubectl"),
        )
        .unwrap();
        let again = apply().unwrap();
        assert_eq!(again["spec"], created["spec"]);
    }
}

#[test]
fn applied_deployment_stays_put() {
    let api = Api::in_memory();
    let apply = || {
        api.patch(
            &DEPLOYMENTS,
            "default",
            "web",
            Subresource::None,
            Patch::Apply(deployment(2)),
            &by("one"),
        )
        .unwrap()
    };
    let first = apply();
    let mut status = (*first).clone();
    status["status"] = json!({"replicas": 2, "observedGeneration": 1});
    let status = api
        .update(
            &DEPLOYMENTS,
            "default",
            "web",
            Subresource::Status,
            status,
            &by("controller"),
        )
        .unwrap();
    let again = apply();
    assert_eq!(revision(&again), revision(&status), "{again:#} {status:#}");
    assert_eq!(again["status"]["replicas"], 2);
}

#[test]
fn unknown_fields_warn_or_fail() {
    let api = Api::in_memory();
    let mut object = deployment(1);
    object["spec"]["replicaz"] = 3.into();
    let strict = WriteOptions {
        strict: true,
        ..by("t")
    };
    let error = api
        .create(&DEPLOYMENTS, "default", object.clone(), &strict)
        .unwrap_err();
    assert_eq!(error.code, 400);
    assert!(
        error.message.contains("unknown field \"spec.replicaz\""),
        "{error}"
    );
    let written = api
        .create_with_warnings(&DEPLOYMENTS, "default", object, &by("t"))
        .unwrap();
    assert_eq!(written.unknown_fields, ["unknown field \"spec.replicaz\""]);
    assert!(written.object["spec"].get("replicaz").is_none());
}

#[test]
fn finalizers_hold_and_release() {
    let api = Api::in_memory();
    let mut object = config("c", json!({}));
    object["metadata"]["finalizers"] = json!(["example.org/x"]);
    let created = create(&api, &CONFIG_MAPS, object);
    let held = api
        .delete(&CONFIG_MAPS, "default", "c", &DeleteOptions::default())
        .unwrap();
    assert!(held["metadata"]["deletionTimestamp"].is_string());
    let again = api
        .delete(&CONFIG_MAPS, "default", "c", &DeleteOptions::default())
        .unwrap();
    assert_eq!(revision(&again), revision(&held));
    let mut more = (*held).clone();
    more["metadata"]["finalizers"] = json!(["example.org/x", "example.org/y"]);
    let error = api
        .update(
            &CONFIG_MAPS,
            "default",
            "c",
            Subresource::None,
            more,
            &by("t"),
        )
        .unwrap_err();
    assert_eq!(error.code, 422, "{error}");
    let patch = Patch::Json(json!([
        {"op": "test", "path": "/metadata/finalizers/0", "value": "example.org/x"},
        {"op": "remove", "path": "/metadata/finalizers/0"}]));
    let last = api
        .patch(
            &CONFIG_MAPS,
            "default",
            "c",
            Subresource::None,
            patch,
            &by("t"),
        )
        .unwrap();
    assert_eq!(last["metadata"]["uid"], created["metadata"]["uid"]);
    assert_eq!(api.get(&CONFIG_MAPS, "default", "c").unwrap_err().code, 404);
}

#[test]
fn propagation_becomes_finalizers_of_the_garbage_collector() {
    let api = Api::in_memory();
    for (propagation, finalizer) in [
        (Propagation::Foreground, "foregroundDeletion"),
        (Propagation::Orphan, "orphan"),
    ] {
        create(
            &api,
            &CONFIG_MAPS,
            config(finalizer.to_lowercase().as_str(), json!({})),
        );
        let options = DeleteOptions {
            propagation: Some(propagation),
            ..DeleteOptions::default()
        };
        let held = api
            .delete(&CONFIG_MAPS, "default", &finalizer.to_lowercase(), &options)
            .unwrap();
        assert_eq!(held["metadata"]["finalizers"], json!([finalizer]));
    }
}

#[test]
fn delete_preconditions() {
    let api = Api::in_memory();
    let created = create(&api, &CONFIG_MAPS, config("c", json!({})));
    for options in [
        DeleteOptions {
            uid: Some("x".into()),
            ..DeleteOptions::default()
        },
        DeleteOptions {
            resource_version: Some("1".into()),
            ..DeleteOptions::default()
        },
    ] {
        let error = api
            .delete(&CONFIG_MAPS, "default", "c", &options)
            .unwrap_err();
        assert_eq!(error.code, 409, "{error}");
    }
    let options = DeleteOptions {
        uid: created["metadata"]["uid"].as_str().map(str::to_owned),
        resource_version: Some(revision(&created).to_owned()),
        dry_run: true,
        ..DeleteOptions::default()
    };
    api.delete(&CONFIG_MAPS, "default", "c", &options).unwrap();
    api.get(&CONFIG_MAPS, "default", "c").unwrap();
    api.delete(
        &CONFIG_MAPS,
        "default",
        "c",
        &DeleteOptions {
            dry_run: false,
            ..options
        },
    )
    .unwrap();
    assert_eq!(api.get(&CONFIG_MAPS, "default", "c").unwrap_err().code, 404);
}

#[test]
fn pods_end_gracefully_once_a_node_runs_them() {
    let api = Api::in_memory();
    create(&api, &PODS, pod("pending", None));
    api.delete(&PODS, "default", "pending", &DeleteOptions::default())
        .unwrap();
    assert_eq!(api.get(&PODS, "default", "pending").unwrap_err().code, 404);
    create(&api, &PODS, pod("running", Some("n")));
    let held = api
        .delete(&PODS, "default", "running", &DeleteOptions::default())
        .unwrap();
    assert_eq!(held["metadata"]["deletionGracePeriodSeconds"], 7);
    let now = DeleteOptions {
        grace_period_seconds: Some(0),
        ..DeleteOptions::default()
    };
    api.delete(&PODS, "default", "running", &now).unwrap();
    assert_eq!(api.get(&PODS, "default", "running").unwrap_err().code, 404);
}

#[test]
fn namespaces_end_when_they_are_empty_and_finalized() {
    let api = Api::in_memory();
    let namespace = api
        .create(
            &NAMESPACES,
            "",
            json!({"metadata": {"name": "n"}}),
            &by("t"),
        )
        .unwrap();
    assert_eq!(namespace["status"]["phase"], "Active");
    assert_eq!(
        namespace["metadata"]["labels"]["kubernetes.io/metadata.name"],
        "n"
    );
    let ending = api
        .delete(&NAMESPACES, "", "n", &DeleteOptions::default())
        .unwrap();
    assert_eq!(ending["status"]["phase"], "Terminating");
    let error = api
        .create(&CONFIG_MAPS, "n", config("c", json!({})), &by("t"))
        .unwrap_err();
    assert_eq!(error.code, 403, "{error}");
    assert_eq!(error.details["causes"][0]["reason"], "NamespaceTerminating");
    let mut object = (*ending).clone();
    object["spec"] = json!({"finalizers": []});
    api.update(
        &NAMESPACES,
        "",
        "n",
        Subresource::Finalize,
        object,
        &by("t"),
    )
    .unwrap();
    assert_eq!(api.get(&NAMESPACES, "", "n").unwrap_err().code, 404);
}

#[test]
fn services_get_addresses_that_nobody_else_has() {
    let api = Api::in_memory();
    let service = |name: &str, spec: Value| json!({"metadata": {"name": name}, "spec": spec});
    let ports = json!([{"port": 80}]);
    let one = create(&api, &SERVICES, service("one", json!({"ports": ports})));
    let address = one["spec"]["clusterIP"].as_str().unwrap().to_owned();
    assert!(address.starts_with("10.96."), "{address}");
    assert_eq!(one["spec"]["clusterIPs"], json!([address]));
    let none = create(
        &api,
        &SERVICES,
        service("none", json!({"clusterIP": "None", "ports": ports})),
    );
    assert_eq!(none["spec"]["clusterIP"], "None");
    for (wish, part) in [
        (address.as_str(), "already allocated"),
        ("10.0.0.1", "valid range"),
        ("x", "valid"),
    ] {
        let error = api
            .create(
                &SERVICES,
                "default",
                service("w", json!({"clusterIP": wish, "ports": ports})),
                &by("t"),
            )
            .unwrap_err();
        assert!(error.code == 422 && error.message.contains(part), "{error}");
    }
    // A replacement that does not name the address keeps it.
    let kept = api
        .update(
            &SERVICES,
            "default",
            "one",
            Subresource::None,
            service("one", json!({"ports": [{"port": 81}]})),
            &by("t"),
        )
        .unwrap();
    assert_eq!(kept["spec"]["clusterIP"], address.as_str());
    let node = create(
        &api,
        &SERVICES,
        service("node", json!({"type": "NodePort", "ports": ports})),
    );
    assert!(node["spec"]["ports"][0]["nodePort"].as_u64().unwrap() >= 30000);
    let external = create(
        &api,
        &SERVICES,
        service(
            "external",
            json!({"type": "ExternalName", "externalName": "example.org"}),
        ),
    );
    assert!(external["spec"].get("clusterIP").is_none());
}

#[test]
fn secrets_take_plain_text() {
    let api = Api::in_memory();
    let secret = create(
        &api,
        &SECRETS,
        json!({"metadata": {"name": "s"}, "stringData": {"a": "b"}}),
    );
    assert_eq!(secret["data"], json!({"a": "Yg=="}));
    assert_eq!(secret["type"], "Opaque");
}

#[test]
fn both_event_groups_show_the_same_events() {
    let api = Api::in_memory();
    let event = json!({"metadata": {"name": "e"}, "regarding": {"kind": "Pod", "name": "p", "namespace": "default"},
        "note": "text", "reason": "Started", "type": "Normal", "action": "Start", "reportingController": "example.org/c",
        "reportingInstance": "c-0", "eventTime": "2026-01-01T00:00:00.000000Z"});
    let created = create(&api, &NEW_EVENTS, event);
    assert_eq!(created["note"], "text");
    let core = api.get(&EVENTS, "default", "e").unwrap();
    assert_eq!(core["message"], "text");
    assert_eq!(core["involvedObject"]["name"], "p");
    let options = ListOptions {
        field_selector: Some("involvedObject.name=p,reason=Started".into()),
        ..ListOptions::default()
    };
    assert_eq!(
        api.list(&EVENTS, Some("default"), &options)
            .unwrap()
            .items
            .len(),
        1
    );
    let patch = Patch::Merge(
        json!({"series": {"count": 2, "lastObservedTime": "2026-01-01T00:00:01.000000Z"}}),
    );
    let patched = api
        .patch(
            &NEW_EVENTS,
            "default",
            "e",
            Subresource::None,
            patch,
            &by("t"),
        )
        .unwrap();
    assert_eq!(patched["series"]["count"], 2);
    assert_eq!(
        api.get(&EVENTS, "default", "e").unwrap()["series"]["count"],
        2
    );
    api.drop_events_before("2027-01-01T00:00:00Z".parse().unwrap());
    // Created just now: its creation counts.
    assert!(
        api.get(&EVENTS, "default", "e").is_ok()
            || jiff::Timestamp::now() < "2027-01-01T00:00:00Z".parse().unwrap()
    );
}

#[test]
fn lists_select_and_page_consistently() {
    let api = Api::in_memory();
    for index in 0..5 {
        let mut object = config(&format!("c{index}"), json!({}));
        object["metadata"]["labels"] = json!({"even": (index % 2 == 0).to_string()});
        create(&api, &CONFIG_MAPS, object);
    }
    let list = |options: ListOptions| api.list(&CONFIG_MAPS, Some("default"), &options);
    let names = |list: &List| -> Vec<String> {
        list.items
            .iter()
            .map(|item| item["metadata"]["name"].as_str().unwrap().to_owned())
            .collect()
    };
    let even = list(ListOptions {
        label_selector: Some("even=true".into()),
        ..ListOptions::default()
    })
    .unwrap();
    assert_eq!(names(&even), ["c0", "c2", "c4"]);
    let first = list(ListOptions {
        limit: Some(2),
        ..ListOptions::default()
    })
    .unwrap();
    assert_eq!((names(&first).len(), first.remaining), (2, Some(3)));
    api.delete(&CONFIG_MAPS, "default", "c3", &DeleteOptions::default())
        .unwrap();
    create(&api, &CONFIG_MAPS, config("c2a", json!({})));
    let second = list(ListOptions {
        limit: Some(9),
        continue_token: first.continue_token.clone(),
        ..ListOptions::default()
    })
    .unwrap();
    assert_eq!(names(&second), ["c2", "c3", "c4"]);
    assert_eq!(second.resource_version, first.resource_version);
    assert!(second.continue_token.is_none());
    api.expire_watches(&CONFIG_MAPS).unwrap();
    let error = list(ListOptions {
        continue_token: first.continue_token,
        ..ListOptions::default()
    })
    .unwrap_err();
    assert_eq!((error.code, error.reason), (410, "Expired"));
    let error = list(ListOptions {
        field_selector: Some("data.x=y".into()),
        ..ListOptions::default()
    })
    .unwrap_err();
    assert!(
        error.code == 400 && error.message.contains("is not a known field selector"),
        "{error}"
    );
    let error = list(ListOptions {
        continue_token: Some("x".into()),
        ..ListOptions::default()
    })
    .unwrap_err();
    assert_eq!(error.code, 400);
}

#[tokio::test]
async fn watches_follow_their_selection() {
    let api = Api::in_memory();
    let options = ListOptions {
        label_selector: Some("on=1".into()),
        ..ListOptions::default()
    };
    let mut watch = api
        .watch(&CONFIG_MAPS, Some("default"), &options, api.revision())
        .unwrap();
    let labelled = |on: &str| json!({"metadata": {"name": "c", "labels": {"on": on}}});
    create(&api, &CONFIG_MAPS, labelled("0"));
    let put = |on: &str| {
        api.update(
            &CONFIG_MAPS,
            "default",
            "c",
            Subresource::None,
            labelled(on),
            &by("t"),
        )
        .unwrap()
    };
    let entered = put("1");
    let left = put("2");
    put("1");
    api.delete(&CONFIG_MAPS, "default", "c", &DeleteOptions::default())
        .unwrap();
    assert!(matches!(watch.next().await, Some(WatchEvent::Added(object)) if *object == *entered));
    let Some(WatchEvent::Deleted(object)) = watch.next().await else {
        panic!("left the selection")
    };
    assert_eq!(
        object["metadata"]["labels"]["on"], "1",
        "the state the watcher knew"
    );
    assert_eq!(revision(&object), revision(&left));
    assert!(matches!(watch.next().await, Some(WatchEvent::Added(_))));
    assert!(matches!(watch.next().await, Some(WatchEvent::Deleted(_))));
    create(&api, &CONFIG_MAPS, labelled("1"));
    api.expire_watches(&CONFIG_MAPS).unwrap();
    assert!(matches!(watch.next().await, Some(WatchEvent::Expired)));
    assert!(watch.next().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn quiet_watches_get_bookmarks() {
    let api = Api::in_memory();
    let mut watch = api
        .watch(&CONFIG_MAPS, None, &ListOptions::default(), api.revision())
        .unwrap();
    create(&api, &SECRETS, json!({"metadata": {"name": "s"}}));
    let now = api.revision();
    assert!(matches!(watch.next().await, Some(WatchEvent::Bookmark(revision)) if revision == now));
}

#[test]
fn binding_and_eviction() {
    let api = Api::in_memory();
    create(&api, &PODS, pod("p", None));
    api.bind("default", "p", "node", true).unwrap();
    api.bind("default", "p", "node", false).unwrap();
    let bound = api.get(&PODS, "default", "p").unwrap();
    assert_eq!(bound["spec"]["nodeName"], "node");
    assert_eq!(bound["status"]["conditions"][0]["type"], "PodScheduled");
    assert_eq!(
        api.bind("default", "p", "other", false).unwrap_err().code,
        409
    );

    create(
        &api,
        &BUDGETS,
        json!({"metadata": {"name": "b"}, "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "web"}}}}),
    );
    let status = |api: &Api, gvr: &Gvr, name: &str, status: Value| {
        let mut object = (*api.get(gvr, "default", name).unwrap()).clone();
        object["status"] = status;
        api.update(gvr, "default", name, Subresource::Status, object, &by("t"))
            .unwrap();
    };
    status(
        &api,
        &PODS,
        "p",
        json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}),
    );
    let budget = |allowed: i64| json!({"observedGeneration": 1, "disruptionsAllowed": allowed, "currentHealthy": 1, "desiredHealthy": 1, "expectedPods": 1});
    status(&api, &BUDGETS, "b", budget(0));
    let error = api
        .evict("default", "p", &DeleteOptions::default())
        .unwrap_err();
    assert_eq!((error.code, error.reason), (429, "TooManyRequests"));
    assert_eq!(error.details["causes"][0]["reason"], "DisruptionBudget");
    status(&api, &BUDGETS, "b", budget(1));
    api.evict("default", "p", &DeleteOptions::default())
        .unwrap();
    assert!(api.get(&PODS, "default", "p").unwrap()["metadata"]["deletionTimestamp"].is_string());
    let spent = api.get(&BUDGETS, "default", "b").unwrap();
    assert_eq!(spent["status"]["disruptionsAllowed"], 0);
    assert!(spent["status"]["disruptedPods"]["p"].is_string());
}
