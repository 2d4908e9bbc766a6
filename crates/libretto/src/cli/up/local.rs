//! The embedded cluster as `libretto up` sees it: started, connected to, stopped.

use std::{
    net::{Ipv4Addr, TcpListener},
    path::PathBuf,
};

use kube::config::{KubeConfigOptions, Kubeconfig};
use libretto_devcluster::{Devcluster, Options, Parts, StartError, node::Driver};

use super::Settings;
use crate::cli::{CliError, connect::client_of};

/// A running embedded cluster and a client of it.
pub(crate) struct LocalCluster {
    cluster: Devcluster,
    pub(crate) client: kube::Client,
    pub(crate) config: kube::Config,
    /// `https://127.0.0.1:7443`.
    pub(crate) server: String,
    pub(crate) kubeconfig: PathBuf,
}

impl LocalCluster {
    pub(crate) async fn start(
        settings: &Settings,
        listener: TcpListener,
        driver: Driver,
    ) -> Result<Self, CliError> {
        let options = Options {
            data_dir: Some(settings.data_dir.clone()),
            listener,
            driver,
            images: settings.images.clone(),
            parts: Parts::Everything,
        };
        let cluster = Devcluster::start(options)
            .await
            .map_err(|error| failed(&error))?;
        let config = config(&cluster).await?;
        Ok(Self {
            client: client_of(config.clone())?,
            config,
            server: cluster.url().to_owned(),
            kubeconfig: cluster.kubeconfig_path().to_owned(),
            cluster,
        })
    }

    /// Ends every pod and the API server; the state stays on disk.
    pub(crate) async fn stop(self) {
        if let Err(error) = self.cluster.shutdown().await {
            tracing::error!(%error, "the cluster's state could not be closed cleanly");
        }
    }
}

/// Where this process's own API server is. The listener that users reach may be in another network than this process, which sits
/// in the pods'; so there is one more, here.
async fn config(cluster: &Devcluster) -> Result<kube::Config, CliError> {
    let here = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = here.local_addr()?;
    cluster.server().serve(here)?;
    let broken =
        |error: String| CliError::failed(format!("connect to the cluster just started: {error}"));
    let kubeconfig =
        Kubeconfig::from_yaml(cluster.kubeconfig()).map_err(|error| broken(error.to_string()))?;
    let mut config =
        kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
            .await
            .map_err(|error| broken(error.to_string()))?;
    config.cluster_url = format!("https://{address}")
        .parse()
        .expect("a socket address makes a URL");
    Ok(config)
}

fn failed(error: &StartError) -> CliError {
    // The cluster's errors keep what caused them apart; a person needs both in one line.
    let mut message = format!("start the cluster: {error}");
    let mut cause = std::error::Error::source(error);
    while let Some(source) = cause {
        message.push_str(&format!(": {source}"));
        cause = source.source();
    }
    let failed = CliError::failed(message);
    match error {
        StartError::Locked { .. } => failed
            .hint("another `libretto up` is running here; use it, or choose another --data-dir"),
        StartError::Directory { .. } => failed.hint("--data-dir DIR chooses another place"),
        _ => failed,
    }
}
