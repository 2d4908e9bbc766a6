//! The JSON Schemas against the compiler: what it knows they know, what it takes they take, which keywords it refuses they refuse.

use std::{collections::BTreeSet, fs, path::Path};

use jsonschema::Validator;
use libretto_api::package::{PACKAGE_FILE, TESTS_FILE, VERBS};
use serde_json::{Value, json};

use super::{package, told};
use crate::{
    Files,
    compile::schema::seen,
    package_schema, read_dir,
    scenario::{self, HAPPENINGS},
    tests_schema, yaml,
};

/// Every keyword that the bundled packages and examples do not use.
const EVERYTHING: &str = r#"
sense:
  pods: {watch: v1/Pod, where: {labels: {a: b}}, reach: namespace, cols: {ip: status.podIP, all: {path: ., type: json, only: [spec]}}}
  ports: {values: [80, 443]}
  open: {probe: tcp, for: SELECT name AS key FROM pods, every: 1s, timeout: 1s, misses: 2, with: {host: a, port: 1}, cols: {open: {path: open, type: bool}}}
  page: {probe: http, for: SELECT name AS key FROM pods, with: {method: GET, url: "http://a", headers: {a: b}, json: {a: 1}}}
  sentinel: {probe: redis, for: SELECT name AS key FROM pods, with: {host: a, port: 1, username: u, password: p, command: [PING]}}
  inside: {probe: exec, for: SELECT name AS key FROM pods, with: {pod: a, container: b, command: [c], stdin: d}}
  name: {probe: dns, for: SELECT name AS key FROM pods, with: {name: a}}
  numbers: {probe: prometheus, for: SELECT name AS key FROM pods, with: {url: "http://a", headers: {a: b}, metrics: [up]}}
  asked: {probe: prometheus, for: SELECT name AS key FROM pods, with: {url: "http://a", query: up}}
  nothing: {cols: {}}
decide: {here: SELECT name FROM pods}
execute:
  - {name: chart, helm: {chart: charts/web, from: {repository: "oci://r/charts", name: web, version: 1.0.0}}}
  - name: a
    for: SELECT name AS key FROM pods
    key: [key]
    on: key
    stable: 1s
    repeat: 1s
    after: [b]
    limit: 1
    event: {type: Warning, reason: R, message: m}
    call: redis
    with: {host: a, timeout: 1s, commands: [[PING], "{{ ['PING'] }}", {command: [ROLE], when: "{{ true }}", ignore: [ERR], expect: [slave]}]}
    undo: {call: http, with: {url: "http://a", body: x, ok: [200], timeout: 1s}}
  - {name: b, call: kube.delete, with: {kind: v1/Pod, name: x, uid: y}}
  - {name: c, call: event, with: {reason: R, message: m}, during: delete}
  - {name: d, apply: {apiVersion: v1, kind: ConfigMap, metadata: {name: x}}, own: false, adopt: true, leave: orphan, ignore: [data], drift: keep}
  - {name: e, patch: {apiVersion: v1, kind: ConfigMap, metadata: {name: y}}, force: true}
  - {name: f, schedule: "0 3 * * *", call: exec, with: {pod: a, command: [b], ok: [0, 1], timeout: 1m}}
  - {name: g, schedule: {cron: "@daily", zone: Europe/Berlin}, call: kube.scale, with: {kind: apps/v1/StatefulSet, name: x, replicas: 1}}
  - {name: h, call: kube.restart, with: {kind: apps/v1/Deployment, name: x}}
  - {name: i, call: kube.evict, with: {name: x, uid: y}}
  - {name: j, ready: SELECT 1 AS ok, apply: {apiVersion: v1, kind: ConfigMap, metadata: {name: z}}}
  - {name: k, for: SELECT name FROM pods, stable: 1m, alert: {severity: info, summary: s, description: d, labels: {a: b}}}
  - status: {fields: SELECT 1 AS size, json: [size], conditions: {Up: SELECT 1 AS ok}, ready: SELECT 1 AS ok, order: newest, times: [lastUpdateTime], runtime: true}
  - metric: {name: m, help: h, value: SELECT 1 AS value, labels: []}
"#;

const SHORT: &str = r#"
apiVersion: libretto.dev/v1alpha1
kind: Package
metadata: {name: short, version: 1.0.0}
spec:
  crd:
    group: example.com
    kind: Short
    version: v1
    plural: shorts
    shortNames: [sh]
    scope: {annotation: a/b, value: c}
    unmanaged: {annotation: a/b, value: d}
    overrides: true
    schema:
      a: int
      b: {type: string, default: x, pattern: x, required: true, description: d, sensitive: true}
      c: {type: list, min: 1, max: 2, items: {name: {required: true}, ports: {type: list, items: int}}}
      d: {type: map, values: {enum: [x]}}
