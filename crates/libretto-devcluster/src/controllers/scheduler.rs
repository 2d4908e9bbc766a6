//! The scheduler: binds pending pods to a node that can hold them, and says why when none can.
//!
//! It filters as upstream does and takes the first node that is left; with one node there is nothing to score. It never evicts.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::cache::{Cache, ObjectKey};
use super::kinds::{
    NAMESPACES, NODES, PERSISTENT_VOLUME_CLAIMS, PERSISTENT_VOLUMES, PODS, STORAGE_CLASSES,
};
use super::object::{self, deleting, entries, flag, items, text};
use super::plan::{Action, Controller, Note, Plan};
use super::{pods, quantity, selector, volumes};

const COMPONENT: &str = "default-scheduler";

#[derive(Debug)]
pub(crate) struct Scheduler;

impl Controller for Scheduler {
    fn component(&self) -> &'static str {
        COMPONENT
    }

    fn touched(&self, cache: &Cache, key: &ObjectKey, object: &Value, dirty: &mut Vec<ObjectKey>) {
        if key.gvr == PODS {
            if waiting(object) {
                dirty.push(key.clone());
            }
            // A pod that leaves makes room; one that is ready may satisfy another's affinity.
            if pods::finished(object) || deleting(object) || cache.at(key).is_none() {
                dirty.extend(all_waiting(cache));
            }
        } else if key.gvr == NODES || key.gvr == STORAGE_CLASSES || key.gvr == PERSISTENT_VOLUMES {
            dirty.extend(all_waiting(cache));
        } else if key.gvr == PERSISTENT_VOLUME_CLAIMS {
            for pod in cache.list(&PODS, &key.namespace) {
                if waiting(pod) && claim_names(pod).any(|name| name == key.name) {
                    dirty.push(ObjectKey::of(&PODS, pod));
                }
            }
        }
    }

    fn reconcile(&self, cache: &Cache, key: &ObjectKey, now: Timestamp) -> Plan {
        let mut plan = Plan::default();
        if let Some(pod) = cache.at(key).filter(|pod| waiting(pod)) {
            reconcile(cache, pod, now, &mut plan);
        }
        plan
    }
}

fn waiting(pod: &Value) -> bool {
    let scheduler = text(pod, "/spec/schedulerName");
    text(pod, "/spec/nodeName").is_empty()
        && pods::active(pod)
        && (scheduler.is_empty() || scheduler == COMPONENT)
}

fn all_waiting(cache: &Cache) -> impl Iterator<Item = ObjectKey> {
    cache
        .all(&PODS)
        .filter(|pod| waiting(pod))
        .map(|pod| ObjectKey::of(&PODS, pod))
}

fn claim_names(pod: &Value) -> impl Iterator<Item = &str> {
    items(pod, "/spec/volumes")
        .iter()
        .map(|volume| text(volume, "/persistentVolumeClaim/claimName"))
        .filter(|name| !name.is_empty())
}

/// What stands between a pod and a node.
enum Verdict {
    Bind(String),
    /// Claims that want a consumer's node before they are provisioned: name them the node, then wait.
    SelectNode(String, Vec<Value>),
    /// Nothing to say: something asked for is on its way.
    Wait,
    Refuse(String),
}

fn reconcile(cache: &Cache, pod: &Value, now: Timestamp, plan: &mut Plan) {
    let gates = items(pod, "/spec/schedulingGates");
    if !gates.is_empty() {
        let message = "Scheduling is blocked due to non-empty scheduling gates";
        scheduled_condition(pod, "SchedulingGated", message, now, plan);
        return;
    }
    match verdict(cache, pod) {
        Verdict::Bind(node) => {
            let key = ObjectKey::of(&PODS, pod);
            let message = format!(
                "Successfully assigned {}/{} to {node}",
                key.namespace, key.name
            );
            plan.push(Action::Bind { key, node });
            plan.push(Action::Note(Note::normal(&PODS, pod, "Scheduled", message)));
        }
        Verdict::SelectNode(node, claims) => {
            for claim in claims {
                let mut selected = claim.clone();
                object::set_annotation(&mut selected, volumes::SELECTED_NODE, &node);
                plan.update(&PERSISTENT_VOLUME_CLAIMS, &claim, selected);
            }
        }
        Verdict::Wait => {}
        Verdict::Refuse(message) => {
            if scheduled_condition(pod, "Unschedulable", &message, now, plan) {
                plan.push(Action::Note(Note::warning(
                    &PODS,
                    pod,
                    "FailedScheduling",
                    message,
                )));
            }
        }
    }
}

