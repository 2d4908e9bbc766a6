//! What single built-in kinds need between defaulting and validation: values Kubernetes fills in that depend on other objects or on
//! the state before. Everything that can be said as data is in the schema table instead.

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use super::{Api, crds, metadata, pods, services};
use crate::{
    error::{ApiError, FieldError},
    registry::Resource,
};

/// Nodes report their status when they register; for everything else the server or a controller sets it.
pub(super) fn keeps_status_on_create(resource: &Resource) -> bool {
    resource.qualified() == "nodes"
}

/// What counts as sent by the client although it is written in another place: upstream does it while decoding, so the writer owns the
/// result. Runs before ownership is settled.
pub(super) fn decode(
    api: &Api,
    resource: &Resource,
    object: &mut Value,
    old: Option<&Value>,
) -> Vec<FieldError> {
    match resource.qualified().as_str() {
        "namespaces" => {
            own_name_label(object);
            Vec::new()
        }
        "secrets" => secret(object, old),
        "customresourcedefinitions.apiextensions.k8s.io" => crds::prepare(api, object, old),
        "daemonsets.apps" => {
            template_generation(object, old);
            Vec::new()
        }
        _ => Vec::new(),
    }
}

/// Completes `object` with what depends on others; the answer is what is wrong with it. `old` is given on updates. Runs after
/// ownership is settled: nobody owns a cluster IP or the number behind a priority class, so leaving them out later changes nothing.
pub(super) fn prepare(
    api: &Api,
    resource: &Resource,
    object: &mut Value,
    old: Option<&Value>,
) -> Result<Vec<FieldError>, ApiError> {
    match resource.qualified().as_str() {
        "namespaces" => namespace(object, old),
        "pods" => return pods::prepare(api, object, old),
        "jobs.batch" if old.is_none() => return Ok(job(object)),
        "services" => return services::prepare(api, object, old),
        "persistentvolumeclaims" if old.is_none() => {
            object["status"] = json!({"phase": "Pending"});
            hold(object, "kubernetes.io/pvc-protection");
        }
        "persistentvolumes" if old.is_none() => {
            object["status"] = json!({"phase": "Pending"});
            hold(object, "kubernetes.io/pv-protection");
        }
        "statefulsets.apps" if old.is_none() => {
            object["status"] = json!({"replicas": 0, "availableReplicas": 0});
        }
        "replicasets.apps" if old.is_none() => object["status"] = json!({"replicas": 0}),
        "daemonsets.apps" if old.is_none() => {
            object["status"] = json!({
                "currentNumberScheduled": 0, "desiredNumberScheduled": 0,
                "numberMisscheduled": 0, "numberReady": 0,
            });
        }
        "poddisruptionbudgets.policy" if old.is_none() => {
            object["status"] = json!({
                "currentHealthy": 0, "desiredHealthy": 0, "disruptionsAllowed": 0, "expectedPods": 0,
            });
        }
        _ => {}
    }
    Ok(Vec::new())
}

/// What is in use stays: the controllers let go of it. Nobody owns the finalizer.
fn hold(object: &mut Value, finalizer: &str) {
    let mut names: Vec<String> = metadata::finalizers(object).map(str::to_owned).collect();
    if !names.iter().any(|name| name == finalizer) {
        names.push(finalizer.to_owned());
        metadata::set_finalizers(object, names);
    }
}

/// Upstream still counts the changes of a daemon set's template in an annotation of old.
fn template_generation(object: &mut Value, old: Option<&Value>) {
    const ANNOTATION: &str = "deprecated.daemonset.template.generation";
    let count = match old {
        None => 1,
        Some(old) => {
            let before: u64 = old["metadata"]["annotations"][ANNOTATION]
                .as_str()
                .and_then(|text| text.parse().ok())
                .unwrap_or(1);
            before + u64::from(old["spec"]["template"] != object["spec"]["template"])
        }
    };
    let annotations = metadata::metadata(object)
        .entry("annotations")
        .or_insert_with(|| json!({}));
    if let Some(annotations) = annotations.as_object_mut() {
        annotations.insert(ANNOTATION.to_owned(), count.to_string().into());
    }
}

