//! One rule, view or probe, with everything it stands on. Pure but for what it is given.

use libretto_engine::{Cause, Compiled, Empty, Explanation, Reason, Relation, Source, Subject};
use libretto_mirror::Table;
use serde_json::{Map, Value, json};

use super::{Look, RuleReport, duration, rules_table};
use crate::cli::{
    CliError,
    describe::section,
    print::{headings, table},
    spoken,
};

/// Rows of a relation that are shown as text: a screen. The other forms have all.
const SHOWN: usize = 20;
/// Characters of a cell that are shown as text: an address and a name fit.
const CELL: usize = 36;

/// The package has something of this name.
pub(super) fn known(package: &Compiled, name: &str) -> Result<(), CliError> {
    let subjects = package.subjects();
    if subjects.iter().any(|(known, _)| known == name) {
        return Ok(());
    }
    let of = |subject: Subject| {
        subjects
            .iter()
            .filter(|(_, kind)| *kind == subject)
            .map(|(name, _)| name.as_str())
            .collect::<Vec<_>>()
            .join(", ")
    };
    Err(CliError::failed(format!(
        "package {} has no rule, view or probe {name:?}",
        package.name()
    ))
    .hint(format!(
        "rules: {}; views: {}; probes: {}",
        of(Subject::Rule),
        of(Subject::View),
        of(Subject::Probe)
    )))
}

pub(super) fn text(look: &Look, explanation: &Explanation, rule: Option<&RuleReport>) -> String {
    let Explanation {
        name,
        subject,
        queries,
        relations,
    } = explanation;
    let mut text = String::new();
    let word = match subject {
        Subject::Rule => "Rule",
        Subject::Status => "Status",
        Subject::Metric => "Metric",
        Subject::View => "View",
        Subject::Probe => "Probe",
    };
    text.push_str(&format!("{word} {name}{}\n", modifiers(look, name)));
    if let Some(rule) = rule {
        if rule.rows.is_empty() && rule.unknown.is_none() {
            text.push_str("  no row\n");
        } else {
            text.push_str(&indented(&rules_table(std::slice::from_ref(rule))));
        }
    }
    if queries.is_empty() {
        text.push_str("It has no `for`: the instance itself is its one row.\n");
    }
    if *subject == Subject::Rule
        && look.package.at_deletion(name) == look.object["metadata"]["deletionTimestamp"].is_null()
    {
        text.push_str(if look.package.at_deletion(name) {
            "It acts while the instance is being deleted, and only then (`during: delete`).\n"
        } else {
            "It does nothing while the instance is being deleted.\n"
        });
    }
    for reason in queries {
        text.push_str(&of_query(reason, *subject));
    }
    if relations.is_empty() {
        return text;
    }
    let rows: Vec<Vec<String>> = relations
        .iter()
        .map(|relation| {
            vec![
                relation.name.clone(),
                origin(relation),
                match &relation.rows {
                    Ok(rows) => rows.rows.len().to_string(),
                    Err(reason) => format!("unknown: {reason}"),
                },
                relation.reads.join(", "),
            ]
        })
        .collect();
    let columns = headings(&["NAME", "OF", "ROWS", "READS"]);
    text.push_str(&section("Stands on", &table(&columns, &rows)));
    for relation in relations {
        if let Ok(rows) = &relation.rows
            && !rows.rows.is_empty()
        {
            text.push_str(&section(
                &format!("{} ({})", relation.name, origin(relation)),
                &rows_text(rows),
            ));
        }
    }
    text
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("  {line}\n")).collect()
}

/// What stands beside the verb, as far as it says when a row is acted on.
fn modifiers(look: &Look, rule: &str) -> String {
    let Some(modifiers) = look.package.modifiers(rule) else {
        return String::new();
    };
    let mut parts = Vec::new();
    for (word, ms) in [
        ("stable", modifiers.stable_ms),
        ("repeat", modifiers.repeat_ms),
    ] {
        parts.extend(ms.map(|ms| format!("{word} {}", duration(ms))));
    }
    if modifiers.once {
        parts.push("once".to_owned());
    }
    if !modifiers.after.is_empty() {
        parts.push(format!("after {}", modifiers.after.join(", ")));
    }
    parts.extend(modifiers.limit.map(|limit| format!("limit {limit}")));
    if parts.is_empty() {
        String::new()
    } else {
        format!(" ({})", parts.join("; "))
    }
}

fn of_query(reason: &Reason, subject: Subject) -> String {
    let mut text = section(&reason.keyword, reason.sql.trim());
    match &reason.rows {
        Err(why) => text.push_str(&format!("Its rows are not known: {}\n", spoken::text(why))),
        Ok(rows) if rows.rows.is_empty() => {
            text.push_str("No row:\n");
            for step in &reason.empty {
                text.push_str(&format!("  {}\n", sentence(step)));
            }
        }
        // Those of a rule are shown with how they stand.
        Ok(rows) if subject == Subject::Rule => {
            text.push_str(&format!("{} in all\n", counted(rows.rows.len())));
        }
        Ok(rows) => text.push_str(&indented(&rows_text(rows))),
    }
    text
}

fn counted(rows: usize) -> String {
    match rows {
        1 => "1 row".to_owned(),
        rows => format!("{rows} rows"),
    }
}

