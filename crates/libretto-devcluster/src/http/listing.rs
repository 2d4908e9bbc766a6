//! Objects and lists in the form a client accepts.

use std::sync::Arc;

use axum::response::Response;
use http::StatusCode;
use serde::Serialize;
use serde_json::{Value, json};

use super::{body, negotiate::Form, path::Query};
use crate::{
    api::Page,
    error::ApiError,
    registry::Resource,
    table::{self, IncludeObject, TableKind},
};

/// The serialised form of a list; objects are written straight from the store.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct PlainList<'a> {
    kind: &'a str,
    api_version: &'a str,
    metadata: Value,
    items: Vec<Item<'a>>,
}

/// An object of a list. The list says what its items are; only custom resources repeat it.
struct Item<'a> {
    object: &'a Value,
    typed: bool,
}

impl Serialize for Item<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.object {
            Value::Object(fields) if !self.typed => serializer.collect_map(
                fields
                    .iter()
                    .filter(|(name, _)| !matches!(name.as_str(), "apiVersion" | "kind")),
            ),
            other => other.serialize(serializer),
        }
    }
}

/// `includeObject` of a Table.
pub(super) fn include_object(query: &Query) -> Result<IncludeObject, ApiError> {
    match query.get("includeObject") {
        None | Some("Metadata") => Ok(IncludeObject::Metadata),
        Some("None") => Ok(IncludeObject::None),
        Some("Object") => Ok(IncludeObject::Object),
        Some(other) => Err(ApiError::bad_request(format!(
            "Unable to convert to Table as requested: includeObject: Invalid value: {other:?}: must be 'Metadata', 'Object', 'None', or empty"
        ))),
    }
}

pub(super) fn table_kind<'a>(resource: &'a Resource, version: &str) -> TableKind<'a> {
    match (&resource.custom, resource.version(version)) {
        (Some(_), Some(version)) => TableKind::Custom(&version.columns),
        _ => TableKind::BuiltIn {
            group: &resource.group,
            kind: &resource.kind,
        },
    }
}

pub(super) fn render_table(
    resource: &Resource,
    version: &str,
    items: &[Arc<Value>],
    include: IncludeObject,
    with_columns: bool,
    revision: &str,
) -> Value {
    table::render(
        table_kind(resource, version),
        items,
        include,
        with_columns,
        revision,
        jiff::Timestamp::now().as_second(),
    )
}

/// An object reduced to its metadata.
pub(super) fn partial(object: &Value) -> Value {
    json!({
        "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object["metadata"],
    })
}

pub(super) fn one(
    form: Form,
    resource: &Resource,
    version: &str,
    query: &Query,
    object: &Arc<Value>,
) -> Result<Response, ApiError> {
    Ok(match form {
        Form::Table => {
            let revision = object["metadata"]["resourceVersion"]
                .as_str()
                .unwrap_or_default();
            body::json(
                StatusCode::OK,
                &render_table(
                    resource,
                    version,
                    std::slice::from_ref(object),
                    include_object(query)?,
                    true,
                    revision,
                ),
            )
        }
        Form::Metadata => body::json(StatusCode::OK, &partial(object)),
        Form::Plain | Form::AggregatedDiscovery => body::json(StatusCode::OK, &**object),
    })
}

pub(super) fn many(
    form: Form,
    resource: &Resource,
    version: &str,
    query: &Query,
    page: &Page,
) -> Result<Response, ApiError> {
    let revision = page.revision.to_string();
    let mut metadata = json!({"resourceVersion": revision});
    if resource.custom.is_some() && form == Form::Plain {
        // Written also when it is empty, as lists of custom resources have no type.
        metadata["continue"] = "".into();
    }
    if let Some(token) = &page.continue_token {
        metadata["continue"] = token.as_str().into();
    }
    if let Some(remaining) = page.remaining {
        metadata["remainingItemCount"] = remaining.into();
    }
    Ok(match form {
        Form::Table => {
            let mut table = render_table(
                resource,
                version,
                &page.items,
                include_object(query)?,
                true,
                &revision,
            );
            table["metadata"] = metadata;
            body::json(StatusCode::OK, &table)
        }
        Form::Metadata => {
            let items: Vec<_> = page.items.iter().map(|object| partial(object)).collect();
            body::json(
                StatusCode::OK,
                &json!({"kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1",
                    "metadata": metadata, "items": items}),
            )
        }
        Form::Plain | Form::AggregatedDiscovery => body::json(
            StatusCode::OK,
            &PlainList {
                kind: &resource.list_kind,
                api_version: &resource.api_version(version),
                metadata,
                items: page
                    .items
                    .iter()
                    .map(|object| Item {
                        object,
                        typed: resource.custom.is_some(),
                    })
                    .collect(),
            },
        ),
    })
}
