//! What an event and an evaluation cost, alone and beside many objects that are no package's business.
//!
//! Prints microseconds and the ratio between the two; the ratio is what must stay near one.

#![allow(clippy::print_stdout, clippy::unwrap_used, missing_docs)]

use std::{collections::BTreeMap, sync::Arc, time::Instant};

use libretto_engine::{Engine, Ledger, load_files};
use libretto_mirror::{Change, Mirror, ScopeMode};
use serde_json::{Value, json};

const PACKAGE: &str = r#"
apiVersion: libretto.dev/v1alpha1
kind: Package
metadata: {name: bench, version: 1.0.0}
spec:
  crd: {file: crd.yaml, version: v1, fields: {size: {path: spec.size, type: int}}}
  sense:
    pods: {watch: v1/Pod, cols: {ip: status.podIP, ready: {path: "status.conditions[type=Ready].status", type: bool}}}
  decide:
    serving: SELECT name, ip FROM pods WHERE ready AND NOT deleting
    missing: SELECT :size - count(*) AS n FROM serving
  execute:
    - name: object
      apply: {apiVersion: v1, kind: ConfigMap, metadata: {name: "{{ cr.name }}"}, data: {size: "{{ cr.size ~ '' }}"}}
    - name: greet
      for: SELECT name, ip FROM serving
      once: true
      call: event
      with: {reason: Serves, message: "{{ name }} at {{ ip }}"}
    - status: {fields: SELECT n AS missing FROM missing}
"#;

const CRD: &str = r"
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: benches.example.dev}
spec:
  group: example.dev
  scope: Namespaced
  names: {kind: Bench, plural: benches}
  versions:
    - {name: v1, served: true, storage: true, subresources: {status: {}}, schema: {openAPIV3Schema: {type: object, properties: {spec: {type: object, properties: {size: {type: integer}}}, status: {type: object, x-kubernetes-preserve-unknown-fields: true}}}}}
";

fn pod(name: &str, owner: Option<&str>, version: usize, ip: &str) -> Value {
    let mut pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "ns", "uid": name, "resourceVersion": version.to_string(), "labels": {"app": "x"}},
        "spec": {"containers": [{"name": "c", "image": "i", "env": [{"name": "A", "value": "B"}]}]},
        "status": {"podIP": ip, "conditions": [{"type": "Ready", "status": "True"}]},
    });
    if let Some(owner) = owner {
        pod["metadata"]["ownerReferences"] = json!([{"uid": owner, "controller": true}]);
    }
    pod
}

/// Microseconds of one event, one unchanged event, and one evaluation, beside so many foreign pods.
fn measure(foreign: usize) -> [f64; 3] {
    let files = BTreeMap::from([
        ("package.yaml".to_owned(), PACKAGE.to_owned()),
        ("crd.yaml".to_owned(), CRD.to_owned()),
    ]);
    let package = Arc::new(load_files(&files).unwrap());
    let mut mirror = Mirror::new(ScopeMode::Any);
    mirror.declare(package.schema().clone());
    let gvk = "v1/Pod".parse().unwrap();
    for number in 0..foreign {
        let foreign = pod(&format!("foreign-{number}"), None, 1, "10.0.0.1");
        mirror.ingest(&gvk, Change::Applied(&foreign)).unwrap();
    }
    let cr = json!({"apiVersion": "example.dev/v1", "kind": "Bench", "metadata": {"name": "demo", "namespace": "ns", "uid": "cr", "resourceVersion": "1"}, "spec": {"size": 3}});
    mirror
        .ingest(
            &"example.dev/v1/Bench".parse().unwrap(),
            Change::Applied(&cr),
        )
        .unwrap();
    let names = ["a", "b", "c"];
    for name in names {
        mirror
            .ingest(&gvk, Change::Applied(&pod(name, Some("cr"), 1, "10.0.0.2")))
            .unwrap();
    }
    let rounds = 2_000;
    let events: Vec<Value> = (0..rounds)
        .map(|round| {
            pod(
                "a",
                Some("cr"),
                round + 2,
                &format!("10.0.{}.{}", round / 250, round % 250),
            )
        })
        .collect();
    let start = Instant::now();
    for event in &events {
        mirror.ingest(&gvk, Change::Applied(event)).unwrap();
    }
    let changed = start.elapsed().as_secs_f64() * 1e6 / rounds as f64;
    let same: Vec<Value> = (0..rounds)
        .map(|round| pod("b", Some("cr"), round + 2, "10.0.0.2"))
        .collect();
    let start = Instant::now();
    for event in &same {
        assert!(
            mirror
                .ingest(&gvk, Change::Applied(event))
                .unwrap()
                .is_empty()
        );
    }
    let unchanged = start.elapsed().as_secs_f64() * 1e6 / rounds as f64;
    let engine = Engine::new(package, Arc::new(libretto_api::chart::NoCharts));
    let ledger = Ledger::default();
    let start = Instant::now();
    for round in 0..rounds {
        let snapshot = mirror.snapshot("bench", "cr").unwrap().unwrap();
        let plan = engine.plan(&snapshot, &ledger, round as i64, 1);
        assert_eq!(plan.rules.len(), 2);
    }
    let evaluated = start.elapsed().as_secs_f64() * 1e6 / rounds as f64;
    [changed, unchanged, evaluated]
}

fn main() {
    let (alone, beside) = (measure(0), measure(20_000));
    for (name, (alone, beside)) in [
        "event that changes a column",
        "event that changes none",
        "snapshot and plan",
    ]
    .iter()
    .zip(alone.iter().zip(&beside))
    {
        println!(
            "{name:<30} {alone:>8.1} µs alone, {beside:>8.1} µs beside 20000 foreign pods: ×{:.2}",
            beside / alone
        );
    }
}
