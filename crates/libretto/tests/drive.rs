#![allow(clippy::unwrap_used)]
//! The whole loop with a small package: a real API server, a real Redis, the real engine.

mod common;

use std::{
    collections::BTreeMap,
    net::TcpListener,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use common::{Cluster, reference};
use kube::api::{Patch, PatchParams};
use libretto::{
    process::Process,
    rehearsal::Rehearsal,
    runtime::{Options, Runtime},
    share::Share,
};
use libretto_engine::Compiled;
use libretto_mirror::ScopeMode;
use serde_json::{Value, json};

const PACKAGE: &str = r#"
apiVersion: libretto.dev/v1alpha1
kind: Package
metadata: {name: things, version: 0.1.0}
spec:
  crd:
    file: crd.yaml
    version: v1
    fields:
      value: {path: spec.value, type: string, default: none}
      port:  {path: spec.port, type: int, default: 0}
  sense:
    maps:
      watch: v1/ConfigMap
      cols: {value: data.value}
    memory:
      probe: redis
      for: SELECT 'redis' AS key, :port AS port WHERE :port > 0
      every: 1h
      timeout: 2s
      with: {host: 127.0.0.1, port: "{{ port }}", command: [CONFIG, GET, maxmemory]}
      cols: {maxmemory: {path: maxmemory, type: int}}
  decide:
    wrong: SELECT key, :port AS port FROM memory WHERE ok AND maxmemory <> 1048576
  execute:
    - name: objects
      apply:
        apiVersion: v1
        kind: ConfigMap
        metadata: {name: "{{ cr.name }}-map", labels: {kind: thing}}
        data: {value: "{{ cr.value }}"}
    - name: limit
      for: SELECT key, port FROM wrong
      repeat: 1m
      call: redis
      with: {host: 127.0.0.1, port: "{{ port }}", command: [CONFIG, SET, maxmemory, "1048576"]}
      event: {type: Normal, reason: Limited, message: "memory is limited"}
    - name: state
      status:
        fields: "SELECT (SELECT value FROM maps) AS value, (SELECT count(*) FROM wrong) AS wrong"
    - name: gauge
      metric: {name: things_wrong, help: Redis servers with a wrong limit, value: "SELECT count(*) AS value FROM wrong"}
"#;

const CRD: &str = r#"
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: things.example.dev}
spec:
  group: example.dev
  scope: Namespaced
  names: {kind: Thing, plural: things, singular: thing, listKind: ThingList}
  versions:
    - name: v1
      served: true
      storage: true
      subresources: {status: {}}
      schema:
        openAPIV3Schema:
          type: object
          properties:
            spec: {type: object, x-kubernetes-preserve-unknown-fields: true}
            status: {type: object, x-kubernetes-preserve-unknown-fields: true}
"#;

fn package() -> Arc<Compiled> {
    compiled(PACKAGE)
}

fn compiled(text: &str) -> Arc<Compiled> {
    let files = BTreeMap::from([
        ("package.yaml".to_owned(), text.to_owned()),
        ("crd.yaml".to_owned(), CRD.to_owned()),
    ]);
    match libretto_engine::load_files(&files) {
        Ok(package) => Arc::new(package),
        Err(diagnostics) => panic!("{}", libretto_engine::render(&diagnostics)),
    }
}

async fn runtime(cluster: &Cluster) -> Runtime {
    runtime_of(cluster, package()).await
}

async fn runtime_of(cluster: &Cluster, package: Arc<Compiled>) -> Runtime {
    let options = options(package, None);
    Runtime::start(&Process::start(Vec::new()), cluster.client.clone(), options)
        .await
        .unwrap()
}

fn options(package: Arc<Compiled>, rehearsal: Option<Rehearsal>) -> Options {
    Options {
        packages: vec![package],
        scope: ScopeMode::Any,
        namespace: None,
        install: true,
        helm: "helm".into(),
        loopback: true,
        allowed: None,
        rehearsal,
        share: Share::default(),
    }
}

async fn thing(cluster: &Cluster, spec: Value) {
    let object = json!({"apiVersion": "example.dev/v1", "kind": "Thing", "metadata": {"name": "t", "namespace": "default"}, "spec": spec});
    let params = PatchParams::apply("user");
    cluster
        .kube
        .patch(
            &reference("example.dev/v1/Thing", "t"),
            None,
            &params,
            &Patch::Apply(&object),
        )
        .await
        .unwrap();
}

