//! What a chart gives, as items.
//!
//! No release state: the manifests are applied like any others, so that drift, inventory and deletion are the same. Hooks of the
//! installation become waves before and after the rest.

use std::{cell::RefCell, collections::BTreeSet};

use libretto_api::{
    chart::Rendering,
    object::{Gvk, ObjectRef},
    secret::{MARK, SecretHandle},
};
use libretto_mirror::{Datum, canonical_json, digest};
use serde_json::{Value, json};

use super::{Item, Missing, dressed, optional_text, placed};
use crate::{
    compile::{HelmTemplate, Rule},
    engine::Pass,
    template::Context,
};

/// Waves of hooks are this far from the rest; weights lie between.
const PHASE: i64 = 1 << 32;

/// Kinds that no namespace holds; an owner in a namespace cannot own them.
const CLUSTER_WIDE: &[&str] = &[
    "APIService",
    "ClusterRole",
    "ClusterRoleBinding",
    "CustomResourceDefinition",
    "IngressClass",
    "MutatingWebhookConfiguration",
    "Namespace",
    "PersistentVolume",
    "PriorityClass",
    "RuntimeClass",
    "StorageClass",
    "ValidatingAdmissionPolicy",
    "ValidatingAdmissionPolicyBinding",
    "ValidatingWebhookConfiguration",
];

/// One row's manifests.
pub(super) fn items(
    pass: &Pass<'_>,
    rule: &Rule,
    template: &HelmTemplate,
    context: &Context,
    columns: &[(String, Datum)],
) -> Result<Vec<Item>, Missing> {
    let instance = &pass.snapshot.instance;
    let release = match &template.release {
        Some(tree) => optional_text(tree, context, "release")?.unwrap_or_default(),
        None => instance.name.clone(),
    };
    let mut values = json!({});
    for tree in &template.values {
        if let Some(more) = tree.render(context)? {
            merge(&mut values, more);
        }
    }
    let mut secrets = Vec::new();
    hide(&mut values, &mut secrets);
    let rendering = rendering(template, release, &instance.namespace, values);
    let Some(rendered) = pass.charts.rendered(instance, &rendering) else {
        return Err(Missing::Waits(format!(
            "chart {} to be rendered",
            template.chart.name
        )));
    };
    let manifests = rendered.as_ref().as_ref().map_err(Clone::clone)?;
    let shown = RefCell::new(BTreeSet::new());
    let mut items = Vec::with_capacity(manifests.len());
    for manifest in manifests {
        let mut manifest = manifest.clone();
        prune_nulls(&mut manifest);
        show(&mut manifest, &secrets, &shown);
        items.extend(item(pass, rule, template, manifest, columns)?);
    }
    if let Some(lost) = secrets
        .iter()
        .find(|secret| !shown.borrow().contains(*secret))
    {
        return Err(Missing::Failed(format!(
            "chart {}: {} is encoded or left out by the chart, so that its value cannot be put in: give the chart the name of a Secret instead",
            template.chart.name,
            called(lost)
        )));
    }
    Ok(items)
}

fn rendering(
    template: &HelmTemplate,
    release: String,
    namespace: &str,
    values: Value,
) -> Rendering {
    let chart = template.chart.clone();
    let said = json!([chart.digest, release, namespace, values]);
    Rendering {
        digest: digest(canonical_json(&said).as_bytes()),
        chart,
        release,
        namespace: namespace.to_owned(),
        values,
    }
}

fn item(
    pass: &Pass<'_>,
    rule: &Rule,
    template: &HelmTemplate,
    mut manifest: Value,
    columns: &[(String, Datum)],
) -> Result<Option<Item>, String> {
    let chart = &template.chart.name;
    let named = |manifest: &Value| {
        format!(
            "{} {}",
            manifest["kind"].as_str().unwrap_or("an object"),
            manifest["metadata"]["name"].as_str().unwrap_or_default()
        )
    };
    let gvk = Gvk::of(&manifest).ok_or_else(|| {
        format!(
            "chart {chart}: {} has no apiVersion or kind",
            named(&manifest)
        )
    })?;
    let Some(wave) = wave(&manifest, template, chart)? else {
        return Ok(None);
    };
    if !template.kinds.contains(&gvk) {
        let known: Vec<String> = template.kinds.iter().map(Gvk::to_string).collect();
        return Err(format!(
            "chart {chart}: {} is a {gvk}, and the package only knows of {}: add it to the rule's `helm.kinds`",
            named(&manifest),
            known.join(", ")
        ));
    }
    if CLUSTER_WIDE.contains(&gvk.kind.as_str()) {
        if template.own {
            return Err(format!(
                "chart {chart}: {} is in no namespace, so that the instance cannot own it: switch it off in the values, or write `own: false`",
                named(&manifest)
            ));
        }
        manifest["metadata"]["namespace"] = json!("");
    }
    if wave != 0 && gvk.kind == "Job" {
        // What a Job runs cannot be changed; another one can be run.
        let said = digest(canonical_json(&manifest).as_bytes());
        let name = format!(
            "{}-{}",
            manifest["metadata"]["name"].as_str().unwrap_or_default(),
            &said[..8]
        );
        manifest["metadata"]["name"] = json!(name);
    }
    let kept = annotation(&manifest, "helm.sh/resource-policy") == Some("keep");
    if let Some(object) = manifest.as_object_mut() {
        object.remove("status");
    }
    if let Some(metadata) = manifest["metadata"].as_object_mut() {
        for key in [
            "creationTimestamp",
            "ownerReferences",
            "managedFields",
            "resourceVersion",
            "uid",
        ] {
            metadata.remove(key);
        }
    }
    let place = format!("chart {chart}");
    let own = template.own && !kept;
    let (object, reference): (Value, ObjectRef) = placed(pass, manifest, template.own, &place)?;
    let item = dressed(pass, rule, object, reference, own, &place, columns)?;
    Ok(Some(Item {
        orphan: item.orphan || kept,
        wave,
        ..item
    }))
}

