//! What an API request means, apart from HTTP: the one door to the store for HTTP handlers, controllers and the node agent.
//!
//! All calls are synchronous and complete in microseconds to a millisecond: the store is in memory and a commit to SQLite (WAL,
//! synchronous=NORMAL) costs about 40 µs. Blocking the async executor that long is cheaper than a hand-over.

mod access;
mod admission;
mod aggregation;
mod bootstrap;
mod convert;
mod crds;
mod delete;
mod escalation;
mod events;
mod metadata;
mod pods;
mod read;
mod scale;
mod services;
mod support;
#[cfg(test)]
mod tests;
mod write;

use std::{borrow::Cow, path::Path, sync::Arc};

use parking_lot::Mutex;
use serde_json::{Value, json};

pub(crate) use self::{
    delete::Deleted,
    read::{ListQuery, Page},
    write::Written,
};
pub use self::{metadata::now, read::Watch};
use crate::{
    error::ApiError,
    rbac::User,
    registry::{Registry, Resource},
    store::{HISTORY_LIMIT, Key, Store, StoreError},
};

/// Recorded in managedFields for callers inside the process that give no name.
const DEFAULT_MANAGER: &str = "libretto-devcluster";

pub const NAMESPACES: Gvr = Gvr::new("", "v1", "namespaces");
pub const PODS: Gvr = Gvr::new("", "v1", "pods");
pub const SERVICES: Gvr = Gvr::new("", "v1", "services");
pub const EVENTS: Gvr = Gvr::new("", "v1", "events");

/// Namespaces every cluster has.
const DEFAULT_NAMESPACES: &[&str] = &["default", "kube-node-lease", "kube-public", "kube-system"];

/// Group, version and plural resource name, such as `apps/v1 statefulsets`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Gvr {
    pub group: Cow<'static, str>,
    pub version: Cow<'static, str>,
    pub resource: Cow<'static, str>,
}

impl Gvr {
    pub const fn new(group: &'static str, version: &'static str, resource: &'static str) -> Self {
        Self {
            group: Cow::Borrowed(group),
            version: Cow::Borrowed(version),
            resource: Cow::Borrowed(resource),
        }
    }
}

/// Which part of an object a write concerns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Subresource {
    #[default]
    None,
    Status,
    Scale,
    /// Namespaces only: `spec.finalizers`.
    Finalize,
}

/// Options common to writes.
#[derive(Debug, Clone, Default)]
pub struct WriteOptions {
    /// Who is recorded in managedFields.
    pub field_manager: String,
    pub dry_run: bool,
    /// `fieldValidation=Strict`: unknown fields are an error instead of a warning.
    pub strict: bool,
    /// Server-side apply only: take fields from other managers.
    pub force: bool,
    /// Who is held to their rights where the request alone does not say which it needs. Parts of the cluster itself have none.
    pub user: Option<Arc<User>>,
}

/// What to change.
#[derive(Debug, Clone)]
pub enum Patch {
    Json(Value),
    Merge(Value),
    Strategic(Value),
    Apply(Value),
}

/// How dependents are treated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Propagation {
    Background,
    Foreground,
    Orphan,
}

/// Options of a delete.
#[derive(Debug, Clone, Default)]
pub struct DeleteOptions {
    /// `None`: what an earlier wish left in the finalizers, else what is usual for the resource.
    pub propagation: Option<Propagation>,
    /// Only this incarnation.
    pub uid: Option<String>,
    pub resource_version: Option<String>,
    /// Pods only; `Some(0)` removes the object at once.
    pub grace_period_seconds: Option<i64>,
    pub dry_run: bool,
}

/// Which objects of a list or a watch.
#[derive(Debug, Clone, Default)]
pub struct ListOptions {
    pub label_selector: Option<String>,
    pub field_selector: Option<String>,
    pub limit: Option<usize>,
    pub continue_token: Option<String>,
}

/// A consistent list.
#[derive(Debug, Clone)]
pub struct List {
    pub resource_version: u64,
    pub items: Vec<Arc<Value>>,
    pub continue_token: Option<String>,
    pub remaining: Option<usize>,
}

/// One change, as a watcher with this selector sees it.
#[derive(Debug, Clone)]
pub enum WatchEvent {
    Added(Arc<Value>),
    Modified(Arc<Value>),
    Deleted(Arc<Value>),
    /// Everything up to this version has been sent.
    Bookmark(u64),
    /// The watch cannot continue (410); list again.
    Expired,
}

/// Handle on the cluster's API; cheap to clone.
#[derive(Debug, Clone)]
pub struct Api(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    store: Arc<Store>,
    registry: Registry,
    /// Held over read, decide and write. Decisions reach across objects (a namespace still takes objects, a cluster IP is free), so
    /// writes are serial; readers never wait for them.
    writes: Mutex<()>,
    access: access::Cache,
}

/// A resource and version that exist.
#[derive(Debug, Clone)]
struct Target {
    resource: Arc<Resource>,
    version: String,
}

impl Target {
    fn key(&self, namespace: &str, name: &str) -> Key {
        let namespace = if self.resource.namespaced {
            namespace
        } else {
            ""
        };
        Key::new(namespace, name)
    }
}

impl Api {
    /// A cluster's API over the file at `path` (`None`: memory only), with what every cluster has from the start.
    pub fn open(path: Option<&Path>) -> Result<Self, StoreError> {
        let api = Self(Arc::new(Inner {
            store: Arc::new(Store::open(path, HISTORY_LIMIT)?),
            registry: Registry::default(),
            writes: Mutex::new(()),
            access: access::Cache::default(),
        }));
        api.register_stored_definitions();
        for name in DEFAULT_NAMESPACES {
            api.ensure(&NAMESPACES, "", json!({"metadata": {"name": name}}));
        }
        Ok(api)
    }

