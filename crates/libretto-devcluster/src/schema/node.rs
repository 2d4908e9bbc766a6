//! The structural type of a value: what the merge algorithms, pruning and type checks need to know, for built-in and custom kinds alike.
//!
//! It never holds validation rules (patterns, bounds, CEL); those belong to `crd` and `schema::validate`.

use std::collections::BTreeMap;

use serde_json::Value;

use super::definitions;

/// One node of a schema. Built-in definitions refer to each other by index; custom schemas are plain trees that may refer to `ObjectMeta`.
#[derive(Debug, Clone, Default)]
pub(crate) struct Node {
    /// Index into the built-in definitions; everything but `atomic_map`, `strategy` and `merge_key` is then found there.
    pub(crate) reference: Option<u32>,
    pub(crate) kind: Kind,
    /// `int32`, `byte`, `date-time`, …
    pub(crate) format: Option<Box<str>>,
    pub(crate) properties: BTreeMap<Box<str>, Node>,
    pub(crate) items: Option<Box<Node>>,
    /// `additionalProperties`: the type of the values of a map with free keys.
    pub(crate) values: Option<Box<Node>>,
    pub(crate) list: ListType,
    pub(crate) atomic_map: bool,
    pub(crate) strategy: Strategy,
    /// Merge key of the strategic merge patch, which may differ from the keys of `list`.
    pub(crate) merge_key: Option<Box<str>>,
    pub(crate) required: Vec<Box<str>>,
    pub(crate) default: Option<Value>,
    /// Fields not named in `properties` are allowed and kept.
    pub(crate) preserve_unknown: bool,
    /// The value is a whole Kubernetes object.
    pub(crate) embedded: bool,
    pub(crate) nullable: bool,
    /// In Go a struct by value, not a pointer: it is there whether anybody has set it or not, so nobody owns its being there.
    pub(crate) by_value: bool,
}

/// The JSON type of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Kind {
    /// Not declared: any JSON value.
    #[default]
    Any,
    Object,
    Array,
    String,
    Integer,
    Number,
    Boolean,
    IntOrString,
    /// A resource quantity: a string such as `100m`, or a number.
    Quantity,
}

/// How a list is merged by server-side apply.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) enum ListType {
    #[default]
    Atomic,
    Set,
    Map(Vec<Box<str>>),
}

/// What a strategic merge patch does with a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Strategy {
    /// Lists are replaced, maps merged.
    #[default]
    Default,
    Merge,
    Replace,
}

impl Node {
    /// Reads an OpenAPI schema, of the built-in table or of a CustomResourceDefinition.
    pub(crate) fn from_openapi(schema: &Value, reference: &dyn Fn(&str) -> Option<u32>) -> Self {
        let text = |key: &str| schema.get(key).and_then(Value::as_str);
        let flag = |key: &str| schema.get(key).and_then(Value::as_bool) == Some(true);
        let child = |key: &str| {
            schema
                .get(key)
                .filter(|value| value.is_object())
                .map(|value| Box::new(Self::from_openapi(value, reference)))
        };
        let strategies = text("x-kubernetes-patch-strategy").unwrap_or_default();
        let values = child("additionalProperties");
        Self {
            reference: text("$ref").and_then(reference),
            kind: kind_of(schema),
            format: text("format").map(Into::into),
            properties: schema
                .get("properties")
                .and_then(Value::as_object)
                .into_iter()
                .flatten()
                .map(|(name, value)| (name.as_str().into(), Self::from_openapi(value, reference)))
                .collect(),
            items: child("items"),
            list: match text("x-kubernetes-list-type") {
                Some("set") => ListType::Set,
                Some("map") => ListType::Map(strings(schema.get("x-kubernetes-list-map-keys"))),
                _ => ListType::Atomic,
            },
            atomic_map: text("x-kubernetes-map-type") == Some("atomic"),
            strategy: if strategies.split(',').any(|name| name == "merge") {
                Strategy::Merge
            } else if strategies.split(',').any(|name| name == "replace") {
                Strategy::Replace
            } else {
                Strategy::Default
            },
            merge_key: text("x-kubernetes-patch-merge-key").map(Into::into),
            required: strings(schema.get("required")),
            default: schema.get("default").cloned(),
            preserve_unknown: flag("x-kubernetes-preserve-unknown-fields")
                || schema.get("additionalProperties") == Some(&Value::Bool(true)),
            embedded: flag("x-kubernetes-embedded-resource"),
            nullable: flag("nullable"),
            by_value: false,
            values,
        }
    }

    /// The definition this node stands for.
    pub(crate) fn target(&self) -> &Self {
        match self.reference {
            Some(index) => definitions::table().node(index),
            None => self,
        }
    }

    /// The object as Go's zero value plus what `value` says: structs by value are there, and so are lists that are always written.
    pub(crate) fn with_zero_values(&self, value: &mut Value) {
        let target = self.target();
        match value {
            Value::Object(object) => {
                for (name, field) in &target.properties {
                    let list =
                        field.kind == Kind::Array && target.required.iter().any(|own| own == name);
                    if field.by_value && object.get(&**name).is_none_or(Value::is_null) {
                        object.insert(name.to_string(), Value::Object(serde_json::Map::new()));
                    } else if list && object.get(&**name).is_none_or(Value::is_null) {
                        object.insert(name.to_string(), Value::Array(Vec::new()));
                    }
                }
                for (name, inner) in object {
                    if let (Some(field), _) = self.field(name) {
                        field.with_zero_values(inner);
                    }
                }
            }
            Value::Array(items) => {
                if let Some(item) = &target.items {
                    for inner in items {
                        item.with_zero_values(inner);
                    }
                }
            }
            _ => {}
        }
    }

    /// The declared default, where the type is used or where it is defined.
    pub(crate) fn target_default(&self) -> Option<&Value> {
        self.default
            .as_ref()
            .or_else(|| self.target().default.as_ref())
    }

    /// Whether maps of this type are replaced as a whole; said where the type is used or where it is defined.
    pub(crate) fn is_atomic_map(&self) -> bool {
        self.atomic_map || self.target().atomic_map
    }

    /// The type of a field of an object, and whether the field is declared by name.
    pub(crate) fn field(&self, name: &str) -> (Option<&Self>, bool) {
        let target = self.target();
        match target.properties.get(name) {
            Some(node) => (Some(node), true),
            None => (target.values.as_deref(), false),
        }
    }

    /// An object without any declared content: `FieldsV1`, `RawExtension`, a CRD's bare `type: object`.
    pub(crate) fn is_free_form(&self) -> bool {
        let target = self.target();
        target.properties.is_empty() && target.values.is_none()
    }
}

fn kind_of(schema: &Value) -> Kind {
    if schema
        .get("x-kubernetes-int-or-string")
        .and_then(Value::as_bool)
        == Some(true)
    {
        return Kind::IntOrString;
    }
    match schema.get("type").and_then(Value::as_str) {
        Some("object") => Kind::Object,
        Some("array") => Kind::Array,
        Some("string") => Kind::String,
        Some("integer") => Kind::Integer,
        Some("number") => Kind::Number,
        Some("boolean") => Kind::Boolean,
        _ => match schema.get("format").and_then(Value::as_str) {
            Some("int-or-string") => Kind::IntOrString,
            Some("quantity") => Kind::Quantity,
            _ => Kind::Any,
        },
    }
}

fn strings(value: Option<&Value>) -> Vec<Box<str>> {
    value
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(|item| item.as_str().map(Into::into))
        .collect()
}
