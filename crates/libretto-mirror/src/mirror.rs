//! The mirror: every declared column of every watched object, in one in-memory database.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque},
    sync::Arc,
};

use libretto_api::object::{Gvk, InstanceRef};
use rusqlite::Connection;
use serde_json::Value;

use crate::{
    ColumnType, INSTANCE_COLUMNS, Limits, MirrorError, PROBE_COLUMNS, PackageSchema, ProbeTable,
    ScopeMode, Table, WATCH_COLUMNS, WatchTable, lineage::Lineage, lock::Lock, sheet::quoted,
};

/// The cluster as declared columns. One per process; the driver keeps it behind a lock.
#[derive(Debug)]
pub struct Mirror {
    pub(crate) connection: Connection,
    pub(crate) lock: Arc<Lock>,
    pub(crate) scope: ScopeMode,
    pub(crate) packages: BTreeMap<String, Package>,
    pub(crate) kinds: HashMap<Gvk, Kind>,
    pub(crate) lineage: Lineage,
}

/// What happened to an object.
#[derive(Debug, Clone, Copy)]
pub enum Change<'a> {
    /// It was added or modified: the whole object.
    Applied(&'a Value),
    /// It is gone. With `uid`, only that incarnation is removed.
    Deleted {
        namespace: &'a str,
        name: &'a str,
        uid: Option<&'a str>,
    },
}

/// Instances that must be looked at again.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Dirty {
    pub instances: BTreeSet<InstanceRef>,
    /// Instances that are gone (or left this runtime's scope): their ledger can be forgotten, nothing is left to decide.
    pub gone: BTreeSet<InstanceRef>,
}

impl Dirty {
    /// Nobody needs to look.
    pub fn is_empty(&self) -> bool {
        self.instances.is_empty() && self.gone.is_empty()
    }

    /// Both.
    pub fn merge(&mut self, other: Self) {
        let Self { instances, gone } = other;
        self.instances.extend(instances);
        self.gone.extend(gone);
    }
}

/// One declared package.
#[derive(Debug)]
pub(crate) struct Package {
    pub(crate) schema: PackageSchema,
    /// Known instances in scope, by uid.
    pub(crate) instances: HashMap<String, InstanceRef>,
    /// Their uids by namespace, for tables with `reach: namespace`.
    pub(crate) by_namespace: HashMap<String, BTreeSet<String>>,
    pub(crate) cr: Physical,
    pub(crate) objects: Physical,
    /// By the table's name in the package.
    pub(crate) watches: Vec<(WatchTable, Physical)>,
    pub(crate) probes: Vec<(ProbeTable, Physical)>,
}

/// A table in the database and the statements on it.
#[derive(Debug, Clone)]
pub(crate) struct Physical {
    pub(crate) name: String,
    pub(crate) columns: Vec<(String, ColumnType)>,
    /// All columns of one uid.
    pub(crate) select: String,
    pub(crate) upsert: String,
    pub(crate) delete: String,
}

/// What is remembered of a Kind's objects beside their columns. Strings are shared between the two maps: of the many objects
/// that are no package's business this is all that is kept.
#[derive(Debug, Default)]
pub(crate) struct Kind {
    /// Every listed object by uid.
    pub(crate) seen: HashMap<Arc<str>, Seen>,
    /// Uid by `namespace/name`.
    pub(crate) names: HashMap<Arc<str>, Arc<str>>,
    /// Uids that were deleted: an answer to a write that arrives late must not bring the object back.
    deleted: HashSet<Arc<str>>,
    deleted_order: VecDeque<Arc<str>>,
}

#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) version: u64,
    /// `namespace/name`.
    pub(crate) path: Arc<str>,
}

/// Late answers come within seconds; at a thousand deletions per second of one Kind this covers four.
const TOMBSTONES: usize = 4096;

/// What a Kind's memory says about an arriving object.
#[derive(Debug)]
pub(crate) enum Arrival {
    /// Older than what is known, or deleted.
    Stale,
    /// To be taken in; a former object of the same name is gone.
    New { former: Option<Arc<str>> },
}

impl Kind {
    /// Notes an object's version.
    pub(crate) fn arrive(
        &mut self,
        uid: &str,
        namespace: &str,
        name: &str,
        version: u64,
    ) -> Arrival {
        if self.deleted.contains(uid) {
            return Arrival::Stale;
        }
        if let Some(seen) = self.seen.get_mut(uid) {
            // Version 0 stands for one that is not a number; then every change is taken as new.
            if version != 0 && version <= seen.version {
                return Arrival::Stale;
            }
            seen.version = version;
            return Arrival::New { former: None };
        }
        let uid: Arc<str> = uid.into();
        let path: Arc<str> = format!("{namespace}/{name}").into();
        self.seen.insert(
            Arc::clone(&uid),
            Seen {
                version,
                path: Arc::clone(&path),
            },
        );
        // An object of the same name and another uid: the former was deleted and its event is still to come. Both cannot
        // exist, and a rule must not see two rows of one name.
        let former = self.names.insert(path, uid);
        if let Some(former) = &former {
            self.bury(former);
        }
        Arrival::New { former }
    }

