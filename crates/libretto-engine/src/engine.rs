//! Evaluates one instance: snapshot and ledger in, plan out.
//!
//! The order here is the order of thinking: fill the working set, materialise views, turn rules' rows into items
//! ([`crate::items`]), compare items with the ledger ([`crate::decide`]), say how it stands ([`crate::status`]).

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use libretto_api::{chart::Charts, intent::Millis};
use libretto_mirror::{Answer, Asked, Limits, Sheet, Snapshot, SqlError};

use crate::{
    Compiled, Ledger, Plan, Sample, compile::Query, controls::Controls, decide, items,
    ledger::BLOCKED, plan::ProbeTarget, recall::Recall, status, template::Context,
};

/// A compiled package with a working set of its own. What it says depends only on what it is asked; it remembers what it worked
/// out last, so that the next evaluation of the same instance costs what has changed.
#[derive(Debug)]
pub struct Engine {
    package: Arc<Compiled>,
    sheet: Sheet,
    charts: Arc<dyn Charts>,
    recall: RefCell<Recall>,
}

/// What a query that is not the package's own depends on.
#[derive(Debug)]
pub(crate) struct Question {
    reads: BTreeSet<String>,
    parameters: Vec<String>,
}

/// One evaluation while it lasts.
pub(crate) struct Pass<'a> {
    pub(crate) package: &'a Compiled,
    pub(crate) sheet: &'a Sheet,
    pub(crate) snapshot: &'a Snapshot,
    pub(crate) now: Millis,
    /// The variable `cr` of templates.
    pub(crate) cr: Context,
    pub(crate) recall: &'a RefCell<Recall>,
    pub(crate) charts: &'a dyn Charts,
    pub(crate) deleting: bool,
    pub(crate) controls: Controls,
    /// Why views have no rows, by name.
    pub(crate) failed: BTreeMap<String, String>,
}

impl Pass<'_> {
    /// Rows of a query, unless something it reads failed.
    pub(crate) fn rows(&self, query: &Query) -> Result<Arc<Answer>, String> {
        for table in &query.reads {
            if let Some(reason) = self.failed.get(table) {
                return Err(reason.clone());
            }
        }
        self.sheet
            .answer(&query.asked(), Limits::PACKAGE)
            .map_err(|error| error.to_string())
    }
}

impl Engine {
    /// Opens a working set for the package; `charts` renders its charts.
    pub fn new(package: Arc<Compiled>, charts: Arc<dyn Charts>) -> Self {
        let sheet = package.sheet();
        Self {
            package,
            sheet,
            charts,
            recall: RefCell::default(),
        }
    }

    /// Checks a query that is not the package's own.
    pub(crate) fn question(&self, sql: &str) -> Result<Question, SqlError> {
        let described = self.sheet.describe(sql)?;
        Ok(Question {
            reads: described
                .reads
                .into_iter()
                .map(|(table, _)| table)
                .collect(),
            parameters: described.parameters,
        })
    }

    /// Asks it of the rows that were evaluated last.
    pub(crate) fn ask(&self, sql: &str, question: &Question) -> Result<Arc<Answer>, SqlError> {
        let asked = Asked {
            sql,
            reads: &question.reads,
            parameters: &question.parameters,
        };
        self.sheet.answer(&asked, Limits::PACKAGE)
    }

    #[cfg(test)]
    pub(crate) fn charts(&self) -> &Arc<dyn Charts> {
        &self.charts
    }

    /// The package.
    pub fn package(&self) -> &Arc<Compiled> {
        &self.package
    }

    /// Decides what to do for the instance of the snapshot. The same arguments give the same plan.
    pub fn plan(&self, snapshot: &Snapshot, ledger: &Ledger, now: Millis, seed: u64) -> Plan {
        self.plan_with(snapshot, ledger, now, seed, &BTreeMap::new())
    }

