//! A tiny cluster for tests: carries out plans on a cache, plays kubelet at random, and counts what the controllers write.
//!
//! It knows just enough of the API to keep controllers honest: names are unique, stale writes conflict, graceful deletes take a step.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::sync::Arc;

use jiff::Timestamp;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

use super::cache::{Cache, ObjectKey};
use super::kinds::{self, PODS};
use super::object::{self, deleting, entry, text};
use super::plan::{Action, Controller, Plan};
use crate::api::{Gvr, Propagation, Subresource};

pub(crate) struct Simulator {
    pub(crate) cache: Cache,
    pub(crate) now: Timestamp,
    pub(crate) random: StdRng,
    pub(crate) events: Vec<String>,
    pub(crate) writes: usize,
    controllers: Vec<Box<dyn Controller>>,
    dirty: BTreeSet<(usize, ObjectKey)>,
    timers: BTreeSet<(Timestamp, usize, ObjectKey)>,
    version: u64,
}

impl Simulator {
    pub(crate) fn new(seed: u64, controllers: Vec<Box<dyn Controller>>) -> Self {
        let mut cache = Cache::default();
        let served: Vec<(Gvr, String, bool)> = kinds::KNOWN
            .iter()
            .map(|gvr| {
                let scoped = [
                    &kinds::NODES,
                    &kinds::NAMESPACES,
                    &kinds::PERSISTENT_VOLUMES,
                    &kinds::STORAGE_CLASSES,
                    &kinds::CUSTOM_RESOURCE_DEFINITIONS,
                ]
                .contains(gvr);
                ((*gvr).clone(), kinds::type_of(gvr).1.to_owned(), !scoped)
            })
            .collect();
        cache.serve(&served);
        Self {
            cache,
            now: "2026-01-01T00:00:00Z".parse().unwrap(),
            random: StdRng::seed_from_u64(seed),
            events: Vec::new(),
            writes: 0,
            controllers,
            dirty: BTreeSet::new(),
            timers: BTreeSet::new(),
            version: 0,
        }
    }

    /// A user creates or replaces an object; a changed spec raises its generation.
    pub(crate) fn apply(&mut self, gvr: &Gvr, mut value: Value) {
        let key = ObjectKey::of(gvr, &value);
        match self.cache.at(&key).cloned() {
            None => self.create(gvr, value).unwrap(),
            Some(present) => {
                let metadata = present["metadata"].clone();
                for (name, member) in metadata.as_object().unwrap() {
                    if value["metadata"].get(name).is_none() {
                        value["metadata"][name] = member.clone();
                    }
                }
                if value.get("status").is_none() {
                    value["status"] = present.get("status").cloned().unwrap_or_else(|| json!({}));
                }
                self.store(gvr, value);
            }
        }
    }

    /// Changes one member of an object, as a user or a kubelet would.
    pub(crate) fn change(&mut self, key: &ObjectKey, change: impl FnOnce(&mut Value)) {
        if let Some(present) = self.cache.at(key).cloned() {
            let mut value = (*present).clone();
            change(&mut value);
            self.store(&key.gvr, value);
        }
    }

    /// A user deletes an object.
    pub(crate) fn delete(&mut self, key: &ObjectKey) {
        let Some(present) = self.cache.at(key).cloned() else {
            return;
        };
        let running = key.gvr == PODS
            && !text(&present, "/spec/nodeName").is_empty()
            && !super::pods::finished(&present);
        if running || object::finalizers(&present).next().is_some() {
            if !deleting(&present) {
                let now = object::rfc3339(self.now);
                self.change(key, |value| {
                    value["metadata"]["deletionTimestamp"] = now.into();
                });
            }
        } else {
            self.remove(key);
        }
    }

    /// The object is gone, whatever held it.
    pub(crate) fn remove(&mut self, key: &ObjectKey) {
        if let Some(old) = self.cache.vanished(key) {
            self.cache.deleted(&key.gvr, &old);
            self.touch(key, &old);
        }
    }

