//! Deployments: moves pods from one ReplicaSet to the next when the template changes.
//!
//! It only ever scales ReplicaSets; pods are theirs. Progress is judged from ReplicaSet statuses, as upstream.

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::cache::{Cache, ObjectKey};
use super::kinds::{DEPLOYMENTS, PODS, REPLICA_SETS};
use super::object::{
    self, after, annotation, condition, deleting, entries, flag, int, items, rfc3339, text, time,
};
use super::plan::{Action, Controller, Note, Plan};
use super::pods;
use super::replicaset::REPLICA_FAILURE;

const REVISION: &str = "deployment.kubernetes.io/revision";
const REVISION_HISTORY: &str = "deployment.kubernetes.io/revision-history";
const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
const MAX: &str = "deployment.kubernetes.io/max-replicas";
const HASH_LABEL: &str = "pod-template-hash";
/// Annotations of a deployment that are not its ReplicaSets' business.
const PRIVATE: &[&str] = &[
    "kubectl.kubernetes.io/last-applied-configuration",
    REVISION,
    REVISION_HISTORY,
    DESIRED,
    MAX,
    "deprecated.deployment.rollback.to",
];

#[derive(Debug)]
pub(crate) struct Deployments;

impl Controller for Deployments {
    fn component(&self) -> &'static str {
        "deployment-controller"
    }

    fn touched(&self, cache: &Cache, key: &ObjectKey, object: &Value, dirty: &mut Vec<ObjectKey>) {
        if key.gvr == DEPLOYMENTS {
            dirty.push(key.clone());
        } else if key.gvr == REPLICA_SETS {
            pods::touch_owner(cache, &DEPLOYMENTS, object, dirty);
        } else if key.gvr == PODS && cache.at(key).is_none_or(|pod| pods::finished(pod)) {
            // Recreate waits for the last old pod.
            let owner = pods::controller_key(&REPLICA_SETS, object)
                .and_then(|key| cache.at(&key))
                .and_then(|set| pods::controller_key(&DEPLOYMENTS, set));
            dirty.extend(owner);
        }
    }

    fn reconcile(&self, cache: &Cache, key: &ObjectKey, now: Timestamp) -> Plan {
        let mut plan = Plan::default();
        if let Some(deployment) = cache.at(key) {
            reconcile(cache, deployment, now, &mut plan);
        }
        plan
    }
}

/// One ReplicaSet and what is to become of it. Changes collect here and become at most one write.
#[derive(Debug, Clone)]
struct Set<'a> {
    observed: Option<&'a Value>,
    wanted: Value,
}

impl<'a> Set<'a> {
    fn of(observed: &'a Value) -> Self {
        Self {
            observed: Some(observed),
            wanted: observed.clone(),
        }
    }

    fn name(&self) -> &str {
        object::name(&self.wanted)
    }

    fn replicas(&self) -> i64 {
        int(&self.wanted, "/spec/replicas").unwrap_or(1)
    }

    fn present(&self) -> i64 {
        int(&self.wanted, "/status/replicas").unwrap_or(0)
    }

    /// Pods there may be right now: those asked for, or those not yet gone after scaling down.
    fn occupied(&self) -> i64 {
        self.replicas().max(self.present())
    }

    fn available(&self) -> i64 {
        int(&self.wanted, "/status/availableReplicas").unwrap_or(0)
    }

    fn ready(&self) -> i64 {
        int(&self.wanted, "/status/readyReplicas").unwrap_or(0)
    }

    fn revision(&self) -> i64 {
        annotation(&self.wanted, REVISION).parse().unwrap_or(0)
    }

    fn scale(&mut self, replicas: i64) {
        self.wanted["spec"]["replicas"] = replicas.into();
    }

    fn annotate(&mut self, key: &str, value: &str) {
        object::set_annotation(&mut self.wanted, key, value);
    }
}

/// What a deployment asks for, read once.
struct Wish<'a> {
    deployment: &'a Value,
    replicas: i64,
    surge: i64,
    unavailable: i64,
    recreate: bool,
    paused: bool,
}

