//! Attributes flows to forwards: maps each translation in force to the forward that asked for it.

use std::collections::BTreeMap;
use std::sync::Arc;

use imbl::OrdMap;

use crate::dataplane::conntrack::table::Entry;
use crate::dataplane::conntrack::verdict::{Index, translation_of};
use crate::forward::{Direction, ForwardKey};
use crate::model::{FlowMatch, Protocol, Translation};
use crate::plan::Verdict;

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

/// The translations in force, each with its owner. Sorted; no two have the same flows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Owners(OrdMap<Translation, Arc<Lane>>);

impl Owners {
    /// The owners of the planned translations.
    #[must_use]
    pub fn of(verdicts: &BTreeMap<ForwardKey, Verdict>) -> Self {
        Self(verdicts.iter().flat_map(|(forward, verdict)| owned(forward, verdict)).collect())
    }

    /// Takes over changed verdicts. Before, these were the owners for the `former` verdicts and all others of `verdicts`.
    pub fn amend(&mut self, former: &BTreeMap<ForwardKey, Option<Verdict>>, verdicts: &BTreeMap<ForwardKey, Verdict>) {
        for gone in former.values().flatten().flat_map(|verdict| &verdict.translations) {
            self.0.remove(gone);
        }
        for (forward, verdict) in former.keys().filter_map(|forward| verdicts.get_key_value(forward)) {
            self.0.extend(owned(forward, verdict));
        }
    }

    /// The owner of these flows.
    #[must_use]
    pub fn lane(&self, flows: &FlowMatch) -> Option<&Arc<Lane>> {
        self.0.get(flows)
    }

    /// Whether there is no translation in force.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All lanes; some appear several times.
    pub fn lanes(&self) -> impl Iterator<Item = &Lane> {
        self.0.values().map(AsRef::as_ref)
    }
}

/// The translations of one forward.
fn owned(forward: &ForwardKey, verdict: &Verdict) -> impl Iterator<Item = (Translation, Arc<Lane>)> {
    verdict.directed().map(|(direction, translation)| {
        let lane = Lane { forward: forward.clone(), protocol: translation.flows.protocol, direction };
        (translation.clone(), Arc::new(lane))
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
        Self { owners, index: Index::new(owners.0.keys()) }
    }

    /// The owner of `entry`, and the flow match of its translation.
    #[must_use]
    pub fn lane(&self, entry: &Entry) -> Option<(&'a FlowMatch, &'a Arc<Lane>)> {
        let flows = &translation_of(entry, &self.index)?.flows;
        Some((flows, self.owners.lane(flows)?))
    }
}
