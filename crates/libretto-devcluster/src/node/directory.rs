//! Services and their endpoints as the proxy and the name server need them: read from Services and EndpointSlices, kept current.
//!
//! The Service `default/kubernetes` has no slices of its own here; its endpoint is the API server's listener on the node's address.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddrV4},
};

use serde::Deserialize;
use serde_json::Value;

/// Where pods reach the API server: it listens on the node's address inside the network namespace.
pub const API_SERVER_PORT: u16 = 6443;

/// Namespace and name.
pub(crate) type Name = (String, String);

/// One Service.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Service {
    pub uid: String,
    /// Absent for headless and ExternalName services.
    pub cluster_ip: Option<Ipv4Addr>,
    pub external_name: Option<String>,
    pub ports: Vec<ServicePort>,
    pub publish_not_ready: bool,
    /// Seconds a client stays with its endpoint; absent without `sessionAffinity: ClientIP`.
    pub affinity: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ServicePort {
    pub name: String,
    pub port: u16,
    pub protocol: String,
}

/// One address behind a Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Endpoint {
    pub address: Ipv4Addr,
    pub ready: bool,
    /// Terminating but still answering: used when nothing is ready.
    pub draining: bool,
    pub hostname: Option<String>,
    /// Target port by (port name, protocol).
    pub ports: BTreeMap<(String, String), u16>,
}

impl Endpoint {
    /// The label under which a headless service's name server knows it.
    pub(crate) fn label(&self) -> String {
        self.hostname
            .clone()
            .unwrap_or_else(|| self.address.to_string().replace('.', "-"))
    }
}

/// All of it.
#[derive(Debug, Default)]
pub(crate) struct Directory {
    services: BTreeMap<Name, Service>,
    /// By service, then by slice.
    slices: BTreeMap<Name, BTreeMap<String, Vec<Endpoint>>>,
    api_server: Option<Ipv4Addr>,
}

impl Directory {
    pub(crate) fn new(api_server: Ipv4Addr) -> Self {
        Self {
            api_server: Some(api_server),
            ..Self::default()
        }
    }

    pub(crate) fn services(&self) -> impl Iterator<Item = (&Name, &Service)> {
        self.services.iter()
    }

    pub(crate) fn service(&self, namespace: &str, name: &str) -> Option<&Service> {
        self.services.get(&(namespace.to_owned(), name.to_owned()))
    }

    pub(crate) fn has_namespace(&self, namespace: &str) -> bool {
        self.services.keys().any(|(known, _)| known == namespace)
    }

    pub(crate) fn endpoints(&self, name: &Name) -> Vec<Endpoint> {
        let mut endpoints = self
            .slices
            .get(name)
            .map(|slices| slices.values().flatten().cloned().collect::<Vec<_>>())
            .unwrap_or_default();
        if endpoints.is_empty()
            && (name.0.as_str(), name.1.as_str()) == ("default", "kubernetes")
            && let (Some(address), Some(service)) = (self.api_server, self.services.get(name))
        {
            let ports = service
                .ports
                .iter()
                .map(|port| ((port.name.clone(), port.protocol.clone()), API_SERVER_PORT));
            endpoints.push(Endpoint {
                address,
                ready: true,
                draining: false,
                hostname: None,
                ports: ports.collect(),
            });
        }
        endpoints
    }

    /// Targets of one port: the ready ones, or the draining ones when there are none.
    pub(crate) fn targets(&self, name: &Name, port: &ServicePort) -> Vec<SocketAddrV4> {
        let endpoints = self.endpoints(name);
        let key = (port.name.clone(), port.protocol.clone());
        let publish = self
            .services
            .get(name)
            .is_some_and(|service| service.publish_not_ready);
        let select = |wanted: fn(&Endpoint) -> bool| {
            endpoints
                .iter()
                .filter(|endpoint| publish || wanted(endpoint))
                .filter_map(|endpoint| {
                    Some(SocketAddrV4::new(
                        endpoint.address,
                        *endpoint.ports.get(&key)?,
                    ))
                })
                .collect::<Vec<_>>()
        };
        let ready = select(|endpoint| endpoint.ready);
        if ready.is_empty() {
            select(|endpoint| endpoint.draining)
        } else {
            ready
        }
    }

