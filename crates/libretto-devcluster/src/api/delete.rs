//! Deletion: preconditions, grace periods of pods, finalizers, and what holds namespaces and definitions.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{
    Api, DeleteOptions, Gvr, ListOptions, ListQuery, Propagation, Target, convert, metadata,
};
use crate::{error::ApiError, registry::Resource, store::Key};

/// Resolved by the garbage collector.
const FOREGROUND: &str = "foregroundDeletion";
const ORPHAN: &str = "orphan";
/// Namespaces that upstream's NamespaceLifecycle admission keeps. `kube-node-lease` is not among them there either.
const IMMORTAL: &[&str] = &["default", "kube-public", "kube-system"];

/// The answer to a delete.
#[derive(Debug)]
pub(crate) struct Deleted {
    pub object: Arc<Value>,
    /// Gone now; otherwise something holds it.
    pub removed: bool,
}

impl Api {
    pub(crate) fn delete_object(
        &self,
        gvr: &Gvr,
        namespace: &str,
        name: &str,
        options: &DeleteOptions,
    ) -> Result<Deleted, ApiError> {
        let target = self.resolve(gvr)?;
        let lock = self.0.writes.lock();
        let mut deleted = self.delete_locked(&target, &target.key(namespace, name), options)?;
        drop(lock);
        self.aggregate_roles(&target.resource);
        deleted.object = convert::from_storage(&target.resource, &target.version, &deleted.object);
        Ok(deleted)
    }

    /// Deletes what a list would show; the answer is the list as it was.
    pub(crate) fn delete_collection(
        &self,
        gvr: &Gvr,
        namespace: Option<&str>,
        selection: &ListOptions,
        options: &DeleteOptions,
    ) -> Result<Vec<Arc<Value>>, ApiError> {
        let page = self.page(
            gvr,
            &ListQuery {
                namespace,
                options: selection,
                at: None,
            },
        )?;
        for object in &page.items {
            let (namespace, name) = (
                metadata::text(object, "namespace"),
                metadata::text(object, "name"),
            );
            match self.delete_object(gvr, namespace, name, options) {
                Ok(_) => {}
                Err(error) if error.code == 404 => {}
                Err(error) => return Err(error),
            }
        }
        Ok(page.items)
    }

    /// With the write lock held; in stored form.
    pub(super) fn delete_locked(
        &self,
        target: &Target,
        key: &Key,
        options: &DeleteOptions,
    ) -> Result<Deleted, ApiError> {
        let resource = &target.resource;
        let live = self.stored(target, &key.namespace, &key.name)?;
        check_preconditions(resource, &live, options)?;
        if resource.qualified() == "namespaces" && IMMORTAL.contains(&key.name.as_str()) {
            return Err(ApiError::forbidden(format!(
                "namespaces {:?} is forbidden: this namespace may not be deleted",
                key.name
            ))
            .within("", "namespaces"));
        }
        let mut object = (*live).clone();
        let propagation = options
            .propagation
            .unwrap_or_else(|| default_propagation(resource, &live));
        let mut finalizers: Vec<String> = metadata::finalizers(&live)
            .filter(|name| *name != FOREGROUND && *name != ORPHAN)
            .map(str::to_owned)
            .collect();
        let already = metadata::terminating(&live);
        if already {
            // A second delete does not change what the first one asked of the garbage collector.
            finalizers = metadata::finalizers(&live).map(str::to_owned).collect();
        } else {
            match propagation {
                Propagation::Background => {}
                Propagation::Foreground => finalizers.push(FOREGROUND.to_owned()),
                Propagation::Orphan => finalizers.push(ORPHAN.to_owned()),
            }
        }
        metadata::set_finalizers(&mut object, finalizers);
        let grace = grace_period(resource, &live, options);
        let until = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(grace);
        let previous = live["metadata"]["deletionGracePeriodSeconds"].as_i64();
        let fields = metadata::metadata(&mut object);
        if !already || previous.is_some_and(|previous| grace < previous) {
            fields.insert(
                "deletionTimestamp".to_owned(),
                metadata::time_text(until).into(),
            );
            fields.insert("deletionGracePeriodSeconds".to_owned(), grace.into());
        }
        if !already && let Some(generation) = fields.get("generation").and_then(Value::as_i64) {
            fields.insert("generation".to_owned(), (generation + 1).into());
        }
        if resource.qualified() == "namespaces" {
            object["status"] = match object["status"].take() {
                Value::Object(mut status) => {
                    status.insert("phase".to_owned(), "Terminating".into());
                    Value::Object(status)
                }
                _ => json!({"phase": "Terminating"}),
            };
        }
        if options.dry_run {
            let removed = metadata::released(resource, &object);
            return Ok(Deleted {
                object: if removed { live } else { Arc::new(object) },
                removed,
            });
        }
        if Self::is_definition(resource) && self.delete_objects_of(&live)? {
            Self::hold_definition(&mut object);
        }
        if metadata::released(resource, &object) {
            let last = self.remove(resource, key)?.unwrap_or(live);
            return Ok(Deleted {
                object: last,
                removed: true,
            });
        }
        if object == *live {
            return Ok(Deleted {
                object: live,
                removed: false,
            });
        }
        let object = self.0.store.put(&resource.table, key.clone(), object)?;
        Ok(Deleted {
            object,
            removed: false,
        })
    }

