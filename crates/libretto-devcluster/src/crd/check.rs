//! The compiled checks of a structural schema: everything `openAPIV3Schema` demands of a value besides its structure.

use std::collections::BTreeMap;

use kube_cel::{CompiledSchema, compile_schema};
use regex::Regex;
use serde_json::{Map, Value};

use crate::schema::node::ListType;

/// The checks at one node of the schema.
#[derive(Debug, Default)]
pub(crate) struct Check {
    /// `object`, `array`, `string`, …; empty when not declared.
    pub(crate) kind: String,
    pub(crate) int_or_string: bool,
    pub(crate) nullable: bool,
    pub(crate) embedded: bool,
    pub(crate) format: Option<String>,
    pub(crate) allowed: Option<Vec<Value>>,
    pub(crate) pattern: Option<Regex>,
    pub(crate) minimum: Option<Bound>,
    pub(crate) maximum: Option<Bound>,
    pub(crate) multiple_of: Option<Value>,
    pub(crate) min_length: Option<u64>,
    pub(crate) max_length: Option<u64>,
    pub(crate) min_items: Option<u64>,
    pub(crate) max_items: Option<u64>,
    pub(crate) min_properties: Option<u64>,
    pub(crate) max_properties: Option<u64>,
    pub(crate) required: Vec<String>,
    pub(crate) properties: BTreeMap<String, Check>,
    pub(crate) items: Option<Box<Check>>,
    /// `additionalProperties`.
    pub(crate) values: Option<Box<Check>>,
    pub(crate) list: ListType,
    pub(crate) all_of: Vec<Check>,
    pub(crate) any_of: Vec<Check>,
    pub(crate) one_of: Vec<Check>,
    pub(crate) not: Option<Box<Check>>,
    pub(crate) default: Option<Value>,
    pub(crate) rules: Option<Rules>,
    /// Transition rules stand here or below; such subtrees are visited even when nothing changed.
    pub(crate) transitions: bool,
    /// Rules of any kind stand here or below.
    pub(crate) has_rules: bool,
}

/// An inclusive or exclusive bound.
#[derive(Debug)]
pub(crate) struct Bound {
    pub(crate) value: Value,
    pub(crate) exclusive: bool,
}

/// CEL rules of one node, compiled against the node's own type.
#[derive(Debug)]
pub(crate) struct Rules {
    pub(crate) all: CompiledSchema,
    /// Those that mention `oldSelf`; the only ones run on values that did not change.
    pub(crate) transitions: Option<CompiledSchema>,
}

