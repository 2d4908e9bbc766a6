//! The scenario runner finds what it is there to find.

use super::*;
use std::sync::Arc;

use libretto_api::chart::{Charts, NoCharts};

use crate::scenario::run;

fn no_charts() -> Arc<dyn Charts> {
    Arc::new(NoCharts)
}

const SETS: &str = r#"
sense:
  pods: {watch: v1/Pod, cols: {ip: status.podIP, ready: {path: "status.conditions[type=Ready].status", type: bool}}}
  info:
    probe: tcp
    for: SELECT name AS key, ip FROM pods WHERE ip IS NOT NULL
    every: 1s
    with: {host: "{{ ip }}", port: 80}
    cols: {open: {path: open, type: bool}}
decide:
  serving: SELECT p.name FROM pods p JOIN info i ON i.key = p.name AND i.ok WHERE p.ready ORDER BY p.name
execute:
  - name: set
    apply:
      apiVersion: apps/v1
      kind: StatefulSet
      metadata: {name: "{{ cr.name }}"}
      spec: {replicas: "{{ cr.size }}", podManagementPolicy: Parallel, template: {metadata: {labels: {app: x}}, spec: {containers: [{name: c, image: i}]}}}
  - name: greet
    for: SELECT name FROM serving
    MODIFIER
    call: event
    with: {reason: Serves, message: "{{ name }}"}
  - status:
      fields: SELECT count(*) AS size FROM serving
"#;

fn files(modifier: &str, tests: &str) -> BTreeMap<String, String> {
    let mut files = package(&SETS.replace("MODIFIER", modifier));
    files.insert("tests.yaml".to_owned(), tests.to_owned());
    files
}

fn failures(modifier: &str, tests: &str) -> Vec<String> {
    run(&files(modifier, tests), None, &no_charts())
        .unwrap_or_else(|diagnostics| panic!("{}", render(&diagnostics)))
        .into_iter()
        .flat_map(|report| report.failures)
        .collect()
}

#[test]
fn a_good_package_passes_its_scenarios_and_the_sweep() {
    let tests = r#"
- name: up, scaled, hurt, gone
  given: {cr: {size: 2}}
  steps:
    - until: settled
      expect:
        status: {size: 2, conditions: {Ready: true, Stalled: false}}
        applied: {StatefulSet/demo: {spec: {replicas: 2}}, Pod/demo-1: {status: {phase: Running}}, Pod/demo-2: null}
        calls: {greet: 2}
        order: [greet, greet]
        rows: {serving: [{name: demo-0}, {name: demo-1}]}
        never: SELECT 1 FROM serving WHERE name = 'demo-7'
    - set: {cr: {size: 3}}
      until: settled
      expect: {calls: {greet: 1}, status: {size: 3}}
    - set: {kill: Pod/demo-0}
      for: 1s
      expect: {status: {size: 2}}
    - until: settled
      expect: {status: {size: 3}}
    - set: {delete: StatefulSet/demo}
      until: settled
      expect: {status: {size: 3}}
- name: a view alone
  tables:
    pods: [{name: a, ready: true}, {name: b, ready: false}]
    info: [{key: a, ok: 1}, {key: b, ok: 1}]
  expect: {rows: {serving: [{name: a}]}}
"#;
    assert_eq!(failures("once: true", tests), Vec::<String>::new());
}

#[test]
fn an_instance_that_is_deleted_leaves_nothing_behind() {
    let mut files = package(
        "execute:\n  - name: free\n    own: false\n    apply: {apiVersion: v1, kind: Secret, metadata: {name: kept}}\n  - name: own\n    apply: {apiVersion: v1, kind: ConfigMap, metadata: {name: owned}}\n",
    );
    let tests = "- name: gone\n  steps:\n    - until: settled\n      expect: {applied: {Secret/kept: {}, ConfigMap/owned: {}}}\n    - set: {delete: Thing/demo}\n      until: settled\n      expect: {applied: {Secret/kept: null, ConfigMap/owned: null, Thing/demo: null}}\n";
    files.insert("tests.yaml".to_owned(), tests.to_owned());
    let reports = run(&files, None, &no_charts()).unwrap();
    assert_eq!(
        reports[0].failures,
        Vec::<String>::new(),
        "{:#?}",
        reports[0].trace
    );
}

