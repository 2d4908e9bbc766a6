//! Which instances must be looked at, and when: a set with timers, not a list of events.
//!
//! An instance is in it at most once, is never handed to two workers, and when it is marked while being worked on it comes back
//! afterwards. Never here: what is done with an instance.

use std::{
    collections::{BTreeSet, HashMap, HashSet, VecDeque},
    time::Duration,
};

use libretto_api::{intent::Millis, object::InstanceRef};
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::clock;

/// The dirty set. Bounded by the number of instances: each is in each collection at most once.
#[derive(Debug, Default)]
pub struct Queue {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// Order of arrival, so that nobody starves.
    ready: VecDeque<InstanceRef>,
    waiting: HashSet<InstanceRef>,
    running: HashSet<InstanceRef>,
    /// Marked while running.
    again: HashSet<InstanceRef>,
    /// One alarm per instance: the earliest asked for.
    alarm_of: HashMap<InstanceRef, Millis>,
    alarms: BTreeSet<(Millis, InstanceRef)>,
    /// Not before this time, whatever happens: for an instance that acts without end.
    held_until: HashMap<InstanceRef, Millis>,
    closed: bool,
}

impl Queue {
    /// The instance must be looked at.
    pub fn mark(&self, instance: InstanceRef) {
        self.state.lock().mark(instance, clock::now());
        self.changed.notify_one();
    }

    /// All of them must be looked at.
    pub fn mark_all(&self, instances: impl IntoIterator<Item = InstanceRef>) {
        for instance in instances {
            self.mark(instance);
        }
    }

    /// The instance must be looked at at that time, unless an earlier alarm is set.
    pub fn wake_at(&self, instance: InstanceRef, at: Millis) {
        self.state.lock().set_alarm(instance, at);
        // Only an alarm that became the first changes how long to sleep; a spurious wake-up costs microseconds.
        self.changed.notify_one();
    }

    /// The instance is not handed out for `pause`, whatever is marked meanwhile; then it is, once.
    pub fn hold(&self, instance: InstanceRef, pause: Duration) {
        let until = clock::now() + Millis::try_from(pause.as_millis()).unwrap_or(Millis::MAX);
        let mut state = self.state.lock();
        state.held_until.insert(instance.clone(), until);
        state.set_alarm(instance, until);
        drop(state);
        self.changed.notify_one();
    }

    /// The instance does not exist any more.
    pub fn forget(&self, instance: &InstanceRef) {
        let mut state = self.state.lock();
        state.ready.retain(|other| other != instance);
        state.waiting.remove(instance);
        state.again.remove(instance);
        state.held_until.remove(instance);
        state.clear_alarm(instance);
    }

    /// The next instance, once there is one; `None` after [`Queue::close`]. Must be given back with [`Queue::done`].
    pub async fn next(&self) -> Option<InstanceRef> {
        loop {
            let changed = self.changed.notified();
            let alarm = {
                let mut state = self.state.lock();
                if state.closed {
                    // Wakes the next sleeper in turn.
                    self.changed.notify_one();
                    return None;
                }
                state.ring(clock::now());
                if let Some(instance) = state.take() {
                    if !state.ready.is_empty() {
                        self.changed.notify_one();
                    }
                    return Some(instance);
                }
                state.alarms.first().map(|(at, _)| *at)
            };
            match alarm {
                None => changed.await,
                Some(at) => tokio::select! {
                    () = changed => {}
                    () = tokio::time::sleep(clock::until(at)) => {}
                },
            }
        }
    }

    /// The worker is through with the instance.
    pub fn done(&self, instance: &InstanceRef) {
        let mut state = self.state.lock();
        state.running.remove(instance);
        if state.again.remove(instance) {
            state.mark(instance.clone(), clock::now());
        }
        drop(state);
        self.changed.notify_one();
    }

    /// No instance is handed out any more.
    pub fn close(&self) {
        self.state.lock().closed = true;
        self.changed.notify_one();
    }

    /// How many wait for a worker.
    pub fn depth(&self) -> usize {
        self.state.lock().ready.len()
    }

    /// Those that are being worked on.
    pub fn under_way(&self) -> Vec<InstanceRef> {
        self.state.lock().running.iter().cloned().collect()
    }

    /// How many are being worked on.
    pub fn running(&self) -> usize {
        self.state.lock().running.len()
    }
}

impl State {
    fn mark(&mut self, instance: InstanceRef, now: Millis) {
        if let Some(&until) = self.held_until.get(&instance) {
            if until > now {
                // Its alarm may have rung for something that was due before the hold ends.
                self.set_alarm(instance, until);
                return;
            }
            self.held_until.remove(&instance);
        }
        if self.running.contains(&instance) {
            self.again.insert(instance);
        } else if self.waiting.insert(instance.clone()) {
            self.ready.push_back(instance);
        }
    }

