//! CronJobs: makes Jobs at the times a cron expression names.

use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};
use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};
use serde_json::{Value, json};

use super::cache::{Cache, ObjectKey};
use super::kinds::{CRON_JOBS, JOBS};
use super::object::{
    self, after, condition_status, created, deleting, flag, int, items, rfc3339, text, time,
};
use super::plan::{Action, Controller, Note, Plan};
use super::pods;

const SCHEDULED_AT: &str = "batch.kubernetes.io/cronjob-scheduled-timestamp";

#[derive(Debug)]
pub(crate) struct CronJobs;

impl Controller for CronJobs {
    fn component(&self) -> &'static str {
        "cronjob-controller"
    }

    fn touched(&self, _cache: &Cache, key: &ObjectKey, object: &Value, dirty: &mut Vec<ObjectKey>) {
        if key.gvr == CRON_JOBS {
            dirty.push(key.clone());
        } else if key.gvr == JOBS {
            dirty.extend(pods::controller_key(&CRON_JOBS, object));
        }
    }

    fn reconcile(&self, cache: &Cache, key: &ObjectKey, now: Timestamp) -> Plan {
        let mut plan = Plan::default();
        if let Some(cron) = cache.at(key).filter(|cron| !deleting(cron)) {
            reconcile(cache, cron, now, &mut plan);
        }
        plan
    }
}

fn finished(job: &Value) -> bool {
    succeeded(job) || condition_status(job, "Failed") == "True"
}

fn succeeded(job: &Value) -> bool {
    condition_status(job, "Complete") == "True"
}

fn reconcile(cache: &Cache, cron: &Value, now: Timestamp, plan: &mut Plan) {
    let jobs: Vec<&Value> = cache
        .controlled(&JOBS, object::uid(cron))
        .into_iter()
        .map(|job| &**job)
        .collect();
    let due = match next_run(cron, now) {
        Ok(due) => due,
        Err(note) => {
            // Said once per change of the object: nothing else triggers a pass while it cannot run.
            plan.push(Action::Note(note));
            write_status(cron, &jobs, None, plan);
            trim(&jobs, cron, plan);
            return;
        }
    };
    let mut started = None;
    let mut replace = Vec::new();
    if let Some(at) = due.run {
        let active: Vec<&Value> = jobs.iter().copied().filter(|job| !finished(job)).collect();
        let name = job_name(cron, at);
        let exists = cache.get(&JOBS, object::namespace(cron), &name).is_some();
        match text(cron, "/spec/concurrencyPolicy") {
            _ if exists => started = Some((at, None)),
            "Forbid" if !active.is_empty() => {
                // It starts as soon as the running one ends, unless its deadline passes first; the job's end wakes this key.
            }
            policy => {
                if policy == "Replace" {
                    replace = active;
                }
                started = Some((at, Some(job(cron, &name, at))));
            }
        }
    }
    if let Some(next) = due.next {
        plan.wake(next);
    }
    for job in replace {
        if !deleting(job) {
            plan.delete(&JOBS, job);
        }
    }
    let at = started.as_ref().map(|(at, _)| *at);
    if let Some((_, Some(job))) = started {
        let name = object::name(&job).to_owned();
        plan.push(Action::Create {
            gvr: JOBS.clone(),
            object: job,
            done: Some(Note::normal(
                &CRON_JOBS,
                cron,
                "SuccessfulCreate",
                format!("Created job {name}"),
            )),
            failed: Some(Note::warning(
                &CRON_JOBS,
                cron,
                "FailedCreate",
                "Error creating job: ",
            )),
        });
        // The status follows in the pass this creates: a job that could not be made was not scheduled.
    } else {
        write_status(cron, &jobs, at, plan);
    }
    trim(&jobs, cron, plan);
}

/// What the clock says.
#[derive(Debug, PartialEq)]
struct Due {
    /// The latest run that should have started and has not.
    run: Option<Timestamp>,
    next: Option<Timestamp>,
}

