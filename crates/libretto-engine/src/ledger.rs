//! What was done for an instance and what is waited for.
//!
//! Between effect and record nothing is certain: a process that dies there has done the effect and does not know. Therefore
//! effects are at-least-once. Applying, patching and deleting twice is the same as once; a `once` call that was done but not
//! recorded runs a second time after a crash, and only then.

use std::{
    collections::BTreeMap,
    hash::{Hash, Hasher},
};

use libretto_api::{
    intent::{Effect, EventKind, Failure, FailureKind, Intent, Millis, Outcome},
    object::{Gvk, ObjectRef, field_manager},
};
use libretto_mirror::{ColumnPath, canonical_json, digest, held_digest_ignoring};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::{Compiled, compile::Action};

/// The memory of one instance between evaluations. Losing it costs nothing durable: [`Ledger::from_inventory`] brings back
/// what must not be forgotten, the rest is read off the world again.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Ledger {
    /// By rule and key. Rows that left are forgotten.
    pub(crate) rows: BTreeMap<String, BTreeMap<String, Row>>,
    /// Every object applied or patched, by [`object_id`]. Durable.
    pub(crate) applied: BTreeMap<String, Applied>,
    /// Fingerprints of `once` rows that are done, and until when (in ms) the times of scheduled rows are, by rule and key. Durable.
    pub(crate) once: BTreeMap<String, BTreeMap<String, String>>,
    /// What takes back the calls that were made, by rule and key. Durable, and written before the call: after a crash something
    /// may be taken back that was never done. Secrets are handles here as everywhere.
    pub(crate) undo: BTreeMap<String, BTreeMap<String, Effect>>,
    /// Digest of the inventory as it is in the cluster; `None` when none was written.
    pub(crate) written: Option<String>,
    /// Events that follow from outcomes; part of the next plan.
    pub(crate) events: Vec<PendingEvent>,
    /// Since when some probe has had targets that nobody asked.
    pub(crate) blind_since: Option<Millis>,
    /// For the jitter of retries; from the last plan.
    pub(crate) seed: u64,
}

/// One row of one rule.
#[derive(Debug, Clone, Default, PartialEq, Hash, Serialize, Deserialize)]
pub(crate) struct Row {
    pub(crate) fingerprint: String,
    /// Since when the row has been there with this fingerprint.
    pub(crate) since: Millis,
    /// When its effect last succeeded; absent before.
    pub(crate) done_at: Option<Millis>,
    /// How often it succeeded with this fingerprint.
    pub(crate) runs: u32,
    /// Failures in a row.
    pub(crate) attempts: u32,
    pub(crate) retry_at: Option<Millis>,
    pub(crate) failure: Option<Failure>,
    /// To be recorded when the effect succeeds.
    pub(crate) event: Option<PendingEvent>,
    /// A done effect is remembered in the inventory.
    pub(crate) once: bool,
    /// The time that the effect under way is for; remembered in the inventory when it is done.
    #[serde(default)]
    pub(crate) due: Option<Millis>,
}

/// An event waiting for the next plan.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct PendingEvent {
    pub(crate) kind: EventKind,
    pub(crate) reason: String,
    pub(crate) message: String,
}

/// An object of the inventory.
#[derive(Debug, Clone, PartialEq, Hash, Serialize, Deserialize)]
pub(crate) struct Applied {
    pub(crate) object: ObjectRef,
    /// The rule that wants it.
    pub(crate) rule: String,
    /// Fields of an object that is not ours.
    pub(crate) patch: bool,
    /// Stays when its row leaves.
    pub(crate) orphan: bool,
    /// Carries our owner reference, so that garbage collection removes it with the instance.
    pub(crate) own: bool,
    /// Absent from the moment it is about to be made until it is known to be.
    pub(crate) uid: Option<String>,
    pub(crate) fingerprint: Option<String>,
    /// Digest of the fields we held after the last apply.
    pub(crate) held: Option<String>,
    /// Paths left to others, not part of `held`.
    #[serde(default)]
    pub(crate) ignore: Vec<String>,
}

