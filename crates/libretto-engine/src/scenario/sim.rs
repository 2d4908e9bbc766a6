//! The loop a driver runs, over the simulated world: mirror, probes, plans, effects, records, crashes.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet},
    hash::Hash as _,
    sync::Arc,
};

use libretto_api::{
    chart::Charts,
    intent::{Effect, Failure, FailureKind, Intent, Millis, Outcome, Probe, RedisCall, Series},
    object::{InstanceRef, ObjectRef, field_manager},
    secret::{Piece, SecretHandle, pieces},
};
use libretto_mirror::{Change, ColumnPath, Mirror, MirrorError, ScopeMode, Segment};
use serde_json::{Value, json};

use super::{
    answers,
    print::{Print, PrintHasher},
    redis::{Model, decoded},
    world::{Happened, Seen, World, inventory_reference, text},
};
use crate::{
    Compiled, Engine, Ledger, Plan,
    engine::{Pass, Question},
    ledger::reference,
    plan::ProbeTarget,
};

/// One step of simulated time. Half the shortest period packages use; a scenario of ten minutes is 1200 steps.
const TICK_MS: Millis = 500;
/// Plans in a row without time passing. Effects that keep making new rows at once would never end.
const PLANS_PER_TICK: usize = 20;
/// Simulated time that never begins at 0, which would hide mistakes with absent times.
pub(crate) const START: Millis = 1_700_000_000_000;

/// What runs use one after another: an engine, and digests of objects. Neither shows in what a run gives.
#[derive(Debug)]
pub(crate) struct Stage {
    pub(crate) engine: Engine,
    seen: RefCell<Seen>,
    /// The package can read resource versions, so that they count among what makes two worlds different.
    versions: bool,
}

impl Stage {
    pub(crate) fn new(package: Arc<Compiled>, charts: Arc<dyn Charts>) -> Self {
        let schema = package.schema();
        let fields = schema.instance.fields.iter().map(|field| &field.path);
        let columns = schema.watches.iter().flat_map(|watch| &watch.columns);
        let ignored = schema.objects.iter().flat_map(|object| &object.ignore);
        let versions = fields
            .chain(columns.map(|column| &column.path))
            .chain(ignored)
            .any(tells_versions);
        Self {
            versions,
            seen: RefCell::default(),
            engine: Engine::new(package, charts),
        }
    }
}

/// Whether `metadata.resourceVersion` is at or below a path.
fn tells_versions(path: &ColumnPath) -> bool {
    let version = ["metadata", "resourceVersion"];
    path.segments()
        .iter()
        .zip(version)
        .all(|(segment, key)| matches!(segment, Segment::Key(found) if found == key))
}

/// How far a scenario is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Place {
    pub(crate) step: usize,
    /// The step has settled; what a restarted process does is looked at.
    pub(crate) checking: bool,
    /// When that began.
    pub(crate) since: Millis,
}

/// A moment at which the engine may die, and all that is left then: a process that starts knows the world and nothing else.
#[derive(Debug, Clone)]
pub(crate) struct Fork {
    /// `after effect 3 (role: patch Pod default/demo-0)`.
    pub(crate) name: String,
    pub(crate) place: Place,
    world: World,
    redis: Model,
    busy_at: Millis,
    answers: Vec<answers::Given>,
    /// Plans that may still be made before time passes.
    plans_left: usize,
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
pub(crate) struct Sim<'s> {
    stage: &'s Stage,
    pub(crate) world: World,
    pub(crate) redis: Model,
    pub(crate) instance: ObjectRef,
    mirror: Mirror,
    ledger: Ledger,
    pub(crate) plan: Option<Plan>,
    /// When targets are asked next, by table and key.
    due: BTreeMap<String, BTreeMap<String, Millis>>,
    awake: bool,
    busy_at: Millis,
    pub(crate) done: Vec<Done>,
    /// Writes to the cluster and calls so far.
    pub(crate) effects: usize,
    /// Events of one moment arrive in an order that depends on this; 0 keeps the order.
    shuffle: u64,
    random: u64,
    /// Queries that must have no rows after any plan of the current step, and what they found.
    never: Vec<(String, Question)>,
    pub(crate) violations: BTreeSet<String>,
    /// What the scenario says that is answered.
    answers: Vec<answers::Given>,
    pub(crate) place: Place,
    /// Where the engine could have died, when that is wanted.
    pub(crate) forks: Option<Vec<Fork>>,
    /// Something was called since the last of them.
    called: bool,
    /// Number of the fork where it does die.
    #[cfg(test)]
    pub(crate) dies_at: Option<usize>,
    /// Digest of `plan`, when it was needed.
    plan_print: Cell<Option<Print>>,
}

