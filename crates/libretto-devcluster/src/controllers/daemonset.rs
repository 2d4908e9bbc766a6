//! DaemonSets: one pod on every node that takes it.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde_json::{Value, json};

use super::cache::{Cache, ObjectKey};
use super::kinds::{CONTROLLER_REVISIONS, DAEMON_SETS, NODES, PODS};
use super::object::{self, deleting, entry, flag, int, items, label, text};
use super::plan::{Action, Controller, Note, Plan};
use super::revisions::{self, REVISION_LABEL};
use super::{pods, scheduler};

/// Taints of a troubled node that daemons put up with.
const TOLERATED: [(&str, &str); 6] = [
    ("node.kubernetes.io/not-ready", "NoExecute"),
    ("node.kubernetes.io/unreachable", "NoExecute"),
    ("node.kubernetes.io/disk-pressure", "NoSchedule"),
    ("node.kubernetes.io/memory-pressure", "NoSchedule"),
    ("node.kubernetes.io/pid-pressure", "NoSchedule"),
    ("node.kubernetes.io/unschedulable", "NoSchedule"),
];

#[derive(Debug)]
pub(crate) struct DaemonSets;

impl Controller for DaemonSets {
    fn component(&self) -> &'static str {
        "daemonset-controller"
    }

    fn touched(&self, cache: &Cache, key: &ObjectKey, object: &Value, dirty: &mut Vec<ObjectKey>) {
        if key.gvr == DAEMON_SETS {
            dirty.push(key.clone());
        } else if key.gvr == PODS || key.gvr == CONTROLLER_REVISIONS {
            pods::touch_owner(cache, &DAEMON_SETS, object, dirty);
        } else if key.gvr == NODES {
            dirty.extend(
                cache
                    .all(&DAEMON_SETS)
                    .map(|set| ObjectKey::of(&DAEMON_SETS, set)),
            );
        }
    }

    fn reconcile(&self, cache: &Cache, key: &ObjectKey, now: Timestamp) -> Plan {
        let mut plan = Plan::default();
        if let Some(set) = cache.at(key) {
            reconcile(cache, set, now, &mut plan);
        }
        plan
    }
}

/// The node a daemon pod is on or meant for.
fn node_of(pod: &Value) -> &str {
    let placed = text(pod, "/spec/nodeName");
    if !placed.is_empty() {
        return placed;
    }
    let terms = "/spec/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms";
    items(pod, terms)
        .iter()
        .flat_map(|term| items(term, "/matchFields"))
        .find(|field| text(field, "/key") == "metadata.name")
        .map_or("", |field| text(field, "/values/0"))
}

/// What this controller cannot do, with what to do instead.
fn unsupported(set: &Value) -> Option<&'static str> {
    let surge = set.pointer("/spec/updateStrategy/rollingUpdate/maxSurge");
    // Of a hundred, so that every percentage above zero counts.
    (object::scaled(surge, 100, true).unwrap_or(0) > 0).then_some(
        "updateStrategy.rollingUpdate.maxSurge is not supported by the embedded cluster; use maxUnavailable",
    )
}

/// Says so in a condition, and once in an event; pods are left as they are.
fn refuse(set: &Value, message: &str, now: Timestamp, plan: &mut Plan) {
    let mut status = set["status"].clone();
    if !status.is_object() {
        status = json!({"desiredNumberScheduled": 0, "currentNumberScheduled": 0, "numberMisscheduled": 0, "numberReady": 0});
    }
    let said = items(&status, "/conditions")
        .iter()
        .any(|condition| text(condition, "/reason") == "NotSupported");
    status["observedGeneration"] = object::generation(set).into();
    if !said {
        status["conditions"] = json!([{
            "type": "Progressing", "status": "False", "reason": "NotSupported", "message": message,
            "lastTransitionTime": object::rfc3339(now),
        }]);
        plan.push(Action::Note(Note::warning(
            &DAEMON_SETS,
            set,
            "NotSupported",
            message.to_owned(),
        )));
    }
    plan.status(&DAEMON_SETS, set, status);
}

