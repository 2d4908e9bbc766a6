//! The objects of the cluster: memory is the authority, SQLite the copy that survives a restart.
//!
//! One global, strictly increasing resourceVersion; per table an ordered map and a bounded history of changes, from which watches
//! are served and lists of the recent past rebuilt. The store knows nothing of what objects mean: it touches only
//! `metadata.resourceVersion`. It never blocks a reader on the disk.

mod disk;
#[cfg(test)]
mod tests;
mod watcher;

use std::{
    collections::{BTreeMap, VecDeque},
    ops::Bound,
    path::Path,
    sync::Arc,
};

use parking_lot::{Mutex, RwLock};
use serde_json::Value;
use tokio::sync::watch;

use self::disk::Disk;
pub use self::{
    disk::StoreError,
    watcher::{Change, Source, Watcher},
};

/// Changes kept per table. A watcher that falls further behind than this gets `Expired` and lists again. An entry costs one parsed
/// object (about 40 KB for a Pod), so a busy table holds at most some 40 MB of history; a controller that is 1,000 writes behind
/// lists faster than it would catch up.
pub const HISTORY_LIMIT: usize = 1024;

/// Identity within a table; cluster-scoped objects have an empty namespace.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    pub namespace: String,
    pub name: String,
}

impl Key {
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }
}

/// A consistent view of one table at one revision.
#[derive(Debug, Clone)]
pub struct Snapshot {
    pub revision: u64,
    /// In key order.
    pub items: Vec<(Key, Arc<Value>)>,
}

/// The asked-for revision is no longer (or not yet) known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expired;

#[derive(Debug)]
struct Table {
    objects: BTreeMap<Key, Arc<Value>>,
    history: VecDeque<Change>,
    /// Changes up to and including this revision have left the history.
    since: u64,
    /// Revision of the last change; wakes the watchers.
    latest: watch::Sender<u64>,
}

impl Table {
    fn new(since: u64) -> Self {
        Self {
            objects: BTreeMap::new(),
            history: VecDeque::new(),
            since,
            latest: watch::Sender::new(since),
        }
    }
}

#[derive(Debug)]
struct State {
    revision: u64,
    tables: BTreeMap<String, Table>,
    closed: bool,
}

/// What a writer holds: writers queue here, so revisions reach memory and disk in the same order.
#[derive(Debug)]
struct Writer {
    disk: Option<Disk>,
}

/// The store.
#[derive(Debug)]
pub struct Store {
    writer: Mutex<Writer>,
    state: RwLock<State>,
    history_limit: usize,
    /// Revision the store started at: nothing older can be watched.
    opened_at: u64,
}

impl Store {
    /// Opens or creates the file at `path`; `None` keeps everything in memory only.
    pub fn open(path: Option<&Path>, history_limit: usize) -> Result<Self, StoreError> {
        let (disk, revision, rows) = match path {
            None => (None, 1, Vec::new()),
            Some(path) => {
                let (disk, revision, rows) = Disk::open(path)?;
                (Some(disk), revision, rows)
            }
        };
        let mut tables = BTreeMap::new();
        for (table, key, value) in rows {
            tables
                .entry(table)
                .or_insert_with(|| Table::new(revision))
                .objects
                .insert(key, Arc::new(value));
        }
        Ok(Self {
            writer: Mutex::new(Writer { disk }),
            state: RwLock::new(State {
                revision,
                tables,
                closed: false,
            }),
            history_limit,
            opened_at: revision,
        })
    }

    /// The revision of the last write anywhere.
    pub fn revision(&self) -> u64 {
        self.state.read().revision
    }

    pub fn get(&self, table: &str, key: &Key) -> Option<Arc<Value>> {
        self.state
            .read()
            .tables
            .get(table)?
            .objects
            .get(key)
            .cloned()
    }

    /// The revision of the last write to a table; it tells whether something that was made of the table still holds.
    pub fn last_change(&self, table: &str) -> u64 {
        self.state
            .read()
            .tables
            .get(table)
            .map_or(0, |table| *table.latest.borrow())
    }

    /// Number of objects in a table.
    pub fn count(&self, table: &str) -> usize {
        self.state
            .read()
            .tables
            .get(table)
            .map_or(0, |table| table.objects.len())
    }

    /// Tables that hold something: (name, objects, changes in the history).
    pub fn sizes(&self) -> Vec<(String, usize, usize)> {
        let state = self.state.read();
        state
            .tables
            .iter()
            .map(|(name, table)| (name.clone(), table.objects.len(), table.history.len()))
            .collect()
    }

    /// Objects of a table (of one namespace, or all), as of now or of revision `at`.
    ///
    /// The past is rebuilt by undoing the history, so a page two seconds later continues the list the first page began.
    pub fn list(
        &self,
        table: &str,
        namespace: Option<&str>,
        at: Option<u64>,
    ) -> Result<Snapshot, Expired> {
        let state = self.state.read();
        let revision = at.unwrap_or(state.revision);
        if revision > state.revision {
            return Err(Expired);
        }
        let Some(table) = state.tables.get(table) else {
            let known = revision >= self.opened_at;
            return if known {
                Ok(Snapshot {
                    revision,
                    items: Vec::new(),
                })
            } else {
                Err(Expired)
            };
        };
        if revision < table.since {
            return Err(Expired);
        }
        let mut items = select(&table.objects, namespace);
        let newer = table
            .history
            .partition_point(|change| change.revision <= revision);
        if newer < table.history.len() {
            let mut past: BTreeMap<Key, Arc<Value>> = items.into_iter().collect();
            for change in table.history.iter().skip(newer).rev() {
                if namespace.is_some_and(|namespace| namespace != change.key.namespace) {
                    continue;
                }
                match &change.before {
                    Some(before) => past.insert(change.key.clone(), before.clone()),
                    None => past.remove(&change.key),
                };
            }
            items = past.into_iter().collect();
        }
        Ok(Snapshot { revision, items })
    }

