//! The possible results for a packet in a chain of another program, over all paths that the packet may take through it.

#[cfg(test)]
pub(super) mod tests;

use std::borrow::Cow;

use super::packet::{Packet, Truth};
use crate::model::{Action, BaseChain, FilterRule, NewAddress, Policy};

/// The maximum number of rules that are evaluated for one packet. The result of further rules is unknown.
const MOST_RULES: usize = 1000;
/// The maximum depth of jumps (`NFT_JUMP_STACK_SIZE`, `include/net/netfilter/nf_tables.h`).
const DEPTH: usize = 16;

/// The possible results for a packet in a base chain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Fate {
    /// Whether it may be accepted, also by an unlikely match.
    pub(super) pass: Ending,
    /// Whether it may be dropped.
    pub(super) stop: Ending,
    /// Whether it may be translated. No later chain then translates it.
    pub(super) translate: Ending,
    /// Whether it may be accepted, but excluded from tracking, and so from translation.
    pub(super) untrack: Ending,
    /// The address that it may be translated to; `None` if no rule translates it.
    pub(super) new_address: Option<NewAddress>,
    /// Whether it may be accepted in the zone of connection tracking that it came in.
    own_zone: Ending,
    /// Whether it may be accepted in another zone.
    other_zone: Ending,
    /// That other zone, if its number is known.
    zone: Option<u16>,
    /// Whether it may be marked.
    pub(super) mark: Ending,
    /// Whether it may lose the bits of the connection mark. Its path ends there if this is asked for.
    lost: Ending,
    /// Whether a drop would come from the policy only, and not from a rule.
    pub(super) by_policy: bool,
}

/// Whether a result is possible.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Ending {
    /// It is not possible.
    #[default]
    Never,
    /// Only if another program changes the packet first.
    Unlikely,
    /// It is possible.
    Possible,
}

impl Fate {
    /// Whether every path through the chain drops the packet.
    pub(super) fn is_stopped(self) -> bool {
        self.stop == Ending::Possible && self.untrack == Ending::Never && self.never_works()
    }

    /// Whether every path through the chain drops the packet or excludes it from tracking.
    pub(super) fn is_untracked(self) -> bool {
        self.untrack == Ending::Possible && self.never_works()
    }

    /// Whether every path through the chain translates the packet or drops it, and some path translates it.
    pub(super) fn is_translated(self) -> bool {
        self.translate == Ending::Possible && self.pass == Ending::Never && self.untrack == Ending::Never
    }

    /// The zone of connection tracking that the chain assigns; `None` if it assigns none.
    pub(super) fn zone(self) -> Option<Zone> {
        match (self.other_zone, self.own_zone, self.zone) {
            (Ending::Never | Ending::Unlikely, _, _) => None,
            (Ending::Possible, Ending::Never, Some(zone)) => Some(Zone::Known(zone)),
            (Ending::Possible, _, _) => Some(Zone::Unknown),
        }
    }

    fn never_works(self) -> bool {
        self.pass == Ending::Never && self.translate == Ending::Never
    }
}

/// A zone of connection tracking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Zone {
    /// This one.
    Known(u16),
    /// It depends on what is not known.
    Unknown,
}

/// How likely a packet reaches a place in a chain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Comes {
    /// As one that is tracked, or will be.
    tracked: Ending,
    /// The same, in a zone that a rule has assigned.
    zoned: Ending,
    /// As one that a rule has excluded from tracking.
    untracked: Ending,
}

impl Comes {
    fn at_most(self, most: Ending) -> Self {
        Self { tracked: self.tracked.min(most), zoned: self.zoned.min(most), untracked: self.untracked.min(most) }
    }

    fn or(self, other: Self) -> Self {
        Self {
            tracked: self.tracked.max(other.tracked),
            zoned: self.zoned.max(other.zoned),
            untracked: self.untracked.max(other.untracked),
        }
    }

    fn any(self) -> Ending {
        self.tracked.max(self.zoned).max(self.untracked)
    }
}

/// The possible results for `packet` in `chain`.
pub(super) fn fate(chain: &BaseChain, packet: &Packet<'_>) -> Fate {
    walk(chain, packet, Losing::GoesOn)
}

/// Whether `packet` loses the bits of the connection mark in `chain`.
pub(super) fn loss(chain: &BaseChain, packet: &Packet<'_>) -> Loss {
    let fate = walk(chain, packet, Losing::Ends);
    match fate.lost {
        Ending::Never | Ending::Unlikely => Loss::No,
        Ending::Possible if fate.never_works() => Loss::Yes,
        Ending::Possible => Loss::Maybe,
    }
}

/// Whether a packet loses the bits of the connection mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Loss {
    /// It keeps them.
    No,
    /// It may lose them.
    Maybe,
    /// Every path through the chain that does not drop it removes them.
    Yes,
}

/// What happens to a packet that loses the bits of the connection mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Losing {
    /// It goes on.
    GoesOn,
    /// It counts as lost, and its path ends.
    Ends,
}

