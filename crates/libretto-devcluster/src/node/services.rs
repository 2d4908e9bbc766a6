//! The Service proxy: a TCP listener per ClusterIP and port while something is ready behind it, a connection to an endpoint for each
//! that is accepted. Starts the name server too, which reads the same directory.
//!
//! What kube-proxy does and this does not: UDP and SCTP (said by an event on the Service), node ports and load balancers (nothing
//! outside could reach them), preserving the client's address.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    io,
    net::{IpAddr, Ipv4Addr, SocketAddrV4},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use parking_lot::{Mutex, RwLock};
use tokio::{
    net::{TcpListener, TcpStream, UdpSocket},
    sync::Notify,
    task::{AbortHandle, JoinHandle},
};

use super::{
    directory::{Directory, Name, ServicePort},
    dns,
    events::{About, Severity},
    kubelet::Inner,
    network,
};
use crate::api::{Gvr, ListOptions, SERVICES, WatchEvent};

const SLICES: Gvr = Gvr::new("discovery.k8s.io", "v1", "endpointslices");
/// A dead pod's address does not answer at all; a living one on the same machine answers at once.
const CONNECT_LIMIT: Duration = Duration::from_millis(500);
/// Clients remembered per service for `sessionAffinity`; beyond that the oldest are forgotten.
const STICKY_CLIENTS: usize = 10_000;
const DNS_PORT: u16 = 53;

/// Listening address and what it serves.
type Plan = BTreeMap<SocketAddrV4, (Name, ServicePort, Option<u64>)>;

/// Starts followers, proxy and name server.
pub(crate) async fn start(node: &Arc<Inner>) -> io::Result<Vec<AbortHandle>> {
    let directory = Arc::new(RwLock::new(Directory::new(node.host_address)));
    let changed = Arc::new(Notify::new());
    let mut tasks = vec![
        tokio::spawn(follow(
            node.clone(),
            SERVICES,
            directory.clone(),
            changed.clone(),
        ))
        .abort_handle(),
        tokio::spawn(follow(
            node.clone(),
            SLICES,
            directory.clone(),
            changed.clone(),
        ))
        .abort_handle(),
        tokio::spawn(proxy(node.clone(), directory.clone(), changed)).abort_handle(),
    ];
    // With the process driver pods use the host's resolver, which cannot be told about us.
    if node.namespaces {
        let address = (network::GATEWAY, DNS_PORT);
        let (udp, tcp) = (
            UdpSocket::bind(address).await?,
            TcpListener::bind(address).await?,
        );
        tasks.push(tokio::spawn(dns::serve(udp, tcp, directory)).abort_handle());
    }
    Ok(tasks)
}

async fn follow(
    node: Arc<Inner>,
    gvr: Gvr,
    directory: Arc<RwLock<Directory>>,
    changed: Arc<Notify>,
) {
    let services = gvr == SERVICES;
    let put = |directory: &mut Directory, object: &serde_json::Value| {
        if services {
            directory.put_service(object);
        } else {
            directory.put_slice(object);
        }
    };
    loop {
        let Ok(list) = node.api.list(&gvr, None, &ListOptions::default()) else {
            return;
        };
        {
            let mut directory = directory.write();
            if services {
                directory.clear_services();
            } else {
                directory.clear_slices();
            }
            for item in &list.items {
                put(&mut directory, item);
            }
        }
        changed.notify_one();
        let Ok(mut watch) =
            node.api
                .watch(&gvr, None, &ListOptions::default(), list.resource_version)
        else {
            return;
        };
        loop {
            match watch.next().await {
                Some(WatchEvent::Added(object) | WatchEvent::Modified(object)) => {
                    put(&mut directory.write(), &object);
                }
                Some(WatchEvent::Deleted(object)) => {
                    let mut directory = directory.write();
                    if services {
                        directory.remove_service(&object);
                    } else {
                        directory.remove_slice(&object);
                    }
                }
                Some(WatchEvent::Bookmark(_)) => continue,
                Some(WatchEvent::Expired) => break,
                None => return,
            }
            changed.notify_one();
        }
    }
}

