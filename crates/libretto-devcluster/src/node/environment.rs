//! A container's environment variables: literal values, references, `$(VAR)` expansion and the Service variables. Pure, given a
//! `Lookup`.

use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::{
    api::core::v1::{
        ConfigMap, Container, ObjectFieldSelector, Pod, ResourceFieldSelector, Secret, Service,
    },
    apimachinery::pkg::api::resource::Quantity,
};

/// Where referenced objects come from.
pub(crate) trait Lookup {
    /// `None` when it does not exist.
    fn config_map(&self, namespace: &str, name: &str) -> Option<Arc<ConfigMap>>;
    fn secret(&self, namespace: &str, name: &str) -> Option<Arc<Secret>>;
    fn services(&self, namespace: &str) -> Vec<Service>;
}

/// What is known of a pod only when it runs.
#[derive(Debug, Clone, Default)]
pub(crate) struct PodFacts {
    pub pod_ip: String,
    pub host_ip: String,
    pub node_name: String,
    /// Allocatable of the node, which limits default to.
    pub cpus: u64,
    pub memory: u64,
    /// No network of its own: a container cannot listen on every address and must learn its pod's.
    pub shares_network: bool,
}

/// The variables of `container`, in order, later ones winning. `base` are the image's. The error is shown as
/// `CreateContainerConfigError`.
pub(crate) fn build(
    pod: &Pod,
    container: &Container,
    base: &[(String, String)],
    facts: &PodFacts,
    lookup: &dyn Lookup,
) -> Result<Vec<(String, String)>, String> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
    let spec = pod.spec.as_ref().ok_or("the pod has no spec")?;
    let mut variables = Variables::default();
    variables.set(
        "PATH",
        "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    );
    variables.set("HOME", "/root");
    for (name, value) in base {
        variables.set(name, value.clone());
    }
    variables.set("HOSTNAME", hostname(pod));
    if facts.shares_network {
        variables.set("POD_IP", facts.pod_ip.clone());
    }
    for (name, value) in
        service_variables(lookup, namespace, spec.enable_service_links.unwrap_or(true))
    {
        variables.set(&name, value);
    }
    for source in container.env_from.iter().flatten() {
        let prefix = source.prefix.as_deref().unwrap_or_default();
        if let Some(reference) = &source.config_map_ref {
            match lookup.config_map(namespace, &reference.name) {
                Some(map) => {
                    for (key, value) in map.data.iter().flatten() {
                        variables.set(&format!("{prefix}{key}"), value.clone());
                    }
                }
                None if reference.optional == Some(true) => {}
                None => return Err(format!("configmap {:?} not found", reference.name)),
            }
        }
        if let Some(reference) = &source.secret_ref {
            match lookup.secret(namespace, &reference.name) {
                Some(secret) => {
                    for (key, value) in secret.data.iter().flatten() {
                        variables.set(&format!("{prefix}{key}"), text(&value.0, key)?);
                    }
                }
                None if reference.optional == Some(true) => {}
                None => return Err(format!("secret {:?} not found", reference.name)),
            }
        }
    }
    for variable in container.env.iter().flatten() {
        if let Some(value) = &variable.value {
            let value = expand(value, &variables.values);
            variables.set(&variable.name, value);
        } else if let Some(source) = &variable.value_from {
            let value = if let Some(field) = &source.field_ref {
                Some(field_value(pod, field, facts)?)
            } else if let Some(resource) = &source.resource_field_ref {
                Some(resource_value(pod, Some(&container.name), resource, facts)?)
            } else if let Some(reference) = &source.config_map_key_ref {
                let map = lookup.config_map(namespace, &reference.name);
                let value = map
                    .as_ref()
                    .and_then(|map| map.data.as_ref()?.get(&reference.key).cloned());
                required(value, reference.optional, || {
                    missing("configmap", &reference.name, &reference.key, map.is_some())
                })?
            } else if let Some(reference) = &source.secret_key_ref {
                let secret = lookup.secret(namespace, &reference.name);
                let value = secret
                    .as_ref()
                    .and_then(|secret| secret.data.as_ref()?.get(&reference.key))
                    .map(|value| text(&value.0, &reference.key))
                    .transpose()?;
                required(value, reference.optional, || {
                    missing("secret", &reference.name, &reference.key, secret.is_some())
                })?
            } else {
                return Err(format!(
                    "variable {:?}: this kind of valueFrom is not supported",
                    variable.name
                ));
            };
            if let Some(value) = value {
                variables.set(&variable.name, value);
            }
        } else {
            variables.set(&variable.name, "");
        }
    }
    Ok(variables.into_list())
}

