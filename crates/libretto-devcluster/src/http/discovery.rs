//! What is served: legacy and aggregated discovery, OpenAPI.

use std::collections::BTreeMap;

use axum::{body::Body, extract::Request, response::Response};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::{HeaderValue, StatusCode, header};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{
    body,
    negotiate::{self, Form},
    path::Route,
    reviews::REVIEWS,
};
use crate::{
    api::Api,
    error::ApiError,
    openapi,
    registry::{Resource, Version, api_version, version_priority},
};

const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
const VERBS: &[&str] = &[
    "create",
    "delete",
    "deletecollection",
    "get",
    "list",
    "patch",
    "update",
    "watch",
];

/// The same, in the order in which upstream happens to name them for custom resources.
const CUSTOM_VERBS: &[&str] = &[
    "delete",
    "deletecollection",
    "get",
    "list",
    "patch",
    "create",
    "update",
    "watch",
];

/// One resource of one version as discovery shows it.
#[derive(Debug)]
struct Entry {
    plural: String,
    singular: String,
    kind: String,
    namespaced: bool,
    short_names: Vec<String>,
    categories: Vec<String>,
    verbs: &'static [&'static str],
    subresources: Vec<SubEntry>,
}

#[derive(Debug)]
struct SubEntry {
    name: String,
    group: String,
    version: String,
    kind: String,
    verbs: &'static [&'static str],
}

/// group → version → resources.
type Catalogue = BTreeMap<String, BTreeMap<String, Vec<Entry>>>;

pub(super) fn handle(api: &Api, route: &Route, request: &Request) -> Result<Response, ApiError> {
    match route {
        Route::OpenApiIndex => {
            // Upstream forgets to say that it is JSON.
            return Ok(body::typed(
                StatusCode::OK,
                "text/plain; charset=utf-8",
                &openapi::index(&api.registry().served()),
            ));
        }
        Route::OpenApi(group, version) => {
            let document = openapi::document(group, version, &api.registry().served());
            return Ok(document.map_or_else(
                || {
                    let mut nothing = Response::new(Body::empty());
                    *nothing.status_mut() = StatusCode::NOT_FOUND;
                    nothing
                },
                |document| body::json(StatusCode::OK, &document),
            ));
        }
        Route::OpenApiV2 => {
            return Err(ApiError::new(
                404,
                "NotFound",
                "OpenAPI v2 is not served here; use /openapi/v3 (kubectl does by itself)",
            ));
        }
        _ => {}
    }
    let catalogue = catalogue(api);
    let form = negotiate::form(request.headers())?;
    match route {
        Route::Core if form == Form::AggregatedDiscovery => {
            Ok(aggregated(request, &catalogue, |group| group.is_empty()))
        }
        Route::Groups if form == Form::AggregatedDiscovery => {
            Ok(aggregated(request, &catalogue, |group| !group.is_empty()))
        }
        Route::Core => Ok(body::json(
            StatusCode::OK,
            &json!({"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []}),
        )),
        Route::Groups => {
            let groups: Vec<Value> = catalogue
                .iter()
                .filter(|(group, _)| !group.is_empty())
                .map(|(group, versions)| legacy_group(group, versions))
                .collect();
            Ok(body::json(
                StatusCode::OK,
                &json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}),
            ))
        }
        Route::Group(group) => {
            let versions = catalogue.get(group).ok_or_else(ApiError::unknown_path)?;
            let mut answer = legacy_group(group, versions);
            answer["kind"] = "APIGroup".into();
            answer["apiVersion"] = "v1".into();
            Ok(body::json(StatusCode::OK, &answer))
        }
        Route::GroupVersion(group, version) => {
            let entries = catalogue
                .get(group)
                .ok_or_else(ApiError::unknown_path)?
                .get(version)
                .ok_or_else(ApiError::unknown_resource)?;
            Ok(body::json(
                StatusCode::OK,
                &legacy_resources(group, version, entries),
            ))
        }
        _ => Err(ApiError::unknown_resource()),
    }
}

