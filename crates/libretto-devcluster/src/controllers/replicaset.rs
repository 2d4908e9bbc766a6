//! ReplicaSets: keeps a number of interchangeable pods.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::cache::{Cache, ObjectKey};
use super::kinds::{PODS, REPLICA_SETS};
use super::object::{self, annotation, deleting, entries, int, items, label, text};
use super::plan::{Action, Controller, Note, Plan};
use super::pods;

/// Pods created or deleted in one pass: upstream's burst. The rest follows in the next pass.
const BURST: usize = 500;
const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

pub(crate) const REPLICA_FAILURE: &str = "ReplicaFailure";

#[derive(Debug)]
pub(crate) struct ReplicaSets;

impl Controller for ReplicaSets {
    fn component(&self) -> &'static str {
        "replicaset-controller"
    }

    fn touched(&self, cache: &Cache, key: &ObjectKey, object: &Value, dirty: &mut Vec<ObjectKey>) {
        if key.gvr == REPLICA_SETS {
            dirty.push(key.clone());
        } else if key.gvr == PODS {
            pods::touch_owner(cache, &REPLICA_SETS, object, dirty);
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

fn reconcile(cache: &Cache, set: &Value, now: Timestamp, plan: &mut Plan) {
    let claimed = pods::claim(cache, &PODS, &REPLICA_SETS, set, |_| true, plan);
    let terminating = claimed.iter().filter(|pod| deleting(pod)).count();
    let mut active: Vec<&Value> = claimed
        .into_iter()
        .filter(|pod| pods::active(pod))
        .collect();
    let wanted = usize::try_from(int(set, "/spec/replicas").unwrap_or(1).max(0)).unwrap_or(0);
    let mut status = status(set, &active, terminating, now, plan);
    let refusal = cache
        .refusal(&ObjectKey::of(&REPLICA_SETS, set))
        .filter(|_| active.len() < wanted);
    report_refusal(&mut status, refusal, now);
    plan.status(&REPLICA_SETS, set, status);
    if deleting(set) {
        return;
    }
    if active.len() < wanted {
        for _ in 0..(wanted - active.len()).min(BURST) {
            plan.push(create(set));
        }
        if wanted - active.len() > BURST {
            plan.wake(now);
        }
    } else if active.len() > wanted {
        active.sort_by_key(|pod| deletion_rank(pod));
        let surplus = active.len() - wanted;
        for pod in active.iter().take(surplus.min(BURST)) {
            let name = object::name(pod);
            plan.push(pods::delete_with_notes(
                pod,
                Note::normal(
                    &REPLICA_SETS,
                    set,
                    "SuccessfulDelete",
                    format!("Deleted pod: {name}"),
                ),
                Note::warning(&REPLICA_SETS, set, "FailedDelete", "Error deleting: "),
            ));
        }
    }
}

/// The condition `ReplicaFailure`, there only while pods cannot be made. Its first message stays, as upstream: later ones differ in the
/// generated name alone.
fn report_refusal(status: &mut Value, refusal: Option<&str>, now: Timestamp) {
    let mut conditions = items(status, "/conditions").to_vec();
    match refusal {
        Some(why) => {
            let told = conditions
                .iter()
                .any(|one| text(one, "/type") == REPLICA_FAILURE && text(one, "/status") == "True");
            if !told {
                object::set_condition(
                    &mut conditions,
                    REPLICA_FAILURE,
                    "True",
                    "FailedCreate",
                    why,
                    now,
                );
            }
        }
        None => conditions.retain(|one| text(one, "/type") != REPLICA_FAILURE),
    }
    if !conditions.is_empty() {
        status["conditions"] = conditions.into();
    } else if let Some(status) = status.as_object_mut() {
        status.remove("conditions");
    }
}

fn create(set: &Value) -> Action {
    let template = set
        .pointer("/spec/template")
        .cloned()
        .unwrap_or_else(|| json!({}));
    let mut pod = pods::from_template(&REPLICA_SETS, set, &template);
    pod["metadata"]["generateName"] = pods::generate_name(object::name(set)).into();
    Action::Create {
        gvr: PODS.clone(),
        object: pod,
        done: Some(Note::normal(
            &REPLICA_SETS,
            set,
            "SuccessfulCreate",
            "Created pod: ",
        )),
        failed: Some(Note::warning(
            &REPLICA_SETS,
            set,
            "FailedCreate",
            "Error creating: ",
        )),
    }
}

/// Who goes first when there are too many: what serves least, then what was made last.
fn deletion_rank(pod: &Value) -> impl Ord + use<> {
    let phase = match pods::phase(pod) {
        "Pending" => 0,
        "Running" => 2,
        _ => 1,
    };
    let cost: i64 = annotation(pod, DELETION_COST).parse().unwrap_or(0);
    let ready_since = object::condition(pod, "Ready")
        .and_then(|ready| object::time(ready, "/lastTransitionTime"))
        .unwrap_or(Timestamp::MAX);
    (
        !text(pod, "/spec/nodeName").is_empty(),
        phase,
        pods::ready(pod),
        cost,
        std::cmp::Reverse(ready_since),
        std::cmp::Reverse(object::created(pod)),
        object::name(pod).to_owned(),
    )
}

fn status(
    set: &Value,
    active: &[&Value],
    terminating: usize,
    now: Timestamp,
    plan: &mut Plan,
) -> Value {
    let min_ready = int(set, "/spec/minReadySeconds").unwrap_or(0);
    let [mut ready, mut available, mut labeled] = [0_i64; 3];
    for pod in active {
        let full = entries(set, "/spec/template/metadata/labels")
            .all(|(key, value)| value.as_str() == Some(label(pod, key)));
        labeled += i64::from(full);
        ready += i64::from(pods::ready(pod));
        available += i64::from(pods::available(pod, min_ready, now, plan));
    }
    let mut status = json!({
        "observedGeneration": object::generation(set),
        "replicas": active.len(),
        "terminatingReplicas": terminating,
    });
    for (member, number) in [
        ("fullyLabeledReplicas", labeled),
        ("readyReplicas", ready),
        ("availableReplicas", available),
    ] {
        if number > 0 {
            status[member] = number.into();
        }
    }
    if let Some(conditions) = set.pointer("/status/conditions") {
        status["conditions"] = conditions.clone();
    }
    status
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::simulator::Simulator;
    use super::*;

    fn set(replicas: i64) -> Value {
        json!({
            "metadata": {"namespace": "n", "name": "rs"},
            "spec": {
                "replicas": replicas,
                "selector": {"matchLabels": {"app": "web"}},
                "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": []}},
            },
        })
    }

    #[test]
    fn scaling_keeps_what_serves() {
        let mut simulator = Simulator::new(1, vec![Box::new(ReplicaSets)]);
        simulator.apply(&REPLICA_SETS, set(3));
        assert!(simulator.settle(50));
        let pods = simulator.pods("n");
        assert_eq!(pods.len(), 3);
        let serving = ObjectKey::of(&PODS, &pods[1]);
        simulator.change(&serving, |pod| {
            pod["spec"]["nodeName"] = "node".into();
            pod["status"]["phase"] = "Running".into();
        });
        simulator.set_ready(&serving, true);
        simulator.apply(&REPLICA_SETS, set(1));
        assert!(simulator.settle(50));
        let pods = simulator.pods("n");
        assert_eq!(pods.len(), 1);
        assert_eq!(ObjectKey::of(&PODS, &pods[0]), serving);
        let status = simulator.cache.get(&REPLICA_SETS, "n", "rs").unwrap()["status"].clone();
        assert_eq!(
            status,
            json!({"observedGeneration": 2, "replicas": 1, "terminatingReplicas": 0, "fullyLabeledReplicas": 1, "readyReplicas": 1, "availableReplicas": 1})
        );
        let writes = simulator.writes;
        simulator.change(&serving, |pod| {
            pod["metadata"]["annotations"] = json!({"a": "b"});
        });
        assert!(simulator.settle(50));
        assert_eq!(simulator.writes, writes);
    }

    #[test]
    fn the_costly_pods_stay() {
        let pod =
            |cost: &str| json!({"metadata": {"name": "p", "annotations": {DELETION_COST: cost}}});
        assert!(deletion_rank(&pod("1")) < deletion_rank(&pod("2")));
        assert!(deletion_rank(&pod("-1")) < deletion_rank(&json!({"metadata": {"name": "p"}})));
    }
}
