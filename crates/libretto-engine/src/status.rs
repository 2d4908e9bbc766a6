//! How the instance stands: its status fields, conditions with times, and the runtime's own three.

use std::collections::BTreeMap;

use libretto_api::{
    intent::{Effect, EventKind, FailureKind, Millis},
    reason::{
        READY, REASON_CONFLICT, REASON_EFFECT_FAILED, REASON_IN_PROGRESS, REASON_NOT_READY,
        REASON_PAUSED, REASON_RULE_FAILED, REASON_SETTLED, REASON_STOPPED, RECONCILING, STALLED,
    },
    secret::redact,
};
use libretto_mirror::{ColumnType, Datum, Snapshot, canonical_json, digest};
use serde_json::{Map, Value, json};

use crate::{
    compile::{Query, StatusRule},
    decide::Decision,
    engine::Pass,
    ledger::{EVENTS, STATUS},
};

/// A condition without its times.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Condition {
    kind: String,
    status: &'static str,
    reason: String,
    message: String,
}

/// Fields, conditions, and what the package says against being ready.
type Computed = (Map<String, Value>, Vec<Condition>, Option<Unready>);

/// What a package says against being ready.
struct Unready {
    reason: String,
    message: String,
    /// Whether it can be helped only by somebody; the runtime judges when the package does not.
    stalled: Option<bool>,
}

/// Longest message of a condition. The API's own bound is 32 KiB; a page of text is all anybody reads.
const MESSAGE_LIMIT: usize = 2_000;

/// What could not be asked for so long is worth a word in the status; before that the last status stands, or every restart
/// would write every status twice.
const BLIND_MS: Millis = 30_000;

/// Adds the status to the plan when it is another than the one that is there.
pub(crate) fn conclude(
    pass: &Pass<'_>,
    decision: &mut Decision<'_>,
    failures: &[(String, String)],
    unanswered: &BTreeMap<String, usize>,
) {
    for (table, count) in unanswered {
        let noun = if *count == 1 {
            "target has"
        } else {
            "targets have"
        };
        decision
            .work
            .push(format!("probe {table}: {count} {noun} not been asked yet"));
    }
    let mut failures = failures.to_vec();
    let blind_since = if unanswered.is_empty() {
        None
    } else {
        Some(decision.ledger.blind_since.unwrap_or(pass.now))
    };
    decision.ledger.blind_since = blind_since;
    // Nobody reads the status of what is going.
    if pass.deleting {
        decision.broken = !failures.is_empty();
        return;
    }
    if let Some(since) = blind_since
        && pass.now < since + BLIND_MS
        && failures.is_empty()
        && decision.failing.is_empty()
    {
        decision.wake(since + BLIND_MS);
        return;
    }
    let current: Value = pass
        .snapshot
        .cr("status")
        .as_str()
        .and_then(|text| serde_json::from_str(text).ok())
        .unwrap_or_else(|| json!({}));
    let rule = pass.package.status.as_ref();
    let computed = match rule {
        Some(rule) => computed(pass, rule, &current),
        None => Ok((Map::new(), Vec::new(), None)),
    };
    let (mut status, mut conditions, unready, computed_fine) = match computed {
        Ok((fields, conditions, unready)) => (fields, conditions, unready, true),
        Err(reason) => {
            let name = rule.map_or("status", |rule| rule.name.as_str());
            failures.push((name.to_owned(), reason));
            // What could not be computed stays as it was.
            (
                current.as_object().cloned().unwrap_or_default(),
                Vec::new(),
                None,
                false,
            )
        }
    };
    decision.broken = !failures.is_empty();
    let with_runtime = rule.is_none_or(|rule| rule.runtime);
    let former: Vec<Value> = current
        .get("conditions")
        .and_then(Value::as_array)
        .cloned()
        .unwrap_or_default();
    if with_runtime {
        let mut ours = runtime_conditions(decision, &failures, unready);
        as_asked(pass, decision, &former, &mut ours);
        conditions.extend(ours);
    }
    let mut timed: Vec<Value> = Vec::new();
    if !computed_fine {
        let ours: Vec<&str> = conditions
            .iter()
            .map(|condition| condition.kind.as_str())
            .collect();
        timed.extend(
            former
                .iter()
                .filter(|old| !ours.contains(&kind_of(old)))
                .cloned(),
        );
    }
    timed.extend(
        conditions
            .iter()
            .map(|condition| with_times(condition, &former, rule, pass.now)),
    );
    if rule.is_some_and(|rule| rule.newest) {
        newest_first(&mut timed, with_runtime);
    }
    if timed.is_empty() {
        status.remove("conditions");
    } else {
        status.insert("conditions".to_owned(), Value::Array(timed));
    }
    if let Some(generation) = pass.snapshot.cr("generation").as_int() {
        status.insert("observedGeneration".to_owned(), json!(generation));
    }
    let status = Value::Object(status);
    let canonical = canonical_json(&status);
    if canonical == canonical_json(&current) {
        return;
    }
    let fingerprint = digest(canonical.as_bytes());
    if let Some(row) = decision.ledger.row(STATUS, "status")
        && row.fingerprint == fingerprint
        && let (Some(at), Some(failure)) = (row.retry_at.filter(|at| *at > pass.now), &row.failure)
    {
        let failure = failure.clone();
        decision.wake(at);
        decision
            .failing
            .push((STATUS.to_owned(), "status".to_owned(), failure));
        return;
    }
    let intent = decision.intent(STATUS, "status", &fingerprint, Effect::Status { status });
    decision.intents.push(intent);
    if let Some(message) = newly_broken(&conditions, &former) {
        let effect = Effect::Event {
            kind: EventKind::Warning,
            reason: REASON_RULE_FAILED.to_owned(),
            message,
        };
        let intent = decision.intent(EVENTS, "rule failed", "", effect);
        decision.intents.push(intent);
    }
}

