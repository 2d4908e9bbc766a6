//! Records Kubernetes events (events.k8s.io/v1) on an instance.
//!
//! The same event again within a few minutes becomes a series on the first one instead of a new object, as the API intends.

use std::{
    collections::HashMap,
    sync::Mutex,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use kube::api::{Patch, PatchParams};
use libretto_api::{
    intent::{EventKind, Failure, Outcome},
    object::{Gvk, InstanceRef, ObjectRef},
    secret::redact,
};
use serde_json::{Value, json};

use crate::{DONE, kube::Kube};

/// How long a repetition joins its series; what client-go's recorder uses.
const SERIES_WINDOW: Duration = Duration::from_secs(6 * 60);
/// Series remembered at once: at 5,000 instances a burst keeps a fifth of them; forgetting one only makes a new event.
const SERIES_REMEMBERED: usize = 1024;
/// Longest `note` that API servers accept, in bytes.
const NOTE_LIMIT: usize = 1024;

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct SeriesKey {
    uid: String,
    kind: EventKind,
    reason: String,
    note: String,
}

#[derive(Debug, Clone)]
struct Series {
    event: ObjectRef,
    count: u32,
    last: Instant,
}

/// Writes events and remembers recent ones.
#[derive(Debug)]
pub(crate) struct Recorder {
    reporters: HashMap<String, String>,
    series: Mutex<HashMap<SeriesKey, Series>>,
}

impl Recorder {
    pub(crate) fn new(reporters: HashMap<String, String>) -> Self {
        Self {
            reporters,
            series: Mutex::default(),
        }
    }

    pub(crate) async fn record(
        &self,
        kube: &Kube,
        instance: &InstanceRef,
        kind: EventKind,
        reason: &str,
        message: &str,
    ) -> Result<Outcome, Failure> {
        let note = shorten(&redact(message));
        let key = SeriesKey {
            uid: instance.uid.clone(),
            kind,
            reason: reason.to_owned(),
            note,
        };
        let what = || format!("event {reason} on {instance}");
        if let Some(series) = self.repeated(&key) {
            match self.extend(kube, &series).await {
                Ok(_) => return Ok(DONE),
                // Events expire after an hour by default, and may be deleted by anyone.
                Err(error) if error.code() == Some(404) => {}
                Err(error) => return Err(error.failure(&what())),
            }
        }
        let now = Timestamp::now();
        let reporter = self.reporters.get(&instance.package).cloned();
        let reporter = reporter.unwrap_or_else(|| format!("libretto/{}", instance.package));
        let event = event(instance, &key, &reporter, now);
        let target = ObjectRef {
            gvk: Gvk::new("events.k8s.io", "v1", "Event"),
            namespace: event["metadata"]["namespace"]
                .as_str()
                .unwrap_or_default()
                .to_owned(),
            name: event["metadata"]["name"]
                .as_str()
                .unwrap_or_default()
                .to_owned(),
        };
        kube.create(&target, &event)
            .await
            .map_err(|error| error.failure(&what()))?;
        self.remember(key, target);
        Ok(DONE)
    }

    /// The running series of this event, counted up by one.
    fn repeated(&self, key: &SeriesKey) -> Option<Series> {
        let mut all = self.series.lock().expect("no code panics under this lock");
        let series = all.get_mut(key)?;
        if series.last.elapsed() > SERIES_WINDOW {
            all.remove(key);
            return None;
        }
        series.count += 1;
        series.last = Instant::now();
        Some(series.clone())
    }

    async fn extend(&self, kube: &Kube, series: &Series) -> Result<Value, crate::kube::CallError> {
        let patch =
            json!({"series": {"count": series.count, "lastObservedTime": micro(Timestamp::now())}});
        kube.patch(
            &series.event,
            None,
            &PatchParams::default(),
            &Patch::Merge(&patch),
        )
        .await
    }

    fn remember(&self, key: SeriesKey, event: ObjectRef) {
        let mut all = self.series.lock().expect("no code panics under this lock");
        if all.len() >= SERIES_REMEMBERED {
            all.retain(|_, series| series.last.elapsed() <= SERIES_WINDOW);
        }
        if all.len() >= SERIES_REMEMBERED {
            let oldest = all
                .iter()
                .min_by_key(|(_, series)| series.last)
                .map(|(key, _)| key.clone());
            oldest.map(|key| all.remove(&key));
        }
        all.insert(
            key,
            Series {
                event,
                count: 1,
                last: Instant::now(),
            },
        );
    }
}

fn event(instance: &InstanceRef, key: &SeriesKey, reporter: &str, now: Timestamp) -> Value {
    // Events of cluster-scoped objects live in `default`, where kubectl looks for them.
    let namespace = if instance.namespace.is_empty() {
        "default"
    } else {
        &instance.namespace
    };
    // Cut so that name and suffix stay within the 253 characters of a name.
    let stem: String = instance.name.chars().take(220).collect();
    json!({
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"namespace": namespace, "name": format!("{stem}.{:x}", now.as_nanosecond())},
        "eventTime": micro(now),
        "type": match key.kind { EventKind::Normal => "Normal", EventKind::Warning => "Warning" },
        "reason": key.reason,
        "action": key.reason,
        "note": key.note,
        "reportingController": reporter,
        "reportingInstance": reporter,
        "regarding": {
            "apiVersion": instance.gvk.api_version(), "kind": instance.gvk.kind,
            "namespace": instance.namespace, "name": instance.name, "uid": instance.uid,
        },
    })
}

