//! The loop a driver runs, over the simulated world: mirror, probes, plans, effects, records, crashes.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use libretto_api::{
    chart::Charts,
    intent::{Effect, Failure, FailureKind, Intent, Millis, Outcome, Probe, RedisCall, Series},
    object::{InstanceRef, ObjectRef, field_manager},
    secret::{Piece, SecretHandle, pieces},
};
use libretto_mirror::{Change, Mirror, MirrorError, ScopeMode};
use serde_json::{Value, json};

use super::{
    answers,
    redis::{Model, decoded},
    world::{Happened, World, inventory_reference, text},
};
use crate::{Compiled, Engine, Ledger, Plan, engine::Pass, ledger::reference, plan::ProbeTarget};

/// One step of simulated time. Half the shortest period packages use; a scenario of ten minutes is 1200 steps.
const TICK_MS: Millis = 500;
/// Plans in a row without time passing. Effects that keep making new rows at once would never end.
const PLANS_PER_TICK: usize = 20;
/// Simulated time that never begins at 0, which would hide mistakes with absent times.
pub(crate) const START: Millis = 1_700_000_000_000;

/// How a run is disturbed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Disturbance {
    /// The engine dies at the effect of that number (from 0), before or after it is done, and starts again.
    pub(crate) crash: Option<(usize, bool)>,
    /// Events of one moment arrive in an order that depends on this; 0 keeps the order.
    pub(crate) shuffle: u64,
}

/// An effect that was carried out.
#[derive(Debug, Clone)]
pub(crate) struct Done {
    pub(crate) at: Millis,
    pub(crate) rule: String,
    pub(crate) key: String,
    pub(crate) what: String,
    /// A call, an event or a deletion by a rule; not the writing of objects, status or inventory.
    pub(crate) call: bool,
    pub(crate) failure: Option<String>,
}

/// A package against a world.
pub(crate) struct Sim {
    pub(crate) engine: Engine,
    pub(crate) world: World,
    pub(crate) redis: Model,
    pub(crate) instance: ObjectRef,
    mirror: Mirror,
    ledger: Ledger,
    pub(crate) plan: Option<Plan>,
    due: BTreeMap<(String, String), (Millis, u64)>,
    awake: bool,
    busy_at: Millis,
    pub(crate) done: Vec<Done>,
    /// Writes to the cluster and calls so far.
    pub(crate) effects: usize,
    disturbance: Disturbance,
    random: u64,
    /// Queries that must have no rows after any plan of the current step, and what they found.
    pub(crate) never: Vec<String>,
    pub(crate) violations: BTreeSet<String>,
    /// What the scenario says that is answered.
    answers: Vec<answers::Given>,
}

impl Sim {
    pub(crate) fn new(
        package: Arc<Compiled>,
        charts: Arc<dyn Charts>,
        instance: Value,
        disturbance: Disturbance,
    ) -> Result<Self, String> {
        let mut world = World::at(START);
        let reference =
            reference(&instance).ok_or_else(|| "the instance has no name".to_owned())?;
        world.store(instance);
        let mut sim = Self {
            mirror: Mirror::new(ScopeMode::Any).map_err(|error| error.to_string())?,
            engine: Engine::new(package, charts),
            world,
            redis: Model::default(),
            instance: reference,
            ledger: Ledger::default(),
            plan: None,
            due: BTreeMap::new(),
            awake: true,
            busy_at: START,
            done: Vec::new(),
            effects: 0,
            disturbance,
            random: disturbance.shuffle,
            never: Vec::new(),
            violations: BTreeSet::new(),
            answers: Vec::new(),
        };
        sim.restart()?;
        Ok(sim)
    }

