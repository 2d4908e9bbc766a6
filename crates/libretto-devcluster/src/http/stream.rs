//! `pods/<name>/log`, `exec`, `attach` and `portforward`: HTTP and WebSockets in front of the node agent.
//!
//! WebSocket messages carry a channel number in their first byte. For exec and attach: 0 stdin, 1 stdout, 2 stderr, 3 the final
//! Status, 4 terminal sizes, and in version 5 of the protocol 255 to close a channel. For port-forward two channels per port, data and
//! error, each beginning with the port's number. SPDY, which old clients and `kubectl port-forward` speak, is refused with an explanation.

use std::{pin::Pin, time::Duration};

use axum::{
    body::Body,
    extract::{
        FromRequestParts as _, Query, Request,
        ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade, close_code},
    },
    response::Response,
};
use bytes::Bytes;
use futures::{SinkExt as _, StreamExt as _, future::BoxFuture};
use http::{StatusCode, header};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    sync::mpsc,
    task::JoinSet,
};

use super::{PodStream, PodStreams, body};
use crate::{
    error::ApiError,
    node::{ExecRequest, ExecSession, LogOptions, Node},
};

const V4: &str = "v4.channel.k8s.io";
const V5: &str = "v5.channel.k8s.io";
const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;
const CLOSE: u8 = 255;

/// Bytes per message: large enough that copying is not dominated by framing.
const PIECE: usize = 32 << 10;
/// Messages waiting for a slow client; with `PIECE` half a megabyte, then the command is slowed down.
const QUEUE: usize = 16;
/// How often a client is looked for while its input waits: a person's patience.
const PROBE: Duration = Duration::from_secs(2);
/// A command that has ended may have left a background process with its output open; it is not waited for longer.
const LAST_OUTPUT: Duration = Duration::from_secs(1);
/// Ports of one forward request; a kubelet has no limit, a person has a few.
const MOST_PORTS: usize = 64;

/// Serves the streams of the pods on a node.
pub fn pod_streams(node: Node) -> PodStreams {
    Box::new(move |request: PodStream| -> BoxFuture<'static, Response> {
        let node = node.clone();
        Box::pin(async move {
            handle(node, request)
                .await
                .unwrap_or_else(|error| body::failure(&error))
        })
    })
}

async fn handle(node: Node, stream: PodStream) -> Result<Response, ApiError> {
    let PodStream {
        namespace,
        pod,
        subresource,
        request,
    } = stream;
    let query = Parameters::of(&request)?;
    match subresource.as_str() {
        "log" => logs(&node, &namespace, &pod, &query).await,
        "exec" | "attach" => {
            let attach = subresource == "attach";
            let wanted = ExecRequest {
                container: query.text("container"),
                command: query.all("command"),
                stdin: query.flag("stdin")?,
                stdout: query.flag("stdout")?,
                // A terminal has one output stream.
                stderr: query.flag("stderr")? && !query.flag("tty")?,
                tty: query.flag("tty")?,
            };
            if !(wanted.stdin || wanted.stdout || wanted.stderr) {
                return Err(ApiError::bad_request(
                    "you must specify at least 1 of stdin, stdout, stderr",
                ));
            }
            let upgrade = upgrade(request, &[V5, V4]).await?;
            Ok(upgrade.on_upgrade(move |socket| async move {
                let session = if attach {
                    node.attach(&namespace, &pod, wanted).await
                } else {
                    node.exec(&namespace, &pod, wanted).await
                };
                converse(socket, session).await;
            }))
        }
        "portforward" => {
            let ports = query.ports()?;
            let upgrade = upgrade(request, &[V4]).await?;
            Ok(upgrade.on_upgrade(move |socket| forward(socket, node, namespace, pod, ports)))
        }
        other => Err(ApiError::new(
            404,
            "NotFound",
            format!("pods have no subresource {other:?} that streams"),
        )),
    }
}

/// Query parameters, which may repeat.
struct Parameters(Vec<(String, String)>);

