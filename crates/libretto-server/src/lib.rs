//! The sockets that Libretto listens on: metrics and health.
//!
//! Never here: a way to act on the cluster, or to decide anything.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::IntoResponse,
    routing::get,
};
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;

/// What the listener tells about the process.
#[derive(Clone)]
pub struct Vitals {
    registry: Arc<Registry>,
    ready: Arc<AtomicBool>,
}

impl fmt::Debug for Vitals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vitals")
            .field("ready", &self.ready)
            .finish_non_exhaustive()
    }
}

impl Vitals {
    /// Not ready until [`Vitals::set_ready`].
    pub fn new(registry: Registry) -> Self {
        Self {
            registry: Arc::new(registry),
            ready: Arc::default(),
        }
    }

    /// Every table is listed and work goes on, or not.
    pub fn set_ready(&self, ready: bool) {
        self.ready.store(ready, Ordering::Relaxed);
    }
}

/// Serves `/metrics`, `/livez` (the process answers; also `/healthz`) and `/readyz` (it works) until `stop` completes.
pub async fn serve(
    listener: TcpListener,
    vitals: Vitals,
    stop: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    axum::serve(listener, router(vitals))
        .with_graceful_shutdown(stop)
        .await
}

fn router(vitals: Vitals) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/livez", get(alive))
        .route("/healthz", get(alive))
        .route("/readyz", get(ready))
        .with_state(vitals)
}

async fn metrics(State(vitals): State<Vitals>) -> impl IntoResponse {
    let mut text = String::new();
    match prometheus_client::encoding::text::encode(&mut text, &vitals.registry) {
        Ok(()) => (
            StatusCode::OK,
            [(
                header::CONTENT_TYPE,
                "application/openmetrics-text; version=1.0.0; charset=utf-8",
            )],
            text,
        ),
        Err(_error) => (
            StatusCode::INTERNAL_SERVER_ERROR,
            [(header::CONTENT_TYPE, "text/plain; charset=utf-8")],
            "metrics cannot be written down\n".to_owned(),
        ),
    }
}

async fn alive() -> &'static str {
    "ok\n"
}

async fn ready(State(vitals): State<Vitals>) -> impl IntoResponse {
    if vitals.ready.load(Ordering::Relaxed) {
        (StatusCode::OK, "ok\n")
    } else {
        (
            StatusCode::SERVICE_UNAVAILABLE,
            "not every watched kind has been listed yet\n",
        )
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpStream,
    };

    use super::*;

    async fn get(address: std::net::SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn health_readiness_and_metrics_answer_and_the_listener_stops() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let vitals = Vitals::new(Registry::default());
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let server = tokio::spawn(serve(listener, vitals.clone(), async {
            let _ = stopped.await;
        }));
        for path in ["/livez", "/healthz"] {
            assert!(get(address, path).await.starts_with("HTTP/1.1 200"));
        }
        assert!(get(address, "/readyz").await.starts_with("HTTP/1.1 503"));
        vitals.set_ready(true);
        assert!(get(address, "/readyz").await.starts_with("HTTP/1.1 200"));
        let metrics = get(address, "/metrics").await;
        assert!(
            metrics.contains("application/openmetrics-text"),
            "{metrics}"
        );
        assert!(metrics.trim_end().ends_with("# EOF"), "{metrics}");
        stop.send(()).unwrap();
        server.await.unwrap().unwrap();
    }
}
