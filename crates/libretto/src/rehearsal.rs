//! Effects that are told instead of done: each once, and again when it is another one.
//!
//! What would follow from an effect is not known before it is done, so that a rehearsal tells the next step of each instance, not all
//! of them. Never here: deciding, and how it is told.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
};

use libretto_api::intent::{Effect, Intent};
use libretto_engine::Plan;
use libretto_mirror::{Snapshot, canonical_json, digest};
use parking_lot::Mutex;
use serde_json::Value;

/// Is told an intent, and whether the object that it writes is there.
pub type Tell = Box<dyn Fn(&Intent, bool) + Send + Sync>;

/// By rule and key: the digest of what was told.
type Told = BTreeMap<(String, String), String>;

/// What was told of whom.
pub struct Rehearsal {
    tell: Tell,
    /// Per instance uid. As large as the plans, of which it holds digests.
    told: Mutex<HashMap<String, Told>>,
}

impl fmt::Debug for Rehearsal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rehearsal").finish_non_exhaustive()
    }
}

impl Rehearsal {
    pub fn new(tell: Tell) -> Self {
        Self {
            tell,
            told: Mutex::default(),
        }
    }

    /// Tells what of the plan is new. What is not planned any more is forgotten: should it come back, it is told again.
    pub fn hear(&self, snapshot: &Snapshot, plan: &Plan) {
        let mut told = self.told.lock();
        let before = told.remove(&snapshot.instance.uid).unwrap_or_default();
        let mut now = Told::new();
        for intent in &plan.intents {
            let row = (intent.rule.clone(), intent.key.clone());
            let said = essence(&intent.effect);
            if before.get(&row) != Some(&said) {
                (self.tell)(intent, there(snapshot, &intent.effect));
            }
            now.insert(row, said);
        }
        told.insert(snapshot.instance.uid.clone(), now);
    }

    pub fn forget(&self, uid: &str) {
        self.told.lock().remove(uid);
    }
}

fn there(snapshot: &Snapshot, effect: &Effect) -> bool {
    let (Effect::Apply { object, .. } | Effect::Patch { object, .. }) = effect else {
        return true;
    };
    libretto_actions::kube::object_ref(object)
        .is_ok_and(|target| snapshot.object(&target).is_some())
}

/// What makes an effect another one. A status that is not written gets the time of each pass in its conditions.
fn essence(effect: &Effect) -> String {
    let mut value = serde_json::to_value(effect).expect("effects are plain data");
    if let Effect::Status { .. } = effect {
        without_times(&mut value);
    }
    digest(canonical_json(&value).as_bytes())
}

fn without_times(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|key, _| !["lastTransitionTime", "lastUpdateTime"].contains(&key.as_str()));
            map.values_mut().for_each(without_times);
        }
        Value::Array(items) => items.iter_mut().for_each(without_times),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_status_is_the_same_at_another_time() {
        let status = |time: &str, ready: &str| Effect::Status {
            status: json!({"conditions": [{"type": "Ready", "status": ready, "lastTransitionTime": time}]}),
        };
        assert_eq!(essence(&status("1", "True")), essence(&status("2", "True")));
        assert_ne!(
            essence(&status("1", "True")),
            essence(&status("1", "False"))
        );
    }
}
