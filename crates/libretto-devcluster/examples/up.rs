//! The embedded cluster alone: `cargo run -p libretto-devcluster --example up -- <data directory> [auto|namespaces|process]`.
//!
//! Shows the order a `main` must keep: roles first, then `enter`, and no thread before either.
#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::{path::PathBuf, process::ExitCode};

use libretto_devcluster::{
    Devcluster, Options, Parts, bind,
    node::{Driver, Entry, enter, reexec_dispatch},
};

fn main() -> ExitCode {
    reexec_dispatch();
    let mut arguments = std::env::args().skip(1);
    let data_dir = arguments.next().map(PathBuf::from);
    let driver = match arguments.next().as_deref() {
        None | Some("auto") => Driver::Auto,
        Some("namespaces") => Driver::Namespaces,
        Some("process") => Driver::Process,
        Some(other) => {
            eprintln!("unknown driver {other:?}; choose auto, namespaces or process");
            return ExitCode::from(2);
        }
    };
    let address = "127.0.0.1:0".parse().expect("a constant address");
    let listen = || {
        bind(address)
            .map(|listener| vec![listener])
            .map_err(std::io::Error::other)
    };
    let mut listeners = match enter(driver, listen) {
        Ok(Entry::Supervised(code)) => return ExitCode::from(code),
        Ok(Entry::Inside { listeners }) => listeners,
        Ok(Entry::Fallback { listeners, reason }) => {
            eprintln!("pods run as plain processes: {reason}");
            listeners
        }
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    };
    let options = Options {
        data_dir,
        listener: listeners.remove(0),
        driver: Driver::Auto,
        images: None,
        parts: Parts::Everything,
    };
    let runtime = tokio::runtime::Runtime::new().expect("threads can be started");
    runtime.block_on(async {
        let cluster = match Devcluster::start(options).await {
            Ok(cluster) => cluster,
            Err(error) => {
                eprintln!("{error}");
                return ExitCode::FAILURE;
            }
        };
        println!("export KUBECONFIG={}", cluster.kubeconfig_path().display());
        let mut terminate =
            tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())
                .expect("signals can be handled");
        tokio::select! {
            _ = tokio::signal::ctrl_c() => {}
            _ = terminate.recv() => {}
        }
        match cluster.shutdown().await {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("{error}");
                ExitCode::FAILURE
            }
        }
    })
}
