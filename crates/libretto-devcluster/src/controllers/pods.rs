//! What every workload controller needs to know about pods: states, readiness over time, building one from a template, and adoption.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::cache::Cache;
use super::kinds::{self, PODS};
use super::object::{self, after, condition, deleting, text, time};
use super::plan::{Action, Plan};
use super::selector;
use crate::api::Gvr;

pub(crate) fn phase(pod: &Value) -> &str {
    text(pod, "/status/phase")
}

pub(crate) fn failed(pod: &Value) -> bool {
    phase(pod) == "Failed"
}

pub(crate) fn succeeded(pod: &Value) -> bool {
    phase(pod) == "Succeeded"
}

/// Will never run again.
pub(crate) fn finished(pod: &Value) -> bool {
    failed(pod) || succeeded(pod)
}

/// Neither finished nor on its way out.
pub(crate) fn active(pod: &Value) -> bool {
    !finished(pod) && !deleting(pod)
}

pub(crate) fn ready(pod: &Value) -> bool {
    object::condition_status(pod, "Ready") == "True"
}

pub(crate) fn running_and_ready(pod: &Value) -> bool {
    phase(pod) == "Running" && ready(pod)
}

/// Ready for at least `min_ready_seconds`. When it is only a matter of time, `plan` is woken then.
pub(crate) fn available(
    pod: &Value,
    min_ready_seconds: i64,
    now: Timestamp,
    plan: &mut Plan,
) -> bool {
    if !ready(pod) {
        return false;
    }
    if min_ready_seconds <= 0 {
        return true;
    }
    let since = condition(pod, "Ready")
        .and_then(|ready| time(ready, "/lastTransitionTime"))
        .unwrap_or(now);
    let due = after(since, min_ready_seconds);
    if due <= now {
        return true;
    }
    plan.wake(due);
    false
}

/// A pod from a pod template, controlled by `owner`. The caller names it.
pub(crate) fn from_template(gvr: &Gvr, owner: &Value, template: &Value) -> Value {
    let mut metadata = json!({
        "namespace": object::namespace(owner),
        "ownerReferences": [object::controller_reference(gvr, owner)],
    });
    for member in ["labels", "annotations", "finalizers"] {
        if let Some(value) = template.pointer(&format!("/metadata/{member}")) {
            metadata[member] = value.clone();
        }
    }
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": metadata,
        "spec": template.get("spec").cloned().unwrap_or_else(|| json!({})),
    })
}

/// `name-`, cut so that the five random characters still fit into a DNS label.
pub(crate) fn generate_name(owner: &str) -> String {
    // 63 for a label, minus the dash and the suffix the API appends.
    let cut = owner
        .char_indices()
        .nth(57)
        .map_or(owner.len(), |(at, _)| at);
    format!("{}-", &owner[..cut])
}

/// Objects of `gvr` that a controller owns, after putting its claims in order: an orphan its selector matches (and `member` accepts)
/// is adopted, an owned one it no longer matches is released. Both happen by actions; the returned list holds what is owned now.
pub(crate) fn claim<'a>(
    cache: &'a Cache,
    gvr: &Gvr,
    owner_gvr: &Gvr,
    owner: &Value,
    member: impl Fn(&Value) -> bool,
    plan: &mut Plan,
) -> Vec<&'a Value> {
    let selector = owner.pointer("/spec/selector");
    let owner_uid = object::uid(owner);
    let mut claimed = Vec::new();
    for value in cache.list(gvr, object::namespace(owner)) {
        let value: &Value = value;
        let controller = object::controller_uid(value);
        let matched = selector::matches(selector, value) && member(value);
        if controller == owner_uid {
            if matched {
                claimed.push(value);
            } else if !deleting(owner) {
                plan.update(gvr, value, object::without_owner(value, owner_uid));
            }
        } else if controller.is_empty() && matched && !deleting(value) && !deleting(owner) {
            let adopted = object::with_owner(value, object::controller_reference(owner_gvr, owner));
            plan.update(gvr, value, adopted);
            // Should the adoption fail, the pass ends there, so nothing is done to what is not ours.
            claimed.push(value);
        }
    }
    claimed
}

/// The controller of a pod-like object as a key, when it is of this resource.
pub(crate) fn controller_key(gvr: &Gvr, value: &Value) -> Option<super::cache::ObjectKey> {
    let owner = object::controller_of(value)?;
    let (api_version, kind) = kinds::type_of(gvr);
    (text(owner, "/kind") == kind && same_group(text(owner, "/apiVersion"), &api_version))
        .then(|| super::cache::ObjectKey::new(gvr, object::namespace(value), text(owner, "/name")))
}

fn same_group(a: &str, b: &str) -> bool {
    let group = |text: &str| {
        text.split_once('/')
            .map_or(String::new(), |(group, _)| group.to_owned())
    };
    group(a) == group(b)
}

/// Marks what a changed dependent concerns: its controller, or every possible adopter when it is an orphan.
pub(crate) fn touch_owner(
    cache: &Cache,
    owner_gvr: &Gvr,
    value: &Value,
    dirty: &mut Vec<super::cache::ObjectKey>,
) {
    if object::controller_of(value).is_some() {
        dirty.extend(controller_key(owner_gvr, value));
        return;
    }
    for owner in cache.list(owner_gvr, object::namespace(value)) {
        if selector::matches(owner.pointer("/spec/selector"), value) {
            dirty.push(super::cache::ObjectKey::of(owner_gvr, owner));
        }
    }
}

/// Deletes a pod, with the events a controller records about that.
pub(crate) fn delete_with_notes(
    pod: &Value,
    done: super::plan::Note,
    failed: super::plan::Note,
) -> Action {
    let mut action = Action::delete(&PODS, pod);
    if let Action::Delete {
        done: on_done,
        failed: on_failed,
        ..
    } = &mut action
    {
        *on_done = Some(done);
        *on_failed = Some(failed);
    }
    action
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn availability_is_a_matter_of_time() {
        let now: Timestamp = "2026-01-01T00:00:10Z".parse().unwrap();
        let pod = json!({"status": {"phase": "Running", "conditions": [
            {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:05Z"},
        ]}});
        let mut plan = Plan::default();
        assert!(available(&pod, 0, now, &mut plan));
        assert!(available(&pod, 5, now, &mut plan));
        assert_eq!(plan.again, None);
        assert!(!available(&pod, 8, now, &mut plan));
        assert_eq!(plan.again, Some(after(now, 3)));
        assert!(!available(&json!({}), 0, now, &mut plan));
    }

    #[test]
    fn generated_names_leave_room_for_the_suffix() {
        assert_eq!(generate_name("web"), "web-");
        assert_eq!(generate_name(&"x".repeat(80)).len(), 58);
    }
}
