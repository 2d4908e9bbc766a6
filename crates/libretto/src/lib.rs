//! Libretto's runtime and command line: the wiring between watching, deciding and acting.
//!
//! - [`runtime`] puts the parts together and stops them in order.
//! - [`watch`] and [`probes`] sense; [`drive`] is the loop *snapshot → decide → act → record*; [`queue`] says whose turn it is.
//! - [`installations`] has runtimes come and go as objects of the cluster say; [`process`] is what they share, [`share`] how instances
//!   are divided between them.
//! - [`alerts`] tells what goes on to an Alertmanager.
//! - [`rehearsal`] takes the place of *act* where nothing is to be done.
//! - [`charts`] renders what the engine asks for, beside it.
//! - [`cli`] is the `libretto` command.

pub mod alerts;
pub mod charts;
pub mod cli;
pub mod client;
pub mod clock;
pub mod drive;
pub mod install;
pub mod installations;
pub mod inventory;
pub mod metrics;
pub mod notice;
pub mod packages;
pub mod probes;
pub mod process;
pub mod queue;
pub mod rehearsal;
pub mod rights;
pub mod runtime;
pub mod secrets;
pub mod share;
pub mod watch;