    /// A new process: everything is listed again, the ledger is what the inventory remembers.
    pub(crate) fn restart(&mut self) -> Result<(), String> {
        let broken = |error: MirrorError| error.to_string();
        self.mirror = Mirror::new(ScopeMode::Any).map_err(broken)?;
        let package = Arc::clone(self.engine.package());
        self.mirror
            .declare(package.schema().clone())
            .map_err(broken)?;
        self.world.changes.clear();
        for watch in package.watches() {
            let objects: Vec<Value> = self
                .world
                .objects
                .iter()
                .filter(|(reference, object)| {
                    reference.gvk == watch.gvk && selected(object, &watch.labels)
                })
                .map(|(_, object)| object.clone())
                .collect();
            self.mirror
                .replace_all(&watch.gvk, None, &objects)
                .map_err(broken)?;
        }
        self.ledger = match self.instance_ref() {
            Some(instance) => {
                let inventory = self
                    .world
                    .objects
                    .get(&inventory_reference(&instance))
                    .and_then(|map| map.pointer("/data/inventory")?.as_str())
                    .and_then(|text| serde_json::from_str(text).ok())
                    .unwrap_or(Value::Null);
                Ledger::from_inventory(&inventory)?
            }
            None => Ledger::default(),
        };
        self.due.clear();
        self.plan = None;
        self.awake = true;
        Ok(())
    }

    fn instance_ref(&self) -> Option<InstanceRef> {
        let object = self.world.objects.get(&self.instance)?;
        Some(InstanceRef {
            package: self.engine.package().name().to_owned(),
            gvk: self.instance.gvk.clone(),
            namespace: self.instance.namespace.clone(),
            name: self.instance.name.clone(),
            uid: text(object, "/metadata/uid").to_owned(),
        })
    }

    /// The instance as it is.
    pub(crate) fn cr(&self) -> Value {
        self.world
            .objects
            .get(&self.instance)
            .cloned()
            .unwrap_or(Value::Null)
    }

    /// Changes the instance as its user does.
    pub(crate) fn change_cr(&mut self, change: impl FnOnce(&mut Value)) {
        let instance = self.instance.clone();
        self.world.update(&instance, change);
    }

    /// From now on this is answered. Nobody has heard it yet, so nothing is settled before everybody was asked again.
    pub(super) fn answer(&mut self, answers: &[answers::Given]) {
        self.answers = answers.to_vec();
        self.busy_at = self.world.now;
    }

    /// Lets one tick pass.
    pub(crate) fn tick(&mut self) -> Result<(), String> {
        self.world.now += TICK_MS;
        self.redis.step(&self.world);
        let serving: BTreeSet<String> = self
            .world
            .of_kind("Pod")
            .filter(|pod| self.redis.ready(pod))
            .map(|pod| text(pod, "/metadata/uid").to_owned())
            .collect();
        self.world.step(serving);
        self.redis.step(&self.world);
        self.deliver()?;
        self.probe()?;
        let wake = self
            .plan
            .as_ref()
            .and_then(|plan| plan.wake_at)
            .is_some_and(|at| at <= self.world.now);
        self.awake |= wake;
        for _ in 0..PLANS_PER_TICK {
            if !self.awake || !self.decide()? {
                break;
            }
        }
        Ok(())
    }

    /// Whether the instance has been settled for as long as it takes to ask every target twice.
    pub(crate) fn settled(&self) -> bool {
        let Some(plan) = &self.plan else {
            // The instance is gone; so must be what it owned.
            return !self.world.objects.contains_key(&self.instance) && self.world.quiet();
        };
        let period = plan
            .probes
            .iter()
            .map(|probe| probe.every_ms)
            .max()
            .unwrap_or(0);
        let quiet = 2 * Millis::try_from(period).unwrap_or(0) + 2_000;
        plan.settled && self.world.quiet() && self.world.now >= self.busy_at + quiet
    }

    fn next_random(&mut self) -> u64 {
        // Knuth's multiplier; any spread will do, and the same number gives the same run.
        self.random = self
            .random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        self.random >> 33
    }

