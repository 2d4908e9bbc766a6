//! The store: no event lost or twice, order kept, old versions expired, everything back after a crash.

#![allow(clippy::unwrap_used)]

use std::{collections::BTreeMap, sync::Arc};

use proptest::prelude::*;
use serde_json::{Value, json};

use super::{HISTORY_LIMIT, Key, Source, Store, Watcher};

fn memory(limit: usize) -> Arc<Store> {
    Arc::new(Store::open(None, limit).unwrap())
}

fn object(name: &str, value: u64) -> Value {
    json!({"metadata": {"name": name}, "data": value})
}

fn revision(value: &Value) -> u64 {
    value["metadata"]["resourceVersion"]
        .as_str()
        .unwrap()
        .parse()
        .unwrap()
}

/// What a client that lists and watches believes the table to be.
#[derive(Default)]
struct Replica {
    objects: BTreeMap<Key, Value>,
    last: u64,
}

impl Replica {
    fn list(&mut self, store: &Arc<Store>) -> Watcher {
        let snapshot = store.list("t", None, None).unwrap();
        self.objects = snapshot
            .items
            .into_iter()
            .map(|(key, value)| (key, (*value).clone()))
            .collect();
        self.last = snapshot.revision;
        store.watch("t", snapshot.revision)
    }

    /// Takes everything there is; true when it had to give up.
    fn drain(&mut self, watcher: &mut Watcher) -> bool {
        while let Some(source) = watcher.ready() {
            let Source::Change(change) = source else {
                return true;
            };
            assert!(change.revision > self.last, "order");
            assert_eq!(revision(&change.object), change.revision);
            assert_eq!(
                change.before.as_deref(),
                self.objects.get(&change.key),
                "nothing lost, nothing twice"
            );
            self.last = change.revision;
            if change.deleted {
                self.objects.remove(&change.key);
            } else {
                self.objects.insert(change.key, (*change.object).clone());
            }
        }
        false
    }
}

#[derive(Debug, Clone)]
enum Step {
    Put(u8, u64),
    Remove(u8),
    Other,
    Drain(u8),
    Reopen,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (0u8..6, any::<u64>()).prop_map(|(name, value)| Step::Put(name, value)),
        3 => (0u8..6).prop_map(Step::Remove),
        1 => Just(Step::Other),
        4 => (0u8..3).prop_map(Step::Drain),
        1 => Just(Step::Reopen),
    ];
    proptest::collection::vec(step, 0..80)
}

proptest! {
    /// Whatever is written and however slowly it is read, every replica that drains ends equal to the table, in order, without
    /// gaps; one that is too slow is told so.
    #[test]
    fn watchers_see_every_change_once_in_order(steps in steps(), limit in 1usize..20) {
        let store = memory(limit);
        let mut replicas: Vec<_> = (0..3).map(|_| {
            let mut replica = Replica::default();
            let watcher = replica.list(&store);
            (replica, watcher)
        }).collect();
        for step in steps {
            match step {
                Step::Put(name, value) => {
                    store.put("t", Key::new("n", name.to_string()), object("x", value)).unwrap();
                }
                Step::Remove(name) => { store.remove("t", &Key::new("n", name.to_string())).unwrap(); }
                Step::Other => { store.put("u", Key::new("", "o"), object("o", 0)).unwrap(); }
                Step::Reopen => store.forget_history("t"),
                Step::Drain(index) => {
                    let (replica, watcher) = &mut replicas[usize::from(index)];
                    if replica.drain(watcher) {
                        *watcher = replica.list(&store);
                    }
                }
            }
        }
        let now: BTreeMap<_, _> = store.list("t", None, None).unwrap().items.into_iter()
            .map(|(key, value)| (key, (*value).clone())).collect();
        for (replica, watcher) in &mut replicas {
            if replica.drain(watcher) {
                *watcher = replica.list(&store);
            }
            prop_assert_eq!(&replica.objects, &now);
        }
    }

    /// A list of the past is what a list was in the past, or an honest refusal.
    #[test]
    fn past_lists_equal_what_was_listed_then(steps in steps(), limit in 1usize..40) {
        let store = memory(limit);
        let mut seen = Vec::new();
        for step in steps {
            match step {
                Step::Put(name, value) => {
                    store.put("t", Key::new(if value % 2 == 0 { "a" } else { "b" }, name.to_string()), object("x", value)).unwrap();
                }
                Step::Remove(name) => { store.remove("t", &Key::new("a", name.to_string())).unwrap(); }
                _ => {}
            }
            seen.push((store.list("t", None, None).unwrap(), store.list("t", Some("a"), None).unwrap()));
        }
        for (all, one) in &seen {
            if let Ok(again) = store.list("t", None, Some(all.revision)) {
                prop_assert_eq!(&again.items, &all.items);
                let again = store.list("t", Some("a"), Some(one.revision)).unwrap();
                prop_assert_eq!(&again.items, &one.items);
            } else {
                prop_assert!(seen.len() > limit);
            }
        }
    }

}

