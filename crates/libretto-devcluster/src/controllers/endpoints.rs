//! Endpoints and EndpointSlices of services with a selector. For services without one, the Endpoints that somebody wrote are mirrored
//! into slices; the Endpoints themselves are left to whoever wrote them.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::cache::{Cache, ObjectKey};
use super::kinds::{ENDPOINT_SLICES, ENDPOINTS, PODS, SERVICES};
use super::object::{self, deleting, flag, int, items, label, text};
use super::plan::{Controller, Plan};
use super::{pods, selector};

pub(crate) const SERVICE_NAME: &str = "kubernetes.io/service-name";
const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
const SLICE_CONTROLLER: &str = "endpointslice-controller.k8s.io";
const MIRRORING_CONTROLLER: &str = "endpointslicemirroring-controller.k8s.io";
/// A label: `true` keeps Endpoints from being mirrored.
const SKIP_MIRROR: &str = "endpoints.kubernetes.io/skip-mirror";
/// Endpoints used as a lock by old leader elections are no endpoints.
const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";
const ENDPOINTS_MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";
const ENDPOINTS_CONTROLLER: &str = "endpoint-controller";
const HEADLESS: &str = "service.kubernetes.io/headless";

/// Endpoints per slice: upstream's default for `--max-endpoints-per-slice`.
const PER_SLICE: usize = 100;

#[derive(Debug)]
pub(crate) struct EndpointsController;

impl Controller for EndpointsController {
    fn component(&self) -> &'static str {
        "endpoint-slice-controller"
    }

    fn touched(&self, cache: &Cache, key: &ObjectKey, object: &Value, dirty: &mut Vec<ObjectKey>) {
        if key.gvr == SERVICES {
            dirty.push(key.clone());
        } else if key.gvr == ENDPOINTS {
            dirty.push(ObjectKey::new(&SERVICES, &key.namespace, &key.name));
        } else if key.gvr == ENDPOINT_SLICES {
            let service = label(object, SERVICE_NAME);
            dirty.push(ObjectKey::new(&SERVICES, &key.namespace, service));
        } else if key.gvr == PODS {
            for service in cache.list(&SERVICES, &key.namespace) {
                if selector::map_matches(service.pointer("/spec/selector"), object) {
                    dirty.push(ObjectKey::of(&SERVICES, service));
                }
            }
        }
    }

    fn reconcile(&self, cache: &Cache, key: &ObjectKey, _now: Timestamp) -> Plan {
        let mut plan = Plan::default();
        match cache.at(key).filter(|service| !deleting(service)) {
            Some(service) => reconcile(cache, service, &mut plan),
            None => clean_up(cache, key, &mut plan),
        }
        plan
    }
}

/// Endpoints have no owner reference, so nobody else removes them. Slices have one.
fn clean_up(cache: &Cache, key: &ObjectKey, plan: &mut Plan) {
    if let Some(endpoints) = cache.get(&ENDPOINTS, &key.namespace, &key.name)
        && label(endpoints, ENDPOINTS_MANAGED_BY) == ENDPOINTS_CONTROLLER
        && !deleting(endpoints)
    {
        plan.delete(&ENDPOINTS, endpoints);
    }
    // Mirrored slices belong to Endpoints that may stay.
    let service = (key.namespace.as_str(), key.name.as_str());
    store_slices(cache, service, MIRRORING_CONTROLLER, BTreeMap::new(), plan);
}

/// Pods that serve the same numbers under the same names.
type Groups<'a> = BTreeMap<String, (Vec<Value>, Vec<&'a Value>)>;