/// What failed in the package that the status did not say before.
fn newly_broken(conditions: &[Condition], former: &[Value]) -> Option<String> {
    let stalled = conditions.iter().find(|condition| {
        condition.kind == STALLED
            && condition.status == "True"
            && condition.reason == REASON_RULE_FAILED
    })?;
    let told = former.iter().any(|old| {
        kind_of(old) == STALLED
            && text_of(old, "status") == "True"
            && text_of(old, "message") == stalled.message
    });
    (!told).then(|| stalled.message.clone())
}

/// The status with the runtime's conditions saying that nothing goes on; `None` when it says so already.
pub(crate) fn stalled(
    snapshot: &Snapshot,
    rule: Option<&StatusRule>,
    reason: &str,
    message: &str,
    now: Millis,
) -> Option<Value> {
    let current: Value = snapshot
        .cr("status")
        .as_str()
        .and_then(|text| serde_json::from_str(text).ok())
        .unwrap_or_else(|| json!({}));
    let former: Vec<Value> = current
        .get("conditions")
        .and_then(Value::as_array)
        .cloned()
        .unwrap_or_default();
    let condition = |kind: &str, status: &'static str| Condition {
        kind: kind.to_owned(),
        status,
        reason: reason.to_owned(),
        message: limited(message),
    };
    let ours = [
        condition(READY, "False"),
        condition(RECONCILING, "False"),
        condition(STALLED, "True"),
    ];
    let mut conditions: Vec<Value> = former
        .iter()
        .filter(|old| !ours.iter().any(|ours| ours.kind == kind_of(old)))
        .cloned()
        .collect();
    conditions.extend(
        ours.iter()
            .map(|condition| with_times(condition, &former, rule, now)),
    );
    let mut status = current.as_object().cloned().unwrap_or_default();
    status.insert("conditions".to_owned(), Value::Array(conditions));
    // What is there was observed for its generation, not for this one.
    if let Some(generation) = snapshot.cr("generation").as_int() {
        status
            .entry("observedGeneration")
            .or_insert_with(|| json!(generation));
    }
    let status = Value::Object(status);
    (canonical_json(&status) != canonical_json(&current)).then_some(status)
}

