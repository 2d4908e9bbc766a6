//! One container of a pod from its first start to its last end: image, environment, start, probes, hooks, restart with back-off, stop.
//!
//! Deviation from a kubelet: the back-off begins at 1 s and ends at 30 s (10 s and 5 min there), and is forgotten after a minute of
//! running (10 min there): a person waits in front of this cluster.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use k8s_openapi::api::core::v1::{Container as Spec, Pod, Probe, SecurityContext};
use nix::sys::signal::Signal;
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::Instant,
};

use super::{
    container::{Container, ContainerSpec, DEFAULT_CAPABILITIES, Identity, Streams, capabilities},
    environment,
    events::Severity,
    exec::{Exec as ExecProcess, ExecSpec},
    images::Image,
    logs::{self, Log, Stream},
    pod::{Live, PodContext},
    probes::{self, ProbeKind, Target, Verdict},
    process,
    rootfs::{Isolation, Mount},
    status::{Kind, State, Termination},
};
use crate::api::now;

const BACK_OFF_FIRST: Duration = Duration::from_secs(1);
const BACK_OFF_LONGEST: Duration = Duration::from_secs(30);
const BACK_OFF_FORGOTTEN: Duration = Duration::from_secs(60);
/// A kubelet's bound for a termination message.
const MESSAGE_LIMIT: usize = 4096;

/// Delay before the next start, as a kubelet counts: none at first, then doubling.
#[derive(Debug, Default)]
struct BackOff(Option<Duration>);

impl BackOff {
    fn next(&mut self) -> Duration {
        let delay = self.0;
        self.0 = Some(delay.map_or(BACK_OFF_FIRST, |delay| (delay * 2).min(BACK_OFF_LONGEST)));
        delay.unwrap_or(Duration::ZERO)
    }
}

/// Why a start did not happen.
enum Refusal {
    /// Shown as a waiting reason; tried again.
    Waiting {
        reason: &'static str,
        back_off: &'static str,
        message: String,
    },
}

