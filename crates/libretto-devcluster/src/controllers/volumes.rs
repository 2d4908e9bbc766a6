//! Binds PersistentVolumeClaims to PersistentVolumes, provisions directories for claims of the `local` storage class, and reclaims them.
//!
//! Sizes are recorded, never enforced: a directory has none.

use std::sync::LazyLock;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::cache::{Cache, ObjectKey};
use super::kinds::{NODES, PERSISTENT_VOLUME_CLAIMS, PERSISTENT_VOLUMES, PODS, STORAGE_CLASSES};
use super::object::{self, deleting, entry, flag, has_finalizer, items, text};
use super::plan::{Action, Controller, Note, Plan};
use super::{quantity, selector};
use crate::api::Gvr;

/// Makes volumes of the `local` storage class.
pub(crate) const PROVISIONER: &str = "libretto.dev/directory";
pub(crate) const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
pub(crate) const DEFAULT_CLASS: &str = "storageclass.kubernetes.io/is-default-class";
const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
const BOUND_BY_CONTROLLER: &str = "pv.kubernetes.io/bound-by-controller";
const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
const CLAIM_FINALIZER: &str = "kubernetes.io/pvc-protection";
const VOLUME_FINALIZER: &str = "kubernetes.io/pv-protection";

/// Where a volume of this name has its directory.
pub(crate) type PathOf = dyn Fn(&str) -> String + Send + Sync;

pub(crate) struct Volumes {
    pub(crate) path_of: Box<PathOf>,
}

impl Controller for Volumes {
    fn component(&self) -> &'static str {
        "persistentvolume-controller"
    }

    fn touched(&self, cache: &Cache, key: &ObjectKey, object: &Value, dirty: &mut Vec<ObjectKey>) {
        if key.gvr == PERSISTENT_VOLUME_CLAIMS {
            dirty.push(key.clone());
            let volume = text(object, "/spec/volumeName");
            if !volume.is_empty() {
                dirty.push(ObjectKey::new(&PERSISTENT_VOLUMES, "", volume));
            }
            for volume in cache.all(&PERSISTENT_VOLUMES) {
                if claimed_by(volume, object) {
                    dirty.push(ObjectKey::of(&PERSISTENT_VOLUMES, volume));
                }
            }
        } else if key.gvr == PERSISTENT_VOLUMES {
            dirty.push(key.clone());
            let name = text(object, "/spec/claimRef/name");
            if name.is_empty() {
                dirty.extend(pending(cache));
            } else {
                dirty.push(ObjectKey::new(
                    &PERSISTENT_VOLUME_CLAIMS,
                    text(object, "/spec/claimRef/namespace"),
                    name,
                ));
            }
        } else if key.gvr == STORAGE_CLASSES {
            dirty.extend(pending(cache));
        } else if key.gvr == PODS {
            // Only a pod that leaves can release a claim that is being deleted.
            for volume in items(object, "/spec/volumes") {
                let name = text(volume, "/persistentVolumeClaim/claimName");
                let leaving = cache
                    .get(&PERSISTENT_VOLUME_CLAIMS, &key.namespace, name)
                    .is_some_and(|claim| deleting(claim));
                if leaving {
                    dirty.push(ObjectKey::new(
                        &PERSISTENT_VOLUME_CLAIMS,
                        &key.namespace,
                        name,
                    ));
                }
            }
        }
    }

    fn reconcile(&self, cache: &Cache, key: &ObjectKey, now: Timestamp) -> Plan {
        let mut plan = Plan::default();
        let Some(object) = cache.at(key) else {
            return plan;
        };
        if key.gvr == PERSISTENT_VOLUMES {
            reconcile_volume(cache, object, &mut plan);
        } else {
            self.reconcile_claim(cache, object, now, &mut plan);
        }
        plan
    }
}

fn pending(cache: &Cache) -> impl Iterator<Item = ObjectKey> {
    cache
        .all(&PERSISTENT_VOLUME_CLAIMS)
        .filter(|claim| text(claim, "/status/phase") != "Bound")
        .map(|claim| ObjectKey::of(&PERSISTENT_VOLUME_CLAIMS, claim))
}

