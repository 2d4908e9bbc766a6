//! What an API server would refuse of an instance: types, enums, bounds and required fields of the CRD. No CEL, no formats.

use serde_json::Value;

/// The first few things wrong with the instance; empty when it would be taken.
pub(crate) fn refused(crd: &Value, version: &str, instance: &Value) -> Vec<String> {
    let mut wrong = Vec::new();
    if let Some(schema) = schema(crd, version) {
        let properties = schema["properties"].as_object();
        for (key, property) in properties.into_iter().flatten() {
            // Metadata is the API server's own to check, and nobody gives a status.
            if !["apiVersion", "kind", "metadata", "status"].contains(&key.as_str())
                && let Some(value) = instance.get(key)
            {
                check(property, value, key, &mut wrong);
            }
        }
    }
    wrong.truncate(5);
    wrong
}

/// Puts in the defaults of fields that are absent, as an API server does.
pub(crate) fn default(crd: &Value, version: &str, instance: &mut Value) {
    if let Some(schema) = schema(crd, version) {
        fill(schema, instance);
    }
}

fn fill(schema: &Value, value: &mut Value) {
    match value {
        Value::Object(map) => {
            for (key, property) in schema["properties"].as_object().into_iter().flatten() {
                if let Some(default) = property.get("default")
                    && map.get(key).is_none_or(Value::is_null)
                {
                    map.insert(key.clone(), default.clone());
                }
                if let Some(value) = map.get_mut(key) {
                    fill(property, value);
                }
            }
            let rest = &schema["additionalProperties"];
            if rest.is_object() {
                map.values_mut().for_each(|value| fill(rest, value));
            }
        }
        Value::Array(items) => items
            .iter_mut()
            .for_each(|item| fill(&schema["items"], item)),
        _ => {}
    }
}

fn schema<'a>(crd: &'a Value, version: &str) -> Option<&'a Value> {
    crd["spec"]["versions"]
        .as_array()?
        .iter()
        .find(|found| found["name"] == version)
        .map(|found| &found["schema"]["openAPIV3Schema"])
}

fn check(schema: &Value, value: &Value, path: &str, wrong: &mut Vec<String>) {
    let flag = |key: &str| schema[key].as_bool() == Some(true);
    if value.is_null() {
        // An API server drops a null that is not allowed when the field has a default; nobody means it otherwise.
        if !flag("nullable") && schema.get("default").is_none() && schema.get("type").is_some() {
            wrong.push(format!("{path} must not be null"));
        }
        return;
    }
    if flag("x-kubernetes-int-or-string") {
        if !value.is_i64() && !value.is_u64() && !value.is_string() {
            wrong.push(format!(
                "{path} must be an integer or a string, it is {value}"
            ));
        }
        return;
    }
    if let Some(kind) = schema["type"].as_str() {
        let fits = match kind {
            "string" => value.is_string(),
            // As JSON has it, 3.0 is an integer.
            "integer" => value.as_f64().is_some_and(|number| number.fract() == 0.0),
            "number" => value.is_number(),
            "boolean" => value.is_boolean(),
            "array" => value.is_array(),
            "object" => value.is_object(),
            _ => true,
        };
        if !fits {
            wrong.push(format!("{path} must be of type {kind}, it is {value}"));
            return;
        }
    }
    if let Some(known) = schema["enum"].as_array()
        && !known.contains(value)
    {
        let known: Vec<String> = known.iter().map(ToString::to_string).collect();
        wrong.push(format!(
            "{path} is {value}, it must be one of {}",
            known.join(", ")
        ));
    }
    if let Some(number) = value.as_f64() {
        if let Some(least) = schema["minimum"].as_f64().filter(|least| number < *least) {
            wrong.push(format!("{path} is {value}, the minimum is {least}"));
        }
        if let Some(most) = schema["maximum"].as_f64().filter(|most| number > *most) {
            wrong.push(format!("{path} is {value}, the maximum is {most}"));
        }
    }
    if let Some(items) = value.as_array()
        && let Some(schema) = schema.get("items")
    {
        for (number, item) in items.iter().enumerate() {
            check(schema, item, &format!("{path}[{number}]"), wrong);
        }
    }
    let Some(members) = value.as_object() else {
        return;
    };
    for required in schema["required"].as_array().into_iter().flatten() {
        let name = required.as_str().unwrap_or_default();
        let default = schema["properties"][name].get("default").is_some();
        if !members.contains_key(name) && !default {
            wrong.push(format!("{path} needs `{name}`"));
        }
    }
    for (key, member) in members {
        let below = schema["properties"].get(key).or_else(|| {
            schema
                .get("additionalProperties")
                .filter(|rest| rest.is_object())
        });
        if let Some(below) = below {
            check(below, member, &format!("{path}.{key}"), wrong);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_an_api_server_refuses_is_told() {
        let crd = json!({"spec": {"versions": [{"name": "v1", "schema": {"openAPIV3Schema": {"properties": {"spec": {
            "type": "object",
            "required": ["text", "size"],
            "properties": {
                "text": {"type": "string"},
                "size": {"type": "integer", "minimum": 3, "maximum": 10, "default": 3},
                "mode": {"type": "string", "enum": ["a", "b"]},
                "memory": {"x-kubernetes-int-or-string": true},
                "ports": {"type": "array", "items": {"type": "object", "required": ["port"], "properties": {"port": {"type": "integer"}}}},
                "labels": {"type": "object", "additionalProperties": {"type": "string"}},
                "free": {"x-kubernetes-preserve-unknown-fields": true},
            },
        }}}}}]}});
        let told = |spec: Value| {
            refused(
                &crd,
                "v1",
                &json!({"metadata": {"name": "demo"}, "spec": spec}),
            )
            .join("; ")
        };
        for (spec, expected) in [
            (
                json!({"text": "x", "size": 3, "mode": "a", "memory": "1Gi", "free": {"a": [1]}, "unknown": 1}),
                "",
            ),
            (
                json!({"text": "x", "size": 3.0, "memory": 5, "labels": {"a": "b"}}),
                "",
            ),
            (json!({}), "spec needs `text`"),
            (
                json!({"text": 1, "size": 2}),
                "spec.size is 2, the minimum is 3; spec.text must be of type string, it is 1",
            ),
            (
                json!({"text": "x", "size": 11}),
                "spec.size is 11, the maximum is 10",
            ),
            (
                json!({"text": "x", "mode": "c"}),
                "spec.mode is \"c\", it must be one of \"a\", \"b\"",
            ),
            (
                json!({"text": "x", "memory": 1.5}),
                "spec.memory must be an integer or a string, it is 1.5",
            ),
            (
                json!({"text": "x", "ports": [{"port": 1}, {}]}),
                "spec.ports[1] needs `port`",
            ),
            (
                json!({"text": "x", "labels": {"a": 1}}),
                "spec.labels.a must be of type string, it is 1",
            ),
            (json!({"text": null}), "spec.text must not be null"),
        ] {
            assert_eq!(told(spec.clone()), expected, "{spec}");
        }
    }
}
