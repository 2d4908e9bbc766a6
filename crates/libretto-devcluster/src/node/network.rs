//! The pods' network: one bridge, one veth pair per pod, and the allocation of addresses. Only inside the node's own network
//! namespace; never touches an interface of the host.
//!
//! `ClusterIP`s need no address each: one `local` route makes the whole Service range local to the node (the kernel's "AnyIP"), so
//! the Service proxy binds any of them and a connection to an unused one is refused at once, as kube-proxy does.

use std::{
    collections::HashSet,
    io,
    net::Ipv4Addr,
    path::{Path, PathBuf},
};

use futures::TryStreamExt as _;
use rtnetlink::{
    Handle, LinkBridge, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder,
    packet_route::{
        link::{InfoData, InfoVeth, LinkAttribute, State},
        route::{RouteScope, RouteType},
    },
};

/// Bridge of the node's network namespace.
pub const BRIDGE: &str = "libretto0";
/// The node's address on the bridge: gateway and name server of every pod, `status.hostIP`.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 66, 0, 1);
/// Locally administered, and after GATEWAY for whoever reads a packet trace.
const BRIDGE_ADDRESS: [u8; 6] = [0x02, 0x00, 10, 66, 0, 1];
/// Pods live in 10.66.0.0/16.
pub const POD_PREFIX: u8 = 16;
/// Services live in 10.96.0.0/12, kubeadm's default.
pub const SERVICE_NETWORK: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 0);
const SERVICE_PREFIX: u8 = 12;
/// The main routing table for local addresses.
const LOCAL_TABLE: u32 = 255;

/// A netlink connection for the current network namespace; the task ends with the runtime.
pub(crate) fn connect() -> io::Result<Handle> {
    let (connection, handle, _) = rtnetlink::new_connection()?;
    tokio::spawn(connection);
    Ok(handle)
}

async fn index_of(handle: &Handle, name: &str) -> Result<u32, String> {
    let link = handle
        .link()
        .get()
        .match_name(name)
        .execute()
        .try_next()
        .await
        .map_err(|error| format!("looking up {name}: {error}"))?
        .ok_or_else(|| format!("looking up {name}: no such interface"))?;
    Ok(link.header.index)
}

async fn bring_up(handle: &Handle, index: u32) -> Result<(), String> {
    handle
        .link()
        .set(LinkUnspec::new_with_index(index).up().build())
        .execute()
        .await
        .map_err(|error| format!("bringing an interface up: {error}"))
}

/// Loopback, bridge and the Service route, in a new network namespace.
pub(crate) async fn set_up_bridge() -> Result<(), String> {
    let handle = connect().map_err(|error| format!("a netlink socket: {error}"))?;
    let loopback = index_of(&handle, "lo").await?;
    bring_up(&handle, loopback).await?;
    handle
        .link()
        // Without an address of its own a bridge takes the lowest of its ports' and changes it as pods come and go; until their
        // neighbour entries expire, pods then send to nobody.
        .add(
            LinkBridge::new(BRIDGE)
                .address(BRIDGE_ADDRESS.to_vec())
                .build(),
        )
        .execute()
        .await
        .map_err(|error| format!("creating a bridge (kernel module \"bridge\"): {error}"))?;
    let bridge = index_of(&handle, BRIDGE).await?;
    handle
        .address()
        .add(bridge, GATEWAY.into(), POD_PREFIX)
        .execute()
        .await
        .map_err(|error| format!("giving the bridge an address: {error}"))?;
    bring_up(&handle, bridge).await?;
    let mut route = RouteMessageBuilder::<Ipv4Addr>::new()
        .destination_prefix(SERVICE_NETWORK, SERVICE_PREFIX)
        .output_interface(loopback)
        .table_id(LOCAL_TABLE)
        .kind(RouteType::Local)
        .scope(RouteScope::Host)
        .build();
    // From the node itself, Services and pods see the node's pod-network address, not 10.96.x.y.
    route
        .attributes
        .push(rtnetlink::packet_route::route::RouteAttribute::PrefSource(
            GATEWAY.into(),
        ));
    handle
        .route()
        .add(route)
        .execute()
        .await
        .map_err(|error| format!("adding the Service route: {error}"))
}

/// Creates and removes a veth pair, to know that pods can have one.
pub(crate) async fn try_veth() -> Result<(), String> {
    let handle = connect().map_err(|error| format!("a netlink socket: {error}"))?;
    handle
        .link()
        .add(LinkVeth::new("probe0", "probe1").build())
        .execute()
        .await
        .map_err(|error| format!("creating a veth pair (kernel module \"veth\"): {error}"))?;
    let index = index_of(&handle, "probe0").await?;
    handle
        .link()
        .del(index)
        .execute()
        .await
        .map_err(|error| format!("removing a veth pair: {error}"))
}

