//! The generic handlers: every verb on every resource, built-in or custom, goes through here.

use std::sync::Arc;

use axum::{extract::Request, response::Response};
use http::{HeaderMap, Method, StatusCode, header};
use serde_json::{Value, json};

use super::{
    Shared, User, body, discovery, listing, negotiate,
    path::{Query, ResourcePath},
    watching,
};
use crate::{
    api::{
        DeleteOptions, Deleted, Gvr, ListOptions, ListQuery, Patch, Propagation, Subresource,
        WriteOptions, Written,
    },
    error::{ApiError, FieldError},
    registry::Resource,
};

/// Upstream's warning, word for word: clients know it.
const JOB_ORPHANS: &str = "child pods are preserved by default when jobs are deleted; set propagationPolicy=Background to remove them or set propagationPolicy=Orphan to suppress this warning";

/// Resources whose deletion is answered with the object: those that had it so before there was a rule.
const RETURNED: &[&str] = &[
    "csidrivers",
    "csinodes",
    "namespaces",
    "persistentvolumeclaims",
    "persistentvolumes",
    "pods",
    "podtemplates",
    "resourcequotas",
    "serviceaccounts",
    "services",
    "storageclasses",
    "volumeattachments",
];

/// `fieldValidation`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FieldValidation {
    Ignore,
    Warn,
    Strict,
}

/// A request for one resource, taken apart.
struct Call<'a> {
    shared: &'a Shared,
    resource: Arc<Resource>,
    gvr: &'a Gvr,
    path: &'a ResourcePath,
    query: &'a Query,
    headers: HeaderMap,
    method: Method,
    user: Arc<User>,
}

pub(super) async fn handle(
    shared: &Shared,
    user: User,
    path: &ResourcePath,
    query: &Query,
    request: Request,
) -> Result<Response, ApiError> {
    let resource = shared
        .api
        .registry()
        .find(&path.gvr.group, &path.gvr.resource)
        .filter(|resource| resource.version(&path.gvr.version).is_some())
        .ok_or_else(|| {
            let group = &path.gvr.group;
            if discovery::serves(&shared.api, group) {
                ApiError::unknown_resource()
            } else {
                ApiError::unknown_path()
            }
        })?;
    if !resource.namespaced && path.namespace.is_some() {
        return Err(ApiError::unknown_resource());
    }
    if resource.namespaced && path.name.is_some() && path.namespace.is_none() {
        return Err(ApiError::unknown_resource());
    }
    let (parts, content) = request.into_parts();
    let call = Call {
        shared,
        resource,
        gvr: &path.gvr,
        path,
        query,
        headers: parts.headers,
        method: parts.method.clone(),
        user: Arc::new(user),
    };
    let method = parts.method;
    if method == Method::GET {
        return call.read();
    }
    let bytes = body::bytes(content).await?;
    call.write(&method, &bytes)
}

