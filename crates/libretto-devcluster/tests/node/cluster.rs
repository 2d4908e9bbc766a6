//! A whole embedded cluster: API server, controllers and node together, used as the Rust client uses it.

use std::{net::TcpListener, process::ExitCode, time::Duration};

use k8s_openapi::api::{
    apps::v1::StatefulSet,
    core::v1::{Pod, Service},
};
use kube::{
    Api, Client, Config, ResourceExt as _,
    api::{AttachParams, DeleteParams, LogParams, PostParams, TerminalSize},
    config::{KubeConfigOptions, Kubeconfig},
    runtime::wait::{await_condition, conditions},
};
use libretto_devcluster::{Devcluster, Options, Parts, node::Driver};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

pub(crate) fn run(filters: &[String], listener: TcpListener) -> ExitCode {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    if filters.is_empty()
        || filters
            .iter()
            .any(|filter| "a_stateful_set_runs_redis".contains(filter.as_str()))
    {
        let started = std::time::Instant::now();
        runtime.block_on(a_stateful_set_runs_redis(listener));
        println!(
            "  a_stateful_set_runs_redis: ok ({:.0?})",
            started.elapsed()
        );
    }
    ExitCode::SUCCESS
}

/// Long enough for a machine that builds at the same time.
async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    // Boxed: a watch is a large state machine.
    tokio::time::timeout(Duration::from_secs(30), Box::pin(future))
        .await
        .unwrap_or_else(|_| panic!("{what}: not within 30 s"))
}

async fn ready(pods: &Api<Pod>, name: &str) {
    soon(
        name,
        await_condition(pods.clone(), name, conditions::is_pod_running()),
    )
    .await
    .unwrap();
    let is_ready = |pod: Option<&Pod>| {
        pod.and_then(|pod| pod.status.as_ref()?.conditions.as_ref())
            .is_some_and(|list| {
                list.iter()
                    .any(|c| c.type_ == "Ready" && c.status == "True")
            })
    };
    soon(name, await_condition(pods.clone(), name, is_ready))
        .await
        .unwrap();
}

async fn output(pods: &Api<Pod>, name: &str, command: &[&str]) -> (String, Option<i32>) {
    let mut process = pods
        .exec(
            name,
            command.to_vec(),
            &AttachParams::default().stderr(true),
        )
        .await
        .unwrap();
    let (mut out, mut err) = (String::new(), String::new());
    let status = process.take_status().unwrap();
    let (mut stdout, mut stderr) = (process.stdout().unwrap(), process.stderr().unwrap());
    let (a, b) = tokio::join!(
        stdout.read_to_string(&mut out),
        stderr.read_to_string(&mut err)
    );
    a.unwrap();
    b.unwrap();
    let status = status.await.unwrap();
    process.join().await.unwrap();
    let code = match status.status.as_deref() {
        Some("Success") => Some(0),
        _ => status
            .details
            .and_then(|details| details.causes)
            .and_then(|causes| {
                causes
                    .into_iter()
                    .find(|cause| cause.reason.as_deref() == Some("ExitCode"))
            })
            .and_then(|cause| cause.message?.parse().ok()),
    };
    (out + &err, code)
}

