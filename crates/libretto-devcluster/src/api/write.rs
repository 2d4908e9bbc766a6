//! Create, update and patch: the same steps for every resource, in the order Kubernetes takes them.
//!
//! shape → unknown fields → server-owned metadata → defaults → ownership → admission of the kind → validation → store. Everything
//! happens under the write lock, so what was decided still holds when it is written.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{
    Api, DEFAULT_MANAGER, Gvr, NAMESPACES, Patch, Subresource, Target, WriteOptions, admission,
    convert, escalation::Change, metadata, support,
};
use crate::{
    error::{ApiError, FieldError},
    patch::{self, Manager},
    rbac::Attributes,
    schema::TypeSchema,
};

/// Name collisions of generateName before giving up; with 20 million suffixes one is already rare.
const GENERATE_ATTEMPTS: usize = 8;

/// The answer to a write.
#[derive(Debug)]
pub(crate) struct Written {
    pub object: Arc<Value>,
    pub created: bool,
    /// For `Warning` headers.
    pub warnings: Vec<String>,
    /// The same, for callers that asked to be warned of unknown fields.
    pub unknown_fields: Vec<String>,
}

/// What stays the same during one write.
struct Write<'a> {
    api: &'a Api,
    target: &'a Target,
    schema: TypeSchema,
    namespace: &'a str,
    subresource: Subresource,
    options: &'a WriteOptions,
    warnings: Vec<String>,
    unknown_fields: Vec<String>,
    /// Server-side apply may leave out the name: the path has it.
    applying: bool,
}

/// Who owns the fields of the new object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ownership {
    /// `managedFields` is already right: server-side apply.
    Settled,
    /// The writer owns what it changed.
    Track,
}

impl Api {
    pub(crate) fn create_with_warnings(
        &self,
        gvr: &Gvr,
        namespace: &str,
        object: Value,
        options: &WriteOptions,
    ) -> Result<Written, ApiError> {
        let target = self.resolve(gvr)?;
        let mut write = self.write(&target, namespace, Subresource::None, options)?;
        let lock = self.0.writes.lock();
        let mut object = object;
        write.inspect(&mut object)?;
        let object = write.create(object, Ownership::Track)?;
        drop(lock);
        self.aggregate_roles(&target.resource);
        Ok(write.written(object, true))
    }

    pub(crate) fn update_with_warnings(
        &self,
        gvr: &Gvr,
        namespace: &str,
        name: &str,
        subresource: Subresource,
        object: Value,
        options: &WriteOptions,
    ) -> Result<Written, ApiError> {
        if subresource == Subresource::Scale {
            return self.update_scale(gvr, namespace, name, &object, options);
        }
        let target = self.resolve(gvr)?;
        let mut write = self.write(&target, namespace, subresource, options)?;
        let lock = self.0.writes.lock();
        let mut object = object;
        write.inspect(&mut object)?;
        write.settle_name(&mut object, name)?;
        let live = write.live(name)?;
        let object = write.update(name, &live, object, Ownership::Track)?;
        drop(lock);
        self.aggregate_roles(&target.resource);
        Ok(write.written(object, false))
    }

    pub(crate) fn patch_with_warnings(
        &self,
        gvr: &Gvr,
        namespace: &str,
        name: &str,
        subresource: Subresource,
        patch: Patch,
        options: &WriteOptions,
    ) -> Result<Written, ApiError> {
        if subresource == Subresource::Scale {
            return self.patch_scale(gvr, namespace, name, patch, options);
        }
        self.patch_object(gvr, namespace, name, subresource, patch, options)
    }

    /// As `patch_with_warnings`, with `Scale` meaning the object itself, written by way of its scale.
    pub(super) fn patch_object(
        &self,
        gvr: &Gvr,
        namespace: &str,
        name: &str,
        subresource: Subresource,
        patch: Patch,
        options: &WriteOptions,
    ) -> Result<Written, ApiError> {
        let resource = self.resolve(gvr)?.resource;
        let written = self.patch_locked(gvr, namespace, name, subresource, patch, options)?;
        self.aggregate_roles(&resource);
        Ok(written)
    }

