//! The cluster a scenario runs on: an embedded one of its own, or a namespace of a real Kubernetes with a Libretto of its own. The
//! scenario does not know which: its assertions are the same.

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Arc, LazyLock},
    time::Duration,
};

use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use tempfile::TempDir;
use tokio::sync::{Mutex, OwnedMutexGuard};

use crate::{Step, audit::Traffic, embedded::Program, kubernetes::Installation, pods};

/// Names the kubeconfig of a real Kubernetes; scenarios run there when it is set.
pub const KUBECONFIG: &str = "LIBRETTO_KUBECONFIG";

/// A cluster with a running Libretto.
#[derive(Debug)]
pub struct Cluster {
    backend: Backend,
    folder: TempDir,
    /// Given back last.
    _turn: Option<OwnedMutexGuard<()>>,
}

/// Two that run the Installations of a real cluster would both run all of them.
static INSTALLATIONS: LazyLock<Arc<Mutex<()>>> = LazyLock::new(Arc::default);

#[derive(Debug)]
enum Backend {
    Embedded(Program),
    Kubernetes(Installation),
}

impl Cluster {
    /// A real Kubernetes when `$LIBRETTO_KUBECONFIG` names one, else an embedded cluster.
    pub async fn start() -> Step<Self> {
        Self::start_with(&[]).await
    }

    /// As [`Cluster::start`], with packages of this project's folders, such as `examples/sreworks`; all bundled ones when none is named.
    pub async fn start_with(packages: &[&str]) -> Step<Self> {
        let folder = folder()?;
        let project = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let packages: Vec<PathBuf> = packages
            .iter()
            .map(|package| project.join(package))
            .collect();
        let backend = match std::env::var_os(KUBECONFIG) {
            Some(kubeconfig) => Backend::Kubernetes(
                Installation::start(Path::new(&kubeconfig), folder.path(), &packages).await?,
            ),
            None => {
                let flags = packages
                    .into_iter()
                    .flat_map(|package| ["--package".into(), package.into_os_string()])
                    .collect();
                Backend::Embedded(Program::start(folder.path(), flags).await?)
            }
        };
        Ok(Self {
            backend,
            folder,
            _turn: None,
        })
    }

    /// As [`Cluster::start`], with a Libretto that runs the cluster's Installation objects.
    pub async fn for_installations() -> Step<Self> {
        let Some(kubeconfig) = std::env::var_os(KUBECONFIG) else {
            return Self::embedded().await;
        };
        let turn = Arc::clone(&INSTALLATIONS).lock_owned().await;
        let folder = folder()?;
        let installation =
            Installation::for_installations(Path::new(&kubeconfig), folder.path()).await?;
        Ok(Self {
            backend: Backend::Kubernetes(installation),
            folder,
            _turn: Some(turn),
        })
    }

    /// `libretto up`, for scenarios about the embedded cluster itself.
    pub async fn embedded() -> Step<Self> {
        Self::with_flags(Vec::new()).await
    }

    /// As [`Cluster::start`], where the embedded cluster needs a catalogue of further images; a real one has them from its registry.
    pub async fn with_images(catalogue: &Path) -> Step<Self> {
        if std::env::var_os(KUBECONFIG).is_some() {
            return Self::start().await;
        }
        Self::with_flags(vec!["--images".into(), catalogue.into()]).await
    }

    async fn with_flags(flags: Vec<OsString>) -> Step<Self> {
        let folder = folder()?;
        Ok(Self {
            backend: Backend::Embedded(Program::start(folder.path(), flags).await?),
            folder,
            _turn: None,
        })
    }

    /// `kill -9` of the program under test.
    pub async fn kill(&mut self) -> Step {
        match &mut self.backend {
            Backend::Embedded(program) => program.kill(),
            Backend::Kubernetes(installation) => installation.kill().await,
        }
    }

    /// Starts the program again after [`Cluster::kill`], where nobody else does, and returns the time until it answered.
    pub async fn resume(&mut self) -> Step<Duration> {
        match &mut self.backend {
            Backend::Embedded(program) => program.resume().await,
            Backend::Kubernetes(installation) => installation.resume().await,
        }
    }

    /// Ctrl-C, and the exit code that follows; of an embedded cluster only.
    pub fn interrupt(&mut self) -> Step<Option<i32>> {
        match &mut self.backend {
            Backend::Embedded(program) => program.interrupt(),
            Backend::Kubernetes(_) => Err("nobody presses Ctrl-C in a pod".into()),
        }
    }

    /// A client of the cluster's API, as its administrator, whose default namespace is the scenario's.
    pub async fn client(&self) -> Step<Client> {
        client(&self.kubeconfig()).await
    }

    /// Annotations with which a custom resource asks this cluster's Libretto to take it.
    pub fn scope(&self) -> serde_json::Value {
        match &self.backend {
            Backend::Embedded(_) => serde_json::json!({"redis.kun/scope": "cluster-scoped"}),
            Backend::Kubernetes(_) => serde_json::json!({}),
        }
    }

    /// Kills the main process of a container from outside, as the kernel's OOM killer would. `program` is its command name.
    pub fn kill_process(&self, pod_ip: &str, program: &str) -> Step {
        // Other embedded clusters on this machine use the same pod addresses; those of Kubernetes are nobody else's.
        let ancestor = match &self.backend {
            Backend::Embedded(program) => program.pid()?,
            Backend::Kubernetes(_) => 1,
        };
        pods::kill_process(ancestor, pod_ip, program)
    }

