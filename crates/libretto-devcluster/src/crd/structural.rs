//! Whether a schema is structural: the form in which pruning, defaulting and merging are well defined. The rules and messages are upstream's.

use kube_cel::{CompilationError, compile_schema};
use regex::Regex;
use serde_json::{Value, json};

use super::{
    check::{Check, array},
    validate::validate,
};
use crate::{
    error::FieldError,
    schema::field::{forbidden, invalid, not_supported, required},
};

/// Keywords that exist in JSON schema but not in structural schemas.
const UNSUPPORTED: &[&str] = &[
    "$ref",
    "id",
    "definitions",
    "dependencies",
    "patternProperties",
    "additionalItems",
];

/// Keywords that may not be inside `allOf`, `anyOf`, `oneOf` and `not`: these only restrict values, they never say what a value is.
const OUTSIDE_LOGIC: &[&str] = &[
    "description",
    "type",
    "default",
    "title",
    "nullable",
    "additionalProperties",
    "x-kubernetes-preserve-unknown-fields",
    "x-kubernetes-embedded-resource",
    "x-kubernetes-int-or-string",
    "x-kubernetes-list-type",
    "x-kubernetes-list-map-keys",
    "x-kubernetes-map-type",
    "x-kubernetes-validations",
];

const TYPES: &[&str] = &["array", "boolean", "integer", "number", "object", "string"];

/// Everything wrong with the schema of a version; `path` ends in `openAPIV3Schema`.
pub(super) fn check(schema: &Value, path: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if !schema.is_object() {
        errors.push(required(path, "schemas are required"));
        return errors;
    }
    if text(schema, "type") != "object" {
        let found = schema.get("type").cloned().unwrap_or_else(|| "".into());
        errors.push(invalid(
            format!("{path}.type"),
            &found,
            "must be object at the root",
        ));
    }
    root_metadata(schema, path, &mut errors);
    node(schema, path, "must not be empty at the root", &mut errors);
    errors
}

fn text<'v>(schema: &'v Value, key: &str) -> &'v str {
    schema.get(key).and_then(Value::as_str).unwrap_or_default()
}

fn flag(schema: &Value, key: &str) -> bool {
    schema.get(key).and_then(Value::as_bool) == Some(true)
}

fn root_metadata(schema: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let Some(metadata) = schema["properties"]["metadata"].as_object() else {
        return;
    };
    let only_names = metadata
        .get("properties")
        .unwrap_or(&Value::Null)
        .as_object_or_empty()
        .all(|name| name == "name" || name == "generateName");
    if !only_names {
        errors.push(forbidden(
            format!("{path}.properties[metadata]"),
            "must not specify anything other than name and generateName, but metadata is implicitly specified",
        ));
    }
}

/// Names of the properties of an optional object.
trait Names {
    fn as_object_or_empty(&self) -> impl Iterator<Item = &str>;
}

impl Names for Value {
    fn as_object_or_empty(&self) -> impl Iterator<Item = &str> {
        self.as_object()
            .into_iter()
            .flat_map(|object| object.keys().map(String::as_str))
    }
}

fn node(schema: &Value, path: &str, missing_type: &str, errors: &mut Vec<FieldError>) {
    for key in UNSUPPORTED {
        if schema.get(*key).is_some() {
            errors.push(forbidden(
                format!("{path}.{key}"),
                &format!("{key} is not supported"),
            ));
        }
    }
    if flag(schema, "uniqueItems") {
        let why =
            "uniqueItems cannot be set to true since the runtime complexity becomes quadratic";
        errors.push(forbidden(format!("{path}.uniqueItems"), why));
    }
    type_of(schema, path, missing_type, errors);
    if let Some(pattern) = schema.get("pattern").and_then(Value::as_str)
        && let Err(error) = Regex::new(pattern)
    {
        let why = format!("must be a valid regular expression, but isn't: {error}");
        errors.push(invalid(format!("{path}.pattern"), &schema["pattern"], &why));
    }
    list_type(schema, path, errors);
    match text(schema, "x-kubernetes-map-type") {
        "" => {}
        "atomic" | "granular" => {
            if text(schema, "type") != "object" {
                let found = &schema["type"];
                errors.push(invalid(
                    format!("{path}.type"),
                    found,
                    "must be object if x-kubernetes-map-type is specified",
                ));
            }
        }
        _ => errors.push(not_supported(
            format!("{path}.x-kubernetes-map-type"),
            &schema["x-kubernetes-map-type"],
            &["atomic", "granular"],
        )),
    }
    rules(schema, path, errors);
    children(schema, path, errors);
    for key in ["allOf", "anyOf", "oneOf"] {
        for (index, branch) in array(schema, key).iter().enumerate() {
            logic(
                branch,
                schema,
                &format!("{path}.{key}[{index}]"),
                int_or_string_branch(schema, key),
                errors,
            );
        }
    }
    if let Some(branch) = schema.get("not") {
        logic(branch, schema, &format!("{path}.not"), false, errors);
    }
    default_fits(schema, path, errors);
}

