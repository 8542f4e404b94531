//! Finds the translations that match an entry without looking at all of them: by listen address and client network, then
//! by port. Interfaces do not count, an entry does not know by which it came in.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;

use ipnet::IpNet;

use super::super::table::Entry;
use crate::model::{Protocol, Translation};

/// Translations, ordered for lookup.
#[derive(Debug, Default)]
pub struct Index<'a> {
    /// The lengths that client networks have; a lookup tries each.
    prefix_lens: BTreeSet<u8>,
    groups: HashMap<(Protocol, IpAddr, IpNet), Vec<Slot<'a>>>,
}

/// A translation in its group, which is sorted by first port.
#[derive(Clone, Copy, Debug)]
struct Slot<'a> {
    translation: &'a Translation,
    /// The highest port of this and of all slots before it: where to stop looking.
    reach: u16,
}

impl<'a> Index<'a> {
    /// Puts `translations` in order.
    #[must_use]
    pub fn new(translations: impl IntoIterator<Item = &'a Translation>) -> Self {
        let mut index = Self::default();
        for translation in translations {
            let flows = &translation.flows;
            index.prefix_lens.insert(flows.source.prefix_len());
            let key = (flows.protocol, flows.destination, flows.source.trunc());
            index.groups.entry(key).or_default().push(Slot { translation, reach: flows.ports.last() });
        }
        for slots in index.groups.values_mut() {
            slots.sort_by_key(|slot| slot.translation.flows.ports);
            let mut reach = 0;
            for slot in slots {
                reach = reach.max(slot.reach);
                slot.reach = reach;
            }
        }
        index
    }

    /// Whether `entry` is a flow of any.
    pub(in crate::dataplane::conntrack) fn matches(&self, entry: &Entry) -> bool {
        self.matching(entry).next().is_some()
    }

    /// The translations whose flows `entry` is one of, whatever interface they name.
    pub(in crate::dataplane::conntrack) fn matching(&self, entry: &Entry) -> impl Iterator<Item = &'a Translation> {
        let (protocol, tuple) = (entry.protocol, entry.original);
        let port = tuple.destination_port;
        self.prefix_lens
            .iter()
            .filter_map(move |&length| {
                let client = IpNet::new(tuple.source, length).ok()?.trunc();
                self.groups.get(&(protocol, tuple.destination, client))
            })
            .flat_map(move |slots| {
                let begun = slots.partition_point(|slot| slot.translation.flows.ports.first() <= port);
                slots[..begun].iter().rev().take_while(move |slot| slot.reach >= port)
            })
            .map(|slot| slot.translation)
            .filter(move |translation| translation.flows.ports.contains(port))
    }
}
