//! The IPv4 addresses of this node (rtnetlink(7)).

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use ipnet::Ipv4Net;
use netlink_packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage};
use netlink_packet_route::route::RouteType;
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::links::Links;
use super::{FactsError, listing};
use crate::model::LocalAddress;
use crate::netlink::Socket;
use crate::netlink::route::KernelRoute;

/// An address with the fields that decide about its use as a source.
#[derive(Clone, Debug)]
pub(super) struct Address {
    pub(super) local: LocalAddress,
    /// The index of its interface.
    index: u32,
    /// Whether it is a secondary address of its subnet (`IFA_F_SECONDARY`, rtnetlink(7)).
    rank: Rank,
}

/// The rank of an address in its subnet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rank {
    Primary,
    Secondary,
}

/// The addresses, in the order of the kernel.
pub(super) async fn read(socket: &mut Socket, links: &Links) -> Result<Vec<Address>, FactsError> {
    let mut request = AddressMessage::default();
    request.header.family = AddressFamily::Inet;
    let addresses = socket
        .dump(RouteNetlinkMessage::GetAddress(request), |message| match message {
            RouteNetlinkMessage::NewAddress(address) => local(&address, links),
            _ => None,
        })
        .await
        .map_err(listing("addresses"))?;
    Ok(addresses)
}

/// The addresses by which the node was reached until lately.
///
/// A default route may be missing for a moment: a link goes down, DHCP renews its lease. The node is still reached by the
/// same addresses afterwards, and a forward that takes its ports meanwhile would keep them.
#[derive(Debug, Default)]
pub(super) struct Reached(BTreeMap<IpAddr, Instant>);

/// How long an address counts after the last default route with this source. While there is no default route, it counts on.
const LATELY: Duration = Duration::from_mins(10);

impl Reached {
    /// Adds the `sources` of the default routes at the moment `now`. Returns the addresses that count.
    pub(super) fn by(&mut self, sources: &BTreeSet<IpAddr>, now: Instant) -> BTreeSet<IpAddr> {
        let Self(seen) = self;
        if !sources.is_empty() {
            seen.extend(sources.iter().map(|address| (*address, now)));
            seen.retain(|_, last| now.saturating_duration_since(*last) < LATELY);
        }
        seen.keys().copied().collect()
    }
}

/// The source addresses of the default routes of `table`: the one that a route names, otherwise the one that the kernel
/// selects (`inet_select_addr`, net/ipv4/devinet.c). The node is reached by these, as far as it can know by itself.
pub(super) fn sources(table: &[KernelRoute], addresses: &[Address]) -> BTreeSet<IpAddr> {
    let default =
        |route: &&KernelRoute| route.destination.prefix_len() == 0 && route.tos == 0 && route.kind == RouteType::Unicast;
    let of_route = |route: &KernelRoute| {
        let single = route.hops.is_empty().then(|| route.next_hop.single());
        let hops = route.hops.iter().copied().chain(single);
        match route.source {
            Some(source) => vec![source],
            None => hops.filter_map(|(gateway, interface)| chosen(gateway, interface, addresses)).collect(),
        }
    };
    table.iter().filter(default).flat_map(of_route).collect()
}

fn chosen(gateway: Option<IpAddr>, interface: Option<u32>, addresses: &[Address]) -> Option<IpAddr> {
    let primary = || addresses.iter().filter(|address| address.rank == Rank::Primary);
    let on_link = || primary().filter(|address| Some(address.index) == interface);
    let towards = |address: &&Address| gateway.is_some_and(|gateway| address.local.subnet().contains(&gateway));
    // An interface without an address uses the address of another one.
    let found = on_link().find(towards).or_else(|| on_link().next()).or_else(|| primary().find(|_| interface.is_some()));
    found.map(|address| address.local.address)
}

fn local(message: &AddressMessage, links: &Links) -> Option<Address> {
    let (mut own, mut peer) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(IpAddr::V4(address)) => own = Some(*address),
            AddressAttribute::Address(IpAddr::V4(address)) => peer = Some(*address),
            _ => {}
        }
    }
    let (peer, own) = (peer.or(own)?, own.or(peer)?);
    if own.is_loopback() {
        return None;
    }
    let local = LocalAddress {
        address: IpAddr::V4(own),
        prefix_len: prefix_len(own, peer, message.header.prefix_len)?,
        interface: links.name(message.header.index).copied(),
    };
    let secondary = message.header.flags.contains(AddressHeaderFlags::Secondary);
    Some(Address { local, index: message.header.index, rank: if secondary { Rank::Secondary } else { Rank::Primary } })
}

/// The prefix length of `own`. On a point-to-point link the kernel gives the prefix length of the peer's address
/// (ip-address(8), `peer`).
fn prefix_len(own: Ipv4Addr, peer: Ipv4Addr, given: u8) -> Option<u8> {
    let subnet = Ipv4Net::new(peer, given).ok()?;
    Some(if subnet.contains(&own) { given } else { 32 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_counts_for_a_while_after_its_default_route_and_while_there_is_none() {
        let set = |texts: &[&str]| -> BTreeSet<IpAddr> { texts.iter().map(|text| text.parse().unwrap()).collect() };
        let (mut reached, start) = (Reached::default(), Instant::now());
        assert_eq!(reached.by(&set(&[]), start), set(&[]));
        assert_eq!(reached.by(&set(&["2.2.2.2", "192.168.0.2"]), start), set(&["2.2.2.2", "192.168.0.2"]));
        assert_eq!(reached.by(&set(&["2.2.2.2"]), start + LATELY / 2), set(&["2.2.2.2", "192.168.0.2"]));
        assert_eq!(reached.by(&set(&["2.2.2.2"]), start + LATELY), set(&["2.2.2.2"]));
        assert_eq!(reached.by(&set(&[]), start + LATELY * 5), set(&["2.2.2.2"]), "the only default route is missing");
        assert_eq!(reached.by(&set(&["2.2.2.9"]), start + LATELY * 5), set(&["2.2.2.9"]));
    }

    #[test]
    fn the_subnet_of_a_point_to_point_link_is_that_of_the_peer() {
        let length = |own: &str, peer: &str, given| prefix_len(own.parse().unwrap(), peer.parse().unwrap(), given);
        assert_eq!(length("192.168.0.2", "192.168.0.2", 24), Some(24));
        assert_eq!(length("10.0.0.1", "10.0.0.2", 32), Some(32));
        assert_eq!(length("10.0.0.1", "10.0.0.2", 24), Some(24));
        assert_eq!(length("10.0.0.1", "172.16.0.1", 24), Some(32));
    }
}
