//! Where the cluster keeps its files and which addresses it uses. Everything is below two folders of the user's, so `down` knows
//! what to remove; no address is one of the machine's own.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

/// The node's name, and its address: the only one on [`LINK`], and where the servers listen.
pub(crate) const NODE: &str = "libretto";
pub(crate) const NODE_ADDRESS: &str = "10.231.0.1";
/// A bridge without ports: unlike a dummy link it exists in every kernel that can run pods.
pub(crate) const LINK: &str = "libretto-kube";
/// All addresses of the cluster; what leaves it is masqueraded.
pub(crate) const CLUSTER_CIDR: &str = "10.231.0.0/16";
pub(crate) const POD_CIDR: &str = "10.231.1.0/24";
pub(crate) const SERVICE_CIDR: &str = "10.231.128.0/20";
/// The Service `kubernetes` always has the first address of the range.
pub(crate) const API_SERVICE_ADDRESS: &str = "10.231.128.1";
pub(crate) const API_PORT: u16 = 6443;
/// etcd listens on the loopback only; pods have no business there.
pub(crate) const ETCD_ADDRESS: &str = "127.0.0.1:22379";
pub(crate) const ETCD_PEER_ADDRESS: &str = "127.0.0.1:22380";
pub(crate) const IMAGES_PORT: u16 = 5000;

/// The folders of the cluster.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    /// Removed by `down`.
    pub(crate) state: PathBuf,
    /// Built programs and images; kept.
    pub(crate) cache: PathBuf,
}

impl Place {
    pub(crate) fn find() -> Result<Self, String> {
        Ok(Self {
            state: base("XDG_STATE_HOME", ".local/state")?.join("libretto-kubernetes"),
            cache: base("XDG_CACHE_HOME", ".cache")?.join("libretto-kubernetes"),
        })
    }

    /// A path below the state folder, as the text that goes into arguments and configuration files.
    pub(crate) fn path(&self, name: &str) -> String {
        self.state.join(name).display().to_string()
    }

    pub(crate) fn log(&self, process: &str) -> PathBuf {
        self.state.join("logs").join(format!("{process}.log"))
    }

    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.state.join("kubeconfig")
    }

    pub(crate) fn containerd_socket(&self) -> String {
        self.path("containerd.sock")
    }

    /// Writes a file that only this user may read: many of them hold keys.
    pub(crate) fn write(&self, name: &str, content: &str) -> Result<PathBuf, String> {
        let path = self.state.join(name);
        write_private(&path, content)?;
        Ok(path)
    }
}

pub(crate) fn create_folder(path: &Path) -> Result<(), String> {
    fs::create_dir_all(path).map_err(|error| format!("create {}: {error}", path.display()))
}

fn write_private(path: &Path, content: &str) -> Result<(), String> {
    use std::{io::Write, os::unix::fs::OpenOptionsExt};
    if let Some(folder) = path.parent() {
        create_folder(folder)?;
    }
    fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| file.write_all(content.as_bytes()))
        .map_err(|error| format!("write {}: {error}", path.display()))
}

fn base(variable: &str, below_home: &str) -> Result<PathBuf, String> {
    if let Some(path) = env::var_os(variable).filter(|value| Path::new(value).is_absolute()) {
        return Ok(path.into());
    }
    env::var_os("HOME")
        .map(|home| Path::new(&home).join(below_home))
        .ok_or_else(|| format!("neither {variable} nor HOME is set"))
}
