//! Faults that people and machines cause; each must heal without a hand. Seconds are printed for the record, never asserted.

use std::time::Instant;

use k8s_openapi::api::{apps::v1::StatefulSet, core::v1::Pod};
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, ListParams},
};
use libretto_e2e::{
    Step,
    cluster::Cluster,
    redis::{HEALING, Redis},
    wait,
};
use serde_json::{Value, json};

#[tokio::test]
async fn every_fault_heals_on_emptydir() -> Step {
    let spec = json!({"size": 3});
    // The data of all nodes dies with the StatefulSet: nothing but volumes could keep it.
    heal_everything("plain", spec, false).await
}

#[tokio::test]
async fn every_fault_heals_with_volumes_and_keeps_the_data() -> Step {
    let spec = json!({
        "size": 3,
        "storage": {"keepAfterDeletion": true, "persistentVolumeClaim": {
            "metadata": {"name": "redis-data"},
            "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
        }},
    });
    heal_everything("kept", spec, true).await
}

async fn heal_everything(name: &str, spec: Value, data_survives: bool) -> Step {
    let cluster = Cluster::start().await?;
    let client = cluster.client().await?;
    let started = Instant::now();
    let redis = Redis::apply(&cluster, name, spec).await?;
    redis.healthy(3).await?;
    report(name, "created", started);
    let pods: Api<Pod> = Api::default_namespaced(client.clone());
    let sets: Api<StatefulSet> = Api::default_namespaced(client.clone());

    redis.write("a", "1").await?;
    let master = redis.master().await?;
    let started = Instant::now();
    cluster.kill_process(&master.ip, "redis-server")?;
    redis.write("b", "2").await?;
    report(name, "kill -9 of the master: writable", started);
    redis.healthy(3).await?;
    report(name, "kill -9 of the master: healthy", started);
    kept(&redis, &[("a", "1"), ("b", "2")]).await?;

    let master = redis.master().await?;
    let before = redis.redis_pods().await?;
    let started = Instant::now();
    pods.delete(&master.pod, &DeleteParams::default()).await?;
    redis.write("c", "3").await?;
    report(name, "master pod deleted: writable", started);
    let deleted = before.iter().filter(|pod| pod.name_any() == master.pod);
    gone(&pods, deleted).await?;
    redis.healthy(3).await?;
    report(name, "master pod deleted: healthy", started);
    kept(&redis, &[("a", "1"), ("b", "2"), ("c", "3")]).await?;

    let started = Instant::now();
    sets.delete(&format!("redis-sentinel-{name}"), &DeleteParams::default())
        .await?;
    replaced(&sets, &format!("redis-sentinel-{name}")).await?;
    redis.healthy(3).await?;
    report(name, "Sentinel StatefulSet deleted: healthy", started);
    kept(&redis, &[("a", "1"), ("b", "2"), ("c", "3")]).await?;

    let before = redis.sentinel_pods().await?;
    let started = Instant::now();
    let sentinels = "app.kubernetes.io/component=sentinel";
    pods.delete_collection(
        &DeleteParams::default(),
        &ListParams::default().labels(sentinels),
    )
    .await?;
    gone(&pods, &before).await?;
    redis.healthy(3).await?;
    report(name, "all Sentinel pods deleted: healthy", started);
    kept(&redis, &[("a", "1"), ("b", "2"), ("c", "3")]).await?;

    let started = Instant::now();
    sets.delete(&format!("redis-cluster-{name}"), &DeleteParams::default())
        .await?;
    replaced(&sets, &format!("redis-cluster-{name}")).await?;
    redis.healthy(3).await?;
    report(name, "Redis StatefulSet deleted: healthy", started);
    if data_survives {
        kept(&redis, &[("a", "1"), ("b", "2"), ("c", "3")]).await?;
    }
    redis.write("d", "4").await?;
    assert_eq!(redis.read("d").await?, "4");
    Ok(())
}

/// What was acknowledged is there; when it is not, what every node has.
async fn kept(redis: &Redis, written: &[(&str, &str)]) -> Step {
    for (key, value) in written {
        let found = redis.read(key).await?;
        if found != *value {
            let report = redis.report(key).await;
            return Err(format!("{key} is {found:?}, {value:?} was acknowledged\n{report}").into());
        }
    }
    Ok(())
}

/// None of these pods exists any more: until then a check could pass on the picture of before.
async fn gone(pods: &Api<Pod>, before: impl IntoIterator<Item = &Pod>) -> Step {
    for pod in before {
        let name = pod.name_any();
        wait::until(&format!("Pod {name} is gone"), HEALING, || async {
            match pods.get_opt(&name).await? {
                Some(now) if now.metadata.uid == pod.metadata.uid => {
                    Err("it is still there".into())
                }
                _ => Ok(()),
            }
        })
        .await?;
    }
    Ok(())
}

/// The set exists again, with its pods: otherwise a check could pass on what is about to vanish.
async fn replaced(sets: &Api<StatefulSet>, name: &str) -> Step {
    wait::until(&format!("StatefulSet {name} is back"), HEALING, || async {
        let set = sets.get(name).await?;
        if set.metadata.deletion_timestamp.is_some() {
            return Err("it is still being deleted".into());
        }
        match set.status.and_then(|status| status.ready_replicas) {
            Some(3) => Ok(()),
            ready => Err(format!("{ready:?} replicas are ready").into()),
        }
    })
    .await?;
    Ok(())
}

#[expect(
    clippy::print_stdout,
    reason = "measured seconds belong into the test log"
)]
fn report(name: &str, what: &str, started: Instant) {
    println!(
        "{name}: {what} after {:.1} s",
        started.elapsed().as_secs_f64()
    );
}
