//! What a package declares it wants to see: the shape of its tables.

use std::collections::BTreeMap;

use libretto_api::object::Gvk;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{ColumnPath, ColumnType, Datum};

/// Everything one package keeps in the mirror.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PackageSchema {
    pub package: String,
    pub instance: InstanceSchema,
    pub watches: Vec<WatchTable>,
    pub probes: Vec<ProbeTable>,
    /// Kinds the package applies or patches: rows of table `objects`.
    pub objects: Vec<ObjectKind>,
    /// Kinds watched only because they stand between an instance and a sensed object (ReplicaSet, Job).
    pub lineage: Vec<Gvk>,
}

/// The package's own Kind: table `cr`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct InstanceSchema {
    pub gvk: Gvk,
    pub fields: Vec<Field>,
    /// Which instances are ours when a cluster-wide and a namespaced runtime stand side by side.
    pub scope: Option<Scope>,
    /// Annotations by which a person takes an instance out of everybody's hands.
    pub unmanaged: Vec<Scope>,
}

/// A field of the instance, readable as `:name` in SQL and `cr.name` in templates.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Field {
    pub name: String,
    pub path: ColumnPath,
    pub kind: ColumnType,
    /// Used when the object does not have the field.
    pub default: Datum,
    /// The value never enters the mirror; the column holds a secret handle, or the default when the field is absent or empty.
    pub sensitive: bool,
}

/// The annotation that says which runtime an instance belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scope {
    pub annotation: String,
    pub value: String,
}

/// Which side of [`Scope`] a runtime takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub enum ScopeMode {
    /// Instances with and without the annotation.
    #[default]
    Any,
    /// Only instances whose annotation has the value.
    Cluster,
    /// Only instances whose annotation does not have the value.
    Namespace,
}

/// Which objects of a watched Kind an instance sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reach {
    /// Those it owns, at any depth.
    #[default]
    Own,
    /// All of its namespace.
    Namespace,
}

/// One `watch:` table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WatchTable {
    pub name: String,
    pub gvk: Gvk,
    pub reach: Reach,
    /// Only objects with all of these labels become rows.
    pub labels: BTreeMap<String, String>,
    pub columns: Vec<Column>,
}

/// One `probe:` table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ProbeTable {
    pub name: String,
    /// After this many failures in a row the columns turn NULL; `ok` turns 0 at the first.
    pub misses: u32,
    /// Read from the probe's answer.
    pub columns: Vec<Column>,
}

/// A Kind the package writes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ObjectKind {
    pub gvk: Gvk,
    /// Fields that some rule of the package leaves to others after creation: not part of `held`; their live values are kept
    /// so that a later apply sends what is there.
    pub ignore: Vec<ColumnPath>,
}

/// A declared column.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Column {
    pub name: String,
    pub path: ColumnPath,
    pub kind: ColumnType,
    /// Of an object, or of each object in a list, only these members are kept, so that others may change without anybody waking;
    /// empty keeps all. For JSON columns.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub only: Vec<String>,
}

impl Column {
    /// The column's value for an object or an answer.
    pub fn read(&self, object: &Value) -> Datum {
        let found = self.path.find(object);
        if self.only.is_empty() {
            return self.kind.read(found);
        }
        self.kind.read(found.map(|value| self.kept(value)).as_ref())
    }

    fn kept(&self, value: &Value) -> Value {
        match value {
            Value::Array(items) => items.iter().map(|item| self.kept(item)).collect(),
            Value::Object(members) => members
                .iter()
                .filter(|(name, _)| self.only.contains(name))
                .map(|(name, member)| (name.clone(), member.clone()))
                .collect(),
            other => other.clone(),
        }
    }
}

/// Columns every `watch:` table has before its declared ones.
pub const WATCH_COLUMNS: &[(&str, ColumnType)] = &[
    ("uid", ColumnType::String),
    ("namespace", ColumnType::String),
    ("name", ColumnType::String),
    ("owner", ColumnType::String),
    ("labels", ColumnType::Json),
    ("generation", ColumnType::Int),
    ("deleting", ColumnType::Bool),
    ("created", ColumnType::Time),
];

/// Columns table `cr` has before the package's fields.
pub const INSTANCE_COLUMNS: &[(&str, ColumnType)] = &[
    ("uid", ColumnType::String),
    ("namespace", ColumnType::String),
    ("name", ColumnType::String),
    ("generation", ColumnType::Int),
    ("deleting", ColumnType::Bool),
    ("created", ColumnType::Time),
    ("labels", ColumnType::Json),
    ("annotations", ColumnType::Json),
    ("status", ColumnType::Json),
    ("finalizers", ColumnType::Json),
];

/// Columns every `probe:` table has before its declared ones. `at` is when the target was last asked; it never counts as a change.
pub const PROBE_COLUMNS: &[(&str, ColumnType)] = &[
    ("key", ColumnType::String),
    ("ok", ColumnType::Bool),
    ("error", ColumnType::String),
    ("at", ColumnType::Time),
];

/// Columns of table `objects`: what the instance applied or patched, as it is now.
pub const OBJECT_COLUMNS: &[(&str, ColumnType)] = &[
    ("gvk", ColumnType::String),
    ("namespace", ColumnType::String),
    ("name", ColumnType::String),
    ("uid", ColumnType::String),
    ("owned", ColumnType::Bool),
    ("deleting", ColumnType::Bool),
    ("ready", ColumnType::Bool),
];

/// Columns of the one-row table `clock`, each the start of the current period in milliseconds since the epoch. `now` ticks
/// with `s10`: a finer clock would wake every instance every moment.
pub const CLOCK_COLUMNS: &[(&str, i64)] = &[
    ("s10", 10_000),
    ("m1", 60_000),
    ("m5", 300_000),
    ("h1", 3_600_000),
    ("now", 10_000),
];
