//! Rows of the kinds that make pods.

use serde_json::Value;

use super::{
    cells::{NONE, UNKNOWN, age, containers, list, name, number, or, selector, text},
    duration,
};

pub(super) fn deployment(object: &Value, now: i64) -> Vec<Value> {
    let (spec, status) = (&object["spec"], &object["status"]);
    let (names, images) = containers(&spec["template"]["spec"]);
    vec![
        name(object),
        format!(
            "{}/{}",
            number(&status["readyReplicas"]),
            number(&spec["replicas"])
        )
        .into(),
        number(&status["updatedReplicas"]).into(),
        number(&status["availableReplicas"]).into(),
        age(object, now),
        names.into(),
        images.into(),
        selector(&spec["selector"]).into(),
    ]
}

pub(super) fn replica_set(object: &Value, now: i64) -> Vec<Value> {
    let (spec, status) = (&object["spec"], &object["status"]);
    let (names, images) = containers(&spec["template"]["spec"]);
    vec![
        name(object),
        number(&spec["replicas"]).into(),
        number(&status["replicas"]).into(),
        number(&status["readyReplicas"]).into(),
        age(object, now),
        names.into(),
        images.into(),
        selector(&spec["selector"]).into(),
    ]
}

pub(super) fn stateful_set(object: &Value, now: i64) -> Vec<Value> {
    let (spec, status) = (&object["spec"], &object["status"]);
    let (names, images) = containers(&spec["template"]["spec"]);
    vec![
        name(object),
        format!(
            "{}/{}",
            number(&status["readyReplicas"]),
            number(&spec["replicas"])
        )
        .into(),
        age(object, now),
        names.into(),
        images.into(),
    ]
}

pub(super) fn daemon_set(object: &Value, now: i64) -> Vec<Value> {
    let (spec, status) = (&object["spec"], &object["status"]);
    let (names, images) = containers(&spec["template"]["spec"]);
    vec![
        name(object),
        number(&status["desiredNumberScheduled"]).into(),
        number(&status["currentNumberScheduled"]).into(),
        number(&status["numberReady"]).into(),
        number(&status["updatedNumberScheduled"]).into(),
        number(&status["numberAvailable"]).into(),
        super::cells::labels(&spec["template"]["spec"]["nodeSelector"]).into(),
        age(object, now),
        names.into(),
        images.into(),
        selector(&spec["selector"]).into(),
    ]
}

pub(super) fn controller_revision(object: &Value, now: i64) -> Vec<Value> {
    let owner = list(&object["metadata"], "ownerReferences")
        .iter()
        .find(|owner| owner["controller"] == true);
    let controller = owner.map_or_else(
        || NONE.to_owned(),
        |owner| {
            let group = text(owner, "apiVersion")
                .split_once('/')
                .map_or("", |(group, _)| group);
            let kind = text(owner, "kind").to_lowercase();
            let kind = if group.is_empty() {
                kind
            } else {
                format!("{kind}.{group}")
            };
            format!("{kind}/{}", text(owner, "name"))
        },
    );
    vec![
        name(object),
        controller.into(),
        number(&object["revision"]).into(),
        age(object, now),
    ]
}

pub(super) fn job(object: &Value, now: i64) -> Vec<Value> {
    let (spec, status) = (&object["spec"], &object["status"]);
    let (names, images) = containers(&spec["template"]["spec"]);
    let succeeded = number(&status["succeeded"]);
    let completions = match (spec["completions"].as_i64(), number(&spec["parallelism"])) {
        (Some(wanted), _) => format!("{succeeded}/{wanted}"),
        (None, parallelism) if parallelism > 1 => format!("{succeeded}/1 of {parallelism}"),
        (None, _) => format!("{succeeded}/1"),
    };
    let started = duration::seconds(text(status, "startTime"));
    let ended = duration::seconds(text(status, "completionTime"));
    let span = started
        .map(|started| duration::human(ended.unwrap_or(now) - started))
        .unwrap_or_default();
    vec![
        name(object),
        job_status(object).into(),
        completions.into(),
        span.into(),
        age(object, now),
        names.into(),
        images.into(),
        selector(&spec["selector"]).into(),
    ]
}