/// Rule names under which the runtime's own intents run; no package's rule can begin with `@`.
pub(crate) const INVENTORY: &str = "@inventory";
pub(crate) const STATUS: &str = "@status";
pub(crate) const EVENTS: &str = "@events";
pub(crate) const FINALIZER: &str = "@finalizer";
pub(crate) const BLOCKED: &str = "@blocked";

/// Fingerprint of a row whose call is being taken back.
pub(crate) const UNDO: &str = "undo";

/// `apps/v1/StatefulSet ns/name`.
pub(crate) fn object_id(object: &ObjectRef) -> String {
    format!("{} {}/{}", object.gvk, object.namespace, object.name)
}

/// First retry after a second: most failures are a server that is just coming up.
const BACKOFF_FIRST_MS: i64 = 1_000;
/// Never longer than a minute: a person who repaired the cause does not want to wait longer.
const BACKOFF_MOST_MS: i64 = 60_000;
/// A Secret that is missing is about to be made by somebody, as a rule, and asking for it costs one small request.
const SECRET_MOST_MS: i64 = 10_000;

/// 1 s, 2 s, 4 s ... 60 s, each up to a fifth longer, so that instances that failed together do not retry together.
fn backoff(kind: FailureKind, attempts: u32, seed: u64, rule: &str, key: &str) -> i64 {
    let most = match kind {
        FailureKind::SecretMissing => SECRET_MOST_MS,
        _ => BACKOFF_MOST_MS,
    };
    let base = BACKOFF_FIRST_MS
        .saturating_mul(1_i64 << attempts.saturating_sub(1).min(10))
        .min(most);
    let salt = digest(format!("{seed}/{rule}/{key}/{attempts}").as_bytes());
    let part = i64::from(u8::from_str_radix(&salt[..2], 16).unwrap_or(0));
    base + base / 5 * part / 255
}

impl Ledger {
    /// Starts from the inventory a former process left; `Value::Null` when there is none.
    pub fn from_inventory(inventory: &Value) -> Result<Self, String> {
        if inventory.is_null() {
            return Ok(Self::default());
        }
        match inventory.get("version").and_then(Value::as_i64) {
            Some(1) => {}
            other => {
                return Err(format!(
                    "inventory has version {}, this libretto reads version 1: run the libretto that wrote it",
                    other.map_or_else(|| "(none)".to_owned(), |version| version.to_string())
                ));
            }
        }
        let mut ledger = Self {
            written: Some(digest(canonical_json(inventory).as_bytes())),
            ..Self::default()
        };
        let objects = inventory.get("objects").and_then(Value::as_array);
        for entry in objects.into_iter().flatten() {
            let text = |key: &str| entry.get(key).and_then(Value::as_str).map(str::to_owned);
            let flag = |key: &str| entry.get(key).and_then(Value::as_bool).unwrap_or(false);
            let gvk: Gvk = text("kind")
                .ok_or_else(|| "inventory has an object without kind".to_owned())?
                .parse()
                .map_err(|error| format!("inventory: {error}"))?;
            let object = ObjectRef {
                gvk,
                namespace: text("namespace").unwrap_or_default(),
                name: text("name")
                    .ok_or_else(|| "inventory has an object without name".to_owned())?,
            };
            ledger.applied.insert(
                object_id(&object),
                Applied {
                    object,
                    rule: text("rule").unwrap_or_default(),
                    patch: flag("patch"),
                    orphan: flag("orphan"),
                    own: !flag("free"),
                    uid: text("uid"),
                    fingerprint: text("fingerprint"),
                    held: text("held"),
                    ignore: Vec::new(),
                },
            );
        }
        let once = inventory.get("once").and_then(Value::as_object);
        for (rule, keys) in once.into_iter().flatten() {
            let keys = keys
                .as_object()
                .ok_or_else(|| format!("inventory: once.{rule} is not a map"))?;
            for (key, fingerprint) in keys {
                ledger.once.entry(rule.clone()).or_default().insert(
                    key.clone(),
                    fingerprint.as_str().unwrap_or_default().to_owned(),
                );
            }
        }
        if let Some(undo) = inventory.get("undo") {
            ledger.undo = serde_json::from_value(undo.clone())
                .map_err(|error| format!("inventory: undo: {error}"))?;
        }
        Ok(ledger)
    }