    /// The patch itself, without what follows for other objects.
    pub(super) fn patch_locked(
        &self,
        gvr: &Gvr,
        namespace: &str,
        name: &str,
        subresource: Subresource,
        patch: Patch,
        options: &WriteOptions,
    ) -> Result<Written, ApiError> {
        let target = self.resolve(gvr)?;
        let mut write = self.write(&target, namespace, subresource, options)?;
        let _lock = self.0.writes.lock();
        let live = match write.live(name) {
            Ok(live) => Some(live),
            Err(error) if error.code == 404 && matches!(patch, Patch::Apply(_)) => {
                if subresource != Subresource::None {
                    return Err(error);
                }
                None
            }
            Err(error) => return Err(error),
        };
        let (mut object, ownership) = match (patch, &live) {
            (Patch::Apply(config), _) => (
                write.apply(name, live.as_deref(), config)?,
                Ownership::Settled,
            ),
            (patch, Some(live)) => {
                let change = match &patch {
                    // Of a strategic patch upstream shows the patch, of others what came out.
                    Patch::Strategic(change) => Some(patch::go_text(change)),
                    _ => None,
                };
                let patched = write.patched(live, patch)?;
                let shown = change.unwrap_or_else(|| patched.to_string());
                write.decode_patched(&patched, &shown)?;
                write.same_uid(name, live, &patched)?;
                (patched, Ownership::Track)
            }
            (_, None) => unreachable!("only apply continues without a live object"),
        };
        metadata::check_shape(&target.resource, &target.version, &mut object)?;
        let (object, created) = match &live {
            Some(live) => {
                if ownership == Ownership::Track {
                    write.inspect(&mut object)?;
                }
                (write.update(name, live, object, ownership)?, false)
            }
            None => (write.create(object, ownership)?, true),
        };
        Ok(write.written(object, created))
    }

    fn write<'a>(
        &'a self,
        target: &'a Target,
        namespace: &'a str,
        subresource: Subresource,
        options: &'a WriteOptions,
    ) -> Result<Write<'a>, ApiError> {
        let version = target
            .resource
            .version(&target.version)
            .ok_or_else(ApiError::unknown_resource)?;
        if subresource == Subresource::Status && !version.status {
            return Err(ApiError::unknown_resource());
        }
        if subresource == Subresource::Finalize && target.resource.qualified() != "namespaces" {
            return Err(ApiError::unknown_resource());
        }
        let schema = target.resource.schema(&target.version).ok_or_else(|| {
            ApiError::internal(format!(
                "no type definition for {} {}",
                target.resource.api_version(&target.version),
                target.resource.kind
            ))
        })?;
        Ok(Write {
            api: self,
            target,
            schema,
            namespace,
            subresource,
            options,
            warnings: Vec::new(),
            unknown_fields: Vec::new(),
            applying: false,
        })
    }
}

