//! The translations that this node already has in force. A forward in force stays in force: a refusal that concerns only
//! new forwards removes nothing that is in force, so every such check asks here first.
//!
//! The comparison uses listen address, protocol, ports and client, never the whole translation: a changed upstream, target
//! port, external address or interface is not a new claim, and neither is another client of a port that is in force.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use super::index::FlowIndex;
use super::owners;
use super::{Former, Verdicts};
use crate::forward::{Forward, ForwardKey, PortEntry, Rewrite};
use crate::model::{FlowMatch, InterfaceName, PortRange, Protocol, Translation};

/// The translations that this node has in force, and the forward of each, if it is known.
#[derive(Clone, Debug, Default)]
pub struct InForce {
    /// What each forward has in force.
    owned: BTreeMap<ForwardKey, Owned>,
    /// All translations, by flow.
    flows: FlowIndex<Owner>,
    /// Where there are translations whose forward is not known.
    unknown: BTreeSet<(Protocol, IpAddr)>,
}

/// What one forward has in force.
#[derive(Clone, Debug, Default)]
struct Owned {
    /// In order, each once.
    ports: Vec<(Protocol, IpAddr, PortRange)>,
    /// The sources: its clients, and the upstream of `reverse`. In order, each once.
    sources: Vec<IpNet>,
    /// The number of its translations.
    count: usize,
}

/// The forward of a translation, if it is known. Translations may differ by the interface only.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Owner {
    forward: Option<ForwardKey>,
    interface: Option<InterfaceName>,
}

impl InForce {
    /// The planned translations, after they were applied.
    #[must_use]
    pub fn of(verdicts: &Verdicts) -> Self {
        let mut in_force = Self::default();
        in_force.extend(verdicts);
        in_force
    }

