//! The neighbours that a forward depends on, and the effect if they do not answer.

use std::collections::BTreeSet;
use std::fmt;

use super::{Search, obstacle};
use crate::api::Role;
use crate::model::{Answer, NextHop};
use crate::plan::verdict::{Obstacle, ObstacleReason, RoutePlan, Verdict};

/// The party that a next hop leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Towards {
    Clients,
    Upstream,
}

impl fmt::Display for Towards {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Clients => "clients",
            Self::Upstream => "upstream",
        })
    }
}

impl Search<'_> {
    /// The neighbours that must answer: routers, and an upstream on the link. A client on the link need not answer, because
    /// it may be switched off.
    pub(super) fn next_hops(&self, verdict: &Verdict) -> BTreeSet<(NextHop, Towards)> {
        let installed = verdict.routes.iter().filter_map(RoutePlan::installed);
        let mut found: BTreeSet<(NextHop, Towards)> = installed
            .map(|route| (NextHop { interface: route.interface.clone(), address: route.gateway }, Towards::Clients))
            .collect();
        // With policy routing, the main table does not show which route packets take.
        if self.facts.policy_routing {
            return found;
        }
        if self.forward.gateway.is_none() {
            let routers = self.forward.clients.iter().filter(|client| client.prefix_len() > 0).filter_map(|client| {
                let route = self.facts.route_to(client.network())?;
                Some(NextHop { interface: route.interface.clone()?, address: route.gateway? })
            });
            found.extend(routers.map(|router| (router, Towards::Clients)));
        }
        if verdict.role == Some(Role::Active) {
            found.extend(self.next_hop_to_upstream().map(|next_hop| (next_hop, Towards::Upstream)));
        }
        found
    }

    fn next_hop_to_upstream(&self) -> Option<NextHop> {
        let route = self.facts.route_to(self.forward.upstream)?;
        Some(NextHop { interface: route.interface.clone()?, address: route.gateway.unwrap_or(self.forward.upstream) })
    }

    /// The obstacle at a next hop. Packets to a next hop that does not answer are lost.
    pub(super) fn at_next_hop(&self, (next_hop, towards): &(NextHop, Towards)) -> Option<Obstacle> {
        let NextHop { interface, address } = next_hop;
        match self.facts.answers.of(next_hop) {
            Answer::Seen => None,
            Answer::Silent => {
                let message = format!(
                    "{address}, the next hop to the {towards}, does not answer on {interface} (ARP); check the cable, the VLAN and the address of the router"
                );
                Some(obstacle(ObstacleReason::GatewayUnreachable, message))
            }
            Answer::Awaited => {
                let message = format!(
                    "{address}, the next hop to the {towards}, has not answered yet on {interface} (ARP); it is being asked"
                );
                Some(obstacle(ObstacleReason::GatewayPending, message))
            }
        }
    }
}
