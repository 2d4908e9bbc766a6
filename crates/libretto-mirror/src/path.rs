//! Where in an object a column's value stands: `spec.ports[name=http].port`, `metadata.labels["a.b/c"]`, `items[0]`.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A parsed path. `.` alone is the whole value.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ColumnPath {
    segments: Vec<Segment>,
}

/// One step of a path.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Segment {
    /// A key of an object.
    Key(String),
    /// An element of an array, counted from 0.
    Index(usize),
    /// The first object of an array whose `key` is `value`.
    Where { key: String, value: String },
}

/// The text is not a path.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{path}` is not a path: {problem}")]
pub struct PathError {
    pub path: String,
    pub problem: String,
}

impl ColumnPath {
    /// The steps, outermost first; empty for the whole value.
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// The path below `key`; `None` when this one does not begin with it.
    pub fn strip(&self, key: &str) -> Option<Self> {
        match self.segments.split_first() {
            Some((Segment::Key(first), rest)) if first == key => Some(Self {
                segments: rest.to_vec(),
            }),
            _ => None,
        }
    }

    /// The value there, if any.
    pub fn find<'a>(&self, object: &'a Value) -> Option<&'a Value> {
        let mut current = object;
        for segment in &self.segments {
            current = match segment {
                Segment::Key(key) => current.as_object()?.get(key)?,
                Segment::Index(index) => current.as_array()?.get(*index)?,
                Segment::Where { key, value } => current
                    .as_array()?
                    .iter()
                    .find(|item| item.get(key).is_some_and(|found| same(found, value)))?,
            };
        }
        Some(current)
    }

    /// Removes the value there; what was removed.
    pub fn remove(&self, object: &mut Value) -> Option<Value> {
        let (last, parents) = self.segments.split_last()?;
        let mut current = object;
        for segment in parents {
            current = step_mut(current, segment)?;
        }
        match last {
            Segment::Key(key) => current.as_object_mut()?.remove(key),
            Segment::Index(index) => {
                let items = current.as_array_mut()?;
                (*index < items.len()).then(|| items.remove(*index))
            }
            Segment::Where { key, value } => {
                let items = current.as_array_mut()?;
                let index = items
                    .iter()
                    .position(|item| item.get(key).is_some_and(|found| same(found, value)))?;
                Some(items.remove(index))
            }
        }
    }

    /// Replaces the value there when its parent exists; whether it did.
    pub fn set(&self, object: &mut Value, new: Value) -> bool {
        let Some((last, parents)) = self.segments.split_last() else {
            *object = new;
            return true;
        };
        let mut current = object;
        for segment in parents {
            match step_mut(current, segment) {
                Some(next) => current = next,
                None => return false,
            }
        }
        if let (Segment::Key(key), Some(map)) = (last, current.as_object_mut()) {
            map.insert(key.clone(), new);
            return true;
        }
        match step_mut(current, last) {
            Some(slot) => {
                *slot = new;
                true
            }
            None => false,
        }
    }
}

fn step_mut<'a>(current: &'a mut Value, segment: &Segment) -> Option<&'a mut Value> {
    match segment {
        Segment::Key(key) => current.as_object_mut()?.get_mut(key),
        Segment::Index(index) => current.as_array_mut()?.get_mut(*index),
        Segment::Where { key, value } => current
            .as_array_mut()?
            .iter_mut()
            .find(|item| item.get(key).is_some_and(|found| same(found, value))),
    }
}

/// Whether a scalar is written like `text`.
fn same(found: &Value, text: &str) -> bool {
    match found {
        Value::String(found) => found == text,
        Value::Number(number) => number.to_string() == text,
        Value::Bool(truth) => (if *truth { "true" } else { "false" }) == text,
        _ => false,
    }
}

impl FromStr for ColumnPath {
    type Err = PathError;

