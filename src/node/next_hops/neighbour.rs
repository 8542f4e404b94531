//! Whether one neighbour is there, by what the kernel says of it. Pure: no I/O, no clock.
//!
//! Only an answer makes a neighbour seen, and only questions that stayed without an answer make it silent. That the kernel
//! forgets an entry, asks anew or has not asked for a while changes nothing. One failure alone does not either: the kernel
//! asks the hardware address that it knows, and a router that took over (VRRP) has another. Then everybody is asked.

use std::time::Duration;

use netlink_packet_route::neighbour::NeighbourState;

use crate::model::Answer;

/// How old an answer may be for a neighbour of which nothing else is known: longer than a restart of the agent takes.
const RECENT: Duration = Duration::from_mins(1);
/// How old an answer is when the neighbour is asked again in its turn. Without traffic the kernel asks nobody.
const FRESH: Duration = Duration::from_secs(2);

/// The kernel's entry for a neighbour (ip-neighbour(8)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// Its state.
    pub(super) state: NeighbourState,
    /// How long ago it last answered.
    pub(super) confirmed: Duration,
    /// Who keeps it up to date.
    pub(super) keeper: Keeper,
}

/// Who keeps an entry up to date.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Keeper {
    /// The kernel, as packets ask for it.
    Kernel,
    /// Another program, or the kernel on its behalf (`extern_learn`, `managed`). A request of ours would take that away.
    Another,
}

/// Whether an interface finds out where its neighbours are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Resolution {
    /// By ARP.
    Asks,
    /// It does not: a tunnel, a point-to-point link, `arp off`. Whatever is sent arrives at the other end, or nowhere.
    None,
}

/// When a neighbour is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Occasion {
    /// It is time to ask again.
    Turn,
    /// Something was heard.
    Event,
}

/// What the kernel is to be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ask {
    /// To make an entry, and resolve it.
    Create,
    /// To resolve the entry that is there, as if a packet had to go there.
    Resolve,
    /// To have the address that it knows confirmed.
    Confirm,
}

/// One neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Neighbour {
    /// Whether it is asked for at all.
    pub(super) resolution: Resolution,
    /// What is known of it.
    pub(super) answer: Answer,
    /// Whether the last thing heard of the entry that is there is that it failed.
    failing: bool,
    /// Whether it failed once since it was seen.
    doubted: bool,
    /// Whether the kernel was asked for it.
    asked: bool,
}

impl Neighbour {
    /// A neighbour of which nothing is known; one that needs no answer is seen.
    pub(super) const fn new(resolution: Resolution) -> Self {
        let answer = match resolution {
            Resolution::Asks => Answer::Awaited,
            Resolution::None => Answer::Seen,
        };
        Self { resolution, answer, failing: false, doubted: false, asked: false }
    }

    /// Takes an event: the new state of the entry, `None` where the entry is gone. Tells what is known then, where that calls
    /// for a look.
    ///
    /// An entry that somebody deletes fails first (`neigh_delete`, net/core/neighbour.c), so a failure counts only while
    /// the entry is there.
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

    /// Takes the entry as it is now, `None` where there is none, and says what to ask the kernel for.
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
            // The next failure counts, which is one of asking everybody.
            (self.failing, self.doubted) = (false, true);
        } else if self.failing {
            self.answer = Answer::Silent;
        } else if entry.is_some_and(|entry| self.is_shown_by(entry)) {
            self.see();
        }
        let ask = entry.map_or(Some(Ask::Create), |entry| ask(entry, self.answer));
        let due = match occasion {
            Occasion::Turn => true,
            // What waits for no turn: the first question, the second to one that failed, and one to whom was just heard.
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

/// Whether a neighbour in this state has answered or need not.
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
        // It waits for traffic before it asks; for one that nobody has seen there is no time to lose.
        NeighbourState::Delay if answer != Answer::Seen => Some(Ask::Confirm),
        // It is being asked, it answered just now, or it needs no answer.
        _ => None,
    }
}

#[cfg(test)]
mod tests;