fn reconcile(cache: &Cache, service: &Value, plan: &mut Plan) {
    let selector = service.pointer("/spec/selector");
    let selects = selector
        .and_then(Value::as_object)
        .is_some_and(|map| !map.is_empty());
    let mirrored = if selects {
        BTreeMap::new()
    } else {
        mirror(cache, service)
    };
    let own = (object::namespace(service), object::name(service));
    store_slices(cache, own, MIRRORING_CONTROLLER, mirrored, plan);
    if !selects || text(service, "/spec/type") == "ExternalName" {
        return;
    }
    let mut groups: Groups<'_> = BTreeMap::new();
    let mut members: Vec<&Value> = cache
        .list(&PODS, object::namespace(service))
        .map(|pod| &**pod)
        .filter(|pod| selector::map_matches(selector, pod))
        .filter(|pod| !pods::finished(pod) && !text(pod, "/status/podIP").is_empty())
        .collect();
    members.sort_by_key(|pod| object::name(pod));
    for pod in members {
        let Some(ports) = ports(service, pod) else {
            continue;
        };
        let key = Value::from(ports.clone()).to_string();
        groups
            .entry(key)
            .or_insert_with(|| (ports, Vec::new()))
            .1
            .push(pod);
    }
    sync_endpoints(cache, service, &groups, plan);
    sync_slices(cache, service, &groups, plan);
}

fn headless(service: &Value) -> bool {
    text(service, "/spec/clusterIP") == "None"
}

/// The service's ports as this pod serves them. `None` when it has ports but the pod serves none of them.
fn ports(service: &Value, pod: &Value) -> Option<Vec<Value>> {
    let wanted = items(service, "/spec/ports");
    let mut ports = Vec::new();
    for port in wanted {
        let protocol = match text(port, "/protocol") {
            "" => "TCP",
            protocol => protocol,
        };
        let Some(number) = target_port(port, protocol, pod) else {
            continue;
        };
        let mut found = json!({"name": text(port, "/name"), "port": number, "protocol": protocol});
        if let Some(app) = port.get("appProtocol") {
            found["appProtocol"] = app.clone();
        }
        ports.push(found);
    }
    (wanted.is_empty() || !ports.is_empty()).then_some(ports)
}

fn target_port(port: &Value, protocol: &str, pod: &Value) -> Option<i64> {
    match port.get("targetPort") {
        Some(Value::String(name)) => items(pod, "/spec/containers")
            .iter()
            .chain(
                // Sidecars serve, too.
                items(pod, "/spec/initContainers")
                    .iter()
                    .filter(|container| text(container, "/restartPolicy") == "Always"),
            )
            .flat_map(|container| items(container, "/ports"))
            .find(|candidate| {
                let served = match text(candidate, "/protocol") {
                    "" => "TCP",
                    served => served,
                };
                text(candidate, "/name") == name && served == protocol
            })
            .and_then(|candidate| int(candidate, "/containerPort")),
        Some(number) if number.as_i64().is_some_and(|number| number > 0) => number.as_i64(),
        _ => int(port, "/port"),
    }
}

fn target_reference(pod: &Value) -> Value {
    json!({
        "kind": "Pod",
        "namespace": object::namespace(pod),
        "name": object::name(pod),
        "uid": object::uid(pod),
    })
}

/// The host name DNS gives a pod behind its governing service.
fn hostname<'a>(service: &Value, pod: &'a Value) -> Option<&'a str> {
    let hostname = text(pod, "/spec/hostname");
    (!hostname.is_empty() && text(pod, "/spec/subdomain") == object::name(service))
        .then_some(hostname)
}

fn service_labels(service: &Value) -> Value {
    let mut labels = service
        .pointer("/metadata/labels")
        .cloned()
        .unwrap_or_else(|| json!({}));
    if headless(service) {
        labels[HEADLESS] = "".into();
    } else if let Some(map) = labels.as_object_mut() {
        map.remove(HEADLESS);
    }
    labels
}

