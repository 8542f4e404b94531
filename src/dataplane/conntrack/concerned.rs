//! The connections that a change of the rules concerns: those to the listen ports of the translations that were added, changed or
//! removed. No other connection can have become wrong by the change.

use std::collections::BTreeMap;
use std::net::IpAddr;

use imbl::ordset::DiffItem;

use super::table::Entry;
use crate::model::{PortRange, Protocol, Translation, Translations};

/// The listen ports that a change is about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Concerned(BTreeMap<(Protocol, IpAddr), Vec<PortRange>>);

impl Concerned {
    /// What differs between two sets of translations.
    pub(super) fn of(before: &Translations, now: &Translations) -> Self {
        let mut ports = BTreeMap::<_, Vec<PortRange>>::new();
        for difference in before.diff(now) {
            let (DiffItem::Add(Translation { flows, .. }) | DiffItem::Remove(Translation { flows, .. })) = difference;
            ports.entry((flows.protocol, flows.destination)).or_default().push(flows.ports);
        }
        Self(ports)
    }

    /// The translations that some concerned connection may match.
    pub(super) fn among<'a>(&self, translations: &'a Translations) -> Vec<&'a Translation> {
        let may_match = |translation: &&Translation| {
            let flows = &translation.flows;
            self.ports(flows.protocol, flows.destination).iter().any(|ports| ports.overlaps(flows.ports))
        };
        translations.iter().filter(may_match).collect()
    }

    /// Whether the change concerns this connection.
    pub(super) fn contains(&self, entry: &Entry) -> bool {
        let Entry { protocol, original, .. } = entry;
        self.ports(*protocol, original.destination).iter().any(|ports| ports.contains(original.destination_port))
    }

    fn ports(&self, protocol: Protocol, address: IpAddr) -> &[PortRange] {
        self.0.get(&(protocol, address)).map_or(&[], Vec::as_slice)
    }
}