/// Runs the container until it will not be started again. The last exit code; `None` when it was stopped before it ever ran.
pub(crate) async fn run(pod: Arc<PodContext>, mut spec: Spec, kind: Kind) -> Option<i32> {
    let mut stop = match kind {
        Kind::Sidecar => pod.stop_sidecars.subscribe(),
        Kind::Init | Kind::Main => pod.stop.subscribe(),
    };
    let policy = match kind {
        Kind::Sidecar => "Always".to_owned(),
        // An init container that succeeds is done whatever the pod's policy says.
        Kind::Init if pod.restart_policy() == "Always" => "OnFailure".to_owned(),
        Kind::Init | Kind::Main => pod.restart_policy(),
    };
    let mut back_off = BackOff::default();
    let mut code = None;
    loop {
        if stop.borrow().is_some() {
            return code;
        }
        if let Some(image) = image_of(&pod.object(), &spec.name) {
            pod.update(&spec.name, |model| model.image.clone_from(&image));
            spec.image = Some(image);
        }
        let began = Instant::now();
        match start(&pod, &spec).await {
            Ok(started) => {
                let end = Box::pin(attend(&pod, &spec, started, &mut stop)).await;
                code = Some(end.code);
                pod.update(&spec.name, |model| {
                    model.state = State::Terminated(end.clone());
                    model.ready = false;
                    model.started = false;
                });
            }
            Err(Refusal::Waiting {
                reason,
                back_off: later,
                message,
            }) => {
                pod.event(
                    &spec.name,
                    Severity::Warning,
                    "Failed",
                    &format!("Error: {reason}: {message}"),
                );
                pod.update(&spec.name, |model| {
                    model.state = State::waiting(reason, &message);
                });
                let delay = back_off.next().max(BACK_OFF_FIRST);
                // Whatever is missing may appear before the delay is over.
                let mut objects = pod.node.objects.subscribe();
                objects.mark_unchanged();
                tokio::select! {
                    () = stopped(&mut stop) => return code,
                    _ = objects.changed() => {}
                    () = tokio::time::sleep(delay / 2) => {
                        pod.update(&spec.name, |model| model.state = State::waiting(later, &message));
                        tokio::select! {
                            () = stopped(&mut stop) => return code,
                            _ = objects.changed() => {}
                            () = tokio::time::sleep(delay / 2) => {}
                        }
                    }
                }
                continue;
            }
        }
        let again = match policy.as_str() {
            "Always" => true,
            "OnFailure" => code != Some(0),
            _ => false,
        };
        // A changed image is run whatever the policy says, as a kubelet does.
        let changed = kind != Kind::Init && image_of(&pod.object(), &spec.name) != spec.image;
        if !(again || changed) || stop.borrow().is_some() {
            return code;
        }
        if began.elapsed() >= BACK_OFF_FORGOTTEN {
            back_off = BackOff::default();
        }
        let delay = back_off.next();
        if !delay.is_zero() {
            let message = format!(
                "back-off {}s restarting failed container={} pod={}",
                delay.as_secs(),
                spec.name,
                pod.full_name()
            );
            pod.event(
                &spec.name,
                Severity::Warning,
                "BackOff",
                &format!(
                    "Back-off restarting failed container {} in pod {}",
                    spec.name,
                    pod.full_name()
                ),
            );
            pod.update(&spec.name, |model| {
                if let State::Terminated(end) = &model.state {
                    model.last = Some(end.clone());
                }
                model.state = State::waiting("CrashLoopBackOff", message);
            });
            tokio::select! {
                () = stopped(&mut stop) => {
                    // The end that is known is more useful than the wait that was cut short.
                    pod.update(&spec.name, |model| {
                        if let Some(last) = model.last.clone() {
                            model.state = State::Terminated(last);
                        }
                    });
                    return code;
                }
                () = tokio::time::sleep(delay) => {}
            }
        }
        pod.update(&spec.name, |model| {
            model.restarts += 1;
            if let State::Terminated(end) = &model.state {
                model.last = Some(end.clone());
            }
        });
    }
}

async fn stopped(stop: &mut watch::Receiver<Option<Instant>>) {
    // An error means the pod's context is gone, which is a stop too.
    let _ = stop.wait_for(Option::is_some).await;
}

/// A container that has just been started, or failed to.
struct Started {
    container: Result<Container, String>,
    spec: ContainerSpec,
    log: Arc<Log>,
    pumps: JoinSet<()>,
    message_file: PathBuf,
    id: String,
    at: String,
}