fn job_status(job: &Value) -> &'static str {
    let holds = |kind: &str| {
        list(&job["status"], "conditions")
            .iter()
            .any(|condition| text(condition, "type") == kind && text(condition, "status") == "True")
    };
    if holds("Complete") {
        "Complete"
    } else if holds("Failed") {
        "Failed"
    } else if job["metadata"]["deletionTimestamp"].is_string() {
        "Terminating"
    } else if holds("Suspended") {
        "Suspended"
    } else if holds("FailureTarget") {
        "FailureTarget"
    } else if holds("SuccessCriteriaMet") {
        "SuccessCriteriaMet"
    } else {
        "Running"
    }
}

pub(super) fn cron_job(object: &Value, now: i64) -> Vec<Value> {
    let (spec, status) = (&object["spec"], &object["status"]);
    let template = &spec["jobTemplate"]["spec"];
    let (names, images) = containers(&template["template"]["spec"]);
    let last = duration::since(text(status, "lastScheduleTime"), now);
    vec![
        name(object),
        text(spec, "schedule").into(),
        or(text(spec, "timeZone"), NONE).into(),
        if spec["suspend"] == true {
            "True"
        } else {
            "False"
        }
        .into(),
        list(status, "active").len().into(),
        last.unwrap_or_else(|| NONE.to_owned()).into(),
        age(object, now),
        names.into(),
        images.into(),
        selector(&template["selector"]).into(),
    ]
}

pub(super) fn disruption_budget(object: &Value, now: i64) -> Vec<Value> {
    let bound = |key: &str| match &object["spec"][key] {
        Value::Null => "N/A".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    vec![
        name(object),
        bound("minAvailable").into(),
        bound("maxUnavailable").into(),
        number(&object["status"]["disruptionsAllowed"]).into(),
        age(object, now),
    ]
}

pub(super) fn autoscaler(object: &Value, now: i64) -> Vec<Value> {
    let (spec, status) = (&object["spec"], &object["status"]);
    let reference = &spec["scaleTargetRef"];
    let least = spec["minReplicas"]
        .as_i64()
        .map_or_else(|| UNSET_NUMBER.to_owned(), |number| number.to_string());
    vec![
        name(object),
        format!("{}/{}", text(reference, "kind"), text(reference, "name")).into(),
        targets(object).into(),
        least.into(),
        number(&spec["maxReplicas"]).to_string().into(),
        number(&status["currentReplicas"]).to_string().into(),
        age(object, now),
    ]
}

const UNSET_NUMBER: &str = super::cells::UNSET;

/// `cpu: 20%/80%`, with what is not known as `<unknown>`.
fn targets(autoscaler: &Value) -> String {
    let current = list(&autoscaler["status"], "currentMetrics");
    let shown: Vec<String> = list(&autoscaler["spec"], "metrics")
        .iter()
        .enumerate()
        .filter_map(|(index, metric)| {
            let resource = metric.get("resource")?;
            let target = &resource["target"];
            let now = current
                .get(index)
                .map(|metric| &metric["resource"]["current"]);
            let (wanted, found) = match target["averageUtilization"].as_i64() {
                Some(percent) => (
                    format!("{percent}%"),
                    now.and_then(|now| now["averageUtilization"].as_i64())
                        .map(|percent| format!("{percent}%")),
                ),
                None => (
                    text(target, "averageValue").to_owned(),
                    now.map(|now| text(now, "averageValue").to_owned()),
                ),
            };
            let found = found
                .filter(|found| !found.is_empty())
                .unwrap_or_else(|| UNKNOWN.to_owned());
            Some(format!("{}: {found}/{wanted}", text(resource, "name")))
        })
        .collect();
    if shown.is_empty() {
        NONE.to_owned()
    } else {
        shown.join(", ")
    }
}