fn next_run(cron: &Value, now: Timestamp) -> Result<Due, Note> {
    let schedule = text(cron, "/spec/schedule");
    let fail =
        |reason: &'static str, message: String| Note::warning(&CRON_JOBS, cron, reason, message);
    let pattern = parse(schedule).map_err(|error| {
        fail(
            "UnparseableSchedule",
            format!("unparseable schedule: {schedule} : {error}"),
        )
    })?;
    let zone = match text(cron, "/spec/timeZone") {
        // The embedded cluster lives in one place: the schedule means universal time, as on most clusters.
        "" => TimeZone::UTC,
        name => TimeZone::get(name).map_err(|_| {
            fail(
                "UnknownTimeZone",
                format!("invalid timeZone: \"{name}\" is not known on this machine"),
            )
        })?,
    };
    if flag(cron, "/spec/suspend") {
        return Ok(Due {
            run: None,
            next: None,
        });
    }
    let here = |time: Timestamp| time.to_zoned(zone.clone());
    let mut earliest = time(cron, "/status/lastScheduleTime").unwrap_or_else(|| created(cron));
    if let Some(seconds) = int(cron, "/spec/startingDeadlineSeconds") {
        earliest = earliest.max(after(now, -seconds));
    }
    let occurrence = |time: &Zoned, forward: bool| {
        if forward {
            pattern.find_next_occurrence(time, false)
        } else {
            pattern.find_previous_occurrence(time, true)
        }
        .ok()
        .map(|zoned| zoned.timestamp())
    };
    let run = occurrence(&here(now), false).filter(|at| *at > earliest);
    let mut next = occurrence(&here(now), true);
    if let (Some(at), Some(seconds)) = (run, int(cron, "/spec/startingDeadlineSeconds")) {
        // A run that waits for another to end must be looked at again when its own deadline passes.
        let deadline = after(at, seconds.saturating_add(1));
        next = next.map(|next| next.min(deadline));
    }
    Ok(Due { run, next })
}

fn parse(schedule: &str) -> Result<Cron, String> {
    if schedule.contains("TZ=") {
        return Err("use spec.timeZone instead of TZ= in the schedule".to_owned());
    }
    CronParser::builder()
        .seconds(Seconds::Disallowed)
        .year(Year::Disallowed)
        .build()
        .parse(schedule)
        .map_err(|error| error.to_string())
}

/// The same run has the same name, so it cannot be started twice.
fn job_name(cron: &Value, at: Timestamp) -> String {
    let mut base = object::name(cron).to_owned();
    // 63 for a label, minus a dash and the minutes since 1970 (nine digits for a while).
    base.truncate(52);
    format!("{base}-{}", at.as_second() / 60)
}

fn job(cron: &Value, name: &str, at: Timestamp) -> Value {
    let template = cron
        .pointer("/spec/jobTemplate")
        .cloned()
        .unwrap_or_else(|| json!({}));
    let mut job = json!({
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "namespace": object::namespace(cron),
            "name": name,
            "ownerReferences": [object::controller_reference(&CRON_JOBS, cron)],
        },
        "spec": template.get("spec").cloned().unwrap_or_else(|| json!({})),
    });
    for member in ["labels", "annotations"] {
        if let Some(value) = template.pointer(&format!("/metadata/{member}")) {
            job["metadata"][member] = value.clone();
        }
    }
    object::set_annotation(&mut job, SCHEDULED_AT, &rfc3339(at));
    job
}

