//! The steps behind `up`, `test`, `check`, `bench` and `generate`, each with its time.

use std::{
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    time::Instant,
};

use crate::{documents, edges, generate, kubernetes, say, setup, tidy};

/// Builds the binary and hands the terminal over to `libretto up`.
pub(crate) fn up(release: bool, arguments: &[String]) -> Result<ExitCode, String> {
    setup::machine()?;
    let binary = build(release)?;
    Err(hand_over(Command::new(binary).arg("up").args(arguments)))
}

/// Goes on as the other program; returns only when that cannot be started. `cargo run` hands over to this program in the same way,
/// so the shell then waits for the other one itself: with a process in between, which a Ctrl-C ends at once, the prompt would be
/// back while the cluster is still being stopped.
fn hand_over(command: &mut Command) -> String {
    let error = command.exec();
    format!("start {}: {error}", command.get_program().display())
}

/// Which tests run, and on what.
#[derive(clap::Args)]
pub(crate) struct Tests {
    /// 1: checks, unit tests and package tests; 2: scenarios on the embedded cluster; 3: the same and more on a real Kubernetes
    #[arg(long = "tier", value_name = "N", default_values_t = [1, 2], value_parser = clap::value_parser!(u8).range(1..=3))]
    tiers: Vec<u8>,
    /// Only scenarios whose name contains this; without --tier, on the embedded cluster
    #[arg(long, value_name = "NAME")]
    scenario: Option<String>,
    /// Which Kubernetes tier 3 runs on
    #[arg(long, default_value = kubernetes::MINORS[0], value_parser = kubernetes::MINORS.to_vec())]
    minor: String,
    /// Say why tier 3 cannot run here, and succeed
    #[arg(long)]
    if_possible: bool,
}

