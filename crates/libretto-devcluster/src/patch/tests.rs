//! Patches against cases derived from upstream's behaviour, and their laws.

#![allow(clippy::unwrap_used)]

use serde::Deserialize;
use serde_json::{Value, json};

use super::{Manager, json as json_patch, merge, strategic, track_update};
use crate::schema::TypeSchema;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: String,
    /// `Group/version/Kind` without a group for the core one.
    kind: String,
    target: Value,
    patch: Value,
    result: Option<Value>,
    error: Option<String>,
}

#[test]
fn strategic_cases() {
    let cases: Value = serde_saphyr::from_str(include_str!("strategic.yaml")).unwrap();
    let cases: Vec<Case> = serde_json::from_value(cases).unwrap();
    for case in &cases {
        let parts: Vec<&str> = case.kind.split('/').collect();
        let (group, version, kind) = match parts[..] {
            [version, kind] => ("", version, kind),
            [group, version, kind] => (group, version, kind),
            _ => panic!("{}", case.kind),
        };
        let schema = TypeSchema::built_in(group, version, kind).unwrap();
        match strategic(&schema, &case.target, &case.patch) {
            Ok(result) => assert_eq!(Some(&result), case.result.as_ref(), "{}", case.name),
            Err(error) => {
                let expected = case
                    .error
                    .as_deref()
                    .unwrap_or_else(|| panic!("{}: {error}", case.name));
                assert!(error.0.contains(expected), "{}: {error}", case.name);
            }
        }
    }
}

#[test]
fn strategic_needs_a_built_in_kind() {
    let schema = super::apply::tests_custom();
    let error = strategic(&schema, &json!({}), &json!({})).unwrap_err();
    assert!(error.0.contains("--type=merge"), "{error}");
}

/// The examples of RFC 7396, appendix A.
#[test]
fn merge_patch() {
    for (target, patch, expected) in [
        (json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"})),
        (
            json!({"a": "b"}),
            json!({"b": "c"}),
            json!({"a": "b", "b": "c"}),
        ),
        (json!({"a": "b"}), json!({"a": null}), json!({})),
        (json!({"a": ["b"]}), json!({"a": "c"}), json!({"a": "c"})),
        (
            json!({"a": {"b": "c"}}),
            json!({"a": {"b": "d", "c": null}}),
            json!({"a": {"b": "d"}}),
        ),
        (
            json!({"a": "c"}),
            json!({"a": {"b": {"c": null}}}),
            json!({"a": {"b": {}}}),
        ),
        (json!(["a", "b"]), json!({"a": "b"}), json!({"a": "b"})),
        (json!({"a": "foo"}), json!("bar"), json!("bar")),
        (
            json!({"e": null}),
            json!({"a": 1}),
            json!({"e": null, "a": 1}),
        ),
    ] {
        let mut result = target.clone();
        merge(&mut result, &patch);
        assert_eq!(result, expected, "{target} + {patch}");
        let once = result.clone();
        merge(&mut result, &patch);
        assert_eq!(result, once, "merging twice changes nothing more");
    }
}

#[test]
fn json_patches() {
    let target = json!({"metadata": {"finalizers": ["a", "b"]}});
    let result = json_patch(
        &target,
        &json!([
            {"op": "test", "path": "/metadata/finalizers/0", "value": "a"},
            {"op": "remove", "path": "/metadata/finalizers/0"},
            {"op": "add", "path": "/metadata/labels", "value": {"x": "1"}},
        ]),
    );
    assert_eq!(
        result.unwrap(),
        json!({"metadata": {"finalizers": ["b"], "labels": {"x": "1"}}})
    );
    let failed = json_patch(
        &target,
        &json!([{"op": "test", "path": "/metadata/finalizers/0", "value": "z"}]),
    );
    assert!(failed.unwrap_err().0.contains("did not match"));
    assert!(json_patch(&target, &json!({"op": "x"})).is_err());
    assert!(json_patch(&target, &json!([{"op": "remove", "path": "/nothing"}])).is_err());
}

#[test]
fn old_update_managers_are_merged() {
    let schema = TypeSchema::built_in("", "v1", "ConfigMap").unwrap();
    let mut object =
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x"}, "data": {}});
    let mut live: Option<Value> = None;
    for index in 0..15 {
        object["data"][format!("k{index:02}")] = "v".into();
        let manager = Manager {
            name: format!("m{index:02}"),
            subresource: String::new(),
            api_version: "v1".to_owned(),
            time: format!("2026-01-01T00:00:{index:02}Z"),
        };
        live = Some(track_update(
            &schema,
            live.as_ref(),
            object.clone(),
            &manager,
        ));
    }
    let list = live.unwrap()["metadata"]["managedFields"].clone();
    let entries: Vec<_> = list
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| entry["manager"].as_str().unwrap())
        .collect();
    assert_eq!(entries.len(), 10);
    assert_eq!(entries[0], "ancient-changes");
    assert_eq!(entries[9], "m14");
    assert_eq!(list[0]["time"], "2026-01-01T00:00:05Z");
    // Everything the merged ones owned is still owned.
    assert!(list[0]["fieldsV1"]["f:data"].get("f:k00").is_some());
    assert!(list[0]["fieldsV1"]["f:data"].get("f:k05").is_some());
}

