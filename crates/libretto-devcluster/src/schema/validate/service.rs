//! Rules for Services and Ingresses.

use std::{collections::BTreeSet, net::IpAddr};

use serde_json::Value;

use super::{
    Errors, at, list, one_of,
    pod_spec::{port_name_problems, port_number},
    text,
};
use crate::error::FieldError;
use crate::schema::{
    field::{duplicate, forbidden, invalid, not_supported, required},
    names,
};

pub(super) fn service(new: &Value, old: Option<&Value>, errors: &mut Errors) {
    let spec = &new["spec"];
    let kind = text(spec, "type");
    let headless = text(spec, "clusterIP") == "None";
    one_of(
        new,
        "spec.type",
        &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"],
        errors,
    );
    one_of(new, "spec.sessionAffinity", &["ClientIP", "None"], errors);
    one_of(
        new,
        "spec.externalTrafficPolicy",
        &["Cluster", "Local"],
        errors,
    );
    one_of(
        new,
        "spec.internalTrafficPolicy",
        &["Cluster", "Local"],
        errors,
    );
    for (key, value) in spec["selector"].as_object().into_iter().flatten() {
        if let Some(why) = names::qualified_name(key) {
            errors.push(invalid("spec.selector", &key.as_str().into(), &why));
        }
        if let Some(why) = names::label_value(value.as_str().unwrap_or_default()) {
            errors.push(invalid("spec.selector", value, &why));
        }
    }
    if kind == "ExternalName" {
        let name = text(spec, "externalName");
        if name.is_empty() {
            errors.push(required("spec.externalName", ""));
        } else if let Some(why) = names::dns1123_subdomain(name.trim_end_matches('.')) {
            errors.push(invalid("spec.externalName", &name.into(), &why));
        }
        if !text(spec, "clusterIP").is_empty() {
            errors.push(forbidden(
                "spec.clusterIP",
                "may not be set when `type` is 'ExternalName'",
            ));
        }
    } else if list(spec, "ports").is_empty() && !headless {
        errors.push(required("spec.ports", ""));
    }
    let address = text(spec, "clusterIP");
    if !address.is_empty() && !headless && address.parse::<IpAddr>().is_err() {
        let why = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
        errors.push(invalid("spec.clusterIPs[0]", &spec["clusterIP"], why));
    }
    if headless && matches!(kind, "NodePort" | "LoadBalancer") {
        let why = format!("may not be set to 'None' for {kind} services");
        errors.push(invalid("spec.clusterIPs[0]", &spec["clusterIP"], &why));
    }
    let timeout = at(spec, "sessionAffinityConfig.clientIP.timeoutSeconds");
    if text(spec, "sessionAffinity") == "ClientIP"
        && timeout
            .as_i64()
            .is_some_and(|seconds| !(1..=86_400).contains(&seconds))
    {
        errors.push(invalid(
            "spec.sessionAffinityConfig.clientIP.timeoutSeconds",
            timeout,
            "must be greater than 0 and less than 86400",
        ));
    }
    for (index, address) in list(spec, "externalIPs").iter().enumerate() {
        if address
            .as_str()
            .is_none_or(|address| address.parse::<IpAddr>().is_err())
        {
            let why = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
            errors.push(invalid(format!("spec.externalIPs[{index}]"), address, why));
        }
    }
    let outside =
        matches!(kind, "NodePort" | "LoadBalancer") || !list(spec, "externalIPs").is_empty();
    if !text(spec, "externalTrafficPolicy").is_empty() && !outside {
        errors.push(invalid(
            "spec.externalTrafficPolicy",
            &spec["externalTrafficPolicy"],
            "may only be set for externally-accessible services",
        ));
    }
    ports(spec, kind, errors);
    if let Some(old) = old {
        cluster_ip(new, old, errors);
    }
}