async fn start(pod: &Arc<PodContext>, spec: &Spec) -> Result<Started, Refusal> {
    let name = spec.image.clone().unwrap_or_default();
    let image = pod.node.catalogue.resolve(&name).await.map_err(|message| {
        pod.event(
            &spec.name,
            Severity::Warning,
            "Failed",
            &format!("Failed to pull image {name:?}: {message}"),
        );
        Refusal::Waiting {
            reason: "ErrImagePull",
            back_off: "ImagePullBackOff",
            message,
        }
    })?;
    let pulled = image
        .note
        .clone()
        .unwrap_or_else(|| format!("Container image {name:?} already present on machine"));
    pod.event(&spec.name, Severity::Normal, "Pulled", &pulled);
    let directory = pod.directory.join("containers").join(&spec.name);
    let broken = |message: String| Refusal::Waiting {
        reason: "CreateContainerConfigError",
        back_off: "CreateContainerConfigError",
        message,
    };
    let built = build(pod, spec, &image, &directory).map_err(broken)?;
    let restarts = pod.with(&spec.name, |model| model.restarts);
    let failed = |error: std::io::Error| Refusal::Waiting {
        reason: "CreateContainerError",
        back_off: "CreateContainerError",
        message: error.to_string(),
    };
    prune_logs(&directory, restarts);
    let log = Log::create(&log_path(&directory, restarts)).map_err(failed)?;
    let message_file = directory.join("termination-log");
    std::fs::write(&message_file, "").map_err(failed)?;
    let id = format!("libretto://{}", uuid::Uuid::new_v4().simple());
    pod.event(
        &spec.name,
        Severity::Normal,
        "Created",
        &format!("Container created: {}", spec.name),
    );
    let (streams, stdin, mut pumps) = streams(spec, &log).map_err(failed)?;
    let container = Container::start(&built, streams)
        .await
        .map_err(|error| error.to_string());
    let at = now();
    match &container {
        Ok(container) => {
            pod.event(
                &spec.name,
                Severity::Normal,
                "Started",
                &format!("Container started: {}", spec.name),
            );
            let live = Live {
                pid: container.pid(),
                spec: built.clone(),
                log: log.clone(),
                stdin,
            };
            pod.live.lock().insert(spec.name.clone(), live);
        }
        Err(message) => {
            pumps.abort_all();
            pod.event(
                &spec.name,
                Severity::Warning,
                "Failed",
                &format!(
                    "Error: failed to start container {:?}: {message}",
                    spec.name
                ),
            );
        }
    }
    pod.update(&spec.name, |model| {
        model.image_id.clone_from(&image.id);
        model.container_id.clone_from(&id);
        if container.is_ok() {
            model.state = State::Running {
                started_at: at.clone(),
            };
            // With a postStart hook these wait for its end.
            let hook = spec
                .lifecycle
                .as_ref()
                .is_some_and(|lifecycle| lifecycle.post_start.is_some());
            model.started = spec.startup_probe.is_none() && !hook;
            model.ready = model.started && spec.readiness_probe.is_none();
        }
    });
    Ok(Started {
        container,
        spec: built,
        log,
        pumps,
        message_file,
        id,
        at,
    })
}

pub(crate) fn log_path(container_directory: &Path, restarts: i32) -> PathBuf {
    container_directory.join(format!("{restarts}.log"))
}

