//! Objects and probe answers in; which instances to wake out.

use std::{collections::BTreeSet, sync::Arc};

use libretto_api::{
    intent::Millis,
    object::{Gvk, INSTANCE_LABEL, InstanceRef, PACKAGE_LABEL, field_manager},
    secret::SecretHandle,
};
use serde_json::Value;

use crate::{
    Change, ColumnType, Datum, Dirty, Field, Mirror, MirrorError, PROBE_COLUMNS, Reach, ScopeMode,
    canonical_json, digest, held_digest_ignoring,
    lineage::Lineage,
    mirror::{Arrival, Instances, Package, text},
    ready,
    store::{Answered, Row},
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
                    self.delete(gvk, &uid, &mut dirty);
                }
            }
        }
        Ok(dirty)
    }

    /// Takes a complete list of a Kind (of one namespace, or of all when `None`) in one step: what is not in it is gone.
    pub fn replace_all<'a>(
        &mut self,
        gvk: &Gvk,
        namespace: Option<&str>,
        objects: impl IntoIterator<Item = &'a Value>,
    ) -> Result<Dirty, MirrorError> {
        let mut dirty = Dirty::default();
        self.relist(gvk, namespace, objects, &mut dirty)?;
        Ok(dirty)
    }

    fn relist<'a>(
        &mut self,
        gvk: &Gvk,
        namespace: Option<&str>,
        objects: impl IntoIterator<Item = &'a Value>,
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
            self.delete(gvk, &uid, dirty);
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
            } => self.delete(gvk, &former, dirty),
        }
        let moved = self.lineage.set(uid, controller(object));
        let names: Vec<String> = self.packages.keys().cloned().collect();
        for name in names {
            let Some(package) = self.packages.get(&name) else {
                continue;
            };
            if package.schema.instance.gvk == *gvk {
                self.apply_instance(&name, object, dirty);
            }
            self.apply_rows(&name, gvk, uid, object, dirty);
            if moved {
                self.reown(&name, uid, dirty);
            }
        }
        Ok(())
    }

    /// Writes the object's row in each of the package's tables of its Kind.
    fn apply_rows(&mut self, name: &str, gvk: &Gvk, uid: &str, object: &Value, dirty: &mut Dirty) {
        let Some(Package {
            schema,
            instances,
            watches,
            objects,
            ..
        }) = self.packages.get_mut(name)
        else {
            return;
        };
        let owner = owner(&self.lineage, instances, uid, object);
        for (watch, table) in watches {
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
            if !selected {
                if let Some(former) = table.remove(uid) {
                    wake(instances, watch.reach, &former, dirty);
                }
                continue;
            }
            let row: Row = [
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
            ]
            .into_iter()
            .chain(watch.columns.iter().map(|column| column.read(object)))
            .collect();
            if table.get(uid) == Some(&row) {
                continue;
            }
            wake(instances, watch.reach, &row, dirty);
            if let Some(former) = table.put(row) {
                wake(instances, watch.reach, &former, dirty);
            }
        }
        if let Some(kind) = schema.objects.iter().find(|kind| kind.gvk == *gvk) {
            let labels = object.pointer("/metadata/labels");
            let ours = labels
                .and_then(|labels| labels.get(PACKAGE_LABEL))
                .and_then(Value::as_str)
                == Some(name);
            let held = held_digest_ignoring(object, &field_manager(name), &kind.ignore);
            if !ours && held.is_empty() {
                if let Some(former) = objects.remove(uid) {
                    wake_object(instances, &former, dirty);
                }
                return;
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
            let row: Row = [
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
            ]
            .into();
            // Everything but the resourceVersion: a heartbeat in a status is no change.
            if objects
                .get(uid)
                .is_some_and(|former| former[..4] == row[..4] && former[5..] == row[5..])
            {
                return;
            }
            wake_object(instances, &row, dirty);
            if let Some(former) = objects.put(row) {
                wake_object(instances, &former, dirty);
            }
        }
    }

    fn apply_instance(&mut self, name: &str, object: &Value, dirty: &mut Dirty) {
        let uid = text(object, "/metadata/uid");
        let Some(package) = self.packages.get_mut(name) else {
            return;
        };
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
        let row: Row = [
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
        ]
        .into_iter()
        .chain(
            package
                .schema
                .instance
                .fields
                .iter()
                .map(|field| field_value(field, uid, object)),
        )
        .collect();
        let instance = InstanceRef {
            package: name.to_owned(),
            gvk: package.schema.instance.gvk.clone(),
            namespace: text(object, "/metadata/namespace").to_owned(),
            name: text(object, "/metadata/name").to_owned(),
            uid: uid.to_owned(),
        };
        let known = package.cr.get(uid);
        let new = known.is_none();
        if known != Some(&row) {
            package.cr.put(row);
            dirty.instances.insert(instance.clone());
        }
        if new {
            package
                .instances
                .by_namespace
                .entry(instance.namespace.clone())
                .or_default()
                .insert(uid.to_owned());
            package.instances.by_uid.insert(uid.to_owned(), instance);
            // Objects that came before their instance.
            self.reown(name, uid, dirty);
        }
    }

    fn forget_instance(&mut self, name: &str, uid: &str, dirty: &mut Dirty) {
        let Some(package) = self.packages.get_mut(name) else {
            return;
        };
        let Some(instance) = package.instances.by_uid.remove(uid) else {
            return;
        };
        let namespaces = &mut package.instances.by_namespace;
        if let Some(uids) = namespaces.get_mut(&instance.namespace) {
            uids.remove(uid);
            if uids.is_empty() {
                namespaces.remove(&instance.namespace);
            }
        }
        package.cr.remove(uid);
        for (_, answers) in &mut package.probes {
            answers.rows.remove(uid);
        }
        dirty.instances.remove(&instance);
        dirty.gone.insert(instance);
    }

    fn delete(&mut self, gvk: &Gvk, uid: &str, dirty: &mut Dirty) {
        if let Some(kind) = self.kinds.get_mut(gvk) {
            kind.forget(uid);
        }
        self.lineage.remove(uid);
        let names: Vec<String> = self.packages.keys().cloned().collect();
        for name in names {
            let Some(package) = self.packages.get_mut(&name) else {
                continue;
            };
            for (watch, table) in &mut package.watches {
                if watch.gvk == *gvk
                    && let Some(former) = table.remove(uid)
                {
                    wake(&package.instances, watch.reach, &former, dirty);
                }
            }
            if let Some(former) = package.objects.remove(uid) {
                wake_object(&package.instances, &former, dirty);
            }
            if package.schema.instance.gvk == *gvk {
                self.forget_instance(&name, uid, dirty);
            }
        }
    }

    /// Puts the owner right in the rows of everything below an object whose place in the lineage changed.
    fn reown(&mut self, name: &str, uid: &str, dirty: &mut Dirty) {
        let Some(package) = self.packages.get_mut(name) else {
            return;
        };
        for descendant in self.lineage.descendants(uid) {
            let Some(owner) = self.lineage.ancestor(descendant, |ancestor| {
                package.instances.by_uid.contains_key(ancestor)
            }) else {
                continue;
            };
            let tables = package
                .watches
                .iter_mut()
                .map(|(_, table)| (table, 3))
                .chain([(&mut package.objects, 5)]);
            for (table, place) in tables {
                let Some(row) = table.get(descendant) else {
                    continue;
                };
                if row[place].as_str() == Some(owner) {
                    continue;
                }
                let mut row = row.to_vec();
                row[place] = owner.into();
                table.put(row.into());
                if let Some(instance) = package.instances.by_uid.get(owner) {
                    dirty.instances.insert(instance.clone());
                }
            }
        }
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
            .get_mut(package)
            .ok_or_else(|| MirrorError::UnknownPackage(package.to_owned()))?;
        let Some(instance) = known.instances.by_uid.get(instance_uid) else {
            // The instance went while the probe was under way.
            return Ok(dirty);
        };
        let (probe, answers) = known
            .probes
            .iter_mut()
            .find(|(probe, _)| probe.name == table)
            .ok_or_else(|| MirrorError::UnknownTable {
                package: package.to_owned(),
                table: table.to_owned(),
            })?;
        let former = answers.get(instance_uid, key);
        let (missed, row): (i64, Row) = match answer {
            Ok(value) => {
                let own = [key.into(), true.into(), Datum::Null, at.into()];
                let told = probe.columns.iter().map(|column| column.read(value));
                (0, own.into_iter().chain(told).collect())
            }
            Err(error) => {
                let missed = former.map_or(0, |former| former.missed).saturating_add(1);
                let own = [key.into(), false.into(), error.into(), at.into()];
                let last = former
                    .filter(|_| missed < i64::from(probe.misses))
                    .map_or_else(
                        || vec![Datum::Null; probe.columns.len()],
                        |former| former.row[PROBE_COLUMNS.len()..].to_vec(),
                    );
                (missed, own.into_iter().chain(last).collect())
            }
        };
        // Neither how often it was missed nor when it was asked is news.
        let news = former.is_none_or(|former| {
            former.row[1..3] != row[1..3]
                || former.row[PROBE_COLUMNS.len()..] != row[PROBE_COLUMNS.len()..]
        });
        if news {
            dirty.instances.insert(instance.clone());
        }
        answers.put(instance_uid, key, Answered { missed, row });
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
            .get_mut(package)
            .ok_or_else(|| MirrorError::UnknownPackage(package.to_owned()))?;
        for (probe, answers) in &mut known.probes {
            if keep.contains(&probe.name) {
                continue;
            }
            let wanted: BTreeSet<&str> = targets
                .iter()
                .filter(|(table, _)| *table == probe.name)
                .map(|(_, key)| key.as_str())
                .collect();
            if answers.retain(instance_uid, |key| wanted.contains(key))
                && let Some(instance) = known.instances.by_uid.get(instance_uid)
            {
                dirty.instances.insert(instance.clone());
            }
        }
        Ok(dirty)
    }
}

