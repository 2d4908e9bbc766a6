//! Workload controllers: what a kube-controller-manager and a scheduler do, as far as packages need it.
//!
//! Each controller is a pure function from the observed cluster to a plan; [`runtime`] alone talks to the API. A cluster in which
//! nothing changes sees no writes from here.

use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;

use crate::api::Api;

mod bootstrap;
mod cache;
mod cronjob;
mod daemonset;
mod deployment;
mod disruption;
mod endpoints;
mod garbage;
mod job;
mod kinds;
mod namespaces;
mod object;
mod plan;
mod pods;
mod quantity;
mod queue;
mod recorder;
mod replicaset;
mod revisions;
mod runtime;
mod scheduler;
mod selector;
mod statefulset;
mod volumes;

#[cfg(test)]
mod simulator;
#[cfg(test)]
mod tests;

/// Where the directories of provisioned volumes live.
pub trait VolumeStore: Send + Sync + 'static {
    /// The directory of a volume, which need not exist yet. Goes into `spec.local.path`; the node agent creates it when it mounts it.
    fn path(&self, volume: &str) -> PathBuf;

    /// Removes a volume's directory with everything in it. Succeeds when there is none.
    fn remove(&self, volume: &str) -> std::io::Result<()>;
}

/// Volumes as directories below one directory.
#[derive(Debug, Clone)]
pub struct DirectoryVolumes {
    root: PathBuf,
}

impl DirectoryVolumes {
    /// `root` is `<data_dir>/volumes`.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }
}

impl VolumeStore for DirectoryVolumes {
    fn path(&self, volume: &str) -> PathBuf {
        self.root.join(volume)
    }

    fn remove(&self, volume: &str) -> std::io::Result<()> {
        // Names come from API objects and are validated there; a recursive delete is worth a second look all the same.
        let plain = volume
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'.')
            && volume.starts_with(|first: char| first.is_ascii_alphanumeric());
        if !plain {
            return Err(std::io::Error::new(
                std::io::ErrorKind::InvalidInput,
                format!("{volume:?} is not the name of a volume"),
            ));
        }
        match std::fs::remove_dir_all(self.path(volume)) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }
}

/// What the controllers must be told about the cluster they run in.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where pods reach the API server: the endpoint behind the `kubernetes` service.
    pub api_server: SocketAddr,
    /// Cluster IP of the `kubernetes` service, such as `10.96.0.1`.
    pub service_ip: String,
    /// PEM certificate published in every namespace as `kube-root-ca.crt`.
    pub root_ca: String,
}

/// Before the controllers start anew after a panic: one that recurs must not fill the log.
const RESTART_PAUSE: Duration = Duration::from_secs(1);

/// Starts every controller on the current tokio runtime; they stop when the returned guard is dropped.
pub fn start(api: Api, volumes: Arc<dyn VolumeStore>, options: Options) -> Controllers {
    Controllers {
        task: tokio::spawn(supervise(move || runtime(&api, &volumes, &options))),
    }
}

/// Runs the controllers until they end by themselves. What they know is read from the API, so after a panic they begin anew.
async fn supervise(build: impl Fn() -> runtime::Runtime) {
    while AssertUnwindSafe(build().run())
        .catch_unwind()
        .await
        .is_err()
    {
        tracing::error!(
            "the controllers panicked and are started anew. This is a defect: please report it"
        );
        tokio::time::sleep(RESTART_PAUSE).await;
    }
}

fn runtime(api: &Api, volumes: &Arc<dyn VolumeStore>, options: &Options) -> runtime::Runtime {
    let paths = Arc::clone(volumes);
    let bootstrap = bootstrap::Bootstrap {
        api_server: options.api_server,
        service_ip: options.service_ip.clone(),
        root_ca: options.root_ca.clone(),
    };
    let controllers: Vec<Box<dyn plan::Controller>> = vec![
        Box::new(bootstrap),
        Box::new(scheduler::Scheduler),
        Box::new(statefulset::StatefulSets),
        Box::new(deployment::Deployments),
        Box::new(replicaset::ReplicaSets),
        Box::new(daemonset::DaemonSets),
        Box::new(job::Jobs),
        Box::new(cronjob::CronJobs),
        Box::new(disruption::DisruptionBudgets),
        Box::new(namespaces::Namespaces),
        Box::new(endpoints::EndpointsController),
        Box::new(volumes::Volumes {
            path_of: Box::new(move |volume| paths.path(volume).to_string_lossy().into_owned()),
        }),
        Box::new(garbage::GarbageCollector),
    ];
    // The bootstrap controller is the first: its objects are wanted before anything asks for them.
    let first = bootstrap::first_keys()
        .into_iter()
        .map(|key| (0, key))
        .collect();
    runtime::Runtime::new(api.clone(), Arc::clone(volumes), controllers, first)
}

/// Running controllers.
#[derive(Debug)]
pub struct Controllers {
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Controllers {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[cfg(test)]
mod supervision {
    #![allow(clippy::unwrap_used)]
    use std::sync::atomic::{AtomicBool, Ordering};

    use jiff::Timestamp;
    use serde_json::{Value, json};
    use tokio::sync::mpsc;

    use super::*;
    use super::{
        cache::{Cache, ObjectKey},
        plan::{Controller, Plan},
    };

    /// Panics when it first hears of anything, and whenever it looks at `bad`.
    struct Brittle {
        shaken: Arc<AtomicBool>,
        seen: mpsc::UnboundedSender<String>,
    }

    impl Controller for Brittle {
        fn component(&self) -> &'static str {
            "brittle"
        }

        fn touched(&self, _: &Cache, key: &ObjectKey, _: &Value, dirty: &mut Vec<ObjectKey>) {
            assert!(self.shaken.swap(true, Ordering::Relaxed), "the first touch");
            if key.gvr == kinds::CONFIG_MAPS {
                dirty.push(key.clone());
            }
        }

        fn reconcile(&self, _: &Cache, key: &ObjectKey, _: Timestamp) -> Plan {
            let _ = self.seen.send(key.name.clone());
            assert_ne!(key.name, "bad");
            Plan::default()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_panic_stops_neither_the_others_nor_the_next_start() {
        let api = Api::in_memory();
        for name in ["bad", "good"] {
            let object = json!({"metadata": {"name": name}});
            api.create(
                &kinds::CONFIG_MAPS,
                "default",
                object,
                &crate::api::WriteOptions::default(),
            )
            .unwrap();
        }
        let (seen, mut names) = mpsc::unbounded_channel();
        let shaken = Arc::new(AtomicBool::new(false));
        let directory = tempfile::tempdir().unwrap();
        let volumes: Arc<dyn VolumeStore> = Arc::new(DirectoryVolumes::new(directory.path()));
        let task = tokio::spawn(supervise(move || {
            let brittle = Brittle {
                shaken: Arc::clone(&shaken),
                seen: seen.clone(),
            };
            runtime::Runtime::new(
                api.clone(),
                Arc::clone(&volumes),
                vec![Box::new(brittle)],
                Vec::new(),
            )
        }));
        let mut found = Vec::new();
        while !(found.contains(&"bad".to_owned()) && found.contains(&"good".to_owned())) {
            found.push(names.recv().await.unwrap());
        }
        task.abort();
    }
}
