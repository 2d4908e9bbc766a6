//! What a pod's status says, derived from what its containers do. Pure: the worker keeps the model, this renders it.

use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

/// How one start of a container ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Termination {
    pub code: i32,
    pub reason: String,
    pub message: String,
    /// Absent when it never ran.
    pub started_at: Option<String>,
    pub finished_at: String,
    pub container_id: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum State {
    Waiting { reason: String, message: String },
    Running { started_at: String },
    Terminated(Termination),
}

impl State {
    pub(crate) fn waiting(reason: &str, message: impl Into<String>) -> Self {
        Self::Waiting {
            reason: reason.to_owned(),
            message: message.into(),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Init,
    /// An init container with `restartPolicy: Always`: started in order, runs beside the containers, ends after them.
    Sidecar,
    Main,
}

/// One container.
#[derive(Debug, Clone)]
pub(crate) struct ContainerModel {
    pub name: String,
    pub image: String,
    pub kind: Kind,
    pub state: State,
    pub last: Option<Termination>,
    pub ready: bool,
    pub started: bool,
    pub restarts: i32,
    pub image_id: String,
    pub container_id: String,
}

/// One pod.
#[derive(Debug, Clone)]
pub(crate) struct PodModel {
    pub containers: Vec<ContainerModel>,
    /// Empty until the sandbox runs.
    pub pod_ip: String,
    pub host_ip: String,
    pub started_at: String,
    pub sandbox_ready: bool,
    /// Every init container has done its work (sidecars: has started).
    pub initialized: bool,
    /// The pod failed as a whole: reason and message (`DeadlineExceeded`, …).
    pub failed: Option<(String, String)>,
    /// Deletion or node shutdown has begun.
    pub stopping: bool,
}

impl PodModel {
    pub(crate) fn container(&mut self, name: &str) -> &mut ContainerModel {
        self.containers
            .iter_mut()
            .find(|container| container.name == name)
            .expect("the model was made from the same pod spec")
    }

    fn of(&self, kinds: &'static [Kind]) -> impl Iterator<Item = &ContainerModel> {
        self.containers
            .iter()
            .filter(move |container| kinds.contains(&container.kind))
    }

    pub(crate) fn phase(&self, restart_policy: &str) -> &'static str {
        if self.failed.is_some() {
            return "Failed";
        }
        let init_failed = self.of(&[Kind::Init]).any(|container| {
            restart_policy == "Never"
                && matches!(&container.state, State::Terminated(end) if end.code != 0)
        });
        if init_failed {
            return "Failed";
        }
        if !self.initialized {
            return "Pending";
        }
        let ends = self
            .of(&[Kind::Main])
            .map(|container| match &container.state {
                State::Terminated(end) => Some(end.code),
                _ => None,
            })
            .collect::<Option<Vec<_>>>();
        match ends {
            Some(codes) if restart_policy != "Always" || self.stopping => {
                if codes.iter().all(|code| *code == 0) {
                    "Succeeded"
                } else if restart_policy == "Never" || self.stopping {
                    "Failed"
                } else {
                    "Running"
                }
            }
            Some(_) => "Running",
            None => {
                let unstarted = self.of(&[Kind::Main]).any(|container| {
                    matches!(container.state, State::Waiting { .. }) && container.last.is_none()
                });
                if unstarted { "Pending" } else { "Running" }
            }
        }
    }

    fn unready(&self) -> Vec<&str> {
        self.of(&[Kind::Main, Kind::Sidecar])
            .filter(|container| !container.ready)
            .map(|container| container.name.as_str())
            .collect()
    }
}

/// The status to write. `current` is what the API server has, whose transition times and foreign conditions are kept.
pub(crate) fn render(pod: &Pod, model: &PodModel, current: &Value, now: &str) -> Value {
    let spec = pod.spec.as_ref();
    let policy = spec
        .and_then(|spec| spec.restart_policy.as_deref())
        .unwrap_or("Always");
    let phase = model.phase(policy);
    let completed = matches!(phase, "Succeeded" | "Failed");
    let conditions = conditions(pod, model, phase, current, now);
    let statuses = |kinds: &'static [Kind]| {
        model
            .of(kinds)
            .map(|container| container_status(container, completed))
            .collect::<Vec<_>>()
    };
    let mut status = json!({
        "phase": phase,
        "conditions": conditions,
        "startTime": model.started_at,
        "hostIP": model.host_ip,
        "hostIPs": [{"ip": model.host_ip}],
        "containerStatuses": statuses(&[Kind::Main]),
    });
    if model.of(&[Kind::Init, Kind::Sidecar]).next().is_some() {
        status["initContainerStatuses"] = statuses(&[Kind::Init, Kind::Sidecar]).into();
    }
    if !model.pod_ip.is_empty() {
        status["podIP"] = model.pod_ip.clone().into();
        status["podIPs"] = json!([{"ip": model.pod_ip}]);
    }
    if let Some((reason, message)) = &model.failed {
        status["reason"] = reason.clone().into();
        status["message"] = message.clone().into();
    }
    if let Some(class) = current.get("qosClass") {
        status["qosClass"] = class.clone();
    }
    if let Some(generation) = pod.metadata.generation {
        status["observedGeneration"] = generation.into();
    }
    status
}