    fn deliver(&mut self) -> Result<(), String> {
        let mut changes = std::mem::take(&mut self.world.changes);
        if self.disturbance.shuffle != 0 && changes.len() > 1 {
            // Any order, and one twice: versions and uids must sort it out.
            let again = self.next_random() as usize % changes.len();
            changes.push(changes[again].clone());
            for index in (1..changes.len()).rev() {
                let other = self.next_random() as usize % (index + 1);
                changes.swap(index, other);
            }
        }
        for change in changes {
            let dirty = match &change {
                Happened::Applied(object) => {
                    let Some(reference) = reference(object) else {
                        continue;
                    };
                    let package = self.engine.package();
                    let watch = package
                        .watches()
                        .iter()
                        .find(|watch| watch.gvk == reference.gvk);
                    match watch {
                        Some(watch) if selected(object, &watch.labels) => {
                            self.mirror.ingest(&reference.gvk, Change::Applied(object))
                        }
                        _ => continue,
                    }
                }
                Happened::Deleted { object, uid } => self.mirror.ingest(
                    &object.gvk,
                    Change::Deleted {
                        namespace: &object.namespace,
                        name: &object.name,
                        uid: Some(uid),
                    },
                ),
            }
            .map_err(|error| error.to_string())?;
            if !dirty.is_empty() {
                self.awake = true;
                self.busy_at = self.world.now;
            }
        }
        Ok(())
    }

    fn probe(&mut self) -> Result<(), String> {
        let (Some(plan), Some(instance)) = (&self.plan, self.instance_ref()) else {
            return Ok(());
        };
        let targets: Vec<ProbeTarget> = plan.probes.clone();
        let wanted: BTreeSet<(String, String)> = targets
            .iter()
            .map(|target| (target.table.clone(), target.key.clone()))
            .collect();
        self.due.retain(|key, _| wanted.contains(key));
        for target in targets {
            let place = (target.table.clone(), target.key.clone());
            let now = self.world.now;
            if self.due.get(&place).is_some_and(|(at, _)| *at > now) {
                continue;
            }
            self.due.insert(
                place,
                (
                    now + Millis::try_from(target.every_ms).unwrap_or(TICK_MS),
                    0,
                ),
            );
            let given = answers::of_probe(&self.answers, &target.table, &target.key)
                .map(|given| given.cloned().map_err(str::to_owned));
            let answer = given.unwrap_or_else(|| self.ask(&target.probe));
            let dirty = self
                .mirror
                .probe_result(
                    &instance.package,
                    &instance.uid,
                    &target.table,
                    &target.key,
                    answer.as_ref().map_err(String::as_str),
                    now,
                )
                .map_err(|error| error.to_string())?;
            if !dirty.is_empty() {
                self.awake = true;
                self.busy_at = now;
            }
        }
        Ok(())
    }

    fn ask(&mut self, probe: &Probe) -> Result<Value, String> {
        match probe {
            Probe::Redis(call) => self
                .redis(call)
                .map(Option::unwrap_or_default)
                .map_err(|failure| failure.message),
            Probe::Tcp { host, port, .. } => self
                .reachable(host)
                .then(|| json!({"open": true}))
                .ok_or_else(|| format!("{host}:{port} does not answer")),
            Probe::Http(call) => self.http(&call.url),
            Probe::Exec(call) => self
                .runs(&call.pod)
                .map(|()| json!({"code": 0, "stdout": "", "stderr": ""})),
            Probe::Dns { name, .. } => self.resolve_name(name),
            Probe::Prometheus { page, read } => self.http(&page.url).map(|_| match read {
                Series::Scrape { .. } => json!({}),
                Series::Query => json!({"series": []}),
            }),
        }
    }