fn type_of(schema: &Value, path: &str, missing_type: &str, errors: &mut Vec<FieldError>) {
    let kind = text(schema, "type");
    let open = flag(schema, "x-kubernetes-preserve-unknown-fields");
    let int_or_string = flag(schema, "x-kubernetes-int-or-string");
    let type_path = format!("{path}.type");
    if schema.get("type").is_some_and(|kind| !kind.is_string()) {
        errors.push(invalid(
            type_path,
            &schema["type"],
            "must be one type; use nullable for null",
        ));
    } else if kind.is_empty() {
        if !open && !int_or_string {
            errors.push(required(type_path, missing_type));
        }
    } else if int_or_string {
        let why = "must be empty if x-kubernetes-int-or-string is true";
        errors.push(invalid(type_path, &schema["type"], why));
    } else if !TYPES.contains(&kind) {
        errors.push(not_supported(type_path, &schema["type"], TYPES));
    }
    if flag(schema, "x-kubernetes-embedded-resource") {
        if kind != "object" {
            let why = "must be object if x-kubernetes-embedded-resource is true";
            errors.push(invalid(format!("{path}.type"), &schema["type"], why));
        }
        if !open && schema["properties"].as_object_or_empty().next().is_none() {
            let why = "must not be empty if x-kubernetes-embedded-resource is true without x-kubernetes-preserve-unknown-fields";
            errors.push(required(format!("{path}.properties"), why));
        }
    }
}

fn list_type(schema: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let list = text(schema, "x-kubernetes-list-type");
    let keys = array(schema, "x-kubernetes-list-map-keys");
    let keys_path = format!("{path}.x-kubernetes-list-map-keys");
    if !list.is_empty() && text(schema, "type") != "array" {
        let why = "must be array if x-kubernetes-list-type is specified";
        errors.push(invalid(format!("{path}.type"), &schema["type"], why));
    }
    let items = &schema["items"];
    match list {
        "" | "atomic" | "set" if !keys.is_empty() => {
            errors.push(forbidden(
                keys_path,
                "must not be specified unless x-kubernetes-list-type is map",
            ));
        }
        "" | "atomic" => {}
        "set" => {
            let atomic = match text(items, "type") {
                "object" => text(items, "x-kubernetes-map-type") == "atomic",
                "array" => matches!(text(items, "x-kubernetes-list-type"), "" | "atomic"),
                _ => true,
            };
            if !atomic {
                let why =
                    "forbidden in items of x-kubernetes-list-type set unless the items are atomic";
                errors.push(forbidden(format!("{path}.items"), why));
            }
        }
        "map" => map_keys(schema, keys, path, errors),
        _ => errors.push(not_supported(
            format!("{path}.x-kubernetes-list-type"),
            &schema["x-kubernetes-list-type"],
            &["atomic", "map", "set"],
        )),
    }
}

fn map_keys(schema: &Value, keys: &[Value], path: &str, errors: &mut Vec<FieldError>) {
    let items = &schema["items"];
    if keys.is_empty() {
        let why = "must not be empty if x-kubernetes-list-type is map";
        errors.push(required(format!("{path}.x-kubernetes-list-map-keys"), why));
    }
    if text(items, "type") != "object" {
        let why = "must be object if parent array's x-kubernetes-list-type is map";
        errors.push(invalid(format!("{path}.items.type"), &items["type"], why));
    }
    for (index, key) in keys.iter().enumerate() {
        let Some(name) = key.as_str() else { continue };
        let Some(property) = items["properties"].get(name) else {
            let why = "entries must all be names of item properties";
            errors.push(invalid(
                format!("{path}.x-kubernetes-list-map-keys[{index}]"),
                key,
                why,
            ));
            continue;
        };
        let property_path = format!("{path}.items.properties[{name}]");
        if matches!(text(property, "type"), "object" | "array") {
            let why = "must be a scalar type if parent array's x-kubernetes-list-type is map";
            errors.push(invalid(
                format!("{property_path}.type"),
                &property["type"],
                why,
            ));
        }
        let is_required = array(items, "required").contains(key);
        if !is_required && property.get("default").is_none() {
            let why = "this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property";
            errors.push(required(format!("{property_path}.default"), why));
        }
    }
}