/// Listeners by address; dropping one ends it and leaves its connections alone.
struct Listener {
    port: ServicePort,
    name: Name,
    task: JoinHandle<()>,
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn proxy(node: Arc<Inner>, directory: Arc<RwLock<Directory>>, changed: Arc<Notify>) {
    let mut listeners = BTreeMap::<SocketAddrV4, Listener>::new();
    let mut complained = HashSet::new();
    loop {
        changed.notified().await;
        let plan = plan(&node, &directory.read(), &mut complained);
        listeners.retain(|address, listener| {
            plan.get(address)
                .is_some_and(|(name, port, _)| *name == listener.name && *port == listener.port)
                && !listener.task.is_finished()
        });
        for (address, (name, port, affinity)) in plan {
            if listeners.contains_key(&address) {
                continue;
            }
            match TcpListener::bind(address).await {
                Ok(socket) => {
                    let task = tokio::spawn(accept(
                        socket,
                        directory.clone(),
                        name.clone(),
                        port.clone(),
                        affinity,
                    ));
                    listeners.insert(address, Listener { port, name, task });
                }
                Err(error) => {
                    tracing::warn!(%address, service = name.1, namespace = name.0, %error, "service address cannot be served");
                    // The address may be free after the listener that is ending has gone.
                    let changed = changed.clone();
                    tokio::spawn(async move {
                        tokio::time::sleep(Duration::from_secs(1)).await;
                        changed.notify_one();
                    });
                }
            }
        }
    }
}

/// What should be listened on. Ports with nothing behind them are left out: a connection is refused at once.
fn plan(node: &Inner, directory: &Directory, complained: &mut HashSet<(String, u16)>) -> Plan {
    let mut plan = Plan::new();
    for (name, service) in directory.services() {
        let Some(address) = service.cluster_ip else {
            continue;
        };
        for port in &service.ports {
            if port.protocol != "TCP" {
                if complained.insert((service.uid.clone(), port.port)) {
                    let about = About {
                        kind: "Service",
                        namespace: name.0.clone(),
                        name: name.1.clone(),
                        uid: service.uid.clone(),
                    };
                    let message = format!(
                        "port {}/{} is not served: this node's service proxy knows TCP only; use the pods' addresses (headless service)",
                        port.port, port.protocol
                    );
                    node.events.record(
                        &about,
                        "",
                        Severity::Warning,
                        "UnsupportedProtocol",
                        &message,
                    );
                }
                continue;
            }
            if !directory.targets(name, port).is_empty() {
                let listen = SocketAddrV4::new(service_address(node, address), port.port);
                plan.insert(listen, (name.clone(), port.clone(), service.affinity));
            }
        }
    }
    plan
}

/// With the process driver 10.96.a.b is served as 127.96.a.b, the only addresses an ordinary user can listen on.
fn service_address(node: &Inner, address: Ipv4Addr) -> Ipv4Addr {
    if node.namespaces {
        return address;
    }
    let [_, second, third, fourth] = address.octets();
    Ipv4Addr::new(127, second, third, fourth)
}

async fn accept(
    socket: TcpListener,
    directory: Arc<RwLock<Directory>>,
    name: Name,
    port: ServicePort,
    affinity: Option<u64>,
) {
    let turn = AtomicUsize::new(0);
    let sticky = affinity.map(|seconds| Arc::new(Sticky::new(Duration::from_secs(seconds))));
    loop {
        let Ok((mut client, peer)) = socket.accept().await else {
            // Out of descriptors; connections that end free some.
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let mut targets = directory.read().targets(&name, &port);
        if targets.is_empty() {
            continue;
        }
        let first = turn.fetch_add(1, Ordering::Relaxed) % targets.len();
        targets.rotate_left(first);
        let sticky = sticky.clone();
        if let Some(sticky) = &sticky {
            sticky.prefer(peer.ip(), &mut targets);
        }
        tokio::spawn(async move {
            for target in targets {
                let Ok(Ok(mut server)) =
                    tokio::time::timeout(CONNECT_LIMIT, TcpStream::connect(target)).await
                else {
                    continue;
                };
                if let Some(sticky) = &sticky {
                    sticky.remember(peer.ip(), target);
                }
                let _ = client.set_nodelay(true);
                let _ = server.set_nodelay(true);
                // How a connection ends is the business of its two ends.
                let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
                return;
            }
        });
    }
}

/// `sessionAffinity: ClientIP`.
struct Sticky {
    lifetime: Duration,
    clients: Mutex<HashMap<IpAddr, (SocketAddrV4, Instant)>>,
}

impl Sticky {
    fn new(lifetime: Duration) -> Self {
        Self {
            lifetime,
            clients: Mutex::default(),
        }
    }

    /// Moves the client's endpoint to the front while it exists.
    fn prefer(&self, client: IpAddr, targets: &mut [SocketAddrV4]) {
        let known = self
            .clients
            .lock()
            .get(&client)
            .filter(|(_, seen)| seen.elapsed() < self.lifetime)
            .map(|(target, _)| *target);
        if let Some(position) =
            known.and_then(|known| targets.iter().position(|target| *target == known))
        {
            targets.swap(0, position);
        }
    }

    fn remember(&self, client: IpAddr, target: SocketAddrV4) {
        let mut clients = self.clients.lock();
        if clients.len() >= STICKY_CLIENTS
            && let Some(oldest) = clients
                .iter()
                .min_by_key(|(_, (_, seen))| *seen)
                .map(|(client, _)| *client)
        {
            clients.remove(&oldest);
        }
        clients.insert(client, (target, Instant::now()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_stays_with_its_endpoint_while_it_exists() {
        let target = |last| SocketAddrV4::new(Ipv4Addr::new(10, 66, 0, last), 1);
        let client = IpAddr::V4(Ipv4Addr::new(10, 66, 0, 200));
        let sticky = Sticky::new(Duration::from_secs(60));
        sticky.remember(client, target(2));
        let mut targets = [target(1), target(2), target(3)];
        sticky.prefer(client, &mut targets);
        assert_eq!(targets[0], target(2));
        let mut without = [target(1), target(3)];
        sticky.prefer(client, &mut without);
        assert_eq!(without[0], target(1));
        let expired = Sticky::new(Duration::ZERO);
        expired.remember(client, target(2));
        let mut targets = [target(1), target(2)];
        expired.prefer(client, &mut targets);
        assert_eq!(targets[0], target(1));
    }
}
