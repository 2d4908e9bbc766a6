//! Roles and bindings, read once, and the decisions that follow from them.

use std::{collections::HashMap, sync::Arc};

use serde_json::Value;

use super::{Attributes, GROUP, Rule, User};

/// What was decided and why; a refusal without a reason is the usual one.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Decision {
    pub(crate) allowed: bool,
    pub(crate) reason: String,
}

impl Decision {
    /// Allowed whatever the roles say.
    pub(crate) fn privileged() -> Self {
        Self {
            allowed: true,
            reason: String::new(),
        }
    }
}

/// All roles and bindings of a moment.
#[derive(Debug, Default)]
pub(crate) struct Policy {
    cluster_roles: HashMap<String, Vec<Rule>>,
    /// By namespace and name.
    roles: HashMap<String, HashMap<String, Vec<Rule>>>,
    cluster_bindings: Vec<Binding>,
    /// By namespace.
    bindings: HashMap<String, Vec<Binding>>,
}

#[derive(Debug)]
struct Binding {
    name: String,
    /// Empty for a ClusterRoleBinding.
    namespace: String,
    role_kind: String,
    role: String,
    subjects: Vec<Subject>,
}

#[derive(Debug)]
struct Subject {
    kind: String,
    name: String,
    namespace: String,
}

impl Policy {
    /// From stored objects, in the order the store has them: the first binding that allows is the reason that is told.
    pub(crate) fn new(
        roles: &[Arc<Value>],
        cluster_roles: &[Arc<Value>],
        bindings: &[Arc<Value>],
        cluster_bindings: &[Arc<Value>],
    ) -> Self {
        let mut policy = Self::default();
        for role in cluster_roles {
            policy
                .cluster_roles
                .insert(text(role, "name"), Rule::all_of(role));
        }
        for role in roles {
            policy
                .roles
                .entry(text(role, "namespace"))
                .or_default()
                .insert(text(role, "name"), Rule::all_of(role));
        }
        policy.cluster_bindings = cluster_bindings
            .iter()
            .map(|one| Binding::of(one, String::new()))
            .collect();
        for binding in bindings {
            let namespace = text(binding, "namespace");
            policy
                .bindings
                .entry(namespace.clone())
                .or_default()
                .push(Binding::of(binding, namespace));
        }
        policy
    }

    pub(crate) fn decide(&self, user: &User, attributes: &Attributes) -> Decision {
        let mut problems = Vec::new();
        for (binding, subject) in self.bindings_of(user, &attributes.namespace) {
            match self.role(&binding.role_kind, &binding.namespace, &binding.role) {
                Ok(rules) if rules.iter().any(|rule| rule.allows(attributes)) => {
                    return Decision {
                        allowed: true,
                        reason: format!("RBAC: allowed by {}", binding.describe(subject)),
                    };
                }
                Ok(_) => {}
                Err(problem) => problems.push(problem),
            }
        }
        Decision {
            allowed: false,
            reason: joined(problems).map_or_else(String::new, |text| format!("RBAC: {text}")),
        }
    }

    /// Every rule that is for a user in a namespace (with an empty one, in all of them), and what could not be found out.
    pub(crate) fn rules_of(&self, user: &User, namespace: &str) -> (Vec<&Rule>, Option<String>) {
        let mut found = Vec::new();
        let mut problems = Vec::new();
        for (binding, _) in self.bindings_of(user, namespace) {
            match self.role(&binding.role_kind, &binding.namespace, &binding.role) {
                Ok(rules) => found.extend(rules),
                Err(problem) => problems.push(problem),
            }
        }
        (found, joined(problems))
    }

    /// The rules a binding in `namespace` refers to.
    pub(crate) fn role(&self, kind: &str, namespace: &str, name: &str) -> Result<&[Rule], String> {
        let rules = match kind {
            "ClusterRole" => self.cluster_roles.get(name),
            "Role" => self.roles.get(namespace).and_then(|roles| roles.get(name)),
            other => return Err(format!("unsupported role reference kind: {other:?}")),
        };
        let missing = || format!("{}.{GROUP} {name:?} not found", kind.to_ascii_lowercase());
        rules.map(Vec::as_slice).ok_or_else(missing)
    }

    fn bindings_of<'a>(
        &'a self,
        user: &'a User,
        namespace: &str,
    ) -> impl Iterator<Item = (&'a Binding, &'a Subject)> {
        let local = self.bindings.get(namespace).into_iter().flatten();
        self.cluster_bindings
            .iter()
            .chain(local)
            .filter_map(|binding| Some((binding, binding.applies(user)?)))
    }
}

impl Binding {
    fn of(binding: &Value, namespace: String) -> Self {
        let own = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let subjects = binding["subjects"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|subject| {
                let named = own(&subject["namespace"]);
                Subject {
                    kind: own(&subject["kind"]),
                    name: own(&subject["name"]),
                    // An account without a namespace is one of the binding's.
                    namespace: if named.is_empty() {
                        namespace.clone()
                    } else {
                        named
                    },
                }
            })
            .collect();
        Self {
            name: text(binding, "name"),
            namespace,
            role_kind: own(&binding["roleRef"]["kind"]),
            role: own(&binding["roleRef"]["name"]),
            subjects,
        }
    }

    /// The first subject that is the user.
    fn applies(&self, user: &User) -> Option<&Subject> {
        self.subjects
            .iter()
            .find(|subject| match &subject.kind[..] {
                "User" => subject.name == user.name,
                "Group" => user.groups.contains(&subject.name),
                "ServiceAccount" => {
                    !subject.namespace.is_empty()
                        && user.is_service_account(&subject.namespace, &subject.name)
                }
                _ => false,
            })
    }

    fn describe(&self, subject: &Subject) -> String {
        let (kind, name) = if self.namespace.is_empty() {
            ("ClusterRoleBinding", self.name.clone())
        } else {
            ("RoleBinding", format!("{}/{}", self.name, self.namespace))
        };
        let who = if subject.kind == "ServiceAccount" {
            format!("{}/{}", subject.name, subject.namespace)
        } else {
            subject.name.clone()
        };
        format!(
            "{kind} {name:?} of {} {:?} to {} {who:?}",
            self.role_kind, self.role, subject.kind
        )
    }
}

fn text(object: &Value, field: &str) -> String {
    object["metadata"][field]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}

/// As Go shows several errors: each once.
fn joined(mut problems: Vec<String>) -> Option<String> {
    let mut seen = std::collections::HashSet::new();
    problems.retain(|problem| seen.insert(problem.clone()));
    match &problems[..] {
        [] => None,
        [one] => Some(one.clone()),
        many => Some(format!("[{}]", many.join(", "))),
    }
}
