//! Merging an applied configuration into an object, and taking fields out of an object.

use std::collections::{HashSet, VecDeque};

use serde_json::{Map, Value};

use super::{element::Element, fieldset::FieldSet, relation::Relation};
use crate::schema::node::Node;

/// `config` on top of `live`: maps and keyed lists item by item, everything else replaced.
pub(crate) fn merge(node: Option<&Node>, live: &Value, config: &Value) -> Value {
    let relation = Relation::of(node, Some(config));
    match (relation, live, config) {
        (Relation::Map(_), Value::Object(live), Value::Object(config)) => {
            let mut out = Map::new();
            for (name, value) in live {
                let merged = match config.get(name) {
                    Some(applied) => merge(relation.field(name).0, value, applied),
                    None => value.clone(),
                };
                out.insert(name.clone(), merged);
            }
            for (name, value) in config {
                if !live.contains_key(name) {
                    out.insert(name.clone(), value.clone());
                }
            }
            Value::Object(out)
        }
        (Relation::Set(_) | Relation::Keyed { .. }, Value::Array(live), Value::Array(config)) => {
            Value::Array(merge_items(&relation, live, config))
        }
        _ => config.clone(),
    }
}

/// Upstream's order: the applied items keep the order of the configuration, items only the live object has stay where they were
/// relative to their neighbours.
fn merge_items(relation: &Relation<'_>, live: &[Value], config: &[Value]) -> Vec<Value> {
    let elements = |items: &[Value]| -> Vec<Option<Element>> {
        items.iter().map(|item| relation.element(item)).collect()
    };
    let (live_elements, config_elements) = (elements(live), elements(config));
    let in_live: HashSet<&Element> = live_elements.iter().flatten().collect();
    let in_config: HashSet<&Element> = config_elements.iter().flatten().collect();
    let known = |set: &HashSet<&Element>, element: &Option<Element>| {
        element.as_ref().is_some_and(|e| set.contains(e))
    };

    // A live item that occurs twice cannot be merged with; the applied one replaces all of them.
    let live_item = |element: &Option<Element>| -> Option<&Value> {
        let mut found = live_elements
            .iter()
            .zip(live)
            .filter(|(other, _)| *other == element && element.is_some());
        let first = found.next()?;
        found.next().is_none().then_some(first.1)
    };
    let merged_item = |position: usize| match live_item(&config_elements[position]) {
        Some(item) => merge(relation.item(), item, &config[position]),
        None => config[position].clone(),
    };

    let mut shared: VecDeque<&Option<Element>> = config_elements
        .iter()
        .filter(|element| known(&in_live, element))
        .collect();
    let mut next_shared = shared.pop_front();
    let mut merged: Vec<&Option<Element>> = Vec::new();
    let mut out = Vec::new();
    let (mut l, mut c) = (0, 0);
    while l < live.len() || c < config.len() {
        if l < live.len() && c < config.len() {
            if live_elements[l] == config_elements[c] {
                merged.push(&live_elements[l]);
                out.push(merged_item(c));
                l += 1;
                c += 1;
                next_shared = shared.pop_front();
                continue;
            }
            if known(&in_config, &live_elements[l])
                && next_shared.is_some_and(|next| *next != live_elements[l])
            {
                // Shared, but not the one whose turn it is: it is placed when the configuration names it.
                l += 1;
                continue;
            }
        }
        if l < live.len() {
            if !known(&in_config, &live_elements[l]) {
                out.push(live[l].clone());
                l += 1;
                continue;
            }
            if merged.contains(&&live_elements[l]) {
                l += 1;
            }
        }
        if c < config.len() {
            merged.push(&config_elements[c]);
            out.push(merged_item(c));
            if next_shared == Some(&config_elements[c]) {
                next_shared = shared.pop_front();
            }
            c += 1;
        }
    }
    out
}

/// `value` without the members of `fields`; `None` when nothing is left of a container.
pub(crate) fn remove(node: Option<&Node>, value: &Value, fields: &FieldSet) -> Option<Value> {
    let relation = Relation::of(node, Some(value));
    match (relation, value) {
        (Relation::Map(_), Value::Object(object)) => {
            let mut out = Map::new();
            for (name, child) in object {
                match fields.children.get(&Element::field(name)) {
                    Some(set) if set.member => {}
                    // What became empty stays as null until ownership is settled; dropping it earlier gives fields wrong owners.
                    Some(set) if !set.is_empty() => {
                        let left = remove(relation.field(name).0, child, set);
                        out.insert(name.clone(), left.unwrap_or(Value::Null));
                    }
                    _ => {
                        out.insert(name.clone(), child.clone());
                    }
                }
            }
            (!out.is_empty()).then_some(Value::Object(out))
        }
        (Relation::Set(_) | Relation::Keyed { .. }, Value::Array(items)) => {
            let mut out = Vec::new();
            for item in items {
                let set = relation
                    .element(item)
                    .and_then(|element| fields.children.get(&element));
                match set {
                    Some(set) if set.member => {}
                    Some(set) if !set.is_empty() => {
                        out.push(remove(relation.item(), item, set).unwrap_or(Value::Null));
                    }
                    _ => out.push(item.clone()),
                }
            }
            (!out.is_empty()).then_some(Value::Array(out))
        }
        (Relation::Scalar, _) => Some(value.clone()),
        _ => None,
    }
}

/// Drops the nulls that pruning left and that were applied, except where the type allows null as a value.
pub(crate) fn drop_nulls(node: Option<&Node>, value: &mut Value) {
    match value {
        Value::Object(object) => {
            object.retain(|name, child| {
                !child.is_null()
                    || node
                        .and_then(|node| node.field(name).0)
                        .is_some_and(|node| node.nullable)
            });
            for (name, child) in object {
                drop_nulls(node.and_then(|node| node.field(name).0), child);
            }
        }
        Value::Array(items) => {
            let item = node.and_then(|node| node.target().items.as_deref());
            for child in items {
                drop_nulls(item, child);
            }
        }
        _ => {}
    }
}

/// Puts back the maps and lists the configuration sets to empty. Nothing in them is owned, so pruning took them along with their
/// former content; without them applying the same configuration again would be a change.
pub(crate) fn restore_empty(node: Option<&Node>, value: &mut Value, config: &Value) {
    let relation = Relation::of(node, Some(config));
    match (value, config) {
        (Value::Object(object), Value::Object(config)) if relation.is_granular() => {
            for (name, applied) in config {
                let holds_empty =
                    applied.is_object() || applied.as_array().is_some_and(Vec::is_empty);
                if holds_empty && object.get(name).is_none_or(Value::is_null) {
                    let empty = if applied.is_object() {
                        Value::Object(Map::new())
                    } else {
                        Value::Array(Vec::new())
                    };
                    object.insert(name.clone(), empty);
                }
                if let Some(child) = object.get_mut(name) {
                    restore_empty(relation.field(name).0, child, applied);
                }
            }
        }
        (Value::Array(items), Value::Array(config)) if relation.is_granular() => {
            for child in items {
                let element = relation.element(child);
                let same = |other: &&Value| element.is_some() && relation.element(other) == element;
                if let Some(applied) = config.iter().find(same) {
                    restore_empty(relation.item(), child, applied);
                }
            }
        }
        _ => {}
    }
}