/// Whether the group has a server of its own, which knows more of what is not there than that there is nothing: built-in groups.
pub(super) fn serves(api: &Api, group: &str) -> bool {
    group.is_empty()
        || REVIEWS.iter().any(|(own, ..)| *own == group)
        || api
            .registry()
            .all()
            .iter()
            .any(|resource| resource.group == group && resource.custom.is_none())
}

fn catalogue(api: &Api) -> Catalogue {
    let mut catalogue = Catalogue::new();
    for resource in api.registry().all() {
        for version in &resource.versions {
            catalogue
                .entry(resource.group.clone())
                .or_default()
                .entry(version.name.clone())
                .or_default()
                .push(entry(&resource, version));
        }
    }
    for (group, plural, kind, namespaced) in REVIEWS {
        catalogue
            .entry((*group).to_owned())
            .or_default()
            .entry("v1".to_owned())
            .or_default()
            .push(Entry {
                plural: (*plural).to_owned(),
                singular: kind.to_lowercase(),
                kind: (*kind).to_owned(),
                namespaced: *namespaced,
                short_names: Vec::new(),
                categories: Vec::new(),
                verbs: &["create"],
                subresources: Vec::new(),
            });
    }
    catalogue
}

fn entry(resource: &Resource, version: &Version) -> Entry {
    let mut subresources: Vec<SubEntry> = resource
        .extras
        .iter()
        .map(|extra| SubEntry {
            name: extra.name.to_owned(),
            group: extra.group.to_owned(),
            version: extra.version.to_owned(),
            kind: extra.kind.to_owned(),
            verbs: extra.verbs,
        })
        .collect();
    let view: &[&str] = &["get", "patch", "update"];
    if version.status {
        subresources.push(SubEntry {
            name: "status".to_owned(),
            group: resource.group.clone(),
            version: version.name.clone(),
            kind: resource.kind.clone(),
            verbs: view,
        });
    }
    if version.scale.is_some() {
        subresources.push(SubEntry {
            name: "scale".to_owned(),
            group: "autoscaling".to_owned(),
            version: "v1".to_owned(),
            kind: "Scale".to_owned(),
            verbs: view,
        });
    }
    subresources.sort_by(|a, b| a.name.cmp(&b.name));
    Entry {
        plural: resource.plural.clone(),
        singular: resource.singular.clone(),
        kind: resource.kind.clone(),
        namespaced: resource.namespaced,
        short_names: resource.short_names.clone(),
        categories: resource.categories.clone(),
        verbs: if resource.custom.is_some() {
            CUSTOM_VERBS
        } else {
            VERBS
        },
        subresources,
    }
}

/// Preferred version first.
fn ordered(versions: &BTreeMap<String, Vec<Entry>>) -> Vec<&String> {
    let mut names: Vec<_> = versions.keys().collect();
    names.sort_by_key(|name| std::cmp::Reverse(version_priority(name)));
    names
}

fn legacy_group(group: &str, versions: &BTreeMap<String, Vec<Entry>>) -> Value {
    let versions: Vec<Value> = ordered(versions)
        .into_iter()
        .map(|version| json!({"groupVersion": api_version(group, version), "version": version}))
        .collect();
    json!({"name": group, "preferredVersion": versions[0], "versions": versions})
}

