//! Startup, readiness and liveness probes and the handlers of lifecycle hooks.
//!
//! Deviation from a kubelet: before its first success a startup or readiness probe is also tried shortly after the start, at growing
//! intervals, and only successes of these extra tries count. A server that is up after 20 ms is Ready after 20 ms instead of one period
//! later. gRPC probes are refused.

use std::{net::Ipv4Addr, time::Duration};

use k8s_openapi::{
    api::core::v1::{
        Container, ExecAction, HTTPGetAction, LifecycleHandler, Probe, TCPSocketAction,
    },
    apimachinery::pkg::util::intstr::IntOrString,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{Instant, sleep_until, timeout},
};

/// Extra tries before the first success.
const EARLY: [Duration; 8] = [
    Duration::from_millis(10),
    Duration::from_millis(20),
    Duration::from_millis(40),
    Duration::from_millis(80),
    Duration::from_millis(160),
    Duration::from_millis(320),
    Duration::from_millis(640),
    Duration::from_millis(1280),
];
/// As much of a probe's output as an event shows.
const OUTPUT: usize = 1024;

/// Runs commands in the probed container: exit code and output.
pub(crate) trait Exec: Send + Sync {
    fn exec(
        &self,
        command: &[String],
        limit: Duration,
    ) -> impl Future<Output = Result<(i32, String), String>> + Send;
}

/// What a probe watches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ProbeKind {
    Startup,
    Readiness,
    Liveness,
}

impl ProbeKind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Startup => "Startup",
            Self::Readiness => "Readiness",
            Self::Liveness => "Liveness",
        }
    }
}

/// A change of opinion, or a failure worth an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The success threshold is reached.
    Healthy,
    /// One failure; the threshold is not reached.
    Failing(String),
    /// The failure threshold is reached.
    Unhealthy(String),
}

/// Counts successes and failures as a kubelet does.
#[derive(Debug)]
struct Counter {
    successes: u32,
    failures: u32,
    success_threshold: u32,
    failure_threshold: u32,
}

impl Counter {
    fn new(probe: &Probe) -> Self {
        let positive = |value: Option<i32>, default| {
            value
                .and_then(|v| u32::try_from(v).ok())
                .filter(|v| *v > 0)
                .unwrap_or(default)
        };
        Self {
            successes: 0,
            failures: 0,
            success_threshold: positive(probe.success_threshold, 1),
            failure_threshold: positive(probe.failure_threshold, 3),
        }
    }

    /// `None` while nothing is decided.
    fn count(&mut self, result: Result<(), String>) -> Option<Verdict> {
        match result {
            Ok(()) => {
                self.failures = 0;
                self.successes = self.successes.saturating_add(1);
                (self.successes == self.success_threshold).then_some(Verdict::Healthy)
            }
            Err(message) => {
                self.successes = 0;
                self.failures = self.failures.saturating_add(1);
                Some(if self.failures >= self.failure_threshold {
                    Verdict::Unhealthy(message)
                } else {
                    Verdict::Failing(message)
                })
            }
        }
    }
}

/// Probes until the returned verdict says stop (`report` returns false).
pub(crate) async fn run<E: Exec>(
    kind: ProbeKind,
    probe: &Probe,
    target: &Target<'_, E>,
    mut report: impl FnMut(Verdict) -> bool + Send,
) {
    let seconds = |value: Option<i32>, default: u64| {
        Duration::from_secs(value.and_then(|v| u64::try_from(v).ok()).unwrap_or(default))
    };
    let period = seconds(probe.period_seconds, 10).max(Duration::from_secs(1));
    let limit = seconds(probe.timeout_seconds, 1).max(Duration::from_secs(1));
    let mut counter = Counter::new(probe);
    let start = Instant::now() + seconds(probe.initial_delay_seconds, 0);
    sleep_until(start).await;
    if kind != ProbeKind::Liveness {
        for pause in EARLY {
            let result = target.check(probe, limit).await;
            if result.is_ok() {
                if let Some(verdict) = counter.count(result)
                    && !report(verdict)
                {
                    return;
                }
                break;
            }
            if start.elapsed() + pause >= period {
                break;
            }
            tokio::time::sleep(pause).await;
        }
    }
    // The extra tries took the place of the first one; the next is due a period after the start.
    let mut next = if kind == ProbeKind::Liveness {
        start
    } else {
        start + period
    };
    loop {
        sleep_until(next).await;
        let result = target.check(probe, limit).await;
        if let Some(verdict) = counter.count(result)
            && !report(verdict)
        {
            return;
        }
        next = (next + period).max(Instant::now());
    }
}

/// Where a container can be asked.
pub(crate) struct Target<'a, E> {
    pub address: Ipv4Addr,
    pub container: &'a Container,
    pub exec: &'a E,
}

