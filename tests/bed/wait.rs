//! Waits for something that another process or the kernel will do. Each wait has a limit and ends as soon as the condition
//! holds.
//!
//! A limit only decides when a test fails. It does not prove that something is fast: benchmarks measure that.

use std::thread;
use std::time::{Duration, Instant};

/// The time limit for any event that a test waits for. A test that passes does not need this time, even on a machine that is
/// busy with ten other jobs.
pub(crate) const PATIENCE: Duration = Duration::from_mins(2);

/// The minimum and the maximum pause between two checks. The pause is as long as the check itself took, so that checks that
/// start a program leave enough CPU time to the programs that they wait for.
const PAUSE: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(200));

/// Whether `holds` becomes true within `limit`. It is called at least once, and once more after the limit.
pub(crate) fn eventually(limit: Duration, mut holds: impl FnMut() -> bool) -> bool {
    until(limit, || holds().then_some(())).is_some()
}

/// The first `Some` that `look` returns within `limit`.
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
