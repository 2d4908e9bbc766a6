//! From nothing to a healthy Redis, through changes, to a restart of everything.

use std::process::{Command, Stdio};

use libretto_e2e::{
    Step,
    cluster::{self, Cluster},
    redis::{self, HEALING, Redis},
    wait,
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
async fn spec_changes_take_effect_without_a_restart() -> Step {
    let cluster = Cluster::start().await?;
    let client = cluster.client().await?;
    let redis = Redis::apply(
        &client,
        "tuned",
        json!({"size": 3, "config": {"hz": "11", "maxclients": "101"}}),
    )
    .await?;
    redis.healthy(3).await?;
    let before = redis::incarnations(&redis.redis_pods().await?);

    redis
        .change(json!({"size": 3, "config": {"hz": "13", "maxclients": "103"}}))
        .await?;
    wait::until(
        "the new configuration is live on every node",
        HEALING,
        || async {
            for pod in redis.redis_pods().await? {
                let (name, _) = redis::identity(&pod)?;
                for (key, value) in [("hz", "13"), ("maxclients", "103")] {
                    let answer = redis.command(&name, &["CONFIG", "GET", key]).await?;
                    if answer.lines().nth(1) != Some(value) {
                        return Err(format!("{name} has {answer:?}").into());
                    }
                }
            }
            Ok(())
        },
    )
    .await?;
    redis.healthy(3).await?;
    assert_eq!(
        redis::incarnations(&redis.redis_pods().await?),
        before,
        "a pod was restarted"
    );
    Ok(())
}

#[tokio::test]
async fn size_goes_up_and_down_and_keeps_the_data() -> Step {
    let cluster = Cluster::start().await?;
    let redis = Redis::apply(&cluster.client().await?, "sized", json!({"size": 3})).await?;
    redis.healthy(3).await?;
    redis.write("kept", "yes").await?;
    redis.change(json!({"size": 5})).await?;
    redis.healthy(5).await?;
    redis.change(json!({"size": 3})).await?;
    redis.healthy(3).await?;
    assert_eq!(redis.read("kept").await?, "yes");
    Ok(())
}

#[tokio::test]
async fn any_password_works_from_the_start() -> Step {
    let cluster = Cluster::start().await?;
    // Quotes, a dollar, a hash, a space and a backslash: each broke a real operator.
    let spec = json!({"size": 3, "password": "p'a\"s $x #\\1"});
    let redis = Redis::apply(&cluster.client().await?, "locked", spec).await?;
    redis.healthy(3).await?;
    redis.write("key", "value").await?;
    assert_eq!(redis.read("key").await?, "value");

    let open = Redis {
        password: None,
        ..redis.clone()
    };
    let refused = open.through_sentinel(&["GET", "key"]).await?;
    assert!(refused.starts_with("NOAUTH"), "{refused}");
    Ok(())
}

#[tokio::test]
async fn persistence_can_be_switched_off() -> Step {
    let cluster = Cluster::start().await?;
    let redis = Redis::apply(
        &cluster.client().await?,
        "cache",
        json!({"size": 3, "disablePersistence": true}),
    )
    .await?;
    redis.healthy(3).await?;
    redis.write("key", "value").await?;
    for node in redis.nodes().await? {
        for (key, value) in [("appendonly", "no"), ("save", "")] {
            let answer = redis.command(&node.pod, &["CONFIG", "GET", key]).await?;
            assert_eq!(
                answer.lines().nth(1).unwrap_or_default(),
                value,
                "{key} on {}",
                node.pod
            );
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_killed_libretto_comes_back_with_the_data() -> Step {
    let mut cluster = Cluster::start().await?;
    let redis = Redis::apply(&cluster.client().await?, "durable", with_volume()).await?;
    // In the middle of the bootstrap: half of the objects are there.
    wait::until("the first Redis pod exists", HEALING, || async {
        if redis.redis_pods().await?.is_empty() {
            Err("none yet".into())
        } else {
            Ok(())
        }
    })
    .await?;
    cluster.kill()?;
    cluster.resume().await?;
    let redis = Redis {
        client: cluster.client().await?,
        ..redis
    };
    redis.healthy(3).await?;
    redis.write("kept", "yes").await?;

    // In the quiet.
    cluster.kill()?;
    cluster.resume().await?;
    let redis = Redis {
        client: cluster.client().await?,
        ..redis
    };
    redis.healthy(3).await?;
    assert_eq!(redis.read("kept").await?, "yes");
    assert_eq!(cluster.interrupt()?, Some(0), "Ctrl-C ends it in peace");
    Ok(())
}

#[tokio::test]
async fn a_recreated_cluster_of_the_same_name_finds_its_data() -> Step {
    let cluster = Cluster::start().await?;
    let client = cluster.client().await?;
    let redis = Redis::apply(&client, "reborn", with_volume()).await?;
    redis.healthy(3).await?;
    redis.write("kept", "yes").await?;
    redis.delete().await?;
    wait::until("its pods are gone", HEALING, || async {
        match redis.redis_pods().await?.len() {
            0 => Ok(()),
            left => Err(format!("{left} pods are left").into()),
        }
    })
    .await?;
    let redis = Redis::apply(&client, "reborn", with_volume()).await?;
    redis.healthy(3).await?;
    assert_eq!(redis.read("kept").await?, "yes");
    Ok(())
}

fn with_volume() -> serde_json::Value {
    json!({
        "size": 3,
        "storage": {"keepAfterDeletion": true, "persistentVolumeClaim": {
            "metadata": {"name": "redis-data"},
            "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
        }},
    })
}