/// The storage class a claim asks for; the default one when it does not say. An empty name means "no class".
fn class_name<'a>(cache: &'a Cache, claim: &'a Value) -> &'a str {
    match claim.pointer("/spec/storageClassName") {
        Some(Value::String(name)) => name,
        _ => cache
            .all(&STORAGE_CLASSES)
            .filter(|class| object::annotation(class, DEFAULT_CLASS) == "true")
            // Several defaults: upstream takes the newest.
            .max_by_key(|class| object::created(class))
            .map_or("", |class| object::name(class)),
    }
}

/// Whether a claim is provisioned only when a pod needs it.
pub(crate) fn waits_for_consumer(cache: &Cache, claim: &Value) -> bool {
    cache
        .get(&STORAGE_CLASSES, "", class_name(cache, claim))
        .is_some_and(|class| text(class, "/volumeBindingMode") == "WaitForFirstConsumer")
}

fn claimed_by(volume: &Value, claim: &Value) -> bool {
    text(volume, "/spec/claimRef/name") == object::name(claim)
        && text(volume, "/spec/claimRef/namespace") == object::namespace(claim)
}

fn requested(claim: &Value) -> i128 {
    quantity::milli(text(claim, "/spec/resources/requests/storage")).unwrap_or(0)
}

fn capacity(volume: &Value) -> i128 {
    quantity::milli(text(volume, "/spec/capacity/storage")).unwrap_or(0)
}

fn volume_mode(object: &Value) -> &str {
    match text(object, "/spec/volumeMode") {
        "" => "Filesystem",
        mode => mode,
    }
}

