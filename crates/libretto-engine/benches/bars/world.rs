//! A healthy Redis of three nodes and three Sentinels, beside pods that belong to nobody.

use std::{path::Path, sync::Arc};

use libretto_api::{chart::NoCharts, intent::Millis, object::Gvk};
use libretto_engine::{Compiled, Engine, Ledger, Plan, load_dir};
use libretto_mirror::{Change, Dirty, Mirror, ScopeMode, Snapshot};
use serde_json::{Value, json};

pub(crate) const NOW: Millis = 1_700_000_000_000;

/// The package as it is delivered.
pub(crate) fn package() -> Arc<Compiled> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../packages/redis");
    Arc::new(load_dir(&folder).unwrap())
}

pub(crate) fn pods() -> Gvk {
    "v1/Pod".parse().unwrap()
}

/// A uid as an API server makes them: no two are alike anywhere but in their form.
pub(crate) fn uid(number: usize) -> String {
    // SplitMix64: every number gives another, in no order.
    let mix = |mut z: u64| {
        z = z.wrapping_add(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    let (a, b) = (mix(number as u64), mix(!(number as u64)));
    format!(
        "{:08x}-{:04x}-4{:03x}-a{:03x}-{:012x}",
        a >> 32,
        a >> 16 & 0xffff,
        a & 0xfff,
        b >> 52,
        b & 0xffff_ffff_ffff
    )
}

/// A pod that the package's selector finds, running and ready, with what a pod has beside the declared columns.
pub(crate) fn pod(
    component: &str,
    namespace: &str,
    name: &str,
    uid: &str,
    ip: &str,
    owner: Option<&str>,
) -> Value {
    let mut pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": name, "namespace": namespace, "uid": uid, "resourceVersion": "1",
            "creationTimestamp": "2023-11-14T22:13:10Z",
            "labels": {"app.kubernetes.io/managed-by": "redis-operator", "app.kubernetes.io/component": component},
            "managedFields": [{"manager": "kubelet", "operation": "Update", "apiVersion": "v1", "fieldsType": "FieldsV1", "subresource": "status",
                "fieldsV1": {"f:status": {"f:conditions": {"k:{\"type\":\"Ready\"}": {".": {}, "f:status": {}, "f:type": {}}}, "f:podIP": {}, "f:phase": {}}}}],
        },
        "spec": {
            "nodeName": "node-7", "serviceAccountName": "default", "restartPolicy": "Always", "schedulerName": "default-scheduler",
            "containers": [{"name": component, "image": "redis:7.2.4", "ports": [{"containerPort": 6379, "protocol": "TCP"}],
                "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"memory": "64Mi"}},
                "env": [{"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}],
                "volumeMounts": [{"name": "data", "mountPath": "/data"}]}],
            "volumes": [{"name": "data", "emptyDir": {}}],
        },
        "status": {
            "phase": "Running", "podIP": ip, "hostIP": "192.168.0.7",
            "conditions": [
                {"type": "PodScheduled", "status": "True", "lastTransitionTime": "2023-11-14T22:13:10Z"},
                {"type": "Ready", "status": "True", "lastTransitionTime": "2023-11-14T22:13:22Z"}],
            "containerStatuses": [{"name": component, "ready": true, "restartCount": 0, "image": "redis:7.2.4",
                "state": {"running": {"startedAt": "2023-11-14T22:13:20Z"}}}],
        },
    });
    if let Some(owner) = owner {
        pod["metadata"]["ownerReferences"] = json!([{"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "set", "uid": owner, "controller": true}]);
    }
    pod
}

/// A pod of no instance, one of so many in a namespace of its own team.
pub(crate) fn foreign(number: usize) -> Value {
    let (team, ip) = (number / 50, number % 65_536);
    pod(
        "redis",
        &format!("team-{team}"),
        &format!("redis-cluster-foreign-{number}"),
        &uid(number),
        &format!("10.{}.{}.{}", number >> 16, ip >> 8, ip & 255),
        None,
    )
}

/// What a target answers: node 0 is the master, unless another is said to be.
fn answer(table: &str, key: &str, master: usize) -> Value {
    let role = if key.ends_with(&master.to_string()) {
        json!({"role": "master", "connected_slaves": "2"})
    } else {
        json!({
            "role": "slave", "master_host": format!("10.0.5.{master}"), "master_link_status": "up", "slave_priority": "1",
        })
    };
    match table {
        "redis_info" => {
            json!({"replication": role, "server": {"redis_version": "7.2.4"}, "persistence": {"loading": "0"}})
        }
        "redis_config" => {
            json!({"hz": "10", "save": "", "appendonly": "yes", "tcp-keepalive": "60"})
        }
        "sentinel_info" => json!({
            "masters": [{
                "name": "mymaster", "ip": "10.0.5.0", "flags": "master", "config-epoch": "1", "quorum": "2", "num-slaves": "2",
                "num-other-sentinels": "2", "down-after-milliseconds": "5000", "failover-timeout": "10000", "parallel-syncs": "1",
            }],
            "info": {},
        }),
        _ => json!([]),
    }
}

/// The mirror of a cluster with one Redis.
pub(crate) struct World {
    pub(crate) package: Arc<Compiled>,
    pub(crate) mirror: Mirror,
    version: usize,
}

impl World {
    pub(crate) fn new(package: Arc<Compiled>) -> Self {
        let mut mirror = Mirror::new(ScopeMode::Any);
        mirror.declare(package.schema().clone());
        Self {
            package,
            mirror,
            version: 1,
        }
    }

    /// With so many foreign pods, which come first, as in a list.
    pub(crate) fn beside(package: Arc<Compiled>, foreign_pods: usize) -> Self {
        let mut world = Self::new(package);
        for number in 0..foreign_pods {
            world.take(&foreign(number));
        }
        world.redis();
        world
    }

    /// The instance and its pods.
    pub(crate) fn redis(&mut self) {
        let gvk = self.package.gvk();
        let cr = json!({
            "apiVersion": gvk.api_version(), "kind": gvk.kind,
            "metadata": {"name": "demo", "namespace": "ns", "uid": "cr", "resourceVersion": "1"}, "spec": {},
        });
        self.mirror.ingest(gvk, Change::Applied(&cr)).unwrap();
        for component in ["redis", "sentinel"] {
            for number in 0..3 {
                self.take(&Self::own(component, number));
            }
        }
    }

    /// A pod of the instance.
    pub(crate) fn own(component: &str, number: usize) -> Value {
        let name = match component {
            "redis" => format!("redis-cluster-demo-{number}"),
            _ => format!("redis-sentinel-demo-{number}"),
        };
        let ip = format!("10.0.{}.{number}", component.len());
        pod(component, "ns", &name, &name, &ip, Some("cr"))
    }

    pub(crate) fn take(&mut self, pod: &Value) -> Dirty {
        self.mirror.ingest(&pods(), Change::Applied(pod)).unwrap()
    }

    /// The same pod, at a later version.
    pub(crate) fn later(&mut self, pod: &mut Value) {
        self.version += 1;
        pod["metadata"]["resourceVersion"] = self.version.to_string().into();
    }

    /// Every target that the engine wants to ask answers, until no new ones come.
    pub(crate) fn answered(&mut self, engine: &Engine, at: Millis, master: usize) -> Snapshot {
        for _ in 0..3 {
            let plan = self.plan(engine);
            for target in &plan.probes {
                let answer = answer(&target.table, &target.key, master);
                self.mirror
                    .probe_result(
                        self.package.name(),
                        "cr",
                        &target.table,
                        &target.key,
                        Ok(&answer),
                        at,
                    )
                    .unwrap();
            }
        }
        self.snapshot()
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        let snapshot = self.mirror.snapshot(self.package.name(), "cr");
        snapshot.unwrap().unwrap()
    }

    pub(crate) fn engine(&self) -> Engine {
        Engine::new(Arc::clone(&self.package), Arc::new(NoCharts))
    }

    /// One pass.
    pub(crate) fn plan(&self, engine: &Engine) -> Plan {
        engine.plan(&self.snapshot(), &Ledger::default(), NOW, 1)
    }

    /// An engine that knows the instance, and finds it healthy.
    pub(crate) fn warm(&mut self) -> Engine {
        let engine = self.engine();
        self.answered(&engine, NOW, 0);
        for rule in self.plan(&engine).rules {
            assert_eq!(rule.failure, None, "{}", rule.rule);
        }
        engine
    }
}