impl Write<'_> {
    fn written(mut self, object: Arc<Value>, created: bool) -> Written {
        if self.subresource == Subresource::None
            && let Some(why) = self.target.resource.stored_only
        {
            let kind = &self.target.resource.kind;
            self.warnings
                .push(format!("{kind} is stored and has no effect: {why}"));
        }
        Written {
            object,
            created,
            warnings: self.warnings,
            unknown_fields: self.unknown_fields,
        }
    }

    fn invalid(&self, name: &str, errors: &[FieldError]) -> ApiError {
        ApiError::invalid(
            &self.target.resource.group,
            &self.target.resource.kind,
            name,
            errors,
        )
    }

    fn has_status(&self) -> bool {
        self.target
            .resource
            .version(&self.target.version)
            .is_some_and(|version| version.status)
    }

    fn manager(&self) -> Manager {
        let name = if self.options.field_manager.is_empty() {
            DEFAULT_MANAGER
        } else {
            &self.options.field_manager
        };
        Manager {
            name: name.to_owned(),
            subresource: match self.subresource {
                Subresource::None => "",
                Subresource::Status => "status",
                Subresource::Scale => "scale",
                Subresource::Finalize => "finalize",
            }
            .to_owned(),
            api_version: self.target.resource.api_version(&self.target.version),
            time: metadata::now(),
        }
    }

    /// The stored object in the requested version.
    fn live(&self, name: &str) -> Result<Arc<Value>, ApiError> {
        let stored = self.api.stored(self.target, self.namespace, name)?;
        Ok(convert::from_storage(
            &self.target.resource,
            &self.target.version,
            &stored,
        ))
    }

    /// Shape and unknown fields of what a client sent.
    fn inspect(&mut self, object: &mut Value) -> Result<(), ApiError> {
        self.decode(object)?;
        metadata::check_shape(&self.target.resource, &self.target.version, object)?;
        let unknown = self.schema.prune(object);
        if self.options.strict && !unknown.is_empty() {
            let fields: Vec<_> = unknown
                .iter()
                .map(|field| format!("unknown field {field:?}"))
                .collect();
            return Err(ApiError::bad_request(format!(
                "{} in version {:?} cannot be handled as a {}: strict decoding error: {}",
                self.target.resource.kind,
                self.target.version,
                self.target.resource.kind,
                fields.join(", ")
            )));
        }
        self.unknown_fields.extend(
            unknown
                .iter()
                .map(|field| format!("unknown field {field:?}")),
        );
        Ok(())
    }

    /// As `inspect`, for what comes out of a patch: wrong types and, if asked for, unknown fields.
    fn decode_patched(&self, object: &Value, shown: &str) -> Result<(), ApiError> {
        let resource = &self.target.resource;
        let api_version = resource.api_version(&self.target.version);
        for (field, expected) in [("kind", &resource.kind), ("apiVersion", &api_version)] {
            let found = object[field].as_str().unwrap_or_default();
            if found == expected {
                continue;
            }
            if resource.custom.is_some() {
                return Err(self.invalid(
                    metadata::text(object, "name"),
                    &[FieldError {
                        reason: "FieldValueInvalid",
                        field: field.to_owned(),
                        message: format!("Invalid value: {found:?}: must be {expected}"),
                    }],
                ));
            }
            let why = format!(
                "no kind {:?} is registered for version {:?}",
                object["kind"].as_str().unwrap_or_default(),
                object["apiVersion"].as_str().unwrap_or_default()
            );
            return Err(ApiError::invalid_patch(shown, &why));
        }
        if let Some(error) = self.schema.decode_error(object) {
            return Err(ApiError::invalid_patch(shown, &error));
        }
        if !self.options.strict {
            return Ok(());
        }
        let unknown: Vec<String> = self
            .schema
            .prune(&mut object.clone())
            .iter()
            .map(|field| format!("unknown field {field:?}"))
            .collect();
        if unknown.is_empty() {
            return Ok(());
        }
        Err(ApiError::invalid_patch(
            shown,
            &format!("strict decoding error: {}", unknown.join(", ")),
        ))
    }

    /// A patch may not give the object another uid; in a replacement that is a condition instead.
    fn same_uid(&self, name: &str, live: &Value, patched: &Value) -> Result<(), ApiError> {
        let uid = metadata::text(patched, "uid");
        if uid.is_empty() || uid == metadata::text(live, "uid") {
            return Ok(());
        }
        let error = FieldError {
            reason: "FieldValueInvalid",
            field: "metadata.uid".to_owned(),
            message: format!("Invalid value: {uid:?}: field is immutable"),
        };
        Err(self.invalid(name, &[error.clone(), error]))
    }

    /// Wrong JSON types in an object of the right kind.
    fn decode(&self, object: &Value) -> Result<(), ApiError> {
        let resource = &self.target.resource;
        let same = |field: &str, expected: &str| {
            object[field]
                .as_str()
                .is_none_or(|found| found.is_empty() || found == expected)
        };
        if !same("kind", &resource.kind)
            || !same("apiVersion", &resource.api_version(&self.target.version))
        {
            return Ok(());
        }
        match self.schema.decode_error(object) {
            None => Ok(()),
            Some(error) => Err(ApiError::bad_request(format!(
                "{} in version {:?} cannot be handled as a {}: {error}",
                resource.kind, self.target.version, resource.kind
            ))),
        }
    }

    fn patched(&self, live: &Value, patch: Patch) -> Result<Value, ApiError> {
        let resource = &self.target.resource;
        match patch {
            Patch::Json(operations) if !operations.is_array() => {
                Err(ApiError::bad_request(format!(
                    "error decoding patch: json: cannot unmarshal {} into Go value of type []handlers.jsonPatchOp",
                    patch::go_kind(&operations)
                )))
            }
            Patch::Json(operations) => patch::json(live, &operations).map_err(|error| {
                tracing::debug!(%error, "a JSON patch was refused");
                ApiError::new(
                    422,
                    "Invalid",
                    "the server rejected our request due to an error in our request",
                )
                .without_subject()
            }),
            Patch::Merge(changes) => {
                if !changes.is_object() {
                    return Err(ApiError::bad_request(format!(
                        "error decoding patch: json: cannot unmarshal {} into Go value of type map[string]interface {{}}",
                        patch::go_kind(&changes)
                    )));
                }
                let mut object = live.clone();
                patch::merge(&mut object, &changes);
                Ok(object)
            }
            Patch::Strategic(changes) => {
                if resource.custom.is_some() {
                    return Err(ApiError::unsupported_media_type(
                        "the body of the request was in an unknown format - accepted media types include: application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml",
                    ));
                }
                if !changes.is_object() {
                    return Err(ApiError::bad_request(format!(
                        "json: cannot unmarshal {} into Go value of type map[string]interface {{}}",
                        patch::go_kind(&changes)
                    )));
                }
                patch::strategic(&self.schema, live, &changes).map_err(|error| {
                    if error.0 == patch::BAD_RETAIN_KEYS {
                        ApiError::bad_request(error.0)
                    } else {
                        ApiError::unclassified(error.0)
                    }
                })
            }
            Patch::Apply(_) => unreachable!("apply has its own path"),
        }
    }

    /// Server-side apply: the merged object with its managedFields.
    fn apply(
        &mut self,
        name: &str,
        live: Option<&Value>,
        mut config: Value,
    ) -> Result<Value, ApiError> {
        self.applying = true;
        if self.options.field_manager.is_empty() {
            return Err(ApiError::invalid_options(
                "PatchOptions",
                FieldError {
                    reason: "FieldValueRequired",
                    field: "fieldManager".to_owned(),
                    message: "Required value: is required for apply patch".to_owned(),
                },
            ));
        }
        if !config.is_object() {
            return Err(ApiError::bad_request(format!(
                "error decoding YAML: error unmarshaling JSON: while decoding JSON: json: cannot unmarshal {} into Go value of type map[string]interface {{}}",
                patch::go_kind(&config)
            )));
        }
        let given = |field: &str| config[field].as_str().unwrap_or_default();
        let expected = self.target.resource.api_version(&self.target.version);
        if given("apiVersion") != expected || given("kind") != self.target.resource.kind {
            let version = given("apiVersion");
            let slash = if version.contains('/') { "" } else { "/" };
            return Err(ApiError::bad_request(format!(
                "invalid object type: {slash}{version}, Kind={}",
                given("kind")
            )));
        }
        // Before anything is filled in or dropped: upstream never applies a part of a configuration.
        let unchecked = patch::check(&self.schema, &config);
        let sent = config.clone();
        metadata::check_shape(&self.target.resource, &self.target.version, &mut config)?;
        if config["metadata"].get("managedFields").is_some() {
            return Err(ApiError::bad_request("metadata.managedFields must be nil"));
        }
        self.settle_name(&mut config, name)?;
        metadata::settle_namespace(&self.target.resource, &mut config, self.namespace)?;
        unchecked?;
        self.inspect(&mut config)?;
        if let Some(live) = live {
            self.check_preconditions(name, live, &config)?;
        } else if !metadata::text(&config, "uid").is_empty() {
            return Err(self.conflict(
                name,
                &format!(
                    "uid mismatch: the provided object specified uid {}, and no existing object was found",
                    metadata::text(&config, "uid")
                ),
            ));
        }
        // What this endpoint cannot change must not become owned by it.
        if self.subresource == Subresource::Status {
            let top = config.as_object_mut().expect("check_shape passed");
            top.retain(|field, _| {
                matches!(
                    field.as_str(),
                    "apiVersion" | "kind" | "metadata" | "status"
                )
            });
            metadata::metadata(&mut config)
                .retain(|field, _| matches!(field.as_str(), "name" | "namespace"));
        } else if self.has_status()
            && let Some(top) = config.as_object_mut()
        {
            top.remove("status");
        }
        for field in [
            "uid",
            "resourceVersion",
            "creationTimestamp",
            "generation",
            "deletionTimestamp",
            "deletionGracePeriodSeconds",
        ] {
            metadata::metadata(&mut config).remove(field);
        }
        let mut applied = patch::apply(
            &self.schema,
            live,
            &config,
            &self.manager(),
            self.options.force,
        )
        .map_err(ApiError::from)?;
        // Whoever goes back to client-side apply finds what was applied last.
        let remembered = &mut applied["metadata"]["annotations"];
        if self.manager().name == "kubectl" && remembered.get(patch::LAST_APPLIED).is_some() {
            remembered[patch::LAST_APPLIED] = format!("{sent}\n").into();
        }
        Ok(applied)
    }

    fn create(&mut self, mut object: Value, ownership: Ownership) -> Result<Arc<Value>, ApiError> {
        let resource = self.target.resource.clone();
        metadata::settle_namespace(&resource, &mut object, self.namespace)?;
        if ownership == Ownership::Track && !metadata::text(&object, "resourceVersion").is_empty() {
            return Err(ApiError::unclassified(
                "resourceVersion should not be set on objects to be created",
            ));
        }
        self.check_namespace(&object)?;
        if let Some(custom) = &resource.custom {
            self.api.refuse_while_definition_ends(custom)?;
        }
        let fields = metadata::metadata(&mut object);
        for field in [
            "resourceVersion",
            "deletionTimestamp",
            "deletionGracePeriodSeconds",
            "generation",
        ] {
            fields.remove(field);
        }
        if ownership == Ownership::Track {
            fields.remove("managedFields");
        }
        fields.insert("uid".to_owned(), uuid::Uuid::new_v4().to_string().into());
        fields.insert("creationTimestamp".to_owned(), metadata::now().into());
        if resource.generation {
            fields.insert("generation".to_owned(), 1.into());
        }
        if self.has_status()
            && !admission::keeps_status_on_create(&resource)
            && let Some(top) = object.as_object_mut()
        {
            top.remove("status");
        }
        self.schema.default(&mut object);
        self.refuse_escalation(&object, None)?;
        let name = self.name_for(&mut object)?;
        let mut errors = admission::decode(self.api, &resource, &mut object, None);
        if ownership == Ownership::Track {
            object = patch::track_update(&self.schema, None, object, &self.manager());
        }
        errors.extend(admission::prepare(self.api, &resource, &mut object, None)?);
        errors.extend(metadata::validate(&resource, &object));
        errors.extend(self.schema.validate(&object, None));
        if !errors.is_empty() {
            return Err(self.invalid(&name, &errors));
        }
        self.authorize_creation(&name)?;
        self.warnings.extend(support::warnings(&resource, &object));
        let key = self.target.key(self.namespace, &name);
        if self.api.0.store.get(&resource.table, &key).is_some() {
            return Err(ApiError::already_exists(&resource.qualified(), &name)
                .within(&resource.group, &resource.plural));
        }
        self.put(key, object)
    }

    fn update(
        &mut self,
        name: &str,
        live: &Arc<Value>,
        mut object: Value,
        ownership: Ownership,
    ) -> Result<Arc<Value>, ApiError> {
        let resource = self.target.resource.clone();
        self.settle_name(&mut object, name)?;
        metadata::settle_namespace(&resource, &mut object, self.namespace)?;
        self.check_preconditions(name, live, &object)?;
        let managed = object["metadata"].get("managedFields").cloned();
        match self.subresource {
            Subresource::Status => {
                let status = object.get("status").cloned();
                object = (**live).clone();
                replace(&mut object, "status", status);
            }
            Subresource::Finalize => {
                let finalizers = object["spec"].get("finalizers").cloned();
                object = (**live).clone();
                if let Some(spec) = metadata::child(&mut object, "spec") {
                    match finalizers {
                        Some(finalizers) => spec.insert("finalizers".to_owned(), finalizers),
                        None => spec.remove("finalizers"),
                    };
                }
            }
            Subresource::None | Subresource::Scale => {
                if self.has_status() {
                    replace(&mut object, "status", live.get("status").cloned());
                }
            }
        }
        match managed {
            Some(managed) if self.subresource != Subresource::None => {
                metadata::metadata(&mut object).insert("managedFields".to_owned(), managed);
            }
            _ => {}
        }
        for field in [
            "uid",
            "resourceVersion",
            "creationTimestamp",
            "generation",
            "deletionTimestamp",
            "deletionGracePeriodSeconds",
        ] {
            let kept = live["metadata"].get(field).cloned();
            match kept {
                Some(kept) => metadata::metadata(&mut object).insert(field.to_owned(), kept),
                None => metadata::metadata(&mut object).remove(field),
            };
        }
        self.schema.default(&mut object);
        self.refuse_escalation(&object, Some(live))?;
        let mut errors = admission::decode(self.api, &resource, &mut object, Some(live));
        if ownership == Ownership::Track {
            object = patch::track_update(&self.schema, Some(live), object, &self.manager());
        }
        errors.extend(admission::prepare(
            self.api,
            &resource,
            &mut object,
            Some(live),
        )?);
        errors.extend(metadata::validate(&resource, &object));
        errors.extend(self.schema.validate(&object, Some(live)));
        if !errors.is_empty() {
            return Err(self.invalid(name, &errors));
        }
        if self.subresource == Subresource::None && resource.qualified() != "pods" {
            self.warnings.extend(support::warnings(&resource, &object));
        }
        if resource.generation && wanted_state_differs(&object, live, self.has_status()) {
            let generation = live["metadata"]["generation"].as_i64().unwrap_or(0) + 1;
            metadata::metadata(&mut object).insert("generation".to_owned(), generation.into());
        }
        if same_but_times(&object, live) && !metadata::released(&resource, &object) {
            return Ok(live.clone());
        }
        if metadata::released(&resource, &object) {
            return self.remove_released(name, object);
        }
        self.put(self.target.key(self.namespace, name), object)
    }

    /// Rights are given away only by those who hold them.
    fn refuse_escalation(&self, object: &Value, old: Option<&Value>) -> Result<(), ApiError> {
        let Some(user) = &self.options.user else {
            return Ok(());
        };
        let posted = old.is_none() && !self.applying;
        Change {
            user,
            resource: &self.target.resource,
            namespace: if self.target.resource.namespaced {
                self.namespace
            } else {
                ""
            },
            name: if posted {
                ""
            } else {
                metadata::text(object, "name")
            },
            object,
            old,
        }
        .check(self.api)
    }

    /// Whoever may patch may not therefore create: only here it is known that an applied object is a new one.
    fn authorize_creation(&self, name: &str) -> Result<(), ApiError> {
        match &self.options.user {
            Some(user) if self.applying => self.api.authorize(
                user,
                &Attributes {
                    verb: "create".to_owned(),
                    group: self.target.resource.group.clone(),
                    resource: self.target.resource.plural.clone(),
                    namespace: self.namespace.to_owned(),
                    name: name.to_owned(),
                    ..Attributes::default()
                },
            ),
            _ => Ok(()),
        }
    }

    /// The last finalizer went: the object goes with it.
    fn remove_released(&self, name: &str, object: Value) -> Result<Arc<Value>, ApiError> {
        if self.options.dry_run {
            return Ok(Arc::new(object));
        }
        let key = self.target.key(self.namespace, name);
        self.api.remove(&self.target.resource, &key)?;
        // As it was written, though it was never stored so.
        Ok(Arc::new(object))
    }

    fn put(&self, key: crate::store::Key, object: Value) -> Result<Arc<Value>, ApiError> {
        let resource = &self.target.resource;
        if self.options.dry_run {
            return Ok(Arc::new(object));
        }
        let stored =
            self.api
                .0
                .store
                .put(&resource.table, key, convert::to_storage(resource, object))?;
        self.api.stored_definition_changed(resource, &stored);
        Ok(convert::from_storage(
            resource,
            &self.target.version,
            &stored,
        ))
    }

    /// The name of a new object, made up when only generateName is given.
    fn name_for(&self, object: &mut Value) -> Result<String, ApiError> {
        let name = metadata::text(object, "name");
        if !name.is_empty() {
            return Ok(name.to_owned());
        }
        let prefix = metadata::text(object, "generateName").to_owned();
        if prefix.is_empty() {
            return Err(self.invalid(
                "",
                &[FieldError {
                    reason: "FieldValueRequired",
                    field: "metadata.name".to_owned(),
                    message: "Required value: name or generateName is required".to_owned(),
                }],
            ));
        }
        let taken = |name: &String| {
            self.api
                .0
                .store
                .get(
                    &self.target.resource.table,
                    &self.target.key(self.namespace, name),
                )
                .is_some()
        };
        let name = (0..GENERATE_ATTEMPTS)
            .map(|_| metadata::generated_name(&prefix))
            .find(|name| !taken(name))
            .ok_or_else(|| ApiError::already_exists(&self.target.resource.qualified(), &prefix))?;
        metadata::metadata(object).insert("name".to_owned(), name.as_str().into());
        Ok(name)
    }

    fn settle_name(&self, object: &mut Value, name: &str) -> Result<(), ApiError> {
        let found = metadata::text(object, "name");
        if found.is_empty() && !self.applying {
            return Err(ApiError::bad_request(format!(
                "the name of the object ({name} based on URL) was undeterminable: name must be provided"
            )));
        }
        if !found.is_empty() && found != name {
            return Err(ApiError::bad_request(format!(
                "the name of the object ({found}) does not match the name on the URL ({name})"
            )));
        }
        metadata::metadata(object).insert("name".to_owned(), name.into());
        Ok(())
    }

    fn conflict(&self, name: &str, why: &str) -> ApiError {
        let resource = &self.target.resource;
        ApiError::conflict(&resource.qualified(), name, why)
            .within(&resource.group, &resource.plural)
    }

    /// uid and resourceVersion in the body are conditions.
    fn check_preconditions(
        &self,
        name: &str,
        live: &Value,
        object: &Value,
    ) -> Result<(), ApiError> {
        let uid = metadata::text(object, "uid");
        let live_uid = metadata::text(live, "uid");
        if !uid.is_empty() && uid != live_uid {
            let key = if self.namespace.is_empty() {
                name.to_owned()
            } else {
                format!("{}/{name}", self.namespace)
            };
            return Err(self.conflict(
                name,
                &format!(
                    "StorageError: invalid object, Code: 4, Key: /registry/{}/{key}, ResourceVersion: 0, AdditionalErrorMsg: Precondition failed: UID in precondition: {uid}, UID in object meta: {live_uid}",
                    self.target.resource.plural
                ),
            ));
        }
        let revision = metadata::text(object, "resourceVersion");
        if !revision.is_empty() && revision != metadata::text(live, "resourceVersion") {
            return Err(self.conflict(
                name,
                "the object has been modified; please apply your changes to the latest version and try again",
            ));
        }
        Ok(())
    }

    /// A namespaced object needs its namespace, and one that is not going away.
    fn check_namespace(&self, object: &Value) -> Result<(), ApiError> {
        let resource = &self.target.resource;
        if !resource.namespaced {
            return Ok(());
        }
        if self.namespace.is_empty() {
            return Err(ApiError::bad_request(
                "an empty namespace may not be set during creation",
            ));
        }
        let namespace = self.api.get(&NAMESPACES, "", self.namespace)?;
        if !metadata::terminating(&namespace) {
            return Ok(());
        }
        let name = metadata::text(object, "name");
        let mut error = ApiError::forbidden(format!(
            "{} {name:?} is forbidden: unable to create new content in namespace {} because it is being terminated",
            resource.qualified(),
            self.namespace
        ));
        error.details = json!({"name": name, "causes": [{
            "reason": "NamespaceTerminating", "field": "metadata.namespace",
            "message": format!("namespace {} is being terminated", self.namespace),
        }]});
        Err(error.within(&resource.group, &resource.plural))
    }
}

