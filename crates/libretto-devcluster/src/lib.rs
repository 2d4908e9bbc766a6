//! The embedded cluster: a Kubernetes API subset, workload controllers, and pods as local processes, in one process and one file.
//!
//! It is for development, demonstrations and tests. It knows nothing of the platform that uses it and speaks to it like any client.
//! What it does not do is listed in [`DEVIATIONS`].

pub mod api;
pub mod controllers;
pub mod crd;
pub mod error;
pub mod http;
mod kubeconfig;
pub mod node;
pub mod openapi;
pub mod patch;
mod rbac;
pub mod registry;
pub mod schema;
pub mod selector;
pub mod store;
pub mod table;
mod tls;

use std::{
    fs::File,
    io,
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio_util::sync::{CancellationToken, DropGuard};

use crate::{
    api::Api,
    controllers::{Controllers, DirectoryVolumes},
    http::{Authority, Server, Shared},
    node::{Driver, Node, NodeOptions},
    store::StoreError,
    tls::{Identity, IdentityError},
};

/// What a user of the embedded cluster must know; `libretto up --help` prints it.
pub const DEVIATIONS: &str = "\
This is a development cluster, not Kubernetes. It differs from one in these ways:
- Nobody is anonymous: a request without a token is refused. Of Kubernetes' own roles those for users and discovery exist.
- No admission webhooks, quotas, limit ranges or network policies: such objects are stored and have no effect.
- HorizontalPodAutoscaler, Ingress, ReplicationController and VolumeAttachment are stored only.
- One node, this machine. Container images are names of local programs; nothing is pulled.
- Custom resources: no conversion webhooks; versions differ in apiVersion only.
- Bodies in protobuf are refused, which some kubectl create subcommands send: add --dry-run=client -o yaml and pipe into kubectl apply -f -.
- Pods get no service account token: /var/run/secrets/kubernetes.io/serviceaccount does not exist.
- TokenRequests are taken as JSON only, so kubectl create token does not work.
- kubectl port-forward (SPDY) does not work; clients that speak the WebSocket protocol do.
- No aggregated API servers, no OpenAPI v2, no ephemeral containers, no in-place resize, no proxy subresources.
- Watch history is short (1,024 changes per resource) and empty after a restart: clients list again more often than elsewhere.
";

/// Time pods get to end when the cluster stops; longer than any probe, shorter than a user's patience.
const POD_GRACE: Duration = Duration::from_secs(10);
/// Kubernetes keeps events for an hour.
const EVENT_LIFETIME: Duration = Duration::from_secs(3600);
/// Coarse against an hour, cheap against everything.
const EVENT_SWEEP: Duration = Duration::from_secs(300);

/// Which parts run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Parts {
    /// API server, controllers, node.
    #[default]
    Everything,
    /// Only the API server: objects are stored and nothing acts on them, as tests of controllers want it.
    ApiServer,
}

/// How to start.
#[derive(Debug)]
pub struct Options {
    /// State, keys, logs and volumes live here; `None` forgets everything at the end.
    pub data_dir: Option<PathBuf>,
    /// Already bound, possibly in another network namespace; see [`bind`].
    pub listener: TcpListener,
    pub driver: Driver,
    /// Extra image catalogue.
    pub images: Option<PathBuf>,
    pub parts: Parts,
}

