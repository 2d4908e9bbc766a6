//! `libretto version`: ours, and the cluster's when one answers.

use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};

use crate::cli::{
    CliError,
    connect::{self, ClusterArgs},
    print::{Document, Printer},
};

/// A version is not worth more waiting than this.
const SERVER_TIMEOUT: Duration = Duration::from_secs(2);

#[derive(Debug, Args)]
pub struct VersionArgs {
    /// Do not ask the cluster
    #[arg(long)]
    pub client: bool,

    /// As JSON
    #[arg(long)]
    pub json: bool,

    #[command(flatten)]
    pub cluster: ClusterArgs,
}

pub(crate) async fn version(args: VersionArgs, out: &mut Printer) -> Result<(), CliError> {
    let ours = env!("CARGO_PKG_VERSION");
    let server = if args.client {
        None
    } else {
        tokio::time::timeout(SERVER_TIMEOUT, server(&args.cluster))
            .await
            .ok()
            .flatten()
    };
    if args.json {
        return out.document(&json!({"libretto": ours, "server": server}), Document::Json);
    }
    out.line(&format!("libretto {ours}"))?;
    if let Some(server) = server {
        let version = server["gitVersion"].as_str().unwrap_or("unknown");
        out.line(&format!("cluster  {version}"))?;
    }
    Ok(())
}

async fn server(args: &ClusterArgs) -> Option<Value> {
    let client = connect::client(args).await.ok()?;
    let request = http::Request::get("/version").body(Vec::new()).ok()?;
    client.request::<Value>(request).await.ok()
}
