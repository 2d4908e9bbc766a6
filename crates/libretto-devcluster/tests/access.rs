//! Rights as a client without all of them meets them: impersonation, refusals, roles given and taken, reviews, real kubectl.

#![allow(clippy::unwrap_used)]

mod support;

use futures::StreamExt;
use k8s_openapi::api::{
    apps::v1::Deployment,
    authorization::v1::{
        LocalSubjectAccessReview, SelfSubjectAccessReview, SelfSubjectRulesReview,
        SubjectAccessReview,
    },
    core::v1::{ConfigMap, Namespace, Node, Pod},
    rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding},
};
use kube::{
    Api, Client, Config, Resource,
    api::{AttachParams, DeleteParams, ListParams, Patch, PatchParams, PostParams, WatchParams},
    config::{KubeConfigOptions, Kubeconfig},
};
use libretto_devcluster::Devcluster;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use support::{Answer, cluster, request};

const RBAC: &str = "rbac.authorization.k8s.io";

/// A client of the administrator that acts as somebody else.
async fn acting(cluster: &Devcluster, user: &str, groups: &[&str]) -> Client {
    let mut kubeconfig = Kubeconfig::from_yaml(cluster.kubeconfig()).unwrap();
    let own = kubeconfig.auth_infos[0].auth_info.as_mut().unwrap();
    own.impersonate = Some(user.to_owned());
    own.impersonate_groups =
        (!groups.is_empty()).then(|| groups.iter().map(|&group| group.to_owned()).collect());
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .unwrap();
    Client::try_from(config).unwrap()
}

async fn create<K>(api: &Api<K>, object: Value) -> kube::Result<K>
where
    K: Resource + Clone + Serialize + DeserializeOwned + std::fmt::Debug,
{
    let object = serde_json::from_value(object).unwrap();
    api.create(&PostParams::default(), &object).await
}

/// Gives a role of `rules` in the namespace `default` to a user.
async fn grant(admin: &Client, name: &str, user: &str, rules: Value) {
    let roles: Api<Role> = Api::default_namespaced(admin.clone());
    create(&roles, json!({"metadata": {"name": name}, "rules": rules}))
        .await
        .unwrap();
    let bindings: Api<RoleBinding> = Api::default_namespaced(admin.clone());
    create(
        &bindings,
        json!({
            "metadata": {"name": name},
            "roleRef": {"apiGroup": RBAC, "kind": "Role", "name": name},
            "subjects": [{"apiGroup": RBAC, "kind": "User", "name": user}],
        }),
    )
    .await
    .unwrap();
}

fn rule(group: &str, resources: &[&str], verbs: &[&str]) -> Value {
    json!({"apiGroups": [group], "resources": resources, "verbs": verbs})
}

/// The message of a refusal.
fn refused<T: std::fmt::Debug>(result: kube::Result<T>) -> String {
    match result.unwrap_err() {
        kube::Error::Api(status) => {
            assert_eq!(
                (status.code, &status.reason[..]),
                (403, "Forbidden"),
                "{status:?}"
            );
            status.message
        }
        other => panic!("{other}"),
    }
}

fn map(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"k": "v"}})
}

