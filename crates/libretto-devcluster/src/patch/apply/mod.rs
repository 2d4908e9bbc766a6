//! Server-side apply and field ownership: upstream's structured-merge-diff, over JSON values and schema nodes.
//!
//! The order of steps matters and follows upstream: merge, record what the manager sets, prune what it gave up, compare with the live
//! object, settle ownership, and only then drop the nulls pruning left behind.

mod element;
mod fieldset;
mod managers;
mod merge;
mod relation;
mod typed;
mod walk;

#[cfg(test)]
mod cases;
#[cfg(test)]
mod properties;

#[cfg(test)]
pub(super) use cases::custom as tests_custom;

use serde_json::{Value, json};

use self::{
    fieldset::FieldSet,
    managers::{Entry, Operation},
    walk::Comparison,
};
use super::{ApplyError, Conflict, Manager};
use crate::schema::{TypeSchema, node::Node};

pub(super) fn apply(
    schema: &TypeSchema,
    live: Option<&Value>,
    config: &Value,
    manager: &Manager,
    force: bool,
) -> Result<Value, ApplyError> {
    let node = Some(schema.root());
    if config["metadata"]
        .get("managedFields")
        .is_some_and(|list| !list.is_null())
    {
        return Err(ApplyError::Malformed(
            "metadata.managedFields must be nil".to_owned(),
        ));
    }
    check(schema, config)?;
    let config = applicable(schema, config, &manager.subresource);
    let created = json!({});
    let live_object = live.unwrap_or(&created);
    let mut entries = managers::entries(live_object);
    let live_bare = managers::bare(live_object);
    if entries.is_empty() && live.is_some() {
        // Somebody wrote this object before ownership was tracked; what is there belongs to them until an apply changes it.
        let mut zero = json!({});
        schema.root().with_zero_values(&mut zero);
        let mut values = live_bare.clone();
        schema.root().with_zero_values(&mut values);
        let set = managers::without_identity(&walk::compare(node, &zero, &values).changed);
        let version = live_bare["apiVersion"].as_str().unwrap_or_default();
        entries.push(managers::before_first_apply(version, set, &manager.time));
    }

    let position = entries
        .iter()
        .position(|entry| entry.is(manager, Operation::Apply));
    let previous = position.map(|position| entries.remove(position));
    let set = managers::without_identity(&walk::field_set(node, &config));
    let merged = merge::merge(node, &live_bare, &config);
    let pruned = match &previous {
        Some(previous) if !previous.set.is_empty() => {
            prune(node, &merged, &previous.set, &set, &entries)
        }
        _ => merged,
    };

    let mut changes = walk::compare(node, &live_bare, &pruned);
    restrict(schema, &mut changes, &manager.subresource);
    let mut conflicts = conflicts(&entries, &changes);
    if let Some(allowed) = last_applied(node, &live_bare, manager) {
        // Coming from client-side apply: what that applied and nobody has changed is kubectl's own.
        conflicts.retain(|conflict| !allowed.contains(&conflict.field));
    }
    if !force && !conflicts.is_empty() {
        return Err(ApplyError::Conflicts(conflicts));
    }
    settle(&mut entries, &changes);

    let mut result = pruned;
    merge::drop_nulls(node, &mut result);
    merge::restore_empty(node, &mut result, &config);
    let time = if live.is_some() && result == live_bare {
        previous.and_then(|previous| previous.time)
    } else {
        Some(manager.time.clone())
    };
    entries.push(Entry {
        manager: manager.name.clone(),
        operation: Operation::Apply,
        subresource: manager.subresource.clone(),
        api_version: manager.api_version.clone(),
        time,
        set,
    });
    managers::store(&mut result, entries);
    Ok(result)
}

pub(super) fn check(schema: &TypeSchema, config: &Value) -> Result<(), ApplyError> {
    let problems = typed::check(Some(schema.root()), config);
    if problems.is_empty() {
        return Ok(());
    }
    Err(ApplyError::Malformed(typed::describe(config, &problems)))
}

pub(super) fn track_update(
    schema: &TypeSchema,
    live: Option<&Value>,
    mut new: Value,
    manager: &Manager,
) -> Value {
    let node = Some(schema.root());
    if manager.subresource.is_empty() && managers::is_reset(&new) {
        managers::strip(&mut new);
        return new;
    }
    // Clients may rewrite managedFields, but only on the object itself, and not by accident: nothing sent means the live list.
    let sent = if manager.subresource.is_empty() {
        managers::entries(&new)
    } else {
        Vec::new()
    };
    let mut entries = match live {
        _ if !sent.is_empty() => sent,
        Some(live) => managers::entries(live),
        None => Vec::new(),
    };
    managers::strip(&mut new);
    if live.is_some() && entries.is_empty() {
        return new;
    }
    let mut live_bare = live.map_or_else(|| json!({}), managers::bare);
    // Upstream compares Go values, in which some fields are there from the start.
    schema.root().with_zero_values(&mut live_bare);
    let mut new_values = new.clone();
    schema.root().with_zero_values(&mut new_values);
    let mut changes = walk::compare(node, &live_bare, &new_values);
    restrict(schema, &mut changes, &manager.subresource);
    settle_update(&mut entries, &changes, manager);
    managers::cap(&mut entries);
    managers::store(&mut new, entries);
    new
}

