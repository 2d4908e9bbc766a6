//! OpenAPI v3 documents, for `kubectl explain` and client-side validation.
//!
//! A document is made when asked for, from the embedded table and the served custom types. It describes what clients look at: schemas
//! with list and patch keys, and paths with actions, kinds, parameters and patch types. It does not list responses.

mod paths;
mod schemas;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, sync::LazyLock};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::{crd::CustomType, schema::definitions};

/// One served resource, for the paths of a document.
#[derive(Debug, Clone)]
pub struct ServedResource {
    pub group: String,
    pub version: String,
    pub kind: String,
    pub plural: String,
    pub namespaced: bool,
    pub subresources: Vec<String>,
    /// Present for custom resources.
    pub custom: Option<std::sync::Arc<CustomType>>,
}

/// `/openapi/v3`: path → `serverRelativeURL` with a content hash.
pub fn index(resources: &[ServedResource]) -> Value {
    let mut groups: BTreeMap<String, Vec<&ServedResource>> = BTreeMap::new();
    for resource in resources {
        groups
            .entry(prefix(&resource.group, &resource.version))
            .or_default()
            .push(resource);
    }
    let paths: serde_json::Map<String, Value> = groups
        .into_iter()
        .map(|(prefix, resources)| {
            let url = format!("/openapi/v3/{prefix}?hash={}", fingerprint(&resources));
            (prefix, json!({"serverRelativeURL": url}))
        })
        .collect();
    json!({"paths": paths})
}

/// `/openapi/v3/api/v1` or `/openapi/v3/apis/<group>/<version>`; `None` when nothing of that group and version is served.
pub fn document(group: &str, version: &str, resources: &[ServedResource]) -> Option<Value> {
    let served: Vec<&ServedResource> = resources
        .iter()
        .filter(|resource| resource.group == group && resource.version == version)
        .collect();
    if served.is_empty() {
        return None;
    }
    let mut paths = serde_json::Map::new();
    let mut schemas = schemas::Schemas::default();
    for resource in served {
        let definition = schemas.add_resource(resource);
        paths::add(resource, &definition, &mut paths);
    }
    Some(json!({
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": "v1.37.0"},
        "paths": paths,
        "components": {"schemas": schemas.finish()},
    }))
}

/// `api/v1` or `apis/apps/v1`.
fn prefix(group: &str, version: &str) -> String {
    if group.is_empty() {
        format!("api/{version}")
    } else {
        format!("apis/{group}/{version}")
    }
}

/// Changes exactly when the document does: it is a function of these inputs. Cheaper than making every document for its hash.
fn fingerprint(resources: &[&ServedResource]) -> String {
    static TABLE: LazyLock<Vec<u8>> = LazyLock::new(|| {
        let mut hash = Sha256::new();
        for part in definitions::packed() {
            hash.update(part);
        }
        hash.finalize().to_vec()
    });
    let mut hash = Sha256::new();
    hash.update(&*TABLE);
    for resource in resources {
        hash.update(format!(
            "{}\0{}\0{}\0{:?}\0",
            resource.kind, resource.plural, resource.namespaced, resource.subresources
        ));
        let custom = resource.custom.iter().flat_map(|custom| &custom.versions);
        for version in custom.filter(|version| version.name == resource.version) {
            hash.update(version.schema.root.to_string());
        }
    }
    use std::fmt::Write as _;
    hash.finalize()
        .iter()
        .fold(String::new(), |mut text, byte| {
            write!(text, "{byte:02X}").expect("writing to a string does not fail");
            text
        })
}
