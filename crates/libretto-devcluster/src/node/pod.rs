//! One pod from its appearance on this node to its removal: volumes, sandbox, containers in order, status, deletion.
//!
//! `run` reads top to bottom as the pod's life. Containers are tasks of `lifecycle`; they change the model, and one task writes the
//! status whenever what it would say differs from what the API server has. A pod that has settled writes nothing.

use std::{
    collections::BTreeMap,
    net::Ipv4Addr,
    panic::AssertUnwindSafe,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use futures::FutureExt as _;
use k8s_openapi::api::core::v1::{Container as Spec, Pod};
use nix::sys::signal::Signal;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::{
    sync::{Notify, watch},
    task::JoinSet,
    time::Instant,
};

use super::{
    container::ContainerSpec,
    environment::{self, PodFacts},
    events::{About, Severity, options},
    kubelet::Inner,
    lifecycle,
    logs::Log,
    network,
    rootfs::Mount,
    sandbox::{Sandbox, SandboxSpec},
    status::{ContainerModel, Kind, PodModel, State, Termination, render},
    volumes,
};
use crate::api::{DeleteOptions, PODS, Patch, Subresource, now};

/// Between tries of what needs something else to appear first; objects that appear wake the pod at once.
const RETRY: Duration = Duration::from_secs(5);

/// A running container, for exec, attach and logs.
#[derive(Debug, Clone)]
pub(crate) struct Live {
    pub pid: i32,
    pub spec: ContainerSpec,
    pub log: Arc<Log>,
    /// The container's standard input, when it has one.
    pub stdin: Option<Arc<tokio::sync::Mutex<tokio::net::unix::pipe::Sender>>>,
}

/// What the tasks of one pod share.
#[derive(Debug)]
pub(crate) struct PodContext {
    pub node: Arc<Inner>,
    pub namespace: String,
    pub name: String,
    pub uid: String,
    /// Everything of the pod on disk.
    pub directory: PathBuf,
    object: watch::Receiver<Arc<Pod>>,
    model: Mutex<PodModel>,
    pub live: Mutex<BTreeMap<String, Live>>,
    /// Source directory by volume name, and whether it is projected (then read-only).
    pub volumes: Mutex<BTreeMap<String, (PathBuf, bool)>>,
    /// Set once: stop by then. Sidecars follow after the others.
    pub stop: watch::Sender<Option<Instant>>,
    pub stop_sidecars: watch::Sender<Option<Instant>>,
    sandbox: Mutex<Option<i32>>,
    address: Mutex<Option<Ipv4Addr>>,
    dirty: Notify,
}

impl PodContext {
    pub(crate) fn new(node: Arc<Inner>, object: watch::Receiver<Arc<Pod>>) -> Self {
        let pod = object.borrow().clone();
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        let directory = node.pods_directory().join(&uid);
        Self {
            model: Mutex::new(initial_model(&pod, &node)),
            namespace: pod.metadata.namespace.clone().unwrap_or_default(),
            name: pod.metadata.name.clone().unwrap_or_default(),
            uid,
            directory,
            object,
            live: Mutex::default(),
            volumes: Mutex::default(),
            stop: watch::Sender::new(None),
            stop_sidecars: watch::Sender::new(None),
            sandbox: Mutex::new(None),
            address: Mutex::new(None),
            dirty: Notify::new(),
            node,
        }
    }

    /// The pod as the API server has it now.
    pub(crate) fn object(&self) -> Arc<Pod> {
        self.object.borrow().clone()
    }

    /// The pod as it changes.
    pub(crate) fn follow(&self) -> watch::Receiver<Arc<Pod>> {
        self.object.clone()
    }

    pub(crate) fn restart_policy(&self) -> String {
        let object = self.object();
        let policy = object
            .spec
            .as_ref()
            .and_then(|spec| spec.restart_policy.clone());
        policy.unwrap_or_else(|| "Always".to_owned())
    }

    pub(crate) fn full_name(&self) -> String {
        format!("{}_{}({})", self.name, self.namespace, self.uid)
    }

    pub(crate) fn sandbox_pid(&self) -> Option<i32> {
        *self.sandbox.lock()
    }

    pub(crate) fn address(&self) -> Option<Ipv4Addr> {
        *self.address.lock()
    }

    /// Where probes connect to.
    pub(crate) fn probe_address(&self) -> Ipv4Addr {
        self.address().unwrap_or(self.node.host_address)
    }

    pub(crate) fn facts(&self) -> PodFacts {
        PodFacts {
            pod_ip: self
                .address()
                .map(|address| address.to_string())
                .unwrap_or_default(),
            host_ip: self.node.host_address.to_string(),
            node_name: self.node.name.clone(),
            cpus: self.node.cpus,
            memory: self.node.memory,
            shares_network: !self.node.namespaces,
        }
    }

    pub(crate) fn event(&self, container: &str, severity: Severity, reason: &str, message: &str) {
        let about = About {
            kind: "Pod",
            namespace: self.namespace.clone(),
            name: self.name.clone(),
            uid: self.uid.clone(),
        };
        self.node
            .events
            .record(&about, container, severity, reason, message);
    }

    /// Reads one container's model.
    pub(crate) fn with<T>(&self, container: &str, read: impl FnOnce(&ContainerModel) -> T) -> T {
        read(self.model.lock().container(container))
    }

    /// Changes one container's model; the status follows.
    pub(crate) fn update(&self, container: &str, change: impl FnOnce(&mut ContainerModel)) {
        change(self.model.lock().container(container));
        self.dirty.notify_one();
    }

    fn update_pod(&self, change: impl FnOnce(&mut PodModel)) {
        change(&mut self.model.lock());
        self.dirty.notify_one();
    }

    /// `/etc/hosts`, `/etc/hostname` and `/etc/resolv.conf` of every container.
    pub(crate) fn system_mounts(&self) -> Vec<Mount> {
        ["hosts", "hostname", "resolv.conf"]
            .iter()
            .map(|name| Mount {
                source: self.directory.join("etc").join(name),
                sub_path: None,
                target: format!("/etc/{name}"),
                read_only: false,
            })
            .collect()
    }

    /// Begins the end. A later call can only shorten the time.
    pub(crate) fn stop_by(&self, deadline: Instant) {
        self.stop.send_if_modified(|current| {
            let sooner = current.is_none_or(|current| deadline < current);
            if sooner {
                *current = Some(deadline);
            }
            sooner
        });
    }
}

fn initial_model(pod: &Pod, node: &Inner) -> PodModel {
    let spec = pod.spec.as_ref();
    let current = serde_json::to_value(&pod.status).unwrap_or_default();
    let model = |container: &Spec, kind: Kind| {
        let list = if kind == Kind::Main {
            "containerStatuses"
        } else {
            "initContainerStatuses"
        };
        let before = current[list].as_array().and_then(|list| {
            list.iter()
                .find(|status| status["name"] == container.name.as_str())
        });
        let mut model = ContainerModel {
            name: container.name.clone(),
            image: container.image.clone().unwrap_or_default(),
            kind,
            state: State::waiting(
                if kind == Kind::Main && has_init(pod) {
                    "PodInitializing"
                } else {
                    "ContainerCreating"
                },
                "",
            ),
            last: None,
            ready: false,
            started: false,
            restarts: 0,
            image_id: String::new(),
            container_id: String::new(),
        };
        if let Some(before) = before {
            let finished = before["state"]["terminated"]["exitCode"] == 0;
            after_node_restart(&mut model, before);
            // What had succeeded is not run again, and a pod that was done stays as it was.
            let policy = spec.and_then(|spec| spec.restart_policy.as_deref());
            let done = kind == Kind::Main && finished && policy == Some("OnFailure");
            if (done || is_completed(pod))
                && let Some(last) = model.last.take()
            {
                model.restarts -= 1;
                model.state = State::Terminated(last);
            }
        }
        model
    };
    let init = spec
        .iter()
        .flat_map(|spec| spec.init_containers.iter().flatten());
    let mut containers = init
        .map(|container| model(container, kind_of_init(container)))
        .collect::<Vec<_>>();
    containers.extend(
        spec.iter()
            .flat_map(|spec| &spec.containers)
            .map(|container| model(container, Kind::Main)),
    );
    PodModel {
        containers,
        pod_ip: String::new(),
        host_ip: node.host_address.to_string(),
        started_at: current["startTime"]
            .as_str()
            .map_or_else(now, str::to_owned),
        sandbox_ready: false,
        initialized: !has_init(pod),
        failed: None,
        stopping: false,
    }
}

/// A status that says the container ran belongs to a node that went down without stopping it: counted as one more restart.
fn after_node_restart(model: &mut ContainerModel, before: &Value) {
    let count = before["restartCount"]
        .as_i64()
        .and_then(|count| i32::try_from(count).ok())
        .unwrap_or(0);
    model.restarts = count;
    if before["containerID"]
        .as_str()
        .is_some_and(|id| !id.is_empty())
    {
        model.restarts += 1;
        let ended = &before["state"]["terminated"];
        let text = |field: &str| ended[field].as_str().unwrap_or_default().to_owned();
        let known = ended.is_object();
        model.last = Some(Termination {
            code: ended["exitCode"]
                .as_i64()
                .and_then(|code| i32::try_from(code).ok())
                .unwrap_or(137),
            reason: if known {
                text("reason")
            } else {
                "ContainerStatusUnknown".to_owned()
            },
            message: if known {
                text("message")
            } else {
                "the node went down while the container ran".to_owned()
            },
            started_at: before["state"]["running"]["startedAt"]
                .as_str()
                .map(str::to_owned),
            finished_at: if known { text("finishedAt") } else { now() },
            container_id: before["containerID"]
                .as_str()
                .unwrap_or_default()
                .to_owned(),
        });
    }
}

fn is_completed(pod: &Pod) -> bool {
    let phase = pod
        .status
        .as_ref()
        .and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

fn has_init(pod: &Pod) -> bool {
    pod.spec
        .iter()
        .any(|spec| spec.init_containers.iter().flatten().next().is_some())
}

fn kind_of_init(container: &Spec) -> Kind {
    if container.restart_policy.as_deref() == Some("Always") {
        Kind::Sidecar
    } else {
        Kind::Init
    }
}

/// The pod's whole life on this node. After a panic the pod has failed, but still leaves when it is deleted.
pub(crate) async fn supervised(pod: Arc<PodContext>) {
    if AssertUnwindSafe(run(pod.clone()))
        .catch_unwind()
        .await
        .is_ok()
    {
        return;
    }
    let message = "the node's worker for this pod panicked, which is a defect: please report it with the cluster's log; delete the pod to have it made anew";
    tracing::error!(pod = %pod.full_name(), message);
    pod.event("", Severity::Warning, "InternalError", message);
    kill_now(&pod);
    if let Some(address) = pod.address.lock().take() {
        pod.node.addresses.lock().release(address);
    }
    pod.update_pod(|model| {
        model.failed = Some(("InternalError".to_owned(), message.to_owned()));
        model.sandbox_ready = false;
    });
    if pod.node.is_shutting_down() {
        return;
    }
    flush_status(&pod);
    let mut object = pod.object.clone();
    let _ = object
        .wait_for(|pod| pod.metadata.deletion_timestamp.is_some())
        .await;
    leave(&pod);
}

async fn run(pod: Arc<PodContext>) {
    let completed = is_completed(&pod.object());
    let cut_off =
        pod.restart_policy() == "Never" && pod.model.lock().containers.iter().any(was_cut_off);
    if cut_off && !completed {
        interrupted(&pod);
    }
    // The status of a pod that was done before this program started says all there is to say.
    let writer = (!completed).then(|| tokio::spawn(write_status(pod.clone())));
    let watcher = tokio::spawn(watch_deletion(pod.clone()));
    if !completed && !cut_off {
        Box::pin(live(&pod)).await;
    }
    let mut object = pod.object.clone();
    if !pod.node.is_shutting_down() {
        // A pod that is done keeps its logs until somebody deletes it. An error: the object is gone.
        let _ = object
            .wait_for(|pod| pod.metadata.deletion_timestamp.is_some())
            .await;
    }
    watcher.abort();
    if let Some(writer) = writer {
        writer.abort();
        let _ = writer.await;
        if !pod.node.is_shutting_down() {
            flush_status(&pod);
        }
    }
    leave(&pod);
}

/// The end: no directory and no object is left. Objects stay at a shutdown.
fn leave(pod: &PodContext) {
    if pod.node.is_shutting_down() {
        return;
    }
    if let Err(error) = remove_directory(&pod.directory) {
        tracing::warn!(pod = %pod.full_name(), %error, "pod directory not removed");
    }
    let options = DeleteOptions {
        uid: Some(pod.uid.clone()),
        grace_period_seconds: Some(0),
        ..DeleteOptions::default()
    };
    match pod
        .node
        .api
        .delete(&PODS, &pod.namespace, &pod.name, &options)
    {
        Err(error) if error.code != 404 && error.code != 409 => {
            tracing::warn!(pod = %pod.full_name(), %error, "pod object not removed");
        }
        _ => {}
    }
}

/// Whether this container's end leaves a pod that restarts nothing without a way on. Init containers that succeeded, and sidecars, run anew.
fn was_cut_off(container: &ContainerModel) -> bool {
    container.last.as_ref().is_some_and(|last| {
        container.kind == Kind::Main || (container.kind == Kind::Init && last.code != 0)
    })
}

/// `restartPolicy: Never` and the node went down: the pod has failed, as after a reboot.
fn interrupted(pod: &PodContext) {
    pod.update_pod(|model| {
        model.initialized = true;
        for container in &mut model.containers {
            if let Some(last) = container.last.take() {
                container.restarts -= 1;
                container.state = State::Terminated(last);
            } else if container.kind == Kind::Main
                && matches!(container.state, State::Waiting { .. })
            {
                // It never started and never will: without an end of its own the pod would have none.
                container.state = State::Terminated(Termination {
                    code: 137,
                    reason: "ContainerStatusUnknown".to_owned(),
                    message: "the node went down before the container started".to_owned(),
                    started_at: None,
                    finished_at: now(),
                    container_id: String::new(),
                });
            }
        }
    });
}

/// From volumes to the end of the last container.
async fn live(pod: &Arc<PodContext>) {
    if !set_up_volumes(pod).await {
        return;
    }
    let Some(sandbox) = start_sandbox(pod).await else {
        return;
    };
    let refresher = tokio::spawn(refresh_volumes(pod.clone()));
    let deadline = tokio::spawn(enforce_deadline(pod.clone()));
    run_containers(pod).await;
    refresher.abort();
    deadline.abort();
    if let Some(sandbox) = sandbox {
        sandbox.stop().await;
    }
    if let Some(address) = pod.address.lock().take() {
        pod.node.addresses.lock().release(address);
    }
    pod.update_pod(|model| model.sandbox_ready = false);
}

/// True when every volume is there; false when the pod is to stop first.
async fn set_up_volumes(pod: &Arc<PodContext>) -> bool {
    let mut stop = pod.stop.subscribe();
    let mut objects = pod.node.objects.subscribe();
    loop {
        objects.mark_unchanged();
        match prepare_volumes(pod) {
            Ok(()) => return true,
            Err(message) => pod.event("", Severity::Warning, "FailedMount", &message),
        }
        tokio::select! {
            _ = stop.wait_for(Option::is_some) => return false,
            _ = objects.changed() => {}
            () = tokio::time::sleep(RETRY) => {}
        }
    }
}

fn prepare_volumes(pod: &PodContext) -> Result<(), String> {
    let object = pod.object();
    let root = pod.directory.join("volumes");
    for volume in object
        .spec
        .iter()
        .flat_map(|spec| spec.volumes.iter().flatten())
    {
        let path = volumes::prepare(&object, volume, &root, &pod.facts(), &pod.node.lookup)?;
        let entry = (path, volumes::follows_objects(volume));
        pod.volumes.lock().insert(volume.name.clone(), entry);
    }
    Ok(())
}

/// Keeps projected volumes up to date. What cannot be refreshed stays as it was.
async fn refresh_volumes(pod: Arc<PodContext>) {
    let follows = pod
        .object()
        .spec
        .iter()
        .flat_map(|spec| spec.volumes.iter().flatten())
        .any(volumes::follows_objects);
    if !follows {
        return;
    }
    let mut objects = pod.node.objects.subscribe();
    let mut object = pod.object.clone();
    loop {
        tokio::select! {
            result = objects.changed() => if result.is_err() { return },
            result = object.changed() => if result.is_err() { return },
        }
        // Several objects of one release change together; one look serves all.
        tokio::time::sleep(Duration::from_millis(50)).await;
        objects.mark_unchanged();
        if let Err(message) = prepare_volumes(&pod) {
            pod.event("", Severity::Warning, "FailedMount", &message);
        }
    }
}

/// `None` when the pod is to stop first; `Some(None)` with the process driver, which has no sandbox.
async fn start_sandbox(pod: &Arc<PodContext>) -> Option<Option<Sandbox>> {
    let mut stop = pod.stop.subscribe();
    loop {
        if stop.borrow().is_some() {
            return None;
        }
        match try_sandbox(pod).await {
            Ok(sandbox) => {
                pod.update_pod(|model| {
                    model.sandbox_ready = true;
                    model.pod_ip = pod.facts().pod_ip;
                });
                return Some(sandbox);
            }
            Err(message) => {
                pod.event(
                    "",
                    Severity::Warning,
                    "FailedCreatePodSandBox",
                    &format!("Failed to create pod sandbox: {message}"),
                );
            }
        }
        tokio::select! {
            _ = stop.wait_for(Option::is_some) => return None,
            () = tokio::time::sleep(RETRY) => {}
        }
    }
}

async fn try_sandbox(pod: &Arc<PodContext>) -> Result<Option<Sandbox>, String> {
    let object = pod.object();
    let spec = object.spec.as_ref().ok_or("the pod has no spec")?;
    for (asked, what) in [
        (spec.host_pid, "hostPID"),
        (spec.host_ipc, "hostIPC"),
        (spec.share_process_namespace, "shareProcessNamespace"),
    ] {
        if asked == Some(true) {
            return Err(format!("{what} is not supported by this node"));
        }
    }
    let host_network = spec.host_network == Some(true);
    let address = if host_network {
        pod.node.host_address
    } else {
        pod.node
            .addresses
            .lock()
            .allocate()
            .map_err(|error| format!("allocating an address: {error}"))?
            .ok_or("no address is free")?
    };
    let hostname = environment::hostname(&object);
    if let Err(error) = write_system_files(pod, &object, &hostname, address) {
        if !host_network {
            pod.node.addresses.lock().release(address);
        }
        return Err(format!("writing the pod's /etc files: {error}"));
    }
    let sandbox = if pod.node.namespaces {
        let sandbox = SandboxSpec {
            hostname,
            address: (!host_network).then_some(address),
        };
        match Sandbox::start(&sandbox).await {
            Ok(sandbox) => Some(sandbox),
            Err(error) => {
                if !host_network {
                    pod.node.addresses.lock().release(address);
                }
                return Err(error.to_string());
            }
        }
    } else {
        pod.event("", Severity::Normal, "NotIsolated", "This machine does not allow namespaces: containers are plain processes without isolation; they must listen on $(POD_IP)");
        None
    };
    *pod.sandbox.lock() = sandbox.as_ref().map(Sandbox::pid);
    *pod.address.lock() = Some(address);
    Ok(sandbox)
}

fn write_system_files(
    pod: &PodContext,
    object: &Pod,
    hostname: &str,
    address: Ipv4Addr,
) -> std::io::Result<()> {
    let spec = object.spec.as_ref();
    let directory = pod.directory.join("etc");
    std::fs::create_dir_all(&directory)?;
    let mut hosts = "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n".to_owned();
    let subdomain = spec
        .and_then(|spec| spec.subdomain.as_deref())
        .filter(|subdomain| !subdomain.is_empty());
    match subdomain {
        Some(subdomain) => hosts.push_str(&format!(
            "{address}\t{hostname}.{subdomain}.{}.svc.cluster.local\t{hostname}\n",
            pod.namespace
        )),
        None => hosts.push_str(&format!("{address}\t{hostname}\n")),
    }
    for alias in spec
        .iter()
        .flat_map(|spec| spec.host_aliases.iter().flatten())
    {
        let names = alias.hostnames.clone().unwrap_or_default().join("\t");
        hosts.push_str(&format!("{}\t{names}\n", alias.ip));
    }
    std::fs::write(directory.join("hosts"), hosts)?;
    std::fs::write(directory.join("hostname"), format!("{hostname}\n"))?;
    let mut resolv = String::new();
    let policy = spec
        .and_then(|spec| spec.dns_policy.as_deref())
        .unwrap_or("ClusterFirst");
    let own = spec.and_then(|spec| spec.dns_config.as_ref());
    let mut searches = Vec::new();
    if policy != "None" {
        resolv.push_str(&format!("nameserver {}\n", network::GATEWAY));
        searches = vec![
            format!("{}.svc.cluster.local", pod.namespace),
            "svc.cluster.local".to_owned(),
            "cluster.local".to_owned(),
        ];
    }
    let mut options = if policy == "None" {
        Vec::new()
    } else {
        vec!["ndots:5".to_owned()]
    };
    if let Some(own) = own {
        for server in own.nameservers.iter().flatten() {
            resolv.push_str(&format!("nameserver {server}\n"));
        }
        searches.extend(own.searches.iter().flatten().cloned());
        for option in own.options.iter().flatten() {
            let name = option.name.clone().unwrap_or_default();
            options.push(
                option
                    .value
                    .as_ref()
                    .map_or_else(|| name.clone(), |value| format!("{name}:{value}")),
            );
        }
    }
    if !searches.is_empty() {
        resolv.push_str(&format!("search {}\n", searches.join(" ")));
    }
    if !options.is_empty() {
        resolv.push_str(&format!("options {}\n", options.join(" ")));
    }
    std::fs::write(directory.join("resolv.conf"), resolv)
}

async fn run_containers(pod: &Arc<PodContext>) {
    let object = pod.object();
    let Some(spec) = &object.spec else {
        return;
    };
    let mut sidecars = JoinSet::new();
    let mut initialized = true;
    for container in spec.init_containers.iter().flatten() {
        let kind = kind_of_init(container);
        let running = lifecycle::run(pod.clone(), container.clone(), kind);
        if kind == Kind::Sidecar {
            sidecars.spawn(running);
            initialized = wait_until_started(pod, &container.name).await;
        } else {
            initialized = running.await == Some(0);
        }
        if !initialized || pod.stop.borrow().is_some() {
            initialized = false;
            break;
        }
    }
    if initialized {
        pod.update_pod(|model| {
            model.initialized = true;
            for container in &mut model.containers {
                if let State::Waiting { reason, .. } = &mut container.state
                    && reason == "PodInitializing"
                {
                    "ContainerCreating".clone_into(reason);
                }
            }
        });
        let mut containers = JoinSet::new();
        for container in &spec.containers {
            if pod.with(&container.name, |model| {
                matches!(model.state, State::Terminated(_))
            }) {
                continue;
            }
            containers.spawn(lifecycle::run(pod.clone(), container.clone(), Kind::Main));
        }
        while containers.join_next().await.is_some() {}
    }
    // Sidecars have what is left of the grace period, or all of it when the pod ends by itself.
    let grace = spec
        .termination_grace_period_seconds
        .and_then(|grace| u64::try_from(grace).ok())
        .unwrap_or(30);
    let deadline = pod
        .stop
        .borrow()
        .unwrap_or_else(|| Instant::now() + Duration::from_secs(grace));
    let _ = pod.stop_sidecars.send(Some(deadline));
    while sidecars.join_next().await.is_some() {}
}

/// False when the pod is to stop first.
async fn wait_until_started(pod: &Arc<PodContext>, name: &str) -> bool {
    let mut stop = pod.stop.subscribe();
    loop {
        if pod.with(name, |model| model.started) {
            return true;
        }
        tokio::select! {
            _ = stop.wait_for(Option::is_some) => return false,
            // The startup of a sidecar is a matter of milliseconds to seconds; a look at an in-memory flag costs nothing.
            () = tokio::time::sleep(Duration::from_millis(5)) => {}
        }
    }
}

async fn enforce_deadline(pod: Arc<PodContext>) {
    let object = pod.object();
    let Some(seconds) = object
        .spec
        .as_ref()
        .and_then(|spec| spec.active_deadline_seconds)
        .and_then(|seconds| u64::try_from(seconds).ok())
    else {
        return;
    };
    let started = pod
        .model
        .lock()
        .started_at
        .parse::<jiff::Timestamp>()
        .unwrap_or_else(|_| jiff::Timestamp::now());
    let elapsed =
        u64::try_from(jiff::Timestamp::now().duration_since(started).as_secs()).unwrap_or(0);
    tokio::time::sleep(Duration::from_secs(seconds.saturating_sub(elapsed))).await;
    let message = "Pod was active on the node longer than the specified deadline";
    pod.event("", Severity::Normal, "DeadlineExceeded", message);
    pod.update_pod(|model| {
        model.failed = Some(("DeadlineExceeded".to_owned(), message.to_owned()));
    });
    let grace = object
        .spec
        .as_ref()
        .and_then(|spec| spec.termination_grace_period_seconds)
        .unwrap_or(30);
    pod.stop_by(Instant::now() + Duration::from_secs(u64::try_from(grace).unwrap_or(0)));
}

/// Turns the API server's wish to delete into a deadline.
async fn watch_deletion(pod: Arc<PodContext>) {
    let mut object = pod.object.clone();
    let mut announced = false;
    loop {
        let current = object.borrow_and_update().clone();
        if current.metadata.deletion_timestamp.is_some() {
            let grace = current
                .metadata
                .deletion_grace_period_seconds
                .and_then(|grace| u64::try_from(grace).ok())
                .unwrap_or(0);
            if !announced {
                announced = true;
                for container in pod.live.lock().keys() {
                    pod.event(
                        container,
                        Severity::Normal,
                        "Killing",
                        &format!("Stopping container {container}"),
                    );
                }
                pod.update_pod(|model| model.stopping = true);
            }
            pod.stop_by(Instant::now() + Duration::from_secs(grace));
        }
        if object.changed().await.is_err() {
            // The object is gone: nobody waits for us. At a shutdown the node has set the time itself.
            if !pod.node.is_shutting_down() {
                pod.stop_by(Instant::now());
            }
            return;
        }
    }
}

async fn write_status(pod: Arc<PodContext>) {
    let mut object = pod.object.clone();
    loop {
        if !pod.node.is_shutting_down() && !flush_status(&pod) {
            // The API server refused; the next change or this delay tries again.
            tokio::time::sleep(Duration::from_secs(1)).await;
            pod.dirty.notify_one();
        }
        tokio::select! {
            () = pod.dirty.notified() => {}
            // Others may have set a readiness gate, or overwritten the status.
            changed = object.changed() => if changed.is_err() { return },
        }
    }
}

/// Writes the status if it differs. False when that failed for a reason that may pass.
fn flush_status(pod: &PodContext) -> bool {
    // Somebody else may write between our read and our write, seldom twice in a row.
    for _ in 0..5 {
        let Ok(current) = pod.node.api.get(&PODS, &pod.namespace, &pod.name) else {
            return true;
        };
        if current["metadata"]["uid"] != pod.uid.as_str() {
            return true;
        }
        let object = super::lookup::typed::<Pod>(&current).map_or_else(|| pod.object(), Arc::new);
        let model = pod.model.lock().clone();
        let mut wanted = render(&object, &model, &current["status"], &now());
        let stale_address = !current["status"]["podIP"].is_null() && wanted.get("podIP").is_none();
        if contains(&current["status"], &wanted) && !stale_address {
            return true;
        }
        // A merge patch only takes away what it names.
        for gone in ["podIP", "podIPs", "reason", "message", "nominatedNodeName"] {
            if wanted.get(gone).is_none() && current["status"].get(gone).is_some() {
                wanted[gone] = Value::Null;
            }
        }
        let version = &current["metadata"]["resourceVersion"];
        let patch =
            Patch::Merge(json!({"metadata": {"resourceVersion": version}, "status": wanted}));
        let result = pod.node.api.patch(
            &PODS,
            &pod.namespace,
            &pod.name,
            Subresource::Status,
            patch,
            &options(),
        );
        match result {
            Ok(_) => return true,
            Err(error) if error.code == 404 => return true,
            Err(error) if error.code == 409 => {}
            Err(error) => {
                tracing::warn!(pod = %pod.full_name(), %error, "pod status not written");
                return false;
            }
        }
    }
    false
}

/// True when writing `wanted` over `current` would change nothing.
fn contains(current: &Value, wanted: &Value) -> bool {
    match (current, wanted) {
        (Value::Object(current), Value::Object(wanted)) => {
            wanted.iter().all(|(key, wanted)| match current.get(key) {
                Some(current) if key == "state" || key == "lastState" => current == wanted,
                Some(current) => contains(current, wanted),
                // An empty object or list may not be stored at all.
                None => {
                    wanted.as_object().is_some_and(serde_json::Map::is_empty)
                        || wanted.as_array().is_some_and(Vec::is_empty)
                }
            })
        }
        (Value::Array(current), Value::Array(wanted))
            if wanted.iter().all(|item| item.get("type").is_some()) =>
        {
            wanted.iter().all(|wanted| {
                current.iter().any(|current| {
                    current["type"] == wanted["type"]
                        && contains(current, wanted)
                        && ["reason", "message"]
                            .iter()
                            .all(|key| current.get(key) == wanted.get(key))
                })
            })
        }
        (Value::Array(current), Value::Array(wanted)) => {
            current.len() == wanted.len()
                && current
                    .iter()
                    .zip(wanted)
                    .all(|(current, wanted)| contains(current, wanted))
        }
        _ => current == wanted,
    }
}

fn remove_directory(directory: &Path) -> std::io::Result<()> {
    if !directory.exists() {
        return Ok(());
    }
    volumes::remove(&directory.join("volumes"))?;
    std::fs::remove_dir_all(directory)
}

/// Kills what still runs, without grace; the last step of a node's shutdown.
pub(crate) fn kill_now(pod: &PodContext) {
    for live in pod.live.lock().values() {
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(live.pid), Signal::SIGKILL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_node_restart_cuts_off() {
        for (kind, code, cut_off) in [
            (Kind::Main, Some(0), true),
            (Kind::Main, Some(137), true),
            (Kind::Main, None, false),
            (Kind::Init, Some(0), false),
            (Kind::Init, Some(137), true),
            (Kind::Sidecar, Some(137), false),
        ] {
            let model = ContainerModel {
                name: "c".to_owned(),
                image: String::new(),
                kind,
                state: State::waiting("ContainerCreating", ""),
                last: code.map(|code| Termination {
                    code,
                    reason: String::new(),
                    message: String::new(),
                    started_at: None,
                    finished_at: String::new(),
                    container_id: String::new(),
                }),
                ready: false,
                started: false,
                restarts: 0,
                image_id: String::new(),
                container_id: String::new(),
            };
            assert_eq!(was_cut_off(&model), cut_off, "{kind:?} {code:?}");
        }
    }
}
