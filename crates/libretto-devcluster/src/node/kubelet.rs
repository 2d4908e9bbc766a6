//! The node agent's main loop: which pods are ours, a task for each, and the Node object.
//!
//! The Lease of the node is not renewed and the Node's heartbeat times stay as they are: a node inside the API server's own process
//! cannot be lost separately, and a cluster at rest writes nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::Ipv4Addr,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use k8s_openapi::api::core::v1::Pod;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::{
    sync::watch,
    task::{AbortHandle, JoinHandle},
    time::Instant,
};

use super::{
    Driver, NodeOptions,
    events::{COMPONENT, Events, options},
    images::Catalogue,
    lookup::{ApiLookup, CLAIMS, CONFIG_MAPS, SECRETS, typed},
    network::{self, Addresses},
    pod::{self, PodContext},
};
use crate::api::{Api, Gvr, ListOptions, PODS, Patch, Subresource, WatchEvent, now};

const NODES: Gvr = Gvr::new("", "v1", "nodes");
/// What a bridge and a laptop carry comfortably; a kubelet's default is 110.
const POD_LIMIT: u32 = 500;

/// State shared by everything on the node.
#[derive(Debug)]
pub(crate) struct Inner {
    pub api: Api,
    pub name: String,
    pub data_dir: PathBuf,
    /// False: plain processes.
    pub namespaces: bool,
    pub host_address: Ipv4Addr,
    pub catalogue: Catalogue,
    pub events: Events,
    pub lookup: ApiLookup,
    pub addresses: Mutex<Addresses>,
    pub cpus: u64,
    pub memory: u64,
    /// Counts changes of ConfigMaps, Secrets and claims: wakes pods that wait for or follow one.
    pub objects: watch::Sender<u64>,
    pods: Mutex<BTreeMap<String, Worker>>,
    shutting_down: AtomicBool,
    tasks: Mutex<Vec<AbortHandle>>,
}

#[derive(Debug)]
struct Worker {
    context: Arc<PodContext>,
    /// `None` once the object is gone.
    updates: Option<watch::Sender<Arc<Pod>>>,
    task: JoinHandle<()>,
}

impl Inner {
    pub(crate) fn pods_directory(&self) -> PathBuf {
        self.data_dir.join("pods")
    }

    pub(crate) fn is_shutting_down(&self) -> bool {
        self.shutting_down.load(Ordering::Relaxed)
    }

    /// The running pod of that name.
    pub(crate) fn pod(&self, namespace: &str, name: &str) -> Option<Arc<PodContext>> {
        self.pods
            .lock()
            .values()
            .filter(|worker| worker.updates.is_some())
            .find(|worker| worker.context.namespace == namespace && worker.context.name == name)
            .map(|worker| worker.context.clone())
    }
}

/// Prepares the node and starts its tasks.
pub(crate) async fn start(api: Api, given: NodeOptions) -> io::Result<Arc<Inner>> {
    let namespaces = match given.driver {
        Driver::Namespaces => true,
        Driver::Process => false,
        Driver::Auto => super::inside_namespaces(),
    };
    if namespaces && !super::inside_namespaces() {
        return Err(io::Error::other(
            "the namespaces driver needs the program to have gone through node::enter first",
        ));
    }
    std::fs::create_dir_all(&given.data_dir)?;
    let data_dir = given.data_dir.canonicalize()?;
    let directory = data_dir.join("node");
    std::fs::create_dir_all(&directory)?;
    let name = node_name(&directory)?;
    let (base, host_address) = if namespaces {
        (Ipv4Addr::new(10, 66, 0, 0), network::GATEWAY)
    } else {
        (Ipv4Addr::new(127, 66, 0, 0), Ipv4Addr::LOCALHOST)
    };
    let (cpus, memory) = machine();
    let inner = Arc::new(Inner {
        name: name.clone(),
        namespaces,
        host_address,
        catalogue: Catalogue::load(given.images.as_deref())?,
        events: Events::new(api.clone(), name),
        lookup: ApiLookup {
            api: api.clone(),
            data_dir: data_dir.clone(),
        },
        addresses: Mutex::new(Addresses::load(base, &directory.join("next-address"))),
        cpus,
        memory,
        objects: watch::Sender::new(0),
        pods: Mutex::default(),
        shutting_down: AtomicBool::new(false),
        tasks: Mutex::default(),
        data_dir,
        api,
    });
    register(&inner)?;
    let mut tasks = vec![tokio::spawn(follow_pods(inner.clone())).abort_handle()];
    for gvr in [CONFIG_MAPS, SECRETS, CLAIMS] {
        tasks.push(tokio::spawn(follow_objects(inner.clone(), gvr)).abort_handle());
    }
    tasks.extend(super::services::start(&inner).await?);
    *inner.tasks.lock() = tasks;
    Ok(inner)
}

