//! A container: a process in a mount and PID namespace of its own, in its pod's network, host name and IPC namespaces. Knows nothing
//! of images, pods or the API: it gets a plain specification.
//!
//! The role process is the container's parent (a "shim"): it waits, passes signals on, and returns the exit code. What is enforced:
//!
//! - file system: see `rootfs`; - `no_new_privs` always, whatever `allowPrivilegeEscalation` says;
//! - capabilities: the default set of container runtimes without `NET_RAW`, `MKNOD` and `AUDIT_WRITE`, changed by
//!   `securityContext.capabilities`, as root and in a user namespace alike;
//! - user and group, where more than one id is mapped; started by an ordinary user there is only one, and it appears as root inside;
//! - not enforced: memory and CPU limits, seccomp, AppArmor and SELinux profiles.

use std::{
    ffi::CString,
    fs::File,
    io::{self, Read as _, Write as _},
    os::{
        fd::{AsFd as _, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::{Path, PathBuf},
    process::Stdio,
};

use nix::{
    fcntl::OFlag,
    sched::{CloneFlags, setns, unshare},
    sys::{prctl, signal::Signal, stat::Mode},
    unistd::{AccessFlags, ForkResult, Gid, Uid, access, pipe2},
};
use serde::{Deserialize, Serialize};

use super::{
    role::{self, Answer, RoleProcess},
    rootfs::{self, Isolation},
    supervise, sys,
};

/// What to run and how. No field refers to Kubernetes.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ContainerSpec {
    pub argv: Vec<String>,
    pub env: Vec<(String, String)>,
    pub working_dir: String,
    /// Absent for a plain process of the host (process driver).
    pub isolation: Option<Isolation>,
    pub identity: Identity,
}

/// Who the process is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Absent keeps the current user.
    pub user: Option<u32>,
    pub group: Option<u32>,
    pub supplementary_groups: Vec<u32>,
    /// Bit mask by capability number; absent keeps what there is.
    pub capabilities: Option<u64>,
}

/// Standard streams of a container, on the container's side.
#[derive(Debug)]
pub struct Streams {
    /// Absent is `/dev/null`.
    pub stdin: Option<OwnedFd>,
    pub stdout: OwnedFd,
    pub stderr: OwnedFd,
    /// The streams are one terminal, which becomes the controlling one.
    pub tty: bool,
}

/// A running container.
#[derive(Debug)]
pub struct Container {
    process: RoleProcess,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ShimSpec {
    pub container: ContainerSpec,
    pub stdin: bool,
    pub tty: bool,
}

impl Container {
    /// Returns once the program has been executed; a program that cannot be executed is an error that says why.
    pub async fn start(spec: &ContainerSpec, streams: Streams) -> io::Result<Self> {
        let shim = ShimSpec {
            container: spec.clone(),
            stdin: streams.stdin.is_some(),
            tty: streams.tty,
        };
        let fds = streams
            .stdin
            .iter()
            .map(|fd| fd.as_fd())
            .collect::<Vec<BorrowedFd<'_>>>();
        let process = role::start(
            role::CONTAINER,
            &shim,
            &fds,
            Stdio::from(streams.stdout),
            Stdio::from(streams.stderr),
        )
        .await?;
        Ok(Self { process })
    }

    /// The container's first process, in the node's PID namespace.
    pub fn pid(&self) -> i32 {
        self.process.pid
    }

    /// Exit code; 128 + signal for a killed process.
    pub async fn wait(&mut self) -> i32 {
        match self.process.child.wait().await {
            Ok(status) => status.code().unwrap_or(137),
            Err(_) => 137,
        }
    }

    /// Sends a signal to the container's first process.
    pub fn signal(&self, signal: Signal) {
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(self.process.pid), signal);
    }
}

/// Capabilities of a container that asks for nothing, as container runtimes have it, less those that let it forge packets, make
/// device nodes or write the host's audit log.
pub const DEFAULT_CAPABILITIES: u64 = 1 // CHOWN
    | 1 << 1  // DAC_OVERRIDE
    | 1 << 3  // FOWNER
    | 1 << 4  // FSETID
    | 1 << 5  // KILL
    | 1 << 6  // SETGID
    | 1 << 7  // SETUID
    | 1 << 8  // SETPCAP
    | 1 << 10 // NET_BIND_SERVICE
    | 1 << 18 // SYS_CHROOT
    | 1 << 31; // SETFCAP

/// Names in the order of the kernel's numbers (linux/capability.h).
const CAPABILITIES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// Those that would let a container out of its walls when the node runs as root; never given.
const NEVER: [&str; 9] = [
    "SYS_ADMIN",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_BOOT",
    "SYS_PTRACE",
    "DAC_READ_SEARCH",
    "MAC_ADMIN",
    "BPF",
    "MKNOD",
];

