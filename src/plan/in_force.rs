//! The translations that this node already has in force. A forward in force stays in force: a refusal that concerns only
//! new forwards removes nothing that is in force, so every such check asks here first.
//!
//! The comparison uses listen address, protocol, ports and client, never the whole translation: a changed upstream, target
//! port, external address or interface is not a new claim, and neither is another client of a port that is in force.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use super::Verdict;
use super::index::FlowIndex;
use crate::forward::{Forward, ForwardKey};
use crate::model::{FlowMatch, PortRange, Protocol, Translation};

/// The translations that this node has in force, and the forward of each, if it is known.
#[derive(Clone, Debug, Default)]
pub struct InForce {
    /// By forward: its ports.
    owned: BTreeMap<ForwardKey, BTreeSet<(Protocol, IpAddr, PortRange)>>,
    /// All translations, by flow; `None` if the forward is not known.
    flows: FlowIndex<Option<ForwardKey>>,
}

impl InForce {
    /// The planned translations, after they were applied.
    #[must_use]
    pub fn of(verdicts: &BTreeMap<ForwardKey, Verdict>) -> Self {
        let mut in_force = Self::default();
        in_force.extend(verdicts);
        in_force
    }

    /// The content of a record: the translations that were in force, and the objects that they were made from.
    #[must_use]
    pub fn recorded(translations: &[Translation], forwards: &[Forward]) -> Self {
        let mut owners = FlowIndex::default();
        for forward in forwards {
            for translation in forward.translations() {
                owners.insert(&translation.flows, &forward.key);
            }
        }
        let mut in_force = Self::default();
        for Translation { flows, .. } in translations {
            let owners: BTreeSet<&ForwardKey> = owners.overlapping(flows).map(|(_, owner)| *owner).collect();
            for owner in &owners {
                in_force.insert(flows, Some((*owner).clone()));
            }
            if owners.is_empty() {
                in_force.insert(flows, None);
            }
        }
        in_force
    }

    /// Adds planned translations that may be in the kernel.
    pub fn extend(&mut self, verdicts: &BTreeMap<ForwardKey, Verdict>) {
        for (key, verdict) in verdicts {
            for translation in verdict.translations.iter().chain(&verdict.suspended) {
                self.insert(&translation.flows, Some(key.clone()));
            }
        }
    }

    /// Adds the translations that were found in the kernel, of any forward.
    pub fn find(&mut self, translations: &[Translation]) {
        for translation in translations {
            self.insert(&translation.flows, None);
        }
    }

    fn insert(&mut self, flows: &FlowMatch, owner: Option<ForwardKey>) {
        if let Some(owner) = &owner {
            let ports = self.owned.entry(owner.clone()).or_default();
            ports.insert((flows.protocol, flows.destination, flows.ports));
        }
        self.flows.insert(flows, owner);
    }

    /// Which of `ports` are in force at `address`: for this forward, or for one of `clients` of any forward.
    pub(super) fn ports(&self, key: &ForwardKey, listen: &Listen<'_>) -> Vec<PortRange> {
        let Listen { protocol, address, ports, clients } = *listen;
        let owned = self.owned.get(key).into_iter().flatten();
        let owned = owned.filter(|(other, at, _)| (*other, *at) == (protocol, address)).map(|(_, _, range)| *range);
        let flows = |client: &IpNet| FlowMatch { protocol, destination: address, ports, source: *client, interface: None };
        let clients: Vec<FlowMatch> = clients.iter().map(flows).collect();
        let served = clients.iter().flat_map(|flows| self.flows.overlapping(flows)).map(|(range, _)| range);
        let found: BTreeSet<PortRange> = owned.chain(served).filter_map(|range| range.intersection(ports)).collect();
        // Ports that are covered twice are listed once.
        let rest = ports.minus(&found.into_iter().collect::<Vec<_>>());
        ports.minus(&rest)
    }

    /// The translations of `forward` that are in force, limited to the ports in force. Flows of other forwards do not count.
    pub(super) fn of_forward(&self, forward: &Forward) -> Vec<Translation> {
        let owned = self.owned.get(&forward.key);
        let part = |translation: Translation| {
            let FlowMatch { protocol, destination, ports, .. } = translation.flows;
            let owned = owned.into_iter().flatten().filter(|(other, at, _)| (*other, *at) == (protocol, destination));
            // After a restart, flows that are in the record too are also found in the kernel, there without their forward.
            let served: Vec<_> = self.flows.overlapping(&translation.flows).collect();
            let known = served.iter().any(|(_, owner)| owner.is_some());
            let unknown = served.into_iter().filter(|_| !known);
            let found = owned.map(|(_, _, range)| *range).chain(unknown.map(|(range, _)| range));
            let found: BTreeSet<PortRange> = found.filter_map(|range| range.intersection(ports)).collect();
            let rest = ports.minus(&found.into_iter().collect::<Vec<_>>());
            ports.minus(&rest).into_iter().map(|ports| translation.part(ports)).collect::<Vec<_>>()
        };
        forward.translations().into_iter().flat_map(part).collect()
    }

    /// Whether anything that `forward` asks for is in force.
    pub(super) fn serves(&self, forward: &Forward) -> bool {
        let mine = |owner: &Option<ForwardKey>| owner.as_ref().is_none_or(|owner| *owner == forward.key);
        self.owned.contains_key(&forward.key)
            || forward.translations().iter().any(|it| self.flows.overlapping(&it.flows).any(|(_, owner)| mine(owner)))
    }
}

/// A listen address and protocol, and the clients.
#[derive(Clone, Copy, Debug)]
pub(super) struct Listen<'a> {
    pub(super) protocol: Protocol,
    pub(super) address: IpAddr,
    pub(super) ports: PortRange,
    pub(super) clients: &'a [IpNet],
}
