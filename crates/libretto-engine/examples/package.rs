//! Author's loop without the rest of the runtime: `cargo run -p libretto-engine --example package -- lint|test <folder> [filter]`.

#![allow(clippy::print_stdout)]

use std::{path::Path, process::ExitCode, sync::Arc};

use libretto_api::chart::{Charts, NoCharts};
use libretto_engine::{read_dir, render, scenario};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [command, folder, rest @ ..] = arguments.as_slice() else {
        println!("usage: package lint|test <folder> [filter]");
        return ExitCode::from(2);
    };
    let files = match read_dir(Path::new(folder)) {
        Ok(files) => files,
        Err(diagnostics) => {
            print!("{}", render(&diagnostics));
            return ExitCode::FAILURE;
        }
    };
    if command == "lint" {
        return match scenario::check(&files) {
            Ok(package) => {
                println!("{} {} is fine", package.name(), package.version());
                ExitCode::SUCCESS
            }
            Err(diagnostics) => {
                print!("{}", render(&diagnostics));
                ExitCode::FAILURE
            }
        };
    }
    // Charts are rendered by a program, which the whole runtime knows: `libretto package test`.
    let charts: Arc<dyn Charts> = Arc::new(NoCharts);
    match scenario::run(&files, rest.first().map(String::as_str), &charts) {
        Ok(reports) => {
            let mut failed = false;
            for report in &reports {
                println!(
                    "{} {}",
                    if report.failures.is_empty() {
                        "ok    "
                    } else {
                        "FAILED"
                    },
                    report.name
                );
                for failure in &report.failures {
                    println!("       {failure}");
                    failed = true;
                }
                if failed || rest.iter().any(|word| word == "--trace") {
                    for line in &report.trace {
                        println!("         {line}");
                    }
                }
            }
            if failed {
                ExitCode::FAILURE
            } else {
                ExitCode::SUCCESS
            }
        }
        Err(diagnostics) => {
            print!("{}", render(&diagnostics));
            ExitCode::FAILURE
        }
    }
}
