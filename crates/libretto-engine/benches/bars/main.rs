//! The bars for speed and size: each measured beside a baseline of the same run, in one table.
//!
//! `cargo xtask bench [NAME]` runs it; a bar that is missed fails it. Times differ from machine to machine, ratios hardly.

#![allow(clippy::print_stdout, clippy::unwrap_used, missing_docs)]

mod heap;
mod world;

use std::{fmt::Write as _, process::ExitCode, sync::Arc, time::Instant};

use libretto_mirror::Snapshot;
use serde_json::Value;

use world::{NOW, World, foreign, package, pods};

/// Pods that are nobody's: a cluster nobody notices, and the largest one.
const FEW: usize = 1_000;
const MANY: usize = 500_000;
/// Objects of a start.
const OBJECTS: usize = 100_000;

/// Microseconds of many runs, in order.
struct Times(Vec<f64>);

impl Times {
    fn of(rounds: usize, mut run: impl FnMut(usize) -> f64) -> Self {
        let mut all: Vec<f64> = (0..rounds).map(&mut run).collect();
        all.sort_by(f64::total_cmp);
        Self(all)
    }

    fn part(&self, share: f64) -> f64 {
        self.0[((self.0.len() - 1) as f64 * share) as usize]
    }

    fn p50(&self) -> f64 {
        self.part(0.5)
    }

    fn shown(&self) -> String {
        format!("{:.0} µs (p99 {:.0})", self.p50(), self.part(0.99))
    }
}

fn micros(run: impl FnOnce()) -> f64 {
    let start = Instant::now();
    run();
    start.elapsed().as_secs_f64() * 1e6
}

/// Lines as they are measured.
struct Bars {
    filter: String,
    missed: usize,
}

impl Bars {
    fn wants(&self, group: &str) -> bool {
        group.contains(&self.filter)
    }

    /// `fine` is `None` where there is no bar.
    fn line(
        &mut self,
        what: &str,
        baseline: &str,
        measured: &str,
        ratio: Option<f64>,
        bar: &str,
        fine: Option<bool>,
    ) {
        let ratio = ratio.map_or_else(|| "-".to_owned(), |ratio| format!("×{ratio:.2}"));
        self.missed += usize::from(fine == Some(false));
        let verdict = match fine {
            Some(true) => "yes",
            Some(false) => "NO",
            None => "-",
        };
        println!(
            "{what:<42} | {baseline:<34} | {measured:<20} | {ratio:<6} | {bar:<16} | {verdict}"
        );
    }
}

fn main() -> ExitCode {
    // Cargo adds `--bench`.
    let filter = std::env::args().skip(1).find(|word| !word.starts_with('-'));
    let mut bars = Bars {
        filter: filter.unwrap_or_default(),
        missed: 0,
    };
    println!(
        "{:<42} | {:<34} | {:<20} | {:<6} | {:<16} | ok?",
        "what", "baseline", "measured", "ratio", "bar"
    );
    let package = package();
    if ["pass", "event", "memory"]
        .iter()
        .any(|group| bars.wants(group))
    {
        let mut few = World::beside(Arc::clone(&package), FEW);
        let before = heap::live();
        let mut many = World::beside(Arc::clone(&package), MANY);
        let bytes = (heap::live() - before) as f64 / MANY as f64;
        if bars.wants("memory") {
            memory(&mut bars, bytes, &many);
        }
        if bars.wants("pass") {
            passes(&mut bars, &mut few, &mut many);
        }
        if bars.wants("event") {
            events(&mut bars, &mut few, &mut many);
        }
    }
    if bars.wants("redis") {
        redis(&mut bars, World::beside(Arc::clone(&package), 0));
    }
    if bars.wants("load") {
        load(&mut bars, World::new(package));
    }
    match bars.missed {
        0 => ExitCode::SUCCESS,
        missed => {
            println!("{missed} missed");
            ExitCode::FAILURE
        }
    }
}

/// Bytes of everything the mirror keeps for a foreign pod, beside the bytes of what its columns say.
fn memory(bars: &mut Bars, bytes: f64, many: &World) {
    let pod = foreign(MANY / 2);
    let schema = many.package.schema();
    let watch = schema.watches.iter().find(|watch| watch.name == "pods");
    let mut told = 8; // when it was created
    for place in ["uid", "namespace", "name"] {
        told += pod["metadata"][place].as_str().unwrap().len();
    }
    told += pod["metadata"]["labels"].to_string().len();
    for column in &watch.unwrap().columns {
        told += column.read(&pod).as_str().map_or(8, str::len);
    }
    let told = told as f64;
    bars.line(
        "memory of a foreign pod",
        &format!("{told:.0} B of values"),
        &format!("{bytes:.0} B"),
        Some(bytes / told),
        "250 B",
        Some(bytes <= 250.0),
    );
}

