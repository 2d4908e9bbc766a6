//! `libretto up`: a cluster on this machine, the bundled operators in it, and a Redis to look at.

mod blocker;
mod demo;
mod directory;
mod hints;
mod local;
mod work;

use std::{net::TcpListener, path::PathBuf};

use clap::{Args, ValueEnum, builder::BoolishValueParser};
use libretto_devcluster::node::{self, Entry};

use crate::{
    cli::{
        CliError,
        alerts::AlertArgs,
        block_on,
        config::{Config, default_data_dir},
        helm::HelmArgs,
        log_to_stderr, run,
    },
    packages,
};

/// Beside the usual 6443, so that a real cluster on this machine is not in the way.
const DEFAULT_PORT: u16 = 7443;
/// Seconds until `--once` gives up on the demo.
const DEFAULT_TIMEOUT: u64 = 60;

const EXAMPLES: &str = "\
Examples:
  libretto up                           # until Ctrl-C; the cluster's state is kept for the next time
  libretto up --once                    # exit 0 when the demo is healthy, 1 with the reason when it is not
  libretto up --no-demo --port 0        # an empty cluster on a free port
  libretto up --no-demo --package ./mine # a package of yours
  libretto up --images own.yaml         # with software of yours behind image names; see docs/devcluster.md

State and the kubeconfig are kept in --data-dir ($XDG_DATA_HOME/libretto, by default
~/.local/share/libretto). This cluster is for development: docs/devcluster.md says where it
differs from Kubernetes.";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES, after_long_help = format!("{EXAMPLES}\n\n{}", libretto_devcluster::DEVIATIONS.trim_end()))]
pub struct UpArgs {
    /// Do not create the demo RedisCluster
    #[arg(long, env = "LIBRETTO_NO_DEMO", hide_env_values = true, value_parser = BoolishValueParser::new())]
    pub no_demo: bool,

    /// Exit as soon as the demo is healthy, or has not become so in time
    #[arg(long, env = "LIBRETTO_ONCE", hide_env_values = true, value_parser = BoolishValueParser::new())]
    pub once: bool,

    /// Longest wait for the demo to become healthy, in seconds [default: 60]
    #[arg(
        long,
        value_name = "SECONDS",
        env = "LIBRETTO_TIMEOUT",
        hide_env_values = true
    )]
    pub timeout: Option<u64>,

    /// Where the cluster's state is kept
    #[arg(
        long,
        value_name = "DIR",
        env = "LIBRETTO_DATA_DIR",
        hide_env_values = true
    )]
    pub data_dir: Option<PathBuf>,

    /// Port of the API server on 127.0.0.1; 0 takes a free one [default: 7443]
    #[arg(long, env = "LIBRETTO_PORT", hide_env_values = true)]
    pub port: Option<u16>,

    /// How pods are run [default: auto]
    #[arg(long, value_enum, env = "LIBRETTO_DRIVER", hide_env_values = true)]
    pub driver: Option<PodDriver>,

    /// Package to run: a bundled name or a folder; repeatable (default: all bundled ones)
    #[arg(
        long = "package",
        value_name = "NAME|DIR",
        env = "LIBRETTO_PACKAGES",
        value_delimiter = ',',
        hide_env_values = true
    )]
    pub packages: Vec<String>,

    /// Catalogue of local software that answers to further image names
    #[arg(
        long,
        value_name = "FILE",
        env = "LIBRETTO_IMAGES",
        hide_env_values = true
    )]
    pub images: Option<PathBuf>,

    /// Where to serve /metrics, /livez and /readyz; nowhere when empty or not given
    #[arg(
        long,
        value_name = "ADDRESS",
        env = "LIBRETTO_METRICS_ADDR",
        hide_env_values = true
    )]
    pub metrics_addr: Option<String>,

    #[command(flatten)]
    pub helm: HelmArgs,

    #[command(flatten)]
    pub alerts: AlertArgs,
}

