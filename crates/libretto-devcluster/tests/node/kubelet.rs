//! Pods through the API: what a kubelet does, seen from the objects.

use std::{
    path::PathBuf,
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::StreamExt as _;
use libretto_devcluster::{
    api::{
        Api, DeleteOptions, EVENTS, Gvr, ListOptions, PODS, Patch, SERVICES, Subresource,
        WriteOptions,
    },
    node::{Driver, ExecRequest, LogOptions, Node, NodeOptions},
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::changes::{
    a_changed_image_restarts_the_container, a_container_is_ready_after_its_hook,
    a_pod_between_init_and_start_goes_on_after_a_restart,
};

pub(crate) const CONFIG_MAPS: Gvr = Gvr::new("", "v1", "configmaps");
const SECRETS: Gvr = Gvr::new("", "v1", "secrets");
const SLICES: Gvr = Gvr::new("discovery.k8s.io", "v1", "endpointslices");
const NODES: Gvr = Gvr::new("", "v1", "nodes");

/// An API server's store and a node on it.
pub(crate) struct Cluster {
    pub(crate) api: Api,
    pub(crate) node: Node,
    directory: Arc<tempfile::TempDir>,
}

impl Cluster {
    pub(crate) async fn start(driver: Driver) -> Self {
        let directory = Arc::new(tempfile::tempdir().unwrap());
        Self::start_on(Api::in_memory(), directory, driver).await
    }

    async fn start_on(api: Api, directory: Arc<tempfile::TempDir>, driver: Driver) -> Self {
        let options = NodeOptions {
            data_dir: directory.path().to_owned(),
            driver,
            images: None,
        };
        let node = Node::start(api.clone(), options).await.unwrap();
        Self {
            api,
            node,
            directory,
        }
    }

    pub(crate) async fn restart(self) -> Self {
        self.node.shutdown(Duration::from_secs(5)).await;
        Self::start_on(self.api, self.directory, Driver::Namespaces).await
    }

    fn pod_directory(&self, pod: &Value) -> PathBuf {
        self.directory
            .path()
            .join("pods")
            .join(pod["metadata"]["uid"].as_str().unwrap())
    }

    pub(crate) fn create(&self, gvr: &Gvr, object: Value) -> Arc<Value> {
        self.api
            .create(gvr, "default", object, &WriteOptions::default())
            .unwrap()
    }

    pub(crate) fn pod(&self, name: &str, mut spec: Value) -> Arc<Value> {
        spec["nodeName"] = self.node.name().into();
        let metadata = json!({"name": name, "labels": {"app": name}});
        self.create(&PODS, json!({"metadata": metadata, "spec": spec}))
    }

    pub(crate) fn shell(&self, name: &str, script: &str) -> Arc<Value> {
        self.pod(name, json!({"containers": [{"name": "c", "image": "busybox", "command": ["sh", "-c", script]}]}))
    }

    /// Waits until the pod looks as wanted and returns it.
    pub(crate) async fn until(
        &self,
        name: &str,
        what: &str,
        wanted: impl Fn(&Value) -> bool,
    ) -> Arc<Value> {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let pod = self.api.get(&PODS, "default", name).unwrap();
            if wanted(&pod) {
                return pod;
            }
            assert!(
                Instant::now() < deadline,
                "{name}: {what}: not within 20 s: {:#}\n{:#?}",
                pod["status"],
                self.events(name)
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    pub(crate) async fn ready(&self, name: &str) -> Arc<Value> {
        self.until(name, "ready", |pod| condition(pod, "Ready") == "True")
            .await
    }

    pub(crate) async fn phase(&self, name: &str, phase: &str) -> Arc<Value> {
        self.until(name, phase, |pod| pod["status"]["phase"] == phase)
            .await
    }

    pub(crate) async fn delete(&self, name: &str, grace: Option<i64>) {
        let options = DeleteOptions {
            grace_period_seconds: grace,
            ..DeleteOptions::default()
        };
        self.api.delete(&PODS, "default", name, &options).unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        while self.api.get(&PODS, "default", name).is_ok() {
            assert!(Instant::now() < deadline, "{name}: not deleted within 20 s");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// `reason: message` of every event about a pod.
    fn events(&self, name: &str) -> Vec<String> {
        let options = ListOptions {
            field_selector: Some(format!("involvedObject.name={name}")),
            ..ListOptions::default()
        };
        let list = self.api.list(&EVENTS, Some("default"), &options).unwrap();
        let text = |event: &Value| {
            format!(
                "{}: {}",
                event["reason"].as_str().unwrap(),
                event["message"].as_str().unwrap()
            )
        };
        list.items.iter().map(|event| text(event)).collect()
    }

    pub(crate) async fn event(&self, name: &str, part: &str) -> String {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let mut events = self.events(name).into_iter();
            if let Some(event) = events.find(|event| event.contains(part)) {
                return event;
            }
            assert!(
                Instant::now() < deadline,
                "{name}: no event {part:?}: {:#?}",
                self.events(name)
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn logs(&self, name: &str, options: LogOptions) -> String {
        let stream = self.node.logs("default", name, options).await.unwrap();
        let chunks = stream.map(Result::unwrap).collect::<Vec<_>>().await;
        String::from_utf8(chunks.concat()).unwrap()
    }

    pub(crate) async fn exec(&self, name: &str, command: &[&str]) -> (i32, String) {
        let request = ExecRequest {
            command: command.iter().map(|word| (*word).to_owned()).collect(),
            stdout: true,
            stderr: true,
            ..ExecRequest::default()
        };
        let mut session = self.node.exec("default", name, request).await.unwrap();
        let (mut out, mut err) = (String::new(), String::new());
        session
            .stdout
            .as_mut()
            .unwrap()
            .read_to_string(&mut out)
            .await
            .unwrap();
        session
            .stderr
            .as_mut()
            .unwrap()
            .read_to_string(&mut err)
            .await
            .unwrap();
        (session.exit.await.unwrap(), out + &err)
    }

    async fn exec_until(&self, name: &str, command: &[&str], expected: &str) {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let (_, text) = self.exec(name, command).await;
            if text.trim() == expected {
                return;
            }
            assert!(
                Instant::now() < deadline,
                "{command:?}: {text:?} instead of {expected:?}"
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

pub(crate) fn condition<'a>(pod: &'a Value, kind: &str) -> &'a str {
    let conditions = pod["status"]["conditions"].as_array();
    conditions
        .and_then(|list| list.iter().find(|condition| condition["type"] == kind))
        .and_then(|condition| condition["status"].as_str())
        .unwrap_or_default()
}

pub(crate) fn container(pod: &Value) -> &Value {
    &pod["status"]["containerStatuses"][0]
}

pub(crate) fn run(filters: &[String]) -> ExitCode {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let cluster = runtime.block_on(Cluster::start(Driver::Namespaces));
    macro_rules! cases {
        ($($name:ident),* $(,)?) => {
            $(
                let name = stringify!($name);
                if filters.is_empty() || filters.iter().any(|filter| name.contains(filter.as_str())) {
                    let started = Instant::now();
                    runtime.block_on($name(&cluster));
                    println!("  {name}: ok ({:.0?})", started.elapsed());
                }
            )*
        };
    }
    cases!(
        the_node_is_registered,
        a_redis_pod_lives_and_dies,
        volumes_wait_for_their_objects_and_follow_them,
        a_crashing_container_backs_off,
        init_containers_and_sidecars_run_in_order,
        a_failing_liveness_probe_restarts,
        images_that_do_not_exist_say_so,
        the_grace_period_is_given_and_ends,
        services_and_names_work_from_inside,
        commands_have_terminals_and_input,
        what_cannot_be_honoured_is_refused,
        a_deadline_ends_a_pod,
        a_changed_image_restarts_the_container,
        a_container_is_ready_after_its_hook,
    );
    runtime.block_on(async {
        cluster.node.shutdown(Duration::from_secs(2)).await;
        macro_rules! restarts {
            ($($name:ident),*) => {
                $(
                    let name = stringify!($name);
                    if filters.is_empty() || filters.iter().any(|filter| name.contains(filter.as_str())) {
                        let started = Instant::now();
                        $name().await;
                        println!("  {name}: ok ({:.0?})", started.elapsed());
                    }
                )*
            };
        }
        restarts!(
            a_restart_brings_pods_back,
            a_pod_between_init_and_start_goes_on_after_a_restart
        );
    });
    ExitCode::SUCCESS
}

async fn the_node_is_registered(cluster: &Cluster) {
    let node = cluster.api.get(&NODES, "", cluster.node.name()).unwrap();
    assert_eq!(condition(&node, "Ready"), "True");
    assert_eq!(node["status"]["addresses"][0]["address"], "10.66.0.1");
    assert!(
        node["status"]["allocatable"]["memory"]
            .as_str()
            .unwrap()
            .ends_with("Ki")
    );
    assert_eq!(
        node["metadata"]["annotations"]["libretto.dev/pod-driver"],
        "namespaces"
    );
}

async fn a_redis_pod_lives_and_dies(cluster: &Cluster) {
    cluster.create(&CONFIG_MAPS, json!({"metadata": {"name": "redis"}, "data": {"redis.conf": "port 7001\ndir /data\nappendonly yes\nprotected-mode no\n"}}));
    cluster.create(
        &SECRETS,
        json!({"metadata": {"name": "redis"}, "stringData": {"password": "hunter2"}}),
    );
    let probe = |period: u32| json!({"exec": {"command": ["sh", "-c", "redis-cli -p 7001 -a $PASSWORD ping | grep PONG"]}, "periodSeconds": period});
    let started = Instant::now();
    let pod = cluster.pod(
        "redis-0",
        json!({
            "containers": [{
                "name": "redis", "image": "redis:5.0.4-alpine",
                "command": ["redis-server", "/etc/redis/redis.conf", "--requirepass", "$(PASSWORD)"],
                "env": [{"name": "PASSWORD", "valueFrom": {"secretKeyRef": {"name": "redis", "key": "password"}}}],
                "readinessProbe": probe(10), "livenessProbe": probe(10), "startupProbe": probe(1),
                "volumeMounts": [{"name": "config", "mountPath": "/etc/redis"}, {"name": "data", "mountPath": "/data"}],
            }],
            "volumes": [{"name": "config", "configMap": {"name": "redis"}}, {"name": "data", "emptyDir": {}}],
        }),
    );
    let ready = cluster.ready("redis-0").await;
    println!(
        "    from the Pod object to Ready with three exec probes: {:.0?}",
        started.elapsed()
    );
    let directory = cluster.pod_directory(&pod);
    let status = container(&ready);
    assert!(
        status["imageID"]
            .as_str()
            .unwrap()
            .starts_with("host:redis-server "),
        "{status}"
    );
    assert_eq!(
        (&status["started"], &status["restartCount"]),
        (&json!(true), &json!(0))
    );
    assert_eq!(ready["status"]["phase"], "Running");
    cluster
        .event(
            "redis-0",
            "image redis:5.0.4-alpine is answered by this machine's redis-server",
        )
        .await;
    let address = ready["status"]["podIP"].as_str().unwrap();
    let mut stream = TcpStream::connect((address, 7001)).await.unwrap();
    stream
        .write_all(b"AUTH hunter2\r\nSET a b\r\n")
        .await
        .unwrap();
    let mut answer = [0; 10];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"+OK\r\n+OK\r\n");
    let mut forwarded = cluster
        .node
        .port_forward("default", "redis-0", 7001)
        .await
        .unwrap();
    forwarded.write_all(b"PING\r\n").await.unwrap();
    let mut answer = [0; 8];
    forwarded.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"-NOAUTH ");
    assert!(directory.join("volumes/data/appendonlydir").is_dir());
    assert!(
        cluster
            .logs("redis-0", LogOptions::default())
            .await
            .contains("Ready to accept connections")
    );
    // Nothing changes, nothing is written.
    let revision = cluster.api.revision();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(
        cluster.api.revision(),
        revision,
        "a converged pod causes no writes"
    );
    cluster.delete("redis-0", None).await;
    assert!(!directory.exists());
    cluster
        .event("redis-0", "Killing: Stopping container redis")
        .await;
}

async fn volumes_wait_for_their_objects_and_follow_them(cluster: &Cluster) {
    let spec = json!({
        "containers": [{
            "name": "c", "image": "busybox", "command": ["sleep", "1000"],
            "volumeMounts": [
                {"name": "late", "mountPath": "/late"}, {"name": "info", "mountPath": "/info"},
                {"name": "memory", "mountPath": "/memory"}, {"name": "late", "mountPath": "/one", "subPath": "key"},
            ],
        }],
        "volumes": [
            {"name": "late", "projected": {"sources": [
                {"configMap": {"name": "late", "items": [{"key": "key", "path": "key", "mode": 0o400}]}},
                {"secret": {"name": "absent", "optional": true}},
            ]}},
            {"name": "info", "downwardAPI": {"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}},
            {"name": "memory", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
        ],
    });
    cluster.pod("late", spec);
    cluster.event("late", "FailedMount: MountVolume.SetUp failed for volume \"late\": configmap \"late\" not found").await;
    cluster
        .until("late", "creating", |pod| {
            container(pod)["state"]["waiting"]["reason"] == "ContainerCreating"
        })
        .await;
    cluster.create(
        &CONFIG_MAPS,
        json!({"metadata": {"name": "late"}, "data": {"key": "first", "other": "x"}}),
    );
    cluster.ready("late").await;
    let (_, text) = cluster
        .exec(
            "late",
            &[
                "sh",
                "-c",
                "cat /late/key /one; ls /late; stat -fc %T /memory",
            ],
        )
        .await;
    assert_eq!(text, "firstfirstkey\ntmpfs\n");
    assert_ne!(
        cluster
            .exec(
                "late",
                &["sh", "-c", "head -c 2000000 /dev/zero > /memory/x"]
            )
            .await
            .0,
        0
    );
    let patch = |gvr: &Gvr, body: Value| {
        let options = WriteOptions::default();
        cluster
            .api
            .patch(
                gvr,
                "default",
                "late",
                Subresource::None,
                Patch::Merge(body),
                &options,
            )
            .unwrap();
    };
    patch(&CONFIG_MAPS, json!({"data": {"key": "second"}}));
    cluster
        .exec_until("late", &["cat", "/late/key"], "second")
        .await;
    // As in Kubernetes, a subPath does not follow.
    cluster.exec_until("late", &["cat", "/one"], "first").await;
    patch(&PODS, json!({"metadata": {"labels": {"new": "yes"}}}));
    cluster
        .exec_until(
            "late",
            &["cat", "/info/labels"],
            "app=\"late\"\nnew=\"yes\"",
        )
        .await;
    cluster.delete("late", Some(0)).await;
}

async fn a_crashing_container_backs_off(cluster: &Cluster) {
    cluster.shell(
        "crash",
        "echo start $$$$; echo last words > /dev/termination-log; exit 3",
    );
    let pod = cluster
        .until("crash", "in back-off", |pod| {
            container(pod)["state"]["waiting"]["reason"] == "CrashLoopBackOff"
                && container(pod)["restartCount"] == 1
        })
        .await;
    let last = &container(&pod)["lastState"]["terminated"];
    assert_eq!(
        (&last["exitCode"], &last["reason"], &last["message"]),
        (&json!(3), &json!("Error"), &json!("last words\n"))
    );
    assert_eq!(condition(&pod, "Ready"), "False");
    cluster
        .event(
            "crash",
            "BackOff: Back-off restarting failed container c in pod crash",
        )
        .await;
    let previous = LogOptions {
        previous: true,
        ..LogOptions::default()
    };
    assert_eq!(cluster.logs("crash", previous).await, "start 1\n");
    cluster.delete("crash", None).await;
}

async fn init_containers_and_sidecars_run_in_order(cluster: &Cluster) {
    let shell = |name: &str, script: &str| {
        json!({"name": name, "image": "busybox", "command": ["sh", "-c", script],
        "volumeMounts": [{"name": "work", "mountPath": "/work"}]})
    };
    let mut sidecar = shell(
        "side",
        "echo side >> /work/order; trap 'echo side ended; exit 0' TERM; touch /work/up; while :; do sleep 0.01; done",
    );
    sidecar["restartPolicy"] = "Always".into();
    sidecar["startupProbe"] =
        json!({"exec": {"command": ["test", "-e", "/work/up"]}, "periodSeconds": 1});
    cluster.pod(
        "ordered",
        json!({
            "restartPolicy": "Never",
            "initContainers": [shell("first", "echo first >> /work/order"), sidecar, shell("second", "echo second >> /work/order")],
            "containers": [shell("main", "echo main >> /work/order; cat /work/order")],
            "volumes": [{"name": "work", "emptyDir": {}}],
        }),
    );
    let pod = cluster.phase("ordered", "Succeeded").await;
    let log = |name: &str| LogOptions {
        container: Some(name.to_owned()),
        ..LogOptions::default()
    };
    assert_eq!(
        cluster.logs("ordered", log("main")).await,
        "first\nside\nsecond\nmain\n"
    );
    cluster
        .until("ordered", "sidecar ended", |pod| {
            pod["status"]["initContainerStatuses"][1]["state"]["terminated"]["exitCode"] == 0
        })
        .await;
    assert_eq!(cluster.logs("ordered", log("side")).await, "side ended\n");
    assert_eq!(condition(&pod, "Initialized"), "True");
    cluster.delete("ordered", None).await;
    cluster.pod(
        "uninitialized",
        json!({"restartPolicy": "Never", "initContainers": [shell("first", "exit 4")], "containers": [shell("main", "true")],
            "volumes": [{"name": "work", "emptyDir": {}}]}),
    );
    cluster.phase("uninitialized", "Failed").await;
    cluster.delete("uninitialized", None).await;
}

async fn a_failing_liveness_probe_restarts(cluster: &Cluster) {
    let mut container_spec = json!({"name": "c", "image": "busybox", "command": ["sh", "-c", "test -e /state/once && rm -f /state/sick; touch /state/once; exec sleep 1000"],
        "volumeMounts": [{"name": "state", "mountPath": "/state"}]});
    container_spec["livenessProbe"] = json!({"exec": {"command": ["sh", "-c", "echo checked; ! test -e /state/sick"]}, "periodSeconds": 1, "failureThreshold": 1, "terminationGracePeriodSeconds": 1});
    cluster.pod(
        "sick",
        json!({"containers": [container_spec], "volumes": [{"name": "state", "emptyDir": {}}]}),
    );
    cluster.ready("sick").await;
    assert_eq!(cluster.exec("sick", &["touch", "/state/sick"]).await.0, 0);
    cluster
        .until("sick", "restarted", |pod| {
            container(pod)["restartCount"] == 1 && condition(pod, "Ready") == "True"
        })
        .await;
    cluster
        .event(
            "sick",
            "Unhealthy: Liveness probe failed: command exited with 1: checked",
        )
        .await;
    cluster
        .event(
            "sick",
            "Killing: Container c failed liveness probe, will be restarted",
        )
        .await;
    cluster.delete("sick", Some(0)).await;
}

async fn images_that_do_not_exist_say_so(cluster: &Cluster) {
    cluster.pod(
        "unknown",
        json!({"containers": [{"name": "c", "image": "registry.example/none:1"}]}),
    );
    cluster.event("unknown", "Failed to pull image \"registry.example/none:1\": image \"registry.example/none:1\" is not in the catalogue").await;
    cluster
        .until("unknown", "in pull back-off", |pod| {
            container(pod)["state"]["waiting"]["reason"] == "ImagePullBackOff"
        })
        .await;
    cluster.delete("unknown", None).await;
    let missing = json!({"containers": [{"name": "c", "image": "busybox", "command": ["no-such-command"]}], "restartPolicy": "Never"});
    cluster.pod("uncommanded", missing);
    let pod = cluster.phase("uncommanded", "Failed").await;
    let end = &container(&pod)["state"]["terminated"];
    assert_eq!(end["reason"], "StartError");
    assert!(
        end["message"]
            .as_str()
            .unwrap()
            .contains("executable file not found"),
        "{end}"
    );
    cluster.delete("uncommanded", None).await;
}

async fn the_grace_period_is_given_and_ends(cluster: &Cluster) {
    let script = "trap 'echo asked' TERM; echo up; while :; do sleep 0.01; done";
    let mut stubborn = json!({"name": "c", "image": "busybox", "command": ["sh", "-c", script]});
    stubborn["lifecycle"] =
        json!({"preStop": {"exec": {"command": ["sh", "-c", "echo hook > /proc/1/fd/1"]}}});
    let pod = cluster.pod(
        "stubborn",
        json!({"containers": [stubborn], "terminationGracePeriodSeconds": 1}),
    );
    cluster.ready("stubborn").await;
    let follow = LogOptions {
        follow: true,
        ..LogOptions::default()
    };
    let mut stream = cluster
        .node
        .logs("default", "stubborn", follow)
        .await
        .unwrap();
    let first = stream.next().await.unwrap().unwrap();
    assert_eq!(first, "up\n");
    let started = Instant::now();
    cluster.delete("stubborn", None).await;
    assert!(started.elapsed() >= Duration::from_secs(1));
    let rest = stream
        .map(Result::unwrap)
        .collect::<Vec<_>>()
        .await
        .concat();
    assert_eq!(String::from_utf8(rest).unwrap(), "hook\nasked\n");
    assert!(!cluster.pod_directory(&pod).exists());
}

async fn services_and_names_work_from_inside(cluster: &Cluster) {
    let server = json!({"containers": [{"name": "redis", "image": "redis:7", "args": ["--port", "6400", "--protected-mode", "no", "--save", ""],
        "readinessProbe": {"tcpSocket": {"port": 6400}}}], "hostname": "r-0", "subdomain": "headless"});
    cluster.pod("server", server);
    let ready = cluster.ready("server").await;
    let address = ready["status"]["podIP"].as_str().unwrap();
    let service = |name: &str, ip: &str| {
        json!({"metadata": {"name": name}, "spec": {"clusterIP": ip, "selector": {"app": "server"},
        "ports": [{"name": "redis", "port": 6379, "targetPort": 6400}]}})
    };
    cluster.create(&SERVICES, service("vip", "10.96.3.3"));
    cluster.create(&SERVICES, service("headless", "None"));
    for name in ["vip", "headless"] {
        cluster.create(
            &SLICES,
            json!({"metadata": {"name": format!("{name}-1"), "labels": {"kubernetes.io/service-name": name}}, "addressType": "IPv4",
                "ports": [{"name": "redis", "port": 6400, "protocol": "TCP"}],
                "endpoints": [{"addresses": [address], "hostname": "r-0", "conditions": {"ready": true}}]}),
        );
    }
    cluster.shell("client", "exec sleep 1000");
    cluster.ready("client").await;
    cluster
        .exec_until(
            "client",
            &["redis-cli", "-h", "vip", "-p", "6379", "ping"],
            "PONG",
        )
        .await;
    for (name, expected) in [
        ("vip", "10.96.3.3"),
        ("vip.default.svc.cluster.local", "10.96.3.3"),
        ("headless.default", address),
        ("r-0.headless", address),
        (
            format!("{}.default.pod.cluster.local", address.replace('.', "-")).as_str(),
            address,
        ),
    ] {
        let (code, text) = cluster.exec("client", &["getent", "ahostsv4", name]).await;
        assert!(
            code == 0 && text.starts_with(expected),
            "{name}: {code} {text}"
        );
    }
    let started = Instant::now();
    assert_ne!(
        cluster
            .exec("client", &["getent", "hosts", "example.org"])
            .await
            .0,
        0
    );
    assert!(
        started.elapsed() < Duration::from_secs(2),
        "names of other domains are refused at once"
    );
    let (_, text) = cluster
        .exec("server", &["sh", "-c", "hostname; hostname -f"])
        .await;
    assert_eq!(text, "r-0\nr-0.headless.default.svc.cluster.local\n");
    let variables = cluster.shell(
        "variables",
        "echo $VIP_SERVICE_HOST:$VIP_SERVICE_PORT_REDIS; exec sleep 1000",
    );
    cluster.ready("variables").await;
    let follow = LogOptions {
        follow: true,
        ..LogOptions::default()
    };
    let mut log = cluster
        .node
        .logs("default", "variables", follow)
        .await
        .unwrap();
    assert_eq!(
        log.next().await.unwrap().unwrap(),
        "10.96.3.3:6379\n",
        "{variables}"
    );
    drop(log);
    // Nothing ready behind it: refused at once.
    let patch = Patch::Merge(json!({"endpoints": []}));
    cluster
        .api
        .patch(
            &SLICES,
            "default",
            "vip-1",
            Subresource::None,
            patch,
            &WriteOptions::default(),
        )
        .unwrap();
    cluster
        .exec_until(
            "client",
            &["redis-cli", "-h", "10.96.3.3", "ping"],
            "Could not connect to Redis at 10.96.3.3:6379: Connection refused",
        )
        .await;
    for name in ["server", "client", "variables"] {
        cluster.delete(name, Some(0)).await;
    }
}

async fn commands_have_terminals_and_input(cluster: &Cluster) {
    cluster.shell("shell", "exec sleep 1000");
    cluster.ready("shell").await;
    let request = |tty: bool, command: &[&str]| ExecRequest {
        command: command.iter().map(|word| (*word).to_owned()).collect(),
        stdin: true,
        stdout: true,
        stderr: !tty,
        tty,
        container: None,
    };
    let mut session = cluster
        .node
        .exec("default", "shell", request(false, &["cat"]))
        .await
        .unwrap();
    let mut stdin = session.stdin.take().unwrap();
    stdin.write_all(b"hello").await.unwrap();
    drop(stdin);
    let mut text = String::new();
    session
        .stdout
        .take()
        .unwrap()
        .read_to_string(&mut text)
        .await
        .unwrap();
    assert_eq!((text.as_str(), session.exit.await.unwrap()), ("hello", 0));
    let mut session = cluster
        .node
        .exec("default", "shell", request(true, &["sh"]))
        .await
        .unwrap();
    session.resize.send((132, 43)).await.unwrap();
    let mut stdin = session.stdin.take().unwrap();
    let mut stdout = session.stdout.take().unwrap();
    let mut text = String::new();
    let mut buffer = [0; 1024];
    let deadline = Instant::now() + Duration::from_secs(20);
    while !text.contains("43 132") {
        assert!(Instant::now() < deadline, "{text}");
        stdin.write_all(b"stty size\n").await.unwrap();
        let count = stdout.read(&mut buffer).await.unwrap();
        text.push_str(&String::from_utf8_lossy(&buffer[..count]));
    }
    stdin.write_all(b"exit 6\n").await.unwrap();
    while stdout.read(&mut buffer).await.unwrap() > 0 {}
    assert_eq!(session.exit.await.unwrap(), 6);
    let error = cluster
        .node
        .exec(
            "default",
            "shell",
            ExecRequest {
                container: Some("x".into()),
                ..request(false, &["true"])
            },
        )
        .await
        .unwrap_err();
    assert_eq!(
        (error.code, error.message.as_str()),
        (400, "container x is not valid for pod shell")
    );
    cluster.delete("shell", Some(0)).await;
}

async fn what_cannot_be_honoured_is_refused(cluster: &Cluster) {
    let with = |extra: Value| {
        let mut spec = json!({"containers": [{"name": "c", "image": "busybox", "command": ["sleep", "1000"]}]});
        for (key, value) in extra.as_object().unwrap() {
            if key == "securityContext" {
                spec["containers"][0][key] = value.clone();
            } else {
                spec[key] = value.clone();
            }
        }
        spec
    };
    for (name, extra, message) in [
        (
            "host-path",
            json!({"volumes": [{"name": "v", "hostPath": {"path": "/etc"}}]}),
            "volumes of type hostPath are not supported",
        ),
        (
            "privileged",
            json!({"securityContext": {"privileged": true}}),
            "privileged containers are not run on this node",
        ),
        (
            "host-pid",
            json!({"hostPID": true}),
            "hostPID is not supported",
        ),
        (
            "admin",
            json!({"securityContext": {"capabilities": {"add": ["SYS_ADMIN"]}}}),
            "capability SYS_ADMIN is not given",
        ),
    ] {
        cluster.pod(name, with(extra));
        cluster.event(name, message).await;
        assert_eq!(
            cluster.api.get(&PODS, "default", name).unwrap()["status"]["phase"],
            "Pending"
        );
        cluster.delete(name, None).await;
    }
}

async fn a_deadline_ends_a_pod(cluster: &Cluster) {
    let spec = json!({"activeDeadlineSeconds": 1, "terminationGracePeriodSeconds": 0,
        "containers": [{"name": "c", "image": "busybox", "command": ["sleep", "1000"]}]});
    cluster.pod("deadline", spec);
    let pod = cluster.phase("deadline", "Failed").await;
    assert_eq!(pod["status"]["reason"], "DeadlineExceeded");
    cluster.delete("deadline", None).await;
}

async fn a_restart_brings_pods_back() {
    let cluster = Cluster::start(Driver::Namespaces).await;
    let script = "date +%N >> /keep/starts; exec sleep 1000";
    let pod = cluster.pod(
        "kept",
        json!({"containers": [{"name": "c", "image": "busybox", "command": ["sh", "-c", script], "volumeMounts": [{"name": "keep", "mountPath": "/keep"}]}],
            "terminationGracePeriodSeconds": 0, "volumes": [{"name": "keep", "emptyDir": {}}]}),
    );
    let job = json!({"restartPolicy": "Never", "terminationGracePeriodSeconds": 0, "containers": [{"name": "c", "image": "busybox", "command": ["sleep", "1000"]}]});
    cluster.pod("job", job);
    let done = json!({"restartPolicy": "Never", "containers": [{"name": "c", "image": "busybox", "command": ["echo", "done"]}]});
    cluster.pod("done", done);
    let done = cluster
        .until("done", "done and its sandbox gone", |pod| {
            pod["status"]["phase"] == "Succeeded"
                && condition(pod, "PodReadyToStartContainers") == "False"
        })
        .await;
    let removed = cluster.shell("removed", "exec sleep 1000");
    let before = cluster.ready("kept").await;
    cluster.ready("job").await;
    cluster.ready("removed").await;
    cluster.node.shutdown(Duration::from_secs(1)).await;
    let options = DeleteOptions {
        grace_period_seconds: Some(0),
        ..DeleteOptions::default()
    };
    cluster
        .api
        .delete(&PODS, "default", "removed", &options)
        .unwrap();
    assert!(cluster.pod_directory(&removed).exists());
    let cluster = cluster.restart().await;
    let after = cluster
        .until("kept", "running again", |pod| {
            container(pod)["restartCount"] == 1 && condition(pod, "Ready") == "True"
        })
        .await;
    assert_eq!(
        after["status"]["podIPs"],
        json!([{"ip": after["status"]["podIP"]}])
    );
    assert_ne!(
        after["status"]["podIP"], before["status"]["podIP"],
        "addresses are not used again at once"
    );
    assert_eq!(after["metadata"]["uid"], before["metadata"]["uid"]);
    let (_, starts) = cluster.exec("kept", &["wc", "-l", "/keep/starts"]).await;
    assert_eq!(
        starts.split_whitespace().next().unwrap(),
        "2",
        "an emptyDir lives as long as its pod"
    );
    cluster.phase("job", "Failed").await;
    let still = cluster.api.get(&PODS, "default", "done").unwrap();
    assert_eq!(still["status"], done["status"]);
    assert_eq!(cluster.logs("done", LogOptions::default()).await, "done\n");
    cluster.delete("done", None).await;
    assert!(!cluster.pod_directory(&removed).exists());
    assert!(cluster.pod_directory(&pod).exists());
    cluster.node.shutdown(Duration::from_secs(1)).await;
}

/// The process driver, outside all namespaces.
pub(crate) fn fallback() -> ExitCode {
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let cluster = Cluster::start(Driver::Auto).await;
        cluster.create(&CONFIG_MAPS, json!({"metadata": {"name": "sentinel"}, "data": {"sentinel.conf": "port 26379\ndir /data\nsentinel monitor mymaster MASTER 6379 1\n"}}));
        let volumes = json!([{"name": "config", "configMap": {"name": "sentinel"}}, {"name": "data", "emptyDir": {}}]);
        let env = json!([{"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}]);
        let probe = |port: u16| json!({"exec": {"command": ["sh", "-c", format!("redis-cli -h $POD_IP -p {port} ping | grep PONG")]}});
        let mounts = json!([{"name": "config", "mountPath": "/config"}, {"name": "data", "mountPath": "/data"}]);
        cluster.pod("redis", json!({"volumes": volumes, "containers": [{"name": "redis", "image": "redis:7",
            "command": ["redis-server", "--bind", "$(POD_IP)", "--dir", "/data", "--appendonly", "yes", "--protected-mode", "no"],
            "env": env, "volumeMounts": mounts, "readinessProbe": probe(6379)}]}));
        let redis = cluster.ready("redis").await;
        let address = redis["status"]["podIP"].as_str().unwrap().to_owned();
        assert!(address.starts_with("127.66."), "{address}");
        let script = format!("sed s/MASTER/{address}/ /config/sentinel.conf > /data/s.conf && exec redis-server /data/s.conf --sentinel --bind $POD_IP");
        cluster.pod("sentinel", json!({"volumes": volumes, "containers": [{"name": "sentinel", "image": "redis:7",
            "command": ["sh", "-c", script], "env": env, "volumeMounts": mounts, "readinessProbe": probe(26379)}]}));
        let sentinel = cluster.ready("sentinel").await;
        let host = sentinel["status"]["podIP"].as_str().unwrap();
        let told = json!({"restartPolicy": "Never", "securityContext": {"runAsUser": 1234, "fsGroup": 0},
            "containers": [{"name": "c", "image": "busybox", "command": ["sh", "-c", "echo $POD_IP"]}]});
        cluster.pod("told", told);
        let told = cluster.phase("told", "Succeeded").await;
        let own = told["status"]["podIP"].as_str().unwrap();
        assert_eq!(cluster.logs("told", LogOptions::default()).await, format!("{own}\n"));
        let ignored = cluster.event("told", "SecurityContextIgnored").await;
        assert!(ignored.contains("runAsUser cannot be honoured"), "{ignored}");
        cluster.delete("told", None).await;
        let (_, text) = cluster.exec("sentinel", &["redis-cli", "-h", host, "-p", "26379", "sentinel", "get-master-addr-by-name", "mymaster"]).await;
        assert_eq!(text, format!("{address}\n6379\n"));
        assert!(cluster.pod_directory(&redis).join("volumes/data/appendonlydir").is_dir());
        cluster.event("redis", "NotIsolated").await;
        cluster.delete("redis", None).await;
        cluster.delete("sentinel", None).await;
        cluster.node.shutdown(Duration::from_secs(1)).await;
    });
    ExitCode::SUCCESS
}
