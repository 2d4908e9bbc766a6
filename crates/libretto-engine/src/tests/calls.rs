//! Calls and probes beyond Redis and HTTP, their times, and what a package says about readiness.

use super::*;

/// One call over the rows of the tests, with its `with`.
fn call(name: &str, with: &str) -> String {
    format!(
        "{ROWS}execute:\n  - name: act\n    for: SELECT name, value, extra FROM rows WHERE value IS NOT NULL AND name NOT LIKE 'demo-%' ORDER BY name\n    call: {name}\n    with: {with}\n"
    )
}

#[test]
fn objects_are_scaled_restarted_and_evicted() {
    for (name, with, expected) in [
        (
            "kube.scale",
            "{kind: apps/v1/StatefulSet, name: \"{{ name }}\", replicas: \"{{ value }}\"}",
            "scale StatefulSet/a to 5",
        ),
        (
            "kube.restart",
            "{kind: apps/v1/Deployment, name: \"{{ name }}\"}",
            "restart Deployment/a",
        ),
        (
            "kube.evict",
            "{name: \"{{ name }}\", uid: \"{{ value }}\"}",
            "evict a",
        ),
        (
            "exec",
            "{pod: \"{{ name }}\", container: c, command: [redis-cli, set, \"{{ value }}\"], ok: [0, 1]}",
            "exec a redis-cli set 5",
        ),
    ] {
        let mut f = Fixture::new(&call(name, with));
        f.row("a", json!({"value": "5"}));
        assert_eq!(f.go(0), [expected], "{name}");
        assert_eq!(f.go(0), Vec::<String>::new(), "{name}");
    }
    let mut f = Fixture::new(&call(
        "kube.scale",
        "{kind: apps/v1/StatefulSet, name: \"{{ name }}\", replicas: \"{{ value }}\"}",
    ));
    f.row("a", json!({"value": "-1"}));
    f.go(0);
    assert_eq!(
        f.look(0).rules[0].failure.as_deref(),
        Some("row a: `-1` is not a number of replicas")
    );
}

#[test]
fn what_is_needed_of_the_api_server_is_known() {
    let package = compiled(&format!(
        "{}  - name: again\n    call: kube.restart\n    with: {{kind: apps/v1/DaemonSet, name: x}}\n  - name: out\n    call: kube.evict\n    with: {{name: x}}\n",
        call("exec", "{pod: x, command: [a]}")
    ));
    let needs: Vec<String> = package
        .requests()
        .into_iter()
        .map(|(gvk, sub, verbs)| format!("{}{sub} {}", gvk.kind, verbs.join(",")))
        .collect();
    assert_eq!(
        needs,
        [
            "Pod/exec create,get",
            "DaemonSet patch",
            "Pod/eviction create"
        ]
    );
}

#[test]
fn a_schedule_acts_at_its_times_and_makes_up_for_missed_ones_once() {
    let rules = format!(
        "{}    schedule: \"0 * * * *\"\n    event: {{reason: Ran, message: \"for {{{{ due }}}}\"}}\n",
        call(
            "event",
            "{reason: Backup, message: \"{{ name }} of {{ due }}\"}"
        )
    );
    let mut f = Fixture::new(&rules);
    // 1970-01-01T00:16:40Z
    f.row("a", json!({"value": "1"}));
    assert_eq!(f.go(0), Vec::<String>::new(), "nothing was missed");
    f.settle();
    let plan = f.look(0);
    assert!(plan.settled, "waiting for a time is no work");
    assert_eq!(plan.wake_at, Some(3_600_000));
    assert_eq!(f.rows("act")[0].2, "next at 1970-01-01T01:00:00Z");
    let minute = 60_000;
    assert_eq!(f.go(40 * minute), Vec::<String>::new());
    assert_eq!(
        f.go(4 * minute),
        ["event Backup: a of 1970-01-01T01:00:00Z"]
    );
    let mut told = f.settle();
    told.retain(|line| line.contains("Backup"));
    assert_eq!(told, Vec::<String>::new(), "once");
    f.restart();
    assert_eq!(f.settle(), Vec::<String>::new(), "remembered");
    // Nobody was there for five hours.
    f.now += 300 * minute;
    f.restart();
    assert_eq!(
        f.go(0),
        ["event Backup: a of 1970-01-01T06:00:00Z"],
        "the last time, not each"
    );
    f.settle();
    f.row("b", json!({"value": "1"}));
    assert_eq!(
        f.settle(),
        Vec::<String>::new(),
        "what is new missed nothing"
    );
}