/// Connects the calling process's network namespace to the node's bridge as `eth0`.
///
/// `node` is a connection made in the node's namespace, `pod` one made in the pod's; this process is in the latter.
pub(crate) async fn join_bridge(
    node: &Handle,
    pod: &Handle,
    address: Ipv4Addr,
) -> Result<(), String> {
    let [_, _, high, low] = address.octets();
    let name = format!("pod{high}-{low}");
    let bridge = index_of(node, BRIDGE).await?;
    // The kernel takes interfaces of a namespace that has ended away in its own time.
    if let Ok(stale) = index_of(node, &name).await {
        let _ = node.link().del(stale).execute().await;
    }
    let peer = LinkMessageBuilder::<LinkUnspec>::new()
        .name("eth0")
        .setns_by_pid(std::process::id())
        .build();
    let pair = LinkMessageBuilder::<LinkVeth>::new(&name, "eth0")
        .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
        .controller(bridge)
        .up()
        .build();
    node.link()
        .add(pair)
        .execute()
        .await
        .map_err(|error| format!("creating the pod's veth pair {name}: {error}"))?;
    let loopback = index_of(pod, "lo").await?;
    bring_up(pod, loopback).await?;
    let eth0 = index_of(pod, "eth0").await?;
    pod.address()
        .add(eth0, address.into(), POD_PREFIX)
        .execute()
        .await
        .map_err(|error| format!("giving the pod address {address}: {error}"))?;
    bring_up(pod, eth0).await?;
    pod.route()
        .add(
            RouteMessageBuilder::<Ipv4Addr>::new()
                .gateway(GATEWAY)
                .build(),
        )
        .execute()
        .await
        .map_err(|error| format!("adding the pod's default route: {error}"))?;
    // A packet sent while the kernel still calls the link "down" is lost and costs a whole second of TCP retransmission.
    for side in [(pod, eth0), (node, index_of(node, &name).await?)] {
        wait_until_up(side.0, side.1).await?;
    }
    Ok(())
}

async fn wait_until_up(handle: &Handle, index: u32) -> Result<(), String> {
    // The kernel's link watcher takes at most a second; five means it will not happen.
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(5);
    loop {
        let link = handle
            .link()
            .get()
            .match_index(index)
            .execute()
            .try_next()
            .await
            .map_err(|error| format!("reading the pod's link: {error}"))?;
        let up = link.is_some_and(|link| {
            link.attributes
                .iter()
                .any(|attribute| matches!(attribute, LinkAttribute::OperState(State::Up)))
        });
        if up {
            return Ok(());
        }
        if tokio::time::Instant::now() > deadline {
            return Err("the pod's link did not come up within 5 s".to_owned());
        }
        tokio::time::sleep(std::time::Duration::from_micros(200)).await;
    }
}

/// Hands out pod addresses in order, with the position kept on disk: an address is not used again until all others were, so a client
/// that still holds a dead pod's address never talks to a stranger.
#[derive(Debug)]
pub struct Addresses {
    base: Ipv4Addr,
    cursor: u32,
    used: HashSet<Ipv4Addr>,
    file: PathBuf,
}

/// First and last host number handed out: .0.1 is the gateway, the first hundred are left for people, .255.255 is the broadcast.
const FIRST: u32 = 100;
const LAST: u32 = 0xfffe;

impl Addresses {
    /// `base` is the network, such as 10.66.0.0; the cursor lives in `file`.
    pub fn load(base: Ipv4Addr, file: &Path) -> Self {
        let cursor = std::fs::read_to_string(file)
            .ok()
            .and_then(|text| text.trim().parse().ok())
            .filter(|cursor| (FIRST..=LAST).contains(cursor))
            .unwrap_or(FIRST);
        Self {
            base,
            cursor,
            used: HashSet::new(),
            file: file.to_owned(),
        }
    }

    /// `None` when 65,000 pods run.
    pub fn allocate(&mut self) -> io::Result<Option<Ipv4Addr>> {
        for _ in FIRST..=LAST {
            let candidate = Ipv4Addr::from(u32::from(self.base) | self.cursor);
            self.cursor = if self.cursor == LAST {
                FIRST
            } else {
                self.cursor + 1
            };
            // .x.0 and .x.255 are valid in a /16 but surprise people and some software.
            let edge = matches!(candidate.octets()[3], 0 | 255);
            if !edge && self.used.insert(candidate) {
                std::fs::write(&self.file, self.cursor.to_string())?;
                return Ok(Some(candidate));
            }
        }
        Ok(None)
    }

    pub fn release(&mut self, address: Ipv4Addr) {
        self.used.remove(&address);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn addresses_are_not_reused_at_once_nor_after_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("next-address");
        let base = Ipv4Addr::new(10, 66, 0, 0);
        let mut addresses = Addresses::load(base, &file);
        let first = addresses.allocate().unwrap().unwrap();
        assert_eq!(first, Ipv4Addr::new(10, 66, 0, 100));
        addresses.release(first);
        let second = addresses.allocate().unwrap().unwrap();
        assert_eq!(second, Ipv4Addr::new(10, 66, 0, 101));
        let mut addresses = Addresses::load(base, &file);
        assert_eq!(
            addresses.allocate().unwrap().unwrap(),
            Ipv4Addr::new(10, 66, 0, 102)
        );
    }

    #[test]
    fn edges_are_skipped_and_the_range_wraps() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("next-address");
        std::fs::write(&file, "254").unwrap();
        let mut addresses = Addresses::load(Ipv4Addr::new(10, 66, 0, 0), &file);
        let octets = |a: Option<Ipv4Addr>| a.unwrap().octets();
        assert_eq!(octets(addresses.allocate().unwrap()), [10, 66, 0, 254]);
        assert_eq!(octets(addresses.allocate().unwrap()), [10, 66, 1, 1]);
        addresses.cursor = LAST;
        assert_eq!(octets(addresses.allocate().unwrap()), [10, 66, 255, 254]);
        assert_eq!(octets(addresses.allocate().unwrap()), [10, 66, 0, 100]);
    }
}