    /// Takes an object out of the store and does what follows from its absence.
    pub(super) fn remove(
        &self,
        resource: &Resource,
        key: &Key,
    ) -> Result<Option<Arc<Value>>, ApiError> {
        let last = self.0.store.remove(&resource.table, key)?;
        if let Some(last) = &last {
            self.after_removal(resource, last)?;
        }
        Ok(last)
    }
}

/// Without a policy, finalizers that somebody has set say what to do; else the oldest APIs leave their dependents alone, as ever.
fn default_propagation(resource: &Resource, live: &Value) -> Propagation {
    let set = |wanted: &str| metadata::finalizers(live).any(|name| name == wanted);
    if set(ORPHAN) {
        Propagation::Orphan
    } else if set(FOREGROUND) {
        Propagation::Foreground
    } else if matches!(
        resource.qualified().as_str(),
        "jobs.batch" | "replicationcontrollers"
    ) {
        Propagation::Orphan
    } else {
        Propagation::Background
    }
}

/// Seconds a pod may take to end; zero for everything else and for pods that no node runs.
fn grace_period(resource: &Resource, live: &Value, options: &DeleteOptions) -> i64 {
    if resource.qualified() != "pods" {
        return 0;
    }
    let scheduled = live["spec"]["nodeName"]
        .as_str()
        .is_some_and(|node| !node.is_empty());
    let finished = matches!(
        live["status"]["phase"].as_str(),
        Some("Succeeded" | "Failed")
    );
    if !scheduled || finished {
        return 0;
    }
    options
        .grace_period_seconds
        .or_else(|| live["spec"]["terminationGracePeriodSeconds"].as_i64())
        .unwrap_or(30)
        .max(0)
}

fn check_preconditions(
    resource: &Resource,
    live: &Value,
    options: &DeleteOptions,
) -> Result<(), ApiError> {
    let name = metadata::text(live, "name");
    // Upstream names the kind here, not the resource.
    let kind = crate::registry::qualified(&resource.group, &resource.kind);
    let check = |wanted: &Option<String>, field: &str, why: &dyn Fn(&str, &str) -> String| {
        let found = metadata::text(live, field);
        match wanted {
            Some(wanted) if wanted != found => {
                Err(ApiError::conflict(&kind, name, &why(wanted, found))
                    .within(&resource.group, &resource.kind))
            }
            _ => Ok(()),
        }
    };
    check(&options.uid, "uid", &|wanted, found| {
        format!(
            "the UID in the precondition ({wanted}) does not match the UID in record ({found}). The object might have been deleted and then recreated"
        )
    })?;
    check(
        &options.resource_version,
        "resourceVersion",
        &|wanted, found| {
            format!(
                "the ResourceVersion in the precondition ({wanted}) does not match the ResourceVersion in record ({found}). The object might have been modified"
            )
        },
    )?;
    Ok(())
}
