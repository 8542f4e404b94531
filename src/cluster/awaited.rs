//! A value of the cluster that a plan needs. A set of forwards waits for it, but not for ever.

use std::error::Error;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::trouble::{is_absent, is_refusal};

/// How long the API server must refuse a resource before the agent continues without it. A starting API server refuses for a
/// moment.
pub(super) const REFUSED_FOR: Duration = Duration::from_secs(5);
/// How long requests must fail in any other way. It is longer, because the forwards usually cannot be read then either.
const FAILED_FOR: Duration = Duration::from_mins(1);

/// Sends a value when it changes. If it cannot be read at first, sends the one that was known before the start.
#[derive(Debug)]
pub(super) struct Awaited<T> {
    found: watch::Sender<Option<Arc<T>>>,
    remembered: Arc<T>,
    /// The time of the first failure.
    failing: OnceLock<Instant>,
}

impl<T: PartialEq> Awaited<T> {
    /// The receiver of `found` has no value until it was read, or until `remembered` must do.
    pub(super) fn new(remembered: Arc<T>, found: watch::Sender<Option<Arc<T>>>) -> Self {
        Self { found, remembered, failing: OnceLock::new() }
    }

    /// Sends a value that was read.
    pub(super) fn send(&self, newest: T) {
        self.found.send_if_modified(|current| {
            let changed = current.as_deref() != Some(&newest);
            *current = Some(Arc::new(newest));
            changed
        });
    }

    /// Notes that the value could not be read at the moment `now`.
    pub(super) fn failed(&self, error: &(dyn Error + 'static), now: Instant) {
        let since = *self.failing.get_or_init(|| now);
        let most = if is_refusal(error) { REFUSED_FOR } else { FAILED_FOR };
        let over = is_absent(error) || now.saturating_duration_since(since) >= most;
        self.found.send_if_modified(|current| {
            let gives_up = over && current.is_none();
            if gives_up {
                *current = Some(Arc::clone(&self.remembered));
            }
            gives_up
        });
    }
}

#[cfg(test)]
mod tests {
    use kube::core::Status;

    use super::*;

    fn answer(code: u16) -> kube::Error {
        kube::Error::Api(Status::failure("no", "No").with_code(code).boxed())
    }

    #[test]
    fn a_refusal_is_believed_after_some_seconds_an_outage_after_a_minute_and_a_missing_resource_at_once() {
        let start = Instant::now();
        for (code, most) in [(403, REFUSED_FOR), (503, FAILED_FOR), (404, Duration::ZERO)] {
            let (sender, found) = watch::channel(None);
            let awaited = Awaited::new(Arc::new("remembered"), sender);
            awaited.failed(&answer(code), start);
            awaited.failed(&answer(code), start + most / 2);
            assert_eq!(found.borrow().is_some(), most.is_zero(), "{code}");
            awaited.failed(&answer(code), start + most);
            assert_eq!(found.borrow().as_deref(), Some(&"remembered"), "{code}");
        }
    }

    #[test]
    fn a_failure_takes_back_nothing_that_was_read_and_an_equal_value_is_no_change() {
        let (sender, mut found) = watch::channel(None);
        let awaited = Awaited::new(Arc::new("remembered"), sender);
        awaited.send("read");
        assert_eq!(found.borrow_and_update().as_deref(), Some(&"read"));
        awaited.failed(&answer(404), Instant::now());
        awaited.send("read");
        assert!(!found.has_changed().unwrap());
        assert_eq!(found.borrow().as_deref(), Some(&"read"));
    }
}
