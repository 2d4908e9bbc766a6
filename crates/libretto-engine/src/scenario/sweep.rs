//! Plays a scenario, and then again with everything that may not matter: the engine dying before and after each effect, and events
//! in another order.
//!
//! A run with a crash is the undisturbed one up to the crash, so it begins there, with what a new process finds. And it need not be
//! played to its end: as soon as its state is one from which another run has come to a good end, it comes to that end too
//! ([`Sim::print`] says what a state is). Both change what is computed and not what is found; which threads there are changes
//! neither.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    ops::ControlFlow,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use libretto_api::chart::Charts;

use super::{Played, Scenario, sim::Stage};
use crate::Compiled;

/// Other orders of events tried per scenario.
const SHUFFLES: usize = 3;

/// States from which a run has come to a good end, at most; more are not remembered. A scenario of an hour has some ten thousand.
const KNOWN: usize = 1_000_000;

/// Most runs with a crash are soon where others were; after so many ticks a state is looked at every other second only, in all runs at
/// the same ones.
const SOON: usize = 10;

/// Stages for the threads that play, kept from scenario to scenario for what their engines remember.
#[derive(Debug)]
pub(super) struct Stages {
    package: Arc<Compiled>,
    charts: Arc<dyn Charts>,
    free: Mutex<Vec<Stage>>,
}

impl Stages {
    pub(super) fn new(package: Arc<Compiled>, charts: Arc<dyn Charts>) -> Self {
        Self {
            package,
            charts,
            free: Mutex::default(),
        }
    }

    pub(super) fn take(&self) -> Stage {
        let free = lock(&self.free).pop();
        free.unwrap_or_else(|| Stage::new(Arc::clone(&self.package), Arc::clone(&self.charts)))
    }

    pub(super) fn put_back(&self, stage: Stage) {
        lock(&self.free).push(stage);
    }

