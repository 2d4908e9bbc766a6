//! StatefulSets: pods with stable names and volumes, created, updated and removed in order.
//!
//! Follows the order of upstream's control loop: revisions, then missing replicas from the lowest ordinal, then surplus ones from the
//! highest, then updates from the highest.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde_json::{Value, json};

use super::cache::{Cache, ObjectKey};
use super::kinds::{CONTROLLER_REVISIONS, PERSISTENT_VOLUME_CLAIMS, PODS, STATEFUL_SETS};
use super::object::{self, deleting, entries, int, items, label, text};
use super::plan::{Action, Controller, Note, Plan};
use super::pods;
use super::revisions::{self, History, REVISION_LABEL};

const POD_NAME_LABEL: &str = "statefulset.kubernetes.io/pod-name";
const POD_INDEX_LABEL: &str = "apps.kubernetes.io/pod-index";

#[derive(Debug)]
pub(crate) struct StatefulSets;

impl Controller for StatefulSets {
    fn component(&self) -> &'static str {
        "statefulset-controller"
    }

    fn touched(&self, cache: &Cache, key: &ObjectKey, object: &Value, dirty: &mut Vec<ObjectKey>) {
        if key.gvr == STATEFUL_SETS {
            dirty.push(key.clone());
        } else if key.gvr == PODS || key.gvr == CONTROLLER_REVISIONS {
            pods::touch_owner(cache, &STATEFUL_SETS, object, dirty);
        } else if key.gvr == PERSISTENT_VOLUME_CLAIMS {
            for set in cache.list(&STATEFUL_SETS, &key.namespace) {
                let infix = format!("-{}-", object::name(set));
                if key.name.contains(&infix) && !items(set, "/spec/volumeClaimTemplates").is_empty()
                {
                    dirty.push(ObjectKey::of(&STATEFUL_SETS, set));
                }
            }
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

/// A replica of the set: what is there, or what is to be created.
struct Replica<'a> {
    ordinal: i64,
    pod: Option<&'a Value>,
    /// Running, ready and for long enough.
    available: bool,
}

impl Replica<'_> {
    fn revision(&self) -> &str {
        self.pod.map_or("", |pod| label(pod, REVISION_LABEL))
    }

    fn terminating(&self) -> bool {
        self.pod.is_some_and(deleting)
    }

    /// Away, or about to be: a terminating pod may still look ready.
    fn unavailable(&self) -> bool {
        !self.available || self.terminating()
    }
}

fn reconcile(cache: &Cache, set: &Value, now: Timestamp, plan: &mut Plan) {
    let set_name = object::name(set);
    let mut members: BTreeMap<i64, &Value> = BTreeMap::new();
    for pod in pods::claim(
        cache,
        &PODS,
        &STATEFUL_SETS,
        set,
        |pod| ordinal(set_name, object::name(pod)).is_some(),
        plan,
    ) {
        if let Some(ordinal) = ordinal(set_name, object::name(pod)) {
            members.insert(ordinal, pod);
        }
    }
    let history = revisions::sync(cache, &STATEFUL_SETS, set, plan);
    let current = history
        .revisions
        .iter()
        .find(|revision| object::name(revision) == text(set, "/status/currentRevision"))
        .unwrap_or(&history.update);

    let min_ready = int(set, "/spec/minReadySeconds").unwrap_or(0);
    let start = int(set, "/spec/ordinals/start").unwrap_or(0);
    let count = int(set, "/spec/replicas").unwrap_or(1).max(0);
    let end = start.saturating_add(count);
    let mut replicas = Vec::new();
    let mut condemned = Vec::new();
    for ordinal in start..end {
        let pod = members.remove(&ordinal);
        replicas.push(replica(ordinal, pod, min_ready, now, plan));
    }
    for (ordinal, pod) in members.into_iter().rev() {
        condemned.push(replica(ordinal, Some(pod), min_ready, now, plan));
    }

    let status = status(set, &history, current, &replicas, &condemned, count);
    plan.status(&STATEFUL_SETS, set, status);
    let live: BTreeSet<&str> = replicas
        .iter()
        .chain(&condemned)
        .map(Replica::revision)
        .chain([object::name(current)])
        .collect();
    revisions::truncate(set, &history, &live, plan);
    if deleting(set) {
        return;
    }
    let context = Context {
        cache,
        set,
        current,
        update: &history.update,
        start,
        monotonic: text(set, "/spec/podManagementPolicy") != "Parallel",
    };
    for replica in &replicas {
        if context.process_replica(replica, plan) && context.monotonic {
            return;
        }
    }
    for replica in &condemned {
        if let Some(pod) = replica.pod {
            context.claims_retention(pod, replica.ordinal, true, plan);
        }
    }
    if context.process_condemned(&replicas, &condemned, plan) {
        return;
    }
    if text(set, "/spec/updateStrategy/type") != "OnDelete" {
        context.update(&replicas, count, plan);
    }
}