    /// Whether a command can be run in a pod; what it prints, the scenario says.
    fn runs(&self, pod: &str) -> Result<(), String> {
        let found = self
            .world
            .of_kind("Pod")
            .find(|candidate| text(candidate, "/metadata/name") == pod);
        match found {
            Some(found) if text(found, "/status/phase") == "Running" => Ok(()),
            Some(_) => Err(format!("exec in pod {pod}: it does not run")),
            None => Err(format!("exec in pod {pod}: pods \"{pod}\" not found")),
        }
    }

    /// Addresses of a Service: its own or, without one, those of the ready pods behind it.
    fn resolve_name(&self, name: &str) -> Result<Value, String> {
        let short = name.split('.').next().unwrap_or_default();
        let service = self
            .world
            .of_kind("Service")
            .find(|candidate| text(candidate, "/metadata/name") == short)
            .ok_or_else(|| format!("resolve {name}: no such name"))?;
        let own = text(service, "/spec/clusterIP");
        if !own.is_empty() && own != "None" {
            return Ok(json!({"addresses": [own]}));
        }
        let selector = service.pointer("/spec/selector").and_then(Value::as_object);
        let addresses: BTreeSet<&str> = self
            .world
            .of_kind("Pod")
            .filter(|pod| super::world::is_ready(pod))
            .filter(|pod| {
                selector.is_some_and(|selector| {
                    selector
                        .iter()
                        .all(|(key, value)| pod["metadata"]["labels"].get(key) == Some(value))
                })
            })
            .map(|pod| text(pod, "/status/podIP"))
            .collect();
        Ok(json!({"addresses": addresses}))
    }

    /// What is ready answers every request with `ok`.
    fn http(&self, url: &str) -> Result<Value, String> {
        let host = url
            .split_once("://")
            .map_or(url, |(_, rest)| rest)
            .split([':', '/'])
            .next()
            .unwrap_or_default();
        self.reachable(host)
            .then(|| json!({"status": 200, "body": "ok"}))
            .ok_or_else(|| format!("{url} does not answer"))
    }

    /// Whether something ready listens at an address, or behind a Service of that name.
    fn reachable(&self, host: &str) -> bool {
        let service = host.split('.').next().unwrap_or_default();
        let behind = self
            .world
            .of_kind("Service")
            .find(|candidate| {
                text(candidate, "/metadata/name") == service
                    || text(candidate, "/spec/clusterIP") == host
            })
            .and_then(|found| found.pointer("/spec/selector")?.as_object().cloned());
        self.world.of_kind("Pod").any(|pod| {
            let fits = text(pod, "/status/podIP") == host
                || behind.as_ref().is_some_and(|selector| {
                    selector
                        .iter()
                        .all(|(key, value)| pod["metadata"]["labels"].get(key) == Some(value))
                });
            fits && super::world::is_ready(pod)
                && !self.redis.partitioned.contains(text(pod, "/metadata/name"))
        })
    }

    fn redis(&mut self, call: &RedisCall) -> Result<Option<Value>, Failure> {
        let now = self.world.now;
        let (world, instance, package) = (
            &self.world,
            &self.instance,
            Arc::clone(self.engine.package()),
        );
        self.redis
            .call(call, now, &|text| resolve(world, instance, &package, text))
    }

