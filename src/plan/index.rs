//! Indexes of values by flow, by ports and by network. They find what overlaps without a scan of all values.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::RangeInclusive;

use ipnet::IpNet;

use super::small::Small;
use crate::model::{FlowMatch, PortRange, Protocol};

/// Values by protocol, listen address, ports and client. The interface is ignored.
#[derive(Clone, Debug)]
pub(super) struct FlowIndex<T> {
    /// A place is empty after its value was removed.
    values: Vec<Option<(PortRange, T)>>,
    /// The empty places.
    free: Vec<usize>,
    places: BTreeMap<(Protocol, IpAddr), Place>,
}

/// The values of one protocol and listen address, in two orders.
///
/// A wide range of ports overlaps many ranges, and a wide client network overlaps many clients. Each look-up goes through both
/// orders in turn and ends with the shorter one. So a forward with a wide range costs little where many forwards have ports of
/// their own, and the other way round.
#[derive(Clone, Debug, Default)]
struct Place {
    by_ports: Ports<NetworkMap<usize>>,
    by_client: Networks<Ports<Vec<usize>>>,
}

/// Values by protocol, listen address and ports.
#[derive(Clone, Debug)]
pub(super) struct PortIndex<T>(BTreeMap<(Protocol, IpAddr), Ports<Vec<T>>>);

/// Values by range of ports.
///
/// Ranges of similar size are in one map (by the number of bits of their size), so the ranges that overlap a given one are
/// a few neighbours in each of the sixteen maps.
#[derive(Clone, Debug)]
struct Ports<T>(Small<u32, Small<(u16, u16), T>>);

/// Values by network.
#[derive(Clone, Debug)]
struct Networks<T>(Small<IpNet, T>);

/// Any number of values for each network. Finds the values of all networks that overlap a given one.
#[derive(Clone, Debug)]
pub(super) struct NetworkMap<T>(Networks<Vec<T>>);

impl<T> FlowIndex<T> {
    pub(super) fn insert(&mut self, flows: &FlowMatch, value: T) {
        let value = Some((flows.ports, value));
        let index = if let Some(index) = self.free.pop() {
            self.values[index] = value;
            index
        } else {
            self.values.push(value);
            self.values.len() - 1
        };
        let place = self.places.entry((flows.protocol, flows.destination)).or_default();
        place.by_ports.entry(flows.ports).insert(flows.source, index);
        place.by_client.0.or_default(flows.source).entry(flows.ports).push(index);
    }

    /// The values of exactly these ports and this client.
    pub(super) fn at(&self, flows: &FlowMatch) -> impl Iterator<Item = &T> {
        let clients = self.places.get(&(flows.protocol, flows.destination)).and_then(|place| place.by_ports.get(flows.ports));
        clients.into_iter().flat_map(|clients| clients.at(flows.source)).filter_map(|index| Some(&self.value(*index)?.1))
    }

    /// Removes one value of exactly these ports and this client, for which `wanted` is true.
    pub(super) fn remove(&mut self, flows: &FlowMatch, wanted: impl Fn(&T) -> bool) {
        let Self { values, free, places } = self;
        let at = (flows.protocol, flows.destination);
        let Some(place) = places.get_mut(&at) else { return };
        let is_wanted = |index: &usize| values.get(*index).and_then(Option::as_ref).is_some_and(|(_, value)| wanted(value));
        let clients = place.by_ports.get(flows.ports);
        let Some(index) = clients.and_then(|clients| clients.at(flows.source).copied().find(|index| is_wanted(index))) else {
            return;
        };
        place.by_ports.change(flows.ports, |clients| clients.remove(flows.source, &index));
        if let Some(ranges) = place.by_client.0.get_mut(&flows.source) {
            ranges.change(flows.ports, |indexes| {
                indexes.retain(|other| *other != index);
                indexes.is_empty()
            });
            if ranges.0.is_empty() {
                place.by_client.0.remove(&flows.source);
            }
        }
        if place.by_ports.0.is_empty() {
            places.remove(&at);
        }
        if let Some(value) = values.get_mut(index) {
            *value = None;
            free.push(index);
        }
    }

    fn value(&self, index: usize) -> Option<&(PortRange, T)> {
        self.values.get(index)?.as_ref()
    }