/// Waits until the object satisfies the condition, and returns it.
async fn eventually(
    cluster: &Cluster,
    gvk: &str,
    name: &str,
    what: &str,
    holds: impl Fn(&Value) -> bool,
) -> Value {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let live = cluster.get(gvk, name).await.unwrap_or_default();
        if holds(&live) {
            return live;
        }
        assert!(Instant::now() < deadline, "{what}: {live:#}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn settled(runtime: &Runtime) {
    let deadline = Instant::now() + Duration::from_secs(20);
    let gvk = "example.dev/v1/Thing".parse().unwrap();
    loop {
        let standing = runtime.driver().standing(&gvk, "default", "t");
        if standing.as_ref().is_some_and(|standing| standing.settled)
            && runtime.driver().queue.depth() + runtime.driver().queue.running() == 0
        {
            return;
        }
        assert!(Instant::now() < deadline, "{standing:#?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The newest resourceVersion of the whole cluster: it moves with every write.
async fn version(cluster: &Cluster) -> String {
    let gvk = "v1/Namespace".parse().unwrap();
    let list = cluster
        .kube
        .list(&gvk, "", &kube::api::ListParams::default())
        .await
        .unwrap();
    list["metadata"]["resourceVersion"]
        .as_str()
        .unwrap()
        .to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_follow_the_instance_and_drift_is_repaired() {
    let cluster = Cluster::start().await;
    let runtime = runtime(&cluster).await;
    thing(&cluster, json!({"value": "one"})).await;
    let map = eventually(&cluster, "v1/ConfigMap", "t-map", "applied", |map| {
        map["data"]["value"] == "one"
    })
    .await;
    assert_eq!(map["metadata"]["ownerReferences"][0]["kind"], "Thing");
    assert_eq!(map["metadata"]["labels"]["libretto.dev/package"], "things");
    eventually(&cluster, "example.dev/v1/Thing", "t", "status", |thing| {
        thing["status"]["value"] == "one"
    })
    .await;

    thing(&cluster, json!({"value": "two"})).await;
    eventually(&cluster, "v1/ConfigMap", "t-map", "changed", |map| {
        map["data"]["value"] == "two"
    })
    .await;

    let edit = json!({"data": {"value": "edited"}});
    let target = reference("v1/ConfigMap", "t-map");
    cluster
        .kube
        .patch(&target, None, &PatchParams::default(), &Patch::Merge(&edit))
        .await
        .unwrap();
    eventually(&cluster, "v1/ConfigMap", "t-map", "repaired", |map| {
        map["data"]["value"] == "two"
    })
    .await;

    cluster
        .kube
        .delete(&target, &kube::api::DeleteParams::default())
        .await
        .unwrap();
    eventually(&cluster, "v1/ConfigMap", "t-map", "made again", |map| {
        map["data"]["value"] == "two"
    })
    .await;
    runtime.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_settled_instance_causes_no_write_nor_does_a_restart() {
    let cluster = Cluster::start().await;
    let first = runtime(&cluster).await;
    thing(&cluster, json!({"value": "one"})).await;
    eventually(&cluster, "example.dev/v1/Thing", "t", "status", |thing| {
        thing["status"]["value"] == "one"
    })
    .await;
    settled(&first).await;
    let before = version(&cluster).await;
    first.driver().mark_package("things");
    settled(&first).await;
    first.stop().await;
    assert_eq!(
        version(&cluster).await,
        before,
        "a pass over a settled instance wrote"
    );

    let second = runtime(&cluster).await;
    settled(&second).await;
    second.stop().await;
    assert_eq!(version(&cluster).await, before, "a restart wrote");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kind_that_is_not_served_is_told_and_waited_for() {
    let cluster = Cluster::start().await;
    let gadgets = PACKAGE.replace(
        "    memory:\n",
        "    gadgets: {watch: example.org/v1/Gadget}\n    memory:\n",
    );
    let runtime = runtime_of(&cluster, compiled(&gadgets)).await;
    thing(&cluster, json!({"value": "one"})).await;
    let stalled = |thing: &Value| {
        thing["status"]["conditions"]
            .as_array()
            .into_iter()
            .flatten()
            .find(|condition| condition["type"] == "Stalled")
            .cloned()
            .unwrap_or_default()
    };
    let told = eventually(&cluster, "example.dev/v1/Thing", "t", "told", |thing| {
        stalled(thing)["status"] == "True"
    })
    .await;
    assert_eq!(stalled(&told)["reason"], "KindNotServed");
    assert_eq!(
        stalled(&told)["message"],
        "the cluster serves no example.org/v1/Gadget; is its CustomResourceDefinition installed?"
    );
    let events = cluster
        .kube
        .list(
            &"v1/Event".parse().unwrap(),
            "default",
            &kube::api::ListParams::default(),
        )
        .await
        .unwrap();
    let events: Vec<&Value> = events["items"].as_array().unwrap().iter().collect();
    assert_eq!(events.len(), 1, "{events:#?}");
    assert_eq!(events[0]["reason"], "KindNotServed");

    let definition: Value = json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "gadgets.example.org"},
        "spec": {
            "group": "example.org", "scope": "Namespaced", "names": {"kind": "Gadget", "plural": "gadgets", "singular": "gadget", "listKind": "GadgetList"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object"}}}],
        },
    });
    cluster.create(definition).await;
    eventually(
        &cluster,
        "v1/ConfigMap",
        "t-map",
        "goes on by itself",
        |map| map["data"]["value"] == "one",
    )
    .await;
    eventually(&cluster, "example.dev/v1/Thing", "t", "healed", |thing| {
        stalled(thing)["status"] == "False" && thing["status"]["value"] == "one"
    })
    .await;
    runtime.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn series_and_memory_go_with_the_instance() {
    let cluster = Cluster::start().await;
    let runtime = runtime(&cluster).await;
    thing(&cluster, json!({"value": "one"})).await;
    settled(&runtime).await;
    let gvk = "example.dev/v1/Thing".parse().unwrap();
    let target = reference("example.dev/v1/Thing", "t");
    cluster
        .kube
        .delete(&target, &kube::api::DeleteParams::default())
        .await
        .unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    while runtime.driver().standing(&gvk, "default", "t").is_some() {
        assert!(Instant::now() < deadline, "the instance is still known");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    runtime.stop().await;
}

struct Redis {
    process: Child,
    port: u16,
    _directory: tempfile::TempDir,
}

impl Redis {
    fn start() -> Self {
        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let directory = tempfile::tempdir().unwrap();
        let process = Command::new("redis-server")
            .args([
                "--port",
                &port.to_string(),
                "--bind",
                "127.0.0.1",
                "--save",
                "",
            ])
            .current_dir(&directory)
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server must be installed to run this test");
        let deadline = Instant::now() + Duration::from_secs(10);
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(Instant::now() < deadline, "redis-server does not listen");
            std::thread::yield_now();
        }
        Self {
            process,
            port,
            _directory: directory,
        }
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_probe_sees_is_put_right_and_seen_to_be_right() {
    let redis = Redis::start();
    let cluster = Cluster::start().await;
    let runtime = runtime(&cluster).await;
    thing(&cluster, json!({"value": "one", "port": redis.port})).await;
    // The probe's interval is an hour: only the first probe and the one after the command can have seen it.
    eventually(
        &cluster,
        "example.dev/v1/Thing",
        "t",
        "wrong seen",
        |thing| thing["status"]["wrong"] == 0 && thing["status"]["value"] == "one",
    )
    .await;
    let gvk = "events.k8s.io/v1/Event".parse().unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let events = cluster
            .kube
            .list(&gvk, "default", &kube::api::ListParams::default())
            .await
            .unwrap();
        let limited = events["items"]
            .as_array()
            .unwrap()
            .iter()
            .any(|event| event["reason"] == "Limited");
        let standing =
            runtime
                .driver()
                .standing(&"example.dev/v1/Thing".parse().unwrap(), "default", "t");
        if limited && standing.as_ref().is_some_and(|standing| standing.settled) {
            break;
        }
        assert!(Instant::now() < deadline, "{events:#}\n{standing:#?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let client = redis::Client::open(format!("redis://127.0.0.1:{}", redis.port)).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    let answer: Vec<String> = redis::cmd("CONFIG")
        .arg("GET")
        .arg("maxmemory")
        .query_async(&mut connection)
        .await
        .unwrap();
    assert_eq!(answer, ["maxmemory", "1048576"]);
    runtime.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rehearsal_tells_each_effect_once_and_writes_nothing() {
    let cluster = Cluster::start().await;
    let told: Arc<std::sync::Mutex<Vec<(String, bool)>>> = Arc::default();
    let sink = Arc::clone(&told);
    let rehearsal = Rehearsal::new(Box::new(move |intent, there| {
        sink.lock().unwrap().push((intent.rule.clone(), there));
    }));
    let crd: Value = serde_saphyr::from_str(CRD).unwrap();
    cluster.create(crd).await;
    thing_when_served(&cluster, json!({"value": "one"})).await;
    let before = version(&cluster).await;
    let runtime = Runtime::start(
        &Process::start(Vec::new()),
        cluster.client.clone(),
        options(package(), Some(rehearsal)),
    )
    .await
    .unwrap();
    let count = |rule: &str| {
        let told = told.lock().unwrap();
        told.iter().filter(|(name, _)| name == rule).count()
    };
    let until = async |what: &str, holds: &dyn Fn() -> bool| {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !holds() {
            assert!(
                Instant::now() < deadline,
                "{what}: {:?}",
                told.lock().unwrap()
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    until("told", &|| count("objects") == 1 && count("@status") == 1).await;
    assert!(
        told.lock()
            .unwrap()
            .contains(&("objects".to_owned(), false))
    );
    // Looked at again, and nothing is new.
    for _ in 0..3 {
        runtime.driver().mark_package("things");
        until("idle", &|| {
            runtime.driver().queue.depth() + runtime.driver().queue.running() == 0
        })
        .await;
    }
    assert_eq!((count("objects"), count("@status")), (1, 1));
    assert_eq!(version(&cluster).await, before, "something was written");
    assert!(cluster.get("v1/ConfigMap", "t-map").await.is_none());
    // Another spec is another effect.
    thing(&cluster, json!({"value": "two"})).await;
    until("told anew", &|| count("objects") == 2).await;
    runtime.stop().await;
}

/// A definition is served a moment after it is there.
async fn thing_when_served(cluster: &Cluster, spec: Value) {
    let gvk = "example.dev/v1/Thing".parse().unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    while cluster.kube.resource(&gvk).await.is_err() {
        assert!(Instant::now() < deadline, "it is not served");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    thing(cluster, spec).await;
}
