//! Running the CEL rules of a schema over an object.

use serde_json::Value;

use super::{check::Check, validate::counterpart};
use crate::{error::FieldError, schema::field::child};

/// Every rule at and below `check` that `new` breaks. Rules that mention `oldSelf` run only where an old value corresponds.
pub(super) fn validate(
    check: &Check,
    new: &Value,
    old: Option<&Value>,
    path: &str,
    errors: &mut Vec<FieldError>,
) {
    let unchanged = old == Some(new);
    if (unchanged && !check.transitions) || new.is_null() {
        return;
    }
    if let Some(rules) = &check.rules {
        let compiled = if unchanged {
            rules.transitions.as_ref()
        } else {
            Some(&rules.all)
        };
        if let Some(compiled) = compiled
            && let Err(failures) = kube_cel::validate_compiled(compiled, new, old)
        {
            errors.extend(
                failures
                    .into_vec()
                    .into_iter()
                    .map(|failure| error(&failure, new, path)),
            );
        }
    }
    match new {
        Value::Object(fields) => {
            for (name, value) in fields {
                let old = old.and_then(|old| old.get(name));
                if let Some(property) = check.properties.get(name) {
                    validate(property, value, old, &child(path, name), errors);
                } else if let Some(values) = &check.values {
                    validate(values, value, old, &format!("{path}[{name}]"), errors);
                }
            }
        }
        Value::Array(items) => {
            if let Some(item_check) = &check.items {
                for (index, item) in items.iter().enumerate() {
                    validate(
                        item_check,
                        item,
                        counterpart(&check.list, item, old),
                        &format!("{path}[{index}]"),
                        errors,
                    );
                }
            }
        }
        _ => {}
    }
}

fn error(failure: &kube_cel::ValidationError, value: &Value, path: &str) -> FieldError {
    let below = failure.field_path.trim_start_matches('.');
    let field = match (path.is_empty(), below.is_empty()) {
        (_, true) if path.is_empty() => "<nil>".to_owned(),
        (_, true) => path.to_owned(),
        (true, false) => below.to_owned(),
        (false, false) if below.starts_with('[') => format!("{path}{below}"),
        (false, false) => format!("{path}.{below}"),
    };
    // Upstream shows scalars, and of anything larger nothing.
    let large = value.is_object() || value.is_array();
    let shown = if large {
        String::new()
    } else {
        format!("{value}: ")
    };
    let (reason, message) = match failure.reason.as_deref() {
        Some("FieldValueForbidden") => (
            "FieldValueForbidden",
            format!("Forbidden: {}", failure.message),
        ),
        Some("FieldValueRequired") => (
            "FieldValueRequired",
            format!("Required value: {}", failure.message),
        ),
        Some("FieldValueDuplicate") => ("FieldValueDuplicate", format!("Duplicate value: {value}")),
        _ => (
            "FieldValueInvalid",
            format!("Invalid value: {shown}{}", failure.message),
        ),
    };
    FieldError {
        reason,
        field,
        message,
    }
}
