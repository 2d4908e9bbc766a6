//! Workload controllers: what a kube-controller-manager and a scheduler do, as far as packages need it.

use crate::api::Api;

/// Starts every controller; they stop when the returned guard is dropped.
pub fn start(_api: Api) -> Controllers {
    todo!()
}

/// Running controllers.
#[derive(Debug)]
pub struct Controllers {}
