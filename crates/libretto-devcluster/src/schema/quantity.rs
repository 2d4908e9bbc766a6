//! Resource quantities: `100m`, `1.5Gi`, `2e3`. Parsing and the canonical form the API server stores.

use serde_json::Value;

/// Upstream's message for text that is no quantity.
pub(crate) const MALFORMED: &str =
    "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'";

const NANO: i128 = 1_000_000_000;

/// Which family of suffixes a quantity was written with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Notation {
    Decimal,
    Binary,
    Exponent,
}

/// A number with nano precision, as upstream keeps it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Quantity {
    nano: i128,
    notation: Notation,
}

impl Quantity {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
        let sign = if text.starts_with('-') { -1 } else { 1 };
        let digits = unsigned
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(unsigned.len());
        let (number, suffix) = unsigned.split_at(digits);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
            return None;
        }
        let (scale, notation) = scale(suffix)?;
        let whole: i128 = if whole.is_empty() {
            0
        } else {
            whole.parse().ok()?
        };
        // More than nano precision is rounded up, as upstream does.
        let mut nano = whole.checked_mul(NANO)?.checked_mul(scale.0)?;
        let mut parts = fraction.len() as u32;
        if !fraction.is_empty() {
            let digits: i128 = fraction.get(..18.min(fraction.len()))?.parse().ok()?;
            parts = parts.min(18);
            let scaled = digits.checked_mul(NANO)?.checked_mul(scale.0)?;
            nano = nano.checked_add(divide_up(scaled, 10_i128.checked_pow(parts)?))?;
        }
        Some(Self {
            nano: sign * divide_up(nano, scale.1),
            notation,
        })
    }

    /// A JSON string or number.
    pub(crate) fn from_json(value: &Value) -> Option<Self> {
        match value {
            Value::String(text) => Self::parse(text),
            Value::Number(number) => Self::parse(&number.to_string()),
            _ => None,
        }
    }

    pub(crate) fn is_negative(self) -> bool {
        self.nano < 0
    }

    pub(crate) fn cmp(self, other: Self) -> std::cmp::Ordering {
        self.nano.cmp(&other.nano)
    }

    /// No fraction, the largest suffix that allows that.
    pub(crate) fn canonical(self) -> String {
        if self.nano == 0 {
            return "0".to_owned();
        }
        let whole = self.nano % NANO == 0;
        let binary = self.notation == Notation::Binary && whole && (self.nano / NANO).abs() >= 1024;
        if binary {
            let mut value = self.nano / NANO;
            let mut suffix = "";
            for next in ["Ki", "Mi", "Gi", "Ti", "Pi", "Ei"] {
                if value % 1024 != 0 {
                    break;
                }
                value /= 1024;
                suffix = next;
            }
            return format!("{value}{suffix}");
        }
        let mut value = self.nano;
        let mut exponent = -9;
        while value % 1000 == 0 && exponent < 18 {
            value /= 1000;
            exponent += 3;
        }
        let suffix = match exponent {
            -9 => "n",
            -6 => "u",
            -3 => "m",
            0 => "",
            _ if self.notation == Notation::Exponent => return format!("{value}e{exponent}"),
            3 => "k",
            6 => "M",
            9 => "G",
            12 => "T",
            15 => "P",
            _ => "E",
        };
        format!("{value}{suffix}")
    }
}

/// Multiplier and divisor of a suffix.
fn scale(suffix: &str) -> Option<((i128, i128), Notation)> {
    let binary = |power: u32| Some(((1024_i128.pow(power), 1), Notation::Binary));
    let decimal = |power: u32| Some(((10_i128.pow(power), 1), Notation::Decimal));
    match suffix {
        "" => decimal(0),
        "n" => Some(((1, 1_000_000_000), Notation::Decimal)),
        "u" => Some(((1, 1_000_000), Notation::Decimal)),
        "m" => Some(((1, 1_000), Notation::Decimal)),
        "k" => decimal(3),
        "M" => decimal(6),
        "G" => decimal(9),
        "T" => decimal(12),
        "P" => decimal(15),
        "E" => decimal(18),
        "Ki" => binary(1),
        "Mi" => binary(2),
        "Gi" => binary(3),
        "Ti" => binary(4),
        "Pi" => binary(5),
        "Ei" => binary(6),
        _ => {
            let exponent: i32 = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
            let power = 10_i128.checked_pow(exponent.unsigned_abs())?;
            Some((
                if exponent < 0 { (1, power) } else { (power, 1) },
                Notation::Exponent,
            ))
        }
    }
}

fn divide_up(value: i128, divisor: i128) -> i128 {
    value / divisor + i128::from(value % divisor != 0)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::Quantity;

    #[test]
    fn canonical_forms() {
        for (text, expected) in [
            ("0", "0"),
            ("1", "1"),
            ("0.5", "500m"),
            ("100m", "100m"),
            ("1000m", "1"),
            ("1500m", "1500m"),
            ("1024", "1024"),
            ("1000", "1k"),
            ("1Gi", "1Gi"),
            ("1024Mi", "1Gi"),
            ("1.5Gi", "1536Mi"),
            ("0.5Ki", "512"),
            ("2e3", "2e3"),
            ("12E", "12E"),
            ("1e-3", "1m"),
            ("-1", "-1"),
            ("0.0000000001", "1n"),
        ] {
            assert_eq!(
                Quantity::parse(text).unwrap().canonical(),
                expected,
                "{text}"
            );
        }
        for text in ["", "x", "1X", "1..2", "Gi", "1 Gi", "1ee3"] {
            assert!(Quantity::parse(text).is_none(), "{text}");
        }
    }
}
