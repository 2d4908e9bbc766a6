//! `crd: {group, kind, version, schema}` — a Kind in short form, made into a CustomResourceDefinition.
//!
//! What the short form cannot say (nested structures, CEL rules, several versions) is written as a definition in a file.

use libretto_mirror::{ColumnType, Datum, Field};
use serde_json::{Map, Value, json};

use super::{Check, crd::default_of};
use crate::{
    controls,
    yaml::{Data, Node},
};

/// Keywords of the short form, beside those that both forms have.
pub(super) const KEYWORDS: &[&str] = &[
    "group",
    "kind",
    "plural",
    "shortNames",
    "schema",
    "overrides",
];

/// What Kubernetes takes for a quantity, as its own tools write it into definitions.
const QUANTITY: &str = r"^(\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))(([KMGTP]i)|[numkMGTPE]|([eE](\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))))?$";

/// Types of a field, and what each is in OpenAPI and in the mirror.
pub(super) const TYPES: &[(&str, &str, ColumnType)] = &[
    ("string", "string", ColumnType::String),
    ("int", "integer", ColumnType::Int),
    ("float", "number", ColumnType::Float),
    ("bool", "boolean", ColumnType::Bool),
    ("quantity", "", ColumnType::Quantity),
    ("list", "array", ColumnType::Json),
    ("map", "object", ColumnType::Json),
    ("json", "", ColumnType::Json),
];

/// The definition and the fields of `spec`.
pub(super) fn define(check: &mut Check<'_>, node: &Node) -> Option<(Value, Vec<Field>)> {
    let group = check.required_text(node, "crd", "group");
    let kind = check.required_text(node, "crd", "kind");
    let version = check.required_text(node, "crd", "version");
    let plural = match node.get("plural") {
        Some(plural) => check.text(plural, "crd.plural"),
        None => kind.as_deref().map(plural_of),
    };
    let short: Vec<String> = match node.get("shortNames") {
        Some(names) => check
            .texts(names, "crd.shortNames")
            .into_iter()
            .map(|(name, _)| name)
            .collect(),
        None => Vec::new(),
    };
    let (Some(group), Some(kind), Some(version), Some(plural)) = (group, kind, version, plural)
    else {
        return None;
    };
    named(
        check,
        node,
        "group",
        &group,
        is_domain(&group),
        "a domain such as example.com",
    );
    named(
        check,
        node,
        "kind",
        &kind,
        kind.starts_with(|c: char| c.is_ascii_uppercase())
            && kind.len() <= 63
            && kind.chars().all(|c| c.is_ascii_alphanumeric()),
        "letters and digits, beginning with a capital letter",
    );
    named(
        check,
        node,
        "version",
        &version,
        is_version(&version),
        "v1, v1beta1, v2alpha3",
    );
    named(
        check,
        node,
        "plural",
        &plural,
        is_label(&plural),
        "lower-case letters, digits and -",
    );
    let mut properties = Map::new();
    let mut required = Vec::new();
    let mut fields = Vec::new();
    for (key, field) in node.get("schema").map(Node::entries).unwrap_or_default() {
        let place = format!("crd.schema.{}", key.text);
        if !check.identifier(&key.text, key.at, "field") {
            continue;
        }
        if libretto_mirror::INSTANCE_COLUMNS
            .iter()
            .any(|(name, _)| *name == key.text)
        {
            check.wrong(
                key.at,
                format!("`{}` is a column that cr always has", key.text),
            );
            continue;
        }
        if controls::FIELDS.contains(&key.text.as_str()) {
            check.wrong_hint(
                key.at,
                format!(
                    "`{}` is a field that the runtime adds to every Kind",
                    key.text
                ),
                "give it another name; for overrides write `crd.overrides: true`",
            );
            continue;
        }
        let Some(property) = property(check, field, &place, true) else {
            continue;
        };
        if property.required {
            required.push(Value::String(key.text.clone()));
        }
        fields.push(Field {
            name: key.text.clone(),
            path: format!("spec.{}", key.text)
                .parse()
                .expect("an identifier is a path"),
            kind: property.kind,
            default: property.default,
            sensitive: property.sensitive,
        });
        properties.insert(key.text.clone(), property.schema);
    }
    let overridden = check.boolean(node.get("overrides"), "crd.overrides", false);
    for (name, kind, schema) in switches(overridden) {
        fields.push(Field {
            name: name.to_owned(),
            path: format!("spec.{name}").parse().expect("a word is a path"),
            kind,
            default: Datum::Null,
            sensitive: false,
        });
        properties.insert(name.to_owned(), schema);
    }
    let mut spec = json!({"type": "object", "properties": properties});
    let mut root = json!({
        "type": "object",
        "properties": {
            "status": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
        },
    });
    if !required.is_empty() {
        spec["required"] = Value::Array(required);
        root["required"] = json!(["spec"]);
    }
    root["properties"]["spec"] = spec;
    let mut crd = json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{plural}.{group}")},
        "spec": {
            "group": group,
            "scope": "Namespaced",
            "names": {
                "kind": kind,
                "listKind": format!("{kind}List"),
                "plural": plural,
                "singular": kind.to_lowercase(),
            },
            "versions": [{
                "name": version,
                "served": true,
                "storage": true,
                "schema": {"openAPIV3Schema": root},
                "subresources": {"status": {}},
                "additionalPrinterColumns": [
                    {"name": "Ready", "type": "string", "jsonPath": ".status.conditions[?(@.type==\"Ready\")].status"},
                    {"name": "Reason", "type": "string", "jsonPath": ".status.conditions[?(@.type==\"Ready\")].reason"},
                    {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
                ],
            }],
        },
    });
    if !short.is_empty() {
        crd["spec"]["names"]["shortNames"] = json!(short);
    }
    Some((crd, fields))
}

