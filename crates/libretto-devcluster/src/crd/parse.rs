//! Reading a CustomResourceDefinition: names, scope, versions, subresources, columns.

use std::sync::{Arc, LazyLock};

use regex::Regex;
use serde_json::Value;

use super::{
    Column, CustomSchema, CustomType, CustomVersion, ScalePaths, check::array, structural,
};
use crate::{
    error::FieldError,
    schema::{
        field::{duplicate, forbidden, invalid, not_supported, required},
        names::{dns1035_label, dns1123_subdomain},
    },
};

/// Dotted fields only, as scale and field selectors need them.
static SIMPLE_PATH: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"^(\.[A-Za-z_][A-Za-z0-9_-]*)+$").expect("a literal, used in every test")
});

const COLUMN_TYPES: &[&str] = &["boolean", "date", "integer", "number", "string"];

pub(super) fn parse(crd: &Value) -> Result<CustomType, Vec<FieldError>> {
    let mut errors = Vec::new();
    let spec = &crd["spec"];
    let names = &spec["names"];
    let group = text(spec, "group");
    let plural = text(names, "plural");
    let kind = text(names, "kind");

    check_names(crd, &mut errors);
    let namespaced = match text(spec, "scope") {
        "Namespaced" => true,
        "Cluster" => false,
        "" => {
            errors.push(required("spec.scope", ""));
            false
        }
        _ => {
            errors.push(not_supported(
                "spec.scope",
                &spec["scope"],
                &["Cluster", "Namespaced"],
            ));
            false
        }
    };
    if spec.get("preserveUnknownFields").and_then(Value::as_bool) == Some(true) {
        let why = "must be false; set x-kubernetes-preserve-unknown-fields in the schema instead";
        errors.push(invalid("spec.preserveUnknownFields", &true.into(), why));
    }
    match text(&spec["conversion"], "strategy") {
        "" | "None" => {}
        // The real server calls a webhook here; this one says that it does not instead of serving unconverted objects.
        _ => errors.push(not_supported(
            "spec.conversion.strategy",
            &spec["conversion"]["strategy"],
            &["None"],
        )),
    }
    let versions = check_versions(spec, &mut errors);
    if !errors.is_empty() {
        return Err(errors);
    }
    Ok(CustomType {
        group: group.to_owned(),
        kind: kind.to_owned(),
        list_kind: or(text(names, "listKind"), || format!("{kind}List")),
        plural: plural.to_owned(),
        singular: or(text(names, "singular"), || kind.to_lowercase()),
        short_names: strings(names, "shortNames"),
        categories: strings(names, "categories"),
        namespaced,
        versions,
    })
}

fn text<'v>(value: &'v Value, key: &str) -> &'v str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

fn strings(value: &Value, key: &str) -> Vec<String> {
    array(value, key)
        .iter()
        .filter_map(|item| item.as_str().map(str::to_owned))
        .collect()
}

fn or(given: &str, otherwise: impl FnOnce() -> String) -> String {
    if given.is_empty() {
        otherwise()
    } else {
        given.to_owned()
    }
}

fn check_names(crd: &Value, errors: &mut Vec<FieldError>) {
    let spec = &crd["spec"];
    let names = &spec["names"];
    let group = text(spec, "group");
    if group.is_empty() {
        errors.push(required("spec.group", ""));
    } else if let Some(why) = dns1123_subdomain(group) {
        errors.push(invalid("spec.group", &spec["group"], &why));
    } else if !group.contains('.') {
        errors.push(invalid(
            "spec.group",
            &spec["group"],
            "should be a domain with at least one dot",
        ));
    }
    for key in ["plural", "singular", "kind", "listKind"] {
        let field = format!("spec.names.{key}");
        let value = text(names, key);
        if value.is_empty() {
            // The others have defaults.
            if key == "plural" || key == "kind" {
                errors.push(required(field, ""));
            }
            continue;
        }
        // Kinds may have capitals, the others are parts of addresses.
        let shown = if key == "kind" || key == "listKind" {
            value.to_lowercase()
        } else {
            value.to_owned()
        };
        if let Some(why) = dns1035_label(&shown) {
            errors.push(invalid(field, &names[key], &why));
        }
    }
    for (index, name) in array(names, "shortNames").iter().enumerate() {
        if let Some(why) = dns1035_label(name.as_str().unwrap_or_default()) {
            errors.push(invalid(
                format!("spec.names.shortNames[{index}]"),
                name,
                &why,
            ));
        }
    }
    let kind = text(names, "kind");
    if !kind.is_empty() && kind == text(names, "listKind") {
        errors.push(invalid(
            "spec.names.listKind",
            &names["listKind"],
            "kind and listKind may not be the same",
        ));
    }
    let expected = format!("{}.{group}", text(names, "plural"));
    if crd["metadata"]["name"].as_str() != Some(&expected) {
        errors.push(invalid(
            "metadata.name",
            &crd["metadata"]["name"],
            "must be spec.names.plural+\".\"+spec.group",
        ));
    }
}

fn check_versions(spec: &Value, errors: &mut Vec<FieldError>) -> Vec<CustomVersion> {
    let versions = array(spec, "versions");
    if versions.is_empty() {
        errors.push(required("spec.versions", "must have at least one version"));
        return Vec::new();
    }
    let mut seen: Vec<&str> = Vec::new();
    let mut out = Vec::new();
    for (index, version) in versions.iter().enumerate() {
        let path = format!("spec.versions[{index}]");
        let name = text(version, "name");
        if let Some(why) = dns1035_label(name) {
            errors.push(invalid(format!("{path}.name"), &version["name"], &why));
        }
        if seen.contains(&name) {
            errors.push(duplicate(format!("{path}.name"), &version["name"]));
        }
        seen.push(name);
        for key in ["served", "storage"] {
            if !version.get(key).is_some_and(Value::is_boolean) {
                errors.push(required(format!("{path}.{key}"), ""));
            }
        }
        out.extend(check_version(version, &path, errors));
    }
    let storage = versions
        .iter()
        .filter(|version| version["storage"] == true)
        .count();
    if storage != 1 {
        let names: Vec<&str> = versions
            .iter()
            .map(|version| text(version, "name"))
            .collect();
        let why = "must have exactly one version marked as storage version";
        errors.push(invalid("spec.versions", &names.into(), why));
    }
    out
}

