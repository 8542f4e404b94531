//! The kernel's neighbour entries: listing them, having them resolved, and what an event says (rtnetlink(7), ip-neighbour(8)).
//!
//! Entries are the kernel's own, as a packet to the neighbour would make them: nothing marks them, and the kernel forgets
//! them like any other.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use netlink_packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::super::links::WITHOUT_STATS;
use super::neighbour::{Ask, Entry, Keeper, Resolution};
use crate::model::InterfaceName;
use crate::netlink::{Change, Frame, NetlinkError, Socket};

/// The message types about links and neighbours (rtnetlink(7)).
const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_NEWNEIGH: u16 = 28;
const RTM_DELNEIGH: u16 = 29;
/// The kernel tells ages in hundredths of a second, whatever its own clock (`USER_HZ`, time(7)).
const TICK: Duration = Duration::from_millis(10);

/// A neighbour as the kernel knows it: the index of the interface, and the address.
pub(super) type Place = (u32, IpAddr);

/// What matters of an interface to whoever sends by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Port {
    /// The interface index (netdevice(7)).
    pub(super) index: u32,
    /// Whether it finds out where its neighbours are.
    pub(super) resolution: Resolution,
}

/// What an event says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// The state of a neighbour's entry; `None` where it is gone.
    Neighbour(Place, Option<NeighbourState>),
    /// Something about an interface.
    Link,
}

/// The interfaces that an object can name.
pub(super) async fn ports(socket: &mut Socket) -> Result<BTreeMap<InterfaceName, Port>, NetlinkError> {
    let mut request = LinkMessage::default();
    request.attributes.push(LinkAttribute::ExtMask(vec![WITHOUT_STATS]));
    let listed = socket.dump(RouteNetlinkMessage::GetLink(request), |message| match message {
        RouteNetlinkMessage::NewLink(link) => port(&link),
        _ => None,
    });
    Ok(listed.await?.into_iter().collect())
}

fn port(link: &LinkMessage) -> Option<(InterfaceName, Port)> {
    let name = link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::IfName(name) => name.parse().ok(),
        _ => None,
    })?;
    // As `arp_constructor` decides, net/ipv4/arp.c.
    let unasked = LinkFlags::Noarp | LinkFlags::Loopback | LinkFlags::Pointopoint;
    let resolution = if link.header.flags.intersects(unasked) { Resolution::None } else { Resolution::Asks };
    Some((name, Port { index: link.header.index, resolution }))
}

/// The IPv4 entries that `wanted` asks for.
pub(super) async fn entries(
    socket: &mut Socket,
    wanted: impl Fn(&Place) -> bool,
) -> Result<BTreeMap<Place, Entry>, NetlinkError> {
    let mut request = NeighbourMessage::default();
    request.header.family = AddressFamily::Inet;
    let listed = socket.dump(RouteNetlinkMessage::GetNeighbour(request), |message| match message {
        RouteNetlinkMessage::NewNeighbour(neighbour) => {
            place(&neighbour).filter(|place| wanted(place)).map(|place| (place, entry(&neighbour)))
        }
        _ => None,
    });
    Ok(listed.await?.into_iter().collect())
}

fn place(message: &NeighbourMessage) -> Option<Place> {
    message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::Destination(NeighbourAddress::Inet(address)) => Some((message.header.ifindex, IpAddr::V4(*address))),
        _ => None,
    })
}

fn entry(message: &NeighbourMessage) -> Entry {
    let mut confirmed = Duration::MAX;
    let mut keeper = if message.header.flags.contains(NeighbourFlags::ExtLearned) { Keeper::Another } else { Keeper::Kernel };
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::CacheInfo(info) => confirmed = TICK * info.confirmed,
            NeighbourAttribute::ExtFlags(flags) if !flags.is_empty() => keeper = Keeper::Another,
            _ => {}
        }
    }
    Entry { state: message.header.state, confirmed, keeper }
}

/// Asks the kernel; a question that it refuses is asked again in its turn.
pub(super) async fn ask(socket: &mut Socket, asks: Vec<(Place, Ask)>) -> Result<(), NetlinkError> {
    let changes = asks.into_iter().map(|(place, ask)| question(place, ask)).collect();
    for refusal in socket.change(changes).await?.into_iter().filter_map(Result::err) {
        tracing::debug!(%refusal, "the kernel does not ask for a next hop");
    }
    Ok(())
}

/// No packet of IP goes out for it, only one of ARP, which no rule of iptables and no base chain of IP sees.
fn question((index, address): Place, ask: Ask) -> Change<RouteNetlinkMessage> {
    let mut message = NeighbourMessage::default();
    message.header.family = match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    };
    message.header.ifindex = index;
    let destination = match address {
        IpAddr::V4(address) => NeighbourAddress::Inet(address),
        IpAddr::V6(address) => NeighbourAddress::Inet6(address),
    };
    message.attributes.push(NeighbourAttribute::Destination(destination));
    let flags = match ask {
        Ask::Create => {
            message.header.flags = NeighbourFlags::Use;
            NLM_F_CREATE | NLM_F_EXCL
        }
        Ask::Resolve => {
            message.header.flags = NeighbourFlags::Use;
            0
        }
        Ask::Confirm => {
            message.header.state = NeighbourState::Probe;
            0
        }
    };
    Change { message: RouteNetlinkMessage::NewNeighbour(message), flags }
}

/// What `frame` says of a link or an IPv4 neighbour, if it does.
pub(super) fn event(frame: &Frame<'_>) -> Option<Event> {
    match frame.kind {
        RTM_NEWLINK | RTM_DELLINK => Some(Event::Link),
        RTM_NEWNEIGH | RTM_DELNEIGH => match frame.decode() {
            Ok(RouteNetlinkMessage::NewNeighbour(message)) => {
                place(&message).map(|place| Event::Neighbour(place, Some(message.header.state)))
            }
            Ok(RouteNetlinkMessage::DelNeighbour(message)) => place(&message).map(|place| Event::Neighbour(place, None)),
            // Bridge ports come in forms that do not concern us.
            Ok(_) | Err(_) => None,
        },
        _ => None,
    }
}