    /// An empty cluster that is gone with the last handle. For tests.
    pub fn in_memory() -> Self {
        Self::open(None).expect("only files can fail to open")
    }

    /// Creates an object unless it exists.
    pub(crate) fn ensure(&self, gvr: &Gvr, namespace: &str, object: Value) {
        match self.create(gvr, namespace, object, &WriteOptions::default()) {
            Err(error) if error.reason != "AlreadyExists" => {
                tracing::error!(resource = %gvr.resource, %error, "cannot create an initial object");
            }
            _ => {}
        }
    }

    pub fn get(&self, gvr: &Gvr, namespace: &str, name: &str) -> Result<Arc<Value>, ApiError> {
        let target = self.resolve(gvr)?;
        let object = self.stored(&target, namespace, name)?;
        Ok(convert::from_storage(
            &target.resource,
            &target.version,
            &object,
        ))
    }

    /// `namespace: None` lists all namespaces.
    pub fn list(
        &self,
        gvr: &Gvr,
        namespace: Option<&str>,
        options: &ListOptions,
    ) -> Result<List, ApiError> {
        let page = self.page(
            gvr,
            &ListQuery {
                namespace,
                options,
                at: None,
            },
        )?;
        Ok(List {
            resource_version: page.revision,
            items: page.items,
            continue_token: page.continue_token,
            remaining: page.remaining,
        })
    }

    /// Changes after `from`; `Expired` as the first event when `from` is too old.
    pub fn watch(
        &self,
        gvr: &Gvr,
        namespace: Option<&str>,
        options: &ListOptions,
        from: u64,
    ) -> Result<Watch, ApiError> {
        self.watch_from(gvr, namespace, options, from)
    }

    /// `metadata.name` or `metadata.generateName` names the object. Defaults, validates, sets uid, creationTimestamp, generation.
    pub fn create(
        &self,
        gvr: &Gvr,
        namespace: &str,
        object: Value,
        options: &WriteOptions,
    ) -> Result<Arc<Value>, ApiError> {
        self.create_with_warnings(gvr, namespace, object, options)
            .map(|written| written.object)
    }

    /// Replaces; `metadata.resourceVersion` present means optimistic concurrency. A no-op keeps the resourceVersion.
    pub fn update(
        &self,
        gvr: &Gvr,
        namespace: &str,
        name: &str,
        subresource: Subresource,
        object: Value,
        options: &WriteOptions,
    ) -> Result<Arc<Value>, ApiError> {
        self.update_with_warnings(gvr, namespace, name, subresource, object, options)
            .map(|written| written.object)
    }

    /// `Patch::Apply` creates when absent.
    pub fn patch(
        &self,
        gvr: &Gvr,
        namespace: &str,
        name: &str,
        subresource: Subresource,
        patch: Patch,
        options: &WriteOptions,
    ) -> Result<Arc<Value>, ApiError> {
        self.patch_with_warnings(gvr, namespace, name, subresource, patch, options)
            .map(|written| written.object)
    }

    /// The object as it was, or as it is now with a deletionTimestamp when finalizers or a grace period hold it.
    pub fn delete(
        &self,
        gvr: &Gvr,
        namespace: &str,
        name: &str,
        options: &DeleteOptions,
    ) -> Result<Arc<Value>, ApiError> {
        self.delete_object(gvr, namespace, name, options)
            .map(|deleted| deleted.object)
    }

    /// Every resource served now: (gvr, kind, namespaced). For the garbage collector and the namespace controller.
    ///
    /// One entry per resource, in its preferred version; events appear once, in the core group.
    pub fn resources(&self) -> Vec<(Gvr, String, bool)> {
        self.0
            .registry
            .all()
            .iter()
            .filter(|resource| resource.group != "events.k8s.io")
            .filter_map(|resource| {
                let version = resource.versions.first()?;
                Some((
                    resource.gvr(&version.name),
                    resource.kind.clone(),
                    resource.namespaced,
                ))
            })
            .collect()
    }

    /// The revision of the last write.
    pub fn revision(&self) -> u64 {
        self.0.store.revision()
    }

    pub(crate) fn registry(&self) -> &Registry {
        &self.0.registry
    }

    /// Makes every running watch and unfinished page of a resource expire, as a long outage does. For tests of clients.
    pub fn expire_watches(&self, gvr: &Gvr) -> Result<(), ApiError> {
        let target = self.resolve(gvr)?;
        self.0.store.forget_history(&target.resource.table);
        Ok(())
    }

    /// Ends all watches and folds the log into the state file.
    pub fn close(&self) -> Result<(), StoreError> {
        self.0.store.close()
    }

    fn resolve(&self, gvr: &Gvr) -> Result<Target, ApiError> {
        self.0
            .registry
            .find(&gvr.group, &gvr.resource)
            .filter(|resource| resource.version(&gvr.version).is_some())
            .map(|resource| Target {
                resource,
                version: gvr.version.to_string(),
            })
            .ok_or_else(ApiError::unknown_resource)
    }

    fn stored(&self, target: &Target, namespace: &str, name: &str) -> Result<Arc<Value>, ApiError> {
        self.0
            .store
            .get(&target.resource.table, &target.key(namespace, name))
            .ok_or_else(|| {
                ApiError::not_found_in(&target.resource.group, &target.resource.plural, name)
            })
    }
}
