//! One `libretto up` process with its own data directory and a random port.

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use kube::Client;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{Failure, Step, cluster, wait};

/// Longest time from start to an answering API; the product's own aim is one second.
const API_LIMIT: Duration = Duration::from_secs(60);

/// The program under test; killed with everything it started when dropped.
#[derive(Debug)]
pub(crate) struct Program {
    folder: PathBuf,
    /// Further flags of `up`.
    flags: Vec<OsString>,
    child: Option<Child>,
}

impl Program {
    /// Starts `libretto up --no-demo` with further flags and waits until its API answers. Its data and its log are kept in `folder`.
    pub(crate) async fn start(folder: &Path, flags: Vec<OsString>) -> Step<Self> {
        let mut program = Self {
            folder: folder.to_owned(),
            flags,
            child: None,
        };
        program.resume().await?;
        Ok(program)
    }

    /// Starts the program (again) on the same data and returns the time until its API answered.
    pub(crate) async fn resume(&mut self) -> Step<Duration> {
        let started = Instant::now();
        // A kubeconfig of an earlier run would name a port that nobody listens on.
        let _ = fs::remove_file(self.kubeconfig());
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.log())?;
        let child = Command::new(cluster::binary()?)
            .args(["up", "--no-demo", "--port", "0", "--data-dir"])
            .arg(self.data())
            .args(&self.flags)
            .env("LIBRETTO_HELM", cluster::tool("helm")?)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        self.child = Some(child);
        wait::until("the API answers", API_LIMIT, || async {
            cluster::client(&self.kubeconfig())
                .await?
                .apiserver_version()
                .await?;
            Ok(())
        })
        .await
        .map_err(|failure| Failure::from(format!("{failure}\n{}", self.log_tail())))?;
        Ok(started.elapsed())
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self) -> Step {
        if let Some(mut child) = self.child.take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    /// Ctrl-C, and the exit code that follows.
    pub(crate) fn interrupt(&mut self) -> Step<Option<i32>> {
        let mut child = self.child.take().ok_or("the program does not run")?;
        kill(Pid::from_raw(i32::try_from(child.id())?), Signal::SIGINT)?;
        Ok(child.wait()?.code())
    }

    pub(crate) fn pid(&self) -> Step<u32> {
        Ok(self.child.as_ref().ok_or("the program does not run")?.id())
    }

    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.data().join("kubeconfig")
    }

    pub(crate) fn log_tail(&self) -> String {
        fs::read_to_string(self.log()).unwrap_or_default()
    }

    /// Writes the API server has done, by anybody, leases and events included.
    pub(crate) async fn writes(&self, client: &Client) -> Step<u64> {
        let request = http::Request::get("/metrics").body(Vec::new())?;
        let text = client.request_text(request).await?;
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

    fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    fn log(&self) -> PathBuf {
        self.folder.join("libretto.log")
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.kill();
    }
}
