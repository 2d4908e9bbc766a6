//! Serves a cluster for trying clients by hand: `cargo run --example serve -- <data directory> [process]`.
//!
//! Without `process` only the API server runs; with it controllers and a node of plain processes, too.

use std::path::PathBuf;

use libretto_devcluster::{Devcluster, Options, Parts, bind, node::Driver};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let processes = std::env::args()
        .nth(2)
        .is_some_and(|word| word == "process");
    let cluster = Devcluster::start(Options {
        data_dir: std::env::args_os().nth(1).map(PathBuf::from),
        listener: bind("127.0.0.1:0".parse()?)?,
        driver: Driver::Process,
        images: None,
        parts: if processes {
            Parts::Everything
        } else {
            Parts::ApiServer
        },
    })
    .await?;
    #[allow(clippy::print_stdout)]
    {
        println!("{}", cluster.kubeconfig_path().display());
    }
    tokio::signal::ctrl_c().await?;
    cluster.shutdown().await?;
    Ok(())
}
