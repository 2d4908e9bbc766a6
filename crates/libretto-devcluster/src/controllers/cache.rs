//! What the controllers have seen of the cluster: every object of every resource, shared with the store, indexed by uid and owner.
//!
//! A controller's decision is a function of a `&Cache`; nothing here talks to the API.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;

use serde_json::Value;

use super::{kinds, object};
use crate::api::Gvr;

/// Names one object, whether it exists or not.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct ObjectKey {
    pub(crate) gvr: Gvr,
    /// Empty for cluster-scoped objects.
    pub(crate) namespace: String,
    pub(crate) name: String,
}

impl ObjectKey {
    pub(crate) fn new(gvr: &Gvr, namespace: &str, name: &str) -> Self {
        Self {
            gvr: gvr.clone(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        }
    }

    pub(crate) fn of(gvr: &Gvr, value: &Value) -> Self {
        Self::new(gvr, object::namespace(value), object::name(value))
    }
}

/// How a resource is served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Resource {
    pub(crate) gvr: Gvr,
    pub(crate) kind: String,
    pub(crate) namespaced: bool,
}

type Table = BTreeMap<String, BTreeMap<String, Arc<Value>>>;

/// The observed cluster.
#[derive(Debug, Default)]
pub(crate) struct Cache {
    /// Objects by resource, namespace and name.
    tables: HashMap<Gvr, Table>,
    /// Served resources by group and kind, to find what an owner reference means.
    resources: BTreeMap<(String, String), Resource>,
    uids: HashMap<String, ObjectKey>,
    /// Owner uid to the objects that name it as an owner, whether the owner exists or not.
    dependents: HashMap<String, BTreeSet<ObjectKey>>,
    /// Uids this process saw vanish before their watch event arrived: late news about them is ignored.
    gone: HashMap<String, Gvr>,
    /// Uids known to have been deleted, oldest first and as a set: their dependents need no asking, not even when the kind of their
    /// owner went with it.
    buried: VecDeque<String>,
    departed: HashSet<String>,
    /// Why the last pod of an owner could not be created; no object says it.
    refused: HashMap<ObjectKey, String>,
}

/// Deleted uids remembered. Dependents are looked at in the same moment, so this only has to outlast a burst.
const DEPARTED_MAX: usize = 16_384;

impl Cache {
    pub(crate) fn get(&self, gvr: &Gvr, namespace: &str, name: &str) -> Option<&Arc<Value>> {
        self.tables.get(gvr)?.get(namespace)?.get(name)
    }

    pub(crate) fn at(&self, key: &ObjectKey) -> Option<&Arc<Value>> {
        self.get(&key.gvr, &key.namespace, &key.name)
    }

    /// Why no pod could be created for this owner, if the last try failed.
    pub(crate) fn refusal(&self, owner: &ObjectKey) -> Option<&str> {
        self.refused.get(owner).map(String::as_str)
    }

    pub(crate) fn set_refusal(&mut self, owner: &ObjectKey, why: Option<String>) {
        match why {
            Some(why) => self.refused.insert(owner.clone(), why),
            None => self.refused.remove(owner),
        };
    }

    pub(crate) fn by_uid(&self, uid: &str) -> Option<(&ObjectKey, &Arc<Value>)> {
        let key = self.uids.get(uid)?;
        Some((key, self.at(key)?))
    }

    /// All objects of a resource in one namespace, by name. The empty namespace holds the cluster-scoped ones.
    pub(crate) fn list(&self, gvr: &Gvr, namespace: &str) -> impl Iterator<Item = &Arc<Value>> {
        self.tables
            .get(gvr)
            .and_then(|table| table.get(namespace))
            .into_iter()
            .flat_map(BTreeMap::values)
    }

    /// All objects of a resource in every namespace.
    pub(crate) fn all(&self, gvr: &Gvr) -> impl Iterator<Item = &Arc<Value>> {
        self.tables
            .get(gvr)
            .into_iter()
            .flat_map(BTreeMap::values)
            .flat_map(BTreeMap::values)
    }

    /// What an owner reference's `apiVersion` and `kind` stand for.
    pub(crate) fn resource_of(&self, api_version: &str, kind: &str) -> Option<&Resource> {
        let group = api_version.rsplit_once('/').map_or("", |(group, _)| group);
        self.resources.get(&(group.to_owned(), kind.to_owned()))
    }