impl<'a> Wish<'a> {
    fn read(deployment: &'a Value) -> Self {
        let replicas = int(deployment, "/spec/replicas").unwrap_or(1).max(0);
        let recreate = text(deployment, "/spec/strategy/type") == "Recreate";
        let rolling =
            |member: &str| deployment.pointer(&format!("/spec/strategy/rollingUpdate/{member}"));
        let (mut surge, mut unavailable) = (0, 0);
        if !recreate {
            let quarter = json!("25%");
            surge =
                object::scaled(rolling("maxSurge").or(Some(&quarter)), replicas, true).unwrap_or(0);
            unavailable = object::scaled(
                rolling("maxUnavailable").or(Some(&quarter)),
                replicas,
                false,
            )
            .unwrap_or(0);
            if surge == 0 && unavailable == 0 {
                // Percentages that both round to nothing would stand still.
                unavailable = 1;
            }
        }
        Self {
            deployment,
            replicas,
            surge,
            unavailable: unavailable.min(replicas),
            recreate,
            paused: flag(deployment, "/spec/paused"),
        }
    }

    fn most(&self) -> i64 {
        self.replicas + self.surge
    }

    fn least(&self) -> i64 {
        self.replicas - self.unavailable
    }
}

fn reconcile(cache: &Cache, deployment: &Value, now: Timestamp, plan: &mut Plan) {
    let claimed = pods::claim(
        cache,
        &REPLICA_SETS,
        &DEPLOYMENTS,
        deployment,
        |_| true,
        plan,
    );
    let wish = Wish::read(deployment);
    let mut sets: Vec<Set<'_>> = claimed.into_iter().map(Set::of).collect();
    sets.sort_by_key(|set| (object::created(&set.wanted), set.name().to_owned()));
    let position = sets
        .iter()
        .position(|set| same_template(&set.wanted, deployment));
    let mut new = position.map(|index| sets.remove(index));
    let mut old = sets;
    let mut collisions = int(deployment, "/status/collisionCount").unwrap_or(0);

    if deleting(deployment) {
        write_status(&wish, new.as_ref(), &old, collisions, now, plan);
        return;
    }
    let revision = old.iter().map(Set::revision).max().unwrap_or(0) + 1;
    if let Some(set) = &mut new {
        // A rollback makes an old set the newest again, so its revision rises above the others.
        let revision = revision.max(set.revision());
        annotate(&wish, set, revision);
    }
    let scaling = new.iter().chain(&old).any(|set| {
        let desired = annotation(&set.wanted, DESIRED);
        set.observed.is_some()
            && set.replicas() > 0
            && !desired.is_empty()
            && annotation_of(set, DESIRED) != wish.replicas.to_string()
    });
    if wish.paused || scaling {
        scale(&wish, &mut new, &mut old);
    } else {
        if new.is_none() && !(wish.recreate && old_pods_run(cache, &mut old)) {
            let total: i64 = old.iter().map(Set::occupied).sum();
            new = Some(create(&wish, cache, revision, total, &mut collisions));
        }
        if wish.recreate {
            for set in &mut old {
                set.scale(0);
            }
            if let Some(set) = &mut new
                && !old_pods_run(cache, &mut old)
            {
                set.scale(wish.replicas);
            }
        } else if let Some(set) = &mut new {
            roll(&wish, set, &mut old);
        }
    }
    for set in new.iter_mut().chain(&mut old) {
        if set.replicas() > 0 || set.observed.is_none() {
            set.annotate(DESIRED, &wish.replicas.to_string());
            set.annotate(MAX, &wish.most().to_string());
        }
    }
    write_revision(&wish, new.as_ref(), plan);
    write_status(&wish, new.as_ref(), &old, collisions, now, plan);
    for set in new.iter().chain(&old) {
        write_set(&wish, set, plan);
    }
    if !wish.paused {
        clean_up(&wish, new.as_ref(), &old, plan);
    }
}

/// The annotation as observed, before this pass changed it.
fn annotation_of<'s>(set: &'s Set<'_>, key: &str) -> &'s str {
    set.observed
        .map_or("", |observed| annotation(observed, key))
}

/// Whether a set was made from the deployment's present template.
fn same_template(set: &Value, deployment: &Value) -> bool {
    let mut template = set
        .pointer("/spec/template")
        .cloned()
        .unwrap_or(Value::Null);
    if let Some(labels) = template
        .pointer_mut("/metadata/labels")
        .and_then(Value::as_object_mut)
    {
        labels.remove(HASH_LABEL);
    }
    let wanted = deployment.pointer("/spec/template").unwrap_or(&Value::Null);
    stripped(&template) == stripped(wanted)
}

