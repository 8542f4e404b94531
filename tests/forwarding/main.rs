//! Tests the effect of forwards as the hosts on each side see it, with real sockets and both iptables variants.

#[path = "../bed/mod.rs"]
mod bed;

mod exact;
mod filtering;
mod legs;
mod moving;
mod parties;
mod ports;
mod tenants;

use std::net::Ipv4Addr;

use bed::client::{ANSWER, Silence, tcp_ask, udp_ask};
use bed::netns::Netns;
use bed::observe::{Observation, answered};
use bed::server::Seen;
use bed::{Bed, CLIENT, GATEWAY, INTERNAL};

/// The seed's forward, without its reverse.
const WEB: &str = "client: {addresses: [1.1.1.1]}, internal: {addresses: [192.168.0.2], interface: eth1, gateways: [192.168.0.1]}, \
    external: {addresses: [2.2.2.2], interface: eth0}, upstream: {targets: [{address: 3.3.3.3}]}, ports: [{name: http, port: 80}]";

/// The seed's forward with its reverse.
fn web_both_ways() -> String {
    format!("{WEB}, reverse: {{ports: [{{name: all, port: 1, endPort: 65535, targetPort: 80, targetEndPort: 80}}]}}")
}

/// A spec for the seed's client, with its gateway, and the seed's server.
fn spec(external: &str, ports: &str) -> String {
    of_clients("1.1.1.1", external, ports)
}

/// A spec for these clients, with the seed's gateway and server.
fn of_clients(clients: &str, external: &str, ports: &str) -> String {
    format!(
        "client: {{addresses: [{clients}]}}, internal: {{addresses: [192.168.0.2], gateways: [192.168.0.1]}}, {external} \
         upstream: {{targets: [{{address: 3.3.3.3}}]}}, {ports}"
    )
}

/// The seed's client connects to a port of the internal address.
fn client_asks(bed: &Bed, port: u16) -> Result<Seen, Silence> {
    tcp_ask(&bed.client, CLIENT, (INTERNAL, port), ANSWER)
}

/// The result of a probe.
fn arrival(answer: Result<Seen, Silence>) -> Observation {
    answer.into()
}

/// The arrival of a connection that appears to come from `peer`.
fn seen_from(peer: Ipv4Addr, at: (Ipv4Addr, u16)) -> Observation {
    answered(at, peer)
}

/// The answer of a port without a listener.
const REFUSED: Observation = Observation::Silent(Silence::Refused);

/// Both transport protocols.
type Ask = fn(&Netns, Ipv4Addr, (Ipv4Addr, u16), std::time::Duration) -> Result<Seen, Silence>;
const TCP: Ask = |netns, from, to, limit| tcp_ask(netns, from, to, limit);
const UDP: Ask = |netns, from, to, limit| udp_ask(netns, from, to, limit);

/// Gives the proxy a route to these hosts, so that it can refuse them at once.
fn know_way_back(bed: &Bed, hosts: &str) {
    bed.proxy().netns.ip(&format!("route add {hosts} via {GATEWAY} dev eth1"));
}
