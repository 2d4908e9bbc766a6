//! Events are kept for a while only: nobody deletes them, so the cluster must.

use serde_json::Value;

use super::{Api, DeleteOptions, EVENTS};
use crate::selector::text_at;

impl Api {
    /// Removes events last seen before `limit`.
    pub fn drop_events_before(&self, limit: jiff::Timestamp) {
        let Ok(target) = self.resolve(&EVENTS) else {
            return;
        };
        let events = self
            .0
            .store
            .list(&target.resource.table, None, None)
            .map(|snapshot| snapshot.items)
            .unwrap_or_default();
        for (key, event) in events {
            if last_seen(&event).is_none_or(|seen| seen >= limit) {
                continue;
            }
            if let Err(error) = self.delete(
                &EVENTS,
                &key.namespace,
                &key.name,
                &DeleteOptions::default(),
            ) {
                tracing::warn!(namespace = key.namespace, name = key.name, %error, "cannot remove an old event");
            }
        }
    }
}

/// The latest time an event carries.
fn last_seen(event: &Value) -> Option<jiff::Timestamp> {
    [
        "series.lastObservedTime",
        "lastTimestamp",
        "eventTime",
        "firstTimestamp",
        "metadata.creationTimestamp",
    ]
    .iter()
    .filter_map(|path| text_at(event, path).parse().ok())
    .max()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::json;

    use super::*;

    #[test]
    fn latest_time_counts() {
        let event = json!({"metadata": {"creationTimestamp": "2026-01-01T00:00:00Z"}, "lastTimestamp": null,
            "series": {"lastObservedTime": "2026-01-01T02:00:00.000000Z"}, "eventTime": "2026-01-01T00:00:00.000000Z"});
        assert_eq!(
            last_seen(&event).unwrap().to_string(),
            "2026-01-01T02:00:00Z"
        );
        assert!(last_seen(&json!({})).is_none());
    }
}
