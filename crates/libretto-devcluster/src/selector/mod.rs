//! Label and field selectors: parsing and matching. Pure.

mod parser;

use serde_json::Value;

use crate::error::ApiError;

/// One condition on a label.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Requirement {
    Exists(String),
    Absent(String),
    In(String, Vec<String>),
    NotIn(String, Vec<String>),
    Greater(String, i64),
    Less(String, i64),
}

/// A parsed label selector; the empty one matches everything.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LabelSelector(Vec<Requirement>);

impl LabelSelector {
    /// Parses `a=b,c!=d,e in (x,y),f notin (z),g,!h,i>3`.
    pub fn parse(text: &str) -> Result<Self, ApiError> {
        parser::parse(text).map(Self).map_err(ApiError::bad_request)
    }

    /// The selector of a workload (`matchLabels`, `matchExpressions`); an absent one matches nothing in Kubernetes, which is the
    /// caller's case to handle.
    pub fn from_object(selector: &Value) -> Result<Self, ApiError> {
        let mut requirements = Vec::new();
        for (key, value) in selector["matchLabels"].as_object().into_iter().flatten() {
            let value = value.as_str().unwrap_or_default().to_owned();
            requirements.push(Requirement::In(key.clone(), vec![value]));
        }
        for expression in selector["matchExpressions"]
            .as_array()
            .into_iter()
            .flatten()
        {
            let key = expression["key"].as_str().unwrap_or_default().to_owned();
            let values = expression["values"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(Value::as_str)
                .map(str::to_owned)
                .collect();
            requirements.push(match expression["operator"].as_str() {
                Some("In") => Requirement::In(key, values),
                Some("NotIn") => Requirement::NotIn(key, values),
                Some("Exists") => Requirement::Exists(key),
                Some("DoesNotExist") => Requirement::Absent(key),
                other => {
                    return Err(ApiError::bad_request(format!(
                        "{:?} is not a valid label selector operator",
                        other.unwrap_or_default()
                    )));
                }
            });
        }
        Ok(Self(requirements))
    }

    pub fn matches_everything(&self) -> bool {
        self.0.is_empty()
    }

    /// Matches an object's `metadata.labels`.
    pub fn matches(&self, object: &Value) -> bool {
        let labels = &object["metadata"]["labels"];
        self.0.iter().all(|requirement| {
            let value = |key: &str| labels.get(key).and_then(Value::as_str);
            let number = |key: &str| value(key).and_then(|text| text.parse::<i64>().ok());
            match requirement {
                Requirement::Exists(key) => value(key).is_some(),
                Requirement::Absent(key) => value(key).is_none(),
                Requirement::In(key, values) => {
                    value(key).is_some_and(|value| values.iter().any(|one| one == value))
                }
                Requirement::NotIn(key, values) => {
                    value(key).is_none_or(|value| values.iter().all(|one| one != value))
                }
                Requirement::Greater(key, bound) => number(key).is_some_and(|found| found > *bound),
                Requirement::Less(key, bound) => number(key).is_some_and(|found| found < *bound),
            }
        })
    }
}

/// A parsed field selector: (field, value, equal).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FieldSelector(Vec<(String, String, bool)>);

impl FieldSelector {
    /// Parses `a=b,c!=d`; `\,`, `\=` and `\\` are literal. Whether a field is known is for the caller to say.
    pub fn parse(text: &str) -> Result<Self, ApiError> {
        let mut terms = Vec::new();
        for part in split_unescaped(text) {
            if part.is_empty() {
                continue;
            }
            let bad = || {
                ApiError::bad_request(format!(
                    "invalid selector: '{text}'; can't understand '{part}'"
                ))
            };
            let equals = part.find('=').ok_or_else(bad)?;
            let (field, equal) = match part[..equals].strip_suffix('!') {
                Some(field) => (field, false),
                None => (&part[..equals], true),
            };
            let rest = &part[equals + 1..];
            let value = rest.strip_prefix('=').unwrap_or(rest);
            if field.trim().is_empty() {
                return Err(bad());
            }
            terms.push((field.trim().to_owned(), unescape(value), equal));
        }
        Ok(Self(terms))
    }

    pub fn matches_everything(&self) -> bool {
        self.0.is_empty()
    }