    pub(crate) fn put_service(&mut self, object: &Value) {
        let Some(name) = name_of(object) else {
            return;
        };
        match parse_service(object) {
            Some(service) => drop(self.services.insert(name, service)),
            None => drop(self.services.remove(&name)),
        }
    }

    pub(crate) fn remove_service(&mut self, object: &Value) {
        if let Some(name) = name_of(object) {
            self.services.remove(&name);
        }
    }

    pub(crate) fn put_slice(&mut self, object: &Value) {
        if let Some((service, slice)) = slice_of(object) {
            self.slices
                .entry(service)
                .or_default()
                .insert(slice, parse_slice(object));
        }
    }

    pub(crate) fn remove_slice(&mut self, object: &Value) {
        if let Some((service, slice)) = slice_of(object)
            && let Some(slices) = self.slices.get_mut(&service)
        {
            slices.remove(&slice);
            if slices.is_empty() {
                self.slices.remove(&service);
            }
        }
    }

    /// Before a new list.
    pub(crate) fn clear_services(&mut self) {
        self.services.clear();
    }

    pub(crate) fn clear_slices(&mut self) {
        self.slices.clear();
    }
}

fn name_of(object: &Value) -> Option<Name> {
    let metadata = &object["metadata"];
    Some((
        metadata["namespace"].as_str()?.to_owned(),
        metadata["name"].as_str()?.to_owned(),
    ))
}

fn slice_of(object: &Value) -> Option<(Name, String)> {
    let (namespace, slice) = name_of(object)?;
    let service = object["metadata"]["labels"]["kubernetes.io/service-name"].as_str()?;
    Some(((namespace, service.to_owned()), slice))
}

fn parse_service(object: &Value) -> Option<Service> {
    #[derive(Deserialize, Default)]
    #[serde(rename_all = "camelCase", default)]
    struct Spec {
        #[serde(rename = "type")]
        kind: String,
        #[serde(rename = "clusterIP")]
        cluster_ip: String,
        external_name: Option<String>,
        ports: Vec<Port>,
        publish_not_ready_addresses: bool,
        session_affinity: String,
        session_affinity_config: Option<Value>,
    }
    #[derive(Deserialize)]
    struct Port {
        #[serde(default)]
        name: String,
        port: u16,
        #[serde(default)]
        protocol: Option<String>,
    }
    let spec = Spec::deserialize(object.get("spec")?).ok()?;
    let timeout = spec
        .session_affinity_config
        .and_then(|config| config["clientIP"]["timeoutSeconds"].as_u64())
        .unwrap_or(10_800);
    Some(Service {
        uid: object["metadata"]["uid"]
            .as_str()
            .unwrap_or_default()
            .to_owned(),
        cluster_ip: spec.cluster_ip.parse().ok(),
        external_name: spec.external_name.filter(|_| spec.kind == "ExternalName"),
        ports: spec
            .ports
            .into_iter()
            .map(|port| ServicePort {
                name: port.name,
                port: port.port,
                protocol: port.protocol.unwrap_or_else(|| "TCP".to_owned()),
            })
            .collect(),
        publish_not_ready: spec.publish_not_ready_addresses,
        affinity: (spec.session_affinity == "ClientIP").then_some(timeout),
    })
}

