//! What people ask of a running pod: logs, exec, attach, port-forward.

use std::{io, os::fd::OwnedFd, pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Pod;
use nix::{fcntl::OFlag, unistd::pipe2};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{
        TcpStream,
        unix::pipe::{Receiver, Sender},
    },
    sync::{broadcast, mpsc, oneshot},
};
use tokio_stream::wrappers::BroadcastStream;
use tokio_util::io::StreamReader;

use super::{
    ExecRequest, ExecSession, LogOptions, LogStream,
    container::Streams,
    exec::{Exec, ExecSpec},
    kubelet::Inner,
    lifecycle, logs,
    logs::Stream,
    pod::{Live, PodContext},
    process, terminal,
};
use crate::error::ApiError;

/// A pod on the same machine answers or refuses at once.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// Resizes come from a person's window; a few may pile up while the command starts.
const RESIZES: usize = 8;

type Input = Pin<Box<dyn AsyncWrite + Send>>;
type Output = Pin<Box<dyn AsyncRead + Send>>;

fn find(node: &Inner, namespace: &str, name: &str) -> Result<Arc<PodContext>, ApiError> {
    node.pod(namespace, name)
        .ok_or_else(|| ApiError::not_found("pods", name))
}

/// The named container, or the one that is meant when none is named.
fn choose(pod: &Pod, named: Option<&str>) -> Result<String, ApiError> {
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let spec = pod
        .spec
        .as_ref()
        .ok_or_else(|| ApiError::bad_request("the pod has no spec"))?;
    let init = spec.init_containers.iter().flatten();
    let all = spec
        .containers
        .iter()
        .chain(init)
        .map(|container| container.name.clone())
        .collect::<Vec<_>>();
    if let Some(named) = named.filter(|named| !named.is_empty()) {
        return if all.iter().any(|container| container == named) {
            Ok(named.to_owned())
        } else {
            Err(ApiError::bad_request(format!(
                "container {named} is not valid for pod {name}"
            )))
        };
    }
    // Which of several is meant, such as by an annotation, is for the client to say; init containers are only meant by name.
    let names: Vec<&str> = spec
        .containers
        .iter()
        .map(|container| container.name.as_str())
        .collect();
    match names[..] {
        [only] => Ok(only.to_owned()),
        _ => Err(ApiError::bad_request(format!(
            "a container name must be specified for pod {name}, choose one of: [{}]",
            names.join(" ")
        ))),
    }
}

fn live(pod: &PodContext, container: &str) -> Result<Live, ApiError> {
    pod.live.lock().get(container).cloned().ok_or_else(|| {
        ApiError::bad_request(format!(
            "container {container:?} of pod {:?} is not running; see the pod's events",
            pod.name
        ))
    })
}

fn internal(what: &str, error: &io::Error) -> ApiError {
    ApiError::new(500, "InternalError", format!("{what}: {error}"))
}

pub(crate) fn logs(
    node: &Inner,
    namespace: &str,
    name: &str,
    options: &LogOptions,
) -> Result<LogStream, ApiError> {
    let pod = find(node, namespace, name)?;
    let container = choose(&pod.object(), options.container.as_deref())?;
    let live = pod.live.lock().get(&container).cloned();
    let restarts = pod.with(&container, |model| model.restarts);
    let number = if options.previous {
        restarts - 1
    } else {
        restarts
    };
    let directory = pod.directory.join("containers").join(&container);
    let path = lifecycle::log_path(&directory, number);
    if !path.exists() {
        let what = if options.previous {
            format!("previous terminated container {container:?} in pod {name:?} not found")
        } else {
            format!("container {container:?} in pod {name:?} is waiting to start")
        };
        return Err(ApiError::bad_request(what));
    }
    let writing = live.map(|live| live.log).filter(|log| log.path() == path);
    logs::read(&path, writing.as_ref(), options)
        .map_err(|error| internal("reading the log", &error))
}

