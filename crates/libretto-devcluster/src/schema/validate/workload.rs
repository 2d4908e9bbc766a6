//! Rules for the kinds that make pods, and for disruption budgets.

use serde_json::{Value, json};

use super::{Errors, at, immutable, list, metadata, not_negative, one_of, pod_spec, storage, text};
use crate::{
    error::FieldError,
    schema::{
        field::{forbidden, invalid, not_supported, required},
        names,
    },
};

const STATEFUL_SET_UPDATES: &str = "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', \
                                    'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and \
                                    'minReadySeconds' are forbidden";

pub(super) fn deployment(new: &Value, old: Option<&Value>, errors: &mut Errors) {
    replicated(new, old, errors);
    let rolling = at(new, "spec.strategy.rollingUpdate");
    match text(at(new, "spec.strategy"), "type") {
        "" | "RollingUpdate" => {
            let zero = |value: &Value| *value == 0 || value == "0%" || value == "0";
            if zero(&rolling["maxUnavailable"]) && zero(&rolling["maxSurge"]) {
                errors.push(invalid(
                    "spec.strategy.rollingUpdate.maxUnavailable",
                    &rolling["maxUnavailable"],
                    "may not be 0 when `maxSurge` is 0",
                ));
            }
            for key in ["maxUnavailable", "maxSurge"] {
                number_or_percent(
                    &rolling[key],
                    &format!("spec.strategy.rollingUpdate.{key}"),
                    errors,
                );
            }
        }
        "Recreate" => {
            if !rolling.is_null() {
                let why = "may not be specified when strategy `type` is 'Recreate'";
                errors.push(forbidden("spec.strategy.rollingUpdate", why));
            }
        }
        other => errors.push(FieldError {
            message: format!(
                "Unsupported value: {{\"Type\":{other:?},\"RollingUpdate\":null}}: supported values: \"Recreate\", \"RollingUpdate\""
            ),
            ..not_supported("spec.strategy", &Value::Null, &[])
        }),
    }
    for field in [
        "spec.minReadySeconds",
        "spec.revisionHistoryLimit",
        "spec.progressDeadlineSeconds",
    ] {
        not_negative(new, field, errors);
    }
    let deadline = at(new, "spec.progressDeadlineSeconds").as_i64();
    let ready = at(new, "spec.minReadySeconds").as_i64().unwrap_or(0);
    if deadline.is_some_and(|deadline| deadline <= ready) {
        let field = "spec.progressDeadlineSeconds";
        errors.push(invalid(
            field,
            at(new, field),
            "must be greater than minReadySeconds",
        ));
    }
}

pub(super) fn replica_set(new: &Value, old: Option<&Value>, errors: &mut Errors) {
    replicated(new, old, errors);
    not_negative(new, "spec.minReadySeconds", errors);
}

pub(super) fn stateful_set(new: &Value, old: Option<&Value>, errors: &mut Errors) {
    not_negative(new, "spec.replicas", errors);
    not_negative(new, "spec.minReadySeconds", errors);
    not_negative(new, "spec.revisionHistoryLimit", errors);
    selector_and_template(new, errors);
    always_restarts(new, "spec.template.spec", errors);
    let management = at(new, "spec.podManagementPolicy");
    if !matches!(
        management.as_str(),
        None | Some("OrderedReady" | "Parallel")
    ) {
        errors.push(invalid(
            "spec.podManagementPolicy",
            management,
            "must be 'OrderedReady' or 'Parallel'",
        ));
    }
    let strategy = text(at(new, "spec.updateStrategy"), "type");
    if !matches!(strategy, "" | "OnDelete" | "RollingUpdate") {
        // Go's form of the whole strategy, as upstream shows it.
        errors.push(FieldError {
            message: format!(
                "Invalid value: {{\"Type\":{strategy:?},\"RollingUpdate\":null}}: must be 'RollingUpdate' or 'OnDelete'"
            ),
            ..invalid("spec.updateStrategy", &Value::Null, "")
        });
    }
    let service = text(&new["spec"], "serviceName");
    if !service.is_empty()
        && old.is_none()
        && let Some(why) = names::dns1123_label(service)
    {
        errors.push(invalid("spec.serviceName", &service.into(), &why));
    }
    for field in ["whenDeleted", "whenScaled"] {
        let path = format!("spec.persistentVolumeClaimRetentionPolicy.{field}");
        one_of(new, &path, &["Retain", "Delete"], errors);
    }
    not_negative(new, "spec.updateStrategy.rollingUpdate.partition", errors);
    for (index, template) in list(&new["spec"], "volumeClaimTemplates")
        .iter()
        .enumerate()
    {
        // Upstream checks these when the claim is made; here a mistake shows at once, on creation only.
        if old.is_none() {
            storage::claim_spec(
                &template["spec"],
                &format!("spec.volumeClaimTemplates[{index}].spec"),
                errors,
            );
        }
    }
    let Some(old) = old else { return };
    let frozen = |set: &Value| {
        let mut spec = set["spec"].clone();
        if let Some(spec) = spec.as_object_mut() {
            for key in [
                "replicas",
                "ordinals",
                "template",
                "updateStrategy",
                "revisionHistoryLimit",
                "persistentVolumeClaimRetentionPolicy",
                "minReadySeconds",
            ] {
                spec.remove(key);
            }
        }
        spec
    };
    if frozen(old) != frozen(new) {
        errors.push(forbidden("spec", STATEFUL_SET_UPDATES));
    }
}

