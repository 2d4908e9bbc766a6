//! Helpers of the node tests: waiting for conditions, starting containers with captured output.

use std::{
    collections::BTreeMap,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use libretto_devcluster::node::{
    container::{Container, ContainerSpec, DEFAULT_CAPABILITIES, Identity, Streams},
    exec::{Exec, ExecSpec},
    rootfs::{Isolation, Mount, Rootfs},
    sandbox::{Sandbox, SandboxSpec},
};
use tokio::io::AsyncReadExt as _;

/// Polls a condition; the limit is far above what a loaded machine needs.
pub(crate) fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "{what}: not within 20 s");
        std::thread::sleep(Duration::from_millis(2));
    }
}

static NEXT: AtomicU32 = AtomicU32::new(10);

/// A sandbox with a directory of its own.
pub(crate) struct Pod {
    pub(crate) sandbox: Sandbox,
    pub(crate) address: Ipv4Addr,
    pub(crate) directory: tempfile::TempDir,
}

impl Pod {
    pub(crate) async fn start(hostname: &str) -> Self {
        let low = u8::try_from(NEXT.fetch_add(1, Ordering::Relaxed)).unwrap();
        let address = Ipv4Addr::new(10, 66, 7, low);
        let spec = SandboxSpec {
            hostname: hostname.to_owned(),
            address: Some(address),
        };
        Self {
            sandbox: Sandbox::start(&spec).await.unwrap(),
            address,
            directory: tempfile::tempdir().unwrap(),
        }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.directory.path().canonicalize().unwrap()
    }

    pub(crate) fn spec(&self, argv: &[&str], mounts: Vec<Mount>) -> ContainerSpec {
        let mount_point = self.path().join("root");
        std::fs::create_dir_all(&mount_point).unwrap();
        ContainerSpec {
            argv: argv.iter().map(|arg| (*arg).to_owned()).collect(),
            env: vec![("PATH".to_owned(), "/usr/bin:/bin".to_owned())],
            working_dir: "/".to_owned(),
            isolation: Some(Isolation {
                sandbox_pid: self.sandbox.pid(),
                mount_point,
                rootfs: Rootfs::Host {
                    etc: Vec::new(),
                    directories: Vec::new(),
                },
                mounts,
                read_only_root: false,
            }),
            identity: Identity {
                capabilities: Some(DEFAULT_CAPABILITIES),
                ..Identity::default()
            },
        }
    }

    /// Runs a container to its end: exit code, output.
    pub(crate) async fn output(&self, spec: &ContainerSpec) -> (i32, String) {
        let (streams, read) = captured();
        let mut container = Container::start(spec, streams).await.unwrap();
        let text = read_all(read).await;
        (container.wait().await, text)
    }

    pub(crate) async fn shell(&self, script: &str) -> (i32, String) {
        self.output(&self.spec(&["sh", "-c", script], Vec::new()))
            .await
    }
}

/// Streams into one pipe, and its reading end.
pub(crate) fn captured() -> (Streams, std::os::fd::OwnedFd) {
    let (read, write) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).unwrap();
    let streams = Streams {
        stdin: None,
        stdout: write.try_clone().unwrap(),
        stderr: write,
        tty: false,
    };
    (streams, read)
}

pub(crate) async fn read_all(read: std::os::fd::OwnedFd) -> String {
    let mut receiver = tokio::net::unix::pipe::Receiver::from_owned_fd(read).unwrap();
    let mut text = String::new();
    receiver.read_to_string(&mut text).await.unwrap();
    text
}

pub(crate) async fn exec_output(
    container: &Container,
    spec: &ContainerSpec,
    argv: &[&str],
) -> (i32, String) {
    let argv = argv.iter().map(|arg| (*arg).to_owned()).collect();
    let (streams, read) = captured();
    let mut exec = Exec::start(&ExecSpec::new(container, spec, argv), streams)
        .await
        .unwrap();
    let text = read_all(read).await;
    (exec.wait().await, text)
}

pub(crate) fn volume(source: &Path, target: &str, read_only: bool) -> Mount {
    Mount {
        source: source.to_owned(),
        sub_path: None,
        target: target.to_owned(),
        read_only,
    }
}

/// Durations of repeated starts, for the printed summary.
pub(crate) fn summary(mut times: Vec<Duration>) -> String {
    times.sort();
    let by = BTreeMap::from([
        ("median", times[times.len() / 2]),
        ("slowest", times[times.len() - 1]),
    ]);
    format!("{by:.1?}")
}
