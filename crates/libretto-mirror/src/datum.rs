//! One typed value of a table, and how a JSON value becomes one.

use std::{
    fmt::Write as _,
    hash::{Hash, Hasher},
};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

/// A value of a row. JSON stands as its text.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Datum {
    #[default]
    Null,
    Int(i64),
    Float(f64),
    Text(String),
}

/// Declared type of a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ColumnType {
    #[default]
    String,
    Int,
    Float,
    /// 1 or 0; JSON booleans and the words `True`, `true`, `False`, `false`.
    Bool,
    /// Milliseconds since the epoch, from an RFC 3339 time stamp or a number.
    Time,
    /// Text in SQL (canonical, so that equal values are equal text), structured in templates.
    Json,
    /// A Kubernetes quantity (`500m`, `1Gi`) as a float of its base unit.
    Quantity,
}

impl ColumnType {
    /// Every type's name, for messages.
    pub const NAMES: &'static [&'static str] =
        &["string", "int", "float", "bool", "time", "json", "quantity"];

    /// Type of that name.
    pub fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "string" => Self::String,
            "int" => Self::Int,
            "float" => Self::Float,
            "bool" => Self::Bool,
            "time" => Self::Time,
            "json" => Self::Json,
            "quantity" => Self::Quantity,
            _ => return None,
        })
    }

    /// Type name in SQL. SQLite derives the affinity from words inside it; `JSON_TEXT` and `BOOLEAN` are also how a result
    /// column is known to be JSON or a boolean when it comes straight from a table.
    pub fn sql(self) -> &'static str {
        match self {
            Self::String => "TEXT",
            Self::Int | Self::Time => "INTEGER",
            Self::Float | Self::Quantity => "REAL",
            Self::Bool => "BOOLEAN",
            Self::Json => "JSON_TEXT",
        }
    }

    /// Reads a JSON value as this type; what does not fit is NULL, because one odd object must not stop its neighbours.
    pub fn read(self, value: Option<&Value>) -> Datum {
        let Some(value) = value else {
            return Datum::Null;
        };
        if value.is_null() {
            return Datum::Null;
        }
        let read = match self {
            Self::Json => Some(Datum::Text(canonical_json(value))),
            Self::String => Some(Datum::Text(match value {
                Value::String(text) => text.clone(),
                other => canonical_json(other),
            })),
            Self::Int => read_int(value).map(Datum::Int),
            Self::Float => read_float(value).map(Datum::Float),
            Self::Bool => read_bool(value).map(|truth| Datum::Int(i64::from(truth))),
            Self::Time => match value {
                Value::String(text) => parse_time(text).map(Datum::Int),
                other => other.as_i64().map(Datum::Int),
            },
            Self::Quantity => match value {
                Value::String(text) => parse_quantity(text).map(Datum::Float),
                other => other.as_f64().map(Datum::Float),
            },
        };
        read.unwrap_or(Datum::Null)
    }
}

fn read_int(value: &Value) -> Option<i64> {
    match value {
        Value::Number(number) => number.as_i64().or_else(|| {
            let float = number.as_f64()?;
            // 2^53: the last float below which every whole number is exact.
            (float.fract() == 0.0 && float.abs() <= 9_007_199_254_740_992.0).then_some(float as i64)
        }),
        Value::String(text) => text.trim().parse().ok(),
        Value::Bool(truth) => Some(i64::from(*truth)),
        _ => None,
    }
}

fn read_float(value: &Value) -> Option<f64> {
    match value {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => text
            .trim()
            .parse()
            .ok()
            .filter(|float: &f64| float.is_finite()),
        _ => None,
    }
}

fn read_bool(value: &Value) -> Option<bool> {
    match value {
        Value::Bool(truth) => Some(*truth),
        Value::String(text) => match text.as_str() {
            "True" | "true" => Some(true),
            "False" | "false" => Some(false),
            _ => None,
        },
        Value::Number(number) => match number.as_i64() {
            Some(0) => Some(false),
            Some(1) => Some(true),
            _ => None,
        },
        _ => None,
    }
}

/// Floats by their bits: a hash tells apart what may differ.
impl Hash for Datum {
    fn hash<H: Hasher>(&self, state: &mut H) {
        std::mem::discriminant(self).hash(state);
        match self {
            Self::Null => {}
            Self::Int(int) => int.hash(state),
            Self::Float(float) => float.to_bits().hash(state),
            Self::Text(text) => text.hash(state),
        }
    }
}

