//! YAML as a tree that knows where each node stands.

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, SeqAccess, Visitor},
};
use serde_json::Value;
use serde_saphyr::Spanned;

use crate::Diagnostic;

/// A place in a file, counted from 1.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct At {
    pub(crate) line: u64,
    pub(crate) column: u64,
}

/// A node of a document.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub(crate) at: At,
    pub(crate) data: Data,
}

#[derive(Debug, Clone)]
pub(crate) enum Data {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(String),
    List(Vec<Node>),
    Map(Vec<(Key, Node)>),
}

/// A key of a map.
#[derive(Debug, Clone)]
pub(crate) struct Key {
    pub(crate) at: At,
    pub(crate) text: String,
}

impl Node {
    /// What kind of node it is, for messages.
    pub(crate) fn what(&self) -> &'static str {
        match self.data {
            Data::Null => "nothing",
            Data::Bool(_) => "true or false",
            Data::Int(_) | Data::Float(_) => "a number",
            Data::Text(_) => "text",
            Data::List(_) => "a list",
            Data::Map(_) => "a map",
        }
    }

    /// Value of a key, when this is a map that has it.
    pub(crate) fn get(&self, key: &str) -> Option<&Self> {
        self.entries()
            .iter()
            .find(|(name, _)| name.text == key)
            .map(|(_, node)| node)
    }

    /// Entries of a map, or none.
    pub(crate) fn entries(&self) -> &[(Key, Self)] {
        match &self.data {
            Data::Map(entries) => entries,
            _ => &[],
        }
    }

    /// The text, when it is one.
    pub(crate) fn text(&self) -> Option<&str> {
        match &self.data {
            Data::Text(text) => Some(text),
            _ => None,
        }
    }

    /// As plain JSON, without positions.
    pub(crate) fn to_json(&self) -> Value {
        match &self.data {
            Data::Null => Value::Null,
            Data::Bool(truth) => Value::from(*truth),
            Data::Int(int) => Value::from(*int),
            Data::Float(float) => Value::from(*float),
            Data::Text(text) => Value::from(text.as_str()),
            Data::List(items) => items.iter().map(Self::to_json).collect(),
            Data::Map(entries) => Value::Object(
                entries
                    .iter()
                    .map(|(key, node)| (key.text.clone(), node.to_json()))
                    .collect(),
            ),
        }
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<Data>::deserialize(deserializer)?;
        Ok(Self {
            at: At {
                line: spanned.referenced.line(),
                column: spanned.referenced.column(),
            },
            data: spanned.value,
        })
    }
}

impl<'de> Deserialize<'de> for Data {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(DataVisitor)
    }
}

struct DataVisitor;