/// The machine's host name, remembered so that pods bound to it stay ours when it changes.
fn node_name(directory: &std::path::Path) -> io::Result<String> {
    let file = directory.join("name");
    if let Ok(name) = std::fs::read_to_string(&file)
        && !name.trim().is_empty()
    {
        return Ok(name.trim().to_owned());
    }
    let host = nix::unistd::gethostname()
        .unwrap_or_default()
        .to_string_lossy()
        .to_lowercase();
    let valid = !host.is_empty()
        && host.len() <= 63
        && host
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.'))
        && host.starts_with(|c: char| c.is_ascii_alphanumeric())
        && host.ends_with(|c: char| c.is_ascii_alphanumeric());
    let name = if valid { host } else { "libretto".to_owned() };
    std::fs::write(file, &name)?;
    Ok(name)
}

fn machine() -> (u64, u64) {
    let cpus = std::thread::available_parallelism().map_or(1, |count| count.get() as u64);
    let kibibytes = std::fs::read_to_string("/proc/meminfo")
        .ok()
        .and_then(|text| {
            let line = text
                .lines()
                .find_map(|line| line.strip_prefix("MemTotal:"))?;
            line.split_whitespace().next()?.parse::<u64>().ok()
        })
        .unwrap_or(0);
    (cpus, kibibytes * 1024)
}

fn register(node: &Inner) -> io::Result<()> {
    let failed = |error: crate::error::ApiError| {
        io::Error::other(format!("registering node {:?}: {error}", node.name))
    };
    let os_release = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    let image = os_release
        .lines()
        .find_map(|line| line.strip_prefix("PRETTY_NAME="))
        .map_or("Linux", |name| name.trim_matches('"'));
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let driver = if node.namespaces {
        "namespaces"
    } else {
        "process"
    };
    let metadata = json!({
        "name": node.name,
        "labels": {
            "kubernetes.io/hostname": node.name, "kubernetes.io/os": "linux", "kubernetes.io/arch": architecture,
            "node-role.kubernetes.io/control-plane": "",
        },
        "annotations": {
            "libretto.dev/pod-driver": driver,
            "libretto.dev/isolation": if node.namespaces { "namespaces; memory and CPU limits are not enforced" } else { "none: pods are plain processes of the host" },
        },
    });
    match node
        .api
        .create(&NODES, "", json!({"metadata": metadata}), &options())
    {
        Err(error) if error.reason == "AlreadyExists" => {
            let patch = Patch::Strategic(json!({"metadata": metadata}));
            node.api
                .patch(&NODES, "", &node.name, Subresource::None, patch, &options())
                .map_err(failed)?;
        }
        result => drop(result.map_err(failed)?),
    }
    let resources = json!({
        "cpu": node.cpus.to_string(), "memory": format!("{}Ki", node.memory / 1024), "pods": POD_LIMIT.to_string(),
        "ephemeral-storage": "100Gi",
    });
    let current = node.api.get(&NODES, "", &node.name).map_err(failed)?;
    let conditions = [
        (
            "MemoryPressure",
            "False",
            "KubeletHasSufficientMemory",
            "kubelet has sufficient memory available",
        ),
        (
            "DiskPressure",
            "False",
            "KubeletHasNoDiskPressure",
            "kubelet has no disk pressure",
        ),
        (
            "PIDPressure",
            "False",
            "KubeletHasSufficientPID",
            "kubelet has sufficient PID available",
        ),
        (
            "Ready",
            "True",
            "KubeletReady",
            if node.namespaces {
                "pods run in namespaces"
            } else {
                "pods run as plain processes, without isolation"
            },
        ),
    ]
    .map(|(kind, status, reason, message)| {
        let before = current["status"]["conditions"].as_array().and_then(|list| {
            list.iter()
                .find(|condition| condition["type"] == kind && condition["status"] == status)
        });
        let since = before.map_or_else(
            || now().into(),
            |before| before["lastTransitionTime"].clone(),
        );
        json!({"type": kind, "status": status, "reason": reason, "message": message,
            "lastTransitionTime": since, "lastHeartbeatTime": since})
    });
    let status = json!({
        "capacity": resources, "allocatable": resources, "conditions": conditions,
        "addresses": [
            {"type": "InternalIP", "address": node.host_address.to_string()}, {"type": "Hostname", "address": node.name},
        ],
        "nodeInfo": {
            "machineID": "", "systemUUID": "", "bootID": "", "kernelVersion": kernel.trim(), "osImage": image,
            "containerRuntimeVersion": format!("libretto://{}", env!("CARGO_PKG_VERSION")),
            "kubeletVersion": crate::http::GIT_VERSION, "kubeProxyVersion": "", "operatingSystem": "linux", "architecture": architecture,
        },
    });
    let patch = Patch::Strategic(json!({"status": status}));
    node.api
        .patch(
            &NODES,
            "",
            &node.name,
            Subresource::Status,
            patch,
            &options(),
        )
        .map_err(failed)?;
    Ok(())
}

