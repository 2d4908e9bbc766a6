//! Rules for the specification of a pod, in a Pod or in a template.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{Errors, list, metadata, not_negative, one_of, text};
use crate::schema::{
    field::{duplicate, forbidden, invalid, not_found, not_supported, required},
    names,
    quantity::{self, Quantity},
};

/// Volume sources by field name; a volume has exactly one.
const SOURCES_ARE_ALL_BUT: &str = "name";

/// A pod template at `path`.
pub(super) fn template(template: &Value, path: &str, errors: &mut Errors) {
    metadata::labels(
        &template["metadata"],
        &format!("{path}.metadata.labels"),
        errors,
    );
    spec(&template["spec"], &format!("{path}.spec"), errors);
}

/// A pod specification at `path`.
pub(super) fn spec(spec: &Value, path: &str, errors: &mut Errors) {
    if !spec.is_object() {
        return;
    }
    let mut found = Errors::new();
    one_of(
        spec,
        "restartPolicy",
        &["Always", "OnFailure", "Never"],
        &mut found,
    );
    one_of(
        spec,
        "dnsPolicy",
        &["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"],
        &mut found,
    );
    not_negative(spec, "terminationGracePeriodSeconds", &mut found);
    if spec["activeDeadlineSeconds"]
        .as_i64()
        .is_some_and(|seconds| seconds < 1)
    {
        let why = "must be between 1 and 2147483647, inclusive";
        found.push(invalid(
            "activeDeadlineSeconds",
            &spec["activeDeadlineSeconds"],
            why,
        ));
    }
    for key in ["serviceAccountName", "nodeName", "hostname"] {
        let value = text(spec, key);
        if !value.is_empty()
            && let Some(why) = names::dns1123_subdomain(value)
        {
            found.push(invalid(key, &spec[key], &why));
        }
    }
    let volumes = volumes(spec, &mut found);
    if list(spec, "containers").is_empty() {
        found.push(required("containers", ""));
    }
    let mut seen = BTreeSet::new();
    for key in ["initContainers", "containers"] {
        for (index, container) in list(spec, key).iter().enumerate() {
            let place = format!("{key}[{index}]");
            let name = text(container, "name");
            if !name.is_empty() && !seen.insert(name) {
                found.push(duplicate(format!("{place}.name"), &container["name"]));
            }
            check_container(container, key, &place, &volumes, &mut found);
        }
    }
    for (index, toleration) in list(spec, "tolerations").iter().enumerate() {
        check_toleration(toleration, &format!("tolerations[{index}]"), &mut found);
    }
    errors.extend(found.into_iter().map(|mut error| {
        error.field = format!("{path}.{}", error.field);
        error
    }));
}

/// Checks the volumes; their names.
fn volumes<'v>(spec: &'v Value, errors: &mut Errors) -> BTreeSet<&'v str> {
    let mut seen = BTreeSet::new();
    for (index, volume) in list(spec, "volumes").iter().enumerate() {
        let path = format!("volumes[{index}]");
        let name = text(volume, "name");
        if name.is_empty() {
            errors.push(required(format!("{path}.name"), ""));
        } else if let Some(why) = names::dns1123_label(name) {
            errors.push(invalid(format!("{path}.name"), &volume["name"], &why));
        } else if !seen.insert(name) {
            errors.push(duplicate(format!("{path}.name"), &volume["name"]));
        }
        let sources: Vec<&String> = volume
            .as_object()
            .into_iter()
            .flatten()
            .filter(|(key, value)| *key != SOURCES_ARE_ALL_BUT && !value.is_null())
            .map(|(key, _)| key)
            .collect();
        match sources[..] {
            [] => errors.push(required(path, "must specify a volume type")),
            [_] => {}
            [_, second, ..] => {
                errors.push(forbidden(
                    format!("{path}.{second}"),
                    "may not specify more than 1 volume type",
                ));
            }
        }
        let needed: &[(&str, &str)] = &[
            ("secret", "secretName"),
            ("persistentVolumeClaim", "claimName"),
            ("hostPath", "path"),
        ];
        for (source, key) in needed {
            if volume[*source].is_object() && text(&volume[*source], key).is_empty() {
                errors.push(required(format!("volumes[{index}].{source}.{key}"), ""));
            }
        }
        if volume["configMap"].is_object() && text(&volume["configMap"], "name").is_empty() {
            errors.push(required(format!("volumes[{index}].configMap.name"), ""));
        }
    }
    // Ephemeral claims and such: the names are what mounts refer to.
    seen
}

