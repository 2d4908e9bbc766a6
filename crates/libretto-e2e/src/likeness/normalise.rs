//! Removes from answers what differs between any two clusters, and between two runs on the same one.
//!
//! Everything else is compared: what is not replaced here by a word in braces must be equal.

use regex::Regex;
use serde_json::Value;

use super::case::Replace;
use crate::Step;

/// Letters and digits of generated suffixes and hashes; no vowels, so that no words come out, and no words are mistaken for them.
const SAFE: &str = "[bcdfghjklmnpqrstvwxz2456789]";

/// Patterns of every text, in this order.
fn patterns() -> Vec<(String, &'static str)> {
    vec![
        (
            r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b".to_owned(),
            "{uid}",
        ),
        (
            r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z".to_owned(),
            "{microtime}",
        ),
        (
            r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)".to_owned(),
            "{time}",
        ),
        (
            r"\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d [+-]\d{4}".to_owned(),
            "{time}",
        ),
        (r"\b\d{1,3}\.\d{1,3}\.\d{1,3}\.\d{1,3}\b".to_owned(), "{ip}"),
        (
            format!(r"-{SAFE}{{6,10}}-{SAFE}{{5}}\b"),
            "-{hash}-{suffix}",
        ),
        (format!(r"-{SAFE}{{6,10}}\b"), "-{hash}"),
        (format!(r"-{SAFE}{{5}}\b"), "-{suffix}"),
        // A whole object in a message, in the order of Go's structures; and where Go's sources say no.
        (
            r#"Invalid value: "\{\\".*\}": "#.to_owned(),
            "Invalid value: {object}: ",
        ),
        (r#" in scheme "[^"]*""#.to_owned(), ""),
        (
            r"(?i)(too (?:old|large) resource version: )\d+ \(\d+\)".to_owned(),
            "${1}{rv} ({rv})",
        ),
        (
            r"(?i)(too (?:old|large) resource version: )\d+, current: \d+".to_owned(),
            "${1}{rv}, current: {rv}",
        ),
    ]
}