/// Ready, Reconciling and Stalled.
fn runtime_conditions(
    decision: &Decision<'_>,
    failures: &[(String, String)],
    unready: Option<Unready>,
) -> Vec<Condition> {
    // Helped only by somebody: a broken rule, a field that another manager holds, a refusal.
    let stuck = decision.failing.iter().find(|(_, _, failure)| {
        matches!(
            failure.kind,
            FailureKind::Conflict
                | FailureKind::Invalid
                | FailureKind::Forbidden
                | FailureKind::SecretMissing
        )
    });
    let row_message = |(rule, key, failure): &(String, String, libretto_api::intent::Failure)| {
        format!("rule {rule}, row {key}: {}", failure.message)
    };
    let stalled = if failures.is_empty() {
        stuck.map(|row| {
            let reason = if row.2.kind == FailureKind::Conflict {
                REASON_CONFLICT
            } else {
                REASON_EFFECT_FAILED
            };
            (reason, row_message(row))
        })
    } else {
        let message = failures
            .iter()
            .map(|(name, reason)| format!("{name}: {reason}"))
            .collect::<Vec<_>>()
            .join("; ");
        Some((REASON_RULE_FAILED, message))
    };
    let failing = decision
        .failing
        .first()
        .map(|row| (REASON_EFFECT_FAILED, row_message(row)));
    let working =
        (!decision.work.is_empty()).then(|| (REASON_IN_PROGRESS, decision.work.join("; ")));
    // What the package says against being ready stands behind what failed, and before what is merely under way.
    let (given_up, unready) = match unready {
        None => (None, None),
        Some(unready) => {
            let idle = failing.is_none() && working.is_none();
            let stuck = unready.stalled.unwrap_or(idle);
            let words = (unready.reason, unready.message);
            (stuck.then(|| words.clone()), Some(words))
        }
    };
    let own = |(reason, message): (&str, String)| (reason.to_owned(), message);
    let (stalled, failing, working) = (stalled.map(own), failing.map(own), working.map(own));
    let trouble = stalled
        .clone()
        .or_else(|| failing.clone())
        .or_else(|| unready.clone());
    let stalled = stalled.or_else(|| given_up.clone());
    let reconciling = failing
        .or_else(|| working.clone())
        .or_else(|| unready.filter(|_| given_up.is_none()));
    let condition = |kind: &str, truth: bool, reason: &str, message: &str| Condition {
        kind: kind.to_owned(),
        status: if truth { "True" } else { "False" },
        reason: reason.to_owned(),
        message: limited(&redact(message)),
    };
    let ready = match trouble.or(working) {
        None => condition(READY, true, REASON_SETTLED, "every rule's rows are settled"),
        Some((reason, message)) => condition(READY, false, &reason, &message),
    };
    let reconciling = match reconciling {
        None => condition(RECONCILING, false, REASON_SETTLED, ""),
        Some((reason, message)) => condition(RECONCILING, true, &reason, &message),
    };
    let stalled = match stalled {
        None => condition(STALLED, false, REASON_SETTLED, ""),
        Some((reason, message)) => condition(STALLED, true, &reason, &message),
    };
    vec![ready, reconciling, stalled]
}

/// What is not as it should be because somebody asked for it is neither trouble nor under way.
fn as_asked(
    pass: &Pass<'_>,
    decision: &Decision<'_>,
    former: &[Value],
    conditions: &mut Vec<Condition>,
) {
    let said = |kind: &str, status: &'static str, reason: &str, message: &str| Condition {
        kind: kind.to_owned(),
        status,
        reason: reason.to_owned(),
        message: message.to_owned(),
    };
    if pass.controls.paused {
        let what = "nothing is changed until the instance is not paused any more";
        // Whether it serves its users is not known better than before, and is as it was.
        let ready = former.iter().find(|old| kind_of(old) == READY);
        *conditions = vec![
            match ready {
                Some(old) => {
                    let status = match text_of(old, "status").as_str() {
                        "True" => "True",
                        "False" => "False",
                        _ => "Unknown",
                    };
                    said(
                        READY,
                        status,
                        &text_of(old, "reason"),
                        &text_of(old, "message"),
                    )
                }
                None => said(READY, "Unknown", REASON_PAUSED, what),
            },
            said(RECONCILING, "False", REASON_PAUSED, what),
            said(STALLED, "False", REASON_PAUSED, ""),
        ];
    } else if pass.controls.stopped && !decision.broken && decision.failing.is_empty() {
        let what = "the instance is stopped: its workloads have no replicas";
        for condition in conditions.iter_mut() {
            let at_rest = decision.work.is_empty();
            *condition = match condition.kind.as_str() {
                READY => said(READY, "False", REASON_STOPPED, what),
                RECONCILING if at_rest => said(RECONCILING, "False", REASON_STOPPED, what),
                STALLED => said(STALLED, "False", REASON_STOPPED, ""),
                _ => continue,
            };
        }
    }
}

fn limited(text: &str) -> String {
    if text.len() <= MESSAGE_LIMIT {
        return text.to_owned();
    }
    let mut end = MESSAGE_LIMIT;
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{} ...", &text[..end])
}