    /// The part that must survive the process: what was applied, which `once` rows are done, and what takes calls back.
    /// `Value::Null` when there is nothing.
    pub fn inventory(&self) -> Value {
        if self.applied.is_empty()
            && self.once.values().all(BTreeMap::is_empty)
            && self.undo.is_empty()
        {
            return Value::Null;
        }
        let objects: Vec<Value> = self
            .applied
            .values()
            .map(|applied| {
                let Applied {
                    object,
                    rule,
                    patch,
                    orphan,
                    own,
                    uid,
                    fingerprint,
                    held,
                    // Known from the package again.
                    ignore: _,
                } = applied;
                let mut entry = Map::new();
                entry.insert("kind".to_owned(), json!(object.gvk));
                if !object.namespace.is_empty() {
                    entry.insert("namespace".to_owned(), json!(object.namespace));
                }
                entry.insert("name".to_owned(), json!(object.name));
                entry.insert("rule".to_owned(), json!(rule));
                for (key, value) in [("patch", *patch), ("orphan", *orphan), ("free", !own)] {
                    if value {
                        entry.insert(key.to_owned(), json!(true));
                    }
                }
                for (key, value) in [("uid", uid), ("fingerprint", fingerprint), ("held", held)] {
                    if let Some(value) = value {
                        entry.insert(key.to_owned(), json!(value));
                    }
                }
                Value::Object(entry)
            })
            .collect();
        let mut inventory = json!({"version": 1, "objects": objects});
        let once: BTreeMap<&String, &BTreeMap<String, String>> = self
            .once
            .iter()
            .filter(|(_, keys)| !keys.is_empty())
            .collect();
        if !once.is_empty() {
            inventory["once"] = json!(once);
        }
        if !self.undo.is_empty() {
            inventory["undo"] = json!(self.undo);
        }
        inventory
    }

    /// The inventory, when the one in the cluster is another.
    pub(crate) fn unwritten_inventory(&self) -> Option<Value> {
        let inventory = self.inventory();
        if inventory.is_null() && self.written.is_none() {
            return None;
        }
        let inventory = if inventory.is_null() {
            json!({"version": 1, "objects": []})
        } else {
            inventory
        };
        (self.written.as_deref() != Some(&digest(canonical_json(&inventory).as_bytes())))
            .then_some(inventory)
    }

    /// Feeds everything to the hash that later plans can follow from: two ledgers that give the same are one to every plan to come.
    ///
    /// What a row remembers of its success is not asked for when its effect can be seen in the world (objects), is done once and for
    /// all, or is not a rule's; a process that just started knows it as little, and `decide` must not mind.
    pub(crate) fn hash_future(&self, package: &Compiled, now: Millis, state: &mut impl Hasher) {
        let Self {
            rows,
            applied,
            once,
            undo,
            written,
            events,
            blind_since,
            seed,
        } = self;
        (applied, once, undo, written, events, blind_since, seed).hash(state);
        for (name, rows) in rows {
            let rule = package.rules.iter().find(|rule| rule.name == *name);
            for (key, row) in rows {
                let Row {
                    fingerprint,
                    since,
                    done_at,
                    runs,
                    attempts,
                    retry_at,
                    failure,
                    event,
                    once: _,
                    due,
                } = row;
                due.hash(state);
                let trouble = (attempts, retry_at, failure, event);
                let calm =
                    *attempts == 0 && retry_at.is_none() && failure.is_none() && event.is_none();
                let Some(rule) = rule else {
                    // The runtime's own: asked for only after a failure.
                    if !calm {
                        (name, key, fingerprint, trouble).hash(state);
                    }
                    continue;
                };
                (name, key, fingerprint, trouble).hash(state);
                let object = matches!(
                    rule.action,
                    Action::Apply { .. } | Action::Patch(_) | Action::Helm(_)
                );
                let for_good = rule.modifiers.once
                    && once.get(name).and_then(|rows| rows.get(key)) == Some(fingerprint);
                if !object && !for_good {
                    (done_at, runs).hash(state);
                }
                if let Some(stable) = rule.modifiers.stable_ms {
                    // Ripe is ripe.
                    (*since).max(now - stable).hash(state);
                }
            }
        }
    }

