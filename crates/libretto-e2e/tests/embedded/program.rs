//! `libretto up` as a program: the demo, without root, Ctrl-C, and what is in its way.

use std::{
    net::TcpListener,
    process::{Command, Stdio},
};

use libretto_e2e::{
    Step,
    cluster::{self, Cluster, Output},
    redis::Redis,
};
use serde_json::json;

#[test]
fn the_demo_becomes_healthy_and_exits_with_zero() -> Step {
    once(&mut Command::new(cluster::binary()?))
}

#[test]
fn the_demo_needs_no_root() -> Step {
    if !nix::unistd::geteuid().is_root() {
        // The scenario above already ran without root.
        return Ok(());
    }
    // setpriv drops root for the whole program, which then finds its own way into namespaces.
    let mut command = Command::new("setpriv");
    command.args([
        "--reuid=65534",
        "--regid=65534",
        "--clear-groups",
        "--no-new-privs",
    ]);
    command.arg(readable_binary()?);
    once(&mut command)
}

/// The build folder may be closed to other users; a copy in a public place is not.
fn readable_binary() -> Step<std::path::PathBuf> {
    use std::os::unix::fs::PermissionsExt;
    let folder = std::env::temp_dir().join(format!("libretto-e2e-binary-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o755))?;
    let copy = folder.join("libretto");
    std::fs::copy(cluster::binary()?, &copy)?;
    std::fs::set_permissions(&copy, std::fs::Permissions::from_mode(0o755))?;
    Ok(copy)
}

fn once(command: &mut Command) -> Step {
    let folder = tempfile::tempdir()?;
    // Must be writable for whoever runs the program.
    std::fs::set_permissions(
        folder.path(),
        std::os::unix::fs::PermissionsExt::from_mode(0o777),
    )?;
    let output = command
        .args([
            "up",
            "--once",
            "--timeout",
            "120",
            "--port",
            "0",
            "--data-dir",
        ])
        .arg(folder.path().join("data"))
        // Settings of whoever runs the tests must not matter.
        .env("HOME", folder.path())
        .env_remove("XDG_CONFIG_HOME")
        .stdin(Stdio::null())
        .output()?;
    let printed = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    if output.status.code() != Some(0) {
        return Err(format!("exit {:?}:\n{printed}", output.status.code()).into());
    }
    assert!(printed.contains("become healthy"), "{printed}");
    Ok(())
}

#[tokio::test]
async fn ctrl_c_ends_everything_and_the_next_start_goes_on() -> Step {
    let mut cluster = Cluster::embedded().await?;
    let redis = Redis::apply(&cluster, "stopped", json!({"size": 3})).await?;
    redis.healthy(3).await?;
    redis.write("kept", "yes").await?;
    assert_eq!(cluster.interrupt()?, Some(0));
    cluster.resume().await?;
    let redis = redis.again(&cluster).await?;
    redis.healthy(3).await?;
    assert_eq!(redis.read("kept").await?, "yes");
    Ok(())
}

#[test]
fn a_broken_package_is_refused_with_file_and_line() -> Step {
    let folder = tempfile::tempdir()?;
    let package = "apiVersion: libretto.dev/v1alpha1\nkind: Package\nmetadata: {name: broken, version: 1.0.0}\nspec:\n  decide:\n    view: SELECT nothing FROM nowhere\n";
    std::fs::write(folder.path().join("package.yaml"), package)?;
    let output = run(&["package", "lint", &folder.path().to_string_lossy()])?;
    assert_eq!(output.code, Some(1), "{output:?}");
    assert!(output.stderr.contains("package.yaml:"), "{}", output.stderr);
    Ok(())
}

#[test]
fn an_occupied_port_is_named() -> Step {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let port = listener.local_addr()?.port().to_string();
    let folder = tempfile::tempdir()?;
    let output = run(&[
        "up",
        "--no-demo",
        "--port",
        &port,
        "--data-dir",
        &folder.path().to_string_lossy(),
    ])?;
    assert_eq!(output.code, Some(1), "{output:?}");
    assert!(
        output.stderr.contains(&port) && output.stderr.contains("--port"),
        "{}",
        output.stderr
    );
    Ok(())
}

#[test]
fn a_data_directory_that_cannot_be_written_is_named() -> Step {
    // Root writes everywhere except below a file: the portable form of a read-only place.
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("file");
    std::fs::write(&file, "")?;
    let data = file.join("data");
    let output = run(&[
        "up",
        "--no-demo",
        "--port",
        "0",
        "--data-dir",
        &data.to_string_lossy(),
    ])?;
    assert_eq!(output.code, Some(1), "{output:?}");
    assert!(
        output.stderr.contains(&*data.to_string_lossy()) && output.stderr.contains("--data-dir"),
        "{}",
        output.stderr
    );
    Ok(())
}

fn run(arguments: &[&str]) -> Step<Output> {
    let output = Command::new(cluster::binary()?)
        .args(arguments)
        .stdin(Stdio::null())
        .output()?;
    Ok(Output {
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}
