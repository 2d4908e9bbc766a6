//! Listeners, TLS and connections.

use std::{net::TcpListener, sync::Arc, time::Duration};

use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto::Builder,
    service::TowerToHyperService,
};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{Shared, router};

/// Connections at a time. A client library holds a handful; this many means a leak, and stops it before file descriptors run out.
const CONNECTION_LIMIT: usize = 512;
/// A client that has not finished its handshake by then never will.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Time for answers on their way when the server ends; watches have been ended before.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);
/// Wait after a failed accept (no file descriptors): trying at once would burn a core.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves the API on any number of listeners; cheap to clone.
#[derive(Clone)]
pub struct Server {
    shared: Arc<Shared>,
    tls: TlsAcceptor,
    connections: Arc<Semaphore>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Server")
            .field("tasks", &self.tasks.len())
            .finish_non_exhaustive()
    }
}

impl Server {
    pub fn new(shared: Arc<Shared>, tls: Arc<rustls::ServerConfig>) -> Self {
        Self {
            shared,
            tls: TlsAcceptor::from(tls),
            connections: Arc::new(Semaphore::new(CONNECTION_LIMIT)),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
        }
    }

    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Serves on one more listener, which may belong to another network namespace.
    pub fn serve(&self, listener: TcpListener) -> std::io::Result<()> {
        listener.set_nonblocking(true)?;
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let server = self.clone();
        self.tasks.spawn(async move {
            let stop = server.stop.clone();
            stop.run_until_cancelled(server.accept(listener)).await;
        });
        Ok(())
    }

    /// Stops accepting and waits for answers on their way. Watches end when the store is closed, which comes first.
    pub async fn shutdown(&self) {
        self.stop.cancel();
        self.tasks.close();
        if tokio::time::timeout(DRAIN_TIMEOUT, self.tasks.wait())
            .await
            .is_err()
        {
            tracing::debug!(open = self.tasks.len(), "connections left open at the end");
        }
    }

    async fn accept(&self, listener: tokio::net::TcpListener) {
        let mut told = false;
        loop {
            if !told && self.connections.available_permits() == 0 {
                told = true;
                tracing::warn!(
                    limit = CONNECTION_LIMIT,
                    "every connection is in use; further clients wait until one ends (told once)"
                );
            }
            let Ok(permit) = self.connections.clone().acquire_owned().await else {
                return;
            };
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let server = self.clone();
            self.tasks.spawn(async move {
                server.connection(stream).await;
                drop(permit);
            });
        }
    }

    async fn connection(&self, stream: tokio::net::TcpStream) {
        // Watch events are small and must not wait for each other.
        let _ = stream.set_nodelay(true);
        let handshake = tokio::time::timeout(HANDSHAKE_TIMEOUT, self.tls.accept(stream));
        let stream = match self.stop.run_until_cancelled(handshake).await {
            Some(Ok(Ok(stream))) => stream,
            Some(Ok(Err(error))) => {
                tracing::debug!(%error, "TLS handshake failed");
                return;
            }
            Some(Err(_)) | None => return,
        };
        let service = TowerToHyperService::new(router(self.shared.clone()));
        let builder = Builder::new(TokioExecutor::new());
        let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
        tokio::pin!(connection);
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = self.stop.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "connection ended early");
        }
    }
}
