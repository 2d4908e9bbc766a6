//! Pure patches: JSON, merge, strategic merge, server-side apply.

use serde_json::Value;

use crate::schema::TypeSchema;

/// A patch that cannot be applied; the message is for the user.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct PatchError(pub String);

/// RFC 6902; a failed `test` is an error.
pub fn json(_target: &Value, _operations: &Value) -> Result<Value, PatchError> {
    todo!()
}

/// RFC 7396.
pub fn merge(_target: &mut Value, _patch: &Value) {
    todo!()
}

/// Kubernetes' strategic merge patch, for built-in kinds.
pub fn strategic(
    _schema: &TypeSchema,
    _target: &Value,
    _patch: &Value,
) -> Result<Value, PatchError> {
    todo!()
}

/// Who writes, as recorded in `managedFields`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manager {
    pub name: String,
    /// `status`, `scale`, or empty.
    pub subresource: String,
    /// `apiVersion` of the request.
    pub api_version: String,
    /// RFC 3339 with seconds.
    pub time: String,
}

/// Somebody else owns a field that the applied configuration sets differently.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    pub manager: String,
    /// As kubectl shows it: `.spec.replicas`.
    pub field: String,
}

/// Why an apply was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ApplyError {
    Conflicts(Vec<Conflict>),
    Malformed(String),
}

/// Server-side apply of `config` on `live` (`None` creates). The result carries `metadata.managedFields`; when nothing but a time
/// stamp would change, the result equals `live`.
pub fn apply(
    _schema: &TypeSchema,
    _live: Option<&Value>,
    _config: &Value,
    _manager: &Manager,
    _force: bool,
) -> Result<Value, ApplyError> {
    todo!()
}

/// Sets `metadata.managedFields` of `new` after a create, update or non-apply patch by `manager`. At most ten update entries are kept.
pub fn track_update(
    _schema: &TypeSchema,
    _live: Option<&Value>,
    _new: Value,
    _manager: &Manager,
) -> Value {
    todo!()
}
