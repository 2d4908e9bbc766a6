//! What one instance may see, as plain data: serialisable, replayable, free of any database.

use std::collections::BTreeMap;

use libretto_api::object::{InstanceRef, ObjectRef};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{Datum, MirrorError, Reach, mirror::Physical, sheet::quoted};

/// One instance's rows of every table of its package, taken at one moment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    pub instance: InstanceRef,
    /// `cr` and every sensed table, by name.
    pub tables: BTreeMap<String, Table>,
    /// What the instance owns, or the package manages fields of, among the Kinds the package writes.
    pub objects: Vec<ObjectRow>,
}

/// Rows under named columns.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Table {
    pub columns: Vec<String>,
    pub rows: Vec<Vec<Datum>>,
}

/// An object the package wrote, as it is in the cluster.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ObjectRow {
    pub object: ObjectRef,
    pub uid: String,
    pub resource_version: String,
    /// The instance is at the root of its controller chain, or the runtime's label names the instance.
    pub owned: bool,
    pub deleting: bool,
    /// Digest of the fields our manager owns; empty when it owns none.
    pub held: String,
    /// By the Kind's built-in rule; true for Kinds without one.
    pub ready: bool,
    /// Live values at the paths the package ignores after creation, by path.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub ignored: BTreeMap<String, Value>,
}

impl Table {
    /// The value in a row's named column.
    pub fn get(&self, row: usize, column: &str) -> Option<&Datum> {
        let index = self.columns.iter().position(|name| name == column)?;
        self.rows.get(row)?.get(index)
    }
}

impl Snapshot {
    /// A column of the instance itself.
    pub fn cr(&self, column: &str) -> &Datum {
        self.tables
            .get("cr")
            .and_then(|table| table.get(0, column))
            .unwrap_or(&Datum::Null)
    }

    /// The row of an object, when it exists and is ours to see.
    pub fn object(&self, object: &ObjectRef) -> Option<&ObjectRow> {
        self.objects.iter().find(|row| row.object == *object)
    }
}

impl crate::Mirror {
    /// One instance's rows of every table of its package; `None` when there is no such instance in scope.
    pub fn snapshot(
        &self,
        package: &str,
        instance_uid: &str,
    ) -> Result<Option<Snapshot>, MirrorError> {
        let Some(known) = self.packages.get(package) else {
            return Err(MirrorError::UnknownPackage(package.to_owned()));
        };
        let Some(instance) = known.instances.get(instance_uid) else {
            return Ok(None);
        };
        let mut tables = BTreeMap::new();
        tables.insert(
            "cr".to_owned(),
            self.table(&known.cr, 0, "uid = ?1 ORDER BY uid", &[instance_uid])?,
        );
        for (watch, physical) in &known.watches {
            let rows = match watch.reach {
                // Cluster-scoped objects have no namespace of their own. The namespace is checked because the owner may come
                // from a label that anybody can write in their own namespace.
                Reach::Own => self.table(
                    physical,
                    0,
                    "owner = ?1 AND namespace IN (?2, '') ORDER BY name, uid",
                    &[instance_uid, &instance.namespace],
                )?,
                Reach::Namespace => self.table(
                    physical,
                    0,
                    "namespace = ?1 ORDER BY name, uid",
                    &[&instance.namespace],
                )?,
            };
            tables.insert(watch.name.clone(), rows);
        }
        for (probe, physical) in &known.probes {
            // `instance` and `missed` are the mirror's own.
            let rows = self.table(physical, 2, "instance = ?1 ORDER BY key", &[instance_uid])?;
            tables.insert(probe.name.clone(), rows);
        }
        let mut objects = self.table(
            &known.objects,
            0,
            "owner = ?1 AND namespace IN (?2, '')",
            &[instance_uid, &instance.namespace],
        )?;
        // What we patched that belongs to no instance of the package.
        objects.rows.extend(
            self.table(
                &known.objects,
                0,
                "patched AND namespace = ?1 AND owner IS NULL",
                &[&instance.namespace],
            )?
            .rows,
        );
        // What was applied without an owner may be anywhere. Only the engine sees it, which asks for objects by name: in SQL a label
        // that anybody can write in their own namespace would count.
        objects.rows.extend(
            self.table(
                &known.objects,
                0,
                "owner = ?1 AND namespace NOT IN (?2, '')",
                &[instance_uid, &instance.namespace],
            )?
            .rows,
        );
        let mut objects: Vec<ObjectRow> = objects
            .rows
            .iter()
            .filter_map(|row| object_row(row, instance_uid))
            .collect();
        objects.sort_by(|a, b| a.object.cmp(&b.object));
        Ok(Some(Snapshot {
            instance: instance.clone(),
            tables,
            objects,
        }))
    }

    fn table(
        &self,
        physical: &Physical,
        skip: usize,
        filter: &str,
        parameters: &[&str],
    ) -> Result<Table, MirrorError> {
        let columns: Vec<String> = physical.columns[skip..]
            .iter()
            .map(|(name, _)| name.clone())
            .collect();
        let list = columns
            .iter()
            .map(|name| quoted(name))
            .collect::<Vec<_>>()
            .join(", ");
        let mut statement = self.connection.prepare_cached(&format!(
            "SELECT {list} FROM {} WHERE {filter}",
            quoted(&physical.name)
        ))?;
        let rows = statement
            .query_map(rusqlite::params_from_iter(parameters), |row| {
                (0..columns.len()).map(|index| row.get(index)).collect()
            })?
            .collect::<Result<Vec<Vec<Datum>>, _>>()?;
        Ok(Table { columns, rows })
    }
}

/// Reads a row of the physical objects table (`mirror::OBJECTS`).
fn object_row(row: &[Datum], instance_uid: &str) -> Option<ObjectRow> {
    let text = |index: usize| row[index].as_str().unwrap_or_default().to_owned();
    Some(ObjectRow {
        object: ObjectRef {
            gvk: text(1).parse().ok()?,
            namespace: text(2),
            name: text(3),
        },
        uid: text(0),
        resource_version: text(4),
        owned: row[6].as_str() == Some(instance_uid),
        held: text(7),
        deleting: row[8].is_true(),
        ready: row[9].is_true(),
        ignored: serde_json::from_str(&text(10)).unwrap_or_default(),
    })
}