impl Call<'_> {
    fn name(&self) -> &str {
        self.path.name.as_deref().unwrap_or_default()
    }

    fn namespace(&self) -> &str {
        self.path.namespace.as_deref().unwrap_or_default()
    }

    fn version(&self) -> &str {
        &self.gvr.version
    }

    fn list_options(&self) -> Result<ListOptions, ApiError> {
        let limit = self.query.number("limit")?;
        // A list has no use for it, but a number it must be.
        self.query.number("timeoutSeconds")?;
        Ok(ListOptions {
            label_selector: self.query.get("labelSelector").map(str::to_owned),
            field_selector: self.query.get("fieldSelector").map(str::to_owned),
            limit: limit.and_then(|limit| usize::try_from(limit).ok()),
            continue_token: self.query.get("continue").map(str::to_owned),
        })
    }

    fn read(&self) -> Result<Response, ApiError> {
        let form = negotiate::form(&self.headers)?;
        match self.path.subresource.as_deref() {
            None => {}
            Some("status") => {
                self.subresource("status")?;
                let object = self
                    .shared
                    .api
                    .get(self.gvr, self.namespace(), self.name())?;
                return listing::one(form, &self.resource, self.version(), self.query, &object);
            }
            Some("scale") => {
                self.subresource("scale")?;
                let scale = self
                    .shared
                    .api
                    .scale(self.gvr, self.namespace(), self.name())?;
                return Ok(body::json(StatusCode::OK, &scale));
            }
            Some(other) => return Err(self.no_such_subresource(other)),
        }
        let options = self.list_options()?;
        let watch = self.query.flag("watch")?;
        if let Some(name) = &self.path.name {
            // One object is never watched, whatever the query says.
            {
                self.refuse_future(self.query.revision().map_err(|error| {
                    // Where one object is read upstream has not thought of it.
                    ApiError::unclassified(error.message.replace("invalid resource version: ", ""))
                })?)?;
                let object = self.shared.api.get(self.gvr, self.namespace(), name)?;
                return listing::one(form, &self.resource, self.version(), self.query, &object);
            }
        }
        let namespace = self.path.namespace.as_deref();
        if watch {
            return watching::start(
                self.shared,
                &self.resource,
                self.gvr,
                namespace,
                &options,
                self.query,
                form,
            );
        }
        if self.query.get("sendInitialEvents").is_some() {
            return Err(ApiError::invalid_options(
                "ListOptions",
                FieldError {
                    reason: "FieldValueForbidden",
                    field: "sendInitialEvents".to_owned(),
                    message: "Forbidden: sendInitialEvents is forbidden for list".to_owned(),
                },
            ));
        }
        let at = self.exact_revision(&options)?;
        let page = self.shared.api.page(
            self.gvr,
            &ListQuery {
                namespace,
                options: &options,
                at,
            },
        )?;
        listing::many(form, &self.resource, self.version(), self.query, &page)
    }

    /// The revision a list must be of, after the rules for `resourceVersion` and `resourceVersionMatch`.
    fn exact_revision(&self, options: &ListOptions) -> Result<Option<u64>, ApiError> {
        let revision = self.query.revision()?;
        let matching = self.query.get("resourceVersionMatch");
        if options.continue_token.is_some() {
            if matching.is_some() {
                let mut causes = Vec::new();
                if revision.is_none() {
                    causes.push(match_forbidden(
                        "resourceVersionMatch is forbidden unless resourceVersion is provided",
                    ));
                }
                causes.push(match_forbidden(
                    "resourceVersionMatch is forbidden when continue is provided",
                ));
                return Err(ApiError::invalid("meta.k8s.io", "ListOptions", "", &causes));
            }
            if revision.unwrap_or(0) > 0 {
                return Err(ApiError::bad_request(
                    "specifying resource version is not allowed when using continue",
                ));
            }
            return Ok(None);
        }
        let exact = match (matching, revision) {
            (Some(_), None) => {
                return Err(ApiError::invalid_options(
                    "ListOptions",
                    match_forbidden(
                        "resourceVersionMatch is forbidden unless resourceVersion is provided",
                    ),
                ));
            }
            (Some("Exact"), Some(0)) => {
                return Err(ApiError::invalid_options(
                    "ListOptions",
                    match_forbidden(
                        "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"",
                    ),
                ));
            }
            (Some("Exact"), Some(_)) => true,
            (Some("NotOlderThan"), Some(_)) => false,
            (Some(other), Some(_)) => {
                return Err(ApiError::invalid_options(
                    "ListOptions",
                    FieldError {
                        reason: "FieldValueNotSupported",
                        field: "resourceVersionMatch".to_owned(),
                        message: format!(
                            "Unsupported value: {other:?}: supported values: \"Exact\", \"NotOlderThan\", \"\""
                        ),
                    },
                ));
            }
            // Without a match, a limit has always meant exactly this revision.
            (None, Some(revision)) => revision > 0 && options.limit.unwrap_or(0) > 0,
            (None, None) => false,
        };
        self.refuse_future(revision)?;
        Ok(revision.filter(|_| exact))
    }

    fn refuse_future(&self, revision: Option<u64>) -> Result<(), ApiError> {
        let now = self.shared.api.revision();
        match revision {
            Some(revision) if revision > now => Err(too_large(revision, now)),
            _ => Ok(()),
        }
    }

    fn write(&self, method: &Method, bytes: &[u8]) -> Result<Response, ApiError> {
        // An answer that nobody could read must not have done anything.
        negotiate::form(&self.headers)?;
        let media_type = body::media_type(&self.headers);
        let named = self.path.name.is_some();
        match (self.path.subresource.as_deref(), method.as_str(), named) {
            (None, "POST", false) if self.resource.namespaced && self.path.namespace.is_none() => {
                Err(ApiError::method_not_allowed())
            }
            (None, "POST", false) => {
                let object = body::object(&media_type, bytes)?;
                let options = self.write_options()?;
                let written = self.shared.api.create_with_warnings(
                    self.gvr,
                    self.namespace(),
                    object,
                    &options,
                )?;
                self.written(&written)
            }
            (None, "PUT", true) => {
                let object = body::object(&media_type, bytes)?;
                self.require_revision(&object)?;
                self.put(Subresource::None, object)
            }
            (Some(name @ ("status" | "scale" | "finalize")), "PUT", true) => {
                let subresource = self.subresource(name)?;
                let object = body::object(&media_type, bytes)?;
                if subresource == Subresource::Status {
                    self.require_revision(&object)?;
                }
                self.put(subresource, object)
            }
            (None, "PATCH", true) => self.patch(Subresource::None, &media_type, bytes),
            (Some(name @ ("status" | "scale")), "PATCH", true) => {
                let subresource = self.subresource(name)?;
                self.patch(subresource, &media_type, bytes)
            }
            (None, "DELETE", true) => self.delete(&media_type, bytes),
            (None, "DELETE", false) => self.delete_collection(&media_type, bytes),
            (Some("binding"), "POST", true) if self.is("", "pods") => {
                let binding = body::object(&media_type, bytes)?;
                let node = binding["target"]["name"].as_str().unwrap_or_default();
                let dry = body_dry_run(&binding)? || dry_run("CreateOptions", self.query)?;
                self.shared
                    .api
                    .bind(self.namespace(), self.name(), node, dry)?;
                Ok(created_status())
            }
            (Some("eviction"), "POST", true) if self.is("", "pods") => {
                let eviction = body::object(&media_type, bytes)?;
                let named = eviction["metadata"]["name"].as_str().unwrap_or_default();
                if named != self.name() {
                    return Err(ApiError::bad_request(
                        "name in URL does not match name in Eviction object",
                    ));
                }
                let options = delete_options(&eviction["deleteOptions"], self.query)?;
                self.shared
                    .api
                    .evict(self.namespace(), self.name(), &options)?;
                Ok(created_status())
            }
            (Some("token"), "POST", true) if self.is("", "serviceaccounts") => {
                self.token(body::object(&media_type, bytes)?)
            }
            (Some(other), _, _) => Err(self.no_such_subresource(other)),
            _ => Err(ApiError::method_not_allowed()),
        }
    }

    fn is(&self, group: &str, plural: &str) -> bool {
        self.resource.group == group && self.resource.plural == plural
    }

    fn subresource(&self, name: &str) -> Result<Subresource, ApiError> {
        let version = self.resource.version(self.version());
        match name {
            "status" if version.is_some_and(|version| version.status) => Ok(Subresource::Status),
            "scale" if version.is_some_and(|version| version.scale.is_some()) => {
                Ok(Subresource::Scale)
            }
            "finalize" if self.is("", "namespaces") => Ok(Subresource::Finalize),
            _ if self.resource.custom.is_some() => Err(ApiError::not_found_in(
                &self.resource.group,
                &self.resource.plural,
                self.name(),
            )),
            _ => Err(ApiError::unknown_resource()),
        }
    }

    fn no_such_subresource(&self, name: &str) -> ApiError {
        let what = format!("{}/{name}", self.resource.qualified());
        let served = matches!(name, "status" | "scale" | "finalize")
            || self.resource.extras.iter().any(|extra| extra.name == name);
        if served {
            return ApiError::method_not_allowed();
        }
        match name {
            "ephemeralcontainers" | "resize" | "proxy" | "attach" => ApiError::not_implemented(
                format!("{what} is not served by this development cluster; a real cluster has it"),
            ),
            _ => ApiError::unknown_resource(),
        }
    }

    /// Some resources cannot be replaced without saying which state the replacement is based on.
    fn require_revision(&self, object: &Value) -> Result<(), ApiError> {
        let given = object["metadata"]["resourceVersion"]
            .as_str()
            .is_some_and(|revision| !revision.is_empty());
        if given || !self.resource.conditional_updates {
            return Ok(());
        }
        // For custom resources upstream names the resource here and the kind everywhere else.
        let kind = if self.resource.custom.is_some() {
            &self.resource.plural
        } else {
            &self.resource.kind
        };
        Err(ApiError::invalid(
            &self.resource.group,
            kind,
            self.name(),
            &[FieldError {
                reason: "FieldValueInvalid",
                field: "metadata.resourceVersion".to_owned(),
                message: "Invalid value: 0: must be specified for an update".to_owned(),
            }],
        ))
    }

    /// What upstream calls the query of this request.
    fn options_kind(&self) -> &'static str {
        match self.method {
            Method::POST => "CreateOptions",
            Method::PUT => "UpdateOptions",
            Method::PATCH => "PatchOptions",
            _ => "DeleteOptions",
        }
    }

    fn field_validation(&self) -> Result<FieldValidation, ApiError> {
        match self.query.get("fieldValidation") {
            None | Some("Warn") => Ok(FieldValidation::Warn),
            Some("Ignore") => Ok(FieldValidation::Ignore),
            Some("Strict") => Ok(FieldValidation::Strict),
            Some(other) => Err(ApiError::invalid_options(
                self.options_kind(),
                FieldError {
                    reason: "FieldValueNotSupported",
                    field: "fieldValidation".to_owned(),
                    message: format!(
                        "Unsupported value: {other:?}: supported values: \"\", \"Ignore\", \"Strict\", \"Warn\""
                    ),
                },
            )),
        }
    }

    fn write_options(&self) -> Result<WriteOptions, ApiError> {
        let manager = match self.query.get("fieldManager") {
            Some(manager) if manager.len() > 128 => {
                return Err(ApiError::invalid_options(
                    self.options_kind(),
                    FieldError {
                        reason: "FieldValueTooLong",
                        field: "fieldManager".to_owned(),
                        message: "Too long: may not be more than 128 bytes".to_owned(),
                    },
                ));
            }
            Some(manager) if manager.chars().any(char::is_control) => {
                let (position, character) = manager
                    .chars()
                    .enumerate()
                    .find(|(_, character)| character.is_control())
                    .unwrap_or_default();
                let code = u32::from(character);
                return Err(ApiError::invalid_options(
                    self.options_kind(),
                    FieldError {
                        reason: "FieldValueInvalid",
                        field: "fieldManager".to_owned(),
                        message: format!(
                            "Invalid value: \"{}\": invalid character U+{code:04X} (at position {position})",
                            manager.replace(character, &format!("\\x{code:02x}"))
                        ),
                    },
                ));
            }
            Some(manager) => manager.to_owned(),
            None => self
                .headers
                .get(header::USER_AGENT)
                .and_then(|agent| agent.to_str().ok())
                .and_then(|agent| agent.split('/').next())
                .filter(|agent| !agent.is_empty())
                .unwrap_or("unknown")
                .chars()
                .take(128)
                .collect(),
        };
        Ok(WriteOptions {
            field_manager: manager,
            dry_run: dry_run(self.options_kind(), self.query)?,
            strict: self.field_validation()? == FieldValidation::Strict,
            force: self.query.flag("force")?,
            user: Some(self.user.clone()),
        })
    }

    fn put(&self, subresource: Subresource, object: Value) -> Result<Response, ApiError> {
        let options = self.write_options()?;
        let written = self.shared.api.update_with_warnings(
            self.gvr,
            self.namespace(),
            self.name(),
            subresource,
            object,
            &options,
        )?;
        self.written(&written)
    }

    fn patch(
        &self,
        subresource: Subresource,
        media_type: &str,
        bytes: &[u8],
    ) -> Result<Response, ApiError> {
        let mut options = self.write_options()?;
        let patch = match media_type {
            "application/json-patch+json" => Patch::Json(body::json_value(bytes)?),
            "application/merge-patch+json" => Patch::Merge(body::json_value(bytes)?),
            "application/strategic-merge-patch+json" => Patch::Strategic(body::json_value(bytes)?),
            "application/apply-patch+yaml" => {
                // Unlike for other writes the user agent does not do: two tools must not become one owner by accident.
                options.field_manager = self
                    .query
                    .get("fieldManager")
                    .unwrap_or_default()
                    .to_owned();
                Patch::Apply(body::yaml_value(bytes)?)
            }
            other => {
                tracing::debug!(media_type = other, "a patch of unknown type was refused");
                return Err(
                    ApiError::unsupported_media_type("415: Unsupported Media Type")
                        .without_subject(),
                );
            }
        };
        if options.force && !matches!(patch, Patch::Apply(_)) {
            return Err(ApiError::invalid_options(
                "PatchOptions",
                FieldError {
                    reason: "FieldValueForbidden",
                    field: "force".to_owned(),
                    message: "Forbidden: may not be specified for non-apply patch".to_owned(),
                },
            ));
        }
        let written = self.shared.api.patch_with_warnings(
            self.gvr,
            self.namespace(),
            self.name(),
            subresource,
            patch,
            &options,
        )?;
        self.written(&written)
    }

    fn written(&self, written: &Written) -> Result<Response, ApiError> {
        let form = negotiate::form(&self.headers)?;
        let mut response = listing::one(
            form,
            &self.resource,
            self.version(),
            self.query,
            &written.object,
        )?;
        if written.created {
            *response.status_mut() = StatusCode::CREATED;
        }
        body::warn(&mut response, &written.warnings);
        if self.field_validation()? == FieldValidation::Warn {
            body::warn(&mut response, &written.unknown_fields);
        }
        Ok(response)
    }

    fn delete_options(&self, media_type: &str, bytes: &[u8]) -> Result<DeleteOptions, ApiError> {
        let given = if bytes.is_empty() {
            Value::Null
        } else {
            body::object(media_type, bytes)?
        };
        delete_options(&given, self.query)
    }

    fn delete(&self, media_type: &str, bytes: &[u8]) -> Result<Response, ApiError> {
        let options = self.delete_options(media_type, bytes)?;
        let mut response = self.deleted(&options)?;
        if options.propagation.is_none() && self.is("batch", "jobs") {
            body::warn(&mut response, &[JOB_ORPHANS.to_owned()]);
        }
        Ok(response)
    }

    fn deleted(&self, options: &DeleteOptions) -> Result<Response, ApiError> {
        let Deleted { object, removed } =
            self.shared
                .api
                .delete_object(self.gvr, self.namespace(), self.name(), options)?;
        // Some resources answer with what they were.
        let shown = ["", "storage.k8s.io"].contains(&self.resource.group.as_str())
            && RETURNED.contains(&self.resource.plural.as_str());
        if !removed || shown {
            let form = negotiate::form(&self.headers)?;
            let mut object = object;
            if removed && self.is("", "pods") {
                // As it was in its last moment.
                let fields = &mut Arc::make_mut(&mut object)["metadata"];
                fields["deletionGracePeriodSeconds"] = 0.into();
                if fields["deletionTimestamp"].is_null() {
                    fields["deletionTimestamp"] = crate::api::now().into();
                }
            }
            return listing::one(form, &self.resource, self.version(), self.query, &object);
        }
        let mut details = json!({"name": self.name(), "kind": self.resource.plural, "uid": object["metadata"]["uid"]});
        if !self.resource.group.is_empty() {
            details["group"] = self.resource.group.as_str().into();
        }
        Ok(body::json(
            StatusCode::OK,
            &json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details}),
        ))
    }

    fn delete_collection(&self, media_type: &str, bytes: &[u8]) -> Result<Response, ApiError> {
        // Namespaces are deleted one by one everywhere.
        if (self.resource.namespaced && self.path.namespace.is_none()) || self.is("", "namespaces")
        {
            return Err(ApiError::method_not_allowed());
        }
        let options = self.delete_options(media_type, bytes)?;
        let items = self.shared.api.delete_collection(
            self.gvr,
            self.path.namespace.as_deref(),
            &self.list_options()?,
            &options,
        )?;
        let page = crate::api::Page {
            revision: self.shared.api.revision(),
            items,
            continue_token: None,
            remaining: None,
        };
        listing::many(
            negotiate::form(&self.headers)?,
            &self.resource,
            self.version(),
            self.query,
            &page,
        )
    }

    /// TokenRequest.
    fn token(&self, mut request: Value) -> Result<Response, ApiError> {
        /// What kubelet asks for.
        const DEFAULT_SECONDS: i64 = 3600;
        /// Kubernetes' lower bound.
        const LEAST_SECONDS: i64 = 600;
        /// A year: longer than any development cluster lives.
        const MOST_SECONDS: i64 = 365 * 24 * 3600;
        if !request["spec"]["boundObjectRef"].is_null() {
            return Err(ApiError::invalid(
                "authentication.k8s.io",
                "TokenRequest",
                self.name(),
                &[FieldError {
                    reason: "FieldValueForbidden",
                    field: "spec.boundObjectRef".to_owned(),
                    message:
                        "Forbidden: tokens of this cluster are not bound to objects; leave it out"
                            .to_owned(),
                }],
            ));
        }
        let account = self
            .shared
            .api
            .get(self.gvr, self.namespace(), self.name())?;
        let seconds = request["spec"]["expirationSeconds"]
            .as_i64()
            .unwrap_or(DEFAULT_SECONDS)
            .clamp(LEAST_SECONDS, MOST_SECONDS);
        let audiences: Vec<String> = request["spec"]["audiences"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .map(str::to_owned)
            .collect();
        let expires = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(seconds);
        let token = self.shared.authority.service_account_token(
            self.namespace(),
            self.name(),
            account["metadata"]["uid"].as_str().unwrap_or_default(),
            &audiences,
            expires.as_second(),
        );
        let Some(top) = request.as_object_mut() else {
            return Err(ApiError::bad_request("the body must be a TokenRequest"));
        };
        top.insert(
            "status".to_owned(),
            json!({"token": token, "expirationTimestamp": expires.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()}),
        );
        top.insert("kind".to_owned(), "TokenRequest".into());
        top.insert("apiVersion".to_owned(), "authentication.k8s.io/v1".into());
        Ok(body::json(StatusCode::CREATED, &request))
    }
}

