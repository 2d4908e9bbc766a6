//! What an API request means, apart from HTTP: the one door to the store for HTTP handlers, controllers and the node agent.
//!
//! All calls are synchronous and complete in microseconds to a millisecond: the store is in memory and a commit to SQLite (WAL,
//! synchronous=NORMAL) costs about 40 µs. Blocking the async executor that long is cheaper than a hand-over.

use std::{borrow::Cow, sync::Arc};

use serde_json::Value;

use crate::error::ApiError;

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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Propagation {
    #[default]
    Background,
    Foreground,
    Orphan,
}

/// Options of a delete.
#[derive(Debug, Clone, Default)]
pub struct DeleteOptions {
    pub propagation: Propagation,
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
struct Inner {}

/// A running watch. After `Expired` it yields nothing more.
#[derive(Debug)]
pub struct Watch {}

impl Watch {
    /// The next change; `None` when the store is closed. Cancel-safe.
    pub async fn next(&mut self) -> Option<WatchEvent> {
        todo!()
    }
}

impl Api {
    pub fn get(&self, _gvr: &Gvr, _namespace: &str, _name: &str) -> Result<Arc<Value>, ApiError> {
        let _ = &self.0;
        todo!()
    }

    /// `namespace: None` lists all namespaces.
    pub fn list(
        &self,
        _gvr: &Gvr,
        _namespace: Option<&str>,
        _options: &ListOptions,
    ) -> Result<List, ApiError> {
        todo!()
    }

    /// Changes after `from`; `Expired` as the first event when `from` is too old.
    pub fn watch(
        &self,
        _gvr: &Gvr,
        _namespace: Option<&str>,
        _options: &ListOptions,
        _from: u64,
    ) -> Result<Watch, ApiError> {
        todo!()
    }

    /// `metadata.name` or `metadata.generateName` names the object. Defaults, validates, sets uid, creationTimestamp, generation.
    pub fn create(
        &self,
        _gvr: &Gvr,
        _namespace: &str,
        _object: Value,
        _options: &WriteOptions,
    ) -> Result<Arc<Value>, ApiError> {
        todo!()
    }

    /// Replaces; `metadata.resourceVersion` present means optimistic concurrency. A no-op keeps the resourceVersion.
    pub fn update(
        &self,
        _gvr: &Gvr,
        _namespace: &str,
        _name: &str,
        _subresource: Subresource,
        _object: Value,
        _options: &WriteOptions,
    ) -> Result<Arc<Value>, ApiError> {
        todo!()
    }

    /// `Patch::Apply` creates when absent.
    pub fn patch(
        &self,
        _gvr: &Gvr,
        _namespace: &str,
        _name: &str,
        _subresource: Subresource,
        _patch: Patch,
        _options: &WriteOptions,
    ) -> Result<Arc<Value>, ApiError> {
        todo!()
    }

    /// The object as it was, or as it is now with a deletionTimestamp when finalizers or a grace period hold it.
    pub fn delete(
        &self,
        _gvr: &Gvr,
        _namespace: &str,
        _name: &str,
        _options: &DeleteOptions,
    ) -> Result<Arc<Value>, ApiError> {
        todo!()
    }

    /// Every resource served now: (gvr, kind, namespaced). For the garbage collector and the namespace controller.
    pub fn resources(&self) -> Vec<(Gvr, String, bool)> {
        todo!()
    }
}
