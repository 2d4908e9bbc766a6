//! The dirty set: which keys of which controllers need a pass, now or later. A key is in it once, however often it changed.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::time::{Duration, Instant};

use super::cache::ObjectKey;

/// A key of one controller, by the controller's index.
pub(crate) type Work = (usize, ObjectKey);

/// First pause after a failed pass: most failures are conflicts that the next look resolves.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
/// Longest pause: somebody at a terminal is waiting for the cluster to notice what they fixed.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// Passes in a row that wrote something before a key is slowed down. Real work of one key ends long before; two controllers
/// (or a controller and an operator) undoing each other do not, and must not starve the others.
const BUSY_PASSES: u32 = 500;
const BUSY_PAUSE: Duration = Duration::from_secs(1);

/// How a pass ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Nothing to do.
    Quiet,
    /// Everything planned was done.
    Wrote,
    Failed,
}

#[derive(Debug, Default)]
pub(crate) struct Queue {
    ready: VecDeque<Work>,
    queued: HashSet<Work>,
    /// Work for later. At most one entry per key, which `scheduled` finds; the number keeps equal times apart.
    timers: BTreeMap<(Instant, u64), Work>,
    scheduled: HashMap<Work, (Instant, u64)>,
    sequence: u64,
    failures: HashMap<Work, u32>,
    writes: HashMap<Work, u32>,
    /// Keys slowed down until then.
    held: HashSet<Work>,
}

impl Queue {
    /// Marks a key for a pass as soon as possible. Its size is bounded by the number of objects times controllers.
    pub(crate) fn mark(&mut self, work: Work) {
        if self.held.contains(&work) {
            return;
        }
        if self.queued.insert(work.clone()) {
            self.ready.push_back(work);
        }
    }

    /// The key that has waited longest.
    pub(crate) fn take(&mut self) -> Option<Work> {
        let work = self.ready.pop_front()?;
        self.queued.remove(&work);
        self.unschedule(&work);
        Some(work)
    }

    /// Takes in how a pass ended; `again` asks for another one then. Returns the pause a failed or overly busy key gets.
    pub(crate) fn done(
        &mut self,
        work: Work,
        outcome: Outcome,
        again: Option<Instant>,
        now: Instant,
    ) -> Option<Duration> {
        let pause = match outcome {
            Outcome::Quiet => {
                self.failures.remove(&work);
                self.writes.remove(&work);
                None
            }
            Outcome::Wrote => {
                self.failures.remove(&work);
                let writes = self.writes.entry(work.clone()).or_insert(0);
                *writes += 1;
                if *writes >= BUSY_PASSES {
                    self.held.insert(work.clone());
                    if self.queued.remove(&work) {
                        self.ready.retain(|ready| *ready != work);
                    }
                    Some(BUSY_PAUSE)
                } else {
                    None
                }
            }
            Outcome::Failed => {
                let failures = self.failures.entry(work.clone()).or_insert(0);
                let pause = FIRST_PAUSE.saturating_mul(1 << (*failures).min(16));
                *failures = failures.saturating_add(1);
                Some(pause.min(LONGEST_PAUSE))
            }
        };
        let at = match (pause.map(|pause| now + pause), again) {
            (Some(pause), Some(again)) => Some(pause.min(again)),
            (pause, again) => pause.or(again),
        };
        if let Some(at) = at {
            self.unschedule(&work);
            self.sequence += 1;
            self.timers.insert((at, self.sequence), work.clone());
            self.scheduled.insert(work, (at, self.sequence));
        }
        pause
    }

    /// Moves what is due to the ready keys.
    pub(crate) fn wake(&mut self, now: Instant) {
        while let Some(entry) = self.timers.first_entry() {
            if entry.key().0 > now {
                break;
            }
            let work = entry.remove();
            self.scheduled.remove(&work);
            if self.held.remove(&work) {
                self.writes.remove(&work);
            }
            self.mark(work);
        }
    }

    /// When the next timer is due.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.timers.keys().next().map(|(at, _)| *at)
    }

    fn unschedule(&mut self, work: &Work) {
        if let Some(at) = self.scheduled.remove(work) {
            self.timers.remove(&at);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::kinds::PODS;
    use super::*;

    fn work(name: &str) -> Work {
        (0, ObjectKey::new(&PODS, "n", name))
    }

    #[test]
    fn a_key_waits_once() {
        let mut queue = Queue::default();
        queue.mark(work("a"));
        queue.mark(work("b"));
        queue.mark(work("a"));
        assert_eq!(queue.take(), Some(work("a")));
        assert_eq!(queue.take(), Some(work("b")));
        assert_eq!(queue.take(), None);
    }

    #[test]
    fn failures_back_off_and_success_forgets_them() {
        let now = Instant::now();
        let mut queue = Queue::default();
        let pauses = (0..14)
            .map(|_| queue.done(work("a"), Outcome::Failed, None, now).unwrap())
            .collect::<Vec<_>>();
        assert_eq!(pauses[0], FIRST_PAUSE);
        assert_eq!(pauses[1], FIRST_PAUSE * 2);
        assert_eq!(pauses[13], LONGEST_PAUSE);
        assert_eq!(queue.timers.len(), 1);
        queue.done(work("a"), Outcome::Quiet, None, now);
        assert_eq!(
            queue.done(work("a"), Outcome::Failed, None, now),
            Some(FIRST_PAUSE)
        );
    }

    #[test]
    fn timers_fire_once_and_a_change_replaces_them() {
        let now = Instant::now();
        let soon = now + Duration::from_secs(5);
        let mut queue = Queue::default();
        queue.done(work("a"), Outcome::Quiet, Some(soon), now);
        assert_eq!(queue.next(), Some(soon));
        queue.wake(now);
        assert_eq!(queue.take(), None);
        queue.wake(soon);
        assert_eq!(queue.take(), Some(work("a")));
        queue.done(work("a"), Outcome::Quiet, Some(soon), now);
        queue.mark(work("a"));
        assert_eq!(queue.take(), Some(work("a")));
        assert_eq!(queue.next(), None);
    }

    #[test]
    fn a_key_that_never_stops_writing_is_slowed_down() {
        let now = Instant::now();
        let mut queue = Queue::default();
        let mut paused = None;
        for _ in 0..BUSY_PASSES {
            queue.mark(work("a"));
            queue.take();
            queue.mark(work("a"));
            paused = queue.done(work("a"), Outcome::Wrote, None, now);
        }
        assert_eq!(paused, Some(BUSY_PAUSE));
        queue.mark(work("a"));
        assert_eq!(queue.take(), None);
        queue.wake(now + BUSY_PAUSE);
        assert_eq!(queue.take(), Some(work("a")));
    }
}
