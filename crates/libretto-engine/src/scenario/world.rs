//! A cluster that is simulated: an object store with server-side apply, and the workload controllers that packages rely on.
//!
//! It is a model, not an API server: lists are atomic, admission and defaults are missing, and pods run nothing. What pods
//! serve is in [`super::redis`].

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    hash::{Hash, Hasher},
    sync::Arc,
};

use libretto_api::{
    intent::{Failure, FailureKind, Millis},
    object::{Gvk, INSTANCE_LABEL, ObjectRef},
};
use libretto_mirror::{canonical_json, digest};
use serde_json::{Map, Value, json};

use super::print::{Print, PrintHasher};
use crate::{ledger::reference, status::timestamp};

/// From a pod's creation to its container running.
const START_MS: Millis = 1_000;
/// From running to ready, at the earliest.
const READY_MS: Millis = 1_000;
/// From a pod's deletion to its being gone.
const GRACE_MS: Millis = 1_000;

/// The cluster. Copies share the objects.
#[derive(Debug, Clone, Default)]
pub(crate) struct World {
    pub(crate) now: Millis,
    pub(crate) objects: BTreeMap<ObjectRef, Arc<Value>>,
    /// What changed since it was last taken, in order.
    pub(crate) changes: Vec<Happened>,
    versions: u64,
    uids: u64,
    addresses: u32,
    /// When pods were made, started, and are to be gone; by uid.
    pods: BTreeMap<String, PodTimes>,
    /// Pods whose container runs, for the model of what they serve.
    pub(crate) running: BTreeSet<String>,
    /// What the controllers saw last: the version, and which pods serve.
    seen: Option<(u64, BTreeSet<String>)>,
}

/// One change of an object.
#[derive(Debug, Clone)]
pub(crate) enum Happened {
    Applied(Arc<Value>),
    Deleted { object: ObjectRef, uid: String },
}

#[derive(Debug, Clone, Default)]
struct PodTimes {
    created: Millis,
    started: Option<Millis>,
    gone_at: Option<Millis>,
}

pub(crate) fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object
        .pointer(pointer)
        .and_then(Value::as_str)
        .unwrap_or_default()
}

fn int(object: &Value, pointer: &str) -> Option<i64> {
    object.pointer(pointer).and_then(Value::as_i64)
}

fn failed(kind: FailureKind, message: String) -> Failure {
    Failure { kind, message }
}

impl World {
    /// An empty cluster at a moment.
    pub(crate) fn at(now: Millis) -> Self {
        Self {
            now,
            ..Self::default()
        }
    }

    /// Grows with every change of an object.
    pub(crate) fn version(&self) -> u64 {
        self.versions
    }