fn sync_endpoints(cache: &Cache, service: &Value, groups: &Groups<'_>, plan: &mut Plan) {
    let lenient = flag(service, "/spec/publishNotReadyAddresses");
    let mut subsets = Vec::new();
    for (ports, pods) in groups.values() {
        let mut ready = Vec::new();
        let mut not_ready = Vec::new();
        for pod in pods {
            if deleting(pod) && !lenient {
                continue;
            }
            let mut address = json!({
                "ip": text(pod, "/status/podIP"),
                "targetRef": target_reference(pod),
            });
            let node = text(pod, "/spec/nodeName");
            if !node.is_empty() {
                address["nodeName"] = node.into();
            }
            if let Some(hostname) = hostname(service, pod) {
                address["hostname"] = hostname.into();
            }
            if lenient || pods::ready(pod) {
                ready.push(address);
            } else {
                not_ready.push(address);
            }
        }
        let mut subset = json!({});
        for (member, addresses) in [("addresses", ready), ("notReadyAddresses", not_ready)] {
            if !addresses.is_empty() {
                subset[member] = addresses.into();
            }
        }
        if subset.as_object().is_some_and(|map| map.is_empty()) {
            continue;
        }
        let named: Vec<Value> = ports.iter().map(nameless_when_empty).collect();
        if !named.is_empty() {
            subset["ports"] = named.into();
        }
        subsets.push(subset);
    }
    let mut labels = service_labels(service);
    labels[ENDPOINTS_MANAGED_BY] = ENDPOINTS_CONTROLLER.into();
    let namespace = object::namespace(service);
    let name = object::name(service);
    match cache.get(&ENDPOINTS, namespace, name) {
        Some(observed) => {
            let mut wanted = (**observed).clone();
            wanted["metadata"]["labels"] = labels;
            let unchanged = items(observed, "/subsets") == subsets;
            if !unchanged {
                wanted["subsets"] = subsets.into();
            }
            plan.update(&ENDPOINTS, observed, wanted);
        }
        None => {
            let mut wanted = json!({
                "apiVersion": "v1",
                "kind": "Endpoints",
                "metadata": {"namespace": namespace, "name": name, "labels": labels},
            });
            if !subsets.is_empty() {
                wanted["subsets"] = subsets.into();
            }
            plan.create(&ENDPOINTS, wanted);
        }
    }
}

/// `Endpoints` leaves an empty port name out; a slice writes it.
fn nameless_when_empty(port: &Value) -> Value {
    let mut port = port.clone();
    if text(&port, "/name").is_empty()
        && let Some(map) = port.as_object_mut()
    {
        map.remove("name");
    }
    port
}

/// The slices that say what handwritten Endpoints say.
fn mirror(cache: &Cache, service: &Value) -> BTreeMap<String, Value> {
    let mut wanted = BTreeMap::new();
    let (namespace, name) = (object::namespace(service), object::name(service));
    let Some(endpoints) = cache
        .get(&ENDPOINTS, namespace, name)
        .filter(|endpoints| !deleting(endpoints))
        .filter(|endpoints| label(endpoints, SKIP_MIRROR) != "true")
        .filter(|endpoints| object::annotation(endpoints, LEADER).is_empty())
    else {
        return wanted;
    };
    for (number, subset) in items(endpoints, "/subsets").iter().enumerate() {
        let ports: Vec<Value> = items(subset, "/ports")
            .iter()
            .map(|port| {
                let mut port = port.clone();
                if port.get("name").is_none() {
                    port["name"] = "".into();
                }
                port
            })
            .collect();
        let mut addresses = Vec::new();
        for (list, ready) in [("/addresses", true), ("/notReadyAddresses", false)] {
            for address in items(subset, list) {
                let mut endpoint =
                    json!({"addresses": [text(address, "/ip")], "conditions": {"ready": ready}});
                for member in ["hostname", "nodeName", "targetRef"] {
                    if let Some(value) = address.get(member) {
                        endpoint[member] = value.clone();
                    }
                }
                addresses.push(endpoint);
            }
        }
        // A slice holds one family.
        let (six, four): (Vec<_>, Vec<_>) = addresses
            .into_iter()
            .partition(|one| text(one, "/addresses/0").contains(':'));
        for (family, addresses) in [("IPv4", four), ("IPv6", six)] {
            for (index, chunk) in addresses.chunks(PER_SLICE).enumerate() {
                let group = format!("mirror/{number}/{family}");
                let (name, mut slice) = slice(service, &group, index, &ports, chunk);
                let mut labels = endpoints["metadata"]["labels"].clone();
                if !labels.is_object() {
                    labels = json!({});
                }
                labels[SERVICE_NAME] = object::name(service).into();
                labels[MANAGED_BY] = MIRRORING_CONTROLLER.into();
                slice["metadata"]["labels"] = labels;
                slice["metadata"]["ownerReferences"] =
                    json!([object::controller_reference(&ENDPOINTS, endpoints)]);
                wanted.insert(name, slice);
            }
        }
    }
    wanted
}

