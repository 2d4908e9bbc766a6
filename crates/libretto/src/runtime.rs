//! The engine at work on one cluster: installs packages, watches, probes, drives, and stops in order.

use std::{
    collections::HashMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use libretto_actions::{Actions, Allowed, Reach, helm::Helm, kube::Kube};
use libretto_engine::Compiled;
use libretto_mirror::{Mirror, ScopeMode};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::{
    drive::Driver,
    install::{self, InstallError},
    process::Process,
    rehearsal::Rehearsal,
    secrets::KubeSecrets,
    share::Share,
    watch,
};

/// Instances worked on at once. Evaluations take a millisecond of CPU each, the rest is waiting for the API server, which serves a
/// client well up to about this many requests in flight.
pub(crate) const WORKERS: usize = 16;
/// How long effects under way may take to end after a stop was asked for; longer than any Redis timeout in use.
const STOP_PATIENCE: Duration = Duration::from_secs(10);

/// What to run, and for whom.
#[derive(Debug)]
pub struct Options {
    pub packages: Vec<Arc<Compiled>>,
    pub scope: ScopeMode,
    /// Only instances and objects in this namespace.
    pub namespace: Option<String>,
    /// Whether to put the packages' CustomResourceDefinitions into the cluster.
    pub install: bool,
    /// Helm, for packages with charts: a path, or a name to look for in `PATH`.
    pub helm: PathBuf,
    /// Whether packages may ask this machine: where pods are processes of it, they must.
    pub loopback: bool,
    /// Which hosts packages may ask and call; `None` is all but those that no package may.
    pub allowed: Option<Allowed>,
    /// Effects are told to it instead of done, and nothing is written to the cluster.
    pub rehearsal: Option<Rehearsal>,
    /// Which of the instances are its own.
    pub share: Share,
}

/// The runtime could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Install(#[from] InstallError),
    #[error("kubeconfig: {0}")]
    Client(kube::Error),
}

/// A running engine. Dropping it leaves its tasks running: call [`Runtime::stop`].
#[derive(Debug)]
pub struct Runtime {
    process: Arc<Process>,
    driver: Arc<Driver>,
    kube: Kube,
    stop: CancellationToken,
    workers: JoinSet<()>,
    senses: JoinSet<()>,
}

impl Runtime {
    /// Installs the packages and starts to work.
    pub async fn start(
        process: &Arc<Process>,
        client: kube::Client,
        options: Options,
    ) -> Result<Self, StartError> {
        let Options {
            packages,
            scope,
            namespace,
            install,
            helm,
            loopback,
            allowed,
            rehearsal,
            share,
        } = options;
        let reach = Reach {
            loopback,
            denied: api_servers(&client).await,
            allowed,
        };
        let helm = helm_for(&packages, &helm, &client).await;
        let observed = Arc::clone(&process.metrics);
        let kube = Kube::new(client).observed(Arc::new(move |method, code| {
            observed.request(method, code);
        }));
        // Whatever is left in the code that writes would be refused here.
        let kube = if rehearsal.is_some() {
            kube.only_reading()
        } else {
            kube
        };
        if install && rehearsal.is_none() {
            for package in &packages {
                install::install(&kube, package).await?;
            }
        }
        let mut mirror = Mirror::new(scope);
        for package in &packages {
            mirror.declare(package.schema().clone());
        }
        let secrets = KubeSecrets::new(kube.clone(), sensitive_fields(&packages));
        let actions = Actions::new(kube.clone(), Arc::new(secrets), HashMap::new(), reach);
        let watched = watch::unite(&packages);
        let driver = Driver::new(process, packages, mirror, actions, helm, rehearsal, share);
        watch::expect(&driver, &watched);
        process.count(&driver.queue);
        let stop = CancellationToken::new();
        let mut senses = JoinSet::new();
        for watch in watched {
            senses.spawn(watch::watch(
                Arc::clone(&driver),
                kube.clone(),
                watch,
                namespace.clone(),
                stop.clone(),
            ));
        }
        senses.spawn(driver.prober.run());
        senses.spawn(Arc::clone(&driver).take_probes());
        let mut workers = JoinSet::new();
        for _ in 0..WORKERS {
            workers.spawn(Arc::clone(&driver).work());
        }
        Ok(Self {
            process: Arc::clone(process),
            driver,
            kube,
            stop,
            workers,
            senses,
        })
    }

