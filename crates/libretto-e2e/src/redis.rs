//! A RedisCluster as its users see it: what it says of itself, and whether clients can rely on it.

use std::{collections::BTreeMap, time::Duration};

use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, Client, ResourceExt as _,
    api::{
        ApiResource, DeleteParams, DynamicObject, GroupVersionKind, LogParams, Patch, PatchParams,
    },
};
use serde_json::{Value, json};

use crate::{Failure, Step, cluster::Cluster, pods, wait};

/// Redis port of every pod.
const PORT: &str = "6379";

/// Longest time any single fault may take to heal before a scenario gives up.
pub const HEALING: Duration = Duration::from_secs(120);

/// One RedisCluster in the scenario's namespace.
#[derive(Clone)]
#[expect(
    missing_debug_implementations,
    reason = "a Kubernetes client has nothing to show"
)]
pub struct Redis {
    pub client: Client,
    pub name: String,
    pub password: Option<String>,
    annotations: Value,
}

/// One Redis node as it answers for itself.
#[derive(Debug, Clone)]
pub struct Node {
    pub pod: String,
    pub ip: String,
    pub info: BTreeMap<String, String>,
}

impl Node {
    pub fn is_master(&self) -> bool {
        self.info.get("role").is_some_and(|role| role == "master")
    }
}

impl Redis {
    /// Applies the custom resource and returns a handle on it.
    pub async fn apply(cluster: &Cluster, name: &str, spec: Value) -> Step<Self> {
        let redis = Self {
            client: cluster.client().await?,
            name: name.to_owned(),
            password: spec["password"].as_str().map(str::to_owned),
            annotations: cluster.scope(),
        };
        // A fresh program serves the Kind a moment after the API.
        wait::until("RedisCluster is served", HEALING, || async {
            redis.change(spec.clone()).await
        })
        .await?;
        Ok(redis)
    }

    /// The same resource for a client that knows no password.
    #[must_use]
    pub fn without_password(&self) -> Self {
        Self {
            password: None,
            ..self.clone()
        }
    }

    /// The same resource, after the cluster's address changed.
    pub async fn again(self, cluster: &Cluster) -> Step<Self> {
        Ok(Self {
            client: cluster.client().await?,
            ..self
        })
    }

    /// Server-side applies another spec.
    pub async fn change(&self, spec: Value) -> Step {
        let object = json!({
            "apiVersion": "redis.kun/v1beta1",
            "kind": "RedisCluster",
            "metadata": {"name": self.name, "annotations": self.annotations},
            "spec": spec,
        });
        self.api()
            .patch(
                &self.name,
                &PatchParams::apply("libretto-e2e").force(),
                &Patch::Apply(object),
            )
            .await?;
        Ok(())
    }

    pub async fn delete(&self) -> Step {
        self.api()
            .delete(&self.name, &DeleteParams::default())
            .await?;
        wait::until("the RedisCluster is gone", HEALING, || async {
            match self.api().get_opt(&self.name).await? {
                None => Ok(()),
                Some(_) => Err("it is still there".into()),
            }
        })
        .await?;
        Ok(())
    }

    pub fn api(&self) -> Api<DynamicObject> {
        let kind = GroupVersionKind::gvk("redis.kun", "v1beta1", "RedisCluster");
        Api::default_namespaced_with(
            self.client.clone(),
            &ApiResource::from_gvk_with_plural(&kind, "redisclusters"),
        )
    }

    /// Waits until the resource says Healthy for its current generation, and clients agree.
    pub async fn healthy(&self, size: usize) -> Step<Duration> {
        let (_, waited) = wait::until(
            &format!("{} is healthy with {size} nodes", self.name),
            HEALING,
            || async {
                let object = self.api().get(&self.name).await?;
                let status = &object.data["status"];
                let observed = status["observedGeneration"].as_i64();
                if observed != object.metadata.generation {
                    return Err(format!(
                        "observedGeneration is {observed:?}, generation {:?}",
                        object.metadata.generation
                    )
                    .into());
                }
                let first = &status["conditions"][0];
                if first["type"] != "Healthy" || first["status"] != "True" {
                    return Err(format!("its first condition is {first}").into());
                }
                self.consistent(size).await
            },
        )
        .await?;
        Ok(waited)
    }