/// A job finds its pods by its own uid unless the user takes charge with `manualSelector`.
fn job(object: &mut Value) -> Vec<FieldError> {
    let (name, uid) = (
        metadata::text(object, "name").to_owned(),
        metadata::text(object, "uid").to_owned(),
    );
    let invalid = |field: String, value: &Value, why: &str| FieldError {
        reason: "FieldValueInvalid",
        field,
        message: format!("Invalid value: {value}: {why}"),
    };
    if object["spec"]["manualSelector"] == true {
        if !object["spec"]["selector"].is_object() {
            return vec![FieldError {
                reason: "FieldValueRequired",
                field: "spec.selector".to_owned(),
                message: "Required value".to_owned(),
            }];
        }
        return Vec::new();
    }
    let generated = json!({"matchLabels": {"batch.kubernetes.io/controller-uid": uid}});
    let mut errors = Vec::new();
    let given = &object["spec"]["selector"];
    if !given.is_null() && *given != json!({}) && *given != generated {
        errors.push(invalid(
            "spec.selector".to_owned(),
            given,
            "`selector` not auto-generated",
        ));
    }
    let Some(spec) = metadata::child(object, "spec") else {
        return errors;
    };
    spec.insert("selector".to_owned(), generated);
    let labels = spec
        .get_mut("template")
        .and_then(|template| metadata::child(template, "metadata"))
        .and_then(|fields| {
            let labels = fields.entry("labels").or_insert(Value::Null);
            if labels.is_null() {
                *labels = json!({});
            }
            labels.as_object_mut()
        });
    let Some(labels) = labels else {
        return errors;
    };
    for (label, expected) in [
        ("batch.kubernetes.io/controller-uid", &uid),
        ("batch.kubernetes.io/job-name", &name),
        ("controller-uid", &uid),
        ("job-name", &name),
    ] {
        let found = labels
            .entry(label)
            .or_insert_with(|| expected.as_str().into());
        if found != expected.as_str() {
            errors.push(invalid(
                format!("spec.template.metadata.labels[{label}]"),
                found,
                &format!("must be '{expected}'"),
            ));
        }
    }
    // Defaulting gives a job without labels those of its template, and would do so at the next write.
    let labels = Value::Object(labels.clone());
    let fields = metadata::metadata(object);
    if fields
        .get("labels")
        .is_none_or(|own| own.is_null() || *own == json!({}))
    {
        fields.insert("labels".to_owned(), labels);
    }
    errors
}

fn own_name_label(object: &mut Value) {
    let name = metadata::text(object, "name").to_owned();
    if let Some(labels) = metadata::metadata(object)
        .entry("labels")
        .or_insert_with(|| json!({}))
        .as_object_mut()
    {
        labels.insert("kubernetes.io/metadata.name".to_owned(), name.into());
    }
}

fn namespace(object: &mut Value, old: Option<&Value>) {
    let Some(old) = old else {
        object["spec"] = json!({"finalizers": ["kubernetes"]});
        object["status"] = json!({"phase": "Active"});
        return;
    };
    // Losing the finalizers by a careless replace would let the namespace vanish before its content.
    let given = object["spec"].get("finalizers").cloned();
    if (given.is_none() || !metadata::terminating(old))
        && let Some(spec) = metadata::child(object, "spec")
        && let Some(held) = old["spec"].get("finalizers")
    {
        spec.insert("finalizers".to_owned(), held.clone());
    }
}

/// `stringData` is write-only: it ends up in `data`.
fn secret(object: &mut Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let texts = object
        .as_object_mut()
        .and_then(|secret| secret.remove("stringData"));
    match texts {
        None | Some(Value::Null) => {}
        Some(Value::Object(texts)) => {
            if let Some(data) = metadata::child(object, "data") {
                for (key, text) in texts {
                    match text.as_str() {
                        Some(text) => data.insert(key, STANDARD.encode(text).into()),
                        None => {
                            errors.push(wrong_type(format!("stringData[{key}]"), "a string"));
                            continue;
                        }
                    };
                }
            }
        }
        Some(_) => errors.push(wrong_type("stringData", "an object with string values")),
    }
    for (key, value) in object["data"].as_object().into_iter().flatten() {
        // Go's decoder skips line breaks, so folded YAML values are welcome.
        let text: String = value
            .as_str()
            .unwrap_or_default()
            .split_whitespace()
            .collect();
        if STANDARD.decode(text).is_err() {
            errors.push(FieldError {
                reason: "FieldValueInvalid",
                field: format!("data[{key}]"),
                message: "Invalid value: must be base64 (use stringData for plain text)".to_owned(),
            });
        }
    }
    if object["type"].as_str().is_none_or(str::is_empty) {
        object["type"] = old
            .and_then(|old| old["type"].as_str())
            .unwrap_or("Opaque")
            .into();
    }
    errors
}

fn wrong_type(field: impl Into<String>, expected: &str) -> FieldError {
    FieldError {
        reason: "FieldValueInvalid",
        field: field.into(),
        message: format!("Invalid value: must be {expected}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secret_texts_become_data() {
        let mut object = json!({"metadata": {}, "stringData": {"a": "x"}, "data": {"b": "eQ=="}});
        assert!(secret(&mut object, None).is_empty());
        assert_eq!(
            object,
            json!({"metadata": {}, "data": {"a": "eA==", "b": "eQ=="}, "type": "Opaque"})
        );
    }

    #[test]
    fn wrong_secret_data_is_named() {
        let mut object = json!({"metadata": {}, "data": {"k": "not base64!"}});
        let errors = secret(&mut object, None);
        assert_eq!(errors[0].field, "data[k]");
    }
}
