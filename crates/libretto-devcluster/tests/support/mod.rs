//! A cluster's API server for one test, and clients for it.

#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

use std::path::PathBuf;

use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use libretto_devcluster::{Devcluster, Options, Parts, StartError, bind, node::Driver};
use serde_json::Value;

pub async fn start(data_dir: Option<PathBuf>) -> Result<Devcluster, StartError> {
    Devcluster::start(Options {
        data_dir,
        listener: bind("127.0.0.1:0".parse().unwrap()).unwrap(),
        driver: Driver::Auto,
        images: None,
        parts: Parts::ApiServer,
    })
    .await
}

pub async fn cluster() -> (Devcluster, Client) {
    let cluster = start(None).await.unwrap();
    let client = client(&cluster).await;
    (cluster, client)
}

pub async fn client(cluster: &Devcluster) -> Client {
    let kubeconfig = Kubeconfig::from_yaml(cluster.kubeconfig()).unwrap();
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .unwrap();
    Client::try_from(config).unwrap()
}

/// A raw answer.
#[derive(Debug)]
pub struct Answer {
    pub code: u16,
    pub headers: http::HeaderMap,
    pub text: String,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|_| panic!("not JSON: {}", self.text))
    }
}

/// One request over a TLS connection of its own, with the administrator's token unless `headers` name another.
pub async fn request(
    cluster: &Devcluster,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> Answer {
    use std::sync::Arc;

    use hyper_util::rt::TokioIo;
    let mut roots = rustls::RootCertStore::empty();
    let pem = cluster.certificate_authority().as_bytes();
    for certificate in
        <rustls::pki_types::CertificateDer<'_> as rustls::pki_types::pem::PemObject>::pem_slice_iter(
            pem,
        )
    {
        roots.add(certificate.unwrap()).unwrap();
    }
    let config = rustls::ClientConfig::builder_with_provider(Arc::new(
        rustls::crypto::ring::default_provider(),
    ))
    .with_safe_default_protocol_versions()
    .unwrap()
    .with_root_certificates(roots)
    .with_no_client_auth();
    let address = cluster.url().strip_prefix("https://").unwrap();
    let stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let name = rustls::pki_types::ServerName::try_from("localhost").unwrap();
    let stream = tokio_rustls::TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await
        .unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    let mut builder = http::Request::builder()
        .method(method)
        .uri(path)
        .header("host", "localhost");
    if !headers
        .iter()
        .any(|(name, _)| name.eq_ignore_ascii_case("authorization"))
    {
        builder = builder.header("authorization", format!("Bearer {}", cluster.token()));
    }
    for (name, value) in headers {
        builder = builder.header(*name, *value);
    }
    let request = builder
        .body(axum::body::Body::from(body.to_owned()))
        .unwrap();
    let response = sender.send_request(request).await.unwrap();
    let (parts, content) = response.into_parts();
    let bytes = axum::body::to_bytes(axum::body::Body::new(content), usize::MAX)
        .await
        .unwrap();
    Answer {
        code: parts.status.as_u16(),
        headers: parts.headers,
        text: String::from_utf8(bytes.to_vec()).unwrap(),
    }
}