/// How pods are run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PodDriver {
    /// In namespaces when the machine allows it, else as plain processes
    #[default]
    Auto,
    /// In Linux namespaces, with addresses of their own
    Namespaces,
    /// As plain processes of this machine
    Process,
}

impl From<PodDriver> for node::Driver {
    fn from(driver: PodDriver) -> Self {
        match driver {
            PodDriver::Auto => Self::Auto,
            PodDriver::Namespaces => Self::Namespaces,
            PodDriver::Process => Self::Process,
        }
    }
}

/// The settings after flags, environment and file were put together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Settings {
    pub(crate) demo: bool,
    pub(crate) once: bool,
    pub(crate) timeout: std::time::Duration,
    pub(crate) data_dir: PathBuf,
    pub(crate) port: u16,
    pub(crate) driver: PodDriver,
    pub(crate) packages: Vec<String>,
    pub(crate) images: Option<PathBuf>,
    pub(crate) metrics_addr: Option<String>,
    pub(crate) helm: PathBuf,
    pub(crate) alertmanagers: Vec<String>,
}

impl Settings {
    fn new(args: UpArgs, config: Config) -> Result<Self, CliError> {
        let UpArgs {
            no_demo,
            once,
            timeout,
            data_dir,
            port,
            driver,
            packages,
            images,
            metrics_addr,
            helm,
            alerts,
        } = args;
        let timeout = timeout.or(config.timeout).unwrap_or(DEFAULT_TIMEOUT);
        Ok(Self {
            demo: !no_demo,
            once,
            timeout: std::time::Duration::from_secs(timeout),
            data_dir: data_dir
                .or(config.data_dir)
                .unwrap_or_else(default_data_dir),
            port: port.or(config.port).unwrap_or(DEFAULT_PORT),
            driver: driver.or(config.driver).unwrap_or_default(),
            packages: if packages.is_empty() {
                config.packages
            } else {
                packages
            },
            images: images.or(config.images),
            metrics_addr: metrics_addr.or(config.metrics_addr),
            helm: helm.program(config.helm),
            alertmanagers: alerts.receivers(config.alertmanagers)?,
        })
    }
}

/// When this process is one that the embedded cluster started for a pod, plays that part and never returns.
pub fn dispatch_roles() {
    node::reexec_dispatch();
}

