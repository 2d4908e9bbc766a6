//! The objects that installations are made of, as the cluster has them now.

use std::{collections::BTreeMap, pin::pin, sync::Arc};

use futures::StreamExt as _;
use kube::{
    Api, Resource,
    api::{DynamicObject, ObjectMeta},
    core::{GroupVersionKind, PartialObjectMeta},
    discovery::ApiResource,
    runtime::{WatchStreamExt as _, reflector, watcher},
};
use libretto_api::{
    installation::{REVISION_OF, installation_gvk, package_gvk, revision_gvk},
    object::Gvk,
};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::{sync::Notify, task::JoinSet};

/// Mirrors of four Kinds. There are few of each: administrators make them.
#[derive(Debug)]
pub(super) struct Objects {
    packages: reflector::Store<DynamicObject>,
    /// Without what is in them: all that packages ever were would be too much to keep.
    revisions: reflector::Store<PartialObjectMeta<DynamicObject>>,
    installations: reflector::Store<DynamicObject>,
    namespaces: reflector::Store<DynamicObject>,
}

/// An object with its `spec` read.
#[derive(Debug, Clone)]
pub(super) struct Seen<S> {
    pub(super) name: String,
    pub(super) uid: String,
    pub(super) generation: i64,
    pub(super) created: String,
    pub(super) deleting: bool,
    pub(super) finalizers: Vec<String>,
    /// Or what is wrong with it; the definition refuses most of that.
    pub(super) spec: Result<S, String>,
    pub(super) status: Value,
}

impl Objects {
    /// Watches until `tasks` end; `changed` is told of every change.
    pub(super) async fn watch(
        client: &kube::Client,
        tasks: &mut JoinSet<()>,
        changed: &Arc<Notify>,
    ) -> Self {
        let objects = Self {
            packages: follow(client, package_gvk(), tasks, changed),
            revisions: follow(client, revision_gvk(), tasks, changed),
            installations: follow(client, installation_gvk(), tasks, changed),
            namespaces: follow(client, Gvk::new("", "v1", "Namespace"), tasks, changed),
        };
        // These fail only when the task that fills the store is gone, and with it this process.
        let _ = objects.packages.wait_until_ready().await;
        let _ = objects.revisions.wait_until_ready().await;
        let _ = objects.installations.wait_until_ready().await;
        let _ = objects.namespaces.wait_until_ready().await;
        objects
    }

    pub(super) fn packages<S: DeserializeOwned>(&self) -> Vec<Seen<S>> {
        read(&self.packages)
    }

    /// Names by package, the newest last.
    pub(super) fn revisions(&self) -> BTreeMap<String, Vec<String>> {
        let mut all: BTreeMap<String, Vec<(String, String)>> = BTreeMap::new();
        for object in self.revisions.state() {
            let metadata = &object.metadata;
            let package = metadata
                .labels
                .as_ref()
                .and_then(|labels| labels.get(REVISION_OF));
            if let (Some(package), Some(name)) = (package, &metadata.name) {
                let entry = (created(metadata), name.clone());
                all.entry(package.clone()).or_default().push(entry);
            }
        }
        all.into_iter()
            .map(|(package, mut revisions)| {
                revisions.sort();
                (
                    package,
                    revisions.into_iter().map(|(_, name)| name).collect(),
                )
            })
            .collect()
    }

    /// Revisions that were deleted and are still there.
    pub(super) fn leaving(&self) -> Vec<String> {
        self.revisions
            .state()
            .iter()
            .filter(|object| object.metadata.deletion_timestamp.is_some())
            .filter_map(|object| object.metadata.name.clone())
            .collect()
    }

    /// The elder first.
    pub(super) fn installations<S: DeserializeOwned>(&self) -> Vec<Seen<S>> {
        read(&self.installations)
    }

    /// Labels by name. Those on their way out too: what is held in them must be let go by whoever holds it.
    pub(super) fn namespaces(&self) -> BTreeMap<String, BTreeMap<String, String>> {
        self.namespaces
            .state()
            .iter()
            .filter_map(|namespace| {
                let labels = namespace.metadata.labels.clone().unwrap_or_default();
                Some((namespace.metadata.name.clone()?, labels))
            })
            .collect()
    }
}

fn follow<K>(
    client: &kube::Client,
    gvk: Gvk,
    tasks: &mut JoinSet<()>,
    changed: &Arc<Notify>,
) -> reflector::Store<K>
where
    K: Resource<DynamicType = ApiResource>
        + Clone
        + std::fmt::Debug
        + DeserializeOwned
        + Send
        + Sync
        + 'static,
{
    let kind = GroupVersionKind::gvk(&gvk.group, &gvk.version, &gvk.kind);
    let resource = ApiResource::from_gvk(&kind);
    let writer = reflector::store::Writer::new(resource.clone());
    let store = writer.as_reader();
    let api: Api<K> = Api::all_with(client.clone(), &resource);
    let changed = Arc::clone(changed);
    tasks.spawn(async move {
        let events = watcher(api, watcher::Config::default())
            .default_backoff()
            .reflect(writer);
        let mut events = pin!(events);
        while let Some(event) = events.next().await {
            if let Err(error) = event {
                tracing::warn!(%gvk, %error, "watch interrupted");
            }
            changed.notify_one();
        }
    });
    store
}

/// RFC 3339, which sorts as time does; empty when unknown.
fn created(metadata: &ObjectMeta) -> String {
    metadata
        .creation_timestamp
        .as_ref()
        .map(|time| time.0.to_string())
        .unwrap_or_default()
}

fn read<S: DeserializeOwned>(store: &reflector::Store<DynamicObject>) -> Vec<Seen<S>> {
    let mut objects: Vec<Seen<S>> = store
        .state()
        .iter()
        .map(|object| {
            let metadata = &object.metadata;
            Seen {
                name: metadata.name.clone().unwrap_or_default(),
                uid: metadata.uid.clone().unwrap_or_default(),
                generation: metadata.generation.unwrap_or_default(),
                created: created(metadata),
                deleting: metadata.deletion_timestamp.is_some(),
                finalizers: metadata.finalizers.clone().unwrap_or_default(),
                spec: serde_json::from_value(object.data["spec"].clone())
                    .map_err(|error| error.to_string()),
                status: object.data["status"].clone(),
            }
        })
        .collect();
    objects.sort_by(|one, two| (&one.created, &one.name).cmp(&(&two.created, &two.name)));
    objects
}