impl<'s> Sim<'s> {
    pub(crate) fn new(stage: &'s Stage, instance: Value, shuffle: u64) -> Result<Self, String> {
        let mut world = World::at(START);
        let reference =
            reference(&instance).ok_or_else(|| "the instance has no name".to_owned())?;
        world.store(instance);
        let mut sim = Self {
            mirror: Mirror::new(ScopeMode::Any),
            stage,
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
            shuffle,
            random: shuffle,
            never: Vec::new(),
            violations: BTreeSet::new(),
            answers: Vec::new(),
            place: Place {
                step: 0,
                checking: false,
                since: START,
            },
            forks: None,
            called: false,
            #[cfg(test)]
            dies_at: None,
            plan_print: Cell::new(None),
        };
        sim.restart()?;
        Ok(sim)
    }

    /// Goes on where the engine died: a new process, in the middle of a tick.
    pub(crate) fn resume(
        stage: &'s Stage,
        instance: &ObjectRef,
        fork: &Fork,
        never: &[String],
    ) -> Result<Self, String> {
        let Fork {
            name: _,
            place,
            world,
            redis,
            busy_at,
            answers,
            plans_left,
        } = fork;
        let mut sim = Self {
            mirror: Mirror::new(ScopeMode::Any),
            stage,
            world: world.clone(),
            redis: redis.clone(),
            instance: instance.clone(),
            ledger: Ledger::default(),
            plan: None,
            due: BTreeMap::new(),
            awake: true,
            busy_at: *busy_at,
            done: Vec::new(),
            effects: 0,
            shuffle: 0,
            random: 0,
            never: Vec::new(),
            violations: BTreeSet::new(),
            answers: answers.clone(),
            place: *place,
            forks: None,
            called: false,
            #[cfg(test)]
            dies_at: None,
            plan_print: Cell::new(None),
        };
        sim.restart()?;
        sim.watch_for(never);
        sim.plan_until_asleep(*plans_left)?;
        Ok(sim)
    }

    pub(crate) fn package(&self) -> &Arc<Compiled> {
        self.stage.engine.package()
    }

    /// From now on these queries must have no rows.
    pub(crate) fn watch_for(&mut self, never: &[String]) {
        self.violations.clear();
        self.never = never
            .iter()
            .filter_map(|sql| match self.stage.engine.question(sql) {
                Ok(question) => Some((sql.clone(), question)),
                Err(error) => {
                    self.violations.insert(format!("never: `{sql}`: {error}"));
                    None
                }
            })
            .collect();
    }

    /// Whether it is one of the moments at which states are compared that are not compared at every tick.
    pub(crate) fn on_the_second(&self) -> bool {
        (self.world.now - START) % 2_000 == 0
    }

    /// A digest of everything that the rest of the run can follow from: two runs of a scenario whose digests are the same go on the
    /// same, whatever was before. That is
    ///
    /// - where in the scenario it is, and the time (absolute: packages read clocks and time stamps),
    /// - the world and what is served in it,
    /// - what the engine works on: mirror, ledger, the last plan, and when which target is asked.
    ///
    /// Not in it is what nothing can be decided on: the log of what was done (its numbers are compared in the undisturbed run only),
    /// what the engine remembers of earlier evaluations (it gives the same without), versions of objects unless the package
    /// reads them, times that only matter until something is due, and when effects succeeded whose rows are settled
    /// ([`World::hash_future`], [`Model::hash_future`], [`Ledger::hash_future`], [`Mirror::hash_future`]).
    pub(crate) fn print(&self) -> Print {
        let Self {
            stage,
            world,
            redis,
            instance: _,
            mirror,
            ledger,
            plan,
            due,
            awake,
            busy_at,
            done: _,
            effects: _,
            shuffle,
            random,
            never: _,
            violations,
            // The scenario's, so they follow from the place.
            answers: _,
            place,
            forks: _,
            called: _,
            #[cfg(test)]
                dies_at: _,
            plan_print,
        } = self;
        let mut state = PrintHasher::default();
        (place, due, awake, busy_at, shuffle, random, violations).hash(&mut state);
        world.hash_future(stage.versions, &mut stage.seen.borrow_mut(), &mut state);
        redis.hash_future(world.now, &mut state);
        mirror.hash_future(&mut state);
        ledger.hash_future(stage.engine.package(), world.now, &mut state);
        let plan = plan_print.get().or_else(|| {
            let plan = plan.as_ref()?;
            let mut state = PrintHasher::default();
            (&plan.probes, plan.wake_at, plan.settled, &plan.rules).hash(&mut state);
            plan_print.set(Some(state.print()));
            plan_print.get()
        });
        plan.hash(&mut state);
        state.print()
    }

