//! Runs a package's scenarios (`tests.yaml`) against a simulated world, in milliseconds.
//!
//! Every scenario is also swept: the pass after settling must be empty, a restarted process must find nothing to do, a
//! crash before or after any effect must lead to the same end, and so must events in another order.

mod answers;
mod expect;
mod names;
mod redis;
pub(crate) mod schema;
mod sim;
pub(crate) mod world;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use libretto_api::{
    chart::Charts,
    intent::Millis,
    package::{TESTS_FILE, parse_duration},
};
use libretto_mirror::{ColumnPath, Datum, Segment, Snapshot, Table};
use serde_json::{Value, json};
use sim::{Disturbance, Done, Sim};

use crate::{
    Compiled, Diagnostic, Engine, Ledger, load_files,
    yaml::{self, At, Data, Node},
};

pub(crate) use expect::KEYWORDS as EXPECTATIONS;

/// What can happen in a step.
pub(crate) const HAPPENINGS: &[&str] = &[
    "cr",
    "spec",
    "metadata",
    "kill",
    "restart",
    "delete",
    "wipe",
    "partition",
    "heal",
    "write",
    "object",
    "answers",
];

/// What came of one scenario.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    pub name: String,
    /// Empty when it passed; else each expectation that did not hold, with what was there.
    pub failures: Vec<String>,
    /// One line per effect, for a person.
    pub trace: Vec<String>,
}

/// Simulated time a step may take to settle. A rolling update of nine nodes takes minutes; what takes longer is stuck.
const SETTLE_MS: Millis = 15 * 60 * 1000;
/// Crashes tried per scenario, spread over its effects: enough to hit every kind of effect, few enough for a second of waiting.
const CRASHES: usize = 12;
/// Other orders of events tried per scenario.
const SHUFFLES: u64 = 3;

