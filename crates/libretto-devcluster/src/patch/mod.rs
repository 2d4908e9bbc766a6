//! Pure patches: JSON, merge, strategic merge, server-side apply.
//!
//! Nothing here reads a clock, stores anything or knows about HTTP; time and manager come in, an object goes out.

mod apply;
mod strategic;
#[cfg(test)]
mod tests;

use serde_json::{Value, json};

use crate::{error::ApiError, schema::TypeSchema};

/// What client-side apply remembers on the object.
pub(crate) const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Upstream's words for a `$retainKeys` that does not name what the patch sets.
pub(crate) const BAD_RETAIN_KEYS: &str = "invalid patch format of retainKeys";

/// A value as Go prints it: `map[a:1 b:[x y]]`.
pub(crate) fn go_text(value: &Value) -> String {
    match value {
        Value::Null => "<nil>".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(items) => {
            let items: Vec<_> = items.iter().map(go_text).collect();
            format!("[{}]", items.join(" "))
        }
        Value::Object(fields) => {
            let fields: Vec<_> = fields
                .iter()
                .map(|(name, value)| format!("{name}:{}", go_text(value)))
                .collect();
            format!("map[{}]", fields.join(" "))
        }
        other => other.to_string(),
    }
}

/// The JSON type of a value in the words of Go's decoder.
pub(crate) fn go_kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// A patch that cannot be applied; the message is for the user.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct PatchError(pub String);

/// RFC 6902; a failed `test` is an error.
pub fn json(target: &Value, operations: &Value) -> Result<Value, PatchError> {
    let patch: json_patch::Patch = serde_json::from_value(operations.clone()).map_err(|error| {
        PatchError(format!(
            "the JSON patch is not a list of operations: {error}"
        ))
    })?;
    let mut result = target.clone();
    for operation in patch.0 {
        // As Kubernetes' library has it, and clients that add the first finalizer rely on: what is absent tests equal to null.
        if let json_patch::PatchOperation::Test(test) = &operation
            && test.value.is_null()
            && result.pointer(test.path.as_str()).is_none()
        {
            continue;
        }
        // Kubernetes' library replaces what is absent from an object by adding it.
        let operation = match operation {
            json_patch::PatchOperation::Replace(replace)
                if result.pointer(replace.path.as_str()).is_none() =>
            {
                json_patch::PatchOperation::Add(json_patch::AddOperation {
                    path: replace.path,
                    value: replace.value,
                })
            }
            other => other,
        };
        json_patch::patch(&mut result, &[operation]).map_err(|error| {
            PatchError(format!(
                "the server rejected our request due to an error in our request: {error}"
            ))
        })?;
    }
    Ok(result)
}

/// RFC 7396.
pub fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(fields) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    let Value::Object(object) = target else {
        return;
    };
    for (name, value) in fields {
        if value.is_null() {
            object.remove(name);
        } else {
            merge(object.entry(name.clone()).or_insert(Value::Null), value);
        }
    }
}

/// Kubernetes' strategic merge patch, for built-in kinds.
pub fn strategic(schema: &TypeSchema, target: &Value, patch: &Value) -> Result<Value, PatchError> {
    strategic::strategic(schema, target, patch)
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
    /// The manager as the API shows it: `"kubectl" using apps/v1 at 2026-01-01T00:00:00Z`.
    pub described: String,
    /// As kubectl shows it: `.spec.replicas`.
    pub field: String,
}

/// Why an apply was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ApplyError {
    Conflicts(Vec<Conflict>),
    Malformed(String),
}

impl From<ApplyError> for ApiError {
    fn from(error: ApplyError) -> Self {
        match error {
            ApplyError::Malformed(message) => Self::unclassified(message),
            ApplyError::Conflicts(conflicts) => {
                let mut error = Self::new(409, "Conflict", conflict_message(&conflicts));
                let causes: Vec<Value> = conflicts
                    .iter()
                    .map(|conflict| {
                        json!({
                            "reason": "FieldManagerConflict",
                            "message": format!("conflict with {}", conflict.described),
                            "field": conflict.field,
                        })
                    })
                    .collect();
                error.details = json!({ "causes": causes });
                error
            }
        }
    }
}

/// Upstream's sentence, which kubectl shows and people search for.
fn conflict_message(conflicts: &[Conflict]) -> String {
    if let [only] = conflicts {
        return format!(
            "Apply failed with 1 conflict: conflict with {}: {}",
            only.described, only.field
        );
    }
    let mut managers: Vec<&str> = conflicts
        .iter()
        .map(|conflict| conflict.described.as_str())
        .collect();
    managers.sort_unstable();
    managers.dedup();
    let groups: Vec<String> = managers
        .into_iter()
        .map(|manager| {
            let fields = conflicts
                .iter()
                .filter(|conflict| conflict.described == manager)
                .map(|conflict| format!("\n- {}", conflict.field));
            format!("conflicts with {manager}:{}", fields.collect::<String>())
        })
        .collect();
    format!(
        "Apply failed with {} conflicts: {}",
        conflicts.len(),
        groups.join("\n")
    )
}

/// Whether `config` has only fields of its type, in the right form. `apply` asks it too; this is for callers that prune first.
pub fn check(schema: &TypeSchema, config: &Value) -> Result<(), ApplyError> {
    apply::check(schema, config)
}

/// Server-side apply of `config` on `live` (`None` creates). The result carries `metadata.managedFields`; when nothing but a time
/// stamp would change, the result equals `live`.
pub fn apply(
    schema: &TypeSchema,
    live: Option<&Value>,
    config: &Value,
    manager: &Manager,
    force: bool,
) -> Result<Value, ApplyError> {
    apply::apply(schema, live, config, manager, force)
}

/// Sets `metadata.managedFields` of `new` after a create, update or non-apply patch by `manager`. At most ten update entries are kept.
pub fn track_update(
    schema: &TypeSchema,
    live: Option<&Value>,
    new: Value,
    manager: &Manager,
) -> Value {
    apply::track_update(schema, live, new, manager)
}
