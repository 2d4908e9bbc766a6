//! The loop that makes reality follow the rows: snapshot → decide → act → record.
//!
//! Workers take instances from the [`Queue`], one at a time. Only *act* touches the world, and only with what the plan says. A
//! defect in one instance's evaluation is caught, reported and retried later; it stops nobody else.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    panic::AssertUnwindSafe,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::{FutureExt as _, StreamExt as _};
use libretto_actions::{Actions, helm::Helm, kube::CallError};
use libretto_api::{
    chart::Charts,
    intent::{Effect, FailureKind, Intent, Outcome},
    object::{Gvk, InstanceRef, ObjectRef},
};
use libretto_engine::{Compiled, Engine, Ledger, Plan, RuleView};
use libretto_mirror::{Change, Dirty, Mirror, Snapshot};
use parking_lot::Mutex;
use tracing::Instrument as _;

use crate::{
    alerts::Alerts, charts::Background, clock, inventory, metrics::Metrics, notice::Notices,
    probes::Prober, process::Process, queue::Queue, rehearsal::Rehearsal, share::Share,
    watch::Tables,
};

/// Redis servers spoken to at once for one instance: a cluster of nine answers in one round, a mistake of a package does not
/// open hundreds of connections.
const HOSTS_AT_ONCE: usize = 8;

/// Passes in a row that may act before an instance is slowed down. Bringing one up takes about ten; a package that never comes to
/// rest (two writers fighting over a field) is the other way to get here.
const ACTING_PASSES: u32 = 50;
/// Longest pause between the passes of an instance that never comes to rest.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// How the engine begins the note of a rule that merely waits for a first answer: every new target does so for a moment.
const WAITING: &str = "waits for";
/// Pause after a panic or an unreadable inventory: long enough not to fill the log, short enough not to need a restart.
const DEFECT_PAUSE: Duration = Duration::from_secs(10);

/// How an instance stood after its last pass: for `libretto up`, explain and metrics.
#[derive(Debug, Clone)]
pub struct Standing {
    pub instance: InstanceRef,
    pub settled: bool,
    pub rules: Vec<RuleView>,
}

/// What all workers share.
pub struct Driver {
    pub packages: BTreeMap<String, Arc<Compiled>>,
    pub mirror: Mutex<Mirror>,
    pub queue: Arc<Queue>,
    pub tables: Tables,
    pub prober: Prober,
    pub metrics: Arc<Metrics>,
    pub alerts: Arc<Alerts>,
    actions: Actions,
    charts: Arc<dyn Charts>,
    notices: Notices,
    /// Takes the place of the actions.
    rehearsal: Option<Rehearsal>,
    share: Mutex<Share>,
    /// Per instance uid; an entry is taken out while a worker has it.
    ledgers: Mutex<HashMap<String, Ledger>>,
    standings: Mutex<HashMap<String, Standing>>,
    /// What was forbidden at the last try, by instance uid or Kind.
    refusals: Mutex<BTreeMap<String, String>>,
    /// Acting passes in a row, per instance uid; absent means none.
    restless: Mutex<HashMap<String, u32>>,
}

impl std::fmt::Debug for Driver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Driver")
            .field("packages", &self.packages.keys())
            .finish_non_exhaustive()
    }
}

/// A pass that could not be finished; the instance is looked at again after a pause.
#[derive(Debug, thiserror::Error)]
enum PassError {
    #[error(transparent)]
    Mirror(#[from] libretto_mirror::MirrorError),
    #[error("inventory of {instance} cannot be read: {problem}")]
    Inventory { instance: String, problem: String },
    #[error("package {0} is not loaded")]
    NoPackage(String),
}

impl Driver {
    pub fn new(
        process: &Process,
        packages: Vec<Arc<Compiled>>,
        mirror: Mirror,
        actions: Actions,
        helm: Result<Arc<Helm>, String>,
        rehearsal: Option<Rehearsal>,
        share: Share,
    ) -> Arc<Self> {
        let queue = Arc::new(Queue::default());
        Arc::new(Self {
            charts: Background::new(helm, &queue),
            packages: packages
                .into_iter()
                .map(|package| (package.name().to_owned(), package))
                .collect(),
            mirror: Mutex::new(mirror),
            queue,
            tables: Tables::default(),
            prober: Prober::new(actions.clone()),
            metrics: Arc::clone(&process.metrics),
            alerts: Arc::clone(&process.alerts),
            actions,
            notices: Notices::default(),
            rehearsal,
            share: Mutex::new(share),
            ledgers: Mutex::default(),
            standings: Mutex::default(),
            refusals: Mutex::default(),
            restless: Mutex::default(),
        })
    }

