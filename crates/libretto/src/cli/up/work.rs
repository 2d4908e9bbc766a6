//! What `libretto up` does once it is where the pods will be: starts everything, shows how it goes, stays, and stops everything.

use std::{
    net::TcpListener,
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use kube::api::{ListParams, PatchParams};
use libretto_actions::kube::{CallError, Kube};
use libretto_api::object::Gvk;
use libretto_devcluster::node::Driver;
use libretto_mirror::ScopeMode;
use serde_json::Value;

use super::{
    Settings,
    blocker::{Sight, blocker, pod_state},
    demo, hints,
    local::LocalCluster,
};
use crate::{
    cli::{
        CliError,
        apply::{MANAGER, apply_one},
        connect::{Cluster, found_without_help},
        events,
        progress::{Display, Progress},
        run::{self, stop_signal},
    },
    installations::{self, Keeper},
    packages,
    process::Process,
    runtime::{Options, Runtime, StartError},
    share::Share,
};

/// How often the demo is looked at and the display redrawn. Eight pictures a second look alive; the lists behind them are local.
const LOOK_EVERY: Duration = Duration::from_millis(125);

/// Signals this close together are one request that came twice: timeout(1) tells a process and then its whole group. Nobody presses
/// Ctrl-C again as fast.
const SAME_REQUEST: Duration = Duration::from_millis(200);

const CLUSTER: usize = 0;
const OPERATORS: usize = 1;
const DEMO: usize = 2;
const PODS: usize = 3;
const HEALTHY: usize = 4;

/// The steps on the screen.
struct Stage {
    started: Instant,
    since: Timestamp,
    progress: Progress,
    display: Display,
}

impl Stage {
    fn new(demo: bool) -> Self {
        let titles = [
            "start the cluster",
            "install the operators",
            "create RedisCluster default/test",
            "start its pods",
            "become healthy",
        ];
        let shown = if demo { titles.len() } else { DEMO };
        Self {
            started: Instant::now(),
            since: Timestamp::now(),
            progress: Progress::new(&titles[..shown]),
            display: Display::new(),
        }
    }

    fn show(&mut self) {
        self.display.show(&self.progress, self.started.elapsed());
    }

    fn begin(&mut self, step: usize) {
        self.progress.begin(step, self.started.elapsed());
        self.show();
    }

    fn end(&mut self, step: usize, detail: &str) {
        self.progress.end(step, self.started.elapsed(), detail);
        self.show();
    }

    fn fail(&mut self, step: usize) {
        self.progress.fail(step, self.started.elapsed());
        self.show();
    }
}

pub(crate) async fn work(
    settings: Settings,
    listener: TcpListener,
    metrics: Option<TcpListener>,
    driver: Driver,
    warning: Option<String>,
) -> Result<(), CliError> {
    // The listener was bound while the program was still in the host's network, so that programs of the host reach it.
    let metrics = metrics.map(run::in_runtime).transpose()?;
    // Mistakes in a package are told before anything is started.
    let packages =
        packages::load(&settings.packages).map_err(|error| CliError::failed(error.to_string()))?;
    // Whoever asks twice does not want to wait for an orderly end; the pods end with this process in any case.
    tokio::spawn(async {
        if second_stop_signal().await.is_ok() {
            say("stopped at once");
            std::process::exit(130);
        }
    });
    let mut stage = Stage::new(settings.demo);
    if let Some(reason) = &warning {
        say(&format!("pods run as plain processes: {reason}"));
    }
    stage.begin(CLUSTER);
    let local = tokio::select! {
        local = LocalCluster::start(&settings, listener, driver) => local,
        () = stop_signal() => return Err(CliError::Interrupted),
    };
    let local = match local {
        Ok(local) => local,
        Err(error) => {
            stage.fail(CLUSTER);
            return Err(error);
        }
    };
    stage.end(CLUSTER, &local.server);
    let outcome = inside(&settings, &local, packages, metrics, &mut stage).await;
    if !settings.once {
        say("stopping the cluster … (Ctrl-C again stops at once)");
    }
    local.stop().await;
    if outcome.is_ok() && !settings.once {
        say("stopped; `libretto up` continues where you left it");
    }
    outcome
}

/// The second Ctrl-C or SIGTERM. One stream for both, so that none is lost in between.
async fn second_stop_signal() -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut first: Option<Instant> = None;
    loop {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        match first {
            None => first = Some(Instant::now()),
            Some(first) if first.elapsed() > SAME_REQUEST => return Ok(()),
            Some(_) => {}
        }
    }
}