fn parse_slice(object: &Value) -> Vec<Endpoint> {
    let ports = object["ports"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|port| {
            let number = u16::try_from(port["port"].as_u64()?).ok()?;
            let name = port["name"].as_str().unwrap_or_default().to_owned();
            let protocol = port["protocol"].as_str().unwrap_or("TCP").to_owned();
            Some(((name, protocol), number))
        })
        .collect::<BTreeMap<_, _>>();
    let mut endpoints = Vec::new();
    for endpoint in object["endpoints"].as_array().into_iter().flatten() {
        let conditions = &endpoint["conditions"];
        // Absent means ready, as the API defines it.
        let ready = conditions["ready"].as_bool().unwrap_or(true);
        let serving = conditions["serving"].as_bool().unwrap_or(ready);
        let terminating = conditions["terminating"].as_bool().unwrap_or(false);
        for address in endpoint["addresses"].as_array().into_iter().flatten() {
            if let Some(address) = address.as_str().and_then(|address| address.parse().ok()) {
                endpoints.push(Endpoint {
                    address,
                    ready,
                    draining: serving && terminating,
                    hostname: endpoint["hostname"].as_str().map(str::to_owned),
                    ports: ports.clone(),
                });
            }
        }
    }
    endpoints
}

#[cfg(test)]
pub(crate) mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    pub(crate) fn sample() -> Directory {
        let mut directory = Directory::new(Ipv4Addr::new(10, 66, 0, 1));
        let service = |namespace: &str, name: &str, spec: Value| json!({"metadata": {"namespace": namespace, "name": name, "uid": name}, "spec": spec});
        let port = json!([{"name": "redis", "port": 6379, "protocol": "TCP"}]);
        for object in [
            service(
                "default",
                "kubernetes",
                json!({"clusterIP": "10.96.0.1", "ports": [{"name": "https", "port": 443}]}),
            ),
            service(
                "ns",
                "vip",
                json!({"clusterIP": "10.96.0.7", "ports": port}),
            ),
            service(
                "ns",
                "headless",
                json!({"clusterIP": "None", "ports": port}),
            ),
            service(
                "ns",
                "all",
                json!({"clusterIP": "None", "ports": port, "publishNotReadyAddresses": true}),
            ),
            service(
                "ns",
                "outside",
                json!({"type": "ExternalName", "externalName": "example.org"}),
            ),
        ] {
            directory.put_service(&object);
        }
        for name in ["vip", "headless", "all"] {
            directory.put_slice(&json!({
                "metadata": {"namespace": "ns", "name": format!("{name}-x"), "labels": {"kubernetes.io/service-name": name}},
                "ports": [{"name": "redis", "port": 6380, "protocol": "TCP"}],
                "endpoints": [
                    {"addresses": ["10.66.0.101"], "hostname": "r-0", "conditions": {"ready": true}},
                    {"addresses": ["10.66.0.102"], "hostname": "r-1", "conditions": {"ready": false}},
                    {"addresses": ["10.66.0.103"], "conditions": {"ready": false, "serving": true, "terminating": true}},
                ],
            }));
        }
        directory
    }

    #[test]
    fn targets_are_ready_then_draining() {
        let mut directory = sample();
        let name = ("ns".to_owned(), "vip".to_owned());
        let port = directory.service("ns", "vip").unwrap().ports[0].clone();
        let targets = |directory: &Directory| {
            directory
                .targets(&name, &port)
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
        };
        assert_eq!(targets(&directory), ["10.66.0.101:6380"]);
        let slice = json!({"metadata": {"namespace": "ns", "name": "vip-x", "labels": {"kubernetes.io/service-name": "vip"}},
            "ports": [{"name": "redis", "port": 6380}],
            "endpoints": [{"addresses": ["10.66.0.103"], "conditions": {"ready": false, "serving": true, "terminating": true}}]});
        directory.put_slice(&slice);
        assert_eq!(targets(&directory), ["10.66.0.103:6380"]);
        directory.remove_slice(&slice);
        assert!(targets(&directory).is_empty());
    }

    #[test]
    fn the_api_server_is_found_without_a_slice() {
        let directory = sample();
        let name = ("default".to_owned(), "kubernetes".to_owned());
        let port = directory.service("default", "kubernetes").unwrap().ports[0].clone();
        assert_eq!(
            directory.targets(&name, &port)[0].to_string(),
            "10.66.0.1:6443"
        );
    }
}
