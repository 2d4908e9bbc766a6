//! What a request wants to do, and how it is refused.

use serde_json::json;

use super::User;
use crate::{error::ApiError, registry::qualified};

/// A verb on a resource or, where `path` is given, on a path that is none.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Attributes {
    pub(crate) verb: String,
    pub(crate) group: String,
    pub(crate) resource: String,
    pub(crate) subresource: String,
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) path: Option<String>,
}

impl Attributes {
    /// `pods/log`, or just `pods`.
    pub(super) fn combined(&self) -> String {
        if self.subresource.is_empty() {
            self.resource.clone()
        } else {
            format!("{}/{}", self.resource, self.subresource)
        }
    }

    /// Upstream's refusal, word for word.
    pub(crate) fn refusal(&self, user: &User, reason: &str) -> ApiError {
        let (who, verb) = (&user.name, &self.verb);
        let what = match &self.path {
            Some(path) => format!("User {who:?} cannot {verb} path {path:?}"),
            None => {
                let scope = if self.namespace.is_empty() {
                    "at the cluster scope".to_owned()
                } else {
                    format!("in the namespace {:?}", self.namespace)
                };
                format!(
                    "User {who:?} cannot {verb} resource {:?} in API group {:?} {scope}",
                    self.combined(),
                    self.group
                )
            }
        };
        // No browser may take an answer for a page.
        let mut what = what
            .replace('&', "&amp;")
            .replace('<', "&lt;")
            .replace('>', "&gt;");
        if !reason.is_empty() {
            what = format!("{what}: {reason}");
        }
        forbidden(&self.group, &self.resource, &self.name, &what)
    }
}

/// `pods "p" is forbidden: …`, with the same in the details.
pub(crate) fn forbidden(group: &str, resource: &str, name: &str, why: &str) -> ApiError {
    let subject = match (qualified(group, resource), name) {
        (subject, "") if subject.is_empty() => String::new(),
        (subject, "") => format!("{subject} is "),
        (subject, name) => format!("{subject} {name:?} is "),
    };
    let mut error = ApiError::forbidden(format!("{subject}forbidden: {why}"));
    error.details = json!({});
    for (field, value) in [("name", name), ("group", group), ("kind", resource)] {
        if !value.is_empty() {
            error.details[field] = value.into();
        }
    }
    error
}
