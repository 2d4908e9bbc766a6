//! Objects and probe answers in; which instances to wake out.

use std::{collections::BTreeSet, sync::Arc};

use libretto_api::{
    intent::Millis,
    object::{Gvk, INSTANCE_LABEL, InstanceRef, PACKAGE_LABEL, field_manager},
    secret::SecretHandle,
};
use rusqlite::{OptionalExtension, params_from_iter};
use serde_json::Value;

use crate::{
    Change, ColumnType, Datum, Dirty, Field, Mirror, MirrorError, Reach, ScopeMode, canonical_json,
    digest, held_digest_ignoring,
    mirror::{Arrival, Package, Physical, text},
    ready,
};

impl Mirror {
    /// Takes one change of a watched Kind; also for writing an API server's answer through. Only declared columns are kept; when
    /// none changed nothing is written and nobody is woken. An older resourceVersion of an object already seen is ignored.
    pub fn ingest(&mut self, gvk: &Gvk, change: Change<'_>) -> Result<Dirty, MirrorError> {
        let mut dirty = Dirty::default();
        match change {
            Change::Applied(object) => self.apply(gvk, object, &mut dirty)?,
            Change::Deleted {
                namespace,
                name,
                uid,
            } => {
                let Some(kind) = self.kinds.get_mut(gvk) else {
                    return Ok(dirty);
                };
                let uid: Option<Arc<str>> = match uid {
                    Some(uid) => Some(uid.into()),
                    None => kind
                        .names
                        .get(format!("{namespace}/{name}").as_str())
                        .cloned(),
                };
                if let Some(uid) = uid {
                    kind.bury(&uid);
                    self.delete(gvk, &uid, &mut dirty)?;
                }
            }
        }
        Ok(dirty)
    }

    /// Takes a complete list of a Kind (of one namespace, or of all when `None`) in one step: what is not in it is gone.
    pub fn replace_all(
        &mut self,
        gvk: &Gvk,
        namespace: Option<&str>,
        objects: &[Value],
    ) -> Result<Dirty, MirrorError> {
        let mut dirty = Dirty::default();
        self.connection.execute_batch("SAVEPOINT relist")?;
        let result = self.relist(gvk, namespace, objects, &mut dirty);
        self.connection.execute_batch("RELEASE relist")?;
        result.map(|()| dirty)
    }

    fn relist(
        &mut self,
        gvk: &Gvk,
        namespace: Option<&str>,
        objects: &[Value],
        dirty: &mut Dirty,
    ) -> Result<(), MirrorError> {
        let mut listed = BTreeSet::new();
        for object in objects {
            listed.insert(text(object, "/metadata/uid"));
            self.apply(gvk, object, dirty)?;
        }
        let prefix = namespace.map(|namespace| format!("{namespace}/"));
        let gone: Vec<Arc<str>> = self
            .kinds
            .entry(gvk.clone())
            .or_default()
            .seen
            .iter()
            .filter(|(uid, seen)| {
                !listed.contains(uid.as_ref())
                    && prefix
                        .as_ref()
                        .is_none_or(|prefix| seen.path.starts_with(prefix.as_str()))
            })
            .map(|(uid, _)| Arc::clone(uid))
            .collect();
        for uid in gone {
            // Not buried: an object that was created after the list was taken, and written through, is missing here only until
            // the watch that follows the list tells of it.
            self.delete(gvk, &uid, dirty)?;
        }
        Ok(())
    }

    fn apply(&mut self, gvk: &Gvk, object: &Value, dirty: &mut Dirty) -> Result<(), MirrorError> {
        let uid = text(object, "/metadata/uid");
        if uid.is_empty() {
            return Err(MirrorError::NoUid {
                gvk: gvk.to_string(),
                name: text(object, "/metadata/name").to_owned(),
            });
        }
        let version: u64 = text(object, "/metadata/resourceVersion")
            .parse()
            .unwrap_or(0);
        let arrival = self.kinds.entry(gvk.clone()).or_default().arrive(
            uid,
            text(object, "/metadata/namespace"),
            text(object, "/metadata/name"),
            version,
        );
        match arrival {
            Arrival::Stale => return Ok(()),
            Arrival::New { former: None } => {}
            Arrival::New {
                former: Some(former),
            } => self.delete(gvk, &former, dirty)?,
        }
        let moved = self.lineage.set(uid, controller(object));
        let names: Vec<String> = self.packages.keys().cloned().collect();
        for name in names {
            let Some(package) = self.packages.get(&name) else {
                continue;
            };
            if package.schema.instance.gvk == *gvk {
                self.apply_instance(&name, object, dirty)?;
            }
            self.apply_rows(&name, gvk, uid, object, dirty)?;
            if moved {
                self.reown(&name, uid, dirty)?;
            }
        }
        Ok(())
    }

