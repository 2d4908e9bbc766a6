//! Where packages' requests may go. What a package asks and calls is written by somebody whom the cluster's administrator trusts with a
//! Kind, not with the network that Libretto's pod stands in.
//!
//! Names are resolved here, once, and the connection goes to the address that was looked at: a name that changes between look and
//! connection leads nowhere else.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use ipnet::IpNet;
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
    /// Where packages may go at all; `None` is everywhere else.
    pub allowed: Option<Allowed>,
}

/// Hosts that an administrator allows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Allowed {
    /// In lower case; `*` is any part of a name.
    names: Vec<String>,
    networks: Vec<IpNet>,
    /// As they were written, for messages.
    written: String,
}

impl Allowed {
    /// Names such as `*.team-a.svc`, addresses and networks such as `10.1.0.0/16`.
    pub fn parse(hosts: &[String]) -> Result<Self, String> {
        let mut allowed = Self {
            written: hosts.join(", "),
            ..Self::default()
        };
        for host in hosts {
            if let Ok(network) = host.parse() {
                allowed.networks.push(network);
            } else if let Ok(address) = host.parse::<IpAddr>() {
                allowed.networks.push(address.into());
            } else if !host.is_empty()
                && host
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | '*'))
            {
                allowed.names.push(host.to_ascii_lowercase());
            } else {
                return Err(format!(
                    "{host:?} is no host: write a name such as *.team-a.svc, an address, or a network such as 10.1.0.0/16"
                ));
            }
        }
        Ok(allowed)
    }

    fn has(&self, host: &str, addresses: &[SocketAddr]) -> bool {
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        // What is an address by itself is allowed as one, not because a `*` happens to fit.
        let named = host.parse::<IpAddr>().is_err()
            && self.names.iter().any(|pattern| matches(pattern, &host));
        named
            || addresses.iter().all(|address| {
                let ip = address.ip().to_canonical();
                self.networks.iter().any(|network| network.contains(&ip))
            })
    }
}

/// `*` stands for any number of any characters.
fn matches(pattern: &str, text: &str) -> bool {
    let Some((start, rest)) = pattern.split_once('*') else {
        return pattern == text;
    };
    let Some(text) = text.strip_prefix(start) else {
        return false;
    };
    (0..=text.len()).any(|from| text.is_char_boundary(from) && matches(rest, &text[from..]))
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
        if let Some(allowed) = &self.allowed
            && !allowed.has(host, &addresses)
        {
            return Err(failed(
                FailureKind::Forbidden,
                format!(
                    "connect to {server}: the installation's permissions.hosts does not allow it, only {}",
                    allowed.written
                ),
            ));
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
            allowed: None,
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

    #[test]
    fn hosts_are_allowed_by_name_or_network() {
        let hosts = ["*.team-a.svc", "db", "10.1.0.0/16", "fd00::/8"].map(str::to_owned);
        let allowed = Allowed::parse(&hosts).unwrap();
        let has = |host: &str, address: &str| {
            allowed.has(host, &[format!("{address}:80").parse().unwrap()])
        };
        for (host, address) in [
            ("redis.team-a.svc", "10.9.0.1"),
            ("a.b.Team-A.svc.", "10.9.0.1"),
            ("db", "10.9.0.1"),
            ("10.1.2.3", "10.1.2.3"),
            ("anything", "10.1.2.3"),
            ("fd00::1", "[fd00::1]"),
        ] {
            assert!(has(host, address), "{host}");
        }
        for (host, address) in [
            ("redis.team-b.svc", "10.9.0.1"),
            ("team-a.svc", "10.9.0.1"),
            ("db2", "10.9.0.1"),
            ("10.2.2.3", "10.2.2.3"),
        ] {
            assert!(!has(host, address), "{host}");
        }
        let any = Allowed::parse(&["*".to_owned()]).unwrap();
        assert!(any.has("x", &["10.0.0.1:1".parse().unwrap()]));
        assert!(!any.has("10.0.0.1", &["10.0.0.1:1".parse().unwrap()]));
        assert!(Allowed::parse(&["http://x".to_owned()]).is_err());
    }
}
