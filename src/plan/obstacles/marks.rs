//! Chains of other programs that remove the mark by which the rules of the operator know its flows.

use super::firewall::describe;
use super::flows::{Done, Flows, NAT_DST, NAT_SRC, Part};
use super::packet::Packet;
use super::walk::{Loss, loss};
use super::{Search, obstacle};
use crate::model::{Action, BaseChain, Field, FilterRule, Hook, Purpose};
use crate::plan::verdict::{Note, Obstacle, ObstacleReason};

/// The states of packets (`Field::State`).
const ESTABLISHED: u64 = 2;
const NEW: u64 = 8;

/// What a chain of another program does to the mark.
pub(super) enum Unmarked {
    /// It may remove it, or it removes it where this may do no harm.
    Perhaps(Note),
    /// It removes it before POSTROUTING asks for it.
    Surely(Obstacle),
}

impl Search<'_> {
    /// Whether `chain` changes the mark of any flow. A NAT chain does not count: it sees the first packet of a flow only, and most
    /// do not see it after another one has translated it.
    pub(super) fn changes_mark(&self, chain: &BaseChain) -> bool {
        let mut rules = chain.rules.iter().chain(chain.jumps.values().flatten());
        let changes = |rule: &FilterRule| matches!(rule.action, Action::Connmark(bits) if self.connmark.is_set_in(bits));
        chain.purpose != Purpose::Nat && rules.any(changes)
    }

    /// What `chain` does to the mark of these flows; `None` if nothing. `packet` is one of their packets in this chain.
    pub(super) fn unmarked(&self, chain: &BaseChain, flows: &Flows<'_>, part: Part, packet: &Packet<'_>) -> Option<Unmarked> {
        if !packet.is_tracked() {
            return None;
        }
        let mark = self.connmark;
        let marked = Packet { connmark: mark.bit(), ..packet.clone() };
        let loss = |state: u64| loss(chain, &marked.clone().with(Field::State, state));
        // The first packet is marked in PREROUTING, and needs the mark until POSTROUTING. Later ones need it in FORWARD, if other
        // rules there do not accept them.
        let needs =
            Done::at(chain, Hook::Prerouting, NAT_DST) == Done::Yes && Done::at(chain, Hook::Postrouting, NAT_SRC) != Done::Yes;
        // Until it is answered, each packet of a flow is a new one.
        let new = if part == Part::Request { loss(NEW) } else { Loss::No };
        if new.max(loss(ESTABLISHED)) == Loss::No {
            return None;
        }
        let (place, what) = (describe(chain), flows.description(part));
        let mend = "give its rule a mask without this bit, or the agent another one by --connmark";
        Some(if needs && new == Loss::Yes {
            let message = format!(
                "{place} of another program changes bit {mark} of the connection mark of {what}; our rules know the flows by this bit and do not change their source without it; {mend}"
            );
            Unmarked::Surely(obstacle(ObstacleReason::MarkRemoved, message))
        } else {
            Unmarked::Perhaps(Note(format!(
                "MayBeUnmarked: {place} of another program may change bit {mark} of the connection mark of {what}; our rules know the flows by this bit and do not accept them in FORWARD without it; if it does, {mend}"
            )))
        })
    }
}