fn write_status(cron: &Value, jobs: &[&Value], scheduled: Option<Timestamp>, plan: &mut Plan) {
    let mut status = cron.get("status").cloned().unwrap_or_else(|| json!({}));
    let mut active: Vec<&&Value> = jobs.iter().filter(|job| !finished(job)).collect();
    active.sort_by_key(|job| object::name(job));
    let references: Vec<Value> = active
        .iter()
        .map(|job| {
            json!({
                "apiVersion": "batch/v1",
                "kind": "Job",
                "namespace": object::namespace(job),
                "name": object::name(job),
                "uid": object::uid(job),
            })
        })
        .collect();
    for reference in items(cron, "/status/active") {
        let done = jobs
            .iter()
            .find(|job| object::uid(job) == text(reference, "/uid") && finished(job));
        if let Some(job) = done {
            let condition = if succeeded(job) { "Complete" } else { "Failed" };
            plan.push(Action::Note(Note::normal(
                &CRON_JOBS,
                cron,
                "SawCompletedJob",
                format!(
                    "Saw completed job: {}, condition: {condition}",
                    object::name(job)
                ),
            )));
        }
    }
    if references.is_empty() {
        if let Some(map) = status.as_object_mut() {
            map.remove("active");
        }
    } else {
        // Compared by identity: the API may complete the references it stores.
        let stored: Vec<&str> = items(cron, "/status/active")
            .iter()
            .map(|one| text(one, "/uid"))
            .collect();
        let wanted: Vec<&str> = references.iter().map(|one| text(one, "/uid")).collect();
        if stored != wanted {
            status["active"] = references.into();
        }
    }
    let last_success = jobs
        .iter()
        .filter(|job| succeeded(job))
        .filter_map(|job| time(job, "/status/completionTime"))
        .max();
    if let Some(at) = last_success
        && time(cron, "/status/lastSuccessfulTime").is_none_or(|known| known < at)
    {
        status["lastSuccessfulTime"] = rfc3339(at).into();
    }
    if let Some(at) = scheduled
        && time(cron, "/status/lastScheduleTime").is_none_or(|known| known < at)
    {
        status["lastScheduleTime"] = rfc3339(at).into();
    }
    if status.as_object().is_some_and(|map| map.is_empty()) && cron.get("status").is_none() {
        return;
    }
    plan.status(&CRON_JOBS, cron, status);
}

