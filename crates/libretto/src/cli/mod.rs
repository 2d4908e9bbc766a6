//! The `libretto` command: what can be said, and which file answers it.
//!
//! One file per command. Exit codes: 0 done, 1 it did not work, 2 wrong usage, 130 interrupted; `exec` passes the command's own.

mod alerts;
mod apply;
mod completion;
mod config;
mod connect;
mod delete;
mod describe;
mod diff;
mod effects;
mod error;
mod events;
mod exec;
mod explain;
mod fetch;
mod get;
mod helm;
mod install;
mod installed;
mod kinds;
mod logs;
mod look;
mod manifest;
mod package;
mod plan;
mod pods;
mod port_forward;
mod print;
mod progress;
mod publish;
mod query;
mod run;
mod skeleton;
mod spoken;
pub mod up;
mod version;

use std::process::ExitCode;

use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand, ValueEnum};

pub use error::CliError;

use crate::cli::{config::Config, print::Printer};

const ABOUT: &str = "Operators for Kubernetes, written as data.";

const EXAMPLES: &str = "\
Examples:
  libretto up                                      # start a cluster on this machine, with a Redis in it
  libretto install | kubectl apply -f -            # run the operators in a cluster, as a Deployment
  libretto run                                     # run them from here, in the cluster of your kubeconfig
  libretto get rediscluster -A                     # list objects of a kind, as kubectl does
  libretto query \"SELECT name, phase FROM pods\"   # ask the cluster in SQL

Exit codes: 0 done, 1 it did not work, 2 wrong usage, 130 interrupted.
The cluster is the first of: --kubeconfig, $KUBECONFIG, a running `libretto up`, ~/.kube/config.";

/// The whole command line.
#[derive(Debug, Parser)]
#[command(name = "libretto", version, about = ABOUT, after_help = EXAMPLES, propagate_version = true, disable_help_subcommand = true)]
pub struct Cli {
    /// When to use colours
    #[arg(
        long,
        global = true,
        value_enum,
        env = "LIBRETTO_COLOR",
        hide_env_values = true
    )]
    pub color: Option<Color>,

    /// Log more to standard error: -v what is done, -vv why
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,

    /// Settings file (default: $XDG_CONFIG_HOME/libretto/config.yaml, when it exists)
    #[arg(
        long,
        global = true,
        env = "LIBRETTO_CONFIG",
        hide_env_values = true,
        value_name = "FILE"
    )]
    pub config: Option<std::path::PathBuf>,

    #[command(subcommand)]
    pub command: Command,
}

/// When to use colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Color {
    /// On a terminal, unless NO_COLOR is set
    #[default]
    Auto,
    Always,
    Never,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Start a cluster on this machine, with the operators and a demo Redis
    Up(Box<up::UpArgs>),
    /// Run the operators in a cluster
    Run(run::RunArgs),
    /// Print the manifests that install libretto in a cluster
    Install(install::InstallArgs),
    /// Print what of an installation is to be deleted
    Uninstall(install::UninstallArgs),
    /// Create or change objects from files
    Apply(apply::ApplyArgs),
    /// List objects
    Get(get::GetArgs),
    /// Show an object with its conditions, what it owns, and its events
    Describe(describe::DescribeArgs),
    /// Delete objects
    Delete(delete::DeleteArgs),
    /// Print the log of a pod
    Logs(logs::LogsArgs),
    /// Run a command in a pod
    Exec(exec::ExecArgs),
    /// List events, oldest first
    Events(events::EventsArgs),
    /// Say why an instance stands as it does, rule by rule
    Explain(explain::ExplainArgs),
    /// Print what would be done for an instance, without doing it
    Plan(plan::PlanArgs),
    /// Ask the cluster in SQL
    Query(query::QueryArgs),
    /// Forward local ports to a pod or a service
    PortForward(port_forward::PortForwardArgs),
    /// Check, test and inspect operator packages
    #[command(subcommand)]
    Package(package::PackageCommand),
    /// Print the completion script of a shell
    Completion(completion::CompletionArgs),
    /// Print the version of libretto and of the cluster
    Version(version::VersionArgs),
}

impl Command {
    /// The flags that say which cluster, of the commands that look for one.
    fn cluster(&mut self) -> Option<&mut connect::ClusterArgs> {
        match self {
            Self::Run(args) => Some(&mut args.cluster),
            Self::Apply(args) => Some(&mut args.cluster),
            Self::Get(args) => Some(&mut args.cluster),
            Self::Describe(args) => Some(&mut args.cluster),
            Self::Delete(args) => Some(&mut args.cluster),
            Self::Logs(args) => Some(&mut args.cluster),
            Self::Exec(args) => Some(&mut args.cluster),
            Self::Events(args) => Some(&mut args.cluster),
            Self::Explain(args) => Some(&mut args.cluster),
            Self::Plan(args) => Some(&mut args.cluster),
            Self::Query(args) => Some(&mut args.cluster),
            Self::PortForward(args) => Some(&mut args.cluster),
            Self::Version(args) => Some(&mut args.cluster),
            Self::Package(package::PackageCommand::Publish(args)) => Some(&mut args.cluster),
            Self::Up(_)
            | Self::Install(_)
            | Self::Uninstall(_)
            | Self::Package(_)
            | Self::Completion(_) => None,
        }
    }
}

