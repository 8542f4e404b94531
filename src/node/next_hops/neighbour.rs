//! Whether one neighbour answers, by the kernel's entries and events. Pure: no I/O, no clock.
//!
//! Only an answer makes a neighbour seen, and only unanswered requests make it silent. If the kernel removes an entry,
//! sends a new request or has not sent one for a while, nothing changes. A single failure does not make it silent either:
//! the kernel sends to the hardware address that it knows, and a router that took over (VRRP) has another one. The next
//! request is then a broadcast.

use std::time::Duration;

use netlink_packet_route::neighbour::NeighbourState;

use crate::model::Answer;

/// The maximum age of an answer for a neighbour without other information: longer than a restart of the agent takes.
const RECENT: Duration = Duration::from_mins(1);
/// The age of an answer from which on the neighbour is asked again. Without traffic the kernel sends no request by itself.
const FRESH: Duration = Duration::from_secs(2);

/// The kernel's entry for a neighbour (ip-neighbour(8)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// Its state.
    pub(super) state: NeighbourState,
    /// The time since its last answer.
    pub(super) confirmed: Duration,
    /// Who maintains the entry.
    pub(super) keeper: Keeper,
}

/// Who maintains an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Keeper {
    /// The kernel, when packets need it.
    Kernel,
    /// Another program, or the kernel on its behalf (`extern_learn`, `managed`). A request of the operator would end that.
    Another,
}

/// Whether an interface resolves neighbours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Resolution {
    /// By ARP.
    Asks,
    /// It does not: a tunnel, a point-to-point link, `arp off`. Packets arrive at the other end, or nowhere.
    None,
}

/// Why a neighbour is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Occasion {
    /// The interval is over.
    Turn,
    /// There was an event.
    Event,
}

/// The request to the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ask {
    /// Create an entry, and resolve it.
    Create,
    /// Resolve the existing entry, as a packet to it would.
    Resolve,
    /// Confirm the known hardware address.
    Confirm,
}

/// One neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Neighbour {
    /// Whether its interface resolves neighbours.
    pub(super) resolution: Resolution,
    /// Its answer.
    pub(super) answer: Answer,
    /// Whether the last event of the existing entry was a failure.
    failing: bool,
    /// Whether it failed once since it was last seen.
    doubted: bool,
    /// Whether a request was sent for it.
    asked: bool,
}

impl Neighbour {
    /// A neighbour without any information; one that needs no answer counts as seen.
    pub(super) const fn new(resolution: Resolution) -> Self {
        let answer = match resolution {
            Resolution::Asks => Answer::Awaited,
            Resolution::None => Answer::Seen,
        };
        Self { resolution, answer, failing: false, doubted: false, asked: false }
    }

    /// Processes an event: the new state of the entry, `None` if the entry was deleted. Returns the answer if a check is
    /// needed.
    ///
    /// When an entry is deleted, it is first marked as failed (`neigh_delete`, net/core/neighbour.c), so a failure counts
    /// only while the entry exists.
    pub(super) fn hear(&mut self, state: Option<NeighbourState>) -> Option<Answer> {
        let before = self.answer;
        self.failing = match state {
            Some(NeighbourState::Failed) => true,
            Some(NeighbourState::Incomplete) => self.failing,
            Some(_) | None => false,
        };
        if state.is_some_and(is_an_answer) {
            self.see();
        }
        (self.failing || before != Answer::Seen).then_some(self.answer)
    }

    const fn see(&mut self) {
        (self.answer, self.doubted) = (Answer::Seen, false);
    }

    /// Processes the current entry, `None` if there is none, and returns the request to send.
    pub(super) fn look(&mut self, entry: Option<&Entry>, occasion: Occasion) -> Option<Ask> {
        if self.resolution == Resolution::None {
            return None;
        }
        self.failing = match entry.map(|entry| entry.state) {
            Some(NeighbourState::Failed) => true,
            Some(NeighbourState::Incomplete) => self.failing,
            Some(_) | None => false,
        };
        let doubt = self.failing && self.answer == Answer::Seen && !self.doubted;
        if doubt {
            // The next failure counts, because it is one of a broadcast request.
            (self.failing, self.doubted) = (false, true);
        } else if self.failing {
            self.answer = Answer::Silent;
        } else if entry.is_some_and(|entry| self.is_shown_by(entry)) {
            self.see();
        }
        let ask = entry.map_or(Some(Ask::Create), |entry| ask(entry, self.answer));
        let due = match occasion {
            Occasion::Turn => true,
            // Sent at once, without a wait for the interval: the first request, the second one after a failure, and one
            // after an answer.
            Occasion::Event => !self.asked || doubt || (ask == Some(Ask::Confirm) && self.answer != Answer::Seen),
        };
        self.asked |= due;
        ask.filter(|_| due)
    }

    fn is_shown_by(self, entry: &Entry) -> bool {
        let known = match entry.state {
            NeighbourState::Stale | NeighbourState::Delay | NeighbourState::Probe => true,
            _ => is_an_answer(entry.state),
        };
        let recent = self.answer == Answer::Awaited && entry.confirmed <= RECENT;
        is_an_answer(entry.state) || (known && (recent || entry.keeper == Keeper::Another))
    }
}

/// Whether a neighbour in this state has answered or need not answer.
fn is_an_answer(state: NeighbourState) -> bool {
    matches!(state, NeighbourState::Reachable | NeighbourState::Permanent | NeighbourState::Noarp)
}

fn ask(entry: &Entry, answer: Answer) -> Option<Ask> {
    if entry.keeper == Keeper::Another {
        return None;
    }
    match entry.state {
        NeighbourState::Failed | NeighbourState::None => Some(Ask::Resolve),
        NeighbourState::Stale => Some(Ask::Confirm),
        NeighbourState::Reachable if entry.confirmed >= FRESH => Some(Ask::Confirm),
        // The kernel waits for traffic before it sends a request. For a neighbour that was not seen yet, this would take
        // too long.
        NeighbourState::Delay if answer != Answer::Seen => Some(Ask::Confirm),
        // A request is under way, it answered just now, or it needs no answer.
        _ => None,
    }
}

#[cfg(test)]
mod tests;
