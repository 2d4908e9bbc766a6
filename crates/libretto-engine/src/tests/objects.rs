//! Objects: applied, repaired, pruned, adopted, left alone; and what a crash leaves.

use super::*;

const APPLY: &str = r#"
sense:
  wanted: {watch: v1/Secret, reach: namespace, cols: {size: data.size}}
execute:
  - name: base
    apply:
      apiVersion: v1
      kind: Service
      metadata: {name: "{{ cr.name }}", labels: {app: demo}}
      spec: {selector: {app: demo}, type: "{{ 'NodePort' if cr.mode == 'open' else omit }}"}
  - name: sets
    for: SELECT name, CAST(size AS INTEGER) AS size FROM wanted ORDER BY name
    ignore: [spec.replicas]
    apply:
      apiVersion: apps/v1
      kind: StatefulSet
      metadata: {name: "set-{{ name }}"}
      spec: {replicas: "{{ size }}", serviceName: "{{ cr.name }}"}
"#;

fn want(f: &mut Fixture, name: &str, size: i64) {
    let former = f.world.find(&format!("Secret/{name}"));
    let uid = former.map_or(Value::Null, |reference| {
        f.world.objects[&reference]["metadata"]["uid"].clone()
    });
    let mut secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": "ns"}, "data": {"size": size}});
    if !uid.is_null() {
        secret["metadata"]["uid"] = uid;
    }
    f.put(secret);
}

fn ready(f: &mut Fixture, name: &str) {
    f.change(&format!("StatefulSet/{name}"), |set| {
        let replicas = set["spec"]["replicas"].clone();
        set["status"] = json!({"observedGeneration": set["metadata"]["generation"], "readyReplicas": replicas, "updatedReplicas": replicas});
    });
}

#[test]
fn an_object_carries_its_owner_and_its_labels() {
    let mut f = Fixture::new(APPLY);
    let plan = f.look(0);
    assert_eq!(plan.intents[0].rule, "@inventory", "written ahead");
    let Effect::Apply { object, adopt } = &plan.intents[1].effect else {
        panic!("{:?}", plan.intents)
    };
    assert!(!adopt);
    assert_eq!(
        object,
        &json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {
                "name": "demo", "namespace": "ns",
                "labels": {"app": "demo", "libretto.dev/instance": "cr-uid", "libretto.dev/package": "demo"},
                "ownerReferences": [{"apiVersion": "example.dev/v1", "kind": "Thing", "name": "demo", "uid": "cr-uid", "controller": true, "blockOwnerDeletion": true}],
            },
            "spec": {"selector": {"app": "demo"}},
        })
    );
}

#[test]
fn converged_means_nothing_to_write_also_after_a_restart() {
    let mut f = Fixture::new(APPLY);
    want(&mut f, "a", 1);
    assert_eq!(
        f.settle(),
        ["apply Service/demo", "apply StatefulSet/set-a"]
    );
    assert_eq!(
        f.condition("Ready"),
        "False InProgress: sets: StatefulSet ns/set-a is not ready"
    );
    ready(&mut f, "set-a");
    f.settle();
    assert_eq!(
        f.condition("Ready"),
        "True Settled: every rule's rows are settled"
    );
    assert!(f.look(0).settled);
    f.restart();
    let plan = f.look(3_600_000);
    assert_eq!(plan.intents, []);
    assert!(plan.settled);
    assert_eq!(plan.wake_at, None);
}

#[test]
fn drift_is_repaired_and_foreign_fields_are_left_alone() {
    let mut f = Fixture::new(APPLY);
    f.settle();
    f.change("Service/demo", |service| {
        service["spec"]["clusterIP"] = json!("10.1.1.1");
    });
    f.change("Service/demo", |service| {
        service["metadata"]["annotations"] = json!({"theirs": "x"});
    });
    assert_eq!(f.settle(), Vec::<String>::new());
    f.change("Service/demo", |service| {
        service["spec"]["selector"]["app"] = json!("hijacked");
    });
    assert_eq!(f.settle(), ["apply Service/demo"]);
    let service = f.world.find("Service/demo").unwrap();
    assert_eq!(
        f.world.objects[&service]["spec"],
        json!({"selector": {"app": "demo"}, "clusterIP": "10.1.1.1"})
    );
    f.delete("Service/demo");
    assert_eq!(f.settle(), ["apply Service/demo"], "deleted by somebody");
    f.change("Thing/demo", |thing| thing["spec"]["mode"] = json!("open"));
    assert_eq!(f.settle(), ["apply Service/demo"]);
    f.change("Thing/demo", |thing| {
        thing["spec"]["mode"] = json!("closed");
    });
    f.settle();
    let service = f.world.find("Service/demo").unwrap();
    assert!(
        f.world.objects[&service]["spec"].get("type").is_none(),
        "omitted is released"
    );
}