    /// Forgets an object.
    pub(crate) fn forget(&mut self, uid: &str) {
        if let Some(seen) = self.seen.remove(uid)
            && self.names.get(&seen.path).map(AsRef::as_ref) == Some(uid)
        {
            self.names.remove(&seen.path);
        }
    }

    /// Keeps a uid from coming back.
    pub(crate) fn bury(&mut self, uid: &str) {
        let uid: Arc<str> = uid.into();
        if self.deleted.insert(Arc::clone(&uid)) {
            self.deleted_order.push_back(uid);
            if self.deleted_order.len() > TOMBSTONES
                && let Some(oldest) = self.deleted_order.pop_front()
            {
                self.deleted.remove(&oldest);
            }
        }
    }

    /// Forgets every version, so that a coming list is taken in full.
    pub(crate) fn reset(&mut self) {
        self.seen.clear();
        self.names.clear();
    }
}

/// Columns of the physical objects table.
pub(crate) const OBJECTS: &[(&str, ColumnType)] = &[
    ("uid", ColumnType::String),
    ("gvk", ColumnType::String),
    ("namespace", ColumnType::String),
    ("name", ColumnType::String),
    ("rv", ColumnType::String),
    // Root of its controller chain among the package's instances, or what the label says.
    ("owner", ColumnType::String),
    // Its immediate controller, or what the label says: who it belongs to without anybody between.
    ("direct", ColumnType::String),
    ("held", ColumnType::String),
    ("deleting", ColumnType::Bool),
    ("ready", ColumnType::Bool),
    ("ignored", ColumnType::Json),
    // 1 when we hold fields of an object that is not the package's.
    ("patched", ColumnType::Bool),
];

impl Mirror {
    /// An empty mirror for a runtime of that scope.
    pub fn new(scope: ScopeMode) -> Result<Self, MirrorError> {
        let mut connection = Connection::open_in_memory()?;
        let lock = Lock::install(&mut connection)?;
        Ok(Self {
            connection,
            lock,
            scope,
            packages: BTreeMap::new(),
            kinds: HashMap::new(),
            lineage: Lineage::default(),
        })
    }

    /// Makes a package's tables; a package declared before loses its rows, so its Kinds must be listed again.
    pub fn declare(&mut self, schema: PackageSchema) -> Result<(), MirrorError> {
        self.withdraw(&schema.package)?;
        // Objects of these Kinds were seen without this package's columns: the coming list must not pass for known.
        let kinds = schema
            .watches
            .iter()
            .map(|watch| &watch.gvk)
            .chain(schema.objects.iter().map(|object| &object.gvk))
            .chain(&schema.lineage)
            .chain([&schema.instance.gvk]);
        for gvk in kinds {
            self.kinds.entry(gvk.clone()).or_default().reset();
        }
        let prefix = physical_prefix(&schema.package);
        let typed = |columns: &[(&str, ColumnType)]| -> Vec<(String, ColumnType)> {
            columns
                .iter()
                .map(|(name, kind)| ((*name).to_owned(), *kind))
                .collect()
        };
        let mut columns = typed(INSTANCE_COLUMNS);
        columns.extend(
            schema
                .instance
                .fields
                .iter()
                .map(|field| (field.name.clone(), field.kind)),
        );
        let cr = self.create(&format!("{prefix}cr"), columns, &["uid"], &[])?;
        let objects = self.create(
            &format!("{prefix}objects"),
            typed(OBJECTS),
            &["uid"],
            &["(owner)", "(namespace) WHERE patched"],
        )?;
        let mut watches = Vec::new();
        for watch in &schema.watches {
            let mut columns = typed(WATCH_COLUMNS);
            columns.extend(
                watch
                    .columns
                    .iter()
                    .map(|column| (column.name.clone(), column.kind)),
            );
            let table = self.create(
                &format!("{prefix}{}", watch.name),
                columns,
                &["uid"],
                &["(owner)", "(namespace)"],
            )?;
            watches.push((watch.clone(), table));
        }
        let mut probes = Vec::new();
        for probe in &schema.probes {
            let mut columns = vec![
                ("instance".to_owned(), ColumnType::String),
                ("missed".to_owned(), ColumnType::Int),
            ];
            columns.extend(typed(PROBE_COLUMNS));
            columns.extend(
                probe
                    .columns
                    .iter()
                    .map(|column| (column.name.clone(), column.kind)),
            );
            let table = self.create(
                &format!("{prefix}{}", probe.name),
                columns,
                &["instance", "key"],
                &[],
            )?;
            probes.push((probe.clone(), table));
        }
        self.packages.insert(
            schema.package.clone(),
            Package {
                schema,
                instances: HashMap::new(),
                by_namespace: HashMap::new(),
                cr,
                objects,
                watches,
                probes,
            },
        );
        Ok(())
    }