/// Reads the command line and does what it says.
pub fn main() -> ExitCode {
    let parsed = Cli::command()
        .try_get_matches()
        .and_then(|matches| Ok((Cli::from_arg_matches(&matches)?, spoken(&matches))));
    let (cli, command) = match parsed {
        Ok(parsed) => parsed,
        // Help and version are "errors" with exit code 0; a broken pipe while printing them is nobody's concern.
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    let outcome = prepare(&cli).and_then(|config| dispatch(cli, config));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let error = error.of_command(&command);
            error.print();
            ExitCode::from(error.exit_code())
        }
    }
}

/// `libretto package lint`: the command as its help is asked for.
fn spoken(matches: &clap::ArgMatches) -> String {
    let mut command = "libretto".to_owned();
    let mut matches = matches;
    while let Some((name, inner)) = matches.subcommand() {
        command.push(' ');
        command.push_str(name);
        matches = inner;
    }
    command
}

fn prepare(cli: &Cli) -> Result<Config, CliError> {
    let config = Config::load(cli.config.as_deref())?;
    let color = cli.color.or(config.color).unwrap_or_default();
    match color {
        Color::Auto => anstream::ColorChoice::Auto,
        Color::Always => anstream::ColorChoice::AlwaysAnsi,
        Color::Never => anstream::ColorChoice::Never,
    }
    .write_global();
    Ok(config)
}

fn dispatch(mut cli: Cli, config: Config) -> Result<(), CliError> {
    let verbose = cli.verbose;
    if let Some(cluster) = cli.command.cluster() {
        cluster.data_dir.clone_from(&config.data_dir);
    }
    match cli.command {
        // Enters namespaces before any thread exists, so it makes its own async runtime.
        Command::Up(args) => up::up(*args, config, verbose),
        Command::Run(args) => {
            log_to_stderr(1, verbose);
            block_on(run::run(args, config))
        }
        command => {
            log_to_stderr(0, verbose);
            block_on(interruptible(client_command(command)))
        }
    }
}

async fn client_command(command: Command) -> Result<(), CliError> {
    let out = &mut Printer::stdout();
    match command {
        Command::Install(args) => install::install(&args, out),
        Command::Uninstall(args) => install::uninstall(&args, out),
        Command::Apply(args) => apply::apply(args, out).await,
        Command::Get(args) => get::get(args, out).await,
        Command::Describe(args) => describe::describe(args, out).await,
        Command::Delete(args) => delete::delete(args, out).await,
        Command::Logs(args) => logs::logs(args, out).await,
        Command::Exec(args) => exec::exec(args).await,
        Command::Events(args) => events::events(args, out).await,
        Command::Explain(args) => explain::explain(args, out).await,
        Command::Plan(args) => plan::plan(args, out).await,
        Command::Query(args) => query::query(args, out).await,
        Command::PortForward(args) => port_forward::port_forward(args, out).await,
        Command::Package(package::PackageCommand::Publish(args)) => {
            publish::publish(args, out).await
        }
        Command::Package(package::PackageCommand::Fetch(args)) => fetch::fetch(args, out).await,
        Command::Package(command) => package::package(command, out),
        Command::Completion(args) => completion::completion(&args, out),
        Command::Version(args) => version::version(args, out).await,
        Command::Up(_) | Command::Run(_) => {
            unreachable!("dispatched before, with their own runtime")
        }
    }
}

/// Ctrl-C ends a client command at once.
async fn interruptible(
    command: impl Future<Output = Result<(), CliError>>,
) -> Result<(), CliError> {
    tokio::select! {
        outcome = command => outcome,
        _ = tokio::signal::ctrl_c() => Err(CliError::Interrupted),
    }
}

/// Runs a command on an async runtime of its own.
pub(crate) fn block_on(
    command: impl Future<Output = Result<(), CliError>>,
) -> Result<(), CliError> {
    let runtime = tokio::runtime::Runtime::new()
        .map_err(|error| CliError::failed(format!("start the async runtime: {error}")))?;
    let outcome = runtime.block_on(command);
    // A blocking read of standard input cannot be cancelled; it must not keep the process.
    runtime.shutdown_background();
    outcome
}

/// Log lines go to standard error, from `base` on; LIBRETTO_LOG (a tracing filter) overrules the number of -v.
pub(crate) fn log_to_stderr(base: u8, verbose: u8) {
    let filter = tracing_subscriber::EnvFilter::try_from_env("LIBRETTO_LOG")
        .unwrap_or_else(|_unset| tracing_subscriber::EnvFilter::new(log_filter(base, verbose)));
    // Fails only when a subscriber is set already, as in a test.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(stderr_has_colours())
        .with_target(false)
        .try_init();
}

fn log_filter(base: u8, verbose: u8) -> String {
    let filter = match base.saturating_add(verbose) {
        // What stays undone until somebody does something is told also where nobody asked for a log.
        0 => "error,libretto::notice=warn",
        1 => "warn,libretto=info,libretto_actions=info",
        2 => "info,libretto=debug,libretto_actions=debug",
        _ => "debug",
    };
    // The client library logs each failed request; whoever made it says the same, with what to do.
    if verbose == 0 {
        format!("{filter},kube_client=off")
    } else {
        filter.to_owned()
    }
}

fn stderr_has_colours() -> bool {
    anstream::AutoStream::choice(&std::io::stderr()) != anstream::ColorChoice::Never
}

#[cfg(test)]
mod tests;