    pub fn driver(&self) -> &Arc<Driver> {
        &self.driver
    }

    pub fn kube(&self) -> &Kube {
        &self.kube
    }

    /// The process is ready when this runtime is: every watched Kind is listed. A list that is repeated later does not make it
    /// unready: it works on.
    pub fn decides_readiness(&mut self) {
        let (driver, process) = (Arc::clone(&self.driver), Arc::clone(&self.process));
        let stop = self.stop.clone();
        self.senses.spawn(async move {
            let vitals = process.vitals();
            while !driver.tables.missing().is_empty() {
                tokio::select! {
                    () = stop.cancelled() => return,
                    // Only a readiness probe looks at the result, every few seconds.
                    () = tokio::time::sleep(Duration::from_millis(100)) => {}
                }
            }
            vitals.set_ready(true);
            tracing::info!("every watched kind is listed; work goes on");
            stop.cancelled().await;
            vitals.set_ready(false);
        });
    }

    /// Ends sensing, lets effects under way end, and returns. Nothing needs to be saved: what must last is in the cluster.
    pub async fn stop(mut self) {
        self.stop.cancel();
        self.driver.prober.stop();
        self.driver.queue.close();
        let workers = async { while self.workers.join_next().await.is_some() {} };
        if tokio::time::timeout(STOP_PATIENCE, workers).await.is_err() {
            tracing::warn!(
                "effects under way were abandoned; they are looked at again at the next start"
            );
        }
        self.workers.shutdown().await;
        self.senses.shutdown().await;
        // Whoever takes care of the instances next measures them.
        self.driver.forget_all();
    }
}

/// Helm, told of the cluster's version; why not, when a package needs it and it is not there.
async fn helm_for(
    packages: &[Arc<Compiled>],
    program: &Path,
    client: &kube::Client,
) -> Result<Arc<Helm>, String> {
    if !packages.iter().any(|package| package.has_charts()) {
        return Err("no package with charts was there at the start".to_owned());
    }
    let version = match client.apiserver_version().await {
        Ok(version) => Some(version.git_version),
        Err(error) => {
            tracing::warn!(%error, "the API server does not tell its version; charts see Helm's own");
            None
        }
    };
    Helm::new(program, version).map(Arc::new).map_err(|error| {
        tracing::warn!(%error, "packages with charts cannot work");
        error.to_string()
    })
}

pub(crate) fn sensitive_fields(
    packages: &[Arc<Compiled>],
) -> HashMap<(String, String), libretto_mirror::ColumnPath> {
    packages
        .iter()
        .flat_map(|package| {
            package
                .fields()
                .iter()
                .filter(|field| field.sensitive)
                .map(|field| {
                    (
                        (package.name().to_owned(), field.name.clone()),
                        field.path.clone(),
                    )
                })
        })
        .collect()
}

/// Where the API server listens, as it says and as pods are told. Packages reach it by rules only.
async fn api_servers(client: &kube::Client) -> Vec<SocketAddr> {
    let mut addresses = Vec::new();
    match client.list_core_api_versions().await {
        Ok(versions) => addresses.extend(
            versions
                .server_address_by_client_cidrs
                .iter()
                .filter_map(|server| server.server_address.parse::<SocketAddr>().ok()),
        ),
        // It is asked again for everything else, and keeps out whoever has no token.
        Err(error) => tracing::warn!(%error, "the API server does not say where it listens"),
    }
    let variable = |name: &str| std::env::var(name).ok();
    if let (Some(host), Some(port)) = (
        variable("KUBERNETES_SERVICE_HOST"),
        variable("KUBERNETES_SERVICE_PORT"),
    ) && let (Ok(host), Ok(port)) = (host.parse(), port.parse())
    {
        addresses.push(SocketAddr::new(host, port));
    }
    addresses
}
