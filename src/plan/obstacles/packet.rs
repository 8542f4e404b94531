//! A packet of a flow, as far as the plan can know it at one point of its path.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::RangeInclusive;

use crate::model::{Condition, Field, InterfaceName, NamePattern, Polarity, Way};

/// The ports from which clients open flows by default: those of Linux (`net.ipv4.ip_local_port_range`) and of RFC 6335.
const DYNAMIC: RangeInclusive<u64> = 32768..=65535;

/// The result of a condition for all packets that this value stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Truth {
    /// It holds for none.
    No,
    /// It holds for none, unless another program changes the packet first, for example by a mark.
    Unlikely,
    /// It may hold for some.
    Maybe,
    /// It holds for all, unless another program changes the packet first.
    Likely,
    /// It holds for all.
    Yes,
}

impl Truth {
    const fn of(holds: bool) -> Self {
        if holds { Self::Yes } else { Self::No }
    }

    const fn unless(self, polarity: Polarity) -> Self {
        match (polarity, self) {
            (Polarity::Is, truth) => truth,
            (Polarity::IsNot, Self::No) => Self::Yes,
            (Polarity::IsNot, Self::Unlikely) => Self::Likely,
            (Polarity::IsNot, Self::Maybe) => Self::Maybe,
            (Polarity::IsNot, Self::Likely) => Self::Unlikely,
            (Polarity::IsNot, Self::Yes) => Self::No,
        }
    }
}

/// What is known of a field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Value {
    /// It is within one of these ranges.
    Within(Vec<RangeInclusive<u64>>),
    /// A port that whoever opens the flow has chosen: most likely a dynamic one, otherwise one that the service has too.
    Chosen(Vec<RangeInclusive<u64>>),
    /// It is usually within one of these ranges.
    Usual(Vec<RangeInclusive<u64>>),
    /// Some of its bits are known.
    Bits {
        /// The bits that are known.
        known: u64,
        /// The known bits that are set.
        set: u64,
    },
}

/// A packet, or several packets that are equal in all checked fields.
#[derive(Clone, Debug, Default)]
pub(super) struct Packet<'a> {
    /// The incoming interface, if it is known at this point.
    pub(super) enters: Option<&'a InterfaceName>,
    /// The outgoing interface, if it is known at this point.
    pub(super) leaves: Option<&'a InterfaceName>,
    /// Whether a rule of another program may have marked it. A packet has no mark until a program of this node sets one.
    pub(super) is_marked: bool,
    /// The bits of the connection mark by which the rules of the operator know its flow.
    pub(super) connmark: u32,
    /// The other known fields.
    pub(super) values: BTreeMap<Field, Value>,
}

