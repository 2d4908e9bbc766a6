//! Whether a user may do something, as of the roles and bindings that are stored now.

use std::sync::Arc;

use parking_lot::Mutex;
use serde_json::Value;

use super::Api;
use crate::{
    error::ApiError,
    rbac::{Attributes, Decision, GROUP, Policy, User},
    registry::table,
    store::Store,
};

/// What decisions are made of.
const KINDS: [&str; 4] = [
    "roles",
    "clusterroles",
    "rolebindings",
    "clusterrolebindings",
];

/// The policy and the last change of each kind it was made from. Objects are in memory anyway; what is spared is taking all of them
/// apart for every request.
#[derive(Debug, Default)]
pub(super) struct Cache(Mutex<Option<([u64; 4], Arc<Policy>)>>);

impl Cache {
    fn policy(&self, store: &Store) -> Arc<Policy> {
        let tables = KINDS.map(|kind| table(GROUP, kind));
        // Read before the objects: a change in between makes the next caller read again.
        let now = tables.each_ref().map(|table| store.last_change(table));
        let mut cached = self.0.lock();
        if let Some((then, policy)) = &*cached
            && *then == now
        {
            return policy.clone();
        }
        let [roles, cluster_roles, bindings, cluster_bindings] =
            tables.map(|table| objects(store, &table));
        let policy = Arc::new(Policy::new(
            &roles,
            &cluster_roles,
            &bindings,
            &cluster_bindings,
        ));
        *cached = Some((now, policy.clone()));
        policy
    }
}

impl Api {
    /// Roles and bindings as of now.
    pub(crate) fn policy(&self) -> Arc<Policy> {
        self.0.access.policy(&self.0.store)
    }

    pub(crate) fn decide(&self, user: &User, attributes: &Attributes) -> Decision {
        if user.privileged() {
            return Decision::privileged();
        }
        self.policy().decide(user, attributes)
    }

    /// As `decide`, with the refusal as an error.
    pub(crate) fn authorize(&self, user: &User, attributes: &Attributes) -> Result<(), ApiError> {
        let decision = self.decide(user, attributes);
        if decision.allowed {
            Ok(())
        } else {
            Err(attributes.refusal(user, &decision.reason))
        }
    }
}

/// All objects of a table, by namespace and name.
pub(super) fn objects(store: &Store, table: &str) -> Vec<Arc<Value>> {
    store
        .list(table, None, None)
        .map(|snapshot| snapshot.items.into_iter().map(|(_, item)| item).collect())
        .unwrap_or_default()
}
