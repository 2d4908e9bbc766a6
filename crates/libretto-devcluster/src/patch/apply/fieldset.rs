//! Sets of field paths, as trees: the content of `managedFields[].fieldsV1`.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::element::Element;

/// A set of paths below one point.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct FieldSet {
    /// The path that ends here is in the set.
    pub(crate) member: bool,
    pub(crate) children: BTreeMap<Element, FieldSet>,
}

impl FieldSet {
    pub(crate) fn is_empty(&self) -> bool {
        !self.member && self.children.values().all(Self::is_empty)
    }

    pub(crate) fn insert(&mut self, path: &[Element]) {
        let mut set = self;
        for element in path {
            set = set.children.entry(element.clone()).or_default();
        }
        set.member = true;
    }

    pub(crate) fn union(&self, other: &Self) -> Self {
        Self::combine(self, other, |left, right| left || right)
    }

    pub(crate) fn difference(&self, other: &Self) -> Self {
        Self::combine(self, other, |left, right| left && !right)
    }

    pub(crate) fn intersection(&self, other: &Self) -> Self {
        Self::combine(self, other, |left, right| left && right)
    }

    /// Without the named top-level fields and everything below them.
    pub(crate) fn without_top_level(mut self, fields: &[&str]) -> Self {
        self.children.retain(|element, _| !matches!(element, Element::Field(name) if fields.contains(&name.as_str())));
        self
    }

    /// Path by path; branches that end up without members are left out.
    fn combine(left: &Self, right: &Self, keep: fn(bool, bool) -> bool) -> Self {
        let nothing = Self::default();
        let mut out = Self {
            member: keep(left.member, right.member),
            children: BTreeMap::new(),
        };
        for element in left.children.keys().chain(right.children.keys()) {
            if out.children.contains_key(element) {
                continue;
            }
            let set = Self::combine(
                left.children.get(element).unwrap_or(&nothing),
                right.children.get(element).unwrap_or(&nothing),
                keep,
            );
            if !set.is_empty() {
                out.children.insert(element.clone(), set);
            }
        }
        out
    }

    /// Every member, shown as kubectl shows it.
    pub(crate) fn paths(&self) -> Vec<String> {
        fn collect(set: &FieldSet, path: &str, out: &mut Vec<String>) {
            if set.member {
                out.push(path.to_owned());
            }
            for (element, child) in &set.children {
                collect(child, &format!("{path}{element}"), out);
            }
        }
        let mut out = Vec::new();
        collect(self, "", &mut out);
        out
    }

    /// The `fieldsV1` form.
    pub(crate) fn to_fields_v1(&self) -> Value {
        let mut object = Map::new();
        if self.member && !self.children.is_empty() {
            object.insert(".".to_owned(), json!({}));
        }
        for (element, child) in &self.children {
            object.insert(element.stored(), child.to_fields_v1());
        }
        Value::Object(object)
    }

    /// Reads `fieldsV1`; what is not an object is an empty set.
    pub(crate) fn from_fields_v1(fields: &Value) -> Self {
        let mut set = Self::read(fields);
        // The root itself is never owned: an empty tree is an empty set.
        set.member = false;
        set
    }

    fn read(fields: &Value) -> Self {
        let mut set = Self::default();
        let Some(object) = fields.as_object() else {
            return set;
        };
        set.member = object.is_empty();
        for (key, child) in object {
            if key == "." {
                set.member = true;
            } else {
                set.children.insert(Element::parse(key), Self::read(child));
            }
        }
        set
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_v1_survives_a_round_trip() {
        for fields in [
            json!({}),
            json!({"f:spec": {"f:replicas": {}}}),
            json!({"f:spec": {"f:containers": {"k:{\"name\":\"web\"}": {".": {}, "f:image": {}}}}}),
            json!({"f:metadata": {"f:finalizers": {".": {}, "v:\"a.b/c\"": {}}}}),
        ] {
            assert_eq!(FieldSet::from_fields_v1(&fields).to_fields_v1(), fields);
        }
    }

    #[test]
    fn foreign_spacing_is_the_same_key() {
        let ours = FieldSet::from_fields_v1(&json!({"k:{\"port\":80,\"protocol\":\"TCP\"}": {}}));
        let theirs =
            FieldSet::from_fields_v1(&json!({"k:{\"protocol\": \"TCP\", \"port\": 80}": {}}));
        assert_eq!(ours, theirs);
        assert_eq!(ours.paths(), ["[port=80,protocol=\"TCP\"]"]);
    }

    #[test]
    fn set_operations() {
        let left = FieldSet::from_fields_v1(&json!({"f:a": {}, "f:b": {".": {}, "f:c": {}}}));
        let right = FieldSet::from_fields_v1(&json!({"f:b": {"f:c": {}, "f:d": {}}}));
        assert_eq!(left.union(&right).paths(), [".a", ".b", ".b.c", ".b.d"]);
        assert_eq!(left.intersection(&right).paths(), [".b.c"]);
        assert_eq!(left.difference(&right).paths(), [".a", ".b"]);
        assert_eq!(right.difference(&left).paths(), [".b.d"]);
    }
}
