//! Asks for the addresses of a name, as every program of this machine would.

use std::{collections::BTreeSet, time::Duration};

use libretto_api::intent::{Failure, FailureKind};
use serde_json::{Value, json};

use crate::failed;

pub(crate) async fn probe(name: &str, timeout_ms: u64) -> Result<Value, Failure> {
    let unresolved =
        |why: String| failed(FailureKind::Unreachable, format!("resolve {name}: {why}"));
    let addresses = tokio::time::timeout(
        Duration::from_millis(timeout_ms),
        tokio::net::lookup_host((name, 0)),
    )
    .await
    .map_err(|_elapsed| unresolved(format!("no answer within {timeout_ms} ms")))?
    .map_err(|error| unresolved(error.to_string()))?;
    // Servers answer in turns; an order of its own makes the same answer the same row.
    let addresses: BTreeSet<String> = addresses.map(|address| address.ip().to_string()).collect();
    Ok(json!({"addresses": addresses}))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test]
    async fn addresses_are_sorted_and_a_name_nobody_knows_is_told() {
        let answer = probe("localhost", 2_000).await.unwrap();
        let addresses = answer["addresses"].as_array().unwrap();
        assert!(
            addresses.contains(&json!("127.0.0.1")) || addresses.contains(&json!("::1")),
            "{answer}"
        );
        let failure = probe("nobody.invalid", 5_000).await.unwrap_err();
        assert!(
            failure.message.starts_with("resolve nobody.invalid: "),
            "{}",
            failure.message
        );
    }
}