/// Writes why the pod has no node into its PodScheduled condition; `true` when that is news.
fn scheduled_condition(
    pod: &Value,
    reason: &str,
    message: &str,
    now: Timestamp,
    plan: &mut Plan,
) -> bool {
    let mut conditions = items(pod, "/status/conditions").to_vec();
    let changed = object::set_condition(
        &mut conditions,
        "PodScheduled",
        "False",
        reason,
        message,
        now,
    );
    if !changed {
        return false;
    }
    let mut wanted = pod.get("status").cloned().unwrap_or_else(|| json!({}));
    wanted["conditions"] = conditions.into();
    plan.status(&PODS, pod, wanted);
    true
}

fn verdict(cache: &Cache, pod: &Value) -> Verdict {
    let nodes: Vec<&Value> = cache.all(&NODES).map(|node| &**node).collect();
    if nodes.is_empty() {
        return Verdict::Refuse("no nodes available to schedule pods".to_owned());
    }
    let claims = match Claims::of(cache, pod) {
        Ok(claims) => claims,
        Err(reason) => {
            return Verdict::Refuse(refusal(
                nodes.len(),
                &[(reason, nodes.len())],
                "Preemption is not helpful for scheduling.",
            ));
        }
    };
    if claims.binding {
        return Verdict::Wait;
    }
    let mut reasons: BTreeMap<String, usize> = BTreeMap::new();
    let mut resolvable = false;
    for node in &nodes {
        let obstacles = obstacles(cache, pod, node, &claims);
        if obstacles.is_empty() {
            let name = object::name(node).to_owned();
            if claims.unbound.is_empty() {
                return Verdict::Bind(name);
            }
            let undecided: Vec<Value> = claims
                .unbound
                .iter()
                .filter(|claim| object::annotation(claim, volumes::SELECTED_NODE) != name)
                .map(|claim| (*claim).clone())
                .collect();
            if undecided.is_empty() {
                return Verdict::Wait;
            }
            return Verdict::SelectNode(name, undecided);
        }
        for obstacle in obstacles {
            resolvable |= obstacle.starts_with("Insufficient") || obstacle == "Too many pods";
            *reasons.entry(obstacle).or_insert(0) += 1;
        }
    }
    let reasons: Vec<(String, usize)> = reasons.into_iter().collect();
    let preemption = if resolvable {
        "No preemption victims found for incoming pod."
    } else {
        "Preemption is not helpful for scheduling."
    };
    Verdict::Refuse(refusal(nodes.len(), &reasons, preemption))
}

/// `0/1 nodes are available: 1 Insufficient cpu. no new claims to deallocate, preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod.`
fn refusal(nodes: usize, reasons: &[(String, usize)], preemption: &str) -> String {
    // Reasons that concern the pod itself carry no count, as upstream.
    let list: Vec<String> = reasons
        .iter()
        .map(|(reason, count)| {
            if reason.starts_with("persistentvolumeclaim") || reason.starts_with("pod has") {
                reason.clone()
            } else {
                format!("{count} {reason}")
            }
        })
        .collect();
    format!(
        "0/{nodes} nodes are available: {}. no new claims to deallocate, preemption: 0/{nodes} nodes are available: {nodes} {preemption}",
        list.join(", ")
    )
}

/// The claims a pod mounts.
struct Claims<'a> {
    /// Volumes of bound claims.
    volumes: Vec<&'a Value>,
    /// Claims that wait for their first consumer.
    unbound: Vec<&'a Value>,
    /// A claim is being bound right now.
    binding: bool,
}