/// Keeps the log of the last start, for `kubectl logs --previous`.
fn prune_logs(directory: &Path, restarts: i32) {
    let Ok(entries) = std::fs::read_dir(directory) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let number = name
            .split('.')
            .next()
            .and_then(|number| number.parse::<i32>().ok());
        if name.contains(".log") && number.is_some_and(|number| number + 1 < restarts) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

type Stdin = Option<Arc<tokio::sync::Mutex<tokio::net::unix::pipe::Sender>>>;

/// Pipes into the log. A terminal is the container's own affair (`tty: true` gives it one, with output as one stream).
fn streams(spec: &Spec, log: &Arc<Log>) -> std::io::Result<(Streams, Stdin, JoinSet<()>)> {
    use nix::{fcntl::OFlag, unistd::pipe2};
    let mut pumps = JoinSet::new();
    if spec.tty == Some(true) {
        let (master, slave) = super::terminal::open()?;
        pumps.spawn(
            log.clone()
                .pump(Stream::Stdout, super::terminal::reader(master)?),
        );
        let streams = Streams {
            stdin: Some(slave.try_clone()?),
            stdout: slave.try_clone()?,
            stderr: slave,
            tty: true,
        };
        return Ok((streams, None, pumps));
    }
    let mut output = |stream| -> std::io::Result<_> {
        let (read, write) = pipe2(OFlag::O_CLOEXEC)?;
        let reader = tokio::net::unix::pipe::Receiver::from_owned_fd(read)?;
        pumps.spawn(log.clone().pump(stream, reader));
        Ok(write)
    };
    let (stdout, stderr) = (output(Stream::Stdout)?, output(Stream::Stderr)?);
    let mut stdin = None;
    let mut sender = None;
    if spec.stdin == Some(true) {
        let (read, write) = pipe2(OFlag::O_CLOEXEC)?;
        stdin = Some(read);
        let pipe = tokio::net::unix::pipe::Sender::from_owned_fd(write)?;
        sender = Some(Arc::new(tokio::sync::Mutex::new(pipe)));
    }
    let streams = Streams {
        stdin,
        stdout,
        stderr,
        tty: false,
    };
    Ok((streams, sender, pumps))
}

/// The plain specification for a container of a pod.
fn build(
    pod: &PodContext,
    spec: &Spec,
    image: &Image,
    directory: &Path,
) -> Result<ContainerSpec, String> {
    let object = pod.object();
    let env = environment::build(&object, spec, &image.env, &pod.facts(), &pod.node.lookup)?;
    let values = env.iter().cloned().collect();
    let expanded = |list: &Option<Vec<String>>| {
        list.iter()
            .flatten()
            .map(|word| environment::expand(word, &values))
            .collect::<Vec<_>>()
    };
    let argv = image.argv(&expanded(&spec.command), &expanded(&spec.args));
    let working_dir = spec
        .working_dir
        .clone()
        .filter(|directory| !directory.is_empty())
        .unwrap_or_else(|| image.working_dir.clone());
    let mut mounts = pod.system_mounts();
    let message_path = spec
        .termination_message_path
        .as_deref()
        .filter(|path| !path.is_empty());
    std::fs::create_dir_all(directory)
        .map_err(|error| format!("creating {}: {error}", directory.display()))?;
    mounts.push(Mount {
        source: directory.join("termination-log"),
        sub_path: None,
        target: message_path.unwrap_or("/dev/termination-log").to_owned(),
        read_only: false,
    });
    mounts.extend(volume_mounts(pod, spec, &values)?);
    let context = spec.security_context.as_ref();
    let built = ContainerSpec {
        argv,
        env,
        working_dir,
        isolation: None,
        identity: identity(pod, &spec.name, context, image)?,
    };
    let Some(sandbox_pid) = pod.sandbox_pid() else {
        return process::substitute(built, &mounts, directory);
    };
    let mount_point = directory.join("root");
    std::fs::create_dir_all(&mount_point)
        .map_err(|error| format!("creating {}: {error}", mount_point.display()))?;
    Ok(ContainerSpec {
        isolation: Some(Isolation {
            sandbox_pid,
            mount_point,
            rootfs: image.rootfs(directory),
            mounts,
            read_only_root: context.and_then(|context| context.read_only_root_filesystem)
                == Some(true),
        }),
        ..built
    })
}

fn volume_mounts(
    pod: &PodContext,
    spec: &Spec,
    values: &std::collections::BTreeMap<String, String>,
) -> Result<Vec<Mount>, String> {
    let volumes = pod.volumes.lock();
    let mut mounts = Vec::new();
    for mount in spec.volume_mounts.iter().flatten() {
        let (source, projected) = volumes.get(&mount.name).ok_or_else(|| {
            format!(
                "volumeMounts names volume {:?}, which the pod does not have",
                mount.name
            )
        })?;
        let sub_path = match (&mount.sub_path_expr, &mount.sub_path) {
            (Some(expression), _) => Some(environment::expand(expression, values)),
            (None, sub_path) => sub_path.clone(),
        }
        .filter(|path| !path.is_empty());
        if let Some(sub_path) = &sub_path {
            if Path::new(sub_path)
                .components()
                .any(|part| !matches!(part, std::path::Component::Normal(_)))
            {
                return Err(format!(
                    "subPath {sub_path:?} must be relative and without .."
                ));
            }
            let full = source.join(sub_path);
            // A missing subPath of a writable volume becomes a directory, as a kubelet makes it.
            if !*projected && full.symlink_metadata().is_err() {
                std::fs::create_dir_all(&full)
                    .map_err(|error| format!("creating subPath {sub_path:?}: {error}"))?;
            }
        }
        mounts.push(Mount {
            source: source.clone(),
            sub_path,
            target: mount.mount_path.clone(),
            read_only: *projected || mount.read_only == Some(true),
        });
    }
    Ok(mounts)
}

fn identity(
    pod: &PodContext,
    container: &str,
    context: Option<&SecurityContext>,
    image: &Image,
) -> Result<Identity, String> {
    if context.and_then(|context| context.privileged) == Some(true) {
        return Err("privileged containers are not run on this node".to_owned());
    }
    let added = context.and_then(|context| context.capabilities.as_ref());
    let list = |names: Option<&Vec<String>>| names.cloned().unwrap_or_default();
    let set = match added {
        Some(change) => capabilities(&list(change.add.as_ref()), &list(change.drop.as_ref()))?,
        None => DEFAULT_CAPABILITIES,
    };
    let object = pod.object();
    let general = object
        .spec
        .as_ref()
        .and_then(|spec| spec.security_context.as_ref());
    let number = |id: Option<i64>| id.and_then(|id| u32::try_from(id).ok());
    let asked = number(context.and_then(|context| context.run_as_user))
        .or_else(|| number(general.and_then(|general| general.run_as_user)));
    let user = asked.or(image.user);
    let group = number(context.and_then(|context| context.run_as_group))
        .or_else(|| number(general.and_then(|general| general.run_as_group)));
    let non_root = context
        .and_then(|context| context.run_as_non_root)
        .or_else(|| general.and_then(|general| general.run_as_non_root));
    if non_root == Some(true) && user == Some(0) {
        return Err(format!(
            "container's runAsUser breaks non-root policy (pod: {:?}, container: {container})",
            pod.full_name()
        ));
    }
    let isolated = pod.sandbox_pid().is_some();
    if !isolated || !super::many_ids() {
        let ignored = [
            ("runAsUser", asked),
            ("runAsGroup", group),
            (
                "fsGroup",
                number(general.and_then(|general| general.fs_group)),
            ),
            ("runAsNonRoot", (non_root == Some(true)).then_some(1)),
        ]
        .into_iter()
        // Root is what the only user appears as.
        .filter(|(_, value)| value.is_some_and(|value| value != 0))
        .map(|(name, _)| name)
        .collect::<Vec<_>>();
        if !ignored.is_empty() {
            pod.event(
                container,
                Severity::Warning,
                "SecurityContextIgnored",
                &not_honoured(&ignored, isolated),
            );
        }
    }
    if !isolated {
        return Ok(Identity::default());
    }
    if !super::many_ids() {
        // The only mapped id is ours; it appears as root inside.
        return Ok(Identity {
            capabilities: Some(set),
            ..Identity::default()
        });
    }
    let mut supplementary_groups = general
        .and_then(|general| general.supplemental_groups.clone())
        .unwrap_or_default()
        .into_iter()
        .filter_map(|group| u32::try_from(group).ok())
        .collect::<Vec<_>>();
    supplementary_groups.extend(number(general.and_then(|general| general.fs_group)));
    // runAsNonRoot without a number: images of other machines name a user, ours have none. nobody is the honest choice.
    let user = user.or_else(|| (non_root == Some(true)).then_some(65534));
    Ok(Identity {
        group: group.or_else(|| user.map(|_| 0)),
        user,
        supplementary_groups,
        capabilities: Some(set),
    })
}

fn not_honoured(fields: &[&str], isolated: bool) -> String {
    let what = if isolated {
        "the cluster was started by an ordinary user, so only one user id exists: the container runs as that user and sees itself as root; start the cluster as root to have it honoured"
    } else {
        "containers are plain processes and run as the user who started the cluster"
    };
    format!(
        "securityContext {} cannot be honoured: {what}",
        fields.join(", ")
    )
}

/// Runs commands for probes and hooks.
struct InContainer {
    spec: ContainerSpec,
    pid: i32,
}

impl probes::Exec for InContainer {
    async fn exec(&self, command: &[String], limit: Duration) -> Result<(i32, String), String> {
        let spec = ExecSpec {
            container_pid: self.pid,
            argv: process::substitute_words(&self.spec, command),
            env: self.spec.env.clone(),
            working_dir: self.spec.working_dir.clone(),
            identity: self.spec.identity.clone(),
            isolated: self.spec.isolation.is_some(),
        };
        run_command(&spec, limit).await
    }
}

/// Runs a command to its end, keeping at most `OUTPUT` bytes of what it says.
async fn run_command(spec: &ExecSpec, limit: Duration) -> Result<(i32, String), String> {
    use tokio::io::AsyncReadExt as _;
    /// An event shows a kilobyte; the rest is read and dropped so that the command does not block.
    const OUTPUT: usize = 16 << 10;
    let failed = |error: std::io::Error| error.to_string();
    let (read, write) =
        nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).map_err(|errno| errno.to_string())?;
    let streams = Streams {
        stdin: None,
        stdout: write.try_clone().map_err(failed)?,
        stderr: write,
        tty: false,
    };
    let mut reader = tokio::net::unix::pipe::Receiver::from_owned_fd(read).map_err(failed)?;
    let mut process = ExecProcess::start(spec, streams).await.map_err(failed)?;
    let run = async {
        let mut text = Vec::new();
        let mut buffer = [0; 4096];
        loop {
            tokio::select! {
                count = reader.read(&mut buffer) => match count {
                    Ok(0) | Err(_) => break,
                    Ok(count) => {
                        let room = OUTPUT.saturating_sub(text.len()).min(count);
                        text.extend_from_slice(&buffer[..room]);
                    }
                },
                // A background child may hold the pipe open for ever; the command's own end is what counts.
                code = process.wait() => {
                    if let Ok(Ok(count)) = tokio::time::timeout(Duration::from_millis(20), reader.read(&mut buffer)).await {
                        let room = OUTPUT.saturating_sub(text.len()).min(count);
                        text.extend_from_slice(&buffer[..room]);
                    }
                    return (code, text);
                }
            }
        }
        (process.wait().await, text)
    };
    let outcome = tokio::time::timeout(limit, run).await;
    match outcome {
        Ok((code, text)) => Ok((code, String::from_utf8_lossy(&text).into_owned())),
        Err(_) => {
            process.kill();
            Err(format!("command timed out after {limit:?}"))
        }
    }
}

