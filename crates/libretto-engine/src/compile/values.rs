//! `values:` — a table of constants. It becomes a view over its own JSON, so nothing after this page knows of it.

use serde_json::Value;

use super::{Check, Scope, View};
use crate::yaml::{Data, Node};

/// Rows of one table; more belong into a ConfigMap that is watched.
const ROWS: usize = 1_000;

/// The tables of constants, in the order of the package.
pub(super) fn views(check: &mut Check<'_>, scope: &mut Scope, spec: &Node) -> Vec<View> {
    let mut views = Vec::new();
    for (key, table) in spec.get("sense").map(Node::entries).unwrap_or_default() {
        let Some(node) = table.get("values") else {
            continue;
        };
        if scope.broken.contains(&key.text) {
            continue;
        }
        let place = format!("sense.{}", key.text);
        let made = sql(check, node, &place).and_then(|sql| {
            let described = scope
                .sheet
                .describe(&sql)
                .map_err(|error| check.wrong(node.at, format!("{place}: {error}")))
                .ok()?;
            let query = check.accept(scope, node, &place, sql, described)?;
            scope
                .sheet
                .add_view(&key.text, &query.columns)
                .map_err(|error| check.wrong(node.at, format!("{place}: {error}")))
                .ok()?;
            Some(query)
        });
        match made {
            Some(query) => {
                scope.views.push(key.text.clone());
                views.push(View {
                    name: key.text.clone(),
                    query,
                });
            }
            None => {
                scope.broken.insert(key.text.clone());
            }
        }
    }
    views
}

fn sql(check: &mut Check<'_>, node: &Node, place: &str) -> Option<String> {
    let Data::List(items) = &node.data else {
        check.wrong_hint(
            node.at,
            format!("{place}.values must be a list, this is {}", node.what()),
            "a list of rows such as {name: a, size: 1}, or of values, which become the column `value`",
        );
        return None;
    };
    if items.is_empty() || items.len() > ROWS {
        check.wrong(
            node.at,
            format!("{place}.values has {} rows: 1 to {ROWS}", items.len()),
        );
        return None;
    }
    let mut columns: Vec<&str> = Vec::new();
    let rows_are_maps = matches!(items[0].data, Data::Map(_));
    for item in items {
        if matches!(item.data, Data::Map(_)) != rows_are_maps {
            check.wrong(
                item.at,
                format!("{place}.values: either all rows are maps, or none is"),
            );
            return None;
        }
        for (key, _) in item.entries() {
            if !check.identifier(&key.text, key.at, "column") {
                return None;
            }
            if !columns.contains(&key.text.as_str()) {
                columns.push(&key.text);
            }
        }
    }
    let json = Value::Array(items.iter().map(Node::to_json).collect()).to_string();
    let selected = if rows_are_maps {
        columns
            .iter()
            .map(|column| format!("json_extract(value, '$.{column}') AS {column}"))
            .collect::<Vec<_>>()
            .join(", ")
    } else {
        "value".to_owned()
    };
    Some(format!(
        "SELECT {selected} FROM json_each('{}')",
        json.replace('\'', "''")
    ))
}