fn legacy_resources(group: &str, version: &str, entries: &[Entry]) -> Value {
    let mut resources = Vec::new();
    for entry in entries {
        let mut resource = json!({
            "name": entry.plural, "singularName": entry.singular, "namespaced": entry.namespaced,
            "kind": entry.kind, "verbs": entry.verbs,
        });
        if !entry.short_names.is_empty() {
            resource["shortNames"] = json!(entry.short_names);
        }
        if !entry.categories.is_empty() {
            resource["categories"] = json!(entry.categories);
        }
        if entry.verbs.len() > 1 {
            resource["storageVersionHash"] = storage_hash(group, version, entry).into();
        }
        resources.push(resource);
        for sub in &entry.subresources {
            let mut resource = json!({
                "name": format!("{}/{}", entry.plural, sub.name), "singularName": "",
                "namespaced": entry.namespaced, "kind": sub.kind, "verbs": sub.verbs,
            });
            if sub.group != group || sub.version != version {
                resource["group"] = sub.group.as_str().into();
                resource["version"] = sub.version.as_str().into();
            }
            resources.push(resource);
        }
    }
    let mut list = json!({"kind": "APIResourceList", "groupVersion": api_version(group, version), "resources": resources});
    // Upstream leaves it out for the core group only.
    if !group.is_empty() {
        list["apiVersion"] = "v1".into();
    }
    list
}

/// Tells clients when the stored form of a resource changes: upstream's digest of group, version and kind.
fn storage_hash(group: &str, version: &str, entry: &Entry) -> String {
    // As long as definitions are stored in their first form, and both kinds of events as those of the core group.
    let version = if entry.kind == "CustomResourceDefinition" {
        "v1beta1"
    } else {
        version
    };
    let group = if entry.kind == "Event" { "" } else { group };
    let digest = Sha256::digest(format!("{group}/{version}/{}", entry.kind).as_bytes());
    STANDARD.encode(&digest[..8])
}

fn aggregated(request: &Request, catalogue: &Catalogue, wanted: impl Fn(&str) -> bool) -> Response {
    let items: Vec<Value> = catalogue
        .iter()
        .filter(|(group, _)| wanted(group))
        .map(|(group, versions)| {
            let versions: Vec<Value> = ordered(versions)
                .into_iter()
                .map(|version| {
                    let resources: Vec<Value> = versions[version]
                        .iter()
                        .map(|entry| aggregated_resource(group, version, entry))
                        .collect();
                    json!({"version": version, "resources": resources, "freshness": "Current"})
                })
                .collect();
            let metadata = if group.is_empty() {
                json!({})
            } else {
                json!({"name": group})
            };
            json!({"metadata": metadata, "versions": versions})
        })
        .collect();
    let list = json!({
        "kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items,
    });
    let digest = Sha256::digest(list.to_string().as_bytes());
    let tag = format!(
        "\"{}\"",
        digest
            .iter()
            .map(|byte| format!("{byte:02X}"))
            .collect::<String>()
    );
    let known = request
        .headers()
        .get(header::IF_NONE_MATCH)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|value| value.split(',').any(|one| one.trim() == tag));
    let mut response = if known {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        response
    } else {
        body::typed(StatusCode::OK, AGGREGATED, &list)
    };
    let headers = response.headers_mut();
    if let Ok(tag) = HeaderValue::from_str(&tag) {
        headers.insert(header::ETAG, tag);
    }
    headers.insert(header::VARY, HeaderValue::from_static("Accept"));
    response
}

fn aggregated_resource(group: &str, version: &str, entry: &Entry) -> Value {
    let kind = |group: &str, version: &str, kind: &str| json!({"group": group, "version": version, "kind": kind});
    let scope = if entry.namespaced {
        "Namespaced"
    } else {
        "Cluster"
    };
    let mut resource = json!({
        "resource": entry.plural, "responseKind": kind(group, version, &entry.kind), "scope": scope,
        "singularResource": entry.singular, "verbs": entry.verbs,
    });
    if !entry.short_names.is_empty() {
        resource["shortNames"] = json!(entry.short_names);
    }
    if !entry.categories.is_empty() {
        resource["categories"] = json!(entry.categories);
    }
    if !entry.subresources.is_empty() {
        let subresources: Vec<Value> = entry
            .subresources
            .iter()
            .map(|sub| {
                json!({"subresource": sub.name, "responseKind": kind(&sub.group, &sub.version, &sub.kind), "verbs": sub.verbs})
            })
            .collect();
        resource["subresources"] = subresources.into();
    }
    resource
}
