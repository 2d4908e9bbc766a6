//! `libretto package`: checks, tests and inspects operator packages. Only `publish` needs a cluster.

use std::{
    io::{IsTerminal as _, Write as _},
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use clap::{Args, Subcommand};
use libretto_api::chart::Charts;
use libretto_engine::{
    Compiled,
    scenario::{self, Moment, Report},
};
use serde_json::{Value, json};

use crate::{
    charts::AtOnce,
    cli::{
        CliError,
        helm::HelmArgs,
        print::{Document, Printer, headings, table},
    },
    packages, rights,
};

#[derive(Debug, Subcommand)]
pub enum PackageCommand {
    /// List the packages that come with libretto
    List,
    /// Make a folder with a small working package: a Kind, a rule, objects, a test
    New(super::skeleton::NewArgs),
    /// Check a package; prints every mistake with file, line and what to do
    Lint(PlaceArgs),
    /// Run a package's scenarios (tests.yaml)
    Test(TestArgs),
    /// Print what a first pass would do on an empty cluster, from files alone
    Plan(super::plan::FilesArgs),
    /// Print what a changed package means: for its definition, its rules, and the objects of instances
    Diff(super::diff::DiffArgs),
    /// Print the JSON Schema of package.yaml, for editors
    Schema(SchemaArgs),
    /// Print the reference of the package language, in Markdown
    Reference,
    /// Print a package's CustomResourceDefinition
    Crd(PlaceArgs),
    /// Print the ClusterRole that running a package needs
    Rbac(PlaceArgs),
    /// Get the charts that a package names a repository for into its folder
    Fetch(super::fetch::FetchArgs),
    /// Put a package into the cluster, for its installations to run
    Publish(super::publish::PublishArgs),
    /// Write a package that is in SREWorks' form (def, deploy, maintain) in today's
    Convert(ConvertArgs),
}

#[derive(Debug, Args)]
pub struct PlaceArgs {
    /// Folder with a package.yaml, or the name of a bundled package
    #[arg(default_value = ".")]
    pub package: String,
}

const SCHEMA_EXAMPLES: &str = "\
Examples:
  libretto package schema > package.schema.json          # then, as the first line of package.yaml:
                                                         # yaml-language-server: $schema=../package.schema.json
  libretto package schema --tests > tests.schema.json";

#[derive(Debug, Args)]
#[command(after_help = SCHEMA_EXAMPLES)]
pub struct SchemaArgs {
    /// Of tests.yaml instead
    #[arg(long)]
    pub tests: bool,
}

#[derive(Debug, Args)]
pub struct ConvertArgs {
    /// Folder with a file in SREWorks' form
    #[arg(default_value = ".")]
    pub package: String,

    /// Write the whole package into this new folder, instead of printing its package.yaml
    #[arg(short, long, value_name = "DIR")]
    pub output: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct TestArgs {
    /// Folder with a package.yaml, or the name of a bundled package
    #[arg(default_value = ".")]
    pub package: String,

    /// Only scenarios whose name contains this
    pub filter: Option<String>,

    /// Print each effect of each scenario
    #[arg(long)]
    pub trace: bool,

    #[command(flatten)]
    pub helm: HelmArgs,
}

pub(crate) fn package(command: PackageCommand, out: &mut Printer) -> Result<(), CliError> {
    match command {
        PackageCommand::List => list(out),
        PackageCommand::New(args) => super::skeleton::new(&args, out),
        PackageCommand::Lint(args) => {
            let package = lint(&args.package)?;
            let kind = &package.gvk().kind;
            out.line(&format!(
                "{} {} is fine ({kind})",
                package.name(),
                package.version()
            ))
        }
        PackageCommand::Test(args) => test(args, out),
        PackageCommand::Plan(args) => super::plan::of_files(&args, out),
        PackageCommand::Diff(args) => super::diff::diff(&args, out),
        PackageCommand::Schema(args) => {
            let schema = if args.tests {
                libretto_engine::tests_schema()
            } else {
                libretto_engine::package_schema()
            };
            out.document(&schema, Document::Json)
        }
        PackageCommand::Reference => out.text(&libretto_engine::reference()),
        PackageCommand::Crd(args) => out.document(compile(&args.package)?.crd(), Document::Yaml),
        PackageCommand::Convert(args) => convert(&args, out),
        PackageCommand::Fetch(_) | PackageCommand::Publish(_) => {
            unreachable!("dispatched before: they wait for others")
        }
        PackageCommand::Rbac(args) => {
            let package = compile(&args.package)?;
            out.document(&cluster_role(&package), Document::Yaml)
        }
    }
}

/// The package, with its scenarios read too.
fn lint(place: &str) -> Result<Arc<Compiled>, CliError> {
    let files = packages::files(place).map_err(|error| CliError::failed(error.to_string()))?;
    scenario::check(&files).map_err(|diagnostics| {
        CliError::failed(
            packages::PackageError::Mistakes {
                path: place.to_owned(),
                diagnostics,
            }
            .to_string(),
        )
    })
}

fn convert(args: &ConvertArgs, out: &mut Printer) -> Result<(), CliError> {
    let files =
        packages::files(&args.package).map_err(|error| CliError::failed(error.to_string()))?;
    let Some(classic) = libretto_engine::classic_file(&files) else {
        return Err(CliError::failed(format!(
            "package {} is in today's form already: it has a package.yaml",
            args.package
        )));
    };
    let mistakes = |diagnostics| {
        CliError::failed(
            packages::PackageError::Mistakes {
                path: args.package.clone(),
                diagnostics,
            }
            .to_string(),
        )
    };
    let converted = libretto_engine::convert(&files).map_err(mistakes)?;
    let Some(folder) = &args.output else {
        return out.text(&converted["package.yaml"]);
    };
    if folder.exists() {
        return Err(CliError::failed(format!("{} exists", folder.display()))
            .hint("name a folder that is not there yet"));
    }
    libretto_engine::load_files(&files).map_err(mistakes)?;
    for (name, text) in &converted {
        // An archive was read as a folder, and is written as one.
        let path = folder.join(name.replace(".tgz/", "/"));
        let written = std::fs::create_dir_all(path.parent().unwrap_or(folder))
            .and_then(|()| std::fs::write(&path, text));
        written.map_err(|error| CliError::failed(format!("write {}: {error}", path.display())))?;
    }
    out.line(&format!(
        "{} is {classic} in today's form",
        folder.join("package.yaml").display()
    ))
}

pub(crate) fn compile(place: &str) -> Result<Arc<Compiled>, CliError> {
    let mut loaded =
        packages::load(&[place.to_owned()]).map_err(|error| CliError::failed(error.to_string()))?;
    Ok(loaded.remove(0))
}

fn list(out: &mut Printer) -> Result<(), CliError> {
    let loaded = packages::load(&[]).map_err(|error| CliError::failed(error.to_string()))?;
    let rows: Vec<Vec<String>> = loaded
        .iter()
        .map(|package| {
            vec![
                package.name().to_owned(),
                package.version().to_owned(),
                package.gvk().to_string(),
            ]
        })
        .collect();
    out.text(&table(&headings(&["NAME", "VERSION", "KIND"]), &rows))
}

fn test(args: TestArgs, out: &mut Printer) -> Result<(), CliError> {
    let files =
        packages::files(&args.package).map_err(|error| CliError::failed(error.to_string()))?;
    let mut started = Instant::now();
    let mut printed = Ok(());
    let charts: Arc<dyn Charts> = Arc::new(AtOnce::new(&args.helm.program(None), None));
    let reports = scenario::run_watched(&files, args.filter.as_deref(), &charts, &mut |moment| {
        match moment {
            Moment::Begins(name) => {
                started = Instant::now();
                under_way(Some(name));
            }
            Moment::Ended(report) => {
                under_way(None);
                // Once nobody reads any more, the rest is not printed either; it cannot be called off from here.
                if printed.is_ok() {
                    printed = tell(report, started.elapsed(), args.trace, out);
                }
            }
        }
    })
    .map_err(|diagnostics| {
        CliError::failed(format!(
            "package {} cannot be tested:\n{}",
            args.package,
            libretto_engine::render(&diagnostics).trim_end()
        ))
    })?;
    printed?;
    if reports.is_empty() {
        return Err(match &args.filter {
            Some(filter) => CliError::failed(format!("no scenario's name contains {filter:?}")),
            None => CliError::failed(format!("package {} has no scenarios", args.package))
                .hint("write them in tests.yaml beside package.yaml"),
        });
    }
    let failed = reports
        .iter()
        .filter(|report| !report.failures.is_empty())
        .count();
    out.line(&format!(
        "{} passed, {failed} failed",
        reports.len() - failed
    ))?;
    if failed > 0 {
        return Err(CliError::failed(format!(
            "{failed} of {} scenarios failed",
            reports.len()
        )));
    }
    Ok(())
}

/// Shows a person at a terminal which scenario runs, on a line that its end replaces.
fn under_way(scenario: Option<&str>) {
    let mut screen = std::io::stderr();
    if !screen.is_terminal() {
        return;
    }
    // A display that cannot be shown must not stop what it shows.
    let _ = match scenario {
        Some(name) => write!(screen, "\r\u{1b}[2K...  {name}"),
        None => write!(screen, "\r\u{1b}[2K"),
    };
    let _ = screen.flush();
}

fn tell(report: &Report, took: Duration, trace: bool, out: &mut Printer) -> Result<(), CliError> {
    let passed = report.failures.is_empty();
    let word = if passed { "ok  " } else { "FAIL" };
    out.line(&format!(
        "{word} {} ({:.1}s)",
        report.name,
        took.as_secs_f64()
    ))?;
    for failure in &report.failures {
        out.line(&format!("     {}", failure.replace('\n', "\n     ")))?;
    }
    if trace || !passed {
        for effect in &report.trace {
            out.line(&format!("     | {effect}"))?;
        }
    }
    out.flush()
}

fn cluster_role(package: &Compiled) -> Value {
    json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRole",
        "metadata": {"name": format!("libretto-{}", package.name())},
        "rules": rights::rules(package),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn lint_reads_the_scenarios_too() {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in packages::bundled_files("redis").unwrap() {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let place = folder.path().to_str().unwrap();
        assert!(lint(place).is_ok());
        let tests = "- name: x\n  steps:\n    - expect: {calls: {no-such: 1}}\n";
        std::fs::write(folder.path().join("tests.yaml"), tests).unwrap();
        let error = lint(place).unwrap_err().to_string();
        assert!(
            error.contains("tests.yaml:3:24: expect.calls: there is no rule `no-such`"),
            "{error}"
        );
        assert!(error.contains("has 1 mistake:"), "{error}");
    }
}