    pub(crate) fn row(&self, rule: &str, key: &str) -> Option<&Row> {
        self.rows.get(rule)?.get(key)
    }

    pub(crate) fn row_mut(&mut self, rule: &str, key: &str) -> &mut Row {
        // Mostly it is there; an entry would copy both names first.
        if self.row(rule, key).is_none() {
            let rows = self.rows.entry(rule.to_owned()).or_default();
            rows.insert(key.to_owned(), Row::default());
        }
        self.rows
            .get_mut(rule)
            .and_then(|rows| rows.get_mut(key))
            .expect("it is there or was just made")
    }

    /// Takes in what came of an intent of the last plan.
    pub fn record(&mut self, intent: &Intent, outcome: &Outcome, now: Millis) {
        match outcome {
            Outcome::Failed(failure) => self.record_failure(intent, failure, now),
            Outcome::Done { object } => self.record_success(intent, object.as_ref(), now),
            Outcome::Absent => self.record_success(intent, None, now),
            Outcome::Skipped => self.record_skip(intent, now),
        }
    }

    /// Nothing was done, so nothing is told and the next try is not put off any longer than the first; the row leaves as soon as
    /// the mirror has seen what the guard saw.
    fn record_skip(&mut self, intent: &Intent, now: Millis) {
        if intent.fingerprint == UNDO {
            self.taken_back(&intent.rule, &intent.key);
            return;
        }
        let row = self.row_mut(&intent.rule, &intent.key);
        row.fingerprint.clone_from(&intent.fingerprint);
        row.done_at = Some(now);
        row.attempts = 0;
        row.retry_at = None;
        row.failure = None;
        row.event = None;
        let due = row.due.take();
        self.passed(intent, due);
    }

    /// A scheduled row has had this time.
    fn passed(&mut self, intent: &Intent, due: Option<Millis>) {
        if let Some(due) = due {
            self.once
                .entry(intent.rule.clone())
                .or_default()
                .insert(intent.key.clone(), due.to_string());
        }
    }

    fn record_failure(&mut self, intent: &Intent, failure: &Failure, now: Millis) {
        // An event that cannot be recorded is not worth a second try, nor a condition.
        if matches!(intent.effect, Effect::Event { .. }) && intent.rule == EVENTS {
            return;
        }
        let seed = self.seed;
        let row = self.row_mut(&intent.rule, &intent.key);
        row.fingerprint.clone_from(&intent.fingerprint);
        row.attempts = row.attempts.saturating_add(1);
        row.retry_at =
            Some(now + backoff(failure.kind, row.attempts, seed, &intent.rule, &intent.key));
        row.failure = Some(failure.clone());
        // A status that cannot be written cannot say so itself.
        if row.attempts == 1 && (!intent.rule.starts_with('@') || intent.rule == STATUS) {
            let event = PendingEvent {
                kind: EventKind::Warning,
                reason: libretto_api::reason::REASON_EFFECT_FAILED.to_owned(),
                message: if intent.rule == STATUS {
                    failure.message.clone()
                } else {
                    format!(
                        "rule {}, row {}: {}",
                        intent.rule, intent.key, failure.message
                    )
                },
            };
            self.events.push(event);
        }
    }

    /// A call was taken back: as if it had never been made.
    fn taken_back(&mut self, rule: &str, key: &str) {
        fn remove<T>(map: &mut BTreeMap<String, BTreeMap<String, T>>, rule: &str, key: &str) {
            if let Some(rows) = map.get_mut(rule) {
                rows.remove(key);
                if rows.is_empty() {
                    map.remove(rule);
                }
            }
        }
        remove(&mut self.undo, rule, key);
        remove(&mut self.once, rule, key);
        remove(&mut self.rows, rule, key);
    }

