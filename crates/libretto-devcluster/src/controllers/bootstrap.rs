//! What exists in every cluster without anybody asking: the system namespaces, the `kubernetes` service, the `local` storage class,
//! and in each namespace the default service account and the cluster's root certificate.
//!
//! A storage class somebody deleted comes back only at the next start; the rest is restored at once.

use std::net::SocketAddr;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::cache::{Cache, ObjectKey};
use super::endpoints::SERVICE_NAME;
use super::kinds::{
    CONFIG_MAPS, ENDPOINT_SLICES, ENDPOINTS, NAMESPACES, SERVICE_ACCOUNTS, SERVICES,
    STORAGE_CLASSES,
};
use super::object::{deleting, items};
use super::plan::{Controller, Plan};
use super::volumes;

const SYSTEM_NAMESPACES: [&str; 4] = ["default", "kube-node-lease", "kube-public", "kube-system"];
const ROOT_CA: &str = "kube-root-ca.crt";

/// Keeps the cluster's own objects in place.
#[derive(Debug)]
pub(crate) struct Bootstrap {
    /// Where pods reach the API server.
    pub(crate) api_server: SocketAddr,
    /// Address of the `kubernetes` service.
    pub(crate) service_ip: String,
    /// PEM.
    pub(crate) root_ca: String,
}

/// Keys to look at once at start.
pub(crate) fn first_keys() -> Vec<ObjectKey> {
    let mut keys: Vec<ObjectKey> = SYSTEM_NAMESPACES
        .iter()
        .map(|name| ObjectKey::new(&NAMESPACES, "", name))
        .collect();
    keys.push(service_key());
    keys.push(ObjectKey::new(&STORAGE_CLASSES, "", "local"));
    keys
}

fn service_key() -> ObjectKey {
    ObjectKey::new(&SERVICES, "default", "kubernetes")
}

impl Controller for Bootstrap {
    fn component(&self) -> &'static str {
        "libretto-bootstrap"
    }

    fn touched(
        &self,
        _cache: &Cache,
        key: &ObjectKey,
        _object: &Value,
        dirty: &mut Vec<ObjectKey>,
    ) {
        if key.gvr == NAMESPACES {
            dirty.push(key.clone());
        } else if key.name == "kubernetes"
            && key.namespace == "default"
            && [&SERVICES, &ENDPOINTS, &ENDPOINT_SLICES].contains(&&key.gvr)
        {
            dirty.push(service_key());
        } else if (key.gvr == SERVICE_ACCOUNTS && key.name == "default")
            || (key.gvr == CONFIG_MAPS && key.name == ROOT_CA)
        {
            dirty.push(ObjectKey::new(&NAMESPACES, "", &key.namespace));
        }
    }

    fn reconcile(&self, cache: &Cache, key: &ObjectKey, _now: Timestamp) -> Plan {
        let mut plan = Plan::default();
        if key.gvr == NAMESPACES {
            self.namespace(cache, &key.name, &mut plan);
        } else if key.gvr == STORAGE_CLASSES {
            if cache.at(key).is_none() {
                plan.create(&STORAGE_CLASSES, volumes::LOCAL_CLASS.clone());
            }
        } else {
            self.api_service(cache, &mut plan);
        }
        plan
    }
}

impl Bootstrap {
    fn namespace(&self, cache: &Cache, name: &str, plan: &mut Plan) {
        let Some(namespace) = cache.get(&NAMESPACES, "", name) else {
            if SYSTEM_NAMESPACES.contains(&name) {
                plan.create(
                    &NAMESPACES,
                    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}),
                );
            }
            return;
        };
        if deleting(namespace) {
            return;
        }
        if cache.get(&SERVICE_ACCOUNTS, name, "default").is_none() {
            plan.create(
                &SERVICE_ACCOUNTS,
                json!({
                    "apiVersion": "v1", "kind": "ServiceAccount",
                    "metadata": {"namespace": name, "name": "default"},
                }),
            );
        }
        let data = json!({"ca.crt": self.root_ca});
        match cache.get(&CONFIG_MAPS, name, ROOT_CA) {
            None => plan.create(
                &CONFIG_MAPS,
                json!({
                    "apiVersion": "v1", "kind": "ConfigMap",
                    "metadata": {
                        "namespace": name,
                        "name": ROOT_CA,
                        "annotations": {"kubernetes.io/description": "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as the internal service IP or kubernetes.default.svc. No other usage is guaranteed across distributions of Kubernetes clusters."},
                    },
                    "data": data,
                }),
            ),
            Some(observed) if !deleting(observed) => {
                let mut wanted = (**observed).clone();
                wanted["data"] = data;
                plan.update(&CONFIG_MAPS, observed, wanted);
            }
            Some(_) => {}
        }
    }

    fn api_service(&self, cache: &Cache, plan: &mut Plan) {
        // Its namespace comes first; it wakes this key's siblings, and the failed create below is retried until then.
        let ip = self.api_server.ip().to_string();
        let port = self.api_server.port();
        if cache.get(&SERVICES, "default", "kubernetes").is_none() {
            plan.create(
                &SERVICES,
                json!({
                    "apiVersion": "v1", "kind": "Service",
                    "metadata": {
                        "namespace": "default", "name": "kubernetes",
                        "labels": {"component": "apiserver", "provider": "kubernetes"},
                    },
                    "spec": {
                        "type": "ClusterIP", "clusterIP": self.service_ip, "clusterIPs": [self.service_ip],
                        "ports": [{"name": "https", "protocol": "TCP", "port": 443, "targetPort": port}],
                        "sessionAffinity": "None",
                    },
                }),
            );
        }
        let ports = json!([{"name": "https", "port": port, "protocol": "TCP"}]);
        let subsets = json!([{"addresses": [{"ip": ip}], "ports": ports}]);
        match cache.get(&ENDPOINTS, "default", "kubernetes") {
            None => plan.create(
                &ENDPOINTS,
                json!({
                    "apiVersion": "v1", "kind": "Endpoints",
                    "metadata": {
                        "namespace": "default", "name": "kubernetes",
                        "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"},
                    },
                    "subsets": subsets,
                }),
            ),
            Some(observed) => {
                let mut wanted = (**observed).clone();
                if Value::from(items(observed, "/subsets")) != subsets {
                    wanted["subsets"] = subsets;
                }
                plan.update(&ENDPOINTS, observed, wanted);
            }
        }
        let endpoints = json!([{"addresses": [ip], "conditions": {"ready": true}}]);
        match cache.get(&ENDPOINT_SLICES, "default", "kubernetes") {
            None => plan.create(
                &ENDPOINT_SLICES,
                json!({
                    "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
                    "metadata": {
                        "namespace": "default", "name": "kubernetes",
                        "labels": {SERVICE_NAME: "kubernetes"},
                    },
                    "addressType": if self.api_server.is_ipv6() { "IPv6" } else { "IPv4" },
                    "endpoints": endpoints,
                    "ports": ports,
                }),
            ),
            Some(observed) => {
                let mut wanted = (**observed).clone();
                wanted["endpoints"] = endpoints;
                wanted["ports"] = ports;
                plan.update(&ENDPOINT_SLICES, observed, wanted);
            }
        }
    }
}
