//! Tests who may use a forward, and what each of the four parties sees of it.

use super::bed::client::{ANSWER, Silence, UdpFlow, tcp_ask};
use super::bed::kernel::{Variant, on_all_backends};
use super::bed::server::Server;
use super::bed::site::Site;
use super::bed::{Bed, CLIENT, EXTERNAL, GATEWAY, INTERNAL, NEIGHBOUR, SECOND_CLIENT, SECOND_SERVER, SERVER, Topology};
use super::{REFUSED, TCP, UDP, WEB, arrival, client_asks, know_way_back, of_clients, seen_from, spec, web_both_ways};

on_all_backends![
    the_server_sees_the_external_address,
    the_client_sees_the_internal_address_when_the_server_calls,
    reverse_takes_only_the_port_that_it_names_and_only_from_the_upstream,
    another_host_on_the_line_is_not_forwarded,
    other_traffic_of_client_and_server_is_not_rewritten,
    without_an_external_address_the_server_sees_the_address_of_the_leg,
    every_host_of_a_client_network_is_served_and_none_beside_it,
    a_udp_exchange_keeps_its_translation,
    a_packet_that_enters_elsewhere_than_at_the_named_interface_is_not_forwarded,
];

fn the_server_sees_the_external_address(variant: Variant) {
    let site = Site::serve(variant, Bed::new(), &[("web", WEB)]);
    let server = Server::tcp(&site.bed.server, SERVER, [80]);
    assert_eq!(arrival(client_asks(&site.bed, 80)), seen_from(EXTERNAL, (SERVER, 80)));
    assert_eq!(client_asks(&site.bed, 81), Err(Silence::Refused));
    assert_eq!(server.seen().len(), 1);
}

fn the_client_sees_the_internal_address_when_the_server_calls(variant: Variant) {
    let all = web_both_ways();
    let site = Site::serve(variant, Bed::new(), &[("web", &all)]);
    let bed = &site.bed;
    let _client = Server::tcp(&bed.client, CLIENT, [80]);
    let _server = Server::tcp(&bed.server, SERVER, [80]);
    for port in [1, 80, 8443, 65535] {
        let seen = tcp_ask(&bed.server, SERVER, (EXTERNAL, port), ANSWER);
        assert_eq!(arrival(seen), seen_from(INTERNAL, (CLIENT, 80)), "port {port}");
    }
    assert_eq!(arrival(client_asks(bed, 80)), seen_from(EXTERNAL, (SERVER, 80)), "both ways at once");
}

fn reverse_takes_only_the_port_that_it_names_and_only_from_the_upstream(variant: Variant) {
    let callback = format!("{WEB}, reverse: {{ports: [{{name: callback, port: 9443, targetPort: 443}}]}}");
    let site = Site::serve(variant, Bed::new(), &[("web", &callback)]);
    let bed = &site.bed;
    let client = Server::tcp(&bed.client, CLIENT, [80, 443, 9444]);
    let call = |from, port| tcp_ask(&bed.server, from, (EXTERNAL, port), ANSWER);
    assert_eq!(arrival(call(SERVER, 9443)), seen_from(INTERNAL, (CLIENT, 443)));
    for port in [80, 443, 9442, 9444] {
        assert_eq!(call(SERVER, port), Err(Silence::Refused), "port {port}");
    }
    assert_eq!(call(SECOND_SERVER, 9443), Err(Silence::Refused), "another server");
    assert_eq!(client.seen().len(), 1);
}

fn another_host_on_the_line_is_not_forwarded(variant: Variant) {
    let site = Site::serve(variant, Bed::new(), &[("web", WEB)]);
    let bed = &site.bed;
    know_way_back(bed, "1.1.1.0/24");
    let server = Server::tcp(&bed.server, SERVER, [80]);
    for (netns, host) in [(&bed.neighbour, NEIGHBOUR), (&bed.client, SECOND_CLIENT), (&bed.gateway, GATEWAY)] {
        assert_eq!(tcp_ask(netns, host, (INTERNAL, 80), ANSWER), Err(Silence::Refused), "{host}");
    }
    assert_eq!(server.seen(), []);
}

fn other_traffic_of_client_and_server_is_not_rewritten(variant: Variant) {
    let all = web_both_ways();
    let site = Site::serve(variant, Bed::new(), &[("web", &all)]);
    let bed = &site.bed;
    let _servers = (Server::tcp(&bed.server, SERVER, [80, 8080]), Server::udp(&bed.server, SERVER, [53]));
    let _client = Server::tcp(&bed.client, CLIENT, [8443]);
    for (ask, port) in [(TCP, 80), (TCP, 8080), (UDP, 53)] {
        let seen = arrival(ask(&bed.client, CLIENT, (SERVER, port), ANSWER));
        assert_eq!(seen, seen_from(CLIENT, (SERVER, port)), "port {port}");
    }
    let seen = arrival(tcp_ask(&bed.server, SERVER, (CLIENT, 8443), ANSWER));
    assert_eq!(seen, seen_from(SERVER, (CLIENT, 8443)));
}

