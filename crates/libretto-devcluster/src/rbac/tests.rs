//! Tables of rules, bindings and requests, and what upstream decides and says about them.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use serde_json::{Value, json};

use super::*;

/// `verb group/resource/subresource namespace name`, with `-` for nothing, or `verb /path`.
fn attributes(text: &str) -> Attributes {
    let words: Vec<&str> = text.split(' ').collect();
    let verb = words[0].to_owned();
    if words[1].starts_with('/') {
        return Attributes {
            verb,
            path: Some(words[1].to_owned()),
            ..Attributes::default()
        };
    }
    let word = |index: usize| match words.get(index) {
        None | Some(&"-") => String::new(),
        Some(word) => (*word).to_owned(),
    };
    let mut parts = words[1].split('/');
    let mut part = || match parts.next() {
        None | Some("-") => String::new(),
        Some(part) => part.to_owned(),
    };
    Attributes {
        verb,
        group: part(),
        resource: part(),
        subresource: part(),
        namespace: word(2),
        name: word(3),
        path: None,
    }
}

fn user(name: &str, groups: &[&str]) -> User {
    User {
        name: name.to_owned(),
        groups: groups.iter().map(|&group| group.to_owned()).collect(),
        ..User::default()
    }
}

fn rule(verbs: &[&str], groups: &[&str], resources: &[&str], names: &[&str]) -> Rule {
    Rule::of(
        &json!({"verbs": verbs, "apiGroups": groups, "resources": resources, "resourceNames": names}),
    )
}

fn paths(verbs: &[&str], urls: &[&str]) -> Rule {
    Rule::of(&json!({"verbs": verbs, "nonResourceURLs": urls}))
}

#[test]
fn rules_allow_what_they_name() {
    let everything = rule(&["*"], &["*"], &["*"], &[]);
    let pods = rule(&["get", "list"], &[""], &["pods"], &[]);
    let named = rule(&["get", "update"], &[""], &["configmaps"], &["a", "b"]);
    let scales = rule(&["update"], &["apps"], &["*/scale"], &[]);
    let exec = rule(&["create"], &[""], &["pods/exec"], &[]);
    let within = rule(&["get"], &[""], &["pods/*"], &[]);
    let group = rule(&["get"], &["*"], &["deployments"], &[]);
    let resources = rule(&["get"], &["apps"], &["*"], &[]);
    let one = paths(&["get"], &["/metrics"]);
    let below = paths(&["get"], &["/apis/*", "/healthz*"]);
    let all = paths(&["*"], &["*"]);
    let empty = Rule::default();
    for (rule, request, expected) in [
        (&everything, "delete apps/deployments n d", true),
        (&everything, "create -/pods/exec n p", true),
        (&everything, "invented x.io/things - -", true),
        (&everything, "get /metrics", false),
        (&pods, "get -/pods n p", true),
        (&pods, "list -/pods n", true),
        (&pods, "list -/pods - -", true),
        (&pods, "watch -/pods n", false),
        (&pods, "get -/pods/log n p", false),
        (&pods, "get -/pods/status n p", false),
        (&pods, "get apps/pods n p", false),
        (&pods, "get -/services n p", false),
        (&pods, "get /pods", false),
        (&pods, "* -/pods n", false),
        (&named, "get -/configmaps n a", true),
        (&named, "update -/configmaps n b", true),
        (&named, "get -/configmaps n c", false),
        // Lists and creations have no name, so a rule for names does not allow them.
        (&named, "get -/configmaps n -", false),
        (&scales, "update apps/deployments/scale n d", true),
        (&scales, "update apps/deployments n d", false),
        (&scales, "update apps/deployments/status n d", false),
        (&scales, "update apps/deployments/xscale n d", false),
        (&scales, "update -/replicationcontrollers/scale n r", false),
        (&exec, "create -/pods/exec n p", true),
        (&exec, "get -/pods/exec n p", false),
        (&exec, "create -/pods n p", false),
        // Only whole resources and all resources can be left open.
        (&within, "get -/pods/log n p", false),
        (&within, "get -/pods n p", false),
        (&group, "get apps/deployments n d", true),
        (&group, "get -/deployments n d", true),
        (&resources, "get apps/deployments/scale n d", true),
        (&resources, "get batch/jobs n d", false),
        (&one, "get /metrics", true),
        (&one, "get /metrics/slis", false),
        (&one, "post /metrics", false),
        (&one, "get -/metrics", false),
        (&below, "get /apis/apps/v1", true),
        (&below, "get /apis/", true),
        (&below, "get /apis", false),
        (&below, "get /healthz", true),
        (&below, "get /healthz/etcd", true),
        (&all, "put /anything", true),
        (&all, "get -/pods", false),
        (&empty, "get -/pods", false),
        (&empty, "get /metrics", false),
    ] {
        assert_eq!(
            rule.allows(&attributes(request)),
            expected,
            "{rule}: {request}"
        );
    }
}

