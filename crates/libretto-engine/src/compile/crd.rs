//! `crd:` — the CustomResourceDefinition and the fields a package reads from it.

use std::collections::BTreeSet;

use libretto_api::object::Gvk;
use libretto_mirror::{
    ColumnPath, ColumnType, Datum, Field, INSTANCE_COLUMNS, InstanceSchema, Scope, Segment,
    canonical_json,
};
use serde_json::Value;

use super::{Check, fits::Place, kind};
use crate::yaml::{self, Node};

/// What `crd:` gives.
pub(super) struct Definition {
    pub(super) crd: Value,
    pub(super) instance: InstanceSchema,
    /// Schema of the version.
    pub(super) schema: Value,
    /// Where the schema was written; `None` for a Kind in short form.
    pub(super) place: Option<Place>,
}

pub(super) fn compile(check: &mut Check<'_>, spec: &Node) -> Option<Definition> {
    let Some(node) = spec.get("crd") else {
        check.wrong(spec.at, "spec needs `crd`");
        return None;
    };
    let scope = annotation(check, node, "scope");
    let unmanaged = unmanaged(check, node);
    if node.get("file").is_none() && kind::KEYWORDS.iter().any(|key| node.get(key).is_some()) {
        let mut keywords = vec!["version", "scope", "unmanaged"];
        keywords.extend(kind::KEYWORDS);
        check.only(node, "crd", &keywords);
        let (crd, fields) = kind::define(check, node)?;
        return Some(of_version(crd, 0, fields, (scope, unmanaged), None));
    }
    check.only(
        node,
        "crd",
        &["file", "version", "scope", "unmanaged", "fields"],
    );
    if node.get("file").is_none() {
        check.wrong_hint(
            node.at,
            "crd needs `file`, or `group`, `kind`, `version` and `schema`",
            "a CustomResourceDefinition in a file, or a Kind in short form",
        );
    }
    let file = node
        .get("file")
        .and_then(|file| check.text(file, "crd.file"));
    let version = check.required_text(node, "crd", "version");
    let fields_node = node.get("fields");
    let (Some(file), Some(version)) = (file, version) else {
        return None;
    };
    let file_at = node.get("file").map_or(node.at, |file| file.at);
    let Some(source) = check.files.get(&file) else {
        check.wrong(file_at, format!("there is no file `{file}` in the package"));
        return None;
    };
    let documents = match yaml::parse(&file, source) {
        Ok(documents) => documents,
        Err(diagnostic) => {
            check.diagnostics.push(diagnostic);
            return None;
        }
    };
    let [document] = documents.as_slice() else {
        check.wrong(
            file_at,
            format!(
                "`{file}` must hold one document, it has {}",
                documents.len()
            ),
        );
        return None;
    };
    let crd = document.to_json();
    if crd.get("apiVersion").and_then(Value::as_str) != Some("apiextensions.k8s.io/v1")
        || crd.get("kind").and_then(Value::as_str) != Some("CustomResourceDefinition")
    {
        check.error(
            &file,
            document.at,
            "must be an apiextensions.k8s.io/v1 CustomResourceDefinition",
            None,
        );
        return None;
    }
    let text = |pointer: &str| {
        crd.pointer(pointer)
            .and_then(Value::as_str)
            .unwrap_or_default()
    };
    let (group, kind, plural) = (
        text("/spec/group"),
        text("/spec/names/kind"),
        text("/spec/names/plural"),
    );
    for (what, value) in [
        ("spec.group", group),
        ("spec.names.kind", kind),
        ("spec.names.plural", plural),
    ] {
        if value.is_empty() {
            check.error(
                &file,
                document.at,
                format!("the definition needs `{what}`"),
                None,
            );
        }
    }
    let expected = format!("{plural}.{group}");
    if text("/metadata/name") != expected {
        check.error(
            &file,
            document.at,
            format!("metadata.name must be `{expected}` (plural.group)"),
            None,
        );
    }
    if text("/spec/scope") != "Namespaced" {
        check.error(
            &file,
            document.at,
            "spec.scope must be Namespaced: cluster-scoped instances are not supported by this version of libretto",
            None,
        );
    }
    let versions = crd
        .pointer("/spec/versions")
        .and_then(Value::as_array)
        .cloned()
        .unwrap_or_default();
    let version_at = node.get("version").map_or(node.at, |version| version.at);
    let found = versions
        .iter()
        .position(|candidate| candidate.get("name").and_then(Value::as_str) == Some(&version));
    let Some(index) = found else {
        let names: Vec<&str> = versions
            .iter()
            .filter_map(|candidate| candidate.get("name")?.as_str())
            .collect();
        check.wrong_hint(
            version_at,
            format!("`{file}` has no version `{version}`"),
            format!("it has: {}", names.join(", ")),
        );
        return None;
    };
    let found = &versions[index];
    if found.get("served").and_then(Value::as_bool) != Some(true) {
        check.wrong(
            version_at,
            format!("version `{version}` in `{file}` is not served"),
        );
    }
    if found.pointer("/subresources/status").is_none() {
        check.error(
            &file,
            document.at,
            format!("version `{version}` needs `subresources: {{status: {{}}}}`: the runtime writes status by itself"),
            None,
        );
    }
    let schema = found
        .pointer("/schema/openAPIV3Schema")
        .unwrap_or(&Value::Null);
    let fields = match fields_node {
        Some(fields_node) => fields(check, fields_node, &file, schema),
        None => Vec::new(),
    };
    Some(of_version(
        crd,
        index,
        fields,
        (scope, unmanaged),
        Some(Place { file, version }),
    ))
}