    /// Does so many things on all processors, the first ones first. When one gives what is `enough`, those after it may be left out;
    /// those before it are done in any case, so that the first such one is always the same.
    fn all<T: Send>(
        &self,
        count: usize,
        work: impl Fn(usize, &Stage) -> T + Sync,
        enough: impl Fn(&T) -> bool + Sync,
    ) -> BTreeMap<usize, T> {
        let workers = std::thread::available_parallelism().map_or(1, usize::from);
        let next = AtomicUsize::new(0);
        let done = Mutex::new(BTreeMap::new());
        let worker = || {
            let stage = self.take();
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= count {
                    break;
                }
                let result = work(number, &stage);
                if enough(&result) {
                    next.fetch_max(count, Ordering::Relaxed);
                }
                lock(&done).insert(number, result);
            }
            self.put_back(stage);
        };
        std::thread::scope(|scope| {
            for _ in 1..workers.min(count) {
                scope.spawn(worker);
            }
            worker();
        });
        done.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A panic in one run is passed on by the scope; what others found is whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What was not as expected, and the effects of the undisturbed run.
pub(super) fn sweep(scenario: &Scenario, stages: &Stages) -> (Vec<String>, Vec<String>) {
    // Which orders are tried depends on nothing, so that they are played beside the undisturbed run; its forks are known after it.
    let shuffles = if scenario.sweep { SHUFFLES } else { 0 };
    let mut known = HashSet::new();
    let calm_known = Mutex::new(&mut known);
    let mut whole = stages.all(
        1 + shuffles,
        |shuffle, stage| {
            let mut sim = scenario.set_up(stage, shuffle as u64)?;
            if shuffle > 0 {
                return scenario.play(&mut sim, false, &mut |_sim| ControlFlow::Continue(()));
            }
            sim.forks = scenario.sweep.then(Vec::new);
            let mut calm_known = lock(&calm_known);
            scenario.play(&mut sim, true, &mut |sim| {
                calm_known.insert(sim.print());
                ControlFlow::Continue(())
            })
        },
        |_played| false,
    );
    let calm = whole.remove(&0).expect("nothing is left out");
    let calm = match calm {
        Ok(calm) => calm,
        Err(error) => return (vec![error], Vec::new()),
    };
    let Played {
        failures,
        end,
        trace,
        forks,
    } = calm;
    if !failures.is_empty() {
        return (failures, trace);
    }
    let known = Mutex::new(known);
    let crashed = stages.all(
        forks.len(),
        |number, stage| {
            let mut own = Vec::new();
            let mut merged = false;
            let mut ticks = 0;
            let played = scenario.resume(stage, &forks[number], &mut |sim| {
                ticks += 1;
                if ticks > SOON && !sim.on_the_second() {
                    return ControlFlow::Continue(());
                }
                let print = sim.print();
                if lock(&known).contains(&print) {
                    merged = true;
                    return ControlFlow::Break(());
                }
                own.push(print);
                ControlFlow::Continue(())
            });
            let failures = if merged {
                Vec::new()
            } else {
                differences(played, &end)
            };
            if failures.is_empty() {
                let mut known = lock(&known);
                if known.len() < KNOWN {
                    known.extend(own);
                }
            }
            failures
        },
        |failures| !failures.is_empty(),
    );
    let crashed = crashed.into_iter().map(|(number, failures)| {
        let name = format!("after a crash {}", forks[number].name);
        (name, failures)
    });
    let shuffled = whole.into_iter().map(|(shuffle, played)| {
        let name = format!("with events in another order ({shuffle})");
        (name, differences(played, &end))
    });
    let failures = crashed
        .chain(shuffled)
        .find(|(_name, failures)| !failures.is_empty())
        .into_iter()
        // One that fails is enough to look at.
        .flat_map(|(name, failures)| {
            failures
                .into_iter()
                .map(move |failure| format!("{name}: {failure}"))
        })
        .collect();
    (failures, trace)
}

/// What was not as expected in one disturbed run.
fn differences(played: Result<Played, String>, expected: &BTreeSet<String>) -> Vec<String> {
    let Played {
        mut failures, end, ..
    } = match played {
        Ok(played) => played,
        Err(error) => return vec![error],
    };
    if end != *expected {
        let missing: Vec<&String> = expected.difference(&end).collect();
        let more: Vec<&String> = end.difference(expected).collect();
        failures.push(format!(
            "other objects in the end: missing {missing:?}, more {more:?}"
        ));
    }
    failures
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use libretto_api::chart::NoCharts;

    use super::{super::read, *};
    use crate::scenario::{print::Print, sim::Sim};

    /// Pods that are probed, called once, called again and again, and told of; a repeated call and a stable one.
    const SETS: &str = r#"
sense:
  pods: {watch: v1/Pod, cols: {ip: status.podIP, ready: {path: "status.conditions[type=Ready].status", type: bool}}}
  info:
    probe: redis
    for: SELECT name AS key, ip FROM pods WHERE ip IS NOT NULL
    every: 1s
    with: {host: "{{ ip }}", command: [INFO, replication]}
    cols: {role: role, link: master_link_status}
decide:
  nodes: SELECT p.name, p.ip, i.role, i.link FROM pods p JOIN info i ON i.key = p.name AND i.ok ORDER BY p.name
  first: SELECT name, ip FROM nodes WHERE role = 'master' ORDER BY name LIMIT 1
execute:
  - name: set
    apply:
      apiVersion: apps/v1
      kind: StatefulSet
      metadata: {name: "{{ cr.name }}"}
      spec: {replicas: "{{ cr.size }}", podManagementPolicy: Parallel, template: {metadata: {labels: {app: x}}, spec: {containers: [{name: c, image: "redis:7", ports: [{containerPort: 6379}]}]}}}
  - name: mark
    for: SELECT name FROM nodes WHERE role = 'master'
    own: false
    apply: {apiVersion: v1, kind: ConfigMap, metadata: {name: "was-{{ name }}"}}
    leave: orphan
  - name: follow
    for: SELECT n.name, n.ip, f.ip AS master FROM nodes n, first f WHERE n.role = 'master' AND n.name <> f.name
    stable: 1s
    repeat: 2s
    call: redis
    with: {host: "{{ ip }}", command: [SLAVEOF, "{{ master }}", "6379"]}
    event: {reason: Follows, message: "{{ name }}"}
  - name: greet
    for: SELECT name FROM nodes WHERE link = 'up'
    once: true
    call: event
    with: {reason: Follows, message: "{{ name }}"}
  - status:
      fields: SELECT count(*) AS size FROM nodes
"#;

    const TESTS: &str = r"
- name: up, hurt, larger
  given: {cr: {size: 3}}
  steps:
    - until: settled
      expect: {status: {size: 3}}
    - set: {kill: Pod/demo-1}
      for: 2s
    - until: settled
      expect: {calls: {greet: 1}, never: SELECT 1 FROM nodes WHERE name = 'nobody'}
    - set: {cr: {size: 4}}
      until: settled
      expect: {status: {size: 4}}
";

    fn stages() -> (Stages, Scenario) {
        let mut files = crate::tests::package(SETS);
        files.insert("tests.yaml".to_owned(), TESTS.to_owned());
        let (package, mut scenarios) =
            read(&files).unwrap_or_else(|found| panic!("{}", crate::render(&found)));
        (
            Stages::new(package, Arc::new(NoCharts)),
            scenarios.remove(0),
        )
    }

    /// A run and all its states.
    fn played(
        play: impl FnOnce(&mut dyn FnMut(&Sim<'_>) -> ControlFlow<()>) -> Result<Played, String>,
    ) -> (Played, Vec<Print>) {
        let mut prints = Vec::new();
        let played = play(&mut |sim| {
            prints.push(sim.print());
            ControlFlow::Continue(())
        });
        (played.unwrap(), prints)
    }

    #[test]
    fn a_fork_goes_on_as_the_run_does_in_which_the_engine_dies_there() {
        let (stages, scenario) = stages();
        let stage = stages.take();
        let run = |dies_at| {
            let mut sim = scenario.set_up(&stage, 0).unwrap();
            sim.forks = Some(Vec::new());
            sim.dies_at = dies_at;
            played(|passed| scenario.play(&mut sim, dies_at.is_none(), passed))
        };
        let (calm, calm_prints) = run(None);
        assert_eq!(calm.failures, Vec::<String>::new());
        assert!(calm.forks.len() > 20, "{}", calm.forks.len());
        let mut merged = 0;
        for (number, fork) in calm.forks.iter().enumerate() {
            let (replayed, all) = run(Some(number));
            let (forked, prints) = played(|passed| scenario.resume(&stage, fork, passed));
            assert!(all.ends_with(&prints), "{}", fork.name);
            assert!(prints.len() < all.len() || number < 20, "{}", fork.name);
            assert_eq!(forked.failures, replayed.failures, "{}", fork.name);
            assert_eq!(forked.end, replayed.end, "{}", fork.name);
            // And what a state is says all that the rest follows from.
            let met = prints.iter().enumerate().find_map(|(place, print)| {
                let calm_place = calm_prints.iter().position(|calm| calm == print)?;
                Some((place, calm_place))
            });
            if let Some((place, calm_place)) = met {
                merged += 1;
                assert_eq!(prints[place..], calm_prints[calm_place..], "{}", fork.name);
            }
        }
        assert!(merged > 10, "{merged} of {}", calm.forks.len());
    }
}
