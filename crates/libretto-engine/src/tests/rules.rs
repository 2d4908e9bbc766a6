//! What rows lead to: every modifier, one by one.

use super::*;

const SECOND: Millis = 1_000;

#[test]
fn entered_changed_same_left() {
    let mut f = Fixture::new(&call_with(""));
    assert_eq!(f.go(0), Vec::<String>::new());
    f.row("a", json!({"value": "1"}));
    f.row("b", json!({"value": "1"}));
    assert_eq!(f.go(0), ["a:6379 SET 1", "b:6379 SET 1"], "entered");
    assert_eq!(f.go(0), Vec::<String>::new(), "same");
    f.row("a", json!({"value": "2"}));
    assert_eq!(f.go(0), ["a:6379 SET 2"], "changed");
    f.delete("ConfigMap/a");
    assert_eq!(f.go(0), Vec::<String>::new(), "left");
    f.row("a", json!({"value": "2"}));
    assert_eq!(f.go(0), ["a:6379 SET 2"], "entered again");
    f.settle();
    assert!(f.look(0).settled, "done rows of a plain call are settled");
}

#[test]
fn on_names_what_counts_as_change() {
    let mut f = Fixture::new(&call_with("on: [value]"));
    f.row("a", json!({"value": "1", "extra": "x"}));
    assert_eq!(f.go(0), ["a:6379 SET 1"]);
    f.row("a", json!({"value": "1", "extra": "y"}));
    assert_eq!(f.go(0), Vec::<String>::new());
    f.row("a", json!({"value": "2", "extra": "y"}));
    assert_eq!(f.go(0), ["a:6379 SET 2"]);
}

#[test]
fn key_names_who_a_row_is() {
    let mut f = Fixture::new(&call_with("key: [extra]\non: [value]"));
    f.row("a", json!({"value": "1", "extra": "x"}));
    assert_eq!(f.go(0), ["a:6379 SET 1"]);
    f.delete("ConfigMap/a");
    f.row("b", json!({"value": "1", "extra": "x"}));
    assert_eq!(f.go(0), Vec::<String>::new(), "another name, the same row");
    f.row("c", json!({"value": "9", "extra": "x"}));
    assert_eq!(f.go(0), Vec::<String>::new());
    let plan = f.look(0);
    assert_eq!(
        plan.rules[0].failure.as_deref(),
        Some("two rows have the key `x`")
    );
}

#[test]
fn stable_waits_until_a_row_stayed_unchanged() {
    let mut f = Fixture::new(&call_with("stable: 15s"));
    f.row("a", json!({"value": "1"}));
    assert_eq!(f.go(0), Vec::<String>::new());
    assert_eq!(
        f.rows("act"),
        [(
            "a".to_owned(),
            RowState::Waiting,
            "not there long enough".to_owned()
        )]
    );
    assert_eq!(f.look(0).wake_at, Some(f.now + 15 * SECOND));
    assert_eq!(f.go(10 * SECOND), Vec::<String>::new());
    f.row("a", json!({"value": "2"}));
    assert_eq!(f.go(0), Vec::<String>::new(), "a change begins anew");
    assert_eq!(f.go(10 * SECOND), Vec::<String>::new());
    assert!(!f.look(0).settled);
    assert_eq!(f.go(5 * SECOND), ["a:6379 SET 2"]);
    f.delete("ConfigMap/a");
    f.go(0);
    f.row("a", json!({"value": "2"}));
    assert_eq!(f.go(0), Vec::<String>::new(), "a flapping row never ripens");
}

#[test]
fn repeat_runs_again_while_the_row_is_there_later_and_later() {
    let mut f = Fixture::new(&call_with("repeat: 10s"));
    f.row("a", json!({"value": "1"}));
    assert_eq!(f.go(0), ["a:6379 SET 1"]);
    for (number, wait) in [10, 20, 40, 80, 100, 100].into_iter().enumerate() {
        assert_eq!(
            f.look(0).wake_at,
            Some(f.now + wait * SECOND),
            "time {number}"
        );
        assert_eq!(
            f.go((wait - 1) * SECOND),
            Vec::<String>::new(),
            "time {number}"
        );
        assert_eq!(f.go(SECOND), ["a:6379 SET 1"], "time {number}");
    }
    assert!(!f.look(0).settled, "the row should have vanished");
    f.delete("ConfigMap/a");
    f.settle();
    assert!(f.look(0).settled);
}

