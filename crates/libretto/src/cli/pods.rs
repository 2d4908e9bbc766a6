//! Finds the pod that a person means: by its name, or through a workload or service.

use std::collections::BTreeSet;

use kube::api::ListParams;
use libretto_actions::kube::CallError;
use libretto_api::object::{Gvk, INSTANCE_LABEL};
use serde_json::Value;

use crate::cli::{
    CliError,
    connect::Cluster,
    kinds::{self, Kinds},
};

/// The pod named by `NAME`, `pod/NAME`, or the first ready one behind `svc/NAME`, `sts/NAME`, `rediscluster/NAME`, ….
pub(crate) async fn find(cluster: &Cluster, word: &str) -> Result<Value, CliError> {
    let gvk = Gvk::new("", "v1", "Pod");
    let (kind, name) = word.split_once('/').unwrap_or(("pod", word));
    if matches!(kind, "pod" | "pods" | "po") {
        let target = libretto_api::object::ObjectRef {
            gvk,
            namespace: cluster.namespace.clone(),
            name: name.to_owned(),
        };
        return cluster
            .kube
            .get(&target)
            .await
            .map_err(|error| CliError::call(&format!("read {target}"), &error))?
            .ok_or_else(|| {
                CliError::failed(format!("pod {}/{name} does not exist", cluster.namespace))
                    .hint("`libretto get pods` lists them; -n names another namespace")
            });
    }
    let known = Kinds::discover(&cluster.kube).await?;
    let target = kinds::object(known.find(kind)?, &cluster.namespace, name);
    let object = cluster
        .kube
        .get(&target)
        .await
        .map_err(|error| CliError::call(&format!("read {target}"), &error))?
        .ok_or_else(|| CliError::failed(format!("{target} does not exist")))?;
    let params = match selector(&object) {
        Some(selector) => ListParams::default().labels(&selector),
        None if object["kind"] == "Service" => {
            return Err(
                CliError::failed(format!("{target} selects no pods")).hint("name a pod instead")
            );
        }
        None => ListParams::default(),
    };
    let pods = items(cluster, &gvk, &params).await?;
    let pods: Vec<&Value> = if selector(&object).is_some() {
        pods.iter().collect()
    } else {
        let mut workloads = Vec::new();
        for (group, kind) in WORKLOADS {
            let gvk = Gvk::new(group, "v1", kind);
            workloads.extend(items(cluster, &gvk, &ListParams::default()).await?);
        }
        let owners = owners(&object, &workloads);
        pods.iter().filter(|pod| owned(pod, &owners)).collect()
    };
    let chosen = choose(&pods).ok_or_else(|| {
        CliError::failed(format!("{target} has no pods yet"))
            .hint("`libretto get pods` lists what there is")
    })?;
    if pods.len() > 1 {
        use std::io::Write as _;
        // Said beside the output, for a person; whoever closed standard error does not want to know.
        let _ = writeln!(
            anstream::stderr(),
            "pod {} of the {} of {word}",
            self::name(chosen),
            pods.len()
        );
    }
    Ok(chosen.clone())
}

/// What may stand between an instance and its pods.
const WORKLOADS: [(&str, &str); 5] = [
    ("apps", "StatefulSet"),
    ("apps", "Deployment"),
    ("apps", "ReplicaSet"),
    ("apps", "DaemonSet"),
    ("batch", "Job"),
];

/// Objects of a kind in the namespace; none where the cluster does not serve the kind.
async fn items(cluster: &Cluster, gvk: &Gvk, params: &ListParams) -> Result<Vec<Value>, CliError> {
    match cluster.kube.list(gvk, &cluster.namespace, params).await {
        Ok(mut list) => match list["items"].take() {
            Value::Array(items) => Ok(items),
            _ => Ok(Vec::new()),
        },
        Err(CallError::NotServed(_)) => Ok(Vec::new()),
        Err(error) => Err(CliError::call(&format!("list {}", gvk.kind), &error)),
    }
}

/// Uids of the object and of every workload that is its own, directly or through another: by owner reference, or by the label that the
/// runtime puts on what it makes.
fn owners(object: &Value, workloads: &[Value]) -> BTreeSet<String> {
    let mut owners: BTreeSet<String> = object["metadata"]["uid"]
        .as_str()
        .map(str::to_owned)
        .into_iter()
        .collect();
    loop {
        let found: Vec<String> = workloads
            .iter()
            .filter(|workload| owned(workload, &owners))
            .filter_map(|workload| workload["metadata"]["uid"].as_str().map(str::to_owned))
            .filter(|uid| !owners.contains(uid))
            .collect();
        if found.is_empty() {
            return owners;
        }
        owners.extend(found);
    }
}

fn owned(object: &Value, owners: &BTreeSet<String>) -> bool {
    let metadata = &object["metadata"];
    let known = |uid: &Value| uid.as_str().is_some_and(|uid| owners.contains(uid));
    known(&metadata["labels"][INSTANCE_LABEL])
        || metadata["ownerReferences"]
            .as_array()
            .into_iter()
            .flatten()
            .any(|owner| known(&owner["uid"]))
}

