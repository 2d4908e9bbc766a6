//! Who asks. Names and groups that mean something to Kubernetes.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::schema::names;

/// Its members may do everything, whatever the roles say.
pub(crate) const MASTERS: &str = "system:masters";
pub(crate) const ANONYMOUS: &str = "system:anonymous";
pub(crate) const AUTHENTICATED: &str = "system:authenticated";
pub(crate) const UNAUTHENTICATED: &str = "system:unauthenticated";
const SERVICE_ACCOUNT: &str = "system:serviceaccount:";
const SERVICE_ACCOUNTS: &str = "system:serviceaccounts";

/// An authenticated or impersonated caller.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct User {
    pub name: String,
    pub uid: String,
    pub groups: Vec<String>,
    pub extra: BTreeMap<String, Vec<String>>,
}

impl User {
    /// Name and groups of a service account, without what every user is in.
    pub(crate) fn service_account(namespace: &str, name: &str) -> Self {
        Self {
            name: format!("{SERVICE_ACCOUNT}{namespace}:{name}"),
            groups: vec![
                SERVICE_ACCOUNTS.to_owned(),
                format!("{SERVICE_ACCOUNTS}:{namespace}"),
            ],
            ..Self::default()
        }
    }

    /// Everybody is either one or the other; groups that were asked for by name are the last word.
    pub(crate) fn with_authentication(mut self) -> Self {
        let known = self.name != ANONYMOUS;
        let said = |groups: &[String], name: &str| groups.iter().any(|group| group == name);
        let settled =
            said(&self.groups, UNAUTHENTICATED) || (known && said(&self.groups, AUTHENTICATED));
        if !settled {
            let group = if known {
                AUTHENTICATED
            } else {
                UNAUTHENTICATED
            };
            self.groups.push(group.to_owned());
        }
        self
    }

    pub(crate) fn privileged(&self) -> bool {
        self.groups.iter().any(|group| group == MASTERS)
    }

    pub(super) fn is_service_account(&self, namespace: &str, name: &str) -> bool {
        self.name
            .strip_prefix(SERVICE_ACCOUNT)
            .and_then(|rest| rest.strip_prefix(namespace))
            .and_then(|rest| rest.strip_prefix(':'))
            == Some(name)
    }

    /// `authentication.k8s.io/v1 UserInfo`; what is empty is left out.
    pub(crate) fn info(&self) -> Value {
        let mut info = json!({"username": self.name});
        if !self.uid.is_empty() {
            info["uid"] = self.uid.as_str().into();
        }
        if !self.groups.is_empty() {
            info["groups"] = json!(self.groups);
        }
        if !self.extra.is_empty() {
            info["extra"] = json!(self.extra);
        }
        info
    }
}

/// Namespace and name in a service account's user name.
pub(crate) fn split_service_account(user: &str) -> Option<(&str, &str)> {
    let (namespace, name) = user.strip_prefix(SERVICE_ACCOUNT)?.split_once(':')?;
    let valid =
        names::dns1123_label(namespace).is_none() && names::dns1123_subdomain(name).is_none();
    valid.then_some((namespace, name))
}
