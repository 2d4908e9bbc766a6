//! ClusterRoles with an `aggregationRule` get the rules of those their selectors find, before a write of any of them is answered.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{Api, Gvr, Patch, Subresource, WriteOptions, access::objects, metadata};
use crate::{
    rbac::{GROUP, Rule},
    registry::{Resource, table},
    selector::LabelSelector,
};

const CLUSTER_ROLES: Gvr = Gvr::new(GROUP, "v1", "clusterroles");
/// Upstream's controller.
const MANAGER: &str = "clusterrole-aggregation-controller";

impl Api {
    /// Follows a write or removal of a role; to be called without the write lock.
    pub(super) fn aggregate_roles(&self, changed: &Resource) {
        let table = table(&CLUSTER_ROLES.group, &CLUSTER_ROLES.resource);
        if changed.table != table {
            return;
        }
        // One aggregated role can be part of another: in the worst order each round settles one. Roles that are part of each other
        // settle as well, and where they would not this ends.
        let mut rounds = objects(&self.0.store, &table).len() + 1;
        while rounds > 0 && self.aggregate_once(&table) {
            rounds -= 1;
        }
    }

    /// Whether anything was to do.
    fn aggregate_once(&self, table: &str) -> bool {
        let mut roles = objects(&self.0.store, table);
        let mut changed = false;
        for role in &roles.clone() {
            let Some(rules) = aggregated(role, &roles) else {
                continue;
            };
            if rules == Rule::all_of(role) {
                continue;
            }
            let name = metadata::text(role, "name");
            let rules: Vec<Value> = rules.iter().map(Rule::to_value).collect();
            let configuration = json!({
                "apiVersion": format!("{GROUP}/v1"), "kind": "ClusterRole",
                "metadata": {"name": name}, "rules": rules,
            });
            let options = WriteOptions {
                field_manager: MANAGER.to_owned(),
                force: true,
                ..WriteOptions::default()
            };
            match self.patch_locked(
                &CLUSTER_ROLES,
                "",
                name,
                Subresource::None,
                Patch::Apply(configuration),
                &options,
            ) {
                // The next role sees it: seen late, roles that are part of each other would trade rules for ever.
                Ok(_) => {
                    changed = true;
                    roles = objects(&self.0.store, table);
                }
                Err(error) => tracing::warn!(name, %error, "cannot aggregate a ClusterRole"),
            }
        }
        changed
    }
}

/// The rules an aggregated role must have; `None` for others and when a selector cannot be read. `all` is in the order of names.
fn aggregated(role: &Value, all: &[Arc<Value>]) -> Option<Vec<Rule>> {
    let rule = role
        .get("aggregationRule")
        .filter(|rule| rule.is_object())?;
    let own = metadata::text(role, "name");
    let mut rules: Vec<Rule> = Vec::new();
    for selector in rule["clusterRoleSelectors"]
        .as_array()
        .into_iter()
        .flatten()
    {
        let selector = LabelSelector::from_object(selector).ok()?;
        for other in all {
            if metadata::text(other, "name") == own || !selector.matches(other) {
                continue;
            }
            for rule in Rule::all_of(other) {
                if !rules.contains(&rule) {
                    rules.push(rule);
                }
            }
        }
    }
    Some(rules)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::api::DeleteOptions;

    fn role(name: &str, label: &str, gathers: &str, resources: &[&str]) -> Value {
        let mut role = json!({"metadata": {"name": name, "labels": {label: "true"}}});
        if !gathers.is_empty() {
            role["aggregationRule"] =
                json!({"clusterRoleSelectors": [{"matchLabels": {gathers: "true"}}]});
        }
        if !resources.is_empty() {
            role["rules"] = json!([{"apiGroups": [""], "resources": resources, "verbs": ["get"]}]);
        }
        role
    }

    fn resources(api: &Api, name: &str) -> Vec<String> {
        let role = api.get(&CLUSTER_ROLES, "", name).unwrap();
        Rule::all_of(&role)
            .into_iter()
            .flat_map(|rule| rule.resources)
            .collect()
    }

    #[test]
    fn roles_gather_and_lose_the_rules_of_others() {
        let api = Api::in_memory();
        let create = |role: Value| {
            api.create(&CLUSTER_ROLES, "", role, &WriteOptions::default())
                .unwrap()
        };
        create(role("top", "none", "to-top", &[]));
        create(role("middle", "to-top", "to-middle", &[]));
        create(role("b", "to-middle", "", &["pods"]));
        create(role("a", "to-middle", "", &["nodes"]));
        create(role("other", "to-other", "", &["secrets"]));
        assert_eq!(resources(&api, "middle"), ["nodes", "pods"]);
        assert_eq!(resources(&api, "top"), ["nodes", "pods"]);
        api.delete(&CLUSTER_ROLES, "", "b", &DeleteOptions::default())
            .unwrap();
        assert_eq!(resources(&api, "top"), ["nodes"]);
        let managers = api.get(&CLUSTER_ROLES, "", "top").unwrap()["metadata"]["managedFields"]
            .as_array()
            .unwrap()
            .iter()
            .any(|entry| entry["manager"] == MANAGER && entry["operation"] == "Apply");
        assert!(managers);
        // Whoever writes rules into such a role is overruled.
        api.patch(
            &CLUSTER_ROLES,
            "",
            "top",
            Subresource::None,
            Patch::Merge(json!({"rules": []})),
            &WriteOptions::default(),
        )
        .unwrap();
        assert_eq!(resources(&api, "top"), ["nodes"]);
    }

    #[test]
    fn roles_that_are_part_of_each_other_come_to_rest() {
        let api = Api::in_memory();
        for role in [
            role("x", "to-y", "to-x", &["pods"]),
            role("y", "to-x", "to-y", &["nodes"]),
            role("z", "to-x", "", &["secrets"]),
        ] {
            api.create(&CLUSTER_ROLES, "", role, &WriteOptions::default())
                .unwrap();
        }
        assert!(resources(&api, "y").contains(&"secrets".to_owned()));
        let revision = api.revision();
        api.aggregate_roles(&api.registry().find(GROUP, "clusterroles").unwrap());
        assert_eq!(api.revision(), revision);
    }
}
