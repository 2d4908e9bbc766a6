//! Rules for what holds data: ConfigMaps, Secrets, volumes, claims, storage classes.

use serde_json::Value;

use super::{Errors, at, immutable, list, one_of, text};
use crate::schema::{
    field::{forbidden, invalid, not_supported, required, too_long},
    names,
    quantity::Quantity,
};

/// Upstream's bound on the data of a ConfigMap or Secret: one MiB.
const DATA_BYTES: usize = 1024 * 1024;

const FROZEN: &str = "field is immutable when `immutable` is set";

pub(super) fn config_map(new: &Value, old: Option<&Value>, errors: &mut Errors) {
    data(new, &["data", "binaryData"], errors);
    for key in new["binaryData"]
        .as_object()
        .into_iter()
        .flat_map(|data| data.keys())
    {
        if new["data"].get(key).is_some() {
            errors.push(invalid(
                format!("data[{key}]"),
                &key.as_str().into(),
                "duplicate of key present in binaryData",
            ));
        }
    }
    frozen(new, old, &["data", "binaryData"], errors);
}

pub(super) fn secret(new: &Value, old: Option<&Value>, errors: &mut Errors) {
    immutable(new, old, "type", errors);
    data(new, &["data"], errors);
    let needed: &[&str] = match text(new, "type") {
        "kubernetes.io/tls" => &["tls.crt", "tls.key"],
        "kubernetes.io/dockerconfigjson" => &[".dockerconfigjson"],
        "kubernetes.io/ssh-auth" => &["ssh-privatekey"],
        _ => &[],
    };
    for key in needed {
        if new["data"].get(*key).is_none() {
            errors.push(required(format!("data[{key}]"), ""));
        }
    }
    let given = |key: &str| new["data"].get(key).is_some();
    if text(new, "type") == "kubernetes.io/basic-auth" && !given("username") && !given("password") {
        for key in ["username", "password"] {
            errors.push(required(format!("data[{key}]"), ""));
        }
    }
    if text(new, "type") == "kubernetes.io/service-account-token" {
        let account = &new["metadata"]["annotations"]["kubernetes.io/service-account.name"];
        if account.as_str().is_none_or(str::is_empty) {
            errors.push(required(
                "metadata.annotations[kubernetes.io/service-account.name]",
                "",
            ));
        }
    }
    frozen(new, old, &["data"], errors);
}

fn data(object: &Value, fields: &[&str], errors: &mut Errors) {
    let mut bytes = 0;
    for field in fields {
        for (key, value) in object[*field].as_object().into_iter().flatten() {
            if let Some(why) = names::config_key(key) {
                errors.push(invalid(
                    format!("{field}[{key}]"),
                    &key.as_str().into(),
                    &why,
                ));
            }
            bytes += value.as_str().map_or(0, str::len);
        }
    }
    if bytes > DATA_BYTES {
        errors.push(too_long("", DATA_BYTES as u64));
    }
}

/// What is marked immutable stays, mark included.
fn frozen(new: &Value, old: Option<&Value>, fields: &[&str], errors: &mut Errors) {
    let Some(old) = old.filter(|old| old["immutable"] == true) else {
        return;
    };
    if new["immutable"] != true {
        errors.push(forbidden("immutable", FROZEN));
    }
    for field in fields {
        if old[*field] != new[*field] {
            errors.push(forbidden(*field, FROZEN));
        }
    }
}

const ACCESS_MODES: &[&str] = &[
    "ReadOnlyMany",
    "ReadWriteMany",
    "ReadWriteOnce",
    "ReadWriteOncePod",
];

pub(super) fn claim(new: &Value, old: Option<&Value>, errors: &mut Errors) {
    claim_spec(&new["spec"], "spec", errors);
    one_of(new, "status.phase", &["Pending", "Bound", "Lost"], errors);
    let Some(old) = old else { return };
    let (before, after) = (&old["spec"], &new["spec"]);
    if comparable_claim(before, after) != comparable_claim(after, after) {
        let why = "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims";
        errors.push(forbidden("spec", why));
    }
    let storage = |spec: &Value| Quantity::from_json(at(spec, "resources.requests.storage"));
    match (storage(before), storage(after)) {
        (Some(small), Some(large))
            if large.cmp(small).is_gt() && text(&old["status"], "phase") != "Bound" =>
        {
            errors.push(forbidden("spec", "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims"));
        }
        (Some(large), Some(small)) if small.cmp(large).is_lt() => {
            let why = "field can not be less than status.capacity";
            errors.push(forbidden("spec.resources.requests.storage", why));
        }
        _ => {}
    }
}

