//! Who may do what: Kubernetes' role-based access control as a function of roles and bindings. Pure; `api` reads them and asks.

mod attributes;
mod policy;
mod rules;
#[cfg(test)]
mod tests;
mod user;

pub use self::user::User;
pub(crate) use self::{
    attributes::{Attributes, forbidden},
    policy::{Decision, Policy},
    rules::{Rule, compact, quoted, uncovered},
    user::{MASTERS, split_service_account},
};

/// The API group of roles and bindings.
pub(crate) const GROUP: &str = "rbac.authorization.k8s.io";
