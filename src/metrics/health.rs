//! Whether the sync loop is alive, and whether it has completed its first sync.
//!
//! Decides only by what the loop reports. An API server that cannot be reached never makes an agent unhealthy, because the
//! rules in the kernel work without it and a restart would not help.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

/// How long a due sync may make no progress before a restart is requested (`/livez`). One program may run for a minute
/// before it is stopped; that counts as progress too.
pub const STUCK_AFTER: Duration = Duration::from_mins(2);
/// How long a due sync may make no progress before the Lease is not renewed any more, because the status that a stuck loop
/// reported may be wrong by now. Together with the duration of the Lease it is longer than one program may run, so slow
/// work alone does not make the other agents treat this one as dead.
pub const VOUCHES_FOR: Duration = Duration::from_secs(30);

/// The current phase of the sync loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The loop waits for changes, until this moment at the latest.
    Waiting {
        /// The moment.
        until: Instant,
    },
    /// A sync is queued or running. It was queued, or made its last step, at this moment.
    Queued {
        /// The moment.
        since: Instant,
    },
}

/// Whether the sync loop is alive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Liveness {
    /// It is alive.
    Alive,
    /// A due sync makes no progress.
    Stuck {
        /// The time since its last step.
        since: Duration,
    },
}

/// The liveness of a loop in `phase` at the moment `now`: stuck if a due sync has made no step for longer than `patience`.
#[must_use]
pub fn liveness(phase: Phase, now: Instant, patience: Duration) -> Liveness {
    let due = match phase {
        Phase::Waiting { until } => until,
        Phase::Queued { since } => since,
    };
    let since = now.saturating_duration_since(due);
    if since > patience { Liveness::Stuck { since } } else { Liveness::Alive }
}

/// The state of the sync loop, for the health endpoints.
#[derive(Debug)]
pub struct Health {
    phase: watch::Sender<Phase>,
    synced: AtomicBool,
}

impl Health {
    /// The state of a loop that starts at the moment `now`.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self { phase: watch::Sender::new(Phase::Queued { since: now }), synced: AtomicBool::new(false) }
    }

    /// The loop enters a phase.
    pub fn enter(&self, phase: Phase) {
        self.phase.send_replace(phase);
    }

    /// Records that the running sync made a step at the moment `now`.
    pub fn step(&self, now: Instant) {
        self.phase.send_if_modified(|phase| match phase {
            Phase::Waiting { .. } => false,
            Phase::Queued { since } => {
                *since = now;
                true
            }
        });
    }

    /// Records that a sync from the complete set of the source applied everything as planned.
    pub fn complete(&self) {
        self.synced.store(true, Ordering::Relaxed);
    }

    /// Whether the loop is alive at the moment `now`.
    #[must_use]
    pub fn liveness(&self, now: Instant) -> Liveness {
        liveness(*self.phase.borrow(), now, STUCK_AFTER)
    }

    /// Whether the Lease may be renewed at the moment `now`.
    #[must_use]
    pub fn vouches(&self, now: Instant) -> Liveness {
        liveness(*self.phase.borrow(), now, VOUCHES_FOR)
    }

    /// Whether one sync has applied everything as planned.
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
    fn a_long_sync_that_goes_on_is_not_stuck_and_one_that_stands_still_loses_its_lease_before_its_life() {
        let start = Instant::now();
        let health = Health::new(start);
        health.enter(Phase::Queued { since: start });
        for second in (0..3600).step_by(25) {
            health.step(at(start, second));
            assert_eq!(health.vouches(at(start, second + 24)), Liveness::Alive, "{second}");
        }
        let last = 3575;
        let seen = |second: u64| (health.vouches(at(start, last + second)), health.liveness(at(start, last + second)));
        let stuck = |secs| Liveness::Stuck { since: Duration::from_secs(secs) };
        assert_eq!(seen(30), (Liveness::Alive, Liveness::Alive));
        assert_eq!(seen(31), (stuck(31), Liveness::Alive));
        assert_eq!(seen(121), (stuck(121), stuck(121)));
        health.step(at(start, 4000));
        assert_eq!(health.vouches(at(start, 4000)), Liveness::Alive, "it makes progress");
    }

    #[test]
    fn a_loop_that_waits_makes_no_steps_and_what_others_do_is_none_of_its() {
        let start = Instant::now();
        let health = Health::new(start);
        health.enter(Phase::Waiting { until: at(start, 10) });
        health.step(at(start, 1000));
        assert_ne!(health.vouches(at(start, 1000)), Liveness::Alive, "its next sync was due long ago");
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