/// What one version of a definition gives.
fn of_version(
    crd: Value,
    index: usize,
    fields: Vec<Field>,
    (scope, unmanaged): (Option<Scope>, Vec<Scope>),
    place: Option<Place>,
) -> Definition {
    let version = &crd["spec"]["versions"][index];
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    Definition {
        instance: InstanceSchema {
            gvk: Gvk::new(
                &text(&crd["spec"]["group"]),
                &text(&version["name"]),
                &text(&crd["spec"]["names"]["kind"]),
            ),
            fields,
            scope,
            unmanaged,
        },
        schema: version["schema"]["openAPIV3Schema"].clone(),
        place,
        crd,
    }
}

fn annotation(check: &mut Check<'_>, node: &Node, key: &str) -> Option<Scope> {
    let node = node.get(key)?;
    let place = format!("crd.{key}");
    check.only(node, &place, &["annotation", "value"]);
    Some(Scope {
        annotation: check.required_text(node, &place, "annotation")?,
        value: check.required_text(node, &place, "value")?,
    })
}

/// The runtime's own annotation, and the one that users of the Kind know.
fn unmanaged(check: &mut Check<'_>, node: &Node) -> Vec<Scope> {
    let own = Scope {
        annotation: "libretto.dev/unmanaged".to_owned(),
        value: "true".to_owned(),
    };
    std::iter::once(own)
        .chain(annotation(check, node, "unmanaged"))
        .collect()
}

fn fields(check: &mut Check<'_>, node: &Node, file: &str, schema: &Value) -> Vec<Field> {
    let mut fields = Vec::new();
    let mut known: BTreeSet<String> = INSTANCE_COLUMNS
        .iter()
        .map(|(name, _)| (*name).to_owned())
        .collect();
    for (key, field) in node.entries() {
        let place = format!("crd.fields.{}", key.text);
        if !check.identifier(&key.text, key.at, "field") {
            continue;
        }
        if !known.insert(key.text.clone()) {
            check.wrong(
                key.at,
                format!("`{}` is a column that cr always has", key.text),
            );
            continue;
        }
        let (path, path_at, kind) = if let Some(path) = field.text() {
            (Some(path.to_owned()), field.at, ColumnType::String)
        } else {
            check.only(field, &place, &["path", "type", "default", "sensitive"]);
            let kind = column_type(check, field, &place);
            let path_at = field.get("path").map_or(field.at, |path| path.at);
            (check.required_text(field, &place, "path"), path_at, kind)
        };
        let Some(path) = path.and_then(|path| check.path(&path, path_at)) else {
            continue;
        };
        if let Some(problem) = missing(&path, schema) {
            check.error(
                super::PACKAGE_FILE,
                path_at,
                format!("{place}: the schema in `{file}` has no `{path}`"),
                Some(problem),
            );
        }
        let sensitive = check.boolean(field.get("sensitive"), &format!("{place}.sensitive"), false);
        if sensitive && kind != ColumnType::String {
            check.wrong(field.at, format!("{place}: only a string can be sensitive"));
        }
        let meant = match key.text.as_str() {
            "paused" | "stopped" => Some(ColumnType::Bool),
            "overrides" => Some(ColumnType::Json),
            _ => None,
        };
        if let Some(meant) = meant
            && meant != kind
        {
            check.wrong_hint(
                key.at,
                format!(
                    "{place}: a field of this name is the runtime's switch, of type {}",
                    if meant == ColumnType::Bool {
                        "bool"
                    } else {
                        "json"
                    }
                ),
                "give the column another name if it means something else",
            );
        }
        let default = match field.get("default") {
            None => Datum::Null,
            Some(default) => default_of(check, default, kind, &place),
        };
        fields.push(Field {
            name: key.text.clone(),
            path,
            kind,
            default,
            sensitive,
        });
    }
    fields
}

