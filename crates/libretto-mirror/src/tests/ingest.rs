//! Taking objects in: only declared columns count, old news is ignored, owners are found in any order.

use libretto_api::object::{INSTANCE_LABEL, PACKAGE_LABEL};
use libretto_api::secret::{Piece, SecretHandle, pieces};
use serde_json::json;

use super::*;
use crate::MirrorError;

#[test]
fn only_declared_columns_wake() {
    let mut mirror = mirror();
    assert_eq!(woken(&apply(&mut mirror, &thing("a", 1))), ["a"]);
    let mut pod = child("Pod", "p", Some("a"), 2);
    assert_eq!(woken(&apply(&mut mirror, &pod)), ["a"]);
    let cases = [
        ("/status", json!({"podIP": "10.0.0.1"}), true),
        (
            "/status",
            json!({"podIP": "10.0.0.1", "hostIP": "1.1.1.1"}),
            false,
        ),
        ("/spec", json!({"containers": []}), false),
        ("/metadata/annotations", json!({"x": "y"}), false),
        (
            "/metadata/labels",
            json!({"app": "thing", "role": "master"}),
            true,
        ),
        (
            "/metadata/deletionTimestamp",
            json!("2026-01-01T00:00:00Z"),
            true,
        ),
    ];
    for (number, (place, value, wakes)) in cases.into_iter().enumerate() {
        pod["metadata"]["resourceVersion"] = json!((10 + number).to_string());
        let (parent, key) = place.rsplit_once('/').unwrap();
        let parent = if parent.is_empty() {
            &mut pod
        } else {
            pod.pointer_mut(parent).unwrap()
        };
        parent[key] = value;
        assert_eq!(!apply(&mut mirror, &pod).is_empty(), wakes, "{place}");
    }
}

#[test]
fn a_row_holds_the_columns_that_are_always_there() {
    let mut mirror = mirror();
    apply(&mut mirror, &thing("a", 1));
    let mut pod = child("Pod", "p", Some("a"), 2);
    pod["metadata"]["creationTimestamp"] = json!("1970-01-01T00:00:05Z");
    pod["metadata"]["generation"] = json!(4);
    pod["status"] =
        json!({"podIP": "10.0.0.1", "conditions": [{"type": "Ready", "status": "True"}]});
    apply(&mut mirror, &pod);
    let pods = &snapshot(&mirror, "a").tables["pods"];
    assert_eq!(
        *pods.columns,
        [
            "uid",
            "namespace",
            "name",
            "owner",
            "labels",
            "generation",
            "deleting",
            "created",
            "ip",
            "ready"
        ]
    );
    let expected: Vec<Datum> = vec![
        "u-p".into(),
        "ns".into(),
        "p".into(),
        "a".into(),
        r#"{"app":"thing"}"#.into(),
        Datum::Int(4),
        Datum::Int(0),
        Datum::Int(5000),
        "10.0.0.1".into(),
        Datum::Int(1),
    ];
    assert_eq!(pods.rows, [expected.into()]);
}

#[test]
fn an_older_version_is_ignored_and_a_late_answer_does_not_raise_the_dead() {
    let mut mirror = mirror();
    apply(&mut mirror, &thing("a", 1));
    let mut pod = child("Pod", "p", Some("a"), 7);
    pod["status"]["podIP"] = json!("new");
    apply(&mut mirror, &pod);
    pod["metadata"]["resourceVersion"] = json!("6");
    pod["status"]["podIP"] = json!("old");
    assert!(apply(&mut mirror, &pod).is_empty());
    assert_eq!(values(&snapshot(&mirror, "a"), "pods", "ip"), ["new"]);
    assert_eq!(
        woken(&delete(&mut mirror, "v1/Pod", "p", Some("u-p"))),
        ["a"]
    );
    pod["metadata"]["resourceVersion"] = json!("9");
    assert!(apply(&mut mirror, &pod).is_empty());
    assert!(snapshot(&mirror, "a").tables["pods"].rows.is_empty());
}

