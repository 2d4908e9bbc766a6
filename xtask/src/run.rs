//! The steps behind `up`, `test`, `check` and `generate`, each with its time.

use std::{
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    time::Instant,
};

use crate::{edges, generate, say, setup, tidy};

/// Builds the binary and hands the terminal over to `libretto up`.
pub(crate) fn up(release: bool, arguments: &[String]) -> Result<ExitCode, String> {
    setup::machine()?;
    let binary = build(release)?;
    let status = Command::new(&binary)
        .arg("up")
        .args(arguments)
        .status()
        .map_err(|error| format!("start {}: {error}", binary.display()))?;
    Ok(ExitCode::from(
        status
            .code()
            .and_then(|code| u8::try_from(code).ok())
            .unwrap_or(1),
    ))
}

/// Every check and test, cheapest first.
pub(crate) fn test(quick: bool, scenario: Option<&str>) -> Result<ExitCode, String> {
    setup::machine()?;
    if scenario.is_none() {
        check()?;
        step("unit and integration tests", || {
            cargo(&["test", "--workspace", "--exclude", "libretto-e2e"])
        })?;
    }
    let binary = build(false)?;
    if scenario.is_none() {
        step("package tests", || package_tests(&binary))?;
    }
    if quick {
        return Ok(ExitCode::SUCCESS);
    }
    let tools = setup::tools()?;
    step("scenarios on the embedded cluster", || {
        let mut command = Command::new(env!("CARGO"));
        command
            .current_dir(setup::workspace())
            .args(["test", "--package", "libretto-e2e"])
            .env("LIBRETTO_BIN", &binary)
            .env("LIBRETTO_TOOLS", &tools);
        if let Some(name) = scenario {
            command.args(["--", name, "--nocapture"]);
        }
        setup::succeeded("scenarios", command.status())
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Brings the files under `deploy/` up to date, or says which are not.
pub(crate) fn generate(check: bool) -> Result<(), String> {
    let binary = build(false)?;
    step("generated files", || generate::run(&binary, check))
}

/// No test is run: style, lints, and the rules of the house.
pub(crate) fn check() -> Result<(), String> {
    step("formatting", || cargo(&["fmt", "--all", "--check"]))?;
    step(
        "forbidden crate edges",
        || edges::check(&setup::workspace()),
    )?;
    step("tidiness", || tidy::check(&setup::workspace()))?;
    step("lints", || {
        cargo(&[
            "clippy",
            "--workspace",
            "--all-targets",
            "--quiet",
            "--",
            "--deny",
            "warnings",
        ])
    })?;
    generate(true)
}

fn package_tests(binary: &Path) -> Result<(), String> {
    let folder = setup::workspace().join("packages");
    let mut packages: Vec<PathBuf> = std::fs::read_dir(&folder)
        .map_err(|error| format!("read {}: {error}", folder.display()))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.join("package.yaml").exists())
        .collect();
    packages.sort();
    for package in packages {
        for action in ["lint", "test"] {
            let status = Command::new(binary)
                .args(["package", action])
                .arg(&package)
                .status();
            setup::succeeded(
                &format!("libretto package {action} {}", package.display()),
                status,
            )?;
        }
    }
    Ok(())
}

fn build(release: bool) -> Result<PathBuf, String> {
    let profile = if release { "release" } else { "debug" };
    step("build libretto", || {
        let mut arguments = vec!["build", "--package", "libretto"];
        if release {
            arguments.push("--release");
        }
        cargo(&arguments)
    })?;
    let target = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| setup::workspace().join("target"), PathBuf::from);
    Ok(target.join(profile).join("libretto"))
}

fn cargo(arguments: &[&str]) -> Result<(), String> {
    let status = Command::new(env!("CARGO"))
        .current_dir(setup::workspace())
        .args(arguments)
        .status();
    setup::succeeded(&format!("cargo {}", arguments.join(" ")), status)
}

/// Runs one step and says how long it took.
pub(crate) fn step(name: &str, action: impl FnOnce() -> Result<(), String>) -> Result<(), String> {
    say(&format!("==> {name}"));
    let started = Instant::now();
    action()?;
    say(&format!(
        "    {name}: {:.1} s",
        started.elapsed().as_secs_f64()
    ));
    Ok(())
}
