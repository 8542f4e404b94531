//! The possible results for a packet in a chain of another program, over all paths that the packet may take through it.

use super::packet::{Packet, Truth};
use crate::model::{Action, BaseChain, FilterRule, Policy};

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

    fn never_works(self) -> bool {
        self.pass == Ending::Never && self.translate == Ending::Never
    }
}

/// How likely a packet reaches a place in a chain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Comes {
    /// As one that is tracked, or will be.
    tracked: Ending,
    /// As one that a rule has excluded from tracking.
    untracked: Ending,
}

impl Comes {
    fn at_most(self, most: Ending) -> Self {
        Self { tracked: self.tracked.min(most), untracked: self.untracked.min(most) }
    }

    fn or(self, other: Self) -> Self {
        Self { tracked: self.tracked.max(other.tracked), untracked: self.untracked.max(other.untracked) }
    }

    fn any(self) -> Ending {
        self.tracked.max(self.untracked)
    }
}

/// The possible results for `packet` in `chain`.
pub(super) fn fate(chain: &BaseChain, packet: &Packet<'_>) -> Fate {
    let mut walk = Walk { chain, packet, fate: Fate::default(), room: MOST_RULES };
    let falls = walk.through(&chain.rules, Comes { tracked: Ending::Possible, untracked: Ending::Never }, 0);
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
    packet: &'a Packet<'a>,
    fate: Fate,
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
                Action::Continue => matching,
                // A packet that is tracked already stays so.
                Action::Untrack if self.packet.is_tracked() => matching,
                Action::Untrack => Comes { tracked: Ending::Never, untracked: matching.any() },
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
                Action::Translate => {
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

    fn pass(&mut self, comes: Comes) {
        self.fate.pass = self.fate.pass.max(comes.tracked);
        self.fate.untrack = self.fate.untrack.max(comes.untracked);
    }

    fn anything(&mut self, comes: Comes) {
        let likely = comes.any();
        for ending in [&mut self.fate.pass, &mut self.fate.stop, &mut self.fate.translate] {
            *ending = likely.max(*ending);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;
    use crate::model::{Condition, Field, Hook, Polarity, Purpose, TableFamily, Tool};

    fn chain(policy: Policy, rules: Vec<FilterRule>, jumps: &[(&str, Vec<FilterRule>)]) -> BaseChain {
        BaseChain {
            tool: Tool::Nft(TableFamily::Inet),
            table: "guard".to_owned(),
            name: "forward".to_owned(),
            purpose: Purpose::Filter,
            hook: Hook::Forward,
            priority: 0,
            devices: BTreeSet::new(),
            policy,
            rules,
            jumps: jumps.iter().map(|(name, rules)| ((*name).to_owned(), rules.clone())).collect::<BTreeMap<_, _>>(),
        }
    }

    fn rule(conditions: Vec<Condition>, action: Action) -> FilterRule {
        FilterRule { conditions, action }
    }

    /// Whether the destination port is, or is not, this one.
    fn port(port: u64, polarity: Polarity) -> Condition {
        Condition::Within { field: Field::DestinationPort, ranges: vec![port..=port], polarity }
    }

    #[test]
    fn only_what_every_way_drops_is_stopped() {
        let packet = Packet::default().with(Field::DestinationPort, 80);
        let stopped = |policy, rules| fate(&chain(policy, rules, &[]), &packet).is_stopped();
        let (is, uncertain) = (port(80, Polarity::Is), Condition::Uncertain);
        assert!(stopped(Policy::Drop, vec![]));
        assert!(!stopped(Policy::Accept, vec![]));
        assert!(!stopped(Policy::Drop, vec![rule(vec![is.clone()], Action::Accept)]));
        assert!(!stopped(Policy::Drop, vec![rule(vec![uncertain.clone()], Action::Accept)]));
        assert!(!stopped(Policy::Accept, vec![rule(vec![uncertain], Action::Drop)]));
        assert!(stopped(Policy::Accept, vec![rule(vec![is], Action::Drop)]));
        assert!(stopped(Policy::Drop, vec![rule(vec![port(80, Polarity::IsNot)], Action::Accept)]));
        assert!(!stopped(Policy::Drop, vec![rule(vec![], Action::Jump("not read".to_owned()))]));
        assert!(!stopped(Policy::Drop, vec![FilterRule::uncertain()]));
    }

    #[test]
    fn chains_that_jump_in_a_circle_or_never_end_are_uncertain() {
        let packet = Packet::default();
        let circle = chain(
            Policy::Drop,
            vec![rule(vec![], Action::Jump("a".to_owned()))],
            &[("a", vec![rule(vec![], Action::Jump("a".to_owned()))])],
        );
        assert!(!fate(&circle, &packet).is_stopped());
        let long = chain(Policy::Drop, vec![rule(vec![], Action::Continue); MOST_RULES + 1], &[]);
        assert!(!fate(&long, &packet).is_stopped());
    }

    #[test]
    fn a_mark_is_no_reason_to_warn_and_none_to_be_sure() {
        let marked = || vec![Condition::AnyBit { field: Field::Mark, mask: 1, polarity: Polarity::Is }];
        let packet = Packet::default();
        let dropped = fate(&chain(Policy::Accept, vec![rule(marked(), Action::Drop)], &[]), &packet);
        assert_eq!((dropped.stop, dropped.pass), (Ending::Unlikely, Ending::Possible));
        let accepted = fate(&chain(Policy::Drop, vec![rule(marked(), Action::Accept)], &[]), &packet);
        assert_eq!((accepted.stop, accepted.pass), (Ending::Possible, Ending::Unlikely));
        assert!(!accepted.is_stopped());
    }

    #[test]
    fn what_every_way_keeps_from_being_tracked_is_untracked() {
        let packet = Packet::default().with(Field::DestinationPort, 80);
        let of = |packet: &Packet<'_>, rules, z| fate(&chain(Policy::Accept, rules, &[("z", z)]), packet);
        let untrack = |conditions| rule(conditions, Action::Untrack);
        let (is, uncertain) = (|| port(80, Polarity::Is), || Condition::Uncertain);
        let jump = |conditions| rule(conditions, Action::Jump("z".to_owned()));
        for rules in [vec![untrack(vec![])], vec![untrack(vec![is()]), rule(vec![], Action::Accept)], vec![jump(vec![])]] {
            assert!(of(&packet, rules, vec![untrack(vec![])]).is_untracked());
        }
        for rules in [
            vec![rule(vec![is()], Action::Accept), untrack(vec![])],
            vec![untrack(vec![uncertain()])],
            vec![untrack(vec![port(80, Polarity::IsNot)])],
            vec![jump(vec![uncertain()])],
        ] {
            let found = of(&packet, rules.clone(), vec![untrack(vec![])]);
            assert!(!found.is_untracked() && !found.is_stopped(), "{rules:?}");
        }
        let dropped = vec![untrack(vec![uncertain()]), rule(vec![], Action::Drop)];
        assert!(of(&packet, dropped, vec![]).is_stopped());
        let tracked = packet.with(Field::State, 8);
        assert_eq!(of(&tracked, vec![untrack(vec![])], vec![]).untrack, Ending::Never, "it is tracked already");
    }

    #[test]
    fn what_unmarked_packets_skip_is_no_reason_to_warn() {
        let without = |polarity| vec![Condition::AnyBit { field: Field::Mark, mask: 0x4000, polarity }];
        let rules = vec![rule(without(Polarity::IsNot), Action::Return), rule(vec![], Action::Translate)];
        let found = fate(&chain(Policy::Accept, rules, &[]), &Packet::default());
        assert_eq!((found.translate, found.pass), (Ending::Unlikely, Ending::Possible));
    }

    fn any_rules() -> impl Strategy<Value = Vec<FilterRule>> {
        let polarity = prop_oneof![Just(Polarity::Is), Just(Polarity::IsNot)];
        let condition = (78u64..83, polarity).prop_map(|(number, polarity)| port(number, polarity));
        let action = prop_oneof![
            Just(Action::Continue),
            Just(Action::Accept),
            Just(Action::Drop),
            Just(Action::Return),
            Just(Action::Jump("a".to_owned())),
            Just(Action::Goto("b".to_owned())),
        ];
        let rule = (prop::collection::vec(condition, 0..2), action);
        prop::collection::vec(rule.prop_map(|(conditions, action)| FilterRule { conditions, action }), 0..5)
    }

    proptest! {
        /// What is certain for a range of ports is certain for each port of it.
        #[test]
        fn what_is_sure_of_many_packets_is_sure_of_each(
            rules in any_rules(), a in any_rules(), b in any_rules(), drops in any::<bool>(), first in 77u64..84, width in 0u64..4,
        ) {
            let policy = if drops { Policy::Drop } else { Policy::Accept };
            let chain = chain(policy, rules, &[("a", a), ("b", b)]);
            let many = fate(&chain, &Packet::default().with(Field::DestinationPort, vec![first..=first + width]));
            for port in first..=first + width {
                let one = fate(&chain, &Packet::default().with(Field::DestinationPort, port));
                prop_assert!(one.stop <= many.stop && one.pass <= many.pass);
                prop_assert!(one.is_stopped() || one.pass == Ending::Possible, "of one packet it is sure, or jumps never end");
            }
        }
    }
}
