//! `alert:` — rows that somebody should know of.

use super::{AlertTemplate, Check, sense::required};
use crate::{
    template::{Names, Tree, is_template},
    yaml::Node,
};

/// As people and routes know them.
const SEVERITIES: &[&str] = &["info", "warning", "critical"];

/// Labels that the runtime gives every alert.
const OWN: &[&str] = &[
    "alertname",
    "severity",
    "package",
    "kind",
    "namespace",
    "name",
    "row",
];

pub(super) fn alert(
    check: &mut Check<'_>,
    node: &Node,
    place: &str,
    names: &Names,
) -> Option<AlertTemplate> {
    let place = format!("{place}: alert");
    check.only(
        node,
        &place,
        &["severity", "summary", "description", "labels"],
    );
    let severity = match node.get("severity") {
        None => Tree::Plain("warning".into()),
        Some(node) => {
            match node.text() {
                Some(text) if SEVERITIES.contains(&text) || is_template(text) => {}
                _ => check.wrong_hint(
                    node.at,
                    format!("{place}: severity is not known"),
                    SEVERITIES.join(", "),
                ),
            }
            check.tree(node, names)
        }
    };
    let mut labels = Vec::new();
    for (key, value) in node.get("labels").map(Node::entries).unwrap_or_default() {
        if OWN.contains(&key.text.as_str()) {
            check.wrong(
                key.at,
                format!("{place}: label `{}` is the runtime's to set", key.text),
            );
        }
        if check.identifier(&key.text, key.at, "label") {
            labels.push((key.text.clone(), check.tree(value, names)));
        }
    }
    let description = node.get("description").map(|node| check.tree(node, names));
    Some(AlertTemplate {
        severity,
        summary: required(check, node, &place, "summary", names)?,
        description,
        labels,
    })
}
