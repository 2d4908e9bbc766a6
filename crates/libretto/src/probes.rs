//! Asks what packages want to know, again and again, without asking too much at once.
//!
//! A new target is asked at once; later ones with jitter, so that a thousand instances do not ask in step. After a command to a
//! server its targets are asked again soon, and an answer that was under way before the command is dropped: it would show the
//! old state as the new. Never here: what an answer means (misses and stale columns are the mirror's).

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap},
    sync::Arc,
    time::Duration,
};

use libretto_actions::Actions;
use libretto_api::{
    intent::{Failure, FailureKind, Probe},
    object::InstanceRef,
};
use libretto_engine::ProbeTarget;
use parking_lot::Mutex;
use rand::Rng as _;
use serde_json::Value;
use tokio::{
    sync::{Notify, Semaphore, mpsc},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

/// Probes under way at once. Each holds a socket and a few KiB; at 5 ms an answer this is ten thousand probes a second, at a
/// timeout of a second for every one (a dead node) still sixty-four.
const AT_ONCE: usize = 64;
/// Answers waiting to be taken in. The receiver needs microseconds for each; when it falls behind, probing waits.
const ANSWERS: usize = 256;
/// How soon after a command its effect is looked for. Redis changes its role within a millisecond; Sentinel publishes within ten.
const SOON: Duration = Duration::from_millis(50);

/// A question that was answered, or not.
#[derive(Debug)]
pub struct Answered {
    pub package: String,
    pub uid: String,
    pub table: String,
    pub key: String,
    pub answer: Result<Value, Failure>,
}

/// Schedules and asks.
pub struct Prober {
    shared: Arc<Shared>,
    answers: tokio::sync::Mutex<mpsc::Receiver<Answered>>,
}

impl std::fmt::Debug for Prober {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Prober").finish_non_exhaustive()
    }
}

struct Shared {
    actions: Actions,
    schedule: Mutex<Schedule>,
    changed: Notify,
    sender: mpsc::Sender<Answered>,
    permits: Arc<Semaphore>,
    stop: CancellationToken,
}

type Table = String;
type Key = String;
type Uid = String;
/// When, which ticket, and what of whom.
type Entry = (Instant, u64, Uid, Table, Key);

#[derive(Default)]
struct Schedule {
    targets: HashMap<Uid, Instance>,
    /// Earliest first. Entries whose ticket is not the target's any more are skipped.
    due: BinaryHeap<Reverse<Entry>>,
    tickets: u64,
}

struct Instance {
    reference: InstanceRef,
    targets: HashMap<(Table, Key), Target>,
}

/// Failed probes in a row that are worth a line in the log: a starting server misses a few, this many are trouble.
const SILENT: u32 = 10;

struct Target {
    target: ProbeTarget,
    /// Names the one schedule entry or running probe that counts; anything with another ticket is out of date.
    ticket: u64,
    /// Failed answers in a row.
    silent: u32,
}

impl Prober {
    pub fn new(actions: Actions) -> Self {
        let (sender, receiver) = mpsc::channel(ANSWERS);
        Self {
            shared: Arc::new(Shared {
                actions,
                schedule: Mutex::default(),
                changed: Notify::new(),
                sender,
                permits: Arc::new(Semaphore::new(AT_ONCE)),
                stop: CancellationToken::new(),
            }),
            answers: tokio::sync::Mutex::new(receiver),
        }
    }