fn children(schema: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let properties = schema.get("properties").and_then(Value::as_object);
    for (name, property) in properties.into_iter().flatten() {
        let why = "must not be empty for specified object fields";
        node(property, &format!("{path}.properties[{name}]"), why, errors);
    }
    let values_path = format!("{path}.additionalProperties");
    match schema.get("additionalProperties") {
        Some(Value::Bool(false)) => {
            errors.push(forbidden(
                values_path,
                "additionalProperties cannot be set to false",
            ));
        }
        Some(values @ Value::Object(_)) => {
            if properties.is_some_and(|properties| !properties.is_empty()) {
                errors.push(forbidden(
                    values_path,
                    "additionalProperties and properties are mutual exclusive",
                ));
            } else {
                node(
                    values,
                    &values_path,
                    "must not be empty for specified object fields",
                    errors,
                );
            }
        }
        _ => {}
    }
    match schema.get("items") {
        Some(Value::Array(_)) => {
            errors.push(forbidden(
                format!("{path}.items"),
                "items must be a schema object and not an array",
            ));
        }
        Some(items) => node(
            items,
            &format!("{path}.items"),
            "must not be empty for specified array items",
            errors,
        ),
        None if text(schema, "type") == "array" => {
            errors.push(required(format!("{path}.items"), "must be specified"));
        }
        None => {}
    }
}

/// The one place where a branch may name types: `x-kubernetes-int-or-string` with `anyOf: [{type: integer}, {type: string}]`.
fn int_or_string_branch(schema: &Value, key: &str) -> bool {
    flag(schema, "x-kubernetes-int-or-string") && (key == "anyOf" || key == "allOf")
}

/// A branch of a logical operator may only restrict what the structure around it (`outside`) declares.
fn logic(
    branch: &Value,
    outside: &Value,
    path: &str,
    types_allowed: bool,
    errors: &mut Vec<FieldError>,
) {
    for key in OUTSIDE_LOGIC {
        if branch.get(*key).is_some() && !(*key == "type" && types_allowed) {
            errors.push(forbidden(
                format!("{path}.{key}"),
                "must be empty to be structural",
            ));
        }
    }
    for (name, property) in branch
        .get("properties")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
    {
        let inner = format!("{path}.properties[{name}]");
        match outside["properties"].get(name) {
            Some(declared) => logic(property, declared, &inner, false, errors),
            None => {
                let place = path.rsplit_once('.').map_or(path, |(outer, _)| outer);
                errors.push(required(
                    format!("{place}.properties[{name}]"),
                    &format!("because it is defined in {inner}"),
                ));
            }
        }
    }
    if let Some(items) = branch.get("items") {
        logic(
            items,
            &outside["items"],
            &format!("{path}.items"),
            false,
            errors,
        );
    }
    for key in ["allOf", "anyOf", "oneOf"] {
        for (index, inner) in array(branch, key).iter().enumerate() {
            logic(
                inner,
                outside,
                &format!("{path}.{key}[{index}]"),
                types_allowed,
                errors,
            );
        }
    }
    if let Some(inner) = branch.get("not") {
        logic(inner, outside, &format!("{path}.not"), false, errors);
    }
}

fn rules(schema: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let rules = array(schema, "x-kubernetes-validations");
    if rules.is_empty() {
        return;
    }
    let compiled = compile_schema(&json!({"x-kubernetes-validations": rules}));
    for (index, (rule, compiled)) in rules.iter().zip(&compiled.validations).enumerate() {
        let rule_path = format!("{path}.x-kubernetes-validations[{index}]");
        if rule
            .get("rule")
            .and_then(Value::as_str)
            .is_none_or(|text| text.trim().is_empty())
        {
            errors.push(required(
                format!("{rule_path}.rule"),
                "rule is not specified",
            ));
            continue;
        }
        match compiled {
            Ok(_) => {}
            Err(CompilationError::Parse { source, .. }) => {
                let why = format!("compilation failed: {source}");
                errors.push(invalid(format!("{rule_path}.rule"), &rule["rule"], &why));
            }
            Err(CompilationError::MessageExpressionParse { source, .. }) => {
                let why = format!("messageExpression compilation failed: {source}");
                errors.push(invalid(
                    format!("{rule_path}.messageExpression"),
                    &rule["messageExpression"],
                    &why,
                ));
            }
            Err(error) => errors.push(invalid(rule_path.clone(), rule, &error.to_string())),
        }
        const REASONS: &[&str] = &[
            "FieldValueDuplicate",
            "FieldValueForbidden",
            "FieldValueInvalid",
            "FieldValueRequired",
        ];
        if let Some(reason) = rule.get("reason")
            && !reason
                .as_str()
                .is_some_and(|reason| REASONS.contains(&reason))
        {
            errors.push(not_supported(
                format!("{rule_path}.reason"),
                reason,
                REASONS,
            ));
        }
    }
}

/// A default must itself be valid.
fn default_fits(schema: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let Some(default) = schema.get("default") else {
        return;
    };
    let mut check = Check::compile(schema);
    // Rules see whole objects; a default alone is no fair subject.
    check.has_rules = false;
    let mut filled = default.clone();
    super::defaulting::default(&check, &mut filled);
    errors.extend(validate(&check, &filled, None, &format!("{path}.default")));
}
