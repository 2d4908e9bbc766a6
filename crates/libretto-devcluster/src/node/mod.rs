//! The node: pods as processes in Linux namespaces (or plain processes where namespaces are not allowed).
//!
//! Layers, lower ones knowing nothing of higher ones: `sys` (system calls) · `role`, `supervise` (re-executed helper processes) ·
//! `enter` (the program's own namespaces) · `network`, `sandbox`, `rootfs`, `container`, `exec` (plain specifications, no Kubernetes)
//! · `images`, `environment`, `volumes`, `logs`, `probes`, `status` (Kubernetes' meaning, no processes) · `lifecycle`, `pod`,
//! `kubelet` (what runs) · `directory`, `services`, `dns` (the pods' view of the network).
//!
//! Deviations from a kubelet, all deliberate: restart back-off is 1 s to 30 s; probes look early before their first success; memory
//! and CPU limits are not enforced; a program inside `enter` has no network but the pods' (no egress to the host or beyond);
//! images are software of this machine (`images`); `attach` sends no input to a container without
//! `stdin: true`; hostPath volumes, privileged containers, hostPID/hostIPC, gRPC probes, projected service account tokens, ephemeral
//! containers and UDP services are refused with a message; the node's Lease is not renewed.

pub mod container;
mod directory;
mod dns;
pub mod enter;
mod environment;
mod events;
pub mod exec;
pub mod images;
mod insecure_tls;
mod kubelet;
mod lifecycle;
pub mod logs;
mod lookup;
pub mod network;
mod pod;
mod probes;
mod process;
mod role;
pub mod rootfs;
pub mod sandbox;
mod services;
mod session;
mod status;
mod supervise;
mod sys;
mod terminal;
mod volumes;

use std::{path::PathBuf, pin::Pin, sync::Arc};

use bytes::Bytes;
use futures::Stream;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::{mpsc, oneshot},
};

pub use self::{
    directory::API_SERVER_PORT,
    enter::{EnterError, Entry, enter},
    role::reexec_dispatch,
};
use crate::{api::Api, error::ApiError};

/// `kubectl logs` options.
#[derive(Debug, Clone, Default)]
pub struct LogOptions {
    pub container: Option<String>,
    pub follow: bool,
    pub previous: bool,
    pub timestamps: bool,
    pub tail_lines: Option<usize>,
    pub since_seconds: Option<i64>,
    pub limit_bytes: Option<usize>,
}

/// `kubectl exec` and `attach`.
#[derive(Debug, Clone, Default)]
pub struct ExecRequest {
    pub container: Option<String>,
    pub command: Vec<String>,
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
    pub tty: bool,
}

/// A running command in a container.
pub struct ExecSession {
    pub stdin: Option<Pin<Box<dyn AsyncWrite + Send>>>,
    pub stdout: Option<Pin<Box<dyn AsyncRead + Send>>>,
    pub stderr: Option<Pin<Box<dyn AsyncRead + Send>>>,
    /// Terminal size (columns, rows).
    pub resize: mpsc::Sender<(u16, u16)>,
    /// Exit code; a killed process gives 128 + signal.
    pub exit: oneshot::Receiver<i32>,
}

/// Bytes of a log, as they come.
pub type LogStream = Pin<Box<dyn Stream<Item = std::io::Result<Bytes>> + Send>>;

impl std::fmt::Debug for ExecSession {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ExecSession").finish_non_exhaustive()
    }
}

/// The node agent; cheap to clone.
#[derive(Debug, Clone)]
pub struct Node(Arc<kubelet::Inner>);

/// How pods are run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Driver {
    /// Namespaces when the machine allows them, else plain processes, with a warning.
    #[default]
    Auto,
    Namespaces,
    Process,
}

/// Node settings.
#[derive(Debug, Clone)]
pub struct NodeOptions {
    /// Pod directories, volumes and logs live below it.
    pub data_dir: PathBuf,
    pub driver: Driver,
    /// Extra image catalogue file.
    pub images: Option<PathBuf>,
}

impl Node {
    /// Starts the sync loop; registers the Node object; pods bound to it start to run.
    pub async fn start(api: Api, options: NodeOptions) -> std::io::Result<Self> {
        kubelet::start(api, options).await.map(Self)
    }

    /// The name of the Node object, for `spec.nodeName`.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Where the API server must listen to be reached by pods, as the Service `default/kubernetes` promises; `None` with the process
    /// driver, whose pods use the host's network.
    pub fn api_server_address(&self) -> Option<std::net::SocketAddr> {
        self.0
            .namespaces
            .then(|| (network::GATEWAY, API_SERVER_PORT).into())
    }

    pub async fn logs(
        &self,
        namespace: &str,
        pod: &str,
        options: LogOptions,
    ) -> Result<LogStream, ApiError> {
        session::logs(&self.0, namespace, pod, &options)
    }

    pub async fn exec(
        &self,
        namespace: &str,
        pod: &str,
        request: ExecRequest,
    ) -> Result<ExecSession, ApiError> {
        session::exec(&self.0, namespace, pod, &request).await
    }

    /// Output of a running container from now on, and its standard input when it has one (`stdin: true`).
    pub async fn attach(
        &self,
        namespace: &str,
        pod: &str,
        request: ExecRequest,
    ) -> Result<ExecSession, ApiError> {
        session::attach(&self.0, namespace, pod, &request)
    }

    /// A TCP connection to a port of a pod.
    pub async fn port_forward(
        &self,
        namespace: &str,
        pod: &str,
        port: u16,
    ) -> Result<tokio::net::TcpStream, ApiError> {
        session::port_forward(&self.0, namespace, pod, port).await
    }

    /// Stops every process, waiting at most `grace`. The Pod objects stay: the pods start again with the next start.
    pub async fn shutdown(&self, grace: std::time::Duration) {
        kubelet::shutdown(&self.0, grace).await;
    }
}

/// True in the process that `enter` answered with `Entry::Inside`.
fn inside_namespaces() -> bool {
    enter::is_inside()
}

/// True when every user id exists here; false inside a user namespace with a single mapped id.
fn many_ids() -> bool {
    static MANY: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
    *MANY.get_or_init(|| {
        let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
        let mapped = map
            .lines()
            .filter_map(|line| line.split_whitespace().nth(2)?.parse::<u64>().ok())
            .sum::<u64>();
        // Without privilege no other identity can be taken, however many exist.
        mapped > 1 && nix::unistd::geteuid().is_root()
    })
}
