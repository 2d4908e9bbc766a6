//! Reading the history of a table as it grows.
//!
//! A watcher holds a position, not a queue: it pulls from the table's history when it has time, so a slow one costs nothing and
//! cannot lose or repeat a change. When the history has moved past its position it learns so and must list again.

use std::sync::Arc;

use serde_json::Value;
use tokio::sync::watch;

use super::{Key, Store};

/// Changes copied per look at the store: enough to amortise the lock, few enough that the lock is held for microseconds.
const BATCH: usize = 64;

/// One write.
#[derive(Debug, Clone)]
pub struct Change {
    pub revision: u64,
    pub key: Key,
    /// The object before, if there was one.
    pub before: Option<Arc<Value>>,
    /// The object after; for a deletion its last state with the revision of the deletion.
    pub object: Arc<Value>,
    pub deleted: bool,
}

/// What a watcher sees.
#[derive(Debug, Clone)]
pub enum Source {
    Change(Change),
    /// The history has moved on without this watcher.
    Expired,
}

/// A position in the history of one table.
#[derive(Debug)]
pub struct Watcher {
    store: Arc<Store>,
    table: String,
    /// Everything up to this revision has been handed out.
    position: u64,
    batch: std::vec::IntoIter<Change>,
    /// `None` once the store is closed or the watcher has expired.
    latest: Option<watch::Receiver<u64>>,
}

impl Watcher {
    pub(super) fn new(
        store: Arc<Store>,
        table: String,
        from: u64,
        latest: Option<watch::Receiver<u64>>,
    ) -> Self {
        Self {
            store,
            table,
            position: from,
            batch: Vec::new().into_iter(),
            latest,
        }
    }

    /// The next change; `None` when the store is closed or after `Expired`. Cancel-safe: the position moves only on return.
    pub async fn next(&mut self) -> Option<Source> {
        loop {
            if let Some(source) = self.ready() {
                return Some(source);
            }
            if self.latest.as_mut()?.changed().await.is_err() {
                // Closed: hand out what was written before the end.
                self.latest = None;
                return match self.store.changes(&self.table, self.position, usize::MAX) {
                    Ok((changes, _)) => {
                        self.batch = changes.into_iter();
                        self.take()
                    }
                    Err(_) => None,
                };
            }
        }
    }

    /// The next change if there is one now.
    pub fn ready(&mut self) -> Option<Source> {
        if let Some(source) = self.take() {
            return Some(source);
        }
        // Marks the current value as seen before looking, so that a write in between wakes the next wait.
        self.latest.as_mut()?.borrow_and_update();
        match self.store.changes(&self.table, self.position, BATCH) {
            Ok((changes, revision)) => {
                if changes.is_empty() {
                    // Nothing in this table up to `revision`: the position may move on.
                    self.position = revision;
                }
                self.batch = changes.into_iter();
                self.take()
            }
            Err(_) => {
                self.latest = None;
                Some(Source::Expired)
            }
        }
    }

    /// Everything up to this revision has been handed out; meaningful after `ready` gave `None`.
    pub fn position(&self) -> u64 {
        self.position
    }

    fn take(&mut self) -> Option<Source> {
        let change = self.batch.next()?;
        self.position = change.revision;
        Some(Source::Change(change))
    }
}
