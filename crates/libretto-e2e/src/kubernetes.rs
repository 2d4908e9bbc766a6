//! A namespace of a real Kubernetes with a Libretto of its own, installed by the chart as a user would.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use k8s_openapi::api::{apps::v1::Deployment, core::v1::Pod};
use kube::Api;
use serde_json::{Value, json};

use crate::{
    Step,
    audit::Traffic,
    cluster::{self, Output, tool},
    pods, redis, wait,
};

/// Release, Deployment and ServiceAccount are all called so.
const NAME: &str = "libretto";

/// Longest time until the operator's pod is Ready; a crashed one is started again by the kubelet after at most some seconds.
const READY: Duration = Duration::from_secs(60);

/// The namespace and what was installed into it; all of it is removed when dropped.
#[derive(Debug)]
pub(crate) struct Installation {
    kubeconfig: PathBuf,
    namespace: String,
}

impl Installation {
    /// Installs into a new namespace. Access to it, and nothing else, is kept in `folder`.
    pub(crate) async fn start(
        kubeconfig: &Path,
        folder: &Path,
        packages: &[PathBuf],
    ) -> Step<Self> {
        let installation = Self::place(kubeconfig, folder)?;
        if packages.is_empty() {
            installation.install(&["scope=namespace"]).await?;
        } else {
            installation.install_packages(folder, packages).await?;
        }
        Ok(installation)
    }

    /// A namespace that nobody else has, not yet made.
    fn place(kubeconfig: &Path, folder: &Path) -> Step<Self> {
        // As unique as the folder is, in the letters that a namespace may have.
        let unique = folder
            .file_name()
            .and_then(|name| name.to_str()?.rsplit('-').next())
            .ok_or("the folder has no name")?
            .to_lowercase();
        let installation = Self {
            kubeconfig: folder.join("kubeconfig"),
            namespace: format!("e2e-{unique}-{}", std::process::id()),
        };
        // A copy of the administrator's access, with another default namespace.
        let mut access: Value = serde_saphyr::from_str(&fs::read_to_string(kubeconfig)?)?;
        access["contexts"][0]["context"]["namespace"] = json!(installation.namespace);
        fs::write(&installation.kubeconfig, access.to_string())?;
        Ok(installation)
    }

    async fn install(&self, values: &[&str]) -> Step {
        let project = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        // Definitions belong to the cluster, not to one of many releases.
        for package in ["presto", "redis"] {
            let definition = project.join("packages").join(package).join("crd.yaml");
            self.run(
                "kubectl",
                &[
                    "apply",
                    "--server-side",
                    "--force-conflicts",
                    "-f",
                    &definition.to_string_lossy(),
                ],
            )?;
        }
        self.run("kubectl", &["create", "namespace", &self.namespace])?;
        let chart = project.join("deploy/libretto");
        // The image may have been built again under the same name.
        let mut all = vec!["image.pullPolicy=Always", "log=libretto=debug"];
        all.extend(values);
        self.run(
            "helm",
            &[
                "install",
                NAME,
                &chart.to_string_lossy(),
                "--namespace",
                &self.namespace,
                "--set",
                &all.join(","),
            ],
        )?;
        self.ready().await
    }

    /// Installs into a new namespace what runs the cluster's Installations, and nothing else. One at a time in a cluster.
    pub(crate) async fn for_installations(kubeconfig: &Path, folder: &Path) -> Step<Self> {
        let installation = Self::place(kubeconfig, folder)?;
        let values = [
            "installations.enabled=true",
            "packages.bundled=null",
            "crds.install=false",
        ];
        installation.install(&values).await?;
        Ok(installation)
    }

