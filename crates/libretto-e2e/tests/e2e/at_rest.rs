//! A converged instance writes nothing.

use std::time::Duration;

use libretto_e2e::{
    Step,
    cluster::Cluster,
    redis::{HEALING, Redis},
    wait,
};
use serde_json::json;

/// How long nothing may be written.
const QUIET: Duration = Duration::from_secs(300);

#[tokio::test]
async fn a_converged_instance_causes_no_api_writes() -> Step {
    let cluster = Cluster::start().await?;
    let redis = Redis::apply(&cluster, "quiet", json!({"size": 3})).await?;
    redis.healthy(3).await?;
    // The last effects of becoming healthy may still be on their way: wait for ten seconds without a write.
    let settled = wait::until("writes stop", HEALING, || async {
        let before = cluster.writes().await?;
        tokio::time::sleep(Duration::from_secs(10)).await;
        let after = cluster.writes().await?;
        if before == after {
            Ok(after)
        } else {
            Err(format!("{} writes in 10 s", after - before).into())
        }
    });
    let (before, _) = settled.await?;
    assert!(before > 0, "the count of writes does not count");
    tokio::time::sleep(QUIET).await;
    assert_eq!(
        cluster.writes().await? - before,
        0,
        "writes in {} s",
        QUIET.as_secs()
    );
    redis.consistent(3).await
}
