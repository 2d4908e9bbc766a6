//! `with:` of `probe: exec` and `call: exec`.

use super::{Check, ExecTemplate, sense::required};
use crate::{
    template::{Names, is_template},
    yaml::{Data, Node},
};

/// A command starts a process in a container and may do some work; an answer over the network is faster.
const TIMEOUT_MS: i64 = 10_000;

pub(super) fn exec(
    check: &mut Check<'_>,
    with: &Node,
    place: &str,
    names: &Names,
    probe_timeout_ms: Option<i64>,
) -> Option<ExecTemplate> {
    let mut keywords = vec!["pod", "container", "command", "stdin"];
    if probe_timeout_ms.is_none() {
        keywords.extend(["ok", "timeout"]);
    }
    check.only(with, place, &keywords);
    let timeout_ms = match with.get("timeout") {
        Some(node) if probe_timeout_ms.is_none() => check
            .duration(node, &format!("{place}.timeout"), 1)
            .unwrap_or(TIMEOUT_MS),
        _ => probe_timeout_ms.unwrap_or(TIMEOUT_MS),
    };
    let pod = required(check, with, place, "pod", names);
    let command = with.get("command").or_else(|| {
        check.wrong(with.at, format!("{place} needs `command`"));
        None
    });
    let command = command.and_then(|node| {
        let shape = match &node.data {
            Data::List(items) => !items.is_empty(),
            Data::Text(text) => is_template(text),
            _ => false,
        };
        if !shape {
            check.wrong_hint(
                node.at,
                format!(
                    "{place}.command is a list of words, this is {}",
                    node.what()
                ),
                "no shell is between: [sh, -c, \"a | b\"] where one is needed",
            );
            return None;
        }
        Some(check.tree(node, names))
    });
    let mut ok = Vec::new();
    if let Some(node) = with.get("ok") {
        let codes: Option<Vec<u8>> = match &node.data {
            Data::List(items) => items
                .iter()
                .map(|item| match item.data {
                    Data::Int(code) => u8::try_from(code).ok(),
                    _ => None,
                })
                .collect(),
            _ => None,
        };
        match codes {
            Some(codes) if !codes.is_empty() => ok = codes,
            _ => check.wrong_hint(
                node.at,
                format!("{place}.ok must be a list of exit codes"),
                "such as [0, 1]; without it 0 is fine",
            ),
        }
    }
    let mut optional = |key: &str| with.get(key).map(|node| check.tree(node, names));
    let (container, stdin) = (optional("container"), optional("stdin"));
    Some(ExecTemplate {
        pod: pod?,
        container,
        command: command?,
        stdin,
        ok,
        timeout_ms: u64::try_from(timeout_ms).unwrap_or(10_000),
        place: format!("package.yaml:{}", with.at.line),
    })
}
