//! Defaults that depend on other fields of the same value.

use base64::Engine as _;
use serde_json::{Map, Value, json};

type Function = fn(&mut Value);

pub(super) const FUNCTIONS: &[(&str, Function)] = &[
    ("core.v1.Container", image_pull_policy),
    ("core.v1.EphemeralContainer", image_pull_policy),
    ("core.v1.Pod", requests_of_containers),
    ("core.v1.PodSpec", host_ports),
    ("core.v1.Volume", volume_source),
    ("core.v1.Service", service),
    ("core.v1.ServicePort", target_port),
    ("core.v1.Secret", string_data),
    ("core.v1.Namespace", namespace_label),
    ("core.v1.Node", allocatable),
    ("apps.v1.Deployment", rolling_deployment),
    ("apps.v1.StatefulSet", rolling_stateful_set),
    ("apps.v1.StatefulSet", claim_templates),
    ("apps.v1.DaemonSet", rolling_daemon_set),
    ("batch.v1.Job", job),
    ("networking.v1.NetworkPolicy", policy_types),
    ("rbac.v1.Subject", subject_group),
    (
        "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.CustomResourceDefinition",
        definition_names,
    ),
];

fn text<'v>(value: &'v Value, key: &str) -> &'v str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

/// The object at `key`, created if absent; `None` if something else is there.
fn object<'v>(value: &'v mut Value, key: &str) -> Option<&'v mut Map<String, Value>> {
    value
        .as_object_mut()?
        .entry(key.to_owned())
        .or_insert_with(|| json!({}))
        .as_object_mut()
}

fn fill(object: &mut Map<String, Value>, key: &str, default: impl Into<Value>) {
    if object.get(key).is_none_or(Value::is_null) {
        object.insert(key.to_owned(), default.into());
    }
}

/// `latest` may change under its name, everything else is taken to stay.
fn image_pull_policy(container: &mut Value) {
    let image = text(container, "image").to_owned();
    if image.is_empty() || !text(container, "imagePullPolicy").is_empty() {
        return;
    }
    let (name, digest) = image
        .split_once('@')
        .map_or((image.as_str(), false), |(name, _)| (name, true));
    let last = name.rsplit('/').next().unwrap_or(name);
    let tag = last.split_once(':').map(|(_, tag)| tag);
    let moving = match tag {
        Some(tag) => tag == "latest",
        None => !digest,
    };
    container["imagePullPolicy"] = if moving { "Always" } else { "IfNotPresent" }.into();
}

/// Of pods only: in templates upstream leaves the requests to the pods that come of them.
fn requests_of_containers(pod: &mut Value) {
    for list in ["containers", "initContainers"] {
        for container in pod["spec"]
            .get_mut(list)
            .and_then(Value::as_array_mut)
            .into_iter()
            .flatten()
        {
            requests_from_limits(container);
        }
    }
}

fn requests_from_limits(container: &mut Value) {
    let Some(limits) = container["resources"]["limits"].as_object().cloned() else {
        return;
    };
    if let Some(requests) = container
        .get_mut("resources")
        .and_then(|resources| object(resources, "requests"))
    {
        for (name, limit) in limits {
            fill(requests, &name, limit);
        }
    }
}

/// On the host network a port of the container is a port of the host.
fn host_ports(spec: &mut Value) {
    if spec["hostNetwork"] != true {
        return;
    }
    for list in ["containers", "initContainers"] {
        for container in spec
            .get_mut(list)
            .and_then(Value::as_array_mut)
            .into_iter()
            .flatten()
        {
            for port in container
                .get_mut("ports")
                .and_then(Value::as_array_mut)
                .into_iter()
                .flatten()
            {
                let number = port["containerPort"].clone();
                if let Some(port) = port.as_object_mut() {
                    fill(port, "hostPort", number);
                }
            }
        }
    }
}

fn volume_source(volume: &mut Value) {
    let sources = volume
        .as_object()
        .is_some_and(|volume| volume.keys().any(|key| key != "name"));
    if !sources {
        volume["emptyDir"] = json!({});
    }
}

fn service(service: &mut Value) {
    let Some(spec) = service.get_mut("spec").filter(|spec| spec.is_object()) else {
        return;
    };
    let kind = text(spec, "type").to_owned();
    let affinity = text(spec, "sessionAffinity") == "ClientIP";
    if affinity && let Some(client) = object(spec, "sessionAffinityConfig") {
        let client = client.entry("clientIP").or_insert_with(|| json!({}));
        if let Some(client) = client.as_object_mut() {
            // Three hours.
            fill(client, "timeoutSeconds", 10800);
        }
    }
    let Some(spec) = spec.as_object_mut() else {
        return;
    };
    if matches!(
        kind.as_str(),
        "" | "ClusterIP" | "NodePort" | "LoadBalancer"
    ) {
        fill(spec, "internalTrafficPolicy", "Cluster");
    }
    if matches!(kind.as_str(), "NodePort" | "LoadBalancer") {
        fill(spec, "externalTrafficPolicy", "Cluster");
    }
    if kind == "LoadBalancer" {
        fill(spec, "allocateLoadBalancerNodePorts", true);
    }
}

