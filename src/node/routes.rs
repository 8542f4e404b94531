//! The routing tables (ip-route(8)).

use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_route::route::RouteType;

use super::links::Links;
use super::{FactsError, listing};
use crate::dataplane::routes::PROTOCOL;
use crate::model::{Delivery, Hop, LocalRoute, LocalTable, Route, RouteKind, RouteTable};
use crate::netlink::Socket;
use crate::netlink::route::{KernelRoute, local_table};

/// The routes of a table. A route for a type of service is left out, because only packets with that type use it.
pub(super) fn routes(table: &[KernelRoute], links: &Links) -> RouteTable {
    let route = |route: &KernelRoute| {
        let (gateway, interface) = route.next_hop.single();
        Some(Route {
            kind: kind(route.kind)?,
            destination: IpNet::V4(route.destination),
            gateway,
            interface: interface.and_then(|index| links.name(index)).copied(),
            hops: hops(&route.hops, links),
            metric: route.metric,
            ours: route.protocol == PROTOCOL,
        })
    };
    table.iter().filter(|route| route.tos == 0).filter_map(route).collect()
}

fn hops(hops: &[(Option<IpAddr>, Option<u32>)], links: &Links) -> Vec<Hop> {
    let hop = |(gateway, index): &(Option<IpAddr>, Option<u32>)| {
        Some(Hop { gateway: *gateway, interface: *index.and_then(|index| links.name(index))? })
    };
    hops.iter().filter_map(hop).collect()
}

fn kind(kind: RouteType) -> Option<RouteKind> {
    match kind {
        RouteType::Unicast => Some(RouteKind::Unicast),
        RouteType::BlackHole | RouteType::Unreachable | RouteType::Prohibit => Some(RouteKind::Nowhere),
        RouteType::Throw => Some(RouteKind::Throw),
        RouteType::Local => Some(RouteKind::Local),
        _ => None,
    }
}

/// The table `local`, which the kernel searches before all others.
pub(super) async fn local(socket: &mut Socket, links: &Links) -> Result<LocalTable, FactsError> {
    let table = local_table(socket).await.map_err(listing("local routes"))?;
    let route = |route: KernelRoute| {
        let (_, interface) = route.next_hop.single();
        LocalRoute {
            destination: IpNet::V4(route.destination),
            delivery: if route.kind == RouteType::Local { Delivery::Local } else { Delivery::Other },
            interface: interface.and_then(|index| links.name(index)).copied(),
        }
    };
    Ok(table.into_iter().filter(|route| route.tos == 0).map(route).collect())
}
