//! Runs a package's scenarios (`tests.yaml`) against a simulated world, in milliseconds.
//!
//! Every scenario is also swept ([`sweep`]): the pass after settling must be empty, a restarted process must find nothing to do, a
//! crash before or after any effect must lead to the same end, and so must events in another order.

mod answers;
mod expect;
mod names;
mod print;
mod redis;
pub(crate) mod schema;
mod sim;
mod sweep;
pub(crate) mod world;

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::ControlFlow,
    sync::Arc,
};

use libretto_api::{
    chart::Charts,
    intent::Millis,
    package::{TESTS_FILE, parse_duration},
};
use libretto_mirror::{ColumnPath, Datum, Segment, Sheet, Snapshot, Table};
use serde_json::{Value, json};
use sim::{Done, Fork, Place, Sim, Stage};
use sweep::Stages;

use crate::{
    Compiled, Diagnostic, Ledger, load_files,
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
/// How often it is looked whether a step has settled.
const LOOK_MS: Millis = 5_000;

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
    let stages = Stages::new(package, Arc::clone(charts));
    Ok(scenarios
        .iter()
        .filter(|scenario| filter.is_none_or(|filter| scenario.name.contains(filter)))
        .map(|scenario| {
            watcher(Moment::Begins(&scenario.name));
            let report = scenario.report(&stages);
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
        sheet: package.sheet(),
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
    sheet: Sheet,
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
        for (at, message) in names::unknown(self.package, &self.sheet, node) {
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
            let columns = columns.into();
            tables.insert(key.text.clone(), Table { columns, rows });
        }
        for (at, message) in names::unknown_tables(self.package, &self.sheet, node) {
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

/// What came of playing a scenario to its end.
struct Played {
    failures: Vec<String>,
    /// Which objects there are in the end.
    end: BTreeSet<String>,
    trace: Vec<String>,
    forks: Vec<Fork>,
}

impl Scenario {
    fn report(&self, stages: &Stages) -> Report {
        let (failures, trace) = match &self.tables {
            Some(tables) => (self.of_tables(stages, tables), Vec::new()),
            None => sweep::sweep(self, stages),
        };
        Report {
            name: self.name.clone(),
            failures,
            trace,
        }
    }

    /// The world before the first step.
    fn set_up<'s>(&self, stage: &'s Stage, shuffle: u64) -> Result<Sim<'s>, String> {
        let package = stage.engine.package();
        accepted(package, &self.instance).map_err(|error| format!("given: {error}"))?;
        let mut instance = self.instance.clone();
        schema::default(package.crd(), &package.gvk().version, &mut instance);
        let mut sim = Sim::new(stage, instance, shuffle)?;
        for object in &self.objects {
            sim.world.store(at_home(object, &self.instance));
        }
        sim.answer(&self.answers);
        Ok(sim)
    }

    /// Plays every step. `passed` is shown the state after every tick; what it says ends the run as one without failures.
    fn play(
        &self,
        sim: &mut Sim<'_>,
        calm: bool,
        passed: &mut dyn FnMut(&Sim<'_>) -> ControlFlow<()>,
    ) -> Result<Played, String> {
        let failures = self.go_on(sim, false, calm, passed)?;
        Ok(Played {
            failures,
            end: end_of(sim),
            trace: trace(sim),
            forks: sim.forks.take().unwrap_or_default(),
        })
    }

    /// Plays on from where the engine died.
    fn resume(
        &self,
        stage: &Stage,
        fork: &Fork,
        passed: &mut dyn FnMut(&Sim<'_>) -> ControlFlow<()>,
    ) -> Result<Played, String> {
        let instance = crate::ledger::reference(&self.instance)
            .ok_or_else(|| "the instance has no name".to_owned())?;
        let never = expect::never(&self.steps[fork.place.step].expect);
        let mut sim = Sim::resume(stage, &instance, fork, &never)?;
        let failures = self.go_on(&mut sim, true, false, passed)?;
        Ok(Played {
            failures,
            end: end_of(&sim),
            trace: trace(&sim),
            forks: Vec::new(),
        })
    }

    /// Plays from the simulation's place on: at the begin of the step, or (`midway`) at the end of a tick in it. When disturbed, how
    /// often and in which order things were done may differ; how it ends may not.
    fn go_on(
        &self,
        sim: &mut Sim<'_>,
        mut midway: bool,
        calm: bool,
        passed: &mut dyn FnMut(&Sim<'_>) -> ControlFlow<()>,
    ) -> Result<Vec<String>, String> {
        while let Some(step) = self.steps.get(sim.place.step) {
            let name = format!("step {} (line {})", sim.place.step + 1, step.line);
            let placed = |failure: String| format!("{name}: {failure}");
            if !midway {
                self.begin(sim, step).map_err(placed)?;
            }
            let begun = sim.done.len();
            if !sim.place.checking {
                if midway && sim.violations.is_empty() && passed(sim).is_break() {
                    return Ok(Vec::new());
                }
                let mut failures = Vec::new();
                loop {
                    let over = match step.until {
                        Until::Passed(ms) => sim.world.now >= sim.place.since + ms,
                        Until::Settled => midway && looked_at(sim) && sim.settled(),
                    };
                    if over {
                        break;
                    }
                    if matches!(step.until, Until::Settled)
                        && sim.world.now > sim.place.since + SETTLE_MS
                    {
                        return Ok(vec![placed(format!(
                            "did not settle in {} minutes: {}",
                            SETTLE_MS / 60_000,
                            unsettled(sim)
                        ))]);
                    }
                    sim.tick()?;
                    midway = true;
                    if sim.violations.is_empty() && passed(sim).is_break() {
                        return Ok(Vec::new());
                    }
                }
                failures.extend(sim.violations.iter().cloned().map(placed));
                failures.extend(
                    expect::check(sim, &step.expect, begun, calm)
                        .into_iter()
                        .map(placed),
                );
                if !failures.is_empty() && !sim.settled() {
                    failures.push(placed(format!("not settled: {}", unsettled(sim))));
                }
                if !failures.is_empty() {
                    return Ok(failures);
                }
            }
            if matches!(step.until, Until::Settled) {
                let failures = self.restarted(sim, passed)?;
                match failures {
                    ControlFlow::Break(()) => return Ok(Vec::new()),
                    ControlFlow::Continue(failures) if failures.is_empty() => {}
                    ControlFlow::Continue(failures) => {
                        return Ok(failures.into_iter().map(placed).collect());
                    }
                }
            }
            midway = false;
            sim.place = Place {
                step: sim.place.step + 1,
                checking: false,
                since: sim.world.now,
            };
        }
        Ok(Vec::new())
    }

    /// Lets happen what the step says.
    fn begin(&self, sim: &mut Sim<'_>, step: &Step) -> Result<(), String> {
        let package = Arc::clone(sim.package());
        for change in &step.set {
            happen(sim, change)?;
            if matches!(change, Change::Field(..) | Change::Spec(_)) {
                accepted(&package, &sim.cr())?;
                sim.change_cr(|instance| {
                    schema::default(package.crd(), &package.gvk().version, instance);
                });
            }
        }
        sim.watch_for(&expect::never(&step.expect));
        Ok(())
    }

    /// After settling: a new process must find nothing to do but ask its probes.
    fn restarted(
        &self,
        sim: &mut Sim<'_>,
        passed: &mut dyn FnMut(&Sim<'_>) -> ControlFlow<()>,
    ) -> Result<ControlFlow<(), Vec<String>>, String> {
        let package = Arc::clone(sim.package());
        // What the clock has done meanwhile would have been done without a restart too.
        let by_clock = |done: &Done| {
            package
                .rules
                .iter()
                .any(|rule| rule.name == done.rule && rule.schedule.is_some())
        };
        let (mut before, effects) = (0, sim.effects);
        if !sim.place.checking {
            before = sim.done.len();
            sim.restart()?;
            sim.place.checking = true;
            sim.place.since = sim.world.now;
            sim.tick()?;
        }
        loop {
            // What it should not have done is part of no state.
            let nothing_done = sim.done[before..]
                .iter()
                .all(|done| of_the_runtime(done) || by_clock(done));
            if nothing_done && passed(sim).is_break() {
                return Ok(ControlFlow::Break(()));
            }
            let settled = looked_at(sim) && sim.settled();
            if settled || sim.world.now > sim.place.since + SETTLE_MS {
                break;
            }
            sim.tick()?;
        }
        // Nothing of this belongs to the scenario's own account.
        sim.effects = effects;
        let (expected, done): (Vec<Done>, Vec<Done>) = sim.done.drain(before..).partition(by_clock);
        sim.done.extend(expected);
        let found = done
            .into_iter()
            .filter(|done| !of_the_runtime(done))
            .map(|done| {
                format!(
                    "a restarted process was not done: rule {}, row {}: {}",
                    done.rule, done.key, done.what
                )
            })
            .collect();
        Ok(ControlFlow::Continue(found))
    }

    /// What was not as expected with the rows that are given.
    fn of_tables(&self, stages: &Stages, tables: &BTreeMap<String, Table>) -> Vec<String> {
        let stage = stages.take();
        let package = stage.engine.package();
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
        let engine = &stage.engine;
        let pass = engine.pass(&snapshot, sim::START, &given);
        let plan = engine.plan_with(&snapshot, &Ledger::default(), sim::START, 1, &given);
        let failures = expect::check_rows(&pass, &plan, &self.expect);
        stages.put_back(stage);
        failures
    }
}

/// Until probes have answered, status may say so.
fn of_the_runtime(done: &Done) -> bool {
    done.rule.starts_with('@')
}

/// Whether it is a moment at which a step may be found to have settled: a run that was held up for a moment then goes on at the same
/// time as the others, and their states can be the same again.
fn looked_at(sim: &Sim<'_>) -> bool {
    (sim.world.now - sim::START) % LOOK_MS == 0
}

fn unsettled(sim: &Sim<'_>) -> String {
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

fn trace(sim: &Sim<'_>) -> Vec<String> {
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
fn end_of(sim: &Sim<'_>) -> BTreeSet<String> {
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

fn happen(sim: &mut Sim<'_>, change: &Change) -> Result<(), String> {
    let find = |sim: &Sim<'_>, name: &str| {
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
                .and_then(|reference| sim.world.objects.get(&reference));
            let mut value = former.map_or_else(|| json!({}), |object| Value::clone(object));
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
