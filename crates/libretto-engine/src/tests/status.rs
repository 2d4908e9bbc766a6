//! Status fields, conditions and their times.

use super::*;

const STATUS: &str = r#"
sense:
  rows: {watch: v1/ConfigMap, reach: namespace, cols: {value: data.value, extra: data.extra}}
execute:
  - status:
      fields: >-
        SELECT count(*) > 0 AS healthy, count(*) AS size, count(*) AS text, json_group_array(name) AS members,
               count(*) > 1 AS "nested.flag", NULL AS "nested.absent", '{"a": [1]}' AS free FROM rows
      json: [free]
      conditions:
        Filled: SELECT count(*) > 0 AS ok, 'Rows' AS reason, count(*) || ' rows' AS message FROM rows
        Once: SELECT 1 AS ok, 'Seen' AS reason, extra AS message FROM rows WHERE extra IS NOT NULL LIMIT 1
        Vague: SELECT NULL AS ok
"#;

fn status(f: &Fixture) -> Value {
    f.world.objects[&f.world.find("Thing/demo").unwrap()]["status"].clone()
}

fn find<'a>(status: &'a Value, kind: &str) -> &'a Value {
    status["conditions"]
        .as_array()
        .and_then(|conditions| {
            conditions
                .iter()
                .find(|condition| condition["type"] == kind)
        })
        .unwrap_or(&Value::Null)
}

#[test]
fn fields_take_the_types_of_the_schema() {
    let mut f = Fixture::new(STATUS);
    f.settle();
    let mut empty = status(&f);
    empty.as_object_mut().unwrap().remove("conditions");
    assert_eq!(
        empty,
        json!({"healthy": false, "size": 0, "text": "0", "members": [], "nested": {"flag": false}, "free": {"a": [1]}, "observedGeneration": 1})
    );
    f.row("a", json!({}));
    f.row("b", json!({}));
    f.settle();
    let full = status(&f);
    assert_eq!(
        (&full["healthy"], &full["members"], &full["nested"]),
        (&json!(true), &json!(["a", "b"]), &json!({"flag": true}))
    );
    assert_eq!(
        f.look(60_000).intents,
        [],
        "the same status is not written again"
    );
}

#[test]
fn conditions_keep_their_times_while_they_stay() {
    let mut f = Fixture::new(STATUS);
    f.settle();
    let first = find(&status(&f), "Filled").clone();
    assert_eq!(
        first,
        json!({"type": "Filled", "status": "False", "reason": "Rows", "message": "0 rows", "lastTransitionTime": "1970-01-01T00:16:40Z"})
    );
    assert_eq!(find(&status(&f), "Vague")["status"], "Unknown");
    assert!(
        find(&status(&f), "Once").is_null(),
        "absent if it never was"
    );
    f.now += 60_000;
    f.row("a", json!({"extra": "x"}));
    f.settle();
    assert_eq!(
        find(&status(&f), "Filled")["lastTransitionTime"],
        "1970-01-01T00:17:40Z"
    );
    assert_eq!(find(&status(&f), "Once")["status"], "True");
    f.now += 60_000;
    f.row("b", json!({}));
    f.settle();
    let third = status(&f);
    assert_eq!(find(&third, "Filled")["message"], "2 rows");
    assert_eq!(
        find(&third, "Filled")["lastTransitionTime"],
        "1970-01-01T00:17:40Z",
        "another message is no transition"
    );
    f.row("a", json!({}));
    f.settle();
    assert_eq!(
        find(&status(&f), "Once"),
        &json!({"type": "Once", "status": "False", "reason": "Seen", "message": "x", "lastTransitionTime": "1970-01-01T00:18:40Z"}),
        "what was is no longer"
    );
    let kinds: Vec<Value> = status(&f)["conditions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|condition| condition["type"].clone())
        .collect();
    assert_eq!(
        kinds,
        ["Filled", "Once", "Vague", "Ready", "Reconciling", "Stalled"]
    );
}

#[test]
fn conditions_in_the_seeds_style() {
    let rest = STATUS.replace("      json: [free]\n", "      json: [free]\n      order: newest\n      times: [lastUpdateTime, lastTransitionTime]\n      runtime: false\n");
    let mut f = Fixture::new(&rest);
    f.settle();
    f.now += 60_000;
    f.row("a", json!({"extra": "x"}));
    f.settle();
    let status = status(&f);
    let kinds: Vec<(Value, Value)> = status["conditions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|condition| {
            (
                condition["type"].clone(),
                condition["lastUpdateTime"].clone(),
            )
        })
        .collect();
    assert_eq!(
        kinds,
        [
            (json!("Filled"), json!("1970-01-01T00:17:40Z")),
            (json!("Once"), json!("1970-01-01T00:17:40Z")),
            (json!("Vague"), json!("1970-01-01T00:16:40Z")),
        ]
    );
}

