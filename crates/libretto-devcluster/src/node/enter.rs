//! Moves the whole program into namespaces of its own before anything else happens.
//!
//! Why the whole program and not only the pods: the process that talks to pods (probes, Service proxies, DNS, port-forward, the
//! operator engine) must sit in the pods' network. An ordinary user cannot join namespaces of a running program with several
//! threads, and passing every connection through a helper is slow and fragile. A listening socket, on the other hand, stays in the
//! network namespace where it was made: bind first, enter after, and programs of the host still reach the API server while the
//! API server reaches every pod.
//!
//! Three processes result:
//!
//! ```text
//! outer   the process the user started: forwards signals, waits, returns the exit code
//! └ init  first process of the PID namespace: reaps orphans, forwards signals; dies with outer (PR_SET_PDEATHSIG)
//!   └ inner  this program again (/proc/self/exe), same arguments, terminal and standard streams; returns `Entry::Inside`
//!     └ pods
//! ```
//!
//! However outer, init or inner end, SIGKILL included, the kernel then kills every process of the PID namespace: no pod survives.
//! Root and ordinary users take the same path; an ordinary user (or a root without CAP_SYS_ADMIN) gets a user namespace too.
//!
//! The attempt is the probe: everything a pod needs (bridge, veth pair, `proc` mount, read-only binds) is tried in init before inner
//! starts. When one of them is refused the answer is `Entry::Fallback` with the reason.
//!
//! ```text
//! fn main() -> ExitCode {
//!     libretto_devcluster::node::reexec_dispatch(); // never returns in a role process
//!     let cli = Cli::parse();                       // no thread may run before `enter`
//!     match enter(cli.driver, || Ok(vec![TcpListener::bind(("127.0.0.1", cli.port))?]))? {
//!         Entry::Supervised(code) => ExitCode::from(code),
//!         Entry::Inside { listeners } => run(listeners, Driver::Namespaces),
//!         Entry::Fallback { listeners, reason } => { warn(reason); run(listeners, Driver::Process) }
//!     }
//! }
//! ```

use std::{
    ffi::CString,
    io::{self, Read as _, Write as _},
    net::TcpListener,
    os::{
        fd::{AsRawFd as _, OwnedFd, RawFd},
        unix::ffi::OsStringExt as _,
    },
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
};

use nix::{
    errno::Errno,
    fcntl::OFlag,
    mount::{MsFlags, mount},
    sched::CloneFlags,
    sys::{prctl, signal::Signal},
    unistd::{ForkResult, Gid, Pid, Uid, getgid, getuid, pipe2},
};

use super::{Driver, network, supervise, sys};

/// Where the program is after `enter`.
#[derive(Debug)]
pub enum Entry {
    /// The program ran inside and ended; exit with this code.
    Supervised(u8),
    /// Inside the namespaces; the listeners belong to the host's network.
    Inside { listeners: Vec<TcpListener> },
    /// Namespaces are not allowed here; pods run as plain processes. The reason is for the user.
    Fallback {
        listeners: Vec<TcpListener>,
        reason: String,
    },
}

/// Why the program cannot start at all.
#[derive(Debug, thiserror::Error)]
pub enum EnterError {
    #[error("cannot listen: {0}")]
    Listen(#[source] io::Error),
    #[error(
        "namespaces are not available: {0}; allow unprivileged user namespaces, run as root, or use the process driver"
    )]
    Refused(String),
    #[error("cannot start the process inside the namespaces: {0}")]
    Start(#[source] io::Error),
}

/// Set for inner: the descriptor numbers of the listeners. Removed at once, so no child sees it.
const MARKER: &str = "LIBRETTO_NODE_INSIDE";

static INSIDE: AtomicBool = AtomicBool::new(false);

/// Whether this process is inside.
pub(super) fn is_inside() -> bool {
    INSIDE.load(Ordering::Relaxed)
}

/// Call first in `main`, before any thread is started. `bind` runs once, in the host's network namespace.
pub fn enter(
    driver: Driver,
    bind: impl FnOnce() -> io::Result<Vec<TcpListener>>,
) -> Result<Entry, EnterError> {
    if let Some(numbers) = std::env::var_os(MARKER) {
        sys::remove_env(MARKER);
        INSIDE.store(true, Ordering::Relaxed);
        let listeners = inherit(&numbers.to_string_lossy()).map_err(EnterError::Listen)?;
        return Ok(Entry::Inside { listeners });
    }
    let listeners = bind().map_err(EnterError::Listen)?;
    if driver == Driver::Process {
        return Ok(Entry::Fallback {
            listeners,
            reason: "the process driver was asked for".to_owned(),
        });
    }
    let numbers = listeners.iter().map(|l| l.as_raw_fd()).collect::<Vec<_>>();
    match start(&numbers).map_err(EnterError::Start)? {
        Ok(init) => {
            // Only inner serves; a listener kept here would hold the port after inner closed it.
            drop(listeners);
            let code =
                supervise::wait_for(init, &supervise::Control::None).map_err(EnterError::Start)?;
            Ok(Entry::Supervised(code))
        }
        Err(reason) if driver == Driver::Namespaces => Err(EnterError::Refused(reason)),
        Err(reason) => Ok(Entry::Fallback { listeners, reason }),
    }
}

