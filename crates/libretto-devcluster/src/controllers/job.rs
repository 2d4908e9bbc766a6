//! Jobs: runs pods until enough of them succeeded.
//!
//! Every pod carries a finalizer until its end is counted in the status, so that no result is lost to somebody deleting the pod.
//! Indexed jobs, pod failure and success policies are not supported: such a job fails at once and says so.

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::cache::{Cache, ObjectKey};
use super::kinds::{JOBS, PODS};
use super::object::{
    self, after, condition_status, created, deleting, flag, has_finalizer, int, items, rfc3339,
    text, time,
};
use super::plan::{Action, Controller, Note, Plan};
use super::pods;
use crate::api::Propagation;

const TRACKING: &str = "batch.kubernetes.io/job-tracking";
/// Pause after the first failed pod, doubled with each further one, and its limit: upstream's figures.
const BACKOFF_SECONDS: i64 = 10;
const BACKOFF_MAX_SECONDS: i64 = 600;
/// Pods created in one pass; the rest follows in the next one.
const BURST: i64 = 500;

#[derive(Debug)]
pub(crate) struct Jobs;

impl Controller for Jobs {
    fn component(&self) -> &'static str {
        "job-controller"
    }

    fn touched(&self, _cache: &Cache, key: &ObjectKey, object: &Value, dirty: &mut Vec<ObjectKey>) {
        if key.gvr == JOBS {
            dirty.push(key.clone());
        } else if key.gvr == PODS {
            dirty.extend(pods::controller_key(&JOBS, object));
        }
    }

    fn reconcile(&self, cache: &Cache, key: &ObjectKey, now: Timestamp) -> Plan {
        let mut plan = Plan::default();
        release_orphans(cache, key, &mut plan);
        if let Some(job) = cache.at(key) {
            reconcile(cache, job, now, &mut plan);
        }
        plan
    }
}

/// Pods whose job is gone are counted by nobody any more.
fn release_orphans(cache: &Cache, key: &ObjectKey, plan: &mut Plan) {
    let alive = cache.at(key).map_or("", |job| object::uid(job));
    for pod in cache.list(&PODS, &key.namespace) {
        if has_finalizer(pod, TRACKING)
            && pods::controller_key(&JOBS, pod).as_ref() == Some(key)
            && object::controller_uid(pod) != alive
        {
            plan.update(&PODS, pod, object::without_finalizer(pod, TRACKING));
        }
    }
}

fn finished(job: &Value) -> bool {
    condition_status(job, "Complete") == "True" || condition_status(job, "Failed") == "True"
}

/// What this controller cannot do, with what to do instead.
fn unsupported(job: &Value) -> Option<&'static str> {
    if text(job, "/spec/completionMode") == "Indexed" {
        return Some(
            "completionMode Indexed is not supported by the embedded cluster; use NonIndexed or a StatefulSet",
        );
    }
    // `Failed` is also the default beside a podFailurePolicy, which is the better thing to name.
    if text(job, "/spec/podReplacementPolicy") == "Failed"
        && job["spec"]["podFailurePolicy"].is_null()
    {
        return Some(
            "podReplacementPolicy Failed is not supported by the embedded cluster; use TerminatingOrFailed",
        );
    }
    for (member, message) in [
        (
            "podFailurePolicy",
            "podFailurePolicy is not supported by the embedded cluster; use backoffLimit",
        ),
        (
            "successPolicy",
            "successPolicy is not supported by the embedded cluster; use completions",
        ),
        (
            "backoffLimitPerIndex",
            "backoffLimitPerIndex is not supported by the embedded cluster; use backoffLimit",
        ),
    ] {
        if job["spec"]
            .get(member)
            .is_some_and(|value| !value.is_null())
        {
            return Some(message);
        }
    }
    None
}

/// How a job ends.
struct Ending {
    complete: bool,
    reason: &'static str,
    message: String,
}