/// From the start to the end of one run.
async fn attend(
    pod: &Arc<PodContext>,
    spec: &Spec,
    started: Started,
    stop: &mut watch::Receiver<Option<Instant>>,
) -> Termination {
    let Started {
        container,
        spec: built,
        log,
        mut pumps,
        message_file,
        id,
        at,
    } = started;
    let mut container = match container {
        Ok(container) => container,
        Err(message) => {
            log.end();
            return Termination {
                code: 128,
                reason: "StartError".to_owned(),
                message,
                started_at: None,
                finished_at: now(),
                container_id: id,
            };
        }
    };
    let exec = InContainer {
        spec: built,
        pid: container.pid(),
    };
    let target = Target {
        address: pod.probe_address(),
        container: spec,
        exec: &exec,
    };
    let (unhealthy, mut kill) = mpsc::channel(4);
    let object = pod.object();
    let grace = object
        .spec
        .as_ref()
        .and_then(|spec| spec.termination_grace_period_seconds)
        .unwrap_or(30);
    let code = {
        let watched = watch_health(pod, spec, &target, unhealthy);
        tokio::pin!(watched);
        tokio::select! {
            code = container.wait() => code,
            () = stopped(stop) => {
                let deadline = stop.borrow().unwrap_or_else(Instant::now);
                // Probes go on while the container drains: readiness is how clients learn of it.
                tokio::select! {
                    code = shut_down(pod, spec, &target, &mut container, deadline) => code,
                    () = &mut watched => unreachable_end(),
                }
            }
            Some((reason, own_grace)) = kill.recv() => {
                pod.event(&spec.name, Severity::Normal, "Killing", &reason);
                let seconds = u64::try_from(own_grace.unwrap_or(grace)).unwrap_or(0);
                let deadline = Instant::now() + Duration::from_secs(seconds);
                pod.update(&spec.name, |model| model.ready = false);
                shut_down(pod, spec, &target, &mut container, deadline).await
            }
            () = image_changed(pod, spec) => {
                let reason = format!("Container {} definition changed, will be restarted", spec.name);
                pod.event(&spec.name, Severity::Normal, "Killing", &reason);
                let deadline = Instant::now() + Duration::from_secs(u64::try_from(grace).unwrap_or(0));
                pod.update(&spec.name, |model| model.ready = false);
                shut_down(pod, spec, &target, &mut container, deadline).await
            }
            () = &mut watched => unreachable_end(),
        }
    };
    pod.live.lock().remove(&spec.name);
    // All processes of the container are gone, so the pipes are at their end; the bound is for what escaped a plain process.
    let _ = tokio::time::timeout(Duration::from_secs(2), async {
        while pumps.join_next().await.is_some() {}
    })
    .await;
    log.end();
    let mut message = read_message(&message_file);
    let fallback = spec.termination_message_policy.as_deref() == Some("FallbackToLogsOnError");
    if message.is_empty() && code != 0 && fallback {
        // A kubelet's bounds: 80 lines or 2048 bytes.
        message = logs::last_lines(log.path(), 80, 2048);
    }
    Termination {
        code,
        reason: if code == 0 { "Completed" } else { "Error" }.to_owned(),
        message,
        started_at: Some(at),
        finished_at: now(),
        container_id: id,
    }
}