impl Volumes {
    fn reconcile_claim(&self, cache: &Cache, claim: &Value, now: Timestamp, plan: &mut Plan) {
        if deleting(claim) {
            if has_finalizer(claim, CLAIM_FINALIZER) && !in_use(cache, claim) {
                let released = object::without_finalizer(claim, CLAIM_FINALIZER);
                plan.update(&PERSISTENT_VOLUME_CLAIMS, claim, released);
            }
            return;
        }
        let class = class_name(cache, claim);
        let takes_class = claim.pointer("/spec/storageClassName").is_none()
            && text(claim, "/spec/volumeName").is_empty()
            && !class.is_empty();
        if takes_class || !has_finalizer(claim, CLAIM_FINALIZER) {
            let mut held = if has_finalizer(claim, CLAIM_FINALIZER) {
                claim.clone()
            } else {
                object::with_finalizer(claim, CLAIM_FINALIZER)
            };
            if takes_class {
                held["spec"]["storageClassName"] = class.into();
            }
            plan.update(&PERSISTENT_VOLUME_CLAIMS, claim, held);
            // The rest follows in the pass this write causes, on the new resourceVersion.
            return;
        }
        let volume_name = text(claim, "/spec/volumeName");
        if !volume_name.is_empty() {
            self.bind_to_named(cache, claim, volume_name, plan);
            return;
        }
        let class = class_name(cache, claim);
        let waiting = waits_for_consumer(cache, claim);
        let selected = object::annotation(claim, SELECTED_NODE);
        if let Some(volume) = find_volume(cache, claim, class)
            // A claim that waits for its consumer binds to an existing volume no earlier either, unless the volume asked for it.
            && (!waiting || !selected.is_empty() || claimed_by(volume, claim))
        {
            self.bind(cache, claim, volume, plan);
            return;
        }
        let note = |warning: bool, reason: &'static str, message: String| {
            let mut note = Note::normal(&PERSISTENT_VOLUME_CLAIMS, claim, reason, message);
            note.warning = warning;
            Action::Note(note)
        };
        if set_phase(&PERSISTENT_VOLUME_CLAIMS, claim, "Pending", plan) {
            // The reason follows in the pass this write causes; saying it now would say it twice.
            return;
        }
        if class.is_empty() {
            plan.push(note(
                false,
                "FailedBinding",
                "no persistent volumes available for this claim and no storage class is set"
                    .to_owned(),
            ));
            return;
        }
        let Some(storage) = cache.get(&STORAGE_CLASSES, "", class) else {
            plan.push(note(
                true,
                "ProvisioningFailed",
                format!("storageclass.storage.k8s.io \"{class}\" not found"),
            ));
            return;
        };
        if waiting && selected.is_empty() {
            plan.push(note(
                false,
                "WaitForFirstConsumer",
                "waiting for first consumer to be created before binding".to_owned(),
            ));
            return;
        }
        let provisioner = text(storage, "/provisioner");
        if provisioner != PROVISIONER {
            let (reason, message) = if provisioner == "kubernetes.io/no-provisioner" {
                (
                    "FailedBinding",
                    "no persistent volumes available for this claim and the storage class does not provision any".to_owned(),
                )
            } else {
                (
                    "ExternalProvisioning",
                    format!(
                        "Waiting for a volume to be created either by the external provisioner '{provisioner}' or manually by the system administrator. If volume creation is delayed, please verify that the provisioner is running and correctly registered."
                    ),
                )
            };
            plan.push(note(false, reason, message));
            return;
        }
        if volume_mode(claim) == "Block" {
            plan.push(note(
                true,
                "ProvisioningFailed",
                format!(
                    "failed to provision volume with StorageClass \"{class}\": block volumes are not supported, a volume is a directory here; set volumeMode: Filesystem"
                ),
            ));
            return;
        }
        self.provision(cache, claim, storage, selected, now, plan);
    }

    fn provision(
        &self,
        cache: &Cache,
        claim: &Value,
        class: &Value,
        selected: &str,
        now: Timestamp,
        plan: &mut Plan,
    ) {
        let name = format!("pvc-{}", object::uid(claim));
        if cache.get(&PERSISTENT_VOLUMES, "", &name).is_some() {
            // It exists but was not found to fit above: released, or changed by hand. Upstream leaves such a claim pending, too.
            return;
        }
        let node = if selected.is_empty() {
            cache.all(&NODES).next().map(|node| object::name(node))
        } else {
            Some(selected)
        };
        let Some(node) = node else {
            // The node has not registered yet. Its heartbeats are no reason to look at every pending claim, so this claim asks again.
            plan.wake(object::after(now, 1));
            return;
        };
        let modes = match items(claim, "/spec/accessModes") {
            [] => json!(["ReadWriteOnce"]),
            modes => modes.into(),
        };
        let reclaim = match text(class, "/reclaimPolicy") {
            "" => "Delete",
            policy => policy,
        };
        let mut volume = json!({
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {
                "name": name,
                "annotations": {PROVISIONED_BY: PROVISIONER},
                "finalizers": [VOLUME_FINALIZER],
            },
            "spec": {
                "accessModes": modes,
                "capacity": {"storage": text(claim, "/spec/resources/requests/storage")},
                "claimRef": claim_reference(claim),
                "local": {"path": (self.path_of)(&name)},
                "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [
                    {"key": "kubernetes.io/hostname", "operator": "In", "values": [node]},
                ]}]}},
                "persistentVolumeReclaimPolicy": reclaim,
                "storageClassName": object::name(class),
                "volumeMode": "Filesystem",
            },
        });
        if let Some(options) = class.get("mountOptions") {
            volume["spec"]["mountOptions"] = options.clone();
        }
        plan.push(Action::Create {
            gvr: PERSISTENT_VOLUMES.clone(),
            object: volume,
            done: Some(Note::normal(
                &PERSISTENT_VOLUME_CLAIMS,
                claim,
                "ProvisioningSucceeded",
                format!("Successfully provisioned volume {name}"),
            )),
            failed: Some(Note::warning(
                &PERSISTENT_VOLUME_CLAIMS,
                claim,
                "ProvisioningFailed",
                format!(
                    "failed to provision volume with StorageClass \"{}\": ",
                    object::name(class)
                ),
            )),
        });
    }

    /// The claim names its volume: either bound already, or asking for that one.
    fn bind_to_named(&self, cache: &Cache, claim: &Value, name: &str, plan: &mut Plan) {
        let bound = object::annotation(claim, BIND_COMPLETED) == "yes";
        let Some(volume) = cache.get(&PERSISTENT_VOLUMES, "", name) else {
            if bound {
                if set_phase(&PERSISTENT_VOLUME_CLAIMS, claim, "Lost", plan) {
                    plan.push(Action::Note(Note::warning(
                        &PERSISTENT_VOLUME_CLAIMS,
                        claim,
                        "ClaimLost",
                        "Bound claim has lost its PersistentVolume. Data on the volume is lost!",
                    )));
                }
            } else {
                set_phase(&PERSISTENT_VOLUME_CLAIMS, claim, "Pending", plan);
            }
            return;
        };
        let reference = volume.pointer("/spec/claimRef");
        let free = reference.is_none_or(Value::is_null);
        let mine = claimed_by(volume, claim)
            && matches!(text(volume, "/spec/claimRef/uid"), uid if uid.is_empty() || uid == object::uid(claim));
        if free || mine {
            self.bind(cache, claim, volume, plan);
        } else if bound {
            if set_phase(&PERSISTENT_VOLUME_CLAIMS, claim, "Lost", plan) {
                plan.push(Action::Note(Note::warning(
                    &PERSISTENT_VOLUME_CLAIMS,
                    claim,
                    "ClaimMisbound",
                    "Two claims are bound to the same volume, this one is bound incorrectly",
                )));
            }
        } else if set_phase(&PERSISTENT_VOLUME_CLAIMS, claim, "Pending", plan) {
            plan.push(Action::Note(Note::warning(
                &PERSISTENT_VOLUME_CLAIMS,
                claim,
                "FailedBinding",
                format!("volume \"{name}\" already bound to a different claim."),
            )));
        }
    }

    /// Brings both sides of a binding to their end state, one write per object and pass.
    fn bind(&self, cache: &Cache, claim: &Value, volume: &Value, plan: &mut Plan) {
        let mut bound = volume.clone();
        if text(volume, "/spec/claimRef/uid") != object::uid(claim) {
            bound["spec"]["claimRef"] = claim_reference(claim);
            if !claimed_by(volume, claim) {
                object::set_annotation(&mut bound, BOUND_BY_CONTROLLER, "yes");
            }
        }
        let wanted = requested(claim);
        let expandable = cache
            .get(&STORAGE_CLASSES, "", text(volume, "/spec/storageClassName"))
            .is_some_and(|class| flag(class, "/allowVolumeExpansion"));
        let grows = wanted > capacity(volume)
            && expandable
            && object::annotation(volume, PROVISIONED_BY) == PROVISIONER;
        if grows {
            bound["spec"]["capacity"]["storage"] =
                text(claim, "/spec/resources/requests/storage").into();
        }
        if bound != *volume {
            plan.update(&PERSISTENT_VOLUMES, volume, bound);
        }
        let mut settled = claim.clone();
        if text(claim, "/spec/volumeName").is_empty() {
            settled["spec"]["volumeName"] = object::name(volume).into();
            object::set_annotation(&mut settled, BOUND_BY_CONTROLLER, "yes");
        }
        object::set_annotation(&mut settled, BIND_COMPLETED, "yes");
        if settled != *claim {
            plan.update(&PERSISTENT_VOLUME_CLAIMS, claim, settled);
            // The status follows in the pass this write causes, on the new resourceVersion.
            return;
        }
        let mut status = claim.get("status").cloned().unwrap_or_else(|| json!({}));
        status["phase"] = "Bound".into();
        status["accessModes"] = volume["spec"]["accessModes"].clone();
        let size = if grows {
            claim.pointer("/spec/resources/requests/storage")
        } else {
            volume.pointer("/spec/capacity/storage")
        };
        if let Some(size) = size {
            entry(&mut status, "capacity", || json!({}))["storage"] = size.clone();
        }
        plan.status(&PERSISTENT_VOLUME_CLAIMS, claim, status);
    }
}

