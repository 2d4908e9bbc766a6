//! What a scenario expects, compared with what is there. Every message shows both.

use std::collections::BTreeMap;

use libretto_mirror::{Datum, Limits};
use serde_json::Value;

use super::sim::Sim;
use crate::{Plan, engine::Pass};

pub(crate) const KEYWORDS: &[&str] = &["rows", "applied", "calls", "status", "order", "never"];

/// Queries that must never have a row during the step.
pub(super) fn never(expect: &Value) -> Vec<String> {
    texts(expect.get("never"))
}

fn texts(value: Option<&Value>) -> Vec<String> {
    match value {
        Some(Value::String(text)) => vec![text.clone()],
        Some(Value::Array(items)) => items
            .iter()
            .filter_map(|item| item.as_str().map(str::to_owned))
            .collect(),
        _ => Vec::new(),
    }
}

/// Everything a step expects. Numbers and order of calls are only compared in a calm run.
pub(super) fn check(sim: &Sim, expect: &Value, begun: usize, calm: bool) -> Vec<String> {
    let mut failures = Vec::new();
    if let Some(expected) = expect.get("status") {
        let cr = sim.cr();
        let status = cr.get("status").cloned().unwrap_or(Value::Null);
        compare_status(expected, &status, &mut failures);
    }
    for (name, expected) in entries(expect.get("applied")) {
        let found = sim
            .world
            .find(name)
            .and_then(|reference| sim.world.objects.get(&reference));
        match (expected, found) {
            (Value::Null, None) => {}
            (Value::Null, Some(_)) => failures.push(format!("applied: {name} exists, it must not")),
            (_, None) => failures.push(format!("applied: there is no {name}")),
            (expected, Some(found)) => {
                compare(expected, found, &format!("applied: {name}"), &mut failures);
            }
        }
    }
    if let (Some(expected), Some(_)) = (expect.get("rows"), &sim.plan) {
        failures.extend(sim.with_pass(|pass, plan| rows(pass, plan, expected)));
    }
    if !calm {
        return failures;
    }
    let calls: Vec<&str> = sim.done[begun.min(sim.done.len())..]
        .iter()
        .filter(|done| done.call && done.failure.is_none())
        .map(|done| done.rule.as_str())
        .collect();
    for (rule, expected) in entries(expect.get("calls")) {
        let found = calls.iter().filter(|call| *call == rule).count();
        if expected.as_u64() != Some(found as u64) {
            failures.push(format!(
                "calls: rule {rule} ran {found} times, expected {expected}"
            ));
        }
    }
    let order = texts(expect.get("order"));
    if !order.is_empty() {
        let found: Vec<&str> = calls
            .iter()
            .copied()
            .filter(|call| order.iter().any(|rule| rule == call))
            .collect();
        if found != order {
            failures.push(format!(
                "order: [{}], expected [{}]",
                found.join(", "),
                order.join(", ")
            ));
        }
    }
    failures
}

/// Expectations of a scenario of given tables.
pub(super) fn check_rows(pass: &Pass<'_>, plan: &Plan, expect: &Value) -> Vec<String> {
    match expect.get("rows") {
        Some(expected) => rows(pass, plan, expected),
        None => vec!["a scenario of tables expects `rows`".to_owned()],
    }
}

fn entries(value: Option<&Value>) -> impl Iterator<Item = (&String, &Value)> {
    value.and_then(Value::as_object).into_iter().flatten()
}