/// The instance of the package an object belongs to: by its controller chain, else by the runtime's label.
fn owner(lineage: &Lineage, instances: &Instances, uid: &str, object: &Value) -> Datum {
    lineage
        .ancestor(uid, |ancestor| instances.by_uid.contains_key(ancestor))
        .or_else(|| {
            object
                .pointer("/metadata/labels")?
                .get(INSTANCE_LABEL)?
                .as_str()
        })
        .map_or(Datum::Null, Datum::from)
}

/// Wakes who sees a row of a sensed table.
fn wake(instances: &Instances, reach: Reach, row: &[Datum], dirty: &mut Dirty) {
    match reach {
        Reach::Own => {
            if let Some(instance) = row[3].as_str().and_then(|uid| instances.by_uid.get(uid)) {
                dirty.instances.insert(instance.clone());
            }
        }
        Reach::Namespace => wake_namespace(instances, &row[1], dirty),
    }
}

fn wake_namespace(instances: &Instances, namespace: &Datum, dirty: &mut Dirty) {
    let uids = namespace
        .as_str()
        .and_then(|namespace| instances.by_namespace.get(namespace));
    for uid in uids.into_iter().flatten() {
        if let Some(instance) = instances.by_uid.get(uid) {
            dirty.instances.insert(instance.clone());
        }
    }
}

/// Wakes who sees a row of the objects table.
fn wake_object(instances: &Instances, row: &[Datum], dirty: &mut Dirty) {
    match row[5].as_str().and_then(|uid| instances.by_uid.get(uid)) {
        Some(instance) => {
            dirty.instances.insert(instance.clone());
        }
        None if row[11].is_true() => wake_namespace(instances, &row[2], dirty),
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