    /// The values of the flows that some packet of `flows` matches too, each with its ports.
    pub(super) fn overlapping(&self, flows: &FlowMatch) -> Vec<(PortRange, &T)> {
        let mut found = [Vec::new(), Vec::new()];
        let complete = self.search(flows, |order, value| {
            if let Some(found) = found.get_mut(order) {
                found.push(value);
            }
            false
        });
        found.into_iter().nth(complete).unwrap_or_default()
    }

    /// A value of a flow that some packet of `flows` matches too, for which `wanted` is true.
    pub(super) fn find(&self, flows: &FlowMatch, wanted: impl Fn(&T) -> bool) -> Option<&T> {
        let mut found = None;
        self.search(flows, |_, (_, value)| {
            found = Some(value).filter(|value| wanted(value)).or(found);
            found.is_some()
        });
        found
    }

    /// Visits the values that overlap `flows` in both orders in turn, until one order is complete or `visit` returns true.
    /// Returns the number of the complete order.
    fn search<'a>(&'a self, flows: &FlowMatch, mut visit: impl FnMut(usize, (PortRange, &'a T)) -> bool) -> usize {
        let (ports, client) = (flows.ports, flows.source);
        let Some(place) = self.places.get(&(flows.protocol, flows.destination)) else { return 0 };
        let mut by_ports = place.by_ports.overlapping(ports);
        let mut by_client = place.by_client.overlapping(client);
        let mut is_over =
            |order: usize, index: &usize| self.value(*index).is_some_and(|(ports, value)| visit(order, (*ports, value)));
        loop {
            let Some(clients) = by_ports.next() else { return 0 };
            if clients.overlapping(client).any(|(_, index)| is_over(0, index)) {
                return 0;
            }
            let Some((_, ranges)) = by_client.next() else { return 1 };
            if ranges.overlapping(ports).flatten().any(|index| is_over(1, index)) {
                return 1;
            }
        }
    }
}

impl<T: PartialEq> FlowIndex<T> {
    /// Adds a value. Returns whether it was not there already.
    pub(super) fn insert_new(&mut self, flows: &FlowMatch, value: T) -> bool {
        let is_new = self.at(flows).all(|other| *other != value);
        if is_new {
            self.insert(flows, value);
        }
        is_new
    }
}

impl<T> PortIndex<T> {
    pub(super) fn insert(&mut self, protocol: Protocol, address: IpAddr, ports: PortRange, value: T) {
        self.0.entry((protocol, address)).or_default().entry(ports).push(value);
    }

    /// The values with a port of `ports`.
    pub(super) fn overlapping(&self, protocol: Protocol, address: IpAddr, ports: PortRange) -> impl Iterator<Item = &T> {
        self.0.get(&(protocol, address)).into_iter().flat_map(move |index| index.overlapping(ports)).flatten()
    }

    /// The lists of values with a port of `ports`.
    pub(super) fn overlapping_mut(
        &mut self,
        protocol: Protocol,
        address: IpAddr,
        ports: PortRange,
    ) -> impl Iterator<Item = &mut Vec<T>> {
        self.0.get_mut(&(protocol, address)).into_iter().flat_map(move |index| index.overlapping_mut(ports))
    }
}

impl<T: Default> Ports<T> {
    fn entry(&mut self, ports: PortRange) -> &mut T {
        self.0.or_default(width_class(ports)).or_default((ports.first(), ports.last()))
    }
}

impl<T> Ports<T> {
    /// Changes the value of exactly these ports, and removes it if `change` returns that nothing is left of it.
    fn change(&mut self, ports: PortRange, change: impl FnOnce(&mut T) -> bool) {
        let (width, range) = (width_class(ports), (ports.first(), ports.last()));
        let Some(class) = self.0.get_mut(&width) else { return };
        if class.get_mut(&range).is_some_and(change) {
            class.remove(&range);
        }
        if class.is_empty() {
            self.0.remove(&width);
        }
    }
}

impl<T> Ports<T> {
    fn get(&self, ports: PortRange) -> Option<&T> {
        self.0.get(&width_class(ports))?.get(&(ports.first(), ports.last()))
    }

    fn overlapping(&self, ports: PortRange) -> impl Iterator<Item = &T> {
        self.0
            .range(..)
            .flat_map(move |(bits, class)| class.range(candidates(*bits, ports)))
            .filter(move |((_, last), _)| *last >= ports.first())
            .map(|(_, value)| value)
    }