fn annotation<'a>(manifest: &'a Value, name: &str) -> Option<&'a str> {
    manifest["metadata"]["annotations"].get(name)?.as_str()
}

/// When a manifest is applied; `None` when never.
fn wave(manifest: &Value, template: &HelmTemplate, chart: &str) -> Result<Option<i64>, String> {
    let Some(hooks) = annotation(manifest, "helm.sh/hook") else {
        return Ok(Some(0));
    };
    let weight: i64 = annotation(manifest, "helm.sh/hook-weight")
        .and_then(|weight| weight.parse::<i32>().ok())
        .unwrap_or_default()
        .into();
    let hooks: Vec<&str> = hooks.split(',').map(str::trim).collect();
    if hooks.contains(&"pre-install") {
        return Ok(Some(weight - PHASE));
    }
    if hooks.contains(&"post-install") {
        return Ok(Some(weight + PHASE));
    }
    // Tests are run when somebody asks for them.
    if hooks
        .iter()
        .all(|hook| matches!(*hook, "test" | "test-success" | "test-failure"))
        || template.hooks_skipped
    {
        return Ok(None);
    }
    Err(format!(
        "chart {chart}: {} is a hook of {}, which is not run here: switch it off in the values, or write `skip: [hooks]`",
        manifest["metadata"]["name"].as_str().unwrap_or_default(),
        hooks.join(", ")
    ))
}

/// Lays `over` upon `base` as Helm does with values: maps by key, everything else as a whole, null takes away.
fn merge(base: &mut Value, over: Value) {
    match (base, over) {
        (Value::Object(base), Value::Object(over)) => {
            for (key, value) in over {
                merge(base.entry(key).or_insert(Value::Null), value);
            }
        }
        (base, over) => *base = over,
    }
}

/// A key without value says nothing; sent to an API server it would take ownership of a field to hold nothing in it.
fn prune_nulls(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, value| !value.is_null());
            map.values_mut().for_each(prune_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(prune_nulls),
        _ => {}
    }
}

/// Replaces secret handles, whose characters a template would escape, by words that none does.
fn hide(values: &mut Value, secrets: &mut Vec<String>) {
    match values {
        Value::String(text) if text.contains(MARK) => {
            let mut hidden = String::new();
            for (index, part) in text.split(MARK).enumerate() {
                if index % 2 == 0 {
                    hidden.push_str(part);
                    continue;
                }
                let handle = format!("{MARK}{part}{MARK}");
                let number = secrets.iter().position(|known| *known == handle);
                let number = number.unwrap_or_else(|| {
                    secrets.push(handle);
                    secrets.len() - 1
                });
                hidden.push_str(&word(number));
            }
            *text = hidden;
        }
        Value::Array(items) => items.iter_mut().for_each(|item| hide(item, secrets)),
        Value::Object(map) => map.values_mut().for_each(|item| hide(item, secrets)),
        _ => {}
    }
}

/// A handle in words.
fn called(handle: &str) -> String {
    match libretto_api::secret::pieces(handle).first() {
        Some(libretto_api::secret::Piece::Handle(SecretHandle::Key { name, key })) => {
            format!("key {key} of Secret {name}, which is among the values,")
        }
        Some(libretto_api::secret::Piece::Handle(SecretHandle::Field { field, .. })) => {
            format!("the sensitive field {field}, which is among the values,")
        }
        Some(libretto_api::secret::Piece::Handle(SecretHandle::Made { .. })) => {
            "random(), which is among the values,".to_owned()
        }
        _ => "a secret among the values".to_owned(),
    }
}

fn word(number: usize) -> String {
    format!("libretto-secret-{number}-handle")
}

/// Puts the handles back, and notes which.
fn show(value: &mut Value, secrets: &[String], shown: &RefCell<BTreeSet<String>>) {
    match value {
        Value::String(text) if text.contains("libretto-secret-") => {
            for (number, handle) in secrets.iter().enumerate() {
                if text.contains(&word(number)) {
                    *text = text.replace(&word(number), handle);
                    shown.borrow_mut().insert(handle.clone());
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| show(item, secrets, shown)),
        Value::Object(map) => map.values_mut().for_each(|item| show(item, secrets, shown)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_merged_as_helm_does() {
        let mut base = json!({"a": {"x": 1, "y": 2}, "list": [1, 2]});
        merge(&mut base, json!({"a": {"y": 3}, "list": [9], "b": true}));
        assert_eq!(base, json!({"a": {"x": 1, "y": 3}, "list": [9], "b": true}));
    }

    #[test]
    fn nulls_go_from_maps_and_stay_in_lists() {
        let mut value = json!({"a": null, "b": {"c": null, "d": [null, {"e": null}]}});
        prune_nulls(&mut value);
        assert_eq!(value, json!({"b": {"d": [null, {}]}}));
    }

    #[test]
    fn handles_go_through_as_words() {
        let handle = format!("{MARK}secret:key:db:password{MARK}");
        let mut values = json!({"url": format!("x:{handle}@y"), "again": handle, "plain": 1});
        let mut secrets = Vec::new();
        hide(&mut values, &mut secrets);
        assert_eq!(
            values,
            json!({"url": "x:libretto-secret-0-handle@y", "again": "libretto-secret-0-handle", "plain": 1})
        );
        let shown = RefCell::default();
        show(&mut values, &secrets, &shown);
        assert_eq!(shown.borrow().len(), 1);
        assert_eq!(values["again"], handle);
    }
}