fn replica<'a>(
    ordinal: i64,
    pod: Option<&'a Value>,
    min_ready: i64,
    now: Timestamp,
    plan: &mut Plan,
) -> Replica<'a> {
    let available = pod.is_some_and(|pod| {
        pods::running_and_ready(pod) && pods::available(pod, min_ready, now, plan)
    });
    Replica {
        ordinal,
        pod,
        available,
    }
}

/// `web-3` is ordinal 3 of `web`; `web-03` and `web-x` are nobody's.
fn ordinal(set: &str, pod: &str) -> Option<i64> {
    let digits = pod.strip_prefix(set)?.strip_prefix('-')?;
    let canonical = digits == "0" || !digits.starts_with('0');
    let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    (canonical && plain).then(|| digits.parse().ok()).flatten()
}

fn status(
    set: &Value,
    history: &History,
    current: &Value,
    replicas: &[Replica<'_>],
    condemned: &[Replica<'_>],
    count: i64,
) -> Value {
    let update_name = object::name(&history.update);
    let mut current_name = object::name(current);
    let [
        mut present,
        mut ready,
        mut available,
        mut on_current,
        mut on_update,
    ] = [0_i64; 5];
    for replica in replicas.iter().chain(condemned) {
        let Some(pod) = replica.pod else { continue };
        present += 1;
        if pods::running_and_ready(pod) {
            ready += 1;
        }
        if replica.available {
            available += 1;
        }
        if !deleting(pod) {
            if replica.revision() == current_name {
                on_current += 1;
            }
            if replica.revision() == update_name {
                on_update += 1;
            }
        }
    }
    // A rolling update is complete when every replica is on the new revision and ready.
    let rolling = text(set, "/spec/updateStrategy/type") != "OnDelete";
    if rolling && on_update == count && ready == count && present == count {
        current_name = update_name;
        on_current = on_update;
    }
    let mut status = json!({
        "observedGeneration": object::generation(set),
        "replicas": present,
        "availableReplicas": available,
        "currentRevision": current_name,
        "updateRevision": update_name,
        "collisionCount": history.collisions,
    });
    for (member, number) in [
        ("readyReplicas", ready),
        ("currentReplicas", on_current),
        ("updatedReplicas", on_update),
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

struct Context<'a> {
    cache: &'a Cache,
    set: &'a Value,
    current: &'a Value,
    update: &'a Value,
    start: i64,
    /// OrderedReady: one step at a time, and only past healthy pods.
    monotonic: bool,
}

impl Context<'_> {
    /// Brings one wanted replica forward. Returns whether work on later ones has to wait.
    fn process_replica(&self, replica: &Replica<'_>, plan: &mut Plan) -> bool {
        let Some(pod) = replica.pod else {
            return self.create(replica.ordinal, plan);
        };
        if pods::finished(pod) {
            // Whatever the exit code was: a stateful pod runs for ever. Its successor comes once it is gone.
            if !deleting(pod) {
                self.delete(pod, plan);
            }
            return true;
        }
        if pods::phase(pod) == "Pending" && !deleting(pod) {
            self.missing_claims(pod, replica.ordinal, plan);
        }
        if self.monotonic && (deleting(pod) || !replica.available) {
            return true;
        }
        if label(pod, POD_NAME_LABEL) != object::name(pod) && !deleting(pod) {
            let mut named = pod.clone();
            object::set_label(&mut named, POD_NAME_LABEL, object::name(pod));
            plan.update(&PODS, pod, named);
        }
        self.claims_retention(pod, replica.ordinal, false, plan);
        false
    }

    /// Creates the claims and the pod of an ordinal. Returns whether later ordinals have to wait.
    fn create(&self, ordinal: i64, plan: &mut Plan) -> bool {
        let pod = self.pod(ordinal);
        let name = object::name(&pod);
        let set_name = object::name(self.set);
        for template in items(self.set, "/spec/volumeClaimTemplates") {
            let claim_name = self.claim_name(template, ordinal);
            let Some(claim) = self.claim(&claim_name) else {
                continue;
            };
            // It still belongs to an earlier pod of this name, whose removal takes it along.
            let stale = items(claim, "/metadata/ownerReferences")
                .iter()
                .any(|owner| text(owner, "/kind") == "Pod" && text(owner, "/name") == name);
            if stale || deleting(claim) {
                if deleting(claim) {
                    plan.push(Action::Note(Note::warning(
                        &STATEFUL_SETS,
                        self.set,
                        "FailedCreate",
                        format!(
                            "Create Pod {name} in StatefulSet {set_name} failed error: pvc {claim_name} is being deleted"
                        ),
                    )));
                }
                return true;
            }
        }
        self.missing_claims(&pod, ordinal, plan);
        plan.push(Action::Create {
            gvr: PODS.clone(),
            done: Some(self.note(
                "SuccessfulCreate",
                format!("Create Pod {name} in StatefulSet {set_name} successful"),
            )),
            failed: Some(self.failure(
                "FailedCreate",
                format!("Create Pod {name} in StatefulSet {set_name} failed error: "),
            )),
            object: pod,
        });
        self.monotonic
    }

    fn delete(&self, pod: &Value, plan: &mut Plan) {
        let name = object::name(pod);
        let set_name = object::name(self.set);
        plan.push(pods::delete_with_notes(
            pod,
            self.note(
                "SuccessfulDelete",
                format!("Delete Pod {name} in StatefulSet {set_name} successful"),
            ),
            self.failure(
                "FailedDelete",
                format!("Delete Pod {name} in StatefulSet {set_name} failed error: "),
            ),
        ));
    }

    /// Removes surplus pods, highest ordinal first. Returns whether updates have to wait.
    fn process_condemned(
        &self,
        replicas: &[Replica<'_>],
        condemned: &[Replica<'_>],
        plan: &mut Plan,
    ) -> bool {
        let first_unavailable = replicas
            .iter()
            .chain(condemned.iter().rev())
            .find(|replica| replica.unavailable())
            .map(|replica| replica.ordinal);
        for replica in condemned {
            let Some(pod) = replica.pod else { continue };
            if replica.terminating() {
                if self.monotonic {
                    return true;
                }
                continue;
            }
            if self.monotonic && !replica.available && first_unavailable != Some(replica.ordinal) {
                return true;
            }
            self.delete(pod, plan);
            if self.monotonic {
                return true;
            }
        }
        false
    }

    /// Deletes outdated pods from the highest ordinal down to the partition, keeping at most `maxUnavailable` pods away at a time.
    fn update(&self, replicas: &[Replica<'_>], count: i64, plan: &mut Plan) {
        let strategy = self.set.pointer("/spec/updateStrategy/rollingUpdate");
        let partition = strategy
            .and_then(|strategy| int(strategy, "/partition"))
            .unwrap_or(0);
        let allowed = object::scaled(
            strategy.and_then(|strategy| strategy.get("maxUnavailable")),
            count,
            true,
        )
        .unwrap_or(1)
        .max(1);
        let mut away = replicas
            .iter()
            .filter(|replica| replica.unavailable())
            .count() as i64;
        for (index, replica) in replicas.iter().enumerate().rev() {
            let Some(pod) = replica.pod else { continue };
            let below = i64::try_from(index).is_ok_and(|index| index < partition);
            if below || replica.revision() == object::name(self.update) || replica.terminating() {
                continue;
            }
            if !replica.available {
                // It serves nobody already, so replacing it takes nothing away. In ordered sets this is never reached: a pod that is
                // not available holds everything up, as upstream.
                self.delete(pod, plan);
            } else if away < allowed {
                away += 1;
                self.delete(pod, plan);
            }
        }
    }

    /// The pod of an ordinal, at the revision it should have.
    fn pod(&self, ordinal: i64) -> Value {
        let partition = int(self.set, "/spec/updateStrategy/rollingUpdate/partition").unwrap_or(0);
        let held_back = text(self.set, "/spec/updateStrategy/type") != "OnDelete"
            && ordinal < self.start.saturating_add(partition);
        let revision = if held_back { self.current } else { self.update };
        let template = revisions::template_of(revision);
        let mut pod = pods::from_template(&STATEFUL_SETS, self.set, &template);
        let name = format!("{}-{ordinal}", object::name(self.set));
        pod["metadata"]["name"] = name.clone().into();
        object::set_label(&mut pod, POD_NAME_LABEL, &name);
        object::set_label(&mut pod, POD_INDEX_LABEL, &ordinal.to_string());
        object::set_label(&mut pod, REVISION_LABEL, object::name(revision));
        pod["metadata"]["generateName"] = format!("{}-", object::name(self.set)).into();
        pod["spec"]["hostname"] = name.into();
        let service = text(self.set, "/spec/serviceName");
        if !service.is_empty() {
            pod["spec"]["subdomain"] = service.into();
        }
        self.mount_claims(&mut pod, ordinal);
        pod
    }

    /// Volumes of claim templates, in front of the template's other volumes and instead of those of the same name.
    fn mount_claims(&self, pod: &mut Value, ordinal: i64) {
        let templates = items(self.set, "/spec/volumeClaimTemplates");
        if templates.is_empty() {
            return;
        }
        let mut volumes: Vec<Value> = templates
            .iter()
            .map(|template| {
                json!({
                    "name": object::name(template),
                    "persistentVolumeClaim": {"claimName": self.claim_name(template, ordinal)},
                })
            })
            .collect();
        for volume in items(pod, "/spec/volumes") {
            let shadowed = templates
                .iter()
                .any(|template| object::name(template) == text(volume, "/name"));
            if !shadowed {
                volumes.push(volume.clone());
            }
        }
        pod["spec"]["volumes"] = volumes.into();
    }

    fn claim_name(&self, template: &Value, ordinal: i64) -> String {
        format!(
            "{}-{}-{ordinal}",
            object::name(template),
            object::name(self.set)
        )
    }

    fn claim(&self, name: &str) -> Option<&Value> {
        self.cache
            .get(&PERSISTENT_VOLUME_CLAIMS, object::namespace(self.set), name)
            .map(|claim| &**claim)
    }

    fn missing_claims(&self, pod: &Value, ordinal: i64, plan: &mut Plan) {
        for template in items(self.set, "/spec/volumeClaimTemplates") {
            let name = self.claim_name(template, ordinal);
            if self.claim(&name).is_some() {
                continue;
            }
            let mut labels = template
                .pointer("/metadata/labels")
                .cloned()
                .unwrap_or_else(|| json!({}));
            for (key, value) in entries(self.set, "/spec/selector/matchLabels") {
                labels[key] = value.clone();
            }
            let mut claim = json!({
                "apiVersion": "v1",
                "kind": "PersistentVolumeClaim",
                "metadata": {
                    "namespace": object::namespace(self.set),
                    "name": name,
                    "labels": labels,
                },
                "spec": template.get("spec").cloned().unwrap_or_else(|| json!({})),
            });
            if let Some(annotations) = template.pointer("/metadata/annotations") {
                claim["metadata"]["annotations"] = annotations.clone();
            }
            if self.retention("whenDeleted") == "Delete" {
                claim = object::with_owner(
                    &claim,
                    object::controller_reference(&STATEFUL_SETS, self.set),
                );
            }
            let set_name = object::name(self.set);
            let pod_name = object::name(pod);
            plan.push(Action::Create {
                gvr: PERSISTENT_VOLUME_CLAIMS.clone(),
                object: claim,
                done: Some(self.note(
                    "SuccessfulCreate",
                    format!("Create Claim {name} Pod {pod_name} in StatefulSet {set_name} success"),
                )),
                failed: Some(self.failure(
                    "FailedCreate",
                    format!(
                        "Create Claim {name} for Pod {pod_name} in StatefulSet {set_name} failed error: "
                    ),
                )),
            });
        }
    }

    fn retention(&self, when: &str) -> &str {
        text(
            self.set,
            &format!("/spec/persistentVolumeClaimRetentionPolicy/{when}"),
        )
    }

    /// Makes a pod's claims belong to whom the retention policy says: the set, the condemned pod, or nobody.
    fn claims_retention(&self, pod: &Value, ordinal: i64, condemned: bool, plan: &mut Plan) {
        let by_set =
            self.retention("whenDeleted") == "Delete" && !(condemned && self.scaled_away());
        let by_pod = condemned && self.scaled_away();
        for template in items(self.set, "/spec/volumeClaimTemplates") {
            let Some(claim) = self.claim(&self.claim_name(template, ordinal)) else {
                continue;
            };
            let controller = object::controller_uid(claim);
            let foreign = !controller.is_empty()
                && controller != object::uid(self.set)
                && controller != object::uid(pod);
            if foreign || deleting(claim) {
                continue;
            }
            let mut wanted = claim.clone();
            for (wants, gvr, owner) in [(by_set, &STATEFUL_SETS, self.set), (by_pod, &PODS, pod)] {
                let owns = owns(claim, object::uid(owner));
                if wants && !owns {
                    wanted = object::with_owner(&wanted, object::controller_reference(gvr, owner));
                } else if !wants && owns {
                    wanted = object::without_owner(&wanted, object::uid(owner));
                }
            }
            plan.update(&PERSISTENT_VOLUME_CLAIMS, claim, wanted);
        }
    }

    fn scaled_away(&self) -> bool {
        self.retention("whenScaled") == "Delete"
    }

    fn note(&self, reason: &'static str, message: String) -> Note {
        Note::normal(&STATEFUL_SETS, self.set, reason, message)
    }

    fn failure(&self, reason: &'static str, message: String) -> Note {
        Note::warning(&STATEFUL_SETS, self.set, reason, message)
    }
}

fn owns(value: &Value, uid: &str) -> bool {
    items(value, "/metadata/ownerReferences")
        .iter()
        .any(|owner| text(owner, "/uid") == uid)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::simulator::Simulator;
    use super::*;
    use rand::Rng;

    fn set(replicas: i64, image: &str, extra: &Value) -> Value {
        let mut set = json!({
            "apiVersion": "apps/v1", "kind": "StatefulSet",
            "metadata": {"namespace": "n", "name": "web"},
            "spec": {
                "replicas": replicas,
                "serviceName": "web",
                "selector": {"matchLabels": {"app": "web"}},
                "template": {
                    "metadata": {"labels": {"app": "web"}},
                    "spec": {"containers": [{"name": "c", "image": image}]},
                },
            },
        });
        for (member, value) in extra.as_object().unwrap() {
            set["spec"][member] = value.clone();
        }
        set
    }

    fn key() -> ObjectKey {
        ObjectKey::new(&STATEFUL_SETS, "n", "web")
    }

    fn cluster(seed: u64) -> Simulator {
        Simulator::new(
            seed,
            vec![
                Box::new(StatefulSets),
                Box::new(super::super::garbage::GarbageCollector),
            ],
        )
    }

    fn status(simulator: &Simulator) -> Value {
        simulator.cache.at(&key()).unwrap()["status"].clone()
    }

    /// Lets kubelet and controllers work until nothing moves.
    fn converge(simulator: &mut Simulator) {
        for _ in 0..400 {
            assert!(simulator.settle(300), "controllers do not settle");
            simulator.kubelet(false);
            simulator.pass_time(1);
        }
        assert!(simulator.settle(300));
    }

    fn names(simulator: &Simulator) -> Vec<String> {
        simulator
            .pods("n")
            .iter()
            .map(|pod| object::name(pod).to_owned())
            .collect()
    }

    fn images(simulator: &Simulator) -> Vec<String> {
        simulator
            .pods("n")
            .iter()
            .map(|pod| text(pod, "/spec/containers/0/image").to_owned())
            .collect()
    }

    #[test]
    fn ordinals_are_canonical() {
        for (pod, expected) in [
            ("web-0", Some(0)),
            ("web-12", Some(12)),
            ("web-01", None),
            ("web-", None),
            ("web-x", None),
            ("web-0-0", None),
            ("other-0", None),
            ("web-99999999999999999999", None),
        ] {
            assert_eq!(ordinal("web", pod), expected, "{pod}");
        }
    }

    #[test]
    fn ordered_sets_create_one_pod_at_a_time() {
        let mut simulator = cluster(1);
        simulator.apply(&STATEFUL_SETS, set(3, "a", &json!({})));
        assert!(simulator.settle(50));
        assert_eq!(names(&simulator), ["web-0"]);
        let pod = &simulator.pods("n")[0];
        assert_eq!(label(pod, POD_NAME_LABEL), "web-0");
        assert_eq!(label(pod, POD_INDEX_LABEL), "0");
        assert_eq!(text(pod, "/spec/hostname"), "web-0");
        assert_eq!(text(pod, "/spec/subdomain"), "web");
        assert_eq!(
            label(pod, REVISION_LABEL),
            text(&status(&simulator), "/updateRevision")
        );
        assert_eq!(
            simulator.events,
            ["SuccessfulCreate Create Pod web-0 in StatefulSet web successful"]
        );
        converge(&mut simulator);
        assert_eq!(names(&simulator), ["web-0", "web-1", "web-2"]);
        let status = status(&simulator);
        for member in [
            "replicas",
            "readyReplicas",
            "availableReplicas",
            "currentReplicas",
            "updatedReplicas",
        ] {
            assert_eq!(status[member], 3, "{member}");
        }
        assert_eq!(status["observedGeneration"], 1);
        assert_eq!(status["collisionCount"], 0);
        assert_eq!(status["currentRevision"], status["updateRevision"]);
    }

    #[test]
    fn parallel_sets_create_all_at_once() {
        let mut simulator = cluster(1);
        let extra = json!({"podManagementPolicy": "Parallel", "ordinals": {"start": 5}});
        simulator.apply(&STATEFUL_SETS, set(3, "a", &extra));
        assert!(simulator.settle(50));
        assert_eq!(names(&simulator), ["web-5", "web-6", "web-7"]);
    }

    #[test]
    fn a_converged_set_is_silent() {
        let mut simulator = cluster(2);
        simulator.apply(&STATEFUL_SETS, set(2, "a", &json!({"minReadySeconds": 3})));
        converge(&mut simulator);
        let writes = simulator.writes;
        for pod in simulator.pods("n") {
            simulator.change(&ObjectKey::of(&PODS, &pod), |pod| {
                pod["metadata"]["annotations"] = json!({"noise": "1"});
            });
        }
        assert!(simulator.settle(50));
        assert_eq!(simulator.writes, writes);
    }

    #[test]
    fn updates_go_from_the_highest_ordinal_down_to_the_partition() {
        let mut simulator = cluster(3);
        let partition = |n: i64| json!({"updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": n}}});
        simulator.apply(&STATEFUL_SETS, set(3, "a", &partition(2)));
        converge(&mut simulator);
        simulator.apply(&STATEFUL_SETS, set(3, "b", &partition(2)));
        converge(&mut simulator);
        assert_eq!(images(&simulator), ["a", "a", "b"]);
        let status_now = status(&simulator);
        assert_eq!(status_now["updatedReplicas"], 1);
        assert_eq!(status_now["currentReplicas"], 2);
        assert_ne!(status_now["currentRevision"], status_now["updateRevision"]);
        // A pod below the partition comes back at the old revision.
        simulator.delete(&ObjectKey::new(&PODS, "n", "web-0"));
        converge(&mut simulator);
        assert_eq!(images(&simulator), ["a", "a", "b"]);
        simulator.apply(&STATEFUL_SETS, set(3, "b", &partition(0)));
        converge(&mut simulator);
        assert_eq!(images(&simulator), ["b", "b", "b"]);
        let status_now = status(&simulator);
        assert_eq!(status_now["currentRevision"], status_now["updateRevision"]);
        assert_eq!(status_now["currentReplicas"], 3);
    }

    #[test]
    fn on_delete_waits_for_somebody_to_delete() {
        let mut simulator = cluster(4);
        let extra = json!({"updateStrategy": {"type": "OnDelete"}});
        simulator.apply(&STATEFUL_SETS, set(2, "a", &extra));
        converge(&mut simulator);
        simulator.apply(&STATEFUL_SETS, set(2, "b", &extra));
        converge(&mut simulator);
        assert_eq!(images(&simulator), ["a", "a"]);
        simulator.delete(&ObjectKey::new(&PODS, "n", "web-0"));
        converge(&mut simulator);
        assert_eq!(images(&simulator), ["b", "a"]);
    }

    #[test]
    fn rolling_back_reuses_the_revision_and_history_is_bounded() {
        let mut simulator = cluster(5);
        let extra = json!({"revisionHistoryLimit": 1});
        let revisions = |simulator: &Simulator| {
            simulator
                .cache
                .list(&CONTROLLER_REVISIONS, "n")
                .map(|revision| {
                    (
                        object::name(revision).to_owned(),
                        int(revision, "/revision"),
                    )
                })
                .collect::<Vec<_>>()
        };
        simulator.apply(&STATEFUL_SETS, set(1, "a", &extra));
        converge(&mut simulator);
        let first = revisions(&simulator)[0].0.clone();
        simulator.apply(&STATEFUL_SETS, set(1, "b", &extra));
        converge(&mut simulator);
        simulator.apply(&STATEFUL_SETS, set(1, "a", &extra));
        converge(&mut simulator);
        assert_eq!(revisions(&simulator).len(), 2);
        assert!(revisions(&simulator).contains(&(first, Some(3))));
        for image in ["c", "d", "e"] {
            simulator.apply(&STATEFUL_SETS, set(1, image, &extra));
            converge(&mut simulator);
        }
        assert_eq!(revisions(&simulator).len(), 2);
    }

    #[test]
    fn claims_outlive_pods_unless_the_policy_says_otherwise() {
        let templates = json!([{
            "metadata": {"name": "data"},
            "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
        }]);
        for (policy, left) in [("Retain", 3), ("Delete", 1)] {
            let mut simulator = cluster(6);
            let extra = json!({
                "volumeClaimTemplates": templates,
                "persistentVolumeClaimRetentionPolicy": {"whenScaled": policy, "whenDeleted": "Retain"},
            });
            simulator.apply(&STATEFUL_SETS, set(3, "a", &extra));
            converge(&mut simulator);
            let pod = simulator.cache.get(&PODS, "n", "web-1").unwrap().clone();
            assert_eq!(
                pod["spec"]["volumes"],
                json!([{"name": "data", "persistentVolumeClaim": {"claimName": "data-web-1"}}])
            );
            simulator.apply(&STATEFUL_SETS, set(1, "a", &extra));
            converge(&mut simulator);
            assert_eq!(names(&simulator), ["web-0"]);
            let claims: Vec<_> = simulator
                .cache
                .list(&PERSISTENT_VOLUME_CLAIMS, "n")
                .map(|claim| object::name(claim).to_owned())
                .collect();
            assert_eq!(claims.len(), left, "{policy}: {claims:?}");
            simulator.apply(&STATEFUL_SETS, set(3, "a", &extra));
            converge(&mut simulator);
            assert_eq!(names(&simulator).len(), 3, "{policy}");
        }
    }

    #[test]
    fn orphans_are_adopted_and_strangers_released() {
        let mut simulator = cluster(7);
        simulator.apply(
            &PODS,
            json!({
                "metadata": {"namespace": "n", "name": "web-0", "labels": {"app": "web"}},
                "spec": {},
            }),
        );
        simulator.apply(
            &STATEFUL_SETS,
            set(1, "a", &json!({"updateStrategy": {"type": "OnDelete"}})),
        );
        converge(&mut simulator);
        let set_uid = object::uid(simulator.cache.at(&key()).unwrap()).to_owned();
        let pod = simulator.pods("n")[0].clone();
        assert_eq!(object::controller_uid(&pod), set_uid);
        assert_eq!(label(&pod, POD_NAME_LABEL), "web-0");
        let pod_key = ObjectKey::of(&PODS, &pod);
        simulator.change(&pod_key, |pod| {
            pod["metadata"]["labels"]["app"] = "other".into();
        });
        // The name stays taken, so the set cannot settle before the stranger leaves.
        assert!(!simulator.settle(20));
        let pod = simulator.cache.at(&pod_key).unwrap();
        assert_eq!(object::controller_uid(pod), "");
        simulator.remove(&pod_key);
        converge(&mut simulator);
        assert_eq!(object::controller_uid(&simulator.pods("n")[0]), set_uid);
    }

    #[test]
    fn finished_pods_are_replaced() {
        for phase in ["Failed", "Succeeded"] {
            let mut simulator = cluster(8);
            simulator.apply(&STATEFUL_SETS, set(1, "a", &json!({})));
            converge(&mut simulator);
            let before = object::uid(&simulator.pods("n")[0]).to_owned();
            let pod = ObjectKey::new(&PODS, "n", "web-0");
            simulator.change(&pod, |pod| pod["status"]["phase"] = phase.into());
            converge(&mut simulator);
            assert_ne!(object::uid(&simulator.pods("n")[0]), before);
            assert_eq!(status(&simulator)["readyReplicas"], 1);
        }
    }

    #[test]
    fn deleting_the_set_deletes_its_pods() {
        let mut simulator = cluster(9);
        simulator.apply(&STATEFUL_SETS, set(3, "a", &json!({})));
        converge(&mut simulator);
        simulator.delete(&key());
        converge(&mut simulator);
        assert!(names(&simulator).is_empty());
    }

    /// Random users, kubelets and clocks against the set: no ordinal exists twice, no more pods are taken away than allowed, and in the
    /// end it converges.
    #[test]
    fn whatever_happens_it_converges() {
        for seed in 0..60 {
            let mut simulator = cluster(seed);
            let parallel = seed % 2 == 0;
            let max_unavailable = 1 + i64::try_from(seed % 3).unwrap();
            let extra = json!({
                "podManagementPolicy": if parallel { "Parallel" } else { "OrderedReady" },
                "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 0, "maxUnavailable": max_unavailable}},
                "minReadySeconds": seed % 4,
            });
            let mut replicas = 4;
            simulator.apply(&STATEFUL_SETS, set(replicas, "a", &extra));
            for _ in 0..300 {
                match simulator.random.random_range(0..20) {
                    0 => {
                        replicas = simulator.random.random_range(0..6);
                        let image = ["a", "b", "c"][simulator.random.random_range(0..3)];
                        simulator.apply(&STATEFUL_SETS, set(replicas, image, &extra));
                    }
                    1 => {
                        let pods = simulator.cache.keys(&PODS);
                        if !pods.is_empty() {
                            let pod = pods[simulator.random.random_range(0..pods.len())].clone();
                            simulator.delete(&pod);
                        }
                    }
                    2 => simulator.pass_time(2),
                    3..10 => simulator.kubelet(true),
                    _ => {
                        simulator.step();
                    }
                }
            }
            converge(&mut simulator);
            let expected: Vec<String> = (0..replicas).map(|n| format!("web-{n}")).collect();
            assert_eq!(names(&simulator), expected, "seed {seed}");
            let status_now = status(&simulator);
            assert_eq!(status_now["availableReplicas"], replicas, "seed {seed}");
            assert_eq!(
                status_now["currentRevision"], status_now["updateRevision"],
                "seed {seed}"
            );
            let wanted = simulator.cache.at(&key()).unwrap()["spec"]["template"]["spec"].clone();
            for pod in simulator.pods("n") {
                assert_eq!(
                    pod["spec"]["containers"], wanted["containers"],
                    "seed {seed}"
                );
            }
        }
    }

    /// Nothing but the update itself takes pods away: at most `maxUnavailable` are gone at any moment.
    #[test]
    fn an_update_never_takes_more_than_max_unavailable() {
        for seed in 0..40 {
            let max_unavailable = 1 + i64::try_from(seed % 3).unwrap();
            let extra = json!({
                "podManagementPolicy": if seed % 2 == 0 { "Parallel" } else { "OrderedReady" },
                "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": max_unavailable}},
            });
            let mut simulator = cluster(seed);
            simulator.apply(&STATEFUL_SETS, set(6, "a", &extra));
            converge(&mut simulator);
            simulator.apply(&STATEFUL_SETS, set(6, "b", &extra));
            let mut steps = 0;
            while images(&simulator) != ["b"; 6] || status(&simulator)["readyReplicas"] != 6 {
                if simulator.random.random_bool(0.5) {
                    simulator.kubelet(false);
                } else {
                    simulator.step();
                }
                let serving = simulator
                    .pods("n")
                    .iter()
                    .filter(|pod| pods::running_and_ready(pod) && !deleting(pod))
                    .count();
                assert!(
                    serving as i64 >= 6 - max_unavailable,
                    "seed {seed}: {serving} serve"
                );
                steps += 1;
                assert!(steps < 5000, "seed {seed} does not converge");
            }
        }
    }
}