    /// Exactly one master, `size - 1` linked replicas of it, and every Sentinel names it.
    pub async fn consistent(&self, size: usize) -> Step {
        let nodes = self.nodes().await?;
        if nodes.len() != size {
            return Err(format!("{} nodes answer, expected {size}", nodes.len()).into());
        }
        let masters: Vec<&Node> = nodes.iter().filter(|node| node.is_master()).collect();
        let [master] = masters.as_slice() else {
            return Err(format!("{} masters", masters.len()).into());
        };
        for node in nodes.iter().filter(|node| !node.is_master()) {
            if node.info.get("master_host") != Some(&master.ip) {
                return Err(format!(
                    "{} follows {:?}, not {}",
                    node.pod,
                    node.info.get("master_host"),
                    master.ip
                )
                .into());
            }
            if node
                .info
                .get("master_link_status")
                .is_none_or(|link| link != "up")
            {
                return Err(format!("{} has no link to its master", node.pod).into());
            }
        }
        for (pod, address) in self.sentinel_views().await? {
            if address != master.ip {
                return Err(format!("{pod} names {address}, not {}", master.ip).into());
            }
        }
        Ok(())
    }

    pub async fn redis_pods(&self) -> Step<Vec<Pod>> {
        self.component("redis").await
    }

    pub async fn sentinel_pods(&self) -> Step<Vec<Pod>> {
        self.component("sentinel").await
    }

    async fn component(&self, component: &str) -> Step<Vec<Pod>> {
        pods::labelled(
            &self.client,
            &format!(
                "app.kubernetes.io/component={component},app.kubernetes.io/name={}",
                self.name
            ),
        )
        .await
    }

    /// Every Redis pod's own answer.
    pub async fn nodes(&self) -> Step<Vec<Node>> {
        let mut nodes = Vec::new();
        for pod in self.redis_pods().await? {
            let (name, ip) = identity(&pod)?;
            let text = self.command(&name, &["INFO", "replication"]).await?;
            let info = text
                .lines()
                .filter_map(|line| line.split_once(':'))
                .map(|(key, value)| (key.to_owned(), value.trim().to_owned()))
                .collect();
            nodes.push(Node {
                pod: name,
                ip,
                info,
            });
        }
        Ok(nodes)
    }

    pub async fn master(&self) -> Step<Node> {
        let mut masters: Vec<Node> = self
            .nodes()
            .await?
            .into_iter()
            .filter(Node::is_master)
            .collect();
        match (masters.pop(), masters.is_empty()) {
            (Some(master), true) => Ok(master),
            _ => Err("there is not exactly one master".into()),
        }
    }

    /// Runs a Redis command in a Redis pod, against that pod's own server.
    pub async fn command(&self, pod: &str, arguments: &[&str]) -> Step<String> {
        let ip = self.ip_of(pod).await?;
        let mut command = vec![
            "redis-cli",
            "--no-auth-warning",
            "-h",
            ip.as_str(),
            "-p",
            PORT,
        ];
        if let Some(password) = &self.password {
            command.extend(["-a", password]);
        }
        command.extend(arguments);
        let answer = pods::exec(&self.client, pod, &command).await?;
        let answer = answer.trim_end().to_owned();
        if [
            "ERR",
            "NOAUTH",
            "WRONGPASS",
            "READONLY",
            "NOREPLICAS",
            "LOADING",
            "MASTERDOWN",
        ]
        .iter()
        .any(|word| answer.starts_with(word))
        {
            return Err(format!("{} on {pod}: {answer}", arguments.join(" ")).into());
        }
        Ok(answer)
    }

    /// What a client does: asks the Sentinel Service for the master, then sends the command there.
    pub async fn through_sentinel(&self, arguments: &[&str]) -> Step<String> {
        let service = format!("redis-sentinel-{}", self.name);
        // Any pod will do as the client's place; a Sentinel pod has redis-cli and the cluster's DNS.
        let pod = self
            .sentinel_pods()
            .await?
            .into_iter()
            .find(is_ready)
            .ok_or("no Sentinel pod is ready")?;
        let (pod, _) = identity(&pod)?;
        let ask = [
            "redis-cli",
            "-h",
            &service,
            "-p",
            "26379",
            "SENTINEL",
            "get-master-addr-by-name",
            "mymaster",
        ];
        let answer = pods::exec(&self.client, &pod, &ask).await?;
        let address = answer
            .lines()
            .next()
            .ok_or("Sentinel knows no master")?
            .trim()
            .to_owned();
        let mut command = vec![
            "redis-cli",
            "--no-auth-warning",
            "-h",
            address.as_str(),
            "-p",
            PORT,
        ];
        if let Some(password) = &self.password {
            command.extend(["-a", password]);
        }
        command.extend(arguments);
        Ok(pods::exec(&self.client, &pod, &command)
            .await?
            .trim_end()
            .to_owned())
    }