fn claim_reference(claim: &Value) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "namespace": object::namespace(claim),
        "name": object::name(claim),
        "uid": object::uid(claim),
    })
}

/// The smallest free volume that fits, or the one reserved for this claim.
fn find_volume<'a>(cache: &'a Cache, claim: &Value, class: &str) -> Option<&'a Value> {
    cache
        .all(&PERSISTENT_VOLUMES)
        .map(|volume| &**volume)
        .filter(|volume| {
            if deleting(volume) {
                return false;
            }
            let uid = text(volume, "/spec/claimRef/uid");
            if claimed_by(volume, claim) {
                return uid.is_empty() || uid == object::uid(claim);
            }
            let free = volume.pointer("/spec/claimRef").is_none_or(Value::is_null);
            let modes = items(volume, "/spec/accessModes");
            let selector = claim.pointer("/spec/selector");
            free && text(volume, "/spec/storageClassName") == class
                && volume_mode(volume) == volume_mode(claim)
                && capacity(volume) >= requested(claim)
                && items(claim, "/spec/accessModes")
                    .iter()
                    .all(|mode| modes.contains(mode))
                && (selector.is_none() || selector::matches(selector, volume))
        })
        .min_by_key(|volume| {
            (
                !claimed_by(volume, claim),
                capacity(volume),
                object::name(volume).to_owned(),
            )
        })
}

