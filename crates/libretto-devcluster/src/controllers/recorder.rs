//! Records events the way client-go does: repeats raise a count, floods are merged or dropped. Decides what to write; never writes.

use std::collections::{HashMap, HashSet};

use jiff::Timestamp;
use serde_json::{Value, json};

use super::object::{after, rfc3339, text};
use super::plan::Note;

/// Distinct messages of one kind about one object before further ones are merged into a single "(combined from similar events)",
/// and the seconds after which counting starts again: client-go's figures.
const SIMILAR_MAX: usize = 10;
const SIMILAR_SECONDS: i64 = 600;

/// Events one object may cause in a burst, and the seconds that give back one: client-go's spam filter.
const BURST: f64 = 25.0;
const REFILL_SECONDS: f64 = 300.0;

/// Remembered repeats, groups and budgets: client-go's cache size. Forgetting only means that a repeat starts a new event.
const MEMORY: usize = 4096;

/// What the API should be asked to do for one note.
#[derive(Debug, PartialEq)]
pub(crate) enum Record {
    Create(Value),
    /// A merge patch on an event recorded earlier.
    Repeat {
        namespace: String,
        name: String,
        patch: Value,
    },
}

#[derive(Debug, Default)]
pub(crate) struct Recorder {
    /// Events written, by everything that makes two events the same.
    written: HashMap<String, Written>,
    /// Messages seen, by everything but the message.
    groups: HashMap<String, Group>,
    budgets: HashMap<String, Budget>,
    /// Makes names unique within one process start; the time of the first event makes them unique across starts.
    sequence: u64,
}

#[derive(Debug)]
struct Written {
    namespace: String,
    name: String,
    count: i64,
}

#[derive(Debug)]
struct Group {
    since: Timestamp,
    messages: HashSet<String>,
}

#[derive(Debug)]
struct Budget {
    tokens: f64,
    at: Timestamp,
}

impl Recorder {
    /// What to write for a note; `None` when its object has used up its budget.
    pub(crate) fn record(
        &mut self,
        component: &str,
        note: &Note,
        now: Timestamp,
    ) -> Option<Record> {
        let about = &note.about;
        let object = format!(
            "{}|{}|{component}",
            text(about, "/kind"),
            text(about, "/uid")
        );
        if !self.spend(&object, now) {
            return None;
        }
        let kind = format!("{object}|{}|{}", note.warning, note.reason);
        let (message, key) = if self.crowded(&kind, &note.message, now) {
            let message = format!("(combined from similar events): {}", note.message);
            (message, format!("{kind}|combined"))
        } else {
            (note.message.clone(), format!("{kind}|{}", note.message))
        };
        if let Some(written) = self.written.get_mut(&key) {
            written.count += 1;
            return Some(Record::Repeat {
                namespace: written.namespace.clone(),
                name: written.name.clone(),
                patch: json!({"count": written.count, "lastTimestamp": rfc3339(now), "message": message}),
            });
        }
        let namespace = match text(about, "/namespace") {
            "" => "default",
            namespace => namespace,
        };
        self.sequence += 1;
        let stamp = now.as_nanosecond().unsigned_abs() + u128::from(self.sequence);
        let name = format!(
            "{}.{:016x}",
            text(about, "/name"),
            stamp & 0xffff_ffff_ffff_ffff
        );
        if self.written.len() >= MEMORY {
            self.written.clear();
        }
        self.written.insert(
            key,
            Written {
                namespace: namespace.to_owned(),
                name: name.clone(),
                count: 1,
            },
        );
        Some(Record::Create(json!({
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"namespace": namespace, "name": name},
            "involvedObject": about,
            "type": if note.warning { "Warning" } else { "Normal" },
            "reason": note.reason,
            "message": message,
            "source": {"component": component},
            "reportingComponent": component,
            "reportingInstance": "",
            "firstTimestamp": rfc3339(now),
            "lastTimestamp": rfc3339(now),
            "count": 1,
        })))
    }

    /// The event behind a repeat is gone (deleted with its namespace, say): the next one starts afresh.
    pub(crate) fn forget(&mut self, namespace: &str, name: &str) {
        self.written
            .retain(|_, written| written.namespace != namespace || written.name != name);
    }

    fn spend(&mut self, object: &str, now: Timestamp) -> bool {
        if self.budgets.len() >= MEMORY {
            self.budgets.clear();
        }
        let budget = self.budgets.entry(object.to_owned()).or_insert(Budget {
            tokens: BURST,
            at: now,
        });
        let elapsed = now.duration_since(budget.at).as_secs_f64().max(0.0);
        budget.tokens = (budget.tokens + elapsed / REFILL_SECONDS).min(BURST);
        budget.at = now;
        if budget.tokens < 1.0 {
            return false;
        }
        budget.tokens -= 1.0;
        true
    }

    fn crowded(&mut self, kind: &str, message: &str, now: Timestamp) -> bool {
        if self.groups.len() >= MEMORY {
            self.groups.clear();
        }
        let group = self.groups.entry(kind.to_owned()).or_insert(Group {
            since: now,
            messages: HashSet::new(),
        });
        if now > after(group.since, SIMILAR_SECONDS) {
            group.since = now;
            group.messages.clear();
        }
        if group.messages.contains(message) {
            return false;
        }
        if group.messages.len() >= SIMILAR_MAX {
            return true;
        }
        group.messages.insert(message.to_owned());
        false
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::kinds::PODS;
    use super::*;

    fn note(message: &str) -> Note {
        let pod = json!({"metadata": {"namespace": "n", "name": "p", "uid": "u"}});
        Note::warning(&PODS, &pod, "FailedScheduling", message)
    }

    fn now() -> Timestamp {
        "2026-01-01T00:00:00Z".parse().unwrap()
    }

    #[test]
    fn repeats_raise_the_count() {
        let mut recorder = Recorder::default();
        let Some(Record::Create(event)) = recorder.record("s", &note("m"), now()) else {
            panic!("the first is an event")
        };
        assert_eq!(event["count"], 1);
        assert_eq!(event["involvedObject"]["kind"], "Pod");
        let Some(Record::Repeat { name, patch, .. }) =
            recorder.record("s", &note("m"), after(now(), 5))
        else {
            panic!("the second is a repeat")
        };
        assert_eq!(event["metadata"]["name"], name.as_str());
        assert_eq!(patch["count"], 2);
        assert_eq!(patch["lastTimestamp"], "2026-01-01T00:00:05Z");
        recorder.forget("n", &name);
        assert!(matches!(
            recorder.record("s", &note("m"), now()),
            Some(Record::Create(_))
        ));
    }

    #[test]
    fn many_messages_are_combined_and_a_flood_is_dropped() {
        let mut recorder = Recorder::default();
        let mut created = 0;
        let mut dropped = 0;
        for index in 0..40 {
            match recorder.record("s", &note(&format!("m{index}")), now()) {
                Some(Record::Create(_)) => created += 1,
                Some(Record::Repeat { patch, .. }) => {
                    assert!(text(&patch, "/message").starts_with("(combined"));
                }
                None => dropped += 1,
            }
        }
        assert_eq!(created, SIMILAR_MAX + 1);
        assert_eq!(dropped, 15);
        assert!(
            recorder
                .record("s", &note("later"), after(now(), 301))
                .is_some()
        );
    }
}