fn inherit(numbers: &str) -> io::Result<Vec<TcpListener>> {
    numbers
        .split(',')
        .filter(|number| !number.is_empty())
        .map(|number| {
            let number = number.parse::<RawFd>().map_err(io::Error::other)?;
            Ok(TcpListener::from(sys::inherited_fd(number)?))
        })
        .collect()
}

/// Starts init; `Ok(Err(reason))` when the machine does not allow it.
fn start(listeners: &[RawFd]) -> io::Result<Result<Pid, String>> {
    let plain = CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWPID;
    let with_user = plain | CloneFlags::CLONE_NEWUSER;
    let ladder: &[CloneFlags] = if getuid().is_root() {
        // Root in a container may lack CAP_SYS_ADMIN; a user namespace may still be allowed.
        &[plain, with_user]
    } else {
        &[with_user]
    };
    let mut reasons = Vec::new();
    for namespaces in ladder {
        match attempt(*namespaces, listeners)? {
            Ok(init) => return Ok(Ok(init)),
            Err(reason) => reasons.push(reason),
        }
    }
    reasons.dedup();
    Ok(Err(reasons.join("; ")))
}

fn attempt(namespaces: CloneFlags, listeners: &[RawFd]) -> io::Result<Result<Pid, String>> {
    // init → outer: a text when something is refused, end of file when inner runs.
    let (report_read, report_write) = pipe2(OFlag::O_CLOEXEC)?;
    // outer → init: closed when outer is gone, for the moment before the parent-death signal is set.
    let (alive_read, alive_write) = pipe2(OFlag::O_CLOEXEC)?;
    supervise::block_signals()?;
    // Read here: inside a fresh user namespace they read as the overflow id.
    let owner = (getuid(), getgid());
    match sys::fork_into(namespaces) {
        Ok(ForkResult::Child) => {
            drop((report_read, alive_write));
            init(namespaces, owner, listeners, report_write, &alive_read)
        }
        Ok(ForkResult::Parent { child }) => {
            drop((report_write, alive_read));
            let mut reason = String::new();
            std::fs::File::from(report_read).read_to_string(&mut reason)?;
            if reason.is_empty() {
                // Held open on purpose until this process ends.
                std::mem::forget(alive_write);
                return Ok(Ok(child));
            }
            nix::sys::wait::waitpid(child, None)?;
            supervise::unblock_signals()?;
            Ok(Err(reason))
        }
        Err(errno) => {
            supervise::unblock_signals()?;
            Ok(Err(refusal(errno, namespaces)))
        }
    }
}

fn refusal(errno: Errno, namespaces: CloneFlags) -> String {
    let what = if namespaces.contains(CloneFlags::CLONE_NEWUSER) {
        "creating user, network, mount and PID namespaces"
    } else {
        "creating network, mount and PID namespaces"
    };
    let hint = match errno {
        Errno::EPERM | Errno::EACCES => {
            " (a container's seccomp profile, or kernel.apparmor_restrict_unprivileged_userns, or kernel.unprivileged_userns_clone)"
        }
        Errno::ENOSPC | Errno::EUSERS => " (user.max_user_namespaces is reached)",
        _ => "",
    };
    format!("{what}: {}{hint}", errno.desc())
}

/// First process of the PID namespace. Ends when inner ends.
fn init(
    namespaces: CloneFlags,
    owner: (Uid, Gid),
    listeners: &[RawFd],
    report: OwnedFd,
    alive: &OwnedFd,
) -> ! {
    let mut report = std::fs::File::from(report);
    let started = prctl::set_pdeathsig(Signal::SIGKILL)
        .map_err(|errno| format!("tying to the parent process: {errno}"))
        .and_then(|()| {
            if supervise::hung_up(alive) {
                return Err("the parent process ended".to_owned());
            }
            prepare(namespaces, owner)
        })
        .and_then(|()| start_inner(listeners));
    match started {
        Ok(inner) => {
            drop(report);
            let code = supervise::wait_for(inner, &supervise::Control::None).unwrap_or(1);
            std::process::exit(i32::from(code));
        }
        Err(reason) => {
            let _ = report.write_all(reason.as_bytes());
            drop(report);
            std::process::exit(1);
        }
    }
}

