//! Asks each target of a package's probes once, through the API server's port-forward: an address of a pod means that pod only inside the
//! cluster; from here it may be nobody's, or a stranger's, who would be told the password.

use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Pod;
use kube::api::Api;
use libretto_actions::{Actions, Reach};
use libretto_api::{
    intent::{HttpCall, Probe, RedisCall},
    object::{Gvk, InstanceRef},
    secret::{MARK, redact},
};
use libretto_engine::ProbeTarget;
use serde_json::Value;
use tokio::{net::TcpListener, task::JoinHandle};

use super::{Look, broken, list};
use crate::{
    cli::{CliError, connect::Cluster, pods, port_forward::target_port},
    runtime::sensitive_fields,
    secrets::KubeSecrets,
};

/// Targets asked at once: each is a connection through the API server.
const AT_ONCE: usize = 8;
/// Least time for an answer: a package's own timeouts are for a network without a detour over the API server.
const PATIENCE_MS: u64 = 5_000;
/// Longest time until the API server has opened a way.
const OPENING: Duration = Duration::from_secs(10);
/// How long to wait for the reason why a way was closed.
const REASON: Duration = Duration::from_secs(1);

/// A target, and what came of asking it.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) table: String,
    pub(crate) key: String,
    pub(crate) answer: Answer,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    Answered,
    /// It was reached, or its pod was, and gave no answer.
    Missed(String),
    /// It could not be asked from here, which says nothing about it.
    NotFromHere(String),
}

/// Asks until no answer leads to another target. `known` are the handles of the instance that have a value in the cluster.
pub(super) async fn ask(
    look: &mut Look,
    cluster: &Cluster,
    known: &BTreeSet<String>,
) -> Result<(), CliError> {
    let secrets = KubeSecrets::new(
        cluster.kube.clone(),
        sensitive_fields(std::slice::from_ref(&look.package)),
    );
    // Only the near ends of ways through the API server are asked.
    let reach = Reach {
        loopback: true,
        denied: Vec::new(),
        allowed: None,
    };
    let actions = Actions::new(
        cluster.kube.clone(),
        Arc::new(secrets),
        std::collections::HashMap::new(),
        reach,
    );
    let mut seen: BTreeSet<(String, String)> = BTreeSet::new();
    let mut ways = None;
    // Targets of a probe may follow from answers of another, which follow from another: at most as often as there are probes.
    for _ in 0..=look.package.schema().probes.len() {
        let plan = look.plan()?;
        let targets: Vec<ProbeTarget> = plan
            .probes
            .into_iter()
            .filter(|target| seen.insert((target.table.clone(), target.key.clone())))
            .collect();
        if targets.is_empty() {
            break;
        }
        if ways.is_none() {
            ways = Some(Ways::find(cluster, &look.instance).await?);
        }
        let ways = ways.as_ref().expect("found above");
        let (actions, instance) = (&actions, &look.instance);
        let answers: Vec<(ProbeTarget, Result<Value, Answer>)> =
            futures::stream::iter(targets.into_iter().map(|target| async move {
                let answer = if of_the_file(&target.probe, known) {
                    Err(Answer::NotFromHere(
                        "it needs a secret that is in the file only".to_owned(),
                    ))
                } else {
                    ways.ask(actions, instance, &target).await
                };
                (target, answer)
            }))
            .buffered(AT_ONCE)
            .collect()
            .await;
        for (target, answer) in answers {
            let result = match &answer {
                Ok(value) => Some(Ok(value)),
                Err(Answer::Missed(why)) => Some(Err(why.as_str())),
                Err(_) => None,
            };
            if let Some(result) = result {
                look.mirror
                    .probe_result(
                        &look.instance.package,
                        &look.instance.uid,
                        &target.table,
                        &target.key,
                        result,
                        look.now,
                    )
                    .map_err(broken)?;
            }
            look.asked.push(Asked {
                table: target.table,
                key: target.key,
                answer: answer.err().unwrap_or(Answer::Answered),
            });
        }
    }
    Ok(())
}

/// The question holds a value of the instance that no instance in the cluster has.
fn of_the_file(probe: &Probe, known: &BTreeSet<String>) -> bool {
    let question = serde_json::to_value(probe).expect("probes are plain data");
    let mut found = false;
    let mut values = vec![&question];
    while let Some(value) = values.pop() {
        match value {
            Value::String(text) => {
                found |= text
                    .split(MARK)
                    .filter(|part| part.starts_with("secret:field:"))
                    .any(|part| !known.iter().any(|handle| handle.contains(part)));
            }
            Value::Array(items) => values.extend(items),
            Value::Object(map) => values.extend(map.values()),
            _ => {}
        }
    }
    found
}

/// Who is at which address.
struct Ways {
    api: Api<Pod>,
    pods: Vec<Value>,
    services: Vec<Value>,
}

