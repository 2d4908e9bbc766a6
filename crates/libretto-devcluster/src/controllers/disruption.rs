//! PodDisruptionBudget status: how many pods may be evicted now. Evictions themselves are the API's business.

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::cache::{Cache, ObjectKey};
use super::kinds::{DEPLOYMENTS, POD_DISRUPTION_BUDGETS, PODS, REPLICA_SETS, STATEFUL_SETS};
use super::object::{self, after, deleting, entries, int, items};
use super::plan::{Controller, Plan};
use super::{pods, selector};

/// An eviction that has not led to a deletion by then is forgotten: upstream's figure.
const EVICTION_SECONDS: i64 = 120;

#[derive(Debug)]
pub(crate) struct DisruptionBudgets;

impl Controller for DisruptionBudgets {
    fn component(&self) -> &'static str {
        "disruption-controller"
    }

    fn touched(&self, cache: &Cache, key: &ObjectKey, object: &Value, dirty: &mut Vec<ObjectKey>) {
        if key.gvr == POD_DISRUPTION_BUDGETS {
            dirty.push(key.clone());
        } else if key.gvr == PODS {
            for budget in cache.list(&POD_DISRUPTION_BUDGETS, &key.namespace) {
                if selector::matches(budget.pointer("/spec/selector"), object) {
                    dirty.push(ObjectKey::of(&POD_DISRUPTION_BUDGETS, budget));
                }
            }
        } else if key.gvr == REPLICA_SETS || key.gvr == STATEFUL_SETS {
            // A resized workload changes what its pods count against.
            dirty.extend(
                cache
                    .list(&POD_DISRUPTION_BUDGETS, &key.namespace)
                    .map(|budget| ObjectKey::of(&POD_DISRUPTION_BUDGETS, budget)),
            );
        }
    }

    fn reconcile(&self, cache: &Cache, key: &ObjectKey, now: Timestamp) -> Plan {
        let mut plan = Plan::default();
        if let Some(budget) = cache.at(key).filter(|budget| !deleting(budget)) {
            reconcile(cache, budget, now, &mut plan);
        }
        plan
    }
}

fn reconcile(cache: &Cache, budget: &Value, now: Timestamp, plan: &mut Plan) {
    let members: Vec<&Value> = cache
        .list(&PODS, object::namespace(budget))
        .map(|pod| &**pod)
        .filter(|pod| {
            selector::matches(budget.pointer("/spec/selector"), pod) && !pods::finished(pod)
        })
        .collect();
    let (expected, desired) = match expectation(cache, budget, &members) {
        Ok(numbers) => numbers,
        Err(why) => {
            refuse(budget, &why, now, plan);
            return;
        }
    };
    let mut disrupted = Map::new();
    for (name, since) in entries(budget, "/status/disruptedPods") {
        let Some(pod) = members.iter().find(|pod| object::name(pod) == name) else {
            continue;
        };
        let expires = since
            .as_str()
            .and_then(|since| since.parse().ok())
            .map_or(now, |since| after(since, EVICTION_SECONDS));
        if !deleting(pod) && expires > now {
            disrupted.insert(name.clone(), since.clone());
            plan.wake(expires);
        }
    }
    let healthy = members
        .iter()
        .filter(|pod| {
            pods::ready(pod) && !deleting(pod) && !disrupted.contains_key(object::name(pod))
        })
        .count();
    let healthy = i64::try_from(healthy).unwrap_or(i64::MAX);
    let allowed = if expected > 0 {
        (healthy - desired).max(0)
    } else {
        0
    };
    let mut conditions = items(budget, "/status/conditions").to_vec();
    let (status, reason) = if allowed > 0 {
        ("True", "SufficientPods")
    } else {
        ("False", "InsufficientPods")
    };
    set_allowed(&mut conditions, budget, status, reason, "", now);
    let mut wanted = json!({
        "observedGeneration": object::generation(budget),
        "expectedPods": expected,
        "currentHealthy": healthy,
        "desiredHealthy": desired,
        "disruptionsAllowed": allowed,
        "conditions": conditions,
    });
    if !disrupted.is_empty() {
        wanted["disruptedPods"] = disrupted.into();
    }
    plan.status(&POD_DISRUPTION_BUDGETS, budget, wanted);
}

/// Pods there should be, and how many of them must stay healthy.
fn expectation(cache: &Cache, budget: &Value, members: &[&Value]) -> Result<(i64, i64), String> {
    let present = i64::try_from(members.len()).unwrap_or(i64::MAX);
    if let Some(most) = budget.pointer("/spec/maxUnavailable") {
        let expected = expected_scale(cache, members)?;
        let unavailable = object::scaled(Some(most), expected, true).unwrap_or(0);
        return Ok((expected, (expected - unavailable).max(0)));
    }
    let least = budget.pointer("/spec/minAvailable");
    match least {
        Some(Value::String(_)) => {
            let expected = expected_scale(cache, members)?;
            Ok((expected, object::scaled(least, expected, true).unwrap_or(0)))
        }
        Some(number) => Ok((present, number.as_i64().unwrap_or(0))),
        // Neither given: nothing may be disrupted below one, as the API defaults it upstream.
        None => Ok((present, 1)),
    }
}

