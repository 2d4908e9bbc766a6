#![allow(clippy::unwrap_used)]
//! How often Secrets are read, and that a changed one is noticed.

mod common;

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use common::{Cluster, reference};
use libretto::secrets::KubeSecrets;
use libretto_actions::SecretSource as _;
use libretto_api::secret::SecretHandle;
use serde_json::json;

#[tokio::test]
async fn a_watched_secret_is_read_once_until_it_changes() {
    let cluster = Cluster::start().await;
    let instance = cluster.owner("owner").await;
    let secret = |password: &str| json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "auth", "namespace": "default"}, "stringData": {"password": password}});
    cluster.create(secret("one")).await;
    let reads = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&reads);
    let counting = cluster.kube.clone().observed(Arc::new(move |method, _| {
        if method == "GET" {
            counted.fetch_add(1, Ordering::Relaxed);
        }
    }));
    let secrets = KubeSecrets::new(counting, HashMap::new());
    let handle = SecretHandle::Key {
        name: "auth".into(),
        key: "password".into(),
    };
    let target = reference("v1/Secret", "auth");
    secrets.changed(Some(&target));
    // The first look also asks what the cluster serves.
    assert_eq!(secrets.value(&instance, &handle).await.unwrap(), "one");
    let first = reads.load(Ordering::Relaxed);
    for _ in 0..5 {
        assert_eq!(secrets.value(&instance, &handle).await.unwrap(), "one");
    }
    assert_eq!(reads.load(Ordering::Relaxed), first);

    let now = kube::api::DeleteParams::default();
    cluster.kube.delete(&target, &now).await.unwrap();
    cluster.create(secret("two")).await;
    secrets.changed(Some(&target));
    assert_eq!(secrets.value(&instance, &handle).await.unwrap(), "two");
    assert_eq!(reads.load(Ordering::Relaxed), first + 1);

    // A watch that starts anew may have missed something.
    secrets.changed(None);
    assert_eq!(secrets.value(&instance, &handle).await.unwrap(), "two");
    assert_eq!(reads.load(Ordering::Relaxed), first + 2);
}
