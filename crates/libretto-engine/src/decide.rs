//! Items against the ledger and the world: what to do now, what to wait for, what to take away.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use libretto_api::{
    intent::{Alert, Effect, Failure, Intent, Millis},
    object::ObjectRef,
};
use libretto_mirror::{canonical_json, digest};
use serde_json::json;

use crate::{
    Ledger, Plan, Sample,
    compile::{Action, Rule},
    engine::Pass,
    items::{Item, RuleItems},
    ledger::{Applied, EVENTS, FINALIZER, INVENTORY, Row, UNDO},
    plan::{ProbeTarget, RowState, RowView, RuleView},
    schedule::Schedule,
};

/// A plan in the making.
pub(crate) struct Decision<'a> {
    pub(crate) pass: &'a Pass<'a>,
    pub(crate) intents: Vec<Intent>,
    pub(crate) ledger: Ledger,
    pub(crate) wake_at: Option<Millis>,
    /// What is left to do, one line per rule; the same as long as the same is left, because it is written to status.
    pub(crate) work: Vec<String>,
    /// Rows whose last try failed.
    pub(crate) failing: Vec<(String, String, Failure)>,
    /// Something could not be computed.
    pub(crate) broken: bool,
    pub(crate) views: BTreeMap<String, Vec<RowView>>,
    pub(crate) alerts: Vec<Alert>,
    /// Some rule has something to do at the instance's deletion, and has not done it.
    acts_at_deletion: bool,
    /// Rules whose rows are not known.
    unknown: BTreeSet<String>,
}

/// What no row wants any more.
enum Leaving {
    Object(String, Applied),
    Call(String, String, Effect),
}

/// How an item stands before `after` and `limit`.
#[derive(Debug, Clone, PartialEq)]
enum Stand {
    Done,
    /// Done for this time; the next is then.
    Until(Millis),
    /// Applied, and not ready yet; why, if the package says.
    NotReady(String),
    Act,
    /// Not until then.
    Wait(Millis, String),
    /// Failed; not until then.
    Backoff(Millis, Failure),
    /// Until something changes in the cluster.
    Blocked(String),
}

impl Stand {
    /// Nothing is left to do that could be done now.
    fn settled(&self) -> bool {
        matches!(self, Self::Done | Self::Until(_))
    }
}

pub(crate) fn decide<'a>(
    pass: &'a Pass<'a>,
    rules: &[RuleItems<'_>],
    ledger: &Ledger,
    seed: u64,
) -> Decision<'a> {
    let mut decision = Decision {
        pass,
        intents: Vec::new(),
        ledger: Ledger {
            seed,
            ..ledger.clone()
        },
        wake_at: None,
        work: Vec::new(),
        failing: Vec::new(),
        broken: rules.iter().any(|rule| rule.failure.is_some()),
        views: BTreeMap::new(),
        alerts: Vec::new(),
        acts_at_deletion: false,
        unknown: rules
            .iter()
            .filter(|rule| rule.unknown())
            .map(|rule| rule.rule.name.clone())
            .collect(),
    };
    if pass.controls.paused {
        decision.leave_alone(rules);
        return decision;
    }
    decision.forget(rules);
    let stands: Vec<Vec<Stand>> = rules
        .iter()
        .map(|rule| {
            rule.items
                .iter()
                .map(|item| decision.stand(rule, item))
                .collect()
        })
        .collect();
    decision.acts_at_deletion = rules.iter().zip(&stands).any(|(rule, stands)| {
        rule.rule.at_deletion
            && (!pass.deleting || rule.unknown() || stands.iter().any(|stand| !stand.settled()))
    });
    let unsettled: BTreeSet<&str> = rules
        .iter()
        .zip(&stands)
        .filter(|(rule, stands)| {
            let rows_must_vanish = rule.rule.modifiers.repeat_ms.is_some() && !stands.is_empty();
            rule.unknown() || rows_must_vanish || stands.iter().any(|stand| !stand.settled())
        })
        .map(|(rule, _)| rule.rule.name.as_str())
        .collect();
    for (rule, stands) in rules.iter().zip(stands) {
        decision.act(rule, stands, &unsettled);
    }
    decision.prune(rules);
    decision.write_ahead();
    decision.hold_instance();
    decision.tell();
    decision
}