fn reconcile(cache: &Cache, set: &Value, now: Timestamp, plan: &mut Plan) {
    if let Some(message) = unsupported(set).filter(|_| !deleting(set)) {
        refuse(set, message, now, plan);
        return;
    }
    let claimed = pods::claim(cache, &PODS, &DAEMON_SETS, set, |_| true, plan);
    let history = revisions::sync(cache, &DAEMON_SETS, set, plan);
    let hash = label(&history.update, REVISION_LABEL);
    let min_ready = int(set, "/spec/minReadySeconds").unwrap_or(0);
    let mut by_node: BTreeMap<&str, Vec<&Value>> = BTreeMap::new();
    for pod in claimed {
        by_node.entry(node_of(pod)).or_default().push(pod);
    }
    for pods in by_node.values_mut() {
        // The oldest running one stays when there are several.
        pods.sort_by_key(|pod| (!pods::ready(pod), object::created(pod)));
    }
    let nodes: Vec<&Value> = cache.all(&NODES).map(|node| &**node).collect();
    let wanted: BTreeSet<&str> = nodes
        .iter()
        .filter(|node| runs_on(&daemon_pod(set, node, hash), node))
        .map(|node| object::name(node))
        .collect();

    let mut numbers = Numbers {
        desired: wanted.len() as i64,
        ..Numbers::default()
    };
    let mut create = Vec::new();
    let mut delete: Vec<&Value> = Vec::new();
    let mut outdated: Vec<(&Value, bool)> = Vec::new();
    let mut away = 0;
    for node in &nodes {
        let name = object::name(node);
        let here = by_node.remove(name).unwrap_or_default();
        if !wanted.contains(name) {
            numbers.misplaced += i64::from(!here.is_empty());
            delete.extend(here.into_iter().filter(|pod| !deleting(pod)));
            continue;
        }
        let Some(pod) = here.iter().find(|pod| !pods::finished(pod)).copied() else {
            away += 1;
            for pod in here.iter().filter(|pod| !deleting(pod)) {
                plan.push(Action::Note(Note::warning(
                    &DAEMON_SETS,
                    set,
                    "FailedDaemonPod",
                    format!(
                        "Found failed daemon pod {}/{} on node {name}, will try to kill it",
                        object::namespace(pod),
                        object::name(pod)
                    ),
                )));
                delete.push(pod);
            }
            if here.is_empty() {
                create.push(*node);
            }
            continue;
        };
        let available = pods::available(pod, min_ready, now, plan) && !deleting(pod);
        numbers.current += 1;
        numbers.ready += i64::from(pods::ready(pod));
        numbers.available += i64::from(available);
        let updated = label(pod, REVISION_LABEL) == hash;
        numbers.updated += i64::from(updated);
        if !available {
            away += 1;
        }
        if !updated && !deleting(pod) {
            outdated.push((pod, available));
        }
        delete.extend(
            here.iter()
                .filter(|other| object::uid(other) != object::uid(pod) && !deleting(other)),
        );
    }
    // Pods of nodes that are gone.
    for pods in by_node.into_values() {
        delete.extend(pods.into_iter().filter(|pod| !deleting(pod)));
    }
    let status = status(set, &numbers, history.collisions);
    plan.status(&DAEMON_SETS, set, status);
    let live: BTreeSet<&str> = cache
        .controlled(&PODS, object::uid(set))
        .into_iter()
        .map(|pod| label(pod, REVISION_LABEL))
        .collect();
    revisions::truncate(set, &history, &live, plan);
    if deleting(set) {
        plan.actions
            .retain(|action| matches!(action, Action::Update { .. }));
        return;
    }
    if text(set, "/spec/updateStrategy/type") != "OnDelete" {
        let allowed = object::scaled(
            set.pointer("/spec/updateStrategy/rollingUpdate/maxUnavailable"),
            numbers.desired,
            true,
        )
        .unwrap_or(1)
        .max(1);
        for (pod, available) in outdated {
            if !available {
                delete.push(pod);
            } else if away < allowed {
                away += 1;
                delete.push(pod);
            }
        }
    }
    for pod in delete {
        plan.push(pods::delete_with_notes(
            pod,
            Note::normal(
                &DAEMON_SETS,
                set,
                "SuccessfulDelete",
                format!("Deleted pod: {}", object::name(pod)),
            ),
            Note::warning(&DAEMON_SETS, set, "FailedDelete", "Error deleting: "),
        ));
    }
    for node in create {
        plan.push(Action::Create {
            gvr: PODS.clone(),
            object: daemon_pod(set, node, hash),
            done: Some(Note::normal(
                &DAEMON_SETS,
                set,
                "SuccessfulCreate",
                "Created pod: ",
            )),
            failed: Some(Note::warning(
                &DAEMON_SETS,
                set,
                "FailedCreate",
                "Error creating: ",
            )),
        });
    }
}

