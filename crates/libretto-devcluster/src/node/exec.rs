//! Running a further command in a running container: for `kubectl exec`, probes and hooks.

use std::{
    fs::File,
    io::{self, Read as _, Write as _},
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::net::UnixStream,
    },
    process::Stdio,
};

use nix::{
    fcntl::OFlag,
    sched::{CloneFlags, setns},
    sys::signal::Signal,
    unistd::{ForkResult, Pid, pipe2},
};
use serde::{Deserialize, Serialize};

use super::{
    container::{Container, Identity, Streams, run_program},
    role::{self, Answer, RoleProcess},
    supervise, sys,
};

/// What to run in which container.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ExecSpec {
    /// First process of the container.
    pub container_pid: i32,
    pub argv: Vec<String>,
    pub env: Vec<(String, String)>,
    pub working_dir: String,
    pub identity: Identity,
    /// False with the process driver: there are no namespaces to join.
    pub isolated: bool,
}

#[derive(Debug, Serialize, Deserialize)]
struct Shim {
    exec: ExecSpec,
    stdin: bool,
    tty: bool,
}

/// A running exec; dropping it kills the command.
#[derive(Debug)]
pub struct Exec {
    process: RoleProcess,
}

impl ExecSpec {
    /// A command in `container` with the container's own environment, directory and user.
    pub fn new(
        container: &Container,
        spec: &super::container::ContainerSpec,
        argv: Vec<String>,
    ) -> Self {
        Self {
            container_pid: container.pid(),
            argv,
            env: spec.env.clone(),
            working_dir: spec.working_dir.clone(),
            identity: spec.identity.clone(),
            isolated: spec.isolation.is_some(),
        }
    }
}

impl Exec {
    /// Returns once the command has been executed.
    pub async fn start(spec: &ExecSpec, streams: Streams) -> io::Result<Self> {
        let shim = Shim {
            exec: spec.clone(),
            stdin: streams.stdin.is_some(),
            tty: streams.tty,
        };
        let fds = streams
            .stdin
            .iter()
            .map(|fd| fd.as_fd())
            .collect::<Vec<_>>();
        let process = role::start(
            role::EXEC,
            &shim,
            &fds,
            Stdio::from(streams.stdout),
            Stdio::from(streams.stderr),
        )
        .await?;
        Ok(Self { process })
    }

    /// Exit code; 128 + signal for a killed command.
    pub async fn wait(&mut self) -> i32 {
        match self.process.child.wait().await {
            Ok(status) => status.code().unwrap_or(137),
            Err(_) => 137,
        }
    }

    /// Kills the command and its process group.
    pub fn kill(&self) {
        let pid = Pid::from_raw(self.process.pid);
        let _ = nix::sys::signal::killpg(pid, Signal::SIGKILL);
        let _ = nix::sys::signal::kill(pid, Signal::SIGKILL);
    }
}

/// The exec's parent process.
pub(crate) fn role(mut socket: UnixStream) -> u8 {
    let started = role::receive::<Shim>(&mut socket)
        .map_err(|error| format!("reading the exec specification: {error}"))
        .and_then(|(spec, fds)| launch(&spec, fds));
    let child = match started {
        Ok(child) => {
            role::answer(
                &mut socket,
                &Answer::Started {
                    pid: child.as_raw(),
                },
            );
            child
        }
        Err(message) => {
            role::answer(&mut socket, &Answer::Failed { message });
            return 1;
        }
    };
    // Output ends when the command's last process closes it, not when this process does. /dev/null is the container's own here.
    if let Ok(null) = File::options().write(true).open("/dev/null") {
        let _ = nix::unistd::dup2_stdout(&null);
        let _ = nix::unistd::dup2_stderr(&null);
    }
    let control = supervise::Control::Socket(OwnedFd::from(socket));
    supervise::wait_for(child, &control).unwrap_or(1)
}

fn launch(spec: &Shim, fds: Vec<OwnedFd>) -> Result<Pid, String> {
    let _ = nix::unistd::setsid();
    supervise::block_signals().map_err(|error| format!("blocking signals: {error}"))?;
    if spec.exec.isolated {
        let target = sys::pidfd_open(spec.exec.container_pid)
            .map_err(|error| format!("finding the container: {error}"))?;
        setns(
            target,
            CloneFlags::CLONE_NEWNS
                | CloneFlags::CLONE_NEWPID
                | CloneFlags::CLONE_NEWNET
                | CloneFlags::CLONE_NEWUTS
                | CloneFlags::CLONE_NEWIPC,
        )
        .map_err(|errno| format!("joining the container: {errno}"))?;
    }
    let (report, write) = pipe2(OFlag::O_CLOEXEC).map_err(|errno| format!("a pipe: {errno}"))?;
    match sys::fork().map_err(|errno| format!("starting the command: {errno}"))? {
        ForkResult::Child => {
            drop(report);
            let mut write = File::from(write);
            let stdin = fds.into_iter().next().filter(|_| spec.stdin);
            let message = run_program(
                &spec.exec.argv,
                &spec.exec.env,
                &spec.exec.working_dir,
                &spec.exec.identity,
                stdin,
                spec.tty,
            );
            let _ = write.write_all(message.as_bytes());
            std::process::exit(1);
        }
        ForkResult::Parent { child } => {
            drop((write, fds));
            let mut message = String::new();
            File::from(report)
                .read_to_string(&mut message)
                .map_err(|error| format!("starting the command: {error}"))?;
            if message.is_empty() {
                Ok(child)
            } else {
                Err(message)
            }
        }
    }
}
