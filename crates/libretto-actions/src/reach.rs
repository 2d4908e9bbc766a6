//! Where packages' requests may go. What a package asks and calls is written by somebody whom the cluster's administrator trusts with a
//! Kind, not with the network that Libretto's pod stands in.
//!
//! Names are resolved here, once, and the connection goes to the address that was looked at: a name that changes between look and
//! connection leads nowhere else.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use libretto_api::intent::{Failure, FailureKind};

use crate::{failed, tcp::address};

/// Addresses that no package may connect to: link-local ones always (a cloud's metadata service, which knows the machine's
/// credentials), and those named here.
#[derive(Debug, Clone, Default)]
pub struct Reach {
    /// Whether this machine itself may be asked. In a pod that is Libretto's own; where pods are processes of this machine it is they.
    pub loopback: bool,
    /// Addresses of the API server. Packages write to it by rules, with the rights they were given, not by requests of their own.
    pub denied: Vec<SocketAddr>,
}

impl Reach {
    /// The addresses of a host, provided that all of them may be connected to.
    pub(crate) async fn resolve(
        &self,
        host: &str,
        port: u16,
        timeout_ms: u64,
    ) -> Result<Vec<SocketAddr>, Failure> {
        let server = address(host, port);
        let unreachable = |why: &dyn std::fmt::Display| {
            failed(
                FailureKind::Unreachable,
                format!("connect to {server}: {why}"),
            )
        };
        let resolving = tokio::net::lookup_host((host, port));
        let addresses: Vec<SocketAddr> =
            tokio::time::timeout(Duration::from_millis(timeout_ms), resolving)
                .await
                .map_err(|_elapsed| {
                    unreachable(&format!("the name was not resolved within {timeout_ms} ms"))
                })?
                .map_err(|error| unreachable(&error))?
                .collect();
        for address in &addresses {
            if let Some(why) = self.refuses(*address) {
                return Err(failed(
                    FailureKind::Forbidden,
                    format!("connect to {server}: packages may not connect to {why}"),
                ));
            }
        }
        if addresses.is_empty() {
            return Err(unreachable(&"the name has no address"));
        }
        Ok(addresses)
    }

    fn refuses(&self, address: SocketAddr) -> Option<&'static str> {
        // `::ffff:169.254.169.254` is the same machine.
        let ip = address.ip().to_canonical();
        let link_local = match ip {
            IpAddr::V4(ip) => ip.is_link_local(),
            IpAddr::V6(ip) => ip.is_unicast_link_local() || METADATA_V6.contains(&ip),
        };
        if link_local {
            return Some("link-local addresses");
        }
        if ip.is_unspecified()
            || ip.is_multicast()
            || matches!(ip, IpAddr::V4(ip) if ip.is_broadcast())
        {
            return Some("addresses of nobody or everybody");
        }
        if ip.is_loopback() && !self.loopback {
            return Some("the machine that Libretto runs on");
        }
        self.denied
            .iter()
            .any(|denied| denied.ip().to_canonical() == ip && denied.port() == address.port())
            .then_some("the API server")
    }
}

/// The metadata service of some clouds, by an address that is not link-local.
const METADATA_V6: &[std::net::Ipv6Addr] =
    &[std::net::Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)];

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test]
    async fn what_no_package_may_ask_is_refused_in_every_spelling() {
        let reach = Reach {
            loopback: false,
            denied: vec!["10.96.0.1:443".parse().unwrap()],
        };
        for (host, port, why) in [
            ("169.254.169.254", 80, "link-local"),
            ("::ffff:169.254.169.254", 80, "link-local"),
            ("fe80::1", 80, "link-local"),
            ("fd00:ec2::254", 80, "link-local"),
            ("0.0.0.0", 80, "nobody"),
            ("224.0.0.1", 80, "everybody"),
            ("127.0.0.1", 80, "the machine"),
            ("127.8.8.8", 80, "the machine"),
            ("::1", 80, "the machine"),
            ("localhost", 80, "the machine"),
            ("10.96.0.1", 443, "the API server"),
        ] {
            let failure = reach.resolve(host, port, 1000).await.unwrap_err();
            assert_eq!(failure.kind, FailureKind::Forbidden, "{host}");
            assert!(failure.message.contains(why), "{host}: {}", failure.message);
        }
        for (host, port) in [("10.96.0.1", 80), ("10.1.2.3", 443), ("fd00::1", 80)] {
            reach.resolve(host, port, 1000).await.unwrap();
        }
        let at_home = Reach {
            loopback: true,
            ..reach
        };
        at_home.resolve("localhost", 80, 1000).await.unwrap();
    }
}
