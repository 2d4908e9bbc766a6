//! The schemas of a document: those of the served kinds and everything they refer to.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::{ServedResource, paths::reference};
use crate::schema::definitions;

pub(super) const SCALE: &str = "io.k8s.api.autoscaling.v1.Scale";
const OBJECT_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";
const LIST_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta";
/// What request and response bodies refer to in every document.
const COMMON: &[&str] = &[
    "io.k8s.apimachinery.pkg.apis.meta.v1.Patch",
    "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions",
    "io.k8s.apimachinery.pkg.apis.meta.v1.Status",
];

/// Schemas collected so far.
#[derive(Default)]
pub(super) struct Schemas {
    done: BTreeMap<String, Value>,
}

impl Schemas {
    /// Adds the schema of a resource and of its list; the name of the first.
    pub(super) fn add_resource(&mut self, resource: &ServedResource) -> String {
        for name in COMMON {
            self.add(name);
        }
        if resource.subresources.iter().any(|name| name == "scale") {
            self.add(SCALE);
        }
        match &resource.custom {
            Some(_) => self.add_custom(resource),
            None => {
                let (group, version, kind) = (&resource.group, &resource.version, &resource.kind);
                let table = definitions::table();
                if let Some(list) = table.kind(group, version, &format!("{kind}List")) {
                    self.add(list);
                }
                // A kind the table lacks has a free-form schema under a name of its own.
                let name = table.kind(group, version, kind).map(str::to_owned);
                let name = name.unwrap_or_else(|| custom_name(group, version, kind));
                self.add(&name);
                name
            }
        }
    }

    pub(super) fn finish(self) -> Value {
        Value::Object(self.done.into_iter().collect())
    }

    /// Adds a built-in definition and what it refers to.
    fn add(&mut self, name: &str) {
        if self.done.contains_key(name) {
            return;
        }
        let table = definitions::table();
        let Some(source) = table.source(name) else {
            self.done.insert(
                name.to_owned(),
                json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true}),
            );
            return;
        };
        // Marks the name as taken: definitions may refer to themselves.
        self.done.insert(name.to_owned(), Value::Null);
        let texts = definitions::descriptions().get(name);
        let text = |field: &str| texts.and_then(|texts| texts.get(field));
        let mut schema = self.convert(source);
        if let Some(properties) = schema.get_mut("properties").and_then(Value::as_object_mut) {
            for (field, property) in properties {
                if let Some(text) = text(field) {
                    property["description"] = text.as_str().into();
                }
            }
        }
        if let Some(text) = text("") {
            schema["description"] = text.as_str().into();
        }
        self.done.insert(name.to_owned(), schema);
    }

    /// The table's form of a schema as OpenAPI v3 has it.
    fn convert(&mut self, source: &Value) -> Value {
        let mut schema = Map::new();
        for (key, value) in source.as_object().into_iter().flatten() {
            match (key.as_str(), value) {
                ("$ref", Value::String(name)) => {
                    self.add(name);
                    // Siblings of a bare $ref are ignored, hence allOf.
                    schema.insert("allOf".to_owned(), json!([{"$ref": reference(name)}]));
                    if is_struct(name) {
                        schema.insert("default".to_owned(), json!({}));
                    }
                }
                ("properties", Value::Object(properties)) => {
                    let converted: Map<String, Value> = properties
                        .iter()
                        .map(|(name, value)| (name.clone(), self.convert(value)))
                        .collect();
                    schema.insert(key.clone(), Value::Object(converted));
                }
                ("items" | "additionalProperties", value) if value.is_object() => {
                    let converted = self.convert(value);
                    schema.insert(key.clone(), converted);
                }
                ("format", Value::String(format)) if format == "int-or-string" => {
                    schema.insert(key.clone(), value.clone());
                    schema.insert(
                        "oneOf".to_owned(),
                        json!([{"type": "integer"}, {"type": "string"}]),
                    );
                }
                ("format", Value::String(format)) if format == "quantity" => {
                    schema.insert(
                        "oneOf".to_owned(),
                        json!([{"type": "string"}, {"type": "number"}]),
                    );
                }
                _ => {
                    schema.insert(key.clone(), value.clone());
                }
            }
        }
        Value::Object(schema)
    }

    fn add_custom(&mut self, resource: &ServedResource) -> String {
        let (group, version, kind) = (&resource.group, &resource.version, &resource.kind);
        let name = custom_name(group, version, kind);
        let custom = resource.custom.as_deref();
        let root = custom
            .and_then(|custom| {
                custom
                    .versions
                    .iter()
                    .find(|candidate| candidate.name == *version)
            })
            .map_or_else(
                || json!({"type": "object"}),
                |version| version.schema.root.clone(),
            );
        self.add(OBJECT_META);
        self.add(LIST_META);
        let mut schema = root;
        object_fields(&mut schema, OBJECT_META);
        schema["x-kubernetes-group-version-kind"] =
            json!([{"group": group, "version": version, "kind": kind}]);
        self.done.insert(name.clone(), schema);

        let list_kind =
            custom.map_or_else(|| format!("{kind}List"), |custom| custom.list_kind.clone());
        let mut list = json!({
            "description": format!("{list_kind} is a list of {kind}"),
            "type": "object",
            "required": ["items"],
            "properties": {
                "items": {
                    "type": "array",
                    "description": format!("List of {}.", resource.plural),
                    "items": {"allOf": [{"$ref": reference(&name)}], "default": {}},
                },
            },
            "x-kubernetes-group-version-kind": [{"group": group, "version": version, "kind": list_kind}],
        });
        object_fields(&mut list, LIST_META);
        self.done
            .insert(custom_name(group, version, &list_kind), list);
        name
    }
}

/// `apiVersion`, `kind` and `metadata`, described as on every object.
fn object_fields(schema: &mut Value, metadata: &str) {
    let texts = definitions::descriptions().get("io.k8s.api.core.v1.Pod");
    let text = |field: &str| {
        texts
            .and_then(|texts| texts.get(field))
            .cloned()
            .unwrap_or_default()
    };
    if !schema["properties"].is_object() {
        schema["properties"] = json!({});
    }
    for field in ["apiVersion", "kind"] {
        schema["properties"][field] = json!({"type": "string", "description": text(field)});
    }
    schema["properties"]["metadata"] = json!({
        "allOf": [{"$ref": reference(metadata)}], "default": {}, "description": text("metadata"),
    });
}

/// `com.example.v1.Thing` for `Thing` of `example.com/v1`.
fn custom_name(group: &str, version: &str, kind: &str) -> String {
    let reversed: Vec<&str> = group.rsplit('.').collect();
    format!("{}.{version}.{kind}", reversed.join("."))
}

/// Types Go holds by value have an empty object as their default.
fn is_struct(name: &str) -> bool {
    definitions::table()
        .get(name)
        .is_some_and(|node| !node.properties.is_empty())
}