/// The part of a configuration an apply to this subresource can set. Applying to the object never touches `status`; applying to `status`
/// touches nothing else (the strategies upstream reset everything else there).
fn applicable(schema: &TypeSchema, config: &Value, subresource: &str) -> Value {
    let mut config = config.clone();
    let Some(object) = config.as_object_mut() else {
        return config;
    };
    match subresource {
        "" if schema.has_status() => {
            object.remove("status");
        }
        "status" => {
            object.retain(|name, _| {
                matches!(name.as_str(), "apiVersion" | "kind" | "metadata" | "status")
            });
            if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
                metadata.retain(|name, _| {
                    matches!(
                        name.as_str(),
                        "name" | "namespace" | "uid" | "resourceVersion"
                    )
                });
            }
        }
        _ => {}
    }
    config
}

/// Changes a write to this subresource cannot have made belong to nobody.
fn restrict(schema: &TypeSchema, changes: &mut Comparison, subresource: &str) {
    let foreign: &[&str] = match subresource {
        "" if schema.has_status() => &["status"],
        "status" => &["spec"],
        _ => &[],
    };
    let strip = |set: &FieldSet| managers::without_identity(set).without_top_level(foreign);
    changes.changed = strip(&changes.changed);
    changes.removed = strip(&changes.removed);
}

/// The fields of client-side apply's last configuration that are still as it left them; for kubectl only, as upstream has it.
fn last_applied(node: Option<&Node>, live: &Value, manager: &Manager) -> Option<Vec<String>> {
    if manager.name != "kubectl" {
        return None;
    }
    let text = live["metadata"]["annotations"][super::LAST_APPLIED].as_str()?;
    let last: Value = serde_json::from_str(text).ok()?;
    let comparison = walk::compare(node, &last, live);
    Some(
        walk::field_set(node, &last)
            .difference(&comparison.changed)
            .difference(&comparison.removed)
            .paths()
            .into_iter()
            .collect(),
    )
}

/// `merged` without what the manager applied last time, does not apply now, and nobody else owns.
fn prune(
    node: Option<&Node>,
    merged: &Value,
    last: &FieldSet,
    current: &FieldSet,
    others: &[Entry],
) -> Value {
    let named = |set: &FieldSet| walk::with_named_fields(node, set);
    let remove =
        |fields: &FieldSet| merge::remove(node, merged, fields).unwrap_or_else(|| json!({}));
    let last = named(last);
    let owned = others
        .iter()
        .fold(current.clone(), |all, entry| all.union(&entry.set));

    let without_last = remove(&last);
    let present = named(&walk::field_set(node, merged));
    // Add back what somebody owns: removing a list item took its fields with it.
    let kept = named(&walk::field_set(node, &without_last)).union(&named(&owned));
    let with_owned = remove(&present.difference(&kept));
    // Add back what the manager never owned but lost a parent above.
    let gone = present
        .difference(&named(&walk::field_set(node, &with_owned)))
        .intersection(&last);
    remove(&gone)
}

fn conflicts(others: &[Entry], changes: &Comparison) -> Vec<Conflict> {
    let mut out = Vec::new();
    for entry in others {
        for field in entry.set.intersection(&changes.changed).paths() {
            out.push(Conflict {
                manager: entry.manager.clone(),
                described: entry.describe(),
                field,
            });
        }
    }
    out
}

/// What changed is no longer owned by those who did not change it.
fn settle(others: &mut Vec<Entry>, changes: &Comparison) {
    for entry in others.iter_mut() {
        entry.set = entry
            .set
            .difference(&changes.changed)
            .difference(&changes.removed);
    }
    others.retain(|entry| !entry.set.is_empty());
}

fn settle_update(entries: &mut Vec<Entry>, changes: &Comparison, manager: &Manager) {
    let position = entries
        .iter()
        .position(|entry| entry.is(manager, Operation::Update));
    let mut own = position.map_or_else(
        || Entry {
            manager: manager.name.clone(),
            operation: Operation::Update,
            subresource: manager.subresource.clone(),
            api_version: manager.api_version.clone(),
            time: None,
            set: FieldSet::default(),
        },
        |position| entries.remove(position),
    );
    settle(entries, changes);
    own.set = own.set.difference(&changes.removed).union(&changes.changed);
    // Only giving fields up is no new claim; the time stays.
    if !changes.changed.is_empty() {
        own.time = Some(manager.time.clone());
    }
    if !own.set.is_empty() {
        entries.push(own);
    }
}