impl Parameters {
    fn of(request: &Request) -> Result<Self, ApiError> {
        Query::<Vec<(String, String)>>::try_from_uri(request.uri())
            .map(|Query(pairs)| Self(pairs))
            .map_err(|error| ApiError::bad_request(format!("cannot read the query: {error}")))
    }

    fn all(&self, name: &str) -> Vec<String> {
        self.0
            .iter()
            .filter(|(known, _)| known == name)
            .map(|(_, value)| value.clone())
            .collect()
    }

    fn text(&self, name: &str) -> Option<String> {
        self.all(name)
            .into_iter()
            .next()
            .filter(|value| !value.is_empty())
    }

    fn flag(&self, name: &str) -> Result<bool, ApiError> {
        match self.text(name).as_deref() {
            None | Some("false" | "0") => Ok(false),
            Some("true" | "1") => Ok(true),
            Some(other) => Err(ApiError::bad_request(format!(
                "{name}={other:?} must be true or false"
            ))),
        }
    }

    fn number<T: std::str::FromStr>(&self, name: &str) -> Result<Option<T>, ApiError> {
        self.text(name)
            .map(|text| {
                text.parse()
                    .map_err(|_| ApiError::bad_request(format!("{name}={text:?} must be a number")))
            })
            .transpose()
    }

    fn ports(&self) -> Result<Vec<u16>, ApiError> {
        let ports = self
            .all("ports")
            .iter()
            .flat_map(|list| list.split(','))
            .filter(|port| !port.is_empty())
            .map(|port| {
                let number = port.parse::<u16>().ok().filter(|port| *port > 0);
                number.ok_or_else(|| {
                    ApiError::bad_request(format!("ports={port:?} must be a port number"))
                })
            })
            .collect::<Result<Vec<_>, _>>()?;
        if ports.len() > MOST_PORTS {
            return Err(ApiError::bad_request(format!(
                "at most {MOST_PORTS} ports can be forwarded at once"
            )));
        }
        Ok(ports)
    }
}

async fn logs(
    node: &Node,
    namespace: &str,
    pod: &str,
    query: &Parameters,
) -> Result<Response, ApiError> {
    let since_time = query
        .text("sinceTime")
        .map(|text| {
            let time = text.parse::<jiff::Timestamp>().map_err(|_| {
                ApiError::bad_request(format!("sinceTime={text:?} must be an RFC 3339 time"))
            })?;
            Ok::<_, ApiError>(jiff::Timestamp::now().duration_since(time).as_secs())
        })
        .transpose()?;
    let refused = |why: &str| {
        ApiError::new(
            422,
            "Invalid",
            format!("PodLogOptions \"\" is invalid: {why}"),
        )
    };
    if since_time.is_some() && query.text("sinceSeconds").is_some() {
        return Err(refused(
            "at most one of sinceTime or sinceSeconds may be specified",
        ));
    }
    if query.text("stream").is_some_and(|stream| stream != "All") {
        return Err(refused(
            "stream: Forbidden: this cluster keeps both streams in one log; leave it out",
        ));
    }
    let options = LogOptions {
        container: query.text("container"),
        follow: query.flag("follow")?,
        previous: query.flag("previous")?,
        timestamps: query.flag("timestamps")?,
        tail_lines: query.number("tailLines")?,
        since_seconds: query.number("sinceSeconds")?.or(since_time),
        limit_bytes: query.number("limitBytes")?,
    };
    let stream = node.logs(namespace, pod, options).await?;
    Ok(Response::builder()
        .status(StatusCode::OK)
        .header(header::CONTENT_TYPE, "text/plain")
        .body(Body::from_stream(stream))
        .expect("the status and the header are constants"))
}

