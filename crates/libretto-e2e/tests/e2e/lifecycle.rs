//! From nothing to a healthy Redis, through changes, to a restart of everything.

use libretto_e2e::{
    Step,
    cluster::Cluster,
    redis::{self, HEALING, Redis},
    wait,
};
use serde_json::json;

#[tokio::test]
async fn spec_changes_take_effect_without_a_restart() -> Step {
    let cluster = Cluster::start().await?;
    let redis = Redis::apply(
        &cluster,
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
    let redis = Redis::apply(&cluster, "sized", json!({"size": 3})).await?;
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
    let redis = Redis::apply(&cluster, "locked", spec).await?;
    redis.healthy(3).await?;
    redis.write("key", "value").await?;
    assert_eq!(redis.read("key").await?, "value");

    let open = redis.without_password();
    let refused = open.through_sentinel(&["GET", "key"]).await?;
    assert!(refused.starts_with("NOAUTH"), "{refused}");
    Ok(())
}

#[tokio::test]
async fn persistence_can_be_switched_off() -> Step {
    let cluster = Cluster::start().await?;
    let redis = Redis::apply(
        &cluster,
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
    let redis = Redis::apply(&cluster, "durable", with_volume()).await?;
    // In the middle of the bootstrap: half of the objects are there.
    wait::until("the first Redis pod exists", HEALING, || async {
        if redis.redis_pods().await?.is_empty() {
            Err("none yet".into())
        } else {
            Ok(())
        }
    })
    .await?;
    cluster.kill().await?;
    cluster.resume().await?;
    let redis = redis.again(&cluster).await?;
    redis.healthy(3).await?;
    redis.write("kept", "yes").await?;

    // In the quiet.
    cluster.kill().await?;
    cluster.resume().await?;
    let redis = redis.again(&cluster).await?;
    redis.healthy(3).await?;
    assert_eq!(redis.read("kept").await?, "yes");
    Ok(())
}

#[tokio::test]
async fn a_recreated_cluster_of_the_same_name_finds_its_data() -> Step {
    let cluster = Cluster::start().await?;
    let redis = Redis::apply(&cluster, "reborn", with_volume()).await?;
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
    let redis = Redis::apply(&cluster, "reborn", with_volume()).await?;
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