fn reconcile(cache: &Cache, job: &Value, now: Timestamp, plan: &mut Plan) {
    let manager = text(job, "/spec/managedBy");
    if !manager.is_empty() && manager != "kubernetes.io/job-controller" {
        return;
    }
    let members: Vec<&Value> = cache
        .controlled(&PODS, object::uid(job))
        .into_iter()
        .map(|pod| &**pod)
        .collect();
    if finished(job) {
        for pod in &members {
            release(pod, plan);
        }
        expire(job, now, plan);
        return;
    }
    if deleting(job) {
        // The pods are the garbage collector's; it must not wait for finalizers nobody removes.
        for pod in &members {
            if ended(pod) {
                release(pod, plan);
            }
        }
        return;
    }
    let mut tally = Tally::read(job);
    tally.count(&members);
    let suspended = flag(job, "/spec/suspend");
    let active: Vec<&Value> = members
        .iter()
        .copied()
        .filter(|pod| pods::active(pod))
        .collect();
    let terminating = members
        .iter()
        .filter(|pod| deleting(pod) && !ended(pod))
        .count();
    let mut conditions = items(job, "/status/conditions").to_vec();
    let start = time(job, "/status/startTime");
    let started = if suspended {
        None
    } else {
        Some(start.unwrap_or(now))
    };
    let ending = ending(job, &tally, &active, started, now, plan);
    let mut remove: Vec<&Value> = Vec::new();
    let mut add = 0;
    if let Some(ending) = &ending {
        remove.clone_from(&active);
        // Every end is counted before the job's own: whoever waits for the condition reads final numbers.
        let quiet = active.is_empty() && terminating == 0 && tally.counted();
        conclude(job, ending, quiet, &mut conditions, now, plan);
    } else if suspended {
        remove.clone_from(&active);
        suspend(job, true, &mut conditions, now, plan);
    } else {
        if condition_status(job, "Suspended") == "True" {
            suspend(job, false, &mut conditions, now, plan);
        }
        let wanted = wanted_active(job, &tally, active.len());
        let present = i64::try_from(active.len()).unwrap_or(i64::MAX);
        if present > wanted {
            let mut youngest = active.clone();
            youngest.sort_by_key(|pod| (pods::ready(pod), std::cmp::Reverse(created(pod))));
            remove.extend(&youngest[..usize::try_from(present - wanted).unwrap_or(0)]);
        } else if present < wanted {
            match tally.resume_at(&members) {
                Some(at) if at > now => plan.wake(at),
                _ => add = (wanted - present).min(BURST),
            }
        }
    }
    let ready = active.iter().filter(|pod| pods::ready(pod)).count();
    let settled = conditions.iter().any(|one| {
        matches!(text(one, "/type"), "Complete" | "Failed") && text(one, "/status") == "True"
    });
    let mut status = tally.status();
    for (member, count) in [
        ("active", if settled { 0 } else { active.len() }),
        ("ready", ready),
        ("terminating", terminating),
    ] {
        // `ready` and `terminating` are written even when zero, as upstream does.
        if count > 0 || member != "active" {
            status.insert(member.to_owned(), count.into());
        }
    }
    if let Some(started) = started {
        status.insert("startTime".to_owned(), rfc3339(started).into());
    }
    if settled && ending.as_ref().is_some_and(|ending| ending.complete) {
        status.insert("completionTime".to_owned(), rfc3339(now).into());
    }
    if !conditions.is_empty() {
        status.insert("conditions".to_owned(), conditions.into());
    }
    plan.status(&JOBS, job, Value::Object(status));
    for pod in &members {
        // Only what the status already holds may go: it is the only place that remembers.
        if ended(pod) && tally.recorded(object::uid(pod)) {
            release(pod, plan);
        }
    }
    for pod in remove {
        plan.push(pods::delete_with_notes(
            pod,
            Note::normal(
                &JOBS,
                job,
                "SuccessfulDelete",
                format!("Deleted pod: {}", object::name(pod)),
            ),
            Note::warning(&JOBS, job, "FailedDelete", "Error deleting: "),
        ));
    }
    for _ in 0..add {
        plan.push(create(job));
    }
}

/// Over, as far as counting goes: finished, or deleted so that no node will ever report its end.
fn ended(pod: &Value) -> bool {
    let unstoppable = text(pod, "/spec/nodeName").is_empty()
        || int(pod, "/metadata/deletionGracePeriodSeconds") == Some(0);
    pods::finished(pod) || (deleting(pod) && unstoppable)
}

fn release(pod: &Value, plan: &mut Plan) {
    if has_finalizer(pod, TRACKING) {
        plan.update(&PODS, pod, object::without_finalizer(pod, TRACKING));
    }
}