#[test]
fn ignored_fields_are_set_at_creation_and_then_never_touched() {
    let mut f = Fixture::new(APPLY);
    want(&mut f, "a", 2);
    f.settle();
    f.change("StatefulSet/set-a", |set| {
        set["spec"]["replicas"] = json!(7);
    });
    assert_eq!(
        f.settle(),
        Vec::<String>::new(),
        "an autoscaler's work is no drift"
    );
    want(&mut f, "a", 3);
    assert_eq!(
        f.settle(),
        Vec::<String>::new(),
        "nor is another wish for it a change"
    );
    f.change("StatefulSet/set-a", |set| {
        set["spec"]["serviceName"] = json!("wrong");
    });
    assert_eq!(f.settle(), ["apply StatefulSet/set-a"]);
    let set = f.world.find("StatefulSet/set-a").unwrap();
    assert_eq!(
        f.world.objects[&set]["spec"],
        json!({"replicas": 7, "serviceName": "demo"}),
        "another repair keeps it"
    );
}

#[test]
fn what_no_row_wants_is_deleted_if_it_is_ours() {
    let mut f = Fixture::new(APPLY);
    want(&mut f, "a", 1);
    want(&mut f, "b", 1);
    f.settle();
    let uid =
        f.world.objects[&f.world.find("StatefulSet/set-a").unwrap()]["metadata"]["uid"].clone();
    f.delete("Secret/a");
    let plan = f.look(0);
    let prune: Vec<&Intent> = plan
        .intents
        .iter()
        .filter(|intent| intent.rule == "sets")
        .collect();
    assert!(
        matches!(&prune[0].effect, Effect::Delete { object, uid: Some(found) } if object.name == "set-a" && json!(found) == uid)
    );
    assert_eq!(f.settle(), ["delete StatefulSet/set-a"]);
    assert!(!f.ledger.inventory().to_string().contains("set-a"));
    f.change("StatefulSet/set-b", |set| {
        set["metadata"]["ownerReferences"] = json!([]);
        set["metadata"]["labels"] = json!({});
    });
    f.delete("Secret/b");
    assert_eq!(f.settle(), Vec::<String>::new(), "somebody took it over");
    assert!(f.world.find("StatefulSet/set-b").is_some());
}

#[test]
fn nothing_is_deleted_because_a_query_failed() {
    let rest = APPLY.replace("apiVersion: apps/v1\n      kind: StatefulSet", "apiVersion: apps/v1\n      kind: StatefulSet\n      $when: \"{{ size < 100 or undefined_at_run.x }}\"");
    let rest = rest.replace("undefined_at_run.x", "cr.labels.missing.deep");
    let mut f = Fixture::new(&rest);
    want(&mut f, "a", 1);
    want(&mut f, "b", 1);
    f.settle();
    want(&mut f, "b", 100);
    f.delete("Secret/a");
    assert_eq!(f.settle(), Vec::<String>::new());
    assert!(f.world.find("StatefulSet/set-a").is_some());
    assert!(
        f.condition("Stalled")
            .starts_with("True RuleFailed: sets: row b: package.yaml:"),
        "{}",
        f.condition("Stalled")
    );
    f.restart();
    assert_eq!(f.settle(), Vec::<String>::new(), "nor after a restart");
    want(&mut f, "b", 1);
    assert_eq!(
        f.settle(),
        ["delete StatefulSet/set-a"],
        "when it is known again, it is done"
    );
}

#[test]
fn orphans_stay() {
    let mut f = Fixture::new(&APPLY.replace("ignore: [spec.replicas]", "leave: orphan"));
    want(&mut f, "a", 1);
    f.settle();
    f.delete("Secret/a");
    assert_eq!(f.settle(), Vec::<String>::new());
    assert!(f.world.find("StatefulSet/set-a").is_some());
}

#[test]
fn two_rules_for_one_object_are_one_too_many() {
    let rest = format!(
        "{APPLY}  - name: again\n    apply: {{apiVersion: v1, kind: Service, metadata: {{name: demo}}}}\n"
    );
    let mut f = Fixture::new(&rest);
    assert_eq!(f.settle(), ["apply Service/demo"], "the first one stands");
    assert_eq!(
        f.condition("Stalled"),
        "True RuleFailed: again: Service ns/demo is already written by rule base"
    );
}

