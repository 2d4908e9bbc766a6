//! Defaults of the built-in kinds: a table of constants and a few functions for those that depend on other fields.
//!
//! Defaults belong to definitions, not kinds: a pod template gets those of `PodSpec` wherever it stands. What needs the world (cluster
//! IPs, node ports, generated selectors, admission plugins) is the API server's work and not done here.

mod functions;
mod table;

use std::{collections::HashMap, sync::LazyLock};

use serde_json::{Value, json};

use self::{functions::FUNCTIONS, table::CONSTANTS};
use super::{
    definitions,
    node::{Kind, Node},
    quantity::Quantity,
};

/// What happens to a value of one definition: functions first, so that constants fill what they leave.
#[derive(Default)]
struct Rules {
    functions: Vec<fn(&mut Value)>,
    /// Path below the value, and what stands there if nothing does.
    constants: Vec<(Vec<&'static str>, Value)>,
}

static RULES: LazyLock<HashMap<u32, Rules>> = LazyLock::new(|| {
    let mut rules: HashMap<u32, Rules> = HashMap::new();
    for (name, function) in FUNCTIONS {
        rules
            .entry(definition(name))
            .or_default()
            .functions
            .push(*function);
    }
    for (name, constants) in CONSTANTS {
        let entry = rules.entry(definition(name)).or_default();
        for (path, value) in *constants {
            let value = serde_json::from_str(value).expect("the table holds JSON, a test loads it");
            entry.constants.push((path.split('.').collect(), value));
        }
    }
    rules
});

fn definition(name: &str) -> u32 {
    let full = if name.starts_with("io.") {
        name.to_owned()
    } else {
        format!("io.k8s.api.{name}")
    };
    definitions::table()
        .index(&full)
        .expect("the tables name existing definitions, a test loads them")
}

/// Fills in defaults, drops nulls (Go reads them as absent) and writes quantities canonically.
pub(super) fn default(definition: &str, object: &mut Value) {
    // Rules are found by reference; the object refers to its own definition.
    let root = Node {
        reference: definitions::table().index(definition),
        ..Node::default()
    };
    visit(Some(&root), object);
}

fn visit(node: Option<&Node>, value: &mut Value) {
    let target = node.map(Node::target);
    if let (Some(Kind::Quantity), Some(quantity)) =
        (target.map(|target| target.kind), Quantity::from_json(value))
    {
        *value = quantity.canonical().into();
        return;
    }
    if let Some(object) = value.as_object_mut() {
        // Below free-form values (a RawExtension) nulls may mean something.
        if let Some(node) = node {
            object.retain(|name, value| !value.is_null() && !omitted(node, name, value));
            for (name, field) in &node.target().properties {
                // A struct by value is always written.
                if field.by_value && !object.contains_key(&**name) {
                    object.insert(name.to_string(), json!({}));
                }
            }
        }
    }
    if let Some(rules) = node
        .and_then(|node| node.reference)
        .and_then(|index| RULES.get(&index))
        && value.is_object()
    {
        for function in &rules.functions {
            function(value);
        }
        for (path, default) in &rules.constants {
            fill(value, path, default);
        }
    }
    match value {
        Value::Object(object) => {
            for (name, child) in object {
                visit(node.and_then(|node| node.field(name).0), child);
            }
        }
        Value::Array(items) => {
            let item = target.and_then(|target| target.items.as_deref());
            for child in items {
                visit(item, child);
            }
        }
        _ => {}
    }
}

/// Lists and free maps without content are absent in Go unless they are required.
fn omitted(node: &Node, name: &str, value: &Value) -> bool {
    let empty = match value {
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        _ => false,
    };
    // An empty list of finalizers is the wish to let a namespace go, one of owners to forget them.
    if !empty
        || matches!(name, "finalizers" | "managedFields")
        || node.target().required.iter().any(|one| &**one == name)
    {
        return false;
    }
    match node.field(name) {
        (Some(field), true) => {
            let field = field.target();
            field.kind == Kind::Array || (field.properties.is_empty() && field.values.is_some())
        }
        _ => false,
    }
}

/// Puts `default` at `path` if nothing is there. An empty string is nothing, as in Go.
fn fill(value: &mut Value, path: &[&str], default: &Value) {
    let Some(((last, parents), mut here)) = path.split_last().zip(Some(value)) else {
        return;
    };
    for parent in parents {
        let Some(object) = here.as_object_mut() else {
            return;
        };
        here = object
            .entry((*parent).to_owned())
            .or_insert_with(|| json!({}));
    }
    if let Some(object) = here.as_object_mut() {
        let absent = object
            .get(*last)
            .is_none_or(|value| value.is_null() || value == "");
        if absent {
            object.insert((*last).to_owned(), default.clone());
        }
    }
}

#[cfg(test)]
mod tests;