/// Why the cluster did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("{address} is in use by another program; stop it or choose another port")]
    Occupied { address: SocketAddr },
    #[error("cannot listen on {address}")]
    Listen {
        address: SocketAddr,
        source: io::Error,
    },
    #[error(
        "{address} is not a loopback address; the development cluster runs local processes for whoever reaches it, so it listens on 127.0.0.1 or ::1 only"
    )]
    NotLoopback { address: SocketAddr },
    #[error("the data directory {} cannot be written; mend its permissions or choose another directory", path.display())]
    Directory { path: PathBuf, source: io::Error },
    #[error("the data directory {} belongs to user {owner}, who could read every Secret in it; choose a directory of your own", path.display())]
    NotOurs { path: PathBuf, owner: u32 },
    #[error("{} is open to other users and holds other files; a data directory is for its owner only: choose an empty or new directory, or chmod 700 this one", path.display())]
    Shared { path: PathBuf },
    #[error("another instance is running on the data directory {}; stop it or choose another directory", path.display())]
    Locked { path: PathBuf },
    #[error("cannot open the cluster's state")]
    Store(#[from] StoreError),
    #[error("cannot prepare the cluster's certificates")]
    Identity(#[from] IdentityError),
    #[error("cannot start the node")]
    Node(#[source] io::Error),
    #[error("cannot serve the API")]
    Serve(#[source] io::Error),
}

/// Binds a loopback address, with errors that say what to do.
pub fn bind(address: SocketAddr) -> Result<TcpListener, StartError> {
    if !address.ip().is_loopback() {
        return Err(StartError::NotLoopback { address });
    }
    TcpListener::bind(address).map_err(|source| {
        if source.kind() == io::ErrorKind::AddrInUse {
            StartError::Occupied { address }
        } else {
            StartError::Listen { address, source }
        }
    })
}

/// A running cluster.
#[derive(Debug)]
pub struct Devcluster {
    api: Api,
    server: Server,
    url: String,
    token: String,
    ca_pem: String,
    kubeconfig: String,
    kubeconfig_path: PathBuf,
    controllers: Option<Controllers>,
    node: Option<NodeHandle>,
    /// Stops the housekeeping task.
    _housekeeping: DropGuard,
    directory: Directory,
}

/// `Node` has no useful `Debug`.
struct NodeHandle(Node);

impl std::fmt::Debug for NodeHandle {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Node(..)")
    }
}

/// The data directory, locked while the cluster runs.
#[derive(Debug)]
struct Directory {
    path: PathBuf,
    /// Removed at the end.
    temporary: bool,
    /// Released by the kernel when the process ends, however it ends.
    _lock: File,
}

impl Directory {
    fn open(wanted: Option<&Path>) -> Result<Self, StartError> {
        let temporary = wanted.is_none();
        let path = wanted.map_or_else(
            || std::env::temp_dir().join(format!("libretto-{}", uuid::Uuid::new_v4())),
            Path::to_owned,
        );
        let failed = |source| StartError::Directory {
            path: path.clone(),
            source,
        };
        create_private_directory(&path).map_err(failed)?;
        make_private(&path)?;
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path.join("lock"))
            .map_err(failed)?;
        match lock.try_lock() {
            Ok(()) => Ok(Self {
                path,
                temporary,
                _lock: lock,
            }),
            Err(std::fs::TryLockError::WouldBlock) => Err(StartError::Locked { path }),
            Err(std::fs::TryLockError::Error(source)) => {
                Err(StartError::Directory { path, source })
            }
        }
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        if self.temporary
            && let Err(error) = std::fs::remove_dir_all(&self.path)
        {
            tracing::warn!(path = %self.path.display(), %error, "cannot remove the temporary data directory");
        }
    }
}

fn create_private_directory(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
}

/// A directory that was there before may be open to everybody, and objects in it hold Secrets. One that is plainly for something
/// else, such as /tmp, is refused rather than closed to its other users.
fn make_private(path: &Path) -> Result<(), StartError> {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
    let failed = |source| StartError::Directory {
        path: path.to_owned(),
        source,
    };
    let found = std::fs::metadata(path).map_err(failed)?;
    if found.uid() != nix::unistd::geteuid().as_raw() {
        return Err(StartError::NotOurs {
            path: path.to_owned(),
            owner: found.uid(),
        });
    }
    if found.mode() & 0o077 == 0 {
        return Ok(());
    }
    let used_before = path.join("lock").exists() || path.join("state.db").exists();
    let empty = std::fs::read_dir(path).map_err(failed)?.next().is_none();
    if !used_before && !empty {
        return Err(StartError::Shared {
            path: path.to_owned(),
        });
    }
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700)).map_err(failed)
}

impl Devcluster {
    /// Opens the state, serves the API, then starts node and controllers.
    pub async fn start(options: Options) -> Result<Self, StartError> {
        let Options {
            data_dir,
            listener,
            driver,
            images,
            parts,
        } = options;
        let address = listener.local_addr().map_err(StartError::Serve)?;
        if !address.ip().is_loopback() {
            return Err(StartError::NotLoopback { address });
        }
        let directory = Directory::open(data_dir.as_deref())?;
        let kept = data_dir.is_some().then_some(directory.path.as_path());
        let api = Api::open(kept.map(|path| path.join("state.db")).as_deref())?;
        api.ensure_roles();
        let identity = Identity::load(kept)?;
        let url = format!("https://{address}");
        let kubeconfig = kubeconfig::text(&url, &identity.ca_pem, &identity.token);
        let kubeconfig_path = directory.path.join("kubeconfig");
        tls::write_private(&kubeconfig_path, &kubeconfig).map_err(|source| {
            StartError::Directory {
                path: directory.path.clone(),
                source,
            }
        })?;
        let shared = Shared::new(api.clone(), Authority::new(&identity.token));
        let server = Server::new(shared, identity.server.clone());
        server.serve(listener).map_err(StartError::Serve)?;
        let housekeeping = housekeeping(api.clone());
        let (controllers, node) = match parts {
            Parts::ApiServer => (None, None),
            Parts::Everything => {
                let node = Node::start(
                    api.clone(),
                    NodeOptions {
                        data_dir: directory.path.clone(),
                        driver,
                        images,
                    },
                )
                .await
                .map_err(StartError::Node)?;
                server
                    .shared()
                    .serve_pod_streams(http::stream::pod_streams(node.clone()));
                // Pods cannot reach the listener of the host's network.
                if let Some(address) = node.api_server_address() {
                    let listener = TcpListener::bind(address)
                        .map_err(|source| StartError::Listen { address, source })?;
                    server.serve(listener).map_err(StartError::Serve)?;
                }
                let controllers = controllers::start(
                    api.clone(),
                    Arc::new(DirectoryVolumes::new(directory.path.join("volumes"))),
                    controllers::Options {
                        // Pods of the process driver share the host's network.
                        api_server: node.api_server_address().unwrap_or(address),
                        service_ip: "10.96.0.1".to_owned(),
                        root_ca: identity.ca_pem.clone(),
                    },
                );
                (Some(controllers), Some(NodeHandle(node)))
            }
        };
        Ok(Self {
            api,
            server,
            url,
            token: identity.token,
            ca_pem: identity.ca_pem,
            kubeconfig,
            kubeconfig_path,
            controllers,
            node,
            _housekeeping: housekeeping,
            directory,
        })
    }

