//! Every metric the runtime exports: names, help, labels, in one place.
//!
//! Besides `libretto_*` and what packages define, the names that dashboards for controllers know (`controller_runtime_*`,
//! `workqueue_*`, `rest_client_*`) are filled where they mean the same. Series of an instance go with the instance.

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use libretto_api::{
    intent::{Intent, Outcome},
    object::{Gvk, InstanceRef},
};
use libretto_engine::Sample;
use parking_lot::Mutex;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric as _},
    metrics::{
        MetricType,
        counter::Counter,
        family::Family,
        gauge::{ConstGauge, Gauge},
        histogram::{Histogram, exponential_buckets},
    },
    registry::Registry,
};

use crate::drive::effect_name;

type Labels = Vec<(&'static str, Cow<'static, str>)>;
type Counters = Family<Labels, Counter>;

/// The runtime's metrics. Counters are cheap enough to be counted always.
#[derive(Debug)]
pub struct Metrics {
    passes: Counters,
    pass_errors: Counters,
    pass_seconds: Family<Labels, Histogram>,
    effects: Counters,
    probes: Counters,
    watch_errors: Counters,
    requests: Counters,
    reconciles: Counters,
    reconcile_errors: Counters,
    instances: Arc<Instances>,
}

/// Per instance: whether it is at rest, and what its package measures.
#[derive(Debug, Default)]
struct Instances(Mutex<HashMap<String, Measured>>);

#[derive(Debug)]
struct Measured {
    instance: InstanceRef,
    settled: bool,
    samples: Vec<Sample>,
}

impl Metrics {
    /// Registers everything in `registry`.
    pub fn register(registry: &mut Registry) -> Arc<Self> {
        let metrics = Self {
            passes: Family::default(),
            pass_errors: Family::default(),
            // 0.1 ms (a small instance) to 26 s (an apply that met a slow webhook).
            pass_seconds: Family::new_with_constructor(|| {
                Histogram::new(exponential_buckets(0.0001, 4.0, 10))
            }),
            effects: Family::default(),
            probes: Family::default(),
            watch_errors: Family::default(),
            requests: Family::default(),
            reconciles: Family::default(),
            reconcile_errors: Family::default(),
            instances: Arc::default(),
        };
        registry.register(
            "libretto_passes",
            "Evaluations of instances",
            metrics.passes.clone(),
        );
        registry.register(
            "libretto_pass_errors",
            "Evaluations that were not finished",
            metrics.pass_errors.clone(),
        );
        registry.register(
            "libretto_pass_seconds",
            "Time of an evaluation with its effects",
            metrics.pass_seconds.clone(),
        );
        registry.register(
            "libretto_effects",
            "Effects carried out, by outcome",
            metrics.effects.clone(),
        );
        registry.register("libretto_probes", "Probes asked", metrics.probes.clone());
        registry.register(
            "libretto_watch_errors",
            "Interrupted watches",
            metrics.watch_errors.clone(),
        );
        registry.register(
            "rest_client_requests",
            "Requests to the API server, by method and status code",
            metrics.requests.clone(),
        );
        registry.register(
            "controller_runtime_reconcile",
            "Evaluations of instances per controller",
            metrics.reconciles.clone(),
        );
        registry.register(
            "controller_runtime_reconcile_errors",
            "Evaluations of instances per controller that were not finished",
            metrics.reconcile_errors.clone(),
        );
        registry.register_collector(Box::new(Arc::clone(&metrics.instances)));
        Arc::new(metrics)
    }

    /// Gauges that are read off the queue at each scrape.
    pub fn register_queue(
        registry: &mut Registry,
        depth: impl Fn() -> (usize, usize) + Send + Sync + 'static,
        workers: usize,
    ) {
        registry.register_collector(Box::new(QueueGauges {
            read: Box::new(depth),
        }));
        let bound = Gauge::<i64>::default();
        bound.set(i64::try_from(workers).unwrap_or(i64::MAX));
        registry.register(
            "controller_runtime_max_concurrent_reconciles",
            "Workers",
            bound,
        );
    }

