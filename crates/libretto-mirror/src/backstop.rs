//! What ends a statement whose steps are few and long: counting steps bounds how many there are, not what each does to a value of a
//! megabyte, nor what is put aside for sorting.
//!
//! The one place of this crate that looks at a clock and at the process. It never changes an answer: there is one or there is none, and a
//! statement of short values comes to its bound in steps long before.

use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

use crate::SqlError;

/// Not looked at before: what is over by then can have done no harm, and nearly everything is.
const UNSEEN: Duration = Duration::from_millis(5);
/// Time of the processor, so that a busy machine changes nothing. Some times what five million steps over short values take, the other
/// bound: which of the two ends a query must not be chance, because the message is written into a status.
const LONGEST: Duration = Duration::from_millis(250);
/// Growth of the process. A sorted result of the longest allowed size fits several times; a small pod survives it.
const HEAVIEST: usize = 96 << 20;
/// Before so much of the processor's time, growth is not this statement's: others list a large Kind meanwhile. Nothing well-meant works
/// that long.
const SUSPICIOUS: Duration = Duration::from_millis(25);
/// Between two looks at the process, which cost some microseconds.
const BETWEEN: Duration = Duration::from_millis(1);

/// One statement while it runs.
#[derive(Debug)]
pub(crate) struct Backstop {
    began: Instant,
    next: Duration,
    /// Processor time and memory when it was first looked at.
    first: Option<(Duration, usize)>,
}

impl Backstop {
    pub(crate) fn new() -> Self {
        Self {
            began: Instant::now(),
            next: UNSEEN,
            first: None,
        }
    }

    /// Why the statement has to end, if it has.
    pub(crate) fn judge(&mut self, patience: u32) -> Option<SqlError> {
        let passed = self.began.elapsed();
        if passed < self.next {
            return None;
        }
        self.next = passed + BETWEEN;
        let (worked, resident) = (worked(), resident());
        let (before, held) = *self.first.get_or_insert((worked, resident));
        let longest = LONGEST * patience;
        let spent = worked.saturating_sub(before);
        let heavy = spent > SUSPICIOUS && resident.saturating_sub(held) > HEAVIEST;
        let over = spent > longest || heavy;
        over.then(|| SqlError::Long {
            ms: u64::try_from(longest.as_millis()).unwrap_or(u64::MAX),
            mib: HEAVIEST >> 20,
        })
    }
}

/// Processor time of this thread.
fn worked() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(
        u64::try_from(time.tv_sec).unwrap_or_default(),
        u32::try_from(time.tv_nsec).unwrap_or_default(),
    )
}

/// Bytes of memory the process holds; 0 where there is no /proc to tell.
fn resident() -> usize {
    let told = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = told.split(' ').nth(1).and_then(|pages| pages.parse().ok());
    pages.unwrap_or(0_usize) * rustix::param::page_size()
}
