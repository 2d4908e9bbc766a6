//! The paths of a resource: which actions there are, for which kind, with which parameters.

use serde_json::{Map, Value, json};

use super::{ServedResource, prefix};

const JSON: &str = "application/json";
const YAML: &str = "application/yaml";

/// Adds every path of `resource`, whose objects have the schema `definition`.
pub(super) fn add(resource: &ServedResource, definition: &str, paths: &mut Map<String, Value>) {
    let root = format!("/{}", prefix(&resource.group, &resource.version));
    let plural = &resource.plural;
    let place = if resource.namespaced {
        format!("{root}/namespaces/{{namespace}}")
    } else {
        root.clone()
    };
    let operations = Operations {
        resource,
        definition,
    };

    let mut collection = json!({
        "get": operations.operation("list", &["allowWatchBookmarks", "continue", "fieldSelector", "labelSelector", "limit",
            "resourceVersion", "resourceVersionMatch", "sendInitialEvents", "timeoutSeconds", "watch"]),
        "post": operations.write("post", &["dryRun", "fieldManager", "fieldValidation"]),
        "delete": operations.operation("deletecollection", &["continue", "dryRun", "fieldSelector", "labelSelector", "limit",
            "propagationPolicy"]),
    });
    collection["parameters"] = operations.path_parameters(false);
    paths.insert(format!("{place}/{plural}"), collection);

    if resource.namespaced {
        let everywhere = json!({
            "get": operations.operation("list", &["allowWatchBookmarks", "continue", "fieldSelector", "labelSelector", "limit",
                "resourceVersion", "resourceVersionMatch", "sendInitialEvents", "timeoutSeconds", "watch"]),
        });
        paths.insert(format!("{root}/{plural}"), everywhere);
    }

    let mut single = operations.object();
    single["delete"] = operations.operation(
        "delete",
        &["dryRun", "gracePeriodSeconds", "propagationPolicy"],
    );
    paths.insert(format!("{place}/{plural}/{{name}}"), single);

    for subresource in &resource.subresources {
        // Connections (exec, log, port-forward) are not objects with schemas.
        let path = format!("{place}/{plural}/{{name}}/{subresource}");
        let entry = match subresource.as_str() {
            "status" => operations.object(),
            "scale" => {
                let scale = ServedResource {
                    group: "autoscaling".to_owned(),
                    version: "v1".to_owned(),
                    kind: "Scale".to_owned(),
                    ..resource.clone()
                };
                let definition = super::schemas::SCALE;
                Operations {
                    resource: &scale,
                    definition,
                }
                .object()
            }
            _ => {
                let mut entry = json!({"get": operations.operation("connect", &[])});
                entry["parameters"] = operations.path_parameters(true);
                entry
            }
        };
        paths.insert(path, entry);
    }
}

struct Operations<'a> {
    resource: &'a ServedResource,
    definition: &'a str,
}

impl Operations<'_> {
    /// Get, replace and patch one object.
    fn object(&self) -> Value {
        let mut patch = self.operation(
            "patch",
            &["dryRun", "fieldManager", "fieldValidation", "force"],
        );
        let mut types = vec![
            "application/apply-patch+yaml",
            "application/json-patch+json",
            "application/merge-patch+json",
        ];
        // kubectl decides by this whether it may send a strategic merge patch.
        if self.resource.custom.is_none() {
            types.push("application/strategic-merge-patch+json");
        }
        let body =
            json!({"schema": {"$ref": reference("io.k8s.apimachinery.pkg.apis.meta.v1.Patch")}});
        let content: Map<String, Value> = types
            .into_iter()
            .map(|kind| (kind.to_owned(), body.clone()))
            .collect();
        patch["requestBody"] = json!({"content": content, "required": true});
        json!({
            "get": self.operation("get", &[]),
            "put": self.write("put", &["dryRun", "fieldManager", "fieldValidation"]),
            "patch": patch,
            "parameters": self.path_parameters(true),
        })
    }

    fn write(&self, action: &str, parameters: &[&str]) -> Value {
        let mut operation = self.operation(action, parameters);
        let body = json!({"schema": {"$ref": reference(self.definition)}});
        operation["requestBody"] = json!({"content": {"*/*": body}, "required": true});
        operation
    }

    fn operation(&self, action: &str, parameters: &[&str]) -> Value {
        let parameters: Vec<Value> = parameters
            .iter()
            .map(|name| {
                let kind = match *name {
                    "allowWatchBookmarks" | "force" | "sendInitialEvents" | "watch" => "boolean",
                    "limit" | "timeoutSeconds" | "gracePeriodSeconds" => "integer",
                    _ => "string",
                };
                json!({"name": name, "in": "query", "schema": {"type": kind, "uniqueItems": true}})
            })
            .collect();
        let body = json!({"schema": {"$ref": reference(self.definition)}});
        let content = json!({JSON: body, YAML: body});
        json!({
            "tags": [self.tag()],
            "operationId": self.operation_id(action),
            "parameters": parameters,
            "responses": {"200": {"description": "OK", "content": content}},
            "x-kubernetes-action": action,
            "x-kubernetes-group-version-kind": {
                "group": self.resource.group, "version": self.resource.version, "kind": self.resource.kind,
            },
        })
    }

    fn tag(&self) -> String {
        let group = if self.resource.group.is_empty() {
            "core"
        } else {
            &self.resource.group
        };
        format!("{}_{}", group.replace('.', "_"), self.resource.version)
    }

    fn operation_id(&self, action: &str) -> String {
        let place = if self.resource.namespaced {
            "Namespaced"
        } else {
            ""
        };
        format!("{action}{place}{}", self.resource.kind)
    }

    fn path_parameters(&self, named: bool) -> Value {
        let mut names = Vec::new();
        if named {
            names.push("name");
        }
        if self.resource.namespaced {
            names.push("namespace");
        }
        let parameters = names.into_iter().map(|name| {
            json!({"name": name, "in": "path", "required": true, "schema": {"type": "string", "uniqueItems": true}})
        });
        Value::Array(parameters.collect())
    }
}

pub(super) fn reference(definition: &str) -> String {
    format!("#/components/schemas/{definition}")
}