/// How far a run is, for a person who waits: with its sweep a scenario can take seconds.
#[derive(Debug, Clone, Copy)]
pub enum Moment<'a> {
    /// The scenario of this name begins.
    Begins(&'a str),
    Ended(&'a Report),
}

/// Runs every scenario of `tests.yaml` among a package's files (all, or those whose name contains `filter`); `charts` must render
/// while it is asked.
pub fn run(
    files: &BTreeMap<String, String>,
    filter: Option<&str>,
    charts: &Arc<dyn Charts>,
) -> Result<Vec<Report>, Vec<Diagnostic>> {
    run_watched(files, filter, charts, &mut |_moment| {})
}

/// Like [`run`], telling `watcher` as it goes.
pub fn run_watched(
    files: &BTreeMap<String, String>,
    filter: Option<&str>,
    charts: &Arc<dyn Charts>,
    watcher: &mut dyn FnMut(Moment<'_>),
) -> Result<Vec<Report>, Vec<Diagnostic>> {
    let (package, scenarios) = read(files)?;
    Ok(scenarios
        .iter()
        .filter(|scenario| filter.is_none_or(|filter| scenario.name.contains(filter)))
        .map(|scenario| {
            watcher(Moment::Begins(&scenario.name));
            let report = scenario.report(&package, charts);
            watcher(Moment::Ended(&report));
            report
        })
        .collect())
}

/// Loads a package and reads its `tests.yaml`, if there is one, without running anything.
pub fn check(files: &BTreeMap<String, String>) -> Result<Arc<Compiled>, Vec<Diagnostic>> {
    read(files).map(|(package, _scenarios)| package)
}

fn read(
    files: &BTreeMap<String, String>,
) -> Result<(Arc<Compiled>, Vec<Scenario>), Vec<Diagnostic>> {
    let package = Arc::new(load_files(files)?);
    let Some(source) = files.get(TESTS_FILE) else {
        return Ok((package, Vec::new()));
    };
    let documents = yaml::parse(TESTS_FILE, source).map_err(|diagnostic| vec![diagnostic])?;
    let mut parser = Parser {
        package: &package,
        problems: Vec::new(),
    };
    let mut scenarios = Vec::new();
    for document in &documents {
        match &document.data {
            Data::List(items) => {
                scenarios.extend(items.iter().filter_map(|item| parser.scenario(item)));
            }
            _ => parser.wrong(document.at, "tests.yaml must be a list of scenarios"),
        }
    }
    if !parser.problems.is_empty() {
        return Err(parser.problems);
    }
    Ok((package, scenarios))
}

/// A scenario.
#[derive(Debug)]
struct Scenario {
    name: String,
    instance: Value,
    /// Further objects that exist from the start.
    objects: Vec<Value>,
    answers: Vec<answers::Given>,
    steps: Vec<Step>,
    /// Rows given for tables and views: then there is no world, only one pass.
    tables: Option<BTreeMap<String, Table>>,
    expect: Value,
    /// Skips the sweep.
    sweep: bool,
}

#[derive(Debug)]
struct Step {
    line: u64,
    set: Vec<Change>,
    until: Until,
    expect: Value,
}

#[derive(Debug)]
enum Until {
    Settled,
    /// So much simulated time.
    Passed(Millis),
}

/// Something that happens to the world.
#[derive(Debug, Clone)]
enum Change {
    /// A field of the instance, by the name the package declared.
    Field(ColumnPath, Value),
    /// A merge into the instance.
    Spec(Value),
    Kill(String),
    Restart(String),
    Delete(String),
    Wipe(String),
    Partition(String),
    Heal(String),
    Write(i64),
    Object(Value),
    /// In the place of those before.
    Answers(Vec<answers::Given>),
}

struct Parser<'a> {
    package: &'a Compiled,
    problems: Vec<Diagnostic>,
}

impl Parser<'_> {
    fn wrong(&mut self, at: At, message: impl Into<String>) {
        self.problems.push(Diagnostic {
            file: TESTS_FILE.to_owned(),
            line: at.line,
            column: at.column,
            message: message.into(),
            hint: None,
        });
    }

    #[cfg_attr(test, track_caller)]
    fn only(&mut self, node: &Node, place: &str, known: &[&str]) {
        #[cfg(test)]
        crate::compile::schema::seen::note(std::panic::Location::caller(), known);
        if !matches!(node.data, Data::Map(_)) {
            self.wrong(
                node.at,
                format!("{place} must be a map, this is {}", node.what()),
            );
        }
        for (key, _) in node.entries() {
            if !known.contains(&key.text.as_str()) {
                self.wrong(
                    key.at,
                    format!(
                        "unknown keyword `{}` in {place}; there are: {}",
                        key.text,
                        known.join(", ")
                    ),
                );
            }
        }
    }

    fn scenario(&mut self, node: &Node) -> Option<Scenario> {
        self.only(
            node,
            "a scenario",
            &["name", "given", "steps", "tables", "expect", "sweep"],
        );
        let Some(name) = node.get("name").and_then(Node::text).map(str::to_owned) else {
            self.wrong(node.at, "a scenario needs a name");
            return None;
        };
        let tables = node.get("tables").map(|tables| self.tables(tables));
        let gvk = self.package.gvk();
        let mut instance = json!({
            "apiVersion": gvk.api_version(), "kind": gvk.kind,
            "metadata": {"name": "demo", "namespace": "default"}, "spec": {},
        });
        let mut objects = Vec::new();
        let mut answers = Vec::new();
        if let Some(given) = node.get("given") {
            self.only(
                given,
                "given",
                &["cr", "spec", "metadata", "model", "objects", "answers"],
            );
            if let Some(node) = given.get("answers") {
                answers = self.answers(node);
            }
            if let Some(model) = given.get("model")
                && !matches!(
                    model.text(),
                    Some("redis" | "redis-sentinel" | "kubernetes")
                )
            {
                self.wrong(model.at, "there is no such model; there are: redis, redis-sentinel, kubernetes (all of them are always there)");
            }
            if let Some(metadata) = given.get("metadata") {
                merge(&mut instance["metadata"], &metadata.to_json());
            }
            if let Some(spec) = given.get("spec") {
                merge(&mut instance["spec"], &spec.to_json());
            }
            for (key, value) in given.get("cr").map(Node::entries).unwrap_or_default() {
                if let Some(Change::Field(path, value)) = self.field(&key.text, key.at, value) {
                    put(&mut instance, &path, value);
                }
            }
            if let Some(Data::List(items)) = given.get("objects").map(|objects| &objects.data) {
                objects.extend(items.iter().map(Node::to_json));
            }
        }
        if tables.is_some() {
            for (key, _) in node.entries() {
                if ["given", "steps", "sweep"].contains(&key.text.as_str()) {
                    self.wrong(
                        key.at,
                        format!(
                            "a scenario of `tables` has no `{}`: it is one evaluation of the rows it gives; the instance is the table `cr`",
                            key.text
                        ),
                    );
                }
            }
        }
        let mut steps = Vec::new();
        match node.get("steps").map(|steps| (steps, &steps.data)) {
            Some((_, Data::List(items))) => {
                steps.extend(items.iter().map(|item| self.step(item)));
            }
            Some((steps, _)) => self.wrong(steps.at, "steps must be a list"),
            None if tables.is_none() => {
                self.wrong(node.at, format!("scenario `{name}` needs steps or tables"));
            }
            None => {}
        }
        let expect = node.get("expect").map_or(Value::Null, Node::to_json);
        if let Some(node) = node.get("expect") {
            self.expect(node);
        }
        let sweep = !matches!(
            node.get("sweep").map(|node| &node.data),
            Some(Data::Bool(false))
        );
        Some(Scenario {
            name,
            instance,
            objects,
            answers,
            steps,
            tables,
            expect,
            sweep,
        })
    }

    fn expect(&mut self, node: &Node) {
        self.only(node, "expect", expect::KEYWORDS);
        for (at, message) in names::unknown(self.package, node) {
            self.wrong(at, message);
        }
    }

    fn tables(&mut self, node: &Node) -> BTreeMap<String, Table> {
        let mut tables = BTreeMap::new();
        for (key, rows) in node.entries() {
            let Data::List(items) = &rows.data else {
                self.wrong(
                    rows.at,
                    format!("tables.{} must be a list of rows", key.text),
                );
                continue;
            };
            let mut columns: BTreeSet<String> = BTreeSet::new();
            for item in items {
                columns.extend(item.entries().iter().map(|(column, _)| column.text.clone()));
            }
            let columns: Vec<String> = columns.into_iter().collect();
            let rows = items
                .iter()
                .map(|item| {
                    columns
                        .iter()
                        .map(|column| {
                            item.get(column)
                                .map_or(Datum::Null, |node| datum(&node.to_json()))
                        })
                        .collect()
                })
                .collect();
            tables.insert(key.text.clone(), Table { columns, rows });
        }
        for (at, message) in names::unknown_tables(self.package, node) {
            self.wrong(at, message);
        }
        tables
    }

    fn field(&mut self, name: &str, at: At, value: &Node) -> Option<Change> {
        let Some(field) = self
            .package
            .fields()
            .iter()
            .find(|field| field.name == name)
        else {
            self.wrong(
                at,
                format!("the package declares no field `{name}` under crd.fields"),
            );
            return None;
        };
        Some(Change::Field(field.path.clone(), value.to_json()))
    }

    fn step(&mut self, node: &Node) -> Step {
        self.only(node, "a step", &["set", "until", "for", "expect"]);
        let mut set = Vec::new();
        for (key, value) in node.get("set").map(Node::entries).unwrap_or_default() {
            let target = || value.text().unwrap_or_default().to_owned();
            match key.text.as_str() {
                "cr" => {
                    for (name, value) in value.entries() {
                        set.extend(self.field(&name.text, name.at, value));
                    }
                }
                "spec" => set.push(Change::Spec(json!({"spec": value.to_json()}))),
                "metadata" => set.push(Change::Spec(json!({"metadata": value.to_json()}))),
                "kill" => set.push(Change::Kill(target())),
                "restart" => set.push(Change::Restart(target())),
                "delete" => set.push(Change::Delete(target())),
                "wipe" => set.push(Change::Wipe(target())),
                "partition" => set.push(Change::Partition(target())),
                "heal" => set.push(Change::Heal(target())),
                "object" => set.push(Change::Object(value.to_json())),
                "answers" => set.push(Change::Answers(self.answers(value))),
                "write" => match value.data {
                    Data::Int(keys) => set.push(Change::Write(keys)),
                    _ => self.wrong(value.at, "write is a number of keys"),
                },
                other => self.wrong(
                    key.at,
                    format!(
                        "nothing called `{other}` can happen; there are: {}",
                        HAPPENINGS.join(", ")
                    ),
                ),
            }
        }
        let until = match (node.get("until"), node.get("for")) {
            (Some(until), None) if until.text() == Some("settled") => Until::Settled,
            (None, Some(span)) => match span.text().map(parse_duration) {
                Some(Ok(ms)) => Until::Passed(ms),
                _ => {
                    self.wrong(span.at, "for is a duration like 30s");
                    Until::Settled
                }
            },
            (None, None) => Until::Settled,
            (Some(until), _) => {
                self.wrong(until.at, "a step goes on `until: settled` or `for: 30s`");
                Until::Settled
            }
        };
        if let Some(expect) = node.get("expect") {
            self.expect(expect);
        }
        Step {
            line: node.at.line,
            set,
            until,
            expect: node.get("expect").map_or(Value::Null, Node::to_json),
        }
    }
}

