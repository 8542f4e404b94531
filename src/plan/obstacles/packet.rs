//! A packet of a flow, as far as the plan can know it at one point of its path.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::RangeInclusive;

use crate::model::{Condition, Field, InterfaceName, NamePattern, Polarity, Way};

/// The result of a condition for all packets that this value stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Truth {
    /// It holds for none.
    No,
    /// It holds for none, unless another program changes the packet first, for example by a mark.
    Unlikely,
    /// It may hold for some.
    Maybe,
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
            (Polarity::IsNot, Self::Unlikely | Self::Maybe) => Self::Maybe,
            (Polarity::IsNot, Self::Yes) => Self::No,
        }
    }
}

/// What is known of a field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Value {
    /// It is within one of these ranges.
    Within(Vec<RangeInclusive<u64>>),
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

    fn truth(&self, condition: &Condition) -> Truth {
        match condition {
            Condition::Uncertain
            | Condition::Within { field: Field::Mark, .. }
            | Condition::AnyBit { field: Field::Mark, polarity: Polarity::IsNot, .. } => Truth::Maybe,
            Condition::Within { field, ranges, polarity } => self.within(*field, ranges).unless(*polarity),
            // A packet has no mark until a program of this node sets one.
            Condition::AnyBit { field: Field::Mark, polarity: Polarity::Is, .. } => Truth::Unlikely,
            Condition::AnyBit { field, mask, polarity } => self.any_bit(*field, *mask).unless(*polarity),
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
        let Some(Value::Within(own)) = self.values.get(&field) else { return Truth::Maybe };
        let inside =
            |own: &RangeInclusive<u64>| ranges.iter().any(|range| range.contains(own.start()) && range.contains(own.end()));
        let apart = |own: &RangeInclusive<u64>| ranges.iter().all(|range| range.end() < own.start() || own.end() < range.start());
        match (own.iter().all(inside), own.iter().all(apart)) {
            (true, _) => Truth::Yes,
            (false, true) => Truth::No,
            (false, false) => Truth::Maybe,
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
