//! Questions that are asked by creating an object that is not stored: may I, who am I, whose token is this.

use axum::{extract::Request, response::Response};
use http::{Method, StatusCode};
use serde_json::{Value, json};

use super::{Shared, User, body, path::ResourcePath, protobuf};
use crate::{
    api::Api,
    error::{ApiError, FieldError},
    rbac::{Attributes, Decision},
};

/// A recognised review and who sent it.
#[derive(Debug)]
pub(super) struct Review {
    group: &'static str,
    kind: &'static str,
    namespace: Option<String>,
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
        group,
        kind,
        namespace: path.namespace.clone(),
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
    let mut object = if media_type == "application/vnd.kubernetes.protobuf" {
        protobuf::review(review.kind, &bytes)?
    } else {
        body::object(&media_type, &bytes)?
    };
    let Some(top) = object.as_object_mut() else {
        return Err(ApiError::bad_request("the body must be a JSON object"));
    };
    top.insert(
        "apiVersion".to_owned(),
        format!("{}/v1", review.group).into(),
    );
    top.insert("kind".to_owned(), review.kind.into());
    top.entry("metadata").or_insert_with(|| json!({}));
    let status = review.status(shared, &mut object)?;
    object["status"] = status;
    Ok(body::json(StatusCode::CREATED, &object))
}

impl Review {
    fn status(&self, shared: &Shared, object: &mut Value) -> Result<Value, ApiError> {
        let api = &shared.api;
        match self.kind {
            "SelfSubjectReview" => Ok(json!({"userInfo": self.user.info()})),
            "TokenReview" => {
                let token = object["spec"]["token"].as_str().unwrap_or_default();
                Ok(match shared.user_of(token) {
                    Some(user) => json!({"authenticated": true, "user": user.info()}),
                    None => json!({"user": {}, "error": "the token is not valid here"}),
                })
            }
            "SelfSubjectRulesReview" => {
                let namespace = object["spec"]["namespace"].as_str().unwrap_or_default();
                if namespace.is_empty() {
                    return Err(ApiError::bad_request("no namespace on request"));
                }
                let status = rules(api, &self.user, namespace);
                // Upstream answers with the status alone.
                object["spec"] = json!({});
                Ok(status)
            }
            "LocalSubjectAccessReview" => {
                self.settle_namespace(object)?;
                self.access(api, object)
            }
            _ => self.access(api, object),
        }
    }

    /// What is asked is about the namespace it is asked in.
    fn settle_namespace(&self, object: &mut Value) -> Result<(), ApiError> {
        let namespace = self.namespace.as_deref().unwrap_or_default();
        let said = object["metadata"]["namespace"].as_str().unwrap_or_default();
        if !said.is_empty() && said != namespace {
            return Err(ApiError::bad_request(
                "the namespace of the provided object does not match the namespace sent on the request",
            ));
        }
        let metadata = &mut object["metadata"];
        if metadata.is_null() {
            *metadata = json!({});
        }
        if let Some(metadata) = metadata.as_object_mut() {
            metadata.insert("namespace".to_owned(), namespace.into());
        }
        Ok(())
    }

    fn access(&self, api: &Api, object: &Value) -> Result<Value, ApiError> {
        let spec = &object["spec"];
        let errors = self.mistakes(object);
        if !errors.is_empty() {
            return Err(ApiError::invalid(self.group, self.kind, "", &errors));
        }
        let user = if self.kind == "SelfSubjectAccessReview" {
            self.user.clone()
        } else {
            user_in(spec)
        };
        let Decision { allowed, reason } = api.decide(&user, &attributes_in(spec));
        let mut status = json!({"allowed": allowed});
        if !reason.is_empty() {
            status["reason"] = reason.into();
        }
        Ok(status)
    }

    fn mistakes(&self, object: &Value) -> Vec<FieldError> {
        let spec = &object["spec"];
        let (resource, other) = (&spec["resourceAttributes"], &spec["nonResourceAttributes"]);
        let local = self.kind == "LocalSubjectAccessReview";
        let mut errors = Vec::new();
        let mut wrong = |field: &str, value: &Value, why: &str| {
            errors.push(FieldError {
                reason: "FieldValueInvalid",
                field: field.to_owned(),
                message: format!("Invalid value: {value}: {why}"),
            });
        };
        if !resource.is_null() && !other.is_null() {
            wrong(
                "spec.nonResourceAttributes",
                other,
                "cannot be specified in combination with resourceAttributes",
            );
        }
        if resource.is_null() && other.is_null() {
            wrong(
                "spec.resourceAttributes",
                &Value::Null,
                "exactly one of nonResourceAttributes or resourceAttributes must be specified",
            );
        }
        let user = user_in(spec);
        let own = self.kind == "SelfSubjectAccessReview";
        if !own && user.name.is_empty() && user.groups.is_empty() {
            wrong(
                "spec.user",
                &"".into(),
                "at least one of user or group must be specified",
            );
        }
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let asked = text(&resource["namespace"]);
        if local && !resource.is_null() && asked != text(&object["metadata"]["namespace"]) {
            wrong(
                "spec.resourceAttributes.namespace",
                &asked.into(),
                "must match metadata.namespace",
            );
        }
        if local && !other.is_null() {
            wrong(
                "spec.nonResourceAttributes",
                other,
                "disallowed on this kind of request",
            );
        }
        errors
    }
}

/// All a user may do in a namespace.
fn rules(api: &Api, user: &User, namespace: &str) -> Value {
    let policy = api.policy();
    let (rules, problems) = policy.rules_of(user, namespace);
    let (mut resources, mut paths) = (Vec::new(), Vec::new());
    for rule in rules {
        if !rule.resources.is_empty() {
            let mut shown = rule.clone();
            shown.non_resource_urls.clear();
            resources.push(shown.to_value());
        }
        if !rule.non_resource_urls.is_empty() {
            paths.push(json!({"verbs": rule.verbs, "nonResourceURLs": rule.non_resource_urls}));
        }
    }
    let mut status =
        json!({"incomplete": false, "resourceRules": resources, "nonResourceRules": paths});
    if let Some(problems) = problems {
        status["evaluationError"] = problems.into();
    }
    status
}

fn user_in(spec: &Value) -> User {
    User {
        name: spec["user"].as_str().unwrap_or_default().to_owned(),
        groups: spec["groups"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .map(str::to_owned)
            .collect(),
        ..User::default()
    }
}

fn attributes_in(spec: &Value) -> Attributes {
    let of = |value: &Value, field: &str| value[field].as_str().unwrap_or_default().to_owned();
    let resource = &spec["resourceAttributes"];
    if resource.is_null() {
        let path = &spec["nonResourceAttributes"];
        return Attributes {
            verb: of(path, "verb"),
            path: Some(of(path, "path")),
            ..Attributes::default()
        };
    }
    Attributes {
        verb: of(resource, "verb"),
        group: of(resource, "group"),
        resource: of(resource, "resource"),
        subresource: of(resource, "subresource"),
        namespace: of(resource, "namespace"),
        name: of(resource, "name"),
        path: None,
    }
}