impl Scenario {
    fn report(&self, package: &Arc<Compiled>, charts: &Arc<dyn Charts>) -> Report {
        if let Some(tables) = &self.tables {
            return self.report_tables(package, charts, tables);
        }
        let (mut failures, sim) = match self.play(package, charts, Disturbance::default(), true) {
            Ok((failures, sim)) => (failures, sim),
            Err(error) => {
                return Report {
                    name: self.name.clone(),
                    failures: vec![error],
                    trace: Vec::new(),
                };
            }
        };
        let trace = trace(&sim);
        if failures.is_empty() && self.sweep {
            failures = self.swept(package, charts, &sim);
        }
        Report {
            name: self.name.clone(),
            failures,
            trace,
        }
    }

    /// Plays the scenario again, disturbed; the end must be the same.
    fn swept(&self, package: &Arc<Compiled>, charts: &Arc<dyn Charts>, calm: &Sim) -> Vec<String> {
        let mut disturbances = Vec::new();
        let stride = calm.effects.div_ceil(CRASHES).max(1);
        for number in (0..calm.effects).step_by(stride) {
            for after in [false, true] {
                disturbances.push((
                    Disturbance {
                        crash: Some((number, after)),
                        shuffle: 0,
                    },
                    format!(
                        "after a crash {} effect {number} ({})",
                        if after { "after" } else { "before" },
                        calm.done
                            .get(number)
                            .map_or_else(String::new, |done| format!(
                                "{}: {}",
                                done.rule, done.what
                            )),
                    ),
                ));
            }
        }
        for shuffle in 1..=SHUFFLES {
            disturbances.push((
                Disturbance {
                    crash: None,
                    shuffle,
                },
                format!("with events in another order ({shuffle})"),
            ));
        }
        let expected = end_of(calm);
        // Runs share nothing but the package; each worker takes the next one.
        let workers = std::thread::available_parallelism().map_or(1, usize::from);
        let next = AtomicUsize::new(0);
        let found = Mutex::new(BTreeMap::new());
        std::thread::scope(|scope| {
            for _ in 0..workers.min(disturbances.len()) {
                scope.spawn(|| {
                    loop {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        let Some((disturbance, name)) = disturbances.get(number) else {
                            break;
                        };
                        let failures = self.disturbed(package, charts, *disturbance, &expected);
                        if !failures.is_empty() {
                            // One that fails is enough to look at; those before it are still finished, so that it is always the same one.
                            next.fetch_max(disturbances.len(), Ordering::Relaxed);
                            let failures: Vec<String> = failures
                                .iter()
                                .map(|failure| format!("{name}: {failure}"))
                                .collect();
                            lock(&found).insert(number, failures);
                        }
                    }
                });
            }
        });
        let first = lock(&found).pop_first();
        first.map_or_else(Vec::new, |(_number, failures)| failures)
    }

