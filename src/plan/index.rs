//! An index of values by flow. Finds the flows that overlap a given one without a scan of all of them.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::model::{FlowMatch, PortRange, Protocol};

/// Values by protocol, listen address, ports and client. The interface is ignored.
#[derive(Clone, Debug)]
pub(super) struct FlowIndex<T>(BTreeMap<(Protocol, IpAddr), Ports<T>>);

/// The values of one protocol and address, by port.
///
/// Ranges of similar size are in one map (by the number of bits of their size), so the ranges that overlap a given one are
/// a few neighbours in each of the sixteen maps.
#[derive(Clone, Debug)]
struct Ports<T>(BTreeMap<u32, BTreeMap<(u16, u16), Clients<T>>>);

/// The values of one range, by client.
type Clients<T> = NetworkMap<(PortRange, T)>;

/// Values by network. Finds the values of all networks that overlap a given one.
#[derive(Clone, Debug)]
pub(super) struct NetworkMap<T>(BTreeMap<IpNet, Vec<T>>);

impl<T> FlowIndex<T> {
    pub(super) fn insert(&mut self, flows: &FlowMatch, value: T) {
        let ports = self.0.entry((flows.protocol, flows.destination)).or_default();
        let class = ports.0.entry(width_class(flows.ports)).or_default();
        class.entry((flows.ports.first(), flows.ports.last())).or_default().insert(flows.source, (flows.ports, value));
    }

    /// The values of the flows that some packet of `flows` matches too, each with its ports.
    pub(super) fn overlapping(&self, flows: &FlowMatch) -> impl Iterator<Item = (PortRange, &T)> {
        let (ports, client) = (flows.ports, flows.source);
        let found = self.0.get(&(flows.protocol, flows.destination)).into_iter();
        found.flat_map(move |index| index.overlapping(ports, client)).map(|(ports, value)| (*ports, value))
    }
}

impl<T> Ports<T> {
    fn overlapping(&self, ports: PortRange, client: IpNet) -> impl Iterator<Item = &(PortRange, T)> {
        self.0
            .iter()
            .flat_map(move |(bits, class)| {
                let widest = u16::try_from((1u32 << bits) - 1).unwrap_or(u16::MAX);
                class.range((ports.first().saturating_sub(widest), 0)..=(ports.last(), u16::MAX))
            })
            .filter(move |((_, last), _)| *last >= ports.first())
            .flat_map(move |(_, clients)| clients.overlapping(client).map(|(_, value)| value))
    }
}

/// The number of bits of the size of the range, not counting the first port.
fn width_class(ports: PortRange) -> u32 {
    u16::BITS - (ports.last() - ports.first()).leading_zeros()
}

impl<T> NetworkMap<T> {
    pub(super) fn insert(&mut self, network: IpNet, value: T) {
        self.0.entry(network).or_default().push(value);
    }

    /// The values of exactly `network`.
    pub(super) fn at(&self, network: IpNet) -> impl Iterator<Item = &T> {
        self.0.get(&network).into_iter().flatten()
    }

    /// The values of the networks that contain `network`, then of those inside of it.
    pub(super) fn overlapping(&self, network: IpNet) -> impl Iterator<Item = (IpNet, &T)> {
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

impl<T> Default for Ports<T> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<T> Default for FlowIndex<T> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}
