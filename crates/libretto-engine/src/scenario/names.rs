//! Whether a scenario speaks of rules, tables and columns that the package has: what does not exist never happens, and would pass.

use libretto_mirror::Sheet;

use crate::{
    Compiled,
    template::suggestion,
    yaml::{At, Data, Node},
};

/// What an `expect` names that is not there: place and message. `sheet` is the package's.
pub(super) fn unknown(package: &Compiled, sheet: &Sheet, expect: &Node) -> Vec<(At, String)> {
    let mut problems = Vec::new();
    let calls: Vec<String> = package
        .rules
        .iter()
        .filter(|rule| rule.verb.starts_with("call "))
        .map(|rule| rule.name.clone())
        .collect();
    let mut rule = |name: &str, at: At, keyword: &str| {
        if !calls.iter().any(|call| call == name) {
            let other = package.rules.iter().find(|rule| rule.name == name);
            let hint = match other {
                Some(rule) => format!("it is a rule with `{}`", rule.verb),
                None => suggestion(name, &calls)
                    .unwrap_or_else(|| format!("there are: {}", calls.join(", "))),
            };
            problems.push((
                at,
                format!("expect.{keyword}: there is no rule `{name}` with `call`; {hint}"),
            ));
        }
    };
    for (key, _) in entries(expect, "calls") {
        rule(&key.text, key.at, "calls");
    }
    if let Some(node) = expect.get("order") {
        for item in one_or_several(node) {
            if let Some(name) = item.text() {
                rule(name, item.at, "order");
            }
        }
    }
    let mut relations: Vec<String> = sheet.table_names().map(str::to_owned).collect();
    relations.extend(package.views.iter().map(|view| view.name.clone()));
    for (key, _) in entries(expect, "rows") {
        let fine =
            relations.contains(&key.text) || package.rules.iter().any(|rule| rule.name == key.text);
        if !fine {
            let hint = suggestion(&key.text, &relations)
                .unwrap_or_else(|| format!("tables and views are: {}", relations.join(", ")));
            problems.push((
                key.at,
                format!(
                    "expect.rows: there is no table, view or rule `{}`; {hint}",
                    key.text
                ),
            ));
        }
    }
    if let Some(node) = expect.get("never") {
        for item in one_or_several(node) {
            if let Some(sql) = item.text()
                && let Err(error) = sheet.describe(sql)
            {
                problems.push((item.at, format!("expect.never: {error}")));
            }
        }
    }
    problems
}

/// Tables that a scenario gives rows for and that are not there: place and message.
pub(super) fn unknown_tables(
    package: &Compiled,
    sheet: &Sheet,
    tables: &Node,
) -> Vec<(At, String)> {
    let mut relations: Vec<String> = sheet.table_names().map(str::to_owned).collect();
    relations.extend(package.views.iter().map(|view| view.name.clone()));
    tables
        .entries()
        .iter()
        .filter(|(key, _)| !relations.contains(&key.text))
        .map(|(key, _)| {
            let hint = suggestion(&key.text, &relations)
                .unwrap_or_else(|| format!("tables and views are: {}", relations.join(", ")));
            let message = format!("tables: there is no table or view `{}`; {hint}", key.text);
            (key.at, message)
        })
        .collect()
}

fn entries<'a>(node: &'a Node, key: &str) -> &'a [(crate::yaml::Key, Node)] {
    node.get(key).map(Node::entries).unwrap_or_default()
}

fn one_or_several(node: &Node) -> Vec<&Node> {
    match &node.data {
        Data::List(items) => items.iter().collect(),
        _ => vec![node],
    }
}
