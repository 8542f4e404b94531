//! The IPv4 addresses of this node, and the neighbours that do not answer (rtnetlink(7), ip-neighbour(8)).

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use ipnet::Ipv4Net;
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::links::Links;
use super::{FactsError, listing};
use crate::model::LocalAddress;
use crate::netlink::Socket;

pub(super) async fn read(socket: &mut Socket, links: &Links) -> Result<BTreeSet<LocalAddress>, FactsError> {
    let mut request = AddressMessage::default();
    request.header.family = AddressFamily::Inet;
    let addresses = socket
        .dump(RouteNetlinkMessage::GetAddress(request), |message| match message {
            RouteNetlinkMessage::NewAddress(address) => local(&address, links),
            _ => None,
        })
        .await
        .map_err(listing("addresses"))?;
    Ok(addresses.into_iter().collect())
}

fn local(message: &AddressMessage, links: &Links) -> Option<LocalAddress> {
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
    Some(LocalAddress {
        address: IpAddr::V4(own),
        prefix_len: prefix_len(own, peer, message.header.prefix_len)?,
        interface: links.name(message.header.index).cloned(),
    })
}

/// The prefix length that `own` has. On a point-to-point link the kernel's belongs to the address of the peer
/// (ip-address(8), `peer`).
fn prefix_len(own: Ipv4Addr, peer: Ipv4Addr, given: u8) -> Option<u8> {
    let subnet = Ipv4Net::new(peer, given).ok()?;
    Some(if subnet.contains(&own) { given } else { 32 })
}

/// The neighbours that do not answer: the kernel asked in vain (`FAILED`), or asks again (`INCOMPLETE`) one that was `silent`
/// before. Under traffic the kernel goes back and forth between the two every few seconds.
pub(super) async fn unreachable(socket: &mut Socket, silent: &BTreeSet<IpAddr>) -> Result<BTreeSet<IpAddr>, FactsError> {
    let mut request = NeighbourMessage::default();
    request.header.family = AddressFamily::Inet;
    let neighbours = socket
        .dump(RouteNetlinkMessage::GetNeighbour(request), |message| match message {
            RouteNetlinkMessage::NewNeighbour(neighbour) => Some((address(&neighbour)?, neighbour.header.state)),
            _ => None,
        })
        .await
        .map_err(listing("neighbours"))?;
    Ok(neighbours
        .into_iter()
        .filter(|(address, state)| is_silent(*state, silent.contains(address)))
        .map(|(address, _)| address)
        .collect())
}

fn is_silent(state: NeighbourState, before: bool) -> bool {
    state == NeighbourState::Failed || (state == NeighbourState::Incomplete && before)
}

/// The IPv4 address that a neighbour entry is for.
pub(super) fn address(message: &NeighbourMessage) -> Option<IpAddr> {
    message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::Destination(NeighbourAddress::Inet(address)) => Some(IpAddr::V4(*address)),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_neighbour_that_is_asked_again_stays_silent_until_it_answers() {
        assert!(is_silent(NeighbourState::Failed, false));
        assert!(is_silent(NeighbourState::Incomplete, true));
        assert!(!is_silent(NeighbourState::Incomplete, false), "the first question is no silence");
        assert!(!is_silent(NeighbourState::Reachable, true));
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
