//! What is said about a rule without rows.

use crate::{Cause, Empty, Explanation, Source, Subject};

use super::{Fixture, ROWS};
use serde_json::json;

fn fixture(decide: &str) -> Fixture {
    Fixture::new(&format!(
        "{ROWS}decide:\n{decide}\nexecute:\n  - name: act\n    for: SELECT name AS key FROM chosen\n    call: event\n    with: {{reason: R, message: m}}\n"
    ))
}

fn explained(fixture: &Fixture, name: &str) -> Explanation {
    let snapshot = fixture.mirror.snapshot("demo", "cr-uid").unwrap().unwrap();
    fixture
        .engine
        .explain(&snapshot, fixture.now, name)
        .unwrap()
}

fn why(fixture: &Fixture) -> Vec<Empty> {
    explained(fixture, "act").queries.remove(0).empty
}

fn input(relation: Option<&str>, inputs: &[(&str, usize)], cause: Cause) -> Empty {
    Empty {
        relation: relation.map(str::to_owned),
        inputs: inputs
            .iter()
            .map(|(name, rows)| ((*name).to_owned(), *rows))
            .collect(),
        cause,
    }
}

#[test]
fn an_empty_table_is_found_behind_views() {
    let decide =
        "  many: SELECT name FROM rows\n  chosen: SELECT m.name FROM many m, cr WHERE cr.size > 0";
    let mut fixture = fixture(decide);
    assert_eq!(
        why(&fixture),
        [
            input(None, &[("chosen", 0)], Cause::Input("chosen".into())),
            input(
                Some("chosen"),
                &[("cr", 1), ("many", 0)],
                Cause::Input("many".into())
            ),
            input(Some("many"), &[("rows", 0)], Cause::Input("rows".into())),
            input(Some("rows"), &[], Cause::NoRows),
        ]
    );
    fixture.row("a", json!({"value": "1"}));
    let explanation = explained(&fixture, "act");
    assert_eq!(explanation.subject, Subject::Rule);
    assert_eq!(explanation.queries[0].empty, []);
    assert_eq!(explanation.queries[0].rows.as_ref().unwrap().rows.len(), 1);
    let names: Vec<&str> = explanation
        .relations
        .iter()
        .map(|relation| relation.name.as_str())
        .collect();
    assert_eq!(names, ["chosen", "cr", "many", "rows"]);
    assert!(matches!(explanation.relations[3].source, Source::Watch(_)));
}

#[test]
fn the_condition_that_leaves_none_is_named() {
    let decide = "  chosen: |\n    SELECT name FROM rows  -- all of them\n    WHERE value IS NOT NULL AND extra = 'x' AND NOT EXISTS (SELECT 1 FROM cr WHERE size > :size)";
    let mut fixture = fixture(decide);
    fixture.row("a", json!({"value": "1"}));
    fixture.row("b", json!({}));
    let steps = why(&fixture);
    assert_eq!(
        steps[1],
        input(
            Some("chosen"),
            &[("cr", 1), ("rows", 2)],
            Cause::Conditions {
                from: 2,
                left: vec![
                    ("value IS NOT NULL".to_owned(), 1),
                    ("extra = 'x'".to_owned(), 0)
                ],
            }
        )
    );
    assert_eq!(steps.len(), 2);
}

#[test]
fn what_cannot_be_taken_apart_is_shown_with_its_inputs() {
    let decide = "  chosen: SELECT name FROM rows WHERE value = '2' UNION SELECT name FROM rows WHERE value = '3'";
    let mut fixture = fixture(decide);
    fixture.row("a", json!({"value": "1"}));
    assert_eq!(
        why(&fixture)[1],
        input(Some("chosen"), &[("rows", 1)], Cause::Untold)
    );
}

#[test]
fn views_and_the_status_can_be_asked_about_too() {
    let fixture = fixture("  chosen: SELECT name FROM rows");
    assert_eq!(explained(&fixture, "chosen").subject, Subject::View);
    let snapshot = fixture.mirror.snapshot("demo", "cr-uid").unwrap().unwrap();
    assert!(fixture.engine.explain(&snapshot, 0, "nobody").is_none());
    let package = fixture.engine.package();
    let names: Vec<String> = package
        .subjects()
        .into_iter()
        .map(|(name, _)| name)
        .collect();
    assert_eq!(names, ["act", "chosen"]);
    assert!(package.modifiers("act").is_some() && package.modifiers("chosen").is_none());
}