#[test]
fn a_delete_of_a_former_incarnation_does_not_touch_the_present_one() {
    let mut mirror = mirror();
    apply(&mut mirror, &thing("a", 1));
    apply(&mut mirror, &child("Pod", "p", Some("a"), 2));
    let mut again = child("Pod", "p", Some("a"), 5);
    again["metadata"]["uid"] = json!("u-second");
    apply(&mut mirror, &again);
    assert_eq!(
        values(&snapshot(&mirror, "a"), "pods", "uid"),
        ["u-second"],
        "never two rows of one name"
    );
    assert!(delete(&mut mirror, "v1/Pod", "p", Some("u-p")).is_empty());
    assert_eq!(values(&snapshot(&mirror, "a"), "pods", "uid"), ["u-second"]);
    assert_eq!(woken(&delete(&mut mirror, "v1/Pod", "p", None)), ["a"]);
}

#[test]
fn labels_select_and_deselect() {
    let mut mirror = mirror();
    apply(&mut mirror, &thing("a", 1));
    let mut pod = child("Pod", "p", Some("a"), 2);
    apply(&mut mirror, &pod);
    pod["metadata"]["resourceVersion"] = json!("3");
    pod["metadata"]["labels"] = json!({"app": "other"});
    assert_eq!(woken(&apply(&mut mirror, &pod)), ["a"]);
    assert!(snapshot(&mirror, "a").tables["pods"].rows.is_empty());
}

#[test]
fn owners_are_found_through_objects_that_come_later() {
    let mut mirror = mirror();
    apply(&mut mirror, &child("Pod", "p", Some("u-rs"), 1));
    let mut set = child("ReplicaSet", "rs", Some("u-deploy"), 2);
    set["apiVersion"] = json!("apps/v1");
    apply(&mut mirror, &set);
    let mut deployment = child("Deployment", "deploy", Some("a"), 3);
    deployment["apiVersion"] = json!("apps/v1");
    assert!(
        apply(&mut mirror, &deployment).is_empty(),
        "the instance is not known yet"
    );
    assert_eq!(woken(&apply(&mut mirror, &thing("a", 4))), ["a"]);
    assert_eq!(values(&snapshot(&mirror, "a"), "pods", "name"), ["p"]);
    // The same with the instance first.
    let mut mirror = self::mirror();
    apply(&mut mirror, &thing("a", 1));
    apply(&mut mirror, &child("Pod", "p", Some("u-rs"), 1));
    apply(&mut mirror, &set);
    assert_eq!(woken(&apply(&mut mirror, &deployment)), ["a"]);
    assert_eq!(values(&snapshot(&mirror, "a"), "pods", "owner"), ["a"]);
}

#[test]
fn a_label_makes_an_owner_only_within_the_instances_namespace() {
    let mut mirror = mirror();
    apply(&mut mirror, &thing("a", 1));
    let mut pod = child("Pod", "p", None, 2);
    pod["metadata"]["labels"][INSTANCE_LABEL] = json!("a");
    apply(&mut mirror, &pod);
    let mut forged = child("Pod", "forged", None, 3);
    forged["metadata"]["namespace"] = json!("elsewhere");
    forged["metadata"]["labels"][INSTANCE_LABEL] = json!("a");
    apply(&mut mirror, &forged);
    assert_eq!(values(&snapshot(&mirror, "a"), "pods", "name"), ["p"]);
}

#[test]
fn reach_namespace_wakes_every_instance_there() {
    let mut mirror = mirror();
    apply(&mut mirror, &thing("a", 1));
    apply(&mut mirror, &thing("b", 2));
    let mut elsewhere = thing("c", 3);
    elsewhere["metadata"]["namespace"] = json!("other");
    apply(&mut mirror, &elsewhere);
    let mut service = child("Service", "s", None, 4);
    service["spec"] = json!({"ports": [{"name": "http", "port": 80}]});
    assert_eq!(woken(&apply(&mut mirror, &service)), ["a", "b"]);
    assert_eq!(values(&snapshot(&mirror, "b"), "services", "port"), ["80"]);
    assert!(snapshot(&mirror, "c").tables["services"].rows.is_empty());
}

