//! The likeness suite: the same requests to the embedded cluster and to Kubernetes, whose answers must be equal.
//!
//! Cases are data, in `tests/likeness/*.yaml`. What Kubernetes answered is recorded beside them, so that the comparison needs no
//! Kubernetes; with one at hand the recording itself is compared, or written anew.
//!
//! - [`case`] is what a case file can say.
//! - [`place`] is one of the two clusters, with the namespaces that cases get in it.
//! - [`run`] sends the steps of a case and returns normalised answers; [`kubectl`] does so for commands.
//! - [`normalise`] removes what differs between any two clusters: names given at random, times, addresses.
//! - [`compare`] tells answers apart and knows the differences a case lists.
//! - [`recording`] reads and writes what Kubernetes answered.
//! - [`path`] names places in JSON documents.

pub mod case;
pub mod compare;
pub mod kubectl;
pub mod normalise;
pub mod path;
pub mod place;
pub mod recording;
pub mod run;