pub(super) fn default_of(
    check: &mut Check<'_>,
    node: &Node,
    kind: ColumnType,
    place: &str,
) -> Datum {
    let json = node.to_json();
    // JSON defaults are written as YAML, or as the text of JSON.
    if kind == ColumnType::Json {
        if let Some(text) = node.text() {
            return match serde_json::from_str::<Value>(text) {
                Ok(value) => canonical_json(&value).into(),
                Err(_) => {
                    check.wrong_hint(
                        node.at,
                        format!("{place}.default is not JSON"),
                        "write it as YAML, without quotes",
                    );
                    Datum::Null
                }
            };
        }
        return if json.is_null() {
            Datum::Null
        } else {
            canonical_json(&json).into()
        };
    }
    let read = kind.read(Some(&json));
    if read.is_null() && !json.is_null() {
        check.wrong(node.at, format!("{place}.default does not fit its type"));
    }
    read
}

/// `type:` of a column, `string` when absent.
pub(super) fn column_type(check: &mut Check<'_>, node: &Node, place: &str) -> ColumnType {
    let Some(kind_node) = node.get("type") else {
        return ColumnType::String;
    };
    let Some(text) = check.text(kind_node, &format!("{place}.type")) else {
        return ColumnType::String;
    };
    ColumnType::parse(&text).unwrap_or_else(|| {
        check.wrong_hint(
            kind_node.at,
            format!("{place}: there is no type `{text}`"),
            format!("types are: {}", ColumnType::NAMES.join(", ")),
        );
        ColumnType::String
    })
}

/// What a schema does not name is kept all the same.
pub(super) fn keeps_unknown(schema: &Value) -> bool {
    [
        "x-kubernetes-preserve-unknown-fields",
        "x-kubernetes-embedded-resource",
    ]
    .iter()
    .any(|key| schema.get(key).and_then(Value::as_bool) == Some(true))
}

/// Why a path cannot exist under a structural schema; `None` when it can.
fn missing(path: &ColumnPath, schema: &Value) -> Option<String> {
    let mut current = schema;
    let mut walked = String::new();
    for segment in path.segments() {
        if walked.is_empty()
            && let Segment::Key(key) = segment
            && matches!(key.as_str(), "metadata" | "apiVersion" | "kind")
        {
            return None;
        }
        if keeps_unknown(current) {
            return None;
        }
        current = match segment {
            Segment::Key(key) => {
                let next = current
                    .get("properties")
                    .and_then(|properties| properties.get(key))
                    .or_else(|| match current.get("additionalProperties") {
                        Some(Value::Bool(true)) => Some(&Value::Null),
                        Some(schema @ Value::Object(_)) => Some(schema),
                        _ => None,
                    });
                let Some(next) = next else {
                    let mut known: Vec<String> = current
                        .get("properties")
                        .and_then(Value::as_object)
                        .into_iter()
                        .flat_map(|properties| properties.keys().cloned())
                        .collect();
                    known.sort();
                    let at = if walked.is_empty() {
                        "it"
                    } else {
                        walked.as_str()
                    };
                    return Some(crate::template::suggestion(key, &known).unwrap_or_else(|| {
                        if known.is_empty() {
                            format!("{at} has no properties")
                        } else {
                            format!("{at} has: {}", known.join(", "))
                        }
                    }));
                };
                // `additionalProperties: true`: anything may be below.
                if next.is_null() {
                    return None;
                }
                if !walked.is_empty() {
                    walked.push('.');
                }
                walked.push_str(key);
                next
            }
            Segment::Index(_) | Segment::Where { .. } => match current.get("items") {
                Some(items) => items,
                None => return Some(format!("{walked} is not an array")),
            },
        };
    }
    None
}