fn rows(pass: &Pass<'_>, plan: &Plan, expected: &Value) -> Vec<String> {
    let mut failures = Vec::new();
    for (name, expected) in entries(Some(expected)) {
        let found: Vec<BTreeMap<String, Datum>> =
            if let Some(rule) = plan.rules.iter().find(|rule| rule.rule == *name) {
                if let Some(failure) = &rule.failure {
                    failures.push(format!("rows: rule {name}: {failure}"));
                    continue;
                }
                rule.rows
                    .iter()
                    .map(|row| row.columns.iter().cloned().collect())
                    .collect()
            } else {
                if let Some(reason) = pass.failed.get(name) {
                    failures.push(format!("rows: {reason}"));
                    continue;
                }
                let sql = format!("SELECT * FROM \"{}\"", name.replace('"', "\"\""));
                match pass.sheet.rows(&sql, Limits::PACKAGE) {
                    Ok(rows) => rows
                        .rows
                        .iter()
                        .map(|row| {
                            rows.columns
                                .iter()
                                .zip(row)
                                .map(|(column, datum)| (column.name.clone(), datum.clone()))
                                .collect()
                        })
                        .collect(),
                    Err(error) => {
                        failures.push(format!("rows: {name}: {error}"));
                        continue;
                    }
                }
            };
        let wanted = expected.as_array().cloned().unwrap_or_default();
        if found.len() != wanted.len() {
            failures.push(format!(
                "rows: {name} has {} rows, expected {}: {}",
                found.len(),
                wanted.len(),
                shown(&found)
            ));
            continue;
        }
        for (number, (wanted, found)) in wanted.iter().zip(&found).enumerate() {
            for (column, value) in entries(Some(wanted)) {
                let there = found.get(column).map_or(Value::Null, Datum::to_json);
                if !same(value, &there) {
                    failures.push(format!(
                        "rows: {name}[{number}].{column} is {there}, expected {value}"
                    ));
                }
            }
        }
    }
    failures
}

fn shown(rows: &[BTreeMap<String, Datum>]) -> String {
    let shown: Vec<String> = rows
        .iter()
        .take(5)
        .map(|row| {
            let columns: Vec<String> = row
                .iter()
                .map(|(column, datum)| format!("{column}: {}", datum.to_json()))
                .collect();
            format!("{{{}}}", columns.join(", "))
        })
        .collect();
    shown.join(", ")
}

/// Equal as SQL sees it: true is 1.
fn same(expected: &Value, found: &Value) -> bool {
    match (expected, found) {
        (Value::Bool(truth), Value::Number(number)) => number.as_i64() == Some(i64::from(*truth)),
        (Value::Number(a), Value::Number(b)) => a.as_f64() == b.as_f64(),
        _ => expected == found,
    }
}

/// Conditions may be written `{Ready: true}`.
fn compare_status(expected: &Value, found: &Value, failures: &mut Vec<String>) {
    for (key, expected) in entries(Some(expected)) {
        if key != "conditions" || !expected.is_object() {
            compare(expected, &found[key], &format!("status.{key}"), failures);
            continue;
        }
        for (kind, expected) in entries(Some(expected)) {
            let condition = found["conditions"].as_array().and_then(|conditions| {
                conditions
                    .iter()
                    .find(|condition| condition["type"].as_str() == Some(kind))
            });
            let Some(condition) = condition else {
                if !expected.is_null() {
                    failures.push(format!("status: there is no condition {kind}"));
                }
                continue;
            };
            match expected {
                Value::Null => {
                    failures.push(format!("status: condition {kind} is there, it must not"));
                }
                Value::Bool(truth) => {
                    let wanted = if *truth { "True" } else { "False" };
                    if condition["status"].as_str() != Some(wanted) {
                        failures.push(format!(
                            "status: condition {kind} is {} ({}: {}), expected {wanted}",
                            condition["status"], condition["reason"], condition["message"]
                        ));
                    }
                }
                Value::String(wanted) => {
                    if condition["status"].as_str() != Some(wanted) {
                        failures.push(format!(
                            "status: condition {kind} is {}, expected {wanted}",
                            condition["status"]
                        ));
                    }
                }
                partial => compare(
                    partial,
                    condition,
                    &format!("status.conditions.{kind}"),
                    failures,
                ),
            }
        }
    }
}

/// Every named field must be so; lists must be whole.
fn compare(expected: &Value, found: &Value, place: &str, failures: &mut Vec<String>) {
    match (expected, found) {
        (Value::Object(expected), Value::Object(found)) => {
            for (key, value) in expected {
                compare(
                    value,
                    found.get(key).unwrap_or(&Value::Null),
                    &format!("{place}.{key}"),
                    failures,
                );
            }
        }
        (Value::Array(wanted), Value::Array(items)) if wanted.len() == items.len() => {
            for (number, (wanted, item)) in wanted.iter().zip(items).enumerate() {
                compare(wanted, item, &format!("{place}[{number}]"), failures);
            }
        }
        (expected, found) if same(expected, found) => {}
        (expected, found) => failures.push(format!("{place} is {found}, expected {expected}")),
    }
}