    pub(crate) fn resources(&self) -> impl Iterator<Item = &Resource> {
        self.resources.values()
    }

    /// Objects that name this uid among their owners.
    pub(crate) fn dependents(&self, uid: &str) -> impl Iterator<Item = &ObjectKey> {
        self.dependents.get(uid).into_iter().flatten()
    }

    /// Dependents of one resource that have `uid` as their controller.
    pub(crate) fn controlled(&self, gvr: &Gvr, uid: &str) -> Vec<&Arc<Value>> {
        self.dependents(uid)
            .filter(|key| key.gvr == *gvr)
            .filter_map(|key| self.at(key))
            .filter(|value| object::controller_uid(value) == uid)
            .collect()
    }

    /// Whether the incarnation is known to have been deleted. `false` says nothing.
    pub(crate) fn departed(&self, uid: &str) -> bool {
        self.departed.contains(uid)
    }

    /// Follows what the API serves. Returns resources that appeared and resources that vanished.
    pub(crate) fn serve(&mut self, served: &[(Gvr, String, bool)]) -> (Vec<Gvr>, Vec<Gvr>) {
        let mut chosen: BTreeMap<(String, String), Resource> = BTreeMap::new();
        for (gvr, kind, namespaced) in served {
            // Two views of one store: owner references never point at events, and their volume would drown everything else.
            if gvr.resource == "events" {
                continue;
            }
            let slot = chosen.entry((gvr.group.to_string(), kind.clone()));
            let resource = Resource {
                gvr: gvr.clone(),
                kind: kind.clone(),
                namespaced: *namespaced,
            };
            let known = kinds::KNOWN.contains(&gvr);
            slot.and_modify(|present| {
                if known {
                    *present = resource.clone();
                }
            })
            .or_insert(resource);
        }
        let before: BTreeSet<Gvr> = self.resources.values().map(|r| r.gvr.clone()).collect();
        let after: BTreeSet<Gvr> = chosen.values().map(|r| r.gvr.clone()).collect();
        self.resources = chosen;
        (
            after.difference(&before).cloned().collect(),
            before.difference(&after).cloned().collect(),
        )
    }

    /// Keys of all objects of a resource.
    pub(crate) fn keys(&self, gvr: &Gvr) -> Vec<ObjectKey> {
        self.all(gvr)
            .map(|value| ObjectKey::of(gvr, value))
            .collect()
    }

    /// Takes in a state of an object. Returns `None` when it is no news, else the state it replaced.
    pub(crate) fn put(&mut self, gvr: &Gvr, value: Arc<Value>) -> Option<Option<Arc<Value>>> {
        let uid = object::uid(&value);
        if self.gone.contains_key(uid) {
            return None;
        }
        let key = ObjectKey::of(gvr, &value);
        if let Some(present) = self.at(&key) {
            let newer = object::resource_version(&value) > object::resource_version(present);
            if !newer {
                return None;
            }
        }
        let old = self.take(&key);
        if !uid.is_empty() {
            self.uids.insert(uid.to_owned(), key.clone());
        }
        for owner in object::items(&value, "/metadata/ownerReferences") {
            let owner = object::text(owner, "/uid").to_owned();
            self.dependents
                .entry(owner)
                .or_default()
                .insert(key.clone());
        }
        self.tables
            .entry(key.gvr)
            .or_default()
            .entry(key.namespace)
            .or_default()
            .insert(key.name, value);
        Some(old)
    }

    /// Takes in that an incarnation is gone, as a watch reports it. Returns its last state when it was still here.
    pub(crate) fn deleted(&mut self, gvr: &Gvr, value: &Value) -> Option<Arc<Value>> {
        self.gone.remove(object::uid(value));
        self.bury(object::uid(value));
        let key = ObjectKey::of(gvr, value);
        let same = self
            .at(&key)
            .is_some_and(|present| object::uid(present) == object::uid(value));
        if same { self.take(&key) } else { None }
    }

    /// Takes in that an object is gone before any watch says so.
    pub(crate) fn vanished(&mut self, key: &ObjectKey) -> Option<Arc<Value>> {
        let old = self.take(key)?;
        self.gone
            .insert(object::uid(&old).to_owned(), key.gvr.clone());
        self.bury(object::uid(&old));
        Some(old)
    }

    /// Stops knowing an object that may still exist, such as one whose resource is no longer served.
    pub(crate) fn forget(&mut self, key: &ObjectKey) -> Option<Arc<Value>> {
        self.take(key)
    }

