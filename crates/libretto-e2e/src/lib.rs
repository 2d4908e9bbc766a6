//! Scenarios with real software: a Libretto of their own, a real API, real Redis processes in its pods. The same scenarios run on an
//! embedded cluster and on a real Kubernetes.
//!
//! - [`audit`] reads what an operator asked of a real API server.
//! - [`cluster`] is where a scenario runs; it starts, kills and restarts the program under test.
//! - [`likeness`] compares the embedded cluster with Kubernetes, answer by answer.
//! - [`pods`] runs commands in pods and kills their processes from outside.
//! - [`presto`] knows what a Presto says, and asks it queries.
//! - [`redis`] knows what a healthy RedisCluster must look like, seen from clients.
//! - [`wait`] waits for conditions; nothing here sleeps for a fixed time.

pub mod audit;
pub mod cluster;
mod embedded;
mod kubernetes;
pub mod likeness;
pub mod pods;
pub mod presto;
pub mod redis;
pub mod wait;

/// Why a scenario failed, in words.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Result of a step of a scenario.
pub type Step<T = ()> = Result<T, Failure>;
