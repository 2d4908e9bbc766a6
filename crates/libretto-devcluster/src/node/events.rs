//! Events of the node. Repeats are counted in one object, and rarely written: a crashing pod must not fill the store.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::api::{Api, EVENTS, Patch, Subresource, WriteOptions, now};

/// Recorded in managedFields and as `source.component`.
pub(crate) const COMPONENT: &str = "kubelet";
/// A repeat is written at most this often; its count is right all the same.
const WRITE_EVERY: Duration = Duration::from_secs(10);
/// Different events remembered; beyond that the oldest are forgotten and start to count anew.
const REMEMBERED: usize = 4096;

/// Writes events about objects.
#[derive(Debug)]
pub(crate) struct Events {
    api: Api,
    node: String,
    seen: Mutex<HashMap<Key, Seen>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    uid: String,
    field: String,
    reason: String,
    message: String,
}

#[derive(Debug)]
struct Seen {
    name: String,
    count: u64,
    written: Instant,
}

/// What an event is about.
#[derive(Debug, Clone)]
pub(crate) struct About {
    pub kind: &'static str,
    pub namespace: String,
    pub name: String,
    pub uid: String,
}

/// `Normal` or `Warning`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Severity {
    Normal,
    Warning,
}

impl Events {
    pub(crate) fn new(api: Api, node: String) -> Self {
        Self {
            api,
            node,
            seen: Mutex::default(),
        }
    }

    /// `container` names the container the event is about; empty for the object as a whole.
    pub(crate) fn record(
        &self,
        about: &About,
        container: &str,
        severity: Severity,
        reason: &str,
        message: &str,
    ) {
        let field = if container.is_empty() {
            String::new()
        } else {
            format!("spec.containers{{{container}}}")
        };
        let key = Key {
            uid: about.uid.clone(),
            field: field.clone(),
            reason: reason.to_owned(),
            message: message.to_owned(),
        };
        let mut seen = self.seen.lock();
        if seen.len() >= REMEMBERED {
            let oldest = seen
                .iter()
                .min_by_key(|(_, seen)| seen.written)
                .map(|(key, _)| key.clone());
            if let Some(oldest) = oldest {
                seen.remove(&oldest);
            }
        }
        let time = now();
        if let Some(known) = seen.get_mut(&key) {
            known.count += 1;
            if known.written.elapsed() < WRITE_EVERY {
                return;
            }
            known.written = Instant::now();
            let patch = Patch::Merge(json!({"count": known.count, "lastTimestamp": time}));
            match self.api.patch(
                &EVENTS,
                &about.namespace,
                &known.name,
                Subresource::None,
                patch,
                &options(),
            ) {
                Ok(_) => return,
                // It has been removed meanwhile: start anew below.
                Err(error) if error.code == 404 => {}
                Err(error) => {
                    tracing::warn!(%error, reason, "event not written");
                    return;
                }
            }
        }
        let name = format!(
            "{}.{:x}",
            about.name,
            jiff::Timestamp::now().as_nanosecond()
        );
        let event = self.event(about, &field, severity, (reason, message), &name, &time);
        match self
            .api
            .create(&EVENTS, &about.namespace, event, &options())
        {
            Ok(_) => {
                let entry = Seen {
                    name,
                    count: 1,
                    written: Instant::now(),
                };
                seen.insert(key, entry);
            }
            // The namespace is going away; there is nobody left to read it.
            Err(error) => tracing::debug!(%error, reason, "event not written"),
        }
    }

    fn event(
        &self,
        about: &About,
        field: &str,
        severity: Severity,
        text: (&str, &str),
        name: &str,
        time: &str,
    ) -> Value {
        let mut involved = json!({
            "kind": about.kind, "apiVersion": "v1", "namespace": about.namespace, "name": about.name, "uid": about.uid,
        });
        if !field.is_empty() {
            involved["fieldPath"] = field.into();
        }
        json!({
            "metadata": {"name": name, "namespace": about.namespace},
            "involvedObject": involved,
            "type": match severity { Severity::Normal => "Normal", Severity::Warning => "Warning" },
            "reason": text.0, "message": text.1, "count": 1, "firstTimestamp": time, "lastTimestamp": time,
            "source": {"component": COMPONENT, "host": self.node},
            "reportingComponent": COMPONENT, "reportingInstance": self.node,
        })
    }
}

pub(crate) fn options() -> WriteOptions {
    WriteOptions {
        field_manager: COMPONENT.to_owned(),
        ..WriteOptions::default()
    }
}