#[test]
fn a_relist_replaces_a_kind_at_once() {
    let mut mirror = mirror();
    apply(&mut mirror, &thing("a", 1));
    for name in ["p", "q"] {
        apply(&mut mirror, &child("Pod", name, Some("a"), 2));
    }
    let pods = gvk("v1/Pod");
    let same = [
        child("Pod", "p", Some("a"), 2),
        child("Pod", "q", Some("a"), 2),
    ];
    assert!(mirror.replace_all(&pods, None, &same).unwrap().is_empty());
    let dirty = mirror.replace_all(&pods, None, &same[1..]).unwrap();
    assert_eq!(woken(&dirty), ["a"]);
    assert_eq!(values(&snapshot(&mirror, "a"), "pods", "name"), ["q"]);
    assert!(
        mirror
            .replace_all(&pods, Some("other"), &[])
            .unwrap()
            .is_empty(),
        "another namespace's list says nothing here"
    );
    // Missing from a list taken before it was made: the watch brings it back.
    mirror.replace_all(&pods, Some("ns"), &[]).unwrap();
    assert_eq!(
        woken(&apply(&mut mirror, &child("Pod", "q", Some("a"), 2))),
        ["a"]
    );
}

#[test]
fn scope_decides_whose_instance_it_is() {
    let scoped = |value: Option<&str>| {
        let mut object = thing("a", 1);
        if let Some(value) = value {
            object["metadata"]["annotations"] = json!({"example.dev/scope": value});
        }
        object
    };
    let cases = [
        (ScopeMode::Any, None, true),
        (ScopeMode::Any, Some("cluster"), true),
        (ScopeMode::Cluster, Some("cluster"), true),
        (ScopeMode::Cluster, Some("else"), false),
        (ScopeMode::Cluster, None, false),
        (ScopeMode::Namespace, None, true),
        (ScopeMode::Namespace, Some("else"), true),
        (ScopeMode::Namespace, Some("cluster"), false),
    ];
    for (mode, annotation, expected) in cases {
        let mut mirror = Mirror::new(mode);
        mirror.declare(schema());
        apply(&mut mirror, &scoped(annotation));
        assert_eq!(
            mirror.snapshot("demo", "a").unwrap().is_some(),
            expected,
            "{mode:?} {annotation:?}"
        );
    }
    let mut mirror = Mirror::new(ScopeMode::Namespace);
    mirror.declare(schema());
    apply(&mut mirror, &thing("a", 1));
    let mut moved = scoped(Some("cluster"));
    moved["metadata"]["resourceVersion"] = json!("2");
    let dirty = apply(&mut mirror, &moved);
    assert_eq!(dirty.gone.len(), 1, "it left our scope");
    assert!(mirror.instances().is_empty());
}

#[test]
fn fields_have_defaults_and_secrets_have_handles() {
    let mut mirror = mirror();
    let mut object = thing("a", 1);
    object["spec"] = json!({"password": "hunter2"});
    // What `kubectl apply` remembers of the object.
    object["metadata"]["annotations"]["kubectl.kubernetes.io/last-applied-configuration"] =
        json!("{\"spec\":{\"password\":\"hunter2\"}}");
    apply(&mut mirror, &object);
    let first = snapshot(&mirror, "a");
    assert_eq!(first.cr("size"), &Datum::Int(3));
    let handle = first.cr("password").as_str().unwrap().to_owned();
    assert!(!format!("{first:?}").contains("hunter2"));
    assert!(
        matches!(pieces(&handle).as_slice(), [Piece::Handle(SecretHandle::Field { field, digest })] if field == "password" && digest.len() == 16)
    );
    object["metadata"]["resourceVersion"] = json!("2");
    object["spec"]["password"] = json!("hunter3");
    assert_eq!(
        woken(&apply(&mut mirror, &object)),
        ["a"],
        "another password is a change"
    );
    assert_ne!(
        snapshot(&mirror, "a").cr("password").as_str(),
        Some(handle.as_str())
    );
    object["metadata"]["resourceVersion"] = json!("3");
    object["spec"]["password"] = json!("");
    apply(&mut mirror, &object);
    assert_eq!(snapshot(&mirror, "a").cr("password").as_str(), Some(""));
    assert_eq!(snapshot(&mirror, "a").cr("status").as_str(), Some("{}"));
}

