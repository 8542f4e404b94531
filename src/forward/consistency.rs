//! Checks the fields of one object together: loops, routes that would capture required addresses, and `reverse`.

use std::net::IpAddr;

use super::refusal::Found;
use super::{Forward, Refusal, RefusalReason};
use crate::api::PortForwardSpec;

/// Checks whether the fields of `spec`, each of which is valid by itself in `forward`, fit each other. Adds what does not to
/// `found`.
pub(super) fn check(found: &mut Found, spec: &PortForwardSpec, forward: &Forward) {
    found.take(refuse_nothing_to_do(forward));
    refuse_loops(found, spec, forward);
    // A client that is an address of the proxy is both, and is reported once.
    if !found.has(RefusalReason::ForwardLoop) {
        found.take(refuse_captured(forward));
    }
    found.take(refuse_reverse_without_parties(spec, forward));
    found.take(refuse_overlapping_directions(forward));
}

fn refuse_nothing_to_do(forward: &Forward) -> Result<(), Refusal> {
    if forward.ports.is_empty() && forward.reverse.is_empty() {
        let what = "is empty and there is no reverse, so nothing would be forwarded; \
                    write a port that the client may use, or reverse.ports for connections that only the upstream opens";
        return Err(Refusal::new(RefusalReason::Required, "spec.ports", what));
    }
    Ok(())
}

fn refuse_loops(found: &mut Found, spec: &PortForwardSpec, forward: &Forward) {
    let own = |address: IpAddr| address == forward.internal.address || Some(address) == forward.external;
    let mut refuse = |path: &str, address: IpAddr, instead: &str| {
        let what = format_args!("{address} is an address of the proxy itself; {instead}");
        found.push(Refusal::new(RefusalReason::ForwardLoop, path, what));
    };
    if own(forward.upstream) {
        refuse("spec.upstream.targets[0].address", forward.upstream, "write the address of the server");
    }
    if let Some(gateway) = forward.gateway.filter(|gateway| own(*gateway)) {
        refuse("spec.internal.gateways[0]", gateway, "write the router before the clients, or leave gateways out");
    }
    // The entries as they are written: after merging, such an address could be part of a network.
    for (index, text) in spec.client.addresses.iter().enumerate() {
        if let Some(client) = text.parse().ok().filter(|client| own(*client)) {
            refuse(&format!("spec.client.addresses[{index}]"), client, "write the host that connects");
        }
    }
}

/// No host route may send packets for a party of the forward, or for the proxy's own subnets, to the gateway.
fn refuse_captured(forward: &Forward) -> Result<(), Refusal> {
    let Some(gateway) = forward.gateway else { return Ok(()) };
    let victims = [
        ("the gateway", Some(gateway)),
        ("the internal address", Some(forward.internal.address)),
        ("the external address", forward.external),
        ("the upstream", Some(forward.upstream)),
    ];
    for (name, victim) in victims.into_iter().filter_map(|(name, victim)| Some((name, victim?))) {
        if let Some(client) = forward.clients.iter().find(|client| client.contains(&victim)) {
            let what = format_args!(
                "{client} contains {name}, {victim}: the route to {client} through {gateway} would capture its packets; \
                 write networks that do not contain it, or leave internal.gateways out if the clients are on a link of the node"
            );
            return Err(Refusal::new(RefusalReason::RouteCapturesNode, "spec.client.addresses", what));
        }
    }
    Ok(())
}

fn refuse_reverse_without_parties(spec: &PortForwardSpec, forward: &Forward) -> Result<(), Refusal> {
    if spec.reverse.is_none() {
        return Ok(());
    }
    if forward.external.is_none() {
        let what = "listens on external.addresses, which is empty; write the external address, or leave reverse out";
        return Err(Refusal::new(RefusalReason::ReverseNeedsExternalAddress, "spec.reverse", what));
    }
    match spec.client.addresses.as_slice() {
        [client] if !client.contains('/') => Ok(()),
        [..] => {
            let what = "needs exactly one client that is an address; write one address in client.addresses, or leave reverse out";
            Err(Refusal::new(RefusalReason::ReverseNeedsOneClient, "spec.reverse", what))
        }
    }
}

/// If both legs are the same, a packet from a client that is also the upstream must not match both directions.
fn refuse_overlapping_directions(forward: &Forward) -> Result<(), Refusal> {
    let one_interface = match (&forward.internal.interface, &forward.external_interface) {
        (Some(internal), Some(external)) => internal == external,
        (None, _) | (_, None) => true,
    };
    let same_client = forward.clients.iter().any(|client| client.contains(&forward.upstream));
    if forward.external != Some(forward.internal.address) || !one_interface || !same_client {
        return Ok(());
    }
    for (index, reverse) in forward.reverse.iter().enumerate() {
        let clash = |entry: &&super::PortEntry| entry.protocol == reverse.protocol && entry.ports.overlaps(reverse.ports);
        if let Some(entry) = forward.ports.iter().find(clash) {
            let what = format_args!(
                "{} {} shares ports with {} of spec.ports, and the client is also the upstream; write each port in only one of the two lists",
                reverse.protocol, reverse.ports, entry.name
            );
            return Err(Refusal::new(RefusalReason::OverlappingPorts, &format!("spec.reverse.ports[{index}]"), what));
        }
    }
    Ok(())
}
