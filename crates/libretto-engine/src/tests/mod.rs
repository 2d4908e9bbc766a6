//! The engine through its door: a package and objects in, plans out.

#![allow(clippy::unwrap_used)]

mod calls;
mod compile;
mod controls;
mod explain;
mod helm;
mod hostile;
mod mutations;
mod objects;
mod rules;
mod scenario;
mod schema;
mod status;
mod undo;

use std::{collections::BTreeMap, sync::Arc};

use libretto_api::{
    chart::{Charts, NoCharts},
    intent::{Effect, Failure, FailureKind, Intent, Millis, Outcome},
    object::{Gvk, field_manager},
};
use libretto_mirror::{Change, Mirror, ScopeMode};
use serde_json::{Value, json};

use crate::{
    Compiled, Engine, Files, Ledger, Plan, RowState, load_files, render,
    scenario::world::{Happened, World},
};

pub(super) const CRD: &str = r"
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: things.example.dev}
spec:
  group: example.dev
  scope: Namespaced
  names: {kind: Thing, plural: things}
  versions:
    - name: v1
      served: true
      storage: true
      subresources: {status: {}}
      schema:
        openAPIV3Schema:
          type: object
          properties:
            spec:
              type: object
              properties:
                size: {type: integer}
                mode: {type: string}
                password: {type: string}
                ports: {type: array, items: {type: object, properties: {name: {type: string}, port: {type: integer}}}}
                labels: {type: object, additionalProperties: {type: string}}
                free: {type: object, x-kubernetes-preserve-unknown-fields: true}
            status:
              type: object
              properties:
                healthy: {type: boolean}
                size: {type: integer}
                text: {type: string}
                members: {type: array, items: {type: string}}
                nested: {type: object, properties: {flag: {type: boolean}, absent: {type: string}}}
                free: {x-kubernetes-preserve-unknown-fields: true}
                observedGeneration: {type: integer}
                conditions: {type: array, items: {type: object, x-kubernetes-preserve-unknown-fields: true}}
    - {name: v2, served: false, storage: false, schema: {openAPIV3Schema: {type: object}}}
";

/// Head of a package whose `spec` continues with the given lines, indented by two.
pub(crate) fn package(rest: &str) -> BTreeMap<String, String> {
    let mut text = r"apiVersion: libretto.dev/v1alpha1
kind: Package
metadata: {name: demo, version: 1.0.0}
spec:
  crd:
    file: crd.yaml
    version: v1
    fields:
      size: {path: spec.size, type: int, default: 3}
      mode: {path: spec.mode, default: plain}
      labels_wanted: {path: spec.labels, type: json}
      password: {path: spec.password, default: '', sensitive: true}
      free: {path: spec.free, type: json}
"
    .to_owned();
    for line in rest.lines() {
        if !line.is_empty() {
            text.push_str("  ");
            text.push_str(line);
        }
        text.push('\n');
    }
    BTreeMap::from([
        ("package.yaml".to_owned(), text),
        ("crd.yaml".to_owned(), CRD.to_owned()),
    ])
}

/// What loading says about a package, one line each; empty when it is fine.
pub(super) fn told(files: &BTreeMap<String, String>) -> String {
    match load_files(files) {
        Ok(_) => String::new(),
        Err(diagnostics) => render(&diagnostics),
    }
}

pub(super) fn compiled(rest: &str) -> Arc<Compiled> {
    Arc::new(
        load_files(&package(rest)).unwrap_or_else(|diagnostics| panic!("{}", render(&diagnostics))),
    )
}

/// A package with a world, a mirror and a ledger: what a driver holds together, one step at a time.
pub(super) struct Fixture {
    pub(super) engine: Engine,
    pub(super) world: World,
    pub(super) mirror: Mirror,
    pub(super) ledger: Ledger,
    pub(super) now: Millis,
    /// Intents of every plan so far.
    pub(super) plan: Option<Plan>,
}

impl Fixture {
    pub(super) fn new(rest: &str) -> Self {
        Self::with(&package(rest), Arc::new(NoCharts))
    }

    /// Of a whole package, with charts.
    pub(super) fn with(files: &Files, charts: Arc<dyn Charts>) -> Self {
        let package = load_files(files).unwrap_or_else(|found| panic!("{}", render(&found)));
        let package = Arc::new(package);
        let mut mirror = Mirror::new(ScopeMode::Any);
        mirror.declare(package.schema().clone());
        let mut fixture = Self {
            engine: Engine::new(package, charts),
            world: World::at(1_000_000),
            mirror,
            ledger: Ledger::default(),
            now: 1_000_000,
            plan: None,
        };
        fixture.put(json!({
            "apiVersion": "example.dev/v1", "kind": "Thing",
            "metadata": {"name": "demo", "namespace": "ns", "uid": "cr-uid", "generation": 1}, "spec": {},
        }));
        fixture
    }