    /// With packages of folders, as `libretto install` prints it, on the image that has Helm.
    async fn install_packages(&self, folder: &Path, packages: &[PathBuf]) -> Step {
        self.run("kubectl", &["create", "namespace", &self.namespace])?;
        let mut command = Command::new(cluster::binary()?);
        command
            .args([
                "install",
                "--scope",
                "namespace",
                "--namespace",
                &self.namespace,
            ])
            .args(["--image", "libretto-helm:e2e"]);
        let manifests = folder.join("install.yaml");
        let mut text = String::new();
        for package in packages {
            command.arg("--package").arg(package);
            // Definitions are the cluster's; an administrator applies them.
            text += &Output::of(
                Command::new(cluster::binary()?)
                    .args(["package", "crd"])
                    .arg(package),
            )?
            .ok()?;
            text += "\n---\n";
        }
        // The image may have been built again under the same name.
        text += &Output::of(&mut command)?
            .ok()?
            .replace("imagePullPolicy: IfNotPresent", "imagePullPolicy: Always");
        fs::write(&manifests, text)?;
        self.run(
            "kubectl",
            &[
                "apply",
                "--server-side",
                "--force-conflicts",
                "-f",
                &manifests.to_string_lossy(),
            ],
        )?;
        self.ready().await
    }

    async fn ready(&self) -> Step {
        let deployments: Api<Deployment> =
            Api::default_namespaced(cluster::client(&self.kubeconfig).await?);
        wait::until("the operator is available", READY, || async {
            let status = deployments.get(NAME).await?.status.unwrap_or_default();
            match status.available_replicas {
                Some(1) => Ok(()),
                _ => Err(json!(status).to_string().into()),
            }
        })
        .await?;
        Ok(())
    }

    /// `kill -9` of the operator; the kubelet starts it again.
    pub(crate) async fn kill(&self) -> Step {
        let before = self.pod().await?;
        let (_, ip) = redis::identity(&before)?;
        pods::kill_process(1, &ip, NAME)?;
        wait::until("the death is noticed", READY, || async {
            let now = self.pod().await?;
            if redis::incarnations(&[now]) == redis::incarnations(std::slice::from_ref(&before)) {
                Err("the container has not been started again".into())
            } else {
                Ok(())
            }
        })
        .await?;
        Ok(())
    }

    /// Waits until the operator is back.
    pub(crate) async fn resume(&self) -> Step<Duration> {
        let started = Instant::now();
        self.ready().await?;
        Ok(started.elapsed())
    }

    async fn pod(&self) -> Step<Pod> {
        let client = cluster::client(&self.kubeconfig).await?;
        let mut pods = pods::labelled(&client, &format!("app.kubernetes.io/name={NAME}")).await?;
        pods.retain(|pod| pod.metadata.deletion_timestamp.is_none());
        Ok(pods.pop().ok_or("the operator has no pod")?)
    }

    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.kubeconfig.clone()
    }

    pub(crate) fn log_tail(&self) -> String {
        let deployment = format!("deployment/{NAME}");
        match self.run("kubectl", &["logs", &deployment, "--tail=100"]) {
            Ok(log) => log,
            Err(failure) => failure.to_string(),
        }
    }

    /// What the operator asked of the API server so far.
    pub(crate) fn traffic(&self) -> Step<Traffic> {
        let log = std::env::var_os("LIBRETTO_AUDIT")
            .ok_or("LIBRETTO_AUDIT does not name the audit log")?;
        let user = format!("system:serviceaccount:{}:{NAME}", self.namespace);
        Traffic::of(Path::new(&log), &user)
    }

    fn run(&self, program: &str, arguments: &[&str]) -> Step<String> {
        Output::of(
            Command::new(tool(program)?)
                .args(arguments)
                .env("KUBECONFIG", &self.kubeconfig),
        )?
        .ok()
    }
}

impl Drop for Installation {
    fn drop(&mut self) {
        // The operator first finishes what belongs to its resources; the namespace would wait for it in vain.
        let _ = self.run(
            "kubectl",
            &["delete", "redisclusters", "--all", "--timeout=30s"],
        );
        // What of a chart belongs to the cluster does not go with the namespace.
        let _ = self.run("helm", &["uninstall", NAME, "--namespace", &self.namespace]);
        let _ = self.run(
            "kubectl",
            &["delete", "namespace", &self.namespace, "--wait=false"],
        );
    }
}