    /// Notes that the engine may die here; whether it does.
    fn fork(&mut self, plans_left: usize, name: impl FnOnce() -> String) -> bool {
        let Some(forks) = &mut self.forks else {
            return false;
        };
        // After one effect is before the next, and not every effect changes anything. Effects of one plan change nothing but the
        // objects, each with a new version, and what answers calls.
        let same = !self.called
            && forks.last().is_some_and(|last| {
                let moment = |place: Place, left: usize, world: &World| {
                    (place, left, world.now, world.version())
                };
                moment(last.place, last.plans_left, &last.world)
                    == moment(self.place, plans_left, &self.world)
            });
        self.called = false;
        if !same {
            forks.push(Fork {
                name: name(),
                place: self.place,
                world: self.world.clone(),
                redis: self.redis.clone(),
                busy_at: self.busy_at,
                answers: self.answers.clone(),
                plans_left,
            });
            #[cfg(test)]
            if self.dies_at == Some(forks.len() - 1) {
                self.forks = None;
                return true;
            }
        }
        false
    }

    /// A new process: everything is listed again, the ledger is what the inventory remembers.
    pub(crate) fn restart(&mut self) -> Result<(), String> {
        let broken = |error: MirrorError| error.to_string();
        self.mirror = Mirror::new(ScopeMode::Any);
        let package = Arc::clone(self.package());
        self.mirror.declare(package.schema().clone());
        self.world.changes.clear();
        for watch in package.watches() {
            let objects: Vec<&Value> = self
                .world
                .objects
                .iter()
                .filter(|(reference, object)| {
                    reference.gvk == watch.gvk && selected(object, &watch.labels)
                })
                .map(|(_, object)| object.as_ref())
                .collect();
            self.mirror
                .replace_all(&watch.gvk, None, objects)
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
        self.forget_plan();
        self.awake = true;
        Ok(())
    }

    fn forget_plan(&mut self) {
        self.plan = None;
        self.plan_print.set(None);
    }

    fn instance_ref(&self) -> Option<InstanceRef> {
        let object = self.world.objects.get(&self.instance)?;
        Some(InstanceRef {
            package: self.package().name().to_owned(),
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
            .map_or(Value::Null, |object| Value::clone(object))
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
        self.plan_until_asleep(PLANS_PER_TICK)
    }

    fn plan_until_asleep(&mut self, most: usize) -> Result<(), String> {
        for left in (0..most).rev() {
            if !self.awake || !self.decide(left)? {
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
        if self.shuffle != 0 && changes.len() > 1 {
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
                    let package = self.package();
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
        let Some(plan) = self.plan.take() else {
            return Ok(());
        };
        let asked = self.ask_due(&plan.probes);
        self.plan = Some(plan);
        asked
    }

    fn ask_due(&mut self, targets: &[ProbeTarget]) -> Result<(), String> {
        let Some(instance) = self.instance_ref() else {
            return Ok(());
        };
        let now = self.world.now;
        for target in targets {
            let due = self
                .due
                .get(&target.table)
                .and_then(|keys| keys.get(&target.key));
            if due.is_some_and(|at| *at > now) {
                continue;
            }
            // A target that is new is asked at once, and then whenever its period begins: so runs that differed for a moment ask at
            // the same times again.
            let period = Millis::try_from(target.every_ms).unwrap_or(TICK_MS).max(1);
            let next = now + period - (now - START).rem_euclid(period);
            self.due
                .entry(target.table.clone())
                .or_default()
                .insert(target.key.clone(), next);
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
        let (world, instance, package) = (&self.world, &self.instance, Arc::clone(self.package()));
        self.redis
            .call(call, now, &|text| resolve(world, instance, &package, text))
    }

    /// Makes a plan and carries it out; whether it is worth making another at once. So many may be made after it.
    fn decide(&mut self, plans_left: usize) -> Result<bool, String> {
        self.awake = false;
        let Some(instance) = self.instance_ref() else {
            self.forget_plan();
            return Ok(false);
        };
        let snapshot = self
            .mirror
            .snapshot(&instance.package, &instance.uid)
            .map_err(|error| error.to_string())?;
        let Some(snapshot) = snapshot else {
            self.forget_plan();
            return Ok(false);
        };
        let engine = &self.stage.engine;
        let plan = engine.plan(&snapshot, &self.ledger, self.world.now, 1);
        // What an engine remembers must not show.
        #[cfg(test)]
        assert_eq!(
            plan,
            Engine::new(Arc::clone(engine.package()), Arc::clone(engine.charts())).plan(
                &snapshot,
                &self.ledger,
                self.world.now,
                1
            )
        );
        self.check_never();
        let mut plan = plan;
        self.ledger = std::mem::take(&mut plan.ledger);
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
        self.due.retain(|table, keys| {
            keys.retain(|key, _| {
                plan.probes
                    .iter()
                    .any(|target| target.table == *table && target.key == *key)
            });
            !keys.is_empty()
        });
        let intents = std::mem::take(&mut plan.intents);
        self.plan = Some(plan);
        self.plan_print.set(None);
        let acted = !intents.is_empty();
        if acted {
            self.busy_at = self.world.now;
        }
        for intent in intents {
            let number = self.effects;
            self.effects += 1;
            let what = described(&intent);
            let name = |when: &str| format!("{when} effect {number} ({}: {})", intent.rule, what.0);
            if self.fork(plans_left, || name("before")) {
                self.restart()?;
                return Ok(true);
            }
            let outcome = self.execute(&intent);
            self.called |= matches!(intent.effect, Effect::Redis(_));
            if self.fork(plans_left, || name("after")) {
                self.restart()?;
                return Ok(true);
            }
            self.note(&intent, what, &outcome);
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
                    .stage
                    .engine
                    .pass(&snapshot, self.world.now, &BTreeMap::new());
                look(&pass, plan)
            }
            _ => T::default(),
        }
    }

    /// Asks what the last plan was made of.
    fn check_never(&mut self) {
        for (sql, question) in &self.never {
            match self.stage.engine.ask(sql, question) {
                Ok(answer) if answer.rows.rows.is_empty() => {}
                Ok(answer) => {
                    let row: Vec<String> = answer.rows.rows[0]
                        .iter()
                        .map(|datum| datum.display())
                        .collect();
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

    fn note(&mut self, intent: &Intent, (what, call): (String, bool), outcome: &Outcome) {
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
                Ok(self
                    .world
                    .objects
                    .get(&instance)
                    .map(|object| Value::clone(object)))
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
                let former = self.world.objects.get(&reference);
                let mut map = match former {
                    Some(former) => Value::clone(former),
                    None => json!({
                        "apiVersion": "v1", "kind": "ConfigMap",
                        "metadata": {
                            "name": reference.name, "namespace": reference.namespace,
                            "labels": {"libretto.dev/inventory": "true"},
                            "ownerReferences": [{
                                "apiVersion": intent.instance.gvk.api_version(), "kind": intent.instance.gvk.kind,
                                "name": intent.instance.name, "uid": intent.instance.uid,
                            }],
                        },
                    }),
                };
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
        let changed = self.world.objects.get(object);
        Ok(changed.map(|object| Value::clone(object)))
    }

    fn with_secrets(&self, object: &Value) -> Result<Value, Failure> {
        let resolve = |text: &str| {
            resolve(&self.world, &self.instance, self.package(), text).map_err(|message| Failure {
                kind: FailureKind::SecretMissing,
                message,
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

/// An effect for a person, and whether it is a call.
fn described(intent: &Intent) -> (String, bool) {
    match &intent.effect {
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
