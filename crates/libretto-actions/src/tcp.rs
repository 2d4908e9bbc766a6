//! Asks whether a TCP connection can be made.

use std::time::Duration;

use libretto_api::intent::{Failure, FailureKind};
use serde_json::{Value, json};
use tokio::net::TcpStream;

use crate::{failed, reach::Reach};

pub(crate) async fn probe(
    reach: &Reach,
    host: &str,
    port: u16,
    timeout_ms: u64,
) -> Result<Value, Failure> {
    connect(reach, host, port, timeout_ms).await?;
    Ok(json!({"open": true}))
}

/// Connects within the timeout; the failure names host and port.
pub(crate) async fn connect(
    reach: &Reach,
    host: &str,
    port: u16,
    timeout_ms: u64,
) -> Result<TcpStream, Failure> {
    let addresses = reach.resolve(host, port, timeout_ms).await?;
    let unreachable = |why: String| {
        failed(
            FailureKind::Unreachable,
            format!("connect to {}: {why}", address(host, port)),
        )
    };
    tokio::time::timeout(
        Duration::from_millis(timeout_ms),
        TcpStream::connect(addresses.as_slice()),
    )
    .await
    .map_err(|_elapsed| unreachable(format!("no answer within {timeout_ms} ms")))?
    .map_err(|error| unreachable(error.to_string()))
}

/// `host:port`, with brackets around an IPv6 address.
pub(crate) fn address(host: &str, port: u16) -> String {
    if host.contains(':') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use tokio::net::TcpListener;

    use super::*;

    const HERE: Reach = Reach {
        loopback: true,
        denied: Vec::new(),
        allowed: None,
    };

    #[tokio::test]
    async fn open_and_closed_ports_are_told_apart() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        assert_eq!(
            probe(&HERE, "127.0.0.1", port, 1000).await.unwrap(),
            json!({"open": true})
        );
        drop(listener);
        let error = probe(&HERE, "127.0.0.1", port, 1000).await.unwrap_err();
        assert_eq!(error.kind, FailureKind::Unreachable);
        assert!(
            error
                .message
                .starts_with(&format!("connect to 127.0.0.1:{port}: ")),
            "{}",
            error.message
        );
    }

    #[test]
    fn ipv6_addresses_get_brackets() {
        assert_eq!(address("fd00::1", 6379), "[fd00::1]:6379");
        assert_eq!(address("redis-0", 6379), "redis-0:6379");
    }
}
