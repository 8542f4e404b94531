//! The routes to the clients of a forward, and the routes that must not be installed.

use std::net::IpAddr;

use ipnet::IpNet;

use super::protected::Protected;
use super::verdict::{Obstacle, ObstacleReason, RoutePlan};
use crate::forward::Forward;
use crate::model::{Facts, HostRoute, InterfaceName, Sight};

/// The route to each client of `forward`; none without a gateway. A named gateway is used even if the client is in a subnet
/// of this node.
pub(super) fn plan(facts: &Facts, forward: &Forward, protected: &Protected<'_>) -> Vec<RoutePlan> {
    let Some(gateway) = forward.gateway else { return Vec::new() };
    let link = link(facts, forward, gateway);
    let route = |client: &IpNet| match (protected.withhold(forward, *client, gateway), &link) {
        (Some(obstacle), _) => RoutePlan::Withheld(obstacle),
        (None, Err(obstacle)) => RoutePlan::Withheld(obstacle.clone()),
        (None, Ok(_)) if facts.sight == Sight::Partial && !stands(facts, *client, gateway) => {
            RoutePlan::Withheld(unseen(*client, gateway))
        }
        (None, Ok(interface)) => RoutePlan::Install(HostRoute { destination: *client, gateway, interface: *interface }),
    };
    forward.clients.iter().map(route).collect()
}

/// Whether such a route of ours is there already.
fn stands(facts: &Facts, client: IpNet, gateway: IpAddr) -> bool {
    facts.routes.iter().any(|route| route.ours && route.destination == client && route.gateway == Some(gateway))
}

fn unseen(client: IpNet, gateway: IpAddr) -> Obstacle {
    let message = format!(
        "the route to {client} through {gateway} is withheld: it is not known where the API servers are, and it might cover one; give the agent the right to list and watch the EndpointSlice kubernetes in the namespace default (deploy/base/rbac.yaml); its log says what is missing"
    );
    Obstacle { reason: ObstacleReason::ApiServersUnknown, message }
}

/// The interface by which the gateway is reached. A route to the gateway that is more specific than every subnet around it
/// decides, as in the kernel; then the interface that the object names if it reaches the gateway; then the route of the
/// kernel, and a subnet around the gateway. (The name states where packets enter. On a VRRP device packets may enter while
/// the gateway is reached by the link below it.)
fn link(facts: &Facts, forward: &Forward, gateway: IpAddr) -> Result<InterfaceName, Obstacle> {
    // On a point-to-point link the peer is in no local subnet, but the kernel has a route to it without a gateway.
    let route = facts.route_to(gateway).filter(|route| route.gateway.is_none() && route.interface.is_some());
    let direct = route.and_then(|route| route.interface);
    let subnet = facts.connected(gateway);
    let connected = || subnet.and_then(|local| local.interface);
    // A route that is wider than the subnet is a default route, while the link of the subnet is down.
    let (length, within) = (route.map(|route| route.destination.prefix_len()), subnet.map(|local| local.prefix_len));
    let chosen = || direct.filter(|_| length >= within);
    let on_link = |interface: &InterfaceName| {
        direct.as_ref() == Some(interface)
            || facts
                .addresses
                .iter()
                .any(|local| local.interface.as_ref() == Some(interface) && local.subnet().contains(&gateway))
    };
    let specific = direct.filter(|_| length > within);
    let named = || forward.internal.interface.filter(on_link);
    let found = specific.or_else(named).or_else(chosen).or_else(connected).or(direct);
    found.ok_or_else(|| {
        let message = format!(
            "the gateway {gateway} lies in no subnet of this node, so no route can lead through it; write a gateway on the link, or give the interface an address in its subnet"
        );
        Obstacle { reason: ObstacleReason::GatewayNotOnLink, message }
    })
}
