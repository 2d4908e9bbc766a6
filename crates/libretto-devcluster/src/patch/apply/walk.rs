//! From values to field sets: what an applied configuration sets, and what changed between two objects.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{element::Element, fieldset::FieldSet, relation::Relation};
use crate::schema::node::Node;

/// Every field `value` sets: leaves, list items, entries of free maps.
pub(crate) fn field_set(node: Option<&Node>, value: &Value) -> FieldSet {
    let mut set = FieldSet::default();
    collect(node, value, &mut set);
    set
}

fn collect(node: Option<&Node>, value: &Value, out: &mut FieldSet) {
    let relation = Relation::of(node, Some(value));
    match (relation, value) {
        (Relation::Map(_), Value::Object(object)) => {
            for (name, child) in object {
                let (child_node, declared) = relation.field(name);
                let mut set = FieldSet::default();
                collect(child_node, child, &mut set);
                // A struct field is owned through its leaves; an entry of a free map, a null and an empty map have none and are owned themselves.
                let empty =
                    child.is_null() || child.as_object().is_some_and(serde_json::Map::is_empty);
                if empty || !declared {
                    set.member = true;
                }
                if !set.is_empty() {
                    out.children.insert(Element::field(name), set);
                }
            }
        }
        (Relation::Set(_) | Relation::Keyed { .. }, Value::Array(items)) => {
            for (element, values) in group(&relation, items) {
                let mut set = FieldSet {
                    member: true,
                    ..FieldSet::default()
                };
                // Duplicates can only come from objects stored before a list was declared keyed; they are owned as a whole.
                if let [single] = values[..] {
                    collect(relation.item(), single, &mut set);
                    set.member = true;
                }
                out.children.insert(element, set);
            }
        }
        _ => out.member = true,
    }
}

/// The items of a list by their identity; more than one value means duplicates.
fn group<'v>(relation: &Relation<'_>, items: &'v [Value]) -> BTreeMap<Element, Vec<&'v Value>> {
    let mut groups: BTreeMap<Element, Vec<&Value>> = BTreeMap::new();
    for item in items {
        if let Some(element) = relation.element(item) {
            groups.entry(element).or_default().push(item);
        }
    }
    groups
}

/// What differs between two objects.
#[derive(Debug, Default)]
pub(crate) struct Comparison {
    /// Added or modified.
    pub(crate) changed: FieldSet,
    pub(crate) removed: FieldSet,
}

pub(crate) fn compare(node: Option<&Node>, old: &Value, new: &Value) -> Comparison {
    let mut walk = Compare {
        path: Vec::new(),
        out: Comparison::default(),
    };
    walk.visit(node, Some(old), Some(new));
    walk.out
}

struct Compare {
    path: Vec<Element>,
    out: Comparison,
}

impl Compare {
    fn visit(&mut self, node: Option<&Node>, old: Option<&Value>, new: Option<&Value>) {
        let relation = Relation::of(node, new.filter(|value| !value.is_null()).or(old));
        let old_relation = Relation::of(node, old.or(new));
        // Both empty is a leaf, so that null, {} and [] stay distinct.
        let leaf = !relation.is_granular()
            || !relation.same_shape(&old_relation)
            || (is_empty(old) && is_empty(new));
        if leaf {
            match (old, new) {
                (Some(old), Some(new)) if old == new => {}
                (_, Some(_)) => self.out.changed.insert(&self.path),
                (_, None) => self.out.removed.insert(&self.path),
            }
            return;
        }
        match relation {
            Relation::Map(_) => self.visit_fields(&relation, old, new),
            _ => self.visit_items(&relation, old, new),
        }
        if old.is_none() {
            self.out.changed.insert(&self.path);
        } else if new.is_none() {
            self.out.removed.insert(&self.path);
        }
    }

    fn visit_fields(&mut self, relation: &Relation<'_>, old: Option<&Value>, new: Option<&Value>) {
        let (old, new) = (
            old.and_then(Value::as_object),
            new.and_then(Value::as_object),
        );
        for (name, value) in old.into_iter().flatten() {
            self.descend(
                Element::field(name),
                relation.field(name).0,
                Some(value),
                new.and_then(|new| new.get(name)),
            );
        }
        for (name, value) in new.into_iter().flatten() {
            if !old.is_some_and(|old| old.contains_key(name)) {
                self.descend(
                    Element::field(name),
                    relation.field(name).0,
                    None,
                    Some(value),
                );
            }
        }
    }

    fn visit_items(&mut self, relation: &Relation<'_>, old: Option<&Value>, new: Option<&Value>) {
        let items = |value: Option<&'_ Value>| -> BTreeMap<Element, Vec<Value>> {
            let list = value
                .and_then(Value::as_array)
                .map(Vec::as_slice)
                .unwrap_or_default();
            group(relation, list)
                .into_iter()
                .map(|(k, v)| (k, v.into_iter().cloned().collect()))
                .collect()
        };
        let (old, new) = (items(old), items(new));
        let nothing = Vec::new();
        let elements: std::collections::BTreeSet<_> = old.keys().chain(new.keys()).collect();
        for element in elements {
            let before = old.get(element).unwrap_or(&nothing);
            let after = new.get(element).unwrap_or(&nothing);
            match (before.len(), after.len()) {
                (0..=1, 0..=1) => self.descend(
                    element.clone(),
                    relation.item(),
                    before.first(),
                    after.first(),
                ),
                (0..=1, _) => {
                    // New duplicates: the single item goes, a marker for all of them comes.
                    if let Some(single) = before.first() {
                        self.descend(element.clone(), relation.item(), Some(single), None);
                    }
                    self.mark(element, true);
                }
                (_, 0..=1) => {
                    if let Some(single) = after.first() {
                        self.descend(element.clone(), relation.item(), None, Some(single));
                    }
                    self.mark(element, false);
                }
                _ if before != after => self.mark(element, true),
                _ => {}
            }
        }
    }

    fn descend(
        &mut self,
        element: Element,
        node: Option<&Node>,
        old: Option<&Value>,
        new: Option<&Value>,
    ) {
        self.path.push(element);
        self.visit(node, old, new);
        self.path.pop();
    }

    fn mark(&mut self, element: &Element, changed: bool) {
        self.path.push(element.clone());
        if changed {
            self.out.changed.insert(&self.path);
        } else {
            self.out.removed.insert(&self.path);
        }
        self.path.pop();
    }
}

fn is_empty(value: Option<&Value>) -> bool {
    match value {
        None | Some(Value::Null) => true,
        Some(Value::Object(object)) => object.is_empty(),
        Some(Value::Array(items)) => items.is_empty(),
        Some(_) => false,
    }
}

/// Makes declared struct fields members when something below them is: the form pruning works on.
pub(crate) fn with_named_fields(node: Option<&Node>, set: &FieldSet) -> FieldSet {
    let target = node.map(Node::target);
    let mut out = FieldSet {
        member: set.member,
        children: BTreeMap::new(),
    };
    for (element, child) in &set.children {
        let (child_node, declared) = match (element, target) {
            (Element::Field(name), Some(target)) => target.field(name),
            (_, Some(target)) => (target.items.as_deref(), false),
            (_, None) => (None, false),
        };
        let mut child = with_named_fields(child_node, child);
        if declared && !child.is_empty() {
            child.member = true;
        }
        out.children.insert(element.clone(), child);
    }
    out
}
