//! `metadata.managedFields`: reading it, writing it, keeping it small.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{element::Element, fieldset::FieldSet};
use crate::patch::Manager;

/// How many entries of updates an object keeps. Upstream's number: the oldest ones are merged so that an object touched by ever new
/// clients stays bounded.
const UPDATE_MANAGERS: usize = 10;

/// Upstream's name for merged old entries.
const ANCIENT: &str = "ancient-changes";

/// Upstream's name for what was there before the first apply to an untracked object.
const BEFORE_FIRST_APPLY: &str = "before-first-apply";

/// How a manager writes. Apply sorts before Update, as in the stored list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Operation {
    Apply,
    Update,
}

impl Operation {
    fn text(self) -> &'static str {
        match self {
            Self::Apply => "Apply",
            Self::Update => "Update",
        }
    }
}

/// One entry of the list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) manager: String,
    pub(crate) operation: Operation,
    pub(crate) subresource: String,
    pub(crate) api_version: String,
    /// Absent for what was there before the first apply.
    pub(crate) time: Option<String>,
    pub(crate) set: FieldSet,
}

impl Entry {
    /// Whether this is the entry of `who` writing by `operation`. Appliers keep one entry across API versions.
    pub(crate) fn is(&self, who: &Manager, operation: Operation) -> bool {
        self.manager == who.name
            && self.operation == operation
            && self.subresource == who.subresource
            && (operation == Operation::Apply || self.api_version == who.api_version)
    }

    /// As in a conflict message: `"kubectl" using apps/v1 at 2026-01-01T00:00:00Z`.
    pub(crate) fn describe(&self) -> String {
        let mut text = format!("{:?}", self.manager);
        if !self.subresource.is_empty() {
            text = format!("{text} with subresource {:?}", self.subresource);
        }
        if self.operation == Operation::Update {
            text = format!("{text} using {}", self.api_version);
        }
        text
    }

    fn order(&self) -> (Operation, &Option<String>, &str, &str, &str) {
        (
            self.operation,
            &self.time,
            &self.manager,
            &self.api_version,
            &self.subresource,
        )
    }
}

pub(crate) fn before_first_apply(api_version: &str, set: FieldSet, time: &str) -> Entry {
    Entry {
        manager: BEFORE_FIRST_APPLY.to_owned(),
        operation: Operation::Update,
        subresource: String::new(),
        api_version: api_version.to_owned(),
        time: Some(time.to_owned()),
        set,
    }
}

/// The entries of an object; ones that cannot be read are dropped, as upstream does.
pub(crate) fn entries(object: &Value) -> Vec<Entry> {
    let list = object["metadata"]["managedFields"].as_array();
    list.into_iter().flatten().filter_map(entry).collect()
}

fn entry(stored: &Value) -> Option<Entry> {
    let text = |key: &str| stored[key].as_str().unwrap_or_default().to_owned();
    Some(Entry {
        manager: text("manager"),
        operation: match stored["operation"].as_str()? {
            "Apply" => Operation::Apply,
            "Update" => Operation::Update,
            _ => return None,
        },
        subresource: text("subresource"),
        api_version: text("apiVersion"),
        time: stored["time"].as_str().map(str::to_owned),
        set: FieldSet::from_fields_v1(&stored["fieldsV1"]),
    })
}

/// A client asks to forget all owners with `managedFields: [{}]` or an empty list.
pub(crate) fn is_reset(object: &Value) -> bool {
    object["metadata"]["managedFields"]
        .as_array()
        .is_some_and(|list| match &list[..] {
            [] => true,
            [Value::Object(only)] => only.is_empty(),
            _ => false,
        })
}

/// Puts the entries into the object.
pub(crate) fn store(object: &mut Value, mut entries: Vec<Entry>) {
    entries.retain(|entry| !entry.set.is_empty());
    entries.sort_by(|a, b| a.order().cmp(&b.order()));
    let list: Vec<Value> = entries
        .iter()
        .map(|entry| {
            let mut stored = json!({
                "manager": entry.manager,
                "operation": entry.operation.text(),
                "apiVersion": entry.api_version,
                "fieldsType": "FieldsV1",
                "fieldsV1": entry.set.to_fields_v1(),
            });
            if let Some(time) = &entry.time {
                stored["time"] = time.as_str().into();
            }
            if !entry.subresource.is_empty() {
                stored["subresource"] = entry.subresource.as_str().into();
            }
            stored
        })
        .collect();
    let Some(object) = object.as_object_mut() else {
        return;
    };
    if list.is_empty() {
        if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.remove("managedFields");
        }
        return;
    }
    let metadata = object.entry("metadata").or_insert_with(|| json!({}));
    if let Some(metadata) = metadata.as_object_mut() {
        metadata.insert("managedFields".to_owned(), list.into());
    }
}

/// The object without its managedFields.
pub(crate) fn bare(object: &Value) -> Value {
    let mut object = object.clone();
    strip(&mut object);
    object
}

/// Removes the managedFields.
pub(crate) fn strip(object: &mut Value) {
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("managedFields");
    }
}

/// Fields nobody owns because the server writes them or they are the identity of the object.
pub(crate) fn without_identity(set: &FieldSet) -> FieldSet {
    const METADATA: &[&str] = &[
        "creationTimestamp",
        "generation",
        "managedFields",
        "name",
        "namespace",
        "resourceVersion",
        "selfLink",
        "uid",
    ];
    let mut identity = FieldSet::default();
    for name in ["apiVersion", "kind", "metadata"] {
        identity.insert(&[Element::field(name)]);
    }
    for name in METADATA {
        identity.insert(&[Element::field("metadata"), Element::field(name)]);
    }
    set.difference(&identity)
}

/// Merges the oldest update entries of the same API version until the bound holds.
pub(crate) fn cap(entries: &mut Vec<Entry>) {
    let mut updates = entries
        .iter()
        .filter(|entry| entry.operation == Operation::Update)
        .count();
    if updates <= UPDATE_MANAGERS {
        return;
    }
    entries.sort_by(|a, b| a.order().cmp(&b.order()));
    let (mut kept, old): (Vec<_>, Vec<_>) = entries
        .drain(..)
        .partition(|entry| entry.operation == Operation::Apply);
    // Per API version: where the entry that collects the older ones stands in `kept`.
    let mut buckets: BTreeMap<String, usize> = BTreeMap::new();
    for entry in old {
        let bucket = buckets.get(&entry.api_version).copied();
        match bucket {
            Some(position) if updates > UPDATE_MANAGERS => {
                let bucket = &mut kept[position];
                bucket.manager = ANCIENT.to_owned();
                bucket.subresource = String::new();
                bucket.set = bucket.set.union(&entry.set);
                // The merged entry is as recent as its most recent part.
                bucket.time = entry.time;
                updates -= 1;
            }
            _ => {
                if bucket.is_none() {
                    buckets.insert(entry.api_version.clone(), kept.len());
                }
                kept.push(entry);
            }
        }
    }
    *entries = kept;
}
