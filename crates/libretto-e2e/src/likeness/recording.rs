//! What Kubernetes answered, in files that people can read in a review.

use std::{collections::BTreeMap, fmt::Write as _, fs, path::Path as FilePath};

use serde_json::Value;

use crate::Step;

/// Widest line that still holds a whole list or object.
const WIDTH: usize = 130;

/// Answers by case.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Recording {
    /// Of the Kubernetes that answered last.
    pub version: String,
    pub cases: BTreeMap<String, Vec<Value>>,
}

impl Recording {
    /// An empty one when the file does not exist.
    pub fn read(file: &FilePath) -> Step<Self> {
        if !file.exists() {
            return Ok(Self::default());
        }
        let document: Value = serde_json::from_str(&fs::read_to_string(file)?)
            .map_err(|error| format!("{}: {error}", file.display()))?;
        let mut recording = Self {
            version: document["kubernetes"]
                .as_str()
                .unwrap_or_default()
                .to_owned(),
            cases: BTreeMap::new(),
        };
        for (name, answers) in document["cases"].as_object().into_iter().flatten() {
            let answers = answers.as_array().cloned().unwrap_or_default();
            recording.cases.insert(name.clone(), answers);
        }
        Ok(recording)
    }

    pub fn write(&self, file: &FilePath) -> Step {
        let document = serde_json::json!({"kubernetes": self.version, "cases": self.cases});
        let mut text = String::new();
        write(&mut text, &document, 0, 0);
        text.push('\n');
        fs::write(file, text)?;
        Ok(())
    }
}

/// What fits into a line is one line: neither a line per brace nor a line per object.
fn write(text: &mut String, value: &Value, depth: usize, used: usize) {
    let short = line(value);
    if depth > 2 && depth * 2 + used + short.len() <= WIDTH {
        text.push_str(&short);
        return;
    }
    let indent = |text: &mut String, depth: usize| {
        text.push('\n');
        text.push_str(&"  ".repeat(depth));
    };
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            text.push('{');
            for (position, (key, value)) in fields.iter().enumerate() {
                text.push_str(if position == 0 { "" } else { "," });
                indent(text, depth + 1);
                let key = Value::from(key.as_str()).to_string();
                let _ = write!(text, "{key}: ");
                write(text, value, depth + 1, key.len() + 3);
            }
            indent(text, depth);
            text.push('}');
        }
        Value::Array(items) if !items.is_empty() => {
            text.push('[');
            for (position, value) in items.iter().enumerate() {
                text.push_str(if position == 0 { "" } else { "," });
                indent(text, depth + 1);
                write(text, value, depth + 1, 1);
            }
            indent(text, depth);
            text.push(']');
        }
        _ => text.push_str(&short),
    }
}

fn line(value: &Value) -> String {
    match value {
        Value::Object(fields) => {
            let fields: Vec<_> = fields
                .iter()
                .map(|(key, value)| format!("{}: {}", Value::from(key.as_str()), line(value)))
                .collect();
            format!("{{{}}}", fields.join(", "))
        }
        Value::Array(items) => {
            let items: Vec<_> = items.iter().map(line).collect();
            format!("[{}]", items.join(", "))
        }
        other => other.to_string(),
    }
}