    /// Writes the object's row in each of the package's tables of its Kind.
    fn apply_rows(
        &self,
        name: &str,
        gvk: &Gvk,
        uid: &str,
        object: &Value,
        dirty: &mut Dirty,
    ) -> Result<(), MirrorError> {
        let package = &self.packages[name];
        let owner = self.owner(package, uid, object);
        for (watch, table) in &package.watches {
            if watch.gvk != *gvk {
                continue;
            }
            let selected = watch.labels.iter().all(|(key, value)| {
                object
                    .pointer("/metadata/labels")
                    .and_then(|labels| labels.get(key))
                    .and_then(Value::as_str)
                    == Some(value)
            });
            let former = self.row(table, &[uid])?;
            if !selected {
                if let Some(former) = former {
                    self.connection
                        .prepare_cached(&table.delete)?
                        .execute([uid])?;
                    wake(package, watch.reach, former.get(3), &former[1], dirty);
                }
                continue;
            }
            let mut row = vec![
                uid.into(),
                text(object, "/metadata/namespace").into(),
                text(object, "/metadata/name").into(),
                owner.clone(),
                ColumnType::Json.read(object.pointer("/metadata/labels")),
                ColumnType::Int.read(object.pointer("/metadata/generation")),
                object
                    .pointer("/metadata/deletionTimestamp")
                    .is_some()
                    .into(),
                ColumnType::Time.read(object.pointer("/metadata/creationTimestamp")),
            ];
            row.extend(watch.columns.iter().map(|column| column.read(object)));
            if former.as_ref() == Some(&row) {
                continue;
            }
            self.connection
                .prepare_cached(&table.upsert)?
                .execute(params_from_iter(&row))?;
            wake(package, watch.reach, row.get(3), &row[1], dirty);
            if let Some(former) = former {
                wake(package, watch.reach, former.get(3), &former[1], dirty);
            }
        }
        if let Some(kind) = package.schema.objects.iter().find(|kind| kind.gvk == *gvk) {
            let table = &package.objects;
            let labels = object.pointer("/metadata/labels");
            let ours = labels
                .and_then(|labels| labels.get(PACKAGE_LABEL))
                .and_then(Value::as_str)
                == Some(name);
            let held = held_digest_ignoring(object, &field_manager(name), &kind.ignore);
            let former = self.row(table, &[uid])?;
            if !ours && held.is_empty() {
                if let Some(former) = former {
                    self.connection
                        .prepare_cached(&table.delete)?
                        .execute([uid])?;
                    wake_object(package, &former, dirty);
                }
                return Ok(());
            }
            let ignored: serde_json::Map<String, Value> = kind
                .ignore
                .iter()
                .filter_map(|path| Some((path.to_string(), path.find(object)?.clone())))
                .collect();
            let direct = labels
                .and_then(|labels| labels.get(INSTANCE_LABEL))
                .and_then(Value::as_str)
                .or_else(|| controller(object))
                .map_or(Datum::Null, Datum::from);
            let mut row = vec![
                uid.into(),
                gvk.to_string().into(),
                text(object, "/metadata/namespace").into(),
                text(object, "/metadata/name").into(),
                text(object, "/metadata/resourceVersion").into(),
                owner,
                direct,
                held.as_str().into(),
                object
                    .pointer("/metadata/deletionTimestamp")
                    .is_some()
                    .into(),
                ready(gvk, object).into(),
                canonical_json(&Value::Object(ignored)).into(),
                (!ours).into(),
            ];
            if let Some(former) = &former {
                // Everything but the resourceVersion: a heartbeat in a status is no change.
                let version = std::mem::replace(&mut row[4], former[4].clone());
                if *former == row {
                    return Ok(());
                }
                row[4] = version;
            }
            self.connection
                .prepare_cached(&table.upsert)?
                .execute(params_from_iter(&row))?;
            wake_object(package, &row, dirty);
            if let Some(former) = former {
                wake_object(package, &former, dirty);
            }
        }
        Ok(())
    }

