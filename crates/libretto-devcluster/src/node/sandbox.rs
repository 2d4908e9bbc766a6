//! A pod's sandbox: the process that holds the network, host name and IPC namespaces its containers share. Runs nothing else.

use std::{net::Ipv4Addr, os::unix::net::UnixStream, process::Stdio};

use nix::sched::{CloneFlags, unshare};
use serde::{Deserialize, Serialize};

use super::{
    network,
    role::{self, Answer, RoleProcess},
};

/// What a sandbox needs to know.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SandboxSpec {
    pub hostname: String,
    /// The pod's address on the bridge; absent for `hostNetwork`, which means the node's own namespace.
    pub address: Option<Ipv4Addr>,
}

/// A running sandbox; dropping it ends it, and its veth pair goes with it.
#[derive(Debug)]
pub struct Sandbox {
    process: RoleProcess,
}

impl Sandbox {
    /// Returns once the pod's interface is up.
    pub async fn start(spec: &SandboxSpec) -> std::io::Result<Self> {
        let process = role::start(role::SANDBOX, spec, &[], Stdio::null(), Stdio::null()).await?;
        Ok(Self { process })
    }

    /// Process whose namespaces containers join.
    pub fn pid(&self) -> i32 {
        self.process.pid
    }

    /// Ends the sandbox and waits for it.
    pub async fn stop(mut self) {
        let _ = self.process.child.kill().await;
    }
}

/// The process itself.
pub(crate) fn role(mut socket: UnixStream) -> u8 {
    let result = role::receive::<SandboxSpec>(&mut socket)
        .map_err(|error| format!("reading the sandbox specification: {error}"))
        .and_then(|(spec, _)| set_up(&spec));
    match result {
        Ok(()) => {
            let pid = nix::unistd::getpid().as_raw();
            role::answer(&mut socket, &Answer::Started { pid });
        }
        Err(message) => {
            role::answer(&mut socket, &Answer::Failed { message });
            return 1;
        }
    }
    // Nothing is sent any more: returns at end of file, when the node closes its end or is gone.
    let _ = std::io::copy(&mut socket, &mut std::io::sink());
    0
}

fn set_up(spec: &SandboxSpec) -> Result<(), String> {
    // Out of the terminal's foreground group: Ctrl-C is for the node, which then stops pods in order.
    let _ = nix::unistd::setsid();
    let ipc = CloneFlags::CLONE_NEWUTS | CloneFlags::CLONE_NEWIPC;
    let Some(address) = spec.address else {
        unshare(ipc).map_err(|errno| format!("creating the sandbox's namespaces: {errno}"))?;
        return set_host_name(&spec.hostname);
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("preparing the pod's network: {error}"))?;
    runtime.block_on(async {
        let socket = |error| format!("a netlink socket: {error}");
        // A netlink socket stays in the namespace where it was made: one on each side of the wall.
        let node = network::connect().map_err(socket)?;
        unshare(ipc | CloneFlags::CLONE_NEWNET)
            .map_err(|errno| format!("creating the sandbox's namespaces: {errno}"))?;
        let pod = network::connect().map_err(socket)?;
        network::join_bridge(&node, &pod, address).await
    })?;
    set_host_name(&spec.hostname)
}

fn set_host_name(name: &str) -> Result<(), String> {
    nix::unistd::sethostname(name).map_err(|errno| format!("setting the host name {name}: {errno}"))
}
