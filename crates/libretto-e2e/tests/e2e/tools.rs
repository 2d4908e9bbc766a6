//! The package author's tools beside an operator at work: they say how an instance stands and what would be done, and do nothing.

use std::{
    fs,
    process::{Command, Stdio},
};

use libretto_e2e::{
    Failure, Step,
    cluster::{self, Cluster},
    redis::{HEALING, Redis},
    wait,
};
use serde_json::{Value, json};

const PASSWORD: &str = "correct-horse-battery";

#[tokio::test]
async fn an_instance_is_explained_and_planned_without_touching_it() -> Step {
    let cluster = Cluster::start().await?;
    let redis = Redis::apply(&cluster, "told", json!({"size": 3, "password": PASSWORD})).await?;
    redis.healthy(3).await?;

    // Converged: every probe is answered through the API server, and nothing is to do.
    wait::until("the plan is empty", HEALING, || async {
        let output = cluster.libretto(&["plan", "rediscluster/told", "--exit-code"])?;
        if output.code == Some(0) && output.stdout.contains("nothing to do") {
            Ok(())
        } else {
            Err(Failure::from(format!("{output:?}")))
        }
    })
    .await?;
    let explained = cluster.libretto(&["explain", "rediscluster/told"])?.ok()?;
    for word in [
        "Ready",
        "StatefulSet",
        "settled",
        "Without rows:",
        "redis_info",
    ] {
        assert!(explained.contains(word), "no {word:?} in {explained}");
    }
    assert!(!explained.contains("cannot be asked"), "{explained}");
    assert!(!explained.contains(PASSWORD), "{explained}");

    // Why a rule has no row: the first that is empty on the way.
    let explained = cluster
        .libretto(&["explain", "rediscluster/told", "roll-master"])?
        .ok()?;
    assert!(
        explained.contains("it needs a row of `outdated`")
            && explained.contains("`outdated` has 0 rows"),
        "{explained}"
    );
    let explained = cluster
        .libretto(&["explain", "rediscluster/told", "nodes", "-o", "json"])?
        .ok()?;
    let explained: Value = serde_json::from_str(&explained)?;
    let rows = explained["queries"][0]["rows"].as_array();
    assert_eq!(rows.map(Vec::len), Some(3), "{explained:#}");

    // Another spec: what would change, and what stays unsaid.
    let object = redis.api().get("told").await?;
    let file = cluster.folder().join("changed.yaml");
    let changed = json!({
        "apiVersion": "redis.kun/v1beta1", "kind": "RedisCluster", "metadata": {"name": "told"},
        "spec": {"size": 5, "password": PASSWORD},
    });
    fs::write(&file, changed.to_string())?;
    let file = file.to_string_lossy().into_owned();
    let planned = cluster.libretto(&["plan", "-f", &file, "--exit-code"])?;
    assert_eq!(planned.code, Some(2), "{planned:?}");
    for word in [
        "change StatefulSet",
        "-  replicas: 3",
        "+  replicas: 5",
        "to change",
    ] {
        assert!(planned.stdout.contains(word), "no {word:?} in {planned:?}");
    }
    assert!(!planned.stdout.contains(PASSWORD), "{planned:?}");
    let after = redis.api().get("told").await?;
    assert_eq!(object.data["spec"], after.data["spec"]);
    assert_eq!(object.metadata.generation, after.metadata.generation);
    Ok(())
}

#[tokio::test]
async fn what_is_asked_wrongly_is_answered_with_what_there_is() -> Step {
    let cluster = Cluster::start().await?;
    wait::until("the RedisCluster kind is served", HEALING, || async {
        cluster.libretto(&["get", "redisclusters"])?.ok()
    })
    .await?;
    for (words, code, said) in [
        (&["explain", "rediscluster/nobody"][..], 1, "does not exist"),
        (&["explain", "pod/x"], 1, "RedisCluster (redis)"),
        (&["explain", "rediscluster"], 2, "KIND/NAME"),
        (&["explain", "rediscluster/x", "rol"], 1, "roll-master"),
        (&["plan", "rediscluster/nobody"], 1, "-f FILE"),
    ] {
        let output = cluster.libretto(words)?;
        assert_eq!(output.code, Some(code), "{output:?}");
        assert!(output.stderr.contains(said), "{output:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_dry_run_tells_what_it_would_do_and_writes_nothing() -> Step {
    // Its own operator knows nothing of Redis: whatever comes to be of one came from the dry run.
    let cluster = Cluster::start_with(&["packages/presto"]).await?;
    let definition = cluster.libretto(&["package", "crd", "redis"])?.ok()?;
    cluster.libretto_apply(&definition)?.ok()?;
    let redis = Redis::apply(&cluster, "dry", json!({"size": 3, "password": PASSWORD})).await?;
    let printed = cluster.folder().join("dry-run.log");
    let mut command = Command::new(cluster::binary()?);
    command
        .args(["run", "--dry-run", "--package", "redis"])
        .env("KUBECONFIG", cluster.kubeconfig())
        .stdin(Stdio::null())
        .stdout(fs::File::create(&printed)?)
        .stderr(Stdio::null());
    if cluster.scope() == json!({}) {
        command.args(["--namespace", redis.client.default_namespace()]);
    }
    let mut child = command.spawn()?;
    let told = wait::until("it tells", HEALING, || async {
        let told = fs::read_to_string(&printed)?;
        if told.contains("would write the status") {
            Ok(told)
        } else {
            Err(Failure::from(told))
        }
    })
    .await;
    child.kill()?;
    child.wait()?;
    let (told, _) = told?;
    for word in [
        "would create StatefulSet",
        "redis-cluster-dry",
        "would create Secret",
        "would record the event",
    ] {
        assert!(told.contains(word), "no {word:?} in {told}");
    }
    assert!(!told.contains(PASSWORD), "{told}");
    let object = redis.api().get("dry").await?;
    assert!(object.data["status"].is_null(), "{object:?}");
    assert_eq!(object.metadata.finalizers, None);
    for name in [
        "sts/redis-cluster-dry",
        "secret/redis-auth-dry",
        "configmap/dry-rediscluster-inventory",
    ] {
        let found = cluster.libretto(&["get", name])?;
        assert_eq!(found.code, Some(1), "{found:?}");
    }
    Ok(())
}