    fn apply_instance(
        &mut self,
        name: &str,
        object: &Value,
        dirty: &mut Dirty,
    ) -> Result<(), MirrorError> {
        let uid = text(object, "/metadata/uid");
        let package = &self.packages[name];
        let annotated = |scope: &crate::Scope| {
            object
                .pointer("/metadata/annotations")
                .and_then(|annotations| annotations.get(&scope.annotation))
                .and_then(Value::as_str)
                == Some(scope.value.as_str())
        };
        let schema = &package.schema.instance;
        let in_scope = schema.scope.as_ref().is_none_or(|scope| match self.scope {
            ScopeMode::Any => true,
            ScopeMode::Cluster => annotated(scope),
            ScopeMode::Namespace => !annotated(scope),
        });
        if !in_scope || schema.unmanaged.iter().any(annotated) {
            return self.forget_instance(name, uid, dirty);
        }
        let mut row = vec![
            uid.into(),
            text(object, "/metadata/namespace").into(),
            text(object, "/metadata/name").into(),
            ColumnType::Int.read(object.pointer("/metadata/generation")),
            object
                .pointer("/metadata/deletionTimestamp")
                .is_some()
                .into(),
            ColumnType::Time.read(object.pointer("/metadata/creationTimestamp")),
            json_object(object.pointer("/metadata/labels")),
            annotations(object),
            json_object(object.pointer("/status")),
            ColumnType::Json.read(object.pointer("/metadata/finalizers")),
        ];
        row.extend(
            package
                .schema
                .instance
                .fields
                .iter()
                .map(|field| field_value(field, uid, object)),
        );
        let former = self.row(&package.cr, &[uid])?;
        let instance = InstanceRef {
            package: name.to_owned(),
            gvk: package.schema.instance.gvk.clone(),
            namespace: text(object, "/metadata/namespace").to_owned(),
            name: text(object, "/metadata/name").to_owned(),
            uid: uid.to_owned(),
        };
        if former.as_ref() != Some(&row) {
            self.connection
                .prepare_cached(&package.cr.upsert)?
                .execute(params_from_iter(&row))?;
            dirty.instances.insert(instance.clone());
        }
        if former.is_none() {
            let package = self
                .packages
                .get_mut(name)
                .expect("looked up by the same name above");
            package
                .by_namespace
                .entry(instance.namespace.clone())
                .or_default()
                .insert(uid.to_owned());
            package.instances.insert(uid.to_owned(), instance);
            // Objects that came before their instance.
            self.reown(name, uid, dirty)?;
        }
        Ok(())
    }

    fn forget_instance(
        &mut self,
        name: &str,
        uid: &str,
        dirty: &mut Dirty,
    ) -> Result<(), MirrorError> {
        let Some(package) = self.packages.get_mut(name) else {
            return Ok(());
        };
        let Some(instance) = package.instances.remove(uid) else {
            return Ok(());
        };
        if let Some(uids) = package.by_namespace.get_mut(&instance.namespace) {
            uids.remove(uid);
            if uids.is_empty() {
                package.by_namespace.remove(&instance.namespace);
            }
        }
        self.connection
            .prepare_cached(&package.cr.delete)?
            .execute([uid])?;
        for (_, table) in &package.probes {
            self.connection
                .prepare_cached(&format!(
                    "DELETE FROM \"{}\" WHERE instance = ?",
                    table.name
                ))?
                .execute([uid])?;
        }
        dirty.instances.remove(&instance);
        dirty.gone.insert(instance);
        Ok(())
    }

    fn delete(&mut self, gvk: &Gvk, uid: &str, dirty: &mut Dirty) -> Result<(), MirrorError> {
        if let Some(kind) = self.kinds.get_mut(gvk) {
            kind.forget(uid);
        }
        self.lineage.remove(uid);
        let names: Vec<String> = self.packages.keys().cloned().collect();
        for name in names {
            let package = &self.packages[&name];
            for (watch, table) in &package.watches {
                if watch.gvk == *gvk
                    && let Some(former) = self.row(table, &[uid])?
                {
                    self.connection
                        .prepare_cached(&table.delete)?
                        .execute([uid])?;
                    wake(package, watch.reach, former.get(3), &former[1], dirty);
                }
            }
            if let Some(former) = self.row(&package.objects, &[uid])? {
                self.connection
                    .prepare_cached(&package.objects.delete)?
                    .execute([uid])?;
                wake_object(package, &former, dirty);
            }
            if package.schema.instance.gvk == *gvk {
                self.forget_instance(&name, uid, dirty)?;
            }
        }
        Ok(())
    }