pub(crate) async fn exec(
    node: &Inner,
    namespace: &str,
    name: &str,
    request: &ExecRequest,
) -> Result<ExecSession, ApiError> {
    let pod = find(node, namespace, name)?;
    let container = choose(&pod.object(), request.container.as_deref())?;
    let live = live(&pod, &container)?;
    if request.command.is_empty() {
        return Err(ApiError::bad_request(
            "you must specify at least one command for the container",
        ));
    }
    let mut env = live.spec.env.clone();
    if request.tty && !env.iter().any(|(name, _)| name == "TERM") {
        env.push(("TERM".to_owned(), "xterm".to_owned()));
    }
    let spec = ExecSpec {
        container_pid: live.pid,
        argv: process::substitute_words(&live.spec, &request.command),
        env,
        working_dir: live.spec.working_dir.clone(),
        identity: live.spec.identity.clone(),
        isolated: live.spec.isolation.is_some(),
    };
    let inside = live.spec.isolation.is_some().then_some(live.pid);
    let prepared =
        prepare(request, inside).map_err(|error| internal("preparing the streams", &error))?;
    let mut process = Exec::start(&spec, prepared.streams)
        .await
        .map_err(|error| internal("error executing command in container", &error))?;
    let (resize, mut sizes) = mpsc::channel::<(u16, u16)>(RESIZES);
    let (report, exit) = oneshot::channel();
    let terminal = prepared.terminal;
    tokio::spawn(async move {
        let mut report = report;
        let code = loop {
            tokio::select! {
                code = process.wait() => break code,
                // The client is gone: a command nobody reads is stopped, as closing a terminal stops it.
                () = report.closed() => {
                    process.kill();
                    break process.wait().await;
                }
                Some((columns, rows)) = sizes.recv() => {
                    if let Some(terminal) = &terminal {
                        let _ = terminal.resize(columns, rows);
                    }
                }
            }
        };
        let _ = report.send(code);
    });
    Ok(ExecSession {
        stdin: prepared.stdin,
        stdout: prepared.stdout,
        stderr: prepared.stderr,
        resize,
        exit,
    })
}

/// Both sides of a command's streams.
struct Prepared {
    streams: Streams,
    stdin: Option<Input>,
    stdout: Option<Output>,
    stderr: Option<Output>,
    terminal: Option<terminal::Terminal>,
}

/// `container` is the process whose `/dev/pts` a terminal is taken from; absent without namespaces.
fn prepare(request: &ExecRequest, container: Option<i32>) -> io::Result<Prepared> {
    if request.tty {
        let (master, slave) = match container {
            Some(pid) => terminal::open_in(pid)?,
            None => terminal::open()?,
        };
        let terminal = terminal::reader(master)?;
        return Ok(Prepared {
            streams: Streams {
                stdin: Some(slave.try_clone()?),
                stdout: slave.try_clone()?,
                stderr: slave,
                tty: true,
            },
            stdin: request.stdin.then(|| Box::pin(terminal.clone()) as Input),
            stdout: Some(Box::pin(terminal.clone())),
            stderr: None,
            terminal: Some(terminal),
        });
    }
    let output = |wanted: bool| -> io::Result<(OwnedFd, Option<Output>)> {
        if !wanted {
            let null = std::fs::File::options().write(true).open("/dev/null")?;
            return Ok((null.into(), None));
        }
        let (read, write) = pipe2(OFlag::O_CLOEXEC)?;
        Ok((write, Some(Box::pin(Receiver::from_owned_fd(read)?))))
    };
    let (stdout_fd, stdout) = output(request.stdout)?;
    let (stderr_fd, stderr) = output(request.stderr)?;
    let (stdin_fd, stdin) = if request.stdin {
        let (read, write) = pipe2(OFlag::O_CLOEXEC)?;
        (
            Some(read),
            Some(Box::pin(Sender::from_owned_fd(write)?) as Input),
        )
    } else {
        (None, None)
    };
    Ok(Prepared {
        streams: Streams {
            stdin: stdin_fd,
            stdout: stdout_fd,
            stderr: stderr_fd,
            tty: false,
        },
        stdin,
        stdout,
        stderr,
        terminal: None,
    })
}