impl<E: Exec> Target<'_, E> {
    async fn check(&self, probe: &Probe, limit: Duration) -> Result<(), String> {
        let checked = async {
            if let Some(action) = &probe.exec {
                self.run_command(action, limit).await
            } else if let Some(action) = &probe.http_get {
                self.get(action).await
            } else if let Some(action) = &probe.tcp_socket {
                self.connect(action).await
            } else {
                Err(
                    "gRPC probes are not supported by this node; use exec, httpGet or tcpSocket"
                        .to_owned(),
                )
            }
        };
        timeout(limit, checked)
            .await
            .unwrap_or_else(|_| Err(format!("timed out after {limit:?}")))
    }

    /// A lifecycle hook; no limit of its own.
    pub(crate) async fn handle(&self, handler: &LifecycleHandler) -> Result<(), String> {
        // The caller bounds it by the grace period; this only bounds a hook that outlives every grace period.
        let limit = Duration::from_secs(3600);
        if let Some(action) = &handler.exec {
            self.run_command(action, limit).await
        } else if let Some(action) = &handler.http_get {
            self.get(action).await
        } else if let Some(sleep) = &handler.sleep {
            tokio::time::sleep(Duration::from_secs(
                u64::try_from(sleep.seconds).unwrap_or(0),
            ))
            .await;
            Ok(())
        } else if let Some(action) = &handler.tcp_socket {
            self.connect(action).await
        } else {
            Ok(())
        }
    }

    async fn run_command(&self, action: &ExecAction, limit: Duration) -> Result<(), String> {
        let command = action.command.clone().unwrap_or_default();
        let (code, output) = self.exec.exec(&command, limit).await?;
        if code == 0 {
            Ok(())
        } else {
            let output = output.trim();
            let shown = output
                .char_indices()
                .nth(OUTPUT)
                .map_or(output, |(end, _)| &output[..end]);
            Err(format!("command exited with {code}: {shown}"))
        }
    }

    async fn connect(&self, action: &TCPSocketAction) -> Result<(), String> {
        let host = self.host(action.host.as_deref());
        let port = self.port(&action.port)?;
        TcpStream::connect((host.as_str(), port))
            .await
            .map(drop)
            .map_err(|error| format!("dial tcp {host}:{port}: {error}"))
    }

    async fn get(&self, action: &HTTPGetAction) -> Result<(), String> {
        let host = self.host(action.host.as_deref());
        let port = self.port(&action.port)?;
        let path = action
            .path
            .as_deref()
            .filter(|path| !path.is_empty())
            .unwrap_or("/");
        let slash = if path.starts_with('/') { "" } else { "/" };
        let mut headers = String::new();
        let mut host_header = format!("{host}:{port}");
        for header in action.http_headers.iter().flatten() {
            if header.name.eq_ignore_ascii_case("host") {
                host_header.clone_from(&header.value);
            } else {
                headers.push_str(&format!("{}: {}\r\n", header.name, header.value));
            }
        }
        let request = format!(
            "GET {slash}{path} HTTP/1.1\r\nHost: {host_header}\r\nUser-Agent: kube-probe/1.37\r\nAccept: */*\r\nConnection: close\r\n{headers}\r\n"
        );
        let failed =
            |error: std::io::Error| format!("Get \"http://{host}:{port}{slash}{path}\": {error}");
        let stream = TcpStream::connect((host.as_str(), port))
            .await
            .map_err(failed)?;
        let head = if action.scheme.as_deref() == Some("HTTPS") {
            let stream = super::insecure_tls::connect(stream).await.map_err(failed)?;
            exchange(stream, &request).await.map_err(failed)?
        } else {
            exchange(stream, &request).await.map_err(failed)?
        };
        let code = head
            .strip_prefix("HTTP/1.")
            .and_then(|rest| rest.get(2..5)?.parse::<u16>().ok())
            .ok_or_else(|| {
                format!(
                    "Get \"http://{host}:{port}{slash}{path}\": malformed HTTP response {head:?}"
                )
            })?;
        if (200..400).contains(&code) {
            Ok(())
        } else {
            Err(format!("HTTP probe failed with statuscode: {code}"))
        }
    }

    fn host(&self, given: Option<&str>) -> String {
        given
            .filter(|host| !host.is_empty())
            .map_or_else(|| self.address.to_string(), str::to_owned)
    }

    fn port(&self, port: &IntOrString) -> Result<u16, String> {
        let number = match port {
            IntOrString::Int(number) => Some(*number),
            IntOrString::String(name) => self
                .container
                .ports
                .iter()
                .flatten()
                .find(|port| port.name.as_deref() == Some(name))
                .map(|port| port.container_port)
                .or_else(|| name.parse().ok()),
        };
        number
            .and_then(|number| u16::try_from(number).ok())
            .filter(|number| *number > 0)
            .ok_or_else(|| format!("the container has no port {port:?}"))
    }
}

