//! One step of a field path, as it is written in `managedFields`.

use std::fmt;

use serde_json::Value;

/// `f:name`, `k:{...}` or `v:...`. Keys and values are kept as canonical JSON (compact, keys sorted), which makes them comparable.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Element {
    /// A field of a struct or an entry of a map.
    Field(String),
    /// An item of a keyed list, by its keys.
    Key(String),
    /// An item of a set, by its value.
    Value(String),
    /// Anything else found in stored managedFields (`i:0`); kept, never produced.
    Other(String),
}

impl Element {
    pub(crate) fn parse(text: &str) -> Self {
        // Clients may send managedFields back with other spacing or key order.
        let canonical = |json: &str| {
            serde_json::from_str::<Value>(json)
                .map_or_else(|_| json.to_owned(), |value| value.to_string())
        };
        match text.split_once(':') {
            Some(("f", name)) => Self::Field(name.to_owned()),
            Some(("k", json)) => Self::Key(canonical(json)),
            Some(("v", json)) => Self::Value(canonical(json)),
            _ => Self::Other(text.to_owned()),
        }
    }

    pub(crate) fn field(name: &str) -> Self {
        Self::Field(name.to_owned())
    }

    /// As stored in `fieldsV1`.
    pub(crate) fn stored(&self) -> String {
        match self {
            Self::Field(name) => format!("f:{name}"),
            Self::Key(json) => format!("k:{json}"),
            Self::Value(json) => format!("v:{json}"),
            Self::Other(text) => text.clone(),
        }
    }
}

/// As kubectl shows it in a path: `.spec`, `[name="web"]`, `[="finalizer"]`.
impl fmt::Display for Element {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Field(name) => write!(out, ".{name}"),
            Self::Key(json) => {
                let keys: serde_json::Map<String, Value> =
                    serde_json::from_str(json).unwrap_or_default();
                let shown: Vec<_> = keys
                    .iter()
                    .map(|(key, value)| format!("{key}={value}"))
                    .collect();
                write!(out, "[{}]", shown.join(","))
            }
            Self::Value(json) => write!(out, "[={json}]"),
            Self::Other(text) => write!(out, "[{text}]"),
        }
    }
}
