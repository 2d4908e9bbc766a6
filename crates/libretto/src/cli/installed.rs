//! Packages that the cluster's installations run, for commands that must know what a Kind is about.

use std::sync::Arc;

use kube::api::ListParams;
use libretto_actions::kube::Kube;
use libretto_api::{
    installation::{RevisionSpec, installation_gvk, revision_gvk},
    object::ObjectRef,
};
use libretto_engine::Compiled;

use crate::{
    cli::{CliError, connect::Cluster},
    packages,
};

/// What `--package` names; without it what is installed in the cluster, then what is bundled and not installed.
pub(crate) async fn load(
    places: &[String],
    cluster: &Cluster,
) -> Result<Vec<Arc<Compiled>>, CliError> {
    let named = packages::load(places).map_err(|error| CliError::failed(error.to_string()))?;
    if !places.is_empty() {
        return Ok(named);
    }
    let mut all = installed(&cluster.kube).await?;
    for package in named {
        if !all.iter().any(|other| other.name() == package.name()) {
            all.push(package);
        }
    }
    Ok(all)
}

async fn installed(kube: &Kube) -> Result<Vec<Arc<Compiled>>, CliError> {
    let listed = kube
        .list(&installation_gvk(), "", &ListParams::default())
        .await;
    let list = match listed {
        Ok(list) => list,
        // Where there are none, or they are nothing for this person, nothing is installed as far as they can tell.
        Err(error) if matches!(error.code(), Some(403 | 404)) => return Ok(Vec::new()),
        Err(error) => return Err(CliError::call("list installations", &error)),
    };
    let mut all: Vec<Arc<Compiled>> = Vec::new();
    for installation in list["items"].as_array().into_iter().flatten() {
        let Some(revision) = installation["status"]["revision"].as_str() else {
            continue;
        };
        let name = installation["metadata"]["name"]
            .as_str()
            .unwrap_or_default();
        let target = ObjectRef {
            gvk: revision_gvk(),
            namespace: String::new(),
            name: revision.to_owned(),
        };
        let read = format!("read revision {revision} of installation {name}");
        let object = kube
            .get(&target)
            .await
            .map_err(|error| CliError::call(&read, &error))?
            .ok_or_else(|| CliError::failed(format!("{read}: it is not there")))?;
        let spec: RevisionSpec = serde_json::from_value(object["spec"].clone())
            .map_err(|error| CliError::failed(format!("{read}: {error}")))?;
        if all.iter().any(|other| other.name() == spec.package) {
            continue;
        }
        let compiled = libretto_engine::load_files(&spec.files).map_err(|mistakes| {
            CliError::failed(format!("{read}: {}", libretto_engine::render(&mistakes)))
                .hint("--package DIR uses a package of this machine")
        })?;
        all.push(Arc::new(compiled));
    }
    Ok(all)
}