/// The image the pod asks for now; the only field of a container that may change.
fn image_of(pod: &Pod, container: &str) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    spec.containers
        .iter()
        .chain(spec.init_containers.iter().flatten())
        .find(|one| one.name == container)?
        .image
        .clone()
}

/// Resolves when the pod asks for another image than this run has.
async fn image_changed(pod: &PodContext, spec: &Spec) {
    let mut object = pod.follow();
    let changed = object
        .wait_for(|pod| image_of(pod, &spec.name) != spec.image)
        .await
        .is_ok();
    if !changed {
        // The object is gone; the stop follows from elsewhere.
        std::future::pending::<()>().await;
    }
}

/// `watch_health` never ends by itself; the type system cannot know.
fn unreachable_end() -> i32 {
    137
}

fn read_message(file: &Path) -> String {
    let bytes = std::fs::read(file).unwrap_or_default();
    String::from_utf8_lossy(&bytes[..bytes.len().min(MESSAGE_LIMIT)]).into_owned()
}

/// preStop, SIGTERM, and SIGKILL at the deadline.
async fn shut_down(
    pod: &Arc<PodContext>,
    spec: &Spec,
    target: &Target<'_, InContainer>,
    container: &mut Container,
    deadline: Instant,
) -> i32 {
    let hook = spec
        .lifecycle
        .as_ref()
        .and_then(|lifecycle| lifecycle.pre_stop.as_ref());
    if let Some(hook) = hook
        && deadline > Instant::now()
    {
        tokio::select! {
            result = tokio::time::timeout_at(deadline, target.handle(hook)) => {
                let failed = match result {
                    Ok(Ok(())) => None,
                    Ok(Err(message)) => Some(message),
                    Err(_) => Some("it was not done within the grace period".to_owned()),
                };
                if let Some(message) = failed {
                    pod.event(&spec.name, Severity::Warning, "FailedPreStopHook", &format!("PreStopHook failed: {message}"));
                }
            }
            code = container.wait() => return code,
        }
    }
    // Even a used-up grace period leaves the program a moment, as a kubelet does (2 s there).
    let deadline = if hook.is_some() {
        deadline.max(Instant::now() + Duration::from_secs(2))
    } else {
        deadline
    };
    container.signal(Signal::SIGTERM);
    if let Ok(code) = tokio::time::timeout_at(deadline, container.wait()).await {
        return code;
    }
    container.signal(Signal::SIGKILL);
    container.wait().await
}