/// Everything between the start and the stop of the cluster.
async fn inside(
    settings: &Settings,
    local: &LocalCluster,
    packages: Vec<Arc<libretto_engine::Compiled>>,
    metrics: Option<tokio::net::TcpListener>,
    stage: &mut Stage,
) -> Result<(), CliError> {
    stage.begin(OPERATORS);
    let names: Vec<String> = packages
        .iter()
        .map(|package| format!("{} {}", package.name(), package.version()))
        .collect();
    let options = Options {
        packages,
        scope: ScopeMode::Any,
        namespace: None,
        install: true,
        helm: settings.helm.clone(),
        loopback: true,
        allowed: None,
        rehearsal: None,
        share: Share::default(),
    };
    let process = Process::start(settings.alertmanagers.clone());
    let starting = async {
        let mut runtime = Runtime::start(&process, local.client.clone(), options).await?;
        runtime.decides_readiness();
        let keeper = Keeper::start(installations::Settings {
            process: Arc::clone(&process),
            config: local.config.clone(),
            helm: settings.helm.clone(),
            loopback: true,
            own: Some(Arc::clone(runtime.driver())),
            scope: ScopeMode::Any,
        })
        .await?;
        Ok::<_, StartError>((runtime, keeper))
    };
    let runtime = tokio::select! {
        runtime = starting => runtime,
        () = stop_signal() => return Err(CliError::Interrupted),
    };
    let (runtime, keeper) = match runtime {
        Ok(started) => started,
        Err(error) => {
            stage.fail(OPERATORS);
            return Err(CliError::failed(error.to_string()));
        }
    };
    stage.end(OPERATORS, &names.join(", "));
    if let Some(metrics) = metrics {
        run::serve_metrics(metrics, &process);
    }
    let outcome = tokio::select! {
        outcome = demonstrate(settings, local, &runtime, stage) => outcome,
        // Before the demo is healthy a stop is an interruption, after it the usual end.
        () = stop_signal() => Err(CliError::Interrupted),
    };
    if !settings.once {
        match &outcome {
            Ok(()) => {
                tell(settings, local).await;
                stop_signal().await;
            }
            // The cluster stays, so that one can see why.
            Err(error @ CliError::Failed { .. }) => {
                say("");
                say(&error.to_string());
                tell(settings, local).await;
                stop_signal().await;
            }
            Err(_) => {}
        }
    }
    keeper.stop().await;
    runtime.stop().await;
    outcome
}

async fn demonstrate(
    settings: &Settings,
    local: &LocalCluster,
    runtime: &Runtime,
    stage: &mut Stage,
) -> Result<(), CliError> {
    if !settings.demo {
        return Ok(());
    }
    let cluster = Cluster {
        kube: Kube::new(local.client.clone()),
        namespace: "default".to_owned(),
    };
    stage.begin(DEMO);
    let there = cluster
        .kube
        .get(&demo::reference())
        .await
        .map_err(|error| CliError::call("read the demo", &error))?;
    if there.is_some() {
        // Somebody may have changed it since; it is theirs.
        stage.end(DEMO, "is there from the last time");
    } else {
        apply_one(&cluster, demo::object(), &PatchParams::apply(MANAGER)).await?;
        stage.end(DEMO, "");
    }
    wait_until_healthy(settings, &cluster, runtime, stage).await
}

/// The engine of this process has nothing left to do for the demo.
fn settled(runtime: &Runtime) -> bool {
    let demo = demo::reference();
    runtime
        .driver()
        .standing(&demo.gvk, &demo.namespace, &demo.name)
        .is_some_and(|standing| standing.settled)
}