proptest! {
    // Every case opens files; 48 of them are a second of disk time.
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// A process that dies at any moment finds everything it was told had been written, and never reuses a revision.
    #[test]
    fn reopened_file_holds_every_acknowledged_write(steps in steps()) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state.db");
        let mut expected: BTreeMap<String, Value> = BTreeMap::new();
        let mut store = Arc::new(Store::open(Some(&path), HISTORY_LIMIT).unwrap());
        let mut highest = store.revision();
        for step in steps {
            match step {
                Step::Put(name, value) => {
                    let stored = store.put("t", Key::new("n", name.to_string()), object("x", value)).unwrap();
                    prop_assert!(revision(&stored) > highest);
                    highest = revision(&stored);
                    expected.insert(name.to_string(), (*stored).clone());
                }
                Step::Remove(name) => {
                    if let Some(last) = store.remove("t", &Key::new("n", name.to_string())).unwrap() {
                        prop_assert!(revision(&last) > highest);
                        highest = revision(&last);
                        expected.remove(&name.to_string());
                    }
                }
                Step::Other | Step::Drain(_) => {}
                Step::Reopen => {
                    // No close(): what a kill leaves behind.
                    drop(store);
                    store = Arc::new(Store::open(Some(&path), HISTORY_LIMIT).unwrap());
                    prop_assert!(store.revision() >= highest);
                    prop_assert!(highest == 1 || store.list("t", None, Some(highest - 1)).is_err());
                }
            }
        }
        drop(store);
        let store = Store::open(Some(&path), HISTORY_LIMIT).unwrap();
        let found: BTreeMap<_, _> = store.list("t", None, None).unwrap().items.into_iter()
            .map(|(key, value)| (key.name, (*value).clone())).collect();
        prop_assert_eq!(found, expected);
    }
}

/// A copy of the files taken while the store is open is what a power cut leaves.
#[test]
fn copy_of_the_files_in_use_opens() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state.db");
    let store = Store::open(Some(&path), 10).unwrap();
    for index in 0..50 {
        store
            .put("t", Key::new("n", index.to_string()), object("x", index))
            .unwrap();
    }
    let copy = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(directory.path()).unwrap() {
        let entry = entry.unwrap();
        // The shared-memory index is rebuilt; only the file and its log count.
        if !entry.file_name().to_string_lossy().ends_with("-shm") {
            std::fs::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
        }
    }
    let again = Store::open(Some(&copy.path().join("state.db")), 10).unwrap();
    assert_eq!(again.count("t"), 50);
    assert!(again.revision() >= store.revision());
}

#[test]
fn clean_close_keeps_the_exact_revision() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state.db");
    let store = Store::open(Some(&path), 10).unwrap();
    store.put("t", Key::new("", "a"), object("a", 1)).unwrap();
    let revision = store.revision();
    store.close().unwrap();
    drop(store);
    assert_eq!(Store::open(Some(&path), 10).unwrap().revision(), revision);
}

#[test]
fn foreign_format_is_refused_by_name() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state.db");
    drop(Store::open(Some(&path), 10).unwrap());
    rusqlite::Connection::open(&path)
        .unwrap()
        .execute("UPDATE meta SET value = 9 WHERE name = 'format'", [])
        .unwrap();
    let error = Store::open(Some(&path), 10).unwrap_err().to_string();
    assert!(
        error.contains("state.db") && error.contains("format 9"),
        "{error}"
    );
}

#[tokio::test]
async fn waiting_watcher_wakes_and_close_ends_it() {
    let store = memory(10);
    let mut watcher = store.watch("t", store.revision());
    let writer = store.clone();
    let task = tokio::spawn(async move {
        let first = watcher.next().await;
        let second = watcher.next().await;
        (first, second, watcher.next().await)
    });
    tokio::task::yield_now().await;
    writer.put("t", Key::new("", "a"), object("a", 1)).unwrap();
    writer.put("t", Key::new("", "a"), object("a", 2)).unwrap();
    writer.close().unwrap();
    let (first, second, end) = task.await.unwrap();
    assert!(matches!(first, Some(Source::Change(change)) if change.before.is_none()));
    assert!(matches!(second, Some(Source::Change(change)) if change.object["data"] == 2));
    assert!(end.is_none());
}

#[test]
fn watch_from_the_future_or_the_distant_past_is_expired() {
    let store = memory(10);
    for from in [0, store.revision() + 1] {
        let mut watcher = store.watch("t", from);
        assert!(matches!(watcher.ready(), Some(Source::Expired)), "{from}");
        assert!(watcher.ready().is_none());
    }
}
