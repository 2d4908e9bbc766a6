//! Checking a custom object against its schema, in the words of the API server.
//!
//! On updates, what did not change is not checked again (upstream calls it ratcheting): tightening a schema must not lock existing
//! objects. Transition rules always run.

use serde_json::Value;

use super::{cel, check::Check, format};
use crate::{
    error::FieldError,
    schema::{
        field::{
            child, duplicate, invalid, not_supported, required, too_long, too_many, type_invalid,
            type_name,
        },
        node::ListType,
    },
};

const NOT_CHECKED: &str = "some validation rules were not checked because the object was invalid; \
                           correct the existing errors to complete validation";

/// Everything wrong with `new` below `path`.
pub(super) fn validate(
    check: &Check,
    new: &Value,
    old: Option<&Value>,
    path: &str,
) -> Vec<FieldError> {
    let mut errors = Vec::new();
    visit(check, new, old, path, &mut errors);
    if !check.has_rules {
        return errors;
    }
    // CEL runs only on objects of the right shape; on others its own errors would drown the cause.
    let blocking = errors.iter().any(|error| {
        matches!(
            error.reason,
            "FieldValueRequired"
                | "FieldValueNotSupported"
                | "FieldValueTooLong"
                | "FieldValueTooMany"
                | "FieldValueTypeInvalid"
        )
    });
    if blocking {
        errors.push(invalid("<nil>", &Value::Null, NOT_CHECKED));
    } else {
        cel::validate(check, new, old, path, &mut errors);
    }
    errors
}

fn visit(
    check: &Check,
    new: &Value,
    old: Option<&Value>,
    path: &str,
    errors: &mut Vec<FieldError>,
) {
    if old == Some(new) {
        return;
    }
    if new.is_null() && check.nullable {
        return;
    }
    if !type_fits(check, new) {
        let expected = if check.int_or_string {
            "integer,string"
        } else {
            &check.kind
        };
        let found = type_name(new);
        errors.push(type_invalid(
            path,
            found,
            &format!("{} must be of type {expected}: {found:?}", body(path)),
        ));
        return;
    }
    if let Some(allowed) = &check.allowed
        && !allowed.contains(new)
    {
        let texts: Vec<String> = allowed
            .iter()
            .map(|value| {
                value
                    .as_str()
                    .map_or_else(|| value.to_string(), str::to_owned)
            })
            .collect();
        errors.push(not_supported(
            path,
            new,
            &texts.iter().map(String::as_str).collect::<Vec<_>>(),
        ));
    }
    match new {
        Value::String(text) => string(check, text, new, path, errors),
        Value::Number(number) => {
            if let Some(number) = number.as_f64() {
                numeric(check, number, new, path, errors);
            }
        }
        Value::Array(items) => list(check, items, old, path, errors),
        Value::Object(_) => object(check, new, old, path, errors),
        _ => {}
    }
    logical(check, new, path, errors);
}

fn type_fits(check: &Check, value: &Value) -> bool {
    if check.int_or_string {
        return value.is_string() || is_integer(value);
    }
    match check.kind.as_str() {
        "" => true,
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "number" => value.is_number(),
        "integer" => is_integer(value),
        _ => false,
    }
}

fn is_integer(value: &Value) -> bool {
    value.is_i64() || value.is_u64() || value.as_f64().is_some_and(|number| number.fract() == 0.0)
}

/// How messages name a value: `spec.size in body`.
fn body(path: &str) -> String {
    format!("{path} in body")
}

fn string(check: &Check, text: &str, value: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let length = text.chars().count() as u64;
    // Of length and pattern upstream tells the first that is wrong.
    if let Some(most) = check.max_length
        && length > most
    {
        errors.push(too_long(path, most));
    } else if let Some(least) = check.min_length
        && length < least
    {
        errors.push(invalid(
            path,
            value,
            &format!("{} should be at least {least} chars long", body(path)),
        ));
    } else if let Some(pattern) = &check.pattern
        && !pattern.is_match(text)
    {
        errors.push(invalid(
            path,
            value,
            &format!("{} should match '{}'", body(path), pattern.as_str()),
        ));
    }
    if let Some(format) = &check.format
        && !format::matches(format, text)
    {
        // For upstream a format is a type.
        errors.push(FieldError {
            reason: "FieldValueTypeInvalid",
            ..invalid(
                path,
                value,
                &format!("{} must be of type {format}: {text:?}", body(path)),
            )
        });
    }
}