/// Whether a pod that has a node mounts the claim.
fn in_use(cache: &Cache, claim: &Value) -> bool {
    cache
        .list(&PODS, object::namespace(claim))
        .filter(|pod| !text(pod, "/spec/nodeName").is_empty())
        .flat_map(|pod| items(pod, "/spec/volumes"))
        .any(|volume| text(volume, "/persistentVolumeClaim/claimName") == object::name(claim))
}

fn set_phase(gvr: &Gvr, object: &Value, phase: &str, plan: &mut Plan) -> bool {
    if text(object, "/status/phase") == phase {
        return false;
    }
    let mut status = object.get("status").cloned().unwrap_or_else(|| json!({}));
    status["phase"] = phase.into();
    plan.status(gvr, object, status);
    true
}

fn reconcile_volume(cache: &Cache, volume: &Value, plan: &mut Plan) {
    let claim_uid = text(volume, "/spec/claimRef/uid");
    let claim = cache
        .get(
            &PERSISTENT_VOLUME_CLAIMS,
            text(volume, "/spec/claimRef/namespace"),
            text(volume, "/spec/claimRef/name"),
        )
        .filter(|claim| object::uid(claim) == claim_uid);
    if deleting(volume) {
        if has_finalizer(volume, VOLUME_FINALIZER) && claim.is_none() {
            let released = object::without_finalizer(volume, VOLUME_FINALIZER);
            plan.update(&PERSISTENT_VOLUMES, volume, released);
        }
        return;
    }
    if !has_finalizer(volume, VOLUME_FINALIZER) {
        let held = object::with_finalizer(volume, VOLUME_FINALIZER);
        plan.update(&PERSISTENT_VOLUMES, volume, held);
        return;
    }
    if claim_uid.is_empty() {
        set_phase(&PERSISTENT_VOLUMES, volume, "Available", plan);
        return;
    }
    if claim.is_some() {
        set_phase(&PERSISTENT_VOLUMES, volume, "Bound", plan);
        return;
    }
    let name = object::name(volume);
    match text(volume, "/spec/persistentVolumeReclaimPolicy") {
        "Delete" if object::annotation(volume, PROVISIONED_BY) == PROVISIONER => {
            if set_phase(&PERSISTENT_VOLUMES, volume, "Released", plan) {
                return;
            }
            plan.push(Action::RemoveVolume {
                volume: name.to_owned(),
                failed: Note::warning(&PERSISTENT_VOLUMES, volume, "VolumeFailedDelete", ""),
            });
            plan.delete(&PERSISTENT_VOLUMES, volume);
        }
        "Delete" => {
            // Not made here: its provisioner, if there is one, removes it.
            set_phase(&PERSISTENT_VOLUMES, volume, "Released", plan);
        }
        "Recycle" => {
            if set_phase(&PERSISTENT_VOLUMES, volume, "Failed", plan) {
                plan.push(Action::Note(Note::warning(
                    &PERSISTENT_VOLUMES,
                    volume,
                    "VolumeUnknownReclaimPolicy",
                    "reclaim policy Recycle is not supported; use Delete or Retain",
                )));
            }
        }
        _ => {
            set_phase(&PERSISTENT_VOLUMES, volume, "Released", plan);
        }
    }
}