#[test]
fn a_scheduled_call_that_fails_is_tried_again() {
    let rules = format!(
        "{}    schedule: {{cron: \"@hourly\", zone: Asia/Shanghai}}\n",
        call("redis", "{host: \"{{ name }}\", command: [BGSAVE]}")
    );
    let mut f = Fixture::new(&rules);
    f.row("a", json!({"value": "1"}));
    f.settle();
    let refused = |intent: &Intent| (intent.rule == "act").then_some(FailureKind::Refused);
    assert_eq!(f.go_with(3_600_000, refused), ["a:6379 BGSAVE"]);
    assert!(!f.look(0).settled);
    let mut again = f.go(2_000);
    again.retain(|line| line.contains("BGSAVE"));
    assert_eq!(again, ["a:6379 BGSAVE"]);
    f.settle();
    assert!(f.look(0).settled);
}

#[test]
fn a_package_says_when_its_objects_are_ready() {
    let rules = format!(
        "{ROWS}execute:\n  - name: maps\n    for: SELECT 'one' AS key UNION SELECT 'two'\n    ready: SELECT name, value = 'up' AS ok, 'it is ' || value AS message FROM rows WHERE value IS NOT NULL\n    limit: 1\n    apply: {{apiVersion: v1, kind: Secret, metadata: {{name: \"{{{{ key }}}}\"}}}}\n"
    );
    let mut f = Fixture::new(&rules);
    assert_eq!(
        f.settle(),
        ["apply Secret/one"],
        "the second waits for the first"
    );
    f.row("one", json!({"value": "down"}));
    f.settle();
    assert_eq!(
        f.rows("maps")
            .into_iter()
            .map(|(_, _, note)| note)
            .collect::<Vec<_>>(),
        [
            "applied; not ready yet: it is down",
            "behind others: the rule's limit is reached"
        ]
    );
    f.row("one", json!({"value": "up"}));
    assert_eq!(f.settle(), ["apply Secret/two"]);
    assert!(!f.look(0).settled, "no row about it: not ready");
    f.row("two", json!({"value": "up"}));
    f.settle();
    assert!(f.look(0).settled);
}

#[test]
fn mistakes_are_told_with_what_to_do() {
    let found = told(&package(
        r#"
sense:
  far: {probe: exec, for: SELECT 1 AS key, with: {pod: x, command: "ls -l"}}
  names: {probe: dns, for: SELECT 1 AS key, with: {host: x}}
  numbers: {probe: prometheus, for: SELECT 1 AS key, with: {url: "http://x", query: up, metrics: [up]}}
execute:
  - name: a
    schedule: "3am"
    call: kube.scale
    with: {kind: apps/v1/StatefulSet, name: x}
  - name: b
    schedule: "0 3 * * *"
    once: true
    call: kube.restart
    with: {kind: batch/v1/Job, name: x}
  - name: c
    ready: SELECT 1 AS fine
    apply: {apiVersion: v1, kind: Secret, metadata: {name: x}}
  - name: d
    ready: SELECT 1 AS ok
    schedule: "0 3 * * *"
    apply: {apiVersion: v1, kind: Secret, metadata: {name: y}}
  - name: e
    call: exec
    with: {pod: x, command: [a], ok: [999]}
"#,
    ));
    for expected in [
        "sense.far.with.command is a list of words, this is text\n  hint: no shell is between",
        "sense.names.with needs `name`",
        "unknown keyword `host` in sense.names.with",
        "sense.numbers.with has both `query` and `metrics`",
        "rule a: schedule: `3am` is no schedule",
        "rule a: with needs `replicas`",
        "rule b: `once` has no meaning with `schedule`",
        "rule b: with: batch/v1/Job has no pods to replace one after another",
        "rule c: ready must select a column `ok`",
        "rule c: ready: column `fine` is none of ok, kind, name, message",
        "rule d: `schedule` has no meaning with `apply`",
        "rule e: with.ok must be a list of exit codes",
    ] {
        assert!(found.contains(expected), "{expected}\nnot in\n{found}");
    }
}

