//! Rows of Services and what belongs to them.

use serde_json::Value;

use super::cells::{NONE, UNSET, age, joined, labels, list, name, or, selector, text};

pub(super) fn service(object: &Value, now: i64) -> Vec<Value> {
    let spec = &object["spec"];
    let kind = text(spec, "type");
    let address = list(spec, "clusterIPs")
        .first()
        .and_then(Value::as_str)
        .unwrap_or_else(|| text(spec, "clusterIP"));
    let ports: Vec<String> = list(spec, "ports")
        .iter()
        .map(|port| {
            let node_port = port["nodePort"].as_i64().filter(|number| *number > 0);
            let node_port = node_port
                .map(|number| format!(":{number}"))
                .unwrap_or_default();
            format!(
                "{}{node_port}/{}",
                port["port"],
                or(text(port, "protocol"), "TCP")
            )
        })
        .collect();
    vec![
        name(object),
        kind.into(),
        or(address, NONE).into(),
        external_address(object, kind).into(),
        joined(&ports).into(),
        age(object, now),
        labels(&spec["selector"]).into(),
    ]
}

fn external_address(service: &Value, kind: &str) -> String {
    let spec = &service["spec"];
    let fixed: Vec<&str> = list(spec, "externalIPs")
        .iter()
        .filter_map(Value::as_str)
        .collect();
    match kind {
        "ExternalName" => text(spec, "externalName").to_owned(),
        "LoadBalancer" => {
            let mut addresses: Vec<&str> = list(&service["status"]["loadBalancer"], "ingress")
                .iter()
                .map(|ingress| or(text(ingress, "ip"), text(ingress, "hostname")))
                .collect();
            addresses.extend(&fixed);
            if addresses.is_empty() {
                "<pending>".to_owned()
            } else {
                addresses.join(",")
            }
        }
        _ => joined(&fixed),
    }
}

/// At most three addresses and how many more there are.
fn few(all: &[String]) -> String {
    const SHOWN: usize = 3;
    match all.len() {
        0 => NONE.to_owned(),
        count if count > SHOWN => format!("{} + {} more...", all[..SHOWN].join(","), count - SHOWN),
        _ => all.join(","),
    }
}

pub(super) fn endpoints(object: &Value, now: i64) -> Vec<Value> {
    let mut all = Vec::new();
    for subset in list(object, "subsets") {
        let ports = list(subset, "ports");
        for address in list(subset, "addresses") {
            let ip = text(address, "ip");
            if ports.is_empty() {
                all.push(ip.to_owned());
            }
            all.extend(ports.iter().map(|port| format!("{ip}:{}", port["port"])));
        }
    }
    vec![name(object), few(&all).into(), age(object, now)]
}

pub(super) fn endpoint_slice(object: &Value, now: i64) -> Vec<Value> {
    let ports: Vec<String> = list(object, "ports")
        .iter()
        .map(|port| {
            port["port"]
                .as_i64()
                .map_or_else(|| "*".to_owned(), |number| number.to_string())
        })
        .collect();
    let ports = if ports.is_empty() {
        UNSET.to_owned()
    } else {
        few(&ports)
    };
    let addresses: Vec<String> = list(object, "endpoints")
        .iter()
        .flat_map(|endpoint| list(endpoint, "addresses"))
        .filter_map(|address| address.as_str().map(str::to_owned))
        .collect();
    let addresses = if addresses.is_empty() {
        UNSET.to_owned()
    } else {
        few(&addresses)
    };
    vec![
        name(object),
        text(object, "addressType").into(),
        ports.into(),
        addresses.into(),
        age(object, now),
    ]
}

pub(super) fn ingress(object: &Value, now: i64) -> Vec<Value> {
    let spec = &object["spec"];
    let hosts: Vec<&str> = list(spec, "rules")
        .iter()
        .map(|rule| text(rule, "host"))
        .filter(|host| !host.is_empty())
        .collect();
    let addresses: Vec<&str> = list(&object["status"]["loadBalancer"], "ingress")
        .iter()
        .map(|ingress| or(text(ingress, "ip"), text(ingress, "hostname")))
        .collect();
    vec![
        name(object),
        or(text(spec, "ingressClassName"), NONE).into(),
        if hosts.is_empty() {
            "*".to_owned()
        } else {
            hosts.join(",")
        }
        .into(),
        addresses.join(",").into(),
        if list(spec, "tls").is_empty() {
            "80"
        } else {
            "80, 443"
        }
        .into(),
        age(object, now),
    ]
}

pub(super) fn ingress_class(object: &Value, now: i64) -> Vec<Value> {
    let parameters = &object["spec"]["parameters"];
    let shown = if parameters.is_object() {
        let group = text(parameters, "apiGroup");
        let kind = text(parameters, "kind");
        let kind = if group.is_empty() {
            kind.to_owned()
        } else {
            format!("{kind}.{group}")
        };
        format!("{kind}/{}", text(parameters, "name"))
    } else {
        NONE.to_owned()
    };
    vec![
        name(object),
        text(&object["spec"], "controller").into(),
        shown.into(),
        age(object, now),
    ]
}

pub(super) fn policy(object: &Value, now: i64) -> Vec<Value> {
    vec![
        name(object),
        selector(&object["spec"]["podSelector"]).into(),
        age(object, now),
    ]
}
