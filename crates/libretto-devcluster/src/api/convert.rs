//! Stored form and requested version of an object. Two cases exist: events, which have two real forms, and custom resources in
//! several versions, where only `apiVersion` differs (conversion strategy None).

use std::sync::Arc;

use serde_json::Value;

use crate::registry::Resource;

const NEW_EVENTS: &str = "events.k8s.io";

/// (core/v1 name, events.k8s.io/v1 name) of top-level fields.
const EVENT_FIELDS: &[(&str, &str)] = &[
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("reportingComponent", "reportingController"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
    ("source", "deprecatedSource"),
];

/// An object as a request in `version` sees it; shares the stored one when nothing differs.
pub(super) fn from_storage(resource: &Resource, version: &str, object: &Arc<Value>) -> Arc<Value> {
    if resource.group == NEW_EVENTS {
        let mut event = (**object).clone();
        rename(&mut event, |(core, new)| (core, new));
        event["apiVersion"] = "events.k8s.io/v1".into();
        return Arc::new(event);
    }
    if resource.custom.is_none() {
        return object.clone();
    }
    let wanted = resource.api_version(version);
    if object["apiVersion"] == wanted.as_str() {
        return object.clone();
    }
    let mut converted = (**object).clone();
    converted["apiVersion"] = wanted.into();
    Arc::new(converted)
}

/// The form to store.
pub(super) fn to_storage(resource: &Resource, mut object: Value) -> Value {
    if resource.group == NEW_EVENTS {
        rename(&mut object, |(core, new)| (new, core));
        object["apiVersion"] = "v1".into();
    } else if resource.custom.is_some() && !resource.storage_version.is_empty() {
        object["apiVersion"] = resource.api_version(&resource.storage_version).into();
    }
    object
}

fn rename<'a>(event: &mut Value, direction: impl Fn((&'a str, &'a str)) -> (&'a str, &'a str)) {
    let Some(fields) = event.as_object_mut() else {
        return;
    };
    for &pair in EVENT_FIELDS {
        let (from, to) = direction(pair);
        if let Some(value) = fields.remove(from) {
            fields.insert(to.to_owned(), value);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::json;

    use super::*;
    use crate::registry::Registry;

    #[test]
    fn events_convert_both_ways() {
        let registry = Registry::default();
        let new = registry.find(NEW_EVENTS, "events").unwrap();
        let core = registry.find("", "events").unwrap();
        let event = json!({"apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"name": "e", "namespace": "n"},
            "regarding": {"kind": "Pod", "name": "p"}, "note": "text", "reason": "Started", "type": "Normal",
            "reportingController": "c", "reportingInstance": "c-0", "action": "Start", "eventTime": "2026-01-01T00:00:00.000000Z",
            "deprecatedSource": {"component": "kubelet"}});
        let stored = to_storage(&new, event.clone());
        assert_eq!(stored["involvedObject"]["name"], "p");
        assert_eq!(stored["message"], "text");
        assert_eq!(stored["reportingComponent"], "c");
        assert_eq!(stored["source"]["component"], "kubelet");
        assert_eq!(stored["apiVersion"], "v1");
        assert!(stored.get("note").is_none());
        let stored = Arc::new(stored);
        assert_eq!(*from_storage(&new, "v1", &stored), event);
        assert!(Arc::ptr_eq(&from_storage(&core, "v1", &stored), &stored));
    }
}