    /// Objects of a Kind, by name.
    pub(crate) fn of_kind<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'a Value> {
        self.objects
            .iter()
            .filter(move |(reference, _)| reference.gvk.kind == kind)
            .map(|(_, object)| object.as_ref())
    }

    /// `Pod/demo-0`, whatever its group and namespace.
    pub(crate) fn find(&self, kind_and_name: &str) -> Option<ObjectRef> {
        let (kind, name) = kind_and_name.split_once('/')?;
        self.objects
            .keys()
            .find(|object| object.gvk.kind == kind && object.name == name)
            .cloned()
    }

    /// Stores an object; a version only when something changed.
    pub(crate) fn store(&mut self, mut object: Value) -> Arc<Value> {
        let Some(reference) = reference(&object) else {
            return Arc::new(object);
        };
        let former = self.objects.get(&reference);
        if object["metadata"]["uid"].is_null() {
            self.uids += 1;
            // In the form of a UUID, as packages may expect.
            object["metadata"]["uid"] =
                json!(format!("00000000-0000-4000-8000-{:012x}", self.uids));
            object["metadata"]["creationTimestamp"] = json!(timestamp(self.now));
            object["metadata"]["generation"] = json!(1);
        }
        if let Some(former) = former {
            if former.get("spec") != object.get("spec") {
                let generation = int(former, "/metadata/generation").unwrap_or(1) + 1;
                object["metadata"]["generation"] = json!(generation);
            }
            object["metadata"]["resourceVersion"] = former["metadata"]["resourceVersion"].clone();
            if **former == object {
                return Arc::clone(former);
            }
        }
        self.versions += 1;
        object["metadata"]["resourceVersion"] = json!(self.versions.to_string());
        let object = Arc::new(object);
        self.objects.insert(reference, Arc::clone(&object));
        self.changes.push(Happened::Applied(Arc::clone(&object)));
        object
    }

    /// Changes a stored object.
    pub(crate) fn update(&mut self, object: &ObjectRef, change: impl FnOnce(&mut Value)) {
        if let Some(value) = self.objects.get(object) {
            let mut value = Value::clone(value);
            change(&mut value);
            self.store(value);
        }
    }

    /// Finishes the deletion of what nobody holds any more.
    fn finalize(&mut self) {
        let free: Vec<ObjectRef> = self
            .objects
            .iter()
            .filter(|(reference, object)| {
                reference.gvk.kind != "Pod"
                    && object.pointer("/metadata/deletionTimestamp").is_some()
                    && !held(object)
            })
            .map(|(reference, _)| reference.clone())
            .collect();
        for object in free {
            self.remove(&object);
        }
    }

    fn remove(&mut self, object: &ObjectRef) {
        if let Some(value) = self.objects.remove(object) {
            self.versions += 1;
            let uid = text(&value, "/metadata/uid").to_owned();
            self.pods.remove(&uid);
            self.running.remove(&uid);
            self.changes.push(Happened::Deleted {
                object: object.clone(),
                uid,
            });
        }
    }

    /// Server-side apply with the manager's fields replaced by these.
    pub(crate) fn apply(
        &mut self,
        object: &Value,
        manager: &str,
        instance_uid: &str,
        adopt: bool,
        patch: bool,
    ) -> Result<Value, Failure> {
        let mut object = object.clone();
        if let Some(data) = object
            .as_object_mut()
            .and_then(|map| map.remove("stringData"))
        {
            use base64::Engine as _;
            for (key, value) in data.as_object().into_iter().flatten() {
                let encoded = base64::engine::general_purpose::STANDARD
                    .encode(value.as_str().unwrap_or_default());
                object["data"][key] = json!(encoded);
            }
        }
        without_nulls(&mut object);
        let Some(reference) = reference(&object) else {
            return Err(failed(
                FailureKind::Invalid,
                "object has no apiVersion or kind".to_owned(),
            ));
        };
        let former = self.objects.get(&reference).cloned();
        if patch && former.is_none() {
            return Err(failed(
                FailureKind::Invalid,
                format!("{reference} does not exist"),
            ));
        }
        if let Some(former) = &former
            && !patch
            && !adopt
            && !owned_by(former, instance_uid)
        {
            return Err(failed(
                FailureKind::Conflict,
                format!("{reference} exists and is not ours"),
            ));
        }
        let mut merged = match former {
            Some(former) => Value::clone(&former),
            None => json!({"metadata": {}}),
        };
        let fields = fields_of(&object);
        let others: Vec<Value> = merged
            .pointer("/metadata/managedFields")
            .and_then(Value::as_array)
            .cloned()
            .unwrap_or_default();
        if let Some(ours) = others
            .iter()
            .find(|entry| text(entry, "/manager") == manager)
        {
            release(&mut merged, &ours["fieldsV1"], &fields);
        }
        merge(&mut merged, &object);
        let mut managed: Vec<Value> = others
            .into_iter()
            .filter(|entry| text(entry, "/manager") != manager)
            .collect();
        if fields.as_object().is_some_and(|fields| !fields.is_empty()) {
            managed.push(json!({"manager": manager, "operation": "Apply", "fieldsV1": fields}));
        }
        merged["metadata"]["managedFields"] = Value::Array(managed);
        Ok(Value::clone(&self.store(merged)))
    }

    /// Deletes like the API server; pods take their time.
    pub(crate) fn delete(
        &mut self,
        object: &ObjectRef,
        uid: Option<&str>,
    ) -> Result<bool, Failure> {
        let Some(value) = self.objects.get(object) else {
            return Ok(false);
        };
        let found = text(value, "/metadata/uid").to_owned();
        if uid.is_some_and(|uid| uid != found) {
            return Ok(false);
        }
        let holds = held(value);
        if holds || object.gvk.kind == "Pod" && self.pods.contains_key(&found) {
            let now = self.now;
            if let Some(times) = self.pods.get_mut(&found) {
                times.gone_at.get_or_insert(now + GRACE_MS);
            }
            let stamp = timestamp(now);
            self.update(object, |value| {
                if value.pointer("/metadata/deletionTimestamp").is_none() {
                    value["metadata"]["deletionTimestamp"] = json!(stamp);
                }
            });
        } else {
            self.remove(object);
        }
        Ok(true)
    }

    /// Takes a pod away at once, as when its node dies.
    pub(crate) fn kill(&mut self, object: &ObjectRef) {
        self.remove(object);
    }

    /// Restarts a pod's container: same pod, same address, new process.
    pub(crate) fn restart(&mut self, object: &ObjectRef) -> Option<String> {
        let uid = text(self.objects.get(object)?, "/metadata/uid").to_owned();
        let now = self.now;
        self.running.remove(&uid);
        self.pods.entry(uid.clone()).or_default().started = Some(now);
        self.update(object, |value| {
            set_ready(value, false, now);
            for status in value["status"]["containerStatuses"]
                .as_array_mut()
                .into_iter()
                .flatten()
            {
                status["state"] = json!({"running": {"startedAt": timestamp(now)}});
                status["restartCount"] = json!(status["restartCount"].as_i64().unwrap_or(0) + 1);
            }
        });
        Some(uid)
    }

    /// One step of every controller. `serving`: uids of the pods in which what runs is ready.
    pub(crate) fn step(&mut self, serving: BTreeSet<String>) {
        let seen = Some((self.versions, serving));
        if seen == self.seen && !self.under_way() {
            return;
        }
        // What they change themselves they have to see too: the version is the one from before.
        self.every_controller(&|pod| {
            seen.as_ref()
                .is_some_and(|(_, serving)| serving.contains(text(pod, "/metadata/uid")))
        });
        self.seen = seen;
    }

    /// Whether time alone can change something: pods that start, stop, or become ready.
    fn under_way(&self) -> bool {
        self.pods.values().any(|times| {
            times.gone_at.is_some()
                || times
                    .started
                    .is_none_or(|started| self.now <= started + READY_MS)
        })
    }

    fn every_controller(&mut self, serves: &dyn Fn(&Value) -> bool) {
        self.finalize();
        self.collect_garbage();
        let all: Vec<ObjectRef> = self.objects.keys().cloned().collect();
        for object in &all {
            match (object.gvk.group.as_str(), object.gvk.kind.as_str()) {
                ("apps", "StatefulSet") => self.stateful_set(object),
                ("apps", "Deployment") => self.deployment(object),
                ("apps", "ReplicaSet") => self.replica_set(object),
                ("apps", "DaemonSet") => self.daemon_set(object),
                ("batch", "Job") => self.job(object),
                ("", "Pod") => self.pod(object, serves),
                ("", "PersistentVolumeClaim") => self.update(object, |value| {
                    value["status"]["phase"] = json!("Bound");
                }),
                ("", "Service") => self.service(object),
                _ => {}
            }
        }
    }

    fn collect_garbage(&mut self) {
        loop {
            let uids: BTreeSet<&str> = self
                .objects
                .values()
                .map(|object| text(object, "/metadata/uid"))
                .collect();
            let orphans: Vec<ObjectRef> = self
                .objects
                .iter()
                .filter(|(_, object)| {
                    let owners = object
                        .pointer("/metadata/ownerReferences")
                        .and_then(Value::as_array);
                    owners.is_some_and(|owners| {
                        !owners.is_empty()
                            && owners
                                .iter()
                                .all(|owner| !uids.contains(text(owner, "/uid")))
                    }) && object.pointer("/metadata/deletionTimestamp").is_none()
                })
                .map(|(reference, _)| reference.clone())
                .collect();
            if orphans.is_empty() {
                return;
            }
            for orphan in orphans {
                // What cannot be deleted now is tried again the next step.
                if self.delete(&orphan, None).is_err() {
                    return;
                }
            }
        }
    }

    /// Pods, ReplicaSets or claims that an object controls.
    fn controlled(&self, owner_uid: &str, kind: &str) -> Vec<ObjectRef> {
        self.objects
            .iter()
            .filter(|(reference, object)| {
                reference.gvk.kind == kind && controller_uid(object) == owner_uid
            })
            .map(|(reference, _)| reference.clone())
            .collect()
    }

    fn make_pod(&mut self, owner: &Value, name: &str, labels: &[(&str, &str)]) {
        let template = owner
            .pointer("/spec/template")
            .cloned()
            .unwrap_or_else(|| json!({}));
        let mut pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": template.get("metadata").cloned().unwrap_or_else(|| json!({})),
            "spec": template.get("spec").cloned().unwrap_or_else(|| json!({})),
            "status": {"phase": "Pending"},
        });
        pod["metadata"]["name"] = json!(name);
        pod["metadata"]["namespace"] = owner["metadata"]["namespace"].clone();
        // A pod of that name is still going: its successor waits, as it does at an API server.
        if reference(&pod).is_some_and(|object| self.objects.contains_key(&object)) {
            return;
        }
        pod["metadata"]["ownerReferences"] = owned(owner);
        for (key, value) in labels {
            pod["metadata"]["labels"][*key] = json!(value);
        }
        let pod = self.store(pod);
        self.pods.insert(
            text(&pod, "/metadata/uid").to_owned(),
            PodTimes {
                created: self.now,
                ..PodTimes::default()
            },
        );
    }

    fn stateful_set(&mut self, object: &ObjectRef) {
        let Some(set) = self.objects.get(object).cloned() else {
            return;
        };
        let uid = text(&set, "/metadata/uid").to_owned();
        let wanted = int(&set, "/spec/replicas").unwrap_or(1);
        let revision = revision(object, &set);
        let parallel = text(&set, "/spec/podManagementPolicy") == "Parallel";
        let on_delete = text(&set, "/spec/updateStrategy/type") == "OnDelete";
        let partition = int(&set, "/spec/updateStrategy/rollingUpdate/partition").unwrap_or(0);
        let pods: BTreeMap<i64, Arc<Value>> = self
            .controlled(&uid, "Pod")
            .iter()
            .filter_map(|pod| {
                let ordinal = pod.name.rsplit('-').next()?.parse().ok()?;
                Some((ordinal, self.objects.get(pod)?.clone()))
            })
            .collect();
        let ready =
            |pod: &Value| is_ready(pod) && pod.pointer("/metadata/deletionTimestamp").is_none();
        let mut blocked = false;
        for ordinal in 0..wanted {
            match pods.get(&ordinal) {
                None if !blocked => {
                    let name = format!("{}-{ordinal}", object.name);
                    self.claims(&set, &name);
                    let index = ordinal.to_string();
                    self.make_pod(
                        &set,
                        &name,
                        &[
                            ("controller-revision-hash", &revision),
                            ("statefulset.kubernetes.io/pod-name", &name),
                            ("apps.kubernetes.io/pod-index", &index),
                        ],
                    );
                    blocked = !parallel;
                }
                Some(pod) if !parallel && !ready(pod) => blocked = true,
                _ => {}
            }
        }
        for (ordinal, pod) in pods.iter().rev() {
            if *ordinal >= wanted
                && let Some(reference) = reference(pod)
            {
                // Pods take their own time to go; nothing here can fail.
                let _ = self.delete(&reference, None);
                if !parallel {
                    break;
                }
            }
        }
        let current =
            |pod: &&Arc<Value>| text(pod, "/metadata/labels/controller-revision-hash") == revision;
        if !on_delete && (0..wanted).all(|ordinal| pods.get(&ordinal).is_some_and(|pod| ready(pod)))
        {
            let outdated = pods
                .iter()
                .rev()
                .find(|(ordinal, pod)| **ordinal >= partition && !current(pod));
            if let Some((_, pod)) = outdated
                && let Some(reference) = reference(pod)
            {
                let _ = self.delete(&reference, None);
            }
        }
        let count = |test: &dyn Fn(&&Arc<Value>) -> bool| pods.values().filter(test).count();
        let updated = count(&|pod| current(pod));
        let (total, ready) = (pods.len(), count(&|pod| ready(pod)));
        self.update(object, |value| {
            let status = &mut value["status"];
            status["observedGeneration"] = set["metadata"]["generation"].clone();
            status["replicas"] = json!(total);
            status["readyReplicas"] = json!(ready);
            status["availableReplicas"] = json!(ready);
            status["updatedReplicas"] = json!(updated);
            status["updateRevision"] = json!(revision);
            if status["currentRevision"].is_null()
                || (updated == total && i64::try_from(total).unwrap_or(0) == wanted)
            {
                status["currentRevision"] = json!(revision);
            }
        });
    }

    fn claims(&mut self, set: &Value, pod: &str) {
        for claim in set
            .pointer("/spec/volumeClaimTemplates")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
        {
            let mut claim = claim.clone();
            let name = format!("{}-{pod}", text(&claim, "/metadata/name"));
            claim["apiVersion"] = json!("v1");
            claim["kind"] = json!("PersistentVolumeClaim");
            claim["metadata"]["name"] = json!(name);
            claim["metadata"]["namespace"] = set["metadata"]["namespace"].clone();
            let exists = reference(&claim).is_some_and(|claim| self.objects.contains_key(&claim));
            if !exists {
                self.store(claim);
            }
        }
    }

    fn deployment(&mut self, object: &ObjectRef) {
        let Some(deployment) = self.objects.get(object).cloned() else {
            return;
        };
        let uid = text(&deployment, "/metadata/uid").to_owned();
        let wanted = int(&deployment, "/spec/replicas").unwrap_or(1);
        let hash = revision(object, &deployment);
        let hash = hash.rsplit('-').next().unwrap_or_default();
        let name = format!("{}-{hash}", object.name);
        let sets = self.controlled(&uid, "ReplicaSet");
        let current = sets.iter().find(|set| set.name == name).cloned();
        let mut template = deployment["spec"]["template"].clone();
        template["metadata"]["labels"]["pod-template-hash"] = json!(hash);
        match &current {
            None => {
                self.store(json!({
                    "apiVersion": "apps/v1", "kind": "ReplicaSet",
                    "metadata": {"name": name, "namespace": object.namespace, "ownerReferences": owned(&deployment)},
                    "spec": {"replicas": wanted, "template": template},
                }));
            }
            Some(set) => self.update(set, |set| set["spec"]["replicas"] = json!(wanted)),
        }
        let ready_now = current
            .as_ref()
            .and_then(|set| int(self.objects.get(set)?, "/status/readyReplicas"))
            .unwrap_or(0);
        // The old ones go when the new ones serve.
        for set in sets.iter().filter(|set| set.name != name) {
            if ready_now >= wanted {
                if int(&self.objects[set], "/status/replicas") == Some(0) {
                    self.remove(set);
                } else {
                    self.update(set, |set| set["spec"]["replicas"] = json!(0));
                }
            }
        }
        let total: i64 = self
            .controlled(&uid, "ReplicaSet")
            .iter()
            .filter_map(|set| int(self.objects.get(set)?, "/status/replicas"))
            .sum();
        let updated = current
            .as_ref()
            .and_then(|set| int(self.objects.get(set)?, "/status/replicas"))
            .unwrap_or(0);
        self.update(object, |value| {
            value["status"] = json!({
                "observedGeneration": deployment["metadata"]["generation"],
                "replicas": total, "updatedReplicas": updated,
                "readyReplicas": ready_now, "availableReplicas": ready_now,
            });
        });
    }

    fn replica_set(&mut self, object: &ObjectRef) {
        let Some(set) = self.objects.get(object).cloned() else {
            return;
        };
        let uid = text(&set, "/metadata/uid").to_owned();
        let wanted = usize::try_from(int(&set, "/spec/replicas").unwrap_or(1)).unwrap_or(0);
        let pods: Vec<ObjectRef> = self
            .controlled(&uid, "Pod")
            .into_iter()
            .filter(|pod| {
                self.objects[pod]
                    .pointer("/metadata/deletionTimestamp")
                    .is_none()
            })
            .collect();
        for _ in pods.len()..wanted {
            let salt = digest(format!("{uid}/{}", self.uids).as_bytes());
            self.make_pod(&set, &format!("{}-{}", object.name, &salt[..5]), &[]);
        }
        for pod in pods.iter().skip(wanted) {
            let _ = self.delete(pod, None);
        }
        let ready = pods
            .iter()
            .filter(|pod| is_ready(&self.objects[*pod]))
            .count();
        self.update(object, |value| {
            value["status"] = json!({
                "replicas": pods.len(), "readyReplicas": ready,
                "observedGeneration": set["metadata"]["generation"],
            });
        });
    }

    /// The cluster has one node.
    fn daemon_set(&mut self, object: &ObjectRef) {
        let Some(set) = self.objects.get(object).cloned() else {
            return;
        };
        let uid = text(&set, "/metadata/uid").to_owned();
        let revision = revision(object, &set);
        let pods = self.controlled(&uid, "Pod");
        match pods.first() {
            None => {
                let name = format!("{}-node", object.name);
                self.make_pod(&set, &name, &[("controller-revision-hash", &revision)]);
            }
            Some(pod)
                if text(
                    &self.objects[pod],
                    "/metadata/labels/controller-revision-hash",
                ) != revision =>
            {
                let _ = self.delete(pod, None);
            }
            Some(_) => {}
        }
        let ready = pods
            .iter()
            .filter(|pod| is_ready(&self.objects[*pod]))
            .count();
        self.update(object, |value| {
            value["status"] = json!({
                "observedGeneration": set["metadata"]["generation"], "desiredNumberScheduled": 1,
                "numberReady": ready, "updatedNumberScheduled": pods.len(),
            });
        });
    }

    fn job(&mut self, object: &ObjectRef) {
        let Some(job) = self.objects.get(object).cloned() else {
            return;
        };
        let uid = text(&job, "/metadata/uid").to_owned();
        let pods = self.controlled(&uid, "Pod");
        let done = job
            .pointer("/status/conditions/0/status")
            .and_then(Value::as_str)
            == Some("True");
        if done {
            return;
        }
        let Some(pod) = pods.first().cloned() else {
            self.make_pod(&job, &format!("{}-run", object.name), &[]);
            return;
        };
        // What a job does takes as long as a service takes to be ready.
        if is_ready(&self.objects[&pod]) {
            let now = self.now;
            self.update(&pod, |pod| {
                pod["status"]["phase"] = json!("Succeeded");
                set_ready(pod, false, now);
            });
            self.update(object, |job| {
                job["status"] =
                    json!({"succeeded": 1, "conditions": [{"type": "Complete", "status": "True"}]});
            });
        }
    }

    fn service(&mut self, object: &ObjectRef) {
        let missing = self
            .objects
            .get(object)
            .is_some_and(|service| text(service, "/spec/clusterIP").is_empty());
        if missing {
            let address = self.address(96);
            self.update(object, |service| {
                service["spec"]["clusterIP"] = json!(address);
            });
        }
    }

    /// Never given twice: what remembers an old address must not meet a new pod there unless a scenario wants it.
    fn address(&mut self, net: u32) -> String {
        self.addresses += 1;
        format!(
            "10.{net}.{}.{}",
            self.addresses / 250,
            self.addresses % 250 + 1
        )
    }

    fn pod(&mut self, object: &ObjectRef, serves: &dyn Fn(&Value) -> bool) {
        let Some(pod) = self.objects.get(object).cloned() else {
            return;
        };
        let uid = text(&pod, "/metadata/uid").to_owned();
        let now = self.now;
        let times = self
            .pods
            .entry(uid.clone())
            .or_insert_with(|| PodTimes {
                created: now,
                ..PodTimes::default()
            })
            .clone();
        if times.gone_at.is_some_and(|at| at <= now) {
            self.remove(object);
            return;
        }
        if text(&pod, "/status/phase") == "Succeeded" {
            return;
        }
        let containers: Vec<Value> = pod
            .pointer("/spec/containers")
            .and_then(Value::as_array)
            .cloned()
            .unwrap_or_default();
        if times.started.is_none() {
            if now < times.created + START_MS || times.gone_at.is_some() {
                return;
            }
            // An image of that name cannot be pulled: the way to have a bad update in a scenario.
            let missing = containers
                .iter()
                .any(|container| text(container, "/image").contains("does-not-exist"));
            let address = match text(&pod, "/status/podIP") {
                "" => self.address(0),
                address => address.to_owned(),
            };
            let statuses: Vec<Value> = containers
                .iter()
                .map(|container| {
                    let state = if missing {
                        json!({"waiting": {"reason": "ImagePullBackOff"}})
                    } else {
                        json!({"running": {"startedAt": timestamp(now)}})
                    };
                    json!({"name": container["name"], "image": container["image"], "restartCount": 0, "ready": false, "state": state})
                })
                .collect();
            self.update(object, |pod| {
                pod["status"]["podIP"] = json!(address);
                pod["status"]["phase"] = json!(if missing { "Pending" } else { "Running" });
                pod["status"]["containerStatuses"] = json!(statuses);
                set_ready(pod, false, now);
            });
            if !missing {
                self.pods.entry(uid.clone()).or_default().started = Some(now);
                self.running.insert(uid);
            }
            return;
        }
        self.running.insert(uid);
        let serving = serves(&pod)
            && times.gone_at.is_none()
            && times.started.is_some_and(|at| now >= at + READY_MS);
        if serving != is_ready(&pod) {
            self.update(object, |pod| set_ready(pod, serving, now));
        }
    }

    /// Feeds everything to the hash that what comes can follow from. Times that only matter until something is due count no further.
    ///
    /// Which number a version has follows from how often things were written, not from how they are; nothing but an order can be
    /// read off it, and what is written next has a higher one in any case. `versions` says that they are to be counted as well.
    pub(crate) fn hash_future(&self, versions: bool, seen: &mut Seen, state: &mut impl Hasher) {
        let Self {
            now,
            objects,
            changes,
            versions: last,
            uids,
            addresses,
            pods,
            running,
            seen: looked,
        } = self;
        (now, uids, addresses, running).hash(state);
        if versions {
            last.hash(state);
        }
        objects.len().hash(state);
        for object in objects.values() {
            seen.digest(object, versions).hash(state);
        }
        for change in changes {
            match change {
                Happened::Applied(object) => seen.digest(object, true).hash(state),
                Happened::Deleted { object, uid } => (object, uid).hash(state),
            }
        }
        for (uid, times) in pods {
            uid.hash(state);
            let PodTimes {
                created,
                started,
                gone_at,
            } = times;
            match started {
                // Only compared with READY_MS ago.
                Some(started) => (*started).max(*now - READY_MS - 1).hash(state),
                None => created.hash(state),
            }
            started.is_some().hash(state);
            gone_at.hash(state);
        }
        // The controllers look again when the version is another one.
        let looked = looked.as_ref().map(|(at, serving)| (at == last, serving));
        looked.hash(state);
    }

    /// Whether nothing is on its way: no pod starting, stopping, or waiting to be ready for reasons of time.
    pub(crate) fn quiet(&self) -> bool {
        self.pods.values().all(|times| times.gone_at.is_none())
    }
}