    /// Makes a plan and carries it out; whether it is worth making another at once.
    fn decide(&mut self) -> Result<bool, String> {
        self.awake = false;
        let Some(instance) = self.instance_ref() else {
            self.plan = None;
            return Ok(false);
        };
        let snapshot = self
            .mirror
            .snapshot(&instance.package, &instance.uid)
            .map_err(|error| error.to_string())?;
        let Some(snapshot) = snapshot else {
            self.plan = None;
            return Ok(false);
        };
        let plan = self.engine.plan(&snapshot, &self.ledger, self.world.now, 1);
        // What an engine remembers must not show.
        #[cfg(test)]
        assert_eq!(
            plan,
            Engine::new(
                Arc::clone(self.engine.package()),
                Arc::clone(self.engine.charts())
            )
            .plan(&snapshot, &self.ledger, self.world.now, 1)
        );
        self.check_never(&snapshot);
        self.ledger = plan.ledger.clone();
        let targets: BTreeSet<(String, String)> = plan
            .probes
            .iter()
            .map(|target| (target.table.clone(), target.key.clone()))
            .collect();
        let dirty = self
            .mirror
            .retain_probes(
                &instance.package,
                &instance.uid,
                &targets,
                &plan.probes_kept,
            )
            .map_err(|error| error.to_string())?;
        self.awake |= !dirty.is_empty();
        let intents = plan.intents.clone();
        self.plan = Some(plan);
        let acted = !intents.is_empty();
        if acted {
            self.busy_at = self.world.now;
        }
        for intent in intents {
            let number = self.effects;
            self.effects += 1;
            if self.disturbance.crash == Some((number, false)) {
                self.restart()?;
                return Ok(true);
            }
            let outcome = self.execute(&intent);
            self.note(&intent, &outcome);
            if self.disturbance.crash == Some((number, true)) {
                self.restart()?;
                return Ok(true);
            }
            self.ledger.record(&intent, &outcome, self.world.now);
            let stop = matches!(outcome, Outcome::Failed(_))
                && matches!(intent.rule.as_str(), "@inventory" | "@finalizer");
            if stop {
                break;
            }
        }
        self.redis.step(&self.world);
        self.deliver()?;
        // Outcomes are facts of the ledger: the next plan sees them even when no watched object changed.
        self.awake |= acted;
        Ok(self.awake)
    }

