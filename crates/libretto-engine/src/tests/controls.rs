//! What a person asks of an instance: paused, stopped, unmanaged, overrides.

use super::*;

const WORKLOADS: &str = r#"apiVersion: libretto.dev/v1alpha1
kind: Package
metadata: {name: demo, version: 1.0.0}
spec:
  crd:
    group: example.dev
    kind: Thing
    version: v1
    overrides: true
    unmanaged: {annotation: old.example/unmanaged, value: "yes"}
    schema: {size: {type: int, default: 3}}
  execute:
    - name: web
      ignore: [spec.replicas]
      apply:
        apiVersion: apps/v1
        kind: Deployment
        metadata: {name: web}
        spec: {replicas: "{{ cr.size }}", template: {spec: {containers: [{name: web, image: web}, {name: log, image: log}]}}}
    - name: data
      apply:
        apiVersion: apps/v1
        kind: StatefulSet
        metadata: {name: data}
        spec: {replicas: "{{ cr.size }}"}
    - name: nightly
      apply:
        apiVersion: batch/v1
        kind: CronJob
        metadata: {name: nightly}
        spec: {schedule: "0 3 * * *"}
    - name: told
      once: true
      undo: {call: event, with: {reason: Forgotten, message: "{{ cr.size }}"}}
      call: event
      with: {reason: Sized, message: "{{ cr.size }}"}
"#;

fn fixture() -> Fixture {
    let files = BTreeMap::from([("package.yaml".to_owned(), WORKLOADS.to_owned())]);
    Fixture::with(&files, Arc::new(NoCharts))
}

/// Does what the controllers would.
fn ready(f: &mut Fixture) {
    for name in ["Deployment/web", "StatefulSet/data"] {
        f.change(name, |object| {
            let replicas = object["spec"]["replicas"].clone();
            object["status"] = json!({
                "observedGeneration": object["metadata"]["generation"],
                "replicas": replicas, "readyReplicas": replicas, "updatedReplicas": replicas, "availableReplicas": replicas,
            });
        });
    }
    f.settle();
}

fn spec(f: &mut Fixture, field: &str, value: Value) {
    f.change("Thing/demo", |thing| thing["spec"][field] = value);
}

fn at<'a>(f: &'a Fixture, name: &str, pointer: &str) -> &'a Value {
    f.world.objects[&f.world.find(name).unwrap()]
        .pointer(pointer)
        .unwrap_or(&Value::Null)
}

fn condition(f: &Fixture, kind: &str) -> (String, String, String) {
    let conditions = at(f, "Thing/demo", "/status/conditions");
    let found = conditions
        .as_array()
        .unwrap()
        .iter()
        .find(|condition| condition["type"] == kind)
        .unwrap();
    let text = |key: &str| found[key].as_str().unwrap().to_owned();
    (text("status"), text("reason"), text("message"))
}

#[test]
fn a_paused_instance_is_left_as_it_is_and_taken_up_again() {
    let mut f = fixture();
    f.settle();
    ready(&mut f);
    assert_eq!(condition(&f, "Ready").0, "True");
    spec(&mut f, "paused", json!(true));
    spec(&mut f, "size", json!(5));
    f.delete("StatefulSet/data");
    assert_eq!(
        f.go(0),
        Vec::<String>::new(),
        "neither changed nor repaired"
    );
    assert!(f.look(0).settled);
    let (status, reason, message) = condition(&f, "Reconciling");
    assert_eq!((status.as_str(), reason.as_str()), ("False", "Paused"));
    assert!(
        message.contains("until the instance is not paused"),
        "{message}"
    );
    assert_eq!(condition(&f, "Ready").0, "True", "as it was");
    assert_eq!(condition(&f, "Stalled").0, "False");
    assert_eq!(f.look(0).intents, [], "said once");
    spec(&mut f, "paused", json!(false));
    let done = f.settle();
    assert!(
        done.contains(&"apply StatefulSet/data".to_owned()),
        "{done:?}"
    );
    assert_eq!(at(&f, "StatefulSet/data", "/spec/replicas"), &json!(5));
    assert_ne!(condition(&f, "Reconciling").1, "Paused");
}

#[test]
fn an_annotation_pauses_any_kind_and_a_restart_forgets_nothing() {
    let mut f = fixture();
    f.change("Thing/demo", |thing| {
        thing["metadata"]["annotations"] = json!({"libretto.dev/paused": "true"});
    });
    assert_eq!(f.go(0), Vec::<String>::new());
    let (status, reason, _) = condition(&f, "Ready");
    assert_eq!((status.as_str(), reason.as_str()), ("Unknown", "Paused"));
    f.restart();
    assert_eq!(f.go(0), Vec::<String>::new());
    f.change("Thing/demo", |thing| {
        thing["metadata"]["annotations"] = json!({"libretto.dev/paused": "no"});
    });
    assert!(!f.settle().is_empty());
}

