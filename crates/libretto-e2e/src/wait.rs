//! Waiting for a condition, with a limit and a reason.

use std::{
    future::Future,
    time::{Duration, Instant},
};

use crate::{Failure, Step};

/// Time between two looks at a condition: short enough to measure seconds, long enough not to load two cores.
const LOOK: Duration = Duration::from_millis(100);

/// Repeats `look` until it answers `Ok`; gives its last refusal as the reason when the time is over.
pub async fn until<T, F, Fut>(what: &str, limit: Duration, mut look: F) -> Step<(T, Duration)>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Step<T>>,
{
    let started = Instant::now();
    loop {
        // One look may hang on a half-dead peer: it is bounded by what is left.
        let left = limit.saturating_sub(started.elapsed()).max(LOOK);
        let refusal = match tokio::time::timeout(left, look()).await {
            Ok(Ok(value)) => return Ok((value, started.elapsed())),
            Ok(Err(refusal)) => refusal,
            Err(_) => "the last look did not end".into(),
        };
        if started.elapsed() >= limit {
            return Err(Failure::from(format!(
                "{what}: not within {} s: {refusal}",
                limit.as_secs()
            )));
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Looks again and again for as long as `span`, and fails as soon as `look` says yes.
pub async fn never<F, Fut>(what: &str, span: Duration, mut look: F) -> Step
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Step<bool>>,
{
    let started = Instant::now();
    while started.elapsed() < span {
        if look().await? {
            return Err(Failure::from(format!("{what}, and should not")));
        }
        tokio::time::sleep(LOOK).await;
    }
    Ok(())
}