    fn overlapping_mut(&mut self, ports: PortRange) -> impl Iterator<Item = &mut T> {
        self.0
            .range_mut(..)
            .flat_map(move |(bits, class)| class.range_mut(candidates(*bits, ports)))
            .filter(move |((_, last), _)| *last >= ports.first())
            .map(|(_, value)| value)
    }
}

/// Where ranges of this size may overlap `ports`.
fn candidates(bits: u32, ports: PortRange) -> RangeInclusive<(u16, u16)> {
    let widest = u16::try_from((1u32 << bits) - 1).unwrap_or(u16::MAX);
    (ports.first().saturating_sub(widest), 0)..=(ports.last(), u16::MAX)
}

/// The number of bits of the size of the range, not counting the first port.
fn width_class(ports: PortRange) -> u32 {
    u16::BITS - (ports.last() - ports.first()).leading_zeros()
}

impl<T> Networks<T> {
    /// The values of the networks that contain `network`, then of those inside of it.
    fn overlapping(&self, network: IpNet) -> impl Iterator<Item = (IpNet, &T)> {
        let around = self.around(network).filter(move |(other, _)| *other != network);
        around.chain(self.within(network))
    }

    fn around(&self, network: IpNet) -> impl Iterator<Item = (IpNet, &T)> {
        (0..=network.prefix_len()).filter_map(move |length| {
            let around = IpNet::new_assert(network.addr(), length).trunc();
            self.0.get(&around).map(|value| (around, value))
        })
    }

    fn within(&self, network: IpNet) -> impl Iterator<Item = (IpNet, &T)> {
        let within = self.0.range(network..).take_while(move |(other, _)| network.contains(&other.addr()));
        within.map(|(other, value)| (*other, value))
    }
}

impl<T> NetworkMap<T> {
    pub(super) fn insert(&mut self, network: IpNet, value: T) {
        self.0.0.or_default(network).push(value);
    }

    /// Removes a value of exactly `network`. Returns whether no value is left of any network.
    fn remove(&mut self, network: IpNet, value: &T) -> bool
    where
        T: PartialEq,
    {
        if let Some(values) = self.0.0.get_mut(&network) {
            values.retain(|other| other != value);
            if values.is_empty() {
                self.0.0.remove(&network);
            }
        }
        self.0.0.is_empty()
    }

    /// Whether there is a value of a network that contains `network` or lies in it.
    pub(super) fn overlaps(&self, network: IpNet) -> bool {
        !self.0.0.is_empty() && self.overlapping(network).next().is_some()
    }

    /// The values of exactly `network`.
    pub(super) fn at(&self, network: IpNet) -> impl Iterator<Item = &T> {
        self.0.0.get(&network).into_iter().flatten()
    }

    /// The values of the networks that contain `network`, then of those inside of it.
    pub(super) fn overlapping(&self, network: IpNet) -> impl Iterator<Item = (IpNet, &T)> {
        each(self.0.overlapping(network))
    }

    /// The values of the networks that contain `network`, also of itself.
    pub(super) fn around(&self, network: IpNet) -> impl Iterator<Item = (IpNet, &T)> {
        each(self.0.around(network))
    }

    /// The values of `network` and of the networks inside of it.
    pub(super) fn within(&self, network: IpNet) -> impl Iterator<Item = (IpNet, &T)> {
        each(self.0.within(network))
    }
}

fn each<'a, T>(networks: impl Iterator<Item = (IpNet, &'a Vec<T>)>) -> impl Iterator<Item = (IpNet, &'a T)>
where
    T: 'a,
{
    networks.flat_map(|(network, values)| values.iter().map(move |value| (network, value)))
}

impl<T> Default for FlowIndex<T> {
    fn default() -> Self {
        Self { values: Vec::new(), free: Vec::new(), places: BTreeMap::new() }
    }
}

impl<T> Default for PortIndex<T> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<T> Default for Ports<T> {
    fn default() -> Self {
        Self(Small::default())
    }
}

impl<T> Default for Networks<T> {
    fn default() -> Self {
        Self(Small::default())
    }
}

impl<T> Default for NetworkMap<T> {
    fn default() -> Self {
        Self(Networks::default())
    }
}
