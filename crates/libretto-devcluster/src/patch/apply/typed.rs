//! Whether an applied configuration fits its type well enough to be merged. Upstream refuses what does not, before anything else.

use std::collections::HashSet;

use serde_json::Value;

use super::relation::{Relation, key_default};
use crate::schema::node::{Kind, Node};

/// Every problem as `path: message`.
pub(super) fn check(node: Option<&Node>, config: &Value) -> Vec<String> {
    let mut out = Vec::new();
    visit(node, config, "", &mut out);
    out
}

/// The message of upstream's error.
pub(super) fn describe(config: &Value, problems: &[String]) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let list = if let [single] = problems {
        single.clone()
    } else {
        format!("errors:\n  {}", problems.join("\n  "))
    };
    let version = text(&config["apiVersion"]);
    format!(
        "failed to create typed patch object ({}/{}; {}{version}, Kind={}): {list}",
        text(&config["metadata"]["namespace"]),
        text(&config["metadata"]["name"]),
        if version.contains('/') { "" } else { "/" },
        text(&config["kind"]),
    )
}

fn visit(node: Option<&Node>, value: &Value, path: &str, out: &mut Vec<String>) {
    let Some(node) = node else {
        return;
    };
    if value.is_null() {
        return;
    }
    let expected = match (node.target().kind, value) {
        (Kind::Object, value) if !value.is_object() => "map",
        (Kind::Array, value) if !value.is_array() => "list",
        (Kind::String, value) if !value.is_string() => "string",
        (Kind::Integer | Kind::Number, value) if !value.is_number() => "numeric (int or float)",
        (Kind::Boolean, value) if !value.is_boolean() => "boolean",
        (
            Kind::IntOrString | Kind::Quantity,
            Value::Object(_) | Value::Array(_) | Value::Bool(_),
        ) => "string or number",
        _ => "",
    };
    if !expected.is_empty() {
        // As Go prints the values it decodes into.
        let got = match value {
            Value::Array(_) | Value::Object(_) => format!("&{{{}}}", super::super::go_text(value)),
            // Numbers are read as such, so of others only the type is known.
            scalar if expected.starts_with("numeric") => match scalar {
                Value::String(_) => "string".to_owned(),
                Value::Bool(_) => "bool".to_owned(),
                _ => scalar.to_string(),
            },
            scalar => format!("&value.valueUnstructured{{Value:{scalar}}}"),
        };
        out.push(format!("{}: expected {expected}, got {got}", shown(path)));
        return;
    }
    let relation = Relation::of(Some(node), Some(value));
    match value {
        Value::Object(object) => {
            let target = node.target();
            let free = node.is_free_form() || target.preserve_unknown || target.kind == Kind::Any;
            for (name, child) in object {
                match node.field(name) {
                    (None, _) if !free => {
                        out.push(format!("{path}.{name}: field not declared in schema"));
                    }
                    (child_node, _) => visit(child_node, child, &format!("{path}.{name}"), out),
                }
            }
        }
        Value::Array(items) => visit_items(node, &relation, items, path, out),
        _ => {}
    }
}

fn visit_items(
    node: &Node,
    relation: &Relation<'_>,
    items: &[Value],
    path: &str,
    out: &mut Vec<String>,
) {
    let mut seen = HashSet::new();
    for (index, item) in items.iter().enumerate() {
        let mut position = format!("[{index}]");
        if let Relation::Keyed {
            keys,
            item: item_node,
        } = relation
        {
            let missing = keys.iter().find(|key| {
                item.get(&***key).is_none_or(Value::is_null)
                    && key_default(*item_node, key).is_none()
            });
            if let Some(key) = missing {
                out.push(format!(
                    "{}: element {index}: associative list with keys has an element that omits all key fields [{:?}] (and doesn't have default values for any key fields)",
                    shown(path),
                    &**key,
                ));
                continue;
            }
        }
        if let Some(element) = relation.element(item) {
            position = element.to_string();
            if !seen.insert(element) {
                out.push(format!(
                    "{}: duplicate entries for key {position}",
                    shown(path)
                ));
                continue;
            }
        }
        visit(
            node.target().items.as_deref(),
            item,
            &format!("{path}{position}"),
            out,
        );
    }
}

fn shown(path: &str) -> &str {
    if path.is_empty() { "." } else { path }
}