    fn from_str(text: &str) -> Result<Self, PathError> {
        let fail = |problem: &str| PathError {
            path: text.to_owned(),
            problem: problem.to_owned(),
        };
        if text == "." {
            return Ok(Self {
                segments: Vec::new(),
            });
        }
        let mut segments = Vec::new();
        let mut rest = text;
        if rest.is_empty() {
            return Err(fail("it is empty; write `.` for the whole value"));
        }
        loop {
            // A key, unless a bracket comes first.
            if !rest.starts_with('[') {
                let end = rest.find(['.', '[', ']', '"']).unwrap_or(rest.len());
                let key = &rest[..end];
                if key.is_empty() {
                    return Err(fail(
                        "a key is empty; keys with dots are written [\"like.this\"]",
                    ));
                }
                segments.push(Segment::Key(key.to_owned()));
                rest = &rest[end..];
            }
            while let Some(inner) = rest.strip_prefix('[') {
                let (segment, after) = bracket(inner).map_err(|problem| fail(&problem))?;
                segments.push(segment);
                rest = after;
            }
            match rest.strip_prefix('.') {
                Some(after) if !after.starts_with('[') => rest = after,
                Some(_) => return Err(fail("`.` before `[` is one too many")),
                None if rest.is_empty() => return Ok(Self { segments }),
                None => return Err(fail("expected `.` or `[` after a step")),
            }
        }
    }
}

/// Reads what stands between brackets; gives the rest after `]`.
fn bracket(inner: &str) -> Result<(Segment, &str), String> {
    let (word, after) = word(inner)?;
    if let Some(after) = after.strip_prefix(']') {
        let segment = match word {
            Word::Quoted(key) => Segment::Key(key),
            Word::Bare(text) => match text.parse() {
                Ok(index) => Segment::Index(index),
                Err(_) => {
                    return Err(format!(
                        "[{text}] is neither an index, nor [key=value], nor [\"key\"]"
                    ));
                }
            },
        };
        return Ok((segment, after));
    }
    let Some(after) = after.strip_prefix('=') else {
        return Err("a bracket is not closed".to_owned());
    };
    let (value, after) = self::word(after)?;
    match after.strip_prefix(']') {
        Some(after) => Ok((
            Segment::Where {
                key: word.text(),
                value: value.text(),
            },
            after,
        )),
        None => Err("a bracket is not closed".to_owned()),
    }
}

enum Word {
    Bare(String),
    Quoted(String),
}

impl Word {
    fn text(self) -> String {
        match self {
            Self::Bare(text) | Self::Quoted(text) => text,
        }
    }
}

fn word(text: &str) -> Result<(Word, &str), String> {
    if let Some(quoted) = text.strip_prefix('"') {
        let end = quoted
            .find('"')
            .ok_or_else(|| "a quote is not closed".to_owned())?;
        return Ok((Word::Quoted(quoted[..end].to_owned()), &quoted[end + 1..]));
    }
    let end = text.find([']', '=', '"', '[']).unwrap_or(text.len());
    if end == 0 {
        return Err("a bracket is empty".to_owned());
    }
    Ok((Word::Bare(text[..end].to_owned()), &text[end..]))
}

impl fmt::Display for ColumnPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.segments.is_empty() {
            return f.write_str(".");
        }
        for (index, segment) in self.segments.iter().enumerate() {
            match segment {
                Segment::Key(key) if key.is_empty() || key.contains(['.', '[', ']', '=']) => {
                    write!(f, "[\"{key}\"]")?;
                }
                Segment::Key(key) if index == 0 => f.write_str(key)?,
                Segment::Key(key) => write!(f, ".{key}")?,
                Segment::Index(index) => write!(f, "[{index}]")?,
                Segment::Where { key, value } if value.contains([']', '[', '=']) => {
                    write!(f, "[{key}=\"{value}\"]")?;
                }
                Segment::Where { key, value } => write!(f, "[{key}={value}]")?,
            }
        }
        Ok(())
    }
}