    /// What a watch tells of Secrets: values that were read before are read again.
    pub fn secret_changed(&self, secret: Option<&ObjectRef>) {
        self.actions.secret_changed(secret);
    }

    /// One worker; ends when the queue is closed. Run several for throughput, they never share an instance.
    pub async fn work(self: Arc<Self>) {
        // A working set per package and worker: evaluations do not wait for one another.
        let mut engines: HashMap<String, Engine> = HashMap::new();
        while let Some(instance) = self.queue.next().await {
            let span = tracing::info_span!("pass", package = %instance.package, namespace = %instance.namespace, name = %instance.name);
            let started = Instant::now();
            let pass = AssertUnwindSafe(self.pass(&mut engines, &instance))
                .catch_unwind()
                .instrument(span.clone())
                .await;
            let entered = span.enter();
            let result = match pass {
                Ok(Ok(())) => "success",
                Ok(Err(error)) => {
                    tracing::warn!(%error, "pass not finished");
                    self.queue.hold(instance.clone(), DEFECT_PAUSE);
                    "error"
                }
                Err(panic) => {
                    // The working set may be half filled.
                    engines.remove(&instance.package);
                    tracing::error!(panic = panic_message(&*panic), "evaluation panicked");
                    self.queue.hold(instance.clone(), DEFECT_PAUSE);
                    "panic"
                }
            };
            drop(entered);
            self.metrics
                .pass(&instance.package, result, started.elapsed());
            self.queue.done(&instance);
        }
    }

    /// One evaluation of one instance.
    async fn pass(
        &self,
        engines: &mut HashMap<String, Engine>,
        instance: &InstanceRef,
    ) -> Result<(), PassError> {
        // Somebody else takes care of it, and everything that is remembered of it will be out of date.
        if !self.share.lock().has(instance) {
            self.forget(instance);
            return Ok(());
        }
        if let Some(gvk) = self.tables.unserved(&instance.package) {
            return self.say_blocked(engines, instance, &gvk).await;
        }
        // Reads the mirror.
        let Some(snapshot) = self.snapshot(instance)? else {
            return Ok(());
        };
        // Reads the cluster once per instance and process.
        let ledger = self.ledger(instance).await?;
        // Pure.
        let plan = self.decide(engines, &snapshot, &ledger)?;
        // Touches the world.
        let outcomes = self.act(&snapshot, &plan).await;
        // Remembers.
        self.record(instance, plan, &outcomes)
    }

    /// Nothing can be decided while a Kind is not served; that is written to the instance, and the Kind's first list ends it.
    async fn say_blocked(
        &self,
        engines: &mut HashMap<String, Engine>,
        instance: &InstanceRef,
        gvk: &Gvk,
    ) -> Result<(), PassError> {
        // What is not fully known is not written to.
        if !self.tables.listed(&instance.gvk) {
            return Ok(());
        }
        let snapshot = self
            .mirror
            .lock()
            .snapshot(&instance.package, &instance.uid)?;
        let Some(snapshot) = snapshot else {
            self.forget(instance);
            return Ok(());
        };
        let ledger = self.ledger(instance).await?;
        let message = CallError::NotServed(gvk.clone()).to_string();
        let plan = self.engine(engines, &instance.package)?.blocked(
            &snapshot,
            &ledger,
            clock::now(),
            rand::random(),
            &message,
        );
        let outcomes = self.act(&snapshot, &plan).await;
        self.record(instance, plan, &outcomes)
    }

