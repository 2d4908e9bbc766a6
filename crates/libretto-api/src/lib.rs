//! The words every part of Libretto shares, and nothing that acts.
//!
//! - [`package`] is the file format of an operator: what an author writes.
//! - [`intent`] is what the engine wants done and what came of it: the only bridge from deciding to acting.
//! - [`chart`] is what a Helm chart is rendered with, and who renders it.
//! - [`installation`] is how packages and their places are objects of the cluster.
//! - [`object`] names Kubernetes objects and instances.
//! - [`secret`] is how a secret value is spoken about without ever being held.
//! - [`reason`] holds the condition types and reasons the runtime itself writes.
//!
//! Never here: I/O, clocks, randomness, a Kubernetes client, SQLite.

pub mod chart;
pub mod installation;
pub mod intent;
pub mod object;
pub mod package;
pub mod reason;
pub mod secret;