fn without_an_external_address_the_server_sees_the_address_of_the_leg(variant: Variant) {
    let masquerade = spec("external: {interface: eth0},", "ports: [{name: web, port: 8081, targetPort: 80}]");
    let site = Site::serve(variant, Bed::new(), &[("masquerade", &masquerade)]);
    let bed = &site.bed;
    let _servers = (Server::tcp(&bed.server, SERVER, [80]), Server::tcp(&bed.server, SERVER, [8080]));
    assert_eq!(arrival(client_asks(bed, 8081)), seen_from(EXTERNAL, (SERVER, 80)));
    let beside = arrival(tcp_ask(&bed.client, CLIENT, (SERVER, 8080), ANSWER));
    assert_eq!(beside, seen_from(CLIENT, (SERVER, 8080)), "only the flows of the forward");
}

fn every_host_of_a_client_network_is_served_and_none_beside_it(variant: Variant) {
    let client_networks = ["10.7.0.0/16", "10.8.0.0/24"].map(|network| network.parse().unwrap()).into();
    let bed = Bed::with(&Topology { client_networks, ..Topology::default() });
    know_way_back(&bed, "10.8.0.0/24");
    let branches = of_clients("10.7.0.0/16", "external: {addresses: [2.2.2.2]},", "ports: [{name: web, port: 80}]");
    let site = Site::serve(variant, bed, &[("branches", &branches)]);
    let bed = &site.bed;
    let server = Server::tcp(&bed.server, SERVER, [80]);
    for host in [[10, 7, 0, 1], [10, 7, 42, 0], [10, 7, 255, 254]] {
        let seen = arrival(tcp_ask(&bed.client, host, (INTERNAL, 80), ANSWER));
        assert_eq!(seen, seen_from(EXTERNAL, (SERVER, 80)), "{host:?}");
    }
    assert_eq!(tcp_ask(&bed.client, [10, 8, 0, 1], (INTERNAL, 80), ANSWER), Err(Silence::Refused));
    assert_eq!(server.seen().len(), 3);
}

fn a_udp_exchange_keeps_its_translation(variant: Variant) {
    let syslog = spec(
        "external: {addresses: [2.2.2.2]},",
        "ports: [{name: syslog, protocol: UDP, port: 514, targetPort: 1514}], \
         reverse: {ports: [{name: trap, protocol: UDP, port: 1162, targetPort: 162}]}",
    );
    let site = Site::serve(variant, Bed::new(), &[("syslog", &syslog)]);
    let bed = &site.bed;
    let server = Server::udp(&bed.server, SERVER, [1514]);
    let client = Server::udp(&bed.client, CLIENT, [162]);

    let mut flow = UdpFlow::open(&bed.client, (CLIENT, 0), (INTERNAL, 514)).unwrap();
    let first = flow.ask(ANSWER);
    assert_eq!(arrival(first), seen_from(EXTERNAL, (SERVER, 1514)));
    let mut call = UdpFlow::open(&bed.server, (SERVER, 0), (EXTERNAL, 1162)).unwrap();
    let first_call = call.ask(ANSWER);
    assert_eq!(arrival(first_call), seen_from(INTERNAL, (CLIENT, 162)));
    for _ in 0..50 {
        assert_eq!((flow.ask(ANSWER), call.ask(ANSWER)), (first, first_call));
    }
    assert_eq!((server.seen().len(), client.seen().len()), (51, 51));
    assert_eq!(client_asks(bed, 514), Err(Silence::Refused), "a port belongs to a protocol");
}

/// Hosts that reach the proxy from the wrong side: a client behind the router, an upstream on the line.
fn a_packet_that_enters_elsewhere_than_at_the_named_interface_is_not_forwarded(variant: Variant) {
    let [client, upstream] = [[1, 1, 1, 7].into(), [3, 3, 3, 7].into()];
    let misplaced = |internal: &str, external: &str| {
        format!(
            "client: {{addresses: [{client}]}}, internal: {{addresses: [{INTERNAL}]{internal}}}, \
             external: {{addresses: [{EXTERNAL}]{external}}}, upstream: {{targets: [{{address: {upstream}}}]}}, \
             ports: [{{name: web, port: 80}}], reverse: {{ports: [{{name: back, port: 8080, targetPort: 80}}]}}"
        )
    };
    let named = misplaced(", interface: eth1", ", interface: eth0");
    let unnamed = misplaced("", "");
    let site = Site::programme(variant, Bed::new(), &[("misplaced", &named)]);
    let bed = &site.bed;
    bed.router.ip(&format!("addr add {client}/32 dev lo"));
    bed.neighbour.ip(&format!("addr add {upstream}/32 dev lo"));
    bed.proxy().netns.ip(&format!("route add {upstream} via {NEIGHBOUR} dev eth1"));
    bed.proxy().netns.ip(&format!("route add {client} via {} dev eth0", super::bed::ROUTER));
    let _servers = [Server::tcp(&bed.neighbour, upstream, [80]), Server::tcp(&bed.router, client, [80])];

    let forward = || arrival(tcp_ask(&bed.router, client, (INTERNAL, 80), ANSWER));
    let reverse = || arrival(tcp_ask(&bed.neighbour, upstream, (EXTERNAL, 8080), ANSWER));
    assert_eq!((forward(), reverse()), (REFUSED, REFUSED));
    site.replace(&[("misplaced", &unnamed)]);
    assert_eq!((forward(), reverse()), (seen_from(EXTERNAL, (upstream, 80)), seen_from(INTERNAL, (client, 80))));
}
