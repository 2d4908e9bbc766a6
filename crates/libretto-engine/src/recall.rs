//! What rules and probes wanted last, as long as it follows from the same rows and the same instance.

use std::{collections::HashMap, sync::Arc};

use libretto_api::object::InstanceRef;
use libretto_mirror::{Datum, Snapshot};

use crate::{
    Compiled,
    controls::Controls,
    items::Item,
    plan::ProbeTarget,
    template::{self, Context},
};

/// Bounded by the package: one entry per rule and probe.
#[derive(Debug, Default)]
pub(crate) struct Recall {
    instance: Option<InstanceRef>,
    controls: Controls,
    /// Fields of the instance that templates use.
    fields: Vec<(String, Datum)>,
    cr: Context,
    rules: HashMap<String, (u64, Arc<Vec<Item>>)>,
    probes: HashMap<String, (u64, Arc<Vec<ProbeTarget>>)>,
}

impl Recall {
    /// The variable `cr` of this instance. When it is another than before, everything else is forgotten.
    pub(crate) fn about(
        &mut self,
        package: &Compiled,
        snapshot: &Snapshot,
        controls: &Controls,
    ) -> Context {
        let fields: Vec<(String, Datum)> = snapshot
            .tables
            .get("cr")
            .and_then(|cr| Some(cr.columns.iter().zip(cr.rows.first()?)))
            .into_iter()
            .flatten()
            .filter(|(name, _)| package.used.contains(name))
            .map(|(name, datum)| (name.clone(), datum.clone()))
            .collect();
        if self.instance.as_ref() != Some(&snapshot.instance)
            || self.fields != fields
            || self.controls != *controls
        {
            *self = Self {
                instance: Some(snapshot.instance.clone()),
                controls: controls.clone(),
                cr: template::cr_value(&fields, &package.cr_kinds),
                fields,
                rules: HashMap::new(),
                probes: HashMap::new(),
            };
        }
        self.cr.clone()
    }

    /// What the rule wanted when its rows had this version.
    pub(crate) fn items(&self, rule: &str, version: u64) -> Option<Arc<Vec<Item>>> {
        let (known, items) = self.rules.get(rule)?;
        (*known == version).then(|| Arc::clone(items))
    }

    pub(crate) fn keep_items(&mut self, rule: &str, version: u64, items: &Arc<Vec<Item>>) {
        self.rules
            .insert(rule.to_owned(), (version, Arc::clone(items)));
    }

    pub(crate) fn targets(&self, table: &str, version: u64) -> Option<Arc<Vec<ProbeTarget>>> {
        let (known, targets) = self.probes.get(table)?;
        (*known == version).then(|| Arc::clone(targets))
    }

    pub(crate) fn keep_targets(
        &mut self,
        table: &str,
        version: u64,
        targets: &Arc<Vec<ProbeTarget>>,
    ) {
        self.probes
            .insert(table.to_owned(), (version, Arc::clone(targets)));
    }
}
