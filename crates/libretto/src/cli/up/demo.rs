//! The demo: one small RedisCluster, and how to read whether it is healthy.

use jiff::Timestamp;
use libretto_api::object::{Gvk, ObjectRef};
use serde_json::{Value, json};

/// The sample everybody starts with.
pub(crate) fn object() -> Value {
    json!({
        "apiVersion": "redis.kun/v1beta1",
        "kind": "RedisCluster",
        "metadata": {
            "name": "test",
            "namespace": "default",
            "annotations": {"redis.kun/scope": "cluster-scoped"},
        },
        "spec": {"size": 3},
    })
}

pub(crate) fn reference() -> ObjectRef {
    ObjectRef {
        gvk: Gvk::new("redis.kun", "v1beta1", "RedisCluster"),
        namespace: "default".to_owned(),
        name: "test".to_owned(),
    }
}

/// The condition `Healthy` is true, of what is asked for now.
pub(crate) fn healthy(demo: &Value) -> bool {
    let current = |observed: &Value| {
        observed.is_null() || observed.as_i64() >= demo["metadata"]["generation"].as_i64()
    };
    condition(demo, "Healthy").is_some_and(|condition| {
        condition["status"] == "True"
            && current(&condition["observedGeneration"])
            && current(&demo["status"]["observedGeneration"])
    })
}

/// The pod, without a status that a former process left: every process in it ended with that one, whatever is still written there.
pub(crate) fn without_past(pod: &Value, since: Timestamp) -> Value {
    let mut pod = pod.clone();
    let past = pod["status"]["containerStatuses"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|status| status["state"]["running"]["startedAt"].as_str())
        .filter_map(|started| started.parse::<Timestamp>().ok())
        // Times in a status have whole seconds.
        .any(|started| started.as_second() < since.as_second());
    if past {
        pod["status"] = json!({"phase": "Pending"});
    }
    pod
}

pub(crate) fn condition<'a>(object: &'a Value, kind: &str) -> Option<&'a Value> {
    object["status"]["conditions"]
        .as_array()?
        .iter()
        .find(|condition| condition["type"] == kind)
}

/// Pods that belong to the demo, through their sets' labels or owners.
pub(crate) fn pods<'a>(pods: &'a Value, owners: &[String]) -> Vec<&'a Value> {
    pods["items"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|pod| {
            pod["metadata"]["ownerReferences"]
                .as_array()
                .into_iter()
                .flatten()
                .any(|owner| {
                    owner["uid"]
                        .as_str()
                        .is_some_and(|uid| owners.iter().any(|owner| owner == uid))
                })
        })
        .collect()
}

/// Uids of what may own the demo's pods: the demo itself and the workloads it owns.
pub(crate) fn owners(demo: &Value, workloads: &[&Value]) -> Vec<String> {
    let Some(uid) = demo["metadata"]["uid"].as_str() else {
        return Vec::new();
    };
    let mut owners = vec![uid.to_owned()];
    for list in workloads {
        for workload in list["items"].as_array().into_iter().flatten() {
            let owned = workload["metadata"]["ownerReferences"]
                .as_array()
                .into_iter()
                .flatten()
                .any(|owner| owner["uid"] == uid);
            if let Some(uid) = workload["metadata"]["uid"].as_str().filter(|_| owned) {
                owners.push(uid.to_owned());
            }
        }
    }
    owners
}

/// How many pods the workloads of the demo want.
pub(crate) fn wanted(demo: &Value, workloads: &[&Value]) -> u64 {
    let uid = &demo["metadata"]["uid"];
    workloads
        .iter()
        .flat_map(|list| list["items"].as_array().into_iter().flatten())
        .filter(|workload| {
            workload["metadata"]["ownerReferences"]
                .as_array()
                .into_iter()
                .flatten()
                .any(|owner| owner["uid"] == *uid)
        })
        .map(|workload| workload["spec"]["replicas"].as_u64().unwrap_or(1))
        .sum()
}

pub(crate) fn ready(pod: &Value) -> bool {
    condition(pod, "Ready").is_some_and(|condition| condition["status"] == "True")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn pods_are_found_through_their_set() {
        let demo = json!({"metadata": {"uid": "cr"}});
        let sets = json!({"items": [
            {"metadata": {"uid": "sts", "ownerReferences": [{"uid": "cr"}]}, "spec": {"replicas": 3}},
            {"metadata": {"uid": "other"}, "spec": {"replicas": 9}},
        ]});
        let owners = owners(&demo, &[&sets]);
        assert_eq!(owners, ["cr", "sts"]);
        assert_eq!(wanted(&demo, &[&sets]), 3);
        let all = json!({"items": [
            {"metadata": {"name": "a", "ownerReferences": [{"uid": "sts"}]}},
            {"metadata": {"name": "b", "ownerReferences": [{"uid": "other"}]}},
        ]});
        assert_eq!(pods(&all, &owners).len(), 1);
    }

    #[test]
    fn healthy_is_a_condition() {
        assert!(!healthy(&object()));
        assert!(healthy(
            &json!({"status": {"conditions": [{"type": "Healthy", "status": "True"}]}})
        ));
    }

    #[test]
    fn healthy_is_about_the_generation_that_is_asked_for() {
        for (generation, observed, expected) in [(2, 2, true), (2, 1, false), (1, 2, true)] {
            let demo = json!({
                "metadata": {"generation": generation},
                "status": {"observedGeneration": observed, "conditions": [
                    {"type": "Healthy", "status": "True", "observedGeneration": observed}]},
            });
            assert_eq!(healthy(&demo), expected, "{generation} {observed}");
        }
    }

    #[test]
    fn what_a_former_process_left_is_not_believed() {
        let pod = |started: &str| {
            json!({"metadata": {"name": "a"}, "status": {
                "phase": "Running",
                "conditions": [{"type": "Ready", "status": "True"}],
                "containerStatuses": [{"state": {"running": {"startedAt": started}}}],
            }})
        };
        let since: Timestamp = "2026-01-01T00:00:05.7Z".parse().unwrap();
        assert!(!ready(&without_past(&pod("2026-01-01T00:00:04Z"), since)));
        assert!(ready(&without_past(&pod("2026-01-01T00:00:05Z"), since)));
    }
}
