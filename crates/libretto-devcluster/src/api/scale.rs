//! The scale subresource: `autoscaling/v1 Scale` as a view on two or three fields of the object.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{Api, Gvr, Patch, Subresource, Target, WriteOptions, Written, metadata};
use crate::{
    crd::ScalePaths,
    error::{ApiError, FieldError},
    patch,
};

impl Api {
    /// The Scale of an object.
    pub fn scale(&self, gvr: &Gvr, namespace: &str, name: &str) -> Result<Value, ApiError> {
        let target = self.resolve(gvr)?;
        let paths = scale_paths(&target)?;
        let object = self.get(gvr, namespace, name)?;
        let pointer = format!(
            "/{}",
            paths
                .spec_replicas
                .trim_start_matches('.')
                .replace('.', "/")
        );
        if target.resource.custom.is_some() && object.pointer(&pointer).is_none() {
            let why = format!(
                "the spec replicas field \".{}\" does not exist",
                paths.spec_replicas.trim_start_matches('.')
            );
            let mut error = ApiError::internal(format!("Internal error occurred: {why}"));
            error.details = json!({"causes": [{"message": why}]});
            return Err(error);
        }
        Ok(view(&object, &paths))
    }

    /// As `scale`, also where there is no number yet: for changes of it.
    fn present_scale(&self, gvr: &Gvr, namespace: &str, name: &str) -> Result<Value, ApiError> {
        let target = self.resolve(gvr)?;
        let paths = scale_paths(&target)?;
        Ok(view(&*self.get(gvr, namespace, name)?, &paths))
    }

    pub(super) fn update_scale(
        &self,
        gvr: &Gvr,
        namespace: &str,
        name: &str,
        scale: &Value,
        options: &WriteOptions,
    ) -> Result<Written, ApiError> {
        let target = self.resolve(gvr)?;
        let paths = scale_paths(&target)?;
        let replicas = scale["spec"]
            .get("replicas")
            .cloned()
            .unwrap_or_else(|| json!(0));
        check_replicas(name, &replicas)?;
        let mut changes = nested(&paths.spec_replicas, replicas);
        let mut conditions = serde_json::Map::new();
        for field in ["uid", "resourceVersion"] {
            let value = metadata::text(scale, field);
            if !value.is_empty() {
                conditions.insert(field.to_owned(), value.into());
            }
        }
        changes["metadata"] = Value::Object(conditions);
        let mut written = self.patch_object(
            gvr,
            namespace,
            name,
            Subresource::Scale,
            Patch::Merge(changes),
            options,
        )?;
        written.object = Arc::new(view(&written.object, &paths));
        Ok(written)
    }

    pub(super) fn patch_scale(
        &self,
        gvr: &Gvr,
        namespace: &str,
        name: &str,
        change: Patch,
        options: &WriteOptions,
    ) -> Result<Written, ApiError> {
        let mut scale = self.present_scale(gvr, namespace, name)?;
        // The Scale is a fresh view: only what the patch itself says of the revision is a condition.
        metadata::metadata(&mut scale).remove("resourceVersion");
        match change {
            Patch::Json(operations) => {
                scale = patch::json(&scale, &operations)
                    .map_err(|error| ApiError::new(422, "Invalid", error.to_string()))?;
            }
            Patch::Apply(config) => {
                return self.apply_scale(gvr, namespace, name, &config, options);
            }
            Patch::Merge(changes) | Patch::Strategic(changes) => {
                // A Scale has no lists, so both mean the same.
                patch::merge(&mut scale, &changes);
            }
        }
        self.update_scale(gvr, namespace, name, &scale, options)
    }

    /// An applied Scale is an applied object that has nothing but the number of replicas: ownership is kept where the number is.
    fn apply_scale(
        &self,
        gvr: &Gvr,
        namespace: &str,
        name: &str,
        scale: &Value,
        options: &WriteOptions,
    ) -> Result<Written, ApiError> {
        let target = self.resolve(gvr)?;
        let paths = scale_paths(&target)?;
        if scale["apiVersion"] != "autoscaling/v1" || scale["kind"] != "Scale" {
            return Err(ApiError::bad_request(
                "what is applied to a scale must be of apiVersion autoscaling/v1 and kind Scale",
            ));
        }
        let unknown = scale["spec"]
            .as_object()
            .into_iter()
            .flatten()
            .find(|(field, _)| *field != "replicas");
        if let Some((field, _)) = unknown {
            return Err(ApiError::bad_request(format!(
                "failed to create typed patch object ({namespace}/{name}; autoscaling/v1, Kind=Scale): .spec.{field}: field not declared in schema"
            )));
        }
        let mut config = match scale["spec"].get("replicas") {
            Some(replicas) => {
                check_replicas(name, replicas)?;
                nested(&paths.spec_replicas, replicas.clone())
            }
            // Applying nothing gives up what was applied before.
            None => json!({}),
        };
        config["apiVersion"] = target.resource.api_version(&target.version).into();
        config["kind"] = target.resource.kind.as_str().into();
        config["metadata"] = json!({});
        for field in ["name", "uid", "resourceVersion"] {
            let value = metadata::text(scale, field);
            if !value.is_empty() {
                config["metadata"][field] = value.into();
            }
        }
        let mut written = self.patch_object(
            gvr,
            namespace,
            name,
            Subresource::Scale,
            Patch::Apply(config),
            options,
        )?;
        written.object = Arc::new(view(&written.object, &paths));
        Ok(written)
    }
}

