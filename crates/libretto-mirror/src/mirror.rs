//! The mirror: every declared column of every watched object, in memory.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque},
    hash::{Hash as _, Hasher},
    sync::Arc,
};

use libretto_api::object::{Gvk, InstanceRef};
use rusqlite::{Connection, params_from_iter};
use serde_json::Value;

use crate::{
    ColumnType, Datum, INSTANCE_COLUMNS, Limits, MirrorError, PROBE_COLUMNS, PackageSchema,
    ProbeTable, Reach, ScopeMode, Table, WATCH_COLUMNS, WatchTable,
    lineage::Lineage,
    lock::Lock,
    sheet::quoted,
    store::{Answers, OWN, Store},
};

/// The cluster as declared columns. One per process; the driver keeps it behind a lock.
#[derive(Debug)]
pub struct Mirror {
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
    pub(crate) instances: Instances,
    pub(crate) cr: Store,
    pub(crate) objects: Store,
    /// In the schema's order, as are the probes.
    pub(crate) watches: Vec<(WatchTable, Store)>,
    pub(crate) probes: Vec<(ProbeTable, Answers)>,
}

/// A package's known instances in scope.
#[derive(Debug, Default)]
pub(crate) struct Instances {
    pub(crate) by_uid: HashMap<String, InstanceRef>,
    /// Their uids by namespace, for tables with `reach: namespace`.
    pub(crate) by_namespace: HashMap<String, BTreeSet<String>>,
}

/// Number of the one index of a sensed table, by what its reach asks for: whom a row belongs to, or the namespace it is in. Most rows of
/// most clusters belong to nobody and are in none.
pub(crate) const BY_REACH: usize = 0;
/// Numbers of the indexes of the objects table: whom a row belongs to, and, of what is patched, the namespace it is in.
pub(crate) const BY_OWNER: usize = 0;
pub(crate) const BY_NAMESPACE: usize = 1;

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
    pub fn new(scope: ScopeMode) -> Self {
        Self {
            scope,
            packages: BTreeMap::new(),
            kinds: HashMap::new(),
            lineage: Lineage::default(),
        }
    }

    /// Makes a package's tables; a package declared before loses its rows, so its Kinds must be listed again.
    pub fn declare(&mut self, schema: PackageSchema) {
        self.withdraw(&schema.package);
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
        let cr = Store::new(format!("{prefix}cr"), columns, &[]);
        let objects = Store::new(
            format!("{prefix}objects"),
            typed(OBJECTS),
            &[
                (|row| row[5].as_str(), 3),
                (|row| row[2].as_str().filter(|_| row[11].is_true()), 3),
            ],
        );
        let mut watches = Vec::new();
        for watch in &schema.watches {
            let mut columns = typed(WATCH_COLUMNS);
            columns.extend(
                watch
                    .columns
                    .iter()
                    .map(|column| (column.name.clone(), column.kind)),
            );
            let seen_by: crate::store::Value = match watch.reach {
                Reach::Own => |row| row[3].as_str(),
                Reach::Namespace => |row| row[1].as_str(),
            };
            let table = Store::new(format!("{prefix}{}", watch.name), columns, &[(seen_by, 2)]);
            watches.push((watch.clone(), table));
        }
        let mut probes = Vec::new();
        for probe in &schema.probes {
            let mut columns = typed(PROBE_COLUMNS);
            columns.extend(
                probe
                    .columns
                    .iter()
                    .map(|column| (column.name.clone(), column.kind)),
            );
            let table = Answers::new(format!("{prefix}{}", probe.name), columns);
            probes.push((probe.clone(), table));
        }
        self.packages.insert(
            schema.package.clone(),
            Package {
                schema,
                instances: Instances::default(),
                cr,
                objects,
                watches,
                probes,
            },
        );
    }

    /// Drops a package's tables.
    pub fn withdraw(&mut self, package: &str) {
        self.packages.remove(package);
    }

    /// Feeds everything to the hash that later snapshots and wakings can follow from, for objects whose versions only grow and whose
    /// uids are never given twice: then versions and deletions that were seen change nothing about what comes.
    pub fn hash_future(&self, state: &mut impl Hasher) {
        self.lineage.hash_future(state);
        for package in self.packages.values() {
            for row in package.cr.rows() {
                row.hash(state);
            }
            for row in package.objects.rows() {
                // The resourceVersion is written down only when something else changed.
                (&row[..4], &row[5..]).hash(state);
            }
            for (_, table) in &package.watches {
                for row in table.rows() {
                    row.hash(state);
                }
                0_u8.hash(state);
            }
            for (_, answers) in &package.probes {
                for (instance, answers) in &answers.rows {
                    instance.hash(state);
                    for (key, answered) in answers {
                        (key, answered.missed, &answered.row).hash(state);
                    }
                }
                0_u8.hash(state);
            }
        }
    }

    /// Every known instance in scope, ordered.
    pub fn instances(&self) -> Vec<InstanceRef> {
        let mut all: Vec<InstanceRef> = self
            .packages
            .values()
            .flat_map(|package| package.instances.by_uid.values().cloned())
            .collect();
        all.sort();
        all
    }

    /// A person's read-only question over the whole mirror: tables are `<package>__<table>`, `<package>__cr` and
    /// `<package>__objects`, with dashes of the package's name as underscores. It is asked of a copy.
    pub fn query(&self, sql: &str, limits: Limits) -> Result<Table, MirrorError> {
        let mut connection = Connection::open_in_memory()?;
        let lock = Lock::install(&mut connection)?;
        for package in self.packages.values() {
            for store in package.stores() {
                let rows = store.rows().map(|row| row.iter());
                copy(&connection, &store.name, &store.columns, rows)?;
            }
            for (_, table) in &package.probes {
                let columns: Vec<(String, ColumnType)> = OWN
                    .iter()
                    .map(|(name, kind)| ((*name).to_owned(), *kind))
                    .chain(table.columns.iter().cloned())
                    .collect();
                let own: Vec<([Datum; 2], &[Datum])> = table
                    .rows
                    .iter()
                    .flat_map(|(instance, answers)| {
                        answers.values().map(move |answered| {
                            let own = [instance.as_ref().into(), answered.missed.into()];
                            (own, answered.row.as_ref())
                        })
                    })
                    .collect();
                let rows = own.iter().map(|(own, row)| own.iter().chain(*row));
                copy(&connection, &table.name, &columns, rows)?;
            }
        }
        answer(&lock, &connection, sql, limits)
    }

    /// Names and columns of the tables a query can read.
    pub fn tables(&self) -> Vec<(String, Vec<String>)> {
        let own = || OWN.iter().map(|(name, _)| (*name).to_owned());
        self.packages
            .values()
            .flat_map(|package| {
                let stores = package
                    .stores()
                    .map(|store| (store.name.clone(), store.names.to_vec()));
                let probes = package.probes.iter().map(move |(_, table)| {
                    let names = own().chain(table.names.iter().cloned());
                    (table.name.clone(), names.collect())
                });
                stores.chain(probes).collect::<Vec<_>>()
            })
            .collect()
    }
}