/// What every Kind in short form has: its name, type and schema.
fn switches(overridden: bool) -> Vec<(&'static str, ColumnType, Value)> {
    let switch = |what: &str| json!({"type": "boolean", "description": what});
    let mut switches = vec![
        (
            "paused",
            ColumnType::Bool,
            switch("Nothing is changed while this is true."),
        ),
        (
            "stopped",
            ColumnType::Bool,
            switch("Workloads have no replicas while this is true; data stays."),
        ),
    ];
    if overridden {
        let schema = json!({
            "type": "array",
            "description": "Fields laid over objects that are made for this one.",
            "items": {
                "type": "object",
                "required": ["kind", "patch"],
                "properties": {
                    "kind": {"type": "string"},
                    "name": {"type": "string"},
                    "patch": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
                },
            },
        });
        switches.push(("overrides", ColumnType::Json, schema));
    }
    switches
}

fn named(check: &mut Check<'_>, node: &Node, key: &str, text: &str, fine: bool, hint: &str) {
    if !fine {
        let at = node.get(key).map_or(node.at, |node| node.at);
        check.wrong_hint(at, format!("`{text}` cannot be the {key} of a Kind"), hint);
    }
}

struct Property {
    schema: Value,
    kind: ColumnType,
    default: Datum,
    required: bool,
    sensitive: bool,
}

/// One field: the name of its type, or a map. `top` fields are columns; those of `items` and `values` are not.
fn property(check: &mut Check<'_>, node: &Node, place: &str, top: bool) -> Option<Property> {
    let type_node = match &node.data {
        Data::Map(_) => {
            let mut keywords = vec![
                "type",
                "default",
                "min",
                "max",
                "enum",
                "pattern",
                "items",
                "values",
                "required",
                "description",
            ];
            if top {
                keywords.push("sensitive");
            }
            check.only(node, place, &keywords);
            node.get("type").unwrap_or(node)
        }
        _ => node,
    };
    let name = match type_node.text() {
        Some(name) => name,
        None if node.get("items").is_some() => "list",
        None if node.get("values").is_some() => "map",
        None => "string",
    };
    let Some((_, open_api, kind)) = TYPES.iter().find(|(known, ..)| *known == name) else {
        let known: Vec<&str> = TYPES.iter().map(|(name, ..)| *name).collect();
        check.wrong_hint(
            type_node.at,
            format!("{place}: there is no type `{name}`"),
            format!("types are: {}", known.join(", ")),
        );
        return None;
    };
    let mut schema = match name {
        "quantity" => json!({
            "anyOf": [{"type": "integer"}, {"type": "string"}],
            "pattern": QUANTITY,
            "x-kubernetes-int-or-string": true,
        }),
        "json" => json!({"x-kubernetes-preserve-unknown-fields": true}),
        _ => json!({"type": open_api}),
    };
    for (keyword, of, target) in [
        ("min", &["int", "float"][..], "minimum"),
        ("max", &["int", "float"], "maximum"),
        ("min", &["list"], "minItems"),
        ("max", &["list"], "maxItems"),
        ("pattern", &["string"], "pattern"),
        ("enum", &["string", "int"], "enum"),
        ("description", &[], "description"),
    ] {
        let Some(value) = node.get(keyword) else {
            continue;
        };
        if of.contains(&name) || of.is_empty() {
            schema[target] = value.to_json();
        }
    }
    for (keyword, of) in [
        ("min", &["int", "float", "list"][..]),
        ("max", &["int", "float", "list"]),
        ("pattern", &["string"]),
        ("enum", &["string", "int"]),
        ("items", &["list"]),
        ("values", &["map"]),
    ] {
        if let Some(value) = node.get(keyword)
            && !of.contains(&name)
        {
            check.wrong_hint(
                value.at,
                format!("{place}: `{keyword}` is not for type {name}"),
                format!("it is for: {}", of.join(", ")),
            );
        }
    }
    if name == "list" {
        schema["items"] = member(check, node, "items", place);
    }
    if name == "map" {
        schema["additionalProperties"] = member(check, node, "values", place);
    }
    let sensitive = check.boolean(node.get("sensitive"), &format!("{place}.sensitive"), false);
    if sensitive && *kind != ColumnType::String {
        check.wrong(node.at, format!("{place}: only a string can be sensitive"));
    }
    let required = check.boolean(node.get("required"), &format!("{place}.required"), false);
    let default = match node.get("default") {
        None => Datum::Null,
        Some(default) => {
            schema["default"] = default.to_json();
            default_of(check, default, *kind, place)
        }
    };
    Some(Property {
        schema,
        kind: *kind,
        default,
        required,
        sensitive,
    })
}

