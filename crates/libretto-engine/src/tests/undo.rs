//! Calls that are taken back, and calls at the end.

use super::*;

/// A registration for every row: made with the row's values, taken back with those it was made with.
fn registrations(modifiers: &str) -> String {
    let mut text = format!(
        "{ROWS}execute:\n  - name: register\n    for: SELECT name, value FROM rows WHERE value IS NOT NULL AND name NOT LIKE 'demo-%' ORDER BY name\n    call: http\n    with: {{method: PUT, url: \"http://registry/{{{{ name }}}}\", json: {{to: \"{{{{ value }}}}\"}}}}\n    undo: {{call: http, with: {{method: DELETE, url: \"http://registry/{{{{ name }}}}?to={{{{ value }}}}\", ok: [200, 404]}}}}\n"
    );
    for line in modifiers.lines() {
        text.push_str("    ");
        text.push_str(line);
        text.push('\n');
    }
    text
}

const PUT_A: &str = r#"PUT http://registry/a {"Json":{"to":"1"}}"#;
const DELETE_A: &str = "DELETE http://registry/a?to=1 null";
const HOLD: &str = "patch Thing/demo";

fn finalizers(f: &Fixture) -> Value {
    f.world.objects[&f.world.find("Thing/demo").unwrap()]["metadata"]["finalizers"].clone()
}

fn delete_instance(f: &mut Fixture) {
    f.change("Thing/demo", |thing| {
        thing["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    });
}

#[test]
fn a_row_that_leaves_is_taken_back_with_the_values_it_was_done_with() {
    let mut f = Fixture::new(&registrations(""));
    f.row("a", json!({"value": "1"}));
    assert_eq!(f.settle(), [HOLD, PUT_A], "held before anything is done");
    assert_eq!(finalizers(&f), json!(["libretto.dev/demo"]));
    f.delete("ConfigMap/a");
    assert_eq!(
        f.settle(),
        [DELETE_A, HOLD],
        "and let go when nothing is left"
    );
    assert_eq!(finalizers(&f), Value::Null);
    assert!(f.look(0).settled);
    f.row("a", json!({"value": "1"}));
    assert_eq!(f.settle(), [HOLD, PUT_A], "as if it had never been");
}

#[test]
fn what_was_done_is_taken_back_after_a_restart() {
    let mut f = Fixture::new(&registrations("once: true"));
    f.row("a", json!({"value": "1"}));
    f.settle();
    f.restart();
    assert_eq!(f.settle(), Vec::<String>::new());
    f.restart();
    f.delete("ConfigMap/a");
    assert_eq!(f.settle(), [DELETE_A, HOLD]);
}

#[test]
fn a_changed_row_is_done_again_and_taken_back_as_it_was_last() {
    let mut f = Fixture::new(&registrations(""));
    f.row("a", json!({"value": "1"}));
    f.settle();
    f.row("a", json!({"value": "2"}));
    assert_eq!(f.settle(), [r#"PUT http://registry/a {"Json":{"to":"2"}}"#]);
    f.delete("ConfigMap/a");
    assert_eq!(f.settle(), ["DELETE http://registry/a?to=2 null", HOLD]);
}

#[test]
fn what_moved_is_taken_back_where_it_is() {
    let mut f = Fixture::new(&registrations("once: true\non: [name]"));
    f.row("a", json!({"value": "1"}));
    f.settle();
    f.row("a", json!({"value": "2"}));
    assert_eq!(f.settle(), [""; 0], "not done again");
    f.restart();
    f.delete("ConfigMap/a");
    assert_eq!(f.settle(), ["DELETE http://registry/a?to=2 null", HOLD]);
}

#[test]
fn a_deleted_instance_stays_until_everything_is_taken_back() {
    let mut f = Fixture::new(&registrations(""));
    f.row("a", json!({"value": "1"}));
    f.row("b", json!({"value": "2"}));
    f.settle();
    delete_instance(&mut f);
    let fails = |intent: &Intent| {
        (intent.rule == "register" && intent.key == "a").then_some(FailureKind::Unreachable)
    };
    let done = f.go_with(0, fails);
    assert_eq!(done, [DELETE_A, "DELETE http://registry/b?to=2 null"]);
    let waiting = f.go(0);
    assert_eq!(
        waiting,
        ["event EffectFailed: rule register, row a: it did not work"],
        "it waits before it tries again"
    );
    assert_eq!(finalizers(&f), json!(["libretto.dev/demo"]));
    assert_eq!(f.go(2_000), [DELETE_A]);
    assert_eq!(f.go(0), [HOLD]);
}

#[test]
fn nothing_is_done_that_could_not_be_taken_back() {
    let mut f = Fixture::new(&registrations(""));
    f.row("a", json!({"value": "1"}));
    let plan = f.look(0);
    let order: Vec<&str> = plan
        .intents
        .iter()
        .map(|intent| intent.rule.as_str())
        .collect();
    assert_eq!(order[..3], ["@finalizer", "@inventory", "register"]);
    f.go_with(0, |intent| {
        (intent.rule == "@inventory").then_some(FailureKind::Unreachable)
    });
    let plan = f.look(0);
    assert!(
        plan.intents.iter().all(|intent| intent.rule != "register"),
        "the inventory cannot be written: {:?}",
        plan.intents
    );
}

#[test]
fn a_rule_at_deletion_acts_then_and_only_then() {
    let mut f = Fixture::new(
        "execute:\n  - name: backup\n    for: SELECT 'all' AS key\n    during: delete\n    call: http\n    with: {method: POST, url: http://backup/all}\n",
    );
    assert_eq!(f.settle(), [HOLD]);
    delete_instance(&mut f);
    let fails = |intent: &Intent| (intent.rule == "backup").then_some(FailureKind::Unreachable);
    assert_eq!(f.go_with(0, fails), ["POST http://backup/all null"]);
    assert_eq!(
        finalizers(&f),
        json!(["libretto.dev/demo"]),
        "not without its backup"
    );
    f.go(0);
    assert_eq!(f.go(2_000), ["POST http://backup/all null"]);
    assert_eq!(f.go(0), [HOLD]);
    assert_eq!(finalizers(&f), Value::Null);
}

#[test]
fn mistakes_of_undo_and_during_are_told() {
    for (rule, expected) in [
        (
            "{name: a, call: event, with: {reason: R, message: m}, undo: {with: {}}}",
            "rule a: undo needs `call`",
        ),
        (
            "{name: a, call: event, with: {reason: R, message: m}, undo: {call: event}}",
            "rule a: undo needs `with`",
        ),
        (
            "{name: a, apply: {apiVersion: v1, kind: Secret, metadata: {name: x}}, undo: {}}",
            "rule a: `undo` has no meaning with `apply`",
        ),
        (
            "{name: a, call: event, with: {reason: R, message: m}, during: update}",
            "rule a: during is not known",
        ),
        (
            "{name: a, apply: {apiVersion: v1, kind: Secret, metadata: {name: x}}, during: delete}",
            "`during: delete` has no meaning with `apply`",
        ),
        (
            "{name: a, call: http, with: {method: SEND, url: http://x}}",
            "there is no method `SEND`",
        ),
        (
            "{name: a, call: http, with: {url: http://x, ok: 200}}",
            "with.ok must be a list of status codes",
        ),
        (
            "{name: a, call: http, with: {url: http://x, json: 1, body: b}}",
            "has both `json` and `body`",
        ),
    ] {
        let told = told(&package(&format!("execute:\n  - {rule}\n")));
        assert!(told.contains(expected), "{rule}\n{told}");
    }
}
