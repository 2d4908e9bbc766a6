//! Pure decisions: a package, a snapshot, a ledger, the time and a seed in; a plan out.
//!
//! - [`load_files`] and [`load_dir`] turn a package's files into a [`Compiled`] package, or into every mistake at once
//!   ([`Diagnostic`]).
//! - [`convert`] reads a folder in SREWorks' form as such a package.
//! - [`Engine::plan`] evaluates one instance: the same arguments give the same [`Plan`].
//! - [`Ledger`] is what was done and what is waited for; [`Ledger::record`] takes outcomes in, [`Ledger::inventory`] is the part of
//!   it that must survive the process.
//! - [`Engine::explain`] says what a rule stands on, and why it has no row.
//! - [`scenario`] runs a package's `tests.yaml` against a simulated world.
//!
//! Never here: tokio, a clock, randomness, the network, a Kubernetes client. [`load_dir`] and [`read_dir`] alone read files.

mod blocked;
mod classic;
mod compile;
mod controls;
mod decide;
mod diagnostic;
mod engine;
mod explain;
mod folder;
mod guard;
mod instance;
mod items;
mod ledger;
mod merge;
mod plan;
mod recall;
mod reference;
pub mod scenario;
mod schedule;
mod status;
mod template;
mod vocabulary;
mod yaml;

pub use classic::{classic_file, convert};
pub use compile::schema::{package_schema, tests_schema};
pub use compile::{Compiled, MetricSpec, Watch, load_dir, load_files};
pub use diagnostic::{Diagnostic, render};
pub use engine::Engine;
pub use explain::{Cause, Empty, Explanation, Reason, Relation, Source, Subject};
pub use folder::{Files, add as add_file, read_dir};
pub use ledger::Ledger;
pub use plan::{Plan, ProbeTarget, RowState, RowView, RuleView, Sample};
pub use reference::reference;

#[cfg(test)]
mod tests;
