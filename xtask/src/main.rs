//! The project's own entry points: `cargo xtask up`, `test`, `check`, `bench`, `generate`, `tools`, `kubernetes`.
//!
//! Everything a fresh machine lacks is installed here (as root) or named together with the command that installs it. Nothing in
//! this program is needed to use a built `libretto`.

mod documents;
mod edges;
mod generate;
mod kubernetes;
mod run;
mod setup;
mod tidy;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(
    name = "cargo xtask",
    about = "Build, run and test Libretto",
    arg_required_else_help = true
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Build libretto and run `libretto up`: embedded cluster, engine, and a demo Redis
    Up {
        /// Build with optimisations (takes several minutes the first time)
        #[arg(long)]
        release: bool,
        /// Passed on to `libretto up`, such as --once, --no-demo, --data-dir DIR, --port N
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Run the checks and tests: style, unit tests, package tests, and scenarios with real Redis
    Test(run::Tests),
    /// Formatting, lints, forbidden crate edges, tidiness, generated files; no test is run
    Check,
    /// Measure speed and size beside their bars, with optimisations; fails where one is missed
    Bench {
        /// Only what contains this: memory, pass, event, redis, load
        #[arg(value_name = "NAME")]
        name: Option<String>,
    },
    /// Write the files under deploy/ that follow from packages/, the package format and the Helm chart
    Generate {
        /// Write nothing; fail when they are out of date
        #[arg(long)]
        check: bool,
    },
    /// Fetch kubectl, helm and a Trino server into target/tools
    Tools,
    /// A real single-node Kubernetes, to test against (as root)
    #[command(subcommand)]
    Kubernetes(kubernetes::Action),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let result = match arguments.command {
        Command::Up { release, arguments } => run::up(release, &arguments),
        Command::Test(tests) => run::test(&tests),
        Command::Check => run::check().map(|()| ExitCode::SUCCESS),
        Command::Bench { name } => run::bench(name.as_deref()).map(|()| ExitCode::SUCCESS),
        Command::Generate { check } => run::generate(check).map(|()| ExitCode::SUCCESS),
        Command::Tools => setup::tools()
            .and_then(|folder| {
                setup::registry(&folder)?;
                setup::trino(&folder)
            })
            .map(|()| ExitCode::SUCCESS),
        Command::Kubernetes(action) => kubernetes::execute(&action),
    };
    result.unwrap_or_else(|message| {
        say(&format!("error: {message}"));
        ExitCode::FAILURE
    })
}

/// One line of progress for the person at the terminal.
#[expect(clippy::print_stderr, reason = "this program's output is its progress")]
fn say(line: &str) {
    eprintln!("{line}");
}