/// One step on the way down to what is empty.
fn sentence(step: &Empty) -> String {
    let name = step
        .relation
        .as_ref()
        .map_or_else(|| "the query".to_owned(), |name| format!("`{name}`"));
    let inputs: Vec<String> = step
        .inputs
        .iter()
        .map(|(name, rows)| format!("{name} {}", counted(*rows)))
        .collect();
    let inputs = if inputs.is_empty() {
        String::new()
    } else {
        format!("; its inputs: {}", inputs.join(", "))
    };
    match &step.cause {
        Cause::NoRows => format!("{name} has 0 rows: there is nothing of the kind{inputs}"),
        Cause::Input(other) => format!("{name} has 0 rows: it needs a row of `{other}`{inputs}"),
        Cause::Conditions { from: 0, .. } => {
            format!("{name} has 0 rows: what it joins does not match{inputs}")
        }
        Cause::Conditions { from, left } => {
            let left: Vec<String> = left
                .iter()
                .map(|(condition, rows)| {
                    format!("`{}` leaves {rows}", spoken::short(condition, 200))
                })
                .collect();
            let left = if left.is_empty() {
                "what follows FROM and WHERE leaves none".to_owned()
            } else {
                left.join(", ")
            };
            format!("{name} has 0 rows: of {from}, {left}{inputs}")
        }
        Cause::Untold => format!("{name} has 0 rows{inputs}"),
    }
}

fn origin(relation: &Relation) -> String {
    match &relation.source {
        Source::BuiltIn => "built in".to_owned(),
        Source::Watch(gvk) => gvk.to_string(),
        Source::Probe(kind) => format!("probe {kind}"),
        Source::View(_) => "view".to_owned(),
    }
}

fn rows_text(rows: &Table) -> String {
    let columns: Vec<String> = rows
        .columns
        .iter()
        .map(|name| name.to_uppercase())
        .collect();
    let cells: Vec<Vec<String>> = rows
        .rows
        .iter()
        .take(SHOWN)
        .map(|row| {
            row.iter()
                .map(|datum| match datum {
                    libretto_mirror::Datum::Null => "-".to_owned(),
                    datum => spoken::short(&spoken::text(&datum.display()), CELL),
                })
                .collect()
        })
        .collect();
    let mut text = table(&columns, &cells);
    if rows.rows.len() > SHOWN {
        text.push_str(&format!(
            "and {} more; -o json shows all\n",
            rows.rows.len() - SHOWN
        ));
    }
    text
}

/// All of it, for programs.
pub(super) fn document(explanation: &Explanation) -> Value {
    let queries: Vec<Value> = explanation
        .queries
        .iter()
        .map(|reason| {
            json!({
                "keyword": reason.keyword,
                "sql": reason.sql,
                "reads": reason.reads,
                "rows": objects(&reason.rows),
                "unknown": reason.rows.as_ref().err(),
                "empty": reason.empty.iter().map(empty).collect::<Vec<_>>(),
            })
        })
        .collect();
    let relations: Vec<Value> = explanation
        .relations
        .iter()
        .map(|relation| {
            json!({
                "name": relation.name,
                "of": origin(relation),
                "sql": match &relation.source {
                    Source::View(sql) => Some(sql),
                    _ => None,
                },
                "reads": relation.reads,
                "rows": objects(&relation.rows),
                "unknown": relation.rows.as_ref().err(),
            })
        })
        .collect();
    json!({"name": explanation.name, "queries": queries, "standsOn": relations})
}

fn empty(step: &Empty) -> Value {
    let inputs: Map<String, Value> = step
        .inputs
        .iter()
        .map(|(name, rows)| (name.clone(), json!(rows)))
        .collect();
    json!({"relation": step.relation, "inputs": inputs, "because": sentence(step)})
}

fn objects(rows: &Result<Table, String>) -> Value {
    let Ok(rows) = rows else {
        return Value::Null;
    };
    rows.rows
        .iter()
        .map(|row| {
            let members = rows.columns.iter().cloned();
            let values = row.iter().map(|datum| spoken::value(&datum.to_json()));
            Value::Object(members.zip(values).collect())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_empty_is_told_in_a_sentence() {
        let step = |relation: Option<&str>, cause| Empty {
            relation: relation.map(str::to_owned),
            inputs: vec![("redis".into(), 3), ("agreed".into(), 0)],
            cause,
        };
        for (step, expected) in [
            (
                step(None, Cause::Input("agreed".into())),
                "the query has 0 rows: it needs a row of `agreed`; its inputs: redis 3 rows, agreed 0 rows",
            ),
            (
                step(
                    Some("master"),
                    Cause::Conditions {
                        from: 3,
                        left: vec![("n.fresh".into(), 1), ("n.up".into(), 0)],
                    },
                ),
                "`master` has 0 rows: of 3, `n.fresh` leaves 1, `n.up` leaves 0; its inputs: redis 3 rows, agreed 0 rows",
            ),
        ] {
            assert_eq!(sentence(&step), expected);
        }
        let none = Empty {
            relation: Some("pods".into()),
            inputs: Vec::new(),
            cause: Cause::NoRows,
        };
        assert_eq!(
            sentence(&none),
            "`pods` has 0 rows: there is nothing of the kind"
        );
    }
}