    /// What was not as expected in one disturbed run.
    fn disturbed(
        &self,
        package: &Arc<Compiled>,
        charts: &Arc<dyn Charts>,
        disturbance: Disturbance,
        expected: &BTreeSet<String>,
    ) -> Vec<String> {
        match self.play(package, charts, disturbance, false) {
            Ok((mut failures, sim)) => {
                let end = end_of(&sim);
                if end != *expected {
                    let missing: Vec<&String> = expected.difference(&end).collect();
                    let more: Vec<&String> = end.difference(expected).collect();
                    failures.push(format!(
                        "other objects in the end: missing {missing:?}, more {more:?}"
                    ));
                }
                failures
            }
            Err(error) => vec![error],
        }
    }

    /// Plays every step. When disturbed, how often and in which order things were done may differ; how it ends may not.
    fn play(
        &self,
        package: &Arc<Compiled>,
        charts: &Arc<dyn Charts>,
        disturbance: Disturbance,
        calm: bool,
    ) -> Result<(Vec<String>, Sim), String> {
        accepted(package, &self.instance).map_err(|error| format!("given: {error}"))?;
        let defaults = |instance: &mut Value| {
            schema::default(package.crd(), &package.gvk().version, instance);
        };
        let mut instance = self.instance.clone();
        defaults(&mut instance);
        let mut sim = Sim::new(
            Arc::clone(package),
            Arc::clone(charts),
            instance,
            disturbance,
        )?;
        for object in &self.objects {
            sim.world.store(at_home(object, &self.instance));
        }
        sim.answer(&self.answers);
        let mut failures = Vec::new();
        for (number, step) in self.steps.iter().enumerate() {
            let place = format!("step {} (line {})", number + 1, step.line);
            for change in &step.set {
                happen(&mut sim, change).map_err(|error| format!("{place}: {error}"))?;
                if matches!(change, Change::Field(..) | Change::Spec(_)) {
                    accepted(package, &sim.cr()).map_err(|error| format!("{place}: {error}"))?;
                    sim.change_cr(defaults);
                }
            }
            let begun = sim.done.len();
            sim.never = expect::never(&step.expect);
            sim.violations.clear();
            let start = sim.world.now;
            match step.until {
                Until::Passed(ms) => {
                    while sim.world.now < start + ms {
                        sim.tick()?;
                    }
                }
                Until::Settled => loop {
                    sim.tick()?;
                    if sim.settled() {
                        break;
                    }
                    if sim.world.now > start + SETTLE_MS {
                        failures.push(format!(
                            "{place}: did not settle in {} minutes: {}",
                            SETTLE_MS / 60_000,
                            unsettled(&sim)
                        ));
                        return Ok((failures, sim));
                    }
                },
            }
            failures.extend(
                sim.violations
                    .iter()
                    .map(|violation| format!("{place}: {violation}")),
            );
            failures.extend(
                expect::check(&sim, &step.expect, begun, calm)
                    .into_iter()
                    .map(|failure| format!("{place}: {failure}")),
            );
            if !failures.is_empty() && !sim.settled() {
                failures.push(format!("{place}: not settled: {}", unsettled(&sim)));
            }
            if matches!(step.until, Until::Settled) && failures.is_empty() {
                failures.extend(
                    restarted(&mut sim)?
                        .into_iter()
                        .map(|failure| format!("{place}: {failure}")),
                );
            }
            if !failures.is_empty() {
                return Ok((failures, sim));
            }
        }
        Ok((failures, sim))
    }

