//! Fields of pods that this cluster cannot carry out, as a table: refused where leaving them out would change what the pod means, warned of
//! otherwise. It never changes a pod; what a node finds out later (volume types, privileges) it tells in events.

use serde_json::Value;

use super::metadata;
use crate::{error::FieldError, registry::Resource};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Effect {
    Refuse,
    Warn,
}

use Effect::{Refuse, Warn};

struct Row {
    /// Below the pod's spec; `[]` stands for every item of a list.
    path: &'static str,
    effect: Effect,
    /// Whether this value, in this spec, asks for something.
    asks: fn(&Value, &Value) -> bool,
    /// What to do about it.
    sentence: &'static str,
}

const fn row(
    path: &'static str,
    effect: Effect,
    asks: fn(&Value, &Value) -> bool,
    sentence: &'static str,
) -> Row {
    Row {
        path,
        effect,
        asks,
        sentence,
    }
}

#[rustfmt::skip]
const TABLE: &[Row] = &[
    row("ephemeralContainers", Refuse, listed, "cannot be set on create"),
    row("runtimeClassName", Refuse, worded, "this cluster has one way to run containers; leave runtimeClassName out"),
    row("securityContext.sysctls", Refuse, listed, "this cluster sets no sysctls; leave them out, or set them on the machine"),
    row("containers[].ports[].hostPort", Refuse, |spec, port| number(spec, port) && spec["hostNetwork"] != true,
        "ports of the machine are not given to pods; use a Service, and libretto port-forward from outside"),
    row("initContainers[].ports[].hostPort", Refuse, |spec, port| number(spec, port) && spec["hostNetwork"] != true,
        "ports of the machine are not given to pods; use a Service, and libretto port-forward from outside"),
    row("containers[].volumeDevices", Refuse, listed, "there are no block devices; use volumeMounts with a file system volume"),
    row("initContainers[].volumeDevices", Refuse, listed, "there are no block devices; use volumeMounts with a file system volume"),
    row("containers[].restartPolicy", Refuse, worded, "containers follow the pod's restartPolicy; set it there"),
    row("containers[].restartPolicyRules", Refuse, listed, "containers follow the pod's restartPolicy; set it there"),
    row("initContainers[].restartPolicyRules", Refuse, listed, "init containers follow the pod's restartPolicy; set it there"),
    row("setHostnameAsFQDN", Warn, yes, "the host name stays the short one"),
    row("hostnameOverride", Warn, worded, "the host name stays the pod's name or its hostname"),
    row("hostUsers", Warn, |_, value| value == &Value::Bool(false), "user namespaces are as the cluster was started"),
    row("containers[].securityContext.procMount", Warn, |_, value| other_than(value, "Default"), "/proc is mounted as by default"),
    row("initContainers[].securityContext.procMount", Warn, |_, value| other_than(value, "Default"), "/proc is mounted as by default"),
    row("containers[].volumeMounts[].mountPropagation", Warn, |_, value| other_than(value, "None"), "later mounts are not passed on"),
    row("initContainers[].volumeMounts[].mountPropagation", Warn, |_, value| other_than(value, "None"), "later mounts are not passed on"),
    row("containers[].volumeMounts[].recursiveReadOnly", Warn, |_, value| other_than(value, "Disabled"), "only the mount itself is read-only"),
    row("initContainers[].volumeMounts[].recursiveReadOnly", Warn, |_, value| other_than(value, "Disabled"), "only the mount itself is read-only"),
    row("containers[].lifecycle.stopSignal", Warn, worded, "containers are stopped with SIGTERM"),
    row("initContainers[].lifecycle.stopSignal", Warn, worded, "containers are stopped with SIGTERM"),
    row("volumes[].emptyDir", Warn, |_, volume| volume["medium"] != "Memory" && !volume["sizeLimit"].is_null(), "the sizeLimit of an emptyDir on disk is not enforced"),
];

fn listed(_: &Value, value: &Value) -> bool {
    value.as_array().is_some_and(|items| !items.is_empty())
}

fn worded(_: &Value, value: &Value) -> bool {
    value.as_str().is_some_and(|text| !text.is_empty())
}

fn yes(_: &Value, value: &Value) -> bool {
    value == &Value::Bool(true)
}

fn number(_: &Value, value: &Value) -> bool {
    value.as_i64().is_some_and(|number| number != 0)
}

fn other_than(value: &Value, usual: &str) -> bool {
    value
        .as_str()
        .is_some_and(|text| !text.is_empty() && text != usual)
}

