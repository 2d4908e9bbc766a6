//! The node for real: namespaces, a bridge, redis-server. Run once as root (when root) and once as an ordinary user.
//!
//! Its own `main`, because pods are this very program started again under another name, and because `enter` must run before any
//! thread. Filter with `cargo test -p libretto-devcluster --test node -- <part of a name>`.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod changes;
mod cluster;
mod core;
mod kubelet;
mod support;

use std::{
    io::{BufRead as _, BufReader, Read as _},
    net::{Ipv4Addr, TcpListener},
    os::unix::process::CommandExt as _,
    process::{Command, ExitCode, Stdio},
};

use libretto_devcluster::node::{Driver, Entry, enter, reexec_dispatch};
use support::eventually;

/// Which part of the test this process is; absent in the process that cargo started.
const STAGE: &str = "NODE_TEST_STAGE";
const NOBODY: u32 = 65534;

fn main() -> ExitCode {
    reexec_dispatch();
    match std::env::var(STAGE).ok().as_deref() {
        None => conduct(),
        Some("cases") => inside(|filters, _| core::run(&filters)),
        Some("kubelet") => inside(|filters, _| kubelet::run(&filters)),
        Some("cluster") => inside(|filters, listener| cluster::run(&filters, listener)),
        Some("hold") => inside(|_, listener| core::hold(&listener)),
        Some("code") => inside(|_, _| ExitCode::from(42)),
        Some("fallback") => fallback(),
        Some(other) => panic!("no stage {other}"),
    }
}

fn inside(run: impl FnOnce(Vec<String>, TcpListener) -> ExitCode) -> ExitCode {
    let bind = || Ok(vec![TcpListener::bind(("127.0.0.1", 0))?]);
    match enter(Driver::Namespaces, bind).unwrap() {
        Entry::Supervised(code) => ExitCode::from(code),
        Entry::Inside { mut listeners } => {
            assert_eq!(listeners.len(), 1);
            let filters = std::env::args().skip(1).filter(|a| !a.starts_with('-'));
            run(filters.collect(), listeners.remove(0))
        }
        Entry::Fallback { reason, .. } => panic!("asked for namespaces, got: {reason}"),
    }
}

fn fallback() -> ExitCode {
    match enter(Driver::Process, || Ok(Vec::new())).unwrap() {
        Entry::Fallback { reason, .. } => {
            assert_eq!(reason, "the process driver was asked for");
            kubelet::fallback()
        }
        other => panic!("{other:?}"),
    }
}

fn stage(name: &str, user: Option<u32>) -> Command {
    let mut command = Command::new("/proc/self/exe");
    command.args(std::env::args().skip(1)).env(STAGE, name);
    if let Some(user) = user {
        command.uid(user).gid(user);
    }
    command
}

fn conduct() -> ExitCode {
    let root = nix::unistd::getuid().is_root();
    let users: &[Option<u32>] = if root { &[None, Some(NOBODY)] } else { &[None] };
    for user in users {
        let who = if root && user.is_none() {
            "root"
        } else {
            "an ordinary user"
        };
        println!("as {who}:");
        assert!(
            stage("cases", *user).status().unwrap().success(),
            "cases as {who}"
        );
        assert!(
            stage("kubelet", *user).status().unwrap().success(),
            "pods as {who}"
        );
        assert!(
            stage("cluster", *user).status().unwrap().success(),
            "a whole cluster as {who}"
        );
        if std::env::args().len() > 1 {
            continue;
        }
        assert_eq!(stage("code", *user).status().unwrap().code(), Some(42));
        assert!(stage("fallback", *user).status().unwrap().success());
        println!("  the exit code passes through; redis and sentinel run as plain processes");
        for victim in [Victim::Outer, Victim::Inner] {
            nothing_survives(*user, victim);
            println!("  nothing survives SIGKILL of {victim:?}");
        }
        termination_is_forwarded(*user);
        println!("  SIGTERM reaches the inner process");
    }
    ExitCode::SUCCESS
}

#[derive(Debug, Clone, Copy)]
enum Victim {
    Outer,
    Inner,
}

/// Process ids, in the host's namespace, of every process whose command line contains `mark`.
fn marked(mark: &str) -> Vec<i32> {
    std::fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok())
        .filter(|pid| {
            std::fs::read(format!("/proc/{pid}/cmdline"))
                .is_ok_and(|line| String::from_utf8_lossy(&line).contains(mark))
        })
        .collect()
}

fn started(user: Option<u32>, mark: &str) -> std::process::Child {
    let mut outer = stage("hold", user)
        .arg("-")
        .env("NODE_TEST_MARK", mark)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(outer.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    // The listener was bound in the host's network and is served from inside.
    let port = line
        .strip_prefix("holding ")
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    let mut answer = String::new();
    let mut stream = std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    // Far above what a loaded machine needs; a failure says more than a test that never ends.
    stream
        .set_read_timeout(Some(std::time::Duration::from_secs(20)))
        .unwrap();
    stream.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "inside");
    // Its command line is unreadable for a moment while a process executes another program; the main process and its daemon.
    eventually("the container and its daemon run", || {
        marked(mark).len() >= 2
    });
    outer
}

fn nothing_survives(user: Option<u32>, victim: Victim) {
    let mark = format!("9{}{}", std::process::id(), u8::from(user.is_some()));
    let mut outer = started(user, &mark);
    let outer_pid = i32::try_from(outer.id()).unwrap();
    let pid = match victim {
        Victim::Outer => outer_pid,
        // outer → init → inner
        Victim::Inner => only_child(only_child(outer_pid)),
    };
    let kill = nix::sys::signal::Signal::SIGKILL;
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), kill).unwrap();
    let status = outer.wait().unwrap();
    if matches!(victim, Victim::Inner) {
        assert_eq!(status.code(), Some(137));
    }
    eventually("every process is gone", || marked(&mark).is_empty());
}

fn termination_is_forwarded(user: Option<u32>) {
    let mark = format!("8{}{}", std::process::id(), u8::from(user.is_some()));
    let mut outer = started(user, &mark);
    let pid = nix::unistd::Pid::from_raw(i32::try_from(outer.id()).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    // `hold` answers SIGTERM with an exit code of its own.
    assert_eq!(outer.wait().unwrap().code(), Some(7));
    eventually("every process is gone", || marked(&mark).is_empty());
}

fn only_child(pid: i32) -> i32 {
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    children.split_whitespace().next().unwrap().parse().unwrap()
}