fn required(
    value: Option<String>,
    optional: Option<bool>,
    message: impl FnOnce() -> String,
) -> Result<Option<String>, String> {
    match value {
        None if optional != Some(true) => Err(message()),
        value => Ok(value),
    }
}

fn missing(kind: &str, name: &str, key: &str, exists: bool) -> String {
    if exists {
        format!("couldn't find key {key} in {kind} {name:?}")
    } else {
        format!("{kind} {name:?} not found")
    }
}

fn text(bytes: &[u8], key: &str) -> Result<String, String> {
    String::from_utf8(bytes.to_vec()).map_err(|_| {
        format!("key {key} is not text and cannot be a variable; mount it as a volume")
    })
}

/// Keeps the order of first appearance, as `env` prints it, while later values win.
#[derive(Default)]
struct Variables {
    order: Vec<String>,
    values: BTreeMap<String, String>,
}

impl Variables {
    fn set(&mut self, name: &str, value: impl Into<String>) {
        if self.values.insert(name.to_owned(), value.into()).is_none() {
            self.order.push(name.to_owned());
        }
    }

    fn into_list(mut self) -> Vec<(String, String)> {
        self.order
            .into_iter()
            .filter_map(|name| self.values.remove_entry(&name))
            .collect()
    }
}

/// `$(NAME)` becomes the variable's value; `$$` a dollar sign; an unknown name stays as it is.
pub(crate) fn expand(text: &str, variables: &BTreeMap<String, String>) -> String {
    let mut result = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(position) = rest.find('$') {
        result.push_str(&rest[..position]);
        let after = &rest[position + 1..];
        if let Some(tail) = after.strip_prefix('$') {
            result.push('$');
            rest = tail;
        } else if let Some((name, tail)) = after
            .strip_prefix('(')
            .and_then(|inner| inner.split_once(')'))
        {
            match variables.get(name) {
                Some(value) => result.push_str(value),
                None => {
                    result.push_str("$(");
                    result.push_str(name);
                    result.push(')');
                }
            }
            rest = tail;
        } else {
            result.push('$');
            rest = after;
        }
    }
    result.push_str(rest);
    result
}

/// `spec.hostname`, else the pod's name, cut to what a host name may have.
pub(crate) fn hostname(pod: &Pod) -> String {
    let name = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.hostname.clone())
        .filter(|name| !name.is_empty())
        .or_else(|| pod.metadata.name.clone())
        .unwrap_or_default();
    name.chars()
        .take(63)
        .collect::<String>()
        .trim_end_matches(['-', '.'])
        .to_owned()
}

