//! One HTTP request, for calls and probes. Certificates are verified against the system's authorities; redirects are not followed,
//! because an answer must not choose where a request with credentials goes next.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::rt::TokioIo;
use libretto_api::intent::{Failure, FailureKind, HttpBody, HttpCall};
use rustls::{ClientConfig, RootCertStore, pki_types::ServerName};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

use crate::{failed, reach::Reach, secret::Resolver, tcp};

/// Longest body that is read; more would be a page, not a state.
const BODY_LIMIT: usize = 1 << 20;

/// How much of a refusal's body is quoted: enough for a sentence.
const QUOTE_LIMIT: usize = 300;

/// Sends a request whose answer must have one of the status codes that the call names.
pub(crate) async fn call(
    reach: &Reach,
    resolver: &Resolver<'_>,
    call: &HttpCall,
) -> Result<(), Failure> {
    let answer = probe(reach, resolver, call).await?;
    let code = answer["status"].as_u64().unwrap_or_default();
    let fine = if call.ok.is_empty() {
        (200..300).contains(&code)
    } else {
        call.ok.iter().any(|ok| u64::from(*ok) == code)
    };
    if fine {
        return Ok(());
    }
    let body = match &answer["body"] {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    };
    let mut quote: String = body.trim().chars().take(QUOTE_LIMIT).collect();
    if !quote.is_empty() {
        quote.insert_str(0, ": ");
    }
    Err(failed(
        FailureKind::Refused,
        format!("{}: status {code}{quote}", subject(call)),
    ))
}

/// Sends a request; every status is an answer.
pub(crate) async fn probe(
    reach: &Reach,
    resolver: &Resolver<'_>,
    call: &HttpCall,
) -> Result<Value, Failure> {
    tokio::time::timeout(
        Duration::from_millis(call.timeout_ms),
        send(reach, resolver, call),
    )
    .await
    .unwrap_or_else(|_elapsed| {
        Err(failed(
            FailureKind::Unreachable,
            format!("{}: no answer within {} ms", subject(call), call.timeout_ms),
        ))
    })
}

/// Method and URL, as the package wrote them: with handles, not with secrets.
fn subject(call: &HttpCall) -> String {
    format!("{} {}", call.method, call.url)
}

async fn send(reach: &Reach, resolver: &Resolver<'_>, call: &HttpCall) -> Result<Value, Failure> {
    let subject = subject(call);
    let invalid = |why: &str| failed(FailureKind::Invalid, format!("{subject}: {why}"));
    let unreachable =
        |why: &dyn std::fmt::Display| failed(FailureKind::Unreachable, format!("{subject}: {why}"));
    let uri: hyper::Uri = resolver
        .text(&call.url)
        .await?
        .parse()
        .map_err(|_error| invalid("this is not a URL"))?;
    let secure = match uri.scheme_str() {
        Some("http") => false,
        Some("https") => true,
        _ => return Err(invalid("the URL must begin with http:// or https://")),
    };
    let authority = uri
        .authority()
        .ok_or_else(|| invalid("the URL has no host"))?;
    if authority.as_str().contains('@') {
        return Err(invalid(
            "credentials belong into a header, not into the URL",
        ));
    }
    let host = authority.host().trim_matches(['[', ']']).to_owned();
    let port = authority
        .port_u16()
        .unwrap_or(if secure { 443 } else { 80 });
    let request = request(resolver, call, &uri, &invalid).await?;
    let stream = tcp::connect(reach, &host, port, call.timeout_ms).await?;
    let response = if secure {
        let name = ServerName::try_from(host).map_err(|error| invalid(&error.to_string()))?;
        let stream = TlsConnector::from(trust())
            .connect(name, stream)
            .await
            .map_err(|error| unreachable(&error))?;
        converse(stream, request).await
    } else {
        converse::<TcpStream>(stream, request).await
    }
    .map_err(|error| unreachable(&error))?;
    let status = response.status().as_u16();
    let body = Limited::new(response.into_body(), BODY_LIMIT)
        .collect()
        .await
        .map_err(|error| {
            failed(
                FailureKind::Refused,
                format!("{subject}: the body could not be read: {error}"),
            )
        })?
        .to_bytes();
    let body = serde_json::from_slice(&body)
        .unwrap_or_else(|_error| Value::String(String::from_utf8_lossy(&body).into_owned()));
    Ok(json!({"status": status, "body": body}))
}

