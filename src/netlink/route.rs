//! The IPv4 routes of a table, as the kernel lists them (rtnetlink(7)).
//!
//! Reads only and decides nothing. Used for the facts of the node and for the host routes.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::Ipv4Net;
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteNextHop, RouteNextHopFlags, RouteType, RouteVia,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rustix::io::Errno;

use super::{NetlinkError, Socket};

/// The number of the table `local` (include/uapi/linux/rtnetlink.h).
const RT_TABLE_LOCAL: u32 = 255;
/// The number of the table `main`.
const RT_TABLE_MAIN: u32 = RouteHeader::RT_TABLE_MAIN as u32;

/// A route of one table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KernelRoute {
    pub(crate) destination: Ipv4Net,
    pub(crate) tos: u8,
    pub(crate) kind: RouteType,
    pub(crate) protocol: u8,
    pub(crate) metric: u32,
    pub(crate) next_hop: NextHop,
    /// The preferred source address of the route (`src`, ip-route(8)).
    pub(crate) source: Option<IpAddr>,
    /// Gateway and interface of each next hop, if there are several.
    pub(crate) hops: Vec<(Option<IpAddr>, Option<u32>)>,
}

/// The next hop of a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum NextHop {
    /// None: the route is `blackhole` or similar.
    Nowhere,
    /// One interface.
    One { gateway: Option<IpAddr>, interface: u32, reach: Reach },
    /// Several interfaces.
    Several,
    /// The nexthop object with this id (ip-nexthop(8)). `interface` is set if the object has a single interface.
    Object { id: u32, gateway: Option<IpAddr>, interface: Option<u32> },
}

/// Whether the kernel checked that the gateway is on the link of the interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reach {
    /// It checked.
    Checked,
    /// It did not check: `onlink` (ip-route(8)).
    Onlink,
}

impl NextHop {
    /// The gateway and the interface, if there is exactly one of each.
    pub(crate) fn single(&self) -> (Option<IpAddr>, Option<u32>) {
        match self {
            Self::One { gateway, interface, reach: _ } => (*gateway, Some(*interface)),
            Self::Object { id: _, gateway, interface } => (*gateway, *interface),
            Self::Nowhere | Self::Several => (None, None),
        }
    }
}

/// The IPv4 routes of the main table, in the order of the kernel.
pub(crate) async fn main_table(socket: &mut Socket) -> Result<Vec<KernelRoute>, NetlinkError> {
    table(socket, RT_TABLE_MAIN).await
}

/// The IPv4 routes of the table `local`, in the order of the kernel: local destinations and broadcasts.
pub(crate) async fn local_table(socket: &mut Socket) -> Result<Vec<KernelRoute>, NetlinkError> {
    table(socket, RT_TABLE_LOCAL).await
}

/// The IPv4 routes of the table with number `table`, in the order of the kernel. Empty if it does not exist.
pub(crate) async fn table(socket: &mut Socket, table: u32) -> Result<Vec<KernelRoute>, NetlinkError> {
    let mut request = RouteMessage::default();
    request.header.address_family = AddressFamily::Inet;
    request.attributes.push(RouteAttribute::Table(table));
    let listed = socket
        .dump(RouteNetlinkMessage::GetRoute(request), |message| match message {
            RouteNetlinkMessage::NewRoute(route) => read(&route, table),
            _ => None,
        })
        .await;
    match listed {
        // The kernel creates the table together with its first route.
        Err(NetlinkError::Refused(refusal)) if refusal.errno == Errno::NOENT => Ok(Vec::new()),
        listed => listed,
    }
}

fn read(message: &RouteMessage, table: u32) -> Option<KernelRoute> {
    let header = &message.header;
    // The header has only 8 bits for the number.
    let number = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Table(number) => Some(*number),
        _ => None,
    });
    if header.address_family != AddressFamily::Inet || number.unwrap_or(u32::from(header.table)) != table {
        return None;
    }
    let mut destination = Ipv4Addr::UNSPECIFIED;
    let (mut metric, mut gateway, mut interface, mut several, mut object, mut source) = (0, None, None, false, None, None);
    let mut hops = Vec::new();
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(address)) => destination = *address,
            RouteAttribute::Priority(value) => metric = *value,
            RouteAttribute::Gateway(_) | RouteAttribute::Via(_) => gateway = gateway_of(attribute).or(gateway),
            RouteAttribute::PrefSource(RouteAddress::Inet(address)) => source = Some(IpAddr::V4(*address)),
            RouteAttribute::Oif(index) => interface = Some(*index),
            RouteAttribute::MultiPath(list) => {
                several = true;
                let hop = |hop: &RouteNextHop| (hop.attributes.iter().find_map(gateway_of), Some(hop.interface_index));
                // The kernel does not use a hop whose interface is down.
                hops = list.iter().filter(|hop| !hop.flags.contains(RouteNextHopFlags::Dead)).map(hop).collect();
            }
            RouteAttribute::NhId(id) => object = Some(*id),
            _ => {}
        }
    }
    let reach = if header.flags.contains(RouteFlags::Onlink) { Reach::Onlink } else { Reach::Checked };
    Some(KernelRoute {
        destination: Ipv4Net::new(destination, header.destination_prefix_length).ok()?,
        tos: header.tos,
        kind: header.kind,
        protocol: header.protocol.into(),
        metric,
        next_hop: match (object, interface) {
            (Some(id), interface) => NextHop::Object { id, gateway, interface },
            (None, _) if several => NextHop::Several,
            (None, Some(interface)) => NextHop::One { gateway, interface, reach },
            (None, None) => NextHop::Nowhere,
        },
        source,
        hops,
    })
}

fn gateway_of(attribute: &RouteAttribute) -> Option<IpAddr> {
    match attribute {
        RouteAttribute::Gateway(RouteAddress::Inet(address)) | RouteAttribute::Via(RouteVia::Inet(address)) => {
            Some(IpAddr::V4(*address))
        }
        RouteAttribute::Via(RouteVia::Inet6(address)) => Some(IpAddr::V6(*address)),
        _ => None,
    }
}
