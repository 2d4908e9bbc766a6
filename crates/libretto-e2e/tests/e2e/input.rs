//! Wrong input: one clear message that names the object and what to do, and nothing half-applied.

use std::{
    net::TcpListener,
    process::{Command, Stdio},
};

use k8s_openapi::api::core::v1::{Event, Pod};
use kube::{Api, api::ListParams};
use libretto_e2e::{
    Failure, Step,
    cluster::{self, Cluster, Output},
    redis::{HEALING, Redis},
    wait,
};
use serde_json::json;

#[tokio::test]
async fn wrong_resources_are_refused_with_the_reason() -> Step {
    let cluster = Cluster::start().await?;
    wait::until("the RedisCluster kind is served", HEALING, || async {
        cluster.libretto(&["get", "redisclusters"])?.ok()
    })
    .await?;
    let cases = [
        ("small", "  size: 1\n", vec!["small", "spec.size", "3"]),
        ("odd", "  size: 3\n  sizze: 4\n", vec!["sizze"]),
        (
            "few",
            "  size: 3\n  sentinel: {replicas: 1}\n",
            vec!["few", "spec.sentinel.replicas", "3"],
        ),
        (
            "long",
            "  size: 3\n  password: \"0123456789012345678901234567890123456789012345678\"\n",
            vec!["spec.password", "48"],
        ),
    ];
    for (name, spec, expected) in cases {
        let manifest = format!(
            "apiVersion: redis.kun/v1beta1\nkind: RedisCluster\nmetadata: {{name: {name}, annotations: {{redis.kun/scope: cluster-scoped}}}}\nspec:\n{spec}"
        );
        for output in [
            cluster.kubectl_apply(&manifest, &[])?,
            cluster.libretto_apply(&manifest)?,
        ] {
            assert_eq!(output.code, Some(1), "{name}: {output:?}");
            for word in &expected {
                assert!(
                    output.stderr.contains(word),
                    "{name}: no {word:?} in {}",
                    output.stderr
                );
            }
        }
        let left = cluster.kubectl(&["get", "rediscluster", name])?;
        assert!(
            left.stderr.contains("not found"),
            "{name} was half-applied: {left:?}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn an_unknown_image_is_named_with_the_way_out() -> Step {
    let cluster = Cluster::start().await?;
    let client = cluster.client().await?;
    Redis::apply(
        &client,
        "alien",
        json!({"size": 3, "image": "example.com/nobody/knows:1"}),
    )
    .await?;
    let events: Api<Event> = Api::namespaced(client.clone(), "default");
    wait::until("an event explains the image", HEALING, || async {
        let list = events.list(&ListParams::default()).await?;
        let messages: Vec<String> = list
            .items
            .into_iter()
            .filter_map(|event| event.message)
            .collect();
        messages
            .iter()
            .any(|message| {
                message.contains("example.com/nobody/knows:1") && message.contains("catalogue")
            })
            .then_some(())
            .ok_or_else(|| Failure::from(format!("{messages:?}")))
    })
    .await?;
    let pods: Api<Pod> = Api::namespaced(client, "default");
    wait::until("the pod says ErrImagePull", HEALING, || async {
        let pod = pods.get("redis-cluster-alien-0").await?;
        let status = serde_json::to_string(&pod.status)?;
        if status.contains("ErrImagePull") || status.contains("ImagePullBackOff") {
            Ok(())
        } else {
            Err(status.into())
        }
    })
    .await?;
    Ok(())
}

#[tokio::test]
async fn a_missing_storage_class_is_named() -> Step {
    let cluster = Cluster::start().await?;
    let client = cluster.client().await?;
    let claim = json!({"metadata": {"name": "redis-data"}, "spec": {
        "storageClassName": "no-such-class", "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}},
    }});
    Redis::apply(
        &client,
        "homeless",
        json!({"size": 3, "storage": {"persistentVolumeClaim": claim}}),
    )
    .await?;
    wait::until("describe names the class", HEALING, || async {
        let printed = cluster
            .libretto(&["describe", "pvc", "redis-data-redis-cluster-homeless-0"])?
            .ok()?;
        if printed.contains("no-such-class") && printed.contains("not found") {
            Ok(())
        } else {
            Err(printed.into())
        }
    })
    .await?;
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