/// The capability set for `add` and `drop` lists of a security context; an unknown or refused name is an error.
pub fn capabilities(add: &[String], drop: &[String]) -> Result<u64, String> {
    let number = |name: &String| {
        let short = name.strip_prefix("CAP_").unwrap_or(name);
        CAPABILITIES
            .iter()
            .position(|known| *known == short)
            .ok_or_else(|| format!("unknown capability {name}"))
    };
    let mut set = DEFAULT_CAPABILITIES;
    for name in drop {
        if name == "ALL" {
            set = 0;
        } else {
            set &= !(1 << number(name)?);
        }
    }
    for name in add {
        let index = number(name)?;
        if NEVER.contains(&CAPABILITIES[index]) {
            return Err(format!("capability {name} is not given to containers here"));
        }
        set |= 1 << index;
    }
    Ok(set)
}

/// The shim.
pub(crate) fn role(mut socket: UnixStream) -> u8 {
    let started = role::receive::<ShimSpec>(&mut socket)
        .map_err(|error| format!("reading the container specification: {error}"))
        .and_then(|(spec, fds)| launch(&spec, fds));
    let child = match started {
        Ok(child) => {
            let pid = child.as_raw();
            role::answer(&mut socket, &Answer::Started { pid });
            child
        }
        Err(message) => {
            role::answer(&mut socket, &Answer::Failed { message });
            return 1;
        }
    };
    // The log ends when the container's last process ends, not when the shim does.
    if let Ok(null) = File::options().write(true).open("/dev/null") {
        let _ = nix::unistd::dup2_stdout(&null);
        let _ = nix::unistd::dup2_stderr(&null);
    }
    let control = supervise::Control::Socket(OwnedFd::from(socket));
    let code = supervise::wait_for(child, &control).unwrap_or(1);
    supervise::kill_descendants();
    code
}

fn launch(spec: &ShimSpec, fds: Vec<OwnedFd>) -> Result<nix::unistd::Pid, String> {
    // Out of the terminal's foreground group: Ctrl-C is for the node, which then stops pods in order.
    let _ = nix::unistd::setsid();
    supervise::block_signals().map_err(|error| format!("blocking signals: {error}"))?;
    if let Some(isolation) = &spec.container.isolation {
        let sandbox = sys::pidfd_open(isolation.sandbox_pid)
            .map_err(|error| format!("finding the pod's sandbox: {error}"))?;
        setns(
            sandbox,
            CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWUTS | CloneFlags::CLONE_NEWIPC,
        )
        .map_err(|errno| format!("joining the pod's sandbox: {errno}"))?;
        // Applies to children: the next fork is the first process of the new namespace.
        unshare(CloneFlags::CLONE_NEWPID)
            .map_err(|errno| format!("creating a PID namespace: {errno}"))?;
    } else {
        // Without a PID namespace orphans of the container come to the shim, which kills them at the end.
        prctl::set_child_subreaper(true)
            .map_err(|errno| format!("becoming the container's reaper: {errno}"))?;
    }
    let pipe = |errno| format!("a pipe: {errno}");
    let (report, write) = pipe2(OFlag::O_CLOEXEC).map_err(pipe)?;
    match sys::fork().map_err(|errno| format!("starting the container: {errno}"))? {
        ForkResult::Child => {
            drop(report);
            let mut write = File::from(write);
            let message = become_container(spec, fds);
            let _ = write.write_all(message.as_bytes());
            std::process::exit(1);
        }
        ForkResult::Parent { child } => {
            drop((write, fds));
            // End of file without a word is a successful exec.
            let mut message = String::new();
            File::from(report)
                .read_to_string(&mut message)
                .map_err(|error| format!("starting the container: {error}"))?;
            if message.is_empty() {
                Ok(child)
            } else {
                Err(message)
            }
        }
    }
}

/// Returns only when something failed, with the reason.
fn become_container(spec: &ShimSpec, fds: Vec<OwnedFd>) -> String {
    if let Some(isolation) = &spec.container.isolation {
        if let Err(message) = rootfs::enter(isolation) {
            return message;
        }
        if let Err(error) = std::fs::create_dir_all(&spec.container.working_dir) {
            return format!(
                "creating workingDir {}: {error}",
                spec.container.working_dir
            );
        }
        if isolation.read_only_root
            && let Err(message) = rootfs::seal()
        {
            return message;
        }
    }
    run_program(
        &spec.container.argv,
        &spec.container.env,
        &spec.container.working_dir,
        &spec.container.identity,
        spec.stdin.then(|| fds.into_iter().next()).flatten(),
        spec.tty,
    )
}