/// Hooks and probes of a running container. Never ends; the container's end drops it.
async fn watch_health(
    pod: &Arc<PodContext>,
    spec: &Spec,
    target: &Target<'_, InContainer>,
    kill: mpsc::Sender<(String, Option<i64>)>,
) {
    if let Some(hook) = spec
        .lifecycle
        .as_ref()
        .and_then(|lifecycle| lifecycle.post_start.as_ref())
    {
        let Err(message) = target.handle(hook).await else {
            pod.update(&spec.name, |model| {
                model.started = spec.startup_probe.is_none();
                model.ready = model.started && spec.readiness_probe.is_none();
            });
            return probe_health(pod, spec, target, kill).await;
        };
        pod.event(
            &spec.name,
            Severity::Warning,
            "FailedPostStartHook",
            &format!("PostStartHook failed: {message}"),
        );
        let _ = kill.send(("FailedPostStartHook".to_owned(), None)).await;
        return std::future::pending().await;
    }
    probe_health(pod, spec, target, kill).await;
}

/// Probes; never ends either.
async fn probe_health(
    pod: &Arc<PodContext>,
    spec: &Spec,
    target: &Target<'_, InContainer>,
    kill: mpsc::Sender<(String, Option<i64>)>,
) {
    if let Some(probe) = &spec.startup_probe {
        probes::run(ProbeKind::Startup, probe, target, |verdict| match verdict {
            Verdict::Healthy => {
                pod.update(&spec.name, |model| {
                    model.started = true;
                    model.ready = spec.readiness_probe.is_none();
                });
                false
            }
            verdict => kill_when_unhealthy(pod, spec, ProbeKind::Startup, probe, verdict, &kill),
        })
        .await;
        if !pod.with(&spec.name, |model| model.started) {
            std::future::pending::<()>().await;
        }
    }
    let readiness = async {
        if let Some(probe) = &spec.readiness_probe {
            probes::run(ProbeKind::Readiness, probe, target, |verdict| {
                match verdict {
                    Verdict::Healthy => pod.update(&spec.name, |model| model.ready = true),
                    Verdict::Failing(message) => failure(pod, spec, ProbeKind::Readiness, &message),
                    Verdict::Unhealthy(message) => {
                        failure(pod, spec, ProbeKind::Readiness, &message);
                        pod.update(&spec.name, |model| model.ready = false);
                    }
                }
                true
            })
            .await;
        }
    };
    let liveness = async {
        if let Some(probe) = &spec.liveness_probe {
            probes::run(
                ProbeKind::Liveness,
                probe,
                target,
                |verdict| match verdict {
                    Verdict::Healthy => true,
                    verdict => {
                        kill_when_unhealthy(pod, spec, ProbeKind::Liveness, probe, verdict, &kill)
                    }
                },
            )
            .await;
        }
    };
    tokio::join!(readiness, liveness);
    std::future::pending::<()>().await;
}

