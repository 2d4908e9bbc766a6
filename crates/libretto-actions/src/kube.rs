//! The one way to the API server: requests with a total timeout, discovery of plural names, and errors in words.
//!
//! Works on plain JSON: an object passes through exactly as the API server wrote it. Never here: what a request is for.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex},
    time::Duration,
};

use kube::{
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
    core::{DynamicObject, GroupVersionKind, Request, Resource as _, Status},
    discovery::ApiResource,
};
use libretto_api::{
    intent::{Failure, FailureKind},
    object::{Gvk, ObjectRef},
};
use serde_json::Value;

use crate::failed;

/// Longest time one request may take. API servers give up on a slow etcd or webhook after at most 34 s (30 s webhook limit plus
/// margin); waiting less would report a write as failed that then happens.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(35);

/// Told of every finished request: HTTP method and status code (`None`: no answer).
pub type Observer = Arc<dyn Fn(&str, Option<u16>) + Send + Sync>;

/// Where the API server serves a kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resource {
    pub api: ApiResource,
    pub namespaced: bool,
    pub subresources: Vec<String>,
    /// What can be done with it, such as `list`, `watch`.
    pub verbs: Vec<String>,
    pub short_names: Vec<String>,
    pub singular: String,
    pub categories: Vec<String>,
}

type Served = HashMap<(String, String), Arc<Vec<Resource>>>;

/// A client of one API server; cheap to clone.
#[derive(Clone)]
pub struct Kube {
    client: kube::Client,
    /// Discovery documents by `(group, version)`. Bounded by what the server serves.
    served: Arc<Mutex<Served>>,
    observer: Option<Observer>,
    only_reading: bool,
}

impl fmt::Debug for Kube {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kube").finish_non_exhaustive()
    }
}

/// A request that was not answered with success.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The server's own words.
    #[error("{}", .0.message)]
    Api(Box<Status>),
    #[error("the API server did not answer: {0}")]
    Unreachable(String),
    /// Discovery knows no such kind.
    #[error("the cluster serves no {0}; is its CustomResourceDefinition installed?")]
    NotServed(Gvk),
    /// See [`Kube::only_reading`].
    #[error("{0} was not sent: nothing is written here")]
    OnlyReading(::http::Method),
}

impl CallError {
    pub fn code(&self) -> Option<u16> {
        match self {
            Self::Api(status) => Some(status.code),
            Self::NotServed(_) => Some(404),
            Self::Unreachable(_) | Self::OnlyReading(_) => None,
        }
    }

    /// The object (or its kind) is not there.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Api(status) if status.is_not_found())
    }

    /// As the outcome of an effect on `what`.
    pub fn failure(&self, what: &str) -> Failure {
        match self {
            Self::Unreachable(_) => failed(FailureKind::Unreachable, format!("{what}: {self}")),
            Self::NotServed(_) | Self::OnlyReading(_) => {
                failed(FailureKind::Invalid, format!("{what}: {self}"))
            }
            Self::Api(status) => {
                if let Some(conflicts) = field_conflicts(status) {
                    return failed(FailureKind::Conflict, format!("{what}: {conflicts}"));
                }
                let kind = match status.code {
                    400 | 413 | 415 | 422 => FailureKind::Invalid,
                    401 | 403 => FailureKind::Forbidden,
                    _ => FailureKind::Refused,
                };
                failed(kind, format!("{what}: {}", status.message))
            }
        }
    }
}

/// `field .spec.replicas is managed by "kubectl"`, when that is what the server complains about.
fn field_conflicts(status: &Status) -> Option<String> {
    if status.code != 409 {
        return None;
    }
    let causes = &status.details.as_ref()?.causes;
    let sentences: Vec<String> = causes
        .iter()
        .filter(|cause| cause.reason == "FieldManagerConflict")
        .map(|cause| {
            // `conflict with "kubectl" using apps/v1`, or `… with subresource "scale" using …`.
            let manager = cause.message.split('"').nth(1).unwrap_or("another manager");
            format!("field {} is managed by {manager:?}", cause.field)
        })
        .collect();
    (!sentences.is_empty()).then(|| sentences.join(", "))
}

impl From<kube::Error> for CallError {
    fn from(error: kube::Error) -> Self {
        match error {
            kube::Error::Api(status) => Self::Api(status),
            other => Self::Unreachable(root_cause(&other)),
        }
    }
}

/// The innermost reason; the layers above it repeat each other.
fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

impl Kube {
    pub fn new(client: kube::Client) -> Self {
        Self {
            client,
            served: Arc::default(),
            observer: None,
            only_reading: false,
        }
    }

    /// Sends nothing but GET from now on, whoever asks: for whoever promises to change nothing.
    #[must_use]
    pub fn only_reading(mut self) -> Self {
        self.only_reading = true;
        self
    }

    /// See [`Kube::only_reading`].
    pub(crate) fn reads_only(&self) -> bool {
        self.only_reading
    }

    /// Reports every request to `observer`.
    #[must_use]
    pub fn observed(mut self, observer: Observer) -> Self {
        self.observer = Some(observer);
        self
    }