fn numeric(check: &Check, number: f64, value: &Value, path: &str, errors: &mut Vec<FieldError>) {
    if let Some(bound) = &check.minimum {
        let least = bound.value.as_f64().unwrap_or(f64::NEG_INFINITY);
        let wrong = if bound.exclusive {
            number <= least
        } else {
            number < least
        };
        if wrong {
            let words = if bound.exclusive {
                "greater than"
            } else {
                "greater than or equal to"
            };
            errors.push(invalid(
                path,
                value,
                &format!("{} should be {words} {}", body(path), bound.value),
            ));
        }
    }
    if let Some(bound) = &check.maximum {
        let most = bound.value.as_f64().unwrap_or(f64::INFINITY);
        let wrong = if bound.exclusive {
            number >= most
        } else {
            number > most
        };
        if wrong {
            let words = if bound.exclusive {
                "less than"
            } else {
                "less than or equal to"
            };
            errors.push(invalid(
                path,
                value,
                &format!("{} should be {words} {}", body(path), bound.value),
            ));
        }
    }
    if let Some(factor) = &check.multiple_of {
        let quotient = factor.as_f64().map_or(0.0, |factor| number / factor);
        if (quotient - quotient.round()).abs() > 1e-9 {
            errors.push(invalid(
                path,
                value,
                &format!("{} should be a multiple of {factor}", body(path)),
            ));
        }
    }
}

fn list(
    check: &Check,
    items: &[Value],
    old: Option<&Value>,
    path: &str,
    errors: &mut Vec<FieldError>,
) {
    let count = items.len() as u64;
    if let Some(most) = check.max_items
        && count > most
    {
        errors.push(too_many(path, items.len(), most));
    }
    if let Some(least) = check.min_items
        && count < least
    {
        let value = Value::from(count);
        errors.push(invalid(
            path,
            &value,
            &format!("{} should have at least {least} items", body(path)),
        ));
    }
    if let Some(item_check) = &check.items {
        for (index, item) in items.iter().enumerate() {
            let old_item = counterpart(&check.list, item, old);
            visit(
                item_check,
                item,
                old_item,
                &format!("{path}[{index}]"),
                errors,
            );
        }
    }
    for (index, item) in items.iter().enumerate() {
        let shown = match &check.list {
            ListType::Atomic => break,
            ListType::Set => items[..index].contains(item).then(|| item.clone()),
            ListType::Map(keys) => {
                let same =
                    |other: &Value| keys.iter().all(|key| other.get(&**key) == item.get(&**key));
                items[..index].iter().any(same).then(|| {
                    keys.iter()
                        .filter_map(|key| Some((key.to_string(), item.get(&**key)?.clone())))
                        .collect::<serde_json::Map<_, _>>()
                        .into()
                })
            }
        };
        if let Some(shown) = shown {
            errors.push(duplicate(format!("{path}[{index}]"), &shown));
        }
    }
}

/// The item of the old list that `item` is a new version of; only keyed lists have such.
pub(super) fn counterpart<'v>(
    list: &ListType,
    item: &Value,
    old: Option<&'v Value>,
) -> Option<&'v Value> {
    let ListType::Map(keys) = list else {
        return None;
    };
    old?.as_array()?
        .iter()
        .find(|other| keys.iter().all(|key| other.get(&**key) == item.get(&**key)))
}

fn object(
    check: &Check,
    new: &Value,
    old: Option<&Value>,
    path: &str,
    errors: &mut Vec<FieldError>,
) {
    let Some(fields) = new.as_object() else {
        return;
    };
    let count = fields.len() as u64;
    if let Some(most) = check.max_properties
        && count > most
    {
        errors.push(too_many(path, fields.len(), most));
    }
    if let Some(least) = check.min_properties
        && count < least
    {
        let value = Value::from(count);
        errors.push(invalid(
            path,
            &value,
            &format!("{} should have at least {least} properties", body(path)),
        ));
    }
    for name in &check.required {
        if !fields.contains_key(name) {
            errors.push(required(child(path, name), ""));
        }
    }
    if check.embedded {
        for name in ["apiVersion", "kind"] {
            if fields
                .get(name)
                .and_then(Value::as_str)
                .is_none_or(str::is_empty)
            {
                errors.push(required(child(path, name), "must not be empty"));
            }
        }
    }
    for (name, value) in fields {
        if let Some(property) = check.properties.get(name).or(check.values.as_deref()) {
            visit(
                property,
                value,
                old.and_then(|old| old.get(name)),
                &child(path, name),
                errors,
            );
        }
    }
}

fn logical(check: &Check, value: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let fits = |branch: &Check| {
        let mut found = Vec::new();
        visit(branch, value, None, path, &mut found);
        found.is_empty()
    };
    let quoted = format!("{path:?}");
    let nothing = Value::from("");
    for branch in &check.all_of {
        visit(branch, value, None, path, errors);
    }
    if !check.any_of.is_empty() && !check.any_of.iter().any(fits) {
        errors.push(invalid(
            path,
            &nothing,
            &format!("{quoted} must validate at least one schema (anyOf)"),
        ));
    }
    if !check.one_of.is_empty() {
        let found = match check.one_of.iter().filter(|branch| fits(branch)).count() {
            1 => None,
            0 => Some("Found none valid".to_owned()),
            many => Some(format!("Found {many} valid alternatives")),
        };
        if let Some(found) = found {
            let message =
                format!("{quoted} must validate one and only one schema (oneOf). {found}");
            errors.push(invalid(path, &nothing, &message));
        }
    }
    if check.not.as_deref().is_some_and(fits) {
        errors.push(invalid(
            path,
            &nothing,
            &format!("{quoted} must not validate the schema (not)"),
        ));
    }
}