#[test]
fn once_is_remembered_over_a_restart_while_the_row_is_there() {
    let mut f = Fixture::new(&call_with("once: true\non: [value]"));
    f.row("a", json!({"value": "1"}));
    assert_eq!(f.settle(), ["a:6379 SET 1"]);
    f.restart();
    assert_eq!(f.settle(), Vec::<String>::new());
    f.row("a", json!({"value": "2"}));
    assert_eq!(f.settle(), ["a:6379 SET 2"], "another fingerprint");
    f.row("a", json!({"value": "1"}));
    assert_eq!(
        f.settle(),
        ["a:6379 SET 1"],
        "only the last one is remembered"
    );
    f.delete("ConfigMap/a");
    assert_eq!(f.settle(), Vec::<String>::new());
    f.row("a", json!({"value": "1"}));
    assert_eq!(
        f.settle(),
        ["a:6379 SET 1"],
        "a row that enters again runs again"
    );
}

#[test]
fn a_plain_call_is_not_remembered_over_a_restart() {
    let mut f = Fixture::new(&call_with(""));
    f.row("a", json!({"value": "1"}));
    assert_eq!(f.settle(), ["a:6379 SET 1"]);
    f.restart();
    assert_eq!(
        f.settle(),
        ["a:6379 SET 1"],
        "at least once; `once: true` is for those that mind"
    );
}

#[test]
fn limit_bounds_what_is_under_way() {
    let mut f = Fixture::new(&call_with("limit: 2"));
    for name in ["a", "b", "c", "d", "e"] {
        f.row(name, json!({"value": "1"}));
    }
    assert_eq!(f.go(0).len(), 2);
    assert_eq!(f.go(0), ["c:6379 SET 1", "d:6379 SET 1"]);
    assert_eq!(
        f.rows("act")[4],
        (
            "e".to_owned(),
            RowState::Waiting,
            "behind others: the rule's limit is reached".to_owned()
        )
    );
    assert_eq!(f.go(0), ["e:6379 SET 1"]);
}

#[test]
fn after_waits_for_the_other_rules_rows() {
    let rest = format!(
        "{}  - name: then\n    after: [act]\n    for: SELECT name FROM rows WHERE extra = 'then'\n    call: event\n    with: {{reason: Then, message: \"{{{{ name }}}}\"}}\n",
        call_with("stable: 5s")
    );
    let mut f = Fixture::new(&rest);
    f.row("x", json!({"extra": "then"}));
    assert_eq!(f.go(0), ["event Then: x"], "nothing to wait for");
    f.row("a", json!({"value": "1"}));
    f.row("y", json!({"extra": "then"}));
    assert_eq!(f.go(0), Vec::<String>::new());
    assert_eq!(f.rows("then")[1].2, "after rule act");
    assert_eq!(
        f.go(5 * SECOND),
        ["a:6379 SET 1"],
        "not in the same plan: its outcome is not known yet"
    );
    assert_eq!(f.go(0), ["event Then: y"]);
}