/// The package's fields and conditions.
fn computed(pass: &Pass<'_>, rule: &StatusRule, current: &Value) -> Result<Computed, String> {
    let mut fields = Value::Object(Map::new());
    if let Some(query) = &rule.fields {
        let answer = pass
            .rows(query)
            .map_err(|reason| format!("fields: {reason}"))?;
        let rows = &answer.rows;
        if rows.rows.len() > 1 {
            return Err(format!(
                "fields: the query gave {} rows, a status has one",
                rows.rows.len()
            ));
        }
        for row in &rows.rows {
            for (column, datum) in rows.columns.iter().zip(row) {
                if datum.is_null() {
                    continue;
                }
                let value = if rule.json.contains(&column.name) {
                    let text = datum.display();
                    serde_json::from_str(&text).map_err(|error| {
                        format!("fields: column {} is not JSON: {error}", column.name)
                    })?
                } else {
                    datum.to_json_as(column.kind.unwrap_or(ColumnType::String))
                };
                let path: Vec<&str> = column.name.split('.').collect();
                let schema = schema_at(&pass.package.status_schema, &path);
                put(&mut fields, &path, coerced(value, schema));
            }
        }
    }
    let former = current.get("conditions").and_then(Value::as_array);
    let mut conditions = Vec::new();
    for (kind, query) in &rule.conditions {
        let old = former.and_then(|former| former.iter().find(|old| kind_of(old) == kind));
        conditions.extend(
            condition(pass, kind, query, old)
                .map_err(|reason| format!("condition {kind}: {reason}"))?,
        );
    }
    let Value::Object(fields) = fields else {
        return Err("fields are not a map".to_owned());
    };
    let unready = match &rule.ready {
        None => None,
        Some(query) => unready(pass, query).map_err(|reason| format!("ready: {reason}"))?,
    };
    Ok((fields, conditions, unready))
}

/// What `ready` says against the condition Ready; `None` when it says yes, or nothing.
fn unready(pass: &Pass<'_>, query: &Query) -> Result<Option<Unready>, String> {
    let answer = pass.rows(query)?;
    let rows = &answer.rows;
    if rows.rows.len() > 1 {
        return Err(format!(
            "the query gave {} rows, there is one answer",
            rows.rows.len()
        ));
    }
    let Some(row) = rows.rows.first() else {
        return Ok(None);
    };
    let value = |name: &str| {
        let place = rows.columns.iter().position(|column| column.name == name);
        place.map_or(&Datum::Null, |index| &row[index])
    };
    if value("ok").is_true() {
        return Ok(None);
    }
    let reason = value("reason").display();
    Ok(Some(Unready {
        reason: if reason.is_empty() {
            REASON_NOT_READY.to_owned()
        } else {
            reason
        },
        message: value("message").display(),
        stalled: match value("stalled") {
            Datum::Null => None,
            said => Some(said.is_true()),
        },
    }))
}

fn condition(
    pass: &Pass<'_>,
    kind: &str,
    query: &Query,
    old: Option<&Value>,
) -> Result<Option<Condition>, String> {
    let answer = pass.rows(query)?;
    let rows = &answer.rows;
    if rows.rows.len() > 1 {
        return Err(format!(
            "the query gave {} rows, a condition has one",
            rows.rows.len()
        ));
    }
    let Some(row) = rows.rows.first() else {
        // What never was is absent; what was is no longer so.
        return Ok(old.map(|old| Condition {
            kind: kind.to_owned(),
            status: "False",
            reason: text_of(old, "reason"),
            message: text_of(old, "message"),
        }));
    };
    let value = |name: &str| {
        rows.columns
            .iter()
            .position(|column| column.name == name)
            .map_or(&Datum::Null, |index| &row[index])
    };
    let ok = value("ok");
    let status = if ok.is_null() {
        "Unknown"
    } else if ok.is_true() {
        "True"
    } else {
        "False"
    };
    let reason = value("reason").display();
    Ok(Some(Condition {
        kind: kind.to_owned(),
        status,
        // The API wants a reason; a package that gives none means the condition itself.
        reason: if reason.is_empty() {
            kind.to_owned()
        } else {
            reason
        },
        message: limited(&redact(&value("message").display())),
    }))
}