/// What was asked for, cheapest first.
pub(crate) fn test(tests: &Tests) -> Result<ExitCode, String> {
    let scenario = tests.scenario.as_deref();
    if tests.tiers.contains(&1) && scenario.is_none() {
        setup::machine()?;
        check()?;
        step("unit and integration tests", || {
            cargo(&["test", "--workspace", "--exclude", "libretto-e2e"])?;
            cargo(&["test", "--package", "libretto-e2e", "--lib"])
        })?;
        let binary = build(false)?;
        step("package tests", || package_tests(&binary))?;
    }
    if tests.tiers.contains(&2) {
        setup::machine()?;
        let binary = build(false)?;
        let tools = setup::tools()?;
        setup::registry(&tools)?;
        setup::trino(&tools)?;
        step("scenarios on the embedded cluster", || {
            // One after another, so that nobody's limits are measured while Java servers start.
            scenarios(
                &["e2e", "embedded", "likeness", "presto"],
                &binary,
                &tools,
                scenario,
                |command| {
                    command.env("RUST_TEST_THREADS", SIDE_BY_SIDE);
                },
            )
        })?;
    }
    if tests.tiers.contains(&3) {
        match kubernetes::possible(&tests.minor) {
            Err(reason) if tests.if_possible => {
                say(&format!("==> scenarios on Kubernetes: NOT RUN: {reason}"));
            }
            Err(reason) => return Err(reason),
            Ok(()) => on_kubernetes(&tests.minor, scenario)?,
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Scenarios at a time: two that work, and one that waits for five minutes whether anything is written.
const SIDE_BY_SIDE: &str = "3";

/// The scenarios of the embedded cluster, and those for which Kubernetes' own processes must fail.
fn on_kubernetes(minor: &str, scenario: Option<&str>) -> Result<(), String> {
    let binary = build(false)?;
    let tools = setup::tools()?;
    setup::registry(&tools)?;
    setup::trino(&tools)?;
    let this = std::env::current_exe().map_err(|error| format!("find this program: {error}"))?;
    kubernetes::during(minor, |kubeconfig, audit| {
        let mut targets = vec![
            ("scenarios on Kubernetes", "e2e", SIDE_BY_SIDE),
            ("installation on Kubernetes", "install", "1"),
            ("Presto on Kubernetes", "presto", "1"),
            // Not beside others: these stop what all others need.
            ("faults of Kubernetes", "kubernetes", "1"),
        ];
        // Answers are recorded from the newest minor, and from one that has forgotten its first changes: after the faults it has.
        if minor == kubernetes::MINORS[0] {
            targets.push(("likeness to Kubernetes", "likeness", "1"));
        }
        for (name, target, threads) in targets {
            step(name, || {
                scenarios(&[target], &binary, &tools, scenario, |command| {
                    command
                        .env("LIBRETTO_KUBECONFIG", kubeconfig)
                        .env("LIBRETTO_LIKENESS_KUBECONFIG", kubeconfig)
                        .env("LIBRETTO_AUDIT", audit)
                        .env("LIBRETTO_XTASK", &this)
                        .env("RUST_TEST_THREADS", threads);
                })
            })?;
        }
        Ok(())
    })
}

fn scenarios(
    targets: &[&str],
    binary: &Path,
    tools: &Path,
    scenario: Option<&str>,
    place: impl FnOnce(&mut Command),
) -> Result<(), String> {
    let mut command = Command::new(env!("CARGO"));
    command
        .current_dir(setup::workspace())
        .args(["test", "--package", "libretto-e2e"])
        .args(targets.iter().flat_map(|target| ["--test", target]))
        .env("LIBRETTO_BIN", binary)
        .env("LIBRETTO_TOOLS", tools)
        // A failed scenario tells its story in its message; frames of the runtime would push it out of sight.
        .env("RUST_BACKTRACE", "0");
    place(&mut command);
    if let Some(name) = scenario {
        command.args(["--", name, "--nocapture"]);
    }
    setup::succeeded("scenarios", command.status())
}

/// Brings the files under `deploy/` up to date, or says which are not.
pub(crate) fn generate(check: bool) -> Result<(), String> {
    let binary = build(false)?;
    step("generated files", || generate::run(&binary, check))
}

/// Prints the table of bars.
pub(crate) fn bench(name: Option<&str>) -> Result<(), String> {
    let mut arguments = vec![
        "bench",
        "--quiet",
        "--package",
        "libretto-engine",
        "--bench",
        "bars",
    ];
    if let Some(name) = name {
        arguments.extend(["--", name]);
    }
    cargo(&arguments)
}

/// No test is run: style, lints, and the rules of the house.
pub(crate) fn check() -> Result<(), String> {
    step("formatting", || cargo(&["fmt", "--all", "--check"]))?;
    step(
        "forbidden crate edges",
        || edges::check(&setup::workspace()),
    )?;
    step("tidiness", || tidy::check(&setup::workspace()))?;
    step("files that documents show", || {
        documents::check(&setup::workspace())
    })?;
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
    let helm = setup::tools()?.join("helm");
    let mut packages: Vec<PathBuf> = Vec::new();
    for folder in ["packages", "examples"] {
        let folder = setup::workspace().join(folder);
        let entries = std::fs::read_dir(&folder)
            .map_err(|error| format!("read {}: {error}", folder.display()))?;
        packages.extend(
            entries
                .filter_map(|entry| Some(entry.ok()?.path()))
                .filter(|path| path.is_dir()),
        );
    }
    packages.sort();
    for package in packages {
        for action in ["lint", "test"] {
            let status = Command::new(binary)
                .args(["package", action])
                .arg(&package)
                .env("LIBRETTO_HELM", &helm)
                .status();
            setup::succeeded(
                &format!("libretto package {action} {}", package.display()),
                status,
            )?;
        }
    }
    let shown = setup::workspace().join("target/documents");
    for package in documents::packages(&setup::workspace(), &shown)? {
        let status = Command::new(binary)
            .args(["package", "lint"])
            .arg(&package)
            .status();
        setup::succeeded(
            &format!("libretto package lint {}", package.display()),
            status,
        )?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_take_over_is_told() {
        let error = hand_over(&mut Command::new("/no/such/libretto"));
        assert!(
            error.starts_with("start /no/such/libretto: No such file"),
            "{error}"
        );
    }

    /// In a child: the shell that takes over must be the process that was started.
    #[test]
    fn the_other_program_is_the_process_that_was_started() {
        if std::env::var_os("TAKE_OVER").is_some() {
            panic!("{}", hand_over(Command::new("sh").args(["-c", "echo $$"])));
        }
        let this = std::env::current_exe().expect("a test has a program");
        let child = Command::new(this)
            .args([
                "--exact",
                "run::tests::the_other_program_is_the_process_that_was_started",
                "--nocapture",
            ])
            .env("TAKE_OVER", "1")
            .stdout(std::process::Stdio::piped())
            .spawn()
            .expect("it runs already");
        let pid = child.id().to_string();
        let said = child.wait_with_output().expect("it ends").stdout;
        let said = String::from_utf8_lossy(&said);
        assert!(said.lines().any(|line| line == pid), "{pid} not in {said}");
    }
}
