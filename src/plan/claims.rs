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

/// The older forward that claims the same, and the claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// The older forward.
    pub winner: ForwardKey,
    /// The claim of both, and what to do. It tells nothing of a winner in another namespace but its name.
    pub message: String,
}

/// The claims of the forwards accepted so far.
#[derive(Debug, Default)]
pub(super) struct Claims {
    flows: FlowIndex<(ForwardKey, Translation)>,
    gateways: NetworkMap<(ForwardKey, IpAddr)>,
    nested: Vec<Nested>,
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
    /// conflict.
    pub(super) fn claim(&mut self, forward: &Forward, translations: Vec<Translation>) -> Result<(), Conflict> {
        for translation in &translations {
            self.refuse_flow(&forward.key, translation)?;
        }
        if let Some(gateway) = forward.gateway {
            for client in &forward.clients {
                self.refuse_gateway(&forward.key, *client, gateway)?;
            }
            for client in &forward.clients {
                // All forwards name the same gateway for one entry, so the first one stands for all. Their number then does
                // not matter for the pairs of nested networks.
                if self.gateways.at(*client).next().is_none() {
                    let nested = self.nested_with(&Way { forward: forward.key.clone(), network: *client, gateway });
                    self.nested.extend(nested);
                    self.gateways.insert(*client, (forward.key.clone(), gateway));
                }
            }
        }
        for translation in translations {
            self.flows.insert(&translation.flows, (forward.key.clone(), translation.clone()));
        }
        Ok(())
    }

    fn refuse_flow(&self, loser: &ForwardKey, translation: &Translation) -> Result<(), Conflict> {
        let clash = self.flows.find(&translation.flows, |(_, other)| clash(translation, other));
        let Some((winner, other)) = clash else { return Ok(()) };
        let message = if winner.namespace == loser.namespace {
            format!(
                "{winner}, which is older or comes first by namespace and name, forwards {} already; \
                 change the address, the ports or the client of one of the two, or delete one",
                flows(other)
            )
        } else {
            format!(
                "{winner}, which is older or comes first by namespace and name, forwards a part of {} already; \
                 change the address, the ports or the client, or ask the owner of the other forward",
                flows(translation)
            )
        };
        Err(Conflict { winner: winner.clone(), message })
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
            .map(|(network, (forward, gateway))| {
                let other = Way { forward: forward.clone(), network, gateway: *gateway };
                let contains = network.contains(&way.network);
                let (outer, inner) = if contains { (other, way.clone()) } else { (way.clone(), other) };
                Nested { outer, inner }
            })
            .collect()
    }

    fn refuse_gateway(&self, loser: &ForwardKey, client: IpNet, gateway: IpAddr) -> Result<(), Conflict> {
        let clash = self.gateways.at(client).find(|(_, other)| *other != gateway);
        let Some((winner, other)) = clash else { return Ok(()) };
        let other = if winner.namespace == loser.namespace { other.to_string() } else { "another gateway".to_owned() };
        let message = format!(
            "{winner}, which is older or comes first by namespace and name, routes {client} through {other} already, \
             and this forward asks for {gateway}; one client has one gateway"
        );
        Err(Conflict { winner: winner.clone(), message })
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
