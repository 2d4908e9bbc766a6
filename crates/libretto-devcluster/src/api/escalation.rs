//! Nobody gives away rights they do not hold: what a user may write into roles, and bind.

use serde_json::Value;

use super::{Api, metadata};
use crate::{
    error::ApiError,
    rbac::{Attributes, GROUP, Rule, User, compact, forbidden, quoted, uncovered},
    registry::Resource,
};

/// A role or binding on its way into the store.
#[derive(Debug)]
pub(super) struct Change<'a> {
    pub(super) user: &'a User,
    pub(super) resource: &'a Resource,
    /// Empty for resources without.
    pub(super) namespace: &'a str,
    /// As the path has it: nothing when the object is posted.
    pub(super) name: &'a str,
    pub(super) object: &'a Value,
    pub(super) old: Option<&'a Value>,
}

impl Change<'_> {
    /// Refuses more rights than the user has. Everything but roles and bindings passes.
    pub(super) fn check(&self, api: &Api) -> Result<(), ApiError> {
        if self.resource.group != GROUP || self.user.privileged() {
            return Ok(());
        }
        match self.resource.plural.as_str() {
            "roles" | "clusterroles" => self.role(api),
            "rolebindings" | "clusterrolebindings" => self.binding(api),
            _ => Ok(()),
        }
    }

    fn role(&self, api: &Api) -> Result<(), ApiError> {
        if self.may(api, "escalate", &self.resource.plural, self.name) || self.collected_only() {
            return Ok(());
        }
        self.hold(api, &Rule::all_of(self.object))?;
        // It can gather anything.
        let gathers = |role: &Value| {
            role["aggregationRule"]["clusterRoleSelectors"]
                .as_array()
                .is_some_and(|selectors| !selectors.is_empty())
        };
        if !gathers(self.object) && !self.old.is_some_and(gathers) {
            return Ok(());
        }
        let all = vec!["*".to_owned()];
        let everything = [
            Rule {
                verbs: all.clone(),
                api_groups: all.clone(),
                resources: all.clone(),
                ..Rule::default()
            },
            Rule {
                verbs: all.clone(),
                non_resource_urls: all,
                ..Rule::default()
            },
        ];
        self.hold(api, &everything).map_err(|_| {
            self.refusal("must have cluster-admin privileges to use the aggregationRule")
        })
    }

    fn binding(&self, api: &Api) -> Result<(), ApiError> {
        let of = |field: &str| self.object["roleRef"][field].as_str().unwrap_or_default();
        let (kind, name) = (of("kind"), of("name"));
        let plural = match kind {
            "ClusterRole" => "clusterroles",
            "Role" => "roles",
            // Validation refuses it in its own words.
            _ => return Ok(()),
        };
        if self.collected_only() || self.may(api, "bind", plural, name) {
            return Ok(());
        }
        let policy = api.policy();
        let rules = policy
            .role(kind, self.namespace, name)
            .map_err(|_| ApiError::not_found_in(GROUP, plural, name))?;
        self.hold(api, rules)
    }

    fn may(&self, api: &Api, verb: &str, resource: &str, name: &str) -> bool {
        let attributes = Attributes {
            verb: verb.to_owned(),
            group: GROUP.to_owned(),
            resource: resource.to_owned(),
            namespace: self.namespace.to_owned(),
            name: name.to_owned(),
            ..Attributes::default()
        };
        api.decide(self.user, &attributes).allowed
    }

    /// The user must have every one of the rules.
    fn hold(&self, api: &Api, rules: &[Rule]) -> Result<(), ApiError> {
        let policy = api.policy();
        let (own, problems) = policy.rules_of(self.user, self.namespace);
        let missing = uncovered(&own, rules);
        if missing.is_empty() {
            return Ok(());
        }
        let mut lines: Vec<String> = compact(missing).iter().map(ToString::to_string).collect();
        lines.sort();
        lines.dedup();
        let mut why = format!(
            "user {:?} (groups={}) is attempting to grant RBAC permissions not currently held:\n{}",
            self.user.name,
            quoted(&self.user.groups),
            lines.join("\n")
        );
        if let Some(problems) = problems {
            why = format!("{why}; resolution errors: [{problems}]");
        }
        Err(self.refusal(&why))
    }

    fn refusal(&self, why: &str) -> ApiError {
        let name = metadata::text(self.object, "name");
        forbidden(GROUP, &self.resource.plural, name, why)
    }

    /// Whether nothing changes but what the garbage collector must be able to change.
    fn collected_only(&self) -> bool {
        let Some(old) = self.old else { return false };
        let rest = |object: &Value| {
            let mut object = object.clone();
            if let Some(fields) = object["metadata"].as_object_mut() {
                fields.retain(|field, _| {
                    !matches!(
                        field.as_str(),
                        "ownerReferences" | "finalizers" | "managedFields"
                    )
                });
            }
            object
        };
        rest(self.object) == rest(old)
    }
}