    fn record_success(&mut self, intent: &Intent, object: Option<&Value>, now: Millis) {
        if intent.fingerprint == UNDO {
            self.taken_back(&intent.rule, &intent.key);
            return;
        }
        let mut once = false;
        if intent.rule != EVENTS {
            let row = self.row_mut(&intent.rule, &intent.key);
            row.fingerprint.clone_from(&intent.fingerprint);
            row.done_at = Some(now);
            row.runs = row.runs.saturating_add(1);
            row.attempts = 0;
            row.retry_at = None;
            row.failure = None;
            once = row.once;
            let (event, due) = (row.event.take(), row.due.take());
            self.events.extend(event);
            self.passed(intent, due);
        }
        if once {
            self.once
                .entry(intent.rule.clone())
                .or_default()
                .insert(intent.key.clone(), intent.fingerprint.clone());
        }
        match &intent.effect {
            Effect::Inventory { inventory } => {
                self.written = Some(digest(canonical_json(inventory).as_bytes()));
            }
            Effect::Apply {
                object: desired, ..
            }
            | Effect::Patch {
                object: desired, ..
            } => {
                let Some(applied) = reference(desired)
                    .and_then(|reference| self.applied.get_mut(&object_id(&reference)))
                else {
                    return;
                };
                // The empty apply that releases a patched object.
                if intent.fingerprint.is_empty() {
                    let id = object_id(&applied.object);
                    self.applied.remove(&id);
                    return;
                }
                applied.fingerprint = Some(intent.fingerprint.clone());
                applied.held = None;
                if let Some(object) = object {
                    let ignore: Vec<ColumnPath> = applied
                        .ignore
                        .iter()
                        .filter_map(|path| path.parse().ok())
                        .collect();
                    applied.uid = object
                        .pointer("/metadata/uid")
                        .and_then(Value::as_str)
                        .map(str::to_owned);
                    applied.held = Some(held_digest_ignoring(
                        object,
                        &field_manager(&intent.instance.package),
                        &ignore,
                    ));
                }
            }
            Effect::Delete { object, .. } => {
                let id = object_id(object);
                // A `kube.delete` of a rule is about somebody's object; only the prune's key is the object itself.
                if intent.key == id {
                    self.applied.remove(&id);
                }
            }
            Effect::Status { .. }
            | Effect::Event { .. }
            | Effect::Redis(_)
            | Effect::Http(_)
            | Effect::Exec(_)
            | Effect::Scale { .. }
            | Effect::Restart { .. }
            | Effect::Evict { .. } => {}
        }
    }
}