/// The first ready pod, else the first running one, else the first that is not being deleted.
pub(crate) fn choose<'a>(pods: &[&'a Value]) -> Option<&'a Value> {
    let ready = |pod: &Value| {
        pod["status"]["conditions"]
            .as_array()
            .into_iter()
            .flatten()
            .any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
    };
    pods.iter()
        .filter(|pod| pod["metadata"]["deletionTimestamp"].is_null())
        .min_by_key(|pod| {
            if ready(pod) {
                0
            } else {
                1 + u8::from(pod["status"]["phase"] != "Running")
            }
        })
        .copied()
}

/// The label selector by which a workload or Service finds its pods; an instance of a package has none.
fn selector(object: &Value) -> Option<String> {
    let selector = &object["spec"]["selector"];
    let labels = match selector["matchLabels"].as_object() {
        Some(labels) => labels,
        None if object["kind"] == "Service" => selector.as_object()?,
        None => return None,
    };
    let pairs: Vec<String> = labels
        .iter()
        .filter_map(|(key, value)| Some(format!("{key}={}", value.as_str()?)))
        .collect();
    (!pairs.is_empty()).then(|| pairs.join(","))
}

pub(crate) fn name(pod: &Value) -> &str {
    pod["metadata"]["name"].as_str().unwrap_or_default()
}

/// The container to talk to: the named one, the one the pod's annotation prefers, or the first.
pub(crate) fn container(pod: &Value, asked: Option<&str>) -> Result<String, CliError> {
    let containers: Vec<&str> = ["containers", "initContainers"]
        .iter()
        .flat_map(|field| pod["spec"][field].as_array().into_iter().flatten())
        .filter_map(|container| container["name"].as_str())
        .collect();
    let preferred =
        pod["metadata"]["annotations"]["kubectl.kubernetes.io/default-container"].as_str();
    let wanted = asked.or(preferred).or_else(|| containers.first().copied());
    match wanted {
        Some(wanted) if containers.contains(&wanted) => Ok(wanted.to_owned()),
        Some(wanted) => Err(CliError::failed(format!(
            "pod {} has no container {wanted:?}; it has {}",
            name(pod),
            containers.join(", ")
        ))),
        None => Err(CliError::failed(format!(
            "pod {} has no containers",
            name(pod)
        ))),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    #[test]
    fn selectors_of_workloads_and_services() {
        for (object, expected) in [
            (
                json!({"kind": "StatefulSet", "spec": {"selector": {"matchLabels": {"a": "b", "c": "d"}}}}),
                Some("a=b,c=d"),
            ),
            (
                json!({"kind": "Service", "spec": {"selector": {"a": "b"}}}),
                Some("a=b"),
            ),
            (json!({"kind": "Service", "spec": {}}), None),
            (
                json!({"kind": "RedisCluster", "metadata": {"uid": "u"}, "spec": {}}),
                None,
            ),
        ] {
            assert_eq!(selector(&object).as_deref(), expected, "{object}");
        }
    }

    #[test]
    fn an_instances_pods_are_those_of_its_workloads() {
        let instance = json!({"kind": "RedisCluster", "metadata": {"uid": "cr"}});
        let workloads = [
            json!({"metadata": {"uid": "rs", "ownerReferences": [{"uid": "deploy"}]}}),
            json!({"metadata": {"uid": "sts", "labels": {"libretto.dev/instance": "cr"}}}),
            json!({"metadata": {"uid": "deploy", "ownerReferences": [{"uid": "cr"}]}}),
            json!({"metadata": {"uid": "other", "labels": {"libretto.dev/instance": "no"}}}),
        ];
        let owners = owners(&instance, &workloads);
        assert_eq!(
            owners.iter().collect::<Vec<_>>(),
            ["cr", "deploy", "rs", "sts"]
        );
        assert!(owned(
            &json!({"metadata": {"ownerReferences": [{"uid": "rs"}]}}),
            &owners
        ));
        assert!(!owned(
            &json!({"metadata": {"ownerReferences": [{"uid": "other"}]}}),
            &owners
        ));
    }

    #[test]
    fn the_first_ready_pod_is_chosen() {
        let pod = |name: &str, phase: &str, ready: &str| json!({"metadata": {"name": name}, "status": {"phase": phase, "conditions": [{"type": "Ready", "status": ready}]}});
        let mut leaving = pod("leaving", "Running", "True");
        leaving["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        let (waiting, running) = (pod("w", "Pending", "False"), pod("r", "Running", "False"));
        let (ready, second) = (pod("a", "Running", "True"), pod("b", "Running", "True"));
        for (pods, expected) in [
            (
                vec![&leaving, &waiting, &running, &ready, &second],
                Some("a"),
            ),
            (vec![&leaving, &waiting, &running], Some("r")),
            (vec![&leaving, &waiting], Some("w")),
            (vec![&leaving], None),
        ] {
            assert_eq!(choose(&pods).map(name), expected);
        }
    }

    #[test]
    fn the_container_is_named_preferred_or_first() {
        let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "redis"}, {"name": "exporter"}]}});
        assert_eq!(container(&pod, None).unwrap(), "redis");
        assert_eq!(container(&pod, Some("exporter")).unwrap(), "exporter");
        let error = container(&pod, Some("web")).unwrap_err().to_string();
        assert_eq!(
            error,
            "pod p has no container \"web\"; it has redis, exporter"
        );
    }
}