/// Without members that say nothing, such as `creationTimestamp: null` and emptied label maps.
fn stripped(template: &Value) -> Value {
    let mut template = template.clone();
    if let Some(metadata) = template.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.retain(|_, member| {
            !member.is_null() && member.as_object().is_none_or(|map| !map.is_empty())
        });
    }
    template
}

/// Puts the deployment's annotations and the revision on its newest set.
fn annotate(wish: &Wish<'_>, set: &mut Set<'_>, revision: i64) {
    for (key, value) in entries(wish.deployment, "/metadata/annotations") {
        if !PRIVATE.contains(&key.as_str())
            && let Some(value) = value.as_str()
        {
            set.annotate(key, value);
        }
    }
    let before = annotation(&set.wanted, REVISION).to_owned();
    let now = revision.to_string();
    if before != now {
        if !before.is_empty() {
            let history = annotation(&set.wanted, REVISION_HISTORY);
            let history = if history.is_empty() {
                before
            } else {
                format!("{history},{before}")
            };
            set.annotate(REVISION_HISTORY, &history);
        }
        set.annotate(REVISION, &now);
    }
    if let Some(seconds) = int(wish.deployment, "/spec/minReadySeconds") {
        set.wanted["spec"]["minReadySeconds"] = seconds.into();
    }
}

fn create<'a>(
    wish: &Wish<'_>,
    cache: &Cache,
    revision: i64,
    present: i64,
    collisions: &mut i64,
) -> Set<'a> {
    let deployment = wish.deployment;
    let namespace = object::namespace(deployment);
    let mut template = deployment
        .pointer("/spec/template")
        .cloned()
        .unwrap_or_else(|| json!({}));
    let (name, hash) = loop {
        let hash = object::short_hash(&[&template, &json!(*collisions)]);
        let name = format!("{}-{hash}", object::name(deployment));
        // Taken by a set that is not ours or has another template: try the next hash, and remember that in the status.
        if cache.get(&REPLICA_SETS, namespace, &name).is_none() {
            break (name, hash);
        }
        *collisions += 1;
    };
    object::set_label(&mut template, HASH_LABEL, &hash);
    let mut selector = deployment
        .pointer("/spec/selector")
        .cloned()
        .unwrap_or_else(|| json!({}));
    object::entry(&mut selector, "matchLabels", || json!({}))[HASH_LABEL] = hash.into();
    let replicas = if wish.recreate {
        wish.replicas
    } else {
        (wish.most() - present).clamp(0, wish.replicas)
    };
    let wanted = json!({
        "apiVersion": "apps/v1",
        "kind": "ReplicaSet",
        "metadata": {
            "namespace": namespace,
            "name": name,
            "labels": template["metadata"]["labels"],
            "ownerReferences": [object::controller_reference(&DEPLOYMENTS, deployment)],
        },
        "spec": {
            "replicas": replicas,
            "minReadySeconds": int(deployment, "/spec/minReadySeconds").unwrap_or(0),
            "selector": selector,
            "template": template,
        },
    });
    let mut set = Set {
        observed: None,
        wanted,
    };
    annotate(wish, &mut set, revision);
    set
}

