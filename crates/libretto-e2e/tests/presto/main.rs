//! The package presto with real servers: what one changed field moves, and that queries are answered before and after.

use k8s_openapi::{
    api::core::v1::{Pod, Service},
    apimachinery::pkg::apis::meta::v1::Time,
};
use libretto_e2e::{
    Step,
    cluster::{self, Cluster},
    presto::{Presto, SETTLING},
    redis::incarnations,
    wait,
};
use serde_json::{Value, json};

const NATIONS: &str = "SELECT count(*) FROM tpch.tiny.nation";
const NODES: &str = "SELECT count(*) FROM system.runtime.nodes WHERE state = 'active'";

#[tokio::test]
async fn presto_from_creation_to_removal() -> Step {
    let cluster = Cluster::with_images(&cluster::tool("trino/images.yaml")?).await?;
    let presto = Presto::apply(&cluster, "shop", &spec("trinodb/trino:368", 8080, 1)).await?;
    let status = presto.ready(1).await?;
    let done = json!({"configuration": "Done", "coordinator": "Done", "workers": "Done", "service": "Done"});
    assert_eq!(status["steps"], done);
    let service = presto.service().await?;
    let coordinator = presto.only("coordinator").await?;
    assert!(
        service.metadata.creation_timestamp >= ready_since(&coordinator),
        "the Service came before the coordinator was ready"
    );
    assert_eq!(presto.query(8080, NATIONS).await?, "[[25]]");

    // One field, every place.
    presto.change(&spec("trinodb/trino:368", 8081, 1)).await?;
    presto.ready(1).await?;
    assert_eq!(presto.query(8081, NATIONS).await?, "[[25]]");
    assert_eq!(service_port(&presto.service().await?), Some(8081));
    for role in ["coordinator", "worker"] {
        assert_eq!(
            container(&presto.only(role).await?)["ports"][0]["containerPort"],
            8081
        );
    }
    assert!(
        presto.query(8080, NATIONS).await.is_err(),
        "the old port answers"
    );

    // More workers: nobody else is touched.
    let before = incarnations(&presto.role("coordinator").await?);
    presto.change(&spec("trinodb/trino:368", 8081, 2)).await?;
    presto.ready(2).await?;
    works_with(&presto, 3).await?;
    assert_eq!(incarnations(&presto.role("coordinator").await?), before);

    // Fewer, of another image: all are new, and those that leave finish what they have.
    presto.change(&spec("trino:368", 8081, 1)).await?;
    presto.ready(1).await?;
    for role in ["coordinator", "worker"] {
        assert_eq!(container(&presto.only(role).await?)["image"], "trino:368");
    }
    works_with(&presto, 2).await?;
    assert_eq!(presto.query(8081, NATIONS).await?, "[[25]]");

    presto.delete().await
}

/// Waits until the coordinator gives work to so many nodes, itself among them: it looks every five seconds who is there.
async fn works_with(presto: &Presto, nodes: usize) -> Step {
    let wanted = format!("[[{nodes}]]");
    wait::until(&format!("there are {nodes} nodes"), SETTLING, || async {
        let rows = presto.query(8081, NODES).await?;
        if rows == wanted {
            Ok(())
        } else {
            Err(rows.into())
        }
    })
    .await?;
    Ok(())
}

/// Small enough for a machine with two cores; a worker leaves within ten seconds.
fn spec(image: &str, port: u16, workers: u32) -> Value {
    // Servers that live for a minute are up sooner when nothing is optimised.
    let jvm = json!({"heap": "400m", "options": ["-XX:TieredStopAtLevel=1"]});
    json!({
        "image": image,
        "port": port,
        "environment": "test",
        "catalogs": {"tpch": {"connector.name": "tpch"}},
        "coordinator": {"jvm": jvm},
        "worker": {
            "replicas": workers,
            "jvm": jvm,
            "drain": {"pauseSeconds": 5, "timeoutSeconds": 30},
        },
    })
}

fn ready_since(pod: &Pod) -> Option<Time> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    conditions
        .iter()
        .find(|condition| condition.type_ == "Ready")?
        .last_transition_time
        .clone()
}

fn container(pod: &Pod) -> Value {
    json!(pod)["spec"]["containers"][0].clone()
}

fn service_port(service: &Service) -> Option<i32> {
    Some(service.spec.as_ref()?.ports.as_ref()?.first()?.port)
}