/// Snapshot and plan.
fn passes(bars: &mut Bars, few: &mut World, many: &mut World) {
    type Measure = fn(&mut World) -> Times;
    let kinds: [(&str, Measure, Option<f64>); 3] = [
        ("pass where nothing changed", unchanged, Some(300.0)),
        (
            "pass after one column of a pod changed",
            changed,
            Some(300.0),
        ),
        ("pass of an engine that knows nothing", cold, None),
    ];
    for (name, measure, most) in kinds {
        let (alone, beside) = (measure(few), measure(many));
        let ratio = beside.p50() / alone.p50();
        let bar = most.map_or_else(|| "×1.5".to_owned(), |most| format!("{most:.0} µs, ×1.5"));
        let fine = ratio <= 1.5 && most.is_none_or(|most| beside.p50() <= most);
        bars.line(
            name,
            &format!("{} by {FEW}", alone.shown()),
            &beside.shown(),
            Some(ratio),
            &bar,
            Some(fine),
        );
    }
}

fn unchanged(world: &mut World) -> Times {
    let engine = world.warm();
    Times::of(2_000, |_| micros(|| drop(world.plan(&engine))))
}

fn changed(world: &mut World) -> Times {
    let engine = world.warm();
    let mut pod = World::own("redis", 1);
    let times = Times::of(2_000, |round| {
        world.later(&mut pod);
        pod["status"]["conditions"][0]["message"] = format!("message {round}").into();
        assert_eq!(world.take(&pod).instances.len(), 1);
        micros(|| drop(world.plan(&engine)))
    });
    // As it was.
    let mut pod = World::own("redis", 1);
    world.later(&mut pod);
    world.take(&pod);
    times
}

fn cold(world: &mut World) -> Times {
    world.warm();
    Times::of(50, |_| micros(|| drop(world.plan(&world.engine()))))
}

/// What one change of a pod costs, and what it takes from the heap.
fn events(bars: &mut Bars, few: &mut World, many: &mut World) {
    let kinds: [(&str, Value); 2] = [
        ("event of no column, foreign pod", foreign(7)),
        ("event of no column, own pod", World::own("redis", 1)),
    ];
    for (name, pod) in kinds {
        let mut taken = 0;
        let mut measure = |world: &mut World| {
            let mut pod = pod.clone();
            Times::of(5_000, |round| {
                world.later(&mut pod);
                pod["status"]["hostIP"] = format!("192.168.1.{}", round % 250).into();
                let before = heap::taken();
                let each = micros(|| assert!(world.take(&pod).is_empty()));
                taken = heap::taken() - before;
                each
            })
        };
        let (alone, beside) = (measure(few), measure(many));
        bars.line(
            name,
            &format!("{:.1} µs by {FEW}, {taken} allocations", alone.p50()),
            &format!("{:.1} µs (p99 {:.0})", beside.p50(), beside.part(0.99)),
            Some(beside.p50() / alone.p50()),
            "20 µs",
            Some(beside.p50() <= 20.0),
        );
    }
}

/// Passes of an instance that is alone, by what moved.
fn redis(bars: &mut Bars, mut world: World) {
    let engine = world.engine();
    let mut snapshots = |master| -> Vec<Snapshot> {
        (0..10)
            .map(|second| world.answered(&engine, NOW + 1_000 * second, master))
            .collect()
    };
    let (calm, moved) = (snapshots(0), snapshots(1));
    let ledger = libretto_engine::Ledger::default();
    let plan = |snapshot: &Snapshot| micros(|| drop(engine.plan(snapshot, &ledger, NOW, 1)));
    let same = Times::of(2_000, |_| plan(&calm[0]));
    let baseline = same.shown();
    for (name, times) in [
        (
            "redis: asked again, answered the same",
            Times::of(2_000, |round| plan(&calm[round % 10])),
        ),
        (
            "redis: another master each time",
            Times::of(2_000, |round| plan(&[&calm, &moved][round % 2][0])),
        ),
    ] {
        let ratio = times.p50() / same.p50();
        bars.line(name, &baseline, &times.shown(), Some(ratio), "-", None);
    }
}

/// From the bytes of lists, in pages of 500 as an API server gives them, to the first pass.
fn load(bars: &mut Bars, mut world: World) {
    let pages: Vec<Vec<u8>> = (0..OBJECTS / 500)
        .map(|page| {
            let mut text = String::from("{\"items\":[");
            for number in 0..500 {
                let separator = if number == 0 { "" } else { "," };
                let _ = write!(text, "{separator}{}", foreign(page * 500 + number));
            }
            text.push_str("]}");
            text.into_bytes()
        })
        .collect();
    let parsed = |page: &Vec<u8>| -> Value { serde_json::from_slice(page).unwrap() };
    let parsing = micros(|| pages.iter().for_each(|page| drop(parsed(page))));
    let all = micros(|| {
        let items: Vec<Value> = pages
            .iter()
            .flat_map(|page| match parsed(page)["items"].take() {
                Value::Array(items) => items,
                _ => Vec::new(),
            })
            .collect();
        world.mirror.replace_all(&pods(), None, &items).unwrap();
        world.redis();
        world.warm();
    });
    bars.line(
        "load of 100000 objects to the first pass",
        &format!("{:.2} s to parse them", parsing / 1e6),
        &format!("{:.2} s", all / 1e6),
        Some(all / parsing),
        "10 s",
        Some(all <= 10e6),
    );
}
