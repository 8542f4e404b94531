//! Attributes flows to forwards: maps each translation in force to the forward that asked for it.

use std::sync::Arc;

use imbl::OrdMap;

use crate::dataplane::conntrack::table::Entry;
use crate::dataplane::conntrack::verdict::{Index, translation_of};
use crate::forward::{Direction, ForwardKey};
use crate::model::{FlowMatch, Protocol, Translation};
use crate::plan::{Former, Verdict, Verdicts};

/// The unit for which traffic is counted: a forward, a protocol and a direction.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lane {
    /// The forward.
    pub forward: ForwardKey,
    /// The transport protocol.
    pub protocol: Protocol,
    /// The direction in which the connection was opened.
    pub direction: Direction,
}

/// The translations in force, each with its owner, by their flows: no two have the same.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Owners(OrdMap<FlowMatch, Owned>);

/// A translation and its owner.
type Owned = (Translation, Arc<Lane>);

impl Owners {
    /// The owners of the planned translations.
    #[must_use]
    pub fn of(verdicts: &Verdicts) -> Self {
        Self(verdicts.iter().flat_map(|(forward, verdict)| owned(forward, verdict)).collect())
    }

    /// Takes over changed verdicts. Before, these were the owners for the `former` verdicts and all others of `verdicts`.
    pub fn amend(&mut self, former: &Former, verdicts: &Verdicts) {
        for gone in former.values().flatten().flat_map(|verdict| &verdict.translations) {
            self.0.remove(&gone.flows);
        }
        for (forward, verdict) in former.keys().filter_map(|forward| verdicts.get_key_value(forward)) {
            self.0.extend(owned(forward, verdict));
        }
    }

    /// The owner of these flows.
    #[must_use]
    pub fn lane(&self, flows: &FlowMatch) -> Option<&Arc<Lane>> {
        self.0.get(flows).map(|(_, lane)| lane)
    }

    /// Whether there is no translation in force.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All lanes; some appear several times.
    pub fn lanes(&self) -> impl Iterator<Item = &Lane> {
        self.0.values().map(|(_, lane)| lane.as_ref())
    }
}

/// The translations of one forward.
fn owned(forward: &ForwardKey, verdict: &Verdict) -> impl Iterator<Item = (FlowMatch, Owned)> {
    verdict.directed().map(|(direction, translation)| {
        let lane = Lane { forward: forward.clone(), protocol: translation.flows.protocol, direction };
        (translation.flows.clone(), (translation.clone(), Arc::new(lane)))
    })
}

/// The owners, indexed to find the owner of a tracked flow.
#[derive(Debug)]
pub struct Finder<'a> {
    owners: &'a Owners,
    index: Index<'a>,
}

impl<'a> Finder<'a> {
    /// Indexes `owners`.
    #[must_use]
    pub fn new(owners: &'a Owners) -> Self {
        Self { owners, index: Index::new(owners.0.values().map(|(translation, _)| translation)) }
    }

    /// The owner of `entry`, and the flow match of its translation.
    #[must_use]
    pub fn lane(&self, entry: &Entry) -> Option<(&'a FlowMatch, &'a Arc<Lane>)> {
        let flows = &translation_of(entry, &self.index)?.flows;
        Some((flows, self.owners.lane(flows)?))
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::model::{Destination, SourceNat, TargetPorts};
    use crate::plan::Acceptance;

    #[test]
    fn each_of_many_owners_is_found_after_its_upstream_changed() {
        let key = |number: u16| ForwardKey::new("a", format!("{number:03}"));
        let verdict = |number: u16, upstream: u8| {
            let flows = FlowMatch {
                protocol: Protocol::Tcp,
                destination: "192.168.0.2".parse().unwrap(),
                ports: (1000 + number).to_string().parse().unwrap(),
                source: "1.1.1.1/32".parse().unwrap(),
                interface: None,
            };
            let destination = Destination { address: IpAddr::from([3, 3, 3, upstream]), ports: TargetPorts::Same };
            let translations = vec![Translation { flows, destination, source: SourceNat::Masquerade }];
            Box::new(Verdict { translations, ..Verdict::new(None, 1, Acceptance::Accepted, None) })
        };
        let mut verdicts: Verdicts = (0..300).map(|number| (key(number), verdict(number, 9))).collect();
        let mut owners = Owners::of(&verdicts);
        for (number, upstream) in (0..300).map(|number| (number, 3)).chain((0..300).rev().map(|number| (number, 12))) {
            let former = verdicts.insert(key(number), verdict(number, upstream));
            owners.amend(&Former::from([(key(number), former)]), &verdicts);
            let lost: Vec<_> =
                verdicts.values().flat_map(|it| &it.translations).filter(|it| owners.lane(&it.flows).is_none()).collect();
            assert!(lost.is_empty(), "{number} {upstream}: {lost:?}");
        }
        assert_eq!(owners, Owners::of(&verdicts));
    }
}