#[test]
fn failures_back_off_and_are_told_once() {
    let mut f = Fixture::new(&call_with(""));
    f.row("a", json!({"value": "1"}));
    f.row("b", json!({"value": "1"}));
    let fails = |intent: &Intent| (intent.key == "a").then_some(FailureKind::Unreachable);
    assert_eq!(
        f.go_with(0, fails),
        ["a:6379 SET 1", "b:6379 SET 1"],
        "one row's failure is not the other's"
    );
    assert_eq!(
        f.go_with(0, fails),
        ["event EffectFailed: rule act, row a: it did not work"]
    );
    assert_eq!(
        f.rows("act")[0],
        (
            "a".to_owned(),
            RowState::Failing,
            "it did not work".to_owned()
        )
    );
    assert_eq!(
        f.condition("Ready"),
        "False EffectFailed: rule act, row a: it did not work"
    );
    assert_eq!(f.condition("Stalled"), "False Settled: ");
    assert_eq!(
        f.go_with(1_300, fails),
        ["a:6379 SET 1"],
        "again after a second and a little"
    );
    assert_eq!(
        f.go_with(1_300, fails),
        Vec::<String>::new(),
        "then after two"
    );
    f.row("a", json!({"value": "2"}));
    assert_eq!(
        f.go(0),
        ["a:6379 SET 2"],
        "a changed row does not wait for the old one's back-off"
    );
    f.settle();
    assert_eq!(
        f.condition("Ready"),
        "True Settled: every rule's rows are settled"
    );
}

#[test]
fn a_repeated_call_that_fails_backs_off_too() {
    let mut f = Fixture::new(&call_with("repeat: 1s"));
    f.row("a", json!({"value": "1"}));
    f.go(0);
    let all = |_: &Intent| Some(FailureKind::Refused);
    assert_eq!(f.go_with(SECOND, all), ["a:6379 SET 1"]);
    f.go_with(0, |_| None);
    assert_eq!(
        f.look(500)
            .intents
            .iter()
            .filter(|intent| intent.rule == "act")
            .count(),
        0
    );
    assert_eq!(f.go(1_000), ["a:6379 SET 1"]);
}

#[test]
fn refusals_stall_with_their_reason() {
    let cases = [
        (
            FailureKind::Conflict,
            "True FieldConflict: rule act, row a: it did not work",
        ),
        (
            FailureKind::Invalid,
            "True EffectFailed: rule act, row a: it did not work",
        ),
        (
            FailureKind::Forbidden,
            "True EffectFailed: rule act, row a: it did not work",
        ),
        (
            FailureKind::SecretMissing,
            "True EffectFailed: rule act, row a: it did not work",
        ),
        (FailureKind::Unreachable, "False Settled: "),
        (FailureKind::Refused, "False Settled: "),
    ];
    for (kind, expected) in cases {
        let mut f = Fixture::new(&call_with(""));
        f.row("a", json!({"value": "1"}));
        f.go_with(0, |intent| (intent.rule == "act").then_some(kind));
        f.go(0);
        assert_eq!(f.condition("Stalled"), expected, "{kind:?}");
    }
}

#[test]
fn an_event_follows_a_success() {
    let mut f = Fixture::new(&call_with(
        "event: {type: Warning, reason: Done, message: \"{{ name }} is {{ value }}\"}",
    ));
    f.row("a", json!({"value": "1"}));
    assert_eq!(
        f.go_with(0, |intent| (intent.rule == "act")
            .then_some(FailureKind::Refused)),
        ["a:6379 SET 1"]
    );
    assert_eq!(
        f.go(0),
        ["event EffectFailed: rule act, row a: it did not work"]
    );
    assert_eq!(f.go(1_300), ["a:6379 SET 1"]);
    assert_eq!(f.go(0), ["event Done: a is 1"]);
    assert_eq!(f.go(0), Vec::<String>::new());
}

#[test]
fn a_broken_rule_holds_still_and_stops_nobody() {
    let rest = format!(
        "{}  - name: broken\n    for: SELECT name, value FROM rows WHERE value = 'boom'\n    call: redis\n    with: {{host: \"{{{{ name }}}}\", port: \"{{{{ value }}}}\", command: [PING]}}\n",
        call_with("")
    );
    let mut f = Fixture::new(&rest);
    f.row("a", json!({"value": "boom"}));
    assert_eq!(f.settle(), ["a:6379 SET boom"], "the other rule acts");
    let failure = f.look(0).rules[1].failure.clone().unwrap();
    assert_eq!(
        failure,
        "row a: `boom` is not a port: a number from 1 to 65535"
    );
    assert_eq!(
        f.condition("Stalled"),
        "True RuleFailed: broken: row a: `boom` is not a port: a number from 1 to 65535"
    );
    assert!(!f.look(0).settled);
    f.delete("ConfigMap/a");
    f.settle();
    assert_eq!(f.condition("Stalled"), "False Settled: ");
}