fn sync_slices(cache: &Cache, service: &Value, groups: &Groups<'_>, plan: &mut Plan) {
    let mut wanted: BTreeMap<String, Value> = BTreeMap::new();
    for (key, (ports, pods)) in groups {
        for (index, chunk) in pods.chunks(PER_SLICE).enumerate() {
            let endpoints: Vec<Value> = chunk.iter().map(|pod| endpoint(service, pod)).collect();
            let (name, slice) = slice(service, key, index, ports, &endpoints);
            wanted.insert(name, slice);
        }
    }
    if wanted.is_empty() {
        // Clients tell "no endpoints" from "not looked at yet" by the presence of a slice.
        let (name, slice) = slice(service, "", 0, &[], &[]);
        wanted.insert(name, slice);
    }
    let own = (object::namespace(service), object::name(service));
    store_slices(cache, own, SLICE_CONTROLLER, wanted, plan);
}

/// Makes `wanted` the slices that `manager` has of a service.
fn store_slices(
    cache: &Cache,
    (namespace, service): (&str, &str),
    manager: &str,
    mut wanted: BTreeMap<String, Value>,
    plan: &mut Plan,
) {
    for observed in cache.list(&ENDPOINT_SLICES, namespace) {
        let ours =
            label(observed, SERVICE_NAME) == service && label(observed, MANAGED_BY) == manager;
        if !ours {
            continue;
        }
        match wanted.remove(object::name(observed)) {
            Some(slice) => {
                let mut updated = (**observed).clone();
                updated["metadata"]["labels"] = slice["metadata"]["labels"].clone();
                updated["metadata"]["ownerReferences"] =
                    slice["metadata"]["ownerReferences"].clone();
                for member in ["endpoints", "ports"] {
                    // A stored empty list may read back as absent or null.
                    if items(observed, &format!("/{member}"))
                        != items(&slice, &format!("/{member}"))
                    {
                        updated[member] = slice[member].clone();
                    }
                }
                plan.update(&ENDPOINT_SLICES, observed, updated);
            }
            None if deleting(observed) => {}
            None => plan.delete(&ENDPOINT_SLICES, observed),
        }
    }
    for slice in wanted.into_values() {
        plan.create(&ENDPOINT_SLICES, slice);
    }
}

fn slice(
    service: &Value,
    group: &str,
    index: usize,
    ports: &[Value],
    endpoints: &[Value],
) -> (String, Value) {
    // A stable name per set of ports: a restart finds the slice it made before instead of making another.
    let hash = object::short_hash(&[&object::name(service).into(), &group.into(), &index.into()]);
    let mut base = object::name(service).to_owned();
    // 63 for a label, minus dash and five characters of hash.
    base.truncate(57);
    let name = format!("{base}-{}", &hash[..5]);
    let mut labels = service_labels(service);
    labels[SERVICE_NAME] = object::name(service).into();
    labels[MANAGED_BY] = SLICE_CONTROLLER.into();
    let ipv6 = endpoints
        .first()
        .is_some_and(|endpoint| text(endpoint, "/addresses/0").contains(':'));
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "namespace": object::namespace(service),
            "name": name,
            "labels": labels,
            "ownerReferences": [object::controller_reference(&SERVICES, service)],
        },
        "addressType": if ipv6 { "IPv6" } else { "IPv4" },
        "endpoints": endpoints,
        "ports": ports,
    });
    (name, slice)
}

