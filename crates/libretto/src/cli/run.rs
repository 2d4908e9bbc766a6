//! `libretto run`: the operators at work in any cluster, until a signal ends them.

use std::{
    io::{ErrorKind, Write as _},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener},
    sync::Arc,
};

use clap::Args;
use libretto_api::intent::Intent;
use libretto_mirror::ScopeMode;

use crate::{
    cli::{
        CliError,
        alerts::AlertArgs,
        config::Config,
        connect::{self, ClusterArgs},
        effects,
        helm::HelmArgs,
    },
    client,
    installations::{self, Keeper},
    packages,
    process::Process,
    rehearsal::Rehearsal,
    runtime::{Options, Runtime, StartError},
    share::Share,
};

/// Metrics and health, for this machine only unless asked otherwise.
const DEFAULT_METRICS: &str = "127.0.0.1:8383";

const EXAMPLES: &str = "\
Examples:
  libretto run                                   # all bundled packages, cluster-wide
  libretto run --package redis --namespace test  # one package, for one namespace's own instances
  libretto run --package ./my-operator           # a package of your own
  libretto run --installations                   # what the cluster's Installation objects say
  libretto run --dry-run                         # print what it would do, and change nothing

Without --namespace it takes the instances of all namespaces that ask for a cluster-wide operator by
the annotation that their package names; with --namespace it takes the instances of that namespace
that do not ask. So both may run side by side.";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct RunArgs {
    /// Package to run: a bundled name or a folder; repeatable (default: all bundled ones)
    #[arg(
        long = "package",
        value_name = "NAME|DIR",
        env = "LIBRETTO_PACKAGES",
        value_delimiter = ',',
        hide_env_values = true
    )]
    pub packages: Vec<String>,

    /// Work for one namespace only
    #[arg(
        short,
        long,
        value_name = "NAME",
        env = "LIBRETTO_NAMESPACE",
        hide_env_values = true
    )]
    pub namespace: Option<String>,

    /// Print each effect instead of doing it, once, and again when it changes; write nothing to the cluster
    #[arg(long)]
    pub dry_run: bool,

    /// Run what the cluster's Installation objects say too; without --package, only that
    #[arg(
        long,
        env = "LIBRETTO_INSTALLATIONS",
        hide_env_values = true,
        conflicts_with_all = ["namespace", "dry_run"]
    )]
    pub installations: bool,

    /// Where to serve /metrics, /livez and /readyz; empty for nowhere [default: 127.0.0.1:8383; nowhere with --dry-run]
    #[arg(
        long,
        value_name = "ADDRESS",
        env = "LIBRETTO_METRICS_ADDR",
        hide_env_values = true
    )]
    pub metrics_addr: Option<String>,

    /// Do not install the packages' CustomResourceDefinitions
    #[arg(long)]
    pub no_install: bool,

    #[command(flatten)]
    pub helm: HelmArgs,

    #[command(flatten)]
    pub alerts: AlertArgs,

    #[command(flatten)]
    pub cluster: ClusterArgs,
}

pub(crate) async fn run(args: RunArgs, config: Config) -> Result<(), CliError> {
    let places = if args.packages.is_empty() {
        config.packages
    } else {
        args.packages
    };
    // Without a word about packages, installations alone say what runs.
    let packages = if args.installations && places.is_empty() {
        Vec::new()
    } else {
        packages::load(&places).map_err(|error| CliError::failed(error.to_string()))?
    };
    let metrics = args
        .metrics_addr
        // The settings file is about operators; one may be at work beside this.
        .or(if args.dry_run {
            Some(String::new())
        } else {
            config.metrics_addr
        })
        .unwrap_or_else(|| DEFAULT_METRICS.to_owned());
    let listener = listen(&metrics)?;
    let cluster = connect::config(&args.cluster).await?;
    let options = Options {
        packages,
        scope: if args.namespace.is_some() {
            ScopeMode::Namespace
        } else {
            ScopeMode::Cluster
        },
        namespace: args.namespace,
        install: !args.no_install,
        helm: args.helm.program(config.helm),
        loopback: false,
        allowed: None,
        rehearsal: args.dry_run.then(|| Rehearsal::new(Box::new(told))),
        share: Share::default(),
    };
    let mut receivers = args.alerts.receivers(config.alertmanagers)?;
    if args.dry_run {
        tracing::info!("dry run: effects are printed, nothing is written");
        receivers.clear();
    }
    let process = Process::start(receivers);
    let starting = start(&process, cluster, options, args.installations);
    let (runtime, keeper) = tokio::select! {
        started = starting => started.map_err(|error| CliError::failed(error.to_string()))?,
        () = stop_signal() => return Err(CliError::Interrupted),
    };
    if let Some(listener) = listener {
        serve_metrics(listener, &process);
    }
    stop_signal().await;
    tracing::info!("stopping: effects under way are finished");
    if let Some(keeper) = keeper {
        keeper.stop().await;
    }
    if let Some(runtime) = runtime {
        runtime.stop().await;
    }
    Ok(())
}