fn ports(spec: &Value, kind: &str, errors: &mut Errors) {
    let ports = list(spec, "ports");
    let (mut seen_names, mut seen_ports) = (BTreeSet::new(), BTreeSet::new());
    for (index, port) in ports.iter().enumerate() {
        let path = format!("spec.ports[{index}]");
        let name = text(port, "name");
        if name.is_empty() {
            if ports.len() > 1 {
                errors.push(required(format!("{path}.name"), ""));
            }
        } else if let Some(why) = names::dns1123_label(name) {
            errors.push(invalid(format!("{path}.name"), &port["name"], &why));
        } else if !seen_names.insert(name) {
            errors.push(duplicate(format!("{path}.name"), &port["name"]));
        }
        port_number(&port["port"], &format!("{path}.port"), errors);
        port_number(&port["nodePort"], &format!("{path}.nodePort"), errors);
        port_number(&port["targetPort"], &format!("{path}.targetPort"), errors);
        let target = port["targetPort"].as_str();
        for why in target.map(port_name_problems).unwrap_or_default() {
            errors.push(invalid(
                format!("{path}.targetPort"),
                &port["targetPort"],
                why,
            ));
        }
        let protocol = text(port, "protocol");
        if !matches!(protocol, "" | "TCP" | "UDP" | "SCTP") {
            errors.push(not_supported(
                format!("{path}.protocol"),
                &port["protocol"],
                &["SCTP", "TCP", "UDP"],
            ));
        }
        if matches!(kind, "" | "ClusterIP")
            && port["nodePort"].as_i64().is_some_and(|number| number != 0)
        {
            errors.push(forbidden(
                format!("{path}.nodePort"),
                "may not be used when `type` is 'ClusterIP'",
            ));
        }
        if !seen_ports.insert((port["port"].as_i64(), protocol.to_owned())) {
            // Go's form of what makes a port the same.
            let shown = format!(
                "{{\"Name\":\"\",\"Protocol\":{protocol:?},\"AppProtocol\":null,\"Port\":{},\"TargetPort\":0,\"NodePort\":0}}",
                port["port"]
            );
            errors.push(FieldError {
                message: format!("Duplicate value: {shown}"),
                ..duplicate(path, port)
            });
        }
    }
}

/// The cluster address stays, except to and from ExternalName.
fn cluster_ip(new: &Value, old: &Value, errors: &mut Errors) {
    let external = |service: &Value| at(service, "spec.type") == "ExternalName";
    let (before, after) = (at(old, "spec.clusterIP"), at(new, "spec.clusterIP"));
    let set = before.as_str().is_some_and(|address| !address.is_empty());
    // Another address is refused where addresses are given out.
    if set && !external(old) && !external(new) && after.is_null() {
        let why = "primary clusterIP can not be unset";
        errors.push(invalid("spec.clusterIPs[0]", after, why));
    }
}

pub(super) fn ingress(new: &Value, errors: &mut Errors) {
    let spec = &new["spec"];
    if list(spec, "rules").is_empty() && spec["defaultBackend"].is_null() {
        errors.push(invalid(
            "spec",
            spec,
            "either `defaultBackend` or `rules` must be specified",
        ));
    }
    for (rule_index, rule) in list(spec, "rules").iter().enumerate() {
        for (index, path) in list(&rule["http"], "paths").iter().enumerate() {
            let place = format!("spec.rules[{rule_index}].http.paths[{index}]");
            let kind = text(path, "pathType");
            if !matches!(kind, "" | "Exact" | "ImplementationSpecific" | "Prefix") {
                let supported = ["Exact", "ImplementationSpecific", "Prefix"];
                errors.push(not_supported(
                    format!("{place}.pathType"),
                    &path["pathType"],
                    &supported,
                ));
            }
            if kind != "ImplementationSpecific" && !text(path, "path").starts_with('/') {
                errors.push(invalid(
                    format!("{place}.path"),
                    &path["path"],
                    "must be an absolute path",
                ));
            }
        }
    }
}
