//! The kernel's neighbour entries: lists them, has them resolved, and decodes events (rtnetlink(7), ip-neighbour(8)).
//!
//! Entries are ordinary ones, as a packet to the neighbour would create them: they have no mark, and the kernel removes
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
/// The unit of ages: hundredths of a second, independent of the kernel's clock rate (`USER_HZ`, time(7)).
const TICK: Duration = Duration::from_millis(10);

/// The key of a neighbour in the kernel: the index of the interface, and the address.
pub(super) type Place = (u32, IpAddr);

/// The properties of an interface that matter for sending.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Port {
    /// The interface index (netdevice(7)).
    pub(super) index: u32,
    /// Whether it resolves neighbours.
    pub(super) resolution: Resolution,
}

/// The content of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// The state of a neighbour's entry; `None` if it was deleted.
    Neighbour(Place, Option<NeighbourState>),
    /// A change of an interface.
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

/// The entries for `wanted`. The next hop of an IPv4 route may have an IPv6 address (RFC 8950; `via inet6`, ip-route(8)).
pub(super) async fn entries(
    socket: &mut Socket,
    wanted: impl Fn(&Place) -> bool,
) -> Result<BTreeMap<Place, Entry>, NetlinkError> {
    let mut request = NeighbourMessage::default();
    request.header.family = AddressFamily::Unspec;
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
        NeighbourAttribute::Destination(NeighbourAddress::Inet6(address)) => Some((message.header.ifindex, IpAddr::V6(*address))),
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

/// Sends requests to the kernel. A request that is refused is sent again at the next turn.
pub(super) async fn ask(socket: &mut Socket, asks: Vec<(Place, Ask)>) -> Result<(), NetlinkError> {
    let changes = asks.into_iter().map(|(place, ask)| question(place, ask)).collect();
    for refusal in socket.change(changes).await?.into_iter().filter_map(Result::err) {
        tracing::debug!(%refusal, "the kernel does not ask for a next hop");
    }
    Ok(())
}

/// No IP packet is sent for it, only ARP, which no rule of iptables and no base chain of family ip sees.
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

/// The event in `frame`, if it is about a link or a neighbour.
pub(super) fn event(frame: &Frame<'_>) -> Option<Event> {
    match frame.kind {
        RTM_NEWLINK | RTM_DELLINK => Some(Event::Link),
        RTM_NEWNEIGH | RTM_DELNEIGH => match frame.decode() {
            Ok(RouteNetlinkMessage::NewNeighbour(message)) => {
                place(&message).map(|place| Event::Neighbour(place, Some(message.header.state)))
            }
            Ok(RouteNetlinkMessage::DelNeighbour(message)) => place(&message).map(|place| Event::Neighbour(place, None)),
            // Messages for bridge ports have other forms, which are not needed.
            Ok(_) | Err(_) => None,
        },
        _ => None,
    }
}