/// The storage class made at start.
pub(crate) static LOCAL_CLASS: LazyLock<Value> = LazyLock::new(|| {
    json!({
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {
            "name": "local",
            "annotations": {DEFAULT_CLASS: "true"},
        },
        "provisioner": PROVISIONER,
        "reclaimPolicy": "Delete",
        "volumeBindingMode": "WaitForFirstConsumer",
        "allowVolumeExpansion": true,
    })
});

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::simulator::Simulator;
    use super::*;

    fn cluster(mode: &str, reclaim: &str) -> Simulator {
        let volumes = Volumes {
            path_of: Box::new(|name| format!("/volumes/{name}")),
        };
        let mut simulator = Simulator::new(1, vec![Box::new(volumes)]);
        let mut class = LOCAL_CLASS.clone();
        class["volumeBindingMode"] = mode.into();
        class["reclaimPolicy"] = reclaim.into();
        simulator.apply(&STORAGE_CLASSES, class);
        simulator.apply(&NODES, json!({"metadata": {"name": "local"}}));
        simulator
    }

    fn claim(spec: &Value) -> Value {
        let mut claim = json!({
            "metadata": {"namespace": "n", "name": "data"},
            "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
        });
        for (member, value) in spec.as_object().unwrap() {
            claim["spec"][member] = value.clone();
        }
        claim
    }

    fn key() -> ObjectKey {
        ObjectKey::new(&PERSISTENT_VOLUME_CLAIMS, "n", "data")
    }

    fn phase(simulator: &Simulator) -> String {
        text(simulator.cache.at(&key()).unwrap(), "/status/phase").to_owned()
    }

    fn volumes(simulator: &Simulator) -> Vec<(String, String)> {
        simulator
            .cache
            .all(&PERSISTENT_VOLUMES)
            .map(|volume| {
                (
                    object::name(volume).to_owned(),
                    text(volume, "/status/phase").to_owned(),
                )
            })
            .collect()
    }

    #[test]
    fn an_immediate_claim_is_provisioned_bound_and_reclaimed() {
        for (reclaim, left) in [("Delete", 0), ("Retain", 1)] {
            let mut simulator = cluster("Immediate", reclaim);
            simulator.apply(&PERSISTENT_VOLUME_CLAIMS, claim(&json!({})));
            assert!(simulator.settle(100));
            assert_eq!(phase(&simulator), "Bound");
            let found = simulator.cache.at(&key()).unwrap().clone();
            let name = format!("pvc-{}", object::uid(&found));
            assert_eq!(volumes(&simulator), [(name.clone(), "Bound".to_owned())]);
            assert_eq!(text(&found, "/spec/storageClassName"), "local");
            let volume = simulator.cache.get(&PERSISTENT_VOLUMES, "", &name).unwrap();
            assert_eq!(text(volume, "/spec/local/path"), format!("/volumes/{name}"));
            assert!(has_finalizer(&found, CLAIM_FINALIZER));
            simulator.delete(&key());
            assert!(simulator.settle(100));
            assert!(simulator.cache.at(&key()).is_none());
            let rest = volumes(&simulator);
            assert_eq!(rest.len(), left, "{reclaim}");
            assert!(rest.iter().all(|(_, phase)| phase == "Released"));
        }
    }

    #[test]
    fn a_claim_waits_for_its_consumer() {
        let mut simulator = cluster("WaitForFirstConsumer", "Delete");
        simulator.apply(&PERSISTENT_VOLUME_CLAIMS, claim(&json!({})));
        assert!(simulator.settle(100));
        assert_eq!(phase(&simulator), "Pending");
        assert_eq!(
            simulator.events,
            ["WaitForFirstConsumer waiting for first consumer to be created before binding"]
        );
        let mut selected = (**simulator.cache.at(&key()).unwrap()).clone();
        object::set_annotation(&mut selected, SELECTED_NODE, "local");
        simulator.change(&key(), |claim| *claim = selected);
        assert!(simulator.settle(100));
        assert_eq!(phase(&simulator), "Bound");
    }

    #[test]
    fn what_keeps_a_claim_pending_is_said_once() {
        for (spec, event) in [
            (
                json!({"storageClassName": "fast"}),
                "ProvisioningFailed storageclass.storage.k8s.io \"fast\" not found",
            ),
            (
                json!({"storageClassName": ""}),
                "FailedBinding no persistent volumes available for this claim and no storage class is set",
            ),
        ] {
            let mut simulator = cluster("Immediate", "Delete");
            simulator.apply(&PERSISTENT_VOLUME_CLAIMS, claim(&spec));
            assert!(simulator.settle(100));
            assert_eq!(phase(&simulator), "Pending");
            assert_eq!(simulator.events, [event]);
        }
        let mut simulator = cluster("Immediate", "Delete");
        simulator.apply(
            &PERSISTENT_VOLUME_CLAIMS,
            claim(&json!({"volumeMode": "Block"})),
        );
        assert!(simulator.settle(100));
        assert!(simulator.events[0].contains("block volumes are not supported"));
    }

    #[test]
    fn the_smallest_fitting_volume_is_taken() {
        let mut simulator = cluster("Immediate", "Retain");
        for (name, size, class) in [
            ("big", "10Gi", ""),
            ("small", "512Mi", ""),
            ("fit", "2Gi", ""),
            ("other", "1Gi", "x"),
        ] {
            simulator.apply(&PERSISTENT_VOLUMES, json!({
                "metadata": {"name": name},
                "spec": {"accessModes": ["ReadWriteOnce"], "capacity": {"storage": size}, "storageClassName": class},
            }));
        }
        assert!(simulator.settle(100));
        simulator.apply(
            &PERSISTENT_VOLUME_CLAIMS,
            claim(&json!({"storageClassName": ""})),
        );
        assert!(simulator.settle(100));
        assert_eq!(
            text(simulator.cache.at(&key()).unwrap(), "/spec/volumeName"),
            "fit"
        );
        assert_eq!(phase(&simulator), "Bound");
        simulator.remove(&ObjectKey::new(&PERSISTENT_VOLUMES, "", "fit"));
        assert!(simulator.settle(100));
        assert_eq!(phase(&simulator), "Lost");
    }

    #[test]
    fn a_claim_in_use_stays_and_a_larger_request_grows() {
        let mut simulator = cluster("Immediate", "Delete");
        simulator.apply(&PERSISTENT_VOLUME_CLAIMS, claim(&json!({})));
        assert!(simulator.settle(100));
        simulator.change(&key(), |claim| {
            claim["spec"]["resources"]["requests"]["storage"] = "5Gi".into();
        });
        assert!(simulator.settle(100));
        assert_eq!(
            text(
                simulator.cache.at(&key()).unwrap(),
                "/status/capacity/storage"
            ),
            "5Gi"
        );
        simulator.apply(&PODS, json!({
            "metadata": {"namespace": "n", "name": "user"},
            "spec": {"nodeName": "local", "volumes": [{"persistentVolumeClaim": {"claimName": "data"}}]},
        }));
        simulator.delete(&key());
        assert!(simulator.settle(100));
        assert!(simulator.cache.at(&key()).is_some());
        simulator.remove(&ObjectKey::new(&PODS, "n", "user"));
        assert!(simulator.settle(100));
        assert!(simulator.cache.at(&key()).is_none());
    }
}