    /// Like [`Engine::plan`], with the rows of some views given instead of computed.
    pub(crate) fn plan_with(
        &self,
        snapshot: &Snapshot,
        ledger: &Ledger,
        now: Millis,
        seed: u64,
        given: &BTreeMap<String, libretto_mirror::Table>,
    ) -> Plan {
        let pass = self.pass(snapshot, now, given);
        let (probes, probes_kept, probe_failures) = probe_targets(&pass);
        let unanswered = unanswered(&pass, &probes);
        let rules: Vec<items::RuleItems> = items::of_rules(&pass, &blind(&pass, &unanswered));
        let mut decision = decide::decide(&pass, &rules, ledger, seed);
        let (metrics, metric_failures) = samples(&pass);
        let mut failures: Vec<(String, String)> = rules
            .iter()
            .filter_map(|rule| Some((rule.rule.name.clone(), rule.failure.clone()?)))
            .collect();
        failures.extend(probe_failures);
        failures.extend(overrides(&pass, &rules));
        failures.extend(metric_failures);
        status::conclude(&pass, &mut decision, &failures, &unanswered);
        if let Some(period) = self.package.clock
            && !pass.deleting
        {
            decision.wake(now - now.rem_euclid(period) + period);
        }
        // It is over: the next time is told again.
        decision.ledger.rows.remove(BLOCKED);
        decision.into_plan(&rules, probes, probes_kept, metrics)
    }

    /// Tables of which not every target was asked; see [`blind`].
    pub(crate) fn blind(&self, pass: &Pass<'_>) -> BTreeSet<String> {
        let (probes, ..) = probe_targets(pass);
        blind(pass, &unanswered(pass, &probes))
    }

    pub(crate) fn pass<'a>(
        &'a self,
        snapshot: &'a Snapshot,
        now: Millis,
        given: &BTreeMap<String, libretto_mirror::Table>,
    ) -> Pass<'a> {
        let mut failed = BTreeMap::new();
        self.sheet.fill(snapshot, now);
        for view in &self.package.views {
            let result = match given.get(&view.name) {
                Some(table) => self
                    .sheet
                    .put_view(&view.name, table)
                    .map_err(|error| error.to_string()),
                None => match view.query.reads.iter().find_map(|table| failed.get(table)) {
                    Some(reason) => Err(String::clone(reason)),
                    None => self
                        .sheet
                        .materialise(&view.name, &view.query.asked(), Limits::PACKAGE)
                        .map_err(|error| format!("view {}: {error}", view.name)),
                },
            };
            if let Err(reason) = result {
                failed.insert(view.name.clone(), reason);
            }
        }
        let controls = Controls::of(snapshot);
        let cr = self
            .recall
            .borrow_mut()
            .about(&self.package, snapshot, &controls);
        Pass {
            recall: &self.recall,
            charts: self.charts.as_ref(),
            package: &self.package,
            sheet: &self.sheet,
            snapshot,
            now,
            cr,
            controls,
            deleting: snapshot.cr("deleting").is_true(),
            failed,
        }
    }
}

type Failures = Vec<(String, String)>;

/// What is wrong with the instance's overrides.
fn overrides(pass: &Pass<'_>, rules: &[items::RuleItems<'_>]) -> Failures {
    let mut wrong: Vec<String> = pass.controls.problem.iter().cloned().collect();
    let known = !pass.deleting && !rules.iter().any(items::RuleItems::unknown);
    let objects: Vec<_> = rules
        .iter()
        .flat_map(|rule| rule.items.iter())
        .filter_map(|item| item.object.as_ref())
        .collect();
    for wanted in &pass.controls.overrides {
        let found = objects
            .iter()
            .any(|object| wanted.fits(&object.gvk.kind, &object.name));
        // Most likely a slip: what is overridden nowhere would be missed by nobody.
        if known && !found {
            let name = wanted.name.as_deref().unwrap_or("any name");
            let there: BTreeSet<String> = objects
                .iter()
                .map(|object| format!("{}/{}", object.gvk.kind, object.name))
                .collect();
            wrong.push(format!(
                "no object of kind {} with {name}; there are: {}",
                wanted.kind,
                Vec::from_iter(there).join(", ")
            ));
        }
    }
    wrong
        .into_iter()
        .map(|problem| ("overrides".to_owned(), problem))
        .collect()
}

