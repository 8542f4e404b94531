//! The claims of the forwards accepted so far on this node, and the conflicts of later ones.
//!
//! Two forwards conflict if some packet matches both, if POSTROUTING could not distinguish their flows, or if they ask for
//! different gateways for the same client entry. If one client network contains the other, there is no conflict: the
//! longest prefix wins.

use std::net::IpAddr;

use ipnet::IpNet;

use super::index::{FlowIndex, NetworkMap};
use super::notes::MOST;
use crate::forward::{Forward, ForwardKey};
use crate::model::Translation;

/// The forward that claims the same and comes first, and the claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// The forward that comes first.
    pub winner: ForwardKey,
    /// The claim of both, why the winner comes first, and what to do. Of a winner in another namespace it tells only the name,
    /// and whether its grant has a higher priority.
    pub message: String,
}

/// The claims of the forwards accepted so far.
#[derive(Debug, Default)]
pub(super) struct Claims {
    flows: FlowIndex<(Claimant, Translation)>,
    gateways: NetworkMap<(Claimant, IpAddr)>,
    nested: Vec<Nested>,
}

/// A forward, and the priority of its grant in conflicts.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Claimant {
    key: ForwardKey,
    priority: i32,
}

impl Claimant {
    /// This forward, and why it comes before `loser`.
    fn before(&self, loser: &Self) -> String {
        let why = if self.priority > loser.priority {
            "whose grant has a higher priority"
        } else {
            "which is older or comes first by namespace and name"
        };
        format!("{}, {why},", self.key)
    }

    fn shares_namespace(&self, other: &Self) -> bool {
        self.key.namespace == other.key.namespace
    }
}

/// Two forwards with different gateways, of which one client network contains the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Nested {
    /// The one with the larger network.
    pub(super) outer: Way,
    /// The one with the smaller network. Its longer prefix wins there.
    pub(super) inner: Way,
}

/// The gateway that one forward asks for, for a client entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Way {
    pub(super) forward: ForwardKey,
    pub(super) network: IpNet,
    pub(super) gateway: IpAddr,
}

impl Nested {
    /// Both, the one with the larger network first.
    pub(super) fn sides(&self) -> [&Way; 2] {
        [&self.outer, &self.inner]
    }
}

impl Claims {
    /// Claims everything that `forward` asks for (these `translations` on this node), or claims nothing and returns the
    /// conflict. `priority` is that of its grant.
    pub(super) fn claim(&mut self, forward: &Forward, priority: i32, translations: Vec<Translation>) -> Result<(), Conflict> {
        let claimant = Claimant { key: forward.key.clone(), priority };
        for translation in &translations {
            self.refuse_flow(&claimant, translation)?;
        }
        if let Some(gateway) = forward.gateway {
            for client in &forward.clients {
                self.refuse_gateway(&claimant, *client, gateway)?;
            }
            for client in &forward.clients {
                // All forwards name the same gateway for one entry, so the first one stands for all. Their number then does
                // not matter for the pairs of nested networks.
                if self.gateways.at(*client).next().is_none() {
                    let nested = self.nested_with(&Way { forward: forward.key.clone(), network: *client, gateway });
                    self.nested.extend(nested);
                    self.gateways.insert(*client, (claimant.clone(), gateway));
                }
            }
        }
        for translation in translations {
            self.flows.insert(&translation.flows, (claimant.clone(), translation.clone()));
        }
        Ok(())
    }

    fn refuse_flow(&self, loser: &Claimant, translation: &Translation) -> Result<(), Conflict> {
        let clash = self.flows.find(&translation.flows, |(_, other)| clash(translation, other));
        let Some((winner, other)) = clash else { return Ok(()) };
        let first = winner.before(loser);
        let message = if winner.shares_namespace(loser) {
            format!(
                "{first} forwards {} already; change the address, the ports or the client of one of the two, or delete one",
                flows(other)
            )
        } else {
            format!(
                "{first} forwards a part of {} already; \
                 change the address, the ports or the client, or ask the owner of the other forward",
                flows(translation)
            )
        };
        Err(Conflict { winner: winner.key.clone(), message })
    }

    /// The pairs of forwards with different gateways and overlapping client networks, for notes: not all of them if there are
    /// many.
    pub(super) fn nested(&self) -> &[Nested] {
        &self.nested
    }

    fn nested_with(&self, way: &Way) -> Vec<Nested> {
        let others = self.gateways.overlapping(way.network).filter(|(_, (_, gateway))| *gateway != way.gateway);
        let others = others.filter(|(network, _)| *network != way.network);
        others
            .take(MOST)
            .map(|(network, (owner, gateway))| {
                let other = Way { forward: owner.key.clone(), network, gateway: *gateway };
                let contains = network.contains(&way.network);
                let (outer, inner) = if contains { (other, way.clone()) } else { (way.clone(), other) };
                Nested { outer, inner }
            })
            .collect()
    }

    fn refuse_gateway(&self, loser: &Claimant, client: IpNet, gateway: IpAddr) -> Result<(), Conflict> {
        let clash = self.gateways.at(client).find(|(_, other)| *other != gateway);
        let Some((winner, other)) = clash else { return Ok(()) };
        let other = if winner.shares_namespace(loser) { other.to_string() } else { "another gateway".to_owned() };
        let message = format!(
            "{} routes {client} through {other} already, and this forward asks for {gateway}; one client has one gateway",
            winner.before(loser)
        );
        Err(Conflict { winner: winner.key.clone(), message })
    }
}

/// The flows of a translation, for messages.
fn flows(Translation { flows, .. }: &Translation) -> String {
    format!("{} {} from {} on {}", flows.protocol, flows.ports, flows.source, flows.destination)
}

/// Whether two translations of overlapping flows conflict.
fn clash(a: &Translation, b: &Translation) -> bool {
    let some_packet_matches_both = match (&a.flows.interface, &b.flows.interface) {
        (Some(a), Some(b)) => a == b,
        (None, _) | (_, None) => true,
    };
    // They differ by interface only, and the interface is not known any more where the source is translated.
    let same_afterwards = a.destination.address == b.destination.address && a.source != b.source;
    some_packet_matches_both || same_afterwards
}