    fn report_tables(
        &self,
        package: &Arc<Compiled>,
        charts: &Arc<dyn Charts>,
        tables: &BTreeMap<String, Table>,
    ) -> Report {
        let engine = Engine::new(Arc::clone(package), Arc::clone(charts));
        let (mut given, mut sensed) = (BTreeMap::new(), BTreeMap::new());
        for (name, table) in tables {
            if package.views.iter().any(|view| view.name == *name) {
                given.insert(name.clone(), table.clone());
            } else {
                sensed.insert(name.clone(), table.clone());
            }
        }
        let snapshot = Snapshot {
            instance: libretto_api::object::InstanceRef {
                package: package.name().to_owned(),
                gvk: package.gvk().clone(),
                namespace: "default".to_owned(),
                name: "demo".to_owned(),
                uid: "demo".to_owned(),
            },
            tables: sensed,
            objects: Vec::new(),
        };
        let pass = engine.pass(&snapshot, sim::START, &given);
        let plan = engine.plan_with(&snapshot, &Ledger::default(), sim::START, 1, &given);
        Report {
            name: self.name.clone(),
            failures: expect::check_rows(&pass, &plan, &self.expect),
            trace: Vec::new(),
        }
    }
}

/// A panic in one run is passed on by the scope; what others found is whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// After settling: a new process must find nothing to do but ask its probes.
fn restarted(sim: &mut Sim) -> Result<Vec<String>, String> {
    let before = sim.done.len();
    let effects = sim.effects;
    sim.restart()?;
    let start = sim.world.now;
    loop {
        sim.tick()?;
        if sim.settled() || sim.world.now > start + SETTLE_MS {
            break;
        }
    }
    // Nothing of this belongs to the scenario's own account; and until probes have answered, status may say so.
    sim.effects = effects;
    let package = Arc::clone(sim.engine.package());
    let scheduled = |name: &str| {
        package
            .rules
            .iter()
            .any(|rule| rule.name == name && rule.schedule.is_some())
    };
    // What the clock did meanwhile would have been done without a restart too.
    let (by_clock, done): (Vec<Done>, Vec<Done>) = sim
        .done
        .drain(before..)
        .partition(|done| scheduled(&done.rule));
    sim.done.extend(by_clock);
    let found: Vec<String> = done
        .into_iter()
        .filter(|done| !done.rule.starts_with('@'))
        .map(|done| {
            format!(
                "a restarted process was not done: rule {}, row {}: {}",
                done.rule, done.key, done.what
            )
        })
        .collect();
    Ok(found)
}

