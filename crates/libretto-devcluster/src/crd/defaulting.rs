//! Defaults of custom resources.

use serde_json::Value;

use super::check::Check;

/// Fills in what the schema declares. A null where null is not allowed counts as missing.
pub(super) fn default(check: &Check, value: &mut Value) {
    match value {
        Value::Object(object) => {
            // A null where none is allowed says nothing.
            object.retain(|name, value| {
                !value.is_null() || check.properties.get(name).is_none_or(|one| one.nullable)
            });
            for (name, property) in &check.properties {
                if let Some(default) = &property.default {
                    let missing = match object.get(name) {
                        None => true,
                        Some(value) => value.is_null() && !property.nullable,
                    };
                    if missing {
                        object.insert(name.clone(), default.clone());
                    }
                }
            }
            for (name, child) in object {
                if let Some(property) = check.properties.get(name).or(check.values.as_deref()) {
                    default(property, child);
                }
            }
        }
        Value::Array(items) => {
            if let Some(check) = &check.items {
                for item in items {
                    default(check, item);
                }
            }
        }
        _ => {}
    }
}
