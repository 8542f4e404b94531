//! Whether all of a forward lies inside one grant.
//!
//! Containment and not overlap: every client, every listen port, every target port and every route of the forward must be
//! permitted. Several entries of one list may cover a network or a range of ports together. Looks neither at the node nor at
//! limits and priority.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::forward::{Forward, PortEntry};
use crate::grant::{Grant, Sockets};
use crate::model::{PortRange, Protocol, TargetPorts};

/// A part of a forward that a grant does not permit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Outside {
    /// The field of the forward and its value.
    part: String,
    /// What the grant lacks.
    lacks: &'static str,
}

impl Outside {
    /// The message for the grant with this name.
    pub(super) fn of(&self, grant: &str) -> String {
        format!("{} {} of grant {grant}", self.part, self.lacks)
    }
}

/// The parts of `forward` that `grant` does not permit, in the order of the fields. Empty if all of it lies inside.
pub(super) fn outside(grant: &Grant, forward: &Forward) -> Vec<Outside> {
    let parts = [clients(grant, forward), listen(grant, forward), legs(grant, forward), routes(grant, forward)];
    parts.into_iter().flatten().chain(upstream(grant, forward)).chain(reverse(grant, forward)).collect()
}

fn part(part: String, lacks: &'static str) -> Outside {
    Outside { part, lacks }
}

fn clients(grant: &Grant, forward: &Forward) -> Option<Outside> {
    let outside = uncovered(&forward.clients, &grant.clients)?;
    Some(part(format!("spec.client.addresses {}", shown(outside)), "is not in clients"))
}

/// The listen address with each protocol and port. A forward without `ports` uses the address only as the source of `reverse`.
fn listen(grant: &Grant, forward: &Forward) -> Option<Outside> {
    const LACKS: &str = "is not in listen";
    let address = forward.internal.address;
    if !holds(&grant.listen, address) {
        return Some(part(format!("spec.internal.addresses[0] {address}"), LACKS));
    }
    forward.ports.iter().enumerate().find_map(|(index, entry)| {
        let ports = unpermitted(&grant.listen, address, entry.protocol, entry.ports)?;
        Some(part(format!("spec.ports[{index}] ({}), {} {ports} on {address},", entry.name, entry.protocol), LACKS))
    })
}

/// The external address, and whether both legs are one.
fn legs(grant: &Grant, forward: &Forward) -> Option<Outside> {
    const ONE_LEG: &str = "is not permitted by oneLeg";
    if let Some(external) = forward.external {
        if !grant.external.iter().any(|network| network.contains(&external)) {
            return Some(part(format!("spec.external.addresses[0] {external}"), "is not in external"));
        }
        if !grant.one_leg && external == forward.internal.address {
            return Some(part(format!("spec.external.addresses[0] {external}, which is the internal address too,"), ONE_LEG));
        }
    }
    let interface = forward.external_interface.as_ref().filter(|_| !grant.one_leg)?;
    let same = forward.internal.interface.as_ref() == Some(interface);
    same.then(|| part(format!("spec.external.interface {interface}, which is the internal interface too,"), ONE_LEG))
}

/// The gateway with the route to each client.
fn routes(grant: &Grant, forward: &Forward) -> Option<Outside> {
    let gateway = forward.gateway?;
    let Some(permitted) = grant.gateways.iter().find(|entry| entry.address == gateway) else {
        return Some(part(format!("spec.internal.gateways[0] {gateway}"), "is not in gateways"));
    };
    let outside = uncovered(&forward.clients, &permitted.routes)?;
    Some(part(format!("spec.client.addresses {}, routed through {gateway},", shown(outside)), "is not in gateways.routes"))
}

/// The upstream address with each target port.
fn upstream(grant: &Grant, forward: &Forward) -> Option<Outside> {
    const LACKS: &str = "is not in upstreams";
    let address = forward.upstream;
    if !holds(&grant.upstreams, address) {
        return Some(part(format!("spec.upstream.targets[0].address {address}"), LACKS));
    }
    forward.ports.iter().enumerate().find_map(|(index, entry)| {
        let ports = unpermitted(&grant.upstreams, address, entry.protocol, target(entry))?;
        Some(part(format!("spec.ports[{index}] ({}), target {} {ports} of {address},", entry.name, entry.protocol), LACKS))
    })
}

/// The ports that the upstream may connect to. The upstream must be permitted for the protocol; its own ports are any.
fn reverse(grant: &Grant, forward: &Forward) -> Option<Outside> {
    forward.reverse.iter().enumerate().find_map(|(index, PortEntry { name, protocol, ports, .. })| {
        let entries = grant.reverse.iter().filter(|entry| entry.protocol.is_none_or(|only| only == *protocol));
        let permitted: Vec<PortRange> = entries.map(|entry| entry.ports).collect();
        if let Some(ports) = ports.minus(&permitted).first() {
            return Some(part(format!("spec.reverse.ports[{index}] ({name}), {protocol} {ports},"), "is not in reverse"));
        }
        let mut sources = of_protocol(&grant.upstreams, *protocol).filter(|entry| entry_holds(entry, forward.upstream));
        let (address, lacks) = (forward.upstream, "is not in upstreams");
        sources
            .next()
            .is_none()
            .then(|| part(format!("spec.upstream.targets[0].address {address} with {protocol} for reverse"), lacks))
    })
}

/// The target ports of an entry.
fn target(entry: &PortEntry) -> PortRange {
    match entry.target {
        TargetPorts::Same => entry.ports,
        TargetPorts::One(port) => std::num::NonZeroU16::new(port).map_or(entry.ports, PortRange::single),
        TargetPorts::Shifted(shift) => shift.to(),
    }
}

/// The first of `networks` that `permitted` does not cover. A grant merges its networks, so a network that several entries
/// cover together lies inside one.
fn uncovered(networks: &[IpNet], permitted: &[IpNet]) -> Option<IpNet> {
    networks.iter().copied().find(|network| !permitted.iter().any(|permitted| permitted.contains(network)))
}

/// The first ports of `ports` on `address` that no entry permits.
fn unpermitted(sockets: &[Sockets], address: IpAddr, protocol: Protocol, ports: PortRange) -> Option<PortRange> {
    let permitted: Vec<PortRange> =
        of_protocol(sockets, protocol).filter(|entry| entry_holds(entry, address)).map(|entry| entry.ports).collect();
    ports.minus(&permitted).first().copied()
}

fn of_protocol(sockets: &[Sockets], protocol: Protocol) -> impl Iterator<Item = &Sockets> {
    sockets.iter().filter(move |entry| entry.protocol.is_none_or(|only| only == protocol))
}

fn holds(sockets: &[Sockets], address: IpAddr) -> bool {
    sockets.iter().any(|entry| entry_holds(entry, address))
}

fn entry_holds(entry: &Sockets, address: IpAddr) -> bool {
    entry.cidrs.iter().any(|network| network.contains(&address))
}

/// A network as the objects write it: a single address without its prefix.
fn shown(network: IpNet) -> String {
    if network.prefix_len() == network.max_prefix_len() { network.addr().to_string() } else { network.to_string() }
}