async fn request(
    resolver: &Resolver<'_>,
    call: &HttpCall,
    uri: &hyper::Uri,
    invalid: &impl Fn(&str) -> Failure,
) -> Result<hyper::Request<Full<bytes::Bytes>>, Failure> {
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let host = uri.authority().map_or("", |authority| authority.as_str());
    let mut request = hyper::Request::builder()
        .method(call.method.as_str())
        .uri(path)
        .header("host", host)
        .header("user-agent", "libretto")
        .header("accept", "application/json, */*");
    for (name, value) in &call.headers {
        request = request.header(name.as_str(), resolver.text(value).await?);
    }
    let body = match &call.body {
        None => String::new(),
        Some(HttpBody::Text(text)) => resolver.text(text).await?,
        // Handles are replaced inside the structure, so that a value's quotes are escaped with it.
        Some(HttpBody::Json(value)) => {
            request = request.header("content-type", "application/json");
            resolver.object(value).await?.to_string()
        }
    };
    request
        .body(Full::from(body))
        .map_err(|error| invalid(&error.to_string()))
}

async fn converse<S>(
    stream: S,
    request: hyper::Request<Full<bytes::Bytes>>,
) -> hyper::Result<hyper::Response<hyper::body::Incoming>>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    // Ends with the answer: `sender` is dropped at the end of this function, and the body keeps the connection until it is read.
    tokio::spawn(connection);
    sender.send_request(request).await
}

