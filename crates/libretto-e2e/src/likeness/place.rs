//! One of the two clusters, and the namespaces that cases get in it.

use std::{path::PathBuf, time::Duration};

use http::{Method, Request};
use kube::{
    Client, Config,
    client::Body,
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::{Value, json};

use crate::{Failure, Step, wait};

/// Until a namespace has what controllers put into every one; a busy Kubernetes takes a second.
const NAMESPACE_LIMIT: Duration = Duration::from_secs(60);

/// A cluster to send cases to.
pub struct Place {
    pub client: Client,
    pub kubeconfig: PathBuf,
    /// Home of kubectl, with its cache of what this cluster serves.
    pub home: tempfile::TempDir,
    /// As `/version` says.
    pub version: String,
    /// Names of its nodes.
    pub nodes: Vec<String>,
    /// It ends with the test: nothing in it needs to be tidied up.
    pub passing: bool,
}

impl std::fmt::Debug for Place {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // `Client` has no `Debug`.
        formatter
            .debug_struct("Place")
            .field("kubeconfig", &self.kubeconfig)
            .field("version", &self.version)
            .finish_non_exhaustive()
    }
}

impl Place {
    pub async fn connect(kubeconfig: PathBuf) -> Step<Self> {
        let mut config = Config::from_custom_kubeconfig(
            Kubeconfig::read_from(&kubeconfig)?,
            &KubeConfigOptions::default(),
        )
        .await?;
        // A refusal that asks to come again is an answer like any other.
        config.default_retry = false;
        let mut place = Self {
            client: Client::try_from(config)?,
            kubeconfig,
            home: tempfile::tempdir()?,
            version: String::new(),
            nodes: Vec::new(),
            passing: false,
        };
        let version = place.json(Method::GET, "/version", None).await?;
        version["gitVersion"]
            .as_str()
            .unwrap_or_default()
            .clone_into(&mut place.version);
        let (nodes, _) = wait::until("a node is there", NAMESPACE_LIMIT, || async {
            let list = place.json(Method::GET, "/api/v1/nodes", None).await?;
            let nodes: Vec<String> = list["items"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(|node| node["metadata"]["name"].as_str())
                .map(str::to_owned)
                .collect();
            if nodes.is_empty() {
                Err(Failure::from("there is none"))
            } else {
                Ok(nodes)
            }
        })
        .await?;
        place.nodes = nodes;
        Ok(place)
    }

    /// Makes a namespace and waits until it has its service account and certificate, so that cases never race with them.
    pub async fn create_namespace(&self, name: &str) -> Step {
        self.json(
            Method::POST,
            "/api/v1/namespaces",
            Some(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})),
        )
        .await?;
        let needed = [
            format!("/api/v1/namespaces/{name}/serviceaccounts/default"),
            format!("/api/v1/namespaces/{name}/configmaps/kube-root-ca.crt"),
        ];
        for path in &needed {
            wait::until(path, NAMESPACE_LIMIT, || async {
                self.json(Method::GET, path, None).await.map(drop)
            })
            .await?;
        }
        Ok(())
    }

    /// Asks for removal and does not wait: nothing else uses the name.
    pub async fn delete(&self, path: &str) {
        if self.passing {
            return;
        }
        let background = json!({"propagationPolicy": "Background", "gracePeriodSeconds": 0});
        // What a case has deleted itself is gone, and that is fine.
        let _ = self.json(Method::DELETE, path, Some(&background)).await;
    }

    /// Lets go of objects that finalizers of a case hold, so that their namespace can go.
    pub async fn release(&self, namespace: &str) {
        if self.passing {
            return;
        }
        for plural in ["configmaps", "podtemplates", "pods", "secrets"] {
            let path = format!("/api/v1/namespaces/{namespace}/{plural}");
            let Ok(list) = self.json(Method::GET, &path, None).await else {
                continue;
            };
            let held = list["items"]
                .as_array()
                .into_iter()
                .flatten()
                .filter(|object| object["metadata"]["finalizers"].is_array())
                .filter_map(|object| object["metadata"]["name"].as_str());
            for name in held {
                let none = json!({"metadata": {"finalizers": null}});
                let path = format!("{path}/{name}");
                let _ = self.json(Method::PATCH, &path, Some(&none)).await;
            }
        }
    }

    /// A request of the runner's own, which must succeed.
    async fn json(&self, method: Method, path: &str, body: Option<&Value>) -> Step<Value> {
        let content_type = if method == Method::PATCH {
            "application/merge-patch+json"
        } else {
            "application/json"
        };
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(http::header::CONTENT_TYPE, content_type)
            .body(Body::from(
                body.map(Value::to_string).unwrap_or_default().into_bytes(),
            ))?;
        let response = self.client.send(request).await?;
        let status = response.status();
        let bytes = response.into_body().collect_bytes().await?;
        if status.is_success() {
            Ok(serde_json::from_slice(&bytes)?)
        } else {
            Err(Failure::from(format!(
                "{path}: {status} {}",
                String::from_utf8_lossy(&bytes)
            )))
        }
    }
}
