//! GET of a URL, for probes. Plain HTTP only: an `https` URL is refused in words rather than sent unverified.

use std::time::Duration;

use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_util::rt::TokioIo;
use libretto_api::intent::{Failure, FailureKind};
use serde_json::{Value, json};

use crate::{failed, tcp};

/// Longest body that is read; more would be a page, not a state.
const BODY_LIMIT: usize = 1 << 20;

pub(crate) async fn probe(url: &str, timeout_ms: u64) -> Result<Value, Failure> {
    tokio::time::timeout(Duration::from_millis(timeout_ms), get(url, timeout_ms))
        .await
        .unwrap_or_else(|_elapsed| {
            Err(failed(
                FailureKind::Unreachable,
                format!("GET {url}: no answer within {timeout_ms} ms"),
            ))
        })
}

async fn get(url: &str, timeout_ms: u64) -> Result<Value, Failure> {
    let invalid = |why: &str| failed(FailureKind::Invalid, format!("GET {url}: {why}"));
    let uri: hyper::Uri = url.parse().map_err(|_error| invalid("this is not a URL"))?;
    match uri.scheme_str() {
        Some("http") => {}
        Some("https") => {
            return Err(invalid(
                "https is not supported by the http probe of this version; use http, or `probe: tcp`",
            ));
        }
        _ => return Err(invalid("the URL must begin with http://")),
    }
    let authority = uri
        .authority()
        .ok_or_else(|| invalid("the URL has no host"))?;
    let host = authority.host().trim_matches(['[', ']']);
    let stream = tcp::connect(host, authority.port_u16().unwrap_or(80), timeout_ms).await?;
    let lost =
        |error: hyper::Error| failed(FailureKind::Unreachable, format!("GET {url}: {error}"));
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(lost)?;
    // Ends with the answer: `sender` is dropped at the end of this function.
    tokio::spawn(connection);
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let request = hyper::Request::get(path)
        .header("host", authority.as_str())
        .header("user-agent", "libretto")
        .header("accept", "application/json, */*")
        .body(Empty::<bytes::Bytes>::new())
        .map_err(|error| invalid(&error.to_string()))?;
    let response = sender.send_request(request).await.map_err(lost)?;
    let status = response.status().as_u16();
    let body = Limited::new(response.into_body(), BODY_LIMIT)
        .collect()
        .await
        .map_err(|error| {
            failed(
                FailureKind::Refused,
                format!("GET {url}: the body could not be read: {error}"),
            )
        })?
        .to_bytes();
    let body = serde_json::from_slice(&body)
        .unwrap_or_else(|_error| Value::String(String::from_utf8_lossy(&body).into_owned()));
    Ok(json!({"status": status, "body": body}))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };

    use super::*;

    /// Answers one connection with `answer` and gives the URL to ask.
    async fn serve(answer: String) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/state?x=1", listener.local_addr().unwrap());
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 4096];
            let read = stream.read(&mut request).await.unwrap();
            assert!(request[..read].starts_with(b"GET /state?x=1 HTTP/1.1"));
            stream.write_all(answer.as_bytes()).await.unwrap();
        });
        url
    }

    #[tokio::test]
    async fn json_bodies_are_read_and_others_kept_as_text() {
        for (body, expected) in [
            (r#"{"ready":true}"#, json!({"ready": true})),
            ("pong", json!("pong")),
        ] {
            let url = serve(format!(
                "HTTP/1.1 503 Service Unavailable\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
                body.len()
            ))
            .await;
            assert_eq!(
                probe(&url, 2000).await.unwrap(),
                json!({"status": 503, "body": expected})
            );
        }
    }

    #[tokio::test]
    async fn an_endless_body_is_cut_off() {
        let url = serve(format!(
            "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n{}",
            "x".repeat(BODY_LIMIT + 1)
        ))
        .await;
        let error = probe(&url, 5000).await.unwrap_err();
        assert_eq!(error.kind, FailureKind::Refused);
    }

    #[tokio::test]
    async fn what_is_not_supported_says_so() {
        let error = probe("https://example.dev/", 1000).await.unwrap_err();
        assert_eq!(error.kind, FailureKind::Invalid);
        assert!(
            error.message.contains("https is not supported"),
            "{}",
            error.message
        );
    }
}