#[tokio::test]
async fn what_no_role_allows_is_refused_and_a_role_is_enough_at_once() {
    let (cluster, admin) = cluster().await;
    let client = acting(&cluster, "jane", &[]).await;
    let maps: Api<ConfigMap> = Api::default_namespaced(client.clone());
    let all: Api<ConfigMap> = Api::all(client.clone());
    assert_eq!(
        refused(maps.list(&ListParams::default()).await),
        r#"configmaps is forbidden: User "jane" cannot list resource "configmaps" in API group "" in the namespace "default""#
    );
    assert_eq!(
        refused(maps.get("m").await),
        r#"configmaps "m" is forbidden: User "jane" cannot get resource "configmaps" in API group "" in the namespace "default""#
    );
    assert_eq!(
        refused(all.list(&ListParams::default()).await),
        r#"configmaps is forbidden: User "jane" cannot list resource "configmaps" in API group "" at the cluster scope"#
    );
    assert!(refused(create(&maps, map("m")).await).contains("cannot create resource"));
    assert!(maps.watch(&WatchParams::default(), "0").await.is_err());
    grant(
        &admin,
        "maps",
        "jane",
        json!([rule(
            "",
            &["configmaps"],
            &["create", "list", "watch", "delete"]
        )]),
    )
    .await;
    create(&maps, map("m")).await.unwrap();
    assert_eq!(
        maps.list(&ListParams::default()).await.unwrap().items.len(),
        1
    );
    let mut events = maps
        .watch(&WatchParams::default(), "0")
        .await
        .unwrap()
        .boxed();
    assert!(events.next().await.unwrap().is_ok());
    assert!(refused(maps.get("m").await).contains("cannot get"));
    assert!(refused(all.list(&ListParams::default()).await).contains("at the cluster scope"));
    let everything = maps
        .delete_collection(&DeleteParams::default(), &ListParams::default())
        .await;
    assert!(refused(everything).contains("cannot deletecollection"));
    maps.delete("m", &DeleteParams::default()).await.unwrap();
    // And it is not enough any more.
    let bindings: Api<RoleBinding> = Api::default_namespaced(admin);
    bindings
        .delete("maps", &DeleteParams::default())
        .await
        .unwrap();
    assert!(refused(maps.list(&ListParams::default()).await).contains("cannot list"));
    let nodes: Api<Node> = Api::all(client);
    assert!(refused(nodes.list(&ListParams::default()).await).contains("nodes is forbidden"));
}

