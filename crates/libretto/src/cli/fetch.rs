//! `libretto package fetch`: gets the charts that a package names a repository for into its folder.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use clap::Args;
use serde_json::Value;
use tokio::process::Command;

use crate::cli::{CliError, helm::HelmArgs, print::Printer};

/// A chart has some megabytes at most; whoever is slower than this does not answer.
const PATIENCE: Duration = Duration::from_mins(2);

const EXAMPLES: &str = "\
A rule with a chart says where it comes from:

  helm:
    chart: charts/web
    from: {repository: \"oci://registry.example/charts\", name: web, version: 1.2.0}

Examples:
  libretto package fetch ./my-operator    # writes charts/web-1.2.0.tgz, unless it is there

Helm fetches, with its own settings: `helm registry login` and `helm repo add` are its business.";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct FetchArgs {
    /// Folder with a package.yaml
    #[arg(default_value = ".")]
    pub package: PathBuf,

    /// Fetch charts that are there already too
    #[arg(long)]
    pub force: bool,

    /// The registry speaks HTTP without TLS
    #[arg(long)]
    pub plain_http: bool,

    #[command(flatten)]
    pub helm: HelmArgs,
}

/// A chart as a rule names it.
#[derive(Debug, PartialEq, Eq)]
struct Wanted {
    /// Where it goes, below the package's folder.
    file: String,
    repository: String,
    name: String,
    version: String,
}

pub(crate) async fn fetch(args: FetchArgs, out: &mut Printer) -> Result<(), CliError> {
    let path = args.package.join("package.yaml");
    let text = fs::read_to_string(&path)
        .map_err(|error| CliError::failed(format!("read {}: {error}", path.display())))?;
    let wanted = wanted(&text).map_err(|problem| {
        CliError::failed(format!("{}: {problem}", path.display()))
            .hint("`libretto package lint` says what is wrong, and where")
    })?;
    if wanted.is_empty() {
        return out.line("no rule of the package says where its chart comes from");
    }
    let helm = args.helm.program(None);
    for chart in wanted {
        let target = args.package.join(&chart.file);
        if target.exists() && !args.force {
            out.line(&format!("{} is there", chart.file))?;
            continue;
        }
        pull(&helm, &chart, &target, args.plain_http).await?;
        out.line(&format!("{} fetched from {}", chart.file, chart.repository))?;
    }
    Ok(())
}

/// Charts of rules with `from`. Everything else is lint's matter: a package without its charts does not compile.
fn wanted(text: &str) -> Result<Vec<Wanted>, String> {
    let package: Value = serde_saphyr::from_str(text).map_err(|error| error.to_string())?;
    let mut all = Vec::new();
    for rule in package["spec"]["execute"].as_array().into_iter().flatten() {
        let helm = &rule["helm"];
        let from = &helm["from"];
        if from.is_null() {
            continue;
        }
        let word = |value: &Value, what: &str| {
            value
                .as_str()
                .map(str::to_owned)
                .ok_or_else(|| format!("rule {}: helm.{what} is no text", rule["name"]))
        };
        let chart = word(&helm["chart"], "chart")?;
        let version = word(&from["version"], "from.version")?;
        let outside = |part: &str| part == ".." || part.is_empty();
        if chart.trim_end_matches('/').split('/').any(outside) {
            return Err(format!("chart {chart:?} is not in the package's folder"));
        }
        let file = if chart.ends_with(".tgz") {
            chart
        } else {
            format!("{}-{version}.tgz", chart.trim_end_matches('/'))
        };
        all.push(Wanted {
            file,
            repository: word(&from["repository"], "from.repository")?,
            name: word(&from["name"], "from.name")?,
            version,
        });
    }
    Ok(all)
}

async fn pull(
    helm: &Path,
    chart: &Wanted,
    target: &Path,
    plain_http: bool,
) -> Result<(), CliError> {
    let what = format!(
        "fetch chart {} {} from {}",
        chart.name, chart.version, chart.repository
    );
    let failed = |reason: &dyn std::fmt::Display| CliError::failed(format!("{what}: {reason}"));
    // Beside its place, so that half an archive is never taken for one.
    let folder = target.parent().unwrap_or(target);
    fs::create_dir_all(folder).map_err(|error| failed(&error))?;
    let beside = tempfile::tempdir_in(folder).map_err(|error| failed(&error))?;
    let mut command = Command::new(helm);
    command.arg("pull");
    if chart.repository.starts_with("oci://") {
        let place = chart.repository.trim_end_matches('/');
        command.arg(format!("{place}/{}", chart.name));
    } else {
        command
            .arg(&chart.name)
            .arg("--repo")
            .arg(&chart.repository);
    }
    command
        .args(["--version", &chart.version, "--destination"])
        .arg(beside.path())
        .stdin(Stdio::null())
        .kill_on_drop(true);
    if plain_http {
        command.arg("--plain-http");
    }
    let output = tokio::time::timeout(PATIENCE, command.output())
        .await
        .map_err(|_elapsed| failed(&format!("no end after {} s", PATIENCE.as_secs())))?
        .map_err(|error| {
            failed(&format!("{}: {error}", helm.display()))
                .hint("--helm or LIBRETTO_HELM names Helm's program")
        })?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let said = said.trim().trim_start_matches("Error: ");
        return Err(failed(&said));
    }
    let archive = fs::read_dir(beside.path())
        .map_err(|error| failed(&error))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|end| end == "tgz"))
        .ok_or_else(|| failed(&"Helm wrote no archive"))?;
    fs::rename(&archive, target).map_err(|error| failed(&error))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn package(chart: &str) -> String {
        format!(
            "spec:\n  execute:\n    - {{name: a, apply: x}}\n    - name: b\n      helm: {{chart: {chart}, from: {{repository: \"oci://r/charts\", name: web, version: 1.2.0}}}}\n"
        )
    }

    #[test]
    fn charts_with_a_repository_are_wanted() {
        for chart in ["charts/web", "charts/web/", "charts/web-1.2.0.tgz"] {
            let found = wanted(&package(chart)).unwrap();
            assert_eq!(found.len(), 1);
            assert_eq!(found[0].file, "charts/web-1.2.0.tgz");
            assert_eq!(found[0].repository, "oci://r/charts");
        }
    }

    #[test]
    fn nothing_is_written_outside_the_package() {
        for chart in ["../web", "charts/../../web", "/etc/web"] {
            let error = wanted(&package(chart)).unwrap_err();
            assert!(error.contains("not in the package's folder"), "{error}");
        }
    }
}
