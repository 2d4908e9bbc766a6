//! OpenAPI v3 documents, for `kubectl explain` and client-side validation.

use serde_json::Value;

use crate::crd::CustomType;

/// One served resource, for the paths of a document.
#[derive(Debug, Clone)]
pub struct ServedResource {
    pub group: String,
    pub version: String,
    pub kind: String,
    pub plural: String,
    pub namespaced: bool,
    pub subresources: Vec<String>,
    /// Present for custom resources.
    pub custom: Option<std::sync::Arc<CustomType>>,
}

/// `/openapi/v3`: path → `serverRelativeURL` with a content hash.
pub fn index(_resources: &[ServedResource]) -> Value {
    todo!()
}

/// `/openapi/v3/api/v1` or `/openapi/v3/apis/<group>/<version>`; `None` when nothing of that group and version is served.
pub fn document(_group: &str, _version: &str, _resources: &[ServedResource]) -> Option<Value> {
    todo!()
}
