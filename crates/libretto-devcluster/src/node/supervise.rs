//! Waiting for one child while passing signals on and reaping whatever else ends: the loop of outer, init and the shims.
//!
//! Signals are read from a signalfd. One that the terminal sent (`SI_KERNEL`) has reached the child already, because both are in the
//! terminal's foreground group; it is not passed on, or Ctrl-C would count twice.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        signal::{SigSet, Signal, kill},
        signalfd::{SfdFlags, SignalFd},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::Pid,
};

/// What is passed on to the child, beside SIGCHLD which is for us.
const FORWARDED: [Signal; 8] = [
    Signal::SIGINT,
    Signal::SIGTERM,
    Signal::SIGHUP,
    Signal::SIGQUIT,
    Signal::SIGWINCH,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGCONT,
];

/// How a shim learns that its node is gone.
#[derive(Debug)]
pub(crate) enum Control {
    /// The kernel takes care (PID namespace, parent-death signal).
    None,
    /// The other end closes: kill the child and its descendants.
    Socket(OwnedFd),
}

fn handled() -> SigSet {
    let mut set = SigSet::empty();
    set.add(Signal::SIGCHLD);
    for signal in FORWARDED {
        set.add(signal);
    }
    set
}

/// Before the child is started, so that no signal is lost in between.
pub(crate) fn block_signals() -> io::Result<()> {
    Ok(handled().thread_block()?)
}

pub(crate) fn unblock_signals() -> io::Result<()> {
    Ok(handled().thread_unblock()?)
}

/// True when the other end of a pipe or socket is closed.
pub(crate) fn hung_up(fd: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
        && fds[0]
            .revents()
            .is_some_and(|events| events.intersects(PollFlags::POLLHUP | PollFlags::POLLERR))
}

/// Returns the child's exit code, 128 + signal when it was killed. `block_signals` was called before the child was started.
pub(crate) fn wait_for(child: Pid, control: &Control) -> io::Result<u8> {
    let signals = SignalFd::with_flags(&handled(), SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
    let mut abandoned = false;
    loop {
        if let Some(code) = reap(child)? {
            return Ok(code);
        }
        let mut fds = vec![PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
        if let (Control::Socket(socket), false) = (control, abandoned) {
            fds.push(PollFd::new(socket.as_fd(), PollFlags::POLLIN));
        }
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        if let Some(control) = fds.get(1)
            && control.revents().is_some_and(|events| !events.is_empty())
        {
            // Nothing is ever sent after the start: readable means closed.
            abandoned = true;
            kill_tree(child);
        }
        while let Some(info) = signals.read_signal()? {
            let Ok(signal) = i32::try_from(info.ssi_signo)
                .map_err(|_| Errno::EINVAL)
                .and_then(Signal::try_from)
            else {
                continue;
            };
            if signal != Signal::SIGCHLD && info.ssi_code != libc::SI_KERNEL {
                // ESRCH: it has just ended, which the next round sees.
                let _ = kill(child, signal);
            }
        }
    }
}

fn reap(child: Pid) -> io::Result<Option<u8>> {
    let mut result = None;
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(pid, code)) if pid == child => {
                result = Some(u8::try_from(code & 0xff).expect("masked to a byte"));
            }
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid == child => {
                result = Some(128 + u8::try_from(signal as i32).expect("signals are below 65"));
            }
            Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return Ok(result),
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Kills a process, its group and, where this process is a subreaper, everything that was started below it.
pub(crate) fn kill_tree(child: Pid) {
    let _ = nix::sys::signal::killpg(child, Signal::SIGKILL);
    let _ = kill(child, Signal::SIGKILL);
    kill_descendants();
}

/// Everything below this process. Orphans of a subreaper become its children, so a few rounds reach daemons too.
pub(crate) fn kill_descendants() {
    // Each round kills one generation at least; a process tree that forks faster than this is bounded by ten rounds.
    for _ in 0..10 {
        let children = children_of_self();
        if children.is_empty() {
            return;
        }
        for pid in children {
            let _ = kill(pid, Signal::SIGKILL);
            let _ = waitpid(pid, None);
        }
    }
}

fn children_of_self() -> Vec<Pid> {
    let path = format!("/proc/self/task/{}/children", nix::unistd::gettid());
    std::fs::read_to_string(path)
        .unwrap_or_default()
        .split_whitespace()
        .filter_map(|pid| pid.parse().ok().map(Pid::from_raw))
        .collect()
}