pub(crate) fn up(args: UpArgs, config: Config, verbose: u8) -> Result<(), CliError> {
    let settings = Settings::new(args, config)?;
    if settings.once && !settings.demo {
        return Err(CliError::usage(
            "--once waits for the demo, which --no-demo leaves out; see `libretto up --help`",
        ));
    }
    directory::ours(&settings.data_dir)?;
    // Mistakes are told before anything is started, those in a package too.
    if settings.demo && !settings.packages.is_empty() {
        let packages = packages::load(&settings.packages)
            .map_err(|error| CliError::failed(error.to_string()))?;
        let demo = demo::reference().gvk;
        if !packages.iter().any(|package| *package.gvk() == demo) {
            return Err(CliError::usage(format!(
                "the demo is a {}, which none of the given packages makes: add --no-demo, or --package redis",
                demo.kind
            )));
        }
    }
    let metrics = match &settings.metrics_addr {
        Some(address) => run::metrics_address(address)?,
        None => None,
    };
    if let Some(file) = &settings.images {
        node::images::Catalogue::load(Some(file))
            .map_err(|error| CliError::failed(error.to_string()))?;
    }
    let port = settings.port;
    let mut metrics_refused = None;
    // The listeners belong to this machine's network; the rest of the program moves into the pods'.
    let listen = || {
        let mut listeners = vec![TcpListener::bind(("127.0.0.1", port))?];
        if let Some(address) = metrics {
            let listener = run::bind(address).inspect_err(|error| {
                metrics_refused = Some(run::cannot_listen(address, error));
            })?;
            listeners.push(listener);
        }
        Ok(listeners)
    };
    let entry = node::enter(settings.driver.into(), listen);
    if let Some(refused) = metrics_refused {
        return Err(refused);
    }
    let entry = entry.map_err(|error| {
        let failed = CliError::failed(format!("start the cluster: {error}"));
        match error {
            node::EnterError::Listen(cause) if cause.kind() == std::io::ErrorKind::AddrInUse => {
                failed.hint(format!(
                    "port {port} is taken: is another `libretto up` running? --port chooses another"
                ))
            }
            _ => failed,
        }
    })?;
    let (listeners, driver, warning) = match entry {
        Entry::Supervised(0) => return Ok(()),
        Entry::Supervised(code) => return Err(CliError::Exit(code)),
        Entry::Inside { listeners } => (listeners, node::Driver::Namespaces, None),
        Entry::Fallback { listeners, reason } => {
            let asked = settings.driver == PodDriver::Process;
            (listeners, node::Driver::Process, (!asked).then_some(reason))
        }
    };
    log_to_stderr(0, verbose);
    let mut listeners = listeners.into_iter();
    let listener = listeners
        .next()
        .ok_or_else(|| CliError::failed("start the cluster: no listener came back"))?;
    block_on(work::work(
        settings,
        listener,
        listeners.next(),
        driver,
        warning,
    ))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use clap::Parser as _;

    use super::*;
    use crate::cli::{Cli, Command};

    fn settings(flags: &[&str], config: Config) -> Settings {
        let cli = Cli::try_parse_from(["libretto", "up"].iter().chain(flags)).unwrap();
        match cli.command {
            Command::Up(args) => Settings::new(*args, config).unwrap(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_flag_beats_the_file_and_the_file_beats_the_default() {
        let file = || Config {
            port: Some(1),
            timeout: Some(5),
            ..Config::default()
        };
        assert_eq!(settings(&[], Config::default()).port, DEFAULT_PORT);
        assert_eq!(settings(&[], file()).port, 1);
        let flagged = settings(&["--port", "2"], file());
        assert_eq!((flagged.port, flagged.timeout.as_secs()), (2, 5));
        let file = Config {
            images: Some("file.yaml".into()),
            ..Config::default()
        };
        assert_eq!(settings(&[], file).images, Some("file.yaml".into()));
        let flagged = settings(&["--images", "flag.yaml"], Config::default());
        assert_eq!(flagged.images, Some("flag.yaml".into()));
    }

    /// `up` itself, as far as it goes before anything is started.
    fn refused(flags: &[&str]) -> CliError {
        let cli = Cli::try_parse_from(["libretto", "up"].iter().chain(flags)).unwrap();
        match cli.command {
            Command::Up(args) => up(*args, Config::default(), 0).unwrap_err(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn mistakes_are_told_before_anything_is_started() {
        let directory = tempfile::tempdir().unwrap();
        let catalogue = directory.path().join("images.yaml");
        std::fs::write(
            &catalogue,
            "- match: [a]\n  program: [/bin/sh]\n  packge: x\n",
        )
        .unwrap();
        let catalogue = catalogue.to_str().unwrap();
        let missing = format!("{catalogue}.not-there");
        for (flags, code, parts) in [
            (["--images", catalogue], 1, [catalogue, "packge", "line 3"]),
            (
                ["--images", &missing],
                1,
                [&missing[..], "No such file", ""],
            ),
            (
                ["--metrics-addr", "8383"],
                2,
                ["--metrics-addr", "ADDRESS:PORT", "8383"],
            ),
            (
                ["--metrics-addr", ":x"],
                2,
                ["--metrics-addr", "ADDRESS:PORT", ":x"],
            ),
        ] {
            let error = refused(&flags);
            assert_eq!(error.exit_code(), code, "{error}");
            for part in parts {
                assert!(error.to_string().contains(part), "{part}: {error}");
            }
        }
    }
}
