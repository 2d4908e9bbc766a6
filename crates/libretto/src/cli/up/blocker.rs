//! Why the demo is not healthy, in one sentence: the pod, the condition or the event that stands in the way.

use serde_json::Value;

use super::demo;

/// What is seen of the demo at one moment.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sight {
    /// Null when it is not there.
    pub(crate) demo: Value,
    pub(crate) pods: Vec<Value>,
    pub(crate) wanted: u64,
    /// Newest last.
    pub(crate) events: Vec<Value>,
}

/// The most specific reason known.
pub(crate) fn blocker(sight: &Sight) -> String {
    if sight.demo.is_null() {
        return "the demo RedisCluster default/test does not exist".to_owned();
    }
    if let Some(stalled) = demo::condition(&sight.demo, "Stalled").filter(|c| c["status"] == "True")
    {
        return with_event(
            format!("RedisCluster default/test is stalled: {}", words(stalled)),
            sight,
            None,
        );
    }
    for pod in &sight.pods {
        if !demo::ready(pod) {
            let name = text(&pod["metadata"]["name"]);
            return with_event(
                format!("pod {name} is not ready: {}", pod_state(pod)),
                sight,
                Some(name),
            );
        }
    }
    let ready = sight.pods.len();
    if u64::try_from(ready).unwrap_or(u64::MAX) < sight.wanted || ready == 0 {
        return with_event(
            format!("{ready} of {} pods exist", sight.wanted),
            sight,
            None,
        );
    }
    match demo::condition(&sight.demo, "Healthy") {
        Some(healthy) => with_event(
            format!(
                "every pod is ready, but condition Healthy is {}: {}",
                text(&healthy["status"]),
                words(healthy)
            ),
            sight,
            None,
        ),
        None => with_event(
            "every pod is ready, but there is no condition Healthy yet".to_owned(),
            sight,
            None,
        ),
    }
}

/// A pod's state in a word or two, as `get pods` shows it.
pub(crate) fn pod_state(pod: &Value) -> String {
    if pod["metadata"]["deletionTimestamp"].is_string() {
        return "Terminating".to_owned();
    }
    for (field, prefix) in [
        ("initContainerStatuses", "Init: "),
        ("containerStatuses", ""),
    ] {
        for status in pod["status"][field].as_array().into_iter().flatten() {
            for state in ["waiting", "terminated"] {
                let state = &status["state"][state];
                let over = field == "initContainerStatuses" && state["exitCode"] == 0;
                if let Some(reason) = state["reason"].as_str().filter(|_| !over) {
                    let message = text(&state["message"]);
                    let container = text(&status["name"]);
                    return if message.is_empty() {
                        format!("{prefix}container {container}: {reason}")
                    } else {
                        format!("{prefix}container {container}: {reason} ({message})")
                    };
                }
            }
        }
    }
    if let Some(scheduled) = demo::condition(pod, "PodScheduled").filter(|c| c["status"] == "False")
    {
        return format!("not scheduled: {}", words(scheduled));
    }
    match text(&pod["status"]["phase"]) {
        "" => "Pending".to_owned(),
        "Running" => "running, its readiness probe has not passed".to_owned(),
        phase => phase.to_owned(),
    }
}

fn with_event(sentence: String, sight: &Sight, about: Option<&str>) -> String {
    let event = sight.events.iter().rev().find(|event| {
        event["type"] == "Warning" && about.is_none_or(|name| event["regarding"]["name"] == name)
    });
    match event {
        Some(event) => format!(
            "{sentence}; event {}: {}",
            text(&event["reason"]),
            text(&event["note"]).trim()
        ),
        None => sentence,
    }
}

fn words(condition: &Value) -> String {
    match (text(&condition["reason"]), text(&condition["message"])) {
        ("", "") => "no reason given".to_owned(),
        (reason, "") => reason.to_owned(),
        ("", message) => message.to_owned(),
        (reason, message) => format!("{reason}, {message}"),
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(name: &str, ready: bool, status: Value) -> Value {
        let mut status = status;
        status["conditions"] =
            json!([{"type": "Ready", "status": if ready { "True" } else { "False" }}]);
        json!({"metadata": {"name": name}, "status": status})
    }

    #[test]
    fn the_most_specific_reason_is_told() {
        let demo = json!({"metadata": {"name": "test"}, "status": {"conditions": [
            {"type": "Healthy", "status": "False", "reason": "NoMaster", "message": "no pod answers"}]}});
        let waiting = json!({"containerStatuses": [{"name": "redis", "state": {"waiting": {"reason": "ErrImagePull", "message": "no image"}}}]});
        let warning = json!({"type": "Warning", "reason": "Failed", "note": "redis:9 is not in the catalogue", "regarding": {"name": "a"}});
        for (sight, expected) in [
            (
                Sight::default(),
                "the demo RedisCluster default/test does not exist",
            ),
            (
                Sight {
                    demo: demo.clone(),
                    pods: vec![pod("a", false, waiting)],
                    wanted: 3,
                    events: vec![warning],
                },
                "pod a is not ready: container redis: ErrImagePull (no image); event Failed: redis:9 is not in the catalogue",
            ),
            (
                Sight {
                    demo: demo.clone(),
                    pods: vec![pod("a", true, json!({}))],
                    wanted: 3,
                    events: Vec::new(),
                },
                "1 of 3 pods exist",
            ),
            (
                Sight {
                    demo,
                    pods: vec![pod("a", true, json!({}))],
                    wanted: 1,
                    events: Vec::new(),
                },
                "every pod is ready, but condition Healthy is False: NoMaster, no pod answers",
            ),
            (
                Sight {
                    demo: json!({"status": {"conditions": [{"type": "Stalled", "status": "True", "reason": "RuleFailed", "message": "no such column"}]}}),
                    ..Sight::default()
                },
                "RedisCluster default/test is stalled: RuleFailed, no such column",
            ),
        ] {
            assert_eq!(blocker(&sight), expected);
        }
    }

    #[test]
    fn a_finished_init_container_is_no_trouble() {
        let status = json!({"phase": "Running", "initContainerStatuses": [
            {"name": "init", "state": {"terminated": {"reason": "Completed", "exitCode": 0}}}]});
        assert_eq!(
            pod_state(&pod("a", false, status)),
            "running, its readiness probe has not passed"
        );
    }
}