fn failure(pod: &PodContext, spec: &Spec, kind: ProbeKind, message: &str) {
    pod.event(
        &spec.name,
        Severity::Warning,
        "Unhealthy",
        &format!("{} probe failed: {message}", kind.name()),
    );
}

/// False once the container is to be killed.
fn kill_when_unhealthy(
    pod: &PodContext,
    spec: &Spec,
    kind: ProbeKind,
    probe: &Probe,
    verdict: Verdict,
    kill: &mpsc::Sender<(String, Option<i64>)>,
) -> bool {
    match verdict {
        Verdict::Healthy => true,
        Verdict::Failing(message) => {
            failure(pod, spec, kind, &message);
            true
        }
        Verdict::Unhealthy(message) => {
            failure(pod, spec, kind, &message);
            let text = format!(
                "Container {} failed {} probe, will be restarted",
                spec.name,
                kind.name().to_lowercase()
            );
            // Full means that a kill is under way already.
            let _ = kill.try_send((text, probe.termination_grace_period_seconds));
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn back_off_doubles_to_its_limit() {
        let mut back_off = BackOff::default();
        let delays = (0..8)
            .map(|_| back_off.next().as_secs())
            .collect::<Vec<_>>();
        assert_eq!(delays, [0, 1, 2, 4, 8, 16, 30, 30]);
    }
}