fn runs_on(pod: &Value, node: &Value) -> bool {
    // Readiness and pressure do not count (the tolerations say so); selectors and an administrator's own taints do.
    scheduler::matches_node_affinity(pod, node)
        && items(node, "/spec/taints")
            .iter()
            .filter(|taint| matches!(text(taint, "/effect"), "NoSchedule" | "NoExecute"))
            .all(|taint| scheduler::tolerates(pod, taint))
}

#[derive(Debug, Default)]
struct Numbers {
    desired: i64,
    current: i64,
    misplaced: i64,
    ready: i64,
    available: i64,
    updated: i64,
}

fn status(set: &Value, numbers: &Numbers, collisions: i64) -> Value {
    let mut status = json!({
        "observedGeneration": object::generation(set),
        "desiredNumberScheduled": numbers.desired,
        "currentNumberScheduled": numbers.current,
        "numberMisscheduled": numbers.misplaced,
        "numberReady": numbers.ready,
    });
    for (member, number) in [
        ("numberAvailable", numbers.available),
        ("numberUnavailable", numbers.desired - numbers.available),
        ("updatedNumberScheduled", numbers.updated),
        ("collisionCount", collisions),
    ] {
        if number > 0 {
            status[member] = number.into();
        }
    }
    status
}

fn daemon_pod(set: &Value, node: &Value, hash: &str) -> Value {
    let template = set
        .pointer("/spec/template")
        .cloned()
        .unwrap_or_else(|| json!({}));
    let mut pod = pods::from_template(&DAEMON_SETS, set, &template);
    pod["metadata"]["generateName"] = pods::generate_name(object::name(set)).into();
    object::set_label(&mut pod, REVISION_LABEL, hash);
    let generation = object::annotation(set, "deprecated.daemonset.template.generation");
    if !generation.is_empty() {
        object::set_label(&mut pod, "pod-template-generation", generation);
    }
    let mut tolerations = items(&pod, "/spec/tolerations").to_vec();
    for (key, effect) in TOLERATED {
        tolerations.push(json!({"key": key, "operator": "Exists", "effect": effect}));
    }
    if flag(&pod, "/spec/hostNetwork") {
        tolerations.push(json!({
            "key": "node.kubernetes.io/network-unavailable", "operator": "Exists", "effect": "NoSchedule",
        }));
    }
    pod["spec"]["tolerations"] = tolerations.into();
    let field = json!({"key": "metadata.name", "operator": "In", "values": [object::name(node)]});
    let affinity = entry(&mut pod["spec"], "affinity", || json!({}));
    let affinity = entry(affinity, "nodeAffinity", || json!({}));
    let required = entry(
        affinity,
        "requiredDuringSchedulingIgnoredDuringExecution",
        || json!({}),
    );
    // The template's own terms stay, each narrowed to this node.
    let mut terms = items(required, "/nodeSelectorTerms").to_vec();
    if terms.is_empty() {
        terms.push(json!({}));
    }
    for term in &mut terms {
        term["matchFields"] = json!([field]);
    }
    required["nodeSelectorTerms"] = terms.into();
    pod
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::simulator::Simulator;
    use super::*;

    fn set(image: &str, spec: &Value) -> Value {
        let mut template = json!({
            "metadata": {"labels": {"app": "agent"}},
            "spec": {"containers": [{"name": "c", "image": image}]},
        });
        for (member, value) in spec.as_object().unwrap() {
            template["spec"][member] = value.clone();
        }
        json!({
            "metadata": {"namespace": "n", "name": "agent"},
            "spec": {"selector": {"matchLabels": {"app": "agent"}}, "template": template},
        })
    }

    fn cluster(nodes: &[&str]) -> Simulator {
        let mut simulator = Simulator::new(
            1,
            vec![Box::new(DaemonSets), Box::new(scheduler::Scheduler)],
        );
        for name in nodes {
            simulator.apply(
                &NODES,
                json!({"metadata": {"name": name, "labels": {"name": name}}, "status": {"allocatable": {"cpu": "1"}}}),
            );
        }
        simulator
    }

    fn converge(simulator: &mut Simulator) {
        for _ in 0..100 {
            assert!(simulator.settle(100));
            simulator.kubelet(false);
            simulator.pass_time(1);
        }
        assert!(simulator.settle(100));
    }

    fn placed(simulator: &Simulator) -> Vec<(String, String)> {
        let mut placed: Vec<_> = simulator
            .pods("n")
            .iter()
            .map(|pod| {
                (
                    node_of(pod).to_owned(),
                    text(pod, "/spec/containers/0/image").to_owned(),
                )
            })
            .collect();
        placed.sort();
        placed
    }

    #[test]
    fn one_pod_on_each_node_that_takes_it() {
        let mut simulator = cluster(&["a", "b"]);
        simulator.apply(&DAEMON_SETS, set("1", &json!({})));
        assert!(simulator.settle(100));
        let both = |image: &str| {
            [
                ("a".to_owned(), image.to_owned()),
                ("b".to_owned(), image.to_owned()),
            ]
        };
        assert_eq!(placed(&simulator), both("1"));
        simulator.apply(&NODES, json!({"metadata": {"name": "b", "labels": {"name": "b"}}, "spec": {"taints": [{"key": "x", "effect": "NoSchedule"}]}, "status": {"allocatable": {"cpu": "1"}}}));
        converge(&mut simulator);
        assert_eq!(placed(&simulator), both("1")[..1]);
    }

    #[test]
    fn updates_replace_one_node_at_a_time_and_settle() {
        let mut simulator = cluster(&["a", "b"]);
        simulator.apply(&DAEMON_SETS, set("1", &json!({})));
        converge(&mut simulator);
        simulator.apply(&DAEMON_SETS, set("2", &json!({})));
        assert!(simulator.settle(100));
        let leaving = simulator
            .pods("n")
            .iter()
            .filter(|pod| deleting(pod))
            .count();
        assert_eq!(leaving, 1);
        converge(&mut simulator);
        assert_eq!(
            placed(&simulator),
            [
                ("a".to_owned(), "2".to_owned()),
                ("b".to_owned(), "2".to_owned())
            ]
        );
        let status = simulator.cache.get(&DAEMON_SETS, "n", "agent").unwrap()["status"].clone();
        assert_eq!(
            status,
            json!({
                "observedGeneration": 2, "desiredNumberScheduled": 2, "currentNumberScheduled": 2,
                "numberMisscheduled": 0, "numberReady": 2, "numberAvailable": 2, "updatedNumberScheduled": 2,
            })
        );
        let writes = simulator.writes;
        simulator.change(&ObjectKey::new(&NODES, "", "a"), |node| {
            node["status"]["beat"] = 1.into();
        });
        assert!(simulator.settle(100));
        assert_eq!(simulator.writes, writes);
    }

    #[test]
    fn surging_is_refused_loudly_and_once() {
        let mut simulator = cluster(&["a"]);
        let with = |surge: Value| {
            let mut set = set("1", &json!({}));
            set["spec"]["updateStrategy"] =
                json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": surge}});
            set
        };
        simulator.apply(&DAEMON_SETS, with("10%".into()));
        assert!(simulator.settle(100));
        simulator.apply(&DAEMON_SETS, with(1.into()));
        converge(&mut simulator);
        assert_eq!(placed(&simulator), []);
        let said = simulator
            .events
            .iter()
            .filter(|event| event.contains("maxSurge is not supported"))
            .count();
        assert_eq!(said, 1);
        let conditions = |simulator: &Simulator| {
            let set = simulator.cache.get(&DAEMON_SETS, "n", "agent").unwrap();
            set["status"]["conditions"].clone()
        };
        assert_eq!(conditions(&simulator)[0]["reason"], "NotSupported");
        simulator.apply(&DAEMON_SETS, with(0.into()));
        converge(&mut simulator);
        assert_eq!(placed(&simulator).len(), 1);
        assert!(conditions(&simulator).is_null());
    }

    #[test]
    fn failed_daemons_are_replaced() {
        let mut simulator = cluster(&["a"]);
        simulator.apply(&DAEMON_SETS, set("1", &json!({})));
        converge(&mut simulator);
        let pod = ObjectKey::of(&PODS, &simulator.pods("n")[0]);
        simulator.change(&pod, |pod| pod["status"]["phase"] = "Failed".into());
        converge(&mut simulator);
        assert_eq!(simulator.pods("n").len(), 1);
        assert!(simulator.cache.at(&pod).is_none());
        assert!(
            simulator
                .events
                .iter()
                .any(|event| event.starts_with("FailedDaemonPod"))
        );
    }
}
