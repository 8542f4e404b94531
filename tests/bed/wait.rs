//! Waiting for something that another process or the kernel will do: bounded, and over as soon as it holds.
//!
//! A bound here is how long a test waits before it fails, and never a claim: how fast something is, is for benchmarks.

use std::thread;
use std::time::{Duration, Instant};

/// How long anything may take that a test waits for. A test that passes does not wait so long, also on a machine that is
/// busy with ten other things.
pub(crate) const PATIENCE: Duration = Duration::from_mins(2);

/// The shortest and the longest pause between two looks: as long as the look itself took, so that looks that start a
/// program leave the machine to those that they wait for.
const PAUSE: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(200));

/// Whether `holds` became true within `limit`. It is asked at least once, also after the limit.
pub(crate) fn eventually(limit: Duration, mut holds: impl FnMut() -> bool) -> bool {
    until(limit, || holds().then_some(())).is_some()
}

/// The first `Some` that `look` gives within `limit`.
pub(crate) fn until<T>(limit: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + limit;
    loop {
        let begun = Instant::now();
        match look() {
            Some(found) => return Some(found),
            None if begun >= deadline => return None,
            None => thread::park_timeout(begun.elapsed().clamp(PAUSE.0, PAUSE.1)),
        }
    }
}
