//! The sets and maps that rules look values up in, for example `{ 80, 443 }` or `@blocked`.
//!
//! A set whose elements packets add or a timeout removes is volatile: its content changes without a new generation.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use netlink_packet_core::Nla;
use netlink_packet_netfilter::nftables::{
    DataAttribute, ExpressionAttribute, ListAttribute, SetElementAttribute, SetElementList,
};

use super::expression::{bytes, verdict};
use super::field::{Loaded, pattern, pattern_between};
use crate::model::{Action, Condition, NamePattern, Polarity};

/// The flag for the end of an interval (`NFT_SET_ELEM_INTERVAL_END`).
const INTERVAL_END: u32 = 1;
/// The flag for an inverted look-up (`NFT_LOOKUP_F_INV`).
const INVERTED: u32 = 1;
/// The kind of the attribute with a value (`NFTA_DATA_VALUE`).
const DATA_VALUE: u16 = 1;
/// The expression that only counts.
const COUNTER: &str = "counter";
/// The maximum number of elements that are evaluated. A larger set counts as not interpreted.
const MOST_ELEMENTS: usize = 2000;

/// Sets by name.
pub(super) type Sets = BTreeMap<String, Set>;

/// A set or a map.
#[derive(Clone, Debug, Default)]
pub(super) struct Set {
    elements: Vec<Element>,
    /// Whether a part of it could not be interpreted.
    incomplete: bool,
}

#[derive(Clone, Debug)]
struct Element {
    key: Vec<u8>,
    /// The last key of an interval, if the element contains it.
    last: Option<Vec<u8>>,
    is_end: bool,
    action: Option<Action>,
}

/// The keys from a first to a last one, both included, and their action in a map.
struct Interval<'a> {
    first: &'a [u8],
    last: Vec<u8>,
    action: Option<&'a Action>,
}

impl Set {
    /// Adds the elements of one message.
    pub(super) fn extend(&mut self, attributes: &[SetElementList]) {
        for attribute in attributes {
            let SetElementList::Elements(elements) = attribute else { continue };
            for element in elements {
                match element {
                    ListAttribute::Element(parts) if self.elements.len() < MOST_ELEMENTS => match read(parts) {
                        Some(element) => self.elements.push(element),
                        None => self.incomplete = true,
                    },
                    _ => self.incomplete = true,
                }
            }
        }
    }

    /// The size of its keys in bytes; 0 if it has no elements.
    pub(super) fn key_size(&self) -> usize {
        self.elements.first().map_or(0, |element| element.key.len())
    }

    /// The condition for a look-up of `fields`, several of which are one concatenated key.
    pub(super) fn condition(&self, fields: &[Loaded], flags: u32) -> Condition {
        let polarity = if flags & INVERTED == 0 { Polarity::Is } else { Polarity::IsNot };
        if self.incomplete || flags & !INVERTED != 0 {
            return Condition::Uncertain;
        }
        let Some(intervals) = self.intervals() else { return Condition::Uncertain };
        match fields {
            [Loaded::Number { field, .. }] => match intervals.iter().map(|interval| interval.range(&fields[0])).collect() {
                Some(ranges) => Condition::Within { field: *field, ranges, polarity },
                None => Condition::Uncertain,
            },
            [Loaded::Name(way)] => match intervals.iter().map(Interval::pattern).collect() {
                Some(names) => Condition::Interface { way: *way, names, polarity },
                None => Condition::Uncertain,
            },
            [Loaded::Constant(_) | Loaded::Unknown] => Condition::Uncertain,
            several => Condition::Any { cases: intervals.iter().map(|interval| interval.case(several)).collect(), polarity },
        }
    }

    /// The actions for a look-up of `fields` in the map, each with its conditions.
    pub(super) fn verdicts(&self, fields: &[Loaded]) -> Vec<(Vec<Condition>, Action)> {
        let Some(intervals) = self.intervals().filter(|_| !self.incomplete) else {
            let actions = self.elements.iter().filter_map(|element| element.action.clone());
            return actions.chain([Action::Uncertain]).map(|action| (vec![Condition::Uncertain], action)).collect();
        };
        intervals.iter().filter_map(|interval| Some((interval.case(fields), interval.action?.clone()))).collect()
    }

