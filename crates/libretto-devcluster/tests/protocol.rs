//! The API as bytes on the wire: what libraries hide.

#![allow(clippy::unwrap_used)]

mod support;

use serde_json::json;
use support::{cluster, request, start};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

#[tokio::test]
async fn only_holders_of_a_token_are_served() {
    let (cluster, _) = cluster().await;
    for (path, header, code) in [
        ("/healthz", "", 200),
        ("/readyz?verbose", "", 200),
        ("/version", "", 200),
        ("/api", "", 401),
        ("/metrics", "Bearer wrong", 401),
        (MAPS, "Bearer ", 401),
        (MAPS, "Basic abc", 401),
    ] {
        let answer = request(&cluster, "GET", path, &[("authorization", header)], "").await;
        assert_eq!(answer.code, code, "{path} {header}: {}", answer.text);
    }
    let answer = request(
        &cluster,
        "POST",
        "/api/v1/namespaces/default/serviceaccounts",
        &[],
        r#"{"metadata":{"name":"a"}}"#,
    )
    .await;
    assert_eq!(answer.code, 201, "{}", answer.text);
    let answer = request(
        &cluster,
        "POST",
        "/api/v1/namespaces/default/serviceaccounts/a/token",
        &[],
        "{}",
    )
    .await;
    let token = answer.json()["status"]["token"]
        .as_str()
        .unwrap()
        .to_owned();
    let bearer = format!("Bearer {token}");
    let own = [("authorization", bearer.as_str())];
    let answer = request(&cluster, "GET", MAPS, &own, "").await;
    assert_eq!(answer.code, 403, "nobody gave it a role: {}", answer.text);
    let answer = request(
        &cluster,
        "POST",
        "/apis/rbac.authorization.k8s.io/v1/namespaces/default/rolebindings",
        &[],
        &json!({
            "metadata": {"name": "a"}, "subjects": [{"kind": "ServiceAccount", "name": "a", "namespace": "default"}],
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"},
        })
        .to_string(),
    )
    .await;
    assert_eq!(answer.code, 201, "{}", answer.text);
    assert_eq!(request(&cluster, "GET", MAPS, &own, "").await.code, 200);
    let answer = request(
        &cluster,
        "POST",
        "/apis/authentication.k8s.io/v1/selfsubjectreviews",
        &own,
        "{}",
    )
    .await;
    assert_eq!(
        answer.json()["status"]["userInfo"]["username"],
        "system:serviceaccount:default:a"
    );
    // Another account of its name has nothing of it.
    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    let account = format!("{accounts}/a");
    request(&cluster, "DELETE", &account, &[], "").await;
    assert_eq!(request(&cluster, "GET", MAPS, &own, "").await.code, 401);
    let again = r#"{"metadata":{"name":"a"}}"#;
    request(&cluster, "POST", accounts, &[], again).await;
    assert_eq!(request(&cluster, "GET", MAPS, &own, "").await.code, 401);
    let answer = request(
        &cluster,
        "POST",
        "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews",
        &[],
        r#"{"spec":{"resourceAttributes":{"verb":"create","resource":"pods"}}}"#,
    )
    .await;
    assert_eq!(answer.json()["status"]["allowed"], true);
}

#[tokio::test]
async fn unsupported_requests_say_what_to_do() {
    let (cluster, _) = cluster().await;
    let json = ("content-type", "application/json");
    for (method, path, headers, body, code, part) in [
        (
            "POST",
            MAPS,
            [("content-type", "application/vnd.kubernetes.protobuf")],
            "k8s",
            415,
            "kubectl apply -f -",
        ),
        (
            "PATCH",
            "/api/v1/namespaces/default/configmaps/a",
            [json],
            "{}",
            415,
            "Unsupported Media Type",
        ),
        (
            "GET",
            MAPS,
            [("accept", "application/vnd.kubernetes.protobuf")],
            "",
            406,
            "application/json",
        ),
        ("GET", "/openapi/v2", [json], "", 404, "/openapi/v3"),
        (
            "GET",
            "/api/v1/namespaces/default/things",
            [json],
            "",
            404,
            "could not find the requested resource",
        ),
        ("PUT", MAPS, [json], "{}", 405, "does not allow this method"),
        (
            "POST",
            "/api/v1/namespaces/default/pods/p/resize",
            [json],
            "{}",
            501,
            "not served by this development cluster",
        ),
        ("POST", MAPS, [json], "{", 400, "not valid JSON"),
        (
            "PUT",
            "/apis/policy/v1/namespaces/default/poddisruptionbudgets/p/status",
            [json],
            r#"{"metadata":{"name":"p"}}"#,
            422,
            "must be specified for an update",
        ),
        (
            "GET",
            "/api/v1/namespaces/default/configmaps?labelSelector=a%20in",
            [json],
            "",
            400,
            "unable to parse requirement",
        ),
        (
            "GET",
            "/api/v1/namespaces/default/configmaps?resourceVersion=x",
            [json],
            "",
            400,
            "resourceVersion",
        ),
        (
            "GET",
            "/api/v1/namespaces/default/configmaps?resourceVersion=99999999",
            [json],
            "",
            504,
            "Too large resource version",
        ),
        (
            "POST",
            "/api/v1/namespaces/default/configmaps?dryRun=Some",
            [json],
            "{}",
            422,
            "dryRun",
        ),
        (
            "GET",
            "/api/v1/namespaces/default/pods/none/log",
            [json],
            "",
            404,
            "pods \"none\" not found",
        ),
    ] {
        let answer = request(&cluster, method, path, &headers, body).await;
        assert_eq!(answer.code, code, "{method} {path}: {}", answer.text);
        let status = answer.json();
        assert_eq!(status["kind"], "Status");
        assert_eq!(status["status"], "Failure");
        assert!(
            status["message"].as_str().unwrap().contains(part),
            "{status}"
        );
    }
}