/// Variables for the Services of the namespace (`REDIS_MASTER_SERVICE_HOST`, …) and always for the API server.
fn service_variables(lookup: &dyn Lookup, namespace: &str, links: bool) -> Vec<(String, String)> {
    let mut variables = Vec::new();
    let api = lookup
        .services("default")
        .into_iter()
        .filter(|service| service.metadata.name.as_deref() == Some("kubernetes"));
    let mut services = api.collect::<Vec<_>>();
    if links {
        services.extend(lookup.services(namespace).into_iter().filter(|service| {
            namespace != "default" || service.metadata.name.as_deref() != Some("kubernetes")
        }));
    }
    for service in services {
        let (Some(name), Some(spec)) = (service.metadata.name, service.spec) else {
            continue;
        };
        let Some(address) = spec.cluster_ip.filter(|ip| !ip.is_empty() && ip != "None") else {
            continue;
        };
        let Some(ports) = spec.ports.filter(|ports| !ports.is_empty()) else {
            continue;
        };
        let prefix = name.to_uppercase().replace(['-', '.'], "_");
        variables.push((format!("{prefix}_SERVICE_HOST"), address.clone()));
        variables.push((format!("{prefix}_SERVICE_PORT"), ports[0].port.to_string()));
        for port in &ports {
            if let Some(name) = &port.name {
                let name = name.to_uppercase().replace('-', "_");
                variables.push((
                    format!("{prefix}_SERVICE_PORT_{name}"),
                    port.port.to_string(),
                ));
            }
        }
        for (index, port) in ports.iter().enumerate() {
            let protocol = port.protocol.as_deref().unwrap_or("TCP");
            let lower = protocol.to_lowercase();
            let url = format!("{lower}://{address}:{}", port.port);
            if index == 0 {
                variables.push((format!("{prefix}_PORT"), url.clone()));
            }
            let port_prefix = format!("{prefix}_PORT_{}_{protocol}", port.port);
            variables.push((port_prefix.clone(), url));
            variables.push((format!("{port_prefix}_PROTO"), lower));
            variables.push((format!("{port_prefix}_PORT"), port.port.to_string()));
            variables.push((format!("{port_prefix}_ADDR"), address.clone()));
        }
    }
    variables
}

/// A field of the downward API.
pub(crate) fn field_value(
    pod: &Pod,
    field: &ObjectFieldSelector,
    facts: &PodFacts,
) -> Result<String, String> {
    let path = field.field_path.as_str();
    let meta = &pod.metadata;
    let listed = |map: &Option<BTreeMap<String, String>>| {
        map.iter()
            .flatten()
            .map(|(key, value)| format!("{key}={value:?}"))
            .collect::<Vec<_>>()
            .join("\n")
    };
    let one = |map: &Option<BTreeMap<String, String>>, key: &str| {
        map.as_ref()
            .and_then(|map| map.get(key).cloned())
            .unwrap_or_default()
    };
    let subscript = |prefix: &str| {
        path.strip_prefix(prefix)?
            .strip_prefix("['")?
            .strip_suffix("']")
    };
    Ok(match path {
        "metadata.name" => meta.name.clone().unwrap_or_default(),
        "metadata.namespace" => meta.namespace.clone().unwrap_or_default(),
        "metadata.uid" => meta.uid.clone().unwrap_or_default(),
        "metadata.labels" => listed(&meta.labels),
        "metadata.annotations" => listed(&meta.annotations),
        "spec.nodeName" => facts.node_name.clone(),
        "spec.serviceAccountName" => pod
            .spec
            .as_ref()
            .and_then(|spec| spec.service_account_name.clone())
            .unwrap_or_else(|| "default".to_owned()),
        "status.hostIP" | "status.hostIPs" => facts.host_ip.clone(),
        "status.podIP" | "status.podIPs" => facts.pod_ip.clone(),
        _ => {
            if let Some(key) = subscript("metadata.labels") {
                one(&meta.labels, key)
            } else if let Some(key) = subscript("metadata.annotations") {
                one(&meta.annotations, key)
            } else {
                return Err(format!("fieldRef {path:?} is not supported"));
            }
        }
    })
}

/// `limits.cpu` and the like; a missing limit is the node's capacity, as Kubernetes defines it.
pub(crate) fn resource_value(
    pod: &Pod,
    default_container: Option<&str>,
    field: &ResourceFieldSelector,
    facts: &PodFacts,
) -> Result<String, String> {
    let name = field
        .container_name
        .as_deref()
        .or(default_container)
        .unwrap_or_default();
    let spec = pod.spec.as_ref().ok_or("the pod has no spec")?;
    let container = spec
        .containers
        .iter()
        .chain(spec.init_containers.iter().flatten())
        .find(|container| container.name == name)
        .ok_or_else(|| {
            format!("resourceFieldRef names container {name:?}, which does not exist")
        })?;
    let (kind, resource) = field
        .resource
        .split_once('.')
        .ok_or_else(|| format!("resourceFieldRef {:?} is not supported", field.resource))?;
    let resources = container.resources.as_ref();
    let list = match kind {
        "limits" => resources.and_then(|resources| resources.limits.as_ref()),
        "requests" => resources
            .and_then(|resources| resources.requests.as_ref().or(resources.limits.as_ref())),
        _ => {
            return Err(format!(
                "resourceFieldRef {:?} is not supported",
                field.resource
            ));
        }
    };
    let amount = match list.and_then(|list| list.get(resource)) {
        Some(quantity) => parse_quantity(quantity)?,
        None => match (kind, resource) {
            ("limits", "cpu") => number(facts.cpus),
            ("limits", "memory") => number(facts.memory),
            _ => 0.0,
        },
    };
    let divisor = match &field.divisor {
        Some(divisor) if !matches!(divisor.0.as_str(), "" | "0") => parse_quantity(divisor)?,
        _ => 1.0,
    };
    Ok(format!("{:.0}", (amount / divisor).ceil()))
}