impl Package {
    /// Tables with a row for each object.
    pub(crate) fn stores(&self) -> impl Iterator<Item = &Store> {
        [&self.cr, &self.objects]
            .into_iter()
            .chain(self.watches.iter().map(|(_, table)| table))
    }
}

/// Makes a table of these rows.
/// A read-only question over one table that is no package's.
pub fn ask(
    name: &str,
    columns: &[(String, ColumnType)],
    rows: &[Vec<Datum>],
    sql: &str,
    limits: Limits,
) -> Result<Table, MirrorError> {
    let mut connection = Connection::open_in_memory()?;
    let lock = Lock::install(&mut connection)?;
    copy(
        &connection,
        name,
        columns,
        rows.iter().map(|row| row.iter()),
    )?;
    answer(&lock, &connection, sql, limits)
}

fn answer(
    lock: &Lock,
    connection: &Connection,
    sql: &str,
    limits: Limits,
) -> Result<Table, MirrorError> {
    let rows = lock
        .rows(connection, sql, &|_| None, limits)
        .map_err(MirrorError::Query)?;
    Ok(Table {
        columns: rows.columns.into_iter().map(|column| column.name).collect(),
        rows: rows.rows.into_iter().map(Into::into).collect(),
    })
}

fn copy<'a>(
    connection: &Connection,
    name: &str,
    columns: &[(String, ColumnType)],
    rows: impl Iterator<Item = impl Iterator<Item = &'a Datum>>,
) -> Result<(), MirrorError> {
    let definition: Vec<String> = columns
        .iter()
        .map(|(column, kind)| format!("{} {}", quoted(column), kind.sql()))
        .collect();
    let table = quoted(name);
    connection.execute_batch(&format!("CREATE TABLE {table} ({})", definition.join(", ")))?;
    let marks = vec!["?"; columns.len()].join(", ");
    let mut insert = connection.prepare(&format!("INSERT INTO {table} VALUES ({marks})"))?;
    for row in rows {
        insert.execute(params_from_iter(row))?;
    }
    Ok(())
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