#[test]
fn an_object_of_somebody_else_is_refused_or_adopted() {
    let mut f = Fixture::new(APPLY);
    f.put(json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "demo", "namespace": "ns"}, "spec": {"x": 1}}));
    f.go(0);
    f.go(0);
    assert_eq!(
        f.condition("Stalled"),
        "True FieldConflict: rule base, row v1/Service ns/demo: Service ns/demo exists and is not ours"
    );
    let mut f =
        Fixture::new(&APPLY.replace("  - name: base\n", "  - name: base\n    adopt: true\n"));
    f.put(json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "demo", "namespace": "ns"}, "spec": {"x": 1}}));
    assert_eq!(f.settle(), ["apply Service/demo"]);
}

#[test]
fn a_limit_on_objects_waits_for_those_that_are_not_ready() {
    let mut f = Fixture::new(&APPLY.replace("ignore: [spec.replicas]", "limit: 1"));
    want(&mut f, "a", 1);
    want(&mut f, "b", 1);
    assert_eq!(
        f.settle(),
        ["apply Service/demo", "apply StatefulSet/set-a"]
    );
    ready(&mut f, "set-a");
    assert_eq!(f.settle(), ["apply StatefulSet/set-b"]);
}

#[test]
fn after_objects_means_after_they_are_ready() {
    let rest = format!(
        "{APPLY}  - name: then\n    after: [sets]\n    call: event\n    with: {{reason: Then, message: now}}\n"
    );
    let mut f = Fixture::new(&rest);
    want(&mut f, "a", 1);
    assert_eq!(
        f.settle(),
        ["apply Service/demo", "apply StatefulSet/set-a"]
    );
    ready(&mut f, "set-a");
    assert_eq!(f.settle(), ["event Then: now"]);
}