impl<'de> Visitor<'de> for DataVisitor {
    type Value = Data;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("any YAML value")
    }

    fn visit_unit<E>(self) -> Result<Data, E> {
        Ok(Data::Null)
    }

    fn visit_none<E>(self) -> Result<Data, E> {
        Ok(Data::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Data, D::Error> {
        Data::deserialize(deserializer)
    }

    fn visit_bool<E>(self, truth: bool) -> Result<Data, E> {
        Ok(Data::Bool(truth))
    }

    fn visit_i64<E>(self, int: i64) -> Result<Data, E> {
        Ok(Data::Int(int))
    }

    fn visit_u64<E>(self, int: u64) -> Result<Data, E> {
        Ok(i64::try_from(int).map_or(Data::Float(int as f64), Data::Int))
    }

    fn visit_f64<E>(self, float: f64) -> Result<Data, E> {
        Ok(Data::Float(float))
    }

    fn visit_str<E>(self, text: &str) -> Result<Data, E> {
        Ok(Data::Text(text.to_owned()))
    }

    fn visit_string<E>(self, text: String) -> Result<Data, E> {
        Ok(Data::Text(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Data, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = access.next_element()? {
            items.push(item);
        }
        Ok(Data::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Data, A::Error> {
        let mut entries = Vec::new();
        while let Some(key) = access.next_key::<Spanned<String>>()? {
            let at = At {
                line: key.referenced.line(),
                column: key.referenced.column(),
            };
            entries.push((
                Key {
                    at,
                    text: key.value,
                },
                access.next_value()?,
            ));
        }
        Ok(Data::Map(entries))
    }
}

/// Every document of a file.
pub(crate) fn parse(file: &str, text: &str) -> Result<Vec<Node>, Diagnostic> {
    // As YAML 1.2 has it: `no`, `on` and `yes` are words, or Redis' `REPLICAOF NO ONE` would be impossible to write.
    let options = serde_saphyr::options! { strict_booleans: true };
    serde_saphyr::from_multiple_with_options::<Node>(text, options)
        .map(|nodes| {
            nodes
                .into_iter()
                .filter(|node| !matches!(node.data, Data::Null))
                .collect()
        })
        .map_err(|error| {
            let at = error.location().map_or_else(At::default, |location| At {
                line: location.line(),
                column: location.column(),
            });
            let message = error.without_snippet().to_string();
            let message = message
                .split(" at line ")
                .next()
                .unwrap_or_default()
                .to_owned();
            Diagnostic {
                file: file.to_owned(),
                line: at.line,
                column: at.column,
                message: format!("not valid YAML: {message}"),
                hint: None,
            }
        })
}

/// Where a place inside a scalar's text stands in the file. `line` and `column` are counted from 0 inside the text.
pub(crate) fn inside(source: &str, at: At, line: usize, column: usize) -> At {
    let lines: Vec<&str> = source.lines().collect();
    let Some(first) = usize::try_from(at.line)
        .ok()
        .and_then(|number| lines.get(number.checked_sub(1)?))
    else {
        return at;
    };
    let start = usize::try_from(at.column).unwrap_or(1).saturating_sub(1);
    let opener = first.get(start..).unwrap_or_default().chars().next();
    let number = usize::try_from(at.line).unwrap_or(1);
    // A block's place is its first line of text; what kind of block it is stands at the end of the line before.
    let literal = number
        .checked_sub(2)
        .and_then(|index| lines.get(index))
        .and_then(|line| line.split_whitespace().last())
        .is_some_and(|word| word.starts_with('|'));
    match opener {
        _ if literal => At {
            line: at.line + line as u64,
            column: at.column + column as u64,
        },
        Some('"' | '\'') if line == 0 => At {
            line: at.line,
            column: at.column + 1 + column as u64,
        },
        _ if line == 0 => At {
            line: at.line,
            column: at.column + column as u64,
        },
        // Folding moves words between lines: only the start is certain.
        _ => at,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn nodes_know_their_place_and_type() {
        let text =
            "a: 1\nb:\n  - x\n  - {c: \"2\", d: true, e: ~, f: 1.5}\ng: |\n  one\n  two\nh: NO\n";
        let nodes = parse("f.yaml", text).unwrap();
        let root = &nodes[0];
        assert!(matches!(root.get("a").unwrap().data, Data::Int(1)));
        assert_eq!(root.get("a").unwrap().at, At { line: 1, column: 4 });
        let Data::List(items) = &root.get("b").unwrap().data else {
            panic!("not a list")
        };
        assert_eq!(items[0].at, At { line: 3, column: 5 });
        let map = &items[1];
        assert_eq!(map.get("c").unwrap().text(), Some("2"));
        assert!(matches!(map.get("d").unwrap().data, Data::Bool(true)));
        assert!(matches!(map.get("e").unwrap().data, Data::Null));
        assert!(matches!(map.get("f").unwrap().data, Data::Float(_)));
        assert_eq!(
            map.entries()[1].0.at,
            At {
                line: 4,
                column: 14
            }
        );
        assert_eq!(root.get("g").unwrap().text(), Some("one\ntwo\n"));
        assert_eq!(root.get("h").unwrap().text(), Some("NO"));
        assert_eq!(
            inside(text, root.get("g").unwrap().at, 1, 0),
            At { line: 7, column: 3 }
        );
    }

    #[test]
    fn broken_yaml_has_a_place() {
        let error = parse("f.yaml", "a: 1\nb: [1, 2\nc: 3\n").unwrap_err();
        assert!(error.line >= 2, "{error}");
        assert!(error.message.starts_with("not valid YAML: "), "{error}");
        let error = parse("f.yaml", "a: 1\na: 2\n").unwrap_err();
        assert_eq!(error.line, 2, "{error}");
    }
}