#[tokio::test]
async fn yaml_bodies_and_warnings() {
    let (cluster, _) = cluster().await;
    let yaml = [("content-type", "application/yaml")];
    let answer = request(
        &cluster,
        "POST",
        MAPS,
        &yaml,
        "metadata:\n  name: y\ndata:\n  a: \"1\"\nwrong: 1\n",
    )
    .await;
    assert_eq!(answer.code, 201, "{}", answer.text);
    assert_eq!(
        answer.headers["warning"],
        "299 - \"unknown field \\\"wrong\\\"\""
    );
    let answer = request(
        &cluster,
        "POST",
        &format!("{MAPS}?fieldValidation=Ignore"),
        &yaml,
        "{metadata: {name: z}, wrong: 1}",
    )
    .await;
    assert!(!answer.headers.contains_key("warning"));
    // What is no mistake in the request is told whatever the client asked to be checked.
    let answer = request(
        &cluster,
        "POST",
        "/api/v1/namespaces/default/limitranges?fieldValidation=Strict",
        &yaml,
        "{metadata: {name: z}, spec: {limits: []}}",
    )
    .await;
    assert_eq!(answer.code, 201, "{}", answer.text);
    let warning = answer.headers["warning"].to_str().unwrap();
    assert!(warning.contains("LimitRange is stored and has no effect"));
    let job = "{metadata: {name: j}, spec: {template: {spec: {restartPolicy: Never, containers: [{name: c, image: i}]}}}}";
    let jobs = "/apis/batch/v1/namespaces/default/jobs";
    let answer = request(&cluster, "POST", jobs, &yaml, job).await;
    assert_eq!(answer.code, 201, "{}", answer.text);
    let path = format!("{jobs}/j");
    let answer = request(&cluster, "DELETE", &path, &[], "").await;
    let warning = answer.headers["warning"].to_str().unwrap();
    assert!(warning.contains("child pods are preserved by default"));
    let answer = request(
        &cluster,
        "POST",
        &format!("{MAPS}?fieldValidation=Strict"),
        &yaml,
        "{metadata: {name: x}, wrong: 1}",
    )
    .await;
    assert_eq!(answer.code, 400, "{}", answer.text);
}

#[tokio::test]
async fn aggregated_discovery_has_an_etag() {
    let (cluster, _) = cluster().await;
    let accept = (
        "accept",
        "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json",
    );
    let answer = request(&cluster, "GET", "/apis", &[accept], "").await;
    assert_eq!(answer.json()["kind"], "APIGroupDiscoveryList");
    let tag = answer.headers["etag"].to_str().unwrap().to_owned();
    let again = request(
        &cluster,
        "GET",
        "/apis",
        &[accept, ("if-none-match", &tag)],
        "",
    )
    .await;
    assert_eq!(again.code, 304);
    let group = request(&cluster, "GET", "/apis/apps", &[], "").await.json();
    assert_eq!(group["preferredVersion"]["groupVersion"], "apps/v1");
    let core = request(&cluster, "GET", "/api/v1", &[], "").await.json();
    let names: Vec<_> = core["resources"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["name"].as_str().unwrap())
        .collect();
    for name in [
        "pods/log",
        "pods/eviction",
        "services/status",
        "serviceaccounts/token",
    ] {
        assert!(names.contains(&name), "{name}");
    }
}

