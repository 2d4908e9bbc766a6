//! What holds for every sequence of writes.

#![allow(clippy::unwrap_used)]

use std::sync::LazyLock;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::{cases, fieldset::FieldSet, managers, merge, walk};
use crate::{
    patch::{ApplyError, Manager, apply, track_update},
    schema::TypeSchema,
};

/// Reading it takes longer than a case.
static SCHEMA: LazyLock<TypeSchema> = LazyLock::new(cases::custom);

fn scalar() -> impl Strategy<Value = Value> {
    prop_oneof![Just(json!("1")), Just(json!("2")), Just(json!("3"))]
}

fn tags() -> impl Strategy<Value = Value> {
    prop::collection::btree_map("[a-c]", scalar(), 0..3).prop_map(|map| json!(map))
}

fn nested() -> impl Strategy<Value = Value> {
    prop::collection::btree_map("[k-m]", scalar(), 0..3).prop_map(|map| {
        map.into_iter()
            .map(|(key, value)| json!({"key": key, "value": value}))
            .collect()
    })
}

/// Items with distinct names, in any order.
fn items() -> impl Strategy<Value = Value> {
    let item = (
        prop::option::of(scalar()),
        prop::option::of(scalar()),
        prop::option::of(nested()),
    );
    prop::collection::btree_map("[p-s]", item, 0..4)
        .prop_map(|map| {
            map.into_iter()
                .map(|(name, (value, other, nested))| {
                    let mut item = json!({"name": name});
                    for (key, part) in [("value", value), ("other", other), ("nested", nested)] {
                        if let Some(part) = part {
                            item[key] = part;
                        }
                    }
                    item
                })
                .collect::<Vec<_>>()
        })
        .prop_shuffle()
        .prop_map(Value::from)
}

fn finals() -> impl Strategy<Value = Value> {
    Just(vec!["x", "y", "z"])
        .prop_shuffle()
        .prop_flat_map(|all| (0..=all.len()).prop_map(move |n| json!(all[..n])))
}

/// A configuration of the schema of `cases.yaml`.
fn config() -> impl Strategy<Value = Value> {
    let parts = (
        prop::option::of(0..4_i64),
        prop::option::of(tags()),
        prop::option::of(tags()),
        prop::option::of(finals()),
        prop::option::of(items()),
        prop::option::of(Just(json!({"x": 1}))),
        prop::option::of(Just(json!(["a"]))),
    );
    parts.prop_map(|(replicas, tags, selector, finals, items, deep, args)| {
        let mut object = json!({"apiVersion": "example.com/v1", "kind": "Thing", "metadata": {"name": "x"}, "spec": {}});
        let spec = &mut object["spec"];
        if let Some(replicas) = replicas {
            spec["replicas"] = replicas.into();
        }
        for (key, part) in
            [("tags", tags), ("selector", selector), ("finals", finals), ("items", items), ("args", args)]
        {
            if let Some(part) = part {
                spec[key] = part;
            }
        }
        if let Some(deep) = deep {
            spec["limits"] = json!({"deep": deep});
        }
        object
    })
}

#[derive(Debug, Clone)]
enum Write {
    Apply(usize, bool, Value),
    Update(usize, Value),
}

fn writes() -> impl Strategy<Value = Vec<Write>> {
    let write = prop_oneof![
        3 => (0..3_usize, any::<bool>(), config()).prop_map(|(who, force, config)| Write::Apply(who, force, config)),
        1 => (0..3_usize, config()).prop_map(|(who, config)| Write::Update(who, config)),
    ];
    prop::collection::vec(write, 1..8)
}

fn manager(who: usize, step: usize) -> Manager {
    Manager {
        name: format!("m{who}"),
        subresource: String::new(),
        api_version: "example.com/v1".to_owned(),
        time: format!("2026-01-01T00:00:{step:02}Z"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn any_sequence_of_writes(writes in writes()) {
        let schema = &*SCHEMA;
        let node = Some(schema.root());
        let mut live: Option<Value> = None;
        for (step, write) in writes.into_iter().enumerate() {
            let result = match &write {
                Write::Apply(who, force, config) => {
                    match apply(schema, live.as_ref(), config, &manager(*who, step), *force) {
                        Ok(result) => result,
                        Err(ApplyError::Conflicts(conflicts)) => {
                            prop_assert!(!force && !conflicts.is_empty());
                            continue;
                        }
                        Err(ApplyError::Malformed(message)) => panic!("{message}"),
                    }
                }
                Write::Update(who, object) => {
                    let mut object = object.clone();
                    if let Some(live) = &live {
                        object["metadata"]["managedFields"] = live["metadata"]["managedFields"].clone();
                    }
                    track_update(schema, live.as_ref(), object, &manager(*who, step))
                }
            };
            if let Write::Apply(who, _, config) = &write {
                // Applying again, without force, changes nothing, not even a time stamp; unless nobody owned anything, when what is
                // there gets its first owner.
                let again = apply(schema, Some(&result), config, &manager(*who, step + 1), false).unwrap();
                if !managers::entries(&result).is_empty() {
                    prop_assert_eq!(&again, &result);
                }
                // What was applied is there: merging the configuration in once more changes nothing.
                let bare = managers::bare(&result);
                prop_assert_eq!(&merge::merge(node, &bare, config), &bare);
            }
            // Nobody owns what is not there; what is there is what creating it all would own.
            let bare = managers::bare(&result);
            let present = walk::compare(node, &json!({}), &bare).changed.union(&walk::field_set(node, &bare));
            for entry in managers::entries(&result) {
                let absent = entry.set.difference(&present);
                // As upstream: an emptied container goes although somebody owns it; only its content never dangles.
                let dangling: Vec<_> = absent.paths().into_iter().filter(|path| !is_container(path)).collect();
                prop_assert!(dangling.is_empty(), "{} owns {:?} of {}", entry.manager, dangling, result);
            }
            live = Some(result);
        }
    }

    #[test]
    fn field_sets_survive_storage(config in config()) {
        let schema = &*SCHEMA;
        let set = walk::field_set(Some(schema.root()), &config);
        prop_assert_eq!(&FieldSet::from_fields_v1(&set.to_fields_v1()), &set);
        prop_assert!(walk::compare(Some(schema.root()), &config, &config).changed.is_empty());
    }

    #[test]
    fn merging_is_idempotent(live in config(), config in config()) {
        let schema = &*SCHEMA;
        let node = Some(schema.root());
        let once = merge::merge(node, &live, &config);
        prop_assert_eq!(&merge::merge(node, &once, &config), &once);
    }
}

fn is_container(path: &str) -> bool {
    [
        ".spec", ".tags", ".finals", ".items", ".nested", ".limits", ".deep",
    ]
    .iter()
    .any(|name| path.ends_with(name))
}
