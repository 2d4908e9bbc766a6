//! `decide:` — views, in an order in which each comes after what it reads.
//!
//! SQLite itself says what a view reads: a view is tried against the tables and views there are, and waits when it names one
//! that is not there yet. What waits in the end waits in a circle.

use std::collections::BTreeMap;

use libretto_api::package::RESERVED_TABLES;
use libretto_mirror::SqlError;

use super::{Check, Scope, View};
use crate::yaml::Node;

pub(super) fn views(check: &mut Check<'_>, scope: &mut Scope, spec: &Node) -> Vec<View> {
    let mut views = Vec::new();
    let Some(decide) = spec.get("decide") else {
        return views;
    };
    let mut waiting: Vec<(&str, &Node)> = Vec::new();
    for (key, node) in decide.entries() {
        if !check.identifier(&key.text, key.at, "view") {
            continue;
        }
        if RESERVED_TABLES.contains(&key.text.as_str()) {
            check.wrong(
                key.at,
                format!("`{}` is a table the runtime makes", key.text),
            );
            continue;
        }
        if scope.sheet.columns_of(&key.text).is_some() {
            check.wrong(
                key.at,
                format!("`{}` is already a table of sense", key.text),
            );
            continue;
        }
        if node.text().is_none() {
            check.wrong_hint(
                node.at,
                format!(
                    "decide.{} must be a SELECT, this is {}",
                    key.text,
                    node.what()
                ),
                "write it as text, after `|` when it is long",
            );
            scope.broken.insert(key.text.clone());
            continue;
        }
        waiting.push((&key.text, node));
    }
    loop {
        let mut missing: BTreeMap<&str, String> = BTreeMap::new();
        let mut later = Vec::new();
        let mut progress = false;
        for (name, node) in std::mem::take(&mut waiting) {
            let place = format!("decide.{name}");
            let sql = node.text().unwrap_or_default();
            match scope.sheet.describe(sql) {
                Ok(described) => {
                    progress = true;
                    match check.accept(scope, node, &place, sql.to_owned(), described) {
                        Some(query) => match scope.sheet.add_view(name, &query.columns) {
                            Ok(()) => {
                                scope.views.push(name.to_owned());
                                views.push(View {
                                    name: name.to_owned(),
                                    query,
                                });
                            }
                            Err(error) => {
                                check.wrong(node.at, format!("{place}: {error}"));
                                scope.broken.insert(name.to_owned());
                            }
                        },
                        None => {
                            scope.broken.insert(name.to_owned());
                        }
                    }
                }
                Err(SqlError::Compile { message, .. })
                    if message
                        .strip_prefix("no such table: ")
                        .is_some_and(|table| {
                            decide.entries().iter().any(|(key, _)| key.text == table)
                                || scope.broken.contains(table)
                        }) =>
                {
                    let table = message
                        .strip_prefix("no such table: ")
                        .unwrap_or_default()
                        .to_owned();
                    if scope.broken.contains(&table) {
                        // Its own mistakes show when what it reads is put right.
                        scope.broken.insert(name.to_owned());
                        progress = true;
                    } else {
                        missing.insert(name, table);
                        later.push((name, node));
                    }
                }
                Err(error) => {
                    progress = true;
                    check.sql_error(scope, node, &place, sql, &error);
                    scope.broken.insert(name.to_owned());
                }
            }
        }
        if later.is_empty() {
            return views;
        }
        if !progress {
            report_circles(check, &later, &missing);
            scope
                .broken
                .extend(later.iter().map(|(name, _)| (*name).to_owned()));
            return views;
        }
        waiting = later;
    }
}

fn report_circles(
    check: &mut Check<'_>,
    stuck: &[(&str, &Node)],
    missing: &BTreeMap<&str, String>,
) {
    let mut told = Vec::new();
    for (name, node) in stuck {
        let mut chain = vec![(*name).to_owned()];
        let mut current = *name;
        while let Some(next) = missing.get(current) {
            if next == name {
                let mut members = chain.clone();
                members.sort();
                if !told.contains(&members) {
                    told.push(members);
                    chain.push((*name).to_owned());
                    check.wrong_hint(
                        node.at,
                        format!(
                            "decide.{name}: views read each other in a circle: {}",
                            chain.join(" -> ")
                        ),
                        "let one of them read tables only",
                    );
                }
                break;
            }
            // A view that only leads into a circle is not part of it.
            if chain.contains(next) {
                break;
            }
            chain.push(next.clone());
            current = next;
        }
    }
}
