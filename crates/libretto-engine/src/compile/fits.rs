//! Whether the CRD's schema can hold the status that will be written: the API server refuses a status with one unknown field as a whole.

use std::collections::BTreeSet;

use libretto_api::{
    package::PACKAGE_FILE,
    reason::{READY, RECONCILING, STALLED},
};
use serde_json::Value;

use super::{Check, StatusRule, crd::keeps_unknown};
use crate::{
    template::suggestion,
    yaml::{self, At, Node},
};

/// Where the schema of the status stands.
pub(super) struct Place {
    pub(super) file: String,
    pub(super) version: String,
}

/// Compares what the runtime and the status rule write with the schema of one version.
pub(super) fn check(
    check: &mut Check<'_>,
    spec: &Node,
    place: &Place,
    root: &Value,
    rule: Option<&StatusRule>,
) {
    let at = at_in_file(check, place, &[]);
    if keeps_unknown(root) && root.pointer("/properties/status").is_none() {
        return;
    }
    let Some(status) = root.pointer("/properties/status") else {
        check.error(
            &place.file,
            at,
            format!(
                "version `{}` has no `status` in its schema: nothing the runtime writes there could be kept",
                place.version
            ),
            Some(format!("add {SNIPPET}")),
        );
        return;
    };
    let mut wrong = |path: &[&str], message: String, hint: String| {
        let at = at_in_file(check, place, path);
        check.error(&place.file, at, message, Some(hint));
    };
    let mut written: BTreeSet<&str> = BTreeSet::from(["observedGeneration"]);
    match member(status, "observedGeneration") {
        Member::Unknown => wrong(
            &[],
            "the status schema has no `observedGeneration`: every status would be refused"
                .to_owned(),
            "add observedGeneration: {type: integer, format: int64}".to_owned(),
        ),
        Member::Known(schema) if !allows(schema, &["integer"]) => wrong(
            &["observedGeneration"],
            "status.observedGeneration must be of type integer".to_owned(),
            "observedGeneration: {type: integer, format: int64}".to_owned(),
        ),
        _ => {}
    }
    let runtime = rule.is_none_or(|rule| rule.runtime);
    let mut kinds: Vec<&str> = rule
        .into_iter()
        .flat_map(|rule| rule.conditions.iter().map(|(kind, _)| kind.as_str()))
        .collect();
    if runtime {
        kinds.extend([READY, RECONCILING, STALLED]);
    }
    if !kinds.is_empty() {
        written.insert("conditions");
        match member(status, "conditions") {
            Member::Unknown => wrong(
                &[],
                "the status schema has no `conditions`: every status would be refused".to_owned(),
                format!("add {CONDITIONS}"),
            ),
            Member::Known(schema) => conditions(&mut wrong, schema, rule, &kinds),
            Member::Anything => {}
        }
    }
    let fields = rule.and_then(|rule| rule.fields.as_ref());
    for column in fields.iter().flat_map(|query| &query.columns) {
        written.extend(column.name.split('.').next());
    }
    for required in required(status) {
        if !written.contains(required.as_str()) {
            wrong(
                &[],
                format!("the status schema requires `{required}`, which nothing writes"),
                "take it from `required`, or select it in status.fields".to_owned(),
            );
        }
    }
    if let (Some(query), Some(node)) = (fields, fields_node(spec)) {
        for column in &query.columns {
            if let Some(hint) = missing(status, &column.name) {
                let at = column_place(check, node, &query.sql, &column.name);
                check.error(
                    PACKAGE_FILE,
                    at,
                    format!(
                        "status.fields: the schema in `{}` has no `status.{}`: every status would be refused",
                        place.file, column.name
                    ),
                    Some(hint),
                );
            }
        }
    }
}

const CONDITIONS: &str =
    "conditions: {type: array, items: {type: object, x-kubernetes-preserve-unknown-fields: true}}";
const SNIPPET: &str = "status: {type: object, x-kubernetes-preserve-unknown-fields: true} beside spec, or one with conditions and observedGeneration";

fn conditions(
    wrong: &mut impl FnMut(&[&str], String, String),
    schema: &Value,
    rule: Option<&StatusRule>,
    kinds: &[&str],
) {
    let path = ["conditions"];
    let items = &schema["items"];
    if !allows(schema, &["array"]) || !allows(items, &["object"]) {
        wrong(
            &path,
            "status.conditions must be an array of objects".to_owned(),
            CONDITIONS.to_owned(),
        );
        return;
    }
    let mut written = vec!["type", "status", "reason", "message"];
    if rule.is_none_or(|rule| rule.transition_time) {
        written.push("lastTransitionTime");
    }
    if rule.is_some_and(|rule| rule.update_time) {
        written.push("lastUpdateTime");
    }
    for key in &written {
        match member(items, key) {
            Member::Unknown => wrong(
                &path,
                format!(
                    "a condition in the status schema has no `{key}`: every status would be refused"
                ),
                format!("add {key}: {{type: string}} to status.conditions.items.properties"),
            ),
            Member::Known(schema) if !allows(schema, &["string"]) => wrong(
                &path,
                format!("`{key}` of a condition must be of type string"),
                format!("{key}: {{type: string}}"),
            ),
            _ => {}
        }
    }
    for required in required(items) {
        if !written.contains(&required.as_str()) {
            wrong(
                &path,
                format!(
                    "a condition in the status schema requires `{required}`, which is not written"
                ),
                if required == "lastUpdateTime" || required == "lastTransitionTime" {
                    "take it from `required`, or name it in status.times of the package".to_owned()
                } else {
                    "take it from `required`".to_owned()
                },
            );
        }
    }
    for (key, values) in [
        ("type", kinds),
        ("status", &["True", "False", "Unknown"][..]),
    ] {
        let Some(known) = items["properties"][key]["enum"].as_array() else {
            continue;
        };
        for value in values {
            if !known.iter().any(|known| known == value) {
                wrong(
                    &path,
                    format!("`{key}` of a condition cannot be `{value}` in the status schema"),
                    "add it to the enum, or leave the enum out".to_owned(),
                );
            }
        }
    }
}