/// Results so far. A pod's end is first noted by uid, then its finalizer goes, then the note becomes part of the count.
struct Tally {
    succeeded: i64,
    failed: i64,
    noted_succeeded: Vec<String>,
    noted_failed: Vec<String>,
    /// Uids noted in the stored status.
    recorded: Vec<String>,
}

impl Tally {
    fn read(job: &Value) -> Self {
        let uids = |member: &str| -> Vec<String> {
            items(job, &format!("/status/uncountedTerminatedPods/{member}"))
                .iter()
                .filter_map(Value::as_str)
                .map(str::to_owned)
                .collect()
        };
        let (noted_succeeded, noted_failed) = (uids("succeeded"), uids("failed"));
        Self {
            succeeded: int(job, "/status/succeeded").unwrap_or(0),
            failed: int(job, "/status/failed").unwrap_or(0),
            recorded: noted_succeeded
                .iter()
                .chain(&noted_failed)
                .cloned()
                .collect(),
            noted_succeeded,
            noted_failed,
        }
    }

    fn count(&mut self, members: &[&Value]) {
        let tracked = |uid: &str| {
            members
                .iter()
                .any(|pod| object::uid(pod) == uid && has_finalizer(pod, TRACKING))
        };
        for (noted, total) in [
            (&mut self.noted_succeeded, &mut self.succeeded),
            (&mut self.noted_failed, &mut self.failed),
        ] {
            noted.retain(|uid| {
                let keep = tracked(uid);
                *total += i64::from(!keep);
                keep
            });
        }
        for pod in members {
            let uid = object::uid(pod).to_owned();
            if !ended(pod) || !has_finalizer(pod, TRACKING) || self.recorded.contains(&uid) {
                continue;
            }
            if pods::succeeded(pod) {
                self.noted_succeeded.push(uid);
            } else {
                self.noted_failed.push(uid);
            }
        }
    }

    fn recorded(&self, uid: &str) -> bool {
        self.recorded.iter().any(|recorded| recorded == uid)
    }

    fn counted(&self) -> bool {
        self.noted_succeeded.is_empty() && self.noted_failed.is_empty()
    }

    fn successes(&self) -> i64 {
        self.succeeded + i64::try_from(self.noted_succeeded.len()).unwrap_or(i64::MAX)
    }

    fn failures(&self) -> i64 {
        self.failed + i64::try_from(self.noted_failed.len()).unwrap_or(i64::MAX)
    }

    /// When the next pod may start after failures: later and later.
    fn resume_at(&self, members: &[&Value]) -> Option<Timestamp> {
        let failures = self.failures();
        if failures == 0 {
            return None;
        }
        let last = members
            .iter()
            .filter(|pod| pods::failed(pod))
            .map(|pod| finish_time(pod))
            .max()?;
        let doubled = u32::try_from(failures - 1).unwrap_or(u32::MAX).min(10);
        let pause = (BACKOFF_SECONDS << doubled).min(BACKOFF_MAX_SECONDS);
        Some(after(last, pause))
    }

    fn status(&self) -> Map<String, Value> {
        let mut status = Map::new();
        for (member, count) in [("succeeded", self.succeeded), ("failed", self.failed)] {
            if count > 0 {
                status.insert(member.to_owned(), count.into());
            }
        }
        let mut uncounted = Map::new();
        for (member, noted) in [
            ("succeeded", &self.noted_succeeded),
            ("failed", &self.noted_failed),
        ] {
            if !noted.is_empty() {
                uncounted.insert(member.to_owned(), noted.clone().into());
            }
        }
        status.insert("uncountedTerminatedPods".to_owned(), uncounted.into());
        status
    }
}

/// When a pod's last container ended.
fn finish_time(pod: &Value) -> Timestamp {
    items(pod, "/status/containerStatuses")
        .iter()
        .filter_map(|status| time(status, "/state/terminated/finishedAt"))
        .max()
        .or_else(|| {
            object::condition(pod, "Ready").and_then(|ready| time(ready, "/lastTransitionTime"))
        })
        .unwrap_or_else(|| created(pod))
}

