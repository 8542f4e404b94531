//! Measures the time from the arrival of a change until the kernel has it in force.

use std::time::Duration;

use tokio::time::Instant;

use crate::source::Heard;

/// The changes that the kernel does not have yet.
#[derive(Debug, Default)]
pub(super) struct Programming {
    newest: Option<Instant>,
    /// When the oldest of these changes arrived.
    since: Option<Instant>,
}

impl Programming {
    /// Starts to plan a set that contains the change which arrived at `heard`.
    pub(super) fn begin(&mut self, heard: Heard) {
        if self.newest != heard.at() {
            self.newest = heard.at();
            self.since = self.since.or(self.newest);
        }
    }

    /// Notes that the kernel has all changes. Returns the time that the oldest one took, if there was one.
    pub(super) fn done(&mut self, now: Instant) -> Option<Duration> {
        self.since.take().map(|since| now.saturating_duration_since(since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_counts_once_from_when_it_was_heard_of_and_several_from_the_first() {
        let start = Instant::now();
        let at = |secs| start + Duration::from_secs(secs);
        let mut programming = Programming::default();
        programming.begin(Heard::default());
        assert_eq!(programming.done(at(1)), None, "what existed at the start is not measured");
        programming.begin(Heard::of(at(2)));
        programming.begin(Heard::of(at(2)));
        assert_eq!(programming.done(at(3)), Some(Duration::from_secs(1)));
        programming.begin(Heard::of(at(2)));
        assert_eq!(programming.done(at(4)), None, "the change is already in the kernel");
        programming.begin(Heard::of(at(5)));
        programming.begin(Heard::of(at(6)));
        assert_eq!(programming.done(at(9)), Some(Duration::from_secs(4)), "the first change failed until the second arrived");
    }
}