impl<'a> Claims<'a> {
    fn of(cache: &'a Cache, pod: &Value) -> Result<Self, String> {
        let mut claims = Self {
            volumes: Vec::new(),
            unbound: Vec::new(),
            binding: false,
        };
        let namespace = object::namespace(pod);
        for name in claim_names(pod) {
            let Some(claim) = cache.get(&PERSISTENT_VOLUME_CLAIMS, namespace, name) else {
                return Err(format!("persistentvolumeclaim \"{name}\" not found"));
            };
            if deleting(claim) {
                return Err(format!("persistentvolumeclaim \"{name}\" is being deleted"));
            }
            match text(claim, "/status/phase") {
                "Bound" => {
                    let volume = text(claim, "/spec/volumeName");
                    match cache.get(&PERSISTENT_VOLUMES, "", volume) {
                        Some(volume) => claims.volumes.push(volume),
                        None => return Err(format!("persistentvolume \"{volume}\" not found")),
                    }
                }
                "Lost" => {
                    return Err(format!(
                        "persistentvolumeclaim \"{name}\" bound to non-existent persistentvolume \"{}\"",
                        text(claim, "/spec/volumeName")
                    ));
                }
                _ if volumes::waits_for_consumer(cache, claim) => {
                    if text(claim, "/spec/volumeName").is_empty() {
                        claims.unbound.push(claim);
                    } else {
                        claims.binding = true;
                    }
                }
                _ => return Err("pod has unbound immediate PersistentVolumeClaims".to_owned()),
            }
        }
        Ok(claims)
    }
}

/// Why a node cannot take the pod; empty when it can.
fn obstacles(cache: &Cache, pod: &Value, node: &Value, claims: &Claims<'_>) -> Vec<String> {
    // Upstream stops at the first filter that refuses; only the resource filter names several reasons at once.
    if flag(node, "/spec/unschedulable") && !tolerates_unschedulable(pod) {
        return vec!["node(s) were unschedulable".to_owned()];
    }
    let pinned = text(pod, "/spec/nodeName");
    if !pinned.is_empty() && pinned != object::name(node) {
        return vec!["node(s) didn't match the requested node name".to_owned()];
    }
    if let Some(taint) = untolerated_taint(pod, node) {
        return vec![format!("node(s) had untolerated taint(s) {{{taint}}}")];
    }
    if !matches_node_affinity(pod, node) {
        return vec!["node(s) didn't match Pod's node affinity/selector".to_owned()];
    }
    let on_node: Vec<&Value> = cache
        .all(&PODS)
        .map(|other| &**other)
        .filter(|other| {
            text(other, "/spec/nodeName") == object::name(node) && !pods::finished(other)
        })
        .collect();
    if host_ports_taken(pod, &on_node) {
        return vec!["node(s) didn't have free ports for the requested pod ports".to_owned()];
    }
    let short = missing_resources(pod, node, &on_node);
    if !short.is_empty() {
        return short;
    }
    for volume in &claims.volumes {
        let required = volume.pointer("/spec/nodeAffinity/required");
        if required.is_some_and(|required| !node_selector_matches(required, node)) {
            return vec!["node(s) had volume node affinity conflict".to_owned()];
        }
    }
    if let Some(reason) = spread_obstacle(pod, node) {
        return vec![reason];
    }
    affinity_obstacle(cache, pod, node).into_iter().collect()
}

fn tolerates_unschedulable(pod: &Value) -> bool {
    tolerates(
        pod,
        &json!({"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}),
    )
}

fn untolerated_taint(pod: &Value, node: &Value) -> Option<String> {
    items(node, "/spec/taints")
        .iter()
        .find(|taint| {
            matches!(text(taint, "/effect"), "NoSchedule" | "NoExecute") && !tolerates(pod, taint)
        })
        .map(|taint| format!("{}: {}", text(taint, "/key"), text(taint, "/value")))
}

pub(crate) fn tolerates(pod: &Value, taint: &Value) -> bool {
    items(pod, "/spec/tolerations").iter().any(|toleration| {
        let key = text(toleration, "/key");
        let effect = text(toleration, "/effect");
        let exists = text(toleration, "/operator") == "Exists";
        (effect.is_empty() || effect == text(taint, "/effect"))
            && (if key.is_empty() {
                exists
            } else {
                key == text(taint, "/key")
            })
            && (exists || text(toleration, "/value") == text(taint, "/value"))
    })
}

/// `nodeSelector` and required node affinity.
pub(crate) fn matches_node_affinity(pod: &Value, node: &Value) -> bool {
    let selected = entries(pod, "/spec/nodeSelector")
        .all(|(key, value)| value.as_str() == label_of(node, key));
    let required =
        pod.pointer("/spec/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution");
    selected && required.is_none_or(|required| node_selector_matches(required, node))
}

fn label_of<'a>(node: &'a Value, key: &str) -> Option<&'a str> {
    node.pointer("/metadata/labels")
        .and_then(|labels| labels.get(key))
        .and_then(Value::as_str)
}

