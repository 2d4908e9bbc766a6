//! An installation on a real cluster, from `helm install` to `helm uninstall` and back, with a namespaced one beside it.
//!
//! Runs only when `LIBRETTO_KUBECONFIG` names a cluster (`cargo xtask kubernetes up` makes one): it needs a kubelet, which the embedded
//! cluster is not. `LIBRETTO_IMAGE` is the image, `REPOSITORY:TAG`. No other operator may take the cluster's RedisClusters meanwhile.

use std::{
    collections::BTreeMap,
    io::Write as _,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use k8s_openapi::{
    api::{
        apps::v1::Deployment,
        core::v1::{Namespace, Pod},
    },
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{
    Client, Config,
    api::{
        Api, ApiResource, DeleteParams, DynamicObject, GroupVersionKind, ListParams, LogParams,
        Patch, PatchParams,
    },
    config::{KubeConfigOptions, Kubeconfig},
};
use libretto_e2e::{Step, cluster, wait};
use serde_json::{Value, json};

/// Images are pulled and volumes made meanwhile, on two shared cores.
const PATIENCE: Duration = Duration::from_secs(180);
const CRD: &str = "redisclusters.redis.kun";
/// What comes with it, and whose Kind nobody here uses.
const OTHER_CRD: &str = "prestos.presto.libretto.dev";

#[tokio::test]
async fn installed_changed_removed_and_installed_again() -> Step {
    let Some(kubeconfig) = std::env::var_os("LIBRETTO_KUBECONFIG") else {
        return say("not run: LIBRETTO_KUBECONFIG names no cluster");
    };
    let cluster = Real::connect(kubeconfig.into()).await?;
    let outcome = cluster.story().await;
    let cleaned = cluster.clean().await;
    outcome.and(cleaned)
}

fn say(line: &str) -> Step {
    Ok(writeln!(std::io::stderr(), "{line}")?)
}

/// A real cluster and the names that this run uses in it.
struct Real {
    kubeconfig: PathBuf,
    client: Client,
    image: String,
    /// Helm release, and so the name of everything cluster-wide.
    release: String,
    /// Where the cluster-wide operator runs, which is a namespace that refuses pods with more rights than it needs.
    operator: String,
    /// Where the RedisClusters are, and the namespaced operator.
    team: String,
    /// The definition was not there before.
    owns_definition: bool,
}

impl Real {
    async fn connect(kubeconfig: PathBuf) -> Step<Self> {
        let options = KubeConfigOptions::default();
        let file = Kubeconfig::read_from(&kubeconfig)?;
        let client = Client::try_from(Config::from_custom_kubeconfig(file, &options).await?)?;
        let id = std::process::id();
        let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
        Ok(Self {
            owns_definition: definitions.get_opt(CRD).await?.is_none(),
            kubeconfig,
            client,
            image: std::env::var("LIBRETTO_IMAGE").unwrap_or_else(|_| format!("libretto:e2e-{id}")),
            release: format!("libretto-e2e-{id}"),
            operator: format!("inst-e2e-{id}-operator"),
            team: format!("inst-e2e-{id}-team"),
        })
    }

    async fn story(&self) -> Step {
        self.namespace(
            &self.operator,
            json!({"pod-security.kubernetes.io/enforce": "restricted"}),
        )
        .await?;
        self.namespace(&self.team, json!({})).await?;

        let started = Instant::now();
        self.helm_install("install", &[])?;
        self.create("wide", true).await?;
        self.create("own", false).await?;
        self.healthy("wide").await?;
        say(&format!(
            "installed, Redis healthy: {:.1} s",
            started.elapsed().as_secs_f64()
        ))?;
        self.untouched("own").await?;
        let pods = self.pods("wide").await?;

        // The namespaced one, from `libretto install`.
        let manifests = self.manifests("install")?;
        self.run(
            Command::new(cluster::binary()?)
                .args(["apply", "-f"])
                .arg(manifests.path()),
        )?;
        self.healthy("own").await?;
        let own = self.pods("own").await?;

        // A change of values, back again, and away: Redis runs on.
        self.helm_install(
            "upgrade",
            &[
                "--set",
                "log=info",
                "--set",
                "resources.limits.memory=300Mi",
            ],
        )?;
        self.helm(&["rollback", &self.release, "1", "--wait", "--timeout=120s"])?;
        self.spotless(&self.operator).await?;
        self.helm(&["uninstall", &self.release, "--wait", "--timeout=120s"])?;
        self.gone(&self.operator).await?;
        // Now only the namespaced one is at work: it does what it is asked, and leaves the other scope alone.
        self.create("idle", true).await?;
        self.change("own", json!({"spec": {"config": {"maxclients": "500"}}}))
            .await?;
        self.healthy("own").await?;
        self.untouched("idle").await?;
        self.redis_clusters()
            .delete("idle", &DeleteParams::default())
            .await?;
        let started = Instant::now();
        self.change("wide", json!({"spec": {"config": {"maxclients": "501"}}}))
            .await?;
        self.helm_install("install", &[])?;
        self.healthy("wide").await?;
        say(&format!(
            "installed again, changed: {:.1} s",
            started.elapsed().as_secs_f64()
        ))?;
        same(&pods, &self.pods("wide").await?)?;
        same(&own, &self.pods("own").await?)?;
        self.spotless(&self.operator).await?;
        self.spotless(&self.team).await?;

        let manifests = self.manifests("uninstall")?;
        self.run(
            Command::new(cluster::binary()?)
                .args(["delete", "-f"])
                .arg(manifests.path()),
        )?;
        let deployments: Api<Deployment> = Api::namespaced(self.client.clone(), &self.team);
        if !deployments
            .list(&ListParams::default())
            .await?
            .items
            .is_empty()
        {
            return Err("`libretto uninstall` left the Deployment".into());
        }
        same(&own, &self.pods("own").await?)
    }

    /// What `helm install` or `upgrade` is told, besides `more`.
    fn helm_install(&self, verb: &str, more: &[&str]) -> Step {
        let chart = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/libretto");
        let (repository, tag) = self
            .image
            .rsplit_once(':')
            .ok_or("LIBRETTO_IMAGE has no tag")?;
        let values = [
            format!("image.repository={repository}"),
            format!("image.tag={tag}"),
        ];
        let chart = chart.to_string_lossy();
        let mut words = vec![verb, &self.release, &chart, "--wait", "--timeout=180s"];
        for value in &values {
            words.extend(["--set", value]);
        }
        words.extend(more);
        self.helm(&words)
    }

    fn helm(&self, words: &[&str]) -> Step {
        let mut command = Command::new(cluster::tool("helm")?);
        command.args(["--namespace", &self.operator]).args(words);
        self.run(&mut command).map(drop)
    }

    fn run(&self, command: &mut Command) -> Step<String> {
        let output = command
            .env("KUBECONFIG", &self.kubeconfig)
            .output()
            .map_err(|error| format!("{command:?}: {error}"))?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        Err(format!("{command:?}: {}: {said}", output.status).into())
    }

    /// What `libretto install` or `uninstall` prints for the namespaced operator.
    fn manifests(&self, verb: &str) -> Step<tempfile::NamedTempFile> {
        let mut command = Command::new(cluster::binary()?);
        command.args([verb, "--scope", "namespace", "--namespace", &self.team]);
        if verb == "install" {
            command.args(["--image", &self.image]);
        }
        let mut file = tempfile::Builder::new().suffix(".yaml").tempfile()?;
        file.write_all(self.run(&mut command)?.as_bytes())?;
        Ok(file)
    }

    async fn namespace(&self, name: &str, labels: Value) -> Step {
        let namespace = json!({
            "apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels},
        });
        let api: Api<Namespace> = Api::all(self.client.clone());
        api.patch(
            name,
            &PatchParams::apply("libretto-e2e"),
            &Patch::Apply(namespace),
        )
        .await?;
        Ok(())
    }

    fn redis_clusters(&self) -> Api<DynamicObject> {
        Api::namespaced_with(self.client.clone(), &self.team, &redis_cluster())
    }

    /// Creates a RedisCluster for the cluster-wide operator, or for the namespaced one.
    async fn create(&self, name: &str, wide: bool) -> Step {
        let mut object = json!({
            "apiVersion": "redis.kun/v1beta1", "kind": "RedisCluster", "metadata": {"name": name},
            "spec": {"size": 3, "imagePullPolicy": "IfNotPresent", "sentinel": {"imagePullPolicy": "IfNotPresent"}},
        });
        if wide {
            object["metadata"]["annotations"] = json!({"redis.kun/scope": "cluster-scoped"});
        }
        self.redis_clusters()
            .patch(
                name,
                &PatchParams::apply("libretto-e2e"),
                &Patch::Apply(object),
            )
            .await?;
        Ok(())
    }

    async fn change(&self, name: &str, patch: Value) -> Step {
        self.redis_clusters()
            .patch(name, &PatchParams::default(), &Patch::Merge(patch))
            .await?;
        Ok(())
    }

    async fn healthy(&self, name: &str) -> Step {
        wait::until(
            &format!("RedisCluster {name} is healthy"),
            PATIENCE,
            || async {
                let object = self.redis_clusters().get(name).await?;
                let status = &object.data["status"];
                let first = &status["conditions"][0];
                if status["observedGeneration"].as_i64() == object.metadata.generation
                    && first["type"] == "Healthy"
                    && first["status"] == "True"
                {
                    Ok(())
                } else {
                    Err(format!("its status is {status}").into())
                }
            },
        )
        .await?;
        Ok(())
    }

    /// No operator has taken it.
    async fn untouched(&self, name: &str) -> Step {
        let object = self.redis_clusters().get(name).await?;
        let pods = self.pods(name).await?;
        if object.data["status"].is_null() && pods.is_empty() {
            return Ok(());
        }
        Err(format!(
            "{name} is of the other scope and was taken: {} pods, {}",
            pods.len(),
            object.data["status"]
        )
        .into())
    }

    /// Pods of a RedisCluster: uid and restarts by name.
    async fn pods(&self, name: &str) -> Step<BTreeMap<String, (String, i32)>> {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &self.team);
        let found = api.list(&ListParams::default()).await?;
        let of = |pod: &Pod| {
            let name_of = pod.metadata.name.clone().unwrap_or_default();
            let statuses = pod
                .status
                .iter()
                .flat_map(|status| status.container_statuses.iter().flatten());
            let restarts = statuses.map(|status| status.restart_count).sum();
            (
                name_of,
                (pod.metadata.uid.clone().unwrap_or_default(), restarts),
            )
        };
        let of_it = |name_of: &String| {
            ["redis-cluster", "redis-sentinel"]
                .iter()
                .any(|part| name_of.starts_with(&format!("{part}-{name}-")))
        };
        Ok(found
            .items
            .iter()
            .map(of)
            .filter(|(name_of, _)| of_it(name_of))
            .collect())
    }

    /// The operator in `namespace` has ended; its Deployment goes before its pod does.
    async fn gone(&self, namespace: &str) -> Step {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        let selector = ListParams::default().labels("app.kubernetes.io/name=libretto");
        wait::until("the operator has ended", PATIENCE, || async {
            match api.list(&selector).await?.items.len() {
                0 => Ok(()),
                some => Err(format!("{some} pods are there").into()),
            }
        })
        .await?;
        Ok(())
    }

    /// The operator in `namespace` has neither been refused anything nor been restarted.
    async fn spotless(&self, namespace: &str) -> Step {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        let selector = ListParams::default().labels("app.kubernetes.io/name=libretto");
        let pods = api.list(&selector).await?;
        let [pod] = pods.items.as_slice() else {
            return Err(format!("{} operators in {namespace}", pods.items.len()).into());
        };
        let restarts: i32 = pod
            .status
            .iter()
            .flat_map(|status| status.container_statuses.iter().flatten())
            .map(|status| status.restart_count)
            .sum();
        let name = pod.metadata.name.clone().unwrap_or_default();
        let log = api.logs(&name, &LogParams::default()).await?;
        let refused = log
            .lines()
            .find(|line| line.to_lowercase().contains("forbidden"));
        match (restarts, refused) {
            (0, None) => Ok(()),
            (_, Some(line)) => {
                Err(format!("{namespace}/{name} was refused something: {line}").into())
            }
            _ => Err(format!("{namespace}/{name} was restarted {restarts} times:\n{log}").into()),
        }
    }

    /// Removes everything, whatever is there of it.
    async fn clean(&self) -> Step {
        let _ = self.helm(&[
            "uninstall",
            &self.release,
            "--ignore-not-found",
            "--wait",
            "--timeout=120s",
        ]);
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        for name in [&self.team, &self.operator] {
            if namespaces.get_opt(name).await?.is_some() {
                namespaces.delete(name, &DeleteParams::background()).await?;
            }
        }
        wait::until("the namespaces are gone", PATIENCE, || async {
            for name in [&self.team, &self.operator] {
                if namespaces.get_opt(name).await?.is_some() {
                    return Err(format!("{name} is still there").into());
                }
            }
            Ok(())
        })
        .await?;
        let all: Api<DynamicObject> = Api::all_with(self.client.clone(), &redis_cluster());
        // Somebody else may have begun to use it.
        if self.owns_definition
            && all
                .list(&ListParams::default())
                .await
                .is_ok_and(|list| list.items.is_empty())
        {
            let definitions: Api<CustomResourceDefinition> = Api::all(self.client.clone());
            for name in [CRD, OTHER_CRD] {
                definitions.delete(name, &DeleteParams::default()).await?;
            }
        }
        Ok(())
    }
}

fn redis_cluster() -> ApiResource {
    let kind = GroupVersionKind::gvk("redis.kun", "v1beta1", "RedisCluster");
    ApiResource::from_gvk_with_plural(&kind, "redisclusters")
}

/// Not one pod was replaced or restarted.
fn same(before: &BTreeMap<String, (String, i32)>, after: &BTreeMap<String, (String, i32)>) -> Step {
    if before == after && !before.is_empty() {
        return Ok(());
    }
    Err(format!("pods changed: {before:?}, now {after:?}").into())
}