/// What a list or a map holds: a type (a text when not said), or a map of fields without a `type` of its own.
fn member(check: &mut Check<'_>, node: &Node, keyword: &str, place: &str) -> Value {
    let Some(inner) = node.get(keyword) else {
        return json!({"type": "string"});
    };
    let place = format!("{place}.{keyword}");
    // So a structure cannot have fields of these names; a definition in a file can.
    let one = ["type", "items", "values"]
        .iter()
        .any(|keyword| inner.get(keyword).is_some());
    if one || !matches!(inner.data, Data::Map(_)) {
        return property(check, inner, &place, false)
            .map_or(Value::Null, |property| property.schema);
    }
    let mut properties = Map::new();
    let mut required = Vec::new();
    for (key, field) in inner.entries() {
        if let Some(property) = property(check, field, &format!("{place}.{}", key.text), false) {
            if property.required {
                required.push(Value::String(key.text.clone()));
            }
            properties.insert(key.text.clone(), property.schema);
        }
    }
    let mut schema = json!({"type": "object", "properties": properties});
    if !required.is_empty() {
        schema["required"] = Value::Array(required);
    }
    schema
}

/// As Kubernetes' own Kinds are called: Pod pods, Ingress ingresses, Policy policies.
fn plural_of(kind: &str) -> String {
    let lower = kind.to_lowercase();
    let vowel_before_y = lower.len() > 1
        && lower
            .chars()
            .rev()
            .nth(1)
            .is_some_and(|letter| "aeiou".contains(letter));
    if ["s", "x", "z", "ch", "sh"]
        .iter()
        .any(|end| lower.ends_with(end))
    {
        return format!("{lower}es");
    }
    match lower.strip_suffix('y') {
        Some(stem) if !vowel_before_y => format!("{stem}ies"),
        _ => format!("{lower}s"),
    }
}

fn is_label(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 63
        && text
            .chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
        && !text.starts_with('-')
        && !text.ends_with('-')
}

fn is_domain(text: &str) -> bool {
    text.contains('.') && text.len() <= 253 && text.split('.').all(is_label)
}

/// `v1`, `v2beta3`.
fn is_version(text: &str) -> bool {
    let number = |text: &str| {
        !text.is_empty() && !text.starts_with('0') && text.chars().all(|c| c.is_ascii_digit())
    };
    let Some(rest) = text.strip_prefix('v') else {
        return false;
    };
    number(rest)
        || ["alpha", "beta"].iter().any(|stage| {
            rest.split_once(stage)
                .is_some_and(|(major, minor)| number(major) && number(minor))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plurals_are_formed_as_kubernetes_forms_its_own() {
        for (kind, plural) in [
            ("Pod", "pods"),
            ("Ingress", "ingresses"),
            ("NetworkPolicy", "networkpolicies"),
            ("Gateway", "gateways"),
            ("Presto", "prestos"),
            ("Switch", "switches"),
        ] {
            assert_eq!(plural_of(kind), plural);
        }
    }

    #[test]
    fn versions_are_those_of_kubernetes() {
        for (text, fine) in [
            ("v1", true),
            ("v12", true),
            ("v1beta1", true),
            ("v2alpha10", true),
            ("1", false),
            ("v", false),
            ("v0", false),
            ("v1rc1", false),
            ("v1beta", false),
        ] {
            assert_eq!(is_version(text), fine, "{text}");
        }
    }
}
