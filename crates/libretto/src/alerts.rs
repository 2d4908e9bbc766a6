//! Alerts that go on now, and whom they are told.
//!
//! Told as Prometheus tells its own: every minute all that go on, so that an Alertmanager which was away learns of them again, and what
//! has ended until it was told so. Grouping, silence, mail and telephones are Alertmanager's.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use libretto_api::{
    intent::{Alert, HttpBody, HttpCall, Millis},
    object::InstanceRef,
};
use parking_lot::Mutex;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric as _},
    metrics::{MetricType, gauge::ConstGauge},
};
use serde_json::{Map, Value, json};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::clock;

/// How often everything is told. Alertmanager takes an alert for ended that it has not heard of for five minutes.
const EVERY: Duration = Duration::from_secs(60);
/// Pause after a change before it is told: what happens together is told together.
const TOGETHER: Duration = Duration::from_secs(1);
/// Ended alerts that wait to be told. With nobody to tell them to, the oldest are forgotten.
const ENDED: usize = 1_000;
/// How long a receiver may take.
const TIMEOUT_MS: u64 = 10_000;

/// What goes on, per instance.
#[derive(Debug, Default)]
pub struct Alerts {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// By the instance's uid.
    going_on: HashMap<String, (InstanceRef, Vec<Alert>)>,
    ended: Vec<(InstanceRef, Alert, Millis)>,
}

impl Alerts {
    /// What goes on for an instance now.
    pub fn set(&self, instance: &InstanceRef, alerts: Vec<Alert>) {
        let mut state = self.state.lock();
        let former = state.going_on.remove(&instance.uid);
        let former = former.map(|(_, alerts)| alerts).unwrap_or_default();
        let same = former == alerts;
        let ended = former.into_iter().filter(|old| {
            !alerts
                .iter()
                .any(|new| new.rule == old.rule && new.key == old.key)
        });
        state.end(instance, ended);
        if !alerts.is_empty() {
            let entry = (instance.clone(), alerts);
            state.going_on.insert(instance.uid.clone(), entry);
        }
        drop(state);
        if same {
            return;
        }
        self.changed.notify_one();
    }

    /// The instance is gone, and with it what there was to tell.
    pub fn forget(&self, uid: &str) {
        let mut state = self.state.lock();
        let Some((instance, alerts)) = state.going_on.remove(uid) else {
            return;
        };
        state.end(&instance, alerts.into_iter());
        drop(state);
        self.changed.notify_one();
    }

    /// Tells every Alertmanager, by the URLs of their beginnings, until it is stopped.
    pub async fn tell(self: Arc<Self>, receivers: Vec<String>, stop: CancellationToken) {
        if receivers.is_empty() {
            return;
        }
        loop {
            let due = async {
                tokio::select! {
                    () = self.changed.notified() => tokio::time::sleep(TOGETHER).await,
                    () = tokio::time::sleep(EVERY) => {}
                }
            };
            if stop.run_until_cancelled(due).await.is_none() {
                return;
            }
            let (body, ended) = self.state.lock().told();
            if body.is_empty() {
                continue;
            }
            let body = Value::Array(body);
            let mut all = true;
            for receiver in &receivers {
                let call = HttpCall {
                    method: "POST".to_owned(),
                    url: format!("{}/api/v2/alerts", receiver.trim_end_matches('/')),
                    headers: Vec::new(),
                    body: Some(HttpBody::Json(body.clone())),
                    ok: Vec::new(),
                    timeout_ms: TIMEOUT_MS,
                };
                if let Err(failure) = libretto_actions::send(&call).await {
                    all = false;
                    tracing::warn!(receiver, "alerts not told: {}", failure.message);
                }
            }
            if all {
                // What ended meanwhile stands behind what was told.
                let mut state = self.state.lock();
                let told = ended.min(state.ended.len());
                state.ended.drain(..told);
            }
        }
    }
}

impl State {
    fn end(&mut self, instance: &InstanceRef, alerts: impl Iterator<Item = Alert>) {
        let now = clock::now();
        self.ended
            .extend(alerts.map(|alert| (instance.clone(), alert, now)));
        let surplus = self.ended.len().saturating_sub(ENDED);
        self.ended.drain(..surplus);
    }

