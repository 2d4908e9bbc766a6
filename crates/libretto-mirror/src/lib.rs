//! The cluster as SQL: tables of the columns that packages declare, and nothing else of an object.
//!
//! - [`Mirror`] holds every watched object's declared columns, fed by [`Mirror::ingest`], [`Mirror::replace_all`] and
//!   [`Mirror::probe_result`]; each answers which instances must be looked at again.
//! - [`Snapshot`] is what one instance may see, as plain data that can be written down and replayed.
//! - [`Sheet`] is the working set a decision is made on: one package's tables and views in a small database of its own,
//!   locked to reading and bounded in steps, rows and value length.
//! - [`held_digest`] says what of an object is ours, so that defaults and other managers never count as drift.
//!
//! This is the only crate that links SQLite. Never here: a Kubernetes client, clocks (but for the last bound of a statement, `backstop`), randomness, rules.

mod backstop;
mod datum;
mod error;
mod functions;
mod held;
mod ingest;
mod limits;
mod lineage;
mod lock;
mod memo;
mod mirror;
mod path;
mod readiness;
mod schema;
mod sheet;
mod snapshot;
mod store;

pub use datum::{
    ColumnType, Datum, canonical_json, digest, parse_bytes, parse_quantity, parse_time,
};
pub use error::{MirrorError, SqlError};
pub use held::{held_digest, held_digest_ignoring, held_fields, held_since};
pub use limits::Limits;
pub use memo::{Answer, Asked};
pub use mirror::{Change, Dirty, Mirror, ask};
pub use path::{ColumnPath, PathError, Segment};
pub use readiness::ready;
pub use schema::{
    CLOCK_COLUMNS, Column, Field, INSTANCE_COLUMNS, InstanceSchema, OBJECT_COLUMNS, ObjectKind,
    PROBE_COLUMNS, PackageSchema, ProbeTable, Reach, Scope, ScopeMode, WATCH_COLUMNS, WatchTable,
};
pub use sheet::{Described, ResultColumn, Rows, Sheet};
pub use snapshot::{ObjectRow, Snapshot, Table};
pub use store::Row;

#[cfg(test)]
mod tests;