#[test]
fn a_query_without_end_holds_its_rule_only() {
    let rest = format!(
        "{ROWS}decide:\n  endless: |\n    WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE EXISTS (SELECT 1 FROM rows))\n    SELECT max(i) AS i FROM n\n  upon: SELECT i FROM endless\nexecute:\n  - name: stuck\n    for: SELECT i AS key FROM upon WHERE i > 1\n    call: event\n    with: {{reason: Never, message: never}}\n  - name: fine\n    for: SELECT name FROM rows\n    call: event\n    with: {{reason: Fine, message: \"{{{{ name }}}}\"}}\n"
    );
    let mut f = Fixture::new(&rest);
    f.row("a", json!({"value": "1"}));
    assert_eq!(f.go(0), ["event Fine: a"]);
    assert_eq!(
        f.condition("Stalled"),
        "True RuleFailed: stuck: view endless: query took more than 5000000 steps: select fewer rows, or join on an indexed column"
    );
}

#[test]
fn the_clock_wakes_at_its_next_turn() {
    let rest = "execute:\n  - name: minute\n    for: SELECT m1 AS key FROM clock\n    call: event\n    with: {reason: Minute, message: \"{{ key }}\"}\n";
    let mut f = Fixture::new(rest);
    f.now = 1_000_030_000;
    let start = f.now - f.now.rem_euclid(60_000);
    assert_eq!(f.go(0), [format!("event Minute: {start}")]);
    assert_eq!(f.look(0).wake_at, Some(start + 60_000));
    assert_eq!(f.go(60_000), [format!("event Minute: {}", start + 60_000)]);
    let f = &mut Fixture::new(&call_with(""));
    assert_eq!(f.look(0).wake_at, None, "who reads no clock sleeps");
}

#[test]
fn a_rule_without_rows_of_its_own_acts_for_the_instance() {
    let rest = "execute:\n  - name: hello\n    call: redis\n    with: {host: \"{{ cr.name }}\", port: 1, command: [SIZE, \"{{ cr.size }}\"]}\n";
    let mut f = Fixture::new(rest);
    assert_eq!(f.settle(), ["demo:1 SIZE 3"]);
    f.change("Thing/demo", |object| object["spec"]["size"] = json!(5));
    assert_eq!(f.settle(), ["demo:1 SIZE 5"], "what it says changed");
}

#[test]
fn commands_have_conditions_and_forgive() {
    let rest = format!(
        "{ROWS}execute:\n  - name: act\n    for: SELECT name, value FROM rows WHERE name NOT LIKE 'demo-%'\n    call: redis\n    with:\n      host: h\n      timeout: 500ms\n      password: \"{{{{ secret('auth', 'password') }}}}\"\n      commands:\n        - {{command: [REMOVE, x], when: \"{{{{ value == 'known' }}}}\", ignore: [ERR No such master]}}\n        - [MONITOR, \"{{{{ cr.size // 2 + 1 }}}}\"]\n        - \"{{{{ ['SET', 'a', 1] + (['b', 2] if value == 'known' else []) }}}}\"\n"
    );
    let mut f = Fixture::new(&rest);
    f.row("a", json!({"value": "known"}));
    f.row("b", json!({}));
    let plan = f.look(0);
    let calls: Vec<String> = plan
        .intents
        .iter()
        .filter(|intent| intent.rule == "act")
        .map(shown)
        .collect();
    assert_eq!(
        calls,
        [
            "h:6379 REMOVE x; MONITOR 2; SET a 1 b 2",
            "h:6379 MONITOR 2; SET a 1"
        ]
    );
    let Effect::Redis(call) = &plan.intents[0].effect else {
        panic!("{:?}", plan.intents)
    };
    assert_eq!(
        (call.timeout_ms, call.password.as_deref()),
        (500, Some("\u{1}secret:key:auth:password\u{1}"))
    );
    assert_eq!(call.commands[0].ignore_errors, ["ERR No such master"]);
}