enum Member<'a> {
    Known(&'a Value),
    /// Not named, and kept.
    Anything,
    Unknown,
}

fn member<'a>(schema: &'a Value, key: &str) -> Member<'a> {
    if let Some(known) = schema.pointer("/properties").and_then(|all| all.get(key)) {
        return Member::Known(known);
    }
    match schema.get("additionalProperties") {
        Some(Value::Bool(true)) => Member::Anything,
        Some(known @ Value::Object(_)) => Member::Known(known),
        _ if keeps_unknown(schema) => Member::Anything,
        _ => Member::Unknown,
    }
}

/// The schema is of one of the types, or does not say.
fn allows(schema: &Value, types: &[&str]) -> bool {
    schema["type"]
        .as_str()
        .is_none_or(|kind| types.contains(&kind))
}

fn required(schema: &Value) -> Vec<String> {
    schema["required"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|name| name.as_str().map(str::to_owned))
        .collect()
}

/// What to do about a column of `status.fields` that the schema cannot hold; `None` when it can.
fn missing(status: &Value, column: &str) -> Option<String> {
    let mut schema = status;
    let mut walked = "status".to_owned();
    for key in column.split('.') {
        schema = match member(schema, key) {
            Member::Anything => return None,
            Member::Known(known) => known,
            Member::Unknown => {
                let mut known: Vec<String> = schema["properties"]
                    .as_object()
                    .into_iter()
                    .flat_map(|properties| properties.keys().cloned())
                    .collect();
                known.sort();
                return Some(suggestion(key, &known).unwrap_or_else(|| {
                    if known.is_empty() {
                        format!("{walked} has no properties")
                    } else {
                        format!("{walked} has: {}", known.join(", "))
                    }
                }));
            }
        };
        walked.push('.');
        walked.push_str(key);
    }
    None
}

/// Where a query names its column, or where it begins.
fn column_place(check: &Check<'_>, node: &Node, sql: &str, column: &str) -> At {
    let part = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
    let offset = sql
        .match_indices(column)
        .map(|(at, _)| at)
        .filter(|at| !sql[..*at].ends_with(part) && !sql[at + column.len()..].starts_with(part))
        // The last one is the name that `AS` gives, more often than not.
        .last()
        .map(|at| at.saturating_sub(sql.len() - sql.trim_start().len()));
    check.sql_place(node, sql, offset)
}

/// The query of `status.fields`.
fn fields_node(spec: &Node) -> Option<&Node> {
    let yaml::Data::List(rules) = &spec.get("execute")?.data else {
        return None;
    };
    rules
        .iter()
        .find_map(|rule| rule.get("status")?.get("fields"))
}

/// The place of a property of the status in the CRD, or of what is above it.
fn at_in_file(check: &Check<'_>, place: &Place, path: &[&str]) -> At {
    let documents = check
        .files
        .get(&place.file)
        .and_then(|source| yaml::parse(&place.file, source).ok())
        .unwrap_or_default();
    let Some(document) = documents.first() else {
        return At::default();
    };
    let versions = document.get("spec").and_then(|spec| spec.get("versions"));
    let version = match versions.map(|versions| &versions.data) {
        Some(yaml::Data::List(versions)) => versions.iter().find(|version| {
            version.get("name").and_then(Node::text) == Some(place.version.as_str())
        }),
        _ => None,
    };
    let mut at = version.unwrap_or(document).at;
    let mut node = version;
    for key in ["schema", "openAPIV3Schema", "properties", "status"] {
        node = key_of(node, key, &mut at);
    }
    for key in path {
        node = key_of(node, "properties", &mut at);
        node = key_of(node, key, &mut at);
    }
    at
}

fn key_of<'a>(node: Option<&'a Node>, key: &str, at: &mut At) -> Option<&'a Node> {
    let (found, value) = node?
        .entries()
        .iter()
        .find(|(found, _)| found.text == key)?;
    // `properties` itself says nothing that what it is in did not say.
    if key != "properties" {
        *at = found.at;
    }
    Some(value)
}
