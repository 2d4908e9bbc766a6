//! The history of a workload's pod template as ControllerRevisions, shared by StatefulSet and DaemonSet.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::cache::Cache;
use super::kinds::CONTROLLER_REVISIONS;
use super::object::{self, int, text};
use super::plan::{Action, Note, Plan};
use super::pods;
use crate::api::Gvr;

/// Label on revisions and pods.
pub(crate) const REVISION_LABEL: &str = "controller-revision-hash";

/// Upstream has another label on the revisions of stateful sets; their pods name the whole revision.
const SET_REVISION_LABEL: &str = "controller.kubernetes.io/hash";

/// The revisions of one workload, oldest first, with the one its template stands for.
#[derive(Debug)]
pub(crate) struct History {
    pub(crate) revisions: Vec<Value>,
    /// Equal to one of `revisions`, or the one just planned to be created.
    pub(crate) update: Value,
    pub(crate) collisions: i64,
}

/// Reads the history and plans what makes it contain the present template.
pub(crate) fn sync(cache: &Cache, gvr: &Gvr, owner: &Value, plan: &mut Plan) -> History {
    let mut revisions: Vec<Value> =
        pods::claim(cache, &CONTROLLER_REVISIONS, gvr, owner, |_| true, plan)
            .into_iter()
            .cloned()
            .collect();
    revisions.sort_by_key(|revision| {
        (
            int(revision, "/revision").unwrap_or(0),
            object::created(revision),
            object::name(revision).to_owned(),
        )
    });
    let data = template_patch(owner);
    let mut collisions = int(owner, "/status/collisionCount").unwrap_or(0);
    let newest = revisions
        .last()
        .and_then(|last| int(last, "/revision"))
        .unwrap_or(0);
    let equal = revisions
        .iter()
        .rposition(|revision| revision.get("data") == Some(&data));
    let update = match equal {
        // The template is what it was last time.
        Some(index) if index + 1 == revisions.len() => revisions[index].clone(),
        // Rolled back to an earlier template: that revision becomes the newest again.
        Some(index) => {
            let mut revision = revisions[index].clone();
            revision["revision"] = (newest + 1).into();
            if !object::deleting(owner) {
                plan.update(&CONTROLLER_REVISIONS, &revisions[index], revision.clone());
            }
            revision
        }
        None => {
            let mut revision = build(gvr, owner, &data, newest + 1, collisions);
            // Somebody else's revision of that name, or a hash collision: another name is tried, and remembered in the status.
            while cache
                .get(
                    &CONTROLLER_REVISIONS,
                    object::namespace(owner),
                    object::name(&revision),
                )
                .is_some()
            {
                collisions += 1;
                revision = build(gvr, owner, &data, newest + 1, collisions);
            }
            if !object::deleting(owner) {
                plan.push(Action::Create {
                    gvr: CONTROLLER_REVISIONS.clone(),
                    object: revision.clone(),
                    done: None,
                    failed: Some(Note::warning(
                        gvr,
                        owner,
                        "FailedCreate",
                        "create ControllerRevision failed error: ",
                    )),
                });
            }
            revision
        }
    };
    History {
        revisions,
        update,
        collisions,
    }
}

/// What a revision remembers: the template, as a patch that restores it.
pub(crate) fn template_patch(owner: &Value) -> Value {
    let mut template = owner
        .pointer("/spec/template")
        .cloned()
        .unwrap_or_else(|| json!({}));
    template["$patch"] = "replace".into();
    json!({"spec": {"template": template}})
}

/// The template a revision remembers.
pub(crate) fn template_of(revision: &Value) -> Value {
    let mut template = revision
        .pointer("/data/spec/template")
        .cloned()
        .unwrap_or_else(|| json!({}));
    if let Some(map) = template.as_object_mut() {
        map.remove("$patch");
    }
    template
}

fn build(gvr: &Gvr, owner: &Value, data: &Value, number: i64, collisions: i64) -> Value {
    let hash = object::short_hash(&[data, &json!(collisions)]);
    let mut labels = owner
        .pointer("/spec/template/metadata/labels")
        .cloned()
        .unwrap_or_else(|| json!({}));
    let label = if gvr.resource == "statefulsets" {
        SET_REVISION_LABEL
    } else {
        REVISION_LABEL
    };
    labels[label] = hash.clone().into();
    let mut metadata = json!({
        "namespace": object::namespace(owner),
        // A ControllerRevision's name may be longer than a label; the hash must survive.
        "name": format!("{}-{hash}", object::name(owner)),
        "labels": labels,
        "ownerReferences": [object::controller_reference(gvr, owner)],
    });
    if let Some(annotations) = owner.pointer("/metadata/annotations") {
        metadata["annotations"] = annotations.clone();
    }
    json!({
        "apiVersion": "apps/v1", "kind": "ControllerRevision",
        "metadata": metadata, "data": data, "revision": number,
    })
}

/// Plans the deletion of the oldest revisions nobody uses, beyond the workload's limit.
pub(crate) fn truncate(owner: &Value, history: &History, live: &BTreeSet<&str>, plan: &mut Plan) {
    let limit = int(owner, "/spec/revisionHistoryLimit")
        .unwrap_or(10)
        .max(0);
    let unused: Vec<&Value> = history
        .revisions
        .iter()
        .filter(|revision| {
            let name = object::name(revision);
            name != object::name(&history.update)
                && !live.contains(name)
                && !live.contains(text(revision, "/metadata/labels/controller-revision-hash"))
        })
        .collect();
    let excess = unused
        .len()
        .saturating_sub(usize::try_from(limit).unwrap_or(usize::MAX));
    for revision in &unused[..excess] {
        if !object::deleting(revision) {
            plan.delete(&CONTROLLER_REVISIONS, revision);
        }
    }
}