/// Everything inner and pods rely on, tried now so that a refusal is known before anything is promised.
fn prepare(namespaces: CloneFlags, owner: (Uid, Gid)) -> Result<(), String> {
    if namespaces.contains(CloneFlags::CLONE_NEWUSER) {
        map_ids(owner)?;
    }
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
        .map_err(|errno| format!("making mounts private: {errno}"))?;
    mount(
        Some("proc"),
        "/proc",
        Some("proc"),
        MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC,
        none,
    )
    .map_err(|errno| {
        format!("mounting proc: {errno} (usual inside a container whose /proc is masked)")
    })?;
    // One thread: this runtime runs on the calling thread and starts none.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("preparing the network: {error}"))?;
    runtime.block_on(network::set_up_bridge())?;
    runtime.block_on(network::try_veth())?;
    name_servers()?;
    try_read_only_bind()
}

/// Lets this process resolve names as pods do: the engine in it asks Services by name, and the machine's own name servers cannot be
/// reached from here.
fn name_servers() -> Result<(), String> {
    let target = Path::new("/etc/resolv.conf");
    // Without the file there is nothing to mount over, and the C library asks a server that is not there.
    if !target.exists() {
        return Ok(());
    }
    let problem = |what: String| format!("naming the cluster's name server: {what}");
    let mut file = tempfile::NamedTempFile::new().map_err(|error| problem(error.to_string()))?;
    let text = format!(
        "nameserver {}\nsearch svc.cluster.local cluster.local\noptions ndots:5\n",
        network::GATEWAY
    );
    file.write_all(text.as_bytes())
        .map_err(|error| problem(error.to_string()))?;
    let none = None::<&str>;
    // The file is removed at the end of this function; what is mounted stays, in our own mount namespace.
    mount(Some(file.path()), target, none, MsFlags::MS_BIND, none)
        .map_err(|errno| problem(errno.to_string()))
}

fn try_read_only_bind() -> Result<(), String> {
    let target = Path::new("/usr");
    let none = None::<&str>;
    // Bound onto itself in our own mount namespace and taken away again: nobody outside sees it.
    mount(
        Some(target),
        target,
        none,
        MsFlags::MS_BIND | MsFlags::MS_REC,
        none,
    )
    .map_err(|errno| format!("bind mounts: {errno}"))?;
    let result = sys::restrict_mount(target, true, true)
        .map_err(|error| format!("read-only bind mounts (kernel 5.12 or newer): {error}"));
    nix::mount::umount2(target, nix::mount::MntFlags::MNT_DETACH)
        .map_err(|errno| format!("taking away a bind mount: {errno}"))?;
    result
}

/// Makes the user who started us root inside. Only one id can be mapped without a privileged helper (newuidmap), so every pod
/// process runs as that user; see `runAsUser` in the container module.
fn map_ids(owner: (Uid, Gid)) -> Result<(), String> {
    for (file, text) in [
        // The kernel demands it before an unprivileged gid_map.
        ("/proc/self/setgroups", "deny".to_owned()),
        ("/proc/self/uid_map", format!("0 {} 1", owner.0)),
        ("/proc/self/gid_map", format!("0 {} 1", owner.1)),
    ] {
        std::fs::write(file, text).map_err(|error| format!("writing {file}: {error}"))?;
    }
    Ok(())
}

/// This program again, with the same arguments, now inside.
fn start_inner(listeners: &[RawFd]) -> Result<Pid, String> {
    // Reports a failed exec; end of file means it worked.
    let (read, write) = pipe2(OFlag::O_CLOEXEC).map_err(|errno| format!("a pipe: {errno}"))?;
    match sys::fork().map_err(|errno| format!("starting the inner process: {errno}"))? {
        ForkResult::Parent { child } => {
            drop(write);
            let mut reason = String::new();
            std::fs::File::from(read)
                .read_to_string(&mut reason)
                .map_err(|error| format!("starting the inner process: {error}"))?;
            if reason.is_empty() {
                Ok(child)
            } else {
                Err(reason)
            }
        }
        ForkResult::Child => {
            let error = exec_inner(listeners);
            let _ = std::fs::File::from(write)
                .write_all(format!("starting the inner process: {error}").as_bytes());
            std::process::exit(1);
        }
    }
}

fn exec_inner(listeners: &[RawFd]) -> io::Error {
    sys::unblock_signals();
    for number in listeners {
        if let Err(error) = sys::keep_open(*number) {
            return error;
        }
    }
    let no_nul = "strings from the kernel have no NUL";
    let arguments = std::env::args_os()
        .map(|argument| CString::new(argument.into_vec()).expect(no_nul))
        .collect::<Vec<_>>();
    let numbers = listeners
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>();
    let environment = std::env::vars_os()
        .map(|(name, value)| [name.into_vec(), value.into_vec()].join(&b'='))
        .chain([format!("{MARKER}={}", numbers.join(",")).into_bytes()])
        .map(|variable| CString::new(variable).expect(no_nul))
        .collect::<Vec<_>>();
    // The link follows the running program even when its file was replaced meanwhile.
    let Err(errno) = nix::unistd::execve(c"/proc/self/exe", &arguments, &environment);
    errno.into()
}
