//! Errors as the Kubernetes API speaks them: a `Status` object with a code, a reason and causes.

use serde_json::{Value, json};

/// One thing wrong with one field, as in `status.details.causes`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldError {
    /// `FieldValueInvalid`, `FieldValueRequired`, `FieldValueForbidden`, `FieldValueNotSupported`, `FieldValueDuplicate`, `FieldManagerConflict`…
    pub reason: &'static str,
    /// Path such as `spec.containers[0].name`; empty for the whole object.
    pub field: String,
    pub message: String,
}

/// A refused or failed request.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// HTTP status code.
    pub code: u16,
    /// `NotFound`, `AlreadyExists`, `Conflict`, `Invalid`, `Expired`, …; empty when Kubernetes gives none.
    pub reason: &'static str,
    pub message: String,
    pub details: Value,
}

impl ApiError {
    pub fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            code,
            reason,
            message: message.into(),
            details: Value::Null,
        }
    }

    /// `pods "x" not found`; `resource` is the plural, with `.group` appended for named groups.
    pub fn not_found(resource: &str, name: &str) -> Self {
        let mut error = Self::new(404, "NotFound", format!("{resource} {name:?} not found"));
        error.details = json!({"name": name, "kind": resource});
        error
    }

    pub fn already_exists(resource: &str, name: &str) -> Self {
        let mut error = Self::new(
            409,
            "AlreadyExists",
            format!("{resource} {name:?} already exists"),
        );
        error.details = json!({"name": name, "kind": resource});
        error
    }

    /// Optimistic concurrency or precondition failure.
    pub fn conflict(resource: &str, name: &str, why: &str) -> Self {
        let mut error = Self::new(
            409,
            "Conflict",
            format!("Operation cannot be fulfilled on {resource} {name:?}: {why}"),
        );
        error.details = json!({"name": name, "kind": resource});
        error
    }

    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }

    pub fn invalid(group: &str, kind: &str, name: &str, causes: &[FieldError]) -> Self {
        let list = causes
            .iter()
            .map(|cause| {
                if cause.field.is_empty() {
                    cause.message.clone()
                } else {
                    format!("{}: {}", cause.field, cause.message)
                }
            })
            .collect::<Vec<_>>();
        let text = if list.len() == 1 {
            list[0].clone()
        } else {
            format!("[{}]", list.join(", "))
        };
        let suffix = if group.is_empty() {
            String::new()
        } else {
            format!(".{group}")
        };
        let mut error = Self::new(
            422,
            "Invalid",
            format!("{kind}{suffix} {name:?} is invalid: {text}"),
        );
        error.details = json!({
            "name": name, "group": group, "kind": kind,
            "causes": causes.iter().map(|c| json!({"reason": c.reason, "message": c.message, "field": c.field})).collect::<Vec<_>>(),
        });
        error
    }

    /// The `Status` object of the answer.
    pub fn status(&self) -> Value {
        let mut status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "code": self.code,
        });
        if !self.reason.is_empty() {
            status["reason"] = self.reason.into();
        }
        if !self.details.is_null() {
            status["details"] = self.details.clone();
        }
        status
    }
}