impl Packet<'_> {
    /// The same packet with one more field.
    pub(super) fn with(mut self, field: Field, value: impl Into<Value>) -> Self {
        self.values.insert(field, value.into());
        self
    }

    /// Whether all `conditions` hold.
    pub(super) fn meets(&self, conditions: &[Condition]) -> Truth {
        conditions.iter().map(|condition| self.truth(condition)).min().unwrap_or(Truth::Yes)
    }

    /// Whether connection tracking has already seen it.
    pub(super) fn is_tracked(&self) -> bool {
        self.values.contains_key(&Field::State)
    }

    fn truth(&self, condition: &Condition) -> Truth {
        match condition {
            Condition::Uncertain => Truth::Maybe,
            Condition::Within { field: Field::Mark, .. } | Condition::AnyBit { field: Field::Mark, .. } if self.is_marked => {
                Truth::Maybe
            }
            Condition::Within { field: Field::Mark, ranges, polarity } => {
                let unmarked = ranges.iter().any(|range| range.contains(&0));
                (if unmarked { Truth::Likely } else { Truth::Unlikely }).unless(*polarity)
            }
            Condition::Excess => Truth::Unlikely,
            Condition::Within { field, ranges, polarity } => self.within(*field, ranges).unless(*polarity),
            Condition::AnyBit { field: Field::Mark, polarity, .. } => Truth::Unlikely.unless(*polarity),
            Condition::AnyBit { field, mask, polarity } => self.any_bit(*field, *mask).unless(*polarity),
            Condition::Masked { field, mask, value, polarity } => self.masked(*field, *mask, *value).unless(*polarity),
            Condition::Any { cases, polarity } => {
                cases.iter().map(|case| self.meets(case)).max().unwrap_or(Truth::No).unless(*polarity)
            }
            Condition::Interface { way, names, polarity } => {
                let name = match way {
                    Way::In => self.enters,
                    Way::Out => self.leaves,
                };
                name.map_or(Truth::Maybe, |name| Truth::of(names.iter().any(|pattern| fits(name, pattern)))).unless(*polarity)
            }
        }
    }

    fn within(&self, field: Field, ranges: &[RangeInclusive<u64>]) -> Truth {
        let own = match self.values.get(&field) {
            Some(Value::Within(own)) => own,
            Some(Value::Chosen(fixed)) => return chosen(fixed, ranges),
            Some(Value::Usual(own)) => {
                return match covered(own, ranges) {
                    Truth::Yes if !own.is_empty() => Truth::Likely,
                    Truth::Yes | Truth::No => Truth::Unlikely,
                    other => other,
                };
            }
            Some(Value::Bits { .. }) | None => return Truth::Maybe,
        };
        covered(own, ranges)
    }

    fn masked(&self, field: Field, mask: u64, value: u64) -> Truth {
        let Some(Value::Bits { known, set }) = self.values.get(&field) else { return Truth::Maybe };
        if (set ^ value) & mask & known != 0 || value & !mask != 0 {
            Truth::No
        } else if mask & !known == 0 {
            Truth::Yes
        } else {
            Truth::Maybe
        }
    }

    fn any_bit(&self, field: Field, mask: u64) -> Truth {
        match self.values.get(&field) {
            Some(Value::Within(own)) if own.iter().all(|range| range.start() == range.end()) => {
                match (own.iter().all(|one| one.start() & mask != 0), own.iter().all(|one| one.start() & mask == 0)) {
                    (true, _) => Truth::Yes,
                    (false, true) => Truth::No,
                    (false, false) => Truth::Maybe,
                }
            }
            Some(Value::Bits { set, .. }) if set & mask != 0 => Truth::Yes,
            Some(Value::Bits { known, .. }) if mask & !known == 0 => Truth::No,
            Some(_) | None => Truth::Maybe,
        }
    }
}

/// Whether all values of `own` are within `ranges`.
fn covered(own: &[RangeInclusive<u64>], ranges: &[RangeInclusive<u64>]) -> Truth {
    let inside = |own: &RangeInclusive<u64>| ranges.iter().any(|range| range.contains(own.start()) && range.contains(own.end()));
    let apart = |own: &RangeInclusive<u64>| ranges.iter().all(|range| range.end() < own.start() || own.end() < range.start());
    match (own.iter().all(inside), own.iter().all(apart)) {
        (true, _) => Truth::Yes,
        (false, true) => Truth::No,
        (false, false) => Truth::Maybe,
    }
}

/// Whether a port that whoever opens the flow has chosen is within one of these ranges.
fn chosen(fixed: &[RangeInclusive<u64>], ranges: &[RangeInclusive<u64>]) -> Truth {
    let meets = |one: &RangeInclusive<u64>| ranges.iter().any(|range| range.start() <= one.end() && one.start() <= range.end());
    let covers = |range: &RangeInclusive<u64>| range.contains(DYNAMIC.start()) && range.contains(DYNAMIC.end());
    let all = |range: &RangeInclusive<u64>| *range.start() == 0 && *range.end() >= u64::from(u16::MAX);
    if ranges.iter().any(all) {
        Truth::Yes
    } else if ranges.iter().any(covers) {
        Truth::Likely
    } else if meets(&DYNAMIC) || fixed.iter().any(meets) {
        Truth::Maybe
    } else {
        Truth::Unlikely
    }
}