/// Whether anything but metadata (and status, where it is a subresource of its own) differs.
fn wanted_state_differs(new: &Value, old: &Value, has_status: bool) -> bool {
    let relevant = |field: &str| {
        field != "metadata"
            && field != "apiVersion"
            && field != "kind"
            && !(has_status && field == "status")
    };
    let part = |object: &Value| {
        object
            .as_object()
            .into_iter()
            .flatten()
            .filter(|(field, _)| relevant(field))
            .map(|(field, value)| (field.clone(), value.clone()))
            .collect::<std::collections::BTreeMap<_, _>>()
    };
    part(new) != part(old)
}

fn replace(object: &mut Value, field: &str, value: Option<Value>) {
    if let Some(top) = object.as_object_mut() {
        match value {
            Some(value) => top.insert(field.to_owned(), value),
            None => top.remove(field),
        };
    }
}

/// Equal apart from the time stamps in managedFields: a write that changes nothing else is no write.
fn same_but_times(new: &Value, old: &Value) -> bool {
    if new == old {
        return true;
    }
    let stripped = |object: &Value| {
        let mut object = object.clone();
        for entry in object["metadata"]
            .get_mut("managedFields")
            .and_then(Value::as_array_mut)
            .into_iter()
            .flatten()
        {
            if let Some(entry) = entry.as_object_mut() {
                entry.remove("time");
            }
        }
        object
    };
    stripped(new) == stripped(old)
}
