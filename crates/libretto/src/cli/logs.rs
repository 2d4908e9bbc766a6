//! `libretto logs`: prints what a container wrote.

use clap::Args;
use futures::AsyncReadExt as _;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, LogParams};

use crate::cli::{
    CliError,
    connect::{Cluster, ClusterArgs, NamespaceArgs},
    pods,
    print::Printer,
};

/// What is read at once: a log line or a few dozen.
const CHUNK: usize = 16 << 10;

const EXAMPLES: &str = "\
Examples:
  libretto logs redis-cluster-test-0
  libretto logs -f sts/redis-sentinel-test --tail 20
  libretto logs redis-cluster-test-0 --previous";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct LogsArgs {
    /// POD, or KIND/NAME of what selects pods
    pub pod: String,

    /// Container (default: the first)
    #[arg(short, long)]
    pub container: Option<String>,

    /// Go on printing as the container writes
    #[arg(short, long)]
    pub follow: bool,

    /// The log of the container's former run
    #[arg(short, long)]
    pub previous: bool,

    /// Begin each line with its time
    #[arg(long)]
    pub timestamps: bool,

    /// Only the last lines
    #[arg(long, value_name = "LINES")]
    pub tail: Option<i64>,

    /// Only what is not older than so many seconds
    #[arg(long, value_name = "SECONDS")]
    pub since: Option<i64>,

    #[command(flatten)]
    pub namespace: NamespaceArgs,
    #[command(flatten)]
    pub cluster: ClusterArgs,
}

pub(crate) async fn logs(args: LogsArgs, out: &mut Printer) -> Result<(), CliError> {
    let cluster = Cluster::connect(&args.cluster, args.namespace.namespace.as_deref()).await?;
    let pod = pods::find(&cluster, &args.pod).await?;
    let params = LogParams {
        container: Some(pods::container(&pod, args.container.as_deref())?),
        follow: args.follow,
        previous: args.previous,
        timestamps: args.timestamps,
        tail_lines: args.tail,
        since_seconds: args.since,
        ..LogParams::default()
    };
    let api: Api<Pod> = Api::namespaced(cluster.kube.client().clone(), &cluster.namespace);
    let name = pods::name(&pod);
    let mut stream = std::pin::pin!(
        api.log_stream(name, &params)
            .await
            .map_err(|error| CliError::call(&format!("log of pod {name}"), &error.into()))?
    );
    let mut chunk = vec![0; CHUNK];
    loop {
        let read = stream.read(&mut chunk).await?;
        if read == 0 {
            return Ok(());
        }
        out.bytes(&chunk[..read])?;
    }
}
