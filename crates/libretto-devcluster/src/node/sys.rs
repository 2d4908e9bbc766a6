//! The system calls that have no safe wrapper in `nix`, each behind a safe function. The only file of the node with `unsafe`.
//!
//! Everything here is called either before the program has a second thread (`enter`), in a role process that has one thread
//! (`libretto-pod`, `libretto-container`, `libretto-exec`), or between `fork` and `exec` where only async-signal-safe calls are made.
#![allow(unsafe_code)] // the one exception of the workspace; see above

use std::{
    ffi::CString,
    io,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
    path::Path,
};

use nix::{
    errno::Errno,
    sched::CloneFlags,
    sys::signal::{SigHandler, SigSet, Signal},
    unistd::{ForkResult, Pid},
};
use tokio::io::unix::AsyncFd;

/// `fork` into new namespaces in one step, so that the child is the first process of its PID namespace and owns the others
/// through its user namespace. The caller must have a single thread.
pub(crate) fn fork_into(namespaces: CloneFlags) -> nix::Result<ForkResult> {
    let flags = libc::c_long::from(namespaces.bits() | libc::SIGCHLD);
    // SAFETY: without CLONE_VM and without a stack this is fork(2) with namespace flags; all pointer arguments are null, so their
    // order, which differs between architectures, does not matter. One thread: no lock can be held by another.
    let pid = unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) };
    match Errno::result(pid)? {
        0 => Ok(ForkResult::Child),
        pid => Ok(ForkResult::Parent {
            child: Pid::from_raw(i32::try_from(pid).expect("a pid fits in i32")),
        }),
    }
}

/// Plain `fork`; the caller must have a single thread.
pub(crate) fn fork() -> nix::Result<ForkResult> {
    // SAFETY: callers have one thread (module documentation), so the child may do anything.
    unsafe { nix::unistd::fork() }
}

/// Takes ownership of a descriptor number this process was started with.
pub(crate) fn inherited_fd(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: the number comes from our own re-execution protocol; it is checked to be open, and taken once. Close-on-exec keeps
    // it from leaking further.
    unsafe {
        if libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(OwnedFd::from_raw_fd(number))
    }
}

/// Lets a descriptor survive the coming exec.
pub(crate) fn keep_open(number: RawFd) -> io::Result<()> {
    // SAFETY: only changes a flag of a descriptor that the caller's listener owns.
    if unsafe { libc::fcntl(number, libc::F_SETFD, 0) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Takes ownership of a descriptor received in a control message.
pub(crate) fn received_fd(number: RawFd) -> OwnedFd {
    // SAFETY: the kernel has just installed it for us in recvmsg; nobody else knows the number.
    unsafe { OwnedFd::from_raw_fd(number) }
}

/// Removes a variable from this process's environment. The caller must have a single thread.
pub(crate) fn remove_env(name: &str) {
    // SAFETY: called first in main, before any thread could read the environment.
    unsafe { std::env::remove_var(name) };
}

/// The default action for a signal. Rust ignores SIGPIPE, which programs in containers must not inherit.
pub(crate) fn default_action(signal: Signal) {
    // SAFETY: installing SIG_DFL runs no code of ours.
    let _ = unsafe { nix::sys::signal::signal(signal, SigHandler::SigDfl) };
}

/// Lets every signal through again before an exec.
pub(crate) fn unblock_signals() {
    let _ = SigSet::all().thread_unblock();
    for signal in [
        Signal::SIGPIPE,
        Signal::SIGINT,
        Signal::SIGTERM,
        Signal::SIGHUP,
        Signal::SIGCHLD,
        Signal::SIGWINCH,
    ] {
        default_action(signal);
    }
}

/// Marks every descriptor from `first` on close-on-exec.
pub(crate) fn close_on_exec_from(first: RawFd) {
    // SAFETY: only sets a flag. On a kernel without it (before 5.11) Rust's own descriptors are close-on-exec anyway.
    unsafe {
        libc::syscall(
            libc::SYS_close_range,
            first,
            libc::c_uint::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        );
    }
}

/// A descriptor that refers to a process, for `setns`.
pub(crate) fn pidfd_open(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: returns a fresh descriptor or an error.
    unsafe {
        let fd = libc::syscall(libc::SYS_pidfd_open, pid, 0);
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(OwnedFd::from_raw_fd(
            RawFd::try_from(fd).expect("a descriptor fits in i32"),
        ))
    }
}

/// Attributes of a mount and everything mounted below it. Only adds restrictions.
pub(crate) fn restrict_mount(path: &Path, read_only: bool, recursive: bool) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_encoded_bytes())?;
    let mut set = libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV;
    if read_only {
        set |= libc::MOUNT_ATTR_RDONLY;
    }
    let attributes = libc::mount_attr {
        attr_set: set,
        attr_clr: 0,
        propagation: 0,
        userns_fd: 0,
    };
    let flags = if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is NUL-terminated and the structure lives through the call; its size is passed as the kernel asks.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            libc::AT_FDCWD,
            path.as_ptr(),
            flags,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Gives up for ever, for this process and its children, every capability outside `keep` (bit mask by capability number).
pub(crate) fn bound_capabilities(keep: u64) -> io::Result<()> {
    // 64 is above any capability known to any kernel; EINVAL marks the end of this kernel's list.
    for capability in 0..64_u32 {
        if keep & (1 << capability) != 0 {
            continue;
        }
        // SAFETY: prctl with integer arguments.
        let result = unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) };
        if result < 0 {
            let error = io::Error::last_os_error();
            if error.raw_os_error() == Some(libc::EINVAL) {
                break;
            }
            return Err(error);
        }
    }
    Ok(())
}

/// Registers a non-blocking descriptor with the runtime.
pub(crate) fn async_fd(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd is open, always gives the same number, and is owned by the AsyncFd until that ends.
    Ok(unsafe { AsyncFd::register(fd) }?)
}

/// Makes descriptor 0 the controlling terminal; the caller is a session leader.
pub(crate) fn adopt_terminal() -> io::Result<()> {
    // SAFETY: ioctl with an integer argument on our standard input.
    if unsafe { libc::ioctl(0, libc::TIOCSCTTY as _, 0) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Unlocks a pseudo-terminal and opens its program side, without knowing any path to it.
pub(crate) fn terminal_peer(master: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let unlocked: libc::c_int = 0;
    // SAFETY: the integer lives through the call; TIOCGPTPEER takes open flags and returns a fresh descriptor.
    unsafe {
        if libc::ioctl(
            master.as_raw_fd(),
            libc::TIOCSPTLCK as _,
            &raw const unlocked,
        ) < 0
        {
            return Err(io::Error::last_os_error());
        }
        let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
        let peer = libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER as _, flags);
        if peer < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(OwnedFd::from_raw_fd(peer))
    }
}

/// Sets the size of a terminal; the kernel tells its foreground processes with SIGWINCH.
pub(crate) fn resize_terminal(terminal: BorrowedFd<'_>, columns: u16, rows: u16) -> io::Result<()> {
    let size = libc::winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: the structure lives through the call.
    if unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSWINSZ as _, &raw const size) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