    pub fn pass(&self, package: &str, result: &'static str, time: Duration) {
        let labels = vec![("package", owned(package)), ("result", result.into())];
        self.passes.get_or_create(&labels).inc();
        let by_package = vec![("package", owned(package))];
        self.pass_seconds
            .get_or_create(&by_package)
            .observe(time.as_secs_f64());
        let controller = vec![("controller", owned(package)), ("result", result.into())];
        self.reconciles.get_or_create(&controller).inc();
        if result != "success" {
            self.pass_errors.get_or_create(&by_package).inc();
            let controller = vec![("controller", owned(package))];
            self.reconcile_errors.get_or_create(&controller).inc();
        }
    }

    pub fn effect(&self, intent: &Intent, outcome: &Outcome) {
        let outcome = match outcome {
            Outcome::Done { .. } => Cow::Borrowed("done"),
            Outcome::Absent => Cow::Borrowed("absent"),
            Outcome::Skipped => Cow::Borrowed("skipped"),
            Outcome::Failed(failure) => Cow::Owned(format!("{:?}", failure.kind).to_lowercase()),
        };
        let labels = vec![
            ("package", owned(&intent.instance.package)),
            ("effect", effect_name(&intent.effect).into()),
            ("outcome", outcome),
        ];
        self.effects.get_or_create(&labels).inc();
    }

    pub fn probe(&self, package: &str, table: &str, ok: bool) {
        let labels = vec![
            ("package", owned(package)),
            ("table", owned(table)),
            ("ok", if ok { "true" } else { "false" }.into()),
        ];
        self.probes.get_or_create(&labels).inc();
    }

    pub fn watch_error(&self, gvk: &Gvk) {
        let labels = vec![("kind", gvk.to_string().into())];
        self.watch_errors.get_or_create(&labels).inc();
    }

    pub fn request(&self, method: &str, code: Option<u16>) {
        let code = code.map_or(Cow::Borrowed("<error>"), |code| code.to_string().into());
        let labels = vec![("method", owned(method)), ("code", code)];
        self.requests.get_or_create(&labels).inc();
    }

    /// Replaces the instance's series.
    pub fn instance(&self, instance: &InstanceRef, settled: bool, samples: Vec<Sample>) {
        let measured = Measured {
            instance: instance.clone(),
            settled,
            samples,
        };
        self.instances
            .0
            .lock()
            .insert(instance.uid.clone(), measured);
    }

    /// Removes the instance's series.
    pub fn forget(&self, instance: &InstanceRef) {
        self.instances.0.lock().remove(&instance.uid);
    }
}