    pub fn client(&self) -> &kube::Client {
        &self.client
    }

    /// Sends one request and reads its JSON answer.
    pub async fn send(&self, request: ::http::Request<Vec<u8>>) -> Result<Value, CallError> {
        let method = request.method().clone();
        if self.only_reading && method != ::http::Method::GET {
            return Err(CallError::OnlyReading(method));
        }
        let answer = tokio::time::timeout(REQUEST_TIMEOUT, self.client.request::<Value>(request))
            .await
            .map_err(|_elapsed| {
                CallError::Unreachable(format!("no answer within {} s", REQUEST_TIMEOUT.as_secs()))
            })
            .and_then(|answer| answer.map_err(CallError::from));
        if let Some(observer) = &self.observer {
            let code = match &answer {
                Ok(_) => Some(200),
                Err(error) => error.code(),
            };
            observer(method.as_str(), code);
        }
        answer
    }

    /// Where `gvk` is served. Asks the server once per group and version, and again for a kind that was not there.
    pub async fn resource(&self, gvk: &Gvk) -> Result<Resource, CallError> {
        let find = |resources: &[Resource]| {
            resources
                .iter()
                .find(|resource| resource.api.kind == gvk.kind)
                .cloned()
        };
        let key = (gvk.group.clone(), gvk.version.clone());
        let cached = self.lock().get(&key).cloned();
        if let Some(found) = cached.and_then(|resources| find(&resources)) {
            return Ok(found);
        }
        let resources = self.resources(&gvk.group, &gvk.version).await?;
        find(&resources).ok_or_else(|| CallError::NotServed(gvk.clone()))
    }

    /// Everything served under one group and version, freshly asked; empty when the group does not exist.
    pub async fn resources(
        &self,
        group: &str,
        version: &str,
    ) -> Result<Arc<Vec<Resource>>, CallError> {
        let path = if group.is_empty() {
            format!("/api/{version}")
        } else {
            format!("/apis/{group}/{version}")
        };
        let request = ::http::Request::get(path)
            .body(Vec::new())
            .expect("a path of API names is a valid URI");
        let resources = match self.send(request).await {
            Ok(document) => read_resources(group, version, &document),
            Err(error) if error.code() == Some(404) => Vec::new(),
            Err(error) => return Err(error),
        };
        let resources = Arc::new(resources);
        self.lock().insert(
            (group.to_owned(), version.to_owned()),
            Arc::clone(&resources),
        );
        Ok(resources)
    }

    /// Forgets where `gvk` is served, after its path turned out to be gone.
    pub fn forget(&self, gvk: &Gvk) {
        self.lock()
            .remove(&(gvk.group.clone(), gvk.version.clone()));
    }

    /// Path of a kind's collection, and the name of the object in it.
    pub(crate) async fn collection(&self, object: &ObjectRef) -> Result<String, CallError> {
        let resource = self.resource(&object.gvk).await?;
        Ok(collection_path(&resource, &object.namespace))
    }