/// Where `spec` asks for what the table names: the path, and the row.
fn asked(spec: &Value) -> Vec<(String, &'static Row)> {
    let mut out = Vec::new();
    for row in TABLE {
        let mut places = vec![(String::new(), spec)];
        for step in row.path.split('.') {
            let (name, list) = match step.strip_suffix("[]") {
                Some(name) => (name, true),
                None => (step, false),
            };
            let mut next = Vec::new();
            for (path, value) in places {
                let value = &value[name];
                let dot = if path.is_empty() { "" } else { "." };
                let path = format!("{path}{dot}{name}");
                if list {
                    let items = value.as_array().into_iter().flatten().enumerate();
                    next.extend(items.map(|(index, item)| (format!("{path}[{index}]"), item)));
                } else {
                    next.push((path, value));
                }
            }
            places = next;
        }
        let found = places
            .into_iter()
            .filter(|(_, value)| (row.asks)(spec, value));
        out.extend(found.map(|(path, _)| (path, row)));
    }
    out
}

/// What a new pod may not have.
pub(super) fn refusals(spec: &Value) -> Vec<FieldError> {
    asked(spec)
        .into_iter()
        .filter(|(_, row)| row.effect == Refuse)
        .map(|(path, row)| FieldError {
            reason: "FieldValueForbidden",
            field: format!("spec.{path}"),
            message: format!("Forbidden: {}", row.sentence),
        })
        .collect()
}

/// What the writer of a pod, or of a template for pods, should know. A template's pods may be made much later, so what will be refused then
/// is told now.
pub(super) fn warnings(resource: &Resource, object: &Value) -> Vec<String> {
    let prefix = match resource.qualified().as_str() {
        "pods" => "spec",
        "daemonsets.apps" | "deployments.apps" | "replicasets.apps" | "statefulsets.apps"
        | "jobs.batch" => "spec.template.spec",
        "cronjobs.batch" => "spec.jobTemplate.spec.template.spec",
        _ => return Vec::new(),
    };
    // A pod's refusals are errors.
    let direct = prefix == "spec";
    let spec = prefix.split('.').fold(object, |value, name| &value[name]);
    let name = metadata::text(object, "name");
    asked(spec)
        .into_iter()
        .filter(|(_, row)| row.effect == Warn || !direct)
        .map(|(path, row)| match row.effect {
            Warn => format!("{prefix}.{path} has no effect: {}", row.sentence),
            Refuse => format!(
                "{prefix}.{path}: pods of {name} will be refused: {}",
                row.sentence
            ),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_asked_is_found() {
        for (spec, expected) in [
            (json!({"containers": [{"name": "a"}]}), None),
            (
                json!({"containers": [{"name": "a"}, {"ports": [{"containerPort": 1}, {"hostPort": 80}]}]}),
                Some(("containers[1].ports[1].hostPort", Refuse)),
            ),
            (
                json!({"hostNetwork": true, "containers": [{"ports": [{"hostPort": 80}]}]}),
                None,
            ),
            (
                json!({"runtimeClassName": "gvisor"}),
                Some(("runtimeClassName", Refuse)),
            ),
            (
                json!({"securityContext": {"sysctls": [{"name": "net.core.somaxconn", "value": "1"}]}}),
                Some(("securityContext.sysctls", Refuse)),
            ),
            (
                json!({"containers": [{"restartPolicy": "Never"}]}),
                Some(("containers[0].restartPolicy", Refuse)),
            ),
            (
                json!({"initContainers": [{"restartPolicy": "Always"}]}),
                None,
            ),
            (json!({"hostUsers": true}), None),
            (json!({"hostUsers": false}), Some(("hostUsers", Warn))),
            (
                json!({"volumes": [{"emptyDir": {"sizeLimit": "1Gi"}}]}),
                Some(("volumes[0].emptyDir", Warn)),
            ),
            (
                json!({"volumes": [{"emptyDir": {"sizeLimit": "1Gi", "medium": "Memory"}}]}),
                None,
            ),
            (
                json!({"containers": [{"volumeMounts": [{"mountPropagation": "None"}, {"mountPropagation": "HostToContainer"}]}]}),
                Some(("containers[0].volumeMounts[1].mountPropagation", Warn)),
            ),
        ] {
            let found = asked(&spec);
            let found: Vec<_> = found
                .iter()
                .map(|(path, row)| (path.as_str(), row.effect))
                .collect();
            assert_eq!(found, expected.into_iter().collect::<Vec<_>>(), "{spec}");
        }
    }
}
