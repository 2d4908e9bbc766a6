//! Lists as kubectl prints them: `meta.k8s.io/v1 Table`.
//!
//! Columns and cells follow the printers of the API server, so that kubectl's output is what people know. Nothing here reads a clock.

mod cells;
mod cluster;
mod columns;
mod custom;
mod duration;
mod jsonpath;
mod network;
mod pods;
mod storage;
#[cfg(test)]
mod tests;
mod workloads;

use std::sync::Arc;

use serde_json::{Value, json};

pub(crate) use self::jsonpath::JsonPath;

/// How much of each object goes into a row (`includeObject`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IncludeObject {
    None,
    Metadata,
    Object,
}

/// What decides the columns.
#[derive(Debug, Clone, Copy)]
pub enum TableKind<'a> {
    /// A built-in kind by group and kind; unknown ones get Name and Age.
    BuiltIn {
        group: &'a str,
        kind: &'a str,
    },
    Custom(&'a [crate::crd::Column]),
}

/// From an object to its cells.
type Row<'a> = Box<dyn Fn(&Value) -> Vec<Value> + 'a>;

/// What is wrong with the JSONPath of a printer column.
pub(crate) fn check_path(path: &str) -> Result<(), String> {
    JsonPath::parse(path).map(|_| ())
}

/// A Table of `items`; `with_columns` is false for the later events of a watch. `now` in seconds since the epoch is for ages.
pub fn render(
    kind: TableKind<'_>,
    items: &[Arc<Value>],
    include: IncludeObject,
    with_columns: bool,
    resource_version: &str,
    now: i64,
) -> Value {
    let (definitions, row): (Vec<Value>, Row) = match kind {
        TableKind::BuiltIn { group, kind } => {
            let layout = columns::layout(group, kind);
            (
                layout.definitions(),
                Box::new(move |object| (layout.row)(object, now)),
            )
        }
        TableKind::Custom(columns) => {
            let layout = custom::Layout::new(columns);
            (
                layout.definitions(),
                Box::new(move |object| layout.row(object, now)),
            )
        }
    };
    let rows: Vec<Value> = items
        .iter()
        .map(|item| {
            let mut entry = json!({"cells": row(item)});
            match include {
                IncludeObject::None => entry["object"] = Value::Null,
                IncludeObject::Metadata => entry["object"] = partial(item),
                IncludeObject::Object => entry["object"] = Value::clone(item),
            }
            let conditions = conditions(item);
            if !conditions.is_empty() {
                entry["conditions"] = conditions.into();
            }
            entry
        })
        .collect();
    let mut metadata = json!({});
    if !resource_version.is_empty() {
        metadata["resourceVersion"] = resource_version.into();
    }
    json!({
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": metadata,
        "columnDefinitions": if with_columns { definitions.into() } else { Value::Null },
        "rows": rows,
    })
}

/// What upstream's documentation says of a field of `metadata`.
fn described(field: &str) -> &'static str {
    crate::schema::definitions::descriptions()
        .get("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta")
        .and_then(|fields| fields.get(field))
        .map_or("", String::as_str)
}

/// The object reduced to its metadata.
fn partial(object: &Value) -> Value {
    json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object["metadata"]})
}

/// Finished pods are marked, so that kubectl can tell them apart.
fn conditions(object: &Value) -> Vec<Value> {
    if object["kind"] != "Pod" {
        return Vec::new();
    }
    match object["status"]["phase"].as_str() {
        Some("Succeeded") => vec![json!({
            "type": "Completed", "status": "True", "reason": "Succeeded",
            "message": "The pod has completed successfully.",
        })],
        Some("Failed") => vec![json!({
            "type": "Completed", "status": "True", "reason": "Failed", "message": "The pod failed.",
        })],
        _ => Vec::new(),
    }
}
