//! The package author's tools beside an operator at work: they say how an instance stands and what would be done, and do nothing.

use std::fs;

use libretto_e2e::{
    Failure, Step,
    cluster::Cluster,
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
