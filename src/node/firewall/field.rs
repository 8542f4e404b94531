//! What a register of `nf_tables` holds, and what a comparison with it asks.

use std::ops::RangeInclusive;

use crate::model::{Condition, Field, NamePattern, Polarity, Way};

/// What a register holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Loaded {
    /// The first bytes of a number, of which only some bits are looked at.
    Number {
        /// Which.
        field: Field,
        /// How many bytes.
        length: usize,
        /// The bits, of the whole number.
        mask: u64,
    },
    /// The name of an interface.
    Name(Way),
    /// Something that is not understood.
    Unknown,
}

/// How two values are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Test {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

/// The bytes of a number in a register, and their order.
const fn width(field: Field) -> (usize, Order) {
    match field {
        Field::Family | Field::Protocol | Field::Direction => (1, Order::Network),
        Field::EtherType | Field::SourcePort | Field::DestinationPort | Field::OriginalDestinationPort => (2, Order::Network),
        Field::Source | Field::Destination | Field::OriginalSource | Field::OriginalDestination => (4, Order::Network),
        Field::InIndex | Field::OutIndex | Field::Mark | Field::State | Field::Status => (4, Order::Host),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    Network,
    Host,
}

impl Loaded {
    /// A whole number.
    pub(super) const fn number(field: Field) -> Self {
        Self::leading(field, width(field).0)
    }

    /// The first bytes of a number.
    pub(super) const fn leading(field: Field, length: usize) -> Self {
        Self::Number { field, length, mask: all_bits(field) }
    }

    /// The same, less the bits that `mask` leaves out.
    pub(super) fn masked(self, mask: &[u8]) -> Self {
        match self {
            Self::Number { field, length, mask: before } => match parsed(field, length, mask) {
                Some(mask) => Self::Number { field, length, mask: before & mask },
                None => Self::Unknown,
            },
            Self::Name(_) | Self::Unknown => Self::Unknown,
        }
    }

    /// The numbers that look like `value`; `None` where that is not one range.
    pub(super) fn range(&self, value: &[u8]) -> Option<RangeInclusive<u64>> {
        let Self::Number { field, length, mask } = self else { return None };
        let (value, hidden) = (parsed(*field, *length, value)?, all_bits(*field) & !(mask & leading_bits(*field, *length)));
        // What is not looked at must be the last bits, or the numbers are no range.
        (hidden.wrapping_add(1).is_power_of_two() && value & hidden == 0).then_some(value..=(value | hidden))
    }

    /// What a comparison with `value` asks.
    pub(super) fn compared(&self, test: Test, value: &[u8]) -> Condition {
        match (self, test) {
            (Self::Name(way), Test::Equal | Test::NotEqual) => {
                Condition::Interface { way: *way, names: vec![pattern(value)], polarity: polarity(test) }
            }
            (Self::Number { field, length, mask }, Test::Equal | Test::NotEqual) => {
                if let Some(range) = self.range(value) {
                    return Condition::Within { field: *field, ranges: vec![range], polarity: polarity(test) };
                }
                bits(*field, *mask, parsed(*field, *length, value), test)
            }
            (Self::Number { field, length, mask }, _) if *mask == all_bits(*field) && *length == width(*field).0 => {
                parsed(*field, *length, value).map_or(Condition::Uncertain, |value| ordered(*field, test, value))
            }
            (Self::Name(_) | Self::Number { .. } | Self::Unknown, _) => Condition::Uncertain,
        }
    }
}

/// A test of single bits, such as `ct state established,related`.
fn bits(field: Field, mask: u64, value: Option<u64>, test: Test) -> Condition {
    let polarity = match (value, test) {
        (Some(0), Test::NotEqual) => Polarity::Is,
        (Some(0), _) => Polarity::IsNot,
        (Some(value), _) if value == mask && mask.is_power_of_two() => polarity(test),
        // More than this is not asked of marks: whether there is any.
        (Some(value), Test::Equal) if field == Field::Mark => {
            return Condition::AnyBit { field, mask: value, polarity: Polarity::Is };
        }
        (_, _) => return Condition::Uncertain,
    };
    Condition::AnyBit { field, mask, polarity }
}

fn ordered(field: Field, test: Test, value: u64) -> Condition {
    let (nothing, most) = (Vec::new(), all_bits(field));
    let ranges = match test {
        Test::Equal | Test::NotEqual => vec![value..=value],
        Test::Less => value.checked_sub(1).map_or(nothing, |last| vec![0..=last]),
        Test::LessOrEqual => vec![0..=value],
        Test::Greater => {
            if value < most {
                vec![value + 1..=most]
            } else {
                nothing
            }
        }
        Test::GreaterOrEqual => vec![value..=most],
    };
    Condition::Within { field, ranges, polarity: polarity(test) }
}

const fn polarity(test: Test) -> Polarity {
    match test {
        Test::NotEqual => Polarity::IsNot,
        Test::Equal | Test::Less | Test::LessOrEqual | Test::Greater | Test::GreaterOrEqual => Polarity::Is,
    }
}

/// A name that is given whole ends with a zero; one that is cut short stands for all that begin so.
pub(super) fn pattern(value: &[u8]) -> NamePattern {
    let end = value.iter().position(|byte| *byte == 0);
    let name = String::from_utf8_lossy(&value[..end.unwrap_or(value.len())]).into_owned();
    if end.is_some() { NamePattern::Exact(name) } else { NamePattern::Prefix(name) }
}

/// A number whose first `length` bytes are `value`, the rest zero.
fn parsed(field: Field, length: usize, value: &[u8]) -> Option<u64> {
    let (whole, order) = width(field);
    if value.len() != length || length > whole {
        return None;
    }
    let fold = |number: u64, byte: &u8| number << 8 | u64::from(*byte);
    Some(match order {
        Order::Network => value.iter().fold(0, fold) << (8 * (whole - length)),
        Order::Host if cfg!(target_endian = "little") => value.iter().rev().fold(0, fold),
        Order::Host => value.iter().fold(0, fold),
    })
}

const fn all_bits(field: Field) -> u64 {
    (1 << (8 * width(field).0)) - 1
}

const fn leading_bits(field: Field, length: usize) -> u64 {
    let hidden = 8 * width(field).0.saturating_sub(length);
    all_bits(field) >> hidden << hidden
}