/// What this command's flags name, and what the cluster's installations do.
async fn start(
    process: &Arc<Process>,
    cluster: kube::Config,
    options: Options,
    installations: bool,
) -> Result<(Option<Runtime>, Option<Keeper>), StartError> {
    let (helm, scope) = (options.helm.clone(), options.scope);
    let runtime = if options.packages.is_empty() {
        process.vitals().set_ready(true);
        None
    } else {
        let client = client::of(cluster.clone()).map_err(StartError::Client)?;
        let mut runtime = Runtime::start(process, client, options).await?;
        runtime.decides_readiness();
        Some(runtime)
    };
    let keeper = if installations {
        let settings = installations::Settings {
            process: Arc::clone(process),
            config: cluster,
            helm,
            loopback: false,
            own: runtime.as_ref().map(|runtime| Arc::clone(runtime.driver())),
            scope,
        };
        Some(Keeper::start(settings).await?)
    } else {
        None
    };
    Ok((runtime, keeper))
}

/// Prints what would be done.
fn told(intent: &Intent, there: bool) {
    let mut text = format!("would {}\n", effects::sentence(intent, there));
    for line in effects::said(&intent.effect) {
        text.push_str(&format!("      {line}\n"));
    }
    // Whoever does not listen any more does not stop the rehearsal; Ctrl-C does.
    let _ = anstream::stdout().write_all(text.as_bytes());
}

/// Answers on `listener` for as long as the process lives.
pub(crate) fn serve_metrics(listener: tokio::net::TcpListener, process: &Process) {
    let vitals = process.vitals().clone();
    tokio::spawn(async move {
        // The process ends with the runtime; the listener has nothing to finish.
        if let Err(error) = libretto_server::serve(listener, vitals, std::future::pending()).await {
            tracing::error!(%error, "metrics listener ended");
        }
    });
}

/// What `--metrics-addr` says: nothing when empty, every address for `:PORT`.
pub(crate) fn metrics_address(address: &str) -> Result<Option<SocketAddr>, CliError> {
    if address.is_empty() {
        return Ok(None);
    }
    address
        .strip_prefix(':')
        .map_or_else(|| address.to_owned(), |port| format!("[::]:{port}"))
        .parse()
        .map(Some)
        .map_err(|_error| {
            CliError::usage(format!(
                "--metrics-addr {address:?}: write ADDRESS:PORT, such as {DEFAULT_METRICS}"
            ))
        })
}

/// Listens; at every address means IPv4 too, and IPv4 alone where the kernel knows nothing else.
pub(crate) fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    TcpListener::bind(address).or_else(|error| {
        if address.ip() != Ipv6Addr::UNSPECIFIED || error.kind() == ErrorKind::AddrInUse {
            return Err(error);
        }
        TcpListener::bind((Ipv4Addr::UNSPECIFIED, address.port()))
    })
}

pub(crate) fn cannot_listen(address: SocketAddr, error: &std::io::Error) -> CliError {
    CliError::failed(format!("listen on {address} for metrics: {error}"))
        .hint("--metrics-addr chooses another address; an empty one switches metrics off")
}

/// A listener bound elsewhere, for this runtime.
pub(crate) fn in_runtime(listener: TcpListener) -> Result<tokio::net::TcpListener, CliError> {
    listener.set_nonblocking(true)?;
    Ok(tokio::net::TcpListener::from_std(listener)?)
}

fn listen(address: &str) -> Result<Option<tokio::net::TcpListener>, CliError> {
    let Some(address) = metrics_address(address)? else {
        return Ok(None);
    };
    let listener = bind(address).map_err(|error| cannot_listen(address, &error))?;
    in_runtime(listener).map(Some)
}

/// Ctrl-C, or SIGTERM as Kubernetes and init systems send it.
pub(crate) async fn stop_signal() {
    let terminate = async {
        match tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) {
            Ok(mut signal) => {
                signal.recv().await;
            }
            Err(error) => {
                tracing::warn!(%error, "SIGTERM cannot be caught; it will end the process at once");
                std::future::pending::<()>().await;
            }
        }
    };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        () = terminate => {}
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn metrics_addresses() {
        for (written, meant) in [
            ("", Some(None)),
            (":8383", Some(Some("[::]:8383"))),
            ("127.0.0.1:0", Some(Some("127.0.0.1:0"))),
            ("[::1]:1", Some(Some("[::1]:1"))),
            ("8383", None),
            ("localhost:8383", None),
        ] {
            let found = metrics_address(written).ok();
            let meant = meant.map(|address| address.map(|text| text.parse().unwrap()));
            assert_eq!(found, meant, "{written:?}");
        }
    }

    #[test]
    fn every_address_includes_those_of_ipv4() {
        let listener = bind(metrics_address(":0").unwrap().unwrap()).unwrap();
        let port = listener.local_addr().unwrap().port();
        std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    }
}