/// Digests of objects. Most of them are the same ones from moment to moment, and shared by the runs that came from one.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// By where the object is, which is kept so that no other can be there.
    by_place: HashMap<(usize, bool), (Arc<Value>, Print)>,
}

/// Objects whose digests are kept: all versions of those of some hundred runs of one scenario.
const SEEN: usize = 10_000;

impl Seen {
    fn digest(&mut self, object: &Arc<Value>, version: bool) -> Print {
        let place = (Arc::as_ptr(object).addr(), version);
        if let Some((_, print)) = self.by_place.get(&place) {
            return *print;
        }
        if self.by_place.len() >= SEEN {
            self.by_place.clear();
        }
        let mut hasher = PrintHasher::default();
        if version {
            object.hash(&mut hasher);
        } else {
            let mut object = Value::clone(object);
            if let Some(metadata) = object["metadata"].as_object_mut() {
                metadata.remove("resourceVersion");
            }
            object.hash(&mut hasher);
        }
        let print = hasher.print();
        self.by_place.insert(place, (Arc::clone(object), print));
        print
    }
}

/// Whether a finalizer keeps the object.
fn held(object: &Value) -> bool {
    object
        .pointer("/metadata/finalizers")
        .and_then(Value::as_array)
        .is_some_and(|finalizers| !finalizers.is_empty())
}