fn check_container(
    container: &Value,
    list_name: &str,
    path: &str,
    volumes: &BTreeSet<&str>,
    errors: &mut Errors,
) {
    let name = text(container, "name");
    if name.is_empty() {
        errors.push(required(format!("{path}.name"), ""));
    } else if let Some(why) = names::dns1123_label(name) {
        errors.push(invalid(format!("{path}.name"), &container["name"], &why));
    }
    let image = text(container, "image");
    if image.is_empty() {
        errors.push(required(format!("{path}.image"), ""));
    } else if image.trim() != image {
        errors.push(invalid(
            format!("{path}.image"),
            &container["image"],
            "must not have leading or trailing whitespace",
        ));
    }
    let mut found = Errors::new();
    one_of(
        container,
        "imagePullPolicy",
        &["Always", "IfNotPresent", "Never"],
        &mut found,
    );
    one_of(
        container,
        "terminationMessagePolicy",
        &["File", "FallbackToLogsOnError"],
        &mut found,
    );
    if list_name == "initContainers" {
        one_of(
            container,
            "restartPolicy",
            &["Always", "OnFailure", "Never"],
            &mut found,
        );
    }
    ports(container, &mut found);
    environment(container, &mut found);
    mounts(container, volumes, &mut found);
    resources(container, &mut found);
    let probes = list_name == "containers" || text(container, "restartPolicy") == "Always";
    for key in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if container[key].is_null() {
            continue;
        }
        if probes {
            probe(&container[key], key, &mut found);
        } else {
            found.push(forbidden(
                key,
                "may not be set for init containers without restartPolicy=Always",
            ));
        }
    }
    errors.extend(found.into_iter().map(|mut error| {
        error.field = format!("{path}.{}", error.field);
        error
    }));
}

fn ports(container: &Value, errors: &mut Errors) {
    let mut seen = BTreeSet::new();
    for (index, port) in list(container, "ports").iter().enumerate() {
        let path = format!("ports[{index}]");
        let name = text(port, "name");
        if !name.is_empty() {
            if let Some(why) = port_name(name) {
                errors.push(invalid(format!("{path}.name"), &port["name"], why));
            } else if !seen.insert(name) {
                errors.push(duplicate(format!("{path}.name"), &port["name"]));
            }
        }
        for key in ["containerPort", "hostPort"] {
            port_number(&port[key], &format!("{path}.{key}"), errors);
        }
        let protocol = &port["protocol"];
        if !protocol.is_null() && !matches!(protocol.as_str(), Some("TCP" | "UDP" | "SCTP")) {
            errors.push(not_supported(
                format!("{path}.protocol"),
                protocol,
                &["SCTP", "TCP", "UDP"],
            ));
        }
    }
}

/// What is wrong with the name of a port (an IANA service name).
pub(super) fn port_name(name: &str) -> Option<&'static str> {
    if name.len() > 15 {
        Some("must be no more than 15 characters")
    } else if !names::PORT_NAME.is_match(name) {
        Some("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)")
    } else if !name.contains(|c: char| c.is_ascii_lowercase()) {
        Some("must contain at least one letter (a-z)")
    } else if name.contains("--") {
        Some("must not contain consecutive hyphens")
    } else {
        None
    }
}

pub(super) fn port_number(port: &Value, path: &str, errors: &mut Errors) {
    if port
        .as_i64()
        .is_some_and(|number| !(1..=65535).contains(&number))
    {
        errors.push(invalid(
            path,
            port,
            "must be between 1 and 65535, inclusive",
        ));
    }
}

fn environment(container: &Value, errors: &mut Errors) {
    for (index, variable) in list(container, "env").iter().enumerate() {
        let path = format!("env[{index}]");
        let name = text(variable, "name");
        if name.is_empty() {
            errors.push(required(format!("{path}.name"), ""));
        } else if name.contains('=') || !name.chars().all(|c| c.is_ascii_graphic() || c == ' ') {
            let why = "a valid environment variable name must consist only of printable ASCII characters other than '='";
            errors.push(invalid(format!("{path}.name"), &variable["name"], why));
        }
        let source = &variable["valueFrom"];
        if source.is_object() {
            if !text(variable, "value").is_empty() {
                let why = "may not be specified when `value` is not empty";
                errors.push(invalid(format!("{path}.valueFrom"), &"".into(), why));
            }
            match source.as_object().map_or(0, serde_json::Map::len) {
                1 => {}
                0 => {
                    let why = "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef` or `secretKeyRef`";
                    errors.push(invalid(format!("{path}.valueFrom"), &"".into(), why));
                }
                _ => {
                    let why = "may not have more than one field specified at a time";
                    errors.push(invalid(format!("{path}.valueFrom"), &"".into(), why));
                }
            }
        }
    }
}

