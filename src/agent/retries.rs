//! Decides how soon a failed sync is tried again. This depends on the kind of the failure, and the pause grows with each
//! failure.
//!
//! Pure. It concerns only retries without an event: an event starts a sync at once.

use std::time::Duration;

use crate::dataplane::Applied;
use crate::model::Desired;
use crate::node::FactsError;

/// The kind of a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// Temporary: a lock is held, a table changes at the same time, or memory is short.
    Transient,
    /// The kernel would refuse the same again until something changes.
    Refused,
}

/// The longest pause. A failed node is compared at least as often as one without failures.
const MOST: Duration = Duration::from_secs(10);

/// The consecutive failures.
#[derive(Debug, Default)]
pub(super) struct Retries {
    failed: u32,
    of: Option<(Failure, Desired)>,
}

impl Failure {
    /// The kind of failure of an incomplete apply.
    pub(super) fn of(applied: &Applied) -> Self {
        if applied.is_transient() { Self::Transient } else { Self::Refused }
    }

    /// The kind of failure when the facts cannot be read.
    pub(super) fn of_facts(error: &FactsError) -> Self {
        if error.is_transient() { Self::Transient } else { Self::Refused }
    }

    const fn first(self) -> Duration {
        match self {
            Self::Transient => Duration::from_millis(500),
            Self::Refused => Duration::from_secs(2),
        }
    }
}

impl Retries {
    /// The pause after a failure to apply `desired`. It doubles with each consecutive failure of the same kind and the same
    /// state.
    pub(super) fn after(&mut self, failure: Failure, desired: &Desired) -> Duration {
        if self.of.as_ref().is_none_or(|(before, of)| (*before, of) != (failure, desired)) {
            *self = Self { failed: 0, of: Some((failure, desired.clone())) };
        }
        let factor = 2_u32.saturating_pow(self.failed);
        self.failed = self.failed.saturating_add(1);
        failure.first().saturating_mul(factor).min(MOST)
    }

    /// Notes that a sync succeeded.
    pub(super) fn reset(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pauses(retries: &mut Retries, failure: Failure, desired: &Desired) -> Vec<u128> {
        (0..5).map(|_| retries.after(failure, desired).as_millis()).collect()
    }

    #[test]
    fn what_passes_is_tried_soon_and_what_is_refused_later_and_both_more_rarely_each_time() {
        let mut retries = Retries::default();
        let (one, other) = (Desired::default(), Desired { held: ["10.0.0.1".parse().unwrap()].into(), ..Desired::default() });
        assert_eq!(pauses(&mut retries, Failure::Transient, &one), [500, 1000, 2000, 4000, 8000]);
        assert_eq!(pauses(&mut retries, Failure::Refused, &one), [2000, 4000, 8000, 10_000, 10_000]);
        assert_eq!(
            pauses(&mut retries, Failure::Refused, &other),
            [2000, 4000, 8000, 10_000, 10_000],
            "another desired state starts again with the shortest pause"
        );
        retries.reset();
        assert_eq!(retries.after(Failure::Refused, &other).as_millis(), 2000);
        for _ in 0..100 {
            assert!(retries.after(Failure::Refused, &other) <= MOST);
        }
    }
}