#[test]
fn a_deleted_instance_is_gone_with_its_answers() {
    let mut mirror = mirror();
    apply(&mut mirror, &thing("a", 1));
    mirror
        .probe_result("demo", "a", "info", "k", Ok(&json!({"role": "master"})), 1)
        .unwrap();
    let dirty = delete(&mut mirror, "example.dev/v1/Thing", "a", Some("a"));
    assert_eq!((dirty.instances.len(), dirty.gone.len()), (0, 1));
    assert!(mirror.snapshot("demo", "a").unwrap().is_none());
    let late = mirror
        .probe_result("demo", "a", "info", "k", Err("late"), 2)
        .unwrap();
    assert!(late.is_empty());
    let left = mirror
        .query("SELECT count(*) FROM demo__info", crate::Limits::QUERY)
        .unwrap();
    assert_eq!(left.rows, [[Datum::Int(0)].into()]);
}

#[test]
fn a_missed_probe_is_known_at_once_and_believed_later() {
    let mut mirror = mirror();
    apply(&mut mirror, &thing("a", 1));
    let master = json!({"role": "master"});
    let mut at = 0;
    let mut ask = |mirror: &mut Mirror, answer: Result<&Value, &str>| {
        at += 1000;
        let dirty = mirror
            .probe_result("demo", "a", "info", "k", answer, at)
            .unwrap();
        let snapshot = snapshot(mirror, "a");
        let row: Vec<String> = ["ok", "role", "error"]
            .iter()
            .map(|column| values(&snapshot, "info", column).join(","))
            .collect();
        (!dirty.is_empty(), row.join("|"))
    };
    assert_eq!(
        ask(&mut mirror, Err("refused")),
        (true, "0||refused".into()),
        "never answered"
    );
    assert_eq!(
        ask(&mut mirror, Err("refused")),
        (false, "0||refused".into())
    );
    assert_eq!(ask(&mut mirror, Ok(&master)), (true, "1|master|".into()));
    assert_eq!(
        ask(&mut mirror, Ok(&master)),
        (false, "1|master|".into()),
        "when it was asked is no news"
    );
    assert_eq!(
        ask(&mut mirror, Err("refused")),
        (true, "0|master|refused".into()),
        "one miss"
    );
    assert_eq!(
        ask(&mut mirror, Err("refused")),
        (true, "0||refused".into()),
        "two misses"
    );
    assert_eq!(ask(&mut mirror, Ok(&master)), (true, "1|master|".into()));
    assert_eq!(values(&snapshot(&mirror, "a"), "info", "at"), ["7000"]);
}

#[test]
fn answers_of_targets_that_are_no_more_go_unless_nobody_knows() {
    let mut mirror = mirror();
    apply(&mut mirror, &thing("a", 1));
    for key in ["k", "l"] {
        mirror
            .probe_result("demo", "a", "info", key, Err("x"), 1)
            .unwrap();
    }
    let none = std::collections::BTreeSet::new();
    assert!(
        mirror
            .retain_probes("demo", "a", &none, &["info".to_owned()])
            .unwrap()
            .is_empty()
    );
    let one = [("info".to_owned(), "l".to_owned())].into();
    assert_eq!(
        woken(&mirror.retain_probes("demo", "a", &one, &[]).unwrap()),
        ["a"]
    );
    assert_eq!(values(&snapshot(&mirror, "a"), "info", "key"), ["l"]);
}