impl Collector for Instances {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let instances = self.0.lock();
        if instances.is_empty() {
            return Ok(());
        }
        let mut descriptor = encoder.encode_descriptor(
            "libretto_instance_settled",
            "1 when nothing is left to do for the instance",
            None,
            MetricType::Gauge,
        )?;
        let mut counts: BTreeMap<&str, i64> = BTreeMap::new();
        for measured in instances.values() {
            let instance = &measured.instance;
            *counts.entry(&instance.package).or_default() += 1;
            let labels = [
                ("package", instance.package.as_str()),
                ("namespace", instance.namespace.as_str()),
                ("name", instance.name.as_str()),
            ];
            let gauge = ConstGauge::new(i64::from(measured.settled));
            gauge.encode(descriptor.encode_family(&labels)?)?;
        }
        let mut descriptor = encoder.encode_descriptor(
            "libretto_instances",
            "Instances taken care of",
            None,
            MetricType::Gauge,
        )?;
        for (package, count) in counts {
            ConstGauge::new(count).encode(descriptor.encode_family(&[("package", package)])?)?;
        }
        // One descriptor per metric, its series together, whatever instance they are of.
        let mut by_name: BTreeMap<&str, Vec<&Sample>> = BTreeMap::new();
        for sample in instances.values().flat_map(|measured| &measured.samples) {
            by_name.entry(&sample.name).or_default().push(sample);
        }
        for (name, samples) in by_name {
            let help = &samples[0].help;
            let mut descriptor = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for sample in samples {
                let labels: Vec<(&str, &str)> = sample
                    .labels
                    .iter()
                    .map(|(key, value)| (key.as_str(), value.as_str()))
                    .collect();
                ConstGauge::new(sample.value).encode(descriptor.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}

struct QueueGauges {
    read: Box<dyn Fn() -> (usize, usize) + Send + Sync>,
}

impl std::fmt::Debug for QueueGauges {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("QueueGauges").finish_non_exhaustive()
    }
}

impl Collector for QueueGauges {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let (depth, running) = (self.read)();
        for (name, help, value) in [
            ("workqueue_depth", "Instances that wait for a worker", depth),
            (
                "controller_runtime_active_workers",
                "Instances being worked on",
                running,
            ),
        ] {
            let mut descriptor = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            let value = i64::try_from(value).unwrap_or(i64::MAX);
            ConstGauge::new(value).encode(descriptor.encode_family(&[("name", "libretto")])?)?;
        }
        Ok(())
    }
}

fn owned(text: &str) -> Cow<'static, str> {
    Cow::Owned(text.to_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn instance(name: &str) -> InstanceRef {
        InstanceRef {
            package: "redis".into(),
            gvk: Gvk::new("redis.kun", "v1beta1", "RedisCluster"),
            namespace: "default".into(),
            name: name.into(),
            uid: name.into(),
        }
    }

    fn text(registry: &Registry) -> String {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, registry).unwrap();
        text
    }

    #[test]
    fn series_of_an_instance_come_and_go_with_it() {
        let mut registry = Registry::default();
        let metrics = Metrics::register(&mut registry);
        let sample = Sample {
            name: "redis_replicas".into(),
            help: "Replicas that follow".into(),
            labels: [("name".to_owned(), "a".to_owned())].into_iter().collect(),
            value: 2.0,
        };
        metrics.instance(&instance("a"), true, vec![sample]);
        let out = text(&registry);
        assert!(
            out.contains("# HELP redis_replicas Replicas that follow"),
            "{out}"
        );
        assert!(out.contains("redis_replicas{name=\"a\"} 2.0"), "{out}");
        assert!(
            out.contains(
                "libretto_instance_settled{package=\"redis\",namespace=\"default\",name=\"a\"} 1"
            ),
            "{out}"
        );
        metrics.forget(&instance("a"));
        let out = text(&registry);
        assert!(
            !out.contains("redis_replicas") && !out.contains("name=\"a\""),
            "{out}"
        );
    }

    #[test]
    fn dashboards_of_controllers_find_their_names() {
        let mut registry = Registry::default();
        let metrics = Metrics::register(&mut registry);
        Metrics::register_queue(&mut registry, || (3, 1), 4);
        metrics.pass("redis", "success", Duration::from_millis(2));
        metrics.pass("redis", "panic", Duration::from_millis(2));
        metrics.request("GET", Some(200));
        metrics.request("GET", None);
        let out = text(&registry);
        for line in [
            "controller_runtime_reconcile_total{controller=\"redis\",result=\"success\"} 1",
            "controller_runtime_reconcile_errors_total{controller=\"redis\"} 1",
            "workqueue_depth{name=\"libretto\"} 3",
            "controller_runtime_active_workers{name=\"libretto\"} 1",
            "controller_runtime_max_concurrent_reconciles 4",
            "rest_client_requests_total{method=\"GET\",code=\"200\"} 1",
            "rest_client_requests_total{method=\"GET\",code=\"<error>\"} 1",
        ] {
            assert!(out.contains(line), "{line} is not in\n{out}");
        }
    }
}
