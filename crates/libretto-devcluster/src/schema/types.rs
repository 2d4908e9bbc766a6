//! Whether the JSON types of an object are those of its schema.

use serde_json::Value;

use super::{
    definitions,
    field::{child, type_invalid, type_name},
    node::{Kind, Node},
    quantity,
};
use crate::error::FieldError;

/// A value of a type its field cannot hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mismatch {
    /// With indexes: `spec.containers[0].image`.
    pub(crate) path: String,
    /// Without, as Go's decoder shows it: `spec.containers.image`.
    go_path: String,
    /// The definition that has the field, as Go names it: `Container`.
    owner: String,
    found: &'static str,
    value: Value,
    expected: &'static str,
    go_type: String,
    /// A value of the right JSON type but malformed; says how.
    malformed: Option<String>,
}

impl Mismatch {
    pub(crate) fn field_error(&self) -> FieldError {
        let detail = self.malformed.clone().unwrap_or_else(|| {
            format!(
                "{} in body must be of type {}: {:?}",
                self.path, self.expected, self.found
            )
        });
        type_invalid(&*self.path, self.found, &detail)
    }

    /// In the words of Go's JSON decoder.
    pub(crate) fn decode_error(&self) -> String {
        if let Some(malformed) = &self.malformed {
            return malformed.clone();
        }
        let found = match self.found {
            "integer" if self.expected != "integer" => "number".to_owned(),
            "number" if self.expected != "integer" => "number".to_owned(),
            "integer" | "number" => format!("number {}", self.value),
            "boolean" => "bool".to_owned(),
            other => other.to_owned(),
        };
        let (owner, path, go_type) = (&self.owner, &self.go_path, &self.go_type);
        format!(
            "json: cannot unmarshal {found} into Go struct field {owner}.{path} of type {go_type}"
        )
    }
}

/// Every mismatch, in order.
pub(crate) fn check(root: &Node, kind: &str, object: &Value) -> Vec<Mismatch> {
    let mut walk = Walk { out: Vec::new() };
    walk.visit(
        root,
        object,
        &Place {
            path: String::new(),
            go_path: String::new(),
            owner: kind.to_owned(),
        },
    );
    walk.out
}

struct Place {
    path: String,
    go_path: String,
    owner: String,
}

struct Walk {
    out: Vec<Mismatch>,
}

impl Walk {
    fn visit(&mut self, node: &Node, value: &Value, place: &Place) {
        let target = node.target();
        if value.is_null() {
            return;
        }
        let (fits, expected) = match target.kind {
            Kind::Any => (true, ""),
            Kind::Object => (value.is_object(), "object"),
            Kind::Array => (value.is_array(), "array"),
            Kind::String => (value.is_string(), "string"),
            Kind::Integer if target.format.as_deref() == Some("int32") => (
                value
                    .as_i64()
                    .is_some_and(|number| i32::try_from(number).is_ok()),
                "integer",
            ),
            Kind::Integer => (value.is_i64() || value.is_u64(), "integer"),
            Kind::Number => (value.is_number(), "number"),
            Kind::Boolean => (value.is_boolean(), "boolean"),
            Kind::IntOrString => (value.is_string() || value.is_i64(), "integer,string"),
            Kind::Quantity => (value.is_string() || value.is_number(), "string,number"),
        };
        if !fits {
            self.push(node, value, place, expected, None);
            return;
        }
        if let Some(malformed) = malformed(target, value) {
            self.push(node, value, place, expected, Some(malformed));
            return;
        }
        match value {
            Value::Object(object) => {
                let owner = go_name(node).unwrap_or_else(|| place.owner.clone());
                for (name, value) in object {
                    if let (Some(field), declared) = node.field(name) {
                        let inner = Place {
                            path: child(&place.path, name),
                            // Go names fields of structs, and not the keys of maps.
                            go_path: if declared {
                                child(&place.go_path, name)
                            } else {
                                place.go_path.clone()
                            },
                            owner: if declared {
                                owner.clone()
                            } else {
                                place.owner.clone()
                            },
                        };
                        self.visit(field, value, &inner);
                    }
                }
            }
            Value::Array(items) => {
                if let Some(item_node) = &target.items {
                    for (index, item) in items.iter().enumerate() {
                        let inner = Place {
                            path: format!("{}[{index}]", place.path),
                            go_path: place.go_path.clone(),
                            owner: place.owner.clone(),
                        };
                        self.visit(item_node, item, &inner);
                    }
                }
            }
            _ => {}
        }
    }

    fn push(
        &mut self,
        node: &Node,
        value: &Value,
        place: &Place,
        expected: &'static str,
        malformed: Option<String>,
    ) {
        self.out.push(Mismatch {
            path: place.path.clone(),
            go_path: place.go_path.clone(),
            owner: place.owner.clone(),
            found: type_name(value),
            // Only numbers are shown.
            value: if value.is_number() {
                value.clone()
            } else {
                Value::Null
            },
            expected,
            go_type: go_type(node),
            malformed,
        });
    }
}

/// Values of the right JSON type whose text the decoder refuses.
fn malformed(target: &Node, value: &Value) -> Option<String> {
    match (target.kind, target.format.as_deref(), value) {
        (Kind::Quantity, _, value) if quantity::Quantity::from_json(value).is_none() => {
            Some(quantity::MALFORMED.to_owned())
        }
        (Kind::String, Some("date-time"), Value::String(text))
            if text.parse::<jiff::Timestamp>().is_err() =>
        {
            Some(format!(
                "parsing time {text:?} as \"2006-01-02T15:04:05Z07:00\": cannot parse {text:?} as \"2006\""
            ))
        }
        (Kind::String, Some("byte"), Value::String(text)) => {
            use base64::{DecodeError, Engine as _};
            match base64::engine::general_purpose::STANDARD.decode(text) {
                Ok(_) => None,
                Err(DecodeError::InvalidByte(position, _)) => {
                    Some(format!("illegal base64 data at input byte {position}"))
                }
                // Go counts in groups of four.
                Err(_) => Some(format!(
                    "illegal base64 data at input byte {}",
                    text.len() / 4 * 4
                )),
            }
        }
        _ => None,
    }
}

/// The last part of the definition's name.
fn go_name(node: &Node) -> Option<String> {
    let name = definitions::table().name(node.reference?);
    Some(name.rsplit('.').next().unwrap_or(name).to_owned())
}

fn go_type(node: &Node) -> String {
    let target = node.target();
    let inner = |node: Option<&Node>| node.map_or_else(|| "interface {}".to_owned(), go_type);
    match target.kind {
        Kind::Boolean => "bool".to_owned(),
        Kind::Integer => target.format.as_deref().unwrap_or("int64").to_owned(),
        Kind::Number => "float64".to_owned(),
        Kind::String => "string".to_owned(),
        Kind::Array => format!("[]{}", inner(target.items.as_deref())),
        _ => match go_name(node) {
            Some(name) => format!("v1.{name}"),
            None => format!("map[string]{}", inner(target.values.as_deref())),
        },
    }
}
