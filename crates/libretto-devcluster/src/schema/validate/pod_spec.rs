//! Rules for the specification of a pod, in a Pod or in a template.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{Errors, list, metadata, one_of, text};
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
    for key in ["runAsUser", "runAsGroup", "fsGroup"] {
        let value = &spec["securityContext"][key];
        if value
            .as_i64()
            .is_some_and(|id| !(0..=2_147_483_647).contains(&id))
        {
            found.push(invalid(
                format!("securityContext.{key}"),
                value,
                "must be between 0 and 2147483647, inclusive",
            ));
        }
    }
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
    for key in ["hostname", "subdomain"] {
        let value = text(spec, key);
        let why = if value.contains('.') {
            Some("must not contain dots".to_owned())
        } else {
            names::dns1123_label(value)
        };
        if !value.is_empty()
            && let Some(why) = why
        {
            found.push(invalid(key, &spec[key], &why));
        }
    }
    for (key, value) in spec["nodeSelector"].as_object().into_iter().flatten() {
        for why in names::key_problems(key) {
            found.push(invalid("nodeSelector", &key.as_str().into(), &why));
        }
        if let Some(why) = names::label_value(value.as_str().unwrap_or_default()) {
            found.push(invalid("nodeSelector", value, &why));
        }
    }
    for key in ["serviceAccountName", "nodeName"] {
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
    for key in ["containers", "initContainers"] {
        for (index, container) in list(spec, key).iter().enumerate() {
            let place = format!("{key}[{index}]");
            let name = text(container, "name");
            if !name.is_empty() && !seen.insert(name) {
                found.push(duplicate(format!("{place}.name"), &container["name"]));
            }
            check_container(container, key, &place, &volumes, &mut found);
        }
    }
    let affinity =
        "affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms";
    let terms = &spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"];
    for (term_index, term) in list(terms, "nodeSelectorTerms").iter().enumerate() {
        for (index, expression) in list(term, "matchExpressions").iter().enumerate() {
            if !matches!(
                text(expression, "operator"),
                "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt"
            ) {
                found.push(invalid(
                    format!("{affinity}[{term_index}].matchExpressions[{index}].operator"),
                    &expression["operator"],
                    "not a valid selector operator",
                ));
            }
        }
    }
    for (index, constraint) in list(spec, "topologySpreadConstraints").iter().enumerate() {
        let place = format!("topologySpreadConstraints[{index}]");
        if constraint["maxSkew"].as_i64().is_none_or(|skew| skew <= 0) {
            found.push(invalid(
                format!("{place}.maxSkew"),
                &constraint["maxSkew"],
                "must be greater than zero",
            ));
        }
        if text(constraint, "topologyKey").is_empty() {
            found.push(required(format!("{place}.topologyKey"), "can not be empty"));
        }
        let wish = &constraint["whenUnsatisfiable"];
        if !matches!(wish.as_str(), Some("DoNotSchedule" | "ScheduleAnyway")) {
            found.push(not_supported(
                format!("{place}.whenUnsatisfiable"),
                wish,
                &["DoNotSchedule", "ScheduleAnyway"],
            ));
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
        let mut sources: Vec<&String> = volume
            .as_object()
            .into_iter()
            .flatten()
            .filter(|(key, value)| *key != SOURCES_ARE_ALL_BUT && !value.is_null())
            .map(|(key, _)| key)
            .collect();
        // Upstream looks at an emptyDir first, so another source is the one too many.
        sources.sort_by_key(|source| *source != "emptyDir");
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
        for source in ["configMap", "secret", "projected", "downwardAPI"] {
            let mode = &volume[source]["defaultMode"];
            if mode
                .as_i64()
                .is_some_and(|mode| !(0..=0o777).contains(&mode))
            {
                errors.push(invalid(
                    format!("volumes[{index}].{source}.defaultMode"),
                    mode,
                    "must be a number between 0 and 0777 (octal), both inclusive",
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
    let security = &container["securityContext"];
    if security["privileged"] == true && security["allowPrivilegeEscalation"] == false {
        found.push(invalid(
            "securityContext",
            security,
            "cannot set `allowPrivilegeEscalation` to false and `privileged` to true",
        ));
    }
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
            let problems = port_name_problems(name);
            let right = problems.is_empty();
            for why in problems {
                errors.push(invalid(format!("{path}.name"), &port["name"], why));
            }
            if right && !seen.insert(name) {
                errors.push(duplicate(format!("{path}.name"), &port["name"]));
            }
        }
        if port["containerPort"].as_i64() == Some(0) {
            errors.push(required(format!("{path}.containerPort"), ""));
        } else {
            port_number(
                &port["containerPort"],
                &format!("{path}.containerPort"),
                errors,
            );
        }
        port_number(&port["hostPort"], &format!("{path}.hostPort"), errors);
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

/// Everything that is wrong with the name of a port (an IANA service name).
pub(super) fn port_name_problems(name: &str) -> Vec<&'static str> {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let mut problems = Vec::new();
    for (wrong, why) in [
        (name.len() > 15, "must be no more than 15 characters"),
        (
            !name.chars().all(allowed),
            "must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)",
        ),
        (
            !name.contains(|c: char| c.is_ascii_lowercase()),
            "must contain at least one letter (a-z)",
        ),
        (name.contains("--"), "must not contain consecutive hyphens"),
        (
            name.starts_with('-') || name.ends_with('-'),
            "must not begin or end with a hyphen",
        ),
    ] {
        if wrong {
            problems.push(why);
        }
    }
    problems
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

/// What a variable may show of its pod.
const FIELD_PATHS: &[&str] = &[
    "metadata.annotations",
    "metadata.labels",
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.restartPolicy",
    "spec.schedulerName",
    "spec.serviceAccountName",
    "spec.hostNetwork",
    "status.phase",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];

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
            let field = text(&source["fieldRef"], "fieldPath");
            let base = field.split('[').next().unwrap_or(field);
            if !field.is_empty() && !FIELD_PATHS.contains(&base) {
                errors.push(invalid(
                    format!("{path}.valueFrom.fieldRef.fieldPath"),
                    &field.into(),
                    &format!("error converting fieldPath: field label not supported: {field}"),
                ));
            }
            match source.as_object().map_or(0, serde_json::Map::len) {
                1 => {}
                0 => {
                    let why = "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`";
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
            let standard = matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage")
                || name.starts_with("hugepages-");
            if !standard && !name.contains('/') {
                for why in [
                    "must be a standard resource type or fully qualified",
                    "must be a standard resource for containers",
                ] {
                    errors.push(invalid(&*path, &name.as_str().into(), why));
                }
            }
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
                        errors.push(invalid("resources.requests", amount, &why));
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
        for why in port.as_str().map(port_name_problems).unwrap_or_default() {
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
    // Comparisons of numbers are behind a gate that is closed.
    if !matches!(operator, "" | "Equal" | "Exists") {
        errors.push(not_supported(
            format!("{path}.operator"),
            &toleration["operator"],
            &["Equal", "Exists"],
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
