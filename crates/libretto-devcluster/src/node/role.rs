//! Role processes: this program started again under another name to become a pod's sandbox, a container's parent or an exec.
//!
//! A program with several threads must not `fork` and go on, so each such job is a fresh, single-threaded process of the same
//! executable. It gets one Unix socket as standard input: first descriptors, then its specification as JSON; it answers with one
//! JSON line when the job is under way or refused. The socket stays open after that, and its end of file tells the role process that
//! the node is gone, however the node ended.

use std::{
    io::{self, IoSlice, IoSliceMut, Read as _, Write as _},
    os::{
        fd::{AsRawFd as _, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
    process::Stdio,
};

use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _};

use super::sys;

/// Names under which the program is one of our role processes.
pub(crate) const SANDBOX: &str = "libretto-pod";
pub(crate) const CONTAINER: &str = "libretto-container";
pub(crate) const EXEC: &str = "libretto-exec";

/// Specifications carry a pod's environment, which may hold whole ConfigMaps; an etcd object is 1.5 MiB at most.
const LONGEST_SPECIFICATION: u32 = 8 << 20;
/// Standard input, output and error.
const MOST_FDS: usize = 3;

/// A role's only answer.
#[derive(Debug, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Answer {
    /// The job is under way; `pid` is the process the job is about, as seen by the node.
    Started {
        pid: i32,
    },
    Failed {
        message: String,
    },
}

/// When this program was started as a role process, plays the role and never returns. Call first in `main`.
pub fn reexec_dispatch() {
    let Some(name) = std::env::args_os().next() else {
        return;
    };
    let role: fn(UnixStream) -> u8 = match name.to_str() {
        Some(SANDBOX) => super::sandbox::role,
        Some(CONTAINER) => super::container::role,
        Some(EXEC) => super::exec::role,
        _ => return,
    };
    let code = match sys::inherited_fd(0) {
        Ok(socket) => role(UnixStream::from(socket)),
        Err(_) => 1,
    };
    std::process::exit(i32::from(code));
}

/// A started role process, seen from the node.
#[derive(Debug)]
pub(crate) struct RoleProcess {
    pub child: tokio::process::Child,
    /// The process the job is about.
    pub pid: i32,
    /// Held open: closing it ends the role process and everything below it.
    _socket: tokio::net::UnixStream,
}

/// Starts a role process and waits for its answer.
pub(crate) async fn start<S: Serialize + Sync>(
    role: &str,
    specification: &S,
    fds: &[BorrowedFd<'_>],
    stdout: Stdio,
    stderr: Stdio,
) -> io::Result<RoleProcess> {
    let (ours, theirs) = UnixStream::pair()?;
    let numbers = fds.iter().map(|fd| fd.as_raw_fd()).collect::<Vec<_>>();
    // One byte in an empty socket buffer: cannot block.
    sendmsg::<()>(
        ours.as_raw_fd(),
        &[IoSlice::new(&[0])],
        &[ControlMessage::ScmRights(&numbers)],
        MsgFlags::empty(),
        None,
    )?;
    let mut child = tokio::process::Command::new("/proc/self/exe")
        .arg0(role)
        .env_clear()
        .stdin(OwnedFd::from(theirs))
        .stdout(stdout)
        .stderr(stderr)
        .kill_on_drop(true)
        .spawn()?;
    ours.set_nonblocking(true)?;
    let mut socket = tokio::net::UnixStream::from_std(ours)?;
    let body = serde_json::to_vec(specification)?;
    let length = u32::try_from(body.len()).map_err(io::Error::other)?;
    let mut line = String::new();
    let exchange = async {
        socket.write_all(&length.to_le_bytes()).await?;
        socket.write_all(&body).await?;
        tokio::io::BufReader::new(&mut socket)
            .read_line(&mut line)
            .await
    };
    // Mounts and netlink take milliseconds; a minute is a machine that hangs.
    let limit = std::time::Duration::from_secs(60);
    let outcome = tokio::time::timeout(limit, exchange).await;
    if let Err(error) = outcome
        .map_err(|_| io::Error::other(format!("{role} did not answer within {limit:?}")))
        .and_then(|result| result)
        && line.is_empty()
    {
        let _ = child.kill().await;
        return Err(error);
    }
    if line.is_empty() {
        let status = child.wait().await?;
        return Err(io::Error::other(format!(
            "{role} ended before it started anything ({status})"
        )));
    }
    match serde_json::from_str(&line)? {
        Answer::Started { pid } => Ok(RoleProcess {
            child,
            pid,
            _socket: socket,
        }),
        Answer::Failed { message } => {
            drop(socket);
            let _ = child.wait().await;
            Err(io::Error::other(message))
        }
    }
}

/// The role's side: its specification and descriptors.
pub(crate) fn receive<S: DeserializeOwned>(
    socket: &mut UnixStream,
) -> io::Result<(S, Vec<OwnedFd>)> {
    let mut byte = [0];
    let mut space = nix::cmsg_space!([std::os::fd::RawFd; MOST_FDS]);
    let mut fds = Vec::new();
    {
        let mut buffers = [IoSliceMut::new(&mut byte)];
        let message = recvmsg::<()>(
            socket.as_raw_fd(),
            &mut buffers,
            Some(&mut space),
            MsgFlags::MSG_CMSG_CLOEXEC,
        )?;
        for control in message.cmsgs()? {
            if let ControlMessageOwned::ScmRights(numbers) = control {
                fds.extend(numbers.into_iter().map(sys::received_fd));
            }
        }
    }
    let mut length = [0; 4];
    socket.read_exact(&mut length)?;
    let length = u32::from_le_bytes(length);
    if length > LONGEST_SPECIFICATION {
        return Err(io::Error::other(format!(
            "a specification of {length} bytes is above the limit of {LONGEST_SPECIFICATION}"
        )));
    }
    let mut body = vec![0; usize::try_from(length).expect("u32 fits in usize on Linux")];
    socket.read_exact(&mut body)?;
    Ok((serde_json::from_slice(&body)?, fds))
}

/// The role's side: its only answer.
pub(crate) fn answer(socket: &mut UnixStream, answer: &Answer) {
    let mut line = serde_json::to_vec(answer).expect("an answer is plain data");
    line.push(b'\n');
    // Fails only when the node is gone, which the caller notices on the same socket.
    let _ = socket.write_all(&line);
}