#[tokio::test]
async fn names_subresources_and_applied_objects_are_told_apart() {
    let (cluster, admin) = cluster().await;
    let client = acting(&cluster, "jane", &[]).await;
    let maps: Api<ConfigMap> = Api::default_namespaced(client.clone());
    grant(
        &admin,
        "jane",
        "jane",
        json!([
            rule("", &["configmaps"], &["patch"]),
            {"apiGroups": [""], "resources": ["configmaps"], "resourceNames": ["one"], "verbs": ["get", "list", "watch"]},
            rule("apps", &["deployments/status"], &["patch"]),
            rule("apps", &["*/scale"], &["get", "update"]),
        ]),
    )
    .await;
    let apply = PatchParams::apply("tester");
    assert_eq!(
        refused(maps.patch("one", &apply, &Patch::Apply(map("one"))).await),
        r#"configmaps "one" is forbidden: User "jane" cannot create resource "configmaps" in API group "" in the namespace "default""#
    );
    let own: Api<ConfigMap> = Api::default_namespaced(admin.clone());
    for name in ["one", "two"] {
        create(&own, map(name)).await.unwrap();
        maps.patch(name, &apply.clone().force(), &Patch::Apply(map(name)))
            .await
            .unwrap();
    }
    maps.get("one").await.unwrap();
    assert!(refused(maps.get("two").await).contains(r#"configmaps "two""#));
    let named = ListParams::default().fields("metadata.name=one");
    assert_eq!(maps.list(&named).await.unwrap().items.len(), 1);
    assert!(refused(maps.list(&ListParams::default()).await).contains("cannot list"));

    let deployment = json!({"metadata": {"name": "d"}, "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": {
        "metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}});
    create(&Api::<Deployment>::default_namespaced(admin), deployment)
        .await
        .unwrap();
    let deployments: Api<Deployment> = Api::default_namespaced(client);
    let merge = PatchParams::default();
    let status = Patch::Merge(json!({"status": {"replicas": 1}}));
    deployments
        .patch_status("d", &merge, &status)
        .await
        .unwrap();
    assert!(
        refused(deployments.patch("d", &merge, &status).await)
            .contains(r#"resource "deployments""#)
    );
    assert!(
        refused(deployments.get_status("d").await).contains(r#"get resource "deployments/status""#)
    );
    let mut scale = deployments.get_scale("d").await.unwrap();
    scale.spec.as_mut().unwrap().replicas = Some(3);
    deployments
        .replace_scale("d", &PostParams::default(), &scale)
        .await
        .unwrap();
    let replicas = Patch::Merge(json!({"spec": {"replicas": 2}}));
    assert!(
        refused(deployments.patch_scale("d", &merge, &replicas).await)
            .contains("deployments/scale")
    );
}

#[tokio::test]
async fn commands_in_pods_need_a_right_of_their_own() {
    let (cluster, admin) = cluster().await;
    let pod =
        json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    create(&Api::<Pod>::default_namespaced(admin.clone()), pod)
        .await
        .unwrap();
    let client = acting(&cluster, "jane", &[]).await;
    let pods: Api<Pod> = Api::default_namespaced(client);
    let answer = async || match pods.exec("p", ["true"], &AttachParams::default()).await {
        Ok(_) => panic!("connected"),
        Err(kube::Error::Api(status)) => status.message,
        Err(other) => panic!("{other}"),
    };
    let refusal = |verb: &str| {
        format!(
            r#"pods "p" is forbidden: User "jane" cannot {verb} resource "pods/exec" in API group "" in the namespace "default""#
        )
    };
    grant(
        &admin,
        "pods",
        "jane",
        json!([rule("", &["pods", "pods/log"], &["*"])]),
    )
    .await;
    assert_eq!(answer().await, refusal("get"));
    assert!(pods.get("p").await.is_ok());
    // A WebSocket is opened by reading, and yet it is more.
    grant(
        &admin,
        "read",
        "jane",
        json!([rule("", &["pods/exec"], &["get"])]),
    )
    .await;
    assert_eq!(answer().await, refusal("create"));
    grant(
        &admin,
        "exec",
        "jane",
        json!([rule("", &["pods/exec"], &["create"])]),
    )
    .await;
    // No node runs here; the client would wait for one.
    let path = "/api/v1/namespaces/default/pods/p/exec?command=true";
    let jane = [("impersonate-user", "jane")];
    let answer = request(&cluster, "GET", path, &jane, "").await;
    assert_eq!(answer.code, 503, "{}", answer.text);
}

#[tokio::test]
async fn only_who_may_acts_as_others() {
    let (cluster, admin) = cluster().await;
    let as_jane = async |headers: &[(&str, &str)]| -> Answer {
        request(
            &cluster,
            "POST",
            "/apis/authentication.k8s.io/v1/selfsubjectreviews",
            headers,
            "{}",
        )
        .await
    };
    let whole = [
        ("impersonate-user", "jane"),
        ("impersonate-group", "g"),
        ("impersonate-group", "h"),
        ("impersonate-uid", "1"),
        ("impersonate-extra-a.io%2Fscopes", "x"),
        ("impersonate-extra-a.io%2Fscopes", "y"),
    ];
    assert_eq!(
        as_jane(&whole).await.json()["status"]["userInfo"],
        json!({"username": "jane", "uid": "1", "groups": ["g", "h", "system:authenticated"],
            "extra": {"a.io/scopes": ["x", "y"]}})
    );
    let answer = as_jane(&[("impersonate-group", "g")]).await;
    assert_eq!(
        (answer.code, answer.json()["message"].as_str().unwrap()),
        (
            400,
            "requested [{Group  g    }] without impersonating a user"
        )
    );
    // The administrator acting as a member of his own group keeps his rights.
    let masters = acting(&cluster, "jane", &["system:masters"]).await;
    Api::<Node>::all(masters)
        .list(&ListParams::default())
        .await
        .unwrap();

    // A service account that may act as some.
    let accounts: Api<k8s_openapi::api::core::v1::ServiceAccount> =
        Api::default_namespaced(admin.clone());
    create(&accounts, json!({"metadata": {"name": "actor"}}))
        .await
        .unwrap();
    let token = request(
        &cluster,
        "POST",
        "/api/v1/namespaces/default/serviceaccounts/actor/token",
        &[],
        "{}",
    )
    .await
    .json();
    let bearer = format!("Bearer {}", token["status"]["token"].as_str().unwrap());
    let roles: Api<ClusterRole> = Api::all(admin.clone());
    create(
        &roles,
        json!({"metadata": {"name": "actor"}, "rules": [
            {"apiGroups": [""], "resources": ["users"], "resourceNames": ["jane"], "verbs": ["impersonate"]},
            {"apiGroups": [""], "resources": ["groups"], "resourceNames": ["g"], "verbs": ["impersonate"]},
            {"apiGroups": ["authentication.k8s.io"], "resources": ["userextras/scopes"], "verbs": ["impersonate"]},
        ]}),
    )
    .await
    .unwrap();
    let bindings: Api<ClusterRoleBinding> = Api::all(admin);
    create(
        &bindings,
        json!({"metadata": {"name": "actor"}, "roleRef": {"apiGroup": RBAC, "kind": "ClusterRole", "name": "actor"},
            "subjects": [{"kind": "ServiceAccount", "namespace": "default", "name": "actor"}]}),
    )
    .await
    .unwrap();
    let who = r#"User "system:serviceaccount:default:actor" cannot impersonate resource"#;
    for (headers, message) in [
        (&[("impersonate-user", "jane")][..], String::new()),
        (
            &[
                ("impersonate-user", "jane"),
                ("impersonate-group", "g"),
                ("impersonate-extra-scopes", "z"),
            ],
            String::new(),
        ),
        (
            &[("impersonate-user", "joe")],
            format!(
                r#"users "joe" is forbidden: {who} "users" in API group "" at the cluster scope"#
            ),
        ),
        (
            &[
                ("impersonate-user", "jane"),
                ("impersonate-group", "system:masters"),
            ],
            format!(
                r#"groups "system:masters" is forbidden: {who} "groups" in API group "" at the cluster scope"#
            ),
        ),
        (
            &[("impersonate-user", "system:serviceaccount:default:default")],
            format!(
                r#"serviceaccounts "default" is forbidden: {who} "serviceaccounts" in API group "" in the namespace "default""#
            ),
        ),
        (
            &[("impersonate-user", "jane"), ("impersonate-uid", "1")],
            format!(
                r#"uids.authentication.k8s.io "1" is forbidden: {who} "uids" in API group "authentication.k8s.io" at the cluster scope"#
            ),
        ),
        (
            &[
                ("impersonate-user", "jane"),
                ("impersonate-extra-other", "z"),
            ],
            format!(
                r#"userextras.authentication.k8s.io "z" is forbidden: {who} "userextras/other" in API group "authentication.k8s.io" at the cluster scope"#
            ),
        ),
    ] {
        let mut all = vec![("authorization", bearer.as_str())];
        all.extend(headers);
        let answer = as_jane(&all).await;
        if message.is_empty() {
            assert_eq!(
                answer.json()["status"]["userInfo"]["username"],
                "jane",
                "{}",
                answer.text
            );
        } else {
            assert_eq!(
                (answer.code, &answer.json()["message"]),
                (403, &json!(message))
            );
        }
    }
}

#[tokio::test]
async fn everybody_finds_out_what_there_is_and_nobody_else_how_it_runs() {
    let (cluster, _) = cluster().await;
    let jane = [("impersonate-user", "jane")];
    for (method, path, code) in [
        ("GET", "/version", 200),
        ("GET", "/api", 200),
        ("GET", "/api/v1", 200),
        ("GET", "/apis", 200),
        ("GET", "/apis/apps/v1", 200),
        ("GET", "/openapi/v3", 200),
        ("GET", "/metrics", 403),
        ("GET", "/", 403),
        ("POST", "/api", 403),
        ("GET", "/api/v1/things", 403),
        ("GET", "/apis/nothing.io/v1/things", 403),
        ("GET", "/api/v1/namespaces", 403),
    ] {
        let answer = request(&cluster, method, path, &jane, "").await;
        assert_eq!(answer.code, code, "{method} {path}: {}", answer.text);
    }
    let status = request(&cluster, "GET", "/metrics", &jane, "").await.json();
    assert_eq!(
        status["message"],
        r#"forbidden: User "jane" cannot get path "/metrics""#
    );
    assert_eq!(status["details"], json!({}));
    let monitor = [
        ("impersonate-user", "m"),
        ("impersonate-group", "system:monitoring"),
    ];
    assert_eq!(
        request(&cluster, "GET", "/metrics", &monitor, "")
            .await
            .code,
        200
    );
    // Who is not authenticated sees less than others.
    let nobody = [("impersonate-user", "system:anonymous")];
    assert_eq!(
        request(&cluster, "GET", "/api", &nobody, "").await.code,
        403
    );
}

#[tokio::test]
async fn the_roles_for_users_are_there() {
    let (cluster, admin) = cluster().await;
    let bindings: Api<RoleBinding> = Api::default_namespaced(admin.clone());
    for role in ["view", "edit", "admin"] {
        create(
            &bindings,
            json!({"metadata": {"name": role}, "roleRef": {"apiGroup": RBAC, "kind": "ClusterRole", "name": role},
                "subjects": [{"apiGroup": RBAC, "kind": "Group", "name": format!("{role}ers")}]}),
        )
        .await
        .unwrap();
    }
    let reviews: Api<SubjectAccessReview> = Api::all(admin.clone());
    let may = async |group: &str, verb: &str, resource: &str, namespace: &str| {
        let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        let (api_group, resource) = resource.split_once(':').unwrap_or(("", resource));
        let review = json!({"spec": {"user": "u", "groups": [group], "resourceAttributes": {
            "verb": verb, "group": api_group, "resource": resource, "subresource": subresource, "namespace": namespace}}});
        let answer = create(&reviews, review).await.unwrap();
        answer.status.unwrap().allowed
    };
    for (verb, resource, viewer, editer, adminer) in [
        ("list", "pods", true, true, true),
        ("get", "pods/log", true, true, true),
        ("get", "secrets", false, true, true),
        ("create", "pods/exec", false, true, true),
        ("patch", "apps:deployments", false, true, true),
        ("impersonate", "serviceaccounts", false, true, true),
        ("get", "rbac.authorization.k8s.io:roles", false, false, true),
        (
            "update",
            "rbac.authorization.k8s.io:rolebindings",
            false,
            false,
            true,
        ),
        (
            "escalate",
            "rbac.authorization.k8s.io:roles",
            false,
            false,
            false,
        ),
        ("get", "toys.example.org:toys", false, false, false),
        ("update", "resourcequotas", false, false, false),
        ("get", "nodes", false, false, false),
    ] {
        let mut found = Vec::new();
        for group in ["viewers", "editers", "adminers"] {
            found.push(may(group, verb, resource, "default").await);
            assert!(!may(group, verb, resource, "kube-system").await);
        }
        // `editers` is what the loop above makes of `edit`.
        assert_eq!(found, [viewer, editer, adminer], "{verb} {resource}");
    }
    // A role of an operator joins them by its label.
    let roles: Api<ClusterRole> = Api::all(admin);
    create(
        &roles,
        json!({"metadata": {"name": "toys", "labels": {"rbac.authorization.k8s.io/aggregate-to-view": "true"}},
            "rules": [rule("toys.example.org", &["toys"], &["get"])]}),
    )
    .await
    .unwrap();
    for group in ["viewers", "editers", "adminers"] {
        assert!(
            may(group, "get", "toys.example.org:toys", "default").await,
            "{group}"
        );
    }
    roles
        .delete("toys", &DeleteParams::default())
        .await
        .unwrap();
    assert!(!may("adminers", "get", "toys.example.org:toys", "default").await);
    drop(cluster);
}

#[tokio::test]
async fn nobody_gives_away_what_they_do_not_have() {
    let (cluster, admin) = cluster().await;
    let client = acting(&cluster, "jane", &[]).await;
    grant(
        &admin,
        "jane",
        "jane",
        json!([
            rule(RBAC, &["roles", "rolebindings"], &["*"]),
            rule("", &["pods"], &["get", "list"])
        ]),
    )
    .await;
    // `*` is every verb, also those that allow what this is about.
    let roles: Api<Role> = Api::default_namespaced(client.clone());
    let own: Api<Role> = Api::default_namespaced(admin.clone());
    let verbs = [
        "create", "delete", "get", "list", "patch", "update", "watch",
    ];
    let narrow = json!({"rules": [rule(RBAC, &["roles", "rolebindings"], &verbs), rule("", &["pods"], &["get", "list"])]});
    own.patch("jane", &PatchParams::default(), &Patch::Merge(&narrow))
        .await
        .unwrap();
    let role = |name: &str, verbs: &[&str]| json!({"apiVersion": format!("{RBAC}/v1"), "kind": "Role", "metadata": {"name": name}, "rules": [rule("", &["pods"], verbs)]});
    create(&roles, role("reader", &["get"])).await.unwrap();
    let message = refused(create(&roles, role("writer", &["get", "update", "watch"])).await);
    assert_eq!(
        message,
        "roles.rbac.authorization.k8s.io \"writer\" is forbidden: user \"jane\" (groups=[\"system:authenticated\"]) \
         is attempting to grant RBAC permissions not currently held:\n\
         {APIGroups:[\"\"], Resources:[\"pods\"], Verbs:[\"update\" \"watch\"]}"
    );
    let merge = PatchParams::default();
    let wider = Patch::Merge(json!({"rules": [rule("", &["pods"], &["*"])]}));
    assert!(refused(roles.patch("reader", &merge, &wider).await).contains(r#"Verbs:["*"]"#));
    let apply = PatchParams::apply("jane");
    let applied = roles
        .patch("new", &apply, &Patch::Apply(role("new", &["delete"])))
        .await;
    assert!(refused(applied).contains(r#"roles.rbac.authorization.k8s.io "new""#));
    roles
        .patch("new", &apply, &Patch::Apply(role("new", &["list"])))
        .await
        .unwrap();
    let mut replaced = roles.get("reader").await.unwrap();
    replaced.rules.as_mut().unwrap()[0]
        .verbs
        .push("delete".to_owned());
    assert!(
        refused(
            roles
                .replace("reader", &PostParams::default(), &replaced)
                .await
        )
        .contains("delete")
    );
    // The administrator's role is too wide for her; what the garbage collector changes she may change.
    create(&own, role("wide", &["delete"])).await.unwrap();
    let finalizer = Patch::Merge(json!({"metadata": {"finalizers": ["x.io/y"]}}));
    roles.patch("wide", &merge, &finalizer).await.unwrap();
    let label = Patch::Merge(json!({"metadata": {"labels": {"a": "b"}}}));
    assert!(refused(roles.patch("wide", &merge, &label).await).contains("not currently held"));

    let bindings: Api<RoleBinding> = Api::default_namespaced(client.clone());
    let binding = |name: &str, kind: &str, role: &str| {
        json!({
        "metadata": {"name": name}, "roleRef": {"apiGroup": RBAC, "kind": kind, "name": role},
        "subjects": [{"apiGroup": RBAC, "kind": "User", "name": "joe"}]})
    };
    create(&bindings, binding("a", "Role", "reader"))
        .await
        .unwrap();
    assert!(
        refused(create(&bindings, binding("b", "Role", "wide")).await)
            .contains(r#"rolebindings.rbac.authorization.k8s.io "b""#)
    );
    assert!(
        refused(create(&bindings, binding("b", "ClusterRole", "cluster-admin")).await)
            .contains("not currently held")
    );
    match create(&bindings, binding("b", "Role", "nothing"))
        .await
        .unwrap_err()
    {
        kube::Error::Api(status) => assert_eq!(status.code, 404),
        other => panic!("{other}"),
    }
    // Two verbs say that she may after all.
    grant(
        &admin,
        "more",
        "jane",
        json!([
            {"apiGroups": [RBAC], "resources": ["roles"], "resourceNames": ["wide"], "verbs": ["bind"]},
            {"apiGroups": [RBAC], "resources": ["roles"], "resourceNames": ["reader"], "verbs": ["escalate"]},
        ]),
    )
    .await;
    create(&bindings, binding("b", "Role", "wide"))
        .await
        .unwrap();
    roles.patch("reader", &merge, &wider).await.unwrap();

    // Aggregation takes more than the rules it starts with.
    let cluster_roles: Api<ClusterRole> = Api::all(admin.clone());
    create(
        &cluster_roles,
        json!({"metadata": {"name": "maker"}, "rules": [rule(RBAC, &["clusterroles"], &["create"])]}),
    )
    .await
    .unwrap();
    let cluster_bindings: Api<ClusterRoleBinding> = Api::all(admin);
    create(
        &cluster_bindings,
        json!({"metadata": {"name": "maker"}, "roleRef": {"apiGroup": RBAC, "kind": "ClusterRole", "name": "maker"},
            "subjects": [{"apiGroup": RBAC, "kind": "User", "name": "jane"}]}),
    )
    .await
    .unwrap();
    let gathering = json!({"metadata": {"name": "all"}, "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"a": "b"}}]}});
    let own: Api<ClusterRole> = Api::all(client);
    assert!(
        refused(create(&own, gathering).await)
            .contains("must have cluster-admin privileges to use the aggregationRule")
    );
    create(&own, json!({"metadata": {"name": "empty"}}))
        .await
        .unwrap();
    drop(cluster);
}

#[tokio::test]
async fn reviews_tell_the_truth() {
    let (cluster, admin) = cluster().await;
    grant(
        &admin,
        "jane",
        "jane",
        json!([rule("", &["pods"], &["get"])]),
    )
    .await;
    let client = acting(&cluster, "jane", &[]).await;
    let own: Api<SelfSubjectAccessReview> = Api::all(client.clone());
    let spec = |verb: &str| json!({"spec": {"resourceAttributes": {"verb": verb, "resource": "pods", "namespace": "default"}}});
    let status = create(&own, spec("get")).await.unwrap().status.unwrap();
    assert!(status.allowed);
    assert_eq!(
        status.reason.as_deref(),
        Some(r#"RBAC: allowed by RoleBinding "jane/default" of Role "jane" to User "jane""#)
    );
    let status = create(&own, spec("delete")).await.unwrap().status.unwrap();
    assert_eq!((status.allowed, status.reason), (false, None));
    let path = json!({"spec": {"nonResourceAttributes": {"verb": "get", "path": "/metrics"}}});
    assert!(
        !create(&own, path.clone())
            .await
            .unwrap()
            .status
            .unwrap()
            .allowed
    );
    let all: Api<SelfSubjectAccessReview> = Api::all(admin.clone());
    assert!(create(&all, path).await.unwrap().status.unwrap().allowed);
    let rules: Api<SelfSubjectRulesReview> = Api::all(client.clone());
    let found = create(&rules, json!({"spec": {"namespace": "default"}}))
        .await
        .unwrap();
    let found = found.status.unwrap();
    assert!(found.resource_rules.iter().any(
        |rule| rule.verbs == ["get"] && rule.resources.as_deref() == Some(&["pods".to_owned()])
    ));
    assert!(found.non_resource_rules.iter().any(|rule| {
        rule.non_resource_urls
            .as_ref()
            .unwrap()
            .contains(&"/version".to_owned())
    }));
    assert!(!found.incomplete);
    // About others only who is allowed to ask.
    let others: Api<SubjectAccessReview> = Api::all(client);
    let about = json!({"spec": {"user": "jane", "resourceAttributes": {"verb": "get", "resource": "pods", "namespace": "default"}}});
    assert!(
        refused(create(&others, about.clone()).await)
            .contains("subjectaccessreviews.authorization.k8s.io is forbidden")
    );
    let others: Api<SubjectAccessReview> = Api::all(admin.clone());
    assert!(
        create(&others, about.clone())
            .await
            .unwrap()
            .status
            .unwrap()
            .allowed
    );
    let local: Api<LocalSubjectAccessReview> = Api::default_namespaced(admin);
    assert!(create(&local, about).await.unwrap().status.unwrap().allowed);
    for (path, body, part) in [
        (
            "selfsubjectaccessreviews",
            json!({"spec": {}}),
            "exactly one of nonResourceAttributes or resourceAttributes must be specified",
        ),
        (
            "subjectaccessreviews",
            spec("get"),
            "at least one of user or group must be specified",
        ),
        (
            "subjectaccessreviews",
            json!({"spec": {"user": "u", "resourceAttributes": {}, "nonResourceAttributes": {"path": "/"}}}),
            "cannot be specified in combination with resourceAttributes",
        ),
        (
            "namespaces/other/localsubjectaccessreviews",
            json!({"spec": {"user": "u", "resourceAttributes": {"namespace": "default"}}}),
            "must match metadata.namespace",
        ),
        (
            "namespaces/other/localsubjectaccessreviews",
            json!({"metadata": {"namespace": "x"}, "spec": {"user": "u", "resourceAttributes": {}}}),
            "does not match the namespace sent on the request",
        ),
        (
            "selfsubjectrulesreviews",
            json!({"spec": {}}),
            "no namespace on request",
        ),
    ] {
        let path = format!("/apis/authorization.k8s.io/v1/{path}");
        let answer = request(&cluster, "POST", &path, &[], &body.to_string()).await;
        assert!(matches!(answer.code, 400 | 422), "{}", answer.text);
        assert!(answer.text.contains(part), "{}", answer.text);
    }
}

#[tokio::test]
async fn a_role_in_a_namespace_can_be_about_the_namespace() {
    let (cluster, admin) = cluster().await;
    grant(
        &admin,
        "own",
        "jane",
        json!([rule("", &["namespaces"], &["get", "list"])]),
    )
    .await;
    let namespaces: Api<Namespace> = Api::all(acting(&cluster, "jane", &[]).await);
    namespaces.get("default").await.unwrap();
    assert_eq!(
        refused(namespaces.get("kube-system").await),
        r#"namespaces "kube-system" is forbidden: User "jane" cannot get resource "namespaces" in API group "" in the namespace "kube-system""#
    );
    assert!(
        refused(namespaces.list(&ListParams::default()).await).contains("at the cluster scope")
    );
}

#[tokio::test]
async fn kubectl_is_answered_about_whom_it_asks() {
    /// What `kubectl auth can-i get pods --subresource=log --namespace=a` sends.
    const QUESTION: &str = "k8s\0\n2\n\x17authorization.k8s.io/v1\x12\x17SelfSubjectAccessReview\
        \x129\n\x10\n\0\x12\0\x1a\0\"\0*\x002\x008\0B\0\x12\x1b\n\x19\n\x01a\x12\x03get\x1a\0\"\0*\x04pods2\x03log:\0\
        \x1a\x08\x08\0\x12\0\x1a\0 \0\x1a\0\"\0";
    let (cluster, admin) = cluster().await;
    create(
        &Api::<Namespace>::all(admin.clone()),
        json!({"metadata": {"name": "a"}}),
    )
    .await
    .unwrap();
    let bindings: Api<RoleBinding> = Api::namespaced(admin, "a");
    create(
        &bindings,
        json!({"metadata": {"name": "b"}, "roleRef": {"apiGroup": RBAC, "kind": "ClusterRole", "name": "view"},
            "subjects": [{"kind": "ServiceAccount", "namespace": "a", "name": "b"}]}),
    )
    .await
    .unwrap();
    for (user, allowed) in [
        ("system:serviceaccount:a:b", true),
        ("system:serviceaccount:a:c", false),
    ] {
        let answer = request(
            &cluster,
            "POST",
            "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews",
            &[
                ("content-type", "application/vnd.kubernetes.protobuf"),
                (
                    "accept",
                    "application/vnd.kubernetes.protobuf,application/json",
                ),
                ("impersonate-user", user),
            ],
            QUESTION,
        )
        .await;
        assert_eq!(answer.code, 201, "{}", answer.text);
        let review = answer.json();
        assert_eq!(review["status"]["allowed"], allowed, "{user}");
        assert_eq!(
            review["spec"]["resourceAttributes"],
            json!({"namespace": "a", "verb": "get", "resource": "pods", "subresource": "log"})
        );
    }
}