fn fits(name: &InterfaceName, pattern: &NamePattern) -> bool {
    match pattern {
        NamePattern::Exact(whole) => name.as_str() == whole,
        NamePattern::Prefix(start) => name.as_str().starts_with(start),
    }
}

impl From<u64> for Value {
    fn from(number: u64) -> Self {
        Self::Within(vec![number..=number])
    }
}

impl From<Vec<RangeInclusive<u64>>> for Value {
    fn from(ranges: Vec<RangeInclusive<u64>>) -> Self {
        Self::Within(ranges)
    }
}

/// An IPv4 address as a number.
pub(super) fn number(address: IpAddr) -> u64 {
    match address {
        IpAddr::V4(address) => u64::from(u32::from(address)),
        // No rule for IPv4 packets contains one.
        IpAddr::V6(_) => u64::MAX,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_of_the_client_is_a_dynamic_one_or_that_of_the_service() {
        let packet = Packet::default().with(Field::SourcePort, Value::Chosen(vec![80..=80]));
        let truth =
            |range, polarity| packet.meets(&[Condition::Within { field: Field::SourcePort, ranges: vec![range], polarity }]);
        assert_eq!(truth(22..=22, Polarity::Is), Truth::Unlikely);
        assert_eq!(truth(22..=22, Polarity::IsNot), Truth::Likely);
        assert_eq!(truth(80..=80, Polarity::Is), Truth::Maybe);
        assert_eq!(truth(40000..=40000, Polarity::Is), Truth::Maybe);
        assert_eq!(truth(1024..=65535, Polarity::Is), Truth::Likely);
        assert_eq!(truth(0..=65535, Polarity::Is), Truth::Yes);
    }

    #[test]
    fn what_packets_usually_are_is_no_reason_to_warn_and_none_to_be_sure() {
        let packet = Packet::default()
            .with(Field::TimeToLive, Value::Usual(vec![30..=255]))
            .with(Field::SourceHardware, Value::Usual(Vec::new()));
        let truth = |field, range, polarity| packet.meets(&[Condition::Within { field, ranges: vec![range], polarity }]);
        assert_eq!(truth(Field::TimeToLive, 0..=4, Polarity::Is), Truth::Unlikely);
        assert_eq!(truth(Field::TimeToLive, 5..=255, Polarity::Is), Truth::Likely);
        assert_eq!(truth(Field::TimeToLive, 64..=64, Polarity::Is), Truth::Maybe);
        assert_eq!(truth(Field::SourceHardware, 7..=7, Polarity::Is), Truth::Unlikely);
        assert_eq!(truth(Field::SourceHardware, 7..=7, Polarity::IsNot), Truth::Likely);
    }

    #[test]
    fn a_mark_that_a_rule_may_have_set_is_not_known() {
        let seven = [Condition::Within { field: Field::Mark, ranges: vec![7..=7], polarity: Polarity::Is }];
        assert_eq!(Packet::default().meets(&seven), Truth::Unlikely);
        assert_eq!(Packet { is_marked: true, ..Packet::default() }.meets(&seven), Truth::Maybe);
        let none = [Condition::Within { field: Field::Mark, ranges: vec![0..=0], polarity: Polarity::Is }];
        assert_eq!(Packet::default().meets(&none), Truth::Likely);
    }

    #[test]
    fn known_bits_are_compared_and_others_may_be_anything() {
        let packet = Packet::default().with(Field::TcpFlags, Value::Bits { known: 0x3f, set: 0x02 });
        let truth =
            |mask, value| packet.meets(&[Condition::Masked { field: Field::TcpFlags, mask, value, polarity: Polarity::Is }]);
        assert_eq!(truth(0x17, 0x02), Truth::Yes);
        assert_eq!(truth(0x12, 0x12), Truth::No);
        assert_eq!(truth(0xff, 0x02), Truth::Maybe);
        assert_eq!(truth(0xc0, 0x02), Truth::No, "a bit that is not compared is never equal to a set one");
    }
}
