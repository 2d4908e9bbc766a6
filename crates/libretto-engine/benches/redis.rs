//! What one evaluation of the Redis package costs for one instance of three nodes and three Sentinels.
//!
//! Prints microseconds: for an engine that knows nothing yet, when nothing changed, when targets were asked again and answered the same,
//! and when a node's role goes back and forth.

#![allow(clippy::print_stdout, clippy::unwrap_used, missing_docs)]

use std::{path::Path, sync::Arc, time::Instant};

use libretto_api::{chart::NoCharts, intent::Millis};
use libretto_engine::{Compiled, Engine, Ledger, load_dir};
use libretto_mirror::{Change, Mirror, ScopeMode, Snapshot};
use serde_json::{Value, json};

const NOW: Millis = 1_700_000_000_000;

fn pod(component: &str, number: usize) -> Value {
    let name = match component {
        "redis" => format!("redis-cluster-demo-{number}"),
        _ => format!("redis-sentinel-demo-{number}"),
    };
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": name, "namespace": "ns", "uid": name, "resourceVersion": "1",
            "labels": {"app.kubernetes.io/managed-by": "redis-operator", "app.kubernetes.io/component": component},
            "ownerReferences": [{"uid": "cr", "controller": true}],
        },
        "status": {
            "phase": "Running", "podIP": format!("10.0.{}.{number}", component.len()),
            "conditions": [{"type": "Ready", "status": "True"}],
            "containerStatuses": [{"name": component, "state": {"running": {"startedAt": "2023-11-14T22:13:20Z"}}}],
        },
    })
}

/// What a target answers: node 0 is the master, unless another is said to be.
fn answer(table: &str, key: &str, master: usize) -> Value {
    let role = if key.ends_with(&master.to_string()) {
        json!({"role": "master", "connected_slaves": "2"})
    } else {
        json!({
            "role": "slave", "master_host": format!("10.0.5.{master}"), "master_link_status": "up", "slave_priority": "1",
        })
    };
    match table {
        "redis_info" => {
            json!({"replication": role, "server": {"redis_version": "7.2.4"}, "persistence": {"loading": "0"}})
        }
        "redis_config" => {
            json!({"hz": "10", "save": "", "appendonly": "yes", "tcp-keepalive": "60"})
        }
        "sentinel_info" => json!({
            "masters": [{
                "name": "mymaster", "ip": "10.0.5.0", "flags": "master", "config-epoch": "1", "quorum": "2", "num-slaves": "2",
                "num-other-sentinels": "2", "down-after-milliseconds": "5000", "failover-timeout": "10000", "parallel-syncs": "1",
            }],
            "info": {},
        }),
        _ => json!([]),
    }
}

struct World {
    package: Arc<Compiled>,
    mirror: Mirror,
}

impl World {
    fn new(package: Arc<Compiled>) -> Self {
        let mut mirror = Mirror::new(ScopeMode::Any);
        mirror.declare(package.schema().clone());
        let gvk = package.gvk();
        let cr = json!({
            "apiVersion": gvk.api_version(), "kind": gvk.kind,
            "metadata": {"name": "demo", "namespace": "ns", "uid": "cr", "resourceVersion": "1"}, "spec": {},
        });
        mirror.ingest(gvk, Change::Applied(&cr)).unwrap();
        for component in ["redis", "sentinel"] {
            for number in 0..3 {
                let pod = pod(component, number);
                mirror
                    .ingest(&"v1/Pod".parse().unwrap(), Change::Applied(&pod))
                    .unwrap();
            }
        }
        Self { package, mirror }
    }

    /// Every target that the engine wants to ask answers, until no new ones come.
    fn answered(&mut self, engine: &Engine, at: Millis, master: usize) -> Snapshot {
        for _ in 0..3 {
            let plan = engine.plan(&self.snapshot(), &Ledger::default(), at, 1);
            for target in &plan.probes {
                let answer = answer(&target.table, &target.key, master);
                self.mirror
                    .probe_result(
                        self.package.name(),
                        "cr",
                        &target.table,
                        &target.key,
                        Ok(&answer),
                        at,
                    )
                    .unwrap();
            }
        }
        self.snapshot()
    }

    fn snapshot(&self) -> Snapshot {
        let snapshot = self.mirror.snapshot(self.package.name(), "cr");
        snapshot.unwrap().unwrap()
    }
}

fn main() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../packages/redis");
    let package = Arc::new(load_dir(&folder).unwrap());
    let engine = || Engine::new(Arc::clone(&package), Arc::new(NoCharts));
    let warm = engine();
    let mut world = World::new(Arc::clone(&package));
    let mut snapshots = |master| -> Vec<Snapshot> {
        (0..10)
            .map(|second| world.answered(&warm, NOW + 1_000 * second, master))
            .collect()
    };
    let (calm, moved) = (snapshots(0), snapshots(1));
    let ledger = Ledger::default();
    let plan = warm.plan(&calm[0], &ledger, NOW, 1);
    assert!(plan.rules.iter().all(|rule| rule.failure.is_none()));
    let measure = |name: &str, rounds: usize, pass: &dyn Fn(usize)| {
        let start = Instant::now();
        for round in 0..rounds {
            pass(round);
        }
        let each = start.elapsed().as_secs_f64() * 1e6 / rounds as f64;
        println!("{name:<40} {each:>8.1} µs");
    };
    let plan = |engine: &Engine, snapshot: &Snapshot| {
        let plan = engine.plan(snapshot, &ledger, NOW, 1);
        assert!(!plan.rules.is_empty());
    };
    measure("an engine, and its first evaluation", 20, &|_| {
        plan(&engine(), &calm[0]);
    });
    measure("nothing changed", 2_000, &|_| plan(&warm, &calm[0]));
    measure("asked again, answered the same", 2_000, &|round| {
        plan(&warm, &calm[round % 10]);
    });
    measure("another master each time", 2_000, &|round| {
        plan(&warm, &[&calm, &moved][round % 2][0]);
    });
}