impl TryFrom<String> for ColumnPath {
    type Error = PathError;

    fn try_from(text: String) -> Result<Self, PathError> {
        text.parse()
    }
}

impl From<ColumnPath> for String {
    fn from(path: ColumnPath) -> Self {
        path.to_string()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    #[test]
    fn paths_find_what_they_name() {
        let object = json!({
            "metadata": {"labels": {"a.b/c": "x", "plain": "y"}},
            "spec": {"ports": [{"name": "http", "port": 80}, {"name": "admin", "port": 8080}], "n": [[1, 2], [3]]},
            "status": {"conditions": [{"type": "Ready", "status": "True"}], "num-slaves": "2"}
        });
        let cases = [
            (".", Some(object.clone())),
            ("metadata.labels.plain", Some(json!("y"))),
            ("metadata.labels[\"a.b/c\"]", Some(json!("x"))),
            ("metadata[\"labels\"].plain", Some(json!("y"))),
            ("spec.ports[name=http].port", Some(json!(80))),
            ("spec.ports[port=8080].name", Some(json!("admin"))),
            ("spec.ports[name=\"admin\"].port", Some(json!(8080))),
            ("spec.ports[1].name", Some(json!("admin"))),
            ("spec.n[0][1]", Some(json!(2))),
            ("spec.ports[7].name", None),
            ("spec.ports[name=none].port", None),
            ("status.conditions[type=Ready].status", Some(json!("True"))),
            ("status.num-slaves", Some(json!("2"))),
            ("spec.ports.name", None),
            ("nothing.here", None),
        ];
        for (path, expected) in cases {
            let parsed: ColumnPath = path.parse().unwrap();
            assert_eq!(parsed.find(&object), expected.as_ref(), "{path}");
            assert_eq!(
                parsed.to_string().parse::<ColumnPath>().unwrap(),
                parsed,
                "{path}"
            );
        }
    }

    #[test]
    fn what_is_no_path_says_why() {
        let cases = [
            (
                "",
                "`` is not a path: it is empty; write `.` for the whole value",
            ),
            (
                "a..b",
                "`a..b` is not a path: a key is empty; keys with dots are written [\"like.this\"]",
            ),
            (
                "a.",
                "`a.` is not a path: a key is empty; keys with dots are written [\"like.this\"]",
            ),
            ("a[", "`a[` is not a path: a bracket is empty"),
            ("a[]", "`a[]` is not a path: a bracket is empty"),
            (
                "a[x]",
                "`a[x]` is not a path: [x] is neither an index, nor [key=value], nor [\"key\"]",
            ),
            ("a[\"x]", "`a[\"x]` is not a path: a quote is not closed"),
            ("a[x=y", "`a[x=y` is not a path: a bracket is not closed"),
            (
                "a.[0]",
                "`a.[0]` is not a path: `.` before `[` is one too many",
            ),
            (
                "a[0]b",
                "`a[0]b` is not a path: expected `.` or `[` after a step",
            ),
            (
                "a]b",
                "`a]b` is not a path: expected `.` or `[` after a step",
            ),
        ];
        for (path, message) in cases {
            assert_eq!(path.parse::<ColumnPath>().unwrap_err().to_string(), message);
        }
    }

    #[test]
    fn remove_and_set_touch_only_their_place() {
        let path: ColumnPath = "spec.template[name=b].n".parse().unwrap();
        let mut object =
            json!({"spec": {"template": [{"name": "a", "n": 1}, {"name": "b", "n": 2}]}});
        assert!(path.set(&mut object, json!(9)));
        assert_eq!(path.remove(&mut object), Some(json!(9)));
        assert_eq!(
            object,
            json!({"spec": {"template": [{"name": "a", "n": 1}, {"name": "b"}]}})
        );
        assert!(
            !"x.y"
                .parse::<ColumnPath>()
                .unwrap()
                .set(&mut object, json!(1))
        );
    }
}
