//! The routes to the clients of a forward, and the ones that must not be.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;

use super::verdict::{Obstacle, ObstacleReason, RoutePlan};
use crate::forward::Forward;
use crate::model::{Facts, HostRoute, InterfaceName};

/// The addresses that no route of ours may cover: packets to them would be led to the gateway of some client.
pub(super) struct Protected(BTreeSet<IpAddr>);

impl Protected {
    /// Of this node and of everything that is carried here.
    pub(super) fn of<'a>(facts: &Facts, forwards: impl Iterator<Item = &'a Forward>) -> Self {
        let mut addresses: BTreeSet<IpAddr> = facts.addresses.iter().map(|local| local.address).collect();
        addresses.extend(&facts.api_servers);
        for forward in forwards {
            addresses.insert(forward.upstream);
            addresses.extend(forward.gateway);
        }
        Self(addresses)
    }

    fn within(&self, network: IpNet) -> Option<IpAddr> {
        self.0.range(network.network()..=network.broadcast()).next().copied()
    }
}

/// What becomes of the route to each client of `forward`; nothing without a gateway.
pub(super) fn plan(facts: &Facts, forward: &Forward, protected: &Protected) -> Vec<RoutePlan> {
    let Some(gateway) = forward.gateway else { return Vec::new() };
    let link = link(facts, forward, gateway);
    forward.clients.iter().map(|client| route(facts, *client, gateway, &link, protected)).collect()
}

fn route(
    facts: &Facts,
    client: IpNet,
    gateway: IpAddr,
    link: &Result<InterfaceName, Obstacle>,
    protected: &Protected,
) -> RoutePlan {
    if let Some(local) = facts.connected(client.network())
        && local.subnet().contains(&client)
    {
        return RoutePlan::Unneeded;
    }
    let captured = if client.prefix_len() == 0 { Some(client.network()) } else { protected.within(client) };
    match (captured, link) {
        (Some(captured), _) => RoutePlan::Withheld(capture(client, gateway, captured)),
        (None, Err(obstacle)) => RoutePlan::Withheld(obstacle.clone()),
        (None, Ok(interface)) => RoutePlan::Install(HostRoute { destination: client, gateway, interface: interface.clone() }),
    }
}

fn capture(client: IpNet, gateway: IpAddr, captured: IpAddr) -> Obstacle {
    let message = format!(
        "the route to {client} through {gateway} is withheld: it would cover {captured}, an address that this node needs; write smaller client networks"
    );
    Obstacle { reason: ObstacleReason::RouteCapturesNode, message }
}

/// The interface by which the gateway is reached: the one that the object names, else the one in whose subnet it lies.
fn link(facts: &Facts, forward: &Forward, gateway: IpAddr) -> Result<InterfaceName, Obstacle> {
    let on_link = |interface: &InterfaceName| {
        facts.addresses.iter().any(|local| local.interface.as_ref() == Some(interface) && local.subnet().contains(&gateway))
    };
    let found = match &forward.internal.interface {
        Some(interface) => on_link(interface).then(|| interface.clone()),
        None => facts.connected(gateway).and_then(|local| local.interface.clone()),
    };
    found.ok_or_else(|| {
        let place = forward.internal.interface.as_ref().map_or_else(|| "this node".to_owned(), |interface| format!("interface {interface}"));
        let message = format!(
            "the gateway {gateway} lies in no subnet of {place}, so no route can lead through it; write a gateway on the link, or give the interface an address in its subnet"
        );
        Obstacle { reason: ObstacleReason::GatewayNotOnLink, message }
    })
}