fn walk(chain: &BaseChain, packet: &Packet<'_>, losing: Losing) -> Fate {
    let mut walk = Walk { chain, packet: Cow::Borrowed(packet), fate: Fate::default(), losing, room: MOST_RULES };
    let falls = walk.through(&chain.rules, Comes { tracked: Ending::Possible, ..Comes::default() }, 0);
    match chain.policy {
        Policy::Accept => walk.pass(falls),
        Policy::Drop => {
            walk.fate.by_policy = walk.fate.stop == Ending::Never && falls.any() == Ending::Possible;
            walk.fate.stop = walk.fate.stop.max(falls.any());
        }
    }
    walk.fate
}

struct Walk<'a> {
    chain: &'a BaseChain,
    packet: Cow<'a, Packet<'a>>,
    fate: Fate,
    losing: Losing,
    room: usize,
}

impl Walk<'_> {
    /// Evaluates `rules`, which the packet reaches as `comes` says. Returns how it reaches their end undecided.
    fn through(&mut self, rules: &[FilterRule], mut comes: Comes, depth: usize) -> Comes {
        let mut returns = Comes::default();
        for rule in rules {
            if self.room == 0 || depth > DEPTH {
                self.anything(comes);
                return comes.or(returns);
            }
            self.room -= 1;
            let truth = self.packet.meets(&rule.conditions);
            let (matching, others) = match truth {
                Truth::No => continue,
                Truth::Unlikely => (comes.at_most(Ending::Unlikely), comes),
                Truth::Maybe => (comes, comes),
                Truth::Likely => (comes, comes.at_most(Ending::Unlikely)),
                Truth::Yes => (comes, Comes::default()),
            };
            // How a packet that matches the rule reaches the next one.
            let goes_on = match &rule.action {
                // A packet that is tracked already stays so.
                Action::Untrack | Action::Zone(_) if self.packet.is_tracked() => matching,
                Action::Untrack => {
                    Comes { tracked: Ending::Never, untracked: matching.tracked.max(matching.untracked), ..matching }
                }
                Action::Zone(zone) => self.assign(*zone, matching),
                Action::Mark => {
                    self.mark(matching);
                    matching
                }
                Action::Connmark(bits) if self.losing == Losing::Ends && bits & self.packet.connmark != 0 => {
                    self.fate.lost = self.fate.lost.max(matching.any());
                    Comes::default()
                }
                Action::Continue | Action::Connmark(_) => matching,
                Action::Uncertain => {
                    self.anything(matching);
                    matching
                }
                Action::Accept => {
                    self.pass(matching);
                    Comes::default()
                }
                Action::Drop => {
                    self.fate.stop = self.fate.stop.max(matching.any());
                    Comes::default()
                }
                Action::Translate(new) => {
                    if matching.any() > Ending::Never {
                        let same = self.fate.new_address.is_none_or(|other| other == *new);
                        self.fate.new_address = Some(if same { *new } else { NewAddress::Unknown });
                    }
                    self.fate.translate = self.fate.translate.max(matching.any());
                    Comes::default()
                }
                Action::Return => {
                    returns = returns.or(matching);
                    Comes::default()
                }
                Action::Jump(name) => self.jump(name, matching, depth),
                Action::Goto(name) => {
                    returns = returns.or(self.jump(name, matching, depth));
                    Comes::default()
                }
            };
            comes = others.or(goes_on);
            if comes == Comes::default() {
                return returns;
            }
        }
        comes.or(returns)
    }

    fn jump(&mut self, name: &str, comes: Comes, depth: usize) -> Comes {
        if let Some(rules) = self.chain.jumps.get(name) {
            return self.through(rules, comes, depth + 1);
        }
        self.anything(comes);
        comes
    }

    /// The first rule that assigns a zone decides, and so does one that excludes the packet from tracking.
    fn assign(&mut self, zone: Option<u16>, comes: Comes) -> Comes {
        if comes.tracked > Ending::Never {
            let same = self.fate.other_zone == Ending::Never || self.fate.zone == zone;
            (self.fate.zone, self.fate.other_zone) = (zone.filter(|_| same), self.fate.other_zone.max(Ending::Unlikely));
        }
        Comes { tracked: Ending::Never, zoned: comes.tracked.max(comes.zoned), ..comes }
    }

    fn mark(&mut self, comes: Comes) {
        self.fate.mark = self.fate.mark.max(comes.any());
        if comes.any() == Ending::Possible && !self.packet.is_marked {
            self.packet.to_mut().is_marked = true;
        }
    }

    fn pass(&mut self, comes: Comes) {
        self.fate.pass = self.fate.pass.max(comes.tracked).max(comes.zoned);
        self.fate.own_zone = self.fate.own_zone.max(comes.tracked);
        self.fate.other_zone = self.fate.other_zone.max(comes.zoned);
        self.fate.untrack = self.fate.untrack.max(comes.untracked);
    }

    fn anything(&mut self, comes: Comes) {
        let likely = comes.any();
        for ending in [&mut self.fate.pass, &mut self.fate.own_zone, &mut self.fate.stop, &mut self.fate.translate] {
            *ending = likely.max(*ending);
        }
    }
}