fn wanted_active(job: &Value, tally: &Tally, active: usize) -> i64 {
    let parallelism = int(job, "/spec/parallelism").unwrap_or(1).max(0);
    match int(job, "/spec/completions") {
        Some(completions) => parallelism.min((completions - tally.successes()).max(0)),
        // A work queue: the first success means that the queue is empty, so nobody new starts.
        None if tally.successes() > 0 => parallelism.min(i64::try_from(active).unwrap_or(i64::MAX)),
        None => parallelism,
    }
}

fn ending(
    job: &Value,
    tally: &Tally,
    active: &[&Value],
    started: Option<Timestamp>,
    now: Timestamp,
    plan: &mut Plan,
) -> Option<Ending> {
    let failed = |reason: &'static str, message: &str| {
        Some(Ending {
            complete: false,
            reason,
            message: message.to_owned(),
        })
    };
    // Decided earlier, waiting for pods to end.
    if let Some(target) = object::condition(job, "FailureTarget") {
        let reason = match text(target, "/reason") {
            "DeadlineExceeded" => "DeadlineExceeded",
            "NotSupported" => "NotSupported",
            _ => "BackoffLimitExceeded",
        };
        return failed(reason, text(target, "/message"));
    }
    if let Some(message) = unsupported(job) {
        return failed("NotSupported", message);
    }
    let limit = int(job, "/spec/backoffLimit").unwrap_or(6);
    let restarts = if text(job, "/spec/template/spec/restartPolicy") == "OnFailure" {
        active.iter().map(|pod| restarts(pod)).sum()
    } else {
        0
    };
    let worn_out = tally.failures() > limit || (restarts > 0 && restarts >= limit);
    if worn_out {
        return failed(
            "BackoffLimitExceeded",
            "Job has reached the specified backoff limit",
        );
    }
    if let (Some(started), Some(seconds)) = (started, int(job, "/spec/activeDeadlineSeconds")) {
        let deadline = after(started, seconds);
        if deadline <= now {
            return failed(
                "DeadlineExceeded",
                "Job was active longer than specified deadline",
            );
        }
        plan.wake(deadline);
    }
    let done = match int(job, "/spec/completions") {
        Some(completions) => tally.successes() >= completions,
        None => tally.successes() > 0 && active.is_empty(),
    };
    done.then(|| Ending {
        complete: true,
        reason: "CompletionsReached",
        message: "Reached expected number of succeeded pods".to_owned(),
    })
}

fn restarts(pod: &Value) -> i64 {
    ["containerStatuses", "initContainerStatuses"]
        .iter()
        .flat_map(|member| items(pod, &format!("/status/{member}")))
        .filter_map(|status| int(status, "/restartCount"))
        .sum()
}

/// Announces the end, and declares it once no pod is left running.
fn conclude(
    job: &Value,
    ending: &Ending,
    quiet: bool,
    conditions: &mut Vec<Value>,
    now: Timestamp,
    plan: &mut Plan,
) {
    let (target, terminal) = if ending.complete {
        ("SuccessCriteriaMet", "Complete")
    } else {
        ("FailureTarget", "Failed")
    };
    let mut set = |kind: &str| {
        let fresh = !conditions.iter().any(|one| text(one, "/type") == kind);
        object::set_condition(
            conditions,
            kind,
            "True",
            ending.reason,
            &ending.message,
            now,
        );
        if fresh {
            for one in conditions
                .iter_mut()
                .filter(|one| text(one, "/type") == kind)
            {
                one["lastProbeTime"] = rfc3339(now).into();
            }
        }
    };
    set(target);
    if quiet {
        set(terminal);
        let note = if ending.complete {
            Note::normal(&JOBS, job, "Completed", "Job completed")
        } else {
            Note::warning(&JOBS, job, ending.reason, ending.message.clone())
        };
        plan.push(Action::Note(note));
    }
}

fn suspend(
    job: &Value,
    suspended: bool,
    conditions: &mut Vec<Value>,
    now: Timestamp,
    plan: &mut Plan,
) {
    let (status, reason, message, note) = if suspended {
        ("True", "JobSuspended", "Job suspended", "Suspended")
    } else {
        ("False", "JobResumed", "Job resumed", "Resumed")
    };
    if object::set_condition(conditions, "Suspended", status, reason, message, now) {
        for condition in conditions.iter_mut() {
            if text(condition, "/type") == "Suspended" {
                condition["lastProbeTime"] = rfc3339(now).into();
            }
        }
        plan.push(Action::Note(Note::normal(&JOBS, job, note, message)));
    }
}