    /// Drops a package's tables.
    pub fn withdraw(&mut self, package: &str) -> Result<(), MirrorError> {
        let Some(package) = self.packages.remove(package) else {
            return Ok(());
        };
        let tables = [&package.cr, &package.objects]
            .into_iter()
            .chain(package.watches.iter().map(|(_, table)| table))
            .chain(package.probes.iter().map(|(_, table)| table));
        // Statements on the tables would keep them from being dropped.
        self.connection.flush_prepared_statement_cache();
        for table in tables {
            self.connection
                .execute_batch(&format!("DROP TABLE {}", quoted(&table.name)))?;
        }
        Ok(())
    }

    fn create(
        &self,
        name: &str,
        columns: Vec<(String, ColumnType)>,
        key: &[&str],
        indexes: &[&str],
    ) -> Result<Physical, MirrorError> {
        let list = |separator: &str, each: &dyn Fn(&(String, ColumnType)) -> String| {
            columns.iter().map(each).collect::<Vec<_>>().join(separator)
        };
        let table = quoted(name);
        let definition = list(", ", &|(column, kind)| {
            format!("{} {}", quoted(column), kind.sql())
        });
        let names = list(", ", &|(column, _)| quoted(column));
        let marks = list(", ", &|_| "?".to_owned());
        let keys = key
            .iter()
            .map(|column| quoted(column))
            .collect::<Vec<_>>()
            .join(", ");
        let matching = key
            .iter()
            .map(|column| format!("{} = ?", quoted(column)))
            .collect::<Vec<_>>()
            .join(" AND ");
        self.connection.execute_batch(&format!(
            "CREATE TABLE {table} ({definition}, PRIMARY KEY ({keys})) WITHOUT ROWID"
        ))?;
        for (number, index) in indexes.iter().enumerate() {
            self.connection.execute_batch(&format!(
                "CREATE INDEX {} ON {table} {index}",
                quoted(&format!("{name}__{number}"))
            ))?;
        }
        Ok(Physical {
            name: name.to_owned(),
            select: format!("SELECT {names} FROM {table} WHERE {matching}"),
            upsert: format!("INSERT OR REPLACE INTO {table} ({names}) VALUES ({marks})"),
            delete: format!("DELETE FROM {table} WHERE {matching}"),
            columns,
        })
    }

    /// Every known instance in scope, ordered.
    pub fn instances(&self) -> Vec<InstanceRef> {
        let mut all: Vec<InstanceRef> = self
            .packages
            .values()
            .flat_map(|package| package.instances.values().cloned())
            .collect();
        all.sort();
        all
    }

    /// A person's read-only question over the whole mirror: tables are `<package>__<table>`, `<package>__cr` and
    /// `<package>__objects`, with dashes of the package's name as underscores.
    pub fn query(&self, sql: &str, limits: Limits) -> Result<Table, MirrorError> {
        let rows = self
            .lock
            .rows(&self.connection, sql, &|_| None, limits)
            .map_err(MirrorError::Query)?;
        Ok(Table {
            columns: rows.columns.into_iter().map(|column| column.name).collect(),
            rows: rows.rows,
        })
    }

    /// Names and columns of the tables a query can read.
    pub fn tables(&self) -> Vec<(String, Vec<String>)> {
        self.packages
            .values()
            .flat_map(|package| {
                [&package.cr, &package.objects]
                    .into_iter()
                    .chain(package.watches.iter().map(|(_, table)| table))
                    .chain(package.probes.iter().map(|(_, table)| table))
            })
            .map(|table| {
                (
                    table.name.clone(),
                    table.columns.iter().map(|(name, _)| name.clone()).collect(),
                )
            })
            .collect()
    }
}

/// `redis-sentinel` becomes `redis_sentinel__`: names that need no quotes in a person's query.
pub(crate) fn physical_prefix(package: &str) -> String {
    format!("{}__", package.replace('-', "_"))
}

/// A string at a JSON pointer; empty when absent.
pub(crate) fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object
        .pointer(pointer)
        .and_then(Value::as_str)
        .unwrap_or_default()
}
