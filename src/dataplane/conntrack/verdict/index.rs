//! Finds the translations that match an entry without a scan of all of them: by listen address and client network, then by
//! port. Interfaces are ignored, because an entry does not contain its incoming interface.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;

use ipnet::IpNet;

use super::super::table::Entry;
use crate::model::{Protocol, Translation};

/// Translations, ordered for lookup.
#[derive(Debug, Default)]
pub struct Index<'a> {
    /// The prefix lengths of the client networks; a lookup tries each of them.
    prefix_lens: BTreeSet<u8>,
    groups: HashMap<(Protocol, IpAddr, IpNet), Vec<Slot<'a>>>,
}

/// A translation in its group. The group is sorted by first port.
#[derive(Clone, Copy, Debug)]
struct Slot<'a> {
    translation: &'a Translation,
    /// The highest port of this slot and all slots before it; the search stops there.
    reach: u16,
}

impl<'a> Index<'a> {
    /// Indexes `translations`.
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

    /// Whether `entry` is a flow of one of the translations.
    pub(in crate::dataplane::conntrack) fn matches(&self, entry: &Entry) -> bool {
        self.matching(entry).next().is_some()
    }

    /// The translations that `entry` is a flow of, for any interface.
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