impl Datum {
    /// The text, when it is one.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The whole number, when it is one.
    pub fn as_int(&self) -> Option<i64> {
        match self {
            Self::Int(int) => Some(*int),
            _ => None,
        }
    }

    /// Any number.
    pub fn as_float(&self) -> Option<f64> {
        match self {
            Self::Int(int) => Some(*int as f64),
            Self::Float(float) => Some(*float),
            _ => None,
        }
    }

    /// Whether SQL calls it true: a number other than 0. NULL and text are not.
    pub fn is_true(&self) -> bool {
        self.as_float().is_some_and(|float| float != 0.0)
    }

    /// True for NULL.
    pub fn is_null(&self) -> bool {
        matches!(self, Self::Null)
    }

    /// As plain JSON: JSON text stays a string.
    pub fn to_json(&self) -> Value {
        match self {
            Self::Null => Value::Null,
            Self::Int(int) => Value::from(*int),
            Self::Float(float) => Value::from(*float),
            Self::Text(text) => Value::from(text.as_str()),
        }
    }

    /// As JSON of the given type: JSON text parsed, booleans as booleans.
    pub fn to_json_as(&self, kind: ColumnType) -> Value {
        match (kind, self) {
            (ColumnType::Json, Self::Text(text)) => {
                serde_json::from_str(text).unwrap_or_else(|_| Value::from(text.as_str()))
            }
            (ColumnType::Bool, Self::Int(int @ (0 | 1))) => Value::from(*int == 1),
            _ => self.to_json(),
        }
    }

    /// For keys and messages.
    pub fn display(&self) -> String {
        match self {
            Self::Null => String::new(),
            Self::Int(int) => int.to_string(),
            Self::Float(float) => float.to_string(),
            Self::Text(text) => text.clone(),
        }
    }
}

impl From<&str> for Datum {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Datum {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<i64> for Datum {
    fn from(int: i64) -> Self {
        Self::Int(int)
    }
}

impl From<bool> for Datum {
    fn from(truth: bool) -> Self {
        Self::Int(i64::from(truth))
    }
}

/// JSON with sorted keys and no spaces: equal values are equal text, whatever map the parser used.
pub fn canonical_json(value: &Value) -> String {
    let mut text = String::new();
    write_canonical(value, &mut text);
    text
}

fn write_canonical(value: &Value, out: &mut String) {
    match value {
        Value::Object(map) => {
            let mut keys: Vec<&String> = map.keys().collect();
            keys.sort();
            out.push('{');
            for (index, key) in keys.into_iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                let _ = write!(out, "{}:", Value::from(key.as_str()));
                write_canonical(&map[key], out);
            }
            out.push('}');
        }
        Value::Array(items) => {
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                write_canonical(item, out);
            }
            out.push(']');
        }
        scalar => {
            let _ = write!(out, "{scalar}");
        }
    }
}

