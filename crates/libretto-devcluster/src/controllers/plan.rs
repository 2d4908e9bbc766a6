//! What a controller wants done, as data. Deciding makes plans; only the runtime carries them out.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::cache::{Cache, ObjectKey};
use super::object;
use crate::api::{Gvr, Propagation, Subresource};

/// One controller: which objects concern it, and what follows from them.
pub(crate) trait Controller: Send + Sync {
    /// Name in events (`source.component`) and logs.
    fn component(&self) -> &'static str;

    /// Adds the keys to look at again because `object` (its old or its new state) changed.
    fn touched(&self, cache: &Cache, key: &ObjectKey, object: &Value, dirty: &mut Vec<ObjectKey>);

    /// What to do about one key. Pure: the same cache, key and time give the same plan.
    fn reconcile(&self, cache: &Cache, key: &ObjectKey, now: Timestamp) -> Plan;
}

/// What follows for one key. Actions are carried out in order; the first failure stops the rest until the next pass.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Plan {
    pub(crate) actions: Vec<Action>,
    /// Look again at this time even when nothing changes.
    pub(crate) again: Option<Timestamp>,
}

impl Plan {
    pub(crate) fn push(&mut self, action: Action) {
        self.actions.push(action);
    }

    /// Look again at `time`, or earlier when something else asked for earlier.
    pub(crate) fn wake(&mut self, time: Timestamp) {
        self.again = Some(self.again.map_or(time, |present| present.min(time)));
    }

    /// Writes `status` when it differs from the observed one. Members that are absent in both count as equal.
    pub(crate) fn status(&mut self, gvr: &Gvr, observed: &Value, status: Value) {
        if observed.get("status") == Some(&status) {
            return;
        }
        let mut object = observed.clone();
        object["status"] = status;
        self.push(Action::Update {
            gvr: gvr.clone(),
            object,
            subresource: Subresource::Status,
        });
    }

    /// Replaces an object's spec and metadata when they differ from what was observed.
    pub(crate) fn update(&mut self, gvr: &Gvr, observed: &Value, object: Value) {
        if *observed != object {
            self.push(Action::Update {
                gvr: gvr.clone(),
                object,
                subresource: Subresource::None,
            });
        }
    }

    pub(crate) fn create(&mut self, gvr: &Gvr, object: Value) {
        self.push(Action::Create {
            gvr: gvr.clone(),
            object,
            done: None,
            failed: None,
        });
    }

    pub(crate) fn delete(&mut self, gvr: &Gvr, object: &Value) {
        self.push(Action::delete(gvr, object));
    }
}

/// An effect.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Action {
    Create {
        gvr: Gvr,
        /// Carries its namespace and its name or generateName.
        object: Value,
        /// A message that ends in `: ` gets the name appended, which the API may have generated.
        done: Option<Note>,
        /// The error is appended to the message.
        failed: Option<Note>,
    },
    /// Replaces, guarded by the resourceVersion in `object`.
    Update {
        gvr: Gvr,
        object: Value,
        subresource: Subresource,
    },
    /// A JSON merge patch.
    Merge {
        key: ObjectKey,
        patch: Value,
    },
    /// Gives a pod its node; records that it is scheduled.
    Bind {
        key: ObjectKey,
        node: String,
    },
    Delete {
        key: ObjectKey,
        /// Only this incarnation.
        uid: String,
        propagation: Propagation,
        grace_seconds: Option<i64>,
        done: Option<Note>,
        failed: Option<Note>,
    },
    /// Deletes a dependent, but only after the API confirmed that each of `owners` is really absent: what the cache does not hold may
    /// merely not have arrived.
    Collect {
        key: ObjectKey,
        uid: String,
        /// The state that named these owners: who changed them since decides anew.
        resource_version: String,
        owners: Vec<(ObjectKey, String)>,
        propagation: Propagation,
    },
    /// Removes the directory behind a volume.
    RemoveVolume {
        volume: String,
        failed: Note,
    },
    /// Deletes the events of a namespace, which the cache does not follow.
    PurgeEvents {
        namespace: String,
    },
    /// Releases a namespace, but only after the API confirmed that nothing is left in it.
    FinishNamespace {
        name: String,
    },
    Note(Note),
}

impl Action {
    pub(crate) fn delete(gvr: &Gvr, object: &Value) -> Self {
        Self::Delete {
            key: ObjectKey::of(gvr, object),
            uid: object::uid(object).to_owned(),
            propagation: Propagation::Background,
            grace_seconds: None,
            done: None,
            failed: None,
        }
    }
}

/// An event to record about an object.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Note {
    /// `involvedObject`.
    pub(crate) about: Value,
    pub(crate) warning: bool,
    pub(crate) reason: &'static str,
    pub(crate) message: String,
}

impl Note {
    pub(crate) fn normal(
        gvr: &Gvr,
        about: &Value,
        reason: &'static str,
        message: impl Into<String>,
    ) -> Self {
        Self {
            about: reference(gvr, about),
            warning: false,
            reason,
            message: message.into(),
        }
    }

    pub(crate) fn warning(
        gvr: &Gvr,
        about: &Value,
        reason: &'static str,
        message: impl Into<String>,
    ) -> Self {
        Self {
            warning: true,
            ..Self::normal(gvr, about, reason, message)
        }
    }
}

fn reference(gvr: &Gvr, object: &Value) -> Value {
    let (api_version, mut kind) = super::kinds::type_of(gvr);
    if kind.is_empty() {
        kind = object::text(object, "/kind");
    }
    let mut about = json!({
        "apiVersion": api_version,
        "kind": kind,
        "name": object::name(object),
        "uid": object::uid(object),
        "resourceVersion": object::text(object, "/metadata/resourceVersion"),
    });
    if !object::namespace(object).is_empty() {
        about["namespace"] = object::namespace(object).into();
    }
    about
}