/// The sum of the sizes of the members' controllers.
fn expected_scale(cache: &Cache, members: &[&Value]) -> Result<i64, String> {
    let mut sizes: std::collections::BTreeMap<&str, i64> = std::collections::BTreeMap::new();
    for pod in members {
        let uid = object::controller_uid(pod);
        if uid.is_empty() {
            return Err(format!(
                "found no controllers for pod {:?}",
                object::name(pod)
            ));
        }
        let Some((key, mut controller)) = cache.by_uid(uid) else {
            continue;
        };
        let mut uid = uid;
        // During a rollout two ReplicaSets share the size that their Deployment asks for.
        if key.gvr == REPLICA_SETS
            && let Some((above, deployment)) = cache.by_uid(object::controller_uid(controller))
            && above.gvr == DEPLOYMENTS
        {
            uid = object::uid(deployment);
            controller = deployment;
        }
        // Custom resources that own pods directly have a size only if they look like everybody else.
        let Some(size) = int(controller, "/spec/replicas") else {
            let kind = object::text(controller, "/kind");
            return Err(format!("{kind} does not implement the scale subresource"));
        };
        sizes.insert(uid, size);
    }
    Ok(sizes.values().sum())
}

fn refuse(budget: &Value, why: &str, now: Timestamp, plan: &mut Plan) {
    let mut conditions = items(budget, "/status/conditions").to_vec();
    set_allowed(&mut conditions, budget, "False", "SyncFailed", why, now);
    let mut wanted = budget.get("status").cloned().unwrap_or_else(|| json!({}));
    wanted["observedGeneration"] = object::generation(budget).into();
    // Failing safe: what cannot be counted may not be disrupted.
    wanted["disruptionsAllowed"] = 0.into();
    for member in ["currentHealthy", "desiredHealthy", "expectedPods"] {
        if wanted.get(member).is_none() {
            wanted[member] = 0.into();
        }
    }
    wanted["conditions"] = conditions.into();
    plan.status(&POD_DISRUPTION_BUDGETS, budget, wanted);
}

fn set_allowed(
    conditions: &mut Vec<Value>,
    budget: &Value,
    status: &str,
    reason: &str,
    message: &str,
    now: Timestamp,
) {
    object::set_condition(
        conditions,
        "DisruptionAllowed",
        status,
        reason,
        message,
        now,
    );
    for condition in conditions {
        condition["observedGeneration"] = object::generation(budget).into();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::Arc;

    use super::*;

    #[test]
    fn budgets_are_counted() {
        // (spec, size of the set, ready pods of three) to (expected, healthy, desired, allowed)
        for (spec, size, ready, numbers) in [
            (json!({"minAvailable": 2}), 3, 3, [3, 3, 2, 1]),
            (json!({"minAvailable": 2}), 3, 1, [3, 1, 2, 0]),
            (json!({"minAvailable": "50%"}), 3, 3, [3, 3, 2, 1]),
            (json!({"maxUnavailable": 1}), 3, 3, [3, 3, 2, 1]),
            (json!({"maxUnavailable": 1}), 5, 3, [5, 3, 4, 0]),
            (json!({"maxUnavailable": "100%"}), 3, 2, [3, 2, 0, 2]),
        ] {
            let mut cache = Cache::default();
            cache.put(&STATEFUL_SETS, Arc::new(json!({
                "metadata": {"namespace": "n", "name": "web", "uid": "s", "resourceVersion": "1"},
                "spec": {"replicas": size},
            })));
            for index in 0..3 {
                let state = if index < ready { "True" } else { "False" };
                cache.put(&PODS, Arc::new(json!({
                    "metadata": {
                        "namespace": "n", "name": format!("web-{index}"), "uid": format!("p{index}"),
                        "resourceVersion": "1", "labels": {"app": "web"},
                        "ownerReferences": [{"uid": "s", "controller": true}],
                    },
                    "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": state}]},
                })));
            }
            let mut full = spec.clone();
            full["selector"] = json!({"matchLabels": {"app": "web"}});
            let budget = json!({"metadata": {"namespace": "n", "name": "b", "generation": 4, "resourceVersion": "1"}, "spec": full});
            cache.put(&POD_DISRUPTION_BUDGETS, Arc::new(budget));
            let key = ObjectKey::new(&POD_DISRUPTION_BUDGETS, "n", "b");
            let plan = DisruptionBudgets.reconcile(&cache, &key, Timestamp::UNIX_EPOCH);
            let [super::super::plan::Action::Update { object, .. }] = &plan.actions[..] else {
                panic!("a status, got {plan:?}")
            };
            let status = &object["status"];
            let found = [
                "expectedPods",
                "currentHealthy",
                "desiredHealthy",
                "disruptionsAllowed",
            ]
            .map(|member| status[member].as_i64().unwrap());
            assert_eq!(found, numbers, "{spec}");
            assert_eq!(status["observedGeneration"], 4);
            let mut settled = object.clone();
            settled["metadata"]["resourceVersion"] = "2".into();
            cache.put(&POD_DISRUPTION_BUDGETS, Arc::new(settled));
            assert_eq!(
                DisruptionBudgets.reconcile(&cache, &key, after(Timestamp::UNIX_EPOCH, 60)),
                Plan::default()
            );
        }
    }

    #[test]
    fn a_rollout_counts_its_deployment_once() {
        let mut cache = Cache::default();
        let owned = |name: &str, uid: &str, owner: &str| {
            json!({
                "namespace": "n", "name": name, "uid": uid, "resourceVersion": "1",
                "ownerReferences": [{"uid": owner, "controller": true}],
            })
        };
        cache.put(&DEPLOYMENTS, Arc::new(json!({
            "metadata": {"namespace": "n", "name": "web", "uid": "d", "resourceVersion": "1"}, "spec": {"replicas": 3},
        })));
        for (name, size) in [("old", 2), ("new", 2)] {
            cache.put(
                &REPLICA_SETS,
                Arc::new(json!({"metadata": owned(name, name, "d"), "spec": {"replicas": size}})),
            );
        }
        let pods = [("p1", "old"), ("p2", "new")]
            .map(|(name, owner)| json!({"metadata": owned(name, name, owner)}));
        let members: Vec<&Value> = pods.iter().collect();
        assert_eq!(expected_scale(&cache, &members), Ok(3));
    }
}
