//! Wrong input: one clear message that names the object and what to do, and nothing half-applied.

use k8s_openapi::api::core::v1::{Event, Pod};
use kube::{Api, api::ListParams};
use libretto_e2e::{
    Failure, Step,
    cluster::Cluster,
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
async fn an_unknown_image_is_named() -> Step {
    let cluster = Cluster::start().await?;
    let client = cluster.client().await?;
    Redis::apply(
        &cluster,
        "alien",
        json!({"size": 3, "image": "example.com/nobody/knows:1"}),
    )
    .await?;
    let events: Api<Event> = Api::default_namespaced(client.clone());
    wait::until("an event explains the image", HEALING, || async {
        let list = events.list(&ListParams::default()).await?;
        let messages: Vec<String> = list
            .items
            .into_iter()
            .filter_map(|event| event.message)
            .collect();
        messages
            .iter()
            .any(|message| message.contains("example.com/nobody/knows:1"))
            .then_some(())
            .ok_or_else(|| Failure::from(format!("{messages:?}")))
    })
    .await?;
    let pods: Api<Pod> = Api::default_namespaced(client);
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
    let claim = json!({"metadata": {"name": "redis-data"}, "spec": {
        "storageClassName": "no-such-class", "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}},
    }});
    Redis::apply(
        &cluster,
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