/// Kubernetes' MicroTime: exactly six decimals.
fn micro(time: Timestamp) -> String {
    format!("{time:.6}")
}

fn shorten(message: &str) -> String {
    if message.len() <= NOTE_LIMIT {
        return message.to_owned();
    }
    let mut end = NOTE_LIMIT - '…'.len_utf8();
    while !message.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}…", &message[..end])
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn instance() -> InstanceRef {
        InstanceRef {
            package: "redis".into(),
            gvk: Gvk::new("redis.kun", "v1beta1", "RedisCluster"),
            namespace: "prod".into(),
            name: "test".into(),
            uid: "u1".into(),
        }
    }

    fn key() -> SeriesKey {
        SeriesKey {
            uid: "u1".into(),
            kind: EventKind::Warning,
            reason: "MasterLost".into(),
            note: "gone".into(),
        }
    }

    #[test]
    fn an_event_is_about_its_instance() {
        let now: Timestamp = "2026-01-02T03:04:05.000006Z".parse().unwrap();
        let event = event(&instance(), &key(), "redis-operator", now);
        assert_eq!(event["eventTime"], "2026-01-02T03:04:05.000006Z");
        assert_eq!(event["type"], "Warning");
        assert_eq!(event["regarding"]["uid"], "u1");
        assert_eq!(event["metadata"]["namespace"], "prod");
        assert_eq!(event["reportingController"], "redis-operator");
    }

    #[test]
    fn a_repetition_counts_up_the_first() {
        let recorder = Recorder::new(HashMap::new());
        assert!(recorder.repeated(&key()).is_none());
        let target = ObjectRef {
            gvk: Gvk::new("events.k8s.io", "v1", "Event"),
            namespace: "prod".into(),
            name: "test.1".into(),
        };
        recorder.remember(key(), target);
        assert_eq!(recorder.repeated(&key()).unwrap().count, 2);
        assert_eq!(recorder.repeated(&key()).unwrap().count, 3);
    }

    #[test]
    fn the_memory_of_series_is_bounded() {
        let recorder = Recorder::new(HashMap::new());
        for number in 0..SERIES_REMEMBERED + 10 {
            let target = ObjectRef {
                gvk: Gvk::new("events.k8s.io", "v1", "Event"),
                namespace: "prod".into(),
                name: format!("test.{number}"),
            };
            recorder.remember(
                SeriesKey {
                    note: number.to_string(),
                    ..key()
                },
                target,
            );
        }
        assert_eq!(recorder.series.lock().unwrap().len(), SERIES_REMEMBERED);
    }

    #[test]
    fn a_long_message_is_cut_at_a_character() {
        let note = shorten(&"ä".repeat(1000));
        assert!(note.len() <= NOTE_LIMIT);
        assert!(note.ends_with("ä…"));
    }
}
