//! An API server without controllers or node: objects are stored, and only Libretto acts on them.
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::net::{Ipv4Addr, SocketAddr};

use kube::config::{KubeConfigOptions, Kubeconfig};
use libretto_actions::kube::Kube;
use libretto_api::object::{Gvk, InstanceRef, ObjectRef};
use libretto_devcluster::{Devcluster, Options, Parts, bind, node::Driver};
use serde_json::{Value, json};

pub(crate) struct Cluster {
    pub(crate) server: Devcluster,
    pub(crate) client: kube::Client,
    pub(crate) kube: Kube,
}

impl Cluster {
    pub(crate) async fn start() -> Self {
        let server = Devcluster::start(Options {
            data_dir: None,
            listener: bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap(),
            driver: Driver::Process,
            images: None,
            parts: Parts::ApiServer,
        })
        .await
        .unwrap();
        let kubeconfig = Kubeconfig::from_yaml(server.kubeconfig()).unwrap();
        let config =
            kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
                .await
                .unwrap();
        let client = kube::Client::try_from(config).unwrap();
        Self {
            kube: Kube::new(client.clone()),
            client,
            server,
        }
    }

    pub(crate) async fn create(&self, object: Value) -> Value {
        let target = libretto_actions::kube::object_ref(&object).unwrap();
        self.kube.create(&target, &object).await.unwrap()
    }

    pub(crate) async fn get(&self, gvk: &str, name: &str) -> Option<Value> {
        self.kube.get(&reference(gvk, name)).await.unwrap()
    }

    /// A ConfigMap stands in for a custom resource where only its identity matters.
    pub(crate) async fn owner(&self, name: &str) -> InstanceRef {
        let owner = self
            .create(json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": "default"}}))
            .await;
        InstanceRef {
            package: "test".into(),
            gvk: Gvk::new("", "v1", "ConfigMap"),
            namespace: "default".into(),
            name: name.into(),
            uid: owner["metadata"]["uid"].as_str().unwrap().into(),
        }
    }
}

pub(crate) fn reference(gvk: &str, name: &str) -> ObjectRef {
    ObjectRef {
        gvk: gvk.parse().unwrap(),
        namespace: "default".into(),
        name: name.into(),
    }
}