#[test]
fn an_alert_begins_once_goes_on_over_restarts_and_ends_with_its_row() {
    let rules = format!(
        "{ROWS}execute:\n  - name: high\n    for: SELECT name, value FROM rows WHERE value > '5'\n    stable: 1m\n    alert: {{severity: critical, summary: \"{{{{ name }}}} is at {{{{ value }}}}\", labels: {{team: shop}}}}\n"
    );
    let mut f = Fixture::new(&rules);
    f.row("a", json!({"value": "7"}));
    assert_eq!(f.go(0), Vec::<String>::new(), "not long enough");
    let plan = f.look(0);
    assert!(plan.settled, "nobody has anything to do about it");
    assert_eq!(
        (plan.alerts, plan.wake_at),
        (Vec::new(), Some(f.now + 60_000))
    );
    f.row("a", json!({"value": "8"}));
    assert_eq!(f.go(60_000), ["event Alert: high: a is at 8"]);
    let since = f.now - 60_000;
    f.row("a", json!({"value": "9"}));
    assert_eq!(f.settle(), Vec::<String>::new(), "the same alert");
    let told = f.look(0).alerts;
    assert_eq!(told.len(), 1);
    assert_eq!(
        (
            told[0].summary.as_str(),
            told[0].severity.as_str(),
            told[0].since
        ),
        ("a is at 9", "critical", since)
    );
    assert_eq!(told[0].labels, [("team".to_owned(), "shop".to_owned())]);
    f.restart();
    assert_eq!(f.settle(), Vec::<String>::new(), "goes on");
    assert_eq!(f.look(0).alerts.len(), 1);
    f.row("a", json!({"value": "1"}));
    f.settle();
    assert_eq!(f.look(0).alerts, []);
    f.row("a", json!({"value": "9"}));
    assert_eq!(f.go(0), Vec::<String>::new());
    f.settle();
    assert_eq!(
        f.go(60_000),
        ["event Alert: high: a is at 9"],
        "another one"
    );
}

#[test]
fn a_made_value_stands_whole_in_a_secret() {
    let secret = |data: &str| {
        format!(
            "execute:\n  - name: s\n    apply: {{apiVersion: v1, kind: Secret, metadata: {{name: s}}, {data}}}\n"
        )
    };
    let mut f = Fixture::new(&secret(
        "stringData: {password: \"{{ random(12, 'hex') }}\"}",
    ));
    assert_eq!(f.settle(), ["apply Secret/s"]);
    for (data, expected) in [
        (
            "stringData: {password: \"x{{ random() }}\"}",
            "random() is for whole values",
        ),
        (
            "metadata2: \"{{ random() }}\"",
            "random() is for whole values",
        ),
        (
            "stringData: {password: \"{{ random(0) }}\"}",
            "random(0): from 1 to 512",
        ),
        (
            "stringData: {password: \"{{ random(9, 'emoji') }}\"}",
            "there are no letters `emoji`",
        ),
        (
            "stringData: {password: \"{{ random() | b64encode }}\"}",
            "a secret cannot be encoded",
        ),
        (
            "stringData: {password: \"{{ secret('a', 'b') | sha256 }}\"}",
            "a secret cannot be encoded",
        ),
    ] {
        let f = Fixture::new(&secret(data));
        let mut f = f;
        let failure = f.look(0).rules[0].failure.clone().unwrap_or_default();
        assert!(failure.contains(expected), "{data}: {failure}");
    }
}