/// Accepts a WebSocket with one of `protocols`, explains anything else.
async fn upgrade(
    request: Request,
    protocols: &[&'static str],
) -> Result<WebSocketUpgrade, ApiError> {
    let (mut parts, _) = request.into_parts();
    let header_text = |name: header::HeaderName| {
        parts
            .headers
            .get_all(name)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .collect::<Vec<_>>()
            .join(",")
    };
    let upgrading = header_text(header::UPGRADE);
    let offered = header_text(header::SEC_WEBSOCKET_PROTOCOL);
    let refused = |message: &str| ApiError::new(501, "NotImplemented", message);
    let spdy_forward = offered.contains("portforward.k8s.io")
        || upgrading.eq_ignore_ascii_case("spdy/3.1") && protocols == [V4];
    if spdy_forward {
        return Err(refused(
            "kubectl port-forward speaks SPDY, which this server does not; use `libretto port-forward`, or a client that speaks the WebSocket protocol v4.channel.k8s.io",
        ));
    }
    if upgrading.to_ascii_lowercase().starts_with("spdy") {
        return Err(refused(
            "this server does not speak SPDY; use a client that speaks WebSockets (kubectl 1.31 and newer do by default)",
        ));
    }
    if !offered
        .split(',')
        .any(|protocol| protocols.contains(&protocol.trim()))
    {
        return Err(ApiError::bad_request(format!(
            "a WebSocket upgrade with one of these subprotocols is required: {}",
            protocols.join(", ")
        )));
    }
    let upgrade = WebSocketUpgrade::from_request_parts(&mut parts, &())
        .await
        .map_err(|rejection| ApiError::bad_request(format!("WebSocket upgrade: {rejection}")))?;
    Ok(upgrade.protocols(protocols.iter().copied()))
}

/// Go clients take a close without a code for an accident.
fn farewell() -> Message {
    Message::Close(Some(CloseFrame {
        code: close_code::NORMAL,
        reason: "".into(),
    }))
}

fn message(channel: u8, data: &[u8]) -> Message {
    let mut frame = Vec::with_capacity(data.len() + 1);
    frame.push(channel);
    frame.extend_from_slice(data);
    Message::Binary(frame.into())
}

/// The Status of channel 3.
fn exit_status(code: i32) -> Value {
    if code == 0 {
        return json!({"metadata": {}, "status": "Success"});
    }
    json!({
        "metadata": {}, "status": "Failure", "reason": "NonZeroExitCode",
        "message": format!("command terminated with non-zero exit code: exit status {code}"),
        "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
    })
}

/// Copies between a WebSocket and a command until the command ends or the client goes.
async fn converse(socket: WebSocket, session: Result<ExecSession, ApiError>) {
    let (mut sink, mut source) = socket.split();
    let session = match session {
        Ok(session) => session,
        Err(error) => {
            let _ = sink
                .send(message(ERROR, error.status().to_string().as_bytes()))
                .await;
            let _ = sink.send(farewell()).await;
            return;
        }
    };
    let ExecSession {
        stdin,
        stdout,
        stderr,
        resize,
        mut exit,
    } = session;
    let (outgoing, mut queue) = mpsc::channel::<Message>(QUEUE);
    let sender = tokio::spawn(async move {
        while let Some(message) = queue.recv().await {
            if sink.send(message).await.is_err() {
                return;
            }
        }
        // Dropped senders mean that everything has been said.
        let _ = sink.close().await;
    });
    let mut readers = JoinSet::new();
    for (channel, reader) in [(STDOUT, stdout), (STDERR, stderr)] {
        if let Some(reader) = reader {
            readers.spawn(copy_out(channel, reader, outgoing.clone()));
        }
    }
    // A command that does not read must not keep us from seeing its end, nor the client's.
    let (input, pieces) = mpsc::channel::<Bytes>(QUEUE);
    let mut input = stdin.map(|stdin| {
        tokio::spawn(write_in(stdin, pieces));
        input
    });
    // What did not fit into the queue. While there is any, nothing more is read, so the client is held back, too.
    let mut waiting: Option<Bytes> = None;
    let mut probe = tokio::time::interval(PROBE);
    let mut closed = input.is_none();
    let code = loop {
        if closed {
            input = None;
            waiting = None;
        }
        let room = async {
            match &input {
                Some(input) => input.reserve().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            code = &mut exit => break code.ok(),
            permit = room, if waiting.is_some() => match permit {
                Ok(permit) => permit.send(waiting.take().unwrap_or_default()),
                // The command has closed its input; what is still sent is dropped.
                Err(_) => closed = true,
            },
            // Unread messages hide the client's close, so it is asked; a write to somebody gone fails and ends the sender.
            _ = probe.tick(), if waiting.is_some() => {
                let _ = outgoing.try_send(Message::Ping(Bytes::new()));
            }
            () = outgoing.closed() => break None,
            received = source.next(), if waiting.is_none() => match received {
                Some(Ok(Message::Binary(frame))) => match take_in(&frame, &resize) {
                    Some(Input::Data(data)) => waiting = (!closed).then_some(data),
                    Some(Input::End) => closed = true,
                    _ => {}
                },
                Some(Ok(Message::Close(_)) | Err(_)) | None => break None,
                Some(Ok(_)) => {}
            },
        }
    };
    if let Some(code) = code {
        let _ = tokio::time::timeout(LAST_OUTPUT, async {
            while readers.join_next().await.is_some() {}
        })
        .await;
        let _ = outgoing
            .send(message(ERROR, exit_status(code).to_string().as_bytes()))
            .await;
        let _ = outgoing.send(farewell()).await;
    }
    readers.abort_all();
    drop(outgoing);
    let _ = sender.await;
    // Dropping `exit` now tells the node that nobody waits for the command any more.
}

async fn copy_out(
    channel: u8,
    mut reader: Pin<Box<dyn AsyncRead + Send>>,
    outgoing: mpsc::Sender<Message>,
) {
    let mut buffer = vec![0; PIECE];
    while let Ok(count) = reader.read(&mut buffer).await {
        if count == 0
            || outgoing
                .send(message(channel, &buffer[..count]))
                .await
                .is_err()
        {
            return;
        }
    }
}

/// Feeds the command until the queue is closed, which ends its input, or until it reads no more.
async fn write_in(mut stdin: Pin<Box<dyn AsyncWrite + Send>>, mut pieces: mpsc::Receiver<Bytes>) {
    while let Some(data) = pieces.recv().await {
        if stdin.write_all(&data).await.is_err() || stdin.flush().await.is_err() {
            return;
        }
    }
    let _ = stdin.shutdown().await;
}

/// What a message means for the command's input.
enum Input {
    Data(Bytes),
    End,
}

/// One message of the client.
fn take_in(frame: &Bytes, resize: &mpsc::Sender<(u16, u16)>) -> Option<Input> {
    match frame.split_first() {
        Some((&STDIN, _)) => return Some(Input::Data(frame.slice(1..))),
        Some((&RESIZE, data)) => {
            let size: Value = serde_json::from_slice(data).unwrap_or_default();
            let side = |name: &str| {
                size[name]
                    .as_u64()
                    .and_then(|side| u16::try_from(side).ok())
            };
            if let (Some(columns), Some(rows)) = (side("Width"), side("Height")) {
                // Full: an older size is on its way, and the next one corrects it.
                let _ = resize.try_send((columns, rows));
            }
        }
        Some((&CLOSE, [STDIN])) => return Some(Input::End),
        _ => {}
    }
    None
}

/// Two channels per port: data and error.
async fn forward(socket: WebSocket, node: Node, namespace: String, pod: String, ports: Vec<u16>) {
    let (mut sink, mut source) = socket.split();
    let (outgoing, mut queue) = mpsc::channel::<Message>(QUEUE);
    let sender = tokio::spawn(async move {
        while let Some(message) = queue.recv().await {
            if sink.send(message).await.is_err() {
                return;
            }
        }
        let _ = sink.close().await;
    });
    let mut writers = Vec::new();
    let mut readers = JoinSet::new();
    for (index, port) in ports.iter().enumerate() {
        let data = u8::try_from(index * 2).expect("at most 64 ports");
        for channel in [data, data + 1] {
            let _ = outgoing.send(message(channel, &port.to_le_bytes())).await;
        }
        match node.port_forward(&namespace, &pod, *port).await {
            Ok(stream) => {
                let (reader, writer) = stream.into_split();
                readers.spawn(copy_out(data, Box::pin(reader), outgoing.clone()));
                writers.push(Some(writer));
            }
            Err(error) => {
                let _ = outgoing
                    .send(message(data + 1, error.message.as_bytes()))
                    .await;
                writers.push(None);
            }
        }
    }
    loop {
        tokio::select! {
            // Every pod side has closed: this version of the protocol can only say so by closing the connection.
            ended = readers.join_next() => if ended.is_none() || readers.is_empty() { break },
            received = source.next() => match received {
                Some(Ok(Message::Binary(frame))) => {
                    let Some((channel, data)) = frame.split_first() else { continue };
                    let writer = writers.get_mut(usize::from(channel / 2)).filter(|_| channel % 2 == 0);
                    if let Some(slot) = writer
                        && let Some(writer) = slot
                        && writer.write_all(data).await.is_err()
                    {
                        *slot = None;
                    }
                }
                Some(Ok(Message::Close(_)) | Err(_)) | None => break,
                Some(Ok(_)) => {}
            },
        }
    }
    readers.abort_all();
    let _ = outgoing.send(farewell()).await;
    drop(outgoing);
    let _ = sender.await;
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn parameters(query: &str) -> Parameters {
        let request = Request::builder()
            .uri(format!("/x?{query}"))
            .body(Body::empty())
            .unwrap();
        Parameters::of(&request).unwrap()
    }

    #[test]
    fn query_parameters() {
        let query = parameters(
            "command=sh&command=-c&command=echo+a%20%26&stdin=true&tty=1&ports=80,443&ports=1&tailLines=5",
        );
        assert_eq!(query.all("command"), ["sh", "-c", "echo a &"]);
        assert!(
            query.flag("stdin").unwrap()
                && query.flag("tty").unwrap()
                && !query.flag("stdout").unwrap()
        );
        assert_eq!(query.ports().unwrap(), [80, 443, 1]);
        assert_eq!(query.number::<usize>("tailLines").unwrap(), Some(5));
        for (query, expected) in [
            ("stdin=maybe", "stdin=\"maybe\" must be true or false"),
            ("ports=70000", "ports=\"70000\" must be a port number"),
        ] {
            let parameters = parameters(query);
            let error = parameters
                .flag("stdin")
                .err()
                .or_else(|| parameters.ports().err())
                .unwrap();
            assert_eq!(error.message, expected);
        }
    }

    #[tokio::test]
    async fn other_protocols_are_explained() {
        for (headers, protocols, part) in [
            (
                vec![("upgrade", "SPDY/3.1")],
                vec![V4],
                "kubectl port-forward speaks SPDY",
            ),
            (
                vec![
                    ("upgrade", "websocket"),
                    ("sec-websocket-protocol", "SPDY/3.1+portforward.k8s.io"),
                ],
                vec![V4],
                "libretto port-forward",
            ),
            (
                vec![("upgrade", "SPDY/3.1")],
                vec![V5, V4],
                "does not speak SPDY",
            ),
            (
                vec![
                    ("upgrade", "websocket"),
                    ("sec-websocket-protocol", "channel.k8s.io"),
                ],
                vec![V5, V4],
                "v5.channel.k8s.io, v4.channel.k8s.io",
            ),
        ] {
            let mut request = Request::builder().uri("/x");
            for (name, value) in headers {
                request = request.header(name, value);
            }
            let error = upgrade(request.body(Body::empty()).unwrap(), &protocols)
                .await
                .unwrap_err();
            assert!(error.message.contains(part), "{error}");
        }
    }

    #[test]
    fn exit_codes_travel_as_causes() {
        assert_eq!(exit_status(0), json!({"metadata": {}, "status": "Success"}));
        assert_eq!(
            exit_status(3)["details"]["causes"][0],
            json!({"reason": "ExitCode", "message": "3"})
        );
    }
}
