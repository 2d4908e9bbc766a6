//! Bodies in and out: JSON and YAML in, JSON out. Protobuf and CBOR are refused with the way around.

use axum::{body::Body, response::Response};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde::Serialize;
use serde_json::Value;

use crate::error::ApiError;

/// Bodies above this are refused. Kubernetes takes 3 MiB through etcd; a patch of such an object with its overhead fits well.
const BODY_LIMIT: usize = 10 * 1024 * 1024;

/// Longest `Warning` header; hyper would refuse to send more than a header block of 16 KiB to most clients.
const WARNING_LIMIT: usize = 512;

pub(super) fn media_type(headers: &HeaderMap) -> String {
    headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default()
        .split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase()
}

pub(super) async fn bytes(body: Body) -> Result<Bytes, ApiError> {
    axum::body::to_bytes(body, BODY_LIMIT)
        .await
        .map_err(|error| {
            ApiError::new(
                413,
                "RequestEntityTooLarge",
                format!("cannot read the body (the limit is 10 MiB): {error}"),
            )
        })
}

/// A whole object as sent by create, update and delete.
pub(super) fn object(media_type: &str, bytes: &[u8]) -> Result<Value, ApiError> {
    // Null is an object without fields, as in Go.
    let whole = |value: Value| {
        if value.is_null() {
            Value::Object(serde_json::Map::new())
        } else {
            value
        }
    };
    match media_type {
        "" | "application/json" | "text/json" => json_value(bytes).map(whole),
        "application/yaml" | "text/yaml" => yaml_value(bytes).map(whole),
        "application/vnd.kubernetes.protobuf" => Err(ApiError::unsupported_media_type(
            "this server does not read protobuf, which kubectl sends for some typed commands (create namespace, configmap, secret, deployment …, autoscale); \
             use: kubectl create … --dry-run=client -o yaml | kubectl apply -f -",
        )),
        _ => Err(ApiError::unsupported_media_type(
            "the body of the request was in an unknown format - accepted media types include: application/json, application/yaml",
        )),
    }
}

pub(super) fn json_value(bytes: &[u8]) -> Result<Value, ApiError> {
    serde_json::from_slice(bytes)
        .map_err(|error| ApiError::bad_request(format!("the body is not valid JSON: {error}")))
}

pub(super) fn yaml_value(bytes: &[u8]) -> Result<Value, ApiError> {
    // JSON is YAML, and much faster to read as such.
    if let Ok(value) = serde_json::from_slice(bytes) {
        return Ok(value);
    }
    let text = std::str::from_utf8(bytes)
        .map_err(|error| ApiError::bad_request(format!("the body is not UTF-8: {error}")))?;
    // YAML 1.2: `y` and `on` are texts. Everything here is untyped, so the 1.1 words would turn names into booleans.
    let options = serde_saphyr::options! { strict_booleans: true };
    serde_saphyr::from_str_with_options(text, options)
        .map_err(|error| ApiError::bad_request(format!("the body is not valid YAML: {error}")))
}

pub(super) fn json(status: StatusCode, value: &impl Serialize) -> Response {
    typed(status, "application/json", value)
}

pub(super) fn typed(status: StatusCode, content_type: &str, value: &impl Serialize) -> Response {
    let bytes = serde_json::to_vec(value).expect("JSON values have string keys only");
    let mut response = Response::new(Body::from(bytes));
    *response.status_mut() = status;
    if let Ok(content_type) = HeaderValue::from_str(content_type) {
        response
            .headers_mut()
            .insert(header::CONTENT_TYPE, content_type);
    }
    response
}

pub(super) fn text(text: impl Into<String>) -> Response {
    let mut response = Response::new(Body::from(text.into()));
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    response
}

/// The answer to a request that failed.
pub(super) fn failure(error: &ApiError) -> Response {
    if error.code == 404 && error.reason.is_empty() {
        let mut response = text(format!("{}\n", error.message));
        *response.status_mut() = StatusCode::NOT_FOUND;
        return response;
    }
    let status = StatusCode::from_u16(error.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = json(status, &error.status());
    if error.code == 503 || !error.details["retryAfterSeconds"].is_null() {
        response
            .headers_mut()
            .insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}

/// Adds `Warning: 299 - "…"`, which kubectl prints.
pub(super) fn warn(response: &mut Response, warnings: &[String]) {
    for warning in warnings {
        let text: String = warning
            .chars()
            .filter(|character| character.is_ascii() && !character.is_ascii_control())
            .take(WARNING_LIMIT)
            .collect();
        let quoted = text.replace('\\', "\\\\").replace('"', "\\\"");
        if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{quoted}\"")) {
            response.headers_mut().append(header::WARNING, value);
        }
    }
}