/// Deletes finished jobs beyond the history limits, oldest first.
fn trim(jobs: &[&Value], cron: &Value, plan: &mut Plan) {
    for (success, member, default) in [
        (true, "successfulJobsHistoryLimit", 3),
        (false, "failedJobsHistoryLimit", 1),
    ] {
        let limit = int(cron, &format!("/spec/{member}"))
            .unwrap_or(default)
            .max(0);
        let mut done: Vec<&&Value> = jobs
            .iter()
            .filter(|job| finished(job) && succeeded(job) == success && !deleting(job))
            .collect();
        done.sort_by_key(|job| (created(job), object::name(job).to_owned()));
        let excess = done
            .len()
            .saturating_sub(usize::try_from(limit).unwrap_or(usize::MAX));
        for job in &done[..excess] {
            plan.delete(&JOBS, job);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::simulator::Simulator;
    use super::*;

    fn cron(spec: &Value) -> Value {
        let mut cron = json!({
            "metadata": {"namespace": "n", "name": "tick"},
            "spec": {"schedule": "*/5 * * * *", "jobTemplate": {"spec": {"completions": 1}}},
        });
        for (member, value) in spec.as_object().unwrap() {
            cron["spec"][member] = value.clone();
        }
        cron
    }

    fn cluster(spec: &Value) -> Simulator {
        let mut simulator = Simulator::new(1, vec![Box::new(CronJobs)]);
        simulator.pass_time(60);
        simulator.apply(&CRON_JOBS, cron(spec));
        assert!(simulator.settle(50));
        simulator
    }

    fn jobs(simulator: &Simulator) -> Vec<ObjectKey> {
        simulator.cache.keys(&JOBS)
    }

    fn minutes(simulator: &mut Simulator, count: i64) {
        for _ in 0..count {
            simulator.pass_time(60);
            assert!(simulator.settle(50));
        }
    }

    fn finish(simulator: &mut Simulator, job: &ObjectKey, kind: &str) {
        let now = rfc3339(simulator.now);
        simulator.change(job, |job| {
            job["status"] = json!({"completionTime": now, "conditions": [{"type": kind, "status": "True"}]});
        });
        assert!(simulator.settle(50));
    }

    fn status(simulator: &Simulator) -> Value {
        simulator.cache.get(&CRON_JOBS, "n", "tick").unwrap()["status"].clone()
    }

    #[test]
    fn runs_start_on_time_once() {
        let mut simulator = cluster(&json!({}));
        minutes(&mut simulator, 3);
        assert_eq!(jobs(&simulator).len(), 0);
        minutes(&mut simulator, 1);
        assert_eq!(jobs(&simulator).len(), 1);
        assert_eq!(
            status(&simulator)["lastScheduleTime"],
            "2026-01-01T00:05:00Z"
        );
        let writes = simulator.writes;
        minutes(&mut simulator, 4);
        assert_eq!(jobs(&simulator).len(), 1);
        assert_eq!(simulator.writes, writes);
        let job = simulator.cache.at(&jobs(&simulator)[0]).unwrap().clone();
        assert_eq!(
            object::annotation(&job, SCHEDULED_AT),
            "2026-01-01T00:05:00Z"
        );
        assert_eq!(items(&status(&simulator), "/active").len(), 1);
        let key = jobs(&simulator)[0].clone();
        finish(&mut simulator, &key, "Complete");
        assert_eq!(items(&status(&simulator), "/active").len(), 0);
        assert!(status(&simulator).get("lastSuccessfulTime").is_some());
        assert!(
            simulator
                .events
                .iter()
                .any(|event| event.starts_with("SawCompletedJob"))
        );
    }

    #[test]
    fn concurrency_is_a_policy() {
        for (policy, expected) in [("Allow", 2), ("Forbid", 1), ("Replace", 1)] {
            let mut simulator = cluster(&json!({"concurrencyPolicy": policy}));
            minutes(&mut simulator, 4);
            let first = jobs(&simulator);
            minutes(&mut simulator, 5);
            assert_eq!(jobs(&simulator).len(), expected, "{policy}");
            assert_eq!(
                jobs(&simulator)[..1] == first[..],
                policy != "Replace",
                "{policy}"
            );
        }
    }

    #[test]
    fn a_forbidden_run_starts_when_the_other_ends_unless_too_late() {
        for (deadline, expected) in [(600, 2), (30, 1)] {
            let mut simulator = cluster(
                &json!({"concurrencyPolicy": "Forbid", "startingDeadlineSeconds": deadline}),
            );
            minutes(&mut simulator, 4);
            let first = jobs(&simulator)[0].clone();
            minutes(&mut simulator, 6);
            finish(&mut simulator, &first, "Complete");
            assert_eq!(jobs(&simulator).len(), expected, "{deadline}");
        }
    }

    #[test]
    fn history_is_bounded_and_suspension_respected() {
        let mut simulator = cluster(&json!({"successfulJobsHistoryLimit": 2}));
        for _ in 0..5 {
            minutes(&mut simulator, 5);
            for job in jobs(&simulator) {
                finish(&mut simulator, &job, "Complete");
            }
        }
        assert_eq!(jobs(&simulator).len(), 2);
        simulator.apply(
            &CRON_JOBS,
            cron(&json!({"suspend": true, "successfulJobsHistoryLimit": 2})),
        );
        minutes(&mut simulator, 20);
        assert_eq!(jobs(&simulator).len(), 2);
        assert_eq!(
            status(&simulator)["lastScheduleTime"],
            "2026-01-01T00:25:00Z"
        );
    }

    #[test]
    fn time_zones_shift_the_clock() {
        let mut object = cron(&json!({"schedule": "30 9 * * *", "timeZone": "Asia/Tokyo"}));
        object["metadata"]["creationTimestamp"] = "2026-01-01T00:00:00Z".into();
        let now: Timestamp = "2026-01-01T00:00:30Z".parse().unwrap();
        let due = next_run(&object, now).unwrap();
        assert_eq!(due.next, Some("2026-01-01T00:30:00Z".parse().unwrap()));
        assert_eq!(due.run, None);
    }

    #[test]
    fn what_cannot_be_read_is_said() {
        for (spec, reason) in [
            (json!({"schedule": "every day"}), "UnparseableSchedule"),
            (json!({"schedule": "* * * * * *"}), "UnparseableSchedule"),
            (
                json!({"schedule": "TZ=UTC * * * * *"}),
                "UnparseableSchedule",
            ),
            (json!({"timeZone": "Mars/Olympus"}), "UnknownTimeZone"),
        ] {
            let note = next_run(&cron(&spec), Timestamp::UNIX_EPOCH).unwrap_err();
            assert_eq!(note.reason, reason, "{spec}");
        }
        assert!(parse("@daily").is_ok());
    }
}