/// `spec` with what may change taken from `model`.
fn comparable_claim(spec: &Value, model: &Value) -> Value {
    let mut spec = spec.clone();
    let Some(object) = spec.as_object_mut() else {
        return spec;
    };
    object.insert("resources".to_owned(), model["resources"].clone());
    object.insert(
        "volumeAttributesClassName".to_owned(),
        model["volumeAttributesClassName"].clone(),
    );
    // The binder names the volume once; the default class is filled in once.
    for key in ["volumeName", "storageClassName"] {
        if object
            .get(key)
            .is_none_or(|value| value.is_null() || value == "")
        {
            object.insert(key.to_owned(), model[key].clone());
        }
    }
    object.retain(|_, value| !value.is_null());
    spec
}

/// A claim's specification, also in templates.
pub(super) fn claim_spec(spec: &Value, path: &str, errors: &mut Errors) {
    let modes = list(spec, "accessModes");
    if modes.is_empty() {
        errors.push(required(
            format!("{path}.accessModes"),
            "at least 1 access mode is required",
        ));
    }
    access_modes(modes, path, errors);
    let mode = &spec["volumeMode"];
    if !matches!(mode.as_str(), None | Some("Block" | "Filesystem")) {
        errors.push(not_supported(
            format!("{path}.volumeMode"),
            mode,
            &["Block", "Filesystem"],
        ));
    }
    let class = text(spec, "storageClassName");
    if !class.is_empty()
        && let Some(why) = names::dns1123_subdomain(class)
    {
        errors.push(invalid(
            format!("{path}.storageClassName"),
            &class.into(),
            &why,
        ));
    }
    let storage = at(spec, "resources.requests.storage");
    match Quantity::from_json(storage) {
        None => errors.push(required(format!("{path}.resources[storage]"), "")),
        Some(size) if size.is_negative() || storage == "0" => {
            errors.push(invalid(
                format!("{path}.resources[storage]"),
                storage,
                "must be greater than zero",
            ));
        }
        Some(_) => {}
    }
}

fn access_modes(modes: &[Value], path: &str, errors: &mut Errors) {
    for mode in modes {
        if !mode
            .as_str()
            .is_some_and(|mode| ACCESS_MODES.contains(&mode))
        {
            errors.push(not_supported(
                format!("{path}.accessModes"),
                mode,
                ACCESS_MODES,
            ));
        }
    }
}

pub(super) fn volume(new: &Value, old: Option<&Value>, errors: &mut Errors) {
    let spec = &new["spec"];
    if list(spec, "accessModes").is_empty() {
        errors.push(required("spec.accessModes", ""));
    }
    access_modes(list(spec, "accessModes"), "spec", errors);
    if Quantity::from_json(at(spec, "capacity.storage")).is_none() {
        errors.push(required("spec.capacity", ""));
    }
    one_of(
        new,
        "spec.persistentVolumeReclaimPolicy",
        &["Delete", "Recycle", "Retain"],
        errors,
    );
    one_of(new, "spec.volumeMode", &["Block", "Filesystem"], errors);
    immutable(new, old, "spec.volumeMode", errors);
}

pub(super) fn class(new: &Value, old: Option<&Value>, errors: &mut Errors) {
    if text(new, "provisioner").is_empty() {
        errors.push(required("provisioner", ""));
    }
    one_of(new, "reclaimPolicy", &["Delete", "Retain"], errors);
    one_of(
        new,
        "volumeBindingMode",
        &["Immediate", "WaitForFirstConsumer"],
        errors,
    );
    let Some(old) = old else { return };
    for field in [
        "parameters",
        "provisioner",
        "reclaimPolicy",
        "volumeBindingMode",
    ] {
        if old[field] != new[field] {
            errors.push(forbidden(
                field,
                &format!("updates to {field} are forbidden."),
            ));
        }
    }
}
