//! The node: pods as processes in Linux namespaces (or plain processes where namespaces are not allowed).

use std::{pin::Pin, sync::Arc};

use bytes::Bytes;
use futures::Stream;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::{mpsc, oneshot},
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

/// The node agent; cheap to clone.
#[derive(Clone)]
pub struct Node(Arc<Inner>);

struct Inner {}

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
    pub data_dir: std::path::PathBuf,
    pub driver: Driver,
    /// Extra image catalogue file.
    pub images: Option<std::path::PathBuf>,
}

impl Node {
    /// Starts the sync loop; registers the Node object; pods bound to it start to run.
    pub async fn start(_api: Api, _options: NodeOptions) -> std::io::Result<Self> {
        todo!()
    }

    pub async fn logs(
        &self,
        _namespace: &str,
        _pod: &str,
        _options: LogOptions,
    ) -> Result<LogStream, ApiError> {
        let _ = &self.0;
        todo!()
    }

    pub async fn exec(
        &self,
        _namespace: &str,
        _pod: &str,
        _request: ExecRequest,
    ) -> Result<ExecSession, ApiError> {
        todo!()
    }

    /// A TCP connection to a port of a pod.
    pub async fn port_forward(
        &self,
        _namespace: &str,
        _pod: &str,
        _port: u16,
    ) -> Result<tokio::net::TcpStream, ApiError> {
        todo!()
    }

    /// Stops every process, waiting at most `grace`.
    pub async fn shutdown(&self, _grace: std::time::Duration) {
        todo!()
    }
}