    /// The instance's rows, or `None` when it is gone or one of its tables is being listed.
    fn snapshot(&self, instance: &InstanceRef) -> Result<Option<Snapshot>, PassError> {
        if !self.tables.complete(&instance.package) {
            // The end of the list marks every instance of the package again.
            return Ok(None);
        }
        let snapshot = self
            .mirror
            .lock()
            .snapshot(&instance.package, &instance.uid)?;
        if snapshot.is_none() {
            self.forget(instance);
        }
        Ok(snapshot)
    }

    /// What is remembered of the instance: from the last pass, or from the inventory that a former process left.
    async fn ledger(&self, instance: &InstanceRef) -> Result<Ledger, PassError> {
        let known = self.ledgers.lock().get(&instance.uid).cloned();
        if let Some(ledger) = known {
            return Ok(ledger);
        }
        let unreadable = |problem: String| PassError::Inventory {
            instance: instance.to_string(),
            problem,
        };
        let inventory = inventory::read(self.actions.kube(), instance)
            .await
            .map_err(unreadable)?;
        Ledger::from_inventory(&inventory).map_err(unreadable)
    }

    fn decide(
        &self,
        engines: &mut HashMap<String, Engine>,
        snapshot: &Snapshot,
        ledger: &Ledger,
    ) -> Result<Plan, PassError> {
        let engine = self.engine(engines, &snapshot.instance.package)?;
        Ok(engine.plan(snapshot, ledger, clock::now(), rand::random()))
    }