/// `None` when something is wrong with the version.
fn check_version(
    version: &Value,
    path: &str,
    errors: &mut Vec<FieldError>,
) -> Option<CustomVersion> {
    let before = errors.len();
    let schema = &version["schema"]["openAPIV3Schema"];
    errors.extend(structural::check(
        schema,
        &format!("{path}.schema.openAPIV3Schema"),
    ));
    let subresources = &version["subresources"];
    let scale = scale_paths(
        &subresources["scale"],
        &format!("{path}.subresources.scale"),
        errors,
    );
    let columns = columns(version, path, errors);
    let selectable = selectable(version, schema, path, errors);
    let status = subresources
        .get("status")
        .is_some_and(|status| !status.is_null());
    if errors.len() > before {
        return None;
    }
    Some(CustomVersion {
        name: text(version, "name").to_owned(),
        served: version["served"] == true,
        storage: version["storage"] == true,
        schema: Arc::new(CustomSchema::new(schema.clone(), status)),
        status,
        scale,
        columns,
        selectable,
    })
}

fn scale_paths(scale: &Value, path: &str, errors: &mut Vec<FieldError>) -> Option<ScalePaths> {
    if scale.is_null() {
        return None;
    }
    let mut read = |key: &str, under: &[&str], needed: bool| -> Option<String> {
        let field = format!("{path}.{key}");
        let value = text(scale, key);
        if value.is_empty() {
            if needed {
                errors.push(required(field, ""));
            }
            return None;
        }
        if !SIMPLE_PATH.is_match(value) || !under.iter().any(|prefix| value.starts_with(prefix)) {
            let places: Vec<&str> = under
                .iter()
                .map(|prefix| prefix.trim_end_matches('.'))
                .collect();
            let why = format!("should be a json path under {}", places.join(" or "));
            errors.push(invalid(field, &scale[key], &why));
            return None;
        }
        Some(value.trim_start_matches('.').to_owned())
    };
    let spec_replicas = read("specReplicasPath", &[".spec."], true);
    let status_replicas = read("statusReplicasPath", &[".status."], true);
    let selector = read("labelSelectorPath", &[".spec.", ".status."], false);
    Some(ScalePaths {
        spec_replicas: spec_replicas?,
        status_replicas: status_replicas?,
        selector,
    })
}

fn columns(version: &Value, path: &str, errors: &mut Vec<FieldError>) -> Vec<Column> {
    let mut out = Vec::new();
    for (index, column) in array(version, "additionalPrinterColumns")
        .iter()
        .enumerate()
    {
        let path = format!("{path}.additionalPrinterColumns[{index}]");
        for key in ["name", "type", "jsonPath"] {
            if text(column, key).is_empty() {
                errors.push(required(format!("{path}.{key}"), ""));
            }
        }
        let kind = text(column, "type");
        if !kind.is_empty() && !COLUMN_TYPES.contains(&kind) {
            errors.push(not_supported(
                format!("{path}.type"),
                &column["type"],
                COLUMN_TYPES,
            ));
        }
        let json_path = text(column, "jsonPath");
        if !json_path.is_empty()
            && let Err(why) = crate::table::check_path(json_path)
        {
            errors.push(invalid(
                format!("{path}.jsonPath"),
                &column["jsonPath"],
                &why,
            ));
        }
        out.push(Column {
            name: text(column, "name").to_owned(),
            kind: kind.to_owned(),
            format: text(column, "format").to_owned(),
            description: text(column, "description").to_owned(),
            priority: column["priority"].as_i64().unwrap_or(0),
            json_path: json_path.to_owned(),
        });
    }
    out
}

fn selectable(
    version: &Value,
    schema: &Value,
    path: &str,
    errors: &mut Vec<FieldError>,
) -> Vec<String> {
    /// Upstream's bound on indexes per version.
    const MOST: usize = 8;
    let fields = array(version, "selectableFields");
    if fields.len() > MOST {
        errors.push(forbidden(
            format!("{path}.selectableFields"),
            &format!("may have at most {MOST} entries"),
        ));
    }
    let mut out: Vec<String> = Vec::new();
    for (index, field) in fields.iter().enumerate() {
        let path = format!("{path}.selectableFields[{index}].jsonPath");
        let json_path = text(field, "jsonPath");
        if !SIMPLE_PATH.is_match(json_path) || json_path.starts_with(".metadata.") {
            errors.push(invalid(
                path,
                &field["jsonPath"],
                "must be a simple path to a field outside metadata, such as .spec.color",
            ));
            continue;
        }
        let target = json_path
            .split('.')
            .skip(1)
            .try_fold(schema, |node, name| node.get("properties")?.get(name));
        if !target
            .is_some_and(|node| matches!(text(node, "type"), "string" | "boolean" | "integer"))
        {
            let why = "must point to a field of type string, boolean or integer";
            errors.push(invalid(path, &field["jsonPath"], why));
        } else if out.iter().any(|other| other == json_path) {
            errors.push(duplicate(path, &field["jsonPath"]));
        } else {
            out.push(json_path.to_owned());
        }
    }
    out
}
