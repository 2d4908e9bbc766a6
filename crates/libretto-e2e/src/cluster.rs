//! One `libretto up` process with its own data directory and a random port.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tempfile::TempDir;

use crate::{Failure, Step, wait};

/// Longest time from start to an answering API; the product's own aim is one second.
const API_LIMIT: Duration = Duration::from_secs(60);

/// The program under test; killed with everything it started when dropped.
#[derive(Debug)]
pub struct Cluster {
    folder: TempDir,
    arguments: Vec<String>,
    child: Option<Child>,
}

impl Cluster {
    /// Starts `libretto up --no-demo` and waits until its API answers.
    pub async fn start() -> Step<Self> {
        Self::start_with(&[]).await
    }

    /// As [`Cluster::start`], with further arguments of `libretto up`.
    pub async fn start_with(arguments: &[&str]) -> Step<Self> {
        let mut cluster = Self {
            folder: tempfile::Builder::new().prefix("libretto-e2e-").tempdir()?,
            arguments: arguments
                .iter()
                .map(|&argument| argument.to_owned())
                .collect(),
            child: None,
        };
        cluster.resume().await?;
        Ok(cluster)
    }

    /// Starts the program (again) on the same data and returns the time until its API answered.
    pub async fn resume(&mut self) -> Step<Duration> {
        let started = Instant::now();
        // A kubeconfig of an earlier run would name a port that nobody listens on.
        let _ = fs::remove_file(self.kubeconfig());
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.log())?;
        let child = Command::new(binary()?)
            .args(["up", "--no-demo", "--port", "0", "--data-dir"])
            .arg(self.data())
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        self.child = Some(child);
        wait::until("the API answers", API_LIMIT, || async {
            self.client().await?.apiserver_version().await?;
            Ok(())
        })
        .await
        .map_err(|failure| Failure::from(format!("{failure}\n{}", self.log_tail())))?;
        Ok(started.elapsed())
    }

    /// `kill -9` of the program.
    pub fn kill(&mut self) -> Step {
        if let Some(mut child) = self.child.take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    /// Ctrl-C, and the exit code that follows.
    pub fn interrupt(&mut self) -> Step<Option<i32>> {
        let mut child = self.child.take().ok_or("the program does not run")?;
        kill(Pid::from_raw(i32::try_from(child.id())?), Signal::SIGINT)?;
        Ok(child.wait()?.code())
    }

    /// A client of the cluster's API, as its administrator.
    pub async fn client(&self) -> Step<Client> {
        let kubeconfig = Kubeconfig::read_from(self.kubeconfig())?;
        let config =
            Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
        Ok(Client::try_from(config)?)
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
        let tools = std::env::var_os("LIBRETTO_TOOLS").map_or_else(
            || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/tools"),
            PathBuf::from,
        );
        let kubectl = tools.join("kubectl");
        if !kubectl.exists() {
            return Err(
                format!("{} is missing: run `cargo xtask tools`", kubectl.display()).into(),
            );
        }
        Output::of(
            Command::new(kubectl)
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

    /// Writes the API server has done, by anybody, leases and events included.
    pub async fn writes(&self) -> Step<u64> {
        let request = http::Request::get("/metrics").body(Vec::new())?;
        let text = self.client().await?.request_text(request).await?;
        let mut writes = 0.0;
        for line in text.lines() {
            let Some(labels) = line.strip_prefix("apiserver_request_total{") else {
                continue;
            };
            let is_write = [
                "create",
                "update",
                "patch",
                "apply",
                "delete",
                "deletecollection",
            ]
            .iter()
            .any(|verb| labels.to_lowercase().contains(&format!("verb=\"{verb}\"")));
            if is_write {
                writes += labels
                    .rsplit(' ')
                    .next()
                    .and_then(|value| value.parse::<f64>().ok())
                    .ok_or_else(|| format!("unreadable metric line {line}"))?;
            }
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a count of requests"
        )]
        Ok(writes as u64)
    }

    /// Process id of the running program.
    pub fn pid(&self) -> Step<u32> {
        Ok(self.child.as_ref().ok_or("the program does not run")?.id())
    }

    pub fn kubeconfig(&self) -> PathBuf {
        self.data().join("kubeconfig")
    }

    pub fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn log(&self) -> PathBuf {
        self.folder.path().join("libretto.log")
    }

    /// What the program said last, for failure messages.
    pub fn log_tail(&self) -> String {
        let text = fs::read_to_string(self.log()).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let tail = lines[lines.len().saturating_sub(60)..].join("\n");
        format!("--- last lines of libretto ---\n{tail}")
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // The log dies with the folder; a failed scenario needs it.
            let _ = std::io::Write::write_all(
                &mut std::io::stderr(),
                format!("{}\n", self.log_tail()).as_bytes(),
            );
        }
        let _ = self.kill();
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
    fn of(command: &mut Command) -> Step<Self> {
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
