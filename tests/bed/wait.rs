//! Waiting for something that another process or the kernel will do: bounded, and over as soon as it holds.

use std::thread;
use std::time::{Duration, Instant};

/// How long one look waits for the next; short beside everything that is waited for here.
const PAUSE: Duration = Duration::from_millis(10);

/// Whether `holds` became true within `limit`. It is asked at least once, also after the limit.
pub(crate) fn eventually(limit: Duration, mut holds: impl FnMut() -> bool) -> bool {
    until(limit, || holds().then_some(())).is_some()
}

/// The first `Some` that `look` gives within `limit`.
pub(crate) fn until<T>(limit: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + limit;
    loop {
        let last = Instant::now() >= deadline;
        match look() {
            Some(found) => return Some(found),
            None if last => return None,
            None => thread::park_timeout(PAUSE),
        }
    }
}
