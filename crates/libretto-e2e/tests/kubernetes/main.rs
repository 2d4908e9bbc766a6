//! What only a real Kubernetes can do to an operator: its own processes are killed, its node is drained. Runs on the cluster of
//! `cargo xtask kubernetes up`, one scenario at a time.

use std::process::Command;

use libretto_e2e::{
    Step,
    cluster::{Cluster, Output},
    redis::{self, HEALING, Redis},
    wait,
};
use serde_json::json;

#[tokio::test]
async fn killed_processes_of_kubernetes_are_survived() -> Step {
    let cluster = Cluster::start().await?;
    let redis = Redis::apply(&cluster, "steady", json!({"size": 3})).await?;
    redis.healthy(3).await?;
    let before = redis::incarnations(&redis.redis_pods().await?);
    let processes = [
        "kubelet",
        "kube-apiserver",
        "etcd",
        "kube-controller-manager",
        "kube-scheduler",
        "kube-proxy",
    ];
    for (n, process) in processes.iter().enumerate() {
        restart(process)?;
        redis.healthy(3).await?;
        redis.write(process, "survived").await?;
        assert_eq!(
            redis::incarnations(&redis.redis_pods().await?),
            before,
            "{process} was killed, and pods were restarted"
        );
        // Watches go on: a change is seen and takes effect.
        let hz = (20 + n).to_string();
        redis
            .change(json!({"size": 3, "config": {"hz": hz}}))
            .await?;
        wait::until(
            &format!("hz is {hz} after {process} was killed"),
            HEALING,
            || async {
                for pod in redis.redis_pods().await? {
                    let (name, _) = redis::identity(&pod)?;
                    let answer = redis.command(&name, &["CONFIG", "GET", "hz"]).await?;
                    if answer.lines().nth(1) != Some(&hz) {
                        return Err(format!("{name} has {answer:?}").into());
                    }
                }
                Ok(())
            },
        )
        .await?;
        redis.healthy(3).await?;
    }
    for process in processes {
        assert_eq!(redis.read(process).await?, "survived");
    }
    // And what is lost meanwhile is replaced.
    let master = redis.master().await?;
    cluster.kill_process(&master.ip, "redis-server")?;
    redis.write("after", "all").await?;
    redis.healthy(3).await?;
    clean_traffic(&cluster)
}

#[tokio::test]
async fn a_drained_node_takes_one_pod_of_each_kind_at_a_time() -> Step {
    let cluster = Cluster::start().await?;
    let redis = Redis::apply(&cluster, "drained", json!({"size": 3})).await?;
    redis.healthy(3).await?;
    redis.write("kept", "yes").await?;
    let node = cluster
        .kubectl(&["get", "nodes", "-o", "jsonpath={.items[0].metadata.name}"])?
        .ok()?;
    let drained = cluster.kubectl(&[
        "drain",
        &node,
        "--pod-selector=redis.kun/v1beta1",
        "--delete-emptydir-data",
        "--force",
        "--timeout=20s",
    ]);
    // There is no other node: one pod waits for a place, and the disruption budgets keep the others where they are.
    let meanwhile = redis.write("meanwhile", "written").await;
    let left = (redis.redis_pods().await, redis.sentinel_pods().await);
    cluster.kubectl(&["uncordon", &node])?.ok()?;
    let drained = drained?;
    assert_eq!(drained.code, Some(1), "{drained:?}");
    assert!(
        drained.stderr.contains("disruption budget"),
        "{}",
        drained.stderr
    );
    meanwhile?;
    for pods in [left.0?, left.1?] {
        let ready = pods.iter().filter(|pod| redis::is_ready(pod)).count();
        assert_eq!(ready, 2, "{} pods", pods.len());
    }
    redis.healthy(3).await?;
    assert_eq!(redis.read("kept").await?, "yes");
    assert_eq!(redis.read("meanwhile").await?, "written");
    clean_traffic(&cluster)
}

/// Nothing was refused but conflicts, and no write changed nothing.
fn clean_traffic(cluster: &Cluster) -> Step {
    let traffic = cluster.traffic()?;
    assert!(traffic.writes() > 0, "the audit log has no writes");
    assert_eq!(traffic.refused(), Vec::<String>::new());
    assert_eq!(traffic.idle_writes(), Vec::<String>::new());
    Ok(())
}

/// `kill -9` of one of Kubernetes' processes, and its start.
fn restart(process: &str) -> Step {
    let xtask = std::env::var_os("LIBRETTO_XTASK").ok_or(
        "LIBRETTO_XTASK is not set: these scenarios are run by `cargo xtask test --tier 3`",
    )?;
    Output::of(Command::new(xtask).args(["kubernetes", "restart", process]))?.ok()?;
    Ok(())
}