/// Terms are alternatives; an empty term matches nothing.
fn node_selector_matches(required: &Value, node: &Value) -> bool {
    items(required, "/nodeSelectorTerms").iter().any(|term| {
        let expressions = items(term, "/matchExpressions");
        let fields = items(term, "/matchFields");
        if expressions.is_empty() && fields.is_empty() {
            return false;
        }
        expressions.iter().all(|expression| {
            selector::satisfied(expression, label_of(node, text(expression, "/key")))
        }) && fields.iter().all(|field| {
            text(field, "/key") == "metadata.name"
                && selector::satisfied(field, Some(object::name(node)))
        })
    })
}

fn host_ports_taken(pod: &Value, on_node: &[&Value]) -> bool {
    let wanted: Vec<(i64, &str, &str)> = host_ports(pod).collect();
    on_node
        .iter()
        .flat_map(|other| host_ports(other))
        .any(|(port, protocol, ip)| {
            wanted
                .iter()
                .any(|(wanted_port, wanted_protocol, wanted_ip)| {
                    let any = |ip: &str| ip.is_empty() || ip == "0.0.0.0";
                    *wanted_port == port
                        && *wanted_protocol == protocol
                        && (any(ip) || any(wanted_ip) || *wanted_ip == ip)
                })
        })
}

fn host_ports(pod: &Value) -> impl Iterator<Item = (i64, &str, &str)> {
    items(pod, "/spec/containers")
        .iter()
        .flat_map(|container| items(container, "/ports"))
        .filter_map(|port| {
            let number = object::int(port, "/hostPort").filter(|number| *number > 0)?;
            let protocol = match text(port, "/protocol") {
                "" => "TCP",
                protocol => protocol,
            };
            Some((number, protocol, text(port, "/hostIP")))
        })
}

fn missing_resources(pod: &Value, node: &Value, on_node: &[&Value]) -> Vec<String> {
    let mut missing = Vec::new();
    let allocatable = |resource: &str| {
        node.pointer("/status/allocatable")
            .and_then(|all| all.get(resource))
            .and_then(quantity_of)
    };
    // Nodes that do not say how many pods they take, take any number.
    if let Some(limit) = allocatable("pods")
        && (on_node.len() as i128 + 1) * 1000 > limit
    {
        missing.push("Too many pods".to_owned());
    }
    for (resource, wanted) in requests(pod) {
        if wanted <= 0 {
            continue;
        }
        let used: i128 = on_node
            .iter()
            .filter_map(|other| requests(other).get(&resource).copied())
            .sum();
        if used.saturating_add(wanted) > allocatable(&resource).unwrap_or(0) {
            missing.push(format!("Insufficient {resource}"));
        }
    }
    missing
}

fn quantity_of(value: &Value) -> Option<i128> {
    match value {
        Value::String(text) => quantity::milli(text),
        Value::Number(number) => quantity::milli(&number.to_string()),
        _ => None,
    }
}

/// What a pod asks for: containers together or the largest init container, whichever is more, plus sidecars and overhead.
pub(crate) fn requests(pod: &Value) -> BTreeMap<String, i128> {
    let of = |value: &Value, pointer: &str| {
        entries(value, pointer)
            .filter_map(|(resource, amount)| Some((resource.clone(), quantity_of(amount)?)))
            .collect::<BTreeMap<String, i128>>()
    };
    let mut total: BTreeMap<String, i128> = BTreeMap::new();
    let add = |total: &mut BTreeMap<String, i128>, more: &BTreeMap<String, i128>| {
        for (resource, amount) in more {
            let sum = total.entry(resource.clone()).or_insert(0);
            *sum = sum.saturating_add(*amount);
        }
    };
    for container in items(pod, "/spec/containers") {
        add(&mut total, &of(container, "/resources/requests"));
    }
    let mut sidecars: BTreeMap<String, i128> = BTreeMap::new();
    let mut peak: BTreeMap<String, i128> = BTreeMap::new();
    for container in items(pod, "/spec/initContainers") {
        let own = of(container, "/resources/requests");
        if text(container, "/restartPolicy") == "Always" {
            add(&mut sidecars, &own);
            add(&mut total, &own);
        } else {
            let mut during = sidecars.clone();
            add(&mut during, &own);
            for (resource, amount) in during {
                let most = peak.entry(resource).or_insert(0);
                *most = amount.max(*most);
            }
        }
    }
    for (resource, amount) in peak {
        let most = total.entry(resource).or_insert(0);
        *most = amount.max(*most);
    }
    // Requests of the whole pod replace what its containers sum up to.
    total.extend(of(pod, "/spec/resources/requests"));
    add(&mut total, &of(pod, "/spec/overhead"));
    total
}