#[test]
fn a_status_that_cannot_be_computed_stays_as_it_was() {
    let rest = STATUS.replace(
        "json_group_array(name) AS members",
        "CASE WHEN count(*) = 2 THEN abs(-9223372036854775807 - 1) ELSE '[]' END AS members",
    );
    let mut f = Fixture::new(&rest);
    f.row("a", json!({}));
    f.settle();
    let before = status(&f);
    f.row("b", json!({}));
    f.settle();
    let after = status(&f);
    assert_eq!(after["size"], before["size"]);
    assert_eq!(find(&after, "Filled"), find(&before, "Filled"));
    assert_eq!(
        f.condition("Stalled"),
        "True RuleFailed: status: fields: integer overflow"
    );
}

#[test]
fn secrets_do_not_reach_the_status() {
    let rest = "execute:\n  - status:\n      conditions:\n        Known: \"SELECT 1 AS ok, 'R' AS reason, 'it is ' || :password AS message\"\n";
    let mut f = Fixture::new(rest);
    f.change("Thing/demo", |thing| {
        thing["spec"]["password"] = json!("hunter2");
    });
    f.settle();
    assert_eq!(f.condition("Known"), "True R: it is ***");
}

#[test]
fn a_package_without_a_status_rule_still_says_how_it_stands() {
    let mut f = Fixture::new(&call_with(""));
    f.settle();
    assert_eq!(
        f.condition("Ready"),
        "True Settled: every rule's rows are settled"
    );
    assert_eq!(status(&f)["observedGeneration"], json!(1));
}

#[test]
fn a_status_that_cannot_be_written_is_an_event_once() {
    let mut f = Fixture::new("");
    let refused = |intent: &Intent| {
        matches!(intent.effect, Effect::Status { .. }).then_some(FailureKind::Invalid)
    };
    f.go_with(0, refused);
    assert_eq!(
        f.go_with(0, refused),
        ["event EffectFailed: it did not work"]
    );
    for _ in 0..5 {
        assert_eq!(f.go_with(60_000, refused), Vec::<String>::new());
    }
    f.go(120_000);
    assert_eq!(
        f.condition("Ready"),
        "True Settled: every rule's rows are settled"
    );
}

