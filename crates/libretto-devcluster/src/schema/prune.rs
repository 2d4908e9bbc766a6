//! Dropping fields the schema does not know.

use serde_json::Value;

use super::node::{Kind, Node};

/// Removes unknown fields below `value`; their paths as the API server reports them (`spec.containers[0].imagee`).
pub(super) fn prune(node: &Node, value: &mut Value) -> Vec<String> {
    let mut unknown = Vec::new();
    visit(Some(node), value, "", &mut unknown);
    unknown
}

fn visit(node: Option<&Node>, value: &mut Value, path: &str, unknown: &mut Vec<String>) {
    // Below what the schema leaves open everything is kept.
    let Some(node) = node else {
        return;
    };
    let target = node.target();
    match value {
        Value::Object(object) => {
            let open = target.preserve_unknown
                || target.kind != Kind::Object
                || (node.is_free_form() && target_is_built_in_free_form(node));
            object.retain(|name, child| {
                let child_path = if path.is_empty() {
                    name.clone()
                } else {
                    format!("{path}.{name}")
                };
                let (child_node, _) = node.field(name);
                if child_node.is_none() && !open {
                    unknown.push(child_path);
                    return false;
                }
                visit(child_node, child, &child_path, unknown);
                true
            });
        }
        Value::Array(items) => {
            for (index, item) in items.iter_mut().enumerate() {
                visit(
                    target.items.as_deref(),
                    item,
                    &format!("{path}[{index}]"),
                    unknown,
                );
            }
        }
        _ => {}
    }
}

/// `FieldsV1` and `RawExtension` keep what they get. A custom schema's bare `type: object` keeps nothing.
fn target_is_built_in_free_form(node: &Node) -> bool {
    node.reference.is_some()
}