/// The last steps before the program, for containers and execs alike. Returns only when one failed.
pub(crate) fn run_program(
    argv: &[String],
    env: &[(String, String)],
    working_dir: &str,
    identity: &Identity,
    stdin: Option<OwnedFd>,
    tty: bool,
) -> String {
    let prepared = (|| -> Result<(), String> {
        nix::unistd::setsid().map_err(|errno| format!("starting a session: {errno}"))?;
        let stdin = match stdin {
            Some(stdin) => stdin,
            None => File::open("/dev/null")
                .map_err(|error| format!("opening /dev/null: {error}"))?
                .into(),
        };
        nix::unistd::dup2_stdin(&stdin).map_err(|errno| format!("standard input: {errno}"))?;
        drop(stdin);
        if tty {
            sys::adopt_terminal().map_err(|error| format!("adopting the terminal: {error}"))?;
        }
        nix::unistd::chdir(working_dir)
            .map_err(|errno| format!("changing to workingDir {working_dir}: {errno}"))?;
        take_identity(identity)?;
        // The parent (shim) may be killed by anything; its program must not outlive it. After the change of identity, which clears
        // the setting.
        prctl::set_pdeathsig(Signal::SIGKILL)
            .map_err(|errno| format!("tying the program to its parent: {errno}"))?;
        nix::sys::stat::umask(Mode::from_bits_truncate(0o022));
        prctl::set_no_new_privs().map_err(|errno| format!("no_new_privs: {errno}"))?;
        Ok(())
    })();
    if let Err(message) = prepared {
        return message;
    }
    let Some(name) = argv.first() else {
        return "no command given".to_owned();
    };
    let program = match find_program(name, env) {
        Ok(program) => program,
        Err(message) => return message,
    };
    let strings = |list: Vec<String>| {
        list.into_iter()
            .map(CString::new)
            .collect::<Result<Vec<_>, _>>()
    };
    let environment = env.iter().map(|(name, value)| format!("{name}={value}"));
    let (Ok(path), Ok(argv), Ok(env)) = (
        CString::new(program.as_os_str().as_encoded_bytes()),
        strings(argv.to_vec()),
        strings(environment.collect()),
    ) else {
        return "command and environment must not contain NUL".to_owned();
    };
    sys::close_on_exec_from(3);
    sys::unblock_signals();
    let Err(errno) = nix::unistd::execve(&path, &argv, &env);
    format!("exec {name:?}: {}", errno.desc().to_lowercase())
}

fn take_identity(identity: &Identity) -> Result<(), String> {
    let user = |errno| format!("becoming user {:?}: {errno}", identity.user);
    if let Some(keep) = identity.capabilities {
        sys::bound_capabilities(keep).map_err(|error| format!("dropping capabilities: {error}"))?;
    }
    if identity.user.is_some() || identity.group.is_some() {
        let groups = identity
            .supplementary_groups
            .iter()
            .map(|group| Gid::from_raw(*group))
            .collect::<Vec<_>>();
        nix::unistd::setgroups(&groups).map_err(user)?;
    }
    if let Some(group) = identity.group {
        let group = Gid::from_raw(group);
        nix::unistd::setresgid(group, group, group).map_err(user)?;
    }
    if let Some(id) = identity.user {
        let id = Uid::from_raw(id);
        nix::unistd::setresuid(id, id, id).map_err(user)?;
    }
    Ok(())
}

/// As a shell finds it, in the PATH the container will have.
fn find_program(name: &str, env: &[(String, String)]) -> Result<PathBuf, String> {
    if name.contains('/') {
        return Ok(PathBuf::from(name));
    }
    let path = env
        .iter()
        .rev()
        .find(|(variable, _)| variable == "PATH")
        .map_or("", |(_, value)| value.as_str());
    path.split(':')
        .filter(|directory| !directory.is_empty())
        .map(|directory| Path::new(directory).join(name))
        .find(|candidate| candidate.is_file() && access(candidate, AccessFlags::X_OK).is_ok())
        .ok_or_else(|| format!("exec: {name:?}: executable file not found in $PATH"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn capability_lists() {
        let list = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
        type Case = (
            &'static [&'static str],
            &'static [&'static str],
            Result<u64, &'static str>,
        );
        let cases: &[Case] = &[
            (&[], &[], Ok(DEFAULT_CAPABILITIES)),
            (&[], &["ALL"], Ok(0)),
            (&["NET_BIND_SERVICE"], &["ALL"], Ok(1 << 10)),
            (&["CAP_SYS_NICE"], &["ALL"], Ok(1 << 23)),
            (&[], &["CHOWN"], Ok(DEFAULT_CAPABILITIES & !1)),
            (
                &["SYS_ADMIN"],
                &[],
                Err("capability SYS_ADMIN is not given to containers here"),
            ),
            (&["FLY"], &[], Err("unknown capability FLY")),
        ];
        for (add, drop, expected) in cases {
            let got = capabilities(&list(add), &list(drop));
            assert_eq!(got, expected.map_err(str::to_owned), "{add:?} {drop:?}");
        }
    }

    #[test]
    fn programs_are_found_in_the_containers_path() {
        let env = |path: &str| vec![("PATH".to_owned(), path.to_owned())];
        assert_eq!(
            find_program("sh", &env("/nowhere:/bin")).unwrap(),
            Path::new("/bin/sh")
        );
        assert_eq!(find_program("/x/y", &[]).unwrap(), Path::new("/x/y"));
        assert_eq!(
            find_program("sh", &env("/nowhere")).unwrap_err(),
            "exec: \"sh\": executable file not found in $PATH"
        );
    }
}