impl Check {
    /// `schema` has been checked by `structural`; what cannot be read is absent.
    pub(crate) fn compile(schema: &Value) -> Self {
        let text = |key: &str| schema.get(key).and_then(Value::as_str);
        let flag = |key: &str| schema.get(key).and_then(Value::as_bool) == Some(true);
        let count = |key: &str| schema.get(key).and_then(Value::as_u64);
        let child = |key: &str| {
            schema
                .get(key)
                .filter(|value| value.is_object())
                .map(|value| Box::new(Self::compile(value)))
        };
        let branches =
            |key: &str| -> Vec<Self> { array(schema, key).iter().map(Self::compile).collect() };
        let bound = |key: &str, exclusive: &str| {
            let value = schema.get(key).filter(|value| value.is_number())?.clone();
            Some(Bound {
                value,
                exclusive: flag(exclusive),
            })
        };
        let properties: BTreeMap<String, Self> = schema
            .get("properties")
            .and_then(Value::as_object)
            .into_iter()
            .flatten()
            .map(|(name, value)| (name.clone(), Self::compile(value)))
            .collect();
        let rules = Rules::compile(schema);
        let items = child("items");
        let values = child("additionalProperties");
        let transitions = rules
            .as_ref()
            .is_some_and(|rules| rules.transitions.is_some())
            || properties
                .values()
                .chain(items.as_deref())
                .chain(values.as_deref())
                .any(|check| check.transitions);
        let has_rules = rules.is_some()
            || properties
                .values()
                .chain(items.as_deref())
                .chain(values.as_deref())
                .any(|check| check.has_rules);
        Self {
            kind: text("type").unwrap_or_default().to_owned(),
            int_or_string: flag("x-kubernetes-int-or-string"),
            nullable: flag("nullable"),
            embedded: flag("x-kubernetes-embedded-resource"),
            format: text("format").map(str::to_owned),
            allowed: schema.get("enum").and_then(Value::as_array).cloned(),
            pattern: text("pattern").and_then(|pattern| Regex::new(pattern).ok()),
            minimum: bound("minimum", "exclusiveMinimum"),
            maximum: bound("maximum", "exclusiveMaximum"),
            multiple_of: schema.get("multipleOf").cloned(),
            min_length: count("minLength"),
            max_length: count("maxLength"),
            min_items: count("minItems"),
            max_items: count("maxItems"),
            min_properties: count("minProperties"),
            max_properties: count("maxProperties"),
            required: array(schema, "required")
                .iter()
                .filter_map(|name| name.as_str().map(str::to_owned))
                .collect(),
            list: match text("x-kubernetes-list-type") {
                Some("set") => ListType::Set,
                Some("map") => ListType::Map(
                    array(schema, "x-kubernetes-list-map-keys")
                        .iter()
                        .filter_map(|key| key.as_str().map(Into::into))
                        .collect(),
                ),
                _ => ListType::Atomic,
            },
            all_of: branches("allOf"),
            any_of: branches("anyOf"),
            one_of: branches("oneOf"),
            not: child("not"),
            default: schema.get("default").cloned(),
            properties,
            items,
            values,
            rules,
            transitions,
            has_rules,
        }
    }
}

impl Rules {
    fn compile(schema: &Value) -> Option<Self> {
        let rules = array(schema, "x-kubernetes-validations");
        if rules.is_empty() {
            return None;
        }
        let all = compile_schema(&with_rules(schema, rules));
        // Rules that do not compile were refused when the definition was created, so positions agree.
        let transitions: Vec<Value> = rules
            .iter()
            .zip(&all.validations)
            .filter(|(_, compiled)| compiled.as_ref().is_ok_and(|rule| rule.is_transition_rule))
            .map(|(rule, _)| rule.clone())
            .collect();
        let transitions =
            (!transitions.is_empty()).then(|| compile_schema(&with_rules(schema, &transitions)));
        Some(Self { all, transitions })
    }
}

/// The node's type with these rules and no others: rules below are run by our own walk, which knows how old and new list items
/// correspond, and defaults were applied before.
fn with_rules(schema: &Value, rules: &[Value]) -> Value {
    let mut bare = without_rules(schema);
    if let Some(object) = bare.as_object_mut() {
        object.insert("x-kubernetes-validations".to_owned(), Value::from(rules));
    }
    bare
}

fn without_rules(schema: &Value) -> Value {
    let Value::Object(object) = schema else {
        return schema.clone();
    };
    let mut out = Map::new();
    for (key, value) in object {
        let value = match key.as_str() {
            // Branches of logical operators carry no types; the conversion to CEL values does not need them.
            "x-kubernetes-validations" | "default" | "allOf" | "anyOf" | "oneOf" | "not" => {
                continue;
            }
            "properties" => Value::Object(
                value
                    .as_object()
                    .into_iter()
                    .flatten()
                    .map(|(name, property)| (name.clone(), without_rules(property)))
                    .collect(),
            ),
            "items" | "additionalProperties" => without_rules(value),
            _ => value.clone(),
        };
        out.insert(key.clone(), value);
    }
    Value::Object(out)
}

pub(super) fn array<'v>(schema: &'v Value, key: &str) -> &'v [Value] {
    schema
        .get(key)
        .and_then(Value::as_array)
        .map(Vec::as_slice)
        .unwrap_or_default()
}
