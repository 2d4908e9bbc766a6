//! OpenAPI documents: what kubectl explain and client-side apply read.

#![allow(clippy::unwrap_used)]

use std::{collections::BTreeSet, sync::Arc};

use serde_json::{Value, json};

use super::{ServedResource, document, index};

fn built_in(
    group: &str,
    version: &str,
    kind: &str,
    plural: &str,
    namespaced: bool,
    subresources: &[&str],
) -> ServedResource {
    ServedResource {
        group: group.to_owned(),
        version: version.to_owned(),
        kind: kind.to_owned(),
        plural: plural.to_owned(),
        namespaced,
        subresources: subresources.iter().map(|name| (*name).to_owned()).collect(),
        custom: None,
    }
}

fn custom(description: &str) -> ServedResource {
    let definition = json!({
        "metadata": {"name": "things.example.com"},
        "spec": {"group": "example.com", "scope": "Namespaced", "names": {"plural": "things", "kind": "Thing"}, "versions": [
            {"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {
                "type": "object", "description": description,
                "properties": {"spec": {"type": "object", "properties": {"size": {"type": "integer", "description": "how many"}}}},
            }}},
        ]},
    });
    let custom = crate::crd::parse(&definition).unwrap();
    ServedResource {
        custom: Some(Arc::new(custom)),
        ..built_in("example.com", "v1", "Thing", "things", true, &[])
    }
}

fn resources() -> Vec<ServedResource> {
    vec![
        built_in("", "v1", "Pod", "pods", true, &["status", "log", "exec"]),
        built_in("", "v1", "Node", "nodes", false, &["status"]),
        built_in(
            "apps",
            "v1",
            "StatefulSet",
            "statefulsets",
            true,
            &["status", "scale"],
        ),
        custom("a thing"),
    ]
}

fn references(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(object) => {
            if let Some(Value::String(reference)) = object.get("$ref") {
                found.insert(reference.clone());
            }
            object.values().for_each(|child| references(child, found));
        }
        Value::Array(items) => items.iter().for_each(|child| references(child, found)),
        _ => {}
    }
}

#[test]
fn documents_are_closed() {
    let resources = resources();
    for (group, version) in [("", "v1"), ("apps", "v1"), ("example.com", "v1")] {
        let document = document(group, version, &resources).unwrap();
        let mut found = BTreeSet::new();
        references(&document, &mut found);
        assert!(!found.is_empty());
        for reference in found {
            let name = reference.strip_prefix("#/components/schemas/").unwrap();
            let schema = &document["components"]["schemas"][name];
            assert!(schema.is_object(), "{group}/{version}: {name}");
        }
    }
    assert!(document("batch", "v1", &resources).is_none());
}

#[test]
fn schemas_carry_what_kubectl_reads() {
    let document = document("apps", "v1", &resources()).unwrap();
    let schemas = &document["components"]["schemas"];
    let set = &schemas["io.k8s.api.apps.v1.StatefulSet"];
    assert_eq!(
        set["x-kubernetes-group-version-kind"][0]["kind"],
        "StatefulSet"
    );
    assert!(
        set["description"]
            .as_str()
            .unwrap()
            .starts_with("StatefulSet represents")
    );
    assert_eq!(
        set["properties"]["spec"]["allOf"][0]["$ref"],
        "#/components/schemas/io.k8s.api.apps.v1.StatefulSetSpec"
    );
    let containers = &schemas["io.k8s.api.core.v1.PodSpec"]["properties"]["containers"];
    assert_eq!(containers["x-kubernetes-patch-merge-key"], "name");
    assert_eq!(containers["x-kubernetes-list-map-keys"], json!(["name"]));
    assert_eq!(
        schemas["io.k8s.apimachinery.pkg.util.intstr.IntOrString"]["format"],
        "int-or-string"
    );

    let paths = &document["paths"];
    let single = &paths["/apis/apps/v1/namespaces/{namespace}/statefulsets/{name}"];
    assert_eq!(single["get"]["x-kubernetes-action"], "get");
    assert_eq!(
        single["patch"]["x-kubernetes-group-version-kind"]["kind"],
        "StatefulSet"
    );
    assert!(
        single["patch"]["requestBody"]["content"]
            .get("application/strategic-merge-patch+json")
            .is_some()
    );
    let parameters: Vec<&str> = single["patch"]["parameters"]
        .as_array()
        .unwrap()
        .iter()
        .map(|p| p["name"].as_str().unwrap())
        .collect();
    assert_eq!(
        parameters,
        ["dryRun", "fieldManager", "fieldValidation", "force"]
    );
    assert_eq!(
        paths["/apis/apps/v1/statefulsets"]["get"]["x-kubernetes-action"],
        "list"
    );
    let scale = &paths["/apis/apps/v1/namespaces/{namespace}/statefulsets/{name}/scale"];
    assert_eq!(
        scale["get"]["x-kubernetes-group-version-kind"]["kind"],
        "Scale"
    );
}

#[test]
fn custom_types_are_described() {
    let document = document("example.com", "v1", &resources()).unwrap();
    let thing = &document["components"]["schemas"]["com.example.v1.Thing"];
    assert_eq!(
        thing["properties"]["spec"]["properties"]["size"]["description"],
        "how many"
    );
    assert!(
        thing["properties"]["metadata"]["allOf"][0]["$ref"]
            .as_str()
            .unwrap()
            .ends_with("ObjectMeta")
    );
    assert_eq!(
        thing["x-kubernetes-group-version-kind"][0]["group"],
        "example.com"
    );
    let patch =
        &document["paths"]["/apis/example.com/v1/namespaces/{namespace}/things/{name}"]["patch"];
    assert!(
        patch["requestBody"]["content"]
            .get("application/strategic-merge-patch+json")
            .is_none()
    );
}

#[test]
fn the_index_changes_with_the_content() {
    let before = index(&resources());
    assert_eq!(before, index(&resources()));
    let mut changed = resources();
    changed[3] = custom("another thing");
    let after = index(&changed);
    let url = |index: &Value, path: &str| {
        index["paths"][path]["serverRelativeURL"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    assert_eq!(url(&before, "api/v1"), url(&after, "api/v1"));
    assert_ne!(
        url(&before, "apis/example.com/v1"),
        url(&after, "apis/example.com/v1")
    );
    assert!(url(&before, "apis/apps/v1").starts_with("/openapi/v3/apis/apps/v1?hash="));
}