impl Ways {
    async fn find(cluster: &Cluster, instance: &InstanceRef) -> Result<Self, CliError> {
        let namespace = Some(instance.namespace.as_str());
        let all = async |kind: &str| {
            list(cluster, &Gvk::new("", "v1", kind), namespace, "")
                .await
                .map(|(objects, _)| objects)
                .map_err(|error| CliError::call(&format!("list {kind}"), &error))
        };
        Ok(Self {
            api: Api::namespaced(cluster.kube.client().clone(), &instance.namespace),
            pods: all("Pod").await?,
            services: all("Service").await?,
        })
    }

    async fn ask(
        &self,
        actions: &Actions,
        instance: &InstanceRef,
        target: &ProbeTarget,
    ) -> Result<Value, Answer> {
        let (host, port) = address(&target.probe).map_err(Answer::NotFromHere)?;
        let there = format!("{host}:{port}");
        let (pod, port) = self.pod(&host, port).ok_or_else(|| {
            Answer::NotFromHere(format!(
                "{there} is the address of no pod or service in the instance's namespace"
            ))
        })?;
        let (near, reason) = open(&self.api, &pod, port).await.map_err(|why| match why {
            Closed::ToUs(why) => Answer::NotFromHere(format!("pod {pod}: {why}")),
            Closed::ToAll(why) => Answer::Missed(format!("pod {pod}: {why}")),
        })?;
        let probe = turned(&target.probe, near);
        let timeout = Duration::from_millis(target.timeout_ms.max(2 * PATIENCE_MS));
        let answer = tokio::time::timeout(timeout, actions.probe(instance, &probe)).await;
        let missed = match answer {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(failure)) => failure.message.replace(&near.to_string(), &there),
            Err(_elapsed) => format!("{there}: no answer within {} ms", timeout.as_millis()),
        };
        // What the far end said is nearer to the truth than that the near end was closed.
        let said = tokio::time::timeout(REASON, reason).await;
        Err(Answer::Missed(match said {
            Ok(Ok(Some(why))) => redact(&format!("pod {pod} port {port}: {}", why.trim())),
            _ => missed,
        }))
    }

    /// The pod at an address, or behind the service that is there.
    fn pod(&self, host: &str, port: u16) -> Option<(String, u16)> {
        let at = |pod: &&Value| pod["status"]["podIP"] == host;
        if let Some(pod) = self.pods.iter().find(at) {
            return Some((pods::name(pod).to_owned(), port));
        }
        let service = self.services.iter().find(|service| {
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let name = text(&service["metadata"]["name"]);
            let full = format!("{name}.{}", text(&service["metadata"]["namespace"]));
            service["spec"]["clusterIP"] == host
                || host == name
                || host == full
                || host
                    .strip_prefix(&full)
                    .is_some_and(|rest| rest.starts_with(".svc"))
        })?;
        let selector = service["spec"]["selector"].as_object()?;
        let behind: Vec<&Value> = self
            .pods
            .iter()
            .filter(|pod| {
                let labels = &pod["metadata"]["labels"];
                selector.iter().all(|(key, value)| labels[key] == *value)
            })
            .collect();
        let pod = pods::choose(&behind)?;
        let port = target_port(service, pod, port).ok()?;
        Some((pods::name(pod).to_owned(), port))
    }
}

/// Host and port of a question; why it cannot be asked through a port-forward.
fn address(probe: &Probe) -> Result<(String, u16), String> {
    match probe {
        Probe::Redis(RedisCall { host, port, .. }) | Probe::Tcp { host, port, .. } => {
            Ok((host.clone(), *port))
        }
        // A question to us, anything at all to the container.
        Probe::Exec(_) => Err("commands are not run from here".to_owned()),
        Probe::Dns { name, .. } => Err(format!("{name}: names are not resolved from here")),
        Probe::Http(HttpCall { url, .. })
        | Probe::Prometheus {
            page: HttpCall { url, .. },
            ..
        } => {
            let (authority, _) = authority(url)
                .ok_or_else(|| format!("{}: only http:// is asked from here", redact(url)))?;
            let uri: http::uri::Authority = authority
                .parse()
                .map_err(|_error| format!("{} is not a URL", redact(url)))?;
            let host = uri.host().trim_matches(['[', ']']).to_owned();
            Ok((host, uri.port_u16().unwrap_or(80)))
        }
    }
}

/// Host and port as written in a URL, and what follows.
fn authority(url: &str) -> Option<(&str, &str)> {
    let rest = url.strip_prefix("http://")?;
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    Some(rest.split_at(end))
}

/// The same question to the near end of a way.
fn turned(probe: &Probe, near: SocketAddr) -> Probe {
    let patient = |timeout: u64| timeout.max(PATIENCE_MS);
    let (host, port) = (near.ip().to_string(), near.port());
    match probe {
        Probe::Redis(call) => Probe::Redis(RedisCall {
            host,
            port,
            timeout_ms: patient(call.timeout_ms),
            ..call.clone()
        }),
        Probe::Tcp { timeout_ms, .. } => Probe::Tcp {
            host,
            port,
            timeout_ms: patient(*timeout_ms),
        },
        Probe::Http(call) => Probe::Http(turned_page(call, near)),
        Probe::Prometheus { page, read } => Probe::Prometheus {
            page: turned_page(page, near),
            read: read.clone(),
        },
        // Not asked, see `address`.
        Probe::Exec(_) | Probe::Dns { .. } => probe.clone(),
    }
}