async fn a_stateful_set_runs_redis(listener: TcpListener) {
    let directory = tempfile::tempdir().unwrap();
    let cluster = Devcluster::start(Options {
        data_dir: Some(directory.path().join("data")),
        listener,
        driver: Driver::Auto,
        images: None,
        parts: Parts::Everything,
    })
    .await
    .unwrap();
    let kubeconfig = Kubeconfig::from_yaml(cluster.kubeconfig()).unwrap();
    let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .unwrap();
    // The host's loopback is another one than ours; the certificate names the Service's address too.
    config.cluster_url = "https://10.96.0.1".parse().unwrap();
    let client = Client::try_from(config).unwrap();
    soon("the API server behind its Service", async {
        while client.apiserver_version().await.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;

    let services: Api<Service> = Api::default_namespaced(client.clone());
    let sets: Api<StatefulSet> = Api::default_namespaced(client.clone());
    let pods: Api<Pod> = Api::default_namespaced(client.clone());
    let service = json!({"metadata": {"name": "db"}, "spec": {"clusterIP": "None", "selector": {"app": "db"}, "ports": [{"port": 6379}]}});
    services
        .create(
            &PostParams::default(),
            &serde_json::from_value(service).unwrap(),
        )
        .await
        .unwrap();
    let set = json!({
        "metadata": {"name": "db"},
        "spec": {
            "replicas": 2, "serviceName": "db", "selector": {"matchLabels": {"app": "db"}},
            "template": {"metadata": {"labels": {"app": "db"}}, "spec": {"terminationGracePeriodSeconds": 5, "containers": [{
                "name": "redis", "image": "redis:7", "args": ["--protected-mode", "no", "--dir", "/data", "--appendonly", "yes"],
                "ports": [{"name": "redis", "containerPort": 6379}],
                "readinessProbe": {"exec": {"command": ["redis-cli", "ping"]}},
                "volumeMounts": [{"name": "data", "mountPath": "/data"}],
            }]}},
            "volumeClaimTemplates": [{"metadata": {"name": "data"},
                "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}}],
        },
    });
    sets.create(
        &PostParams::default(),
        &serde_json::from_value(set).unwrap(),
    )
    .await
    .unwrap();
    ready(&pods, "db-0").await;
    ready(&pods, "db-1").await;

    // Names, exit codes, the API server as pods see it.
    soon("the name of db-1", async {
        while output(
            &pods,
            "db-0",
            &["redis-cli", "-h", "db-1.db", "set", "a", "b"],
        )
        .await
        .0 != "OK\n"
        {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    assert_eq!(
        output(&pods, "db-0", &["sh", "-c", "echo oops >&2; exit 3"]).await,
        ("oops\n".to_owned(), Some(3))
    );
    let reach = "exec 3<>/dev/tcp/kubernetes.default.svc/443 && echo connected";
    assert_eq!(
        output(&pods, "db-0", &["bash", "-c", reach]).await.0,
        "connected\n"
    );

    interact(&pods).await;
    let log = pods
        .logs(
            "db-1",
            &LogParams {
                tail_lines: Some(3),
                ..LogParams::default()
            },
        )
        .await
        .unwrap();
    assert!(log.contains("Ready to accept connections"), "{log}");
    let mut forwarder = pods.portforward("db-1", &[6379]).await.unwrap();
    let mut stream = forwarder.take_stream(6379).unwrap();
    stream.write_all(b"GET a\r\n").await.unwrap();
    let mut answer = [0; 7];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"$1\r\nb\r\n");
    drop(stream);

    // The volume stays with its name when the pod is replaced.
    let before = pods.get("db-1").await.unwrap().uid().unwrap();
    pods.delete("db-1", &DeleteParams::default()).await.unwrap();
    let replaced =
        move |pod: Option<&Pod>| pod.is_some_and(|pod| pod.uid().is_some_and(|uid| uid != before));
    soon(
        "a new db-1",
        await_condition(pods.clone(), "db-1", replaced),
    )
    .await
    .unwrap();
    ready(&pods, "db-1").await;
    assert_eq!(
        output(&pods, "db-1", &["redis-cli", "get", "a"]).await.0,
        "b\n"
    );

    sets.delete("db", &DeleteParams::default()).await.unwrap();
    for name in ["db-0", "db-1"] {
        soon(name, async {
            while pods.get_opt(name).await.unwrap().is_some() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await;
    }
    cluster.shutdown().await.unwrap();
}

async fn interact(pods: &Api<Pod>) {
    let params = AttachParams::default().stdin(true).stderr(false);
    let mut process = pods.exec("db-0", ["redis-cli"], &params).await.unwrap();
    let mut stdin = process.stdin().unwrap();
    let mut stdout = process.stdout().unwrap();
    stdin.write_all(b"echo hello\n").await.unwrap();
    stdin.shutdown().await.unwrap();
    drop(stdin);
    let mut text = String::new();
    soon("the end of redis-cli", stdout.read_to_string(&mut text))
        .await
        .unwrap();
    assert_eq!(text, "hello\n");

    let mut process = pods
        .exec("db-0", ["sh"], &AttachParams::interactive_tty())
        .await
        .unwrap();
    let mut sizes = process.terminal_size().unwrap();
    futures::SinkExt::send(
        &mut sizes,
        TerminalSize {
            width: 99,
            height: 21,
        },
    )
    .await
    .unwrap();
    let mut stdin = process.stdin().unwrap();
    let mut stdout = process.stdout().unwrap();
    let mut text = String::new();
    let mut buffer = [0; 1024];
    soon("the terminal's size", async {
        while !text.contains("21 99") {
            stdin.write_all(b"stty size\n").await.unwrap();
            let count = stdout.read(&mut buffer).await.unwrap();
            text.push_str(&String::from_utf8_lossy(&buffer[..count]));
        }
    })
    .await;
}
