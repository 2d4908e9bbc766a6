//! Rows of the kinds that describe the cluster itself.

use serde_json::Value;

use super::{
    cells::{NONE, UNKNOWN, age, list, name, number, or, text},
    duration,
};

pub(super) fn node(object: &Value, now: i64) -> Vec<Value> {
    let status = &object["status"];
    let info = &status["nodeInfo"];
    let address = |kind: &str| {
        let found = list(status, "addresses")
            .iter()
            .find(|address| text(address, "type") == kind);
        or(found.map_or("", |address| text(address, "address")), NONE)
    };
    vec![
        name(object),
        node_status(object).into(),
        roles(object).into(),
        age(object, now),
        text(info, "kubeletVersion").into(),
        address("InternalIP").into(),
        address("ExternalIP").into(),
        or(text(info, "osImage"), UNKNOWN).into(),
        or(text(info, "kernelVersion"), UNKNOWN).into(),
        or(text(info, "containerRuntimeVersion"), UNKNOWN).into(),
    ]
}

fn node_status(node: &Value) -> String {
    let ready = list(&node["status"], "conditions")
        .iter()
        .find(|condition| text(condition, "type") == "Ready");
    let mut status = match ready.map(|condition| text(condition, "status")) {
        Some("True") => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    }
    .to_owned();
    if node["spec"]["unschedulable"] == true {
        status.push_str(",SchedulingDisabled");
    }
    status
}

fn roles(node: &Value) -> String {
    let mut roles: Vec<&str> = Vec::new();
    for (key, value) in node["metadata"]["labels"].as_object().into_iter().flatten() {
        if let Some(role) = key.strip_prefix("node-role.kubernetes.io/") {
            roles.push(role);
        } else if key == "kubernetes.io/role" {
            roles.extend(value.as_str());
        }
    }
    roles.sort_unstable();
    super::cells::joined(&roles)
}

pub(super) fn namespace(object: &Value, now: i64) -> Vec<Value> {
    vec![
        name(object),
        text(&object["status"], "phase").into(),
        age(object, now),
    ]
}

/// Events of both groups: they are one stored object in two versions.
pub(super) fn event(object: &Value, now: i64) -> Vec<Value> {
    let first_of = |keys: &[&str]| keys.iter().find_map(|key| object[*key].as_str());
    let first = first_of(&["firstTimestamp", "deprecatedFirstTimestamp", "eventTime"]);
    let series = object["series"]["lastObservedTime"].as_str();
    let last = series
        .or_else(|| first_of(&["lastTimestamp", "deprecatedLastTimestamp"]))
        .or(first);
    let about = if object["regarding"].is_object() {
        &object["regarding"]
    } else {
        &object["involvedObject"]
    };
    let mut target = text(about, "kind").to_lowercase();
    if !text(about, "name").is_empty() {
        target = format!("{target}/{}", text(about, "name"));
    }
    let source = if object["source"].is_object() {
        &object["source"]
    } else {
        &object["deprecatedSource"]
    };
    let component = or(
        text(object, "reportingComponent"),
        text(object, "reportingController"),
    );
    let mut parts = vec![or(text(source, "component"), component)];
    parts.push(or(text(source, "host"), text(object, "reportingInstance")));
    parts.retain(|part| !part.is_empty());
    let count = ["count", "deprecatedCount"]
        .iter()
        .map(|key| number(&object[*key]))
        .max()
        .unwrap_or(0);
    let count = count.max(number(&object["series"]["count"])).max(1);
    let message = or(text(object, "message"), text(object, "note")).trim();
    vec![
        duration::age(last, now).into(),
        text(object, "type").into(),
        text(object, "reason").into(),
        target.into(),
        text(about, "fieldPath").into(),
        parts.join(", ").into(),
        message.into(),
        duration::age(first, now).into(),
        count.into(),
        name(object),
    ]
}

pub(super) fn service_account(object: &Value, now: i64) -> Vec<Value> {
    vec![name(object), age(object, now)]
}

pub(super) fn lease(object: &Value, now: i64) -> Vec<Value> {
    vec![
        name(object),
        text(&object["spec"], "holderIdentity").into(),
        age(object, now),
    ]
}

pub(super) fn priority_class(object: &Value, now: i64) -> Vec<Value> {
    vec![
        name(object),
        number(&object["value"]).into(),
        (object["globalDefault"] == true).into(),
        age(object, now),
        text(object, "preemptionPolicy").into(),
    ]
}

/// Roles and definitions show the time of creation, not the age.
pub(super) fn role(object: &Value, _now: i64) -> Vec<Value> {
    vec![
        name(object),
        object["metadata"]["creationTimestamp"].clone(),
    ]
}

pub(super) fn role_binding(object: &Value, now: i64) -> Vec<Value> {
    let role = &object["roleRef"];
    let of = |kind: &str| -> Vec<String> {
        list(object, "subjects")
            .iter()
            .filter(|subject| text(subject, "kind") == kind)
            .map(|subject| match kind {
                "ServiceAccount" => {
                    format!("{}/{}", text(subject, "namespace"), text(subject, "name"))
                }
                _ => text(subject, "name").to_owned(),
            })
            .collect()
    };
    vec![
        name(object),
        format!("{}/{}", text(role, "kind"), text(role, "name")).into(),
        age(object, now),
        of("User").join(", ").into(),
        of("Group").join(", ").into(),
        of("ServiceAccount").join(", ").into(),
    ]
}

pub(super) fn webhooks(object: &Value, now: i64) -> Vec<Value> {
    vec![
        name(object),
        list(object, "webhooks").len().into(),
        age(object, now),
    ]
}
