//! How soon a sync that failed is tried again: by the kind of the failure, and later each time.
//!
//! Pure. Only about the time after which the loop looks again by itself; a change that is heard of is looked at at once.

use std::time::Duration;

use crate::dataplane::Applied;
use crate::model::Desired;
use crate::node::FactsError;

/// What kind of failure it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// It passes by itself: a lock that is held, a table that changes just then, too little memory.
    Transient,
    /// The same again would be refused again, until something changes.
    Refused,
}

/// The longest pause: what failed is not looked at more rarely than what is in order.
const MOST: Duration = Duration::from_secs(10);

/// The failures in a row.
#[derive(Debug, Default)]
pub(super) struct Retries {
    failed: u32,
    of: Option<(Failure, Desired)>,
}

impl Failure {
    /// Of an apply that is not complete.
    pub(super) fn of(applied: &Applied) -> Self {
        if applied.is_transient() { Self::Transient } else { Self::Refused }
    }

    /// Of a look at the node.
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
    /// How long to wait after a failure to make the kernel as `desired`: twice as long as after the same one before.
    pub(super) fn after(&mut self, failure: Failure, desired: &Desired) -> Duration {
        if self.of.as_ref().is_none_or(|(before, of)| (*before, of) != (failure, desired)) {
            *self = Self { failed: 0, of: Some((failure, desired.clone())) };
        }
        let factor = 2_u32.saturating_pow(self.failed);
        self.failed = self.failed.saturating_add(1);
        failure.first().saturating_mul(factor).min(MOST)
    }

    /// It went well.
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
            "something else is wanted"
        );
        retries.reset();
        assert_eq!(retries.after(Failure::Refused, &other).as_millis(), 2000);
        for _ in 0..100 {
            assert!(retries.after(Failure::Refused, &other) <= MOST);
        }
    }
}