    /// Runs `libretto` against this cluster.
    pub fn libretto(&self, arguments: &[&str]) -> Step<Output> {
        Output::of(
            Command::new(binary()?)
                .args(arguments)
                .env("KUBECONFIG", self.kubeconfig()),
        )
    }

    /// Runs the real kubectl against this cluster.
    pub fn kubectl(&self, arguments: &[&str]) -> Step<Output> {
        Output::of(
            Command::new(tool("kubectl")?)
                .args(arguments)
                .env("KUBECONFIG", self.kubeconfig()),
        )
    }

    /// As [`Cluster::kubectl`], with a manifest on standard input.
    pub fn kubectl_apply(&self, manifest: &str, arguments: &[&str]) -> Step<Output> {
        let file = self.folder.path().join("manifest.yaml");
        fs::write(&file, manifest)?;
        let file = file.to_string_lossy().into_owned();
        let mut all = vec!["apply", "-f", file.as_str()];
        all.extend(arguments);
        self.kubectl(&all)
    }

    /// Applies a manifest with `libretto apply`.
    pub fn libretto_apply(&self, manifest: &str) -> Step<Output> {
        let file = self.folder.path().join("manifest.yaml");
        fs::write(&file, manifest)?;
        self.libretto(&["apply", "-f", &file.to_string_lossy()])
    }

    /// Writes so far: of everybody on an embedded cluster, of this cluster's Libretto on a real one. Leases and events included.
    pub async fn writes(&self) -> Step<u64> {
        match &self.backend {
            Backend::Embedded(program) => program.writes(&self.client().await?).await,
            Backend::Kubernetes(installation) => Ok(installation.traffic()?.writes()),
        }
    }

    /// What this cluster's Libretto asked of the API server; on Kubernetes only.
    pub fn traffic(&self) -> Step<Traffic> {
        match &self.backend {
            Backend::Embedded(_) => Err("the embedded cluster has no audit log".into()),
            Backend::Kubernetes(installation) => installation.traffic(),
        }
    }

    /// A folder that lives as long as this value.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The file with the administrator's access.
    pub fn kubeconfig(&self) -> PathBuf {
        match &self.backend {
            Backend::Embedded(program) => program.kubeconfig(),
            Backend::Kubernetes(installation) => installation.kubeconfig(),
        }
    }

    /// What the program said last, for failure messages.
    fn log_tail(&self) -> String {
        let text = match &self.backend {
            Backend::Embedded(program) => program.log_tail(),
            Backend::Kubernetes(installation) => installation.log_tail(),
        };
        // What waits is told again and again, and hides what was done.
        let lines: Vec<&str> = text
            .lines()
            .filter(|line| !line.contains("rule not evaluated"))
            .collect();
        let tail = lines[lines.len().saturating_sub(40)..].join("\n");
        format!("--- last lines of libretto ---\n{tail}")
    }
}

impl Drop for Cluster {
    #[expect(clippy::print_stdout, reason = "the test harness takes care of it")]
    fn drop(&mut self) {
        // The log dies with the cluster; the test harness shows it when the scenario failed.
        println!("{}", self.log_tail());
    }
}

/// What a finished command printed.
#[derive(Debug, Clone)]
pub struct Output {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Output {
    /// Runs a command to its end.
    pub fn of(command: &mut Command) -> Step<Self> {
        let output = command.stdin(Stdio::null()).output()?;
        Ok(Self {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    /// Standard output, provided the command succeeded.
    pub fn ok(self) -> Step<String> {
        if self.code == Some(0) {
            Ok(self.stdout)
        } else {
            Err(format!("exit {:?}: {}{}", self.code, self.stdout, self.stderr).into())
        }
    }
}

/// The binary under test: `$LIBRETTO_BIN`, else the one beside this test's own build.
pub fn binary() -> Step<PathBuf> {
    if let Some(path) = std::env::var_os("LIBRETTO_BIN") {
        return Ok(path.into());
    }
    let path = std::env::current_exe()?
        .ancestors()
        .nth(2)
        .ok_or("the test binary has no target folder")?
        .join("libretto");
    if path.exists() {
        Ok(path)
    } else {
        Err(format!(
            "{} is missing: run `cargo build -p libretto`",
            path.display()
        )
        .into())
    }
}

/// A file that `cargo xtask tools` fetched.
pub fn tool(name: &str) -> Step<PathBuf> {
    let folder = std::env::var_os("LIBRETTO_TOOLS").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/tools"),
        PathBuf::from,
    );
    let path = folder.join(name);
    if path.exists() {
        Ok(path)
    } else {
        Err(format!("{} is missing: run `cargo xtask tools`", path.display()).into())
    }
}

/// A client with the access and the namespace that a kubeconfig names.
pub(crate) async fn client(kubeconfig: &Path) -> Step<Client> {
    let kubeconfig = Kubeconfig::read_from(kubeconfig)?;
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    Ok(Client::try_from(config)?)
}

fn folder() -> Step<TempDir> {
    Ok(tempfile::Builder::new().prefix("libretto-e2e-").tempdir()?)
}
