//! `libretto package publish`: a folder becomes a Package of the cluster.

use std::time::Duration;

use clap::Args;
use kube::api::{Patch, PatchParams};
use libretto_actions::kube::CallError;
use libretto_api::{installation::package_gvk, object::ObjectRef};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::{
    cli::{
        CliError,
        apply::MANAGER,
        connect::{Cluster, ClusterArgs},
        package,
        print::{Document, Printer},
    },
    packages,
};

/// Compiling takes milliseconds; longer means that nobody is there to do it.
const PATIENCE: Duration = Duration::from_secs(30);
/// Pause between looks.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// etcd refuses what is longer than 1.5 MiB, and the API server adds its own notes.
const LIMIT: usize = 1_400_000;

const EXAMPLES: &str = "\
Examples:
  libretto package publish ./my-operator            # a Package named as in its package.yaml
  libretto package publish ./my-operator --print    # the same as YAML, for a repository

An Installation says where it works and with whose rights:

  apiVersion: libretto.dev/v1alpha1
  kind: Installation
  metadata: {name: my-operator}
  spec: {package: my-operator}

It is `libretto up` or `libretto run --installations` that runs it.";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct PublishArgs {
    /// Folder with a package.yaml, or the name of a bundled package
    #[arg(default_value = ".")]
    pub package: String,

    /// Print the Package instead of applying it
    #[arg(long)]
    pub print: bool,

    /// Do not wait until it is taken in
    #[arg(long)]
    pub no_wait: bool,

    #[command(flatten)]
    pub cluster: ClusterArgs,
}

pub(crate) async fn publish(args: PublishArgs, out: &mut Printer) -> Result<(), CliError> {
    let object = object(&args.package)?;
    if args.print {
        return out.document(&object, Document::Yaml);
    }
    let cluster = Cluster::connect(&args.cluster, None).await?;
    let name = object["metadata"]["name"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    let word = put(&cluster, &name, object).await?;
    if args.no_wait {
        return out.line(&format!("package {name} {word}"));
    }
    let revision = taken_in(&cluster, &name).await?;
    out.line(&format!("package {name} {word}: revision {revision}"))
}

/// Makes the Package exactly what the folder is: what others put into it would be part of the next revision.
async fn put(cluster: &Cluster, name: &str, object: Value) -> Result<&'static str, CliError> {
    let target = reference(name);
    let failed = |error: CallError| CliError::call(&format!("publish package {name}"), &error);
    let Some(live) = cluster.kube.get(&target).await.map_err(failed)? else {
        cluster
            .kube
            .create(&target, &object)
            .await
            .map_err(failed)?;
        return Ok("created");
    };
    if !live["metadata"]["deletionTimestamp"].is_null() {
        return Err(CliError::failed(format!(
            "package {name} is being deleted; it stays until no installation uses it"
        ))
        .hint("`kubectl get installations` shows which do"));
    }
    let mut spec = object["spec"].clone();
    for (key, value) in live["spec"].as_object().into_iter().flatten() {
        if spec[key].is_null() && key != "revisionHistoryLimit" {
            spec[key] = Value::Null;
        }
        for file in value.as_object().into_iter().flat_map(|map| map.keys()) {
            if key == "files" && spec["files"].is_object() && spec["files"][file].is_null() {
                spec["files"][file] = Value::Null;
            }
        }
    }
    let version = &live["metadata"]["resourceVersion"];
    let patch = json!({"metadata": {"resourceVersion": version}, "spec": spec});
    let params = PatchParams {
        field_manager: Some(MANAGER.to_owned()),
        ..PatchParams::default()
    };
    let after = cluster
        .kube
        .patch(&target, None, &params, &Patch::Merge(&patch))
        .await
        .map_err(failed)?;
    Ok(if after["metadata"]["resourceVersion"] == *version {
        "unchanged"
    } else {
        "configured"
    })
}

fn reference(name: &str) -> ObjectRef {
    ObjectRef {
        gvk: package_gvk(),
        namespace: String::new(),
        name: name.to_owned(),
    }
}

/// The Package of a folder, whose mistakes are told before anybody is asked.
fn object(place: &str) -> Result<Value, CliError> {
    let compiled = package::compile(place)?;
    let gvk = package_gvk();
    let spec = if packages::bundled(place) {
        json!({"bundled": compiled.name()})
    } else {
        let (files, size) =
            packages::files_to_run(place).map_err(|error| CliError::failed(error.to_string()))?;
        if size > LIMIT {
            return Err(CliError::failed(format!(
                "package {place}: {size} bytes do not fit into an object of the cluster ({LIMIT})"
            ))
            .hint("put it into an image or a volume, and give its folder to `libretto run`"));
        }
        json!({"files": files})
    };
    Ok(json!({
        "apiVersion": gvk.api_version(),
        "kind": gvk.kind,
        "metadata": {"name": compiled.name()},
        "spec": spec,
    }))
}

/// The revision that became of it.
async fn taken_in(cluster: &Cluster, name: &str) -> Result<String, CliError> {
    let target = reference(name);
    let deadline = Instant::now() + PATIENCE;
    loop {
        let live = cluster
            .kube
            .get(&target)
            .await
            .map_err(|error| CliError::call("read the package", &error))?
            .ok_or_else(|| CliError::failed(format!("package {name} was deleted meanwhile")))?;
        let ready = live["status"]["conditions"]
            .as_array()
            .into_iter()
            .flatten()
            .find(|condition| condition["type"] == "Ready");
        if live["status"]["observedGeneration"] == live["metadata"]["generation"]
            && let Some(ready) = ready
        {
            let message = ready["message"].as_str().unwrap_or_default();
            if ready["status"] != "True" {
                return Err(CliError::failed(format!(
                    "package {name} is not taken in: {message}"
                )));
            }
            let revision = live["status"]["revision"].as_str().unwrap_or_default();
            return Ok(revision.to_owned());
        }
        if Instant::now() >= deadline {
            return Err(CliError::failed(format!(
                "package {name} is in the cluster, and nobody has taken it in within {} s",
                PATIENCE.as_secs()
            ))
            .hint("is `libretto up` or `libretto run --installations` at work? --no-wait does not ask"));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_bundled_package_is_named_and_a_folder_is_sent() {
        assert_eq!(
            object("redis").unwrap()["spec"],
            json!({"bundled": "redis"})
        );
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in packages::bundled_files("presto").unwrap() {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let object = object(folder.path().to_str().unwrap()).unwrap();
        assert_eq!(object["metadata"]["name"], "presto");
        let files = &object["spec"]["files"];
        assert!(files["package.yaml"].is_string());
        assert!(files.get("tests.yaml").is_none());
    }
}
