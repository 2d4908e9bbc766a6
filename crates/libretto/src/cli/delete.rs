//! `libretto delete`: deletes objects and waits until they are gone.

use std::{path::PathBuf, time::Duration};

use clap::Args;
use kube::api::DeleteParams;
use libretto_actions::kube::object_ref;
use libretto_api::object::ObjectRef;
use tokio::time::Instant;

use crate::cli::{
    CliError,
    connect::{Cluster, ClusterArgs, NamespaceArgs},
    kinds::{self, Kinds},
    manifest,
    print::Printer,
};

/// Pause between looks whether an object is gone.
const LOOK_EVERY: Duration = Duration::from_millis(200);

const EXAMPLES: &str = "\
Examples:
  libretto delete rediscluster test
  libretto delete pod/redis-cluster-test-0 --now
  libretto delete -f rediscluster.yaml --no-wait";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct DeleteArgs {
    /// KIND NAME… or KIND/NAME…
    #[arg(value_name = "KIND/NAME", required_unless_present = "files")]
    pub what: Vec<String>,

    /// Delete what these files describe
    #[arg(short, long = "filename", value_name = "FILE", conflicts_with = "what")]
    pub files: Vec<PathBuf>,

    /// Give processes one second to end
    #[arg(long)]
    pub now: bool,

    /// Do not wait until the objects are gone
    #[arg(long)]
    pub no_wait: bool,

    /// Longest wait, in seconds
    #[arg(long, default_value_t = 60, value_name = "SECONDS")]
    pub timeout: u64,

    #[command(flatten)]
    pub namespace: NamespaceArgs,
    #[command(flatten)]
    pub cluster: ClusterArgs,
}

pub(crate) async fn delete(args: DeleteArgs, out: &mut Printer) -> Result<(), CliError> {
    let cluster = Cluster::connect(&args.cluster, args.namespace.namespace.as_deref()).await?;
    let targets = targets(&args, &cluster).await?;
    let mut params = DeleteParams::background();
    if args.now {
        params = params.grace_period(1);
    }
    for target in &targets {
        cluster
            .kube
            .delete(target, &params)
            .await
            .map_err(|error| CliError::call(&format!("delete {target}"), &error))?;
        out.line(&format!("{target} deleted"))?;
    }
    if args.no_wait {
        return Ok(());
    }
    let deadline = Instant::now() + Duration::from_secs(args.timeout);
    for target in &targets {
        wait_until_gone(&cluster, target, deadline).await?;
    }
    Ok(())
}

async fn targets(args: &DeleteArgs, cluster: &Cluster) -> Result<Vec<ObjectRef>, CliError> {
    let mut targets = Vec::new();
    if !args.files.is_empty() {
        for object in manifest::read(&args.files)? {
            let mut target =
                object_ref(&object).map_err(|failure| CliError::failed(failure.message))?;
            if target.namespace.is_empty() {
                target.namespace.clone_from(&cluster.namespace);
            }
            targets.push(target);
        }
        // What was created last depends on what came before it.
        targets.reverse();
        return Ok(targets);
    }
    let known = Kinds::discover(&cluster.kube).await?;
    for asked in kinds::read(&args.what)? {
        if asked.names.is_empty() {
            return Err(CliError::usage(format!(
                "name the {} to delete; deleting all of a kind is not offered",
                asked.kind
            )));
        }
        let resource = known.find(&asked.kind)?;
        for name in &asked.names {
            targets.push(kinds::object(resource, &cluster.namespace, name));
        }
    }
    Ok(targets)
}

async fn wait_until_gone(
    cluster: &Cluster,
    target: &ObjectRef,
    deadline: Instant,
) -> Result<(), CliError> {
    loop {
        let live = cluster
            .kube
            .get(target)
            .await
            .map_err(|error| CliError::call(&format!("read {target}"), &error))?;
        // Without a deletionTimestamp it is a new one of the same name (a controller's replacement).
        let Some(live) = live.filter(|live| live["metadata"]["deletionTimestamp"].is_string())
        else {
            return Ok(());
        };
        if Instant::now() >= deadline {
            let holders = live["metadata"]["finalizers"].to_string();
            return Err(CliError::failed(format!("{target} is still there"))
                .hint(format!("it waits for its finalizers: {holders}")));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