    fn bury(&mut self, uid: &str) {
        if self.departed.insert(uid.to_owned()) {
            self.buried.push_back(uid.to_owned());
        }
        if self.buried.len() > DEPARTED_MAX
            && let Some(oldest) = self.buried.pop_front()
        {
            self.departed.remove(&oldest);
        }
    }

    /// A fresh list of the resource has been taken: no late news of older incarnations can come any more.
    pub(crate) fn relisted(&mut self, gvr: &Gvr) {
        self.gone.retain(|_, of| of != gvr);
    }

    fn take(&mut self, key: &ObjectKey) -> Option<Arc<Value>> {
        let table = self.tables.get_mut(&key.gvr)?;
        let names = table.get_mut(&key.namespace)?;
        let old = names.remove(&key.name)?;
        if names.is_empty() {
            table.remove(&key.namespace);
        }
        self.uids.remove(object::uid(&old));
        for owner in object::items(&old, "/metadata/ownerReferences") {
            let owner = object::text(owner, "/uid");
            if let Some(keys) = self.dependents.get_mut(owner) {
                keys.remove(key);
                if keys.is_empty() {
                    self.dependents.remove(owner);
                }
            }
        }
        Some(old)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::kinds::PODS;
    use super::*;
    use serde_json::json;

    fn pod(name: &str, uid: &str, version: u64, owner: &str) -> Arc<Value> {
        Arc::new(json!({"metadata": {
            "namespace": "n", "name": name, "uid": uid, "resourceVersion": version.to_string(),
            "ownerReferences": [{"uid": owner, "controller": true}],
        }}))
    }

    #[test]
    fn old_news_is_no_news() {
        let mut cache = Cache::default();
        assert!(cache.put(&PODS, pod("a", "1", 5, "o")).is_some());
        assert!(cache.put(&PODS, pod("a", "1", 5, "o")).is_none());
        assert!(cache.put(&PODS, pod("a", "1", 4, "o")).is_none());
        assert!(cache.put(&PODS, pod("a", "1", 6, "p")).unwrap().is_some());
        assert_eq!(cache.controlled(&PODS, "o").len(), 0);
        assert_eq!(cache.controlled(&PODS, "p").len(), 1);
    }

    #[test]
    fn what_vanished_stays_away_until_its_event_comes() {
        let mut cache = Cache::default();
        cache.put(&PODS, pod("a", "1", 5, "o"));
        let key = ObjectKey::new(&PODS, "n", "a");
        assert!(cache.vanished(&key).is_some());
        assert!(cache.put(&PODS, pod("a", "1", 6, "o")).is_none());
        assert!(cache.put(&PODS, pod("a", "2", 7, "o")).is_some());
        assert!(cache.deleted(&PODS, &pod("a", "1", 6, "o")).is_none());
        assert_eq!(object::uid(cache.at(&key).unwrap()), "2");
        assert!(cache.gone.is_empty());
        assert!(cache.deleted(&PODS, &pod("a", "2", 8, "o")).is_some());
        assert!(cache.by_uid("2").is_none());
        assert!(cache.departed("1") && cache.departed("2"));
        assert!(cache.dependents.is_empty());
    }

    #[test]
    fn one_version_of_each_resource_is_followed() {
        let mut cache = Cache::default();
        let beta = Gvr::new("policy", "v1beta1", "poddisruptionbudgets");
        let served = [
            (beta, "PodDisruptionBudget".to_owned(), true),
            (
                kinds::POD_DISRUPTION_BUDGETS.clone(),
                "PodDisruptionBudget".to_owned(),
                true,
            ),
            (kinds::EVENTS.clone(), "Event".to_owned(), true),
            (PODS.clone(), "Pod".to_owned(), true),
        ];
        let (new, lost) = cache.serve(&served);
        assert_eq!(new.len(), 2);
        assert!(new.contains(&kinds::POD_DISRUPTION_BUDGETS));
        assert!(lost.is_empty());
        cache.put(&PODS, pod("a", "1", 5, "o"));
        let (new, lost) = cache.serve(&served[..3]);
        assert!(new.is_empty());
        assert_eq!(lost.len(), 1);
        assert_eq!(lost[0], PODS);
        assert!(cache.forget(&ObjectKey::new(&PODS, "n", "a")).is_some());
        assert!(!cache.departed("1"), "not served is not deleted");
    }
}