    /// The worker's engine of the package, made when it is first needed.
    fn engine<'a>(
        &self,
        engines: &'a mut HashMap<String, Engine>,
        name: &str,
    ) -> Result<&'a Engine, PassError> {
        if !engines.contains_key(name) {
            let package = self
                .packages
                .get(name)
                .ok_or_else(|| PassError::NoPackage(name.to_owned()))?;
            engines.insert(
                name.to_owned(),
                Engine::new(Arc::clone(package), Arc::clone(&self.charts)),
            );
        }
        Ok(engines
            .get(name)
            .expect("inserted above when it was missing"))
    }

    /// Carries out the intents in their order. Calls to different servers that follow one another are made at the same time.
    async fn act(&self, snapshot: &Snapshot, plan: &Plan) -> Vec<(Intent, Outcome)> {
        if let Some(rehearsal) = &self.rehearsal {
            rehearsal.hear(snapshot, plan);
            return Vec::new();
        }
        let mut outcomes = Vec::with_capacity(plan.intents.len());
        let mut rest = plan.intents.as_slice();
        while let Some(first) = rest.first() {
            let calls = rest
                .iter()
                .take_while(|intent| matches!(intent.effect, Effect::Redis(_)))
                .count();
            let batch = &rest[..calls.max(1)];
            rest = &rest[batch.len()..];
            if calls > 1 {
                outcomes.extend(self.call(snapshot, batch).await);
                continue;
            }
            let outcome = self.execute(snapshot, first).await;
            // What cannot be remembered, or not be held until it is undone, must not be made.
            let stop = matches!(outcome, Outcome::Failed(_))
                && matches!(first.rule.as_str(), "@inventory" | "@finalizer");
            outcomes.push((first.clone(), outcome));
            if stop {
                break;
            }
        }
        outcomes
    }

    /// Redis calls: in order for one server, at the same time for several.
    async fn call(&self, snapshot: &Snapshot, calls: &[Intent]) -> Vec<(Intent, Outcome)> {
        let mut by_server: BTreeMap<(&str, u16), Vec<&Intent>> = BTreeMap::new();
        for intent in calls {
            if let Effect::Redis(call) = &intent.effect {
                by_server
                    .entry((&call.host, call.port))
                    .or_default()
                    .push(intent);
            }
        }
        let mut conversations = Vec::with_capacity(by_server.len());
        for intents in by_server.into_values() {
            conversations.push(self.converse(snapshot, intents));
        }
        futures::stream::iter(conversations)
            .buffer_unordered(HOSTS_AT_ONCE)
            .concat()
            .await
    }

    /// Calls to one server, in order.
    async fn converse(&self, snapshot: &Snapshot, calls: Vec<&Intent>) -> Vec<(Intent, Outcome)> {
        let mut outcomes = Vec::with_capacity(calls.len());
        for intent in calls {
            outcomes.push((intent.clone(), self.execute(snapshot, intent).await));
        }
        outcomes
    }

    /// One effect, written through to the mirror when the API server acknowledged it.
    async fn execute(&self, snapshot: &Snapshot, intent: &Intent) -> Outcome {
        let outcome = self.actions.execute(intent, ours(snapshot, intent)).await;
        self.metrics.effect(intent, &outcome);
        match &outcome {
            // Told once in `record`.
            Outcome::Failed(failure) if matches!(intent.effect, Effect::Status { .. }) => {
                tracing::debug!(key = %intent.key, kind = ?failure.kind, "{}", failure.message);
            }
            Outcome::Failed(failure) => {
                tracing::warn!(rule = %intent.rule, key = %intent.key, kind = ?failure.kind, "{}", failure.message);
            }
            Outcome::Skipped => {
                tracing::debug!(rule = %intent.rule, key = %intent.key, "skipped: the state has moved on");
            }
            Outcome::Done { .. } | Outcome::Absent => {
                tracing::debug!(rule = %intent.rule, key = %intent.key, effect = effect_name(&intent.effect), "done");
            }
        }
        if let Err(error) = self.write_through(intent, &outcome) {
            tracing::error!(%error, rule = %intent.rule, "answer not taken into the mirror");
        }
        // What was just changed, or was not as the mirror has it, is looked at again at once.
        let touched = match &intent.effect {
            Effect::Redis(call) => Some(&call.host),
            Effect::Exec(call) => Some(&call.pod),
            _ => None,
        };
        if let (Some(host), Outcome::Done { .. } | Outcome::Skipped) = (touched, &outcome) {
            self.prober.hurry(&intent.instance.uid, host);
        }
        outcome
    }

    fn write_through(
        &self,
        intent: &Intent,
        outcome: &Outcome,
    ) -> Result<(), libretto_mirror::MirrorError> {
        let dirty = match (&intent.effect, outcome) {
            (_, Outcome::Failed(_) | Outcome::Skipped) => return Ok(()),
            (
                _,
                Outcome::Done {
                    object: Some(object),
                },
            ) => {
                let Some(gvk) = Gvk::of(object) else {
                    return Ok(());
                };
                if !self.tables.watched(&gvk) {
                    return Ok(());
                }
                self.mirror.lock().ingest(&gvk, Change::Applied(object))?
            }
            (Effect::Delete { object, uid }, _) if self.tables.watched(&object.gvk) => {
                let change = Change::Deleted {
                    namespace: &object.namespace,
                    name: &object.name,
                    uid: uid.as_deref(),
                };
                self.mirror.lock().ingest(&object.gvk, change)?
            }
            _ => return Ok(()),
        };
        self.take(dirty);
        Ok(())
    }

    /// Keeps what the next pass needs, and asks for it when there is a reason.
    fn record(
        &self,
        instance: &InstanceRef,
        plan: Plan,
        outcomes: &[(Intent, Outcome)],
    ) -> Result<(), PassError> {
        let Plan {
            intents: _,
            mut ledger,
            probes,
            probes_kept,
            wake_at,
            metrics,
            alerts,
            settled,
            rules,
        } = plan;
        let acted = !outcomes.is_empty();
        let now = clock::now();
        for (intent, outcome) in outcomes {
            ledger.record(intent, outcome, now);
            self.tell_status(intent, outcome);
        }
        self.note_refusals(instance, outcomes);
        self.ledgers.lock().insert(instance.uid.clone(), ledger);
        let targets: BTreeSet<(String, String)> = probes
            .iter()
            .map(|target| (target.table.clone(), target.key.clone()))
            .collect();
        let dirty = self.mirror.lock().retain_probes(
            &instance.package,
            &instance.uid,
            &targets,
            &probes_kept,
        )?;
        self.take(dirty);
        self.prober.replace(instance, probes, &probes_kept);
        self.metrics.instance(instance, settled, metrics);
        self.alerts.set(instance, alerts);
        self.tell_failures(instance, &rules);
        self.standings.lock().insert(
            instance.uid.clone(),
            Standing {
                instance: instance.clone(),
                settled,
                rules,
            },
        );
        if let Some(at) = wake_at {
            self.queue.wake_at(instance.clone(), at);
        }
        self.rest_or_go_on(instance, acted);
        Ok(())
    }

    fn note_refusals(&self, instance: &InstanceRef, outcomes: &[(Intent, Outcome)]) {
        let forbidden = outcomes.iter().find_map(|(_, outcome)| match outcome {
            Outcome::Failed(failure) if failure.kind == FailureKind::Forbidden => {
                Some(failure.message.clone())
            }
            _ => None,
        });
        // A pass without effects says nothing about rights.
        if forbidden.is_some() || !outcomes.is_empty() {
            self.refused(&instance.uid, forbidden);
        }
    }

    /// Notes why something is not allowed, or that it is.
    pub(crate) fn refused(&self, what: &str, reason: Option<String>) {
        let mut refusals = self.refusals.lock();
        match reason {
            Some(reason) => {
                refusals.insert(what.to_owned(), reason);
            }
            None => {
                refusals.remove(what);
            }
        }
    }

    /// Something that is not allowed, if anything.
    pub fn refusal(&self) -> Option<String> {
        self.refusals.lock().values().next().cloned()
    }

    /// A status that cannot be written is what nobody would see otherwise.
    fn tell_status(&self, intent: &Intent, outcome: &Outcome) {
        let Effect::Status { .. } = intent.effect else {
            return;
        };
        let about = &intent.instance.uid;
        match outcome {
            // Without an answer nothing works, and whoever watches sees that.
            Outcome::Failed(failure) if failure.kind != FailureKind::Unreachable => {
                self.notices
                    .tell(about, &format!("not written: {}", failure.message));
            }
            Outcome::Failed(_) => {}
            _ => self.notices.forget(about),
        }
    }

    /// Logs the rules that could not be evaluated: each reason once, not at every pass.
    fn tell_failures(&self, instance: &InstanceRef, rules: &[RuleView]) {
        let standings = self.standings.lock();
        let before = standings
            .get(&instance.uid)
            .map_or(&[][..], |standing| standing.rules.as_slice());
        for rule in rules {
            let Some(failure) = &rule.failure else {
                continue;
            };
            let known = before
                .iter()
                .any(|former| former.rule == rule.rule && former.failure == rule.failure);
            if known {
                continue;
            }
            if failure.starts_with(WAITING) {
                tracing::debug!(rule = %rule.rule, failure, "rule not evaluated");
            } else {
                tracing::warn!(rule = %rule.rule, failure, "rule not evaluated");
            }
        }
    }

    /// After acting the instance is evaluated again at once: what was done may enable the next step. One that acts on and on is slowed.
    fn rest_or_go_on(&self, instance: &InstanceRef, acted: bool) {
        let mut restless = self.restless.lock();
        if !acted {
            restless.remove(&instance.uid);
            return;
        }
        let passes = restless.entry(instance.uid.clone()).or_insert(0);
        *passes += 1;
        if *passes <= ACTING_PASSES {
            self.queue.mark(instance.clone());
            return;
        }
        let excess = (*passes - ACTING_PASSES).min(16);
        let pause = LONGEST_PAUSE.min(Duration::from_millis(100 << excess));
        if excess == 1 {
            tracing::warn!(
                passes = *passes,
                "instance acts in every pass; it is slowed down (is somebody else writing the same fields?)"
            );
        }
        self.queue.hold(instance.clone(), pause);
    }

    /// Passes on what the mirror says about instances.
    pub fn take(&self, dirty: Dirty) {
        let Dirty { instances, gone } = dirty;
        for instance in &gone {
            self.forget(instance);
        }
        self.queue.mark_all(instances);
    }

    fn forget(&self, instance: &InstanceRef) {
        self.queue.forget(instance);
        self.prober.forget(&instance.uid);
        self.ledgers.lock().remove(&instance.uid);
        self.standings.lock().remove(&instance.uid);
        self.restless.lock().remove(&instance.uid);
        self.notices.forget(&instance.uid);
        self.refused(&instance.uid, None);
        if let Some(rehearsal) = &self.rehearsal {
            rehearsal.forget(&instance.uid);
        }
        self.metrics.forget(instance);
        self.alerts.forget(&instance.uid);
    }

    /// How an instance stood after its last pass.
    pub fn standing(&self, gvk: &Gvk, namespace: &str, name: &str) -> Option<Standing> {
        let standings = self.standings.lock();
        standings
            .values()
            .find(|standing| {
                let instance = &standing.instance;
                instance.gvk == *gvk && instance.namespace == namespace && instance.name == name
            })
            .cloned()
    }

    /// From now on takes care of these instances; returns when no other is being worked on any more.
    pub async fn take_over(&self, share: Share) {
        *self.share.lock() = share.clone();
        let instances = self.mirror.lock().instances();
        self.queue.mark_all(instances);
        while self
            .queue
            .under_way()
            .iter()
            .any(|instance| !share.has(instance))
        {
            // An effect takes tens of milliseconds.
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub fn share(&self) -> Share {
        self.share.lock().clone()
    }

    /// Instances that it takes care of.
    pub fn own(&self) -> Vec<InstanceRef> {
        let share = self.share();
        let mut instances = self.mirror.lock().instances();
        instances.retain(|instance| share.has(instance));
        instances
    }

    /// Nothing is remembered any more, nor measured.
    pub(crate) fn forget_all(&self) {
        let instances = self.mirror.lock().instances();
        for instance in instances {
            self.forget(&instance);
        }
    }

    /// Looks at every instance of a package again.
    pub fn mark_package(&self, package: &str) {
        let instances = self.mirror.lock().instances();
        self.queue.mark_all(
            instances
                .into_iter()
                .filter(|instance| instance.package == package),
        );
    }

    /// Takes the answers of probes into the mirror; ends with the prober.
    pub async fn take_probes(self: Arc<Self>) {
        while let Some(answered) = self.prober.answered().await {
            let answer = answered
                .answer
                .as_ref()
                .map_err(|failure| failure.message.as_str());
            self.metrics
                .probe(&answered.package, &answered.table, answer.is_ok());
            let dirty = self.mirror.lock().probe_result(
                &answered.package,
                &answered.uid,
                &answered.table,
                &answered.key,
                answer,
                clock::now(),
            );
            match dirty {
                Ok(dirty) => self.take(dirty),
                Err(error) => {
                    tracing::error!(%error, table = %answered.table, "answer of a probe not taken into the mirror");
                }
            }
        }
    }
}

/// The object of an apply is known to be the instance's.
fn ours(snapshot: &Snapshot, intent: &Intent) -> bool {
    let Effect::Apply { object, .. } = &intent.effect else {
        return false;
    };
    libretto_actions::kube::object_ref(object)
        .ok()
        .and_then(|target| snapshot.object(&target))
        .is_some_and(|row| row.owned)
}

/// For logs and metric labels.
pub fn effect_name(effect: &Effect) -> &'static str {
    match effect {
        Effect::Apply { .. } => "apply",
        Effect::Patch { .. } => "patch",
        Effect::Delete { .. } => "delete",
        Effect::Status { .. } => "status",
        Effect::Event { .. } => "event",
        Effect::Redis(_) => "redis",
        Effect::Http(_) => "http",
        Effect::Exec(_) => "exec",
        Effect::Scale { .. } => "scale",
        Effect::Restart { .. } => "restart",
        Effect::Evict { .. } => "evict",
        Effect::Inventory { .. } => "inventory",
    }
}

fn panic_message(panic: &(dyn std::any::Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}