/// What is wrong with `resourceVersionMatch`.
pub(super) fn match_forbidden(why: &str) -> FieldError {
    FieldError {
        reason: "FieldValueForbidden",
        field: "resourceVersionMatch".to_owned(),
        message: format!("Forbidden: {why}"),
    }
}

/// The answer to subresources that create nothing to look at.
fn created_status() -> Response {
    body::json(
        StatusCode::CREATED,
        &json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}),
    )
}

fn dry_run(kind: &str, query: &Query) -> Result<bool, ApiError> {
    match query.get("dryRun") {
        None => Ok(false),
        Some("All") => Ok(true),
        Some(other) => Err(bad_dry_run(kind, &json!([other]))),
    }
}

fn bad_dry_run(kind: &str, given: &Value) -> ApiError {
    ApiError::invalid_options(
        kind,
        FieldError {
            reason: "FieldValueNotSupported",
            field: "dryRun".to_owned(),
            message: format!("Unsupported value: {given}: supported values: \"All\""),
        },
    )
}

/// `dryRun` of a body: a list that may only say `All`.
fn body_dry_run(given: &Value) -> Result<bool, ApiError> {
    match given["dryRun"].as_array().map(Vec::as_slice) {
        None | Some([]) => Ok(false),
        Some(items) => match items.iter().find(|item| *item != "All") {
            None => Ok(true),
            Some(_) => Err(bad_dry_run("DeleteOptions", &given["dryRun"])),
        },
    }
}