pub(super) fn daemon_set(new: &Value, old: Option<&Value>, errors: &mut Errors) {
    selector_and_template(new, errors);
    always_restarts(new, "spec.template.spec", errors);
    let strategy = text(at(new, "spec.updateStrategy"), "type");
    if !matches!(strategy, "" | "OnDelete" | "RollingUpdate") {
        errors.push(FieldError {
            message: format!(
                "Unsupported value: {{\"Type\":{strategy:?},\"RollingUpdate\":null}}: supported values: \"RollingUpdate\", \"OnDelete\""
            ),
            ..not_supported("spec.updateStrategy", &Value::Null, &[])
        });
    }
    let zero = |value: &Value| *value == 0 || value == "0%" || value == "0";
    let rolling = at(new, "spec.updateStrategy.rollingUpdate");
    if zero(&rolling["maxUnavailable"])
        && (zero(&rolling["maxSurge"]) || rolling["maxSurge"].is_null())
    {
        errors.push(required(
            "spec.updateStrategy.rollingUpdate.maxUnavailable",
            "cannot be 0 when maxSurge is 0",
        ));
    }
    not_negative(new, "spec.minReadySeconds", errors);
    immutable(new, old, "spec.selector", errors);
}

pub(super) fn job(new: &Value, old: Option<&Value>, errors: &mut Errors) {
    job_spec(new, "spec", errors);
    let Some(old) = old else { return };
    let suspended = at(old, "spec.suspend") == true;
    for field in [
        "spec.selector",
        "spec.completionMode",
        "spec.podFailurePolicy",
        "spec.backoffLimitPerIndex",
    ] {
        immutable(new, Some(old), field, errors);
    }
    // An indexed job may grow and shrink together with its parallelism.
    let indexed = at(new, "spec.completionMode") == "Indexed";
    let together = at(new, "spec.completions") == at(new, "spec.parallelism");
    if !(indexed && together) {
        immutable(new, Some(old), "spec.completions", errors);
    }
    let template = |job: &Value| {
        let mut template = at(job, "spec.template").clone();
        if suspended && template.is_object() {
            // A suspended job that never started may still be directed to other nodes.
            for key in ["nodeSelector", "tolerations", "affinity", "schedulingGates"] {
                if let Some(spec) = template.get_mut("spec").and_then(Value::as_object_mut) {
                    spec.remove(key);
                }
            }
            if let Some(metadata) = template.get_mut("metadata").and_then(Value::as_object_mut) {
                metadata.remove("labels");
                metadata.remove("annotations");
            }
        }
        template
    };
    if template(old) != template(new) {
        errors.push(invalid(
            "spec.template",
            at(new, "spec.template"),
            super::IMMUTABLE,
        ));
    }
}

fn job_spec(object: &Value, path: &str, errors: &mut Errors) {
    let at_spec = |field: &str| format!("{path}.{field}");
    for field in [
        "parallelism",
        "completions",
        "backoffLimit",
        "activeDeadlineSeconds",
        "ttlSecondsAfterFinished",
    ] {
        not_negative(object, &at_spec(field), errors);
    }
    one_of(
        object,
        &at_spec("completionMode"),
        &["NonIndexed", "Indexed"],
        errors,
    );
    if at(object, &at_spec("completionMode")) == "Indexed"
        && at(object, &at_spec("completions")).is_null()
    {
        errors.push(required(
            at_spec("completions"),
            "when completion mode is Indexed",
        ));
    }
    pod_spec::template(
        at(object, &at_spec("template")),
        &at_spec("template"),
        errors,
    );
    let policy = at(object, &at_spec("template.spec.restartPolicy"));
    if policy.is_null() || policy == "Always" {
        errors.push(required(
            at_spec("template.spec.restartPolicy"),
            "valid values: \"OnFailure\", \"Never\"",
        ));
    }
}