fn turned_page(call: &HttpCall, near: SocketAddr) -> HttpCall {
    let rest = authority(&call.url).map_or("", |(_, rest)| rest);
    HttpCall {
        url: format!("http://{near}{rest}"),
        timeout_ms: call.timeout_ms.max(PATIENCE_MS),
        ..call.clone()
    }
}

/// Why there is no way to a pod.
enum Closed {
    /// The API server does not open one for us.
    ToUs(String),
    /// The pod cannot be reached by anybody.
    ToAll(String),
}

/// A way to a pod's port for one connection: its near end, and, once it is closed, what the far end said against it.
async fn open(
    api: &Api<Pod>,
    pod: &str,
    port: u16,
) -> Result<(SocketAddr, JoinHandle<Option<String>>), Closed> {
    let ours = |error: &dyn std::fmt::Display| Closed::ToUs(format!("port-forward: {error}"));
    let forwarding = tokio::time::timeout(OPENING, api.portforward(pod, &[port])).await;
    let mut forwarder = match forwarding {
        Ok(Ok(forwarder)) => forwarder,
        Ok(Err(kube::Error::Api(status))) if matches!(status.code, 400 | 409 | 500) => {
            return Err(Closed::ToAll(status.message));
        }
        Ok(Err(error)) => return Err(ours(&error)),
        Err(_elapsed) => return Err(ours(&"the API server does not open one")),
    };
    let mut remote = forwarder
        .take_stream(port)
        .ok_or_else(|| ours(&"no stream"))?;
    let refused = forwarder.take_error(port);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .await
        .map_err(|error| ours(&error))?;
    let near = listener.local_addr().map_err(|error| ours(&error))?;
    let reason = tokio::spawn(async move {
        if let Ok((mut stream, _)) = listener.accept().await {
            // Either side may end the connection; that is no error.
            let _ = tokio::io::copy_bidirectional(&mut stream, &mut remote).await;
        }
        drop(remote);
        let reason = match refused {
            Some(refused) => refused.await,
            None => None,
        };
        drop(forwarder);
        reason
    });
    Ok((near, reason))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    fn http_probe(url: &str) -> Probe {
        Probe::Http(HttpCall {
            method: "GET".into(),
            url: url.into(),
            headers: Vec::new(),
            body: None,
            ok: Vec::new(),
            timeout_ms: 10,
        })
    }

    #[test]
    fn questions_are_turned_to_the_near_end() {
        let near: SocketAddr = "127.0.0.1:9".parse().unwrap();
        assert_eq!(
            address(&http_probe("http://10.0.0.1:8080/v1?x=1")).unwrap(),
            ("10.0.0.1".to_owned(), 8080)
        );
        assert!(address(&http_probe("https://10.0.0.1/")).is_err());
        let Probe::Http(call) = turned(&http_probe("http://10.0.0.1:8080/v1?x=1"), near) else {
            panic!("it stays one of HTTP");
        };
        assert_eq!(call.url, "http://127.0.0.1:9/v1?x=1");
        assert_eq!(call.timeout_ms, PATIENCE_MS);
    }

    #[test]
    fn a_secret_of_a_file_is_not_asked_for() {
        let handle = "\u{1}secret:field:password:d1\u{1}";
        let probe = http_probe(&format!("http://h/{handle}"));
        assert!(of_the_file(&probe, &BTreeSet::new()));
        assert!(!of_the_file(&probe, &BTreeSet::from([handle.to_owned()])));
        assert!(!of_the_file(&http_probe("http://h/"), &BTreeSet::new()));
    }

    #[tokio::test]
    async fn addresses_lead_to_pods() {
        let pod = json!({"metadata": {"name": "p", "labels": {"a": "b"}}, "status": {"podIP": "10.0.0.1", "conditions": [{"type": "Ready", "status": "True"}]}});
        let service = json!({"metadata": {"name": "s", "namespace": "n"}, "spec": {"clusterIP": "10.1.0.1", "selector": {"a": "b"}, "ports": [{"port": 80, "targetPort": 8080}]}});
        let client =
            kube::Client::try_from(kube::Config::new("http://127.0.0.1:1".parse().unwrap()))
                .unwrap();
        let ways = Ways {
            api: Api::namespaced(client, "n"),
            pods: vec![pod],
            services: vec![service],
        };
        assert_eq!(ways.pod("10.0.0.1", 6379), Some(("p".to_owned(), 6379)));
        for host in ["10.1.0.1", "s", "s.n", "s.n.svc.cluster.local"] {
            assert_eq!(ways.pod(host, 80), Some(("p".to_owned(), 8080)), "{host}");
        }
        assert_eq!(ways.pod("10.0.0.2", 80), None);
    }
}