fn spread_obstacle(pod: &Value, node: &Value) -> Option<String> {
    items(pod, "/spec/topologySpreadConstraints")
        .iter()
        .filter(|constraint| text(constraint, "/whenUnsatisfiable") == "DoNotSchedule")
        // With one node every topology has one domain, so no spread is ever uneven; only a missing label can refuse.
        .find(|constraint| label_of(node, text(constraint, "/topologyKey")).is_none())
        .map(|_| {
            "node(s) didn't match pod topology spread constraints (missing required label)"
                .to_owned()
        })
}

fn affinity_obstacle(cache: &Cache, pod: &Value, node: &Value) -> Option<String> {
    const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
    let placed: Vec<(&Value, &Value)> = cache
        .all(&PODS)
        .filter(|other| pods::active(other) || deleting(other))
        .filter(|other| !pods::finished(other))
        .filter_map(|other| {
            let node = cache.get(&NODES, "", text(other, "/spec/nodeName"))?;
            Some((&**other, &**node))
        })
        .collect();
    let same_domain = |term: &Value, other: &Value| {
        let key = text(term, "/topologyKey");
        label_of(node, key).is_some() && label_of(node, key) == label_of(other, key)
    };
    for (other, other_node) in &placed {
        let pointer = format!("/spec/affinity/podAntiAffinity/{REQUIRED}");
        for term in items(other, &pointer) {
            if same_domain(term, other_node) && term_matches(cache, term, other, pod) {
                return Some("node(s) didn't satisfy existing pods anti-affinity rules".to_owned());
            }
        }
    }
    for term in items(pod, &format!("/spec/affinity/podAntiAffinity/{REQUIRED}")) {
        let clash = placed.iter().any(|(other, other_node)| {
            same_domain(term, other_node) && term_matches(cache, term, pod, other)
        });
        if clash {
            return Some("node(s) didn't match pod anti-affinity rules".to_owned());
        }
    }
    for term in items(pod, &format!("/spec/affinity/podAffinity/{REQUIRED}")) {
        let satisfied = placed.iter().any(|(other, other_node)| {
            same_domain(term, other_node) && term_matches(cache, term, pod, other)
        });
        // The first pod of a group that attracts itself has nobody to go to.
        let first = term_matches(cache, term, pod, pod)
            && !placed
                .iter()
                .any(|(other, _)| term_matches(cache, term, pod, other))
            && label_of(node, text(term, "/topologyKey")).is_some();
        if !satisfied && !first {
            return Some("node(s) didn't match pod affinity rules".to_owned());
        }
    }
    None
}