fn owned(owner: &Value) -> Value {
    json!([{
        "apiVersion": owner["apiVersion"], "kind": owner["kind"], "name": owner["metadata"]["name"],
        "uid": owner["metadata"]["uid"], "controller": true,
    }])
}

fn controller_uid(object: &Value) -> &str {
    object
        .pointer("/metadata/ownerReferences")
        .and_then(Value::as_array)
        .and_then(|owners| {
            owners
                .iter()
                .find(|owner| owner["controller"] == json!(true))
        })
        .map_or("", |owner| text(owner, "/uid"))
}

fn owned_by(object: &Value, uid: &str) -> bool {
    controller_uid(object) == uid
        || object
            .pointer("/metadata/labels")
            .and_then(|labels| labels.get(INSTANCE_LABEL))
            .and_then(Value::as_str)
            == Some(uid)
}

fn revision(object: &ObjectRef, owner: &Value) -> String {
    let template = owner.pointer("/spec/template").unwrap_or(&Value::Null);
    let hash = digest(canonical_json(template).as_bytes());
    format!("{}-{}", object.name, &hash[..10])
}

pub(crate) fn is_ready(pod: &Value) -> bool {
    pod.pointer("/status/conditions")
        .and_then(Value::as_array)
        .is_some_and(|conditions| {
            conditions.iter().any(|condition| {
                text(condition, "/type") == "Ready" && text(condition, "/status") == "True"
            })
        })
}