    /// Writes a key through Sentinel, retrying while a failover runs.
    pub async fn write(&self, key: &str, value: &str) -> Step<Duration> {
        let (_, waited) = wait::until("a write through Sentinel", HEALING, || async {
            match self.through_sentinel(&["SET", key, value]).await?.as_str() {
                "OK" => Ok(()),
                other => Err(Failure::from(format!("SET answered {other}"))),
            }
        })
        .await?;
        Ok(waited)
    }

    pub async fn read(&self, key: &str) -> Step<String> {
        self.through_sentinel(&["GET", key]).await
    }

    /// What each node says of itself and of a key, and the last lines of every log; for failures.
    pub async fn report(&self, key: &str) -> String {
        use std::fmt::Write as _;
        let mut report = String::new();
        let mut pods = self.redis_pods().await.unwrap_or_default();
        for pod in &pods {
            let Ok((name, _)) = identity(pod) else {
                continue;
            };
            for question in [&["GET", key][..], &["ROLE"], &["INFO", "replication"]] {
                let answer = match self.command(&name, question).await {
                    Ok(answer) => answer,
                    Err(failure) => failure.to_string(),
                };
                let answer = answer.replace(['\r', '\n'], " ");
                let _ = writeln!(report, "{name} {}: {answer}", question.join(" "));
            }
        }
        pods.extend(self.sentinel_pods().await.unwrap_or_default());
        let api: Api<Pod> = Api::default_namespaced(self.client.clone());
        for pod in &pods {
            for previous in [true, false] {
                let container = if pod.name_any().starts_with("redis-sentinel") {
                    "sentinel"
                } else {
                    "redis"
                };
                let options = LogParams {
                    container: Some(container.to_owned()),
                    tail_lines: Some(40),
                    previous,
                    timestamps: true,
                    ..LogParams::default()
                };
                if let Ok(log) = api.logs(&pod.name_any(), &options).await {
                    let _ = writeln!(
                        report,
                        "--- {} (previous: {previous})\n{log}",
                        pod.name_any()
                    );
                }
            }
        }
        report
    }

    /// Which master each Sentinel names.
    async fn sentinel_views(&self) -> Step<Vec<(String, String)>> {
        let mut views = Vec::new();
        for pod in self.sentinel_pods().await? {
            let (name, ip) = identity(&pod)?;
            let ask = [
                "redis-cli",
                "-h",
                &ip,
                "-p",
                "26379",
                "SENTINEL",
                "get-master-addr-by-name",
                "mymaster",
            ];
            let answer = pods::exec(&self.client, &name, &ask).await?;
            views.push((
                name,
                answer
                    .lines()
                    .next()
                    .unwrap_or("no master")
                    .trim()
                    .to_owned(),
            ));
        }
        Ok(views)
    }

    async fn ip_of(&self, pod: &str) -> Step<String> {
        let pods: Api<Pod> = Api::default_namespaced(self.client.clone());
        identity(&pods.get(pod).await?).map(|(_, ip)| ip)
    }
}

/// Name and address of a pod.
pub fn identity(pod: &Pod) -> Step<(String, String)> {
    let name = pod.metadata.name.clone().ok_or("a pod has no name")?;
    let ip = pod
        .status
        .as_ref()
        .and_then(|status| status.pod_ip.clone())
        .ok_or_else(|| format!("pod {name} has no address yet"))?;
    Ok((name, ip))
}

/// Whether the pod's Ready condition is True.
pub fn is_ready(pod: &Pod) -> bool {
    pod.status
        .as_ref()
        .and_then(|status| status.conditions.as_ref())
        .is_some_and(|conditions| {
            conditions
                .iter()
                .any(|condition| condition.type_ == "Ready" && condition.status == "True")
        })
}

/// Restarts and identity of every pod: equal before and after means that nothing was restarted.
pub fn incarnations(pods: &[Pod]) -> Vec<(String, i32)> {
    pods.iter()
        .map(|pod| {
            let restarts = pod
                .status
                .as_ref()
                .and_then(|status| status.container_statuses.as_ref())
                .map_or(0, |containers| {
                    containers
                        .iter()
                        .map(|container| container.restart_count)
                        .sum()
                });
            (pod.metadata.uid.clone().unwrap_or_default(), restarts)
        })
        .collect()
}
