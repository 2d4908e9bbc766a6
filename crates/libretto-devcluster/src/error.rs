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

    /// As `not_found`, with group and plural apart in the details.
    pub fn not_found_in(group: &str, plural: &str, name: &str) -> Self {
        Self::not_found(&crate::registry::qualified(group, plural), name).within(group, plural)
    }

    /// The path names nothing that is served.
    pub fn unknown_resource() -> Self {
        Self::new(
            404,
            "NotFound",
            "the server could not find the requested resource",
        )
        .without_subject()
    }

    /// The path itself is unknown; upstream's answer is no `Status`, and `http` gives it the same form.
    pub fn unknown_path() -> Self {
        Self::new(404, "", "404 page not found")
    }

    /// Errors about a request as a whole carry details that say nothing.
    pub fn without_subject(mut self) -> Self {
        self.details = json!({});
        self
    }

    pub fn forbidden(message: impl Into<String>) -> Self {
        Self::new(403, "Forbidden", message)
    }

    /// The method is not served there.
    pub fn method_not_allowed() -> Self {
        Self::new(
            405,
            "MethodNotAllowed",
            "the server does not allow this method on the requested resource",
        )
        .without_subject()
    }

    pub fn unsupported_media_type(message: impl Into<String>) -> Self {
        Self::new(415, "UnsupportedMediaType", message)
    }

    /// Something Kubernetes has and this server does not.
    pub fn not_implemented(message: impl Into<String>) -> Self {
        Self::new(501, "NotImplemented", message)
    }

    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(500, "InternalError", message)
    }

    /// The position in history is gone; the client must list again.
    pub fn expired(message: impl Into<String>) -> Self {
        Self::new(410, "Expired", message)
    }

    /// Writes group and plural into the details, as Kubernetes clients read them.
    pub fn within(mut self, group: &str, plural: &str) -> Self {
        if !self.details.is_object() {
            self.details = json!({});
        }
        self.details["kind"] = plural.into();
        if !group.is_empty() {
            self.details["group"] = group.into();
        }
        self
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
        let mut list = causes
            .iter()
            .map(|cause| {
                if cause.field.is_empty() {
                    cause.message.clone()
                } else {
                    format!("{}: {}", cause.field, cause.message)
                }
            })
            .collect::<Vec<_>>();
        // What is found twice is said once, though each finding is a cause.
        let mut said = std::collections::HashSet::new();
        list.retain(|text| said.insert(text.clone()));
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
            "name": name, "kind": kind,
            "causes": causes.iter().map(|c| json!({"reason": c.reason, "message": c.message, "field": c.field})).collect::<Vec<_>>(),
        });
        for (field, value) in [("group", group), ("name", name)] {
            if value.is_empty() {
                error
                    .details
                    .as_object_mut()
                    .map(|details| details.remove(field));
            } else {
                error.details[field] = value.into();
            }
        }
        error
    }

    /// Options in the query or the body that are wrong; `kind` is `ListOptions`, `PatchOptions`, ….
    pub fn invalid_options(kind: &str, cause: FieldError) -> Self {
        Self::invalid("meta.k8s.io", kind, "", &[cause])
    }

    /// A patched object that is none of its kind. Upstream names no object here.
    pub fn invalid_patch(value: &str, why: &str) -> Self {
        let message = format!("Invalid value: {value:?}: {why}");
        let mut error = Self::new(
            422,
            "Invalid",
            format!(" \"\" is invalid: patch: {message}"),
        );
        error.details = json!({"causes": [{"reason": "FieldValueInvalid", "message": message, "field": "patch"}]});
        error
    }

    /// Go's errors without a class of their own.
    pub fn unclassified(message: impl Into<String>) -> Self {
        Self::new(500, "", message)
    }

    /// The `Status` object of the answer.
    pub fn status(&self) -> Value {
        let mut status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "code": self.code,
        });
        if !self.details.is_null() {
            status["details"] = self.details.clone();
        }
        if !self.reason.is_empty() {
            status["reason"] = self.reason.into();
        }
        status
    }
}

impl From<crate::store::StoreError> for ApiError {
    fn from(error: crate::store::StoreError) -> Self {
        use std::error::Error;
        let cause = error
            .source()
            .map(|source| format!(": {source}"))
            .unwrap_or_default();
        Self::internal(format!("{error}{cause}"))
    }
}