    /// Looks at the instance as the engine would now, without doing anything.
    pub(crate) fn with_pass<T: Default>(&self, look: impl FnOnce(&Pass<'_>, &Plan) -> T) -> T {
        let snapshot = self.instance_ref().and_then(|instance| {
            self.mirror
                .snapshot(&instance.package, &instance.uid)
                .ok()
                .flatten()
        });
        match (snapshot, &self.plan) {
            (Some(snapshot), Some(plan)) => {
                let pass = self
                    .engine
                    .pass(&snapshot, self.world.now, &BTreeMap::new());
                look(&pass, plan)
            }
            _ => T::default(),
        }
    }

    fn check_never(&mut self, snapshot: &libretto_mirror::Snapshot) {
        if self.never.is_empty() {
            return;
        }
        let pass = self.engine.pass(snapshot, self.world.now, &BTreeMap::new());
        for sql in &self.never {
            match pass.sheet.rows(sql, libretto_mirror::Limits::PACKAGE) {
                Ok(rows) if rows.rows.is_empty() => {}
                Ok(rows) => {
                    let row: Vec<String> =
                        rows.rows[0].iter().map(|datum| datum.display()).collect();
                    self.violations.insert(format!(
                        "never: `{sql}` gave a row ({}) at {}",
                        row.join(", "),
                        clock(self.world.now)
                    ));
                }
                Err(error) => {
                    self.violations.insert(format!("never: `{sql}`: {error}"));
                }
            }
        }
    }

    fn note(&mut self, intent: &Intent, outcome: &Outcome) {
        let (what, call) = match &intent.effect {
            Effect::Apply { object, .. } => (format!("apply {}", named(object)), false),
            Effect::Patch { object, .. } => (format!("patch {}", named(object)), false),
            Effect::Delete { object, .. } => {
                let prune = intent.key == crate::ledger::object_id(object);
                (format!("delete {object}"), !prune)
            }
            Effect::Status { .. } => ("status".to_owned(), false),
            Effect::Event {
                reason, message, ..
            } => (
                format!("event {reason}: {message}"),
                !intent.rule.starts_with('@'),
            ),
            Effect::Redis(call) => {
                let commands: Vec<String> = call
                    .commands
                    .iter()
                    .map(|command| libretto_api::secret::redact(&command.arguments.join(" ")))
                    .collect();
                (
                    format!("{}:{} {}", call.host, call.port, commands.join("; ")),
                    true,
                )
            }
            Effect::Http(call) => (
                libretto_api::secret::redact(&format!("{} {}", call.method, call.url)),
                true,
            ),
            Effect::Exec(call) => (
                libretto_api::secret::redact(&format!("{} {}", call.pod, call.command.join(" "))),
                true,
            ),
            Effect::Scale { object, replicas } => (format!("scale {object} to {replicas}"), true),
            Effect::Restart { object } => (format!("restart {object}"), true),
            Effect::Evict { pod, .. } => (format!("evict {pod}"), true),
            Effect::Inventory { .. } => ("inventory".to_owned(), false),
        };
        self.done.push(Done {
            at: self.world.now,
            rule: intent.rule.clone(),
            key: intent.key.clone(),
            what,
            call,
            failure: match outcome {
                Outcome::Failed(failure) => Some(failure.message.clone()),
                _ => None,
            },
        });
    }

    fn execute(&mut self, intent: &Intent) -> Outcome {
        let manager = field_manager(&intent.instance.package);
        let uid = intent.instance.uid.clone();
        if let Some(error) = answers::of_call(&self.answers, &intent.rule, &intent.key) {
            return Outcome::Failed(Failure {
                kind: FailureKind::Refused,
                message: error.to_owned(),
            });
        }
        let result = match &intent.effect {
            Effect::Apply { object, adopt } => {
                let object = self.with_secrets(object);
                object
                    .and_then(|object| self.world.apply(&object, &manager, &uid, *adopt, false))
                    .map(Some)
            }
            Effect::Patch { object, .. } => {
                let object = self.with_secrets(object);
                object
                    .and_then(|object| self.world.apply(&object, &manager, &uid, false, true))
                    .map(Some)
            }
            Effect::Delete { object, uid } => match self.world.delete(object, uid.as_deref()) {
                Ok(true) => Ok(None),
                Ok(false) => return Outcome::Absent,
                Err(failure) => Err(failure),
            },
            Effect::Status { status } => {
                let status = status.clone();
                let instance = self.instance.clone();
                self.world
                    .update(&instance, |object| object["status"] = status);
                Ok(self.world.objects.get(&instance).cloned())
            }
            Effect::Event { .. } => Ok(None),
            Effect::Redis(call) => match self.redis(call) {
                Ok(None) => return Outcome::Skipped,
                answer => answer.map(|_| None),
            },
            Effect::Http(call) => self
                .http(&call.url)
                .map(|_| None)
                .map_err(|message| Failure {
                    kind: FailureKind::Unreachable,
                    message,
                }),
            Effect::Exec(call) => self
                .runs(&call.pod)
                .map(|()| None)
                .map_err(|message| Failure {
                    kind: FailureKind::Unreachable,
                    message,
                }),
            Effect::Scale { object, replicas } => self.change(object, "scale", |object| {
                object["spec"]["replicas"] = json!(replicas);
            }),
            Effect::Restart { object } => {
                // Not the time: one row that restarts twice, around a crash, is to end as one that restarts once.
                let why = intent.fingerprint.clone();
                self.change(object, "restart", |object| {
                    let template = &mut object["spec"]["template"]["metadata"];
                    template["annotations"]["kubectl.kubernetes.io/restartedAt"] = json!(why);
                })
            }
            Effect::Evict { pod, uid } => match self.world.delete(pod, uid.as_deref()) {
                Ok(true) => Ok(None),
                Ok(false) => return Outcome::Absent,
                Err(failure) => Err(failure),
            },
            Effect::Inventory { inventory } => {
                let reference = inventory_reference(&intent.instance);
                let former = self.world.objects.get(&reference).cloned();
                let mut map = former.unwrap_or_else(|| {
                    json!({
                        "apiVersion": "v1", "kind": "ConfigMap",
                        "metadata": {
                            "name": reference.name, "namespace": reference.namespace,
                            "labels": {"libretto.dev/inventory": "true"},
                            "ownerReferences": [{
                                "apiVersion": intent.instance.gvk.api_version(), "kind": intent.instance.gvk.kind,
                                "name": intent.instance.name, "uid": intent.instance.uid,
                            }],
                        },
                    })
                });
                map["data"] = json!({"inventory": inventory.to_string()});
                self.world.store(map);
                Ok(None)
            }
        };
        match result {
            Ok(object) => Outcome::Done { object },
            Err(failure) => Outcome::Failed(failure),
        }
    }

    /// Changes an object that is there.
    fn change(
        &mut self,
        object: &ObjectRef,
        what: &str,
        change: impl FnOnce(&mut Value),
    ) -> Result<Option<Value>, Failure> {
        if !self.world.objects.contains_key(object) {
            return Err(Failure {
                kind: FailureKind::Refused,
                message: format!("{what} {object}: not found"),
            });
        }
        self.world.update(object, change);
        Ok(self.world.objects.get(object).cloned())
    }

    fn with_secrets(&self, object: &Value) -> Result<Value, Failure> {
        let resolve = |text: &str| {
            resolve(&self.world, &self.instance, self.engine.package(), text).map_err(|message| {
                Failure {
                    kind: FailureKind::SecretMissing,
                    message,
                }
            })
        };
        fn walk(
            value: &Value,
            resolve: &dyn Fn(&str) -> Result<String, Failure>,
        ) -> Result<Value, Failure> {
            Ok(match value {
                Value::String(text) => Value::String(resolve(text)?),
                Value::Array(items) => Value::Array(
                    items
                        .iter()
                        .map(|item| walk(item, resolve))
                        .collect::<Result<_, _>>()?,
                ),
                Value::Object(map) => Value::Object(
                    map.iter()
                        .map(|(key, value)| Ok((key.clone(), walk(value, resolve)?)))
                        .collect::<Result<_, Failure>>()?,
                ),
                other => other.clone(),
            })
        }
        walk(object, &resolve)
    }
}

/// `12.5s` since the scenario began.
pub(crate) fn clock(now: Millis) -> String {
    let since = now - START;
    format!("{}.{}s", since / 1000, since % 1000 / 100)
}

fn named(object: &Value) -> String {
    reference(object).map_or_else(|| "(nameless)".to_owned(), |object| object.to_string())
}

fn selected(object: &Value, labels: &BTreeMap<String, String>) -> bool {
    labels.iter().all(|(key, value)| {
        object
            .pointer("/metadata/labels")
            .and_then(|labels| labels.get(key))
            .and_then(Value::as_str)
            == Some(value)
    })
}

fn resolve(
    world: &World,
    instance: &ObjectRef,
    package: &Compiled,
    text_with_handles: &str,
) -> Result<String, String> {
    pieces(text_with_handles)
        .into_iter()
        .map(|piece| match piece {
            Piece::Text(text) => Ok(text.to_owned()),
            Piece::Handle(SecretHandle::Key { name, key }) => world
                .of_kind("Secret")
                .find(|secret| text(secret, "/metadata/name") == name)
                .and_then(|secret| decoded(secret, &key))
                .ok_or_else(|| format!("Secret {}/{name} has no key {key}", instance.namespace)),
            // The same each time, so that runs can be compared.
            Piece::Handle(SecretHandle::Made { letters, length }) => {
                let letter = char::from(letters.all()[0]);
                Ok(letter.to_string().repeat(usize::from(length)))
            }
            Piece::Handle(SecretHandle::Field { field, .. }) => package
                .fields()
                .iter()
                .find(|known| known.name == field)
                .and_then(|known| known.path.find(world.objects.get(instance)?)?.as_str())
                .map(str::to_owned)
                .ok_or_else(|| format!("the instance has no value for {field}")),
        })
        .collect()
}