    /// Stores an object under the next revision, on disk first. The caller has decided that it may be written.
    pub fn put(&self, table: &str, key: Key, mut object: Value) -> Result<Arc<Value>, StoreError> {
        let mut writer = self.writer.lock();
        let revision = self.revision() + 1;
        object["metadata"]["resourceVersion"] = revision.to_string().into();
        if let Some(disk) = &mut writer.disk {
            disk.put(table, &key, &object, revision)?;
        }
        let object = Arc::new(object);
        self.publish(table, key, revision, Some(object.clone()));
        Ok(object)
    }

    /// Removes an object; the answer is its last state with the revision of the removal, as watchers see it.
    pub fn remove(&self, table: &str, key: &Key) -> Result<Option<Arc<Value>>, StoreError> {
        let mut writer = self.writer.lock();
        if self.get(table, key).is_none() {
            return Ok(None);
        }
        let revision = self.revision() + 1;
        if let Some(disk) = &mut writer.disk {
            disk.remove(table, key, revision)?;
        }
        Ok(self.publish(table, key.clone(), revision, None))
    }

    /// Makes a committed write visible; the answer is the object as watchers see it.
    fn publish(
        &self,
        name: &str,
        key: Key,
        revision: u64,
        object: Option<Arc<Value>>,
    ) -> Option<Arc<Value>> {
        let mut state = self.state.write();
        state.revision = revision;
        if !state.tables.contains_key(name) {
            state
                .tables
                .insert(name.to_owned(), Table::new(self.opened_at));
        }
        let table = state.tables.get_mut(name).expect("inserted above");
        let before = match &object {
            Some(object) => table.objects.insert(key.clone(), object.clone()),
            None => table.objects.remove(&key),
        };
        let deleted = object.is_none();
        let object = match object {
            Some(object) => object,
            None => {
                let mut last = (**before.as_ref()?).clone();
                last["metadata"]["resourceVersion"] = revision.to_string().into();
                Arc::new(last)
            }
        };
        table.history.push_back(Change {
            revision,
            key,
            before,
            object: object.clone(),
            deleted,
        });
        while table.history.len() > self.history_limit {
            if let Some(oldest) = table.history.pop_front() {
                table.since = oldest.revision;
            }
        }
        table.latest.send_replace(revision);
        Some(object)
    }

    /// Changes of a table after revision `from`. The table need not exist yet.
    pub fn watch(self: &Arc<Self>, table: &str, from: u64) -> Watcher {
        let mut state = self.state.write();
        let closed = state.closed;
        let entry = state
            .tables
            .entry(table.to_owned())
            .or_insert_with(|| Table::new(self.opened_at));
        Watcher::new(
            self.clone(),
            table.to_owned(),
            from,
            (!closed).then(|| entry.latest.subscribe()),
        )
    }

    /// Forgets the history of a table: every watch and every page that has not caught up gets 410. For tests of clients.
    pub fn forget_history(&self, table: &str) {
        let mut state = self.state.write();
        let revision = state.revision;
        if let Some(table) = state.tables.get_mut(table) {
            table.history.clear();
            table.since = revision;
        }
    }

    /// Ends all watches and writes the exact revision down; later writes are still possible (the last words of controllers).
    pub fn close(&self) -> Result<(), StoreError> {
        let mut writer = self.writer.lock();
        {
            let mut state = self.state.write();
            state.closed = true;
            for table in state.tables.values_mut() {
                // Dropping the sender ends the receivers of all watchers.
                table.latest = watch::Sender::new(0);
            }
        }
        match &mut writer.disk {
            Some(disk) => disk.checkpoint(),
            None => Ok(()),
        }
    }

    /// The next changes after `from`, at most `limit`; with none, the revision up to which nothing happened.
    fn changes(&self, table: &str, from: u64, limit: usize) -> Result<(Vec<Change>, u64), Expired> {
        let state = self.state.read();
        let table = state.tables.get(table).ok_or(Expired)?;
        if from < table.since || from > state.revision {
            return Err(Expired);
        }
        let start = table
            .history
            .partition_point(|change| change.revision <= from);
        let changes: Vec<_> = table
            .history
            .iter()
            .skip(start)
            .take(limit)
            .cloned()
            .collect();
        Ok((changes, state.revision))
    }
}

fn select(objects: &BTreeMap<Key, Arc<Value>>, namespace: Option<&str>) -> Vec<(Key, Arc<Value>)> {
    match namespace {
        None => objects
            .iter()
            .map(|(key, object)| (key.clone(), object.clone()))
            .collect(),
        Some(namespace) => objects
            .range((
                Bound::Included(Key::new(namespace, "")),
                Bound::<Key>::Unbounded,
            ))
            .take_while(|(key, _)| key.namespace == namespace)
            .map(|(key, object)| (key.clone(), object.clone()))
            .collect(),
    }
}
