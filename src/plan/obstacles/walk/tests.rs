//! The results of chains, on paths of all kinds.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::model::{Condition, Field, Hook, Polarity, Purpose, TableFamily, Tool};

pub(in crate::plan::obstacles) fn chain(policy: Policy, rules: Vec<FilterRule>, jumps: &[(&str, Vec<FilterRule>)]) -> BaseChain {
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
fn the_mark_is_lost_where_every_way_that_passes_changes_it() {
    let packet = Packet { connmark: 0x1000, ..Packet::default().with(Field::DestinationPort, 80) };
    let of = |rules, jumps: &[(&str, Vec<FilterRule>)]| loss(&chain(Policy::Accept, rules, jumps), &packet);
    let (is, changes) = (vec![port(80, Polarity::Is)], || Action::Connmark(0x3000));
    assert_eq!(of(vec![rule(is.clone(), changes())], &[]), Loss::Yes);
    assert_eq!(of(vec![rule(vec![], Action::Jump("a".to_owned()))], &[("a", vec![rule(vec![], changes())])]), Loss::Yes);
    assert_eq!(of(vec![rule(vec![port(81, Polarity::Is)], Action::Drop), rule(vec![], changes())], &[]), Loss::Yes);
    assert_eq!(of(vec![rule(vec![Condition::Uncertain], changes())], &[]), Loss::Maybe);
    assert_eq!(of(vec![rule(vec![Condition::Uncertain], Action::Accept), rule(vec![], changes())], &[]), Loss::Maybe);
    assert_eq!(of(vec![rule(is.clone(), Action::Accept), rule(vec![], changes())], &[]), Loss::No);
    assert_eq!(of(vec![rule(vec![port(81, Polarity::Is)], changes())], &[]), Loss::No);
    assert_eq!(of(vec![rule(is, Action::Connmark(0x2000))], &[]), Loss::No, "other bits");
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
    let rules = vec![rule(without(Polarity::IsNot), Action::Return), rule(vec![], Action::Translate(NewAddress::Own))];
    let found = fate(&chain(Policy::Accept, rules, &[]), &Packet::default());
    assert_eq!((found.translate, found.pass), (Ending::Unlikely, Ending::Possible));
}

#[test]
fn the_first_zone_that_is_assigned_decides() {
    let packet = Packet::default().with(Field::DestinationPort, 80);
    let of = |packet: &Packet<'_>, rules| fate(&chain(Policy::Accept, rules, &[]), packet).zone();
    let (is, isnt) = (|| vec![port(80, Polarity::Is)], || vec![port(80, Polarity::IsNot)]);
    let assigns = |conditions, zone| rule(conditions, Action::Zone(zone));
    assert_eq!(of(&packet, vec![assigns(isnt(), Some(5))]), None);
    assert_eq!(of(&packet, vec![assigns(is(), Some(5)), assigns(vec![], Some(6))]), Some(Zone::Known(5)));
    assert_eq!(of(&packet, vec![assigns(vec![], None)]), Some(Zone::Unknown));
    assert_eq!(of(&packet, vec![assigns(vec![Condition::Uncertain], Some(5))]), Some(Zone::Unknown));
    assert_eq!(of(&packet, vec![rule(vec![], Action::Untrack), assigns(vec![], Some(5))]), None);
    assert_eq!(of(&packet.with(Field::State, 8), vec![assigns(vec![], Some(5))]), None, "it is tracked already");
}

#[test]
fn a_mark_is_known_to_be_missing_only_before_a_rule_that_sets_one() {
    let marked = || vec![Condition::AnyBit { field: Field::Mark, mask: 7, polarity: Polarity::Is }];
    let stop = |conditions| {
        let rules = vec![rule(conditions, Action::Mark), rule(marked(), Action::Drop)];
        fate(&chain(Policy::Accept, rules, &[]), &Packet::default().with(Field::DestinationPort, 80)).stop
    };
    assert_eq!(stop(vec![]), Ending::Possible);
    assert_eq!(stop(vec![port(81, Polarity::Is)]), Ending::Unlikely);
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
