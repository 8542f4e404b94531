//! Decides whether another client keeps overwriting the status of a forward, and what this agent then writes and when. Pure.
//!
//! A change by another client counts if it replaces what this agent wrote, and states something that this agent neither computed
//! nor let stand shortly before. So neither an address that moves to and fro nor the removal of a dead entry counts much.

use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;

use super::condition::{Circumstance, Judged, State, Type};
use super::summary::replaced;
use super::writes::{Write, said, same_summary, says_ready, statement};
use crate::api::PortForwardStatus;

/// How long an overwritten status is remembered.
const WINDOW: Duration = Duration::from_mins(10);
/// With this number of overwritings in the window, the status is contested. Somebody who empties a status once overwrites an entry
/// and the summary.
const CONTESTED: usize = 6;
/// The longest pause between two writes of a contested status. Two clients that write without a pause fill the store.
const LONGEST_PAUSE_SECS: i64 = 60;
/// The number of statements that are remembered.
const STATEMENTS: usize = 8;

/// The history of the status of one forward.
#[derive(Debug, Default)]
pub struct Contest {
    /// The hash of the entry that this agent wrote last, while nobody has changed it.
    entry: Option<u64>,
    /// Whether this agent wrote the summary, and nobody has changed it since.
    wrote_summary: bool,
    /// The newest statements that this agent computed or let stand.
    known: VecDeque<u64>,
    /// The times at which something was overwritten, in order.
    overwritten: VecDeque<Timestamp>,
    /// Before this time, nothing is written.
    not_before: Timestamp,
}

/// What to do about a write that is due.
#[derive(Clone, Debug, PartialEq)]
pub enum Ruling {
    /// Nothing is due.
    Rest,
    /// Make this write.
    Write(Write),
    /// Make it later.
    Later,
}

impl Contest {
    /// Records that this agent made a write.
    pub fn wrote(&mut self, write: &Write) {
        match write {
            Write::Entry(entry) => self.entry = Some(hash(said(entry))),
            Write::Withdraw(_) => self.entry = None,
            Write::Summary(_) => self.wrote_summary = true,
        }
    }

    /// Compares the stored status with what this agent wrote and with the write that is `due`. Returns whether another client
    /// has overwritten it.
    pub fn look(&mut self, stored: &PortForwardStatus, due: Option<&Write>, now: Timestamp) -> bool {
        while self.overwritten.front().is_some_and(|&time| seconds(now, time) >= WINDOW.as_secs().cast_signed()) {
            self.overwritten.pop_front();
        }
        let overwritten = match due {
            None => {
                self.know(stored);
                false
            }
            Some(Write::Entry(wanted)) => self.entry.take() == Some(hash(said(wanted))),
            Some(Write::Withdraw(_)) => false,
            Some(Write::Summary(wanted)) => {
                let foreign = self.wrote_summary && !self.known.contains(&hash(statement(stored))) && !says_contested(stored);
                self.wrote_summary &= !foreign;
                self.know(wanted);
                foreign
            }
        };
        if overwritten {
            self.overwritten.push_back(now);
            if let Some(more) = self.overwritten.len().checked_sub(CONTESTED) {
                let pause = 1_i64.checked_shl(u32::try_from(more).unwrap_or(u32::MAX)).unwrap_or(LONGEST_PAUSE_SECS);
                let pause = pause.clamp(1, LONGEST_PAUSE_SECS);
                self.not_before = Timestamp::from_second(now.as_second().saturating_add(pause)).unwrap_or(Timestamp::MAX);
            }
        }
        overwritten
    }

    /// Whether another client keeps overwriting the status.
    #[must_use]
    pub fn is_contested(&self) -> bool {
        self.overwritten.len() >= CONTESTED
    }

    /// The write to make instead of the one that is due. A contested summary does not say that traffic flows, because a reader
    /// cannot know which of the clients wrote what it reads.
    #[must_use]
    pub fn rule(&self, stored: &PortForwardStatus, due: Option<Write>, now: Timestamp) -> Ruling {
        let write = match due {
            None => return Ruling::Rest,
            Some(Write::Summary(wanted)) if self.is_contested() => {
                let contested = contested(wanted, stored, now);
                if same_summary(stored, &contested) {
                    return Ruling::Rest;
                }
                Write::Summary(contested)
            }
            Some(write @ (Write::Summary(_) | Write::Entry(_) | Write::Withdraw(_))) => write,
        };
        if self.is_contested() && now < self.not_before { Ruling::Later } else { Ruling::Write(write) }
    }

    fn know(&mut self, status: &PortForwardStatus) {
        let hash = hash(statement(status));
        if !self.known.contains(&hash) {
            self.known.push_back(hash);
            if self.known.len() > STATEMENTS {
                self.known.pop_front();
            }
        }
    }
}

/// The summary with `Ready=False` if it was `Ready=True`.
fn contested(summary: PortForwardStatus, stored: &PortForwardStatus, now: Timestamp) -> PortForwardStatus {
    if !says_ready(&summary.conditions) {
        return summary;
    }
    let message = "another client keeps overwriting this status, so it cannot be trusted; the agents pause between their corrections; \
                   find the client in the audit log of the API server, and take its token away";
    let ready = Judged::new(Type::Ready, State::False, Circumstance::StatusContested, message);
    let conditions = replaced(&summary.conditions, &[ready], summary.observed_generation, &stored.conditions, now);
    PortForwardStatus { conditions, ..summary }
}

fn says_contested(status: &PortForwardStatus) -> bool {
    status.conditions.iter().any(|it| it.reason == Circumstance::StatusContested.as_str())
}

fn seconds(later: Timestamp, earlier: Timestamp) -> i64 {
    later.as_second().saturating_sub(earlier.as_second())
}

fn hash(value: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}
