//! The ClusterRoles every cluster starts with, and their bindings. At each start what somebody took out of them is put back, unless
//! they said otherwise by annotation; what was added stays.

use serde_json::{Value, json};

use super::{Api, Gvr, Subresource, WriteOptions};
use crate::rbac::{GROUP, Rule, uncovered};

const TABLE: &str = include_str!("bootstrap.yaml");
const CLUSTER_ROLES: Gvr = Gvr::new(GROUP, "v1", "clusterroles");
const CLUSTER_ROLE_BINDINGS: Gvr = Gvr::new(GROUP, "v1", "clusterrolebindings");
/// `false` keeps the server from mending an object.
const UPDATED: &str = "rbac.authorization.kubernetes.io/autoupdate";
/// As upstream, where the server makes them too.
const MANAGER: &str = "kube-apiserver";

impl Api {
    /// Makes what is missing and completes what is there; a second call writes nothing.
    pub(crate) fn ensure_roles(&self) {
        let (roles, bindings) = expected();
        for role in roles {
            self.ensure_complete(&CLUSTER_ROLES, role, completed_role);
        }
        for binding in bindings {
            self.ensure_complete(&CLUSTER_ROLE_BINDINGS, binding, completed_binding);
        }
    }

    fn ensure_complete(
        &self,
        gvr: &Gvr,
        expected: Value,
        completed: fn(&Value, &Value) -> Option<Value>,
    ) {
        let options = WriteOptions {
            field_manager: MANAGER.to_owned(),
            ..WriteOptions::default()
        };
        let name = expected["metadata"]["name"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        let done = match self.get(gvr, "", &name) {
            Err(_) => self.create(gvr, "", expected, &options).map(drop),
            Ok(found) => match completed(&found, &expected) {
                None => Ok(()),
                // What a binding binds cannot be changed.
                Some(wanted) if wanted["roleRef"] != found["roleRef"] => self
                    .delete(gvr, "", &name, &super::DeleteOptions::default())
                    .and_then(|_| self.create(gvr, "", expected, &options))
                    .map(drop),
                Some(wanted) => self
                    .update(gvr, "", &name, Subresource::None, wanted, &options)
                    .map(drop),
            },
        };
        if let Err(error) = done {
            tracing::error!(resource = %gvr.resource, name, %error, "cannot write an initial role or binding");
        }
    }
}

/// Roles and bindings of the table.
fn expected() -> (Vec<Value>, Vec<Value>) {
    let table: Value = serde_saphyr::from_str(TABLE).expect("built in, and read by a test");
    let list = |name: &str| table[name].as_array().into_iter().flatten();
    let object = |kind: &str, name: &Value| {
        json!({
            "apiVersion": format!("{GROUP}/v1"), "kind": kind,
            "metadata": {
                "name": name,
                "labels": {"kubernetes.io/bootstrapping": "rbac-defaults"},
                "annotations": {UPDATED: "true"},
            },
        })
    };
    let roles = list("roles").map(|entry| {
        let mut role = object("ClusterRole", &entry["name"]);
        if let Some(label) = entry["label"].as_str() {
            role["metadata"]["labels"][label] = "true".into();
        }
        if let Some(label) = entry["gathers"].as_str() {
            role["aggregationRule"] =
                json!({"clusterRoleSelectors": [{"matchLabels": {label: "true"}}]});
        } else {
            role["rules"] = entry["rules"].clone();
        }
        role
    });
    let bindings = list("bindings").map(|entry| {
        let mut binding = object("ClusterRoleBinding", &entry["name"]);
        binding["roleRef"] =
            json!({"apiGroup": GROUP, "kind": "ClusterRole", "name": entry["name"]});
        binding["subjects"] = entry["groups"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|group| json!({"apiGroup": GROUP, "kind": "Group", "name": group}))
            .collect();
        binding
    });
    (roles.collect(), bindings.collect())
}

/// `found` with the labels, annotations and rules it lacks; `None` when it lacks nothing or wants to stay as it is.
fn completed_role(found: &Value, expected: &Value) -> Option<Value> {
    let mut role = with_metadata(found, expected)?;
    let missing = uncovered(&Rule::all_of(found), &Rule::all_of(expected));
    append(
        &mut role,
        "rules",
        missing.iter().map(Rule::to_value).collect(),
    );
    match expected.get("aggregationRule") {
        None => {
            if let Some(fields) = role.as_object_mut() {
                fields.remove("aggregationRule");
            }
        }
        Some(rule) => {
            const SELECTORS: &str = "clusterRoleSelectors";
            let missing = absent(&role["aggregationRule"][SELECTORS], &rule[SELECTORS]);
            if !missing.is_empty() {
                append(&mut role["aggregationRule"], SELECTORS, missing);
            }
        }
    }
    (role != *found).then_some(role)
}

/// As `completed_role`, with subjects; a binding to another role becomes what is expected.
fn completed_binding(found: &Value, expected: &Value) -> Option<Value> {
    let mut binding = with_metadata(found, expected)?;
    if binding["roleRef"] != expected["roleRef"] {
        return Some(expected.clone());
    }
    let missing = absent(&binding["subjects"], &expected["subjects"]);
    append(&mut binding, "subjects", missing);
    (binding != *found).then_some(binding)
}

fn with_metadata(found: &Value, expected: &Value) -> Option<Value> {
    if found["metadata"]["annotations"][UPDATED] == "false" {
        return None;
    }
    let mut object = found.clone();
    for map in ["labels", "annotations"] {
        for (key, value) in expected["metadata"][map].as_object().into_iter().flatten() {
            let own = &mut object["metadata"][map];
            if own.get(key).is_none() {
                own[key] = value.clone();
            }
        }
    }
    Some(object)
}

fn absent(found: &Value, expected: &Value) -> Vec<Value> {
    let items = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let found = items(found);
    items(expected)
        .into_iter()
        .filter(|one| !found.contains(one))
        .collect()
}

fn append(object: &mut Value, field: &str, more: Vec<Value>) {
    if more.is_empty() {
        return;
    }
    match object[field].as_array_mut() {
        Some(items) => items.extend(more),
        None => object[field] = more.into(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::api::{ListOptions, Patch};

    fn rules(api: &Api, name: &str) -> Vec<Rule> {
        Rule::all_of(&api.get(&CLUSTER_ROLES, "", name).unwrap())
    }

    #[test]
    fn a_new_cluster_has_the_roles_and_nothing_is_written_twice() {
        let api = Api::in_memory();
        api.ensure_roles();
        let count = |gvr: &Gvr| {
            api.list(gvr, None, &ListOptions::default())
                .unwrap()
                .items
                .len()
        };
        assert_eq!(
            (count(&CLUSTER_ROLES), count(&CLUSTER_ROLE_BINDINGS)),
            (12, 5)
        );
        // The roles of users hold those of lesser ones.
        let (view, edit, admin) = (
            rules(&api, "view"),
            rules(&api, "edit"),
            rules(&api, "admin"),
        );
        assert_eq!((view.len(), edit.len(), admin.len()), (12, 27, 29));
        assert!(uncovered(&edit, &view).is_empty());
        assert!(uncovered(&admin, &edit).is_empty());
        let revision = api.revision();
        api.ensure_roles();
        assert_eq!(api.revision(), revision);
    }

    #[test]
    fn what_is_taken_out_comes_back_unless_it_shall_not() {
        let api = Api::in_memory();
        api.ensure_roles();
        let change = |gvr: &Gvr, name: &str, change: Value| {
            api.patch(
                gvr,
                "",
                name,
                Subresource::None,
                Patch::Merge(change),
                &WriteOptions::default(),
            )
            .unwrap();
        };
        let own = json!({"apiGroups": ["x"], "resources": ["y"], "verbs": ["get"]});
        change(&CLUSTER_ROLES, "system:basic-user", json!({"rules": [own]}));
        change(
            &CLUSTER_ROLES,
            "system:discovery",
            json!({"rules": [], "metadata": {"annotations": {UPDATED: "false"}}}),
        );
        change(
            &CLUSTER_ROLE_BINDINGS,
            "system:basic-user",
            json!({"subjects": []}),
        );
        api.delete(
            &CLUSTER_ROLES,
            "",
            "view",
            &crate::api::DeleteOptions::default(),
        )
        .unwrap();
        api.ensure_roles();
        assert_eq!(rules(&api, "system:basic-user").len(), 4);
        assert_eq!(rules(&api, "system:basic-user")[0], Rule::of(&own));
        assert!(rules(&api, "system:discovery").is_empty());
        assert_eq!(rules(&api, "view").len(), 12);
        let binding = api
            .get(&CLUSTER_ROLE_BINDINGS, "", "system:basic-user")
            .unwrap();
        assert_eq!(binding["subjects"][0]["name"], "system:authenticated");
    }

    #[test]
    fn a_binding_to_another_role_is_made_anew() {
        let api = Api::in_memory();
        let other = json!({
            "metadata": {"name": "system:discovery"},
            "roleRef": {"apiGroup": GROUP, "kind": "ClusterRole", "name": "cluster-admin"},
            "subjects": [{"apiGroup": GROUP, "kind": "User", "name": "u"}],
        });
        api.create(&CLUSTER_ROLE_BINDINGS, "", other, &WriteOptions::default())
            .unwrap();
        api.ensure_roles();
        let binding = api
            .get(&CLUSTER_ROLE_BINDINGS, "", "system:discovery")
            .unwrap();
        assert_eq!(binding["roleRef"]["name"], "system:discovery");
        assert_eq!(binding["subjects"].as_array().unwrap().len(), 1);
    }
}