#[test]
fn the_calls_of_the_cluster() {
    let rest = format!(
        "{ROWS}execute:\n  - name: roll\n    for: SELECT uid AS key, name FROM rows WHERE value = 'old'\n    call: kube.delete\n    with: {{kind: v1/ConfigMap, name: \"{{{{ name }}}}\", uid: \"{{{{ key }}}}\"}}\n"
    );
    let mut f = Fixture::new(&rest);
    f.row("a", json!({"value": "old"}));
    assert_eq!(f.settle(), ["delete ConfigMap/a"]);
    assert!(f.world.find("ConfigMap/a").is_none());
}

#[test]
fn probes_are_told_with_what_they_ask() {
    let rest = "
sense:
  pods: {watch: v1/Pod, reach: namespace, cols: {ip: status.podIP}}
  info:
    probe: redis
    for: SELECT name AS key, ip FROM pods WHERE ip IS NOT NULL
    every: 2s
    timeout: 300ms
    with: {host: \"{{ ip }}\", commands: {info: [INFO, replication]}}
    cols: {role: info.role, all: info}
  open: {probe: tcp, for: SELECT name AS key FROM pods, with: {host: h, port: 80}}
  web: {probe: http, for: SELECT name AS key FROM pods, with: {url: \"http://{{ key }}.{{ cr.namespace }}/\"}}
execute:
  - name: master
    for: SELECT key FROM info WHERE role = 'master'
    call: event
    with: {reason: Master, message: \"{{ key }}\"}
";
    let mut f = Fixture::new(rest);
    f.put(json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "ns"}, "status": {"podIP": "10.0.0.9"}}));
    let plan = f.look(0);
    assert_eq!(plan.probes.len(), 3);
    let info = &plan.probes[0];
    assert_eq!(
        (
            info.table.as_str(),
            info.key.as_str(),
            info.every_ms,
            info.timeout_ms
        ),
        ("info", "p", 2000, 300)
    );
    assert!(
        matches!(&info.probe, libretto_api::intent::Probe::Redis(call) if call.host == "10.0.0.9" && call.commands[0].arguments == ["INFO", "replication"])
    );
    assert!(
        matches!(&plan.probes[2].probe, libretto_api::intent::Probe::Http(call) if call.url == "http://p.ns/")
    );
    let columns = &f.engine.package().schema().probes[0].columns;
    assert_eq!(
        (columns[0].path.to_string(), columns[1].path.to_string()),
        ("role".to_owned(), ".".to_owned()),
        "one command's answer is bare"
    );
}

const PROBED: &str = "
sense:
  pods: {watch: v1/Pod, reach: namespace, cols: {ip: status.podIP}}
  info:
    probe: redis
    for: SELECT name AS key, ip FROM pods
    with: {host: \"{{ ip }}\", command: [INFO]}
    cols: {role: role}
decide:
  masters: SELECT key FROM info WHERE role = 'master'
execute:
  - name: master
    for: SELECT key FROM masters
    once: true
    call: event
    with: {reason: Master, message: \"{{ key }}\"}
  - name: lonely
    for: SELECT 'x' AS key WHERE NOT EXISTS (SELECT 1 FROM masters)
    call: event
    with: {reason: Lonely, message: nobody}
  - name: mark
    for: SELECT key FROM masters
    patch: {apiVersion: v1, kind: Pod, metadata: {name: \"{{ key }}\", labels: {role: master}}}
";

#[test]
fn nothing_is_decided_on_answers_nobody_has_given() {
    let mut f = Fixture::new(PROBED);
    let answer = |f: &mut Fixture, key: &str, role: &str| {
        f.mirror
            .probe_result("demo", "cr-uid", "info", key, Ok(&json!({"role": role})), 1)
            .unwrap();
    };
    for name in ["p", "q"] {
        f.put(json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "ns"}, "status": {"podIP": name}}));
    }
    assert_eq!(f.go(0), Vec::<String>::new());
    assert_eq!(
        f.plan.as_ref().unwrap().rules[1].failure.as_deref(),
        Some("waits for the first answers of info")
    );
    answer(&mut f, "p", "slave");
    assert_eq!(f.go(0), Vec::<String>::new(), "one of two");
    answer(&mut f, "q", "master");
    assert_eq!(f.settle(), ["event Master: q", "patch Pod/q"]);
    let status = f.condition("Ready");
    // A restart: answers are gone, everything else is there.
    let schema = f.engine.package().schema().clone();
    f.mirror.declare(schema);
    f.restart();
    let all: Vec<Value> = f
        .world
        .objects
        .values()
        .map(|object| Value::clone(object))
        .collect();
    for object in &all {
        f.mirror
            .ingest(&Gvk::of(object).unwrap(), Change::Applied(object))
            .unwrap();
    }
    let plan = f.look(0);
    assert!(plan.intents.is_empty(), "{:?}", plan.intents);
    assert!(!plan.settled);
    assert_eq!(
        plan.wake_at,
        Some(f.now + 30_000),
        "who is blind too long says so"
    );
    for key in ["p", "q"] {
        answer(&mut f, key, if key == "q" { "master" } else { "slave" });
    }
    assert_eq!(
        f.settle(),
        Vec::<String>::new(),
        "neither twice nor released"
    );
    assert_eq!(f.condition("Ready"), status);
    // A target that never gets asked at all.
    f.put(json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "r", "namespace": "ns"}, "status": {"podIP": "r"}}));
    f.go(0);
    assert_eq!(f.condition("Ready"), status);
    f.go(30_000);
    assert!(
        f.condition("Ready")
            .contains("probe info: 1 target has not been asked yet"),
        "{}",
        f.condition("Ready")
    );
}