fn endpoint(service: &Value, pod: &Value) -> Value {
    let lenient = flag(service, "/spec/publishNotReadyAddresses");
    let serving = pods::ready(pod);
    let terminating = deleting(pod);
    let mut endpoint = json!({
        "addresses": [text(pod, "/status/podIP")],
        "conditions": {
            "ready": lenient || (serving && !terminating),
            "serving": serving,
            "terminating": terminating,
        },
        "targetRef": target_reference(pod),
    });
    let node = text(pod, "/spec/nodeName");
    if !node.is_empty() {
        endpoint["nodeName"] = node.into();
    }
    if let Some(hostname) = hostname(service, pod) {
        endpoint["hostname"] = hostname.into();
    }
    endpoint
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::simulator::Simulator;
    use super::*;

    fn cluster(service: &Value) -> Simulator {
        let mut simulator = Simulator::new(1, vec![Box::new(EndpointsController)]);
        let mut service = service.clone();
        service["metadata"] = json!({"namespace": "n", "name": "web", "labels": {"team": "a"}});
        simulator.apply(&SERVICES, service);
        simulator
    }

    fn add(simulator: &mut Simulator, name: &str, ip: &str, ready: bool, ports: &Value) {
        simulator.apply(
            &PODS,
            json!({
                "metadata": {"namespace": "n", "name": name, "labels": {"app": "web"}},
                "spec": {"nodeName": "local", "hostname": name, "subdomain": "web", "containers": [{"ports": ports}]},
            }),
        );
        let key = ObjectKey::new(&PODS, "n", name);
        simulator.change(&key, |pod| {
            pod["status"]["phase"] = "Running".into();
            pod["status"]["podIP"] = ip.into();
        });
        simulator.set_ready(&key, ready);
        assert!(simulator.settle(50));
    }

    fn endpoints(simulator: &Simulator) -> Value {
        (**simulator.cache.get(&ENDPOINTS, "n", "web").unwrap()).clone()
    }

    fn slices(simulator: &Simulator) -> Vec<Value> {
        simulator
            .cache
            .list(&ENDPOINT_SLICES, "n")
            .map(|slice| (**slice).clone())
            .collect()
    }

    fn conditions(slice: &Value, index: usize) -> [bool; 3] {
        ["ready", "serving", "terminating"].map(|member| {
            slice["endpoints"][index]["conditions"][member]
                .as_bool()
                .unwrap()
        })
    }

    #[test]
    fn named_ports_group_pods_and_readiness_sorts_them() {
        let mut simulator = cluster(&json!({"spec": {
            "selector": {"app": "web"},
            "ports": [{"name": "http", "port": 80, "targetPort": "http"}],
        }}));
        assert!(simulator.settle(50));
        assert_eq!(
            slices(&simulator).len(),
            1,
            "an empty slice says there is nobody"
        );
        let on = |port: i64| json!([{"name": "http", "containerPort": port}]);
        add(&mut simulator, "a", "10.0.0.1", true, &on(8080));
        add(&mut simulator, "b", "10.0.0.2", false, &on(8080));
        add(&mut simulator, "c", "10.0.0.3", true, &on(9090));
        add(&mut simulator, "d", "10.0.0.4", true, &json!([]));
        let found = endpoints(&simulator);
        assert_eq!(items(&found, "/subsets").len(), 2);
        assert_eq!(
            found["subsets"][0]["ports"],
            json!([{"name": "http", "port": 8080, "protocol": "TCP"}])
        );
        assert_eq!(found["subsets"][0]["addresses"][0]["ip"], "10.0.0.1");
        assert_eq!(found["subsets"][0]["addresses"][0]["hostname"], "a");
        assert_eq!(
            found["subsets"][0]["notReadyAddresses"][0]["ip"],
            "10.0.0.2"
        );
        assert_eq!(found["subsets"][1]["ports"][0]["port"], 9090);
        let slices = slices(&simulator);
        assert_eq!(slices.len(), 2);
        let both = slices
            .iter()
            .find(|slice| slice["ports"][0]["port"] == 8080)
            .unwrap();
        assert_eq!(conditions(both, 0), [true, true, false]);
        assert_eq!(conditions(both, 1), [false, false, false]);
        assert_eq!(label(both, "team"), "a");
        assert_eq!(
            object::controller_uid(both),
            object::uid(simulator.cache.get(&SERVICES, "n", "web").unwrap())
        );
        let writes = simulator.writes;
        simulator.change(&ObjectKey::new(&PODS, "n", "a"), |pod| {
            pod["metadata"]["annotations"] = json!({"noise": "1"});
        });
        assert!(simulator.settle(50));
        assert_eq!(simulator.writes, writes);
    }

    #[test]
    fn pods_that_leave_serve_to_the_end() {
        for (publish, ready, listed) in [
            (false, [false, true, true], 0),
            (true, [true, true, true], 1),
        ] {
            let mut simulator = cluster(&json!({"spec": {
                "clusterIP": "None", "publishNotReadyAddresses": publish,
                "selector": {"app": "web"}, "ports": [{"port": 80}],
            }}));
            add(&mut simulator, "a", "10.0.0.1", true, &json!([]));
            simulator.delete(&ObjectKey::new(&PODS, "n", "a"));
            assert!(simulator.settle(50));
            assert_eq!(conditions(&slices(&simulator)[0], 0), ready);
            let found = endpoints(&simulator);
            assert_eq!(items(&found, "/subsets/0/addresses").len(), listed);
            assert!(found["metadata"]["labels"].get(HEADLESS).is_some());
        }
    }

    #[test]
    fn services_without_selector_are_left_alone_and_gone_ones_cleaned_up() {
        let mut simulator = cluster(&json!({"spec": {"ports": [{"port": 80}]}}));
        assert!(simulator.settle(50));
        assert_eq!(simulator.writes, 0);
        let mut simulator =
            cluster(&json!({"spec": {"selector": {"app": "web"}, "ports": [{"port": 80}]}}));
        assert!(simulator.settle(50));
        simulator.remove(&ObjectKey::new(&SERVICES, "n", "web"));
        assert!(simulator.settle(50));
        assert!(simulator.cache.get(&ENDPOINTS, "n", "web").is_none());
    }

    #[test]
    fn handwritten_endpoints_are_mirrored() {
        for (labels, selector, mirrored) in [
            (json!({"team": "a"}), Value::Null, true),
            (json!({SKIP_MIRROR: "true"}), Value::Null, false),
            (json!({}), json!({"app": "web"}), false),
        ] {
            let mut cache = Cache::default();
            let service = json!({"metadata": {"namespace": "n", "name": "db", "uid": "s", "resourceVersion": "1"},
                "spec": {"selector": selector}});
            cache.put(&SERVICES, std::sync::Arc::new(service));
            cache.put(&ENDPOINTS, std::sync::Arc::new(json!({
                "metadata": {"namespace": "n", "name": "db", "uid": "e", "resourceVersion": "1", "labels": labels},
                "subsets": [{"addresses": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}], "notReadyAddresses": [{"ip": "10.0.0.2"}], "ports": [{"port": 5432}]}],
            })));
            let key = ObjectKey::new(&SERVICES, "n", "db");
            let plan = EndpointsController.reconcile(&cache, &key, Timestamp::UNIX_EPOCH);
            let slices: Vec<&Value> = plan
                .actions
                .iter()
                .filter_map(|action| match action {
                    super::super::plan::Action::Create { object, .. } => Some(object),
                    _ => None,
                })
                .filter(|slice| label(slice, MANAGED_BY) == MIRRORING_CONTROLLER)
                .collect();
            assert_eq!(slices.len(), if mirrored { 2 } else { 0 }, "{labels}");
            let four = slices.iter().find(|slice| slice["addressType"] == "IPv4");
            assert_eq!(four.is_some(), mirrored);
            if let Some(four) = four {
                assert_eq!(label(four, "team"), "a");
                assert_eq!(
                    four["endpoints"],
                    json!([
                        {"addresses": ["10.0.0.1"], "conditions": {"ready": true}},
                        {"addresses": ["10.0.0.2"], "conditions": {"ready": false}},
                    ])
                );
                assert_eq!(four["ports"], json!([{"port": 5432, "name": ""}]));
                assert_eq!(four["metadata"]["ownerReferences"][0]["kind"], "Endpoints");
            }
        }
    }
}