#[test]
fn what_is_going_is_not_written_to() {
    let mut f = Fixture::new(APPLY);
    f.settle();
    f.change("Service/demo", |service| {
        service["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        service["spec"]["selector"]["app"] = json!("changed");
    });
    assert_eq!(f.settle(), Vec::<String>::new());
    assert_eq!(f.condition("Ready"), "False InProgress: base: 1 row to go");
    f.delete("Service/demo");
    assert_eq!(f.settle(), ["apply Service/demo"]);
}

#[test]
fn an_instance_that_goes_wants_nothing() {
    let rest = format!(
        "{APPLY}  - name: free\n    own: false\n    apply: {{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRole, metadata: {{name: demo-role, namespace: ''}}}}\n"
    );
    let mut f = Fixture::new(&rest);
    assert_eq!(
        f.settle(),
        [
            "patch Thing/demo",
            "apply Service/demo",
            "apply ClusterRole/demo-role"
        ],
        "the instance is held before anything is made that its deletion would leave behind"
    );
    let finalizers = |f: &Fixture| {
        f.world.objects[&f.world.find("Thing/demo").unwrap()]["metadata"]["finalizers"].clone()
    };
    assert_eq!(finalizers(&f), json!(["libretto.dev/demo"]));
    let role = f.world.find("ClusterRole/demo-role").unwrap();
    assert!(
        f.world.objects[&role]["metadata"]
            .get("ownerReferences")
            .is_none()
    );
    f.change("Thing/demo", |thing| {
        thing["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    });
    assert_eq!(
        f.settle(),
        ["delete ClusterRole/demo-role", "patch Thing/demo"],
        "the rest is garbage collection's"
    );
    assert_eq!(finalizers(&f), Value::Null);
    assert!(f.look(0).intents.is_empty(), "no status, no inventory");
}

const PATCH: &str = r#"
sense:
  pods: {watch: v1/Pod, reach: namespace, cols: {role: metadata.annotations.role}}
execute:
  - name: label
    for: SELECT name, role FROM pods WHERE role IS NOT NULL
    patch: {apiVersion: v1, kind: Pod, metadata: {name: "{{ name }}", labels: {role: "{{ role }}"}}}
"#;

#[test]
fn a_patch_holds_its_fields_and_lets_them_go() {
    let mut f = Fixture::new(PATCH);
    f.put(json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "ns", "labels": {"app": "x"}, "annotations": {"role": "master"}}}));
    assert_eq!(f.settle(), ["patch Pod/p"]);
    let labels = |f: &Fixture| {
        f.world.objects[&f.world.find("Pod/p").unwrap()]["metadata"]["labels"].clone()
    };
    assert_eq!(labels(&f), json!({"app": "x", "role": "master"}));
    f.change("Pod/p", |pod| {
        pod["metadata"]["labels"]["role"] = json!("wrong");
    });
    assert_eq!(f.settle(), ["patch Pod/p"], "drift");
    f.change("Pod/p", |pod| {
        pod["metadata"]["annotations"]["role"] = json!("replica");
    });
    assert_eq!(f.settle(), ["patch Pod/p"], "changed");
    f.restart();
    assert_eq!(f.settle(), Vec::<String>::new());
    f.change("Pod/p", |pod| pod["metadata"]["annotations"] = json!({}));
    assert_eq!(f.settle(), ["patch Pod/p"], "released with an empty apply");
    assert_eq!(labels(&f), json!({"app": "x"}));
    assert_eq!(f.settle(), Vec::<String>::new());
    f.change("Pod/p", |pod| {
        pod["metadata"]["annotations"] = json!({"role": "master"});
    });
    assert_eq!(f.settle(), ["patch Pod/p"]);
    f.delete("Pod/p");
    assert_eq!(f.settle(), Vec::<String>::new(), "nothing left to release");
    assert_eq!(f.ledger.inventory(), Value::Null);
}

#[test]
fn a_crash_between_any_two_effects_leaves_no_orphan_and_no_rest() {
    // The process dies after having carried out the first n intents and recorded all of them, or all but the last.
    for count in 0..8 {
        for recorded in [true, false] {
            let mut f = Fixture::new(APPLY);
            want(&mut f, "a", 1);
            want(&mut f, "b", 1);
            let mut inventory = Value::Null;
            let plan = f.look(0);
            f.ledger = plan.ledger.clone();
            for (number, intent) in plan.intents.iter().take(count).enumerate() {
                let outcome = f.execute(intent);
                if let Effect::Inventory { inventory: written } = &intent.effect {
                    inventory = written.clone();
                }
                if recorded || number + 1 < count {
                    f.ledger.record(intent, &outcome, f.now);
                }
            }
            f.deliver();
            f.ledger = Ledger::from_inventory(&inventory).unwrap();
            // Meanwhile nobody wants `a` any more.
            f.delete("Secret/a");
            f.settle();
            assert!(
                f.world.find("StatefulSet/set-a").is_none(),
                "after {count}, recorded {recorded}"
            );
            assert!(f.world.find("StatefulSet/set-b").is_some());
            assert_eq!(f.settle(), Vec::<String>::new());
        }
    }
}

#[test]
fn without_its_inventory_nothing_new_is_made() {
    let mut f = Fixture::new(APPLY);
    let fails = |intent: &Intent| {
        matches!(intent.effect, Effect::Inventory { .. }).then_some(FailureKind::Forbidden)
    };
    let plan = f.look(0);
    f.ledger = plan.ledger.clone();
    // The driver stops after a failed inventory.
    let outcome = Outcome::Failed(Failure {
        kind: FailureKind::Forbidden,
        message: "no".into(),
    });
    f.ledger.record(&plan.intents[0], &outcome, f.now);
    assert_eq!(
        f.go_with(0, fails),
        Vec::<String>::new(),
        "held back until it can be written"
    );
    assert!(
        f.condition("Stalled").starts_with("True EffectFailed"),
        "{}",
        f.condition("Stalled")
    );
    assert_eq!(f.go(1_300), ["apply Service/demo"]);
}

#[test]
fn an_object_elsewhere_is_seen_repaired_and_taken_away() {
    let mut f = Fixture::new(
        r#"
execute:
  - name: away
    own: false
    apply: {apiVersion: v1, kind: ConfigMap, metadata: {name: away, namespace: team}, data: {mode: "{{ cr.mode }}"}}
  - status: {fields: "SELECT count(*) AS size FROM objects"}
"#,
    );
    assert_eq!(f.settle(), ["patch Thing/demo", "apply ConfigMap/away"]);
    assert!(f.look(0).settled);
    // In SQL only what is in the instance's namespace counts: a label can be written by anybody.
    let thing = &f.world.objects[&f.world.find("Thing/demo").unwrap()];
    assert_eq!(thing["status"]["size"], 0);
    f.change("ConfigMap/away", |map| map["data"]["mode"] = json!("x"));
    assert_eq!(f.settle(), ["apply ConfigMap/away"]);
    f.change("Thing/demo", |thing| {
        thing["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    });
    assert_eq!(f.settle(), ["delete ConfigMap/away", "patch Thing/demo"]);
}

#[test]
fn what_a_former_package_made_of_another_kind_is_deleted() {
    let mut f = Fixture::new(APPLY);
    want(&mut f, "a", 1);
    f.settle();
    let inventory = f.ledger.inventory();
    // The package of the next process writes no StatefulSets any more, so nobody watches them.
    let mut next = Fixture::new(APPLY.split("  - name: sets").next().unwrap());
    next.ledger = Ledger::from_inventory(&inventory).unwrap();
    let service = f.world.objects[&f.world.find("Service/demo").unwrap()].clone();
    next.put(Value::clone(&service));
    assert_eq!(next.go(0), ["delete StatefulSet/set-a"]);
    assert_eq!(next.go(0), [""; 0]);
    assert!(next.look(0).settled);
}
