//! `libretto port-forward`: makes a port of a pod reachable on this machine.

use std::net::Ipv4Addr;

use clap::Args;
use k8s_openapi::api::core::v1::Pod;
use kube::api::Api;
use serde_json::Value;
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

use crate::cli::{
    CliError,
    connect::{Cluster, ClusterArgs, NamespaceArgs},
    kinds, pods,
    print::Printer,
};

const EXAMPLES: &str = "\
Examples:
  libretto port-forward redis-cluster-test-0 6379
  libretto port-forward svc/redis-master-test 7000:6379
  libretto port-forward redis-cluster-test-0 0:6379      # a free local port";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct PortForwardArgs {
    /// POD, or KIND/NAME of what selects pods
    pub pod: String,

    /// PORT or LOCAL:PORT; local 0 takes a free one
    #[arg(required = true, value_name = "[LOCAL:]PORT", value_parser = ports)]
    pub ports: Vec<(u16, u16)>,

    #[command(flatten)]
    pub namespace: NamespaceArgs,
    #[command(flatten)]
    pub cluster: ClusterArgs,
}

pub(crate) async fn port_forward(args: PortForwardArgs, out: &mut Printer) -> Result<(), CliError> {
    let cluster = Cluster::connect(&args.cluster, args.namespace.namespace.as_deref()).await?;
    let pod = pods::find(&cluster, &args.pod).await?;
    let service = service(&cluster, &args.pod).await?;
    let name = pods::name(&pod).to_owned();
    let api: Api<Pod> = Api::namespaced(cluster.kube.client().clone(), &cluster.namespace);
    let mut listeners = JoinSet::new();
    for (local, asked) in args.ports {
        let remote = match &service {
            None => asked,
            Some(service) => target_port(service, &pod, asked)?,
        };
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, local))
            .await
            .map_err(|error| CliError::failed(format!("listen on 127.0.0.1:{local}: {error}")))?;
        let address = listener.local_addr()?;
        out.line(&format!("Forwarding from {address} -> {name}:{remote}"))?;
        listeners.spawn(listen(listener, api.clone(), name.clone(), remote));
    }
    while listeners.join_next().await.is_some() {}
    Ok(())
}

async fn listen(listener: TcpListener, api: Api<Pod>, pod: String, port: u16) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let (api, pod) = (api.clone(), pod.clone());
                tokio::spawn(async move {
                    if let Err(error) = forward(stream, &api, &pod, port).await {
                        error.print();
                    }
                });
            }
            Err(error) => {
                tracing::error!(%error, "accept");
                return;
            }
        }
    }
}

async fn forward(
    mut local: TcpStream,
    api: &Api<Pod>,
    pod: &str,
    port: u16,
) -> Result<(), CliError> {
    let what = format!("forward to pod {pod} port {port}");
    let mut forwarder = api
        .portforward(pod, &[port])
        .await
        .map_err(|error| CliError::call(&what, &error.into()))?;
    let mut remote = forwarder
        .take_stream(port)
        .ok_or_else(|| CliError::failed(format!("{what}: no stream")))?;
    let refused = forwarder.take_error(port);
    // Either side may end the connection; that is not an error.
    let _ = tokio::io::copy_bidirectional(&mut local, &mut remote).await;
    drop(remote);
    let refusal = match refused {
        Some(refused) => refused.await,
        None => None,
    };
    match refusal {
        Some(why) => Err(CliError::failed(format!("{what}: {why}"))),
        None => Ok(()),
    }
}

async fn service(cluster: &Cluster, word: &str) -> Result<Option<Value>, CliError> {
    let Some((kind, name)) = word.split_once('/') else {
        return Ok(None);
    };
    if !matches!(kind, "svc" | "service" | "services") {
        return Ok(None);
    }
    let known = kinds::Kinds::discover(&cluster.kube).await?;
    let target = kinds::object(known.find("services")?, &cluster.namespace, name);
    cluster
        .kube
        .get(&target)
        .await
        .map_err(|error| CliError::call(&format!("read {target}"), &error))
}

/// The pod's port behind a service's port.
pub(crate) fn target_port(service: &Value, pod: &Value, port: u16) -> Result<u16, CliError> {
    let name = service["metadata"]["name"].as_str().unwrap_or_default();
    let ports = service["spec"]["ports"]
        .as_array()
        .map_or(&[][..], Vec::as_slice);
    let entry = ports
        .iter()
        .find(|entry| entry["port"] == u64::from(port))
        .ok_or_else(|| {
            let known: Vec<String> = ports
                .iter()
                .map(|entry| entry["port"].to_string())
                .collect();
            CliError::failed(format!(
                "service {name} has no port {port}; it has {}",
                known.join(", ")
            ))
        })?;
    match &entry["targetPort"] {
        Value::Null => Ok(port),
        Value::Number(number) => number
            .as_u64()
            .and_then(|number| u16::try_from(number).ok())
            .ok_or_else(|| {
                CliError::failed(format!(
                    "service {name} has an impossible targetPort {number}"
                ))
            }),
        named => pod["spec"]["containers"]
            .as_array()
            .into_iter()
            .flatten()
            .flat_map(|container| container["ports"].as_array().into_iter().flatten())
            .find(|entry| entry["name"] == *named)
            .and_then(|entry| u16::try_from(entry["containerPort"].as_u64()?).ok())
            .ok_or_else(|| {
                CliError::failed(format!("pod {} names no port {named}", pods::name(pod)))
            }),
    }
}

fn ports(text: &str) -> Result<(u16, u16), String> {
    let (local, remote) = text.split_once(':').unwrap_or((text, text));
    let port = |text: &str| {
        text.parse::<u16>()
            .map_err(|_error| format!("{text:?} is not a port; write PORT or LOCAL:PORT"))
    };
    let remote = port(remote)?;
    if remote == 0 {
        return Err("the pod's port cannot be 0".to_owned());
    }
    Ok((port(local)?, remote))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    #[test]
    fn ports_are_read() {
        assert_eq!(ports("6379"), Ok((6379, 6379)));
        assert_eq!(ports("0:6379"), Ok((0, 6379)));
        assert!(ports("a:b").is_err());
        assert!(ports("1:0").is_err());
    }

    #[test]
    fn a_services_port_leads_to_the_pods() {
        let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"ports": [{"name": "redis", "containerPort": 6379}]}]}});
        let service = json!({"metadata": {"name": "s"}, "spec": {"ports": [{"port": 1, "targetPort": "redis"}, {"port": 2, "targetPort": 7}, {"port": 3}]}});
        assert_eq!(target_port(&service, &pod, 1).unwrap(), 6379);
        assert_eq!(target_port(&service, &pod, 2).unwrap(), 7);
        assert_eq!(target_port(&service, &pod, 3).unwrap(), 3);
        let error = target_port(&service, &pod, 4).unwrap_err().to_string();
        assert_eq!(error, "service s has no port 4; it has 1, 2, 3");
    }
}
