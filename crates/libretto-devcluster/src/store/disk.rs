//! The store's copy on disk: one SQLite file, one commit per write.
//!
//! WAL with synchronous=NORMAL: a killed process loses nothing; a power cut may lose the last commits. Watch positions that clients
//! remember must not come back with another meaning after that, therefore the revision on disk is a high-water mark that is made
//! durable (synchronous=FULL) well before the revisions below it are given out.

use std::{
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use rusqlite::{Connection, OptionalExtension, params};
use serde_json::Value;

use super::Key;

/// Revisions reserved at a time. One synchronous commit per this many writes is not measurable; a restart skips at most this many.
const RESERVE: u64 = 10_000;

/// Version of the tables below; a file of another version is refused rather than guessed at.
const FORMAT: i64 = 1;

/// The store's file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("{what} {}", path.display())]
    File {
        what: &'static str,
        path: PathBuf,
        source: rusqlite::Error,
    },
    #[error("cannot make {} readable by its owner only", path.display())]
    Private {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("{} has format {found}, this program writes format {FORMAT}; move it away or use the program that wrote it", path.display())]
    Format { path: PathBuf, found: i64 },
    #[error("row {table} {namespace}/{name} of {} is not JSON; restore the file from a copy or delete the row", path.display())]
    Row {
        path: PathBuf,
        table: String,
        namespace: String,
        name: String,
        source: serde_json::Error,
    },
}

/// A row as read at start.
pub(super) type Row = (String, Key, Value);

#[derive(Debug)]
pub(super) struct Disk {
    connection: Connection,
    path: PathBuf,
    reserved: u64,
    /// Last revision written, for a clean end.
    revision: u64,
}

impl Disk {
    /// The file, the revision to continue from, and everything in it.
    pub(super) fn open(path: &Path) -> Result<(Self, u64, Vec<Row>), StoreError> {
        let file = |what| {
            move |source| StoreError::File {
                what,
                path: path.to_owned(),
                source,
            }
        };
        make_private(path)?;
        let connection = Connection::open(path).map_err(file("cannot open the cluster's state"))?;
        connection
            .execute_batch(
                "PRAGMA journal_mode = WAL;
                 PRAGMA synchronous = NORMAL;
                 CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value INTEGER NOT NULL);
                 CREATE TABLE IF NOT EXISTS objects (
                   resource TEXT NOT NULL, namespace TEXT NOT NULL, name TEXT NOT NULL,
                   revision INTEGER NOT NULL, body TEXT NOT NULL,
                   PRIMARY KEY (resource, namespace, name));
                 INSERT OR IGNORE INTO meta VALUES ('format', 1);",
            )
            .map_err(file("cannot prepare the cluster's state in"))?;
        let read = file("cannot read the cluster's state from");
        let meta = |name: &str| {
            connection
                .query_row("SELECT value FROM meta WHERE name = ?", [name], |row| {
                    row.get::<_, i64>(0)
                })
                .optional()
        };
        let found = meta("format").map_err(read)?.unwrap_or(FORMAT);
        if found != FORMAT {
            return Err(StoreError::Format {
                path: path.to_owned(),
                found,
            });
        }
        let reserved = meta("revision").map_err(read)?.unwrap_or(1);
        let mut rows = Vec::new();
        let mut highest = u64::try_from(reserved).unwrap_or(1);
        {
            let mut statement = connection
                .prepare("SELECT resource, namespace, name, revision, body FROM objects")
                .map_err(read)?;
            let mut cursor = statement.query([]).map_err(read)?;
            while let Some(row) = cursor.next().map_err(read)? {
                let table: String = row.get(0).map_err(read)?;
                let key = Key::new(
                    row.get::<_, String>(1).map_err(read)?,
                    row.get::<_, String>(2).map_err(read)?,
                );
                let revision: i64 = row.get(3).map_err(read)?;
                highest = highest.max(u64::try_from(revision).unwrap_or(0));
                let body: String = row.get(4).map_err(read)?;
                let value = serde_json::from_str(&body).map_err(|source| StoreError::Row {
                    path: path.to_owned(),
                    table: table.clone(),
                    namespace: key.namespace.clone(),
                    name: key.name.clone(),
                    source,
                })?;
                rows.push((table, key, value));
            }
        }
        let mut disk = Self {
            connection,
            path: path.to_owned(),
            reserved: highest,
            revision: highest,
        };
        disk.reserve(highest)?;
        Ok((disk, highest, rows))
    }

    pub(super) fn put(
        &mut self,
        table: &str,
        key: &Key,
        object: &Value,
        revision: u64,
    ) -> Result<(), StoreError> {
        self.reserve(revision)?;
        self.connection
            .prepare_cached(
                "INSERT INTO objects (resource, namespace, name, revision, body) VALUES (?, ?, ?, ?, ?)
                 ON CONFLICT DO UPDATE SET revision = excluded.revision, body = excluded.body",
            )
            .and_then(|mut statement| {
                statement.execute(params![
                    table,
                    key.namespace,
                    key.name,
                    signed(revision),
                    object.to_string()
                ])
            })
            .map_err(|source| self.failed("cannot write to", source))?;
        self.revision = revision;
        Ok(())
    }

    pub(super) fn remove(
        &mut self,
        table: &str,
        key: &Key,
        revision: u64,
    ) -> Result<(), StoreError> {
        self.reserve(revision)?;
        self.connection
            .prepare_cached("DELETE FROM objects WHERE resource = ? AND namespace = ? AND name = ?")
            .and_then(|mut statement| statement.execute(params![table, key.namespace, key.name]))
            .map_err(|source| self.failed("cannot delete from", source))?;
        self.revision = revision;
        Ok(())
    }

    /// Folds the log into the file and writes the exact revision.
    pub(super) fn checkpoint(&mut self) -> Result<(), StoreError> {
        self.reserved = self.revision;
        self.write_revision(self.revision)?;
        self.connection
            .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
            .map_err(|source| self.failed("cannot fold the log into", source))
    }

    /// Makes sure that a restart continues above `revision`.
    fn reserve(&mut self, revision: u64) -> Result<(), StoreError> {
        if revision < self.reserved {
            return Ok(());
        }
        let reserved = revision + RESERVE;
        self.write_revision(reserved)?;
        self.reserved = reserved;
        Ok(())
    }

    fn write_revision(&self, revision: u64) -> Result<(), StoreError> {
        // FULL for this one commit: it must be on the platter before the revisions below it are handed out.
        self.connection
            .execute_batch(&format!(
                "PRAGMA synchronous = FULL;
                 INSERT INTO meta VALUES ('revision', {revision}) ON CONFLICT DO UPDATE SET value = excluded.value;
                 PRAGMA synchronous = NORMAL;"
            ))
            .map_err(|source| self.failed("cannot write the revision to", source))
    }

    fn failed(&self, what: &'static str, source: rusqlite::Error) -> StoreError {
        StoreError::File {
            what,
            path: self.path.clone(),
            source,
        }
    }
}

/// Secrets are among the objects. SQLite gives its companion files the mode of the database; those of an earlier run keep theirs.
fn make_private(path: &Path) -> Result<(), StoreError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| StoreError::Private { path, source }
    };
    std::fs::OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(path)
        .map_err(failed(path))?;
    for suffix in ["", "-wal", "-shm"] {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        let file = PathBuf::from(name);
        match std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(failed(&file)(error));
            }
            _ => {}
        }
    }
    Ok(())
}

/// SQLite integers are signed; revisions count single writes and stay far below 2^63.
fn signed(revision: u64) -> i64 {
    i64::try_from(revision).unwrap_or(i64::MAX)
}