    /// The intervals of keys. An interval is given by its first and its last key, or by its first key and the first one
    /// behind it.
    fn intervals(&self) -> Option<Vec<Interval<'_>>> {
        if self.elements.iter().all(|element| !element.is_end) {
            let single = self.elements.iter().map(|element| Interval {
                first: &element.key,
                last: element.last.clone().unwrap_or_else(|| element.key.clone()),
                action: element.action.as_ref(),
            });
            return Some(single.collect());
        }
        let mut marks: Vec<&Element> = self.elements.iter().collect();
        marks.sort_by(|one, other| (&one.key, !one.is_end).cmp(&(&other.key, !other.is_end)));
        let mut found = Vec::new();
        for (place, element) in marks.iter().enumerate().filter(|(_, element)| !element.is_end) {
            let last = match marks.get(place + 1) {
                Some(next) => before(&next.key)?,
                None => vec![u8::MAX; element.key.len()],
            };
            found.push(Interval { first: &element.key, last, action: element.action.as_ref() });
        }
        Some(found)
    }
}

impl Interval<'_> {
    /// The values of a number field.
    fn range(&self, field: &Loaded) -> Option<RangeInclusive<u64>> {
        range(field, self.first, &self.last)
    }

    fn pattern(&self) -> Option<NamePattern> {
        if self.first == self.last.as_slice() { Some(pattern(self.first)) } else { pattern_between(self.first, &self.last) }
    }

    /// The condition for each field of the key.
    fn case(&self, fields: &[Loaded]) -> Vec<Condition> {
        if let [field] = fields {
            return vec![one(field, self.first, &self.last)];
        }
        let mut place = 0;
        let part = |field: &Loaded| {
            let start = place;
            place += field.padded();
            let cut = |key: &[u8]| key.get(start..start + field.size()?).map(<[u8]>::to_vec);
            Some(one(field, &cut(self.first)?, &cut(&self.last)?))
        };
        fields.iter().map(part).map(|condition| condition.unwrap_or(Condition::Uncertain)).collect()
    }
}

/// The condition that a field is between two values.
fn one(field: &Loaded, first: &[u8], last: &[u8]) -> Condition {
    let interval = Interval { first, last: last.to_vec(), action: None };
    let condition = match field {
        Loaded::Number { field: number, .. } => {
            interval.range(field).map(|range| Condition::Within { field: *number, ranges: vec![range], polarity: Polarity::Is })
        }
        Loaded::Name(way) => {
            interval.pattern().map(|name| Condition::Interface { way: *way, names: vec![name], polarity: Polarity::Is })
        }
        Loaded::Connmark(_) | Loaded::Constant(_) | Loaded::Unknown => None,
    };
    condition.unwrap_or(Condition::Uncertain)
}

fn range(field: &Loaded, first: &[u8], last: &[u8]) -> Option<RangeInclusive<u64>> {
    Some(*field.range(first)?.start()..=*field.range(last)?.end())
}

/// The key before `key`, in the order of bytes.
fn before(key: &[u8]) -> Option<Vec<u8>> {
    let mut key = key.to_vec();
    let last = key.iter().rposition(|byte| *byte != 0)?;
    key[last] -= 1;
    key[last + 1..].fill(u8::MAX);
    Some(key)
}

fn is_counter(expression: &ListAttribute<ExpressionAttribute>) -> bool {
    let ListAttribute::Element(named) = expression else { return false };
    named.iter().any(|part| matches!(part, ExpressionAttribute::Name(name) if name == COUNTER))
}