/// First 128 bits of the SHA-256, in hex: collisions by accident are out of reach, and an inventory entry stays small.
pub fn digest(bytes: &[u8]) -> String {
    let hash = Sha256::digest(bytes);
    let mut text = String::with_capacity(32);
    for byte in &hash[..16] {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// RFC 3339 to milliseconds since the epoch.
pub fn parse_time(text: &str) -> Option<i64> {
    text.parse::<jiff::Timestamp>()
        .ok()
        .map(jiff::Timestamp::as_millisecond)
}

/// A Kubernetes quantity as a float: `500m` is 0.5, `1Gi` is 1073741824.
pub fn parse_quantity(text: &str) -> Option<f64> {
    let text = text.trim();
    let split = text
        .char_indices()
        .find(|(index, c)| {
            !(c.is_ascii_digit() || *c == '.' || (*index == 0 && (*c == '-' || *c == '+')))
        })
        .map_or(text.len(), |(index, _)| index);
    let (number, suffix) = text.split_at(split);
    let number: f64 = number.parse().ok()?;
    let factor = match suffix {
        "" => 1.0,
        "n" => 1e-9,
        "u" => 1e-6,
        "m" => 1e-3,
        "k" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        "T" => 1e12,
        "P" => 1e15,
        "E" => 1e18,
        "Ki" => 1024.0,
        "Mi" => 1_048_576.0,
        "Gi" => 1_073_741_824.0,
        "Ti" => 1_099_511_627_776.0,
        "Pi" => 1_125_899_906_842_624.0,
        "Ei" => 1_152_921_504_606_846_976.0,
        exponent => {
            let power: i32 = exponent.strip_prefix(['e', 'E'])?.parse().ok()?;
            return Some(number * 10f64.powi(power)).filter(|value| value.is_finite());
        }
    };
    Some(number * factor)
}

/// A size as Redis' configuration writes it: `64mb` is 67108864, `1k` is 1000, units in any case. `None` when it is not a size.
pub fn parse_bytes(text: &str) -> Option<i64> {
    let text = text.trim();
    let split = text
        .char_indices()
        .find(|(index, c)| !(c.is_ascii_digit() || (*index == 0 && *c == '-')))
        .map_or(text.len(), |(index, _)| index);
    let (number, unit) = text.split_at(split);
    let number: i64 = number.parse().ok()?;
    let factor: i64 = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" => 1_000,
        "kb" => 1_024,
        "m" => 1_000_000,
        "mb" => 1_048_576,
        "g" => 1_000_000_000,
        "gb" => 1_073_741_824,
        _ => return None,
    };
    number.checked_mul(factor)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    #[test]
    fn values_are_read_as_their_declared_type() {
        use ColumnType as T;
        let cases: &[(ColumnType, Value, Datum)] = &[
            (T::String, json!("a"), "a".into()),
            (T::String, json!(7), "7".into()),
            (T::String, json!(true), "true".into()),
            (
                T::String,
                json!({"b": 1, "a": 2}),
                r#"{"a":2,"b":1}"#.into(),
            ),
            (T::String, json!(null), Datum::Null),
            (T::Int, json!(3), Datum::Int(3)),
            (T::Int, json!("42"), Datum::Int(42)),
            (T::Int, json!(3.0), Datum::Int(3)),
            (T::Int, json!(3.5), Datum::Null),
            (T::Int, json!("3x"), Datum::Null),
            (T::Int, json!(true), Datum::Int(1)),
            (T::Int, json!([1]), Datum::Null),
            (T::Float, json!("1.5"), Datum::Float(1.5)),
            (T::Float, json!(2), Datum::Float(2.0)),
            (T::Float, json!("inf"), Datum::Null),
            (T::Bool, json!(true), Datum::Int(1)),
            (T::Bool, json!("True"), Datum::Int(1)),
            (T::Bool, json!("false"), Datum::Int(0)),
            (T::Bool, json!("Unknown"), Datum::Null),
            (T::Bool, json!(2), Datum::Null),
            (T::Time, json!("1970-01-01T00:00:01Z"), Datum::Int(1000)),
            (
                T::Time,
                json!("1970-01-01T01:00:01.5+01:00"),
                Datum::Int(1500),
            ),
            (T::Time, json!("yesterday"), Datum::Null),
            (
                T::Json,
                json!({"z": [1, {"b": 1, "a": 0}]}),
                r#"{"z":[1,{"a":0,"b":1}]}"#.into(),
            ),
            (T::Quantity, json!("500m"), Datum::Float(0.5)),
            (T::Quantity, json!("1Gi"), Datum::Float(1_073_741_824.0)),
            (T::Quantity, json!("2e3"), Datum::Float(2000.0)),
            (T::Quantity, json!(4), Datum::Float(4.0)),
            (T::Quantity, json!("1Zi"), Datum::Null),
        ];
        for (kind, value, expected) in cases {
            assert_eq!(&kind.read(Some(value)), expected, "{kind:?} of {value}");
        }
        assert_eq!(T::Int.read(None), Datum::Null);
    }

    #[test]
    fn redis_sizes() {
        let cases = [
            ("64mb", Some(67_108_864)),
            ("1k", Some(1000)),
            ("1KB", Some(1024)),
            ("0", Some(0)),
            ("-1", Some(-1)),
            ("2gb", Some(2_147_483_648)),
            ("12b", Some(12)),
            ("mb", None),
            ("1.5gb", None),
            ("1 tb", None),
            ("", None),
            ("99999999999gb", None),
        ];
        for (text, expected) in cases {
            assert_eq!(parse_bytes(text), expected, "{text}");
        }
    }

    #[test]
    fn a_datum_survives_json() {
        for datum in [
            Datum::Null,
            Datum::Int(-3),
            Datum::Float(1.0),
            Datum::Float(0.1),
            "x".into(),
        ] {
            let text = serde_json::to_string(&datum).unwrap();
            assert_eq!(
                serde_json::from_str::<Datum>(&text).unwrap(),
                datum,
                "{text}"
            );
        }
    }
}
