//! The garbage collector: removes what belonged to owners that are gone, and carries out foreground and orphaning deletes.
//!
//! It never believes the cache alone that an owner is gone: the API is asked before anything is deleted.

use jiff::Timestamp;
use serde_json::Value;

use super::cache::{Cache, ObjectKey};
use super::object::{self, deleting, flag, has_finalizer, items, text};
use super::plan::{Action, Controller, Note, Plan};
use crate::api::Propagation;

const FOREGROUND: &str = "foregroundDeletion";
const ORPHAN: &str = "orphan";

#[derive(Debug)]
pub(crate) struct GarbageCollector;

impl Controller for GarbageCollector {
    fn component(&self) -> &'static str {
        "garbage-collector-controller"
    }

    fn touched(&self, cache: &Cache, key: &ObjectKey, object: &Value, dirty: &mut Vec<ObjectKey>) {
        let owners = items(object, "/metadata/ownerReferences");
        let held = has_finalizer(object, FOREGROUND) || has_finalizer(object, ORPHAN);
        if !owners.is_empty() || held {
            dirty.push(key.clone());
        }
        // An owner that waits for its dependents looks again when one of them changed or left.
        for owner in owners {
            if let Some((owner_key, owner)) = cache.by_uid(text(owner, "/uid"))
                && deleting(owner)
            {
                dirty.push(owner_key.clone());
            }
        }
        let gone = cache
            .at(key)
            .is_none_or(|present| object::uid(present) != object::uid(object));
        if gone || deleting(object) {
            dirty.extend(cache.dependents(object::uid(object)).cloned());
        }
    }

    fn reconcile(&self, cache: &Cache, key: &ObjectKey, _now: Timestamp) -> Plan {
        let mut plan = Plan::default();
        if let Some(object) = cache.at(key) {
            if deleting(object) && has_finalizer(object, ORPHAN) {
                orphan(cache, key, object, &mut plan);
            } else if deleting(object) && has_finalizer(object, FOREGROUND) {
                foreground(cache, key, object, &mut plan);
            } else {
                collect(cache, key, object, &mut plan);
            }
        }
        plan
    }
}

/// Lets go of every dependent, then of the owner.
fn orphan(cache: &Cache, key: &ObjectKey, owner: &Value, plan: &mut Plan) {
    let uid = object::uid(owner);
    for dependent in cache.dependents(uid) {
        if let Some(value) = cache.at(dependent) {
            plan.update(&dependent.gvr, value, object::without_owner(value, uid));
        }
    }
    let released = object::without_finalizer(owner, ORPHAN);
    plan.update(&key.gvr, owner, released);
}

/// Releases an owner once no dependent that blocks it is left. The dependents themselves are deleted by their own passes.
fn foreground(cache: &Cache, key: &ObjectKey, owner: &Value, plan: &mut Plan) {
    let uid = object::uid(owner);
    let blocked = cache
        .dependents(uid)
        .filter_map(|dependent| cache.at(dependent))
        .flat_map(|dependent| items(dependent, "/metadata/ownerReferences"))
        .any(|reference| text(reference, "/uid") == uid && flag(reference, "/blockOwnerDeletion"));
    if !blocked {
        let released = object::without_finalizer(owner, FOREGROUND);
        plan.update(&key.gvr, owner, released);
    }
}

