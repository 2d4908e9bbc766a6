//! The row of a Pod: the one table everybody looks at.

use serde_json::Value;

use super::{
    cells::{NONE, age, list, name, number, or, text},
    duration,
};

pub(super) fn pod(pod: &Value, now: i64) -> Vec<Value> {
    let summary = Summary::of(pod, now);
    let address = list(&pod["status"], "podIPs")
        .first()
        .map_or_else(|| text(&pod["status"], "podIP"), |ip| text(ip, "ip"));
    vec![
        name(pod),
        format!("{}/{}", summary.ready, summary.total).into(),
        summary.reason.into(),
        summary.restarts.into(),
        age(pod, now),
        or(address, NONE).into(),
        or(text(&pod["spec"], "nodeName"), NONE).into(),
        or(text(&pod["status"], "nominatedNodeName"), NONE).into(),
        readiness_gates(pod).into(),
    ]
}

struct Summary {
    ready: usize,
    total: usize,
    reason: String,
    restarts: String,
}

impl Summary {
    /// Follows the printer of the API server step by step; later findings override earlier ones.
    fn of(pod: &Value, now: i64) -> Self {
        let (spec, status) = (&pod["spec"], &pod["status"]);
        let mut reason = or(text(status, "reason"), text(status, "phase")).to_owned();
        let gated = list(status, "conditions").iter().any(|condition| {
            text(condition, "type") == "PodScheduled"
                && text(condition, "reason") == "SchedulingGated"
        });
        if gated {
            reason = "SchedulingGated".to_owned();
        }
        let mut total = list(spec, "containers").len();
        let mut ready = 0;
        let mut restarts = Restarts::default();
        let mut sidecar_restarts = Restarts::default();

        let initializing = initializing(
            pod,
            &mut total,
            &mut ready,
            &mut restarts,
            &mut sidecar_restarts,
        );
        if let Some(found) = &initializing {
            reason.clone_from(found);
        }
        let initialized = list(status, "conditions").iter().any(|condition| {
            text(condition, "type") == "Initialized" && text(condition, "status") == "True"
        });
        if initializing.is_none() || initialized {
            restarts = sidecar_restarts;
            let mut running = false;
            // Backwards, so that the first container's reason is the one shown.
            for container in list(status, "containerStatuses").iter().rev() {
                restarts.add(container);
                let state = &container["state"];
                let waiting = text(&state["waiting"], "reason");
                if !waiting.is_empty() {
                    reason = waiting.to_owned();
                } else if state["terminated"].is_object() {
                    reason = terminated(&state["terminated"]);
                } else if container["ready"] == true && state["running"].is_object() {
                    running = true;
                    ready += 1;
                }
            }
            // One container done and another still running is a running pod.
            if reason == "Completed" && running {
                let is_ready = list(status, "conditions").iter().any(|condition| {
                    text(condition, "type") == "Ready" && text(condition, "status") == "True"
                });
                reason = if is_ready { "Running" } else { "NotReady" }.to_owned();
            }
        }
        let deleting = pod["metadata"]["deletionTimestamp"].is_string();
        if deleting && text(status, "reason") == "NodeLost" {
            reason = "Unknown".to_owned();
        } else if deleting && !matches!(text(status, "phase"), "Failed" | "Succeeded") {
            reason = "Terminating".to_owned();
        }
        Self {
            ready,
            total,
            reason,
            restarts: restarts.show(now),
        }
    }
}

/// `Init:…` while init containers run. Init containers that restart always are sidecars and count as containers.
fn initializing(
    pod: &Value,
    total: &mut usize,
    ready: &mut usize,
    restarts: &mut Restarts,
    sidecar_restarts: &mut Restarts,
) -> Option<String> {
    let init = list(&pod["spec"], "initContainers");
    let is_sidecar = |name: &str| {
        init.iter().any(|container| {
            text(container, "name") == name && text(container, "restartPolicy") == "Always"
        })
    };
    *total += init
        .iter()
        .filter(|container| text(container, "restartPolicy") == "Always")
        .count();
    for (index, container) in list(&pod["status"], "initContainerStatuses")
        .iter()
        .enumerate()
    {
        restarts.add(container);
        let sidecar = is_sidecar(text(container, "name"));
        if sidecar {
            sidecar_restarts.add(container);
        }
        let state = &container["state"];
        let terminated_state = &state["terminated"];
        if terminated_state.is_object() && number(&terminated_state["exitCode"]) == 0 {
            continue;
        }
        if sidecar && container["started"] == true {
            if container["ready"] == true {
                *ready += 1;
            }
            continue;
        }
        if terminated_state.is_object() {
            return Some(format!("Init:{}", terminated_with(terminated_state)));
        }
        let waiting = text(&state["waiting"], "reason");
        if !waiting.is_empty() && waiting != "PodInitializing" {
            return Some(format!("Init:{waiting}"));
        }
        return Some(format!("Init:{index}/{}", init.len()));
    }
    None
}

fn terminated(state: &Value) -> String {
    terminated_with(state)
}

/// The reason, or the signal, or the exit code.
fn terminated_with(state: &Value) -> String {
    match (text(state, "reason"), number(&state["signal"])) {
        ("", 0) => format!("ExitCode:{}", number(&state["exitCode"])),
        ("", signal) => format!("Signal:{signal}"),
        (reason, _) => reason.to_owned(),
    }
}

/// How often containers restarted, and when last.
#[derive(Default)]
struct Restarts {
    count: i64,
    last: Option<i64>,
}

impl Restarts {
    fn add(&mut self, container: &Value) {
        self.count += number(&container["restartCount"]);
        let finished = text(&container["lastState"]["terminated"], "finishedAt");
        self.last = self.last.max(duration::seconds(finished));
    }

    /// `1 (5m ago)`.
    fn show(&self, now: i64) -> String {
        match self.last {
            Some(last) if self.count > 0 => {
                format!("{} ({} ago)", self.count, duration::human(now - last))
            }
            _ => self.count.to_string(),
        }
    }
}

fn readiness_gates(pod: &Value) -> String {
    let gates = list(&pod["spec"], "readinessGates");
    if gates.is_empty() {
        return NONE.to_owned();
    }
    let met = gates
        .iter()
        .filter(|gate| {
            list(&pod["status"], "conditions").iter().any(|condition| {
                text(condition, "type") == text(gate, "conditionType")
                    && text(condition, "status") == "True"
            })
        })
        .count();
    format!("{met}/{}", gates.len())
}