    fn set_alarm(&mut self, instance: InstanceRef, at: Millis) {
        match self.alarm_of.get(&instance) {
            Some(&earlier) if earlier <= at => return,
            Some(&later) => {
                self.alarms.remove(&(later, instance.clone()));
            }
            None => {}
        }
        self.alarm_of.insert(instance.clone(), at);
        self.alarms.insert((at, instance));
    }

    fn clear_alarm(&mut self, instance: &InstanceRef) {
        if let Some(at) = self.alarm_of.remove(instance) {
            self.alarms.remove(&(at, instance.clone()));
        }
    }

    /// Marks every instance whose alarm is due.
    fn ring(&mut self, now: Millis) {
        while self.alarms.first().is_some_and(|(at, _)| *at <= now) {
            let Some((_, instance)) = self.alarms.pop_first() else {
                return;
            };
            self.alarm_of.remove(&instance);
            self.mark(instance, now);
        }
    }

    fn take(&mut self) -> Option<InstanceRef> {
        let instance = self.ready.pop_front()?;
        self.waiting.remove(&instance);
        self.running.insert(instance.clone());
        // The pass that begins now sets its own; one for a later hold stays.
        if !self.held_until.contains_key(&instance) {
            self.clear_alarm(&instance);
        }
        Some(instance)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use libretto_api::object::Gvk;

    use super::*;

    fn instance(name: &str) -> InstanceRef {
        InstanceRef {
            package: "p".into(),
            gvk: Gvk::new("example.dev", "v1", "Thing"),
            namespace: "default".into(),
            name: name.into(),
            uid: name.into(),
        }
    }

    #[tokio::test]
    async fn marking_twice_is_marking_once() {
        let queue = Queue::default();
        queue.mark(instance("a"));
        queue.mark(instance("b"));
        queue.mark(instance("a"));
        assert_eq!(queue.next().await.unwrap().name, "a");
        assert_eq!(queue.next().await.unwrap().name, "b");
        assert_eq!(queue.depth(), 0);
    }

    #[tokio::test]
    async fn a_running_instance_comes_back_after_its_worker_is_done() {
        let queue = Queue::default();
        queue.mark(instance("a"));
        let first = queue.next().await.unwrap();
        queue.mark(instance("a"));
        assert_eq!(queue.depth(), 0, "never two workers on one instance");
        queue.done(&first);
        assert_eq!(queue.next().await.unwrap(), first);
        queue.done(&first);
        assert_eq!(queue.depth(), 0);
    }

    #[tokio::test]
    async fn the_earliest_alarm_wins_and_rings_once() {
        let queue = Queue::default();
        let now = clock::now();
        queue.wake_at(instance("a"), now + 3_600_000);
        queue.wake_at(instance("a"), now - 1);
        queue.wake_at(instance("a"), now + 7_200_000);
        assert_eq!(queue.next().await.unwrap().name, "a");
        assert!(queue.state.lock().alarms.is_empty());
    }

    #[tokio::test]
    async fn a_held_instance_ignores_marks_until_its_time() {
        let queue = Queue::default();
        queue.hold(instance("a"), Duration::from_millis(20));
        queue.mark(instance("a"));
        assert_eq!(queue.depth(), 0);
        assert_eq!(queue.next().await.unwrap().name, "a");
    }

    #[tokio::test]
    async fn an_alarm_that_rings_during_a_hold_is_not_the_last() {
        let queue = Queue::default();
        queue.wake_at(instance("a"), clock::now() - 1);
        queue.hold(instance("a"), Duration::from_millis(20));
        // It rings at once, is held back, and must come when the hold ends.
        assert_eq!(queue.next().await.unwrap().name, "a");
    }

    #[tokio::test]
    async fn closing_wakes_every_sleeper() {
        let queue = std::sync::Arc::new(Queue::default());
        let sleepers: Vec<_> = (0..3)
            .map(|_| {
                let queue = std::sync::Arc::clone(&queue);
                tokio::spawn(async move { queue.next().await })
            })
            .collect();
        tokio::task::yield_now().await;
        queue.close();
        for sleeper in sleepers {
            assert_eq!(sleeper.await.unwrap(), None);
        }
    }

    #[tokio::test]
    async fn a_forgotten_instance_is_nowhere() {
        let queue = Queue::default();
        queue.mark(instance("a"));
        queue.wake_at(instance("a"), clock::now() + 1000);
        queue.forget(&instance("a"));
        let state = queue.state.lock();
        assert!(state.ready.is_empty() && state.alarms.is_empty() && state.alarm_of.is_empty());
    }
}