    /// Creates or replaces an object.
    pub(super) fn put(&mut self, object: Value) -> Arc<Value> {
        let stored = self.world.store(object);
        self.deliver();
        stored
    }

    /// Changes an object by `Kind/name`.
    pub(super) fn change(&mut self, name: &str, change: impl FnOnce(&mut Value)) {
        let reference = self.world.find(name).unwrap();
        self.world.update(&reference, change);
        self.deliver();
    }

    /// Deletes an object by `Kind/name`.
    pub(super) fn delete(&mut self, name: &str) {
        let reference = self.world.find(name).unwrap();
        self.world.kill(&reference);
        self.deliver();
    }

    /// A ConfigMap that rules of the tests select from: `data` are its columns.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "every caller makes the value for it"
    )]
    pub(super) fn row(&mut self, name: &str, data: Value) {
        let former = self.world.find(&format!("ConfigMap/{name}"));
        let uid = former
            .and_then(|reference| self.world.objects.get(&reference))
            .map_or(Value::Null, |object| object["metadata"]["uid"].clone());
        let mut object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": "ns"}, "data": data});
        if !uid.is_null() {
            object["metadata"]["uid"] = uid;
        }
        self.put(object);
    }

    pub(super) fn deliver(&mut self) {
        for change in std::mem::take(&mut self.world.changes) {
            match change {
                Happened::Applied(object) => {
                    let gvk = Gvk::of(&object).unwrap();
                    self.mirror.ingest(&gvk, Change::Applied(&object)).unwrap();
                }
                Happened::Deleted { object, uid } => {
                    let change = Change::Deleted {
                        namespace: &object.namespace,
                        name: &object.name,
                        uid: Some(&uid),
                    };
                    self.mirror.ingest(&object.gvk, change).unwrap();
                }
            }
        }
    }

    /// Plans after so much time, without carrying anything out.
    pub(super) fn look(&mut self, after: Millis) -> Plan {
        self.now += after;
        self.world.now = self.now;
        let snapshot = self.mirror.snapshot("demo", "cr-uid").unwrap().unwrap();
        let plan = self.engine.plan(&snapshot, &self.ledger, self.now, 7);
        assert_eq!(
            plan,
            self.engine.plan(&snapshot, &self.ledger, self.now, 7),
            "the same arguments give the same plan"
        );
        plan
    }

    /// Plans and carries out, every effect a success; what was done, without the runtime's own.
    pub(super) fn go(&mut self, after: Millis) -> Vec<String> {
        self.go_with(after, |_| None)
    }

    /// Like `go`; effects for which `fails` says so fail.
    pub(super) fn go_with(
        &mut self,
        after: Millis,
        fails: impl Fn(&Intent) -> Option<FailureKind>,
    ) -> Vec<String> {
        let plan = self.look(after);
        self.ledger = plan.ledger.clone();
        let mut done = Vec::new();
        for intent in &plan.intents {
            let outcome = match fails(intent) {
                Some(kind) => Outcome::Failed(Failure {
                    kind,
                    message: "it did not work".to_owned(),
                }),
                None => self.execute(intent),
            };
            // What a failed rule is told by, the tests of the status look at.
            if !matches!(intent.rule.as_str(), "@status" | "@inventory")
                && intent.key != "rule failed"
            {
                done.push(shown(intent));
            }
            self.ledger.record(intent, &outcome, self.now);
        }
        self.deliver();
        self.plan = Some(plan);
        done
    }

    /// Goes on without time passing until a plan has nothing but what it had.
    pub(super) fn settle(&mut self) -> Vec<String> {
        let mut all = Vec::new();
        for _ in 0..10 {
            all.extend(self.go(0));
            if self.look(0).intents.is_empty() {
                return all;
            }
        }
        panic!("no end of it: {all:?}");
    }

    fn execute(&mut self, intent: &Intent) -> Outcome {
        let manager = field_manager(&intent.instance.package);
        let uid = &intent.instance.uid;
        let result = match &intent.effect {
            Effect::Apply { object, adopt } => self
                .world
                .apply(object, &manager, uid, *adopt, false)
                .map(Some),
            Effect::Patch { object, .. } => self
                .world
                .apply(object, &manager, uid, false, true)
                .map(Some),
            Effect::Delete { object, uid } => match self.world.delete(object, uid.as_deref()) {
                Ok(true) => Ok(None),
                _ => return Outcome::Absent,
            },
            Effect::Status { status } => {
                let reference = self.world.find("Thing/demo").unwrap();
                self.world
                    .update(&reference, |object| object["status"] = status.clone());
                Ok(None)
            }
            Effect::Event { .. }
            | Effect::Redis(_)
            | Effect::Http(_)
            | Effect::Exec(_)
            | Effect::Scale { .. }
            | Effect::Restart { .. }
            | Effect::Evict { .. }
            | Effect::Inventory { .. } => Ok(None),
        };
        match result {
            Ok(object) => Outcome::Done { object },
            Err(failure) => Outcome::Failed(failure),
        }
    }

    /// Events that the next plan would record.
    pub(super) fn look_at_events(&self) -> Vec<String> {
        let snapshot = self.mirror.snapshot("demo", "cr-uid").unwrap().unwrap();
        let plan = self.engine.plan(&snapshot, &self.ledger, self.now, 7);
        plan.intents
            .iter()
            .filter(|intent| matches!(intent.effect, Effect::Event { .. }))
            .map(shown)
            .collect()
    }

    /// A new process: only the inventory is left of the ledger.
    pub(super) fn restart(&mut self) {
        self.ledger = Ledger::from_inventory(&self.ledger.inventory()).unwrap();
    }

    /// State and note of the rows of a rule in the last plan.
    pub(super) fn rows(&self, rule: &str) -> Vec<(String, RowState, String)> {
        let plan = self.plan.as_ref().unwrap();
        let view = plan.rules.iter().find(|view| view.rule == rule).unwrap();
        view.rows
            .iter()
            .map(|row| (row.key.clone(), row.state, row.note.clone()))
            .collect()
    }

    /// Status, reason and message of a condition.
    pub(super) fn condition(&self, kind: &str) -> String {
        let reference = self.world.find("Thing/demo").unwrap();
        let status = &self.world.objects[&reference]["status"];
        let conditions = status["conditions"].as_array().cloned().unwrap_or_default();
        conditions
            .iter()
            .find(|condition| condition["type"] == kind)
            .map_or_else(String::new, |condition| {
                let text = |key: &str| condition[key].as_str().unwrap_or_default().to_owned();
                format!("{} {}: {}", text("status"), text("reason"), text("message"))
            })
    }
}