pub(super) fn cron_job(new: &Value, errors: &mut Errors) {
    one_of(
        new,
        "spec.concurrencyPolicy",
        &["Allow", "Forbid", "Replace"],
        errors,
    );
    for field in [
        "spec.successfulJobsHistoryLimit",
        "spec.failedJobsHistoryLimit",
        "spec.startingDeadlineSeconds",
    ] {
        not_negative(new, field, errors);
    }
    let schedule = text(&new["spec"], "schedule");
    if schedule.is_empty() {
        errors.push(required("spec.schedule", ""));
    } else if schedule.contains("TZ") {
        errors.push(invalid(
            "spec.schedule",
            &schedule.into(),
            "cannot use TZ or CRON_TZ in schedule, use timeZone field instead",
        ));
    } else if !schedule.starts_with('@') && schedule.split_whitespace().count() != 5 {
        let found = schedule.split_whitespace().count();
        let why = format!(
            "expected exactly 5 fields, found {found}: [{}]",
            schedule.split_whitespace().collect::<Vec<_>>().join(" ")
        );
        errors.push(invalid("spec.schedule", &schedule.into(), &why));
    }
    let zone = text(&new["spec"], "timeZone");
    if !zone.is_empty() && jiff::tz::TimeZone::get(zone).is_err() {
        errors.push(invalid(
            "spec.timeZone",
            &zone.into(),
            &format!("unknown time zone {zone}"),
        ));
    }
    if new["metadata"]["name"]
        .as_str()
        .is_some_and(|name| name.len() > 52)
    {
        // Eleven characters are needed for the jobs' suffix.
        errors.push(invalid(
            "metadata.name",
            &new["metadata"]["name"],
            "must be no more than 52 characters",
        ));
    }
    job_spec(new, "spec.jobTemplate.spec", errors);
}

pub(super) fn disruption_budget(new: &Value, errors: &mut Errors) {
    let spec = &new["spec"];
    if !spec["minAvailable"].is_null() && !spec["maxUnavailable"].is_null() {
        let shown =
            json!({"minAvailable": spec["minAvailable"], "maxUnavailable": spec["maxUnavailable"]});
        errors.push(invalid(
            "spec",
            &shown,
            "minAvailable and maxUnavailable cannot be both set",
        ));
    }
    for key in ["minAvailable", "maxUnavailable"] {
        number_or_percent(&spec[key], &format!("spec.{key}"), errors);
    }
    one_of(
        new,
        "spec.unhealthyPodEvictionPolicy",
        &["AlwaysAllow", "IfHealthyBudget"],
        errors,
    );
    if spec["selector"].is_object() {
        metadata::selector(&spec["selector"], "spec.selector", false, errors);
    }
}

/// Deployments and ReplicaSets.
fn replicated(new: &Value, old: Option<&Value>, errors: &mut Errors) {
    not_negative(new, "spec.replicas", errors);
    selector_and_template(new, errors);
    always_restarts(new, "spec.template.spec", errors);
    immutable(new, old, "spec.selector", errors);
}

fn selector_and_template(new: &Value, errors: &mut Errors) {
    let selector = at(new, "spec.selector");
    let before = errors.len();
    metadata::selector(selector, "spec.selector", true, errors);
    let template = at(new, "spec.template");
    let labels = at(template, "metadata.labels");
    let malformed = errors.len() > before && selector.is_object() && *selector != json!({});
    if malformed {
        errors.push(invalid("spec.selector", selector, "invalid label selector"));
    } else if *selector != json!({})
        && !(selector.is_object() && metadata::matches(selector, labels))
    {
        let why = "`selector` does not match template `labels`";
        errors.push(invalid("spec.template.metadata.labels", labels, why));
    }
    // A StatefulSet's claims are volumes of its pods by the claims' names.
    let mut template = template.clone();
    let claims = list(&new["spec"], "volumeClaimTemplates")
        .iter()
        .map(|claim| json!({"name": claim["metadata"]["name"], "emptyDir": {}}))
        .collect::<Vec<_>>();
    if !claims.is_empty()
        && let Some(spec) = template.get_mut("spec").and_then(Value::as_object_mut)
        && let Some(volumes) = spec
            .entry("volumes")
            .or_insert_with(|| Value::Array(Vec::new()))
            .as_array_mut()
    {
        volumes.retain(|volume| !claims.iter().any(|claim| claim["name"] == volume["name"]));
        volumes.extend(claims);
    }
    pod_spec::template(&template, "spec.template", errors);
}

fn always_restarts(new: &Value, path: &str, errors: &mut Errors) {
    let policy = at(new, &format!("{path}.restartPolicy"));
    if matches!(policy.as_str(), Some("OnFailure" | "Never")) {
        errors.push(not_supported(
            format!("{path}.restartPolicy"),
            policy,
            &["Always"],
        ));
    }
    let deadline = at(new, &format!("{path}.activeDeadlineSeconds"));
    if !deadline.is_null() {
        errors.push(forbidden(
            format!("{path}.activeDeadlineSeconds"),
            "activeDeadlineSeconds in this kind is not Supported",
        ));
    }
}

fn number_or_percent(value: &Value, path: &str, errors: &mut Errors) {
    match value {
        Value::Number(number) if number.as_i64().is_some_and(|number| number < 0) => {
            errors.push(invalid(path, value, "must be greater than or equal to 0"));
        }
        Value::String(text) => {
            let percent = text
                .strip_suffix('%')
                .and_then(|number| number.parse::<u32>().ok());
            match percent {
                None => {
                    let why = "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', \
                               regex used for validation is '[0-9]+%')";
                    errors.push(invalid(path, value, why));
                }
                Some(percent) if percent > 100 && !path.ends_with("maxSurge") => {
                    errors.push(invalid(path, value, "must not be greater than 100%"));
                }
                Some(_) => {}
            }
        }
        _ => {}
    }
}
