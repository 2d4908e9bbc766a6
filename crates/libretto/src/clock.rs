//! The wall clock, in the engine's unit. The only place of the runtime that reads it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use libretto_api::intent::Millis;

/// Milliseconds since the epoch; a clock set before 1970 reads as 0.
pub fn now() -> Millis {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    Millis::try_from(since.as_millis()).unwrap_or(Millis::MAX)
}

/// As Kubernetes writes times: in UTC, whole seconds.
pub fn rfc3339(at: Millis) -> String {
    jiff::Timestamp::from_second(at.div_euclid(1000))
        .unwrap_or(jiff::Timestamp::UNIX_EPOCH)
        .to_string()
}

/// How long from now until `at`; zero when it is past.
pub fn until(at: Millis) -> Duration {
    Duration::from_millis(u64::try_from(at.saturating_sub(now())).unwrap_or(0))
}