    /// Works off everything dirty; `false` when it did not settle within `passes`.
    pub(crate) fn settle(&mut self, passes: usize) -> bool {
        for _ in 0..passes {
            if !self.step() {
                return true;
            }
        }
        false
    }

    /// One pass of one random dirty key; `false` when none is dirty.
    pub(crate) fn step(&mut self) -> bool {
        let due: Vec<_> = self
            .timers
            .iter()
            .filter(|(at, _, _)| *at <= self.now)
            .cloned()
            .collect();
        for timer in due {
            self.timers.remove(&timer);
            self.dirty.insert((timer.1, timer.2));
        }
        if self.dirty.is_empty() {
            return false;
        }
        let index = self.random.random_range(0..self.dirty.len());
        let work = self.dirty.iter().nth(index).unwrap().clone();
        self.dirty.remove(&work);
        let plan = self.controllers[work.0].reconcile(&self.cache, &work.1, self.now);
        let Plan { actions, again } = plan;
        if let Some(at) = again {
            self.timers.insert((at, work.0, work.1.clone()));
        }
        for action in actions {
            if self.carry_out(action).is_err() {
                self.dirty.insert(work);
                break;
            }
        }
        true
    }

    /// Moves the clock.
    pub(crate) fn pass_time(&mut self, seconds: i64) {
        self.now = object::after(self.now, seconds);
    }

    /// A kubelet's work on one random pod: schedule it, start it, make it ready or unready, finish its removal.
    pub(crate) fn kubelet(&mut self, flaky: bool) {
        let pods = self.cache.keys(&PODS);
        if pods.is_empty() {
            return;
        }
        let key = pods[self.random.random_range(0..pods.len())].clone();
        let pod = self.cache.at(&key).unwrap().clone();
        if deleting(&pod) {
            if object::finalizers(&pod).next().is_none() {
                self.remove(&key);
            }
        } else if text(&pod, "/spec/nodeName").is_empty() {
            self.change(&key, |pod| pod["spec"]["nodeName"] = "node".into());
        } else if super::pods::phase(&pod) != "Running" {
            if !super::pods::finished(&pod) {
                self.change(&key, |pod| pod["status"]["phase"] = "Running".into());
            }
        } else if !super::pods::ready(&pod) {
            self.set_ready(&key, true);
        } else if flaky {
            match self.random.random_range(0..6) {
                0 => self.set_ready(&key, false),
                1 => self.change(&key, |pod| {
                    pod["status"]["phase"] = "Failed".into();
                    pod["status"]["conditions"] = json!([]);
                }),
                _ => {}
            }
        }
    }

    pub(crate) fn set_ready(&mut self, key: &ObjectKey, ready: bool) {
        let now = object::rfc3339(self.now);
        let status = if ready { "True" } else { "False" };
        self.change(key, |pod| {
            pod["status"]["conditions"] =
                json!([{"type": "Ready", "status": status, "lastTransitionTime": now}]);
        });
    }

    pub(crate) fn pods(&self, namespace: &str) -> Vec<Arc<Value>> {
        self.cache.list(&PODS, namespace).cloned().collect()
    }

    fn touch(&mut self, key: &ObjectKey, value: &Value) {
        let mut dirty = Vec::new();
        for (index, controller) in self.controllers.iter().enumerate() {
            controller.touched(&self.cache, key, value, &mut dirty);
            self.dirty.extend(dirty.drain(..).map(|key| (index, key)));
        }
    }

    fn create(&mut self, gvr: &Gvr, mut value: Value) -> Result<(), String> {
        self.version += 1;
        if object::name(&value).is_empty() {
            let generated = text(&value, "/metadata/generateName").to_owned();
            assert_ne!(generated, "", "an object needs a name: {value}");
            value["metadata"]["name"] = format!("{generated}{:05}", self.version).into();
        }
        let key = ObjectKey::of(gvr, &value);
        if self.cache.at(&key).is_some() {
            return Err(format!("{key:?} already exists"));
        }
        value["metadata"]["uid"] = format!("uid-{}", self.version).into();
        value["metadata"]["generation"] = 1.into();
        value["metadata"]["creationTimestamp"] = object::rfc3339(self.now).into();
        if *gvr == PODS {
            entry(&mut value, "status", || json!({}))["phase"] = "Pending".into();
        }
        value["metadata"]["resourceVersion"] = self.version.to_string().into();
        self.cache.put(gvr, Arc::new(value.clone())).unwrap();
        self.touch(&key, &value);
        Ok(())
    }