/// The system's authorities, read once.
fn trust() -> Arc<ClientConfig> {
    static TRUST: OnceLock<Arc<ClientConfig>> = OnceLock::new();
    Arc::clone(TRUST.get_or_init(|| {
        let mut roots = RootCertStore::empty();
        let found = rustls_native_certs::load_native_certs();
        for error in &found.errors {
            tracing::warn!(%error, "an authority of the system cannot be read");
        }
        roots.add_parsable_certificates(found.certs);
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("ring has the default protocol versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        Arc::new(config)
    }))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use futures::future::BoxFuture;
    use libretto_api::{
        object::{Gvk, InstanceRef},
        secret::SecretHandle,
    };
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };

    use super::*;
    use crate::secret::{NoSecrets, SecretSource};

    const HERE: Reach = Reach {
        loopback: true,
        denied: Vec::new(),
        allowed: None,
    };

    /// Answers one connection with `answer`; gives the URL to ask, and what was asked.
    async fn serve(answer: String) -> (String, tokio::task::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/state?x=1", listener.local_addr().unwrap());
        let asked = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 4096];
            let read = stream.read(&mut request).await.unwrap();
            // Who asked may have gone before everything was said.
            let _ = stream.write_all(answer.as_bytes()).await;
            String::from_utf8_lossy(&request[..read]).into_owned()
        });
        (url, asked)
    }

    fn get(url: &str) -> HttpCall {
        HttpCall {
            method: "GET".into(),
            url: url.into(),
            headers: Vec::new(),
            body: None,
            ok: Vec::new(),
            timeout_ms: 5000,
        }
    }

    fn instance() -> InstanceRef {
        InstanceRef {
            package: "p".into(),
            gvk: Gvk::new("example.dev", "v1", "Thing"),
            namespace: "default".into(),
            name: "x".into(),
            uid: "u".into(),
        }
    }

    fn answer(status: &str, body: &str) -> String {
        format!(
            "HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
            body.len()
        )
    }

    /// Every handle is `a"b`.
    struct Quoted;

    impl SecretSource for Quoted {
        fn value<'a>(
            &'a self,
            _instance: &'a InstanceRef,
            _handle: &'a SecretHandle,
        ) -> BoxFuture<'a, Result<String, Failure>> {
            Box::pin(async { Ok("a\"b".to_owned()) })
        }
    }

    #[tokio::test]
    async fn a_call_carries_what_it_is_given_and_its_secrets() {
        let handle = SecretHandle::Key {
            name: "s".into(),
            key: "k".into(),
        }
        .text();
        let (url, asked) = serve(answer("201 Created", "")).await;
        let instance = instance();
        let resolver = Resolver::new(&Quoted, &instance);
        let request = HttpCall {
            method: "PUT".into(),
            headers: vec![("x-token".into(), handle.clone())],
            body: Some(HttpBody::Json(json!({"password": handle, "n": 1}))),
            ..get(&url)
        };
        call(&HERE, &resolver, &request).await.unwrap();
        let asked = asked.await.unwrap().to_lowercase();
        assert!(asked.starts_with("put /state?x=1 http/1.1\r\n"), "{asked}");
        assert!(asked.contains("x-token: a\"b\r\n"), "{asked}");
        assert!(
            asked.contains("content-type: application/json\r\n"),
            "{asked}"
        );
        assert!(
            asked.ends_with(r#"{"password":"a\"b","n":1}"#)
                || asked.ends_with(r#"{"n":1,"password":"a\"b"}"#),
            "{asked}"
        );
    }

    #[tokio::test]
    async fn only_the_named_codes_are_success() {
        let instance = instance();
        let resolver = Resolver::new(&NoSecrets, &instance);
        for (status, ok, expected) in [
            ("204 No Content", vec![], None),
            ("404 Not Found", vec![200, 404], None),
            ("200 OK", vec![404], Some("status 200: it says why")),
            ("302 Found", vec![], Some("status 302: it says why")),
            ("500 Oh", vec![], Some("status 500: it says why")),
        ] {
            let (url, _asked) = serve(answer(status, "it says why\n")).await;
            let result = call(&HERE, &resolver, &HttpCall { ok, ..get(&url) }).await;
            let message = result.err().map(|failure| failure.message);
            assert_eq!(
                message,
                expected.map(|why| format!("GET {url}: {why}")),
                "{status}"
            );
        }
    }

    #[tokio::test]
    async fn json_bodies_are_read_and_others_kept_as_text() {
        for (body, expected) in [
            (r#"{"ready":true}"#, json!({"ready": true})),
            ("pong", json!("pong")),
        ] {
            let (url, _asked) = serve(answer("503 Service Unavailable", body)).await;
            let instance = instance();
            let resolver = Resolver::new(&NoSecrets, &instance);
            assert_eq!(
                probe(&HERE, &resolver, &get(&url)).await.unwrap(),
                json!({"status": 503, "body": expected})
            );
        }
    }

    #[tokio::test]
    async fn an_endless_body_is_cut_off() {
        let (url, _asked) = serve(format!(
            "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n{}",
            "x".repeat(BODY_LIMIT + 1)
        ))
        .await;
        let instance = instance();
        let resolver = Resolver::new(&NoSecrets, &instance);
        let error = probe(&HERE, &resolver, &get(&url)).await.unwrap_err();
        assert_eq!(error.kind, FailureKind::Refused);
    }

    #[tokio::test]
    async fn what_cannot_be_asked_says_so() {
        let instance = instance();
        let resolver = Resolver::new(&NoSecrets, &instance);
        for (url, why) in [
            ("ftp://example.dev/", "must begin with http:// or https://"),
            (
                "http://a:b@example.dev/",
                "credentials belong into a header",
            ),
            ("not a url", "this is not a URL"),
        ] {
            let error = probe(&HERE, &resolver, &get(url)).await.unwrap_err();
            assert_eq!(error.kind, FailureKind::Invalid);
            assert!(error.message.contains(why), "{}", error.message);
        }
    }

    #[tokio::test]
    async fn a_server_without_a_known_certificate_is_not_spoken_to() {
        // Not TLS at all; what matters is that no request is sent in the clear.
        let (url, asked) = serve(answer("200 OK", "")).await;
        let instance = instance();
        let resolver = Resolver::new(&NoSecrets, &instance);
        let error = probe(&HERE, &resolver, &get(&url.replace("http:", "https:")))
            .await
            .unwrap_err();
        assert_eq!(error.kind, FailureKind::Unreachable);
        assert!(!asked.await.unwrap().contains("GET"));
    }
}