fn check_replicas(name: &str, replicas: &Value) -> Result<(), ApiError> {
    if replicas.as_i64().is_some_and(|count| count >= 0) {
        return Ok(());
    }
    Err(ApiError::invalid(
        "autoscaling",
        "Scale",
        name,
        &[FieldError {
            reason: "FieldValueInvalid",
            field: "spec.replicas".to_owned(),
            message: format!("Invalid value: {replicas}: must be greater than or equal to 0"),
        }],
    ))
}

fn scale_paths(target: &Target) -> Result<ScalePaths, ApiError> {
    target
        .resource
        .version(&target.version)
        .and_then(|version| version.scale.clone())
        .ok_or_else(ApiError::unknown_resource)
}

fn view(object: &Value, paths: &ScalePaths) -> Value {
    let at = |path: &str| {
        path.split('.')
            .filter(|step| !step.is_empty())
            .fold(object, |value, step| &value[step])
    };
    let mut scale = json!({
        "apiVersion": "autoscaling/v1", "kind": "Scale",
        "metadata": {
            "name": object["metadata"]["name"], "namespace": object["metadata"]["namespace"],
            "uid": object["metadata"]["uid"], "resourceVersion": object["metadata"]["resourceVersion"],
            "creationTimestamp": object["metadata"]["creationTimestamp"],
        },
        "spec": {},
        "status": {"replicas": at(&paths.status_replicas).as_i64().unwrap_or(0)},
    });
    // None is written as nothing.
    let wanted = at(&paths.spec_replicas).as_i64().unwrap_or(0);
    if wanted != 0 {
        scale["spec"]["replicas"] = wanted.into();
    }
    let selector = paths.selector.as_deref().map(at);
    match selector {
        Some(Value::String(text)) => scale["status"]["selector"] = text.as_str().into(),
        Some(selector @ Value::Object(_)) => {
            scale["status"]["selector"] = selector_text(selector).into();
        }
        _ => {}
    }
    scale
}

/// A workload's selector in the text form of lists.
fn selector_text(selector: &Value) -> String {
    let mut terms: Vec<String> = selector["matchLabels"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
        .collect();
    for expression in selector["matchExpressions"]
        .as_array()
        .into_iter()
        .flatten()
    {
        let key = expression["key"].as_str().unwrap_or_default();
        let values: Vec<_> = expression["values"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        terms.push(match expression["operator"].as_str() {
            Some("Exists") => key.to_owned(),
            Some("DoesNotExist") => format!("!{key}"),
            Some("NotIn") => format!("{key} notin ({})", values.join(",")),
            _ => format!("{key} in ({})", values.join(",")),
        });
    }
    terms.join(",")
}

/// `a.b.c` and a value as nested objects.
fn nested(path: &str, value: Value) -> Value {
    path.split('.')
        .filter(|step| !step.is_empty())
        .rev()
        .fold(value, |inner, step| json!({step: inner}))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scale_is_a_view_of_the_object() {
        let object = json!({"metadata": {"name": "a", "namespace": "n", "uid": "u", "resourceVersion": "5"},
            "spec": {"replicas": 3, "selector": {"matchLabels": {"a": "b"}, "matchExpressions": [{"key": "c", "operator": "In", "values": ["x", "y"]}]}},
            "status": {"replicas": 2}});
        let paths = ScalePaths {
            spec_replicas: ".spec.replicas".to_owned(),
            status_replicas: ".status.replicas".to_owned(),
            selector: Some(".spec.selector".to_owned()),
        };
        let scale = view(&object, &paths);
        assert_eq!(scale["spec"]["replicas"], 3);
        assert_eq!(
            scale["status"],
            json!({"replicas": 2, "selector": "a=b,c in (x,y)"})
        );
        assert_eq!(nested(".spec.size", json!(1)), json!({"spec": {"size": 1}}));
    }
}