pub(crate) fn attach(
    node: &Inner,
    namespace: &str,
    name: &str,
    request: &ExecRequest,
) -> Result<ExecSession, ApiError> {
    let pod = find(node, namespace, name)?;
    let container = choose(&pod.object(), request.container.as_deref())?;
    let live = live(&pod, &container)?;
    if request.stdin && live.stdin.is_none() {
        return Err(ApiError::bad_request(format!(
            "container {container:?} of pod {name:?} has no standard input to attach to (stdin: true, without tty, is needed); attach for output only, or use exec"
        )));
    }
    let output =
        |wanted: bool, which: Stream| wanted.then(|| attached(live.log.subscribe(), which));
    let (resize, _) = mpsc::channel(RESIZES);
    let (report, exit) = oneshot::channel();
    let (stdout, stderr) = (
        output(request.stdout, Stream::Stdout),
        output(request.stderr, Stream::Stderr),
    );
    let context = pod;
    let attached_to = live.pid;
    tokio::spawn(async move {
        // The container's end is the end of the attachment, with its exit code.
        loop {
            let running = context
                .live
                .lock()
                .get(&container)
                .is_some_and(|live| live.pid == attached_to);
            if !running || report.is_closed() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let code = context.with(&container, |model| match &model.state {
            super::status::State::Terminated(end) => end.code,
            _ => model.last.as_ref().map_or(0, |last| last.code),
        });
        let _ = report.send(code);
    });
    let stdin = live.stdin.filter(|_| request.stdin).map(|stdin| {
        let (ours, theirs) = tokio::io::duplex(16 << 10);
        tokio::spawn(async move {
            let mut ours = ours;
            let mut stdin = stdin.lock().await;
            // Ends with the client; the container keeps its input open, as with `stdinOnce: false`.
            let _ = tokio::io::copy(&mut ours, &mut *stdin).await;
        });
        Box::pin(theirs) as Input
    });
    Ok(ExecSession {
        stdin,
        stdout,
        stderr,
        resize,
        exit,
    })
}

/// One stream of a container's output as a reader; what a slow client misses is left out, as with a real attach.
fn attached(receiver: broadcast::Receiver<(Stream, Bytes)>, which: Stream) -> Output {
    let pieces = BroadcastStream::new(receiver).filter_map(move |piece| async move {
        let (from, bytes) = piece.ok()?;
        (from == which).then_some(Ok::<_, io::Error>(bytes))
    });
    Box::pin(StreamReader::new(Box::pin(pieces)))
}

pub(crate) async fn port_forward(
    node: &Inner,
    namespace: &str,
    name: &str,
    port: u16,
) -> Result<TcpStream, ApiError> {
    let pod = find(node, namespace, name)?;
    let address = pod.address().ok_or_else(|| {
        ApiError::bad_request(format!(
            "pod {name:?} is not running: it has no address yet"
        ))
    })?;
    let failed = |error: io::Error| {
        ApiError::new(
            500,
            "InternalError",
            format!("connecting to port {port} of pod {name:?} ({address}): {error}"),
        )
    };
    tokio::time::timeout(CONNECT_LIMIT, TcpStream::connect((address, port)))
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
        .map_err(failed)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    #[test]
    fn only_containers_are_meant_without_a_name() {
        for (containers, init, named, expected) in [
            (
                json!([{"name": "a"}]),
                json!([{"name": "i"}]),
                None,
                Ok("a"),
            ),
            (
                json!([{"name": "a"}]),
                json!([{"name": "i"}]),
                Some("i"),
                Ok("i"),
            ),
            (
                json!([{"name": "a"}, {"name": "b"}]),
                json!([]),
                None,
                Err("choose one of: [a b]"),
            ),
            (
                json!([{"name": "a"}]),
                json!([]),
                Some("x"),
                Err("container x is not valid for pod p"),
            ),
        ] {
            let pod: Pod = serde_json::from_value(json!({
                "metadata": {"name": "p", "annotations": {"kubectl.kubernetes.io/default-container": "b"}},
                "spec": {"containers": containers, "initContainers": init},
            }))
            .unwrap();
            match (choose(&pod, named), expected) {
                (Ok(found), Ok(expected)) => assert_eq!(found, expected),
                (Err(error), Err(part)) => assert!(error.message.contains(part), "{error}"),
                (found, expected) => panic!("{found:?} instead of {expected:?}"),
            }
        }
    }
}
