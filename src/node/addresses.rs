//! The IPv4 addresses of this node (rtnetlink(7)).

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use ipnet::Ipv4Net;
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_subnet_of_a_point_to_point_link_is_that_of_the_peer() {
        let length = |own: &str, peer: &str, given| prefix_len(own.parse().unwrap(), peer.parse().unwrap(), given);
        assert_eq!(length("192.168.0.2", "192.168.0.2", 24), Some(24));
        assert_eq!(length("10.0.0.1", "10.0.0.2", 32), Some(32));
        assert_eq!(length("10.0.0.1", "10.0.0.2", 24), Some(24));
        assert_eq!(length("10.0.0.1", "172.16.0.1", 24), Some(32));
    }
}