    /// The instance of the package an object belongs to: by its controller chain, else by the runtime's label.
    fn owner(&self, package: &Package, uid: &str, object: &Value) -> Datum {
        self.lineage
            .ancestor(uid, |ancestor| package.instances.contains_key(ancestor))
            .or_else(|| {
                object
                    .pointer("/metadata/labels")?
                    .get(INSTANCE_LABEL)?
                    .as_str()
            })
            .map_or(Datum::Null, Datum::from)
    }

    /// Puts the owner right in the rows of everything below an object whose place in the lineage changed.
    fn reown(&self, name: &str, uid: &str, dirty: &mut Dirty) -> Result<(), MirrorError> {
        let package = &self.packages[name];
        let below = self.lineage.descendants(uid);
        if below.is_empty() {
            return Ok(());
        }
        for descendant in below {
            let Some(owner) = self.lineage.ancestor(descendant, |ancestor| {
                package.instances.contains_key(ancestor)
            }) else {
                continue;
            };
            let tables = package
                .watches
                .iter()
                .map(|(_, table)| table)
                .chain([&package.objects]);
            for table in tables {
                let changed = self
                    .connection
                    .prepare_cached(&format!(
                        "UPDATE \"{}\" SET owner = ?1 WHERE uid = ?2 AND owner IS NOT ?1",
                        table.name
                    ))?
                    .execute([owner, descendant])?;
                if changed > 0
                    && let Some(instance) = package.instances.get(owner)
                {
                    dirty.instances.insert(instance.clone());
                }
            }
        }
        Ok(())
    }

    fn row(&self, table: &Physical, key: &[&str]) -> Result<Option<Vec<Datum>>, MirrorError> {
        let width = table.columns.len();
        let row = self
            .connection
            .prepare_cached(&table.select)?
            .query_row(params_from_iter(key), |row| {
                (0..width).map(|index| row.get(index)).collect()
            })
            .optional()?;
        Ok(row)
    }

    /// Takes a probe's answer, or why there was none.
    pub fn probe_result(
        &mut self,
        package: &str,
        instance_uid: &str,
        table: &str,
        key: &str,
        answer: Result<&Value, &str>,
        at: Millis,
    ) -> Result<Dirty, MirrorError> {
        let mut dirty = Dirty::default();
        let known = self
            .packages
            .get(package)
            .ok_or_else(|| MirrorError::UnknownPackage(package.to_owned()))?;
        let Some(instance) = known.instances.get(instance_uid) else {
            // The instance went while the probe was under way.
            return Ok(dirty);
        };
        let (probe, physical) = known
            .probes
            .iter()
            .find(|(probe, _)| probe.name == table)
            .ok_or_else(|| MirrorError::UnknownTable {
                package: package.to_owned(),
                table: table.to_owned(),
            })?;
        let former = self.row(physical, &[instance_uid, key])?;
        let mut row = vec![instance_uid.into()];
        match answer {
            Ok(value) => {
                row.extend([
                    Datum::Int(0),
                    key.into(),
                    true.into(),
                    Datum::Null,
                    at.into(),
                ]);
                row.extend(probe.columns.iter().map(|column| column.read(value)));
            }
            Err(error) => {
                let missed = former
                    .as_ref()
                    .and_then(|row| row[1].as_int())
                    .unwrap_or(0)
                    .saturating_add(1);
                row.extend([
                    missed.into(),
                    key.into(),
                    false.into(),
                    error.into(),
                    at.into(),
                ]);
                let last = former
                    .as_ref()
                    .filter(|_| missed < i64::from(probe.misses))
                    .map(|row| row[6..].to_vec());
                row.extend(last.unwrap_or_else(|| vec![Datum::Null; probe.columns.len()]));
            }
        }
        self.connection
            .prepare_cached(&physical.upsert)?
            .execute(params_from_iter(&row))?;
        // Neither how often it was missed nor when it was asked is news.
        let news = |row: &[Datum]| [&row[3..5], &row[6..]].concat();
        if former.is_none_or(|former| news(&former) != news(&row)) {
            dirty.instances.insert(instance.clone());
        }
        Ok(dirty)
    }

