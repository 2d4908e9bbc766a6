//! `libretto apply`: server-side apply of files.

use std::path::PathBuf;

use clap::Args;
use kube::api::{Patch, PatchParams};
use libretto_actions::kube::object_ref;
use serde_json::Value;

use crate::cli::{
    CliError,
    connect::{Cluster, ClusterArgs, NamespaceArgs},
    kinds::short_name,
    manifest,
    print::Printer,
};

const EXAMPLES: &str = "\
Examples:
  libretto apply -f rediscluster.yaml
  libretto apply -f manifests/ -n test
  cat pod.yaml | libretto apply -f -";

/// Field manager of what a person applies with this command.
pub(crate) const MANAGER: &str = "libretto-cli";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct ApplyArgs {
    /// Files or folders with manifests; `-` is standard input
    #[arg(short, long = "filename", required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,

    /// Take fields that somebody else manages
    #[arg(long)]
    pub force_conflicts: bool,

    /// Ask the API server what would happen, change nothing
    #[arg(long)]
    pub dry_run: bool,

    #[command(flatten)]
    pub namespace: NamespaceArgs,
    #[command(flatten)]
    pub cluster: ClusterArgs,
}

pub(crate) async fn apply(args: ApplyArgs, out: &mut Printer) -> Result<(), CliError> {
    let objects = manifest::read(&args.files)?;
    let cluster = Cluster::connect(&args.cluster, args.namespace.namespace.as_deref()).await?;
    // A misspelt field is refused, as kubectl does: nothing is dropped in silence.
    let mut params = PatchParams::apply(MANAGER).validation_strict();
    params.force = args.force_conflicts;
    params.dry_run = args.dry_run;
    let mut failures = Vec::new();
    for object in objects {
        let name = short_name(&object);
        match apply_one(&cluster, object, &params).await {
            Ok(word) => {
                let suffix = if args.dry_run { " (dry run)" } else { "" };
                out.line(&format!("{name} {word}{suffix}"))?;
            }
            // The other objects are no less wanted because one is refused.
            Err(error) => failures.push(error.to_string()),
        }
    }
    if failures.is_empty() {
        Ok(())
    } else {
        Err(CliError::failed(failures.join("\n")))
    }
}

/// Applies one object and says what that did to it.
pub(crate) async fn apply_one(
    cluster: &Cluster,
    mut object: Value,
    params: &PatchParams,
) -> Result<&'static str, CliError> {
    let what = format!("apply {}", short_name(&object));
    let mut target = object_ref(&object).map_err(|failure| CliError::failed(failure.message))?;
    let failed = |error| {
        let failure: libretto_api::intent::Failure =
            libretto_actions::kube::CallError::failure(&error, &what);
        let told = CliError::failed(failure.message);
        match failure.kind {
            libretto_api::intent::FailureKind::Conflict => told
                .hint("--force-conflicts takes the fields; the other manager may take them back"),
            libretto_api::intent::FailureKind::Unreachable => CliError::call(&what, &error),
            _ => told,
        }
    };
    let resource = cluster.kube.resource(&target.gvk).await.map_err(failed)?;
    if resource.namespaced && target.namespace.is_empty() {
        target.namespace.clone_from(&cluster.namespace);
        object["metadata"]["namespace"] = cluster.namespace.clone().into();
    }
    let before = cluster.kube.get(&target).await.map_err(failed)?;
    let after = cluster
        .kube
        .patch(&target, None, params, &Patch::Apply(&object))
        .await
        .map_err(failed)?;
    Ok(match before {
        None => "created",
        Some(before)
            if before["metadata"]["resourceVersion"] == after["metadata"]["resourceVersion"] =>
        {
            "unchanged"
        }
        Some(_) => "configured",
    })
}
