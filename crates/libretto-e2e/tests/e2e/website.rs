//! What people, metrics and the clock do to a workload: the example `website`, in which every word of that kind stands once.

use std::time::Duration;

use k8s_openapi::api::{apps::v1::Deployment, core::v1::Pod};
use kube::{Api, ResourceExt, api::ListParams};
use libretto_e2e::{Step, cluster::Cluster, wait};
use serde_json::{Value, json};

/// Pods start, commands run in them, and a minute begins.
const PATIENCE: Duration = Duration::from_secs(90);

/// The site, as its users see it.
struct Site<'a> {
    cluster: &'a Cluster,
    deployments: Api<Deployment>,
    pods: Api<Pod>,
}

impl<'a> Site<'a> {
    async fn create(cluster: &'a Cluster) -> Step<Self> {
        let client = cluster.client().await?;
        let manifest = "apiVersion: example.com/v1\nkind: Website\nmetadata: {name: shop}\nspec: {text: welcome}\n";
        wait::until("the kind is served", PATIENCE, || async {
            cluster.kubectl_apply(manifest, &[])?.ok()
        })
        .await?;
        Ok(Self {
            cluster,
            deployments: Api::default_namespaced(client.clone()),
            pods: Api::default_namespaced(client),
        })
    }

    fn change(&self, spec: &Value) -> Step<String> {
        let patch = json!({"spec": spec}).to_string();
        self.cluster
            .kubectl(&["patch", "website", "shop", "--type=merge", "-p", &patch])?
            .ok()
    }

    fn status(&self) -> Step<Value> {
        let text = self
            .cluster
            .kubectl(&["get", "website", "shop", "-o", "jsonpath={.status}"])?
            .ok()?;
        Ok(serde_json::from_str(&text)?)
    }

    /// Waits for fields of the status and the condition Ready, by status and reason.
    async fn stands(&self, fields: Value, ready: (&str, &str)) -> Step {
        let what = format!("the site is {fields}, Ready {ready:?}");
        wait::until(&what, PATIENCE, || async {
            let status = self.status()?;
            let condition = status["conditions"]
                .as_array()
                .into_iter()
                .flatten()
                .find(|condition| condition["type"] == "Ready")
                .cloned()
                .unwrap_or_default();
            let same = fields
                .as_object()
                .into_iter()
                .flatten()
                .all(|(key, value)| status[key] == *value);
            let said = (condition["status"].as_str(), condition["reason"].as_str());
            if same && said == (Some(ready.0), Some(ready.1)) {
                Ok(())
            } else {
                Err(status.to_string().into())
            }
        })
        .await?;
        Ok(())
    }

    async fn replicas(&self) -> Step<i32> {
        let deployment = self.deployments.get("shop").await?;
        Ok(deployment.spec.replicas.unwrap_or(1))
    }

    /// Names of the pods that are not going away.
    async fn pods(&self) -> Step<Vec<String>> {
        let pods = self
            .pods
            .list(&ListParams::default().labels("app=website-shop"))
            .await?;
        Ok(pods
            .iter()
            .filter(|pod| pod.metadata.deletion_timestamp.is_none())
            .map(ResourceExt::name_any)
            .collect())
    }
}

const SETTLED: (&str, &str) = ("True", "Settled");