    /// Everything in Alertmanager's form, and how many of them ended.
    fn told(&self) -> (Vec<Value>, usize) {
        let on = self.going_on.values().flat_map(|(instance, alerts)| {
            alerts
                .iter()
                .map(move |alert| in_words(instance, alert, None))
        });
        let ended = self
            .ended
            .iter()
            .map(|(instance, alert, at)| in_words(instance, alert, Some(*at)));
        (on.chain(ended).collect(), self.ended.len())
    }
}

/// One alert of Alertmanager's API, version 2.
fn in_words(instance: &InstanceRef, alert: &Alert, ended: Option<Millis>) -> Value {
    let mut labels: Map<String, Value> = alert
        .labels
        .iter()
        .map(|(name, value)| (name.clone(), json!(value)))
        .collect();
    for (name, value) in [
        ("alertname", alert.rule.as_str()),
        ("severity", &alert.severity),
        ("package", &instance.package),
        ("kind", &instance.gvk.kind),
        ("namespace", &instance.namespace),
        ("name", &instance.name),
        ("row", &alert.key),
    ] {
        labels.insert(name.to_owned(), json!(value));
    }
    let mut annotations = json!({"summary": alert.summary});
    if let Some(description) = &alert.description {
        annotations["description"] = json!(description);
    }
    let mut told =
        json!({"labels": labels, "annotations": annotations, "startsAt": time(alert.since)});
    if let Some(at) = ended {
        told["endsAt"] = json!(time(at));
    }
    told
}

fn time(at: Millis) -> String {
    jiff::Timestamp::from_millisecond(at)
        .unwrap_or(jiff::Timestamp::UNIX_EPOCH)
        .to_string()
}

/// How many alerts go on, at each scrape.
#[derive(Debug)]
pub struct Gauges(pub Arc<Alerts>);

impl Collector for Gauges {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let state = self.0.state.lock();
        if state.going_on.is_empty() {
            return Ok(());
        }
        let mut descriptor = encoder.encode_descriptor(
            "libretto_alerts",
            "Alerts that go on",
            None,
            MetricType::Gauge,
        )?;
        for (instance, alerts) in state.going_on.values() {
            let mut counts: BTreeMap<(&str, &str), i64> = BTreeMap::new();
            for alert in alerts {
                *counts.entry((&alert.rule, &alert.severity)).or_default() += 1;
            }
            for ((rule, severity), count) in counts {
                let labels = [
                    ("package", instance.package.as_str()),
                    ("namespace", instance.namespace.as_str()),
                    ("name", instance.name.as_str()),
                    ("alertname", rule),
                    ("severity", severity),
                ];
                ConstGauge::new(count).encode(descriptor.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use libretto_api::object::Gvk;

    use super::*;

    fn instance() -> InstanceRef {
        InstanceRef {
            package: "redis".into(),
            gvk: Gvk::new("redis.kun", "v1beta1", "RedisCluster"),
            namespace: "default".into(),
            name: "a".into(),
            uid: "u".into(),
        }
    }

    fn alert(key: &str) -> Alert {
        Alert {
            rule: "lagging".into(),
            key: key.into(),
            severity: "warning".into(),
            summary: format!("{key} lags"),
            description: None,
            labels: vec![("team".into(), "shop".into())],
            since: 1_000,
        }
    }

    #[test]
    fn what_ended_is_told_as_ended() {
        let alerts = Alerts::default();
        alerts.set(&instance(), vec![alert("x"), alert("y")]);
        alerts.set(&instance(), vec![alert("y")]);
        let (mut told, ended) = alerts.state.lock().told();
        assert_eq!((told.len(), ended), (2, 1));
        assert!(told[1]["endsAt"].is_string());
        assert_eq!(told[1]["labels"]["row"], "x");
        told.truncate(1);
        assert_eq!(
            told,
            [json!({
                "labels": {
                    "alertname": "lagging", "severity": "warning", "package": "redis", "kind": "RedisCluster",
                    "namespace": "default", "name": "a", "row": "y", "team": "shop",
                },
                "annotations": {"summary": "y lags"},
                "startsAt": "1970-01-01T00:00:01Z",
            })]
        );
        alerts.forget("u");
        assert_eq!(alerts.state.lock().told().1, 2);
    }

    #[test]
    fn what_nobody_wants_to_hear_is_forgotten_in_the_end() {
        let alerts = Alerts::default();
        for number in 0..ENDED + 5 {
            alerts.set(&instance(), vec![alert(&number.to_string())]);
        }
        let state = alerts.state.lock();
        assert_eq!(state.ended.len(), ENDED);
        assert_eq!(state.ended[0].1.key, "4");
    }
}
