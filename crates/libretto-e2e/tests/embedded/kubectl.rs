//! The real kubectl against the embedded cluster: what people type must work as they know it.

use libretto_e2e::{
    Failure, Step,
    cluster::Cluster,
    redis::{HEALING, Redis},
    wait,
};
use serde_json::json;

const DEPLOYMENT: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: sleepers, labels: {app: sleepers}}
spec:
  replicas: 2
  selector: {matchLabels: {app: sleepers}}
  template:
    metadata: {labels: {app: sleepers}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
        - name: shell
          image: busybox
          command: [sh, -c, 'echo hello from $HOSTNAME; exec sleep 100000']
";

#[tokio::test]
async fn the_seed_resource_prints_as_upstream_does() -> Step {
    let cluster = Cluster::embedded().await?;
    let redis = Redis::apply(&cluster, "test", json!({"size": 3})).await?;
    redis.healthy(3).await?;
    let printed = cluster.kubectl(&["get", "rediscluster"])?.ok()?;
    let lines: Vec<Vec<&str>> = printed
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert_eq!(lines[0], ["NAME", "SIZE", "STATUS", "AGE"], "{printed}");
    assert_eq!(lines[1][..3], ["test", "3", "Healthy"], "{printed}");

    let described = cluster
        .kubectl(&["describe", "rediscluster", "test"])?
        .ok()?;
    assert!(
        described.contains("Cluster ok") && described.contains("Redis cluster is healthy"),
        "{described}"
    );
    let explained = cluster
        .kubectl(&["explain", "rediscluster.spec.sentinel"])?
        .ok()?;
    assert!(explained.contains("customConfig"), "{explained}");
    cluster
        .kubectl(&[
            "wait",
            "--for=condition=Healthy",
            "rediscluster/test",
            "--timeout=10s",
        ])?
        .ok()?;
    Ok(())
}

#[tokio::test]
async fn everyday_commands_work() -> Step {
    let cluster = Cluster::embedded().await?;
    let kubectl = |arguments: &[&str]| cluster.kubectl(arguments)?.ok();
    cluster.kubectl_apply(DEPLOYMENT, &[])?.ok()?;
    kubectl(&["rollout", "status", "deployment/sleepers", "--timeout=60s"])?;
    let wide = kubectl(&["get", "pods", "-o", "wide"])?;
    assert_eq!(wide.matches("Running").count(), 2, "{wide}");
    assert!(kubectl(&["get", "deployment", "sleepers", "-o", "yaml"])?.contains("replicas: 2"));
    assert!(kubectl(&["describe", "deployment", "sleepers"])?.contains("ScalingReplicaSet"));

    // Applying again changes nothing; a changed field is a change; server side as well.
    assert!(
        cluster
            .kubectl_apply(DEPLOYMENT, &[])?
            .ok()?
            .contains("unchanged")
    );
    let one = DEPLOYMENT.replace("replicas: 2", "replicas: 1");
    assert!(
        cluster
            .kubectl_apply(&one, &[])?
            .ok()?
            .contains("configured")
    );
    cluster
        .kubectl_apply(&one, &["--server-side", "--force-conflicts"])?
        .ok()?;
    kubectl(&["scale", "deployment/sleepers", "--replicas=3"])?;
    kubectl(&[
        "wait",
        "--for=jsonpath={.status.readyReplicas}=3",
        "deployment/sleepers",
        "--timeout=60s",
    ])?;
    kubectl(&[
        "patch",
        "deployment",
        "sleepers",
        "-p",
        r#"{"spec":{"replicas":1}}"#,
    ])?;
    kubectl(&["label", "deployment", "sleepers", "team=a"])?;
    assert!(kubectl(&["get", "deployment", "-l", "team=a", "-o", "name"])?.contains("sleepers"));
    wait::until("one pod is left", HEALING, || async {
        let names = kubectl(&["get", "pods", "-o", "name"])?;
        if names.lines().count() == 1 {
            Ok(())
        } else {
            Err(Failure::from(names))
        }
    })
    .await?;

    let pod = kubectl(&["get", "pods", "-o", "name"])?.trim().to_owned();
    let log = kubectl(&["logs", &pod])?;
    assert!(log.starts_with("hello from sleepers-"), "{log}");
    assert_eq!(
        kubectl(&["exec", &pod, "--", "sh", "-c", "echo $((6*7))"])?.trim(),
        "42"
    );
    let failed = cluster.kubectl(&["exec", &pod, "--", "sh", "-c", "exit 3"])?;
    assert_eq!(failed.code, Some(3), "{failed:?}");

    kubectl(&["rollout", "restart", "deployment/sleepers"])?;
    kubectl(&["rollout", "status", "deployment/sleepers", "--timeout=60s"])?;
    kubectl(&["rollout", "undo", "deployment/sleepers"])?;
    kubectl(&["rollout", "status", "deployment/sleepers", "--timeout=60s"])?;
    let resources = kubectl(&["api-resources"])?;
    assert!(
        resources.contains("statefulsets") && resources.contains("redisclusters"),
        "{resources}"
    );
    assert!(kubectl(&["explain", "pod.spec.containers.livenessProbe"])?.contains("periodSeconds"));
    let events = kubectl(&["events"])?;
    assert!(events.contains("Scheduled"), "{events}");
    kubectl(&["create", "-f", &manifest_file(&cluster)?])?;
    Ok(())
}

#[tokio::test]
async fn deletion_treats_dependents_as_asked() -> Step {
    let cluster = Cluster::embedded().await?;
    for (propagation, pods_stay) in [
        ("background", false),
        ("foreground", false),
        ("orphan", true),
    ] {
        cluster.kubectl_apply(DEPLOYMENT, &[])?.ok()?;
        cluster
            .kubectl(&["rollout", "status", "deployment/sleepers", "--timeout=60s"])?
            .ok()?;
        cluster
            .kubectl(&[
                "delete",
                "deployment",
                "sleepers",
                &format!("--cascade={propagation}"),
                "--timeout=60s",
            ])?
            .ok()?;
        if pods_stay {
            let sets = cluster
                .kubectl(&["get", "replicasets", "-o", "name"])?
                .ok()?;
            assert_eq!(sets.lines().count(), 1, "{sets}");
            cluster
                .kubectl(&["delete", "replicasets", "--all", "--timeout=60s"])?
                .ok()?;
        }
        wait::until(
            &format!("no pod is left after {propagation}"),
            HEALING,
            || async {
                let left = cluster
                    .kubectl(&["get", "replicasets,pods", "-o", "name"])?
                    .ok()?;
                if left.trim().is_empty() {
                    Ok(())
                } else {
                    Err(Failure::from(left))
                }
            },
        )
        .await?;
    }
    Ok(())
}

#[tokio::test]
async fn rights_are_told_and_kept() -> Step {
    const READER: &str = "
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: reader}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: view}
subjects: [{kind: ServiceAccount, name: reader, namespace: default}]
";
    const READER_NAME: &str = "--as=system:serviceaccount:default:reader";
    let cluster = Cluster::embedded().await?;
    let may = |arguments: &[&str]| -> Step<String> {
        let mut all = vec!["auth", "can-i", READER_NAME];
        all.extend(arguments);
        Ok(cluster.kubectl(&all)?.stdout.trim().to_owned())
    };
    assert_eq!(may(&["list", "pods"])?, "no");
    cluster.kubectl_apply(READER, &[])?.ok()?;
    assert_eq!(may(&["list", "pods"])?, "yes");
    assert_eq!(may(&["get", "pods", "--subresource=log"])?, "yes");
    assert_eq!(may(&["get", "/version"])?, "yes");
    for refused in [
        &["list", "secrets"][..],
        &["create", "pods"],
        &["create", "pods", "--subresource=exec"],
        &["list", "pods", "--namespace=kube-system"],
        &["get", "/metrics"],
    ] {
        assert_eq!(may(refused)?, "no", "{refused:?}");
    }
    assert!(may(&["--list"])?.contains("selfsubjectreviews"));
    cluster.kubectl(&["get", "pods", READER_NAME])?.ok()?;
    let refused = cluster.kubectl(&["get", "secrets", READER_NAME])?;
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(
        refused.stderr.contains(
            r#"Error from server (Forbidden): secrets is forbidden: User "system:serviceaccount:default:reader" cannot list resource "secrets" in API group "" in the namespace "default""#
        ),
        "{refused:?}"
    );
    let who = cluster.kubectl(&["auth", "whoami", READER_NAME])?.ok()?;
    assert!(who.contains("system:serviceaccounts:default"), "{who}");
    Ok(())
}

fn manifest_file(cluster: &Cluster) -> Step<String> {
    let file = cluster.folder().join("created.yaml");
    std::fs::write(
        &file,
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: created}\ndata: {a: b}\n",
    )?;
    Ok(file.to_string_lossy().into_owned())
}
