//! What one evaluation of an instance decided.

use std::collections::BTreeMap;

use libretto_api::intent::{Alert, Intent, Millis, Probe};
use libretto_mirror::Datum;
use serde::{Deserialize, Serialize};

use crate::Ledger;

/// Everything that follows from one snapshot.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// To be carried out in this order, one after another. When an `Inventory` intent or one of rule `@finalizer` fails, nothing
    /// after it in this plan may be tried (record it and plan again): what follows would be made and forgotten.
    pub intents: Vec<Intent>,
    /// The ledger with this plan's intents marked as under way; outcomes are put in with [`Ledger::record`].
    pub ledger: Ledger,
    /// Every target that should be probed from now on. Targets not listed are dropped, together with their rows
    /// (`Mirror::retain_probes`).
    pub probes: Vec<ProbeTarget>,
    /// Probe tables whose targets could not be computed: their targets of the last plan stay.
    pub probes_kept: Vec<String>,
    /// When to look again even if nothing changes; `None` when only a change can matter.
    pub wake_at: Option<Millis>,
    pub metrics: Vec<Sample>,
    /// What somebody should know of now.
    pub alerts: Vec<Alert>,
    /// Nothing to do, nothing waited for, every applied object ready, no failure.
    pub settled: bool,
    /// Per rule, in the package's order: its rows and how each stands. For explain.
    pub rules: Vec<RuleView>,
}

/// Something to ask again and again.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ProbeTarget {
    pub table: String,
    pub key: String,
    pub probe: Probe,
    pub every_ms: u64,
    pub timeout_ms: u64,
}

/// One value of one metric.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    pub name: String,
    pub help: String,
    /// Sorted; `namespace` and `name` of the instance among them.
    pub labels: BTreeMap<String, String>,
    pub value: f64,
}

/// A rule as it stands for the instance.
#[derive(Debug, Clone, PartialEq, Hash, Serialize, Deserialize)]
pub struct RuleView {
    pub rule: String,
    /// `apply`, `patch`, `call redis`, `status`, ...
    pub verb: String,
    pub rows: Vec<RowView>,
    /// Why the rule's rows are not known (a query failed, or a probe it stands on has targets nobody has asked yet); then nothing
    /// of the rule was touched.
    pub failure: Option<String>,
}

/// One row of a rule.
#[derive(Debug, Clone, PartialEq, Hash, Serialize, Deserialize)]
pub struct RowView {
    pub key: String,
    pub columns: Vec<(String, Datum)>,
    pub state: RowState,
    /// In words: what the row waits for, or what went wrong.
    pub note: String,
}

/// How a row stands after the plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum RowState {
    /// An intent of this plan.
    Acting,
    /// Not ripe yet (`stable`, `repeat`), behind `after` or `limit`.
    Waiting,
    /// Failed, to be retried.
    Failing,
    /// Done; nothing to do until it changes.
    Done,
    /// It left; being deleted or released.
    Leaving,
}