/// Lists, then follows, for ever. A watch that expires is begun anew with a list.
async fn follow_pods(node: Arc<Inner>) {
    let selection = ListOptions {
        field_selector: Some(format!("spec.nodeName={}", node.name)),
        ..ListOptions::default()
    };
    let mut first = true;
    loop {
        let list = match node.api.list(&PODS, None, &selection) {
            Ok(list) => list,
            Err(error) => {
                tracing::error!(%error, "listing pods failed");
                tokio::time::sleep(Duration::from_secs(1)).await;
                continue;
            }
        };
        let present = list
            .items
            .iter()
            .filter_map(|item| item["metadata"]["uid"].as_str())
            .collect::<BTreeSet<_>>();
        if first {
            remove_strangers(&node, &present);
            first = false;
        }
        let gone = node
            .pods
            .lock()
            .keys()
            .filter(|uid| !present.contains(uid.as_str()))
            .cloned()
            .collect::<Vec<_>>();
        for uid in gone {
            forget(&node, &uid);
        }
        for item in &list.items {
            observe(&node, item);
        }
        let Ok(mut watch) = node
            .api
            .watch(&PODS, None, &selection, list.resource_version)
        else {
            continue;
        };
        loop {
            match watch.next().await {
                Some(WatchEvent::Added(object) | WatchEvent::Modified(object)) => {
                    observe(&node, &object);
                }
                Some(WatchEvent::Deleted(object)) => forget(
                    &node,
                    object["metadata"]["uid"].as_str().unwrap_or_default(),
                ),
                Some(WatchEvent::Bookmark(_)) => {}
                Some(WatchEvent::Expired) => break,
                None => return,
            }
        }
    }
}

/// Directories of pods that were deleted while the program was not running.
fn remove_strangers(node: &Inner, present: &BTreeSet<&str>) {
    let Ok(entries) = std::fs::read_dir(node.pods_directory()) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if !present.contains(name.as_str())
            && let Err(error) = std::fs::remove_dir_all(entry.path())
        {
            tracing::warn!(directory = name, %error, "directory of a former pod not removed");
        }
    }
}

fn observe(node: &Arc<Inner>, object: &Value) {
    if node.is_shutting_down() {
        return;
    }
    let Some(pod) = typed::<Pod>(object) else {
        return;
    };
    let uid = pod.metadata.uid.clone().unwrap_or_default();
    let mut pods = node.pods.lock();
    pods.retain(|_, worker| !worker.task.is_finished() || worker.updates.is_some());
    if let Some(worker) = pods.get(&uid) {
        if let Some(updates) = &worker.updates {
            updates.send_replace(Arc::new(pod));
        }
        return;
    }
    let (updates, receiver) = watch::channel(Arc::new(pod));
    let context = Arc::new(PodContext::new(node.clone(), receiver));
    let task = tokio::spawn(pod::supervised(context.clone()));
    pods.insert(
        uid,
        Worker {
            context,
            updates: Some(updates),
            task,
        },
    );
}

/// The object is gone: closing the channel stops the pod.
fn forget(node: &Inner, uid: &str) {
    let mut pods = node.pods.lock();
    if let Some(worker) = pods.get_mut(uid) {
        worker.updates = None;
        if worker.task.is_finished() {
            pods.remove(uid);
        }
    }
}

async fn follow_objects(node: Arc<Inner>, gvr: Gvr) {
    loop {
        let Ok(list) = node.api.list(
            &gvr,
            None,
            &ListOptions {
                limit: Some(1),
                ..ListOptions::default()
            },
        ) else {
            return;
        };
        let Ok(mut watch) =
            node.api
                .watch(&gvr, None, &ListOptions::default(), list.resource_version)
        else {
            return;
        };
        loop {
            match watch.next().await {
                Some(WatchEvent::Expired) => break,
                Some(WatchEvent::Bookmark(_)) => {}
                Some(_) => node.objects.send_modify(|count| *count += 1),
                None => return,
            }
        }
        node.objects.send_modify(|count| *count += 1);
    }
}

/// Stops every process, waiting at most `grace`. Objects stay: the pods start again with the next start of the program.
pub(crate) async fn shutdown(node: &Arc<Inner>, grace: Duration) {
    node.shutting_down.store(true, Ordering::Relaxed);
    for task in node.tasks.lock().drain(..) {
        task.abort();
    }
    let workers = std::mem::take(&mut *node.pods.lock());
    let deadline = Instant::now() + grace;
    for worker in workers.values() {
        worker.context.stop_by(deadline);
    }
    for (_, mut worker) in workers {
        // Pods that are done wait for their deletion; they have nothing left to stop.
        drop(worker.updates.take());
        // Killing and reaping takes moments beyond the deadline.
        let limit = deadline + Duration::from_secs(2);
        if tokio::time::timeout_at(limit, &mut worker.task)
            .await
            .is_err()
        {
            pod::kill_now(&worker.context);
            worker.task.abort();
        }
    }
    tracing::debug!(component = COMPONENT, "every pod is stopped");
}