fn kind_of(condition: &Value) -> &str {
    condition
        .get("type")
        .and_then(Value::as_str)
        .unwrap_or_default()
}

fn text_of(condition: &Value, key: &str) -> String {
    condition
        .get(key)
        .and_then(Value::as_str)
        .unwrap_or_default()
        .to_owned()
}

/// The condition with its times: those of the one that is there, as far as its content is still so.
fn with_times(
    condition: &Condition,
    former: &[Value],
    rule: Option<&StatusRule>,
    now: Millis,
) -> Value {
    let Condition {
        kind,
        status,
        reason,
        message,
    } = condition;
    let old = former.iter().find(|old| kind_of(old) == kind);
    let kept = |key: &str, same: bool| -> Value {
        match old.filter(|_| same).and_then(|old| old.get(key)) {
            Some(time) if time.is_string() => time.clone(),
            _ => json!(timestamp(now)),
        }
    };
    let same_status = old.is_some_and(|old| text_of(old, "status") == *status);
    let same = same_status
        && old.is_some_and(|old| {
            text_of(old, "reason") == *reason && text_of(old, "message") == *message
        });
    let mut object = json!({"type": kind, "status": status, "reason": reason, "message": message});
    if rule.is_none_or(|rule| rule.transition_time) {
        object["lastTransitionTime"] = kept("lastTransitionTime", same_status);
    }
    if rule.is_some_and(|rule| rule.update_time) {
        object["lastUpdateTime"] = kept("lastUpdateTime", same);
    }
    object
}

/// By last update, newest first; then true ones first; then as declared. The runtime's own come last: a printer column shows the
/// first, and that is the package's to say.
fn newest_first(conditions: &mut [Value], with_runtime: bool) {
    let own = |condition: &Value| {
        with_runtime && [READY, RECONCILING, STALLED].contains(&kind_of(condition))
    };
    let time = |condition: &Value| {
        let update = text_of(condition, "lastUpdateTime");
        if update.is_empty() {
            text_of(condition, "lastTransitionTime")
        } else {
            update
        }
    };
    conditions.sort_by(|a, b| {
        let truth = |condition: &Value| text_of(condition, "status") == "True";
        own(a)
            .cmp(&own(b))
            .then(time(b).cmp(&time(a)))
            .then(truth(b).cmp(&truth(a)))
    });
}

/// RFC 3339 in whole seconds, as Kubernetes writes times.
pub(crate) fn timestamp(now: Millis) -> String {
    jiff::Timestamp::from_second(now.div_euclid(1000))
        .unwrap_or(jiff::Timestamp::UNIX_EPOCH)
        .to_string()
}

/// Schema of a field of the status.
fn schema_at<'a>(schema: &'a Value, path: &[&str]) -> Option<&'a Value> {
    path.iter().try_fold(schema, |schema, key| {
        schema
            .get("properties")
            .and_then(|properties| properties.get(*key))
            .or_else(|| schema.get("additionalProperties"))
    })
}

/// SQL has no booleans and no lists: the CRD says what a number or a text stands for.
fn coerced(value: Value, schema: Option<&Value>) -> Value {
    let Some(kind) = schema
        .and_then(|schema| schema.get("type"))
        .and_then(Value::as_str)
    else {
        return value;
    };
    match (kind, &value) {
        ("boolean", Value::Number(number)) if number.as_i64() == Some(0) => json!(false),
        ("boolean", Value::Number(number)) if number.as_i64() == Some(1) => json!(true),
        ("string", Value::Number(number)) => json!(number.to_string()),
        ("integer", Value::Number(number)) => match number.as_f64() {
            Some(float) if number.as_i64().is_none() && float.fract() == 0.0 => json!(float as i64),
            _ => value,
        },
        ("integer" | "number", Value::String(text)) => {
            serde_json::from_str::<serde_json::Number>(text).map_or(value, Value::Number)
        }
        ("array" | "object", Value::String(text)) => serde_json::from_str(text).unwrap_or(value),
        _ => value,
    }
}

fn put(object: &mut Value, path: &[&str], value: Value) {
    let Some((first, rest)) = path.split_first() else {
        return;
    };
    if !object.is_object() {
        *object = json!({});
    }
    let map = object.as_object_mut().expect("made a map just above");
    if rest.is_empty() {
        map.insert((*first).to_owned(), value);
    } else {
        put(map.entry(*first).or_insert(Value::Null), rest, value);
    }
}
