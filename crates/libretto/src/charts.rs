//! Charts while the engine is at work: what it needs is rendered beside it, and remembered.
//!
//! A pass that needs a rendering nobody has made yet does without; the instance is looked at again when it is there.

use std::{
    collections::{BTreeSet, HashMap},
    path::Path,
    sync::{Arc, Weak},
    time::Duration,
};

use libretto_actions::helm::Helm;
use libretto_api::{
    chart::{Charts, Rendered, Rendering},
    object::InstanceRef,
};
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use crate::queue::Queue;

/// Runs of Helm at a time: it uses all cores by itself.
const AT_ONCE: usize = 2;
/// Text of remembered manifests. An instance keeps its own while nothing of it changes, so that this is for restarts of workers and
/// for instances that are alike.
const REMEMBERED: usize = 64 << 20;
/// A chart that failed is tried again after this long: it may have been the machine.
const AGAIN: Duration = Duration::from_secs(60);

/// Renders beside the engine.
#[derive(Debug)]
pub struct Background {
    helm: Result<Arc<Helm>, String>,
    queue: Weak<Queue>,
    room: Arc<Semaphore>,
    known: Mutex<Known>,
    me: Weak<Self>,
}

#[derive(Debug, Default)]
struct Known {
    rendered: HashMap<String, Remembered>,
    /// Who is to be told of a rendering under way.
    waiting: HashMap<String, BTreeSet<InstanceRef>>,
    bytes: usize,
    /// Counts uses, so that the longest unused can go first.
    clock: u64,
}

#[derive(Debug)]
struct Remembered {
    rendered: Rendered,
    bytes: usize,
    used: u64,
}

impl Background {
    /// `queue` is told of instances whose rendering is there.
    pub fn new(helm: Result<Arc<Helm>, String>, queue: &Arc<Queue>) -> Arc<Self> {
        Arc::new_cyclic(|me| Self {
            helm,
            queue: Arc::downgrade(queue),
            room: Arc::new(Semaphore::new(AT_ONCE)),
            known: Mutex::default(),
            me: me.clone(),
        })
    }

    async fn render(self: Arc<Self>, helm: Arc<Helm>, rendering: Rendering) {
        let Ok(room) = Arc::clone(&self.room).acquire_owned().await else {
            return;
        };
        let digest = rendering.digest.clone();
        let rendered = tokio::task::spawn_blocking(move || helm.render(&rendering))
            .await
            .unwrap_or_else(|error| Err(format!("rendering a chart broke off: {error}")));
        drop(room);
        let failed = rendered.is_err();
        let waiting = self.keep(&digest, rendered);
        let tell = |instances| {
            if let Some(queue) = self.queue.upgrade() {
                queue.mark_all(instances);
            }
        };
        tell(waiting.clone());
        if failed {
            tokio::time::sleep(AGAIN).await;
            self.known.lock().forget(&digest);
            tell(waiting);
        }
    }

    /// Who waited for it.
    fn keep(
        &self,
        digest: &str,
        rendered: Result<Vec<serde_json::Value>, String>,
    ) -> BTreeSet<InstanceRef> {
        let bytes = rendered.as_ref().map_or(0, |manifests| {
            manifests
                .iter()
                .map(|object| object.to_string().len())
                .sum()
        });
        let mut known = self.known.lock();
        known.clock += 1;
        let used = known.clock;
        known.bytes += bytes;
        known.rendered.insert(
            digest.to_owned(),
            Remembered {
                rendered: Arc::new(rendered),
                bytes,
                used,
            },
        );
        while known.bytes > REMEMBERED
            && let Some(oldest) = known
                .rendered
                .iter()
                .filter(|(other, _)| *other != digest)
                .min_by_key(|(_, remembered)| remembered.used)
                .map(|(digest, _)| digest.clone())
        {
            known.forget(&oldest);
        }
        known.waiting.remove(digest).unwrap_or_default()
    }
}

impl Known {
    fn forget(&mut self, digest: &str) {
        if let Some(gone) = self.rendered.remove(digest) {
            self.bytes = self.bytes.saturating_sub(gone.bytes);
        }
    }
}

impl Charts for Background {
    fn rendered(&self, instance: &InstanceRef, rendering: &Rendering) -> Option<Rendered> {
        let helm = match &self.helm {
            Ok(helm) => Arc::clone(helm),
            Err(reason) => {
                return Some(Arc::new(Err(format!(
                    "chart {}: {reason}",
                    rendering.chart.name
                ))));
            }
        };
        let mut known = self.known.lock();
        known.clock += 1;
        let now = known.clock;
        if let Some(remembered) = known.rendered.get_mut(&rendering.digest) {
            remembered.used = now;
            return Some(Arc::clone(&remembered.rendered));
        }
        let waiting = known.waiting.entry(rendering.digest.clone()).or_default();
        let first = waiting.is_empty();
        waiting.insert(instance.clone());
        drop(known);
        if first && let Some(me) = self.me.upgrade() {
            tokio::spawn(me.render(helm, rendering.clone()));
        }
        None
    }
}

/// Renders while it is asked, for scenarios and for whoever only looks.
#[derive(Debug, Default)]
pub struct AtOnce {
    helm: Option<Helm>,
    missing: String,
    known: Mutex<HashMap<String, Rendered>>,
}

impl AtOnce {
    /// With this program, for a cluster of this version (Helm's own when unknown); when the program is not there, charts say so.
    pub fn new(program: &Path, version: Option<String>) -> Self {
        match Helm::new(program, version) {
            Ok(helm) => Self {
                helm: Some(helm),
                ..Self::default()
            },
            Err(error) => Self {
                missing: error.to_string(),
                ..Self::default()
            },
        }
    }
}

impl Charts for AtOnce {
    fn rendered(&self, _instance: &InstanceRef, rendering: &Rendering) -> Option<Rendered> {
        let mut known = self.known.lock();
        let rendered = known.entry(rendering.digest.clone()).or_insert_with(|| {
            Arc::new(match &self.helm {
                Some(helm) => helm.render(rendering),
                None => Err(format!("chart {}: {}", rendering.chart.name, self.missing)),
            })
        });
        Some(Arc::clone(rendered))
    }
}