#[test]
fn a_name_that_is_no_text_opens_nothing() {
    let odd = Rule::of(
        &json!({"verbs": ["get"], "apiGroups": [""], "resources": ["pods"], "resourceNames": [null]}),
    );
    assert!(!odd.allows(&attributes("get -/pods n p")));
}

#[test]
fn rules_cover_smaller_ones() {
    let everything = [rule(&["*"], &["*"], &["*"], &[]), paths(&["*"], &["*"])];
    let reader = [rule(
        &["get", "list"],
        &["", "apps"],
        &["pods", "pods/log"],
        &[],
    )];
    let named = [rule(&["get"], &[""], &["pods"], &["a", "b"])];
    let scales = [rule(&["get"], &["*"], &["*/scale"], &[])];
    let split = [
        rule(&["get"], &[""], &["pods"], &[]),
        rule(&["list"], &[""], &["pods"], &[]),
    ];
    let below = [paths(&["get"], &["/apis/*"])];
    for (owned, wanted, missing) in [
        (&everything[..], rule(&["*"], &["*"], &["*"], &[]), vec![]),
        (&everything, paths(&["get"], &["/x"]), vec![]),
        (
            &everything,
            rule(&["invented"], &["x"], &["y/z"], &["n"]),
            vec![],
        ),
        (&reader, rule(&["get"], &[""], &["pods"], &[]), vec![]),
        (&reader, rule(&["get"], &[""], &["pods"], &["a"]), vec![]),
        (
            &reader,
            rule(&["list", "get"], &["apps", ""], &["pods/log", "pods"], &[]),
            vec![],
        ),
        (
            &reader,
            rule(&["*"], &[""], &["pods"], &[]),
            vec![r#"{APIGroups:[""], Resources:["pods"], Verbs:["*"]}"#],
        ),
        (
            &reader,
            rule(&["get", "watch"], &[""], &["pods", "secrets"], &[]),
            vec![
                r#"{APIGroups:[""], Resources:["pods"], Verbs:["watch"]}"#,
                r#"{APIGroups:[""], Resources:["secrets"], Verbs:["get" "watch"]}"#,
            ],
        ),
        (&named, rule(&["get"], &[""], &["pods"], &["b"]), vec![]),
        (
            &named,
            rule(&["get"], &[""], &["pods"], &[]),
            vec![r#"{APIGroups:[""], Resources:["pods"], Verbs:["get"]}"#],
        ),
        (
            &named,
            rule(&["get"], &[""], &["pods"], &["b", "c"]),
            vec![r#"{APIGroups:[""], Resources:["pods"], ResourceNames:["c"], Verbs:["get"]}"#],
        ),
        (
            &scales,
            rule(&["get"], &["apps"], &["deployments/scale"], &[]),
            vec![],
        ),
        (
            &scales,
            rule(&["get"], &["apps"], &["deployments"], &[]),
            vec![r#"{APIGroups:["apps"], Resources:["deployments"], Verbs:["get"]}"#],
        ),
        (
            &split,
            rule(&["get", "list"], &[""], &["pods"], &[]),
            vec![],
        ),
        (&below, paths(&["get"], &["/apis/apps", "/apis/*"]), vec![]),
        (
            &below,
            paths(&["get", "post"], &["/apis/apps"]),
            vec![r#"{NonResourceURLs:["/apis/apps"], Verbs:["post"]}"#],
        ),
        (&[], Rule::default(), vec![]),
    ] {
        let lines: Vec<String> = compact(uncovered(owned, std::slice::from_ref(&wanted)))
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(lines, missing, "{wanted}");
    }
}

fn role(namespace: &str, name: &str, verb: &str, resource: &str) -> Arc<Value> {
    Arc::new(json!({
        "metadata": {"namespace": namespace, "name": name},
        "rules": [{"apiGroups": [""], "resources": [resource], "verbs": [verb]}],
    }))
}

fn binding(namespace: &str, name: &str, kind: &str, role: &str, subject: &Value) -> Arc<Value> {
    Arc::new(json!({
        "metadata": {"namespace": namespace, "name": name},
        "roleRef": {"apiGroup": GROUP, "kind": kind, "name": role}, "subjects": [subject],
    }))
}

fn policy() -> Policy {
    let subject = |kind: &str, name: &str| json!({"kind": kind, "apiGroup": GROUP, "name": name});
    let account = |namespace: &str, name: &str| json!({"kind": "ServiceAccount", "namespace": namespace, "name": name});
    Policy::new(
        &[
            role("a", "r", "get", "pods"),
            role("b", "r", "get", "secrets"),
        ],
        &[role("", "c", "list", "pods"), role("", "n", "get", "nodes")],
        &[
            binding("a", "r", "Role", "r", &subject("User", "u")),
            binding("a", "c", "ClusterRole", "c", &subject("Group", "g")),
            binding("a", "lost", "Role", "lost", &subject("User", "l")),
            binding("a", "worse", "ClusterRole", "worse", &subject("User", "l")),
            binding("b", "r", "Role", "r", &account("a", "s")),
            binding(
                "b",
                "local",
                "ClusterRole",
                "c",
                &json!({"kind": "ServiceAccount", "name": "s"}),
            ),
            binding("b", "odd", "Other", "r", &subject("User", "o")),
        ],
        &[
            binding("", "n", "ClusterRole", "n", &subject("Group", "g")),
            binding("", "s", "ClusterRole", "n", &account("a", "s")),
            // Without a namespace no account is meant.
            binding(
                "",
                "t",
                "ClusterRole",
                "n",
                &json!({"kind": "ServiceAccount", "name": "t"}),
            ),
        ],
    )
}

#[test]
fn bindings_give_roles_to_their_subjects_where_they_are() {
    let policy = policy();
    let account = |namespace: &str, name: &str| User::service_account(namespace, name);
    for (user, request, reason) in [
        (
            user("u", &[]),
            "get -/pods a p",
            r#"RBAC: allowed by RoleBinding "r/a" of Role "r" to User "u""#,
        ),
        (user("u", &[]), "get -/pods b p", ""),
        (user("u", &[]), "get -/pods - p", ""),
        (user("v", &["u"]), "get -/pods a p", ""),
        (
            user("v", &["x", "g"]),
            "list -/pods a",
            r#"RBAC: allowed by RoleBinding "c/a" of ClusterRole "c" to Group "g""#,
        ),
        (user("v", &["g"]), "list -/pods - -", ""),
        (user("v", &["g"]), "list -/pods b", ""),
        (
            user("v", &["g"]),
            "get -/nodes - n",
            r#"RBAC: allowed by ClusterRoleBinding "n" of ClusterRole "n" to Group "g""#,
        ),
        // What is bound for the cluster is bound in every namespace.
        (
            user("v", &["g"]),
            "get -/nodes anywhere n",
            r#"RBAC: allowed by ClusterRoleBinding "n" of ClusterRole "n" to Group "g""#,
        ),
        (
            account("a", "s"),
            "get -/secrets b x",
            r#"RBAC: allowed by RoleBinding "r/b" of Role "r" to ServiceAccount "s/a""#,
        ),
        (account("a", "s"), "get -/secrets a x", ""),
        (account("b", "s"), "get -/secrets b x", ""),
        (
            account("b", "s"),
            "list -/pods b",
            r#"RBAC: allowed by RoleBinding "local/b" of ClusterRole "c" to ServiceAccount "s/b""#,
        ),
        (account("a", "s"), "list -/pods b", ""),
        (
            account("a", "s"),
            "get -/nodes - n",
            r#"RBAC: allowed by ClusterRoleBinding "s" of ClusterRole "n" to ServiceAccount "s/a""#,
        ),
        (account("a", "t"), "get -/nodes - n", ""),
        (user("s", &[]), "get -/secrets b x", ""),
        (
            user("l", &[]),
            "get -/pods a p",
            r#"RBAC: [role.rbac.authorization.k8s.io "lost" not found, clusterrole.rbac.authorization.k8s.io "worse" not found]"#,
        ),
        (
            user("o", &[]),
            "get -/pods b p",
            r#"RBAC: unsupported role reference kind: "Other""#,
        ),
        (user("", &[]), "get -/pods a p", ""),
    ] {
        let decision = policy.decide(&user, &attributes(request));
        assert_eq!(decision.reason, reason, "{} {request}", user.name);
        assert_eq!(
            decision.allowed,
            reason.contains("allowed by"),
            "{} {request}",
            user.name
        );
    }
}

#[test]
fn all_rules_of_a_user_are_found() {
    let policy = policy();
    let lines = |user: &User, namespace: &str| {
        let (rules, problems) = policy.rules_of(user, namespace);
        let lines: Vec<String> = rules.iter().map(|rule| rule.resources.join(",")).collect();
        (lines.join(" "), problems.is_some())
    };
    assert_eq!(
        lines(&user("v", &["g"]), "a"),
        ("nodes pods".to_owned(), false)
    );
    assert_eq!(lines(&user("v", &["g"]), ""), ("nodes".to_owned(), false));
    assert_eq!(lines(&user("l", &[]), "a"), (String::new(), true));
}

#[test]
fn refusals_are_upstreams() {
    let user = user("u", &[]);
    for (request, reason, message, details) in [
        (
            "list -/pods n",
            "",
            r#"pods is forbidden: User "u" cannot list resource "pods" in API group "" in the namespace "n""#,
            json!({"kind": "pods"}),
        ),
        (
            "get -/pods n p",
            "",
            r#"pods "p" is forbidden: User "u" cannot get resource "pods" in API group "" in the namespace "n""#,
            json!({"name": "p", "kind": "pods"}),
        ),
        (
            "update apps/deployments/scale n d",
            "",
            r#"deployments.apps "d" is forbidden: User "u" cannot update resource "deployments/scale" in API group "apps" in the namespace "n""#,
            json!({"name": "d", "group": "apps", "kind": "deployments"}),
        ),
        (
            "impersonate -/users - <x>",
            "",
            r#"users "<x>" is forbidden: User "u" cannot impersonate resource "users" in API group "" at the cluster scope"#,
            json!({"name": "<x>", "kind": "users"}),
        ),
        (
            "get /metrics",
            "",
            r#"forbidden: User "u" cannot get path "/metrics""#,
            json!({}),
        ),
        (
            "list -/nodes - -",
            "RBAC: why",
            r#"nodes is forbidden: User "u" cannot list resource "nodes" in API group "" at the cluster scope: RBAC: why"#,
            json!({"kind": "nodes"}),
        ),
    ] {
        let error = attributes(request).refusal(&user, reason);
        assert_eq!((error.code, error.reason), (403, "Forbidden"));
        assert_eq!(error.message, message);
        assert_eq!(error.details, details);
    }
    let odd = User {
        name: "<b>&".to_owned(),
        ..User::default()
    };
    let message = attributes("get /").refusal(&odd, "").message;
    assert_eq!(
        message,
        r#"forbidden: User "&lt;b&gt;&amp;" cannot get path "/""#
    );
}
