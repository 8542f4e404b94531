//! The anonymous sets and maps of rules, for example `{ 80, 443 }`. They never change after they were created.
//!
//! Named sets are not read: they may be large, and elements that packets add do not change the generation.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use netlink_packet_netfilter::nftables::{DataAttribute, ListAttribute, SetElementAttribute, SetElementList};

use super::expression::verdict;
use super::field::{Loaded, pattern};
use crate::model::{Action, Condition, Polarity};

/// The flag for the end of an interval, and the catch-all element of a map (`NFT_SET_ELEM_*`).
const INTERVAL_END: u32 = 1;
/// The flag for an inverted look-up (`NFT_LOOKUP_F_INV`).
const INVERTED: u32 = 1;

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
    is_end: bool,
    action: Option<Action>,
}

impl Set {
    /// Adds the elements of one message.
    pub(super) fn extend(&mut self, attributes: &[SetElementList]) {
        for attribute in attributes {
            let SetElementList::Elements(elements) = attribute else { continue };
            for element in elements {
                match element {
                    ListAttribute::Element(parts) => match read(parts) {
                        Some(element) => self.elements.push(element),
                        None => self.incomplete = true,
                    },
                    _ => self.incomplete = true,
                }
            }
        }
    }

    /// The condition for a look-up of `loaded`.
    pub(super) fn condition(&self, loaded: &Loaded, flags: u32) -> Condition {
        let polarity = if flags & INVERTED == 0 { Polarity::Is } else { Polarity::IsNot };
        if self.incomplete || flags & !INVERTED != 0 {
            return Condition::Uncertain;
        }
        match loaded {
            Loaded::Name(way) if self.elements.iter().all(|element| !element.is_end) => {
                let names = self.elements.iter().map(|element| pattern(&element.key)).collect();
                Condition::Interface { way: *way, names, polarity }
            }
            Loaded::Number { field, .. } => match self.ranges(loaded) {
                Some(ranges) => {
                    let ranges = ranges.into_iter().map(|(range, _)| range).collect();
                    Condition::Within { field: *field, ranges, polarity }
                }
                None => Condition::Uncertain,
            },
            Loaded::Name(_) | Loaded::Unknown => Condition::Uncertain,
        }
    }

    /// The actions for a look-up of `loaded` in the map, each with its condition.
    pub(super) fn verdicts(&self, loaded: &Loaded) -> Vec<(Condition, Action)> {
        let unsure = |action| (Condition::Uncertain, action);
        let actions = || self.elements.iter().filter_map(|element| element.action.clone());
        let (Loaded::Number { field, .. }, false, Some(ranges)) = (loaded, self.incomplete, self.ranges(loaded)) else {
            let uncertain = self.incomplete.then(|| unsure(Action::Uncertain));
            return actions().map(unsure).chain(uncertain).collect();
        };
        let asks = |range| Condition::Within { field: *field, ranges: vec![range], polarity: Polarity::Is };
        ranges.into_iter().filter_map(|(range, action)| Some((asks(range), action?))).collect()
    }

    /// The ranges in the set, each with its value in the map.
    fn ranges(&self, loaded: &Loaded) -> Option<Vec<(RangeInclusive<u64>, Option<Action>)>> {
        let mut marks = Vec::new();
        for element in &self.elements {
            marks.push((loaded.range(&element.key)?, element));
        }
        if self.elements.iter().all(|element| !element.is_end) {
            return Some(marks.into_iter().map(|(range, element)| (range, element.action.clone())).collect());
        }
        // An interval is given by its first value and by the first value after it.
        marks.sort_by_key(|(range, element)| (*range.start(), !element.is_end));
        let mut found = Vec::new();
        for (place, (range, element)) in marks.iter().enumerate().filter(|(_, (_, element))| !element.is_end) {
            let end = marks.get(place + 1).map_or(u64::from(u32::MAX), |(next, _)| next.start().saturating_sub(1));
            found.push((*range.start()..=end, element.action.clone()));
        }
        Some(found)
    }
}

fn read(parts: &[SetElementAttribute]) -> Option<Element> {
    let (mut key, mut is_end, mut action) = (None, false, None);
    for part in parts {
        match part {
            SetElementAttribute::Key(DataAttribute::Value(value)) => key = Some(value.clone()),
            SetElementAttribute::Data(DataAttribute::Verdict(parts)) => action = Some(verdict(parts)),
            SetElementAttribute::Data(_) | SetElementAttribute::UserData(_) => {}
            SetElementAttribute::Flags(flags) if flags.bits() == INTERVAL_END => is_end = true,
            SetElementAttribute::Flags(flags) if flags.bits() == 0 => {}
            _ => return None,
        }
    }
    Some(Element { key: key?, is_end, action })
}
