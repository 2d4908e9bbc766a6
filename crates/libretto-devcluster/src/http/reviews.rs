//! Questions that are asked by creating an object that is not stored: may I, who am I, whose token is this.

use axum::{extract::Request, response::Response};
use http::{Method, StatusCode};
use serde_json::{Value, json};

use super::{Shared, User, body, path::ResourcePath};
use crate::error::ApiError;

/// A recognised review and who sent it.
#[derive(Debug)]
pub(super) struct Review {
    api_version: &'static str,
    kind: &'static str,
    user: User,
    method: Method,
}

/// (group, plural, kind, namespaced), for discovery too.
pub(super) const REVIEWS: &[(&str, &str, &str, bool)] = &[
    (
        "authentication.k8s.io",
        "selfsubjectreviews",
        "SelfSubjectReview",
        false,
    ),
    (
        "authentication.k8s.io",
        "tokenreviews",
        "TokenReview",
        false,
    ),
    (
        "authorization.k8s.io",
        "localsubjectaccessreviews",
        "LocalSubjectAccessReview",
        true,
    ),
    (
        "authorization.k8s.io",
        "selfsubjectaccessreviews",
        "SelfSubjectAccessReview",
        false,
    ),
    (
        "authorization.k8s.io",
        "selfsubjectrulesreviews",
        "SelfSubjectRulesReview",
        false,
    ),
    (
        "authorization.k8s.io",
        "subjectaccessreviews",
        "SubjectAccessReview",
        false,
    ),
];

pub(super) fn handle(user: &User, path: &ResourcePath, method: &Method) -> Option<Review> {
    let (group, _, kind, _) = REVIEWS.iter().find(|(group, plural, ..)| {
        path.gvr.group == *group && path.gvr.resource == *plural && path.gvr.version == "v1"
    })?;
    Some(Review {
        api_version: if *group == "authentication.k8s.io" {
            "authentication.k8s.io/v1"
        } else {
            "authorization.k8s.io/v1"
        },
        kind,
        user: user.clone(),
        method: method.clone(),
    })
}

pub(super) async fn answer(
    shared: &Shared,
    review: Review,
    request: Request,
) -> Result<Response, ApiError> {
    if review.method != Method::POST {
        return Err(ApiError::method_not_allowed());
    }
    let (parts, content) = request.into_parts();
    let media_type = body::media_type(&parts.headers);
    let bytes = body::bytes(content).await?;
    // kubectl asks these two in protobuf. The answer does not depend on the question, so it need not be read.
    let unread = media_type == "application/vnd.kubernetes.protobuf"
        && matches!(review.kind, "SelfSubjectAccessReview" | "SelfSubjectReview");
    let mut object = if unread {
        json!({})
    } else {
        body::object(&media_type, &bytes)?
    };
    let Some(top) = object.as_object_mut() else {
        return Err(ApiError::bad_request("the body must be a JSON object"));
    };
    top.insert("apiVersion".to_owned(), review.api_version.into());
    top.insert("kind".to_owned(), review.kind.into());
    top.entry("metadata").or_insert_with(|| json!({}));
    let status = status(shared, &review, top.get("spec").unwrap_or(&Value::Null));
    top.insert("status".to_owned(), status);
    Ok(body::json(StatusCode::CREATED, &object))
}

fn status(shared: &Shared, review: &Review, spec: &Value) -> Value {
    let info = |user: &User| json!({"username": user.name, "uid": user.uid, "groups": user.groups});
    match review.kind {
        "SelfSubjectReview" => json!({"userInfo": info(&review.user)}),
        "TokenReview" => {
            let token = spec["token"].as_str().unwrap_or_default();
            match shared.authority.user_of(token) {
                Some(user) => json!({"authenticated": true, "user": info(&user)}),
                None => json!({"user": {}, "error": "the token is not valid here"}),
            }
        }
        "SelfSubjectRulesReview" => json!({
            "incomplete": false,
            "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}],
            "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}],
        }),
        _ => {
            json!({"allowed": true, "reason": "this development cluster allows everything to everyone it knows"})
        }
    }
}
