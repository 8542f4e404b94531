//! Tests what a forward of one namespace cannot do to the nodes and to the forwards of another namespace.

use std::fmt::Write as _;

use super::bed::agent::{Agent, AgentOptions, Manifests};
use super::bed::kernel::{Variant, on_all_backends};
use super::bed::server::Server;
use super::bed::{Bed, CLIENT, EXTERNAL, GATEWAY, INTERNAL, NEIGHBOUR, SERVER, Topology};
use super::{ANSWER, arrival, client_asks, seen_from, udp_ask};

on_all_backends![one_packet_does_not_circulate_between_two_nodes, a_younger_forward_takes_no_client_of_an_older_one,];

/// Starts an agent on every proxy. Each forward is given as its key and its spec.
fn start(variant: Variant, bed: &Bed, forwards: &[(&str, &str)]) -> Vec<Agent> {
    let mut text = String::new();
    for (key, spec) in forwards {
        let (namespace, name) = key.split_once('/').unwrap();
        let _ = writeln!(text, "---\napiVersion: portforward.dev/v1alpha1\nkind: PortForward");
        let _ = writeln!(text, "metadata: {{name: {name}, namespace: {namespace}}}\nspec: {{{spec}}}");
    }
    let start = |(index, proxy)| {
        let manifests = Manifests::new(proxy);
        manifests.put("forwards.yaml", &text);
        let options = AgentOptions { node_name: format!("proxy{index}"), ..AgentOptions::new(variant) };
        Agent::start(proxy, &manifests, &options)
    };
    bed.proxies.iter().enumerate().map(start).collect()
}

/// Two forwards on two nodes, each the other's upstream. Both were ready, and one packet made 127 conntrack entries on each
/// node.
fn one_packet_does_not_circulate_between_two_nodes(variant: Variant) {
    let there = "client: {addresses: [192.168.0.9, 192.168.0.22]}, internal: {addresses: [192.168.0.2]}, \
        external: {addresses: [192.168.0.21]}, upstream: {targets: [{address: 192.168.0.22}]}, \
        ports: [{name: a, protocol: UDP, port: 7777}]";
    let back = "client: {addresses: [192.168.0.21]}, internal: {addresses: [192.168.0.22]}, \
        external: {addresses: [192.168.0.22]}, upstream: {targets: [{address: 192.168.0.2}]}, \
        ports: [{name: a, protocol: UDP, port: 7777}]";
    let bed = Bed::with(&Topology { proxies: 2, ..Topology::default() });
    let agents = start(variant, &bed, &[("a/there", there), ("b/back", back)]);
    let second = std::net::Ipv4Addr::new(192, 168, 0, 22);
    let _server = Server::udp(&bed.proxies[1].netns, second, [7777]);
    agents[0].wait_node_reason("a/there", "Ready", "Ready");
    agents[1].wait_node_reason("b/back", "Ready", "ForwardLoop");
    agents[0].wait_node_reason("b/back", "Ready", "ForwardLoop");
    // The packet leaves the first forward and ends where the second one would have taken it.
    let answer = udp_ask(&bed.neighbour, NEIGHBOUR, (INTERNAL, 7777), ANSWER);
    assert_eq!(arrival(answer), seen_from(std::net::Ipv4Addr::new(192, 168, 0, 21), (second, 7777)));
    let entries = [0, 1].map(|proxy| bed.proxies[proxy].conntrack("-p udp --dport 7777").len());
    assert!(entries[0] == 1 && entries[1] <= 1, "at most one entry on each node: {entries:?}");
}

/// The first forward has no gateway, because the node has a route to its client. The second one names the same client and a
/// gateway of its own.
fn a_younger_forward_takes_no_client_of_an_older_one(variant: Variant) {
    let bed = Bed::new();
    bed.proxy().netns.ip(&format!("route add {CLIENT} via {GATEWAY}"));
    let alice = "client: {addresses: [1.1.1.1]}, internal: {addresses: [192.168.0.2]}, external: {addresses: [2.2.2.2]}, \
        upstream: {targets: [{address: 3.3.3.3}]}, ports: [{name: a, port: 80}]";
    let mallory = "client: {addresses: [1.1.1.1]}, internal: {addresses: [192.168.0.2], gateways: [192.168.0.9]}, \
        upstream: {targets: [{address: 3.3.3.4}]}, ports: [{name: a, port: 81}]";
    let wide = "client: {addresses: [1.1.1.0/24]}, internal: {addresses: [192.168.0.2], gateways: [192.168.0.9]}, \
        upstream: {targets: [{address: 3.3.3.4}]}, ports: [{name: a, port: 82}]";
    let agents = start(variant, &bed, &[("a/alice", alice), ("b/mallory", mallory), ("b/wide", wide)]);
    let _server = Server::tcp(&bed.server, SERVER, [80]);
    agents[0].wait_condition("a/alice", "Ready", "True", "Ready");
    agents[0].wait_condition("b/mallory", "Ready", "False", "RouteCapturesClient");
    agents[0].wait_nodes("Programmed", 3);
    let route = bed.proxy().netns.ip(&format!("route get {CLIENT}"));
    assert!(route.contains(&format!("via {GATEWAY}")), "{route}");
    assert_eq!(arrival(client_asks(&bed, 80)), seen_from(EXTERNAL, (SERVER, 80)));
    // Without the route of the other program, nothing of the younger forwards comes in its place.
    bed.proxy().netns.ip(&format!("route del {CLIENT}"));
    agents[0].wait_condition("b/wide", "Ready", "False", "RouteCapturesClient");
    let ours = bed.proxy().netns.ip("route show proto 154");
    assert_eq!(ours, "", "no route of the younger ones");
}
