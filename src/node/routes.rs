//! The tables `main` and `local`, and whether other tables are used as well (ip-route(8), ip-rule(8)).

use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_route::route::RouteType;
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::links::Links;
use super::{FactsError, listing};
use crate::dataplane::routes::PROTOCOL;
use crate::model::{Delivery, Hop, LocalRoute, LocalTable, Route, RouteKind, RouteTable};
use crate::netlink::Socket;
use crate::netlink::route::{KernelRoute, local_table};

/// The default rules of the kernel, as priority and table: `local`, `main` and `default` (ip-rule(8)).
const OWN_RULES: [(u32, u32); 3] = [(0, 255), (32766, 254), (32767, 253)];

/// The routes of the main table. A route for a type of service is left out, because only packets with that type use it.
pub(super) fn routes(table: &[KernelRoute], links: &Links) -> RouteTable {
    let route = |route: &KernelRoute| {
        let (gateway, interface) = route.next_hop.single();
        Some(Route {
            kind: kind(route.kind)?,
            destination: IpNet::V4(route.destination),
            gateway,
            interface: interface.and_then(|index| links.name(index)).cloned(),
            hops: hops(&route.hops, links),
            metric: route.metric,
            ours: route.protocol == PROTOCOL,
        })
    };
    table.iter().filter(|route| route.tos == 0).filter_map(route).collect()
}

fn hops(hops: &[(Option<IpAddr>, Option<u32>)], links: &Links) -> Vec<Hop> {
    let hop = |(gateway, index): &(Option<IpAddr>, Option<u32>)| {
        Some(Hop { gateway: *gateway, interface: index.and_then(|index| links.name(index))?.clone() })
    };
    hops.iter().filter_map(hop).collect()
}

fn kind(kind: RouteType) -> Option<RouteKind> {
    match kind {
        RouteType::Unicast => Some(RouteKind::Unicast),
        RouteType::BlackHole | RouteType::Unreachable | RouteType::Prohibit | RouteType::Throw => Some(RouteKind::Nowhere),
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
            interface: interface.and_then(|index| links.name(index)).cloned(),
        }
    };
    Ok(table.into_iter().filter(|route| route.tos == 0).map(route).collect())
}

/// Whether there are rules in addition to the three default rules of the kernel.
pub(super) async fn is_chosen_by_policy(socket: &mut Socket) -> Result<bool, FactsError> {
    let mut request = RuleMessage::default();
    request.header.family = AddressFamily::Inet;
    let added = socket
        .dump(RouteNetlinkMessage::GetRule(request), |message| match message {
            RouteNetlinkMessage::NewRule(rule) if !is_own(&rule) => Some(()),
            _ => None,
        })
        .await
        .map_err(listing("routing rules"))?;
    Ok(!added.is_empty())
}

fn is_own(rule: &RuleMessage) -> bool {
    let (mut priority, mut table) = (0, u32::from(rule.header.table));
    for attribute in &rule.attributes {
        match attribute {
            RuleAttribute::Priority(value) => priority = *value,
            RuleAttribute::Table(value) => table = *value,
            // A rule with a selector is not a default rule.
            RuleAttribute::Source(_)
            | RuleAttribute::Destination(_)
            | RuleAttribute::Iifname(_)
            | RuleAttribute::Oifname(_)
            | RuleAttribute::FwMark(_)
            | RuleAttribute::L3MDev(_)
            | RuleAttribute::UidRange(_)
            | RuleAttribute::IpProtocol(_)
            | RuleAttribute::SourcePortRange(_)
            | RuleAttribute::DestinationPortRange(_) => return false,
            _ => {}
        }
    }
    rule.header.action == RuleAction::ToTable && rule.header.tos == 0 && OWN_RULES.contains(&(priority, table))
}