#[test]
fn metrics_are_rows_with_labels() {
    let rest = format!(
        "{ROWS}execute:\n  - metric: {{name: demo_values, help: what it is, value: \"SELECT extra, CAST(value AS INTEGER) AS value FROM rows WHERE value IS NOT NULL\", labels: [extra]}}\n  - metric: {{name: demo_count, value: SELECT count(*) FROM rows}}\n"
    );
    let mut f = Fixture::new(&rest);
    f.row("a", json!({"value": "7", "extra": "x"}));
    let plan = f.look(0);
    let samples: Vec<String> = plan
        .metrics
        .iter()
        .map(|sample| format!("{} {:?} {}", sample.name, sample.labels, sample.value))
        .collect();
    assert_eq!(
        samples,
        [
            r#"demo_values {"extra": "x", "name": "demo", "namespace": "ns"} 7"#,
            r#"demo_count {"name": "demo", "namespace": "ns"} 1"#,
        ]
    );
}

#[test]
fn constants_are_tables() {
    let mut f = Fixture::new(
        "sense:\n  maps: {watch: v1/ConfigMap, reach: namespace, cols: {value: data.value}}\n  plans:\n    values:\n      - {plan: small, size: 1, limits: {cpu: 1}}\n      - {plan: 'bob''s', size: 2.5}\n  ports: {values: [80, 443]}\ndecide:\n  ports_of: SELECT p.plan, p.size, p.limits, group_concat(q.value, '+') AS ports FROM plans p, ports q GROUP BY p.plan ORDER BY p.size\nexecute:\n  - name: act\n    for: SELECT * FROM ports_of\n    key: [plan]\n    call: redis\n    with: {host: h, command: [SET, \"{{ plan }}\", \"{{ size }}\", \"{{ ports }}\", \"{{ limits or '-' }}\"]}\n",
    );
    assert_eq!(
        f.go(0),
        [
            r#"h:6379 SET small 1 80+443 {"cpu":1}"#,
            "h:6379 SET bob's 2.5 80+443 -"
        ]
    );
}
