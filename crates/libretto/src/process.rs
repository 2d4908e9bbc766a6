//! What every runtime of a process shares: its metrics, its alerts, and how ready it is.

use std::sync::{Arc, Weak};

use libretto_server::Vitals;
use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::{
    alerts::{Alerts, Gauges},
    metrics::Metrics,
    queue::Queue,
    runtime::WORKERS,
};

/// One per process; runtimes come and go.
#[derive(Debug)]
pub struct Process {
    pub metrics: Arc<Metrics>,
    pub alerts: Arc<Alerts>,
    vitals: Vitals,
    queues: Arc<Mutex<Vec<Weak<Queue>>>>,
    stop: CancellationToken,
    telling: JoinHandle<()>,
}

impl Process {
    /// `alertmanagers` are URLs of those that are told alerts.
    pub fn start(alertmanagers: Vec<String>) -> Arc<Self> {
        let mut registry = Registry::default();
        let metrics = Metrics::register(&mut registry);
        let queues: Arc<Mutex<Vec<Weak<Queue>>>> = Arc::default();
        let all = Arc::clone(&queues);
        Metrics::register_queue(
            &mut registry,
            move || {
                let queues = all.lock();
                let live = queues.iter().filter_map(Weak::upgrade);
                live.fold((0, 0), |(depth, running), queue| {
                    (depth + queue.depth(), running + queue.running())
                })
            },
            WORKERS,
        );
        let alerts = Arc::<Alerts>::default();
        registry.register_collector(Box::new(Gauges(Arc::clone(&alerts))));
        let stop = CancellationToken::new();
        let telling = tokio::spawn(Arc::clone(&alerts).tell(alertmanagers, stop.clone()));
        Arc::new(Self {
            metrics,
            alerts,
            vitals: Vitals::new(registry),
            queues,
            stop,
            telling,
        })
    }

    /// For the metrics and health listener.
    pub fn vitals(&self) -> &Vitals {
        &self.vitals
    }

    /// Counts the queue in the metrics for as long as it is there.
    pub(crate) fn count(&self, queue: &Arc<Queue>) {
        let mut queues = self.queues.lock();
        queues.retain(|queue| queue.strong_count() > 0);
        queues.push(Arc::downgrade(queue));
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.stop.cancel();
        self.telling.abort();
    }
}
