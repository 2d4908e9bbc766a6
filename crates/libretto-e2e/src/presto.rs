//! A Presto as its users see it: what it says of itself, and whether its Service answers queries.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, Service};
use kube::{
    Api, Client,
    api::{
        ApiResource, DeleteParams, DynamicObject, GroupVersionKind, ListParams, Patch, PatchParams,
    },
};
use serde_json::{Value, json};

use crate::{Step, cluster::Cluster, pods, redis::identity, wait};

/// Longest time from a change to Ready: two generations of Java servers start one after another, on a machine that does other things.
pub const SETTLING: Duration = Duration::from_secs(120);

/// Sends a statement to `$0` and follows the answers to the last one; prints the rows, one line per answer that has some.
const QUERY: &str = r#"
answer=$(curl --silent --show-error --max-time 20 --header "X-Trino-User: e2e" --data "$1" "$0/v1/statement") || exit 1
while :; do
  echo "$answer" | sed -n 's/.*"data":\(\[\[.*\]\]\).*/\1/p'
  if echo "$answer" | grep '"error":'; then exit 1; fi
  next=$(echo "$answer" | sed -n 's/.*"nextUri":"\([^"]*\)".*/\1/p')
  if [ -z "$next" ]; then exit 0; fi
  answer=$(curl --silent --show-error --max-time 20 --header "X-Trino-User: e2e" "$next") || exit 1
done
"#;

/// One Presto in the scenario's namespace.
#[expect(
    missing_debug_implementations,
    reason = "a Kubernetes client has nothing to show"
)]
pub struct Presto {
    pub client: Client,
    pub name: String,
}

impl Presto {
    /// Applies the custom resource and returns a handle on it.
    pub async fn apply(cluster: &Cluster, name: &str, spec: &Value) -> Step<Self> {
        let presto = Self {
            client: cluster.client().await?,
            name: name.to_owned(),
        };
        // A fresh program serves the Kind a moment after the API.
        wait::until("Presto is served", SETTLING, || presto.change(spec)).await?;
        Ok(presto)
    }

    /// Server-side applies another spec.
    pub async fn change(&self, spec: &Value) -> Step {
        let object = json!({
            "apiVersion": "presto.libretto.dev/v1alpha1",
            "kind": "Presto",
            "metadata": {"name": self.name},
            "spec": spec,
        });
        self.api()
            .patch(
                &self.name,
                &PatchParams::apply("libretto-e2e").force(),
                &Patch::Apply(object),
            )
            .await?;
        Ok(())
    }

    /// Waits until it is Ready in its current generation and the coordinator knows so many workers.
    pub async fn ready(&self, workers: i64) -> Step<Value> {
        let (status, _) = wait::until(
            &format!("{} is ready with {workers} workers", self.name),
            SETTLING,
            || async {
                let object = self.api().get(&self.name).await?;
                let status = object.data["status"].clone();
                let observed = status["observedGeneration"].as_i64() == object.metadata.generation;
                let ready = status["conditions"].as_array().is_some_and(|conditions| {
                    conditions.iter().any(|condition| {
                        condition["type"] == "Ready" && condition["status"] == "True"
                    })
                });
                if observed && ready && status["joinedWorkers"] == workers {
                    Ok(status)
                } else {
                    Err(status.to_string().into())
                }
            },
        )
        .await?;
        Ok(status)
    }

    /// Rows of a query that is sent to the Service from a pod of the cluster.
    pub async fn query(&self, port: u16, statement: &str) -> Step<String> {
        let pod = identity(&self.only("coordinator").await?)?.0;
        let service = format!("http://presto-{}:{port}", self.name);
        let command = ["sh", "-c", QUERY, &service, statement];
        // A server that has just started takes its time for the first query.
        let answer = pods::exec_within(&self.client, &pod, &command, SETTLING).await?;
        Ok(answer.trim().to_owned())
    }

    /// Pods of a role that are not on their way out.
    pub async fn role(&self, role: &str) -> Step<Vec<Pod>> {
        let mut found = pods::labelled(
            &self.client,
            &format!(
                "app.kubernetes.io/component={role},app.kubernetes.io/instance={}",
                self.name
            ),
        )
        .await?;
        found.retain(|pod| pod.metadata.deletion_timestamp.is_none());
        Ok(found)
    }

    pub async fn only(&self, role: &str) -> Step<Pod> {
        let mut found = self.role(role).await?;
        match (found.pop(), found.is_empty()) {
            (Some(pod), true) => Ok(pod),
            (_, _) => Err(format!("there is not exactly one {role}").into()),
        }
    }

    pub async fn service(&self) -> Step<Service> {
        let services: Api<Service> = Api::default_namespaced(self.client.clone());
        Ok(services.get(&format!("presto-{}", self.name)).await?)
    }

    /// Deletes it and waits until nothing is left of it.
    pub async fn delete(&self) -> Step {
        self.api()
            .delete(&self.name, &DeleteParams::default())
            .await?;
        let kinds = [
            ("", "v1", "Pod", "pods"),
            ("", "v1", "ConfigMap", "configmaps"),
            ("", "v1", "Service", "services"),
            ("apps", "v1", "Deployment", "deployments"),
            ("apps", "v1", "ReplicaSet", "replicasets"),
        ];
        wait::until("nothing is left of the Presto", SETTLING, || async {
            let mut left = Vec::new();
            for (group, version, kind, plural) in kinds {
                let kind = GroupVersionKind::gvk(group, version, kind);
                let objects: Api<DynamicObject> = Api::default_namespaced_with(
                    self.client.clone(),
                    &ApiResource::from_gvk_with_plural(&kind, plural),
                );
                let labelled = ListParams::default().labels("app.kubernetes.io/name=presto");
                for object in objects.list(&labelled).await? {
                    left.push(format!(
                        "{plural}/{}",
                        object.metadata.name.unwrap_or_default()
                    ));
                }
            }
            if left.is_empty() && self.api().get_opt(&self.name).await?.is_none() {
                Ok(())
            } else {
                Err(format!("left: {left:?}").into())
            }
        })
        .await?;
        Ok(())
    }

    fn api(&self) -> Api<DynamicObject> {
        let kind = GroupVersionKind::gvk("presto.libretto.dev", "v1alpha1", "Presto");
        Api::default_namespaced_with(
            self.client.clone(),
            &ApiResource::from_gvk_with_plural(&kind, "prestos"),
        )
    }
}
