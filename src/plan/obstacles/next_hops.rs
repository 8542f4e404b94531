//! The neighbours that a forward depends on, and the effect if they do not answer.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

use super::ways::Leaving;
use super::{Search, obstacle};
use crate::api::Role;
use crate::model::{Answer, InterfaceName, NextHop};
use crate::plan::verdict::{Obstacle, ObstacleReason, RoutePlan};

/// The party that a next hop leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Towards {
    Clients,
    Upstream,
    /// One of several next hops of a route; the kernel sends a part of the flows there.
    SomeClients,
    SomeUpstream,
}

impl fmt::Display for Towards {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Clients => "the next hop to the clients",
            Self::Upstream => "the next hop to the upstream",
            Self::SomeClients => "one of several next hops to the clients, to which a part of the flows goes",
            Self::SomeUpstream => "one of several next hops to the upstream, to which a part of the flows goes",
        })
    }
}

impl Search<'_> {
    /// The neighbours that must answer: routers, and an upstream on the link. A client on the link need not answer, because
    /// it may be switched off.
    pub(super) fn next_hops(&self) -> BTreeSet<(NextHop, Towards)> {
        let installed = self.verdict.routes.iter().filter_map(RoutePlan::installed);
        let mut found: BTreeSet<(NextHop, Towards)> =
            installed.map(|route| (NextHop { interface: route.interface, address: route.gateway }, Towards::Clients)).collect();
        if self.forward.gateway.is_none() {
            let ways = self.to_clients.iter().filter(|(client, _)| client.prefix_len() > 0);
            let ways = ways.filter_map(|(_, courses)| courses.certain().and_then(Leaving::of));
            found.extend(ways.flat_map(|way| neighbours(way, None, [Towards::Clients, Towards::SomeClients])));
        }
        if self.verdict.role == Some(Role::Active) {
            let upstream = self.forward.upstream;
            let way = self.hop_to_upstream();
            found.extend(
                way.into_iter().flat_map(|way| neighbours(way, Some(upstream), [Towards::Upstream, Towards::SomeUpstream])),
            );
        }
        found
    }

    /// The obstacle at a next hop. Packets to a next hop that does not answer are lost.
    pub(super) fn at_next_hop(&self, (next_hop, towards): &(NextHop, Towards)) -> Option<Obstacle> {
        let NextHop { interface, address } = next_hop;
        match self.facts.answers.of(next_hop) {
            Answer::Seen => None,
            Answer::Silent => {
                let message = format!(
                    "{address}, {towards}, does not answer on {interface} (ARP); check the cable, the VLAN and the address of the router"
                );
                Some(obstacle(ObstacleReason::GatewayUnreachable, message))
            }
            Answer::Awaited => {
                let message = format!("{address}, {towards}, has not answered yet on {interface} (ARP); it is being asked");
                Some(obstacle(ObstacleReason::GatewayPending, message))
            }
        }
    }
}

/// The neighbours of a way: one, or several. Without a router, it is the `destination`, if that must answer.
fn neighbours(way: Leaving<'_>, destination: Option<IpAddr>, [one, some]: [Towards; 2]) -> Vec<(NextHop, Towards)> {
    let next_hop = |gateway: Option<IpAddr>, interface: &InterfaceName| {
        Some(NextHop { interface: *interface, address: gateway.or(destination)? })
    };
    if let Some(interface) = way.interface {
        return next_hop(way.gateway, interface).map(|next_hop| (next_hop, one)).into_iter().collect();
    }
    way.several.iter().filter_map(|hop| Some((next_hop(hop.gateway, &hop.interface)?, some))).collect()
}
