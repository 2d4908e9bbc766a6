//! Tells answers apart, and knows the differences a case lists.

use std::fmt::Write as _;

use serde_json::Value;

use super::{
    case::{Case, Known},
    path::{Path, Segment},
};
use crate::Step;

/// Longest value shown in a report; longer ones are cut.
const SHOWN: usize = 600;
/// Most differences shown of one step: the first ones explain the others.
const LISTED: usize = 40;

/// A place where two documents differ.
#[derive(Debug, Clone, PartialEq)]
pub struct Difference {
    pub at: Path,
    pub expected: Option<Value>,
    pub found: Option<Value>,
}

/// All places where the documents differ.
pub fn differences(expected: &Value, found: &Value) -> Vec<Difference> {
    let mut all = Vec::new();
    walk(&Path::default(), Some(expected), Some(found), &mut all);
    all
}

fn walk(at: &Path, expected: Option<&Value>, found: Option<&Value>, all: &mut Vec<Difference>) {
    match (expected, found) {
        (Some(Value::Object(left)), Some(Value::Object(right))) => {
            for key in left
                .keys()
                .chain(right.keys().filter(|key| !left.contains_key(*key)))
            {
                walk(
                    &at.child(Segment::Key(key.clone())),
                    left.get(key),
                    right.get(key),
                    all,
                );
            }
        }
        (Some(Value::Array(left)), Some(Value::Array(right))) => {
            for index in 0..left.len().max(right.len()) {
                walk(
                    &at.child(Segment::Index(index)),
                    left.get(index),
                    right.get(index),
                    all,
                );
            }
        }
        (left, right) if left == right => {}
        (left, right) => all.push(Difference {
            at: at.clone(),
            expected: left.cloned(),
            found: right.cloned(),
        }),
    }
}

/// Compares the answers of a case with those recorded; `None` when they agree, apart from what is known.
pub fn report(
    case: &Case,
    expected: &[Value],
    found: &[Value],
    known: bool,
) -> Step<Option<String>> {
    let mut text = String::new();
    let mut used = vec![false; case.known.len()];
    let places: Vec<(&Known, Path)> = case
        .known
        .iter()
        .map(|known| Ok((known, Path::parse(&known.at)?)))
        .collect::<Step<_>>()?;
    for index in 0..expected.len().max(found.len()) {
        let step = index + 1;
        let (left, right) = (expected.get(index), found.get(index));
        let title = |answer: Option<&Value>| {
            answer
                .map_or("no answer", |answer| {
                    answer["step"].as_str().unwrap_or_default()
                })
                .to_owned()
        };
        let mut all = Vec::new();
        walk(&Path::default(), left, right, &mut all);
        if known {
            all.retain(|difference| {
                let mut unknown = true;
                for (position, (entry, at)) in places.iter().enumerate() {
                    let whole = entry.at.is_empty() && entry.step == Some(step);
                    let concerned = entry.step.is_none_or(|own| own == step);
                    if whole || (concerned && !entry.at.is_empty() && at.covers(&difference.at)) {
                        used[position] = true;
                        unknown = false;
                    }
                }
                unknown
            });
        }
        if all.is_empty() {
            continue;
        }
        let _ = writeln!(text, "  step {step}: {}", title(left.or(right)));
        for difference in all.iter().take(LISTED) {
            let _ = writeln!(text, "    at {}", difference.at);
            let _ = writeln!(
                text,
                "      Kubernetes: {}",
                shown(difference.expected.as_ref())
            );
            let _ = writeln!(
                text,
                "      found:      {}",
                shown(difference.found.as_ref())
            );
        }
        if all.len() > LISTED {
            let _ = writeln!(text, "    and {} more", all.len() - LISTED);
        }
    }
    if known {
        for ((entry, _), used) in places.iter().zip(used) {
            if !used {
                let _ = writeln!(
                    text,
                    "  a known difference is none any more, remove it: {}{} ({})",
                    entry
                        .step
                        .map(|step| format!("step {step} "))
                        .unwrap_or_default(),
                    entry.at,
                    entry.reason
                );
            }
        }
    }
    Ok((!text.is_empty()).then_some(text))
}

fn shown(value: Option<&Value>) -> String {
    let text = value.map_or_else(|| "nothing".to_owned(), Value::to_string);
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn differences_name_their_place() {
        let places: Vec<_> = differences(
            &json!({"a": 1, "b": [1, {"c": 2}], "d": null}),
            &json!({"b": [1, {"c": 3}, 4], "d": null}),
        )
        .iter()
        .map(|difference| difference.at.to_string())
        .collect();
        assert_eq!(places, ["a", "b[1].c", "b[2]"]);
    }
}
