//! How a value relates to its items, by schema: the one question every algorithm of server-side apply asks at every step.

use serde_json::{Map, Value};

use super::element::Element;
use crate::schema::node::{Kind, ListType, Node};

/// What a value is for the purpose of merging. Types the schema does not know are deduced as upstream does: maps are merged entry by
/// entry, lists are atomic.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Relation<'a> {
    /// Null, a scalar, or nothing.
    Scalar,
    AtomicList,
    AtomicMap,
    /// A struct or a map; the node gives the types of the fields.
    Map(Option<&'a Node>),
    /// A list of distinct scalars.
    Set(Option<&'a Node>),
    /// A list of maps told apart by their keys.
    Keyed {
        keys: &'a [Box<str>],
        item: Option<&'a Node>,
    },
}

impl<'a> Relation<'a> {
    pub(crate) fn of(node: Option<&'a Node>, value: Option<&Value>) -> Self {
        match value {
            Some(Value::Array(_)) => Self::of_list(node),
            Some(Value::Object(_)) => Self::of_map(node),
            _ => Self::Scalar,
        }
    }

    fn of_list(node: Option<&'a Node>) -> Self {
        let Some(node) = node else {
            return Self::AtomicList;
        };
        let target = node.target();
        let list = if node.list == ListType::Atomic {
            &target.list
        } else {
            &node.list
        };
        let item = target.items.as_deref();
        match list {
            ListType::Atomic => Self::AtomicList,
            ListType::Set => Self::Set(item),
            ListType::Map(keys) => Self::Keyed { keys, item },
        }
    }

    fn of_map(node: Option<&'a Node>) -> Self {
        let Some(node) = node else {
            return Self::Map(None);
        };
        let target = node.target();
        // A value of undeclared type is atomic unless the schema says to keep whatever comes.
        let map =
            target.kind == Kind::Object || (target.kind == Kind::Any && target.preserve_unknown);
        if map && !node.is_atomic_map() {
            Self::Map(Some(node))
        } else {
            Self::AtomicMap
        }
    }

    /// The type of the field of a map, and whether it is declared by name.
    pub(crate) fn field(&self, name: &str) -> (Option<&'a Node>, bool) {
        match self {
            Self::Map(Some(node)) => node.field(name),
            _ => (None, false),
        }
    }

    /// The type of the items of a list.
    pub(crate) fn item(&self) -> Option<&'a Node> {
        match self {
            Self::Set(item) | Self::Keyed { item, .. } => *item,
            _ => None,
        }
    }

    /// What identifies an item of a set or keyed list; `None` when a keyed item has none of its keys.
    pub(crate) fn element(&self, value: &Value) -> Option<Element> {
        match self {
            Self::Set(_) => Some(Element::Value(value.to_string())),
            Self::Keyed { keys, item } => {
                let mut found = Map::new();
                for key in *keys {
                    let given = value.get(&**key).filter(|value| !value.is_null());
                    if let Some(value) = given.or_else(|| key_default(*item, key)) {
                        found.insert(key.to_string(), value.clone());
                    }
                }
                (!found.is_empty()).then(|| Element::Key(Value::Object(found).to_string()))
            }
            _ => None,
        }
    }

    /// Whether the value is merged item by item.
    pub(crate) fn is_granular(&self) -> bool {
        matches!(self, Self::Map(_) | Self::Set(_) | Self::Keyed { .. })
    }

    pub(crate) fn same_shape(&self, other: &Self) -> bool {
        std::mem::discriminant(self) == std::mem::discriminant(other)
    }
}

/// The value a list key has when it is left out, such as `protocol: TCP`.
pub(crate) fn key_default<'a>(item: Option<&'a Node>, key: &str) -> Option<&'a Value> {
    item?.field(key).0?.target_default()
}