"#;

const SCENARIOS: &str = r"
- name: everything
  given: {cr: {size: 3}, spec: {}, metadata: {labels: {a: b}}, model: redis, objects: [], answers: [{probe: page, key: a, answer: {status: 503}}, {call: a, error: full}]}
  steps:
    - set: {cr: {size: 4}, spec: {mode: x}, metadata: {}, object: {}, kill: a, restart: a, delete: a, wipe: a, partition: a, heal: a, write: 1, answers: []}
      for: 1s
      expect: {rows: {pods: []}, applied: {ConfigMap/x: null}, calls: {a: 0}, status: {}, order: [a], never: SELECT 1}
    - until: settled
  sweep: false
- {name: rows, tables: {pods: []}, expect: {rows: {pods: []}}}
";

fn everything() -> Files {
    let mut files = package(EVERYTHING.trim_start());
    files.insert(TESTS_FILE.to_owned(), SCENARIOS.to_owned());
    let chart = "apiVersion: v2\nname: web\nversion: 1.0.0\n";
    files.insert("charts/web/Chart.yaml".to_owned(), chart.to_owned());
    files
}

/// Packages of the project, and two that say everything.
fn packages() -> Vec<(String, Files)> {
    let mut packages = vec![
        ("everything".to_owned(), everything()),
        (
            "short".to_owned(),
            Files::from([(PACKAGE_FILE.to_owned(), SHORT.to_owned())]),
        ),
    ];
    for folder in ["packages", "examples"] {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../..")
            .join(folder);
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.join(PACKAGE_FILE).is_file() {
                packages.push((path.display().to_string(), read_dir(&path).unwrap()));
            }
        }
    }
    let skeleton = Path::new(env!("CARGO_MANIFEST_DIR")).join("../libretto/src/cli/skeleton");
    packages.push(("skeleton".to_owned(), read_dir(&skeleton).unwrap()));
    packages
}

fn validator(schema: &Value) -> Validator {
    jsonschema::validator_for(schema).unwrap()
}

fn read(files: &Files, name: &str) -> Value {
    yaml::parse(name, &files[name]).unwrap()[0].to_json()
}

fn complaints(validator: &Validator, value: &Value) -> Vec<String> {
    validator
        .iter_errors(value)
        .map(|error| format!("{}: {error}", error.instance_path()))
        .collect()
}

/// Keywords of every object of a schema that takes no others.
fn closed(schema: &Value) -> BTreeSet<Vec<String>> {
    let mut found = BTreeSet::new();
    let mut values = vec![schema];
    while let Some(value) = values.pop() {
        if value["additionalProperties"] == false
            && let Some(properties) = value["properties"].as_object()
        {
            let mut names: Vec<String> = properties.keys().cloned().collect();
            names.sort();
            found.insert(names);
        }
        match value {
            Value::Array(items) => values.extend(items),
            Value::Object(map) => values.extend(map.values()),
            _ => {}
        }
    }
    found
}

#[test]
fn every_package_fits() {
    let (package, tests) = (validator(&package_schema()), validator(&tests_schema()));
    for (name, files) in packages() {
        let mut value = read(&files, PACKAGE_FILE);
        if name == "everything" {
            // A table without a source is there to be refused.
            value["spec"]["sense"]
                .as_object_mut()
                .unwrap()
                .remove("nothing");
        }
        assert_eq!(complaints(&package, &value), Vec::<String>::new(), "{name}");
        if files.contains_key(TESTS_FILE) {
            let value = read(&files, TESTS_FILE);
            assert_eq!(complaints(&tests, &value), Vec::<String>::new(), "{name}");
        }
    }
}