/// Deletes a finished job when its time to live is over.
fn expire(job: &Value, now: Timestamp, plan: &mut Plan) {
    let Some(seconds) = int(job, "/spec/ttlSecondsAfterFinished") else {
        return;
    };
    if deleting(job) {
        return;
    }
    let finished_at = ["Complete", "Failed"]
        .iter()
        .filter_map(|kind| object::condition(job, kind))
        .filter_map(|condition| time(condition, "/lastTransitionTime"))
        .max()
        .unwrap_or(now);
    let due = after(finished_at, seconds);
    if due > now {
        plan.wake(due);
        return;
    }
    let mut action = Action::delete(&JOBS, job);
    if let Action::Delete { propagation, .. } = &mut action {
        // As upstream: whoever sees the job gone must not find its pods.
        *propagation = Propagation::Foreground;
    }
    plan.push(action);
}

fn create(job: &Value) -> Action {
    let template = job
        .pointer("/spec/template")
        .cloned()
        .unwrap_or_else(|| json!({}));
    let mut pod = pods::from_template(&JOBS, job, &template);
    pod["metadata"]["generateName"] = pods::generate_name(object::name(job)).into();
    for (key, value) in [
        ("batch.kubernetes.io/job-name", object::name(job)),
        ("job-name", object::name(job)),
        ("batch.kubernetes.io/controller-uid", object::uid(job)),
        ("controller-uid", object::uid(job)),
    ] {
        object::set_label(&mut pod, key, value);
    }
    let pod = object::with_finalizer(&pod, TRACKING);
    Action::Create {
        gvr: PODS.clone(),
        object: pod,
        done: Some(Note::normal(
            &JOBS,
            job,
            "SuccessfulCreate",
            "Created pod: ",
        )),
        failed: Some(Note::warning(
            &JOBS,
            job,
            "FailedCreate",
            "Error creating: ",
        )),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::simulator::Simulator;
    use super::*;

    fn job(spec: &Value) -> Value {
        let mut job = json!({
            "metadata": {"namespace": "n", "name": "work"},
            "spec": {
                "completions": 1, "parallelism": 1, "backoffLimit": 2,
                "template": {"metadata": {"labels": {"app": "work"}}, "spec": {"restartPolicy": "Never", "containers": []}},
            },
        });
        for (member, value) in spec.as_object().unwrap() {
            job["spec"][member] = value.clone();
        }
        job
    }

    fn key() -> ObjectKey {
        ObjectKey::new(&JOBS, "n", "work")
    }

    fn cluster(spec: &Value) -> Simulator {
        let mut simulator = Simulator::new(
            1,
            vec![
                Box::new(Jobs),
                Box::new(super::super::garbage::GarbageCollector),
            ],
        );
        simulator.apply(&JOBS, job(spec));
        assert!(simulator.settle(100));
        simulator
    }

    fn active(simulator: &Simulator) -> Vec<ObjectKey> {
        simulator
            .pods("n")
            .iter()
            .filter(|pod| pods::active(pod))
            .map(|pod| ObjectKey::of(&PODS, pod))
            .collect()
    }

    fn end(simulator: &mut Simulator, phase: &str) {
        let pod = active(simulator)[0].clone();
        let now = rfc3339(simulator.now);
        simulator.change(&pod, |pod| {
            pod["spec"]["nodeName"] = "node".into();
            pod["status"]["phase"] = phase.into();
            pod["status"]["containerStatuses"] =
                json!([{"state": {"terminated": {"finishedAt": now}}}]);
        });
        assert!(simulator.settle(200));
    }

    fn status(simulator: &Simulator) -> Value {
        simulator.cache.at(&key()).unwrap()["status"].clone()
    }

    fn state(simulator: &Simulator, kind: &str) -> (String, String) {
        let job = simulator.cache.at(&key()).unwrap();
        let reason = object::condition(job, kind).map_or("", |one| text(one, "/reason"));
        (condition_status(job, kind).to_owned(), reason.to_owned())
    }

    #[test]
    fn a_job_runs_to_completion_and_stays_quiet() {
        let mut simulator = cluster(&json!({"completions": 3, "parallelism": 2}));
        assert_eq!(active(&simulator).len(), 2);
        end(&mut simulator, "Succeeded");
        assert_eq!(active(&simulator).len(), 2);
        end(&mut simulator, "Succeeded");
        assert_eq!(active(&simulator).len(), 1);
        assert_eq!(status(&simulator)["succeeded"], 2);
        end(&mut simulator, "Succeeded");
        assert_eq!(
            state(&simulator, "Complete"),
            ("True".to_owned(), "CompletionsReached".to_owned())
        );
        let status = status(&simulator);
        assert!(status.get("active").is_none());
        assert!(status.get("completionTime").is_some());
        assert!(
            simulator
                .pods("n")
                .iter()
                .all(|pod| !has_finalizer(pod, TRACKING))
        );
        let writes = simulator.writes;
        simulator.pass_time(100_000);
        let pod = ObjectKey::of(&PODS, &simulator.pods("n")[0]);
        simulator.change(&pod, |pod| {
            pod["metadata"]["annotations"] = json!({"a": "b"});
        });
        assert!(simulator.settle(100));
        assert_eq!(simulator.writes, writes);
    }

    #[test]
    fn results_survive_the_deletion_of_their_pods() {
        let mut simulator = cluster(&json!({"completions": 2}));
        end(&mut simulator, "Succeeded");
        for pod in simulator.pods("n") {
            if pods::finished(&pod) {
                simulator.delete(&ObjectKey::of(&PODS, &pod));
            }
        }
        assert!(simulator.settle(100));
        end(&mut simulator, "Succeeded");
        assert_eq!(state(&simulator, "Complete").0, "True");
    }

    #[test]
    fn failures_back_off_and_end_the_job() {
        let mut simulator = cluster(&json!({}));
        for (failures, pause) in [(1, 10), (2, 20)] {
            end(&mut simulator, "Failed");
            assert_eq!(status(&simulator)["failed"], failures);
            assert_eq!(active(&simulator).len(), 0, "pauses first");
            simulator.pass_time(pause);
            assert!(simulator.settle(100));
            assert_eq!(active(&simulator).len(), 1);
        }
        end(&mut simulator, "Failed");
        assert_eq!(
            state(&simulator, "Failed"),
            ("True".to_owned(), "BackoffLimitExceeded".to_owned())
        );
        assert_eq!(status(&simulator)["failed"], 3);
    }

    #[test]
    fn deadlines_ttl_and_suspension() {
        let mut simulator =
            cluster(&json!({"activeDeadlineSeconds": 30, "ttlSecondsAfterFinished": 5}));
        simulator.pass_time(30);
        assert!(simulator.settle(100));
        assert_eq!(
            state(&simulator, "Failed"),
            ("True".to_owned(), "DeadlineExceeded".to_owned())
        );
        assert_eq!(active(&simulator).len(), 0);
        simulator.pass_time(5);
        assert!(simulator.settle(100));
        assert!(simulator.cache.at(&key()).is_none());

        let mut simulator = cluster(&json!({"suspend": true}));
        assert_eq!(active(&simulator).len(), 0);
        assert_eq!(state(&simulator, "Suspended").0, "True");
        simulator.apply(&JOBS, job(&json!({"suspend": false})));
        assert!(simulator.settle(100));
        assert_eq!(active(&simulator).len(), 1);
        assert_eq!(state(&simulator, "Suspended").0, "False");
    }

    #[test]
    fn what_is_not_supported_fails_loudly() {
        for spec in [
            json!({"completionMode": "Indexed"}),
            json!({"podFailurePolicy": {"rules": []}}),
            json!({"successPolicy": {"rules": []}}),
            json!({"podReplacementPolicy": "Failed"}),
        ] {
            let simulator = cluster(&spec);
            assert_eq!(
                state(&simulator, "Failed"),
                ("True".to_owned(), "NotSupported".to_owned())
            );
            assert_eq!(simulator.pods("n").len(), 0);
            assert!(
                simulator
                    .events
                    .iter()
                    .any(|event| event.contains("not supported"))
            );
        }
    }

    #[test]
    fn pods_of_a_deleted_job_are_released() {
        let mut simulator = cluster(&json!({}));
        end(&mut simulator, "Failed");
        simulator.remove(&key());
        assert!(simulator.settle(100));
        assert_eq!(simulator.pods("n").len(), 0);
    }
}