    /// Asks from now on `targets` and, of the instance's former ones, those of the tables in `kept`.
    pub fn replace(&self, instance: &InstanceRef, targets: Vec<ProbeTarget>, kept: &[String]) {
        let mut schedule = self.shared.schedule.lock();
        let mut former = schedule
            .targets
            .remove(&instance.uid)
            .map(|instance| instance.targets)
            .unwrap_or_default();
        let mut now = HashMap::with_capacity(targets.len());
        let mut added = false;
        for target in targets {
            let id = (target.table.clone(), target.key.clone());
            match former.remove(&id) {
                // Same question: its place in the schedule stays.
                Some(same) if same.target == target => {
                    now.insert(id, same);
                }
                _ => {
                    let ticket = schedule.enter(Instant::now(), &instance.uid, &id);
                    let silent = 0;
                    now.insert(
                        id,
                        Target {
                            target,
                            ticket,
                            silent,
                        },
                    );
                    added = true;
                }
            }
        }
        former.retain(|(table, _), _| kept.contains(table));
        now.extend(former);
        if !now.is_empty() {
            let instance = Instance {
                reference: instance.clone(),
                targets: now,
            };
            schedule
                .targets
                .insert(instance.reference.uid.clone(), instance);
        }
        drop(schedule);
        if added {
            self.shared.changed.notify_one();
        }
    }

    /// Something was done to `host`: its answers so far are out of date.
    pub fn hurry(&self, uid: &str, host: &str) {
        let mut schedule = self.shared.schedule.lock();
        let Some(instance) = schedule.targets.get(uid) else {
            return;
        };
        let ids: Vec<(Table, Key)> = instance
            .targets
            .iter()
            .filter(|(_, target)| host_of(&target.target.probe) == Some(host))
            .map(|(id, _)| id.clone())
            .collect();
        for id in ids {
            let ticket = schedule.enter(Instant::now() + SOON, uid, &id);
            if let Some(target) = schedule
                .targets
                .get_mut(uid)
                .and_then(|instance| instance.targets.get_mut(&id))
            {
                target.ticket = ticket;
            }
        }
        drop(schedule);
        self.shared.changed.notify_one();
    }

    pub fn forget(&self, uid: &str) {
        self.shared.schedule.lock().targets.remove(uid);
    }

    /// The next answer; `None` when the prober was stopped.
    pub async fn answered(&self) -> Option<Answered> {
        let mut answers = self.answers.lock().await;
        self.shared
            .stop
            .run_until_cancelled(answers.recv())
            .await
            .flatten()
    }

    /// Asks until [`Prober::stop`].
    pub fn run(&self) -> impl Future<Output = ()> + Send + 'static {
        let shared = Arc::clone(&self.shared);
        async move {
            let stop = shared.stop.clone();
            stop.run_until_cancelled(shared.run()).await;
        }
    }

    /// Asks nothing more; answers under way are dropped.
    pub fn stop(&self) {
        self.shared.stop.cancel();
    }
}

impl Schedule {
    fn enter(&mut self, at: Instant, uid: &str, (table, key): &(Table, Key)) -> u64 {
        self.tickets += 1;
        self.due.push(Reverse((
            at,
            self.tickets,
            uid.to_owned(),
            table.clone(),
            key.clone(),
        )));
        self.tickets
    }

    /// The target of a schedule entry, when the entry still counts.
    fn current(&self, uid: &str, id: &(Table, Key), ticket: u64) -> Option<(&Instance, &Target)> {
        let instance = self.targets.get(uid)?;
        let target = instance.targets.get(id)?;
        (target.ticket == ticket).then_some((instance, target))
    }
}

/// Something to ask now.
struct Question {
    instance: InstanceRef,
    target: ProbeTarget,
    ticket: u64,
}

impl Shared {
    async fn run(self: Arc<Self>) {
        loop {
            let changed = self.changed.notified();
            let next = {
                let mut schedule = self.schedule.lock();
                take_due(&mut schedule, Instant::now())
            };
            match next {
                Ok(question) => {
                    // The wait for a permit is the bound: what is due later simply becomes later.
                    let Ok(permit) = Arc::clone(&self.permits).acquire_owned().await else {
                        return;
                    };
                    let shared = Arc::clone(&self);
                    tokio::spawn(async move {
                        shared.ask(question).await;
                        drop(permit);
                    });
                }
                Err(None) => changed.await,
                Err(Some(at)) => tokio::select! {
                    () = changed => {}
                    () = tokio::time::sleep_until(at) => {}
                },
            }
        }
    }

