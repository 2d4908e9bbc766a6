//! What one instance may see, as plain data: serialisable, replayable, free of any database.

use std::{collections::BTreeMap, sync::Arc};

use libretto_api::object::{InstanceRef, ObjectRef};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    Datum, MirrorError, Reach, Row,
    mirror::{BY_NAMESPACE, BY_OWNER, BY_REACH},
};

/// One instance's rows of every table of its package, taken at one moment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    pub instance: InstanceRef,
    /// `cr` and every sensed table, by name.
    pub tables: BTreeMap<String, Table>,
    /// What the instance owns, or the package manages fields of, among the Kinds the package writes; in the order of their names.
    pub objects: Vec<ObjectRow>,
}

/// Rows under named columns. Copies share the rows.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Table {
    pub columns: Arc<[String]>,
    pub rows: Vec<Row>,
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
        let place = self.objects.binary_search_by(|row| row.object.cmp(object));
        place.ok().map(|place| &self.objects[place])
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
        let Some(instance) = known.instances.by_uid.get(instance_uid) else {
            return Ok(None);
        };
        let home = instance.namespace.as_str();
        let mut tables = BTreeMap::new();
        let cr = Table {
            columns: Arc::clone(&known.cr.names),
            rows: known.cr.get(instance_uid).into_iter().cloned().collect(),
        };
        tables.insert("cr".to_owned(), cr);
        for (watch, store) in &known.watches {
            let rows: Vec<Row> = match watch.reach {
                // Cluster-scoped objects have no namespace of their own. The namespace is checked because the owner may come
                // from a label that anybody can write in their own namespace.
                Reach::Own => store
                    .with(BY_REACH, instance_uid)
                    .filter(|row| [home, ""].contains(&row[1].as_str().unwrap_or_default()))
                    .cloned()
                    .collect(),
                Reach::Namespace => store.with(BY_REACH, home).cloned().collect(),
            };
            let columns = Arc::clone(&store.names);
            tables.insert(watch.name.clone(), Table { columns, rows });
        }
        for (probe, answers) in &known.probes {
            let rows = answers
                .of(instance_uid)
                .map(|(_key, answered)| Arc::clone(&answered.row))
                .collect();
            let columns = Arc::clone(&answers.names);
            tables.insert(probe.name.clone(), Table { columns, rows });
        }
        // What was applied without an owner may be anywhere. Only the engine sees it, which asks for objects by name: in SQL a label
        // that anybody can write in their own namespace would count.
        let owned = known.objects.with(BY_OWNER, instance_uid);
        // What we patched that belongs to no instance of the package.
        let patched = known
            .objects
            .with(BY_NAMESPACE, home)
            .filter(|row| row[5].is_null());
        let mut objects: Vec<ObjectRow> = owned
            .chain(patched)
            .filter_map(|row| object_row(row, instance_uid))
            .collect();
        objects.sort_by(|a, b| a.object.cmp(&b.object));
        Ok(Some(Snapshot {
            instance: instance.clone(),
            tables,
            objects,
        }))
    }
}

/// Reads a row of the objects table (`mirror::OBJECTS`).
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