/// The compiler compares keywords with a list in many places. Each must be one of the schema's objects, and each of those one of them.
#[test]
fn the_compiler_and_the_schemas_know_the_same_keywords() {
    seen::take();
    for (_, files) in packages() {
        // What is refused besides does not matter here.
        let _ = scenario::check(&files);
    }
    let mut sound = package("");
    sound.insert(TESTS_FILE.to_owned(), SCENARIOS.to_owned());
    let _ = scenario::check(&sound);
    let seen = seen::take();
    let compared: BTreeSet<Vec<String>> = seen.iter().map(|(_, _, known)| known.clone()).collect();
    let mut known = closed(&package_schema());
    known.extend(closed(&tests_schema()));
    for keywords in &compared {
        // A table without any source is compared with all sources.
        assert!(
            known.contains(keywords) || *keywords == ["probe", "values", "watch"],
            "the compiler knows {keywords:?} somewhere, compile/schema.rs does not: {:?}",
            seen.iter().find(|(_, _, known)| known == keywords)
        );
    }
    let mut happenings: Vec<String> = HAPPENINGS.iter().map(|&name| name.to_owned()).collect();
    happenings.sort();
    for keywords in &known {
        assert!(
            compared.contains(keywords) || *keywords == happenings,
            "compile/schema.rs knows {keywords:?} somewhere, the compiler does not"
        );
    }
    for (file, source) in [
        ("compile/mod.rs", include_str!("../compile/mod.rs")),
        ("compile/crd.rs", include_str!("../compile/crd.rs")),
        ("compile/kind.rs", include_str!("../compile/kind.rs")),
        ("compile/sense.rs", include_str!("../compile/sense.rs")),
        ("compile/decide.rs", include_str!("../compile/decide.rs")),
        ("compile/execute.rs", include_str!("../compile/execute.rs")),
        ("compile/helm.rs", include_str!("../compile/helm.rs")),
        ("compile/alert.rs", include_str!("../compile/alert.rs")),
        ("compile/exec.rs", include_str!("../compile/exec.rs")),
        (
            "compile/kubernetes.rs",
            include_str!("../compile/kubernetes.rs"),
        ),
        (
            "compile/prometheus.rs",
            include_str!("../compile/prometheus.rs"),
        ),
        (
            "scenario/answers.rs",
            include_str!("../scenario/answers.rs"),
        ),
        ("scenario/mod.rs", include_str!("../scenario/mod.rs")),
    ] {
        for (number, line) in source.lines().enumerate() {
            let visited = seen.iter().any(|(place, at, _)| {
                place.ends_with(file) && usize::try_from(*at) == Ok(number + 1)
            });
            assert!(
                visited || !line.contains(".only("),
                "{file}:{}: no package of this test comes here; write the keyword into EVERYTHING",
                number + 1
            );
        }
    }
}

/// What has no meaning with a verb is refused by both.
#[test]
fn verbs_and_modifiers_go_together_as_the_compiler_says() {
    let schema = validator(&package_schema());
    let value = |modifier: &str| {
        Some(match modifier {
            "key" | "on" => json!(["key"]),
            "stable" | "repeat" => json!("1s"),
            "once" | "adopt" | "force" => json!(true),
            "own" => json!(false),
            "limit" => json!(1),
            "ignore" => json!(["data"]),
            "leave" => json!("orphan"),
            "event" => json!({"reason": "R", "message": "m"}),
            "with" => json!({"reason": "R", "message": "m"}),
            "undo" => json!({"call": "event", "with": {"reason": "R", "message": "m"}}),
            "during" => json!("delete"),
            "drift" => json!("keep"),
            "ready" => json!("SELECT 1 AS ok"),
            "schedule" => json!("0 3 * * *"),
            _ => return None,
        })
    };
    let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x"}});
    let mut senseless = 0;
    for verb in ["apply", "patch", "call"] {
        assert!(VERBS.contains(&verb));
        for modifier in crate::compile::schema::modifiers() {
            let Some(value) = value(modifier) else {
                continue;
            };
            let mut rule = json!({"name": "r", "for": "SELECT name AS key FROM cr"});
            if verb == "call" {
                rule["call"] = json!("event");
                rule["with"] = json!({"reason": "R", "message": "m"});
            } else {
                rule[verb] = object.clone();
            }
            rule[*modifier] = value;
            let mut files = package("");
            let text = format!("{}  execute: [{rule}]\n", files[PACKAGE_FILE]);
            files.insert(PACKAGE_FILE.to_owned(), text);
            let refused = told(&files).contains("has no meaning with");
            let complaints = complaints(&schema, &read(&files, PACKAGE_FILE));
            assert_eq!(refused, !complaints.is_empty(), "{rule}: {complaints:?}");
            senseless += usize::from(refused);
        }
    }
    assert!(senseless > 10, "{senseless}");
}

#[test]
fn mistakes_are_found_where_they_are() {
    let schema = validator(&package_schema());
    let with = |sense: &str| {
        let files = package(&format!("sense:\n  t: {sense}\n"));
        complaints(&schema, &read(&files, PACKAGE_FILE))
    };
    assert_eq!(with("{watch: v1/Pod}"), Vec::<String>::new());
    assert!(
        with("{watch: v1/Pod, colls: {}}")
            .join("")
            .contains("colls")
    );
    assert!(!with("{watch: Pod}").is_empty());
    assert!(!with("{probe: tcp, for: x, with: {host: a}}").is_empty());
    assert!(
        !with("{probe: redis, for: x, with: {host: a, command: [PING], timeout: 1s}}").is_empty()
    );
}
