//! Namespace deletion: empties a namespace that is being deleted, says what holds it up, and releases it.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::cache::{Cache, ObjectKey};
use super::kinds::NAMESPACES;
use super::object::{self, deleting, finalizers, items};
use super::plan::{Action, Controller, Plan};

#[derive(Debug)]
pub(crate) struct Namespaces;

impl Controller for Namespaces {
    fn component(&self) -> &'static str {
        "namespace-controller"
    }

    fn touched(&self, cache: &Cache, key: &ObjectKey, _object: &Value, dirty: &mut Vec<ObjectKey>) {
        if key.gvr == NAMESPACES {
            dirty.push(key.clone());
        } else if let Some(namespace) = cache.get(&NAMESPACES, "", &key.namespace)
            && deleting(namespace)
        {
            dirty.push(ObjectKey::of(&NAMESPACES, namespace));
        }
    }

    fn reconcile(&self, cache: &Cache, key: &ObjectKey, now: Timestamp) -> Plan {
        let mut plan = Plan::default();
        let namespace = cache.at(key).filter(|namespace| {
            deleting(namespace)
                && items(namespace, "/spec/finalizers")
                    .iter()
                    .any(|finalizer| finalizer == "kubernetes")
        });
        if let Some(namespace) = namespace {
            empty(cache, namespace, now, &mut plan);
        }
        plan
    }
}

fn empty(cache: &Cache, namespace: &Value, now: Timestamp, plan: &mut Plan) {
    let name = object::name(namespace);
    let mut left: BTreeMap<String, usize> = BTreeMap::new();
    let mut held: BTreeMap<String, usize> = BTreeMap::new();
    for resource in cache.resources().filter(|resource| resource.namespaced) {
        for value in cache.list(&resource.gvr, name) {
            let qualified = if resource.gvr.group.is_empty() {
                resource.gvr.resource.to_string()
            } else {
                format!("{}.{}", resource.gvr.resource, resource.gvr.group)
            };
            *left.entry(qualified).or_insert(0) += 1;
            for finalizer in finalizers(value) {
                *held.entry(finalizer.to_owned()).or_insert(0) += 1;
            }
            if !deleting(value) {
                plan.delete(&resource.gvr, value);
            }
        }
    }
    if left.is_empty() {
        plan.push(Action::PurgeEvents {
            namespace: name.to_owned(),
        });
        plan.push(Action::FinishNamespace {
            name: name.to_owned(),
        });
    } else if plan.actions.is_empty() {
        // Everything has been asked to go; somebody waiting at a terminal wants to know for what.
        let mut conditions = items(namespace, "/status/conditions").to_vec();
        let remaining = left
            .iter()
            .map(|(resource, count)| format!("{resource} has {count} resource instances"))
            .collect::<Vec<_>>()
            .join(", ");
        object::set_condition(
            &mut conditions,
            "NamespaceContentRemaining",
            "True",
            "SomeResourcesRemain",
            &format!("Some resources are remaining: {remaining}"),
            now,
        );
        let finalizers = held
            .iter()
            .map(|(finalizer, count)| format!("{finalizer} in {count} resource instances"))
            .collect::<Vec<_>>()
            .join(", ");
        let (status, reason, message) = if held.is_empty() {
            (
                "False",
                "ContentHasNoFinalizers",
                "All content-preserving finalizers finished".to_owned(),
            )
        } else {
            (
                "True",
                "SomeFinalizersRemain",
                format!("Some content in the namespace has finalizers remaining: {finalizers}"),
            )
        };
        object::set_condition(
            &mut conditions,
            "NamespaceFinalizersRemaining",
            status,
            reason,
            &message,
            now,
        );
        let mut wanted = namespace
            .get("status")
            .cloned()
            .unwrap_or_else(|| json!({}));
        wanted["conditions"] = conditions.into();
        plan.status(&NAMESPACES, namespace, wanted);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::Arc;

    use super::super::kinds::{CONFIG_MAPS, PODS};
    use super::*;

    #[test]
    fn a_namespace_is_emptied_then_released() {
        let mut cache = Cache::default();
        cache.serve(&[
            (CONFIG_MAPS.clone(), "ConfigMap".to_owned(), true),
            (PODS.clone(), "Pod".to_owned(), true),
            (NAMESPACES.clone(), "Namespace".to_owned(), false),
        ]);
        let put = |cache: &mut Cache, gvr, version: u64, mut value: Value| {
            value["metadata"]["resourceVersion"] = version.to_string().into();
            cache.put(gvr, Arc::new(value));
        };
        put(
            &mut cache,
            &NAMESPACES,
            1,
            json!({
                "metadata": {"name": "n", "uid": "1", "deletionTimestamp": "2026-01-01T00:00:00Z"},
                "spec": {"finalizers": ["kubernetes"]},
            }),
        );
        put(
            &mut cache,
            &CONFIG_MAPS,
            2,
            json!({"metadata": {"namespace": "n", "name": "c", "uid": "2"}}),
        );
        put(
            &mut cache,
            &CONFIG_MAPS,
            3,
            json!({"metadata": {"namespace": "other", "name": "c", "uid": "3"}}),
        );
        let key = ObjectKey::new(&NAMESPACES, "", "n");
        let plan = |cache: &Cache| Namespaces.reconcile(cache, &key, Timestamp::UNIX_EPOCH);
        assert!(matches!(&plan(&cache).actions[..], [Action::Delete { uid, .. }] if uid == "2"));
        put(
            &mut cache,
            &CONFIG_MAPS,
            4,
            json!({"metadata": {
                "namespace": "n", "name": "c", "uid": "2", "deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": ["x/y"],
            }}),
        );
        let waiting = plan(&cache);
        let [Action::Update { object, .. }] = &waiting.actions[..] else {
            panic!("a status, got {waiting:?}")
        };
        assert_eq!(
            object["status"]["conditions"][1]["message"],
            "Some content in the namespace has finalizers remaining: x/y in 1 resource instances"
        );
        cache.vanished(&ObjectKey::new(&CONFIG_MAPS, "n", "c"));
        assert_eq!(
            plan(&cache).actions,
            [
                Action::PurgeEvents {
                    namespace: "n".to_owned()
                },
                Action::FinishNamespace {
                    name: "n".to_owned()
                },
            ]
        );
    }
}