    fn store(&mut self, gvr: &Gvr, mut value: Value) {
        let key = ObjectKey::of(gvr, &value);
        let present = self.cache.at(&key).unwrap().clone();
        if present.get("spec") != value.get("spec") {
            value["metadata"]["generation"] = (object::generation(&present) + 1).into();
        }
        value["metadata"]["resourceVersion"] = present["metadata"]["resourceVersion"].clone();
        if *present == value {
            return;
        }
        let running = *gvr == PODS
            && !text(&value, "/spec/nodeName").is_empty()
            && !super::pods::finished(&value);
        if deleting(&value) && object::finalizers(&value).next().is_none() && !running {
            self.remove(&key);
            return;
        }
        self.version += 1;
        value["metadata"]["resourceVersion"] = self.version.to_string().into();
        self.cache.put(gvr, Arc::new(value.clone())).unwrap();
        self.touch(&key, &present);
        self.touch(&key, &value);
    }

    fn carry_out(&mut self, action: Action) -> Result<(), String> {
        match action {
            Action::Note(note) => {
                self.events
                    .push(format!("{} {}", note.reason, note.message));
                return Ok(());
            }
            _ => self.writes += 1,
        }
        match action {
            Action::Create {
                gvr, object, done, ..
            } => {
                self.create(&gvr, object)?;
                if let Some(note) = done {
                    self.events
                        .push(format!("{} {}", note.reason, note.message));
                }
            }
            Action::Update {
                gvr,
                object,
                subresource,
            } => {
                let key = ObjectKey::of(&gvr, &object);
                let Some(present) = self.cache.at(&key).cloned() else {
                    return Ok(());
                };
                if object::resource_version(&present) != object::resource_version(&object) {
                    return Err(format!("{key:?} was modified"));
                }
                let mut value = object;
                if subresource == Subresource::Status {
                    let status = value["status"].clone();
                    value = (*present).clone();
                    value["status"] = status;
                } else if let Some(status) = present.get("status") {
                    value["status"] = status.clone();
                }
                self.store(&gvr, value);
            }
            Action::Bind { key, node } => {
                self.change(&key, |pod| pod["spec"]["nodeName"] = node.into());
            }
            Action::Merge { key, patch } => self.change(&key, |value| merge(value, &patch)),
            Action::Delete {
                key,
                uid,
                propagation,
                done,
                ..
            } => {
                let same = self
                    .cache
                    .at(&key)
                    .is_some_and(|present| object::uid(present) == uid);
                if same {
                    if propagation == Propagation::Foreground {
                        self.change(&key, |value| {
                            value["metadata"]["finalizers"] = json!(["foregroundDeletion"]);
                        });
                    }
                    self.delete(&key);
                    if let Some(note) = done {
                        self.events
                            .push(format!("{} {}", note.reason, note.message));
                    }
                }
            }
            Action::Collect { key, owners, .. } => {
                let alive = owners.iter().any(|(owner, uid)| {
                    self.cache
                        .at(owner)
                        .is_some_and(|owner| object::uid(owner) == uid)
                });
                if !alive {
                    self.delete(&key);
                }
            }
            Action::RemoveVolume { .. }
            | Action::PurgeEvents { .. }
            | Action::FinishNamespace { .. }
            | Action::Note(_) => {}
        }
        Ok(())
    }
}

fn merge(target: &mut Value, patch: &Value) {
    let Some(patch) = patch.as_object() else {
        *target = patch.clone();
        return;
    };
    for (key, value) in patch {
        if value.is_null() {
            if let Some(map) = target.as_object_mut() {
                map.remove(key);
            }
        } else {
            merge(entry(target, key, || json!({})), value);
        }
    }
}