/// Deletes an object none of whose owners is alive; lets go of dead owners while another lives.
fn collect(cache: &Cache, key: &ObjectKey, value: &Value, plan: &mut Plan) {
    if deleting(value) {
        return;
    }
    let references = items(value, "/metadata/ownerReferences");
    if references.is_empty() {
        return;
    }
    let mut alive = false;
    let mut absent = Vec::new();
    let mut leaving = Vec::new();
    let mut dead = Vec::new();
    for reference in references {
        match owner_state(cache, key, reference) {
            Owner::Alive => alive = true,
            Owner::Leaving => leaving.push(text(reference, "/uid")),
            Owner::Dead => dead.push(text(reference, "/uid")),
            Owner::Absent(owner) => absent.push((owner, text(reference, "/uid").to_owned())),
            // Neither dead nor alive: nothing is deleted on a guess.
            Owner::Unknown => return,
            Owner::Foreign => {
                plan.push(Action::Note(Note::warning(
                    &key.gvr,
                    value,
                    "OwnerRefInvalidNamespace",
                    format!(
                        "ownerRef [{}/{}, namespace: {}, name: {}, uid: {}] does not exist in namespace \"{}\"",
                        text(reference, "/apiVersion"),
                        text(reference, "/kind"),
                        key.namespace,
                        text(reference, "/name"),
                        text(reference, "/uid"),
                        key.namespace,
                    ),
                )));
                return;
            }
        }
    }
    if alive {
        let mut kept = value.clone();
        // These are known for sure; absent ones might merely not have arrived.
        for uid in leaving.into_iter().chain(dead) {
            kept = object::without_owner(&kept, uid);
        }
        plan.update(&key.gvr, value, kept);
        return;
    }
    if !leaving.is_empty() {
        let uid = object::uid(value);
        let has_dependents = cache.dependents(uid).next().is_some();
        let mut action = Action::delete(&key.gvr, value);
        if let Action::Delete { propagation, .. } = &mut action {
            *propagation = if has_dependents {
                Propagation::Foreground
            } else {
                Propagation::Background
            };
        }
        plan.push(action);
        return;
    }
    let propagation = if has_finalizer(value, ORPHAN) {
        Propagation::Orphan
    } else if has_finalizer(value, FOREGROUND) {
        Propagation::Foreground
    } else {
        Propagation::Background
    };
    plan.push(Action::Collect {
        key: key.clone(),
        uid: object::uid(value).to_owned(),
        resource_version: text(value, "/metadata/resourceVersion").to_owned(),
        owners: absent,
        propagation,
    });
}

enum Owner {
    Alive,
    /// Being deleted in the foreground: its dependents go first.
    Leaving,
    /// Seen to be deleted.
    Dead,
    /// Not in the cache; where the API would have it.
    Absent(ObjectKey),
    /// Of a resource this cluster does not serve.
    Unknown,
    /// In another namespace, which owner references cannot cross.
    Foreign,
}