#[test]
fn an_instance_whose_kind_is_missing_says_so_and_heals() {
    let mut f = Fixture::new(STATUS);
    f.row("a", json!({}));
    f.settle();
    let healthy = status(&f);
    for message in ["no Gadget", "no Gadget", "no Widget"] {
        let snapshot = f.mirror.snapshot("demo", "cr-uid").unwrap().unwrap();
        let plan = f.engine.blocked(&snapshot, &f.ledger, f.now, 7, message);
        let done: Vec<String> = plan.intents.iter().map(shown).collect();
        let first = f.condition("Stalled") != format!("True KindNotServed: {message}");
        let expected = [
            format!("event KindNotServed: {message}"),
            "status".to_owned(),
        ];
        assert_eq!(done, if first { &expected[..] } else { &[] });
        f.ledger = plan.ledger.clone();
        for intent in &plan.intents {
            let outcome = f.execute(intent);
            f.ledger.record(intent, &outcome, f.now);
        }
        f.deliver();
        assert_eq!(
            f.condition("Stalled"),
            format!("True KindNotServed: {message}")
        );
        assert_eq!(
            f.condition("Ready"),
            format!("False KindNotServed: {message}")
        );
        assert_eq!(find(&status(&f), "Filled"), find(&healthy, "Filled"));
        assert_eq!(status(&f)["size"], healthy["size"], "the rest stays");
    }
    // A new process finds it told.
    f.restart();
    let snapshot = f.mirror.snapshot("demo", "cr-uid").unwrap().unwrap();
    let plan = f
        .engine
        .blocked(&snapshot, &f.ledger, f.now, 7, "no Widget");
    assert_eq!(plan.intents, []);
    f.settle();
    assert_eq!(status(&f), healthy);
    // What is going and cannot says why, too.
    let reference = f.world.find("Thing/demo").unwrap();
    f.world.update(&reference, |thing| {
        thing["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    });
    f.deliver();
    let snapshot = f.mirror.snapshot("demo", "cr-uid").unwrap().unwrap();
    let plan = f
        .engine
        .blocked(&snapshot, &f.ledger, f.now, 7, "no Widget");
    let done: Vec<String> = plan.intents.iter().map(shown).collect();
    assert_eq!(done, ["event KindNotServed: no Widget"]);
}

const READINESS: &str = "
sense:
  rows: {watch: v1/ConfigMap, reach: namespace, cols: {value: data.value, extra: data.extra}}
execute:
  - name: act
    for: SELECT name, value FROM rows WHERE value IS NOT NULL
    call: redis
    with: {host: a, command: [SET, '{{ value }}']}
  - status:
      ready: SELECT extra = 'fine' AS ok, 'Broken' AS reason, 'it is ' || extra AS message FROM rows WHERE extra IS NOT NULL
";

#[test]
fn ready_is_what_the_package_says_too() {
    let three = |f: &Fixture| ["Ready", "Reconciling", "Stalled"].map(|kind| f.condition(kind));
    let mut f = Fixture::new(READINESS);
    f.settle();
    let settled = [
        "True Settled: every rule's rows are settled",
        "False Settled: ",
        "False Settled: ",
    ];
    assert_eq!(three(&f), settled, "no row is no objection");
    f.row("state", json!({"extra": "torn"}));
    f.settle();
    assert_eq!(
        three(&f),
        [
            "False Broken: it is torn",
            "False Settled: ",
            "True Broken: it is torn"
        ],
        "nothing is left to do, and it is not ready"
    );
    f.row("work", json!({"value": "1"}));
    let refused = |intent: &Intent| (intent.rule == "act").then_some(FailureKind::Unreachable);
    f.go_with(0, refused);
    f.go_with(0, refused);
    assert_eq!(
        three(&f),
        [
            "False EffectFailed: rule act, row work: it did not work",
            "True EffectFailed: rule act, row work: it did not work",
            "False Settled: "
        ],
        "something is being tried"
    );
    f.go(60_000);
    f.row("state", json!({"extra": "fine"}));
    f.settle();
    assert_eq!(three(&f), settled);

    // The package knows whether it waits or is stuck.
    let waits = READINESS.replace("AS message FROM", "AS message, 0 AS stalled FROM");
    let mut f = Fixture::new(&waits);
    f.row("state", json!({"extra": "torn"}));
    f.settle();
    assert_eq!(
        three(&f),
        [
            "False Broken: it is torn",
            "True Broken: it is torn",
            "False Settled: "
        ]
    );
}

#[test]
fn a_rule_that_fails_is_told_once() {
    let mut f = Fixture::new(
        "execute:\n  - name: a\n    call: event\n    with: {reason: R, message: \"{{ cr.labels.missing.more }}\"}\n",
    );
    let told = |f: &Fixture| -> Vec<String> {
        f.look_at_events()
            .into_iter()
            .filter(|text| text.contains("RuleFailed"))
            .collect()
    };
    assert_eq!(told(&f).len(), 1, "{:?}", told(&f));
    f.settle();
    assert_eq!(told(&f), Vec::<String>::new());
    f.restart();
    assert_eq!(told(&f), Vec::<String>::new(), "the status says it already");
}
