//! The content of an `nf_tables` register, and the conditions made from a comparison with it.

use std::ops::RangeInclusive;

use crate::model::{Condition, Field, NamePattern, Polarity, Way};

/// The size of an interface name, in bytes (`IFNAMSIZ`, `include/uapi/linux/if.h`).
const NAME_SIZE: usize = 16;
/// The size of the smallest register, in bytes.
pub(super) const WORD: usize = 4;

/// The content of a register.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Loaded {
    /// The first bytes of a field, of which only some bits are compared.
    Number {
        /// The field.
        field: Field,
        /// The number of bytes.
        length: usize,
        /// The compared bits, of the whole field.
        mask: u64,
    },
    /// The name of an interface.
    Name(Way),
    /// The connection mark, apart from these bits.
    Connmark(u32),
    /// A value from the rule itself.
    Constant(Vec<u8>),
    /// A content that could not be interpreted.
    Unknown,
}

/// The comparison of two values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Test {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

/// The size of a field in a register, in bytes, and its byte order.
const fn width(field: Field) -> (usize, Order) {
    match field {
        Field::Family
        | Field::Protocol
        | Field::Direction
        | Field::TcpFlags
        | Field::PacketType
        | Field::TimeToLive
        | Field::Tos => (1, Order::Network),
        Field::EtherType
        | Field::Fragment
        | Field::Length
        | Field::SegmentSize
        | Field::SourcePort
        | Field::DestinationPort
        | Field::OriginalDestinationPort => (2, Order::Network),
        Field::SourceHardware => (6, Order::Network),
        Field::Source | Field::Destination | Field::OriginalSource | Field::OriginalDestination => (4, Order::Network),
        Field::InIndex
        | Field::OutIndex
        | Field::Mark
        | Field::State
        | Field::Status
        | Field::WholeLength
        | Field::StrictSourceRoute
        | Field::LooseSourceRoute
        | Field::SourceType
        | Field::DestinationType => (4, Order::Host),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    Network,
    Host,
}

impl Loaded {
    /// A whole field.
    pub(super) const fn number(field: Field) -> Self {
        Self::leading(field, width(field).0)
    }

    /// The first bytes of a field.
    pub(super) const fn leading(field: Field, length: usize) -> Self {
        Self::Number { field, length, mask: all_bits(field) }
    }

    /// The same, restricted to the bits of `mask`.
    pub(super) fn masked(self, mask: &[u8]) -> Self {
        match self {
            Self::Number { field, length, mask: before } => match parsed(field, length, mask) {
                Some(mask) => Self::Number { field, length, mask: before & mask },
                None => Self::Unknown,
            },
            Self::Name(_) | Self::Connmark(_) | Self::Constant(_) | Self::Unknown => Self::Unknown,
        }
    }

    /// The same, if it is a connection mark, after only the bits of `mask` were kept and those of `xor` inverted.
    pub(super) fn remarked(&self, mask: &[u8], xor: &[u8]) -> Option<Self> {
        let number = |bytes: &[u8]| bytes.try_into().map(u32::from_ne_bytes).ok();
        let Self::Connmark(bits) = self else { return None };
        Some(Self::Connmark(bits | !number(mask)? | number(xor)?))
    }

    /// The values of the field that compare equal to `value`; `None` if they are not one range.
    pub(super) fn range(&self, value: &[u8]) -> Option<RangeInclusive<u64>> {
        let Self::Number { field, length, mask } = self else { return None };
        let (value, hidden) = (parsed(*field, *length, value)?, all_bits(*field) & !(mask & leading_bits(*field, *length)));
        // The bits that are not compared must be the last ones, otherwise the values are not one range.
        (hidden.wrapping_add(1).is_power_of_two() && value & hidden == 0).then_some(value..=(value | hidden))
    }

    /// Its size in bytes; `None` if it is not known.
    pub(super) fn size(&self) -> Option<usize> {
        match self {
            Self::Number { length, .. } => Some(*length),
            Self::Name(_) => Some(NAME_SIZE),
            Self::Connmark(_) => Some(WORD),
            Self::Constant(value) => Some(value.len()),
            Self::Unknown => None,
        }
    }

    /// Its size in a concatenation, in which every field begins at a multiple of four bytes. One that is not known is
    /// taken for a short one.
    pub(super) fn padded(&self) -> usize {
        match self {
            Self::Number { length, .. } => length.div_ceil(WORD) * WORD,
            Self::Connmark(_) | Self::Constant(_) | Self::Unknown => WORD,
            Self::Name(_) => NAME_SIZE,
        }
    }

    /// The condition for a comparison with `value`.
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
            (Self::Name(_) | Self::Number { .. } | Self::Connmark(_) | Self::Constant(_) | Self::Unknown, _) => {
                Condition::Uncertain
            }
        }
    }
}

/// A test of single bits, such as `ct state established,related`.
fn bits(field: Field, mask: u64, value: Option<u64>, test: Test) -> Condition {
    let polarity = match (value, test) {
        (Some(value), _) if matches!(field, Field::TcpFlags | Field::Fragment) => {
            return Condition::Masked { field, mask, value, polarity: polarity(test) };
        }
        (Some(0), Test::NotEqual) => Polarity::Is,
        (Some(0), _) => Polarity::IsNot,
        (Some(value), _) if value == mask && mask.is_power_of_two() => polarity(test),
        // For marks, only the test whether there is a mark is supported.
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

/// A complete name ends with a zero byte. A name without it is a prefix.
pub(super) fn pattern(value: &[u8]) -> NamePattern {
    let end = value.iter().position(|byte| *byte == 0);
    let name = String::from_utf8_lossy(&value[..end.unwrap_or(value.len())]).into_owned();
    if end.is_some() { NamePattern::Exact(name) } else { NamePattern::Prefix(name) }
}

/// The pattern for all names between two keys of a set; `None` if they are not the names with one beginning.
pub(super) fn pattern_between(first: &[u8], last: &[u8]) -> Option<NamePattern> {
    let number = |key: &[u8]| <[u8; NAME_SIZE]>::try_from(key).ok().map(u128::from_be_bytes);
    let (first, last) = (number(first)?, number(last)?);
    let hidden = last.checked_sub(first)?;
    let bits = hidden.trailing_ones();
    let is_prefix = hidden.checked_add(1).is_none_or(u128::is_power_of_two) && bits % 8 == 0 && first & hidden == 0;
    let length = NAME_SIZE - (bits / 8) as usize;
    let start = String::from_utf8_lossy(&first.to_be_bytes()[..length]).into_owned();
    is_prefix.then_some(NamePattern::Prefix(start))
}

/// A field whose first `length` bytes are `value`, and the rest zero.
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