fn mounts(container: &Value, volumes: &BTreeSet<&str>, errors: &mut Errors) {
    let mut seen = BTreeSet::new();
    for (index, mount) in list(container, "volumeMounts").iter().enumerate() {
        let path = format!("volumeMounts[{index}]");
        let name = text(mount, "name");
        if name.is_empty() {
            errors.push(required(format!("{path}.name"), ""));
        } else if !volumes.contains(name) {
            errors.push(not_found(format!("{path}.name"), &mount["name"]));
        }
        let mount_path = text(mount, "mountPath");
        if mount_path.is_empty() {
            errors.push(required(format!("{path}.mountPath"), ""));
        } else if !seen.insert(mount_path) {
            errors.push(invalid(
                format!("{path}.mountPath"),
                &mount["mountPath"],
                "must be unique",
            ));
        }
        let sub_path = text(mount, "subPath");
        if sub_path.starts_with('/') {
            errors.push(invalid(
                format!("{path}.subPath"),
                &mount["subPath"],
                "must be a relative path",
            ));
        } else if sub_path.split('/').any(|part| part == "..") {
            errors.push(invalid(
                format!("{path}.subPath"),
                &mount["subPath"],
                "must not contain '..'",
            ));
        }
    }
}

fn resources(container: &Value, errors: &mut Errors) {
    let resources = &container["resources"];
    for key in ["limits", "requests"] {
        for (name, amount) in resources[key].as_object().into_iter().flatten() {
            let path = format!("resources.{key}[{name}]");
            match Quantity::from_json(amount) {
                None => errors.push(invalid(path, amount, quantity::MALFORMED)),
                Some(amount_read) if amount_read.is_negative() => {
                    errors.push(invalid(path, amount, "must be greater than or equal to 0"));
                }
                Some(request) if key == "requests" => {
                    let limit = Quantity::from_json(&resources["limits"][name]);
                    if limit.is_some_and(|limit| request.cmp(limit).is_gt()) {
                        let limit = text(&resources["limits"], name);
                        let why = format!("must be less than or equal to {name} limit of {limit}");
                        errors.push(invalid(format!("resources.requests.{name}"), amount, &why));
                    }
                }
                Some(_) => {}
            }
        }
    }
}

fn probe(probe: &Value, path: &str, errors: &mut Errors) {
    let handlers: Vec<&str> = ["exec", "httpGet", "tcpSocket", "grpc"]
        .into_iter()
        .filter(|key| !probe[*key].is_null())
        .collect();
    match handlers[..] {
        [] => errors.push(required(path, "must specify a handler type")),
        [_] => {}
        [_, second, ..] => {
            errors.push(forbidden(
                format!("{path}.{second}"),
                "may not specify more than 1 handler type",
            ));
        }
    }
    for key in [
        "initialDelaySeconds",
        "timeoutSeconds",
        "periodSeconds",
        "successThreshold",
        "failureThreshold",
    ] {
        if probe[key].as_i64().is_some_and(|number| number < 0) {
            errors.push(invalid(
                format!("{path}.{key}"),
                &probe[key],
                "must be greater than or equal to 0",
            ));
        }
    }
    if path != "readinessProbe"
        && probe["successThreshold"]
            .as_i64()
            .is_some_and(|number| number != 1)
    {
        errors.push(invalid(
            format!("{path}.successThreshold"),
            &probe["successThreshold"],
            "must be 1",
        ));
    }
    for handler in ["httpGet", "tcpSocket", "grpc"] {
        let port = &probe[handler]["port"];
        port_number(port, &format!("{path}.{handler}.port"), errors);
        if let Some(why) = port.as_str().and_then(port_name) {
            errors.push(invalid(format!("{path}.{handler}.port"), port, why));
        }
    }
    if probe["exec"].is_object() && list(&probe["exec"], "command").is_empty() {
        errors.push(required(format!("{path}.exec.command"), ""));
    }
}

fn check_toleration(toleration: &Value, path: &str, errors: &mut Errors) {
    let operator = text(toleration, "operator");
    if text(toleration, "key").is_empty() && operator != "Exists" {
        let why = "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
        errors.push(invalid(
            format!("{path}.operator"),
            &toleration["operator"],
            why,
        ));
    }
    if !matches!(operator, "" | "Equal" | "Exists" | "Lt" | "Gt") {
        errors.push(not_supported(
            format!("{path}.operator"),
            &toleration["operator"],
            &["Equal", "Exists", "Gt", "Lt"],
        ));
    }
    if !matches!(
        text(toleration, "effect"),
        "" | "NoSchedule" | "PreferNoSchedule" | "NoExecute"
    ) {
        let supported = ["NoSchedule", "PreferNoSchedule", "NoExecute"];
        errors.push(not_supported(
            format!("{path}.effect"),
            &toleration["effect"],
            &supported,
        ));
    }
}
