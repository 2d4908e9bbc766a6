//! Rows of the mirror's tables: found by key and by whom they concern. SQL sees a copy of them, and only when somebody asks
//! ([`crate::Mirror::query`]).
//!
//! Every event reads and writes a row and every evaluation reads all rows of an instance; neither is worth a statement. A row is
//! shared with the snapshots it is in.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use crate::{ColumnType, Datum};

/// Values of one row, in the order of the table's columns.
pub type Row = Arc<[Datum]>;

/// The value that an index finds a row by; `None` for rows that are not in it.
pub(crate) type Value = fn(&[Datum]) -> Option<&str>;

/// Name and uid.
type Place = (Box<str>, Box<str>);

/// A table of objects, one row for each uid (the first column).
#[derive(Debug, Clone)]
pub(crate) struct Store {
    pub(crate) name: String,
    pub(crate) columns: Vec<(String, ColumnType)>,
    pub(crate) names: Arc<[String]>,
    rows: BTreeMap<Box<str>, Row>,
    indexes: Vec<Index>,
}

/// Rows by one of their values, ordered by name and uid.
#[derive(Debug, Clone)]
struct Index {
    value: Value,
    /// Place of the column `name`.
    name: usize,
    groups: HashMap<Box<str>, BTreeSet<Place>>,
}

impl Store {
    /// An empty table. Each index is a value of its rows and the place of the column they are ordered by.
    pub(crate) fn new(
        name: String,
        columns: Vec<(String, ColumnType)>,
        indexes: &[(Value, usize)],
    ) -> Self {
        Self {
            name,
            names: columns.iter().map(|(name, _)| name.clone()).collect(),
            columns,
            rows: BTreeMap::new(),
            indexes: indexes
                .iter()
                .map(|(value, name)| Index {
                    value: *value,
                    name: *name,
                    groups: HashMap::new(),
                })
                .collect(),
        }
    }

    pub(crate) fn get(&self, uid: &str) -> Option<&Row> {
        self.rows.get(uid)
    }

    /// All rows, by uid.
    pub(crate) fn rows(&self) -> impl Iterator<Item = &Row> {
        self.rows.values()
    }

    /// Sets the row of its uid; the former one.
    pub(crate) fn put(&mut self, row: Row) -> Option<Row> {
        let former = self.remove(row[0].as_str().unwrap_or_default());
        for index in &mut self.indexes {
            index.add(&row);
        }
        let uid = row[0].as_str().unwrap_or_default().into();
        self.rows.insert(uid, row);
        former
    }

    /// The row of a uid is gone; what it was.
    pub(crate) fn remove(&mut self, uid: &str) -> Option<Row> {
        let former = self.rows.remove(uid)?;
        for index in &mut self.indexes {
            index.take(&former);
        }
        Some(former)
    }

    /// Rows with the value in an index (by its number), ordered by name and uid.
    pub(crate) fn with<'a>(
        &'a self,
        index: usize,
        value: &str,
    ) -> impl Iterator<Item = &'a Row> + use<'a> {
        self.indexes[index]
            .groups
            .get(value)
            .into_iter()
            .flatten()
            .filter_map(|(_name, uid)| self.rows.get(uid))
    }
}

impl Index {
    fn place<'a>(&self, row: &'a [Datum]) -> Option<(&'a str, Place)> {
        let text = |index: usize| row[index].as_str().unwrap_or_default();
        Some(((self.value)(row)?, (text(self.name).into(), text(0).into())))
    }

    fn add(&mut self, row: &[Datum]) {
        if let Some((value, place)) = self.place(row) {
            self.groups.entry(value.into()).or_default().insert(place);
        }
    }

    fn take(&mut self, row: &[Datum]) {
        if let Some((value, place)) = self.place(row)
            && let Some(group) = self.groups.get_mut(value)
        {
            group.remove(&place);
            if group.is_empty() {
                self.groups.remove(value);
            }
        }
    }
}

/// A table of what targets answered, by instance and the target's key.
#[derive(Debug, Clone)]
pub(crate) struct Answers {
    pub(crate) name: String,
    /// Without the mirror's own.
    pub(crate) columns: Vec<(String, ColumnType)>,
    pub(crate) names: Arc<[String]>,
    pub(crate) rows: BTreeMap<Box<str>, BTreeMap<Box<str>, Answered>>,
}

/// What a target answered last.
#[derive(Debug, Clone)]
pub(crate) struct Answered {
    /// How often in a row it did not.
    pub(crate) missed: i64,
    pub(crate) row: Row,
}

/// Columns of a table of answers that only the mirror knows; they stand before the others in [`crate::Mirror::query`].
pub(crate) const OWN: &[(&str, ColumnType)] = &[
    ("instance", ColumnType::String),
    ("missed", ColumnType::Int),
];

impl Answers {
    pub(crate) fn new(name: String, columns: Vec<(String, ColumnType)>) -> Self {
        Self {
            name,
            names: columns.iter().map(|(name, _)| name.clone()).collect(),
            columns,
            rows: BTreeMap::new(),
        }
    }

    /// What an instance's targets answered, by key.
    pub(crate) fn of(&self, instance: &str) -> impl Iterator<Item = (&Box<str>, &Answered)> {
        self.rows.get(instance).into_iter().flatten()
    }

    pub(crate) fn get(&self, instance: &str, key: &str) -> Option<&Answered> {
        self.rows.get(instance)?.get(key)
    }

    pub(crate) fn put(&mut self, instance: &str, key: &str, answered: Answered) {
        let rows = match self.rows.get_mut(instance) {
            Some(rows) => rows,
            None => self.rows.entry(instance.into()).or_default(),
        };
        match rows.get_mut(key) {
            Some(known) => *known = answered,
            None => {
                rows.insert(key.into(), answered);
            }
        }
    }

    /// Drops the answers of an instance that are not to be kept; whether there were any.
    pub(crate) fn retain(&mut self, instance: &str, keep: impl Fn(&str) -> bool) -> bool {
        let Some(rows) = self.rows.get_mut(instance) else {
            return false;
        };
        let before = rows.len();
        rows.retain(|key, _| keep(key));
        let dropped = rows.len() < before;
        if rows.is_empty() {
            self.rows.remove(instance);
        }
        dropped
    }
}