    async fn ask(&self, question: Question) {
        let Question {
            instance,
            target,
            ticket,
        } = question;
        let timeout = Duration::from_millis(target.timeout_ms);
        let answer = tokio::time::timeout(timeout, self.actions.probe(&instance, &target.probe))
            .await
            .unwrap_or_else(|_elapsed| {
                Err(Failure {
                    kind: FailureKind::Unreachable,
                    message: format!(
                        "{}: no answer within {} ms",
                        subject(&target.probe),
                        target.timeout_ms
                    ),
                })
            });
        let id = (target.table.clone(), target.key.clone());
        {
            let mut schedule = self.schedule.lock();
            if schedule.current(&instance.uid, &id, ticket).is_none() {
                return; // Replaced, removed, or asked again since: this answer is out of date.
            }
            let every = Duration::from_millis(target.every_ms);
            let at = Instant::now() + every.mul_f64(rand::rng().random_range(0.9..1.1));
            let ticket = schedule.enter(at, &instance.uid, &id);
            if let Some(target) = schedule
                .targets
                .get_mut(&instance.uid)
                .and_then(|instance| instance.targets.get_mut(&id))
            {
                target.ticket = ticket;
                let before = target.silent;
                target.silent = if answer.is_ok() {
                    0
                } else {
                    before.saturating_add(1)
                };
                tell_silence(&instance, &id, before, answer.as_ref().err());
            }
        }
        self.changed.notify_one();
        let answered = Answered {
            package: instance.package,
            uid: instance.uid,
            table: target.table,
            key: target.key,
            answer,
        };
        // A closed channel means that the runtime stops.
        let _ = self.sender.send(answered).await;
    }
}

/// Logs once that a target stays silent, and once that it answers again. Without it an operator that cannot reach its pods, such as one
/// outside their network, would wait in silence.
fn tell_silence(
    instance: &InstanceRef,
    (table, key): &(Table, Key),
    before: u32,
    failure: Option<&Failure>,
) {
    match failure {
        Some(failure) if before.saturating_add(1) == SILENT => {
            tracing::warn!(%instance, table, key, "no answer to {SILENT} probes in a row: {}", failure.message);
        }
        None if before >= SILENT => {
            tracing::info!(%instance, table, key, "the probe is answered again");
        }
        _ => {}
    }
}

/// A question that is due, or when the next one will be.
fn take_due(schedule: &mut Schedule, now: Instant) -> Result<Question, Option<Instant>> {
    loop {
        match schedule.due.peek() {
            None => return Err(None),
            Some(Reverse((at, ..))) if *at > now => return Err(Some(*at)),
            Some(_) => {}
        }
        let Some(Reverse((_, ticket, uid, table, key))) = schedule.due.pop() else {
            return Err(None);
        };
        if let Some((instance, target)) = schedule.current(&uid, &(table, key), ticket) {
            return Ok(Question {
                instance: instance.reference.clone(),
                target: target.target.clone(),
                ticket,
            });
        }
    }
}

fn host_of(probe: &Probe) -> Option<&str> {
    match probe {
        Probe::Redis(call) => Some(&call.host),
        Probe::Tcp { host, .. } => Some(host),
        Probe::Exec(call) => Some(&call.pod),
        Probe::Http(_) | Probe::Dns { .. } | Probe::Prometheus { .. } => None,
    }
}

