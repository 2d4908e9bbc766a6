//! The part of kubectl's JSONPath that printer columns use: fields, indexes, slices, wildcards, filters, recursive descent.

use serde_json::Value;

/// A parsed path.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct JsonPath(Vec<Step>);

#[derive(Debug, Clone, PartialEq)]
enum Step {
    Field(String),
    /// Every value of a map or list.
    Wildcard,
    /// From, to, step; negative counts from the end.
    Slice(Option<i64>, Option<i64>, i64),
    Index(i64),
    Filter(Filter),
    /// `..field`: every field of that name at any depth.
    Descend(String),
}

#[derive(Debug, Clone, PartialEq)]
struct Filter {
    left: JsonPath,
    /// Absent: the left side must exist.
    test: Option<(Operator, Operand)>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Operator {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

#[derive(Debug, Clone, PartialEq)]
enum Operand {
    Literal(Value),
    Path(JsonPath),
}

impl JsonPath {
    /// Reads `.spec.x`, with or without the braces kubectl wants.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let text = text
            .strip_prefix('{')
            .and_then(|text| text.strip_suffix('}'))
            .unwrap_or(text);
        let mut parser = Parser { text, at: 0 };
        parser.eat("$");
        let steps = parser.steps(false)?;
        if parser.at < text.len() {
            return Err(format!(
                "unrecognized character in action: {:?}",
                &text[parser.at..]
            ));
        }
        Ok(Self(steps))
    }

    /// Everything the path leads to, in order. What is missing leads nowhere.
    pub(crate) fn find<'v>(&self, value: &'v Value) -> Vec<&'v Value> {
        let mut found = vec![value];
        for step in &self.0 {
            found = found
                .into_iter()
                .flat_map(|value| step.follow(value))
                .collect();
        }
        found
    }
}

impl Step {
    fn follow<'v>(&self, value: &'v Value) -> Vec<&'v Value> {
        match (self, value) {
            (Self::Field(name), value) => value.get(name).into_iter().collect(),
            (Self::Wildcard, Value::Object(object)) => object.values().collect(),
            (Self::Wildcard, Value::Array(items)) => items.iter().collect(),
            (Self::Index(index), Value::Array(items)) => absolute(*index, items.len())
                .and_then(|index| items.get(index))
                .into_iter()
                .collect(),
            (Self::Slice(from, to, step), Value::Array(items)) => {
                let bound = |index: i64| {
                    usize::try_from(if index < 0 {
                        index + items.len() as i64
                    } else {
                        index
                    })
                };
                let from = from.map_or(0, |index| bound(index).unwrap_or(0));
                let to = to
                    .map_or(items.len(), |index| bound(index).unwrap_or(0))
                    .min(items.len());
                let step = usize::try_from(*step).unwrap_or(1).max(1);
                items
                    .get(from..to)
                    .unwrap_or_default()
                    .iter()
                    .step_by(step)
                    .collect()
            }
            (Self::Filter(filter), Value::Array(items)) => {
                items.iter().filter(|item| filter.holds(item)).collect()
            }
            (Self::Filter(filter), Value::Object(object)) => {
                object.values().filter(|item| filter.holds(item)).collect()
            }
            (Self::Descend(name), value) => {
                let mut found = Vec::new();
                descend(name, value, &mut found);
                found
            }
            _ => Vec::new(),
        }
    }
}

fn absolute(index: i64, length: usize) -> Option<usize> {
    usize::try_from(if index < 0 {
        index + length as i64
    } else {
        index
    })
    .ok()
}

fn descend<'v>(name: &str, value: &'v Value, found: &mut Vec<&'v Value>) {
    found.extend(value.get(name));
    match value {
        Value::Object(object) => object
            .values()
            .for_each(|child| descend(name, child, found)),
        Value::Array(items) => items.iter().for_each(|child| descend(name, child, found)),
        _ => {}
    }
}