#[test]
fn conflicts_read_as_kubectl_shows_them() {
    let schema = TypeSchema::built_in("apps", "v1", "Deployment").unwrap();
    let manager = |name: &str| Manager {
        name: name.to_owned(),
        subresource: String::new(),
        api_version: "apps/v1".to_owned(),
        time: "2026-01-01T00:00:00Z".to_owned(),
    };
    let object = |replicas: i64, paused: bool| {
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
               "spec": {"replicas": replicas, "paused": paused}})
    };
    let live = track_update(&schema, None, object(1, false), &manager("kubectl-create"));
    let error = super::apply(
        &schema,
        Some(&live),
        &object(2, false),
        &manager("other"),
        false,
    )
    .unwrap_err();
    let error = crate::error::ApiError::from(error);
    assert_eq!(error.code, 409);
    assert_eq!(
        error.message,
        "Apply failed with 1 conflict: conflict with \"kubectl-create\" using apps/v1: .spec.replicas"
    );
    assert_eq!(error.details["causes"][0]["reason"], "FieldManagerConflict");
    let error = super::apply(
        &schema,
        Some(&live),
        &object(2, true),
        &manager("other"),
        false,
    )
    .unwrap_err();
    assert_eq!(
        crate::error::ApiError::from(error).message,
        "Apply failed with 2 conflicts: conflicts with \"kubectl-create\" using apps/v1:\n\
         - .spec.paused\n- .spec.replicas"
    );
}

#[test]
fn time_stamps_move_only_with_changes() {
    let schema = TypeSchema::built_in("", "v1", "ConfigMap").unwrap();
    let config = |value: &str| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x"}, "data": {"a": value}});
    let at = |time: &str| Manager {
        name: "m".to_owned(),
        subresource: String::new(),
        api_version: "v1".to_owned(),
        time: time.to_owned(),
    };
    let first = super::apply(
        &schema,
        None,
        &config("1"),
        &at("2026-01-01T00:00:00Z"),
        false,
    )
    .unwrap();
    let second = super::apply(
        &schema,
        Some(&first),
        &config("1"),
        &at("2026-01-01T00:00:01Z"),
        false,
    )
    .unwrap();
    assert_eq!(first, second);
    let third = super::apply(
        &schema,
        Some(&first),
        &config("2"),
        &at("2026-01-01T00:00:02Z"),
        false,
    )
    .unwrap();
    assert_eq!(
        third["metadata"]["managedFields"][0]["time"],
        "2026-01-01T00:00:02Z"
    );
    // A server-side change of other fields, such as a defaulted one, does not make the next apply a change.
    let mut defaulted = third;
    defaulted["metadata"]["uid"] = "u".into();
    let fourth = super::apply(
        &schema,
        Some(&defaulted),
        &config("2"),
        &at("2026-01-01T00:00:03Z"),
        false,
    )
    .unwrap();
    assert_eq!(fourth, defaulted);
}