fn unsettled(sim: &Sim) -> String {
    let Some(plan) = &sim.plan else {
        return "the instance is going, what it owned is still there".to_owned();
    };
    let mut left: Vec<String> = Vec::new();
    for rule in &plan.rules {
        if let Some(failure) = &rule.failure {
            left.push(format!("rule {}: {failure}", rule.rule));
        }
        for row in &rule.rows {
            if row.state != crate::RowState::Done {
                left.push(format!(
                    "rule {}, row {}: {:?} {}",
                    rule.rule, row.key, row.state, row.note
                ));
            }
        }
    }
    if left.is_empty() {
        left.push("every rule is settled, but status or probes keep changing".to_owned());
    }
    left.truncate(8);
    left.join("; ")
}

fn trace(sim: &Sim) -> Vec<String> {
    sim.done
        .iter()
        .map(|done| {
            let failure = done
                .failure
                .as_ref()
                .map_or_else(String::new, |failure| format!("  FAILED: {failure}"));
            format!(
                "{:>8} {:<20} {}{failure}",
                sim::clock(done.at),
                done.rule,
                done.what
            )
        })
        .collect()
}

/// Which objects there are in the end. Pods of Deployments have chance names; they are counted.
fn end_of(sim: &Sim) -> BTreeSet<String> {
    let mut end = BTreeSet::new();
    let mut chance: BTreeMap<String, usize> = BTreeMap::new();
    for (reference, object) in &sim.world.objects {
        let owner = world::text(object, "/metadata/ownerReferences/0/kind");
        if owner == "ReplicaSet" {
            let name = world::text(object, "/metadata/ownerReferences/0/name");
            *chance
                .entry(format!("{} of {name}", reference.gvk.kind))
                .or_default() += 1;
        } else {
            end.insert(reference.to_string());
        }
    }
    end.extend(
        chance
            .into_iter()
            .map(|(name, count)| format!("{count} {name}")),
    );
    end
}