/// From the body first, then from the query.
fn delete_options(given: &Value, query: &Query) -> Result<DeleteOptions, ApiError> {
    let propagation = given["propagationPolicy"]
        .as_str()
        .or_else(|| query.get("propagationPolicy"));
    let propagation = match propagation {
        None => given["orphanDependents"].as_bool().map(|orphan| {
            if orphan {
                Propagation::Orphan
            } else {
                Propagation::Background
            }
        }),
        Some("Background") => Some(Propagation::Background),
        Some("Foreground") => Some(Propagation::Foreground),
        Some("Orphan") => Some(Propagation::Orphan),
        Some(other) => {
            return Err(ApiError::invalid_options(
                "DeleteOptions",
                FieldError {
                    reason: "FieldValueNotSupported",
                    field: "propagationPolicy".to_owned(),
                    message: format!(
                        "Unsupported value: {other:?}: supported values: \"Foreground\", \"Background\", \"Orphan\", \"nil\""
                    ),
                },
            ));
        }
    };
    if !given["orphanDependents"].is_null() && !given["propagationPolicy"].is_null() {
        return Err(ApiError::invalid_options(
            "DeleteOptions",
            FieldError {
                reason: "FieldValueInvalid",
                field: "propagationPolicy".to_owned(),
                message: format!(
                    "Invalid value: {}: orphanDependents and deletionPropagation cannot be both set",
                    given["propagationPolicy"]
                ),
            },
        ));
    }
    let kind = given["kind"].as_str().unwrap_or("DeleteOptions");
    if !kind.is_empty() && kind != "DeleteOptions" {
        return Err(ApiError::bad_request(format!(
            "no kind {kind:?} is registered for version {:?}",
            given["apiVersion"].as_str().unwrap_or_default()
        )));
    }
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let in_body = body_dry_run(given)?;
    Ok(DeleteOptions {
        propagation,
        uid: text(&given["preconditions"]["uid"]),
        resource_version: text(&given["preconditions"]["resourceVersion"]),
        grace_period_seconds: match given["gracePeriodSeconds"].as_i64() {
            Some(seconds) => Some(seconds),
            None => query.number("gracePeriodSeconds")?,
        },
        dry_run: in_body || dry_run("DeleteOptions", query)?,
    })
}

/// A revision this server has not reached: the client remembers another cluster or an older state file.
pub(super) fn too_large(wanted: u64, now: u64) -> ApiError {
    let mut error = ApiError::new(
        504,
        "Timeout",
        format!("Timeout: Too large resource version: {wanted}, current: {now}"),
    );
    error.details = json!({"causes": [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}], "retryAfterSeconds": 1});
    error
}