impl Decision<'_> {
    /// Asks to be woken then, if nothing earlier was asked for.
    pub(crate) fn wake(&mut self, at: Millis) {
        self.wake_at = Some(self.wake_at.map_or(at, |known| known.min(at)));
    }

    /// Shows what is wanted, and does none of it.
    fn leave_alone(&mut self, rules: &[RuleItems<'_>]) {
        for rule in rules {
            let rows = rule.items.iter().map(|item| RowView {
                key: item.key.clone(),
                columns: item.columns.clone(),
                state: RowState::Waiting,
                note: "the instance is paused".to_owned(),
            });
            self.views.insert(rule.rule.name.clone(), rows.collect());
        }
    }

    /// Drops what is remembered of rows that left, and starts rows anew that changed.
    fn forget(&mut self, rules: &[RuleItems<'_>]) {
        let now = self.pass.now;
        let ledger = &mut self.ledger;
        let by_name: HashMap<&str, (bool, HashSet<&str>)> = rules
            .iter()
            .map(|rule| {
                let keys = rule.items.iter().map(|item| item.key.as_str()).collect();
                (rule.rule.name.as_str(), (rule.unknown(), keys))
            })
            .collect();
        let (applied, to_undo) = (&ledger.applied, &ledger.undo);
        let keep = |name: &str, key: &str| match by_name.get(name) {
            // A rule whose rows are not known keeps everything.
            Some((unknown, keys)) => *unknown || keys.contains(key),
            None => false,
        };
        ledger.rows.retain(|name, rows| {
            rows.retain(|key, _| {
                name.starts_with('@')
                    || keep(name, key)
                    || applied.contains_key(key)
                    || to_undo.get(name).is_some_and(|keys| keys.contains_key(key))
            });
            !rows.is_empty()
        });
        ledger.once.retain(|name, rows| {
            rows.retain(|key, _| keep(name, key));
            !rows.is_empty()
        });
        for rule in rules {
            for item in rule.items.iter() {
                let row = ledger.row_mut(&rule.rule.name, &item.key);
                if row.fingerprint != item.fingerprint {
                    *row = Row {
                        fingerprint: item.fingerprint.clone(),
                        since: now,
                        ..Row::default()
                    };
                }
                row.once = rule.rule.modifiers.once;
            }
        }
    }

    fn stand(&mut self, items: &RuleItems<'_>, item: &Item) -> Stand {
        let now = self.pass.now;
        let rule = items.rule;
        if let Some(object) = &item.object {
            if let Some(stand) = self.stand_of_object(items, item, object) {
                return stand;
            }
        } else if let Some(schedule) = &rule.schedule {
            if let Some(stand) = self.stand_of_time(rule, schedule, item) {
                return stand;
            }
        } else {
            let done = self
                .ledger
                .once
                .get(&rule.name)
                .and_then(|rows| rows.get(&item.key))
                == Some(&item.fingerprint);
            if rule.modifiers.once && done {
                return Stand::Done;
            }
        }
        let row = self.ledger.row_mut(&rule.name, &item.key);
        // What failed last is waited for before what was once done: a repeated call may fail the second time.
        if let (Some(at), Some(failure)) = (row.retry_at, &row.failure) {
            return if at > now {
                Stand::Backoff(at, failure.clone())
            } else {
                Stand::Act
            };
        }
        if item.object.is_none()
            && rule.schedule.is_none()
            && let Some(done_at) = row.done_at
        {
            let Some(repeat) = rule.modifiers.repeat_ms else {
                return Stand::Done;
            };
            // Twice as long each time: what did not help twice will hardly help the third time at once.
            let factor = (1_i64 << row.runs.saturating_sub(1).min(4)).min(10);
            let due = done_at.saturating_add(repeat.saturating_mul(factor));
            return if due > now {
                Stand::Wait(due, "done; again if the row is still there".to_owned())
            } else {
                Stand::Act
            };
        }
        if let Some(stable) = rule.modifiers.stable_ms {
            let ripe = row.since.saturating_add(stable);
            if ripe > now {
                return Stand::Wait(ripe, "not there long enough".to_owned());
            }
        }
        Stand::Act
    }

    /// How a scheduled call stands; `None` when its time has come. Times that passed while nobody was there are made up for once.
    fn stand_of_time(&mut self, rule: &Rule, schedule: &Schedule, item: &Item) -> Option<Stand> {
        let now = self.pass.now;
        let done = self.ledger.once.entry(rule.name.clone()).or_default();
        let done = done
            .entry(item.key.clone())
            // What is seen for the first time has missed nothing.
            .or_insert_with(|| now.to_string());
        let done: Millis = done.parse().unwrap_or(now);
        if let Some(last) = schedule.before(now).filter(|last| *last > done) {
            self.ledger.row_mut(&rule.name, &item.key).due = Some(last);
            return None;
        }
        Some(schedule.after(now).map_or(Stand::Done, Stand::Until))
    }

    /// How an applied or patched object stands; `None` when it must be written.
    fn stand_of_object(
        &mut self,
        items: &RuleItems<'_>,
        item: &Item,
        object: &ObjectRef,
    ) -> Option<Stand> {
        let rule = items.rule;
        let live = self.pass.snapshot.object(object);
        let patch = matches!(rule.action, Action::Patch(_));
        if let Some(applied) = self.ledger.applied.get_mut(&item.key) {
            // Alone, a patch of what another rule applies would take away everything else of it.
            if patch && !applied.patch && self.unknown.contains(&applied.rule) {
                return Some(Stand::Blocked(format!(
                    "{object} is applied by rule {}, whose rows are not known",
                    applied.rule
                )));
            }
            applied.rule.clone_from(&rule.name);
            applied.orphan = item.orphan;
            applied.ignore.clone_from(&rule.modifiers.ignore);
            if let Some(live) = live
                && applied.fingerprint.as_deref() == Some(&item.fingerprint)
            {
                // The answer to our write was lost; the object as it is now is what we hold.
                if applied.held.is_none() {
                    applied.held = Some(live.held.clone());
                }
                if applied.uid.is_none() {
                    applied.uid = Some(live.uid.clone());
                }
                let as_left =
                    rule.modifiers.keep_drift || applied.held.as_deref() == Some(&live.held);
                if as_left && applied.uid.as_deref() == Some(&live.uid) {
                    let ready = match &items.ready {
                        // What the package wants to see of a server, nobody sees of a stopped one.
                        Some(ready) if !self.pass.controls.stopped => ready.of(object),
                        _ if live.ready || patch => Ok(()),
                        _ => Err(String::new()),
                    };
                    return Some(if live.deleting && !patch {
                        Stand::Blocked(format!("{object} is being deleted"))
                    } else {
                        ready.map_or_else(Stand::NotReady, |()| Stand::Done)
                    });
                }
            }
        }
        if live.is_some_and(|live| live.deleting) {
            // Writing to what is going away is in vain; its deletion will wake us.
            return Some(Stand::Blocked(format!("{object} is being deleted")));
        }
        None
    }

    fn act(&mut self, rule: &RuleItems<'_>, stands: Vec<Stand>, unsettled: &BTreeSet<&str>) {
        let RuleItems {
            rule,
            items,
            failure,
            blind,
            ready: _,
        } = rule;
        if let Some(what) = blind {
            self.work.push(format!("{}: waits for {what}", rule.name));
            return;
        }
        if failure.is_some() {
            return;
        }
        let first = rule
            .modifiers
            .after
            .iter()
            .find(|name| unsettled.contains(name.as_str()));
        let under_way = stands
            .iter()
            .filter(|stand| matches!(stand, Stand::NotReady(_)))
            .count();
        let mut room = rule
            .modifiers
            .limit
            .map_or(usize::MAX, |limit| limit.saturating_sub(under_way));
        let wave = items
            .iter()
            .zip(&stands)
            .filter(|(_, stand)| !stand.settled())
            .map(|(item, _)| item.wave)
            .min();
        let (mut open, mut not_ready, mut failed) = (0_usize, Vec::new(), 0_usize);
        let mut views = Vec::new();
        for (item, stand) in items.iter().zip(stands) {
            let (state, note) = match stand {
                // What is not yet worth an alert is no work either.
                Stand::Wait(at, note) if item.alert.is_some() => {
                    self.wake(at);
                    (RowState::Waiting, note)
                }
                Stand::Done => {
                    self.remember_way_back(rule, item);
                    (RowState::Done, String::new())
                }
                Stand::Until(at) => {
                    self.wake(at);
                    let next = crate::status::timestamp(at);
                    (RowState::Done, format!("next at {next}"))
                }
                Stand::NotReady(why) => {
                    let object = item.object.as_ref().map(ToString::to_string);
                    not_ready.extend(object);
                    let why = if why.is_empty() {
                        why
                    } else {
                        format!(": {why}")
                    };
                    (RowState::Waiting, format!("applied; not ready yet{why}"))
                }
                Stand::Act => {
                    open += 1;
                    if let Some(first) = first {
                        (RowState::Waiting, format!("after rule {first}"))
                    } else if wave.is_some_and(|wave| wave < item.wave) {
                        (
                            RowState::Waiting,
                            "after what the chart puts before it".to_owned(),
                        )
                    } else if room == 0 {
                        (
                            RowState::Waiting,
                            "behind others: the rule's limit is reached".to_owned(),
                        )
                    } else {
                        room -= 1;
                        self.plan_item(rule, item);
                        (RowState::Acting, String::new())
                    }
                }
                Stand::Wait(at, note) => {
                    open += 1;
                    self.wake(at);
                    (RowState::Waiting, note)
                }
                Stand::Backoff(at, failure) => {
                    failed += 1;
                    self.wake(at);
                    let note = failure.message.clone();
                    self.failing
                        .push((rule.name.clone(), item.key.clone(), failure));
                    (RowState::Failing, note)
                }
                Stand::Blocked(note) => {
                    open += 1;
                    (RowState::Waiting, note)
                }
            };
            if state != RowState::Waiting
                && let Some(alert) = &item.alert
            {
                let since = self
                    .ledger
                    .row(&rule.name, &item.key)
                    .map_or(self.pass.now, |row| row.since);
                self.alerts.push(Alert {
                    since,
                    ..alert.clone()
                });
            }
            // A row that is tried again is still one that failed.
            if state == RowState::Acting
                && let Some(failure) = self
                    .ledger
                    .row(&rule.name, &item.key)
                    .and_then(|row| row.failure.clone())
            {
                failed += 1;
                open -= 1;
                self.failing
                    .push((rule.name.clone(), item.key.clone(), failure));
            }
            views.push(RowView {
                key: item.key.clone(),
                columns: item.columns.clone(),
                state,
                note,
            });
        }
        if open > 0 {
            let noun = if open == 1 { "row" } else { "rows" };
            self.work
                .push(format!("{}: {open} {noun} to go", rule.name));
        }
        if let Some(object) = not_ready.first() {
            self.work.push(match not_ready.len() {
                1 => format!("{}: {object} is not ready", rule.name),
                several => format!(
                    "{}: {object} and {} more are not ready",
                    rule.name,
                    several - 1
                ),
            });
        }
        if failed > 0 {
            let noun = if failed == 1 {
                "row fails"
            } else {
                "rows fail"
            };
            self.work.push(format!("{}: {failed} {noun}", rule.name));
        }
        self.views.insert(rule.name.clone(), views);
    }

    /// What is done may have moved since (columns outside `on`): it is taken back where it is now.
    fn remember_way_back(&mut self, rule: &Rule, item: &Item) {
        if let Some(undo) = &item.undo
            && let Some(known) = self
                .ledger
                .undo
                .get_mut(&rule.name)
                .and_then(|keys| keys.get_mut(&item.key))
            && known != undo
        {
            known.clone_from(undo);
        }
    }

    fn plan_item(&mut self, rule: &Rule, item: &Item) {
        if let Some(object) = &item.object {
            self.ledger
                .applied
                .entry(item.key.clone())
                .or_insert_with(|| Applied {
                    object: object.clone(),
                    rule: rule.name.clone(),
                    patch: matches!(rule.action, Action::Patch(_)),
                    orphan: item.orphan,
                    own: item.own,
                    uid: None,
                    fingerprint: None,
                    held: None,
                    ignore: rule.modifiers.ignore.clone(),
                });
        }
        if let Some(undo) = &item.undo {
            self.ledger
                .undo
                .entry(rule.name.clone())
                .or_default()
                .insert(item.key.clone(), undo.clone());
        }
        self.ledger.row_mut(&rule.name, &item.key).event = item.event.clone();
        self.intents.push(self.intent(
            &rule.name,
            &item.key,
            &item.fingerprint,
            item.effect.clone(),
        ));
    }

    pub(crate) fn intent(
        &self,
        rule: &str,
        key: &str,
        fingerprint: &str,
        effect: Effect,
    ) -> Intent {
        Intent {
            instance: self.pass.snapshot.instance.clone(),
            rule: rule.to_owned(),
            key: key.to_owned(),
            fingerprint: fingerprint.to_owned(),
            effect,
        }
    }

    /// Takes away what no row wants any more, last applied first. Only objects of the inventory, only while they are ours, and
    /// nothing of a rule whose rows could not be computed.
    fn prune(&mut self, rules: &[RuleItems<'_>]) {
        let wanted: BTreeSet<&str> = rules
            .iter()
            .flat_map(|rule| rule.items.iter())
            .filter(|item| item.object.is_some())
            .map(|item| item.key.as_str())
            .collect();
        let failed: BTreeSet<&str> = rules
            .iter()
            .filter(|rule| rule.unknown())
            .map(|rule| rule.rule.name.as_str())
            .collect();
        let place = |name: &str| rules.iter().position(|rule| rule.rule.name == name);
        let mut leaving: Vec<Leaving> = self
            .ledger
            .applied
            .iter()
            .filter(|(id, applied)| {
                !wanted.contains(id.as_str()) && !failed.contains(applied.rule.as_str())
            })
            .map(|(id, applied)| Leaving::Object(id.clone(), applied.clone()))
            .collect();
        let rows: BTreeSet<(&str, &str)> = rules
            .iter()
            .flat_map(|rule| {
                let name = rule.rule.name.as_str();
                rule.items.iter().map(move |item| (name, item.key.as_str()))
            })
            .collect();
        for (rule, keys) in &self.ledger.undo {
            for (key, effect) in keys {
                if !rows.contains(&(rule.as_str(), key.as_str())) && !failed.contains(rule.as_str())
                {
                    leaving.push(Leaving::Call(rule.clone(), key.clone(), effect.clone()));
                }
            }
        }
        leaving.sort_by_key(|leaving| {
            std::cmp::Reverse(place(match leaving {
                Leaving::Object(_, applied) => &applied.rule,
                Leaving::Call(rule, ..) => rule,
            }))
        });
        for leaving in leaving {
            match leaving {
                Leaving::Object(id, applied) => self.take_away(&id, &applied),
                Leaving::Call(rule, key, effect) => self.take_back(&rule, &key, effect),
            }
        }
    }

    /// Runs the `undo` of a row that left.
    fn take_back(&mut self, rule: &str, key: &str, effect: Effect) {
        let now = self.pass.now;
        let row = self.ledger.row_mut(rule, key);
        if row.fingerprint != UNDO {
            *row = Row {
                fingerprint: UNDO.to_owned(),
                since: now,
                ..Row::default()
            };
        }
        let (state, note) = if let (Some(at), Some(failure)) =
            (row.retry_at.filter(|at| *at > now), row.failure.clone())
        {
            self.wake(at);
            let note = failure.message.clone();
            self.failing
                .push((rule.to_owned(), key.to_owned(), failure));
            (RowState::Failing, note)
        } else {
            self.intents.push(self.intent(rule, key, UNDO, effect));
            (RowState::Leaving, String::new())
        };
        self.work.push(format!("{rule}: {key} to be undone"));
        self.views
            .entry(rule.to_owned())
            .or_default()
            .push(RowView {
                key: key.to_owned(),
                columns: Vec::new(),
                state,
                note,
            });
    }

    fn take_away(&mut self, id: &str, applied: &Applied) {
        let live = self.pass.snapshot.object(&applied.object).cloned();
        // Garbage collection follows the owner references of what is ours.
        if self.pass.deleting && applied.own && !applied.patch {
            return;
        }
        let live = live.filter(|live| applied.patch || live.owned);
        // Nobody watches a Kind that the package does not write any more: the incarnation that was applied is deleted unseen.
        let unseen = !self.pass.package.written().contains(&applied.object.gvk);
        let uid = match (&live, &applied.uid) {
            _ if applied.orphan => None,
            (Some(live), _) => Some(live.uid.clone()),
            (None, Some(uid)) if unseen => Some(uid.clone()),
            (None, _) => None,
        };
        let Some(uid) = uid else {
            self.ledger.applied.remove(id);
            self.forget_row(&applied.rule, id);
            return;
        };
        let deleting = live.is_some_and(|live| live.deleting);
        let (effect, fingerprint) = if applied.patch {
            let mut object = json!({
                "apiVersion": applied.object.gvk.api_version(),
                "kind": applied.object.gvk.kind,
                "metadata": {"name": applied.object.name},
            });
            if !applied.object.namespace.is_empty() {
                object["metadata"]["namespace"] = json!(applied.object.namespace);
            }
            let force = false;
            (Effect::Patch { object, force }, "")
        } else {
            let effect = Effect::Delete {
                object: applied.object.clone(),
                uid: Some(uid),
            };
            (effect, "leaving")
        };
        let now = self.pass.now;
        let row = self.ledger.row_mut(&applied.rule, id);
        if row.fingerprint != fingerprint {
            *row = Row {
                fingerprint: fingerprint.to_owned(),
                since: now,
                ..Row::default()
            };
        }
        let (state, note) = if deleting {
            (RowState::Leaving, "being deleted".to_owned())
        } else if let (Some(at), Some(failure)) =
            (row.retry_at.filter(|at| *at > now), row.failure.clone())
        {
            self.wake(at);
            let note = failure.message.clone();
            self.failing
                .push((applied.rule.clone(), id.to_owned(), failure));
            (RowState::Failing, note)
        } else {
            self.intents
                .push(self.intent(&applied.rule, id, fingerprint, effect));
            (RowState::Leaving, String::new())
        };
        let verb = if applied.patch { "released" } else { "deleted" };
        self.work
            .push(format!("{}: {} to be {verb}", applied.rule, applied.object));
        self.views
            .entry(applied.rule.clone())
            .or_default()
            .push(RowView {
                key: id.to_owned(),
                columns: Vec::new(),
                state,
                note,
            });
    }

    fn forget_row(&mut self, rule: &str, key: &str) {
        if let Some(rows) = self.ledger.rows.get_mut(rule) {
            rows.remove(key);
            if rows.is_empty() {
                self.ledger.rows.remove(rule);
            }
        }
    }

    /// Writes the inventory before anything new is made, so that a crash leaves no object nobody knows of.
    fn write_ahead(&mut self) {
        // The inventory goes with its instance.
        if self.pass.deleting {
            return;
        }
        let Some(inventory) = self.ledger.unwritten_inventory() else {
            return;
        };
        let now = self.pass.now;
        let fingerprint = digest(canonical_json(&inventory).as_bytes());
        let row = self.ledger.row_mut(INVENTORY, "inventory");
        if let (Some(at), Some(failure)) =
            (row.retry_at.filter(|at| *at > now), row.failure.clone())
        {
            self.wake(at);
            self.failing
                .push((INVENTORY.to_owned(), "inventory".to_owned(), failure));
            self.work.push("the inventory cannot be written".to_owned());
            // Nothing that would have to be in it may be made.
            let Ledger { rows, undo, .. } = &self.ledger;
            self.intents.retain(|intent| match &intent.effect {
                Effect::Apply { .. } | Effect::Patch { .. } => false,
                _ => {
                    let once = rows
                        .get(&intent.rule)
                        .and_then(|rows| rows.get(&intent.key))
                        .is_some_and(|row| row.once);
                    let to_be_undone = undo
                        .get(&intent.rule)
                        .is_some_and(|keys| keys.contains_key(&intent.key));
                    intent.fingerprint == UNDO || !once && !to_be_undone
                }
            });
            return;
        }
        let intent = self.intent(
            INVENTORY,
            "inventory",
            &fingerprint,
            Effect::Inventory { inventory },
        );
        self.intents.insert(0, intent);
    }

    /// Keeps the instance from vanishing while it has what garbage collection does not remove (`own: false`, `undo`) or what is
    /// to be done at its deletion, and lets it go when that is gone and done. Set by server-side apply, so that other finalizers stay others'.
    fn hold_instance(&mut self) {
        let instance = &self.pass.snapshot.instance;
        let finalizer = format!("libretto.dev/{}", instance.package);
        let set = self
            .pass
            .snapshot
            .cr("finalizers")
            .as_str()
            .and_then(|text| serde_json::from_str::<Vec<String>>(text).ok())
            .is_some_and(|finalizers| finalizers.contains(&finalizer));
        let needed = self.acts_at_deletion
            || !self.ledger.undo.is_empty()
            || self
                .ledger
                .applied
                .values()
                .any(|applied| !applied.own && !applied.patch && !applied.orphan);
        // The API server refuses new finalizers on what is being deleted.
        if needed == set || (needed && self.pass.deleting) {
            return;
        }
        let now = self.pass.now;
        if let Some(row) = self.ledger.row(FINALIZER, "instance")
            && let (Some(at), Some(failure)) =
                (row.retry_at.filter(|at| *at > now), row.failure.clone())
        {
            self.wake(at);
            self.failing
                .push((FINALIZER.to_owned(), "instance".to_owned(), failure));
            // Nothing may be made that nobody would take away.
            if needed {
                let undo = &self.ledger.undo;
                self.intents.retain(|intent| {
                    intent.fingerprint == UNDO
                        || !matches!(intent.effect, Effect::Apply { .. })
                            && !undo
                                .get(&intent.rule)
                                .is_some_and(|keys| keys.contains_key(&intent.key))
                });
            }
            return;
        }
        let mut object = json!({
            "apiVersion": instance.gvk.api_version(),
            "kind": instance.gvk.kind,
            "metadata": {"name": instance.name, "namespace": instance.namespace},
        });
        if needed {
            object["metadata"]["finalizers"] = json!([finalizer]);
        }
        let force = false;
        let intent = self.intent(FINALIZER, "instance", "", Effect::Patch { object, force });
        let place = if needed { 0 } else { self.intents.len() };
        self.intents.insert(place, intent);
    }

    /// Events that follow from what was recorded.
    fn tell(&mut self) {
        for (number, event) in std::mem::take(&mut self.ledger.events)
            .into_iter()
            .enumerate()
        {
            let effect = Effect::Event {
                kind: event.kind,
                reason: event.reason,
                message: event.message,
            };
            let intent = self.intent(EVENTS, &number.to_string(), "", effect);
            self.intents.push(intent);
        }
    }

    pub(crate) fn into_plan(
        self,
        rules: &[RuleItems<'_>],
        probes: Vec<ProbeTarget>,
        probes_kept: Vec<String>,
        metrics: Vec<Sample>,
    ) -> Plan {
        let Self {
            pass: _,
            intents,
            ledger,
            wake_at,
            work,
            failing,
            broken,
            mut views,
            alerts,
            acts_at_deletion: _,
            unknown: _,
        } = self;
        let mut shown: Vec<RuleView> = rules
            .iter()
            .map(|rule| RuleView {
                rule: rule.rule.name.clone(),
                verb: rule.rule.verb.clone(),
                rows: views.remove(&rule.rule.name).unwrap_or_default(),
                failure: rule.failure.clone().or_else(|| {
                    let what = rule.blind.as_ref()?;
                    Some(format!("waits for {what}"))
                }),
            })
            .collect();
        // Rows of rules the package no longer has.
        shown.extend(views.into_iter().map(|(rule, rows)| RuleView {
            rule,
            verb: "apply".to_owned(),
            rows,
            failure: None,
        }));
        Plan {
            settled: intents.is_empty() && work.is_empty() && failing.is_empty() && !broken,
            intents,
            ledger,
            probes,
            probes_kept,
            wake_at,
            metrics,
            alerts,
            rules: shown,
        }
    }
}
