//! Answers that users and operators know from Kubernetes, and warnings where this cluster cannot follow.

use super::*;

#[test]
fn kinds_without_effect_say_so() {
    let api = Api::in_memory();
    for (gvr, object, part) in [
        (
            Gvr::new("networking.k8s.io", "v1", "networkpolicies"),
            json!({"metadata": {"name": "a"}, "spec": {"podSelector": {}}}),
            Some("NetworkPolicy is stored and has no effect: no traffic"),
        ),
        (
            Gvr::new("", "v1", "resourcequotas"),
            json!({"metadata": {"name": "a"}, "spec": {"hard": {"pods": "1"}}}),
            Some("ResourceQuota is stored and has no effect"),
        ),
        (CONFIG_MAPS, config("a", json!({})), None),
    ] {
        let written = api
            .create_with_warnings(&gvr, "default", object.clone(), &by("t"))
            .unwrap();
        let warning = written.warnings.first().map(String::as_str);
        assert_eq!(warning.is_some(), part.is_some(), "{gvr:?}: {warning:?}");
        assert!(
            warning
                .unwrap_or_default()
                .contains(part.unwrap_or_default())
        );
        let again = api
            .update_with_warnings(&gvr, "default", "a", Subresource::None, object, &by("t"))
            .unwrap();
        assert_eq!(again.warnings, written.warnings);
    }
}

#[test]
fn an_applied_unknown_field_always_fails() {
    let api = Api::in_memory();
    api.create(&DEFINITIONS, "", toys(), &by("t")).unwrap();
    let mut web = deployment(1);
    web["spec"]["foo"] = 1.into();
    let mut known = toy("a", 1);
    known["spec"]["foo"] = 1.into();
    let open = json!({"apiVersion": "example.org/v1beta1", "kind": "Toy", "metadata": {"name": "b"}, "spec": {"size": 1, "foo": 1}});
    for (gvr, name, config, expected) in [
        (
            DEPLOYMENTS,
            "web",
            web,
            "failed to create typed patch object (/web; apps/v1, Kind=Deployment): .spec.foo: field not declared in schema",
        ),
        (
            TOYS,
            "a",
            known,
            "failed to create typed patch object (/a; example.org/v1, Kind=Toy): .spec.foo: field not declared in schema",
        ),
        (Gvr::new("example.org", "v1beta1", "toys"), "b", open, ""),
    ] {
        for strict in [false, true] {
            let options = WriteOptions { strict, ..by("t") };
            let answer = api.patch(
                &gvr,
                "default",
                name,
                Subresource::None,
                Patch::Apply(config.clone()),
                &options,
            );
            let message = answer.err().map(|error| error.message).unwrap_or_default();
            assert_eq!(message, expected);
        }
    }
}

#[test]
fn namespaces_of_the_system_stay() {
    let api = Api::in_memory();
    for (name, kept) in [
        ("default", true),
        ("kube-system", true),
        ("kube-public", true),
        ("kube-node-lease", false),
    ] {
        let answer = api.delete(&NAMESPACES, "", name, &DeleteOptions::default());
        assert_eq!(answer.is_err(), kept, "{name}");
        if let Err(error) = answer {
            assert_eq!(error.code, 403);
            assert_eq!(
                error.message,
                format!("namespaces {name:?} is forbidden: this namespace may not be deleted")
            );
        }
    }
}

#[test]
fn only_namespaces_are_held_by_their_spec() {
    let api = Api::in_memory();
    api.create(&DEFINITIONS, "", toys(), &by("t")).unwrap();
    let mut object = toy("a", 1);
    object["apiVersion"] = "example.org/v1beta1".into();
    object["spec"]["finalizers"] = json!(["mine"]);
    let gvr = Gvr::new("example.org", "v1beta1", "toys");
    create(&api, &gvr, object);
    api.delete(&gvr, "default", "a", &DeleteOptions::default())
        .unwrap();
    let gone = api.get(&gvr, "default", "a").unwrap_err();
    assert_eq!(gone.code, 404);
}

