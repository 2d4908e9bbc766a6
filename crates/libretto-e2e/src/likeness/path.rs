//! Places in JSON documents: `spec.ports[0].name`, `metadata.labels["a.b/c"]`, `items[*].metadata.name`.

use std::fmt;

use serde_json::Value;

use crate::{Failure, Step};

/// One step into a document.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Segment {
    Key(String),
    Index(usize),
    /// Every item of a list, or every field.
    All,
}

/// A place, or with [`Segment::All`] several.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Path(pub Vec<Segment>);

impl Path {
    pub fn parse(text: &str) -> Step<Self> {
        let malformed = || Failure::from(format!("{text:?} is not a path such as spec.ports[0]"));
        let mut segments = Vec::new();
        let mut rest = text;
        while !rest.is_empty() {
            if let Some(inside) = rest.strip_prefix("[\"") {
                let (key, after) = inside.split_once("\"]").ok_or_else(malformed)?;
                segments.push(Segment::Key(key.to_owned()));
                rest = after;
            } else if let Some(inside) = rest.strip_prefix('[') {
                let (index, after) = inside.split_once(']').ok_or_else(malformed)?;
                segments.push(if index == "*" {
                    Segment::All
                } else {
                    Segment::Index(index.parse().map_err(|_| malformed())?)
                });
                rest = after;
            } else {
                let end = rest.find(['.', '[']).unwrap_or(rest.len());
                let (key, after) = rest.split_at(end);
                if key.is_empty() {
                    return Err(malformed());
                }
                segments.push(if key == "*" {
                    Segment::All
                } else {
                    Segment::Key(key.to_owned())
                });
                rest = after;
            }
            rest = rest.strip_prefix('.').unwrap_or(rest);
        }
        Ok(Self(segments))
    }

    /// The value at this place, `null` when there is none; a list of values when the path names several.
    pub fn get(&self, document: &Value) -> Value {
        get(&self.0, document)
    }

    /// Puts a value there, making what is missing on the way; `null` removes.
    pub fn set(&self, document: &mut Value, value: &Value) -> Step {
        set(&self.0, document, value)
            .ok_or_else(|| Failure::from(format!("nothing can be put at {self}")))
    }

    pub fn child(&self, segment: Segment) -> Self {
        let mut segments = self.0.clone();
        segments.push(segment);
        Self(segments)
    }

    /// Whether `other` is this place or lies within it.
    pub fn covers(&self, other: &Self) -> bool {
        self.0.len() <= other.0.len()
            && self
                .0
                .iter()
                .zip(&other.0)
                .all(|(own, other)| own == &Segment::All || own == other)
    }
}

impl fmt::Display for Path {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, segment) in self.0.iter().enumerate() {
            match segment {
                Segment::Key(key) if key.contains(['.', '[', '/']) => {
                    write!(formatter, "[\"{key}\"]")?;
                }
                Segment::Key(key) if position == 0 => write!(formatter, "{key}")?,
                Segment::Key(key) => write!(formatter, ".{key}")?,
                Segment::Index(index) => write!(formatter, "[{index}]")?,
                Segment::All => write!(formatter, "[*]")?,
            }
        }
        Ok(())
    }
}

fn get(segments: &[Segment], document: &Value) -> Value {
    let Some((first, rest)) = segments.split_first() else {
        return document.clone();
    };
    match (first, document) {
        (Segment::Key(key), _) => document
            .get(key)
            .map_or(Value::Null, |value| get(rest, value)),
        (Segment::Index(index), _) => document
            .get(index)
            .map_or(Value::Null, |value| get(rest, value)),
        (Segment::All, Value::Array(items)) => items.iter().map(|item| get(rest, item)).collect(),
        (Segment::All, Value::Object(fields)) => {
            fields.values().map(|item| get(rest, item)).collect()
        }
        (Segment::All, _) => Value::Null,
    }
}

fn set(segments: &[Segment], document: &mut Value, value: &Value) -> Option<()> {
    let (first, rest) = segments.split_first()?;
    if document.is_null() {
        *document = match first {
            Segment::Key(_) => Value::Object(serde_json::Map::new()),
            Segment::Index(_) => Value::Array(Vec::new()),
            Segment::All => return None,
        };
    }
    let place = match (first, document) {
        (Segment::Key(key), Value::Object(fields)) => {
            if rest.is_empty() && value.is_null() {
                fields.remove(key);
                return Some(());
            }
            fields.entry(key.clone()).or_insert(Value::Null)
        }
        (Segment::Index(index), Value::Array(items)) => {
            if rest.is_empty() && value.is_null() {
                if *index < items.len() {
                    items.remove(*index);
                }
                return Some(());
            }
            while items.len() <= *index {
                items.push(Value::Null);
            }
            items.get_mut(*index)?
        }
        _ => return None,
    };
    if rest.is_empty() {
        *place = value.clone();
        Some(())
    } else {
        set(rest, place, value)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::json;

    use super::*;

    #[test]
    fn places_are_read_and_written() {
        let mut document = json!({"a": [{"b.c": 1}, {"b.c": 2}]});
        let path = |text| Path::parse(text).unwrap();
        assert_eq!(path("a[1][\"b.c\"]").get(&document), 2);
        assert_eq!(path("a[*][\"b.c\"]").get(&document), json!([1, 2]));
        assert_eq!(path("a[7].x").get(&document), Value::Null);
        path("a[1].new.deep")
            .set(&mut document, &json!("x"))
            .unwrap();
        path("a[0]").set(&mut document, &Value::Null).unwrap();
        assert_eq!(document, json!({"a": [{"b.c": 2, "new": {"deep": "x"}}]}));
        assert_eq!(path("a[1][\"b.c\"].d").to_string(), "a[1][\"b.c\"].d");
        assert!(path("a[*].x").covers(&path("a[3].x.y")));
        assert!(!path("a[*].x").covers(&path("a[3]")));
        assert!(Path::parse("a[x]").is_err());
    }
}