fn set_ready(pod: &mut Value, ready: bool, now: Millis) {
    pod["status"]["conditions"] = json!([{
        "type": "Ready", "status": if ready { "True" } else { "False" }, "lastTransitionTime": timestamp(now),
    }]);
    for status in pod["status"]["containerStatuses"]
        .as_array_mut()
        .into_iter()
        .flatten()
    {
        status["ready"] = json!(ready);
    }
}

fn without_nulls(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, value| !value.is_null());
            map.values_mut().for_each(without_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(without_nulls),
        _ => {}
    }
}

/// Field set of an applied object: maps by key, everything else whole.
fn fields_of(object: &Value) -> Value {
    fn walk(value: &Value, path: &str) -> Value {
        let Some(map) = value.as_object() else {
            return json!({});
        };
        let mut fields = Map::new();
        for (key, nested) in map {
            let place = format!("{path}/{key}");
            if matches!(
                place.as_str(),
                "/apiVersion" | "/kind" | "/metadata/name" | "/metadata/namespace"
            ) {
                continue;
            }
            let below = walk(nested, &place);
            let empty = below.as_object().is_some_and(Map::is_empty);
            if place == "/metadata" && empty {
                continue;
            }
            fields.insert(format!("f:{key}"), below);
        }
        Value::Object(fields)
    }
    walk(object, "")
}

/// Removes what the manager set before and sets no more.
fn release(value: &mut Value, before: &Value, now: &Value) {
    let (Some(map), Some(before)) = (value.as_object_mut(), before.as_object()) else {
        return;
    };
    for (name, below) in before {
        let key = name.trim_start_matches("f:");
        match now.get(name) {
            None => {
                let leaf = below.as_object().is_some_and(Map::is_empty);
                if leaf {
                    map.remove(key);
                } else if let Some(nested) = map.get_mut(key) {
                    release(nested, below, &json!({}));
                }
            }
            Some(still) => {
                if let Some(nested) = map.get_mut(key) {
                    release(nested, below, still);
                }
            }
        }
    }
}

/// Maps are merged, everything else is replaced.
fn merge(into: &mut Value, from: &Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from.clone(),
    }
}

/// `v1/ConfigMap ns/name` for messages and comparisons.
pub(crate) fn inventory_reference(instance: &libretto_api::object::InstanceRef) -> ObjectRef {
    ObjectRef {
        gvk: Gvk::new("", "v1", "ConfigMap"),
        namespace: instance.namespace.clone(),
        name: format!(
            "{}-{}-inventory",
            instance.name,
            instance.gvk.kind.to_lowercase()
        ),
    }
}