#[test]
fn objects_show_what_is_ours_and_what_we_hold() {
    let mut mirror = mirror();
    apply(&mut mirror, &thing("a", 1));
    let mut set = child("StatefulSet", "s", Some("a"), 2);
    set["apiVersion"] = json!("apps/v1");
    assert!(
        apply(&mut mirror, &set).is_empty(),
        "somebody else's, in our lineage or not"
    );
    set["metadata"]["labels"][PACKAGE_LABEL] = json!("demo");
    set["metadata"]["managedFields"] = json!([{"manager": "libretto:demo", "operation": "Apply", "fieldsV1": {"f:spec": {"f:replicas": {}, "f:serviceName": {}}}}]);
    set["spec"] = json!({"replicas": 1, "serviceName": "s"});
    set["metadata"]["resourceVersion"] = json!("3");
    assert_eq!(woken(&apply(&mut mirror, &set)), ["a"]);
    let row = snapshot(&mirror, "a").objects[0].clone();
    assert_eq!((row.owned, row.ready, row.held.len()), (true, false, 32));
    assert_eq!(row.ignored["spec.replicas"], json!(1));
    set["metadata"]["resourceVersion"] = json!("4");
    set["status"] = json!({"observedGeneration": 0});
    assert!(
        apply(&mut mirror, &set).is_empty(),
        "a status that makes nothing ready"
    );
    set["metadata"]["resourceVersion"] = json!("5");
    set["status"] = json!({"readyReplicas": 1, "updatedReplicas": 1});
    assert_eq!(woken(&apply(&mut mirror, &set)), ["a"]);
    assert!(snapshot(&mirror, "a").objects[0].ready);
    set["metadata"]["resourceVersion"] = json!("6");
    set["spec"]["replicas"] = json!(2);
    set["status"] = json!({"readyReplicas": 2, "updatedReplicas": 2});
    apply(&mut mirror, &set);
    let again = snapshot(&mirror, "a").objects[0].clone();
    assert_eq!(again.held, row.held, "replicas are left to others");
    assert_eq!(again.ignored["spec.replicas"], json!(2));
}

#[test]
fn a_package_declared_again_starts_empty() {
    let mut mirror = mirror();
    apply(&mut mirror, &thing("a", 1));
    mirror.declare(schema());
    assert!(mirror.instances().is_empty());
    assert_eq!(
        woken(&apply(&mut mirror, &thing("a", 1))),
        ["a"],
        "the same version counts again"
    );
    mirror.withdraw("demo");
    assert!(matches!(
        mirror.snapshot("demo", "a"),
        Err(MirrorError::UnknownPackage(_))
    ));
}

#[test]
fn what_makes_no_sense_is_refused_by_name() {
    let mut mirror = mirror();
    let mut pod = child("Pod", "p", None, 1);
    pod["metadata"]["uid"] = json!("");
    let error = mirror
        .ingest(&gvk("v1/Pod"), Change::Applied(&pod))
        .unwrap_err();
    assert_eq!(error.to_string(), "v1/Pod p has no metadata.uid");
    apply(&mut mirror, &thing("a", 1));
    let error = mirror
        .probe_result("demo", "a", "nothing", "k", Err("x"), 1)
        .unwrap_err();
    assert_eq!(error.to_string(), "package demo has no table nothing");
}

#[test]
fn a_snapshot_survives_being_written_down() {
    let mut mirror = mirror();
    apply(&mut mirror, &thing("a", 1));
    apply(&mut mirror, &child("Pod", "p", Some("a"), 2));
    let snapshot = snapshot(&mirror, "a");
    let text = serde_json::to_string(&snapshot).unwrap();
    assert_eq!(serde_json::from_str::<Snapshot>(&text).unwrap(), snapshot);
}