async fn wait_until_healthy(
    settings: &Settings,
    cluster: &Cluster,
    runtime: &Runtime,
    stage: &mut Stage,
) -> Result<(), CliError> {
    stage.begin(PODS);
    let deadline = Instant::now() + settings.timeout;
    let mut pods_are_up = false;
    loop {
        // Before the look: the status read after it is then one that this process stands for, not what a former one left.
        let settled = settled(runtime);
        let sight = look(cluster, stage.since)
            .await
            .map_err(|error| CliError::call("look at the demo", &error))?;
        let ready = sight.pods.iter().filter(|pod| demo::ready(pod)).count();
        let all_ready =
            sight.wanted > 0 && u64::try_from(ready).is_ok_and(|ready| ready >= sight.wanted);
        let count = format!("{ready} of {}", sight.wanted.max(1));
        if !pods_are_up && all_ready {
            pods_are_up = true;
            stage.end(PODS, &count);
            stage.begin(HEALTHY);
        }
        if pods_are_up && all_ready && settled && demo::healthy(&sight.demo) {
            stage.end(HEALTHY, "");
            return Ok(());
        }
        let running = if pods_are_up { HEALTHY } else { PODS };
        stage
            .progress
            .detail(running, under_way(&sight, pods_are_up, &count));
        stage.show();
        if Instant::now() >= deadline {
            stage.fail(running);
            return Err(CliError::failed(format!(
                "RedisCluster default/test is not healthy after {} s: {}",
                settings.timeout.as_secs(),
                if pods_are_up && all_ready && demo::healthy(&sight.demo) {
                    "its status says so, but the operator has work left (LIBRETTO_LOG=libretto=debug shows which)".to_owned()
                } else {
                    blocker(&sight)
                }
            ))
            .hint("`libretto describe rediscluster test` and `libretto events --warnings` say more (with --once: start again without it)"));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn under_way(sight: &Sight, pods_are_up: bool, count: &str) -> String {
    if pods_are_up {
        let healthy = demo::condition(&sight.demo, "Healthy");
        return healthy
            .and_then(|condition| condition["message"].as_str())
            .unwrap_or_default()
            .to_owned();
    }
    let pending = sight.pods.iter().find(|pod| !demo::ready(pod));
    match pending {
        None => count.to_owned(),
        Some(pod) => {
            let name = pod["metadata"]["name"].as_str().unwrap_or_default();
            format!("{count}; {name} {}", pod_state(pod))
        }
    }
}

async fn look(cluster: &Cluster, since: Timestamp) -> Result<Sight, CallError> {
    let kube = &cluster.kube;
    let params = ListParams::default();
    let (sets_kind, deployments_kind, pods_kind) = (
        Gvk::new("apps", "v1", "StatefulSet"),
        Gvk::new("apps", "v1", "Deployment"),
        Gvk::new("", "v1", "Pod"),
    );
    let reference = demo::reference();
    let (demo, sets, deployments, pods) = futures::try_join!(
        kube.get(&reference),
        kube.list(&sets_kind, "default", &params),
        kube.list(&deployments_kind, "default", &params),
        kube.list(&pods_kind, "default", &params),
    )?;
    let demo = demo.unwrap_or(Value::Null);
    let owners = demo::owners(&demo, &[&sets, &deployments]);
    Ok(Sight {
        wanted: demo::wanted(&demo, &[&sets, &deployments]),
        pods: demo::pods(&pods, &owners)
            .into_iter()
            .map(|pod| demo::without_past(pod, since))
            .collect(),
        // Events only explain; without them the sight is poorer, not wrong.
        events: events::list(cluster, "default").await.unwrap_or_default(),
        demo,
    })
}

fn say(line: &str) {
    use std::io::Write as _;
    // Standard error may be closed; what is said there is for a person who watches.
    let _ = writeln!(anstream::stderr(), "{line}");
}

/// How to connect, and what to try.
async fn tell(settings: &Settings, local: &LocalCluster) {
    let bold = anstyle::Style::new().bold();
    let kubeconfig =
        std::path::absolute(&local.kubeconfig).unwrap_or_else(|_error| local.kubeconfig.clone());
    let found = found_without_help(&settings.data_dir);
    // Without an answer the hint names whom it was at first.
    let kube = Kube::new(local.client.clone());
    let demo = kube.get(&demo::reference()).await;
    let demo = demo.ok().flatten().unwrap_or_default();
    say("");
    say(&format!(
        "{bold}The cluster is at {}.{bold:#} Ctrl-C stops it; its state is kept in {}.",
        local.server,
        settings.data_dir.display()
    ));
    say("");
    let master = settings
        .demo
        .then(|| demo["status"]["masterPod"].as_str().unwrap_or(hints::FIRST));
    for line in hints::hints(
        &hints::program(),
        &kubeconfig.to_string_lossy(),
        found,
        master,
    ) {
        say(&line);
    }
    say("");
    say("This is not Kubernetes: docs/devcluster.md lists where it differs.");
}