fn happen(sim: &mut Sim, change: &Change) -> Result<(), String> {
    let find = |sim: &Sim, name: &str| {
        sim.world
            .find(name)
            .ok_or_else(|| format!("there is no {name} (Kind/name)"))
    };
    let instance = sim.instance.clone();
    match change {
        Change::Field(path, value) => sim.world.update(&instance, |object| {
            put(object, path, value.clone());
        }),
        Change::Spec(value) => sim.world.update(&instance, |object| merge(object, value)),
        Change::Kill(name) => {
            let object = find(sim, name)?;
            sim.world.kill(&object);
        }
        Change::Restart(name) => {
            let object = find(sim, name)?;
            sim.world.restart(&object);
        }
        Change::Delete(name) => {
            let object = find(sim, name)?;
            sim.world
                .delete(&object, None)
                .map_err(|failure| failure.message)?;
        }
        Change::Wipe(name) => {
            let object = find(sim, name)?;
            if let Some(uid) = sim.world.restart(&object) {
                sim.redis.wipe(&object.name, &uid);
            }
        }
        Change::Partition(name) => {
            sim.redis.partitioned.insert(find(sim, name)?.name);
        }
        Change::Heal(name) => {
            let pod = name.rsplit('/').next().unwrap_or_default();
            if !sim.redis.partitioned.remove(pod) {
                return Err(format!("{name} was not partitioned"));
            }
        }
        Change::Write(keys) => sim.redis.write(*keys),
        Change::Answers(answers) => sim.answer(answers),
        Change::Object(object) => {
            let object = &at_home(object, &sim.cr());
            let former = crate::ledger::reference(object)
                .and_then(|reference| sim.world.objects.get(&reference).cloned());
            let mut value = former.unwrap_or_else(|| json!({}));
            merge(&mut value, object);
            sim.world.store(value);
        }
    }
    Ok(())
}

/// An API server would take the instance so.
fn accepted(package: &Compiled, instance: &Value) -> Result<(), String> {
    let wrong = schema::refused(package.crd(), &package.gvk().version, instance);
    if wrong.is_empty() {
        return Ok(());
    }
    Err(format!(
        "the definition does not allow this {}: {}",
        package.gvk().kind,
        wrong.join("; ")
    ))
}

/// Kinds of objects that are in no namespace, of those that packages and scenarios speak of.
const NOWHERE: &[&str] = &[
    "Namespace",
    "Node",
    "PersistentVolume",
    "StorageClass",
    "ClusterRole",
    "ClusterRoleBinding",
    "CustomResourceDefinition",
    "PriorityClass",
    "IngressClass",
    "CSIDriver",
    "ValidatingWebhookConfiguration",
    "MutatingWebhookConfiguration",
];

/// The object, in the instance's namespace when it names none.
fn at_home(object: &Value, instance: &Value) -> Value {
    let mut object = object.clone();
    let kind = object["kind"].as_str().unwrap_or_default();
    if !NOWHERE.contains(&kind) && object.pointer("/metadata/namespace").is_none() {
        object["metadata"]["namespace"] = instance["metadata"]["namespace"].clone();
    }
    object
}

/// Sets a value, making the maps on the way.
fn put(object: &mut Value, path: &ColumnPath, value: Value) {
    let mut current = object;
    for segment in path.segments() {
        let Segment::Key(key) = segment else { return };
        if !current.is_object() {
            *current = json!({});
        }
        current = &mut current[key.as_str()];
    }
    *current = value;
}

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

fn datum(value: &Value) -> Datum {
    match value {
        Value::Null => Datum::Null,
        Value::Bool(truth) => Datum::from(*truth),
        Value::Number(number) => number.as_i64().map_or_else(
            || number.as_f64().map_or(Datum::Null, Datum::Float),
            Datum::Int,
        ),
        Value::String(text) => Datum::from(text.as_str()),
        other => Datum::from(libretto_mirror::canonical_json(other)),
    }
}