#[test]
fn pods_that_cannot_be_run_as_asked_are_refused() {
    let api = Api::in_memory();
    let class = |name: &str, value: i64, default: bool| json!({"metadata": {"name": name}, "value": value, "globalDefault": default});
    let classes = Gvr::new("scheduling.k8s.io", "v1", "priorityclasses");
    api.create(&classes, "", class("usual", 7, true), &by("t"))
        .unwrap();
    api.create(&classes, "", class("other", 9, false), &by("t"))
        .unwrap();
    for (field, value, code, part) in [
        (
            "runtimeClassName",
            json!("gvisor"),
            422,
            "spec.runtimeClassName: Forbidden: this cluster",
        ),
        (
            "ephemeralContainers",
            json!([{"name": "e", "image": "i"}]),
            422,
            "spec.ephemeralContainers: Forbidden: cannot be set on create",
        ),
        (
            "serviceAccountName",
            json!("nobody"),
            403,
            "pods \"p\" is forbidden: error looking up service account default/nobody: serviceaccount \"nobody\" not found",
        ),
        ("serviceAccountName", json!("default"), 201, ""),
        (
            "hostUsers",
            json!(false),
            201,
            "spec.hostUsers has no effect",
        ),
    ] {
        let mut object = pod("p", None);
        object["spec"][field] = value;
        let options = WriteOptions {
            dry_run: true,
            ..by("t")
        };
        match api.create_with_warnings(&PODS, "default", object, &options) {
            Ok(written) => {
                assert_eq!(code, 201, "{field}");
                assert!(
                    written.warnings.join("").contains(part),
                    "{:?}",
                    written.warnings
                );
                assert_eq!(written.object["spec"]["priorityClassName"], "usual");
                assert_eq!(written.object["spec"]["priority"], 7);
            }
            Err(error) => {
                assert_eq!(error.code, code, "{field}: {error}");
                assert!(error.message.contains(part), "{error}");
            }
        }
    }
    let mut web = deployment(1);
    web["spec"]["template"]["spec"]["runtimeClassName"] = "gvisor".into();
    let written = api
        .create_with_warnings(&DEPLOYMENTS, "default", web, &by("t"))
        .unwrap();
    assert!(
        written.warnings[0]
            .contains("spec.template.spec.runtimeClassName: pods of web will be refused")
    );
}

