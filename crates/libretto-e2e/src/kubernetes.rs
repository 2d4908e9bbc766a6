//! A namespace of a real Kubernetes with a Libretto of its own.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::{
    Step,
    audit::Traffic,
    cluster::{self, Output, tool},
};

/// The namespace and what was installed into it; all of it is removed when dropped.
#[derive(Debug)]
pub(crate) struct Installation {
    kubeconfig: PathBuf,
    folder: PathBuf,
    namespace: String,
    child: Option<Child>,
}

impl Installation {
    pub(crate) async fn start(kubeconfig: &Path, folder: &Path) -> Step<Self> {
        // As unique as the temporary folder is.
        let unique = folder
            .file_name()
            .and_then(|name| name.to_str())
            .and_then(|name| name.rsplit('-').next())
            .ok_or("the folder has no name")?
            .to_lowercase();
        let namespace = format!("e2e-{unique}-{}", std::process::id());
        let mut installation = Self {
            kubeconfig: folder.join("kubeconfig"),
            folder: folder.to_owned(),
            namespace,
            child: None,
        };
        // A copy of the administrator's access, with another default namespace.
        let text = fs::read_to_string(kubeconfig)?;
        let mut access: Value = serde_saphyr::from_str(&text)?;
        access["contexts"][0]["context"]["namespace"] = json!(installation.namespace);
        fs::write(&installation.kubeconfig, access.to_string())?;
        installation
            .kubectl(&["create", "namespace", &installation.namespace])?
            .ok()?;
        installation.resume().await?;
        Ok(installation)
    }

    pub(crate) async fn kill(&mut self) -> Step {
        if let Some(mut child) = self.child.take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    pub(crate) async fn resume(&mut self) -> Step<Duration> {
        let started = Instant::now();
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.folder.join("libretto.log"))?;
        self.child = Some(
            Command::new(cluster::binary()?)
                .args([
                    "run",
                    "--metrics-addr",
                    "",
                    "--namespace",
                    &self.namespace,
                    "--kubeconfig",
                ])
                .arg(&self.kubeconfig)
                .stdin(Stdio::null())
                .stdout(log.try_clone()?)
                .stderr(log)
                .spawn()?,
        );
        Ok(started.elapsed())
    }

    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.kubeconfig.clone()
    }

    pub(crate) fn log_tail(&self) -> String {
        fs::read_to_string(self.folder.join("libretto.log")).unwrap_or_default()
    }

    pub(crate) fn traffic(&self) -> Step<Traffic> {
        let log = std::env::var_os("LIBRETTO_AUDIT")
            .ok_or("LIBRETTO_AUDIT does not name the audit log")?;
        let user = format!("system:serviceaccount:{}:libretto", self.namespace);
        Traffic::of(Path::new(&log), &user)
    }

    fn kubectl(&self, arguments: &[&str]) -> Step<Output> {
        Output::of(
            Command::new(tool("kubectl")?)
                .args(arguments)
                .env("KUBECONFIG", &self.kubeconfig),
        )
    }
}

impl Drop for Installation {
    fn drop(&mut self) {
        // The operator first finishes what belongs to its resources; the namespace would wait for it in vain.
        let _ = self.kubectl(&["delete", "redisclusters", "--all", "--timeout=30s"]);
        let _ = self.child.as_mut().map(Child::kill);
        let _ = self.kubectl(&["delete", "namespace", &self.namespace, "--wait=false"]);
    }
}