/// Name of a manifest.
pub(crate) fn reference(object: &Value) -> Option<ObjectRef> {
    let text = |pointer: &str| {
        object
            .pointer(pointer)
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    Some(ObjectRef {
        gvk: Gvk::of(object)?,
        namespace: text("/metadata/namespace"),
        name: text("/metadata/name"),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use libretto_api::object::InstanceRef;

    use super::*;

    fn intent(key: &str, fingerprint: &str, effect: Effect) -> Intent {
        Intent {
            instance: InstanceRef {
                package: "p".into(),
                gvk: Gvk::new("g", "v1", "K"),
                namespace: "ns".into(),
                name: "demo".into(),
                uid: "u".into(),
            },
            rule: "r".into(),
            key: key.into(),
            fingerprint: fingerprint.into(),
            effect,
        }
    }

    fn applied(name: &str) -> Applied {
        Applied {
            object: ObjectRef {
                gvk: Gvk::new("", "v1", "ConfigMap"),
                namespace: "ns".into(),
                name: name.into(),
            },
            rule: "r".into(),
            patch: false,
            orphan: false,
            own: true,
            uid: Some("1".into()),
            fingerprint: Some("f".into()),
            held: Some("h".into()),
            ignore: Vec::new(),
        }
    }

    #[test]
    fn the_inventory_brings_back_what_it_was_made_of() {
        let mut ledger = Ledger::default();
        assert_eq!(ledger.inventory(), Value::Null);
        assert_eq!(ledger.unwritten_inventory(), None);
        for (name, change) in [("a", 0), ("b", 1), ("c", 2), ("d", 3)] {
            let mut entry = applied(name);
            entry.patch = change == 1;
            entry.orphan = change == 2;
            entry.own = change != 2;
            if change == 3 {
                (entry.uid, entry.fingerprint, entry.held) = (None, None, None);
            }
            ledger.applied.insert(object_id(&entry.object), entry);
        }
        ledger
            .once
            .entry("seed".into())
            .or_default()
            .insert("k".into(), "f".into());
        let inventory = ledger.inventory();
        let back = Ledger::from_inventory(&inventory).unwrap();
        assert_eq!(back.applied, ledger.applied);
        assert_eq!(back.once, ledger.once);
        assert_eq!(back.inventory(), inventory);
        assert_eq!(
            back.unwritten_inventory(),
            None,
            "what was read is what is there"
        );
        assert_eq!(ledger.unwritten_inventory(), Some(inventory));
    }

    #[test]
    fn an_inventory_from_the_future_is_refused() {
        let error = Ledger::from_inventory(&json!({"version": 2})).unwrap_err();
        assert_eq!(
            error,
            "inventory has version 2, this libretto reads version 1: run the libretto that wrote it"
        );
    }

    #[test]
    fn failures_are_retried_later_and_later_but_never_later_than_a_minute_and_a_fifth() {
        let mut ledger = Ledger::default();
        let failure = Outcome::Failed(Failure {
            kind: FailureKind::Unreachable,
            message: "no route".into(),
        });
        let event = intent(
            "k",
            "f",
            Effect::Event {
                kind: EventKind::Normal,
                reason: "R".into(),
                message: "m".into(),
            },
        );
        let mut last = 0;
        for (attempt, least) in [1, 2, 4, 8, 16, 32, 60, 60].into_iter().enumerate() {
            ledger.record(&event, &failure, 1_000_000);
            let row = ledger.row("r", "k").unwrap();
            let wait = row.retry_at.unwrap() - 1_000_000;
            assert!(
                wait >= least * 1000 && wait <= least * 1200,
                "attempt {attempt}: {wait}"
            );
            assert!(wait >= last || least == 60);
            last = wait;
        }
        assert_eq!(ledger.events.len(), 1, "one event, not one per retry");
        ledger.record(&event, &Outcome::Done { object: None }, 2_000_000);
        let row = ledger.row("r", "k").unwrap();
        assert_eq!(
            (row.attempts, row.retry_at, row.done_at),
            (0, None, Some(2_000_000))
        );
    }

    #[test]
    fn a_missing_secret_is_looked_for_more_often() {
        let wait = |kind| backoff(kind, 9, 1, "r", "k");
        assert!((10_000..=12_000).contains(&wait(FailureKind::SecretMissing)));
        assert!((60_000..=72_000).contains(&wait(FailureKind::Refused)));
    }

    #[test]
    fn what_a_guard_held_back_is_neither_told_nor_counted() {
        let mut ledger = Ledger::default();
        let call = intent(
            "k",
            "f",
            Effect::Event {
                kind: EventKind::Normal,
                reason: "R".into(),
                message: "m".into(),
            },
        );
        ledger.row_mut("r", "k").event = Some(PendingEvent {
            kind: EventKind::Normal,
            reason: "Moved".into(),
            message: "it was moved".into(),
        });
        ledger.record(&call, &Outcome::Skipped, 2_000_000);
        assert!(ledger.events.is_empty());
        let row = ledger.row("r", "k").unwrap();
        assert_eq!((row.runs, row.done_at), (0, Some(2_000_000)));
    }

    #[test]
    fn a_deleted_object_is_forgotten_only_by_the_prune() {
        let mut ledger = Ledger::default();
        let entry = applied("a");
        let id = object_id(&entry.object);
        let effect = Effect::Delete {
            object: entry.object.clone(),
            uid: None,
        };
        ledger.applied.insert(id.clone(), entry);
        ledger.record(
            &intent("row", "f", effect.clone()),
            &Outcome::Done { object: None },
            1,
        );
        assert!(ledger.applied.contains_key(&id));
        ledger.record(&intent(&id, "f", effect), &Outcome::Absent, 1);
        assert!(ledger.applied.is_empty());
    }
}