#[test]
fn jobs_select_by_their_uid() {
    let api = Api::in_memory();
    let jobs = Gvr::new("batch", "v1", "jobs");
    let job = |extra: Value| {
        let mut job = json!({"metadata": {"name": "j"}, "spec": {"template": {"spec": {
            "restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}}});
        patch_in(&mut job["spec"], extra);
        job
    };
    let dry = WriteOptions {
        dry_run: true,
        ..by("t")
    };
    for (extra, part) in [
        (json!({}), ""),
        (
            json!({"selector": {"matchLabels": {"a": "b"}}}),
            "`selector` not auto-generated",
        ),
        (
            json!({"manualSelector": true}),
            "spec.selector: Required value",
        ),
        (
            json!({"manualSelector": true, "selector": {"matchLabels": {"a": "b"}}, "template": {"metadata": {"labels": {"a": "b"}}}}),
            "",
        ),
        (
            json!({"template": {"metadata": {"labels": {"job-name": "x"}}}}),
            "must be 'j'",
        ),
    ] {
        let answer = api.create(&jobs, "default", job(extra.clone()), &dry);
        let message = answer
            .as_ref()
            .err()
            .map(|error| error.message.clone())
            .unwrap_or_default();
        assert_eq!(answer.is_ok(), part.is_empty(), "{extra}: {message}");
        assert!(message.contains(part), "{message}");
    }
    let made = create(&api, &jobs, job(json!({})));
    let uid = &made["metadata"]["uid"];
    assert_eq!(
        made["spec"]["selector"],
        json!({"matchLabels": {"batch.kubernetes.io/controller-uid": uid}})
    );
    assert_eq!(
        made["spec"]["template"]["metadata"]["labels"],
        json!({"batch.kubernetes.io/controller-uid": uid, "batch.kubernetes.io/job-name": "j", "controller-uid": uid, "job-name": "j"})
    );
    let again = api
        .update(
            &jobs,
            "default",
            "j",
            Subresource::None,
            (*made).clone(),
            &by("t"),
        )
        .unwrap();
    assert_eq!(revision(&again), revision(&made));
}

/// Merges `extra` into `value`.
fn patch_in(value: &mut Value, extra: Value) {
    crate::patch::merge(value, &extra);
}

#[test]
fn node_ports_come_and_go_with_the_type() {
    let api = Api::in_memory();
    let service = |kind: &str, extra: Value| {
        let mut service =
            json!({"metadata": {"name": "s"}, "spec": {"type": kind, "ports": [{"port": 80}]}});
        patch_in(&mut service["spec"], extra);
        service
    };
    for (extra, part) in [
        (
            json!({"ports": [{"port": 80, "nodePort": 80}]}),
            "The range of valid ports is 30000-32767",
        ),
        (
            json!({"ipFamilies": ["IPv6"]}),
            "spec.ipFamilies[0]: Invalid value: \"IPv6\": not configured on this cluster",
        ),
        (
            json!({"ipFamilyPolicy": "RequireDualStack"}),
            "not configured for dual-stack",
        ),
    ] {
        let error = api
            .create(&SERVICES, "default", service("NodePort", extra), &by("t"))
            .unwrap_err();
        assert_eq!(error.code, 422);
        assert!(error.message.contains(part), "{error}");
    }
    let made = create(&api, &SERVICES, service("NodePort", json!({})));
    let port = made["spec"]["ports"][0]["nodePort"].as_u64().unwrap();
    let change = |kind: &str, port: u64| {
        let changes = json!({"spec": {"type": kind, "ports": [{"port": 80, "protocol": "TCP", "targetPort": 80, "nodePort": port}]}});
        api.patch(
            &SERVICES,
            "default",
            "s",
            Subresource::None,
            Patch::Merge(changes),
            &by("t"),
        )
    };
    let closed = change("ClusterIP", port).unwrap();
    assert!(
        closed["spec"]["ports"][0].get("nodePort").is_none(),
        "{closed}"
    );
    assert_eq!(change("ClusterIP", 31_000).unwrap_err().code, 422);
}

#[test]
fn a_delete_without_policy_follows_finalizers_then_the_resource() {
    let api = Api::in_memory();
    let jobs = Gvr::new("batch", "v1", "jobs");
    let job = json!({"metadata": {"name": "a"}, "spec": {"template": {"spec": {
        "restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}}});
    for (gvr, object, finalizer, propagation, expected) in [
        (&jobs, job.clone(), None, None, Some("orphan")),
        (&jobs, job, None, Some(Propagation::Background), None),
        (&CONFIG_MAPS, config("a", json!({})), None, None, None),
        (
            &CONFIG_MAPS,
            config("a", json!({})),
            Some("orphan"),
            None,
            Some("orphan"),
        ),
        (
            &CONFIG_MAPS,
            config("a", json!({})),
            Some("foregroundDeletion"),
            None,
            Some("foregroundDeletion"),
        ),
        (
            &CONFIG_MAPS,
            config("a", json!({})),
            Some("orphan"),
            Some(Propagation::Background),
            None,
        ),
    ] {
        let mut object = object;
        if let Some(finalizer) = finalizer {
            object["metadata"]["finalizers"] = json!([finalizer]);
        }
        create(&api, gvr, object);
        let options = DeleteOptions {
            propagation,
            ..DeleteOptions::default()
        };
        let deleted = api.delete_object(gvr, "default", "a", &options).unwrap();
        assert_eq!(
            deleted.removed,
            expected.is_none(),
            "{finalizer:?} {propagation:?}"
        );
        if let Some(expected) = expected {
            assert_eq!(deleted.object["metadata"]["finalizers"], json!([expected]));
            let release = Patch::Merge(json!({"metadata": {"finalizers": null}}));
            api.patch(gvr, "default", "a", Subresource::None, release, &by("t"))
                .unwrap();
        }
    }
}

#[test]
fn a_scale_has_owners() {
    let api = Api::in_memory();
    let apply = |subresource, config: Value, options: &WriteOptions| {
        api.patch(
            &DEPLOYMENTS,
            "default",
            "web",
            subresource,
            Patch::Apply(config),
            options,
        )
    };
    apply(Subresource::None, deployment(1), &by("one")).unwrap();
    let scale = |spec: Value| json!({"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": {"name": "web"}, "spec": spec});
    for (config, code, part) in [
        (
            scale(json!({"replicas": 3})),
            409,
            "conflict with \"one\": .spec.replicas",
        ),
        (
            scale(json!({"replicas": -1})),
            422,
            "greater than or equal to 0",
        ),
        (
            scale(json!({"size": 3})),
            400,
            ".spec.size: field not declared in schema",
        ),
        (deployment(3), 400, "kind Scale"),
    ] {
        let error = apply(Subresource::Scale, config, &by("scaler")).unwrap_err();
        assert_eq!(error.code, code, "{error}");
        assert!(error.message.contains(part), "{error}");
    }
    let force = WriteOptions {
        force: true,
        ..by("scaler")
    };
    let scaled = apply(Subresource::Scale, scale(json!({"replicas": 3})), &force).unwrap();
    assert_eq!(
        (&scaled["kind"], &scaled["spec"]["replicas"]),
        (&json!("Scale"), &json!(3))
    );
    let owner = |manager: &str, operation: &str| {
        let web = api.get(&DEPLOYMENTS, "default", "web").unwrap();
        web["metadata"]["managedFields"]
            .as_array()
            .unwrap()
            .iter()
            .any(|entry| {
                entry["manager"] == manager
                    && entry["operation"] == operation
                    && entry["subresource"] == "scale"
                    && entry["fieldsV1"]["f:spec"]["f:replicas"].is_object()
            })
    };
    assert!(owner("scaler", "Apply"));
    api.update(
        &DEPLOYMENTS,
        "default",
        "web",
        Subresource::Scale,
        scale(json!({"replicas": 5})),
        &by("hand"),
    )
    .unwrap();
    assert!(owner("hand", "Update") && !owner("scaler", "Apply"));
    assert_eq!(
        api.get(&DEPLOYMENTS, "default", "web").unwrap()["spec"]["replicas"],
        5
    );
}

#[test]
fn each_mistake_is_told_once() {
    let api = Api::in_memory();
    let mut object = config("a", json!({}));
    object["metadata"]["labels"] = json!({"a": "b c"});
    // Neither a name nor a standard one: two mistakes of one value.
    object["metadata"]["finalizers"] = json!(["x y"]);
    let error = api
        .create(&CONFIG_MAPS, "default", object, &by("t"))
        .unwrap_err();
    assert_eq!(
        error.details["causes"].as_array().unwrap().len(),
        3,
        "{error}"
    );
}
