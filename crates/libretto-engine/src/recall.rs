//! What rules and probes wanted before, for the same rows and the same instance.

use std::{collections::HashMap, sync::Arc};

use libretto_api::object::InstanceRef;
use libretto_mirror::{Datum, Row, Snapshot};

use crate::{
    Compiled,
    controls::Controls,
    items::Item,
    plan::ProbeTarget,
    template::{self, Context},
};

/// Items and targets that are remembered, over all rules and instances: some ten thousand bytes each when they are large objects.
/// When there are more everything is forgotten and worked out again as it is asked for.
const REMEMBERED: usize = 2_000;

#[derive(Debug, Default)]
pub(crate) struct Recall {
    /// What templates see of instances, by number.
    known: Vec<About>,
    /// The one that is evaluated.
    now: usize,
    /// Its row, as long as nobody knows another.
    row: Option<Row>,
    rules: Wanted<Item>,
    probes: Wanted<ProbeTarget>,
}

#[derive(Debug)]
struct About {
    instance: InstanceRef,
    controls: Controls,
    /// Fields of the instance that templates use.
    fields: Vec<(String, Datum)>,
    cr: Context,
}

/// Number of what it is about, and version of the rows.
type Basis = (usize, u64);

/// By rule or probe table.
#[derive(Debug)]
struct Wanted<T> {
    by_name: HashMap<String, HashMap<Basis, Arc<Vec<T>>>>,
    size: usize,
}

impl<T> Default for Wanted<T> {
    fn default() -> Self {
        Self {
            by_name: HashMap::new(),
            size: 0,
        }
    }
}

impl<T> Wanted<T> {
    fn get(&self, name: &str, about: usize, version: u64) -> Option<Arc<Vec<T>>> {
        self.by_name.get(name)?.get(&(about, version)).cloned()
    }

    fn keep(&mut self, name: &str, about: usize, version: u64, wanted: &Arc<Vec<T>>) {
        if self.size > REMEMBERED {
            *self = Self::default();
        }
        // What wants nothing takes room too.
        self.size += 1 + wanted.len();
        self.by_name
            .entry(name.to_owned())
            .or_default()
            .insert((about, version), Arc::clone(wanted));
    }
}

impl Recall {
    /// The variable `cr` of this instance. What is recalled from now on is about it.
    pub(crate) fn about(
        &mut self,
        package: &Compiled,
        snapshot: &Snapshot,
        controls: &Controls,
    ) -> Context {
        let cr = snapshot.tables.get("cr");
        let row = cr.and_then(|cr| cr.rows.first());
        if let (Some(row), Some(known)) = (row, &self.row)
            && Arc::ptr_eq(row, known)
            && let Some(about) = self.known.get(self.now)
            && about.instance == snapshot.instance
        {
            return about.cr.clone();
        }
        self.row = row.cloned();
        let fields: Vec<(String, Datum)> = cr
            .and_then(|cr| Some(cr.columns.iter().zip(cr.rows.first()?.iter())))
            .into_iter()
            .flatten()
            .filter(|(name, _)| package.used.contains(name))
            .map(|(name, datum)| (name.clone(), datum.clone()))
            .collect();
        let known = self.known.iter().position(|about| {
            about.instance == snapshot.instance
                && about.fields == fields
                && about.controls == *controls
        });
        self.now = known.unwrap_or_else(|| {
            if self.known.len() > REMEMBERED {
                // Their numbers are given again.
                *self = Self {
                    row: self.row.take(),
                    ..Self::default()
                };
            }
            self.known.push(About {
                instance: snapshot.instance.clone(),
                controls: controls.clone(),
                cr: template::cr_value(&fields, &package.cr_kinds),
                fields,
            });
            self.known.len() - 1
        });
        self.known[self.now].cr.clone()
    }

    /// What the rule wanted when its rows had this version.
    pub(crate) fn items(&self, rule: &str, version: u64) -> Option<Arc<Vec<Item>>> {
        self.rules.get(rule, self.now, version)
    }

    pub(crate) fn keep_items(&mut self, rule: &str, version: u64, items: &Arc<Vec<Item>>) {
        self.rules.keep(rule, self.now, version, items);
    }

    pub(crate) fn targets(&self, table: &str, version: u64) -> Option<Arc<Vec<ProbeTarget>>> {
        self.probes.get(table, self.now, version)
    }

    pub(crate) fn keep_targets(
        &mut self,
        table: &str,
        version: u64,
        targets: &Arc<Vec<ProbeTarget>>,
    ) {
        self.probes.keep(table, self.now, version, targets);
    }
}