/// What to ask, which tables' targets are unknown, and why.
fn probe_targets(pass: &Pass<'_>) -> (Vec<ProbeTarget>, Vec<String>, Failures) {
    let (mut targets, mut kept, mut failures) = (Vec::new(), Vec::new(), Vec::new());
    if pass.deleting {
        return (targets, kept, failures);
    }
    for spec in &pass.package.probes {
        match items::probe_targets(pass, spec) {
            Ok(found) => targets.extend(found.iter().cloned()),
            Err(reason) => {
                kept.push(spec.table.clone());
                failures.push((format!("probe {}", spec.table), reason));
            }
        }
    }
    (targets, kept, failures)
}

/// How many targets of each probe table never answered nor failed to: nothing can be said yet.
fn unanswered(pass: &Pass<'_>, targets: &[ProbeTarget]) -> BTreeMap<String, usize> {
    let mut waiting = BTreeMap::new();
    let mut asked: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for spec in &pass.package.probes {
        if let Some(table) = pass.snapshot.tables.get(&spec.table) {
            let keys = (0..table.rows.len())
                .filter_map(|row| Some(table.get(row, "key")?.display()))
                .collect();
            asked.insert(&spec.table, keys);
        }
    }
    for target in targets {
        let known = asked
            .get(target.table.as_str())
            .is_some_and(|keys| keys.contains(&target.key));
        if !known {
            *waiting.entry(target.table.clone()).or_default() += 1;
        }
    }
    waiting
}

/// Probe tables that are not complete: with targets nobody has asked yet, or whose targets follow from such a table. As with a
/// half-listed Kind, nothing is decided on them: after a restart every answer is missing, and what is missing must neither be
/// taken for gone nor acted upon. It lasts one round of questions, since a target that does not answer is known too.
fn blind(pass: &Pass<'_>, unanswered: &BTreeMap<String, usize>) -> BTreeSet<String> {
    let mut blind: BTreeSet<String> = unanswered.keys().cloned().collect();
    loop {
        let more: Vec<String> = pass
            .package
            .probes
            .iter()
            .filter(|spec| !blind.contains(&spec.table))
            .filter(|spec| {
                pass.package
                    .bases(&spec.query)
                    .any(|table| blind.contains(table))
            })
            .map(|spec| spec.table.clone())
            .collect();
        if more.is_empty() {
            return blind;
        }
        blind.extend(more);
    }
}

fn samples(pass: &Pass<'_>) -> (Vec<Sample>, Failures) {
    let (mut samples, mut failures) = (Vec::new(), Vec::new());
    if pass.deleting {
        return (samples, failures);
    }
    for metric in &pass.package.metrics {
        match pass.rows(&metric.query) {
            Ok(answer) => {
                let rows = &answer.rows;
                let place = |name: &str| rows.columns.iter().position(|column| column.name == name);
                let value_at = place("value").unwrap_or(0);
                for row in &rows.rows {
                    // NULL means there is nothing to measure.
                    let Some(value) = row[value_at].as_float() else {
                        continue;
                    };
                    let mut labels: BTreeMap<String, String> = metric
                        .labels
                        .iter()
                        .filter_map(|label| Some((label.clone(), row[place(label)?].display())))
                        .collect();
                    labels.insert(
                        "namespace".to_owned(),
                        pass.snapshot.instance.namespace.clone(),
                    );
                    labels.insert("name".to_owned(), pass.snapshot.instance.name.clone());
                    samples.push(Sample {
                        name: metric.name.clone(),
                        help: metric.help.clone(),
                        labels,
                        value,
                    });
                }
            }
            Err(reason) => failures.push((format!("metric {}", metric.name), reason)),
        }
    }
    (samples, failures)
}
