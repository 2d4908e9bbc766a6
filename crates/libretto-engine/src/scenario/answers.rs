//! Answers that a scenario puts into the mouth of what is not simulated: HTTP servers, commands, metrics; and calls that fail.

use serde_json::Value;

use super::Parser;
use crate::yaml::{Data, Node};

/// One line of `answers`.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Given {
    of: Of,
    /// Absent: for every target, or row.
    key: Option<String>,
    /// The answer, or what went wrong.
    answer: Result<Value, String>,
}

#[derive(Debug, Clone, PartialEq)]
enum Of {
    /// A probe's table.
    Probe(String),
    /// A rule with `call`.
    Call(String),
}

/// What is given for a target; the first line that fits.
pub(super) fn of_probe<'a>(
    given: &'a [Given],
    table: &str,
    key: &str,
) -> Option<Result<&'a Value, &'a str>> {
    let found = given.iter().find(|given| {
        given.of == Of::Probe(table.to_owned())
            && given.key.as_deref().is_none_or(|known| known == key)
    })?;
    Some(found.answer.as_ref().map_err(String::as_str))
}

/// Why a rule's call fails, if it is to.
pub(super) fn of_call<'a>(given: &'a [Given], rule: &str, key: &str) -> Option<&'a str> {
    let found = given.iter().find(|given| {
        given.of == Of::Call(rule.to_owned())
            && given.key.as_deref().is_none_or(|known| known == key)
    })?;
    found.answer.as_ref().err().map(String::as_str)
}

impl Parser<'_> {
    /// `answers:` of `given` or of a step's `set`.
    pub(super) fn answers(&mut self, node: &Node) -> Vec<Given> {
        let Data::List(items) = &node.data else {
            self.wrong(
                node.at,
                format!("answers must be a list, this is {}", node.what()),
            );
            return Vec::new();
        };
        items.iter().filter_map(|item| self.given(item)).collect()
    }

    fn given(&mut self, node: &Node) -> Option<Given> {
        self.only(
            node,
            "an answer",
            &["probe", "call", "key", "answer", "error"],
        );
        let text = |key: &str| node.get(key).and_then(Node::text).map(str::to_owned);
        let of = match (text("probe"), text("call")) {
            (Some(table), None) => {
                if !self.package.probes.iter().any(|spec| spec.table == table) {
                    self.wrong(node.at, format!("answers: there is no probe `{table}`"));
                }
                Of::Probe(table)
            }
            (None, Some(rule)) => {
                let calls = self
                    .package
                    .rules
                    .iter()
                    .any(|known| known.name == rule && known.verb.starts_with("call "));
                if !calls {
                    self.wrong(
                        node.at,
                        format!("answers: there is no rule `{rule}` with `call`"),
                    );
                }
                if node.get("answer").is_some() {
                    self.wrong(
                        node.at,
                        "answers: what a call answers is not looked at; give it an `error`, or leave it out",
                    );
                }
                Of::Call(rule)
            }
            _ => {
                self.wrong(
                    node.at,
                    "an answer is that of `probe: TABLE` or of `call: RULE`",
                );
                return None;
            }
        };
        let answer = match (node.get("answer"), text("error")) {
            (Some(answer), None) => Ok(answer.to_json()),
            (None, Some(error)) => Err(error),
            _ => {
                self.wrong(node.at, "an answer has either `answer` or `error`");
                return None;
            }
        };
        Some(Given {
            of,
            key: text("key"),
            answer,
        })
    }
}