/// Further patterns of what kubectl prints for people.
fn patterns_of_print() -> Vec<(&'static str, &'static str)> {
    vec![
        (r"\b(\d+(\.\d+)?(ms|d|h|m|s))+\b", "{age}"),
        (r#"("?resourceVersion"?): "\d+""#, r#"$1: "{rv}""#),
        (r"(Resource Version:\s+)\d+", "$1{rv}"),
        (r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+ [+-]\d{4}", "{time}"),
        // Columns are as wide as what stands in them.
        (r"(\S) {2,}", "$1  "),
        (r"\s+$", ""),
    ]
}

/// Normalises the answers of one case.
#[derive(Debug)]
pub struct Normaliser {
    words: Vec<(String, String)>,
    nodes: Vec<String>,
    patterns: Vec<(Regex, String)>,
    print: Vec<(Regex, String)>,
    own: Vec<(Regex, String)>,
    age: Regex,
    suffix: Regex,
}

impl Normaliser {
    /// `words` are texts and what to put in their place.
    pub fn new(words: &[(String, String)], nodes: &[String], own: &[Replace]) -> Step<Self> {
        let compiled = |pattern: &str, with: &str| -> Step<(Regex, String)> {
            Ok((Regex::new(pattern)?, with.to_owned()))
        };
        Ok(Self {
            words: words.to_vec(),
            nodes: nodes.to_vec(),
            patterns: patterns()
                .iter()
                .map(|(pattern, with)| compiled(pattern, with))
                .collect::<Step<_>>()?,
            print: patterns_of_print()
                .iter()
                .map(|(pattern, with)| compiled(pattern, with))
                .collect::<Step<_>>()?,
            own: own
                .iter()
                .map(|replace| compiled(&replace.pattern, &replace.with))
                .collect::<Step<_>>()?,
            suffix: Regex::new(&format!("^{SAFE}{{5}}$"))?,
            age: Regex::new(r"^((\d+[ydhms]){1,2}|<invalid>)( \(.* ago\))?$")?,
        })
    }

    pub fn text(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for (word, with) in &self.words {
            text = text.replace(word, with);
        }
        for (pattern, with) in &self.patterns {
            text = pattern.replace_all(&text, with).into_owned();
        }
        for (pattern, with) in &self.own {
            text = pattern.replace_all(&text, with).into_owned();
        }
        text
    }

    /// What a command printed, as lines.
    pub fn lines(&self, text: &str) -> Value {
        text.lines()
            .map(|line| {
                let mut line = self.text(line);
                for node in &self.nodes {
                    line = line.replace(node, "{node}");
                }
                for (pattern, with) in &self.print {
                    line = pattern.replace_all(&line, with).into_owned();
                }
                Value::from(line)
            })
            .collect()
    }

    pub fn document(&self, value: &Value) -> Value {
        self.field("", value)
    }

    fn field(&self, key: &str, value: &Value) -> Value {
        match value {
            Value::String(text) => self.string(key, text),
            Value::Number(_) if matches!(key, "nodePort" | "healthCheckNodePort") => {
                "{port}".into()
            }
            Value::Array(items) if key == "managedFields" => {
                let mut items: Vec<_> = items.iter().map(|item| self.field("", item)).collect();
                // Their order follows the seconds in which the writes happened.
                items.sort_by_key(|item| {
                    ["operation", "manager", "apiVersion", "subresource"]
                        .map(|part| item[part].as_str().unwrap_or_default().to_owned())
                });
                items.into()
            }
            // Their order is that of a map in Go, where they come from one; the message keeps that of the others.
            Value::Array(items) if key == "causes" => {
                let mut items: Vec<_> = items.iter().map(|item| self.field("", item)).collect();
                items.sort_by_key(Value::to_string);
                items.into()
            }
            Value::Array(items) if key == "cells" => items
                .iter()
                .map(|cell| match cell {
                    Value::String(text) if self.age.is_match(text) => "{age}".into(),
                    other => self.field("", other),
                })
                .collect(),
            Value::Array(items) => items.iter().map(|item| self.field(key, item)).collect(),
            Value::Object(fields) => {
                let mut fields: serde_json::Map<_, _> = fields
                    .iter()
                    .map(|(key, value)| (self.text(key), self.field(key, value)))
                    .collect();
                if let Some(prefix) = fields.get("generateName").and_then(Value::as_str)
                    && let Some(name) = fields.get("name").and_then(Value::as_str)
                    && (name == format!("{prefix}{{suffix}}")
                        || name
                            .strip_prefix(prefix)
                            .is_some_and(|rest| self.suffix.is_match(rest)))
                {
                    let name = format!("{prefix}{{suffix}}");
                    fields.insert("name".to_owned(), name.into());
                }
                Value::Object(fields)
            }
            other => other.clone(),
        }
    }

    fn string(&self, key: &str, text: &str) -> Value {
        match key {
            "resourceVersion" if !matches!(text, "" | "0") => "{rv}".into(),
            "continue" if !text.is_empty() => "{continue}".into(),
            "pod-template-hash" | "controller-revision-hash" | "controller.kubernetes.io/hash"
                if !text.contains('-') =>
            {
                "{hash}".into()
            }
            "nodeName" | "kubernetes.io/hostname" if self.nodes.iter().any(|node| node == text) => {
                "{node}".into()
            }
            "imageID" | "containerID" if !text.is_empty() => "{image}".into(),
            _ => {
                let mut text = self.text(text);
                for node in &self.nodes {
                    if text == *node {
                        "{node}".clone_into(&mut text);
                    }
                }
                text.into()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::json;

    use super::*;

    #[test]
    fn only_what_is_random_goes() {
        let words = [("likeness-abc".to_owned(), "{ns}".to_owned())];
        let normaliser = Normaliser::new(&words, &["host".to_owned()], &[]).unwrap();
        let document = json!({"metadata": {
            "name": "web-7d4b9c6f5b-x2x4k", "namespace": "likeness-abc", "resourceVersion": "17",
            "creationTimestamp": "2026-01-02T03:04:05Z", "labels": {"pod-template-hash": "7d4b9c6f5b", "version": "1.2.3"},
        }, "spec": {"nodeName": "host"}, "count": 3});
        assert_eq!(
            normaliser.document(&document),
            json!({"metadata": {
                "name": "web-{hash}-{suffix}", "namespace": "{ns}", "resourceVersion": "{rv}",
                "creationTimestamp": "{time}", "labels": {"pod-template-hash": "{hash}", "version": "1.2.3"},
            }, "spec": {"nodeName": "{node}"}, "count": 3})
        );
        assert_eq!(
            normaliser.lines("web   1/1     3m5s  \n"),
            json!(["web  1/1  {age}"])
        );
    }
}