fn subject(probe: &Probe) -> String {
    match probe {
        Probe::Redis(call) => format!("redis {} port {}", call.host, call.port),
        Probe::Tcp { host, port, .. } => format!("tcp {host} port {port}"),
        Probe::Http(call) | Probe::Prometheus { page: call, .. } => {
            format!("{} {}", call.method, call.url)
        }
        Probe::Exec(call) => format!("exec in pod {}: {}", call.pod, call.command.join(" ")),
        Probe::Dns { name, .. } => format!("dns {name}"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use libretto_api::object::Gvk;

    use super::*;

    fn instance() -> InstanceRef {
        InstanceRef {
            package: "p".into(),
            gvk: Gvk::new("example.dev", "v1", "Thing"),
            namespace: "default".into(),
            name: "a".into(),
            uid: "u".into(),
        }
    }

    fn target(key: &str, port: u16, every_ms: u64) -> ProbeTarget {
        ProbeTarget {
            table: "t".into(),
            key: key.into(),
            probe: Probe::Tcp {
                host: "127.0.0.1".into(),
                port,
                timeout_ms: 1000,
            },
            every_ms,
            timeout_ms: 1000,
        }
    }

    fn prober() -> Prober {
        // Never connected to: a TCP probe needs no API server.
        let config = kube::Config::new("http://127.0.0.1:9".parse().unwrap());
        let client = kube::Client::try_from(config).unwrap();
        let kube = libretto_actions::kube::Kube::new(client);
        Prober::new(Actions::new(
            kube,
            Arc::new(libretto_actions::NoSecrets),
            HashMap::new(),
            libretto_actions::Reach {
                loopback: true,
                denied: Vec::new(),
                allowed: None,
            },
        ))
    }

    #[tokio::test]
    async fn a_new_target_is_asked_at_once_and_then_again() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let prober = prober();
        tokio::spawn(prober.run());
        prober.replace(&instance(), vec![target("k", port, 10)], &[]);
        for _ in 0..3 {
            let answered = prober.answered().await.unwrap();
            assert_eq!(answered.key, "k");
            assert_eq!(answered.answer.unwrap()["open"], true);
        }
    }

    #[tokio::test]
    async fn hurry_asks_before_its_time() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let prober = prober();
        tokio::spawn(prober.run());
        prober.replace(&instance(), vec![target("k", port, 3_600_000)], &[]);
        prober.answered().await.unwrap();
        prober.hurry("u", "10.0.0.1");
        prober.hurry("u", "127.0.0.1");
        assert_eq!(prober.answered().await.unwrap().key, "k");
    }

    #[tokio::test]
    async fn the_same_target_keeps_its_place_and_removed_ones_are_not_asked() {
        let prober = prober();
        prober.replace(
            &instance(),
            vec![target("a", 1, 1000), target("b", 1, 1000)],
            &[],
        );
        prober.replace(&instance(), vec![target("a", 1, 1000)], &[]);
        let mut schedule = prober.shared.schedule.lock();
        let asked: Vec<String> =
            std::iter::from_fn(|| take_due(&mut schedule, Instant::now()).ok())
                .map(|question| question.target.key)
                .collect();
        assert_eq!(asked, ["a"]);
    }

    #[tokio::test]
    async fn targets_of_a_kept_table_stay() {
        let prober = prober();
        prober.replace(&instance(), vec![target("a", 1, 1000)], &[]);
        prober.replace(&instance(), Vec::new(), &["t".to_owned()]);
        assert_eq!(prober.shared.schedule.lock().targets["u"].targets.len(), 1);
        prober.replace(&instance(), Vec::new(), &[]);
        assert!(prober.shared.schedule.lock().targets.is_empty());
    }

    #[tokio::test]
    async fn an_answer_from_before_a_command_is_dropped() {
        let prober = prober();
        prober.replace(&instance(), vec![target("a", 1, 1000)], &[]);
        let question = take_due(&mut prober.shared.schedule.lock(), Instant::now())
            .ok()
            .unwrap();
        prober.hurry("u", "127.0.0.1");
        prober.shared.ask(question).await;
        prober.stop();
        assert!(
            prober.answered().await.is_none(),
            "the old answer was not sent"
        );
    }
}