fn old_pods_run(cache: &Cache, old: &mut [Set<'_>]) -> bool {
    old.iter().any(|set| {
        cache
            .controlled(&PODS, object::uid(&set.wanted))
            .iter()
            .any(|pod| !pods::finished(pod))
    })
}

/// One step of a rolling update: grow the new set as far as the surge allows, or else shrink old ones as far as availability allows.
fn roll(wish: &Wish<'_>, new: &mut Set<'_>, old: &mut [Set<'_>]) {
    let all = new.replicas() + old.iter().map(Set::replicas).sum::<i64>();
    if new.replicas() > wish.replicas {
        new.scale(wish.replicas);
        return;
    }
    if new.replicas() < wish.replicas && new.observed.is_some() {
        let present = new.replicas() + old.iter().map(Set::occupied).sum::<i64>();
        let room = (wish.most() - present).min(wish.replicas - new.replicas());
        if room > 0 {
            new.scale(new.replicas() + room);
            return;
        }
    }
    if new.observed.is_none() {
        return;
    }
    let waiting = new.replicas() - new.available();
    let budget = all - wish.least() - waiting;
    if budget <= 0 {
        return;
    }
    // Broken old pods first: they serve nobody.
    let mut removed = 0;
    for set in old.iter_mut() {
        let broken = set.replicas() - set.available();
        let count = broken.min(budget - removed);
        if set.replicas() > 0 && count > 0 {
            set.scale(set.replicas() - count);
            removed += count;
        }
    }
    let available = new.available()
        + old
            .iter()
            .map(|set| set.available().min(set.replicas()))
            .sum::<i64>();
    let mut spare = (available - wish.least()).min(budget - removed);
    for set in old {
        let count = set.replicas().min(spare);
        if count > 0 {
            set.scale(set.replicas() - count);
            spare -= count;
        }
    }
}

/// Follows a changed `spec.replicas` in the middle of a rollout, or while paused: every set grows or shrinks in proportion.
fn scale<'a>(wish: &Wish<'_>, new: &mut Option<Set<'a>>, old: &mut [Set<'a>]) {
    let has_new = new.is_some();
    let mut all: Vec<&mut Set<'a>> = new.iter_mut().chain(old.iter_mut()).collect();
    let active = all.iter().filter(|set| set.replicas() > 0).count();
    if active <= 1 {
        let target = all
            .iter()
            .position(|set| set.replicas() > 0)
            // Nothing runs: the newest set takes it all.
            .or_else(|| (!all.is_empty()).then_some(0));
        if let Some(set) = target.map(|index| &mut all[index]) {
            set.scale(wish.replicas);
        }
        return;
    }
    let saturated = all.first().is_some_and(|set| {
        has_new && set.replicas() == wish.replicas && set.available() == wish.replicas
    });
    if saturated {
        for set in &mut all[1..] {
            set.scale(0);
        }
        return;
    }
    if wish.recreate {
        return;
    }
    let total: i64 = all.iter().map(|set| set.replicas()).sum();
    let allowed = if wish.replicas > 0 { wish.most() } else { 0 };
    let add = allowed - total;
    let mut left = add;
    // The largest first, so that rounding falls where it matters least; of equals the newest when growing.
    all.sort_by_key(|set| std::cmp::Reverse((set.replicas(), object::created(&set.wanted))));
    for set in &mut all {
        if set.replicas() == 0 || left == 0 {
            continue;
        }
        let before: i64 = annotation_of(set, MAX).parse().unwrap_or(total).max(1);
        // Where it should be at the new size, rounded to nearest.
        let target = (set.replicas() * allowed * 2 + before) / (before * 2);
        let step = (target - set.replicas()).clamp(left.min(0), left.max(0));
        set.scale((set.replicas() + step).max(0));
        left -= step;
    }
    if let Some(largest) = all.first_mut() {
        largest.scale((largest.replicas() + left).max(0));
    }
}

fn write_set(wish: &Wish<'_>, set: &Set<'_>, plan: &mut Plan) {
    let note = |from: i64, to: i64| {
        let direction = if to > from { "up" } else { "down" };
        Note::normal(
            &DEPLOYMENTS,
            wish.deployment,
            "ScalingReplicaSet",
            format!(
                "Scaled {direction} replica set {} from {from} to {to}",
                set.name()
            ),
        )
    };
    match set.observed {
        None => plan.push(Action::Create {
            gvr: REPLICA_SETS.clone(),
            object: set.wanted.clone(),
            done: (set.replicas() > 0).then(|| note(0, set.replicas())),
            failed: Some(Note::warning(
                &DEPLOYMENTS,
                wish.deployment,
                "ReplicaSetCreateError",
                format!("Failed to create new replica set \"{}\": ", set.name()),
            )),
        }),
        Some(observed) => {
            plan.update(&REPLICA_SETS, observed, set.wanted.clone());
            let before = int(observed, "/spec/replicas").unwrap_or(1);
            if before != set.replicas() {
                plan.push(Action::Note(note(before, set.replicas())));
            }
        }
    }
}

/// The deployment shows the revision of its newest set.
fn write_revision(wish: &Wish<'_>, new: Option<&Set<'_>>, plan: &mut Plan) {
    let Some(new) = new else { return };
    let revision = new.revision().to_string();
    if annotation(wish.deployment, REVISION) != revision {
        plan.push(Action::Merge {
            key: ObjectKey::of(&DEPLOYMENTS, wish.deployment),
            patch: json!({"metadata": {"annotations": {REVISION: revision}}}),
        });
    }
}

