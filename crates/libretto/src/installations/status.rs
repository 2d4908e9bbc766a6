//! Conditions of packages and installations; written only when something changes.

use kube::api::{Patch, PatchParams};
use libretto_actions::kube::{CallError, Kube};
use libretto_api::object::ObjectRef;
use serde_json::{Value, json};

use super::objects::Seen;
use crate::clock;

/// Longest message of a condition, by Kubernetes' conventions.
const MESSAGE: usize = 32_768;

/// A condition as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Condition {
    kind: &'static str,
    status: bool,
    reason: &'static str,
    message: String,
}

impl Condition {
    pub(super) fn new(
        kind: &'static str,
        status: bool,
        reason: &'static str,
        message: impl Into<String>,
    ) -> Self {
        let mut message = message.into();
        if message.len() > MESSAGE {
            let end = (0..=MESSAGE - 4)
                .rev()
                .find(|at| message.is_char_boundary(*at));
            message.truncate(end.unwrap_or(0));
            message.push_str(" …");
        }
        Self {
            kind,
            status,
            reason,
            message,
        }
    }
}

/// Writes the status unless it is so already. `fields` is everything but the conditions; null takes a field away, and without
/// conditions they stay as they are.
pub(super) async fn write<S>(
    kube: &Kube,
    object: &ObjectRef,
    seen: &Seen<S>,
    mut fields: Value,
    conditions: Option<&[Condition]>,
) -> Result<(), CallError> {
    if let Some(conditions) = conditions {
        fields["conditions"] = merged(&seen.status["conditions"], conditions, seen.generation);
    }
    if says(&seen.status, &fields) {
        return Ok(());
    }
    let patch = json!({"status": fields});
    let params = PatchParams::default();
    match kube
        .patch(object, Some("status"), &params, &Patch::Merge(&patch))
        .await
    {
        // It is gone; so is whoever would read it.
        Err(error) if error.is_not_found() => Ok(()),
        answer => answer.map(drop),
    }
}

/// A merge of `fields` would change nothing.
fn says(status: &Value, fields: &Value) -> bool {
    match fields {
        Value::Object(fields) => fields
            .iter()
            .all(|(key, value)| says(status.get(key).unwrap_or(&Value::Null), value)),
        other => status == other,
    }
}

/// The conditions with the time of their last change.
fn merged(live: &Value, conditions: &[Condition], generation: i64) -> Value {
    conditions
        .iter()
        .map(|condition| {
            let status = if condition.status { "True" } else { "False" };
            let former = live
                .as_array()
                .into_iter()
                .flatten()
                .find(|former| former["type"] == condition.kind);
            let since = former
                .filter(|former| former["status"] == status)
                .map_or_else(
                    || clock::rfc3339(clock::now()).into(),
                    |former| former["lastTransitionTime"].clone(),
                );
            json!({
                "type": condition.kind,
                "status": status,
                "reason": condition.reason,
                "message": condition.message,
                "observedGeneration": generation,
                "lastTransitionTime": since,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_a_condition_is_that_of_its_last_change() {
        let ready = Condition::new("Ready", true, "Working", "");
        let former = json!([{"type": "Ready", "status": "True", "lastTransitionTime": "2020-01-01T00:00:00Z"}]);
        let same = merged(&former, std::slice::from_ref(&ready), 3);
        assert_eq!(same[0]["lastTransitionTime"], "2020-01-01T00:00:00Z");
        assert_eq!(same[0]["observedGeneration"], 3);
        let other = Condition::new("Ready", false, "Invalid", "");
        let changed = merged(&former, &[other], 3);
        assert_ne!(changed[0]["lastTransitionTime"], "2020-01-01T00:00:00Z");
    }

    #[test]
    fn what_is_absent_is_null() {
        let status = json!({"revision": "a", "rollout": {"to": "b", "goodSince": 1}});
        assert!(says(&status, &json!({"revision": "a"})));
        assert!(says(&status, &json!({"version": null})));
        assert!(!says(
            &status,
            &json!({"rollout": {"to": "b", "goodSince": null}})
        ));
        assert!(!says(&status, &json!({"rollout": null})));
        assert!(says(&json!(null), &json!({"rollout": {"goodSince": null}})));
    }

    #[test]
    fn long_messages_are_cut_between_letters() {
        let condition = Condition::new("Ready", false, "Invalid", "ä".repeat(40_000));
        assert!(condition.message.len() <= MESSAGE);
        assert!(condition.message.ends_with(" …"));
    }
}