fn owner_state(cache: &Cache, key: &ObjectKey, reference: &Value) -> Owner {
    let resource = cache.resource_of(text(reference, "/apiVersion"), text(reference, "/kind"));
    if let Some((owner_key, owner)) = cache.by_uid(text(reference, "/uid")) {
        let crossing = !owner_key.namespace.is_empty() && owner_key.namespace != key.namespace;
        return if crossing {
            Owner::Foreign
        } else if deleting(owner) && has_finalizer(owner, FOREGROUND) {
            Owner::Leaving
        } else {
            Owner::Alive
        };
    }
    if cache.departed(text(reference, "/uid")) {
        return Owner::Dead;
    }
    let Some(resource) = resource else {
        return Owner::Unknown;
    };
    if resource.namespaced && key.namespace.is_empty() {
        // A cluster-scoped object cannot be owned by a namespaced one.
        return Owner::Foreign;
    }
    let namespace = if resource.namespaced {
        key.namespace.as_str()
    } else {
        ""
    };
    Owner::Absent(ObjectKey::new(
        &resource.gvr,
        namespace,
        text(reference, "/name"),
    ))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::kinds::{CONFIG_MAPS, NODES, PODS, REPLICA_SETS};
    use super::*;
    use serde_json::json;
    use std::sync::Arc;

    fn cluster(objects: &[(&crate::api::Gvr, Value)]) -> Cache {
        let mut cache = Cache::default();
        cache.serve(&[
            (PODS.clone(), "Pod".to_owned(), true),
            (REPLICA_SETS.clone(), "ReplicaSet".to_owned(), true),
            (CONFIG_MAPS.clone(), "ConfigMap".to_owned(), true),
            (NODES.clone(), "Node".to_owned(), false),
        ]);
        for (index, (gvr, value)) in objects.iter().enumerate() {
            let mut value = value.clone();
            value["metadata"]["resourceVersion"] = (index + 1).to_string().into();
            cache.put(gvr, Arc::new(value));
        }
        cache
    }

    fn object(
        namespace: &str,
        name: &str,
        uid: &str,
        owners: &Value,
        finalizers: &[&str],
    ) -> Value {
        let mut value = json!({"metadata": {
            "namespace": namespace, "name": name, "uid": uid, "ownerReferences": owners, "finalizers": finalizers,
        }});
        if !finalizers.is_empty() {
            value["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
        }
        value
    }

    fn owner(kind: &str, name: &str, uid: &str, block: bool) -> Value {
        let api_version = if kind == "ReplicaSet" {
            "apps/v1"
        } else {
            "v1"
        };
        json!({"apiVersion": api_version, "kind": kind, "name": name, "uid": uid, "blockOwnerDeletion": block})
    }

    fn plan(cache: &Cache, key: &ObjectKey) -> Plan {
        GarbageCollector.reconcile(cache, key, Timestamp::UNIX_EPOCH)
    }

    #[test]
    fn the_dead_are_verified_and_the_living_left_alone() {
        let pod = ObjectKey::new(&PODS, "n", "p");
        let rs = object("n", "rs", "r1", &json!([]), &[]);
        for (reference, collected) in [
            (owner("ReplicaSet", "rs", "r1", true), false),
            (owner("ReplicaSet", "rs", "r0", true), true),
            (owner("ReplicaSet", "gone", "r9", true), true),
            // A kind nobody serves is not a reason to delete anything.
            (owner("Widget", "gone", "w", true), false),
        ] {
            let cache = cluster(&[
                (&REPLICA_SETS, rs.clone()),
                (&PODS, object("n", "p", "p1", &json!([reference]), &[])),
            ]);
            let plan = plan(&cache, &pod);
            let collects = plan.actions.iter().any(
                |action| matches!(action, Action::Collect { owners, .. } if owners.len() == 1),
            );
            assert_eq!(collects, collected, "{reference}");
            assert_eq!(plan.actions.is_empty(), !collected, "{reference}");
        }
    }

    #[test]
    fn owners_do_not_reach_across_namespaces() {
        let cache = cluster(&[
            (&CONFIG_MAPS, object("other", "c", "c1", &json!([]), &[])),
            (
                &PODS,
                object(
                    "n",
                    "p",
                    "p1",
                    &json!([owner("ConfigMap", "c", "c1", false)]),
                    &[],
                ),
            ),
        ]);
        let plan = plan(&cache, &ObjectKey::new(&PODS, "n", "p"));
        assert!(matches!(
            &plan.actions[..],
            [Action::Note(note)] if note.reason == "OwnerRefInvalidNamespace"
        ));
    }

    #[test]
    fn cluster_scoped_owners_work() {
        let cache = cluster(&[
            (&NODES, object("", "node", "n1", &json!([]), &[])),
            (
                &PODS,
                object(
                    "n",
                    "p",
                    "p1",
                    &json!([owner("Node", "node", "n1", false)]),
                    &[],
                ),
            ),
        ]);
        assert_eq!(
            plan(&cache, &ObjectKey::new(&PODS, "n", "p")),
            Plan::default()
        );
    }

    #[test]
    fn foreground_waits_for_blocking_dependents() {
        let rs_key = ObjectKey::new(&REPLICA_SETS, "n", "rs");
        let pod_key = ObjectKey::new(&PODS, "n", "p");
        let rs = object("n", "rs", "r1", &json!([]), &[FOREGROUND]);
        let pod = |block| {
            object(
                "n",
                "p",
                "p1",
                &json!([owner("ReplicaSet", "rs", "r1", block)]),
                &[],
            )
        };
        let cache = cluster(&[(&REPLICA_SETS, rs.clone()), (&PODS, pod(true))]);
        assert_eq!(plan(&cache, &rs_key), Plan::default());
        assert!(matches!(
            &plan(&cache, &pod_key).actions[..],
            [Action::Delete { propagation: Propagation::Background, uid, .. }] if uid == "p1"
        ));
        for cache in [
            cluster(&[(&REPLICA_SETS, rs.clone()), (&PODS, pod(false))]),
            cluster(&[(&REPLICA_SETS, rs)]),
        ] {
            assert!(matches!(
                &plan(&cache, &rs_key).actions[..],
                [Action::Update { object, .. }] if object["metadata"]["finalizers"] == json!([])
            ));
        }
    }

    #[test]
    fn orphaning_lets_go_of_everything_first() {
        let cache = cluster(&[
            (
                &REPLICA_SETS,
                object("n", "rs", "r1", &json!([]), &[ORPHAN]),
            ),
            (
                &PODS,
                object(
                    "n",
                    "p",
                    "p1",
                    &json!([owner("ReplicaSet", "rs", "r1", true)]),
                    &[],
                ),
            ),
        ]);
        let plan = plan(&cache, &ObjectKey::new(&REPLICA_SETS, "n", "rs"));
        let [
            Action::Update { object: pod, .. },
            Action::Update { object: rs, .. },
        ] = &plan.actions[..]
        else {
            panic!("two updates, got {plan:?}")
        };
        assert_eq!(pod["metadata"]["ownerReferences"], json!([]));
        assert_eq!(rs["metadata"]["finalizers"], json!([]));
    }
}
