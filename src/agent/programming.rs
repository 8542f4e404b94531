//! How long changes take from being heard of to being in the kernel.

use std::time::Duration;

use tokio::time::Instant;

use crate::source::Heard;

/// The changes that are not in the kernel yet.
#[derive(Debug, Default)]
pub(super) struct Programming {
    newest: Option<Instant>,
    /// When the oldest was heard of that is not done.
    since: Option<Instant>,
}

impl Programming {
    /// The set that is planned from now on came of a change that was heard of then.
    pub(super) fn begin(&mut self, heard: Heard) {
        if self.newest != heard.at() {
            self.newest = heard.at();
            self.since = self.since.or(self.newest);
        }
    }

    /// All of it is in the kernel; how long the oldest took, if there was one.
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
        assert_eq!(programming.done(at(1)), None, "what was there at the start");
        programming.begin(Heard::of(at(2)));
        programming.begin(Heard::of(at(2)));
        assert_eq!(programming.done(at(3)), Some(Duration::from_secs(1)));
        programming.begin(Heard::of(at(2)));
        assert_eq!(programming.done(at(4)), None, "it is done");
        programming.begin(Heard::of(at(5)));
        programming.begin(Heard::of(at(6)));
        assert_eq!(programming.done(at(9)), Some(Duration::from_secs(4)), "the first failed until the second came");
    }
}