/// An intent in a few words.
pub(super) fn shown(intent: &Intent) -> String {
    let object = |object: &Value| {
        format!(
            "{}/{}",
            object["kind"].as_str().unwrap(),
            object["metadata"]["name"].as_str().unwrap()
        )
    };
    match &intent.effect {
        Effect::Apply { object: it, .. } => format!("apply {}", object(it)),
        Effect::Patch { object: it, .. } => format!("patch {}", object(it)),
        Effect::Delete { object, .. } => format!("delete {}/{}", object.gvk.kind, object.name),
        Effect::Status { .. } => "status".to_owned(),
        Effect::Event {
            reason, message, ..
        } => format!("event {reason}: {message}"),
        Effect::Redis(call) => {
            let commands: Vec<String> = call
                .commands
                .iter()
                .map(|command| command.arguments.join(" "))
                .collect();
            format!("{}:{} {}", call.host, call.port, commands.join("; "))
        }
        Effect::Http(call) => format!(
            "{} {} {}",
            call.method,
            call.url,
            serde_json::to_string(&call.body).unwrap()
        ),
        Effect::Exec(call) => format!("exec {} {}", call.pod, call.command.join(" ")),
        Effect::Scale { object, replicas } => {
            format!("scale {}/{} to {replicas}", object.gvk.kind, object.name)
        }
        Effect::Restart { object } => format!("restart {}/{}", object.gvk.kind, object.name),
        Effect::Evict { pod, .. } => format!("evict {}", pod.name),
        Effect::Inventory { .. } => "inventory".to_owned(),
    }
}

/// Rows for rules: ConfigMaps of the namespace with columns `value` and `extra`.
pub(super) const ROWS: &str = r"
sense:
  rows:
    watch: v1/ConfigMap
    reach: namespace
    cols: {value: data.value, extra: data.extra}
";

/// `ROWS` and one call over them with the given modifiers.
pub(super) fn call_with(modifiers: &str) -> String {
    let mut text = format!(
        "{ROWS}execute:\n  - name: act\n    for: SELECT name, value, extra FROM rows WHERE value IS NOT NULL AND name NOT LIKE 'demo-%' ORDER BY name\n    call: redis\n    with: {{host: \"{{{{ name }}}}\", command: [SET, \"{{{{ value }}}}\"]}}\n"
    );
    for line in modifiers.lines() {
        text.push_str("    ");
        text.push_str(line);
        text.push('\n');
    }
    text
}