    /// Drops the probe rows of an instance whose targets are not among `(table, key)` any more. Tables in `keep` are left
    /// alone (their targets could not be computed).
    pub fn retain_probes(
        &mut self,
        package: &str,
        instance_uid: &str,
        targets: &BTreeSet<(String, String)>,
        keep: &[String],
    ) -> Result<Dirty, MirrorError> {
        let mut dirty = Dirty::default();
        let known = self
            .packages
            .get(package)
            .ok_or_else(|| MirrorError::UnknownPackage(package.to_owned()))?;
        for (probe, physical) in &known.probes {
            if keep.contains(&probe.name) {
                continue;
            }
            let keys: Vec<String> = self
                .connection
                .prepare_cached(&format!(
                    "SELECT key FROM \"{}\" WHERE instance = ?",
                    physical.name
                ))?
                .query_map([instance_uid], |row| row.get(0))?
                .collect::<Result<_, _>>()?;
            for key in keys {
                let target = (probe.name.clone(), key);
                if !targets.contains(&target) {
                    self.connection
                        .prepare_cached(&physical.delete)?
                        .execute([instance_uid, &target.1])?;
                    if let Some(instance) = known.instances.get(instance_uid) {
                        dirty.instances.insert(instance.clone());
                    }
                }
            }
        }
        Ok(dirty)
    }
}

/// Wakes who sees a row of a sensed table.
fn wake(
    package: &Package,
    reach: Reach,
    owner: Option<&Datum>,
    namespace: &Datum,
    dirty: &mut Dirty,
) {
    match reach {
        Reach::Own => {
            if let Some(instance) = owner
                .and_then(Datum::as_str)
                .and_then(|uid| package.instances.get(uid))
            {
                dirty.instances.insert(instance.clone());
            }
        }
        Reach::Namespace => wake_namespace(package, namespace, dirty),
    }
}

fn wake_namespace(package: &Package, namespace: &Datum, dirty: &mut Dirty) {
    let uids = namespace
        .as_str()
        .and_then(|namespace| package.by_namespace.get(namespace));
    for uid in uids.into_iter().flatten() {
        if let Some(instance) = package.instances.get(uid) {
            dirty.instances.insert(instance.clone());
        }
    }
}

/// Wakes who sees a row of the objects table.
fn wake_object(package: &Package, row: &[Datum], dirty: &mut Dirty) {
    match row[5].as_str().and_then(|uid| package.instances.get(uid)) {
        Some(instance) => {
            dirty.instances.insert(instance.clone());
        }
        None if row[11].is_true() => wake_namespace(package, &row[2], dirty),
        None => {}
    }
}

/// Uid of the object's controller.
fn controller(object: &Value) -> Option<&str> {
    object
        .pointer("/metadata/ownerReferences")?
        .as_array()?
        .iter()
        .find(|reference| reference.get("controller").and_then(Value::as_bool) == Some(true))?
        .get("uid")?
        .as_str()
}

/// JSON text of an object; `{}` when absent, so that `->>` on it works.
/// Without the copy of the whole object that `kubectl apply` leaves there: values of sensitive fields are in it in clear.
fn annotations(object: &Value) -> Datum {
    let mut annotations = object.pointer("/metadata/annotations").cloned();
    if let Some(Value::Object(map)) = &mut annotations {
        map.remove("kubectl.kubernetes.io/last-applied-configuration");
    }
    json_object(annotations.as_ref())
}

fn json_object(value: Option<&Value>) -> Datum {
    match value {
        Some(value) if !value.is_null() => canonical_json(value).into(),
        _ => "{}".into(),
    }
}

fn field_value(field: &Field, uid: &str, object: &Value) -> Datum {
    let value = field.path.find(object).filter(|value| !value.is_null());
    if field.sensitive {
        return match value {
            Some(value) if value.as_str() != Some("") => {
                let salted = format!("{uid}:{}:{}", field.name, canonical_json(value));
                let mut digest = digest(salted.as_bytes());
                digest.truncate(16);
                SecretHandle::Field {
                    field: field.name.clone(),
                    digest,
                }
                .text()
                .into()
            }
            _ => field.default.clone(),
        };
    }
    match field.kind.read(value) {
        Datum::Null => field.default.clone(),
        read => read,
    }
}
