//! Tables of custom resources.

use serde_json::{Value, json};

use super::{cells, duration, jsonpath::JsonPath};
use crate::crd::Column;

/// The columns a definition declares, or Age when it declares none; the name comes first.
pub(super) struct Layout {
    columns: Vec<(Column, Option<JsonPath>)>,
}

impl Layout {
    pub(super) fn new(columns: &[Column]) -> Self {
        let age = Column {
            name: "Age".to_owned(),
            kind: "date".to_owned(),
            format: String::new(),
            description: super::described("creationTimestamp").to_owned(),
            priority: 0,
            json_path: ".metadata.creationTimestamp".to_owned(),
        };
        let columns = if columns.is_empty() {
            vec![age]
        } else {
            columns.to_vec()
        };
        // Paths were checked when the definition was created.
        let columns = columns.into_iter().map(|column| {
            let path = JsonPath::parse(&column.json_path).ok();
            (column, path)
        });
        Self {
            columns: columns.collect(),
        }
    }

    pub(super) fn definitions(&self) -> Vec<Value> {
        let name = json!({"name": "Name", "type": "string", "format": "name", "description": super::described("name"), "priority": 0});
        let declared = self.columns.iter().map(|(column, _)| {
            json!({
                "name": column.name, "type": column.kind, "format": column.format,
                "description": description(column), "priority": column.priority,
            })
        });
        std::iter::once(name).chain(declared).collect()
    }

    pub(super) fn row(&self, object: &Value, now: i64) -> Vec<Value> {
        let declared = self.columns.iter().map(|(column, path)| {
            // Of several results the first is shown, as in the API server.
            let found = path
                .as_ref()
                .and_then(|path| path.find(object).first().copied().cloned());
            found.map_or(Value::Null, |value| cell(&column.kind, &value, now))
        });
        std::iter::once(cells::name(object))
            .chain(declared)
            .collect()
    }
}

/// What the definition says of a column, or where its value comes from.
fn description(column: &Column) -> String {
    if column.description.is_empty() {
        format!(
            "Custom resource definition column (in JSONPath format): {}",
            column.json_path
        )
    } else {
        column.description.clone()
    }
}

fn cell(kind: &str, value: &Value, now: i64) -> Value {
    match (kind, value) {
        (_, Value::Null) => Value::Null,
        ("string", Value::String(_)) => value.clone(),
        ("string", _) => value.to_string().into(),
        ("integer", Value::Number(number)) => number
            .as_i64()
            .or_else(|| number.as_f64().map(|number| number as i64))
            .into(),
        ("number", Value::Number(_)) | ("boolean", Value::Bool(_)) => value.clone(),
        ("date", Value::String(text)) => duration::since(text, now)
            .unwrap_or_else(|| "<invalid>".to_owned())
            .into(),
        _ => Value::Null,
    }
}