#[allow(clippy::cast_precision_loss)] // bytes of memory and counts of processors are far below 2^53
fn number(value: u64) -> f64 {
    value as f64
}

/// A quantity as a number; good to 53 bits, which memory sizes and millicores fit into.
pub(crate) fn parse_quantity(quantity: &Quantity) -> Result<f64, String> {
    let text = quantity.0.trim();
    let end = text
        .find(|c: char| !(c.is_ascii_digit() || matches!(c, '.' | '+' | '-')))
        .unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let invalid = || format!("quantity {text:?} is not valid");
    let value: f64 = number.parse().map_err(|_| invalid())?;
    let factor = match suffix {
        "" => 1.0,
        "n" => 1e-9,
        "u" => 1e-6,
        "m" => 1e-3,
        "k" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        "T" => 1e12,
        "P" => 1e15,
        "E" => 1e18,
        "Ki" => 1024.0,
        "Mi" => 1024.0_f64.powi(2),
        "Gi" => 1024.0_f64.powi(3),
        "Ti" => 1024.0_f64.powi(4),
        "Pi" => 1024.0_f64.powi(5),
        "Ei" => 1024.0_f64.powi(6),
        exponent => {
            let power = exponent
                .strip_prefix(['e', 'E'])
                .and_then(|power| power.parse().ok())
                .ok_or_else(invalid)?;
            10.0_f64.powi(power)
        }
    };
    Ok(value * factor)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    struct Objects;

    impl Lookup for Objects {
        fn config_map(&self, _: &str, name: &str) -> Option<Arc<ConfigMap>> {
            let map = json!({"data": {"key": "from map", "other": "o"}});
            (name == "map").then(|| Arc::new(serde_json::from_value(map).unwrap()))
        }

        fn secret(&self, _: &str, name: &str) -> Option<Arc<Secret>> {
            let secret = json!({"data": {"password": "aHVudGVyMg==", "binary": "/w=="}});
            (name == "secret").then(|| Arc::new(serde_json::from_value(secret).unwrap()))
        }

        fn services(&self, namespace: &str) -> Vec<Service> {
            let service = |name: &str, ip: &str, port: u16| {
                serde_json::from_value(json!({"metadata": {"name": name},
                    "spec": {"clusterIP": ip, "ports": [{"name": "redis-port", "port": port, "protocol": "TCP"}]}}))
                .unwrap()
            };
            match namespace {
                "default" => vec![service("kubernetes", "10.96.0.1", 443)],
                _ => vec![
                    service("redis-sentinel-x", "10.96.0.9", 26379),
                    service("headless", "None", 1),
                ],
            }
        }
    }

    fn pod(env: &serde_json::Value, env_from: &serde_json::Value) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "p-0", "namespace": "ns", "uid": "u", "labels": {"app": "x"}},
            "spec": {"containers": [{"name": "c", "env": env, "envFrom": env_from,
                "resources": {"limits": {"cpu": "1500m", "memory": "64Mi"}}}]}
        }))
        .unwrap()
    }

    fn built(pod: &Pod) -> Result<BTreeMap<String, String>, String> {
        let facts = PodFacts {
            pod_ip: "10.66.0.100".into(),
            ..PodFacts::default()
        };
        let container = &pod.spec.as_ref().unwrap().containers[0];
        Ok(build(pod, container, &[], &facts, &Objects)?
            .into_iter()
            .collect())
    }

    #[test]
    fn every_source() {
        let env = json!([
            {"name": "A", "value": "a"},
            {"name": "B", "value": "$(A)-$$(A)-$(NONE)-$x"},
            {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
            {"name": "LABEL", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['app']"}}},
            {"name": "CPU", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}},
            {"name": "MEM", "valueFrom": {"resourceFieldRef": {"resource": "limits.memory", "divisor": "1Mi"}}},
            {"name": "MAP", "valueFrom": {"configMapKeyRef": {"name": "map", "key": "key"}}},
            {"name": "SECRET", "valueFrom": {"secretKeyRef": {"name": "secret", "key": "password"}}},
            {"name": "OPT", "valueFrom": {"secretKeyRef": {"name": "no", "key": "x", "optional": true}}},
        ]);
        let variables = built(&pod(
            &env,
            &json!([{"prefix": "P_", "configMapRef": {"name": "map"}}]),
        ))
        .unwrap();
        for (name, value) in [
            ("A", "a"),
            ("B", "a-$(A)-$(NONE)-$x"),
            ("IP", "10.66.0.100"),
            ("LABEL", "x"),
            ("CPU", "2"),
            ("MEM", "64"),
            ("MAP", "from map"),
            ("SECRET", "hunter2"),
            ("P_other", "o"),
            ("HOSTNAME", "p-0"),
            ("KUBERNETES_SERVICE_HOST", "10.96.0.1"),
            ("REDIS_SENTINEL_X_SERVICE_HOST", "10.96.0.9"),
            ("REDIS_SENTINEL_X_SERVICE_PORT_REDIS_PORT", "26379"),
            ("REDIS_SENTINEL_X_PORT_26379_TCP_ADDR", "10.96.0.9"),
        ] {
            assert_eq!(
                variables.get(name).map(String::as_str),
                Some(value),
                "{name}"
            );
        }
        assert!(!variables.contains_key("OPT") && !variables.contains_key("HEADLESS_SERVICE_HOST"));
    }

    #[test]
    fn the_pods_address_is_told_where_the_network_is_shared() {
        let value = |shares_network: bool, env: &serde_json::Value| {
            let pod = pod(env, &json!([]));
            let facts = PodFacts {
                pod_ip: "127.66.0.7".into(),
                shares_network,
                ..PodFacts::default()
            };
            let container = &pod.spec.as_ref().unwrap().containers[0];
            let variables = build(&pod, container, &[], &facts, &Objects).unwrap();
            let variables: BTreeMap<_, _> = variables.into_iter().collect();
            variables.get("POD_IP").cloned()
        };
        assert_eq!(value(true, &json!([])).as_deref(), Some("127.66.0.7"));
        assert_eq!(value(false, &json!([])), None);
        let own = json!([{"name": "POD_IP", "value": "mine"}]);
        assert_eq!(value(true, &own).as_deref(), Some("mine"));
    }

    #[test]
    fn missing_references() {
        let key = |kind: &str, name: &str, key: &str| json!([{"name": "X", "valueFrom": {kind: {"name": name, "key": key}}}]);
        for (env, env_from, expected) in [
            (
                key("secretKeyRef", "no", "k"),
                json!([]),
                "secret \"no\" not found",
            ),
            (
                key("secretKeyRef", "secret", "k"),
                json!([]),
                "couldn't find key k in secret \"secret\"",
            ),
            (
                key("secretKeyRef", "secret", "binary"),
                json!([]),
                "key binary is not text and cannot be a variable; mount it as a volume",
            ),
            (
                json!([]),
                json!([{"configMapRef": {"name": "no"}}]),
                "configmap \"no\" not found",
            ),
            (
                json!([{"name": "X", "valueFrom": {"fieldRef": {"fieldPath": "spec.x"}}}]),
                json!([]),
                "fieldRef \"spec.x\" is not supported",
            ),
        ] {
            assert_eq!(built(&pod(&env, &env_from)).unwrap_err(), expected);
        }
    }
}
