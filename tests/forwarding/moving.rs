//! Tests two proxies with an agent each: which one carries a flow before and after the addresses move.

use super::bed::client::Connection;
use super::bed::kernel::{Variant, on_all_backends};
use super::bed::server::Server;
use super::bed::site::{Site, key};
use super::bed::{Bed, CLIENT, EXTERNAL, INTERNAL, SERVER, Topology};
use super::{ANSWER, arrival, client_asks, seen_from, tcp_ask, web_both_ways};

on_all_backends![a_standby_that_routes_leaves_the_flows_to_the_active_node, addresses_that_move_are_served_where_they_arrive,];

fn two_proxies(variant: Variant) -> Site {
    let both = web_both_ways();
    let site = Site::serve(variant, Bed::with(&Topology { proxies: 2, ..Topology::default() }), &[("web", &both)]);
    expect_active(&site, 0);
    site
}

fn expect_active(site: &Site, active: usize) {
    site.agent(active).wait_node_reason(&key("web"), "Ready", "Ready");
    site.agent(1 - active).wait_node_reason(&key("web"), "Ready", "Standby");
}

/// The number of connections that each proxy has translated and still tracks.
fn translated(site: &Site) -> [usize; 2] {
    [0, 1].map(|proxy| site.bed.proxies[proxy].conntrack("--dst-nat").len())
}

fn a_standby_that_routes_leaves_the_flows_to_the_active_node(variant: Variant) {
    let site = two_proxies(variant);
    let bed = &site.bed;
    let _servers = [Server::tcp(&bed.server, SERVER, [80]), Server::tcp(&bed.client, CLIENT, [80])];
    // Both sides now reach the active node's addresses through the standby.
    bed.gateway.ip(&format!("route add {INTERNAL} via 192.168.0.22"));
    bed.router.ip(&format!("route add {EXTERNAL} via 2.2.2.22"));
    assert_eq!(arrival(client_asks(bed, 80)), seen_from(EXTERNAL, (SERVER, 80)));
    let call = tcp_ask(&bed.server, SERVER, (EXTERNAL, 8443), ANSWER);
    assert_eq!(arrival(call), seen_from(INTERNAL, (CLIENT, 80)));
    assert_eq!(translated(&site), [2, 0]);
    let routed = bed.proxies[1].conntrack("-p tcp");
    assert!(routed.len() >= 2, "they went by the standby: {routed:?}");
}

fn addresses_that_move_are_served_where_they_arrive(variant: Variant) {
    let site = two_proxies(variant);
    let bed = &site.bed;
    let _servers = [Server::tcp(&bed.server, SERVER, [80]), Server::tcp(&bed.client, CLIENT, [80])];
    let both_ways = || {
        assert_eq!(arrival(client_asks(bed, 80)), seen_from(EXTERNAL, (SERVER, 80)));
        let call = tcp_ask(&bed.server, SERVER, (EXTERNAL, 8443), ANSWER);
        assert_eq!(arrival(call), seen_from(INTERNAL, (CLIENT, 80)));
    };
    both_ways();
    assert_eq!(translated(&site), [2, 0]);
    bed.move_addresses(&bed.proxies[0], &bed.proxies[1]);
    // At once, because the standby had the rules ready. Its agent does not need to know about the move.
    both_ways();
    assert_eq!(translated(&site), [2, 2]);
    expect_active(&site, 1);
    let mut session = Connection::open(&bed.client, (CLIENT, 0), (INTERNAL, 80), ANSWER).unwrap();
    session.exchange(ANSWER).unwrap();

    bed.move_addresses(&bed.proxies[1], &bed.proxies[0]);
    both_ways();
    expect_active(&site, 0);
}