#[tokio::test]
async fn people_metrics_and_the_clock_act_on_a_site() -> Step {
    let cluster = Cluster::start_with(&["examples/website"]).await?;
    let site = Site::create(&cluster).await?;
    // A command in the pod published it, another one saw it, its own page counts it, and its Service has an address.
    site.stands(json!({"published": 1, "visitors": 2}), SETTLED)
        .await?;
    wait::until("the Service's name has an address", PATIENCE, || async {
        let status = site.status()?;
        let address = status["addresses"][0].as_str().unwrap_or_default();
        address
            .parse::<std::net::IpAddr>()
            .map_err(|_error| status.to_string().into())
    })
    .await?;

    // What it counts decides how many there are.
    site.change(&json!({"visitors": 5}))?;
    site.stands(json!({"published": 3, "visitors": 5}), SETTLED)
        .await?;
    assert_eq!(site.replicas().await?, 3);

    // Another word, other pods.
    let before = site.pods().await?;
    site.change(&json!({"restart": "please"}))?;
    wait::until("all pods are new", PATIENCE, || async {
        let now = site.pods().await?;
        if now.len() == 3 && now.iter().all(|pod| !before.contains(pod)) {
            Ok(())
        } else {
            Err(format!("{now:?}, before {before:?}").into())
        }
    })
    .await?;
    site.stands(json!({"published": 3}), SETTLED).await?;

    // One pod is sent away, and replaced.
    let sent = site.pods().await?.remove(0);
    site.change(&json!({"drain": sent}))?;
    wait::until("the pod was evicted", PATIENCE, || async {
        let now = site.pods().await?;
        if now.len() == 3 && !now.contains(&sent) {
            Ok(())
        } else {
            Err(format!("{now:?}").into())
        }
    })
    .await?;
    site.stands(json!({"published": 3}), SETTLED).await?;

    // A full minute was told.
    wait::until("an event of the clock", PATIENCE, || async {
        let events = cluster
            .kubectl(&["get", "events", "-o", "jsonpath={.items[*].reason}"])?
            .ok()?;
        if events.split(' ').any(|reason| reason == "Minute") {
            Ok(())
        } else {
            Err(events.into())
        }
    })
    .await?;

    // Paused: nothing follows; not paused any more: everything does.
    site.change(&json!({"paused": true, "text": "news"}))?;
    wait::until("the pause is told", PATIENCE, || async {
        let status = site.status()?.to_string();
        if status.contains("\"Paused\"") {
            Ok(())
        } else {
            Err(status.into())
        }
    })
    .await?;
    cluster.kubectl(&["delete", "service", "shop"])?.ok()?;
    wait::never("the Service comes back", Duration::from_secs(3), || async {
        Ok(cluster.kubectl(&["get", "service", "shop"])?.code == Some(0))
    })
    .await?;
    site.change(&json!({"paused": false}))?;
    site.stands(json!({"published": 3}), SETTLED).await?;
    cluster.kubectl(&["get", "service", "shop"])?.ok()?;

    // Other fields than the package's.
    let overrides = json!([{"kind": "Deployment", "patch": {"spec": {"template": {"metadata": {"labels": {"team": "shop"}}}}}}]);
    site.change(&json!({"overrides": overrides}))?;
    wait::until("the pods carry the label", PATIENCE, || async {
        let pods = site
            .pods
            .list(&ListParams::default().labels("team=shop"))
            .await?;
        if pods.items.len() == 3 {
            Ok(())
        } else {
            Err(format!("{} pods", pods.items.len()).into())
        }
    })
    .await?;
    site.stands(json!({"published": 3}), SETTLED).await?;

    // Stopped, and back.
    site.change(&json!({"stopped": true}))?;
    site.stands(json!({"published": 0}), ("False", "Stopped"))
        .await?;
    assert_eq!(site.replicas().await?, 0);
    site.change(&json!({"stopped": false}))?;
    site.stands(json!({"published": 3, "visitors": 5}), SETTLED)
        .await?;

    // Nobody's: not even its status is written.
    cluster
        .kubectl(&["annotate", "website", "shop", "libretto.dev/unmanaged=true"])?
        .ok()?;
    let before = site.status()?;
    site.change(&json!({"text": "unheard"}))?;
    cluster.kubectl(&["delete", "service", "shop"])?.ok()?;
    wait::never(
        "an unmanaged site is cared for",
        Duration::from_secs(3),
        || async {
            Ok(site.status()? != before
                || cluster.kubectl(&["get", "service", "shop"])?.code == Some(0))
        },
    )
    .await?;
    cluster
        .kubectl(&["annotate", "website", "shop", "libretto.dev/unmanaged-"])?
        .ok()?;
    site.stands(json!({"published": 3}), SETTLED).await?;
    cluster.kubectl(&["delete", "website", "shop"])?.ok()?;
    Ok(())
}
