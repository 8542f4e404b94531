//! Whether the sync loop lives, and whether it has done its first sync.
//!
//! Decides by what the loop says of itself and nothing else: an API server that cannot be reached never makes an agent
//! unhealthy, because the rules in the kernel work without it and a restart would not help.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

/// How long a sync that is due may take. One program may run for a minute before it is stopped, and a sync runs several.
pub const STUCK_AFTER: Duration = Duration::from_mins(5);

/// What the sync loop does now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// It waits for news, and looks again at this moment at the latest.
    Waiting {
        /// The moment.
        until: Instant,
    },
    /// A sync is queued or under way since this moment.
    Queued {
        /// The moment.
        since: Instant,
    },
}

/// Whether the sync loop lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Liveness {
    /// It does.
    Alive,
    /// A sync that is due has not ended.
    Stuck {
        /// How long it has been due.
        since: Duration,
    },
}

/// What a loop in `phase` is at the moment `now`: stuck once a sync has been due for longer than `patience`.
#[must_use]
pub fn liveness(phase: Phase, now: Instant, patience: Duration) -> Liveness {
    let due = match phase {
        Phase::Waiting { until } => until,
        Phase::Queued { since } => since,
    };
    let since = now.saturating_duration_since(due);
    if since > patience { Liveness::Stuck { since } } else { Liveness::Alive }
}

/// What the sync loop says of itself, for whoever asks about its health.
#[derive(Debug)]
pub struct Health {
    phase: watch::Sender<Phase>,
    synced: AtomicBool,
}

impl Health {
    /// Of a loop that begins at the moment `now`.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self { phase: watch::Sender::new(Phase::Queued { since: now }), synced: AtomicBool::new(false) }
    }

    /// The loop enters a phase.
    pub fn enter(&self, phase: Phase) {
        self.phase.send_replace(phase);
    }

    /// A sync from the complete set of the source made everything as planned.
    pub fn complete(&self) {
        self.synced.store(true, Ordering::Relaxed);
    }

    /// Whether the loop lives, at the moment `now`.
    #[must_use]
    pub fn liveness(&self, now: Instant) -> Liveness {
        liveness(*self.phase.borrow(), now, STUCK_AFTER)
    }

    /// Whether everything was as planned once.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.synced.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_mins(5);

    fn at(start: Instant, secs: u64) -> Instant {
        start + Duration::from_secs(secs)
    }

    #[test]
    fn a_sync_that_has_not_ended_in_time_is_stuck() {
        let start = Instant::now();
        let phase = Phase::Queued { since: at(start, 10) };
        assert_eq!(liveness(phase, start, PATIENCE), Liveness::Alive);
        assert_eq!(liveness(phase, at(start, 310), PATIENCE), Liveness::Alive);
        assert_eq!(liveness(phase, at(start, 311), PATIENCE), Liveness::Stuck { since: Duration::from_secs(301) });
    }

    #[test]
    fn a_loop_that_waits_is_alive_however_long_and_stuck_where_it_does_not_wake() {
        let start = Instant::now();
        let phase = Phase::Waiting { until: at(start, 86_400) };
        assert_eq!(liveness(phase, at(start, 86_400), PATIENCE), Liveness::Alive);
        assert_eq!(liveness(phase, at(start, 86_701), PATIENCE), Liveness::Stuck { since: Duration::from_secs(301) });
    }

    #[test]
    fn a_sync_that_ends_late_heals() {
        let start = Instant::now();
        let health = Health::new(start);
        health.enter(Phase::Queued { since: start });
        assert_ne!(health.liveness(at(start, 3600)), Liveness::Alive);
        health.enter(Phase::Waiting { until: at(start, 3610) });
        assert_eq!(health.liveness(at(start, 3600)), Liveness::Alive);
    }

    #[test]
    fn an_agent_is_ready_after_its_first_complete_sync_and_stays_so() {
        let health = Health::new(Instant::now());
        assert!(!health.is_ready());
        health.complete();
        health.enter(Phase::Queued { since: Instant::now() });
        assert!(health.is_ready());
    }
}
