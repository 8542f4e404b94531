//! What the forwards that were accepted so far claim of this node, and who comes too late.
//!
//! Two forwards conflict if some packet would match both, if POSTROUTING could not tell their flows apart, or if they ask for
//! different gateways for one and the same client entry. Where one client network holds the other, the longest prefix wins.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::forward::{Forward, ForwardKey};
use crate::model::{PortRange, Protocol, Translation};

/// The older forward that claims the same, and what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// Who has it.
    pub winner: ForwardKey,
    /// What both want, and what to do.
    pub message: String,
}

/// What the forwards accepted so far claim.
#[derive(Debug, Default)]
pub(super) struct Claims {
    flows: BTreeMap<(Protocol, IpAddr), PortClaims>,
    gateways: NetworkMap<(ForwardKey, IpAddr)>,
    nested: Vec<Nested>,
}

/// Two forwards whose clients lie in each other and that ask for different gateways.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Nested {
    /// The one with the larger network.
    pub(super) outer: Way,
    /// The one within, whose longer prefix wins there.
    pub(super) inner: Way,
}

/// How one forward wants a client entry to be reached.
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

/// Who listens on one address, by port.
///
/// Ranges of about the same width lie in one map (under the number of bits of their width), so those that overlap a given
/// one are few neighbours in each of the sixteen.
#[derive(Debug, Default)]
struct PortClaims(BTreeMap<u32, BTreeMap<(u16, u16), ClientClaims>>);

/// Who serves which client on the same ports.
type ClientClaims = NetworkMap<(ForwardKey, Translation)>;

/// Values by network, and those of every network that overlaps a given one.
#[derive(Debug)]
struct NetworkMap<T>(BTreeMap<IpNet, Vec<T>>);

impl Claims {
    /// Claims everything that `forward` asks for, which are these `translations` on this node, or nothing and says who has some of it.
    pub(super) fn claim(&mut self, forward: &Forward, translations: Vec<Translation>) -> Result<(), Conflict> {
        for translation in &translations {
            self.refuse_flow(translation)?;
        }
        if let Some(gateway) = forward.gateway {
            for client in &forward.clients {
                self.refuse_gateway(*client, gateway)?;
            }
            for client in &forward.clients {
                let nested = self.nested_with(&Way { forward: forward.key.clone(), network: *client, gateway });
                self.nested.extend(nested);
                self.gateways.insert(*client, (forward.key.clone(), gateway));
            }
        }
        for translation in translations {
            let flows = &translation.flows;
            let ports = self.flows.entry((flows.protocol, flows.destination)).or_default();
            ports.insert(flows.ports, flows.source, (forward.key.clone(), translation.clone()));
        }
        Ok(())
    }

    fn refuse_flow(&self, translation: &Translation) -> Result<(), Conflict> {
        let flows = &translation.flows;
        let Some(ports) = self.flows.get(&(flows.protocol, flows.destination)) else { return Ok(()) };
        let clash = ports.overlapping(flows.ports, flows.source).find(|(_, other)| clash(translation, other));
        let Some((winner, other)) = clash else { return Ok(()) };
        let message = format!(
            "{winner}, which is older or comes first by namespace and name, forwards {} {} from {} on {} already; \
             change the address, the ports or the client of one of the two, or delete one",
            other.flows.protocol, other.flows.ports, other.flows.source, other.flows.destination
        );
        Err(Conflict { winner: winner.clone(), message })
    }

    /// The forwards that want a network around the client, or within it, to be reached another way.
    pub(super) fn nested(&self) -> &[Nested] {
        &self.nested
    }

    fn nested_with(&self, way: &Way) -> Vec<Nested> {
        let others = self.gateways.overlapping(way.network).filter(|(_, (_, gateway))| *gateway != way.gateway);
        let others = others.filter(|(network, _)| *network != way.network);
        others
            .map(|(network, (forward, gateway))| {
                let other = Way { forward: forward.clone(), network, gateway: *gateway };
                let contains = network.contains(&way.network);
                let (outer, inner) = if contains { (other, way.clone()) } else { (way.clone(), other) };
                Nested { outer, inner }
            })
            .collect()
    }

    fn refuse_gateway(&self, client: IpNet, gateway: IpAddr) -> Result<(), Conflict> {
        let clash = self.gateways.at(client).find(|(_, other)| *other != gateway);
        let Some((winner, other)) = clash else { return Ok(()) };
        let message = format!(
            "{winner}, which is older or comes first by namespace and name, routes {client} through {other} already, \
             and this forward asks for {gateway}; one client has one gateway"
        );
        Err(Conflict { winner: winner.clone(), message })
    }
}

/// Whether two translations of overlapping flows cannot both be.
fn clash(a: &Translation, b: &Translation) -> bool {
    let some_packet_matches_both = match (&a.flows.interface, &b.flows.interface) {
        (Some(a), Some(b)) => a == b,
        (None, _) | (_, None) => true,
    };
    // Told apart by interface only, and that is not known any more where the source is translated.
    let same_afterwards = a.destination.address == b.destination.address && a.source != b.source;
    some_packet_matches_both || same_afterwards
}

impl PortClaims {
    fn insert(&mut self, ports: PortRange, client: IpNet, claim: (ForwardKey, Translation)) {
        let class = self.0.entry(width_class(ports)).or_default();
        class.entry((ports.first(), ports.last())).or_default().insert(client, claim);
    }

    fn overlapping(&self, ports: PortRange, client: IpNet) -> impl Iterator<Item = &(ForwardKey, Translation)> {
        self.0
            .iter()
            .flat_map(move |(bits, class)| {
                let widest = u16::try_from((1u32 << bits) - 1).unwrap_or(u16::MAX);
                class.range((ports.first().saturating_sub(widest), 0)..=(ports.last(), u16::MAX))
            })
            .filter(move |((_, last), _)| *last >= ports.first())
            .flat_map(move |(_, clients)| clients.overlapping(client).map(|(_, claim)| claim))
    }
}

/// The number of bits of how many ports lie behind the first.
fn width_class(ports: PortRange) -> u32 {
    u16::BITS - (ports.last() - ports.first()).leading_zeros()
}

impl<T> NetworkMap<T> {
    fn insert(&mut self, network: IpNet, value: T) {
        self.0.entry(network).or_default().push(value);
    }

    /// The values of exactly `network`.
    fn at(&self, network: IpNet) -> impl Iterator<Item = &T> {
        self.0.get(&network).into_iter().flatten()
    }

    /// The values of the networks that contain `network`, then of those within it.
    fn overlapping(&self, network: IpNet) -> impl Iterator<Item = (IpNet, &T)> {
        let around = (0..network.prefix_len()).filter_map(move |length| {
            let around = IpNet::new_assert(network.addr(), length).trunc();
            self.0.get_key_value(&around)
        });
        let within = self.0.range(network..).take_while(move |(other, _)| network.contains(&other.addr()));
        around.chain(within).flat_map(|(network, values)| values.iter().map(|value| (*network, value)))
    }
}

impl<T> Default for NetworkMap<T> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}