/// Whether an affinity term of `owner` means `other`.
fn term_matches(cache: &Cache, term: &Value, owner: &Value, other: &Value) -> bool {
    let listed = items(term, "/namespaces");
    let selecting = term.get("namespaceSelector");
    let namespace = object::namespace(other);
    let in_scope = if listed.is_empty() && selecting.is_none() {
        namespace == object::namespace(owner)
    } else {
        listed.iter().any(|name| name == namespace)
            || cache
                .get(&NAMESPACES, "", namespace)
                .is_some_and(|namespace| selector::matches(selecting, namespace))
    };
    in_scope && selector::matches(term.get("labelSelector"), other)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::Arc;

    use super::*;
    use crate::api::Gvr;

    fn cluster(objects: Vec<(&Gvr, Value)>) -> Cache {
        let mut cache = Cache::default();
        for (index, (gvr, mut value)) in objects.into_iter().enumerate() {
            value["metadata"]["resourceVersion"] = (index + 1).to_string().into();
            value["metadata"]["uid"] = format!("uid-{index}").into();
            cache.put(gvr, Arc::new(value));
        }
        cache
    }

    fn node() -> Value {
        json!({
            "metadata": {"name": "local", "labels": {"kubernetes.io/hostname": "local", "disk": "ssd"}},
            "spec": {},
            "status": {"allocatable": {"cpu": "2", "memory": "4Gi", "pods": "3"}},
        })
    }

    fn pod(name: &str, spec: &Value) -> Value {
        json!({
            "metadata": {"namespace": "n", "name": name, "labels": {"app": "web"}},
            "spec": spec, "status": {"phase": "Pending"},
        })
    }

    /// `bind`, or the refusal's first sentence.
    fn outcome(cache: &Cache) -> String {
        let key = ObjectKey::new(&PODS, "n", "p");
        let plan = Scheduler.reconcile(cache, &key, Timestamp::UNIX_EPOCH);
        match &plan.actions[..] {
            [Action::Bind { node, .. }, Action::Note(note)] => {
                assert_eq!(note.message, format!("Successfully assigned n/p to {node}"));
                "bind".to_owned()
            }
            [
                Action::Update {
                    object,
                    subresource,
                    ..
                },
                Action::Note(note),
            ] => {
                assert_eq!(*subresource, crate::api::Subresource::Status);
                assert_eq!(text(object, "/status/conditions/0/reason"), "Unschedulable");
                assert_eq!(text(object, "/status/conditions/0/message"), note.message);
                assert_eq!(note.reason, "FailedScheduling");
                let sentence = note.message.split(". no new claims").next().unwrap();
                sentence.to_owned()
            }
            [Action::Update { object, .. }] => {
                format!(
                    "select {}",
                    object::annotation(object, volumes::SELECTED_NODE)
                )
            }
            [] => "wait".to_owned(),
            other => panic!("unexpected {other:?}"),
        }
    }

    #[test]
    fn one_node_takes_or_refuses() {
        let container = |resources: Value| json!([{"name": "c", "resources": resources}]);
        let tainted = || {
            let mut node = node();
            node["spec"]["taints"] =
                json!([{"key": "gpu", "value": "yes", "effect": "NoSchedule"}]);
            node
        };
        let affinity = |operator: &str| {
            json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
                "nodeSelectorTerms": [{"matchExpressions": [{"key": "disk", "operator": operator, "values": ["ssd"]}]}],
            }}}})
        };
        for (node, spec, expected) in [
            (node(), json!({}), "bind"),
            (
                node(),
                json!({"containers": container(json!({"requests": {"cpu": "1500m"}}))}),
                "bind",
            ),
            (
                node(),
                json!({"containers": container(json!({"requests": {"cpu": "3", "memory": "1Ti"}}))}),
                "0/1 nodes are available: 1 Insufficient cpu, 1 Insufficient memory",
            ),
            (
                node(),
                json!({"containers": container(json!({"requests": {"nvidia.com/gpu": "1"}}))}),
                "0/1 nodes are available: 1 Insufficient nvidia.com/gpu",
            ),
            (node(), json!({"nodeSelector": {"disk": "ssd"}}), "bind"),
            (
                node(),
                json!({"nodeSelector": {"disk": "tape"}}),
                "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector",
            ),
            (node(), affinity("In"), "bind"),
            (
                node(),
                affinity("NotIn"),
                "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector",
            ),
            (
                tainted(),
                json!({}),
                "0/1 nodes are available: 1 node(s) had untolerated taint(s) {gpu: yes}",
            ),
            (
                tainted(),
                json!({"tolerations": [{"key": "gpu", "operator": "Equal", "value": "yes", "effect": "NoSchedule"}]}),
                "bind",
            ),
            (
                tainted(),
                json!({"tolerations": [{"operator": "Exists"}]}),
                "bind",
            ),
            (
                node(),
                json!({"topologySpreadConstraints": [{"topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"}]}),
                "0/1 nodes are available: 1 node(s) didn't match pod topology spread constraints (missing required label)",
            ),
        ] {
            let cache = cluster(vec![(&NODES, node), (&PODS, pod("p", &spec))]);
            assert_eq!(outcome(&cache), expected, "{spec}");
        }
        let cache = cluster(vec![(&PODS, pod("p", &json!({})))]);
        assert_eq!(outcome(&cache), "no nodes available to schedule pods");
    }

    #[test]
    fn other_pods_matter() {
        let term = json!([{"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": "web"}}}]);
        let anti = json!({"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": term}}});
        let with = json!({"affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": term}}});
        let placed = json!({"nodeName": "local", "containers": [
            {"name": "c", "resources": {"requests": {"cpu": "1500m"}}, "ports": [{"containerPort": 80, "hostPort": 80}]},
        ]});
        let mut repelling = placed.clone();
        repelling["affinity"] = anti["affinity"].clone();
        for (other, spec, expected) in [
            (
                &placed,
                json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": "1"}}}]}),
                "0/1 nodes are available: 1 Insufficient cpu",
            ),
            (
                &placed,
                json!({"containers": [{"name": "c", "ports": [{"containerPort": 81, "hostPort": 80}]}]}),
                "0/1 nodes are available: 1 node(s) didn't have free ports for the requested pod ports",
            ),
            (
                &placed,
                anti,
                "0/1 nodes are available: 1 node(s) didn't match pod anti-affinity rules",
            ),
            (
                &repelling,
                json!({}),
                "0/1 nodes are available: 1 node(s) didn't satisfy existing pods anti-affinity rules",
            ),
            (&placed, with.clone(), "bind"),
        ] {
            let cache = cluster(vec![
                (&NODES, node()),
                (&PODS, pod("other", other)),
                (&PODS, pod("p", &spec)),
            ]);
            assert_eq!(outcome(&cache), expected, "{spec}");
        }
        // The first of a group that attracts itself.
        let cache = cluster(vec![(&NODES, node()), (&PODS, pod("p", &with))]);
        assert_eq!(outcome(&cache), "bind");
    }

    #[test]
    fn claims_are_waited_for() {
        let spec =
            json!({"volumes": [{"name": "d", "persistentVolumeClaim": {"claimName": "data"}}]});
        let claim = |class: &str, phase: &str, volume: &str, selected: &str| {
            let mut claim = json!({
                "metadata": {"namespace": "n", "name": "data", "annotations": {volumes::SELECTED_NODE: selected}},
                "spec": {"storageClassName": class},
                "status": {"phase": phase},
            });
            if !volume.is_empty() {
                claim["spec"]["volumeName"] = volume.into();
            }
            claim
        };
        let class =
            json!({"metadata": {"name": "late"}, "volumeBindingMode": "WaitForFirstConsumer"});
        let volume = json!({"metadata": {"name": "v"}, "spec": {}});
        for (claim, expected) in [
            (
                None,
                "0/1 nodes are available: persistentvolumeclaim \"data\" not found",
            ),
            (
                Some(claim("fast", "Pending", "", "")),
                "0/1 nodes are available: pod has unbound immediate PersistentVolumeClaims",
            ),
            (Some(claim("late", "Pending", "", "")), "select local"),
            (Some(claim("late", "Pending", "", "local")), "wait"),
            (Some(claim("late", "Pending", "v", "local")), "wait"),
            (Some(claim("late", "Bound", "v", "local")), "bind"),
        ] {
            let mut objects = vec![
                (&NODES, node()),
                (&STORAGE_CLASSES, class.clone()),
                (&PERSISTENT_VOLUMES, volume.clone()),
                (&PODS, pod("p", &spec)),
            ];
            if let Some(claim) = claim {
                objects.push((&PERSISTENT_VOLUME_CLAIMS, claim));
            }
            assert_eq!(outcome(&cluster(objects)), expected);
        }
    }

    #[test]
    fn requests_count_the_most_a_pod_needs_at_once() {
        let container = |cpu: &str| json!({"resources": {"requests": {"cpu": cpu}}});
        let mut sidecar = container("100m");
        sidecar["restartPolicy"] = "Always".into();
        let pod = json!({"spec": {
            "containers": [container("200m"), container("300m")],
            "initContainers": [sidecar, container("700m")],
            "overhead": {"cpu": "10m"},
        }});
        assert_eq!(requests(&pod)["cpu"], 810);
        let cheap =
            json!({"spec": {"containers": [container("1")], "initContainers": [container("1m")]}});
        assert_eq!(requests(&cheap)["cpu"], 1000);
    }

    #[test]
    fn a_refusal_is_said_once() {
        let mut cache = cluster(vec![
            (&NODES, node()),
            (&PODS, pod("p", &json!({"nodeSelector": {"disk": "tape"}}))),
        ]);
        let key = ObjectKey::new(&PODS, "n", "p");
        let plan = Scheduler.reconcile(&cache, &key, Timestamp::UNIX_EPOCH);
        let Action::Update { object, .. } = &plan.actions[0] else {
            panic!("a status update")
        };
        let mut object = object.clone();
        object["metadata"]["resourceVersion"] = "9".into();
        cache.put(&PODS, Arc::new(object));
        assert_eq!(
            Scheduler.reconcile(&cache, &key, Timestamp::UNIX_EPOCH),
            Plan::default()
        );
    }
}
