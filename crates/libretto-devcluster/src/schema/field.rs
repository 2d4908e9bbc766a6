//! Field errors in upstream's words (`Invalid value: 1: …`), so that what people find on the web about a message applies here.

use serde_json::Value;

use crate::error::FieldError;

pub(crate) fn required(field: impl Into<String>, detail: &str) -> FieldError {
    FieldError {
        reason: "FieldValueRequired",
        field: field.into(),
        message: with_detail("Required value", detail),
    }
}

pub(crate) fn invalid(field: impl Into<String>, value: &Value, detail: &str) -> FieldError {
    FieldError {
        reason: "FieldValueInvalid",
        field: field.into(),
        message: with_detail(&format!("Invalid value: {value}"), detail),
    }
}

/// A value of the wrong JSON type; `kind` is the type found.
pub(crate) fn type_invalid(field: impl Into<String>, kind: &str, detail: &str) -> FieldError {
    FieldError {
        reason: "FieldValueTypeInvalid",
        field: field.into(),
        message: format!("Invalid value: {kind:?}: {detail}"),
    }
}

pub(crate) fn not_supported(
    field: impl Into<String>,
    value: &Value,
    supported: &[&str],
) -> FieldError {
    let list: Vec<String> = supported.iter().map(|value| format!("{value:?}")).collect();
    FieldError {
        reason: "FieldValueNotSupported",
        field: field.into(),
        message: format!(
            "Unsupported value: {value}: supported values: {}",
            list.join(", ")
        ),
    }
}

pub(crate) fn forbidden(field: impl Into<String>, detail: &str) -> FieldError {
    FieldError {
        reason: "FieldValueForbidden",
        field: field.into(),
        message: with_detail("Forbidden", detail),
    }
}

pub(crate) fn duplicate(field: impl Into<String>, value: &Value) -> FieldError {
    FieldError {
        reason: "FieldValueDuplicate",
        field: field.into(),
        message: format!("Duplicate value: {value}"),
    }
}

pub(crate) fn not_found(field: impl Into<String>, value: &Value) -> FieldError {
    FieldError {
        reason: "FieldValueNotFound",
        field: field.into(),
        message: format!("Not found: {value}"),
    }
}

pub(crate) fn too_long(field: impl Into<String>, bytes: u64) -> FieldError {
    FieldError {
        reason: "FieldValueTooLong",
        field: field.into(),
        message: format!("Too long: may not be more than {bytes} bytes"),
    }
}

pub(crate) fn too_many(field: impl Into<String>, actual: usize, most: u64) -> FieldError {
    FieldError {
        reason: "FieldValueTooMany",
        field: field.into(),
        message: format!("Too many: {actual}: must have at most {most} items"),
    }
}

/// `parent.child`, or `child` at the root.
pub(crate) fn child(parent: &str, name: &str) -> String {
    if parent.is_empty() {
        name.to_owned()
    } else {
        format!("{parent}.{name}")
    }
}

/// The JSON type of a value, as error messages name it.
pub(crate) fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn with_detail(text: &str, detail: &str) -> String {
    if detail.is_empty() {
        text.to_owned()
    } else {
        format!("{text}: {detail}")
    }
}