/// Sends a request and returns the status line.
async fn exchange(
    mut stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    request: &str,
) -> std::io::Result<String> {
    stream.write_all(request.as_bytes()).await?;
    let mut head = Vec::new();
    // A status line longer than this is not one.
    let mut buffer = [0; 256];
    while head.len() < 1024 && !head.contains(&b'\n') {
        let count = stream.read(&mut buffer).await?;
        if count == 0 {
            break;
        }
        head.extend_from_slice(&buffer[..count]);
    }
    if head.is_empty() {
        return Err(std::io::Error::other("EOF"));
    }
    let line = head.split(|byte| *byte == b'\n').next().unwrap_or(&head);
    Ok(String::from_utf8_lossy(line).trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    struct Script(parking_lot::Mutex<Vec<i32>>);

    impl Exec for Script {
        async fn exec(&self, _: &[String], _: Duration) -> Result<(i32, String), String> {
            let mut codes = self.0.lock();
            Ok((
                if codes.len() > 1 {
                    codes.remove(0)
                } else {
                    codes[0]
                },
                "text".into(),
            ))
        }
    }

    async fn verdicts(
        kind: ProbeKind,
        codes: &[i32],
        probe: serde_json::Value,
        stop_after: usize,
    ) -> (Vec<Verdict>, Duration) {
        let probe: Probe = serde_json::from_value(probe).unwrap();
        let container = Container::default();
        let exec = Script(parking_lot::Mutex::new(codes.to_vec()));
        let target = Target {
            address: Ipv4Addr::LOCALHOST,
            container: &container,
            exec: &exec,
        };
        let mut seen = Vec::new();
        let start = Instant::now();
        run(kind, &probe, &target, |verdict| {
            seen.push(verdict);
            seen.len() < stop_after
        })
        .await;
        (seen, start.elapsed())
    }

    fn failing() -> Verdict {
        Verdict::Failing("command exited with 1: text".into())
    }

    fn unhealthy() -> Verdict {
        Verdict::Unhealthy("command exited with 1: text".into())
    }

    #[tokio::test(start_paused = true)]
    async fn readiness_is_noticed_early_and_failures_count_by_period() {
        let exec = serde_json::json!({"exec": {"command": ["x"]}, "periodSeconds": 10, "failureThreshold": 2});
        let (seen, time) = verdicts(ProbeKind::Readiness, &[1, 1, 0], exec.clone(), 1).await;
        assert_eq!(seen, [Verdict::Healthy]);
        assert!(time < Duration::from_millis(50), "{time:?}");
        let (seen, time) = verdicts(ProbeKind::Readiness, &[0, 1, 1, 1, 0], exec, 5).await;
        assert_eq!(
            seen,
            [
                Verdict::Healthy,
                failing(),
                unhealthy(),
                unhealthy(),
                Verdict::Healthy
            ]
        );
        assert_eq!(time.as_secs(), 40);
    }

    #[tokio::test(start_paused = true)]
    async fn liveness_waits_for_its_delay_and_its_threshold() {
        let exec = serde_json::json!({"exec": {"command": ["x"]}, "periodSeconds": 5, "initialDelaySeconds": 7, "failureThreshold": 3});
        let (seen, time) = verdicts(ProbeKind::Liveness, &[1], exec, 3).await;
        assert_eq!(seen, [failing(), failing(), unhealthy()]);
        assert_eq!(time.as_secs(), 7 + 10);
    }

    #[tokio::test]
    async fn http_and_tcp() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            for status in ["200 OK", "302 Found", "503 No"] {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = [0; 1024];
                let count = stream.read(&mut request).await.unwrap();
                assert!(request[..count].starts_with(b"GET /ready HTTP/1.1\r\nHost: "));
                stream
                    .write_all(format!("HTTP/1.1 {status}\r\n\r\n").as_bytes())
                    .await
                    .unwrap();
            }
        });
        let container: Container = serde_json::from_value(
            serde_json::json!({"name": "c", "ports": [{"name": "web", "containerPort": port}]}),
        )
        .unwrap();
        let exec = Script(parking_lot::Mutex::new(vec![0]));
        let target = Target {
            address: Ipv4Addr::LOCALHOST,
            container: &container,
            exec: &exec,
        };
        let http: Probe = serde_json::from_value(
            serde_json::json!({"httpGet": {"path": "/ready", "port": "web"}}),
        )
        .unwrap();
        let limit = Duration::from_secs(5);
        assert_eq!(target.check(&http, limit).await, Ok(()));
        assert_eq!(target.check(&http, limit).await, Ok(()));
        assert_eq!(
            target.check(&http, limit).await,
            Err("HTTP probe failed with statuscode: 503".into())
        );
        let wrong: Probe =
            serde_json::from_value(serde_json::json!({"tcpSocket": {"port": "nothing"}})).unwrap();
        assert!(
            target
                .check(&wrong, limit)
                .await
                .unwrap_err()
                .contains("has no port")
        );
    }
}
