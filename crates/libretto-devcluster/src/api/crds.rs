//! Life of a CustomResourceDefinition: accepted names, being served, and taking its objects along when it goes.
//!
//! A real cluster does this in controllers with a delay; here it is part of the write, so a definition is served when its creation
//! has been answered.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{Api, DeleteOptions, Gvr, Target, metadata};
use crate::{
    crd::{self, CustomType},
    error::{ApiError, FieldError},
    registry::{Resource, table},
};

const DEFINITIONS: Gvr = Gvr::new("apiextensions.k8s.io", "v1", "customresourcedefinitions");
/// Holds a definition until its objects are gone (Kubernetes' own name).
const CLEANUP: &str = "customresourcecleanup.apiextensions.k8s.io";

/// Checks the definition and writes its status: conditions, accepted names, stored versions.
pub(super) fn prepare(api: &Api, object: &mut Value, old: Option<&Value>) -> Vec<FieldError> {
    if let Some(names) = object
        .get_mut("spec")
        .and_then(|spec| spec.get_mut("names"))
        .and_then(Value::as_object_mut)
    {
        let kind = names
            .get("kind")
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned();
        if !kind.is_empty() {
            names
                .entry("singular")
                .or_insert_with(|| kind.to_lowercase().into());
            names
                .entry("listKind")
                .or_insert_with(|| format!("{kind}List").into());
        }
    }
    let custom = match crd::parse(object) {
        Ok(custom) => custom,
        Err(errors) => return errors,
    };
    let mut errors = Vec::new();
    let expected = format!("{}.{}", custom.plural, custom.group);
    if metadata::text(object, "name") != expected {
        errors.push(FieldError {
            reason: "FieldValueInvalid",
            field: "metadata.name".to_owned(),
            message: format!(
                "Invalid value: {:?}: must be spec.names.plural+\".\"+spec.group, {expected:?}",
                metadata::text(object, "name")
            ),
        });
    }
    if let Some(old) = old {
        for field in ["group", "scope"] {
            if old["spec"][field] != object["spec"][field] {
                errors.push(FieldError {
                    reason: "FieldValueInvalid",
                    field: format!("spec.{field}"),
                    message: format!(
                        "Invalid value: {}: field is immutable",
                        object["spec"][field]
                    ),
                });
            }
        }
    }
    let conflict = api.registry().conflict(&custom);
    let before = old.map_or(&Value::Null, |old| &old["status"]);
    let mut stored: Vec<String> = before["storedVersions"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect();
    if let Some(version) = custom.versions.iter().find(|version| version.storage)
        && !stored.contains(&version.name)
    {
        stored.push(version.name.clone());
    }
    let dropped: Vec<_> = stored
        .iter()
        .filter(|name| !custom.versions.iter().any(|version| version.name == **name))
        .cloned()
        .collect();
    if !dropped.is_empty() {
        errors.push(FieldError {
            reason: "FieldValueInvalid",
            field: "status.storedVersions".to_owned(),
            message: format!("Invalid value: {dropped:?}: must appear in spec.versions"),
        });
    }
    let (names_ok, names_reason, names_message) = match &conflict {
        None => ("True", "NoConflicts", "no conflicts found".to_owned()),
        Some(conflict) => ("False", conflict.reason, conflict.message.clone()),
    };
    let (up, up_reason, up_message) = match &conflict {
        None => (
            "True",
            "InitialNamesAccepted",
            "the initial names have been accepted",
        ),
        Some(_) => ("False", "NotAccepted", "not all names are accepted"),
    };
    let conditions = vec![
        condition(
            before,
            "NamesAccepted",
            names_ok,
            names_reason,
            &names_message,
        ),
        condition(before, "Established", up, up_reason, up_message),
    ];
    let conditions: Vec<Value> = conditions
        .into_iter()
        .chain(
            before["conditions"]
                .as_array()
                .into_iter()
                .flatten()
                .filter(|one| one["type"] == "Terminating")
                .cloned(),
        )
        .collect();
    let accepted = if conflict.is_none() {
        object["spec"]["names"].clone()
    } else {
        json!({"kind": "", "plural": ""})
    };
    object["status"] = json!({
        "acceptedNames": accepted, "conditions": conditions, "storedVersions": stored,
    });
    errors
}

fn condition(before: &Value, kind: &str, status: &str, reason: &str, message: &str) -> Value {
    let since = before["conditions"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|one| one["type"] == kind && one["status"] == status)
        .map_or_else(
            || metadata::now().into(),
            |one| one["lastTransitionTime"].clone(),
        );
    json!({"type": kind, "status": status, "reason": reason, "message": message, "lastTransitionTime": since})
}

impl Api {
    /// Serves what the state file defines.
    pub(super) fn register_stored_definitions(&self) {
        let definitions = self
            .0
            .store
            .list(
                &table(&DEFINITIONS.group, &DEFINITIONS.resource),
                None,
                None,
            )
            .map(|snapshot| snapshot.items)
            .unwrap_or_default();
        for (_, definition) in definitions {
            self.serve_definition(&definition);
        }
    }

    /// Follows a write of a definition.
    pub(super) fn stored_definition_changed(&self, resource: &Resource, object: &Value) {
        if resource.table == table(&DEFINITIONS.group, &DEFINITIONS.resource) {
            self.serve_definition(object);
        }
    }

    fn serve_definition(&self, definition: &Value) {
        let established = definition["status"]["conditions"]
            .as_array()
            .into_iter()
            .flatten()
            .any(|one| one["type"] == "Established" && one["status"] == "True");
        if !established {
            return;
        }
        match crd::parse(definition) {
            Ok(custom) => self.0.registry.register(&Arc::new(custom)),
            Err(errors) => {
                // Only a file written by another version of this program can hold such a definition.
                tracing::error!(
                    name = metadata::text(definition, "name"),
                    ?errors,
                    "stored definition is not served"
                );
            }
        }
    }

    /// While a definition waits for its last objects no new ones may appear.
    pub(super) fn refuse_while_definition_ends(&self, custom: &CustomType) -> Result<(), ApiError> {
        let definition = self.get(
            &DEFINITIONS,
            "",
            &format!("{}.{}", custom.plural, custom.group),
        )?;
        if metadata::terminating(&definition) {
            return Err(ApiError::new(
                405,
                "MethodNotAllowed",
                format!(
                    "create not allowed while custom resource definition {:?} is terminating",
                    metadata::text(&definition, "name")
                ),
            ));
        }
        Ok(())
    }

    /// A definition that is to be deleted takes its objects first. True when the definition itself must wait for them.
    pub(super) fn delete_objects_of(&self, definition: &Value) -> Result<bool, ApiError> {
        let spec = &definition["spec"];
        let (Some(group), Some(plural)) =
            (spec["group"].as_str(), spec["names"]["plural"].as_str())
        else {
            return Ok(false);
        };
        let Some(resource) = self.0.registry.find(group, plural) else {
            return Ok(false);
        };
        if resource.custom.is_none() {
            return Ok(false);
        }
        let Some(version) = resource.versions.first() else {
            return Ok(self.0.store.count(&resource.table) > 0);
        };
        let target = Target {
            version: version.name.clone(),
            resource: resource.clone(),
        };
        let objects = self
            .0
            .store
            .list(&resource.table, None, None)
            .map(|snapshot| snapshot.items)
            .unwrap_or_default();
        for (key, _) in objects {
            match self.delete_locked(&target, &key, &DeleteOptions::default()) {
                Ok(_) => {}
                Err(error) if error.code == 404 => {}
                Err(error) => return Err(error),
            }
        }
        Ok(self.0.store.count(&resource.table) > 0)
    }

    /// Called after an object was removed: the last custom object releases its definition, a removed definition stops serving.
    pub(super) fn after_removal(&self, resource: &Resource, last: &Value) -> Result<(), ApiError> {
        if resource.table == table(&DEFINITIONS.group, &DEFINITIONS.resource) {
            let spec = &last["spec"];
            if let (Some(group), Some(plural)) =
                (spec["group"].as_str(), spec["names"]["plural"].as_str())
                && self
                    .0
                    .registry
                    .find(group, plural)
                    .and_then(|found| found.custom.as_ref().map(|custom| custom.kind.clone()))
                    .as_deref()
                    == spec["names"]["kind"].as_str()
            {
                self.0.registry.unregister(group, plural);
            }
            return Ok(());
        }
        let Some(custom) = &resource.custom else {
            return Ok(());
        };
        if self.0.store.count(&resource.table) > 0 {
            return Ok(());
        }
        let definitions = self.resolve(&DEFINITIONS)?;
        let name = format!("{}.{}", custom.plural, custom.group);
        let Ok(definition) = self.stored(&definitions, "", &name) else {
            return Ok(());
        };
        if !metadata::terminating(&definition) {
            return Ok(());
        }
        let mut definition = (*definition).clone();
        let rest: Vec<String> = metadata::finalizers(&definition)
            .filter(|one| *one != CLEANUP)
            .map(str::to_owned)
            .collect();
        metadata::set_finalizers(&mut definition, rest);
        let key = definitions.key("", &name);
        if metadata::released(&definitions.resource, &definition) {
            self.remove(&definitions.resource, &key)?;
        } else {
            self.0
                .store
                .put(&definitions.resource.table, key, definition)?;
        }
        Ok(())
    }

    /// Marks a definition as waiting for its objects.
    pub(super) fn hold_definition(definition: &mut Value) {
        let mut names: Vec<String> = metadata::finalizers(definition)
            .map(str::to_owned)
            .collect();
        if !names.iter().any(|name| name == CLEANUP) {
            names.push(CLEANUP.to_owned());
        }
        metadata::set_finalizers(definition, names);
        let terminating = condition(
            &definition["status"],
            "Terminating",
            "True",
            "InstanceDeletionInProgress",
            "CustomResource deletion is in progress",
        );
        if let Some(conditions) = definition["status"]
            .get_mut("conditions")
            .and_then(Value::as_array_mut)
        {
            conditions.retain(|one| one["type"] != "Terminating");
            conditions.push(terminating);
        }
    }

    pub(super) fn is_definition(resource: &Resource) -> bool {
        resource.table == table(&DEFINITIONS.group, &DEFINITIONS.resource)
    }
}
