//! Lists as kubectl prints them: `meta.k8s.io/v1 Table`.

use serde_json::Value;

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

/// A Table of `items`; `with_columns` is false for the later events of a watch. `now` in seconds since the epoch is for ages.
pub fn render(
    _kind: TableKind<'_>,
    _items: &[std::sync::Arc<Value>],
    _include: IncludeObject,
    _with_columns: bool,
    _resource_version: &str,
    _now: i64,
) -> Value {
    todo!()
}