    pub fn api(&self) -> &Api {
        &self.api
    }

    /// Serves on further listeners, such as one inside the pods' network.
    pub fn server(&self) -> &Server {
        &self.server
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    /// The administrator's bearer token.
    pub fn token(&self) -> &str {
        &self.token
    }

    /// PEM of the authority that signed the server's certificate.
    pub fn certificate_authority(&self) -> &str {
        &self.ca_pem
    }

    /// Content of the kubeconfig.
    pub fn kubeconfig(&self) -> &str {
        &self.kubeconfig
    }

    /// The kubeconfig file, readable by its owner only.
    pub fn kubeconfig_path(&self) -> &Path {
        &self.kubeconfig_path
    }

    pub fn data_dir(&self) -> &Path {
        &self.directory.path
    }

    /// Stops controllers, pods and the API in that order; the state stays on disk.
    pub async fn shutdown(mut self) -> Result<(), StoreError> {
        self.controllers.take();
        if let Some(NodeHandle(node)) = self.node.take() {
            node.shutdown(POD_GRACE).await;
        }
        // Ends the watches, so that connections can drain.
        self.api.close()?;
        self.server.shutdown().await;
        Ok(())
    }
}

/// Removes events that have lived their hour.
fn housekeeping(api: Api) -> DropGuard {
    let stop = CancellationToken::new();
    let stopped = stop.clone();
    tokio::spawn(stopped.run_until_cancelled_owned(async move {
        let mut ticks = tokio::time::interval(EVENT_SWEEP);
        loop {
            ticks.tick().await;
            api.drop_events_before(jiff::Timestamp::now() - EVENT_LIFETIME);
        }
    }));
    stop.drop_guard()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn open_to_all(path: &Path, mode: u32) {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[tokio::test]
    async fn whatever_was_there_only_the_owner_reads_it() {
        let parent = tempfile::tempdir().unwrap();
        let data = parent.path().join("data");
        std::fs::create_dir(&data).unwrap();
        for run in ["an empty directory", "one used before"] {
            open_to_all(&data, 0o755);
            let options = Options {
                data_dir: Some(data.clone()),
                listener: bind("127.0.0.1:0".parse().unwrap()).unwrap(),
                driver: Driver::Auto,
                images: None,
                parts: Parts::ApiServer,
            };
            let cluster = Devcluster::start(options).await.unwrap();
            assert_eq!(mode(&data), 0o700, "{run}");
            for name in [
                "state.db",
                "state.db-wal",
                "state.db-shm",
                "kubeconfig",
                "token",
                "ca.key",
            ] {
                assert_eq!(mode(&data.join(name)), 0o600, "{run}: {name}");
            }
            cluster.shutdown().await.unwrap();
            for entry in std::fs::read_dir(&data).unwrap() {
                open_to_all(&entry.unwrap().path(), 0o644);
            }
        }
    }

    #[test]
    fn a_directory_for_something_else_is_not_closed() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("letter"), "x").unwrap();
        open_to_all(directory.path(), 0o1777);
        let error = Directory::open(Some(directory.path())).unwrap_err();
        assert!(error.to_string().contains("holds other files"), "{error}");
        assert_eq!(mode(directory.path()), 0o1777);
        if nix::unistd::geteuid().is_root() {
            let someone = Some(nix::unistd::Uid::from_raw(65534));
            nix::unistd::chown(directory.path(), someone, None).unwrap();
            let error = Directory::open(Some(directory.path())).unwrap_err();
            assert!(
                error.to_string().contains("belongs to user 65534"),
                "{error}"
            );
        }
    }
}