fn conditions(pod: &Pod, model: &PodModel, phase: &str, current: &Value, now: &str) -> Vec<Value> {
    let unready = model.unready();
    let all_ready = model.initialized && unready.is_empty() && phase == "Running";
    let message = format!("containers with unready status: [{}]", unready.join(" "));
    let not_ready = match phase {
        "Succeeded" => ("PodCompleted", String::new()),
        "Failed" => ("PodFailed", String::new()),
        _ => ("ContainersNotReady", message),
    };
    let incomplete = model
        .of(&[Kind::Init, Kind::Sidecar])
        .filter(|container| {
            !matches!(&container.state, State::Terminated(end) if end.code == 0)
                && !container.started
        })
        .map(|container| container.name.as_str())
        .collect::<Vec<_>>();
    let existing = current["conditions"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    let is_true = |kind: &str| {
        existing
            .iter()
            .any(|condition| condition["type"] == kind && condition["status"] == "True")
    };
    let gates = pod
        .spec
        .iter()
        .flat_map(|spec| spec.readiness_gates.iter().flatten())
        .map(|gate| gate.condition_type.as_str())
        .filter(|kind| !is_true(kind))
        .collect::<Vec<_>>();
    let ready = if !all_ready {
        Err(not_ready.clone())
    } else if gates.is_empty() {
        Ok(())
    } else {
        let list = gates.join(", ");
        Err((
            "ReadinessGatesNotReady",
            format!("the status of pod readiness gate {list:?} is not \"True\""),
        ))
    };
    // `Err` is the reason and the message of a condition that is not met.
    type Met<'a> = Result<(), (&'a str, String)>;
    let ours: [(&str, Met<'_>); 5] = [
        (
            "PodReadyToStartContainers",
            // The sandbox of a pod that is done goes.
            if model.sandbox_ready && !matches!(phase, "Succeeded" | "Failed") {
                Ok(())
            } else {
                Err(("", String::new()))
            },
        ),
        (
            "Initialized",
            if model.initialized {
                Ok(())
            } else {
                let message = format!(
                    "containers with incomplete status: [{}]",
                    incomplete.join(" ")
                );
                Err(("ContainersNotInitialized", message))
            },
        ),
        ("Ready", ready),
        (
            "ContainersReady",
            if all_ready { Ok(()) } else { Err(not_ready) },
        ),
        ("PodScheduled", Ok(())),
    ];
    let mut result = Vec::new();
    for (kind, value) in &ours {
        let status = if value.is_ok() { "True" } else { "False" };
        let before = existing.iter().find(|condition| condition["type"] == *kind);
        let since = before
            .filter(|before| before["status"] == status)
            .and_then(|before| before.get("lastTransitionTime").cloned())
            .unwrap_or_else(|| now.into());
        let mut condition = json!({"type": kind, "status": status, "lastTransitionTime": since});
        if *kind == "Initialized" && phase == "Succeeded" && value.is_ok() {
            condition["reason"] = "PodCompleted".into();
        }
        if let Err((reason, message)) = value {
            if !reason.is_empty() {
                condition["reason"] = (*reason).into();
            }
            if !message.is_empty() {
                condition["message"] = message.clone().into();
            }
        }
        if let Some(generation) = before.and_then(|before| before.get("observedGeneration")) {
            condition["observedGeneration"] = generation.clone();
        }
        result.push(condition);
    }
    // Readiness gates and whatever else others keep here.
    let names = ours.map(|(kind, _)| kind);
    result.extend(existing.into_iter().filter(|condition| {
        condition["type"]
            .as_str()
            .is_none_or(|kind| !names.contains(&kind))
    }));
    result
}

fn container_status(container: &ContainerModel, completed: bool) -> Value {
    let mut status = json!({
        "name": container.name,
        "image": container.image,
        "imageID": container.image_id,
        "ready": container.ready && !completed,
        "started": container.started && matches!(container.state, State::Running { .. }),
        "restartCount": container.restarts,
        "state": state(&container.state),
    });
    if !container.container_id.is_empty() {
        status["containerID"] = container.container_id.clone().into();
    }
    status["lastState"] = match &container.last {
        Some(last) => json!({"terminated": termination(last)}),
        None => json!({}),
    };
    status
}

fn state(state: &State) -> Value {
    match state {
        State::Waiting { reason, message } => {
            let mut waiting = json!({"reason": reason});
            if !message.is_empty() {
                waiting["message"] = message.clone().into();
            }
            json!({"waiting": waiting})
        }
        State::Running { started_at } => json!({"running": {"startedAt": started_at}}),
        State::Terminated(end) => json!({"terminated": termination(end)}),
    }
}

fn termination(end: &Termination) -> Value {
    let mut value = json!({
        "exitCode": end.code,
        "reason": end.reason,
        "finishedAt": end.finished_at,
        "startedAt": end.started_at.as_deref().unwrap_or(&end.finished_at),
        "containerID": end.container_id,
    });
    if end.code > 128 && end.code < 193 {
        value["signal"] = (end.code - 128).into();
    }
    if !end.message.is_empty() {
        value["message"] = end.message.clone().into();
    }
    value
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn container(kind: Kind, state: State) -> ContainerModel {
        ContainerModel {
            name: format!("{kind:?}").to_lowercase(),
            image: "i".into(),
            kind,
            ready: matches!(state, State::Running { .. }),
            started: matches!(state, State::Running { .. }),
            state,
            last: None,
            restarts: 0,
            image_id: String::new(),
            container_id: String::new(),
        }
    }

    fn ended(code: i32) -> State {
        State::Terminated(Termination {
            code,
            reason: "x".into(),
            message: String::new(),
            started_at: None,
            finished_at: "t".into(),
            container_id: String::new(),
        })
    }

    fn model(containers: Vec<ContainerModel>, initialized: bool) -> PodModel {
        PodModel {
            containers,
            pod_ip: "10.66.0.100".into(),
            host_ip: "10.66.0.1".into(),
            started_at: "t0".into(),
            sandbox_ready: true,
            initialized,
            failed: None,
            stopping: false,
        }
    }

    fn running() -> State {
        State::Running {
            started_at: "t".into(),
        }
    }

    fn waiting() -> State {
        State::waiting("ContainerCreating", "")
    }

    #[test]
    fn phases() {
        use Kind::{Init, Main};
        for (containers, initialized, policy, expected) in [
            (
                vec![container(Init, running()), container(Main, waiting())],
                false,
                "Always",
                "Pending",
            ),
            (
                vec![container(Init, ended(1)), container(Main, waiting())],
                false,
                "Always",
                "Pending",
            ),
            (
                vec![container(Init, ended(1)), container(Main, waiting())],
                false,
                "Never",
                "Failed",
            ),
            (vec![container(Main, waiting())], true, "Always", "Pending"),
            (vec![container(Main, running())], true, "Always", "Running"),
            (vec![container(Main, ended(0))], true, "Always", "Running"),
            (
                vec![container(Main, ended(0))],
                true,
                "OnFailure",
                "Succeeded",
            ),
            (
                vec![container(Main, ended(2))],
                true,
                "OnFailure",
                "Running",
            ),
            (vec![container(Main, ended(2))], true, "Never", "Failed"),
            (
                vec![container(Main, ended(0)), container(Main, running())],
                true,
                "Never",
                "Running",
            ),
        ] {
            let model = model(containers, initialized);
            assert_eq!(model.phase(policy), expected, "{model:?} {policy}");
        }
    }

    #[test]
    fn conditions_keep_their_times_and_those_of_others() {
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p"},
            "spec": {"containers": [], "readinessGates": [{"conditionType": "gate"}]}}))
        .unwrap();
        let mut model = model(vec![container(Kind::Main, running())], true);
        let first = render(&pod, &model, &json!({}), "t1");
        let find = |status: &Value, kind: &str| {
            status["conditions"]
                .as_array()
                .unwrap()
                .iter()
                .find(|c| c["type"] == kind)
                .unwrap()
                .clone()
        };
        assert_eq!(find(&first, "ContainersReady")["status"], "True");
        assert_eq!(find(&first, "Ready")["reason"], "ReadinessGatesNotReady");
        let mut current = first;
        current["conditions"]
            .as_array_mut()
            .unwrap()
            .push(json!({"type": "gate", "status": "True"}));
        let second = render(&pod, &model, &current, "t2");
        assert_eq!(find(&second, "Ready")["status"], "True");
        assert_eq!(find(&second, "Ready")["lastTransitionTime"], "t2");
        assert_eq!(find(&second, "Initialized")["lastTransitionTime"], "t1");
        assert_eq!(find(&second, "gate")["status"], "True");
        assert_eq!(
            render(&pod, &model, &second, "t3"),
            second,
            "nothing changed, nothing to write"
        );
        model.containers[0].ready = false;
        let third = render(&pod, &model, &second, "t4");
        assert_eq!(
            find(&third, "Ready")["message"],
            "containers with unready status: [main]"
        );
    }
}