    pub fn fields(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(field, _, _)| field.as_str())
    }

    /// The value a field must have, where one is asked for.
    pub fn required(&self, field: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(name, _, equal)| *equal && name == field)
            .map(|(_, value, _)| value.as_str())
    }

    /// Adds `field=value`.
    pub fn require(&mut self, field: &str, value: &str) {
        self.0.push((field.to_owned(), value.to_owned(), true));
    }

    /// `value` gives an object's value of a field; absent ones compare as empty.
    pub fn matches(&self, value: impl Fn(&str) -> String) -> bool {
        self.0
            .iter()
            .all(|(field, wanted, equal)| (value(field) == *wanted) == *equal)
    }
}

fn split_unescaped(text: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match character {
            ',' => parts.push(String::new()),
            '\\' => {
                let last = parts.last_mut().expect("starts with one part");
                last.push('\\');
                last.extend(characters.next());
            }
            other => parts.last_mut().expect("starts with one part").push(other),
        }
    }
    parts
}

fn unescape(text: &str) -> String {
    let mut result = String::new();
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        if character == '\\' {
            result.extend(characters.next());
        } else {
            result.push(character);
        }
    }
    result
}

/// The text of the value at a dotted path; absent is empty.
pub fn text_at(object: &Value, path: &str) -> String {
    let mut value = object;
    for step in path.split('.').filter(|step| !step.is_empty()) {
        match value.get(step) {
            Some(inner) => value = inner,
            None => return String::new(),
        }
    }
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::json;

    use super::*;

    #[test]
    fn label_selectors_match() {
        let object = json!({"metadata": {"labels": {"app": "web", "tier": "front", "n": "5", "e": "", "x.io/y": "z"}}});
        for (selector, expected) in [
            ("", true),
            ("app=web", true),
            ("app==web,tier=front", true),
            ("app=db", false),
            ("app!=db", true),
            ("missing!=db", true),
            ("app in (web, db)", true),
            ("app in (db)", false),
            ("app notin (db,x)", true),
            ("app notin (web)", false),
            ("missing notin (web)", true),
            ("app", true),
            ("missing", false),
            ("!missing", true),
            ("!app", false),
            ("n>4", true),
            ("n<5", false),
            ("e=", true),
            ("x.io/y=z, app in (a,web)", true),
        ] {
            let parsed = LabelSelector::parse(selector).unwrap();
            assert_eq!(parsed.matches(&object), expected, "{selector}");
        }
    }

    #[test]
    fn wrong_label_selectors_are_refused() {
        for selector in [
            "a in b",
            "a in (b",
            "a in ()",
            "a=b,,c=d",
            "a=b c",
            "-a",
            "n>x",
            "a like (b)",
            "a=b=c",
        ] {
            let error = LabelSelector::parse(selector).unwrap_err();
            assert_eq!(error.code, 400, "{selector}");
        }
    }

    #[test]
    fn workload_selectors_match() {
        let selector = json!({"matchLabels": {"a": "1"}, "matchExpressions": [
            {"key": "b", "operator": "In", "values": ["x", "y"]}, {"key": "c", "operator": "DoesNotExist"}]});
        let selector = LabelSelector::from_object(&selector).unwrap();
        for (labels, expected) in [
            (json!({"a": "1", "b": "y"}), true),
            (json!({"a": "1", "b": "y", "c": "1"}), false),
            (json!({"a": "2", "b": "y"}), false),
        ] {
            assert_eq!(
                selector.matches(&json!({"metadata": {"labels": labels}})),
                expected
            );
        }
    }

    #[test]
    fn field_selectors_parse_and_match() {
        let object = json!({"metadata": {"name": "a,b"}, "spec": {"on": true}});
        for (selector, expected) in [
            (r"metadata.name=a\,b", true),
            ("metadata.name!=x,spec.on==true", true),
            ("spec.absent=", true),
            ("spec.on=false", false),
        ] {
            let parsed = FieldSelector::parse(selector).unwrap();
            assert_eq!(
                parsed.matches(|path| text_at(&object, path)),
                expected,
                "{selector}"
            );
        }
        assert!(FieldSelector::parse("metadata.name").is_err());
        assert!(FieldSelector::parse("=x").is_err());
    }
}
