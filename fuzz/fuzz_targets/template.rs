//! Any text as a leaf: the package loads and is evaluated, or says what is wrong.
#![no_main]

use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use libretto_api::chart::NoCharts;
use libretto_engine::{Engine, Files, Ledger, load_files};
use libretto_mirror::{Change, Mirror, ScopeMode};
use serde_json::{Value, json};

fuzz_target!(|text: &str| {
    // JSON is YAML: the text stands as it is.
    let package = json!({
        "apiVersion": "libretto.dev/v1alpha1", "kind": "Package", "metadata": {"name": "demo", "version": "1.0.0"},
        "spec": {
            "crd": {"group": "example.dev", "kind": "Thing", "version": "v1", "schema": {"size": {"type": "int", "default": 3}}},
            "execute": [{"name": "say", "call": "event", "with": {"reason": "Said", "message": text}}],
        },
    });
    let files = Files::from([("package.yaml".to_owned(), package.to_string())]);
    let Ok(package) = load_files(&files) else {
        return;
    };
    let package = Arc::new(package);
    let mut mirror = Mirror::new(ScopeMode::Any);
    mirror.declare(package.schema().clone());
    let instance: Value = json!({
        "apiVersion": "example.dev/v1", "kind": "Thing", "metadata": {"name": "demo", "namespace": "ns", "uid": "uid"}, "spec": {},
    });
    mirror
        .ingest(package.gvk(), Change::Applied(&instance))
        .expect("it has a uid");
    let snapshot = mirror
        .snapshot("demo", "uid")
        .expect("it is declared")
        .expect("it was put in");
    Engine::new(package, Arc::new(NoCharts)).plan(&snapshot, &Ledger::default(), 0, 1);
});