fn write_status(
    wish: &Wish<'_>,
    new: Option<&Set<'_>>,
    old: &[Set<'_>],
    collisions: i64,
    now: Timestamp,
    plan: &mut Plan,
) {
    let deployment = wish.deployment;
    let all = || {
        new.into_iter()
            .chain(old)
            .filter(|set| set.observed.is_some())
    };
    let replicas: i64 = all().map(Set::present).sum();
    let updated = new.map_or(0, |set| set.present());
    let ready: i64 = all().map(Set::ready).sum();
    let available: i64 = all().map(Set::available).sum();
    let planned: i64 = all()
        .filter_map(|set| set.observed)
        .map(|set| int(set, "/spec/replicas").unwrap_or(1))
        .sum();
    let mut status = Map::new();
    status.insert(
        "observedGeneration".to_owned(),
        object::generation(deployment).into(),
    );
    for (member, number) in [
        ("replicas", replicas),
        ("updatedReplicas", updated),
        ("readyReplicas", ready),
        ("availableReplicas", available),
        ("unavailableReplicas", (planned - available).max(0)),
        ("collisionCount", collisions),
    ] {
        if number > 0 {
            status.insert(member.to_owned(), number.into());
        }
    }
    let terminating: i64 = all()
        .filter_map(|set| set.observed)
        .filter_map(|set| int(set, "/status/terminatingReplicas"))
        .sum();
    status.insert("terminatingReplicas".to_owned(), terminating.into());
    let mut conditions = items(deployment, "/status/conditions").to_vec();
    let (state, reason, message) = if available >= wish.least() {
        (
            "True",
            "MinimumReplicasAvailable",
            "Deployment has minimum availability.",
        )
    } else {
        (
            "False",
            "MinimumReplicasUnavailable",
            "Deployment does not have minimum availability.",
        )
    };
    update_condition(&mut conditions, "Available", state, reason, message, now);
    match new
        .and_then(|set| set.observed)
        .and_then(|set| condition(set, REPLICA_FAILURE))
    {
        Some(failure) => update_condition(
            &mut conditions,
            REPLICA_FAILURE,
            text(failure, "/status"),
            text(failure, "/reason"),
            text(failure, "/message"),
            now,
        ),
        None => conditions.retain(|one| text(one, "/type") != REPLICA_FAILURE),
    }
    let numbers = Value::Object(status.clone());
    progress(wish, new, &numbers, &mut conditions, now, plan);
    status.insert("conditions".to_owned(), conditions.into());
    let status = Value::Object(status);
    // The same write would conflict with the annotation written just before; the resourceVersion then is one behind, and the pass that
    // the annotation causes brings the status.
    let annotated = plan
        .actions
        .iter()
        .any(|action| matches!(action, Action::Merge { .. }));
    if !annotated {
        plan.status(&DEPLOYMENTS, deployment, status);
    }
}

/// Judges whether the rollout moves, is done, or hangs.
fn progress(
    wish: &Wish<'_>,
    new: Option<&Set<'_>>,
    numbers: &Value,
    conditions: &mut Vec<Value>,
    now: Timestamp,
    plan: &mut Plan,
) {
    let deployment = wish.deployment;
    let deadline = int(deployment, "/spec/progressDeadlineSeconds").unwrap_or(600);
    let current = condition(deployment, "Progressing");
    let reason = current.map_or("", |current| text(current, "/reason"));
    if wish.paused {
        if reason != "DeploymentPaused" {
            let message = "Deployment is paused";
            update_condition(
                conditions,
                "Progressing",
                "Unknown",
                "DeploymentPaused",
                message,
                now,
            );
        }
        return;
    }
    if reason == "DeploymentPaused" {
        let message = "Deployment is resumed";
        update_condition(
            conditions,
            "Progressing",
            "Unknown",
            "DeploymentResumed",
            message,
            now,
        );
        plan.wake(after(now, deadline));
        return;
    }
    let Some(new) = new else { return };
    let name = new.name();
    let number = |member: &str| int(numbers, &format!("/{member}")).unwrap_or(0);
    let before = |member: &str| int(deployment, &format!("/status/{member}")).unwrap_or(0);
    let complete = number("updatedReplicas") == wish.replicas
        && number("replicas") == wish.replicas
        && number("availableReplicas") == wish.replicas;
    let old_fell = number("replicas") - number("updatedReplicas")
        < before("replicas") - before("updatedReplicas");
    let moves = number("updatedReplicas") > before("updatedReplicas")
        || number("readyReplicas") > before("readyReplicas")
        || number("availableReplicas") > before("availableReplicas")
        || old_fell;
    if new.observed.is_none() {
        let message = format!("Created new replica set \"{name}\"");
        update_condition(
            conditions,
            "Progressing",
            "True",
            "NewReplicaSetCreated",
            &message,
            now,
        );
    } else if complete {
        let message = format!("ReplicaSet \"{name}\" has successfully progressed.");
        update_condition(
            conditions,
            "Progressing",
            "True",
            "NewReplicaSetAvailable",
            &message,
            now,
        );
    } else if current.is_none() {
        let message = format!("Found new replica set \"{name}\"");
        update_condition(
            conditions,
            "Progressing",
            "True",
            "FoundNewReplicaSet",
            &message,
            now,
        );
    } else if moves {
        let message = format!("ReplicaSet \"{name}\" is progressing.");
        update_condition(
            conditions,
            "Progressing",
            "True",
            "ReplicaSetUpdated",
            &message,
            now,
        );
        // Progress is news even when the words stay the same: the deadline counts from here.
        for condition in conditions.iter_mut() {
            if text(condition, "/type") == "Progressing" {
                condition["lastUpdateTime"] = rfc3339(now).into();
            }
        }
    } else if reason == "NewReplicaSetAvailable" && number("replicas") == number("updatedReplicas")
    {
        // A finished rollout that lost pods is not rolling out again.
        return;
    } else if reason != "ProgressDeadlineExceeded" {
        let since = current
            .and_then(|current| time(current, "/lastUpdateTime"))
            .unwrap_or(now);
        if reason == "NewReplicaSetAvailable" {
            // A new rollout began with a template seen before: its clock starts now.
            let message = format!("Found new replica set \"{name}\"");
            update_condition(
                conditions,
                "Progressing",
                "True",
                "FoundNewReplicaSet",
                &message,
                now,
            );
        } else if after(since, deadline) <= now {
            let message = format!("ReplicaSet \"{name}\" has timed out progressing.");
            update_condition(
                conditions,
                "Progressing",
                "False",
                "ProgressDeadlineExceeded",
                &message,
                now,
            );
            return;
        } else {
            plan.wake(after(since, deadline));
            return;
        }
    }
    if !complete {
        plan.wake(after(now, deadline));
    }
}

/// A condition with `lastUpdateTime`, which Deployments have beside `lastTransitionTime`.
fn update_condition(
    conditions: &mut Vec<Value>,
    kind: &str,
    status: &str,
    reason: &str,
    message: &str,
    now: Timestamp,
) {
    if object::set_condition(conditions, kind, status, reason, message, now) {
        // Upstream takes out the old condition and puts the new one last.
        if let Some(position) = conditions.iter().position(|one| text(one, "/type") == kind) {
            let mut condition = conditions.remove(position);
            condition["lastUpdateTime"] = rfc3339(now).into();
            conditions.push(condition);
        }
    }
}

/// Removes old sets beyond the history limit, once the rollout is done.
fn clean_up(wish: &Wish<'_>, new: Option<&Set<'_>>, old: &[Set<'_>], plan: &mut Plan) {
    let settled = new.is_some_and(|new| {
        new.observed.is_some()
            && new.present() == wish.replicas
            && new.available() == wish.replicas
            && old.iter().all(|set| set.present() == 0)
    });
    if !settled {
        return;
    }
    let limit = int(wish.deployment, "/spec/revisionHistoryLimit")
        .unwrap_or(10)
        .max(0);
    let mut empty: Vec<&Set<'_>> = old
        .iter()
        .filter(|set| {
            set.replicas() == 0
                && set.present() == 0
                && !deleting(&set.wanted)
                && int(&set.wanted, "/status/observedGeneration").unwrap_or(0)
                    >= object::generation(&set.wanted)
        })
        .collect();
    empty.sort_by_key(|set| set.revision());
    let excess = empty
        .len()
        .saturating_sub(usize::try_from(limit).unwrap_or(usize::MAX));
    for set in &empty[..excess] {
        plan.delete(&REPLICA_SETS, &set.wanted);
    }
}

#[cfg(test)]
#[path = "deployment_tests.rs"]
mod tests;