#[test]
fn a_deletion_is_not_paused() {
    let mut f = fixture();
    f.settle();
    spec(&mut f, "paused", json!(true));
    f.settle();
    f.change("Thing/demo", |thing| {
        thing["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        thing["metadata"]["finalizers"] = json!(["libretto.dev/demo"]);
    });
    let done = f.go(0);
    assert!(done.contains(&"event Forgotten: 3".to_owned()), "{done:?}");
}

#[test]
fn a_stopped_instance_has_no_replicas_and_comes_back_as_it_was() {
    let mut f = fixture();
    f.settle();
    ready(&mut f);
    // An autoscaler's doing, which is left alone.
    f.change("Deployment/web", |web| web["spec"]["replicas"] = json!(7));
    assert_eq!(f.settle(), Vec::<String>::new());
    spec(&mut f, "stopped", json!(true));
    f.settle();
    assert_eq!(at(&f, "Deployment/web", "/spec/replicas"), &json!(0));
    assert_eq!(at(&f, "StatefulSet/data", "/spec/replicas"), &json!(0));
    assert_eq!(at(&f, "CronJob/nightly", "/spec/suspend"), &json!(true));
    ready(&mut f);
    for (kind, expected) in [
        ("Ready", "False"),
        ("Reconciling", "False"),
        ("Stalled", "False"),
    ] {
        let (status, reason, _) = condition(&f, kind);
        assert_eq!(
            (status.as_str(), reason.as_str()),
            (expected, "Stopped"),
            "{kind}"
        );
    }
    f.restart();
    assert_eq!(
        f.settle(),
        Vec::<String>::new(),
        "a restart changes nothing"
    );
    spec(&mut f, "stopped", json!(false));
    f.settle();
    assert_eq!(at(&f, "Deployment/web", "/spec/replicas"), &json!(3));
    assert_eq!(at(&f, "StatefulSet/data", "/spec/replicas"), &json!(3));
    assert_eq!(at(&f, "CronJob/nightly", "/spec/suspend"), &Value::Null);
    ready(&mut f);
    assert_eq!(condition(&f, "Ready").0, "True");
}

#[test]
fn overrides_are_laid_over_the_objects_they_name() {
    let mut f = fixture();
    f.settle();
    ready(&mut f);
    spec(
        &mut f,
        "overrides",
        json!([
            {"kind": "Deployment", "patch": {
                "metadata": {"labels": {"team": "shop", "libretto.dev/package": "mine"}},
                "spec": {"template": {"spec": {"containers": [{"name": "log", "image": "log:2"}], "nodeSelector": {"disk": "ssd"}}}},
            }},
            {"kind": "StatefulSet", "name": "other", "patch": {"spec": {"replicas": 9}}},
        ]),
    );
    f.settle();
    let containers = at(&f, "Deployment/web", "/spec/template/spec/containers");
    assert_eq!(
        containers,
        &json!([{"name": "web", "image": "web"}, {"name": "log", "image": "log:2"}])
    );
    assert_eq!(
        at(&f, "Deployment/web", "/metadata/labels/team"),
        &json!("shop")
    );
    assert_eq!(
        at(
            &f,
            "Deployment/web",
            "/metadata/labels/libretto.dev~1package"
        ),
        &json!("demo"),
        "what marks an object as ours is not for users"
    );
    let (status, reason, message) = condition(&f, "Stalled");
    assert_eq!((status.as_str(), reason.as_str()), ("True", "RuleFailed"));
    assert!(
        message.contains("overrides: no object of kind StatefulSet with other; there are: CronJob/nightly, Deployment/web, StatefulSet/data"),
        "{message}"
    );
    spec(&mut f, "overrides", json!([{"kind": "Deployment"}]));
    f.settle();
    let (_, _, message) = condition(&f, "Stalled");
    assert!(message.contains("overrides[0]: needs `patch`"), "{message}");
    spec(&mut f, "overrides", json!([]));
    f.settle();
    ready(&mut f);
    assert_eq!(condition(&f, "Ready").0, "True");
    let containers = at(
        &f,
        "Deployment/web",
        "/spec/template/spec/containers/1/image",
    );
    assert_eq!(containers, &json!("log"));
}

#[test]
fn an_unmanaged_instance_is_nobodys() {
    for (annotation, value) in [
        ("libretto.dev/unmanaged", "true"),
        ("old.example/unmanaged", "yes"),
    ] {
        let mut f = fixture();
        f.settle();
        f.change("Thing/demo", |thing| {
            thing["metadata"]["annotations"] = json!({annotation: value});
        });
        assert!(f.mirror.snapshot("demo", "cr-uid").unwrap().is_none());
        f.change("Thing/demo", |thing| {
            thing["metadata"]["annotations"] = json!({annotation: "no more"});
        });
        f.restart();
        f.settle();
    }
}