#[tokio::test]
async fn watch_lines_have_their_kubernetes_form() {
    let (cluster, _) = cluster().await;
    for name in ["a", "b"] {
        let body = json!({"metadata": {"name": name}}).to_string();
        request(&cluster, "POST", MAPS, &[], &body).await;
    }
    let lines = async |query: &str, accept: &str| {
        let answer = request(
            &cluster,
            "GET",
            &format!("{MAPS}?watch=1&timeoutSeconds=1&{query}"),
            &[("accept", accept)],
            "",
        )
        .await;
        assert_eq!(answer.code, 200, "{}", answer.text);
        answer
            .text
            .lines()
            .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
            .collect::<Vec<_>>()
    };
    let plain = lines("allowWatchBookmarks=true", "application/json").await;
    let types: Vec<_> = plain
        .iter()
        .map(|line| line["type"].as_str().unwrap())
        .collect();
    assert_eq!(
        types,
        ["ADDED", "ADDED", "BOOKMARK"],
        "the last word is a bookmark"
    );
    let streamed = lines(
        "allowWatchBookmarks=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan",
        "application/json",
    )
    .await;
    assert_eq!(
        streamed[2]["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"],
        "true"
    );
    let partial = lines(
        "",
        "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1",
    )
    .await;
    assert_eq!(partial[0]["object"]["kind"], "PartialObjectMetadata");
    let single = lines("fieldSelector=metadata.name%3Db", "application/json").await;
    assert_eq!(single.len(), 1);
    let answer = request(
        &cluster,
        "GET",
        &format!("{MAPS}?watch=1&sendInitialEvents=true"),
        &[],
        "",
    )
    .await;
    assert_eq!(answer.code, 422);
}

#[tokio::test]
async fn metrics_tell_who_wrote_what() {
    let (cluster, _) = cluster().await;
    let agent = ("user-agent", "tester/1.0 (x)");
    let body = json!({"metadata": {"name": "a"}, "data": {"k": "v"}}).to_string();
    let answer = request(&cluster, "POST", MAPS, &[agent], &body).await;
    assert_eq!(
        answer.json()["metadata"]["managedFields"][0]["manager"],
        "tester"
    );
    request(&cluster, "GET", MAPS, &[agent], "").await;
    request(
        &cluster,
        "PUT",
        "/api/v1/namespaces/default/services/x/status",
        &[agent],
        &body,
    )
    .await;
    let text = request(&cluster, "GET", "/metrics", &[], "").await.text;
    for line in [
        r#"apiserver_request_total{verb="POST",resource="configmaps",subresource="",code="201",client="tester"} 1"#,
        r#"apiserver_request_total{verb="LIST",resource="configmaps",subresource="",code="200",client="tester"} 1"#,
        r#"apiserver_request_total{verb="PUT",resource="services",subresource="status",code="400",client="tester"} 1"#,
    ] {
        assert!(text.contains(line), "{line} not in\n{text}");
    }
}

#[tokio::test]
async fn state_survives_and_the_directory_is_locked() {
    let directory = tempfile::tempdir().unwrap();
    let path = Some(directory.path().to_owned());
    let first = start(path.clone()).await.unwrap();
    let token = first.token().to_owned();
    request(&first, "POST", MAPS, &[], r#"{"metadata":{"name":"kept"}}"#).await;
    let error = start(path.clone()).await.unwrap_err().to_string();
    assert!(
        error.contains("another instance") && error.contains(directory.path().to_str().unwrap()),
        "{error}"
    );
    first.shutdown().await.unwrap();
    let second = start(path).await.unwrap();
    assert_eq!(second.token(), token);
    let answer = request(&second, "GET", &format!("{MAPS}/kept"), &[], "").await;
    assert_eq!(answer.code, 200);
    let mode = std::os::unix::fs::PermissionsExt::mode(
        &std::fs::metadata(second.kubeconfig_path())
            .unwrap()
            .permissions(),
    );
    assert_eq!(mode & 0o777, 0o600);
    second.shutdown().await.unwrap();
}

#[tokio::test]
async fn wrong_places_to_start_are_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let error = libretto_devcluster::bind(address).unwrap_err().to_string();
    assert!(
        error.contains(&address.to_string()) && error.contains("in use"),
        "{error}"
    );
    let error = libretto_devcluster::bind("0.0.0.0:0".parse().unwrap())
        .unwrap_err()
        .to_string();
    assert!(error.contains("loopback"), "{error}");
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    std::fs::write(&file, "").unwrap();
    let error = start(Some(file.clone())).await.unwrap_err().to_string();
    assert!(
        error.contains(file.to_str().unwrap()) && error.contains("cannot be written"),
        "{error}"
    );
}

#[tokio::test]
async fn shutdown_ends_watches() {
    let (cluster, client) = cluster().await;
    use futures::StreamExt;
    let api: kube::Api<k8s_openapi::api::core::v1::ConfigMap> =
        kube::Api::default_namespaced(client);
    let mut stream = api
        .watch(&kube::api::WatchParams::default(), "0")
        .await
        .unwrap()
        .boxed();
    let ended = tokio::spawn(async move { while let Some(Ok(_)) = stream.next().await {} });
    cluster.shutdown().await.unwrap();
    tokio::time::timeout(std::time::Duration::from_secs(10), ended)
        .await
        .unwrap()
        .unwrap();
}