impl Filter {
    fn holds(&self, item: &Value) -> bool {
        let left = self.left.find(item).first().copied();
        let Some((operator, operand)) = &self.test else {
            return left.is_some();
        };
        let right = match operand {
            Operand::Literal(value) => Some(value),
            Operand::Path(path) => path.find(item).first().copied(),
        };
        let (Some(left), Some(right)) = (left, right) else {
            return false;
        };
        let order = match (left.as_f64(), right.as_f64()) {
            (Some(left), Some(right)) => left.partial_cmp(&right),
            _ => left
                .as_str()
                .zip(right.as_str())
                .map(|(left, right)| left.cmp(right)),
        };
        match operator {
            Operator::Equal => order.map_or_else(|| left == right, |order| order.is_eq()),
            Operator::NotEqual => order.map_or_else(|| left != right, |order| order.is_ne()),
            Operator::Less => order.is_some_and(|order| order.is_lt()),
            Operator::LessOrEqual => order.is_some_and(|order| order.is_le()),
            Operator::Greater => order.is_some_and(|order| order.is_gt()),
            Operator::GreaterOrEqual => order.is_some_and(|order| order.is_ge()),
        }
    }
}

struct Parser<'t> {
    text: &'t str,
    at: usize,
}

impl<'t> Parser<'t> {
    fn rest(&self) -> &'t str {
        &self.text[self.at..]
    }

    fn eat(&mut self, token: &str) -> bool {
        let found = self.rest().starts_with(token);
        if found {
            self.at += token.len();
        }
        found
    }

    fn skip_space(&mut self) {
        self.at += self.rest().len() - self.rest().trim_start().len();
    }

    /// Steps up to the end of the text or, in a filter, up to an operator or the closing bracket.
    fn steps(&mut self, in_filter: bool) -> Result<Vec<Step>, String> {
        let mut steps = Vec::new();
        loop {
            if self.eat("..") {
                steps.push(Step::Descend(self.name(in_filter)?));
            } else if self.eat(".") {
                if self.eat("*") {
                    steps.push(Step::Wildcard);
                } else if self.rest().is_empty() && steps.is_empty() {
                    // A lone dot is the object itself.
                    return Ok(steps);
                } else if !self.rest().starts_with('[') {
                    steps.push(Step::Field(self.name(in_filter)?));
                }
            } else if self.eat("[") {
                steps.push(self.bracket()?);
            } else {
                return Ok(steps);
            }
        }
    }

    /// A field name; a backslash takes the next character as it is (`app\.kubernetes\.io/name`).
    fn name(&mut self, in_filter: bool) -> Result<String, String> {
        let mut name = String::new();
        let mut characters = self.rest().char_indices();
        let mut length = self.rest().len();
        while let Some((index, character)) = characters.next() {
            let ends = matches!(character, '.' | '[')
                || (in_filter
                    && (matches!(character, ')' | '=' | '!' | '<' | '>')
                        || character.is_whitespace()));
            if character == '\\' {
                name.extend(characters.next().map(|(_, character)| character));
            } else if ends {
                length = index;
                break;
            } else {
                name.push(character);
            }
        }
        self.at += length;
        if name.is_empty() {
            Err("a field name is missing after '.'".to_owned())
        } else {
            Ok(name)
        }
    }

    fn bracket(&mut self) -> Result<Step, String> {
        if self.eat("?(") {
            let filter = self.filter()?;
            return if self.eat(")]") {
                Ok(Step::Filter(filter))
            } else {
                Err("unterminated filter".to_owned())
            };
        }
        if let Some(name) = self.quoted()? {
            return if self.eat("]") {
                Ok(Step::Field(name))
            } else {
                Err("unterminated array".to_owned())
            };
        }
        let end = self.rest().find(']').ok_or("unterminated array")?;
        let inside = self.rest()[..end].trim();
        self.at += end + 1;
        if inside == "*" {
            return Ok(Step::Wildcard);
        }
        let number = |text: &str| {
            text.trim()
                .parse::<i64>()
                .map_err(|_| format!("invalid array index {inside}"))
        };
        let optional = |text: &str| {
            if text.trim().is_empty() {
                Ok(None)
            } else {
                number(text).map(Some)
            }
        };
        let parts: Vec<&str> = inside.split(':').collect();
        match parts[..] {
            // `[]` is the first item to the parser of Kubernetes, and CRDs in the field use it.
            [""] => Ok(Step::Index(0)),
            [index] => Ok(Step::Index(number(index)?)),
            [from, to] => Ok(Step::Slice(optional(from)?, optional(to)?, 1)),
            [from, to, step] => Ok(Step::Slice(
                optional(from)?,
                optional(to)?,
                optional(step)?.unwrap_or(1),
            )),
            _ => Err(format!("invalid array index {inside}")),
        }
    }

    fn quoted(&mut self) -> Result<Option<String>, String> {
        let Some(quote) = self
            .rest()
            .chars()
            .next()
            .filter(|character| matches!(character, '\'' | '"'))
        else {
            return Ok(None);
        };
        self.at += 1;
        let end = self.rest().find(quote).ok_or("unterminated string")?;
        let inside = self.rest()[..end].to_owned();
        self.at += end + 1;
        Ok(Some(inside))
    }

    fn filter(&mut self) -> Result<Filter, String> {
        self.skip_space();
        if !self.eat("@") {
            return Err("a filter must begin with '@'".to_owned());
        }
        let left = JsonPath(self.steps(true)?);
        self.skip_space();
        let operators = [
            ("==", Operator::Equal),
            ("!=", Operator::NotEqual),
            ("<=", Operator::LessOrEqual),
            (">=", Operator::GreaterOrEqual),
            ("<", Operator::Less),
            (">", Operator::Greater),
        ];
        let Some((_, operator)) = operators.into_iter().find(|(token, _)| self.eat(token)) else {
            return Ok(Filter { left, test: None });
        };
        self.skip_space();
        let operand = if self.eat("@") {
            Operand::Path(JsonPath(self.steps(true)?))
        } else if let Some(text) = self.quoted()? {
            Operand::Literal(text.into())
        } else {
            let end = self.rest().find(')').ok_or("unterminated filter")?;
            let literal = self.rest()[..end].trim();
            self.at += end;
            Operand::Literal(
                serde_json::from_str(literal)
                    .map_err(|_| format!("unrecognized literal {literal}"))?,
            )
        };
        self.skip_space();
        Ok(Filter {
            left,
            test: Some((operator, operand)),
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::json;

    use super::*;

    #[test]
    fn paths() {
        let object = json!({
            "metadata": {"labels": {"app.kubernetes.io/name": "x"}},
            "spec": {"replicas": 3, "hosts": ["a", "b", "c"], "empty": []},
            "status": {"conditions": [
                {"type": "Synced", "status": "False", "count": 1},
                {"type": "Ready", "status": "True", "count": 5},
            ]},
        });
        for (path, expected) in [
            (".spec.replicas", json!([3])),
            ("{.spec.replicas}", json!([3])),
            ("$.spec.replicas", json!([3])),
            (".spec.missing.deep", json!([])),
            (".spec.hosts[0]", json!(["a"])),
            (".spec.hosts[-1]", json!(["c"])),
            (".spec.hosts[7]", json!([])),
            (".spec.hosts[*]", json!(["a", "b", "c"])),
            (".spec.hosts[1:]", json!(["b", "c"])),
            (".spec.hosts[0:3:2]", json!(["a", "c"])),
            (".status.conditions[*].type", json!(["Synced", "Ready"])),
            (
                ".status.conditions[?(@.type==\"Ready\")].status",
                json!(["True"]),
            ),
            (
                ".status.conditions[?(@.type=='Ready')].status",
                json!(["True"]),
            ),
            (
                ".status.conditions[?(@.type == \"Ready\")].status",
                json!(["True"]),
            ),
            (
                ".status.conditions[?(@.type!=\"Ready\")].type",
                json!(["Synced"]),
            ),
            (".status.conditions[?(@.count>2)].type", json!(["Ready"])),
            (".status.conditions[?(@.nothing)].type", json!([])),
            (".metadata.labels.app\\.kubernetes\\.io/name", json!(["x"])),
            (".metadata.labels['app.kubernetes.io/name']", json!(["x"])),
            ("..count", json!([1, 5])),
        ] {
            let found = JsonPath::parse(path).unwrap_or_else(|error| panic!("{path}: {error}"));
            let found: Vec<_> = found.find(&object).into_iter().cloned().collect();
            assert_eq!(Value::from(found), expected, "{path}");
        }
    }

    #[test]
    fn malformed_paths() {
        for path in [
            "spec",
            ".spec[",
            ".spec[x]",
            ".a..",
            ".a[?(type==1)]",
            ".a[?(@.type==\"x\"]",
        ] {
            assert!(JsonPath::parse(path).is_err(), "{path}");
        }
    }
}