#[test]
fn a_call_that_a_restart_would_repeat_is_found() {
    let found = failures(
        "limit: 5",
        "- name: up\n  given: {cr: {size: 1}}\n  steps:\n    - until: settled\n",
    );
    assert_eq!(
        found,
        [
            "step 1 (line 4): a restarted process was not done: rule greet, row demo-0: event Serves: demo-0"
        ]
    );
}

/// The marker says that it was cleaned, and is made first.
#[test]
fn a_crash_between_two_effects_is_tried_wherever_they_are() {
    let mut rest = "sense:\n  maps: {watch: v1/ConfigMap, reach: namespace}\nexecute:\n".to_owned();
    for number in 0..40 {
        rest.push_str(&format!(
            "  - name: n{number}\n    apply: {{apiVersion: v1, kind: Secret, metadata: {{name: n{number}}}}}\n"
        ));
    }
    rest.push_str(
        "  - name: mark
    apply: {apiVersion: v1, kind: ConfigMap, metadata: {name: marker}}
  - name: clean
    for: SELECT name FROM maps WHERE name = 'litter' AND NOT EXISTS (SELECT 1 FROM maps WHERE name = 'marker')
    call: kube.delete
    with: {kind: v1/ConfigMap, name: \"{{ name }}\"}
  - name: last
    apply: {apiVersion: v1, kind: Secret, metadata: {name: last}}
",
    );
    let mut files = package(&rest);
    let tests = "- name: cleaned
  given: {objects: [{apiVersion: v1, kind: ConfigMap, metadata: {name: litter}}]}
  steps: [{until: settled}]
";
    files.insert("tests.yaml".to_owned(), tests.to_owned());
    let reports =
        run(&files, None, &no_charts()).unwrap_or_else(|found| panic!("{}", render(&found)));
    assert_eq!(
        reports[0].failures,
        [
            "after a crash after effect 41 (mark: apply ConfigMap default/marker): other objects in the end: missing [], more [\"ConfigMap default/litter\"]"
        ]
    );
}

#[test]
fn what_never_settles_says_what_is_left() {
    let found = failures(
        "repeat: 10s",
        "- name: up\n  given: {cr: {size: 1}}\n  steps:\n    - until: settled\n",
    );
    assert_eq!(
        found,
        [
            "step 1 (line 4): did not settle in 15 minutes: rule greet, row demo-0: Waiting done; again if the row is still there"
        ]
    );
}

#[test]
fn expectations_that_do_not_hold_show_both_sides() {
    let tests = r#"
- name: wrong
  given: {cr: {size: 1}}
  steps:
    - until: settled
      expect:
        status: {size: 7, conditions: {Ready: false, Nothing: true}}
        applied: {StatefulSet/demo: {spec: {replicas: 9}}, StatefulSet/none: {}, Pod/demo-0: null}
        calls: {greet: 4}
        order: [greet, greet]
        rows: {serving: [{name: other}], pods: []}
        never: SELECT name FROM serving
"#;
    let found = failures("once: true", tests).join("\n");
    let expected = [
        "never: `SELECT name FROM serving` gave a row (demo-0)",
        "status.size is 1, expected 7",
        "status: there is no condition Nothing",
        "status: condition Ready is \"True\" (\"Settled\": \"every rule's rows are settled\"), expected False",
        "applied: Pod/demo-0 exists, it must not",
        "applied: StatefulSet/demo.spec.replicas is 1, expected 9",
        "applied: there is no StatefulSet/none",
        "rows: pods has 1 rows, expected 0",
        "rows: serving[0].name is \"demo-0\", expected \"other\"",
        "calls: rule greet ran 1 times, expected 4",
        "order: [greet], expected [greet, greet]",
    ];
    for line in expected {
        assert!(found.contains(line), "no `{line}` in\n{found}");
    }
}

#[test]
fn mistakes_in_scenarios_have_a_place() {
    let tests = "- name: x\n  given: {cr: {sice: 1}}\n  steps:\n    - set: {explode: Pod/x}\n    - for: soon\n    - expect: {stauts: {}}\n- steps: []\n";
    let found = run(&files("once: true", tests), None, &no_charts()).unwrap_err();
    assert_eq!(
        render(&found),
        "tests.yaml:2:16: the package declares no field `sice` under crd.fields\n\
         tests.yaml:4:13: nothing called `explode` can happen; there are: cr, spec, metadata, kill, restart, delete, wipe, partition, heal, write, object, answers\n\
         tests.yaml:5:12: for is a duration like 30s\n\
         tests.yaml:6:16: unknown keyword `stauts` in expect; there are: rows, applied, calls, status, order, never\n\
         tests.yaml:7:3: a scenario needs a name\n"
    );
}

#[test]
fn names_that_do_not_exist_are_found_without_running() {
    let tests = "- name: x
  given: {cr: {size: 1}}
  expects: {}
  steps:
    - expect:
        calls: {gret: 1, set: 0}
        order: [greet, nobody]
        rows: {pods: [], serving: [], greet: [], nodes: []}
        never: [SELECT 1 FROM pods, SELECT 1 FROM podz]
- name: y
  given: {cr: {size: 1}}
  tables: {pods: [], pod: []}
  expect: {rows: {serving: []}}
";
    let found = crate::scenario::check(&files("once: true", tests)).unwrap_err();
    let found = render(&found);
    for expected in [
        "tests.yaml:3:3: unknown keyword `expects` in a scenario",
        "tests.yaml:6:17: expect.calls: there is no rule `gret` with `call`; did you mean `greet`?",
        "tests.yaml:6:26: expect.calls: there is no rule `set` with `call`; it is a rule with `apply`",
        "tests.yaml:7:24: expect.order: there is no rule `nobody` with `call`; there are: greet",
        "tests.yaml:8:50: expect.rows: there is no table, view or rule `nodes`",
        "tests.yaml:9:37: expect.never: no such table: podz",
        "tests.yaml:11:3: a scenario of `tables` has no `given`",
        "tests.yaml:12:22: tables: there is no table or view `pod`; did you mean `pods`?",
    ] {
        assert!(found.contains(expected), "{expected}\nnot in\n{found}");
    }
    assert_eq!(found.lines().count(), 8, "{found}");
}

#[test]
fn what_the_definition_does_not_allow_is_no_scenario() {
    let tests = "- name: x\n  given: {spec: {size: many}}\n  steps: [{until: settled}]\n";
    assert_eq!(
        failures("once: true", tests),
        [
            "given: the definition does not allow this Thing: spec.size must be of type integer, it is \"many\""
        ]
    );
    let tests = "- name: x\n  given: {cr: {size: 1}}\n  steps:\n    - until: settled\n    - set: {spec: {labels: {a: 1}}}\n";
    assert_eq!(
        failures("once: true", tests),
        [
            "step 2 (line 5): the definition does not allow this Thing: spec.labels.a must be of type string, it is 1"
        ]
    );
}

#[test]
fn an_object_without_a_namespace_is_where_the_instance_is() {
    let tests = "- name: x
  given:
    cr: {size: 1}
    metadata: {namespace: shop}
    objects: [{apiVersion: v1, kind: Node, metadata: {name: worker}}]
  steps:
    - until: settled
    - set: {object: {apiVersion: apps/v1, kind: StatefulSet, metadata: {name: demo, labels: {a: b}}}}
      until: settled
      expect: {applied: {StatefulSet/demo: {metadata: {namespace: shop, labels: {a: b}}, spec: {replicas: 1}}, Node/worker: {metadata: {name: worker}}}}
";
    assert_eq!(failures("once: true", tests), Vec::<String>::new());
}