    /// The content of a record: the translations that were in force, and the objects that they were made from.
    #[must_use]
    pub fn recorded(translations: &[Translation], forwards: &[Forward]) -> Self {
        let owners = owners::of(translations, forwards);
        let mut in_force = Self::default();
        for (Translation { flows, .. }, owners) in translations.iter().zip(owners) {
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
    pub fn extend(&mut self, verdicts: &Verdicts) {
        for (key, verdict) in verdicts {
            for translation in verdict.translations.iter().chain(&verdict.suspended) {
                self.insert(&translation.flows, Some(key.clone()));
            }
        }
    }

    /// Takes over changed verdicts. Before, this was what the `former` verdicts and all others of `verdicts` planned.
    pub fn amend(&mut self, former: &Former, verdicts: &Verdicts) {
        for (key, before) in former {
            self.owned.remove(key);
            for translation in before.iter().flat_map(|verdict| verdict.translations.iter().chain(&verdict.suspended)) {
                let flows = &translation.flows;
                let is_own = |owner: &Owner| owner.forward.as_ref() == Some(key) && owner.interface == flows.interface;
                self.flows.remove(flows, is_own);
            }
        }
        for key in former.keys() {
            let now = verdicts.get(key).into_iter();
            for translation in now.flat_map(|verdict| verdict.translations.iter().chain(&verdict.suspended)) {
                self.insert(&translation.flows, Some(key.clone()));
            }
        }
    }

    /// Adds the translations that were found in the kernel, of any forward.
    pub fn find(&mut self, translations: &[Translation]) {
        for Translation { flows, .. } in translations {
            if !self.flows.at(flows).any(|owner| owner.forward.is_some()) {
                self.insert(flows, None);
            }
        }
    }

    fn insert(&mut self, flows: &FlowMatch, forward: Option<ForwardKey>) {
        let owner = Owner { forward: forward.clone(), interface: flows.interface };
        if !self.flows.insert_new(flows, owner) {
            return;
        }
        if let Some(forward) = forward {
            let held = self.owned.entry(forward).or_default();
            put(&mut held.ports, (flows.protocol, flows.destination, flows.ports));
            put(&mut held.sources, flows.source);
            held.count += 1;
        } else {
            self.unknown.insert((flows.protocol, flows.destination));
        }
    }

    /// Which of `ports` are in force at `address`: for this forward, or for one of `clients` of any forward.
    pub(super) fn ports(&self, key: &ForwardKey, listen: &Listen<'_>) -> Vec<PortRange> {
        let Listen { protocol, address, ports, clients } = *listen;
        let owned = self.owned.get(key).into_iter().flat_map(|owned| &owned.ports);
        let owned = owned.filter(|(other, at, _)| (*other, *at) == (protocol, address)).map(|(_, _, range)| *range);
        let flows = |client: &IpNet| FlowMatch { protocol, destination: address, ports, source: *client, interface: None };
        let clients: Vec<FlowMatch> = clients.iter().map(flows).collect();
        let served = clients.iter().flat_map(|flows| self.flows.overlapping(flows)).map(|(range, _)| range);
        let found: BTreeSet<PortRange> = owned.chain(served).filter_map(|range| range.intersection(ports)).collect();
        // Ports that are covered twice are listed once.
        let rest = ports.minus(&found.into_iter().collect::<Vec<_>>());
        ports.minus(&rest)
    }

    /// The number of translations of this forward that are in force; 0 if none of its ports is. The number may be larger than
    /// what the object asks for now.
    pub(super) fn count(&self, forward: &Forward) -> usize {
        let Some(owned) = self.owned.get(&forward.key) else { return 0 };
        let served = forward.rewrites().any(|rewrite| {
            owned.ports.iter().any(|(protocol, address, ports)| {
                (*protocol, *address) == (rewrite.protocol, rewrite.address) && ports.overlaps(rewrite.ports)
            })
        });
        if served { owned.count } else { 0 }
    }

    /// The part of `forward` that is in force: its ports in force, for its clients in force or, if it has none of these any
    /// more, for its new ones. The part has no more translations than the forward has in force.
    pub(super) fn part(&self, forward: &Forward) -> Option<Forward> {
        let owned = self.owned.get(&forward.key)?;
        let entries = |list: &[PortEntry], address: IpAddr| -> Vec<PortEntry> {
            let part = |entry: &PortEntry| {
                let ranges = owned.ports.iter().filter(|(protocol, at, _)| (*protocol, *at) == (entry.protocol, address));
                let ranges: BTreeSet<PortRange> = ranges.filter_map(|(_, _, range)| range.intersection(entry.ports)).collect();
                // Ports that are covered twice are listed once.
                let rest = entry.ports.minus(&ranges.into_iter().collect::<Vec<_>>());
                entry.ports.minus(&rest).into_iter().map(|ports| entry.part(ports)).collect::<Vec<_>>()
            };
            list.iter().flat_map(part).collect()
        };
        let mut reverse = forward.external.map_or_else(Vec::new, |external| entries(&forward.reverse, external));
        reverse.truncate(owned.count);
        let mut ports = entries(&forward.ports, forward.internal.address);
        ports.truncate(owned.count - reverse.len());
        let mut clients = common(&forward.clients, &owned.sources);
        if clients.is_empty() {
            clients.clone_from(&forward.clients);
        }
        clients.truncate((owned.count - reverse.len()).checked_div(ports.len()).unwrap_or(1));
        let part = Forward { clients, ports, reverse, ..forward.clone() };
        (!part.ports.is_empty() || !part.reverse.is_empty()).then_some(part)
    }

    /// The translations of `forward` that are in force, limited to the ports in force. Flows of other forwards do not count.
    pub(super) fn of_forward(&self, forward: &Forward) -> Vec<Translation> {
        if self.owned.contains_key(&forward.key) {
            return self.part(forward).map_or_else(Vec::new, |part| part.translations());
        }
        if !self.may_serve(forward) {
            return Vec::new();
        }
        let part = |translation: Translation| {
            let ports = translation.flows.ports;
            let served = self.flows.overlapping(&translation.flows);
            let known = served.iter().any(|(_, owner)| owner.forward.is_some());
            let unknown = served.into_iter().filter(|_| !known);
            let found: BTreeSet<PortRange> = unknown.filter_map(|(range, _)| range.intersection(ports)).collect();
            let rest = ports.minus(&found.into_iter().collect::<Vec<_>>());
            ports.minus(&rest).into_iter().map(|ports| translation.part(ports)).collect::<Vec<_>>()
        };
        forward.translations().into_iter().flat_map(part).collect()
    }

    /// Whether anything of the forward with this name is in force.
    #[must_use]
    pub fn has(&self, key: &ForwardKey) -> bool {
        self.owned.contains_key(key)
    }

    /// Whether this forward has anything in force.
    pub(super) fn owns(&self, forward: &Forward) -> bool {
        self.owned.contains_key(&forward.key)
    }

    /// Whether something may be in force that `forward` asks for and whose forward is not known.
    pub(super) fn may_serve(&self, forward: &Forward) -> bool {
        let unknown = |rewrite: Rewrite<'_>| self.unknown.contains(&(rewrite.protocol, rewrite.address));
        !self.unknown.is_empty() && forward.rewrites().any(unknown)
    }

    /// Whether something is in force that `forward` asks for and whose forward is not known. Looks at each of its translations.
    pub(super) fn serves(&self, forward: &Forward) -> bool {
        let unknown = |flows: &FlowMatch| self.flows.find(flows, |owner| owner.forward.is_none()).is_some();
        self.may_serve(forward) && forward.translations().iter().any(|translation| unknown(&translation.flows))
    }
}

/// Adds a value to a list in order, unless it is there.
fn put<T: Ord>(list: &mut Vec<T>, value: T) {
    if let Err(place) = list.binary_search(&value) {
        list.insert(place, value);
    }
}

/// The networks that are in both lists.
fn common(clients: &[IpNet], sources: &[IpNet]) -> Vec<IpNet> {
    let both = |client: &IpNet, source: &IpNet| {
        if source.contains(client) { Some(*client) } else { client.contains(source).then_some(*source) }
    };
    let found = clients.iter().flat_map(|client| sources.iter().filter_map(move |source| both(client, source)));
    let mut merged = IpNet::aggregate(&found.collect());
    merged.sort();
    merged
}

/// A listen address and protocol, and the clients.
#[derive(Clone, Copy, Debug)]
pub(super) struct Listen<'a> {
    pub(super) protocol: Protocol,
    pub(super) address: IpAddr,
    pub(super) ports: PortRange,
    pub(super) clients: &'a [IpNet],
}