    /// `None` when it is not there.
    pub async fn get(&self, object: &ObjectRef) -> Result<Option<Value>, CallError> {
        let path = self.collection(object).await?;
        let request = Request::new(path)
            .get(&object.name, &kube::api::GetParams::default())
            .map_err(kube::Error::BuildRequest)?;
        match self.send(request).await {
            Ok(object) => Ok(Some(object)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// One page of a list; `namespace` empty means all.
    pub async fn list(
        &self,
        gvk: &Gvk,
        namespace: &str,
        params: &ListParams,
    ) -> Result<Value, CallError> {
        let resource = self.resource(gvk).await?;
        let request = Request::new(collection_path(&resource, namespace))
            .list(params)
            .map_err(kube::Error::BuildRequest)?;
        self.send(request).await
    }

    pub async fn create(&self, object: &ObjectRef, body: &Value) -> Result<Value, CallError> {
        let path = self.collection(object).await?;
        let bytes = serde_json::to_vec(body).expect("a JSON value serialises");
        let request = Request::new(path)
            .create(&PostParams::default(), bytes)
            .map_err(kube::Error::BuildRequest)?;
        self.send(request).await
    }

    /// Patches an object or, with `subresource`, one of its subresources.
    pub async fn patch(
        &self,
        object: &ObjectRef,
        subresource: Option<&str>,
        params: &PatchParams,
        patch: &Patch<&Value>,
    ) -> Result<Value, CallError> {
        let request = Request::new(self.collection(object).await?);
        let request = match subresource {
            None => request.patch(&object.name, params, patch),
            Some(subresource) => {
                request.patch_subresource(subresource, &object.name, params, patch)
            }
        }
        .map_err(kube::Error::BuildRequest)?;
        let answer = self.send(request).await;
        if matches!(&answer, Err(error) if error.code() == Some(404)) {
            self.forget(&object.gvk);
        }
        answer
    }

    pub async fn delete(
        &self,
        object: &ObjectRef,
        params: &DeleteParams,
    ) -> Result<Value, CallError> {
        let request = Request::new(self.collection(object).await?)
            .delete(&object.name, params)
            .map_err(kube::Error::BuildRequest)?;
        self.send(request).await
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Served> {
        self.served.lock().expect("no code panics under this lock")
    }
}

/// `/apis/apps/v1/namespaces/x/statefulsets`; a cluster-scoped kind ignores the namespace.
pub fn collection_path(resource: &Resource, namespace: &str) -> String {
    let namespace = (resource.namespaced && !namespace.is_empty()).then_some(namespace);
    DynamicObject::url_path(&resource.api, namespace)
}

fn read_resources(group: &str, version: &str, document: &Value) -> Vec<Resource> {
    let entries = document["resources"]
        .as_array()
        .map_or(&[][..], Vec::as_slice);
    let strings = |value: &Value| -> Vec<String> {
        value
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|item| item.as_str().map(str::to_owned))
            .collect()
    };
    entries
        .iter()
        .filter_map(|entry| {
            let plural = entry["name"].as_str()?;
            if plural.contains('/') {
                return None;
            }
            let prefix = format!("{plural}/");
            let gvk = GroupVersionKind::gvk(group, version, entry["kind"].as_str()?);
            Some(Resource {
                api: ApiResource::from_gvk_with_plural(&gvk, plural),
                namespaced: entry["namespaced"].as_bool().unwrap_or(false),
                subresources: entries
                    .iter()
                    .filter_map(|other| other["name"].as_str()?.strip_prefix(&prefix))
                    .map(str::to_owned)
                    .collect(),
                verbs: strings(&entry["verbs"]),
                short_names: strings(&entry["shortNames"]),
                singular: entry["singularName"]
                    .as_str()
                    .unwrap_or_default()
                    .to_owned(),
                categories: strings(&entry["categories"]),
            })
        })
        .collect()
}

/// Names the object that a manifest is about.
pub fn object_ref(object: &Value) -> Result<ObjectRef, Failure> {
    let gvk = Gvk::of(object).ok_or_else(|| {
        failed(
            FailureKind::Invalid,
            "an object without apiVersion and kind cannot be sent",
        )
    })?;
    let text = |pointer: &str| {
        object
            .pointer(pointer)
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    let name = text("/metadata/name");
    if name.is_empty() {
        return Err(failed(
            FailureKind::Invalid,
            format!("a {} without metadata.name cannot be sent", gvk.kind),
        ));
    }
    Ok(ObjectRef {
        gvk,
        namespace: text("/metadata/namespace"),
        name,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    fn api_error(body: Value) -> CallError {
        CallError::Api(Box::new(serde_json::from_value(body).unwrap()))
    }

    #[test]
    fn a_field_conflict_names_the_manager_and_the_field() {
        let error = api_error(json!({
            "code": 409, "reason": "Conflict", "message": "Apply failed with 1 conflict",
            "details": {"causes": [{"reason": "FieldManagerConflict", "field": ".spec.replicas",
                "message": "conflict with \"kubectl-scale\" with subresource \"scale\" using apps/v1"}]}
        }));
        assert_eq!(
            error.failure("StatefulSet default/x"),
            Failure {
                kind: FailureKind::Conflict,
                message:
                    "StatefulSet default/x: field .spec.replicas is managed by \"kubectl-scale\""
                        .into()
            }
        );
    }

    #[test]
    fn status_codes_map_to_kinds() {
        for (code, kind) in [
            (403, FailureKind::Forbidden),
            (422, FailureKind::Invalid),
            (400, FailureKind::Invalid),
            (409, FailureKind::Refused),
            (500, FailureKind::Refused),
        ] {
            let error = api_error(json!({"code": code, "message": "no"}));
            assert_eq!(error.failure("Pod x").kind, kind, "{code}");
        }
        let silent = CallError::Unreachable("connection refused".into());
        assert_eq!(silent.failure("Pod x").kind, FailureKind::Unreachable);
    }

    #[test]
    fn discovery_gives_plural_scope_and_subresources() {
        let document = json!({"resources": [
            {"name": "redisclusters", "kind": "RedisCluster", "namespaced": true, "verbs": ["get", "list"], "shortNames": ["rec"], "singularName": "rediscluster"},
            {"name": "redisclusters/status", "kind": "RedisCluster", "namespaced": true, "verbs": ["get"]},
        ]});
        let resources = read_resources("redis.kun", "v1beta1", &document);
        assert_eq!(resources.len(), 1);
        assert_eq!(resources[0].subresources, ["status"]);
        assert_eq!(
            collection_path(&resources[0], "default"),
            "/apis/redis.kun/v1beta1/namespaces/default/redisclusters"
        );
        assert_eq!(
            collection_path(&resources[0], ""),
            "/apis/redis.kun/v1beta1/redisclusters"
        );
    }

    #[test]
    fn a_nameless_object_is_refused() {
        let error = object_ref(&json!({"apiVersion": "v1", "kind": "Pod"})).unwrap_err();
        assert_eq!(error.message, "a Pod without metadata.name cannot be sent");
    }
}