fn target_port(port: &mut Value) {
    let number = port["port"].clone();
    let absent = matches!(&port["targetPort"], Value::Null)
        || port["targetPort"] == ""
        || port["targetPort"] == 0;
    if absent && number.is_number() {
        port["targetPort"] = number;
    }
}

/// `stringData` is for writing only; it ends up in `data`.
fn string_data(secret: &mut Value) {
    let Some(Value::Object(plain)) = secret
        .as_object_mut()
        .and_then(|secret| secret.remove("stringData"))
    else {
        return;
    };
    if let Some(data) = object(secret, "data") {
        for (key, value) in plain {
            if let Some(value) = value.as_str() {
                data.insert(
                    key,
                    base64::engine::general_purpose::STANDARD
                        .encode(value)
                        .into(),
                );
            }
        }
    }
}

fn namespace_label(namespace: &mut Value) {
    let name = text(&namespace["metadata"], "name").to_owned();
    if name.is_empty() {
        return;
    }
    if let Some(labels) = namespace
        .get_mut("metadata")
        .and_then(|metadata| object(metadata, "labels"))
    {
        fill(labels, "kubernetes.io/metadata.name", name);
    }
}

fn allocatable(node: &mut Value) {
    let Some(capacity) = node["status"]["capacity"].as_object().cloned() else {
        return;
    };
    if let Some(status) = object(node, "status") {
        fill(status, "allocatable", capacity);
    }
}

/// The strategy object at `key`, when its type is RollingUpdate or not given.
fn rolling<'v>(workload: &'v mut Value, key: &str) -> Option<&'v mut Map<String, Value>> {
    let spec = workload.get_mut("spec").filter(|spec| spec.is_object())?;
    let strategy = object(spec, key)?;
    let kind = strategy
        .get("type")
        .and_then(Value::as_str)
        .unwrap_or_default();
    if !matches!(kind, "" | "RollingUpdate") {
        return None;
    }
    strategy
        .entry("rollingUpdate")
        .or_insert_with(|| json!({}))
        .as_object_mut()
}

fn rolling_deployment(deployment: &mut Value) {
    if let Some(rolling) = rolling(deployment, "strategy") {
        fill(rolling, "maxUnavailable", "25%");
        fill(rolling, "maxSurge", "25%");
    }
}

fn rolling_stateful_set(set: &mut Value) {
    if let Some(rolling) = rolling(set, "updateStrategy") {
        fill(rolling, "partition", 0);
    }
}

fn rolling_daemon_set(set: &mut Value) {
    if let Some(rolling) = rolling(set, "updateStrategy") {
        fill(rolling, "maxUnavailable", 1);
        fill(rolling, "maxSurge", 0);
    }
}

fn claim_templates(set: &mut Value) {
    let templates = set["spec"]
        .get_mut("volumeClaimTemplates")
        .and_then(Value::as_array_mut);
    for template in templates.into_iter().flatten() {
        if let Some(template) = template.as_object_mut() {
            fill(template, "apiVersion", "v1");
            fill(template, "kind", "PersistentVolumeClaim");
        }
    }
}

fn job(job: &mut Value) {
    let labels = job["spec"]["template"]["metadata"]["labels"].clone();
    let Some(spec) = job.get_mut("spec").and_then(Value::as_object_mut) else {
        return;
    };
    // A job without either number is one pod to completion; with parallelism alone it is a work queue.
    if spec.get("completions").is_none() && spec.get("parallelism").is_none() {
        spec.insert("completions".to_owned(), 1.into());
    }
    let policy = if spec.contains_key("podFailurePolicy") {
        "Failed"
    } else {
        "TerminatingOrFailed"
    };
    fill(spec, "podReplacementPolicy", policy);
    let given = job["metadata"]["labels"]
        .as_object()
        .is_some_and(|labels| !labels.is_empty());
    if !given
        && labels.is_object()
        && let Some(metadata) = object(job, "metadata")
    {
        metadata.insert("labels".to_owned(), labels);
    }
}

fn policy_types(policy: &mut Value) {
    let Some(spec) = policy.get_mut("spec").and_then(Value::as_object_mut) else {
        return;
    };
    if spec.get("policyTypes").is_none() {
        let mut types = vec!["Ingress"];
        if spec
            .get("egress")
            .and_then(Value::as_array)
            .is_some_and(|rules| !rules.is_empty())
        {
            types.push("Egress");
        }
        spec.insert("policyTypes".to_owned(), types.into());
    }
}

fn subject_group(subject: &mut Value) {
    let people = matches!(text(subject, "kind"), "User" | "Group");
    if let Some(subject) = subject.as_object_mut()
        && people
    {
        fill(subject, "apiGroup", "rbac.authorization.k8s.io");
    }
}

fn definition_names(definition: &mut Value) {
    let kind = text(&definition["spec"]["names"], "kind").to_owned();
    if let Some(names) = definition["spec"]
        .get_mut("names")
        .and_then(Value::as_object_mut)
        && !kind.is_empty()
    {
        fill(names, "singular", kind.to_lowercase());
        fill(names, "listKind", format!("{kind}List"));
    }
}