fn read(parts: &[SetElementAttribute]) -> Option<Element> {
    let (mut key, mut last, mut is_end, mut action) = (None, None, false, None);
    for part in parts {
        match part {
            SetElementAttribute::Key(DataAttribute::Value(value)) => key = Some(value.clone()),
            SetElementAttribute::KeyEnd(parts) => {
                last = Some(parts.iter().find(|part| part.kind() & 0x3fff == DATA_VALUE).map(bytes)?);
            }
            SetElementAttribute::Data(DataAttribute::Verdict(parts)) => action = Some(verdict(parts)),
            SetElementAttribute::Data(_)
            | SetElementAttribute::UserData(_)
            | SetElementAttribute::Timeout(_)
            | SetElementAttribute::Expiration(_) => {}
            SetElementAttribute::Flags(flags) if flags.bits() == INTERVAL_END => is_end = true,
            SetElementAttribute::Flags(flags) if flags.bits() == 0 => {}
            SetElementAttribute::Expression(ExpressionAttribute::Name(name)) if name == COUNTER => {}
            SetElementAttribute::ListExpressions(several) if several.iter().all(is_counter) => {}
            // A limit, for example, of which the state is not known.
            _ => return None,
        }
    }
    Some(Element { key: key?, last, is_end, action })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Field, Way};

    fn element(key: &[u8], is_end: bool) -> Element {
        Element { key: key.to_vec(), last: None, is_end, action: None }
    }

    fn set(elements: Vec<Element>) -> Set {
        Set { elements, incomplete: false }
    }

    fn name(text: &str) -> Vec<u8> {
        let mut key = text.as_bytes().to_vec();
        key.resize(16, 0);
        key
    }

    #[test]
    fn an_interval_ends_before_the_next_mark_or_never() {
        let source = [Loaded::number(Field::Source)];
        let ranges = |elements| match set(elements).condition(&source, 0) {
            Condition::Within { ranges, .. } => ranges,
            other => panic!("{other:?}"),
        };
        let of = |number: u32| number.to_be_bytes();
        let marks =
            vec![element(&of(0), true), element(&of(0x100), false), element(&of(0x200), true), element(&of(u32::MAX), false)];
        assert_eq!(ranges(marks), [0x100..=0x1ff, u64::from(u32::MAX)..=u64::from(u32::MAX)]);
        assert_eq!(ranges(vec![element(&of(7), false), element(&of(9), false)]), [7..=7, 9..=9]);
        assert_eq!(ranges(vec![]), []);
    }

    #[test]
    fn names_are_whole_or_have_a_common_beginning() {
        let entering = [Loaded::Name(Way::In)];
        let marks = vec![element(&name("eth"), false), element(&name("eti"), true), element(&name("lo"), false)];
        let mut last = name("lo");
        last[15] = 1;
        let marks = [marks, vec![element(&last, true)]].concat();
        let names = vec![NamePattern::Prefix("eth".to_owned()), NamePattern::Exact("lo".to_owned())];
        assert_eq!(set(marks).condition(&entering, 0), Condition::Interface { way: Way::In, names, polarity: Polarity::Is });
        let between = vec![element(&name("eth0"), false), element(&name("eth3"), true)];
        assert_eq!(set(between).condition(&entering, 0), Condition::Uncertain);
    }

    #[test]
    fn a_concatenated_key_has_a_condition_for_each_field() {
        let fields = [Loaded::number(Field::Source), Loaded::number(Field::DestinationPort)];
        let within = |field, value| Condition::Within { field, ranges: vec![value..=value], polarity: Polarity::Is };
        let cases = vec![vec![within(Field::Source, 7), within(Field::DestinationPort, 80)]];
        let whole = set(vec![element(&[0, 0, 0, 7, 0, 80, 0, 0], false)]);
        assert_eq!(whole.condition(&fields, INVERTED), Condition::Any { cases, polarity: Polarity::IsNot });
        assert_eq!(whole.key_size(), 8);
        let unknown = whole.condition(&[fields[0].clone(), Loaded::Unknown], 0);
        let cases = vec![vec![within(Field::Source, 7), Condition::Uncertain]];
        assert_eq!(unknown, Condition::Any { cases, polarity: Polarity::Is });
    }
}
