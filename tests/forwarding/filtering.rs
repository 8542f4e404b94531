//! Tests rules of other programs: rules that drop packets, and rules that translate on a port of ours.

use std::time::Duration;

use super::bed::client::{ANSWER, Silence, UdpFlow, tcp_ask};
use super::bed::kernel::{Variant, on_all_backends};
use super::bed::observe::Observation;
use super::bed::server::Server;
use super::bed::site::Site;
use super::bed::{Bed, CLIENT, EXTERNAL, INTERNAL, SECOND_CLIENT, SECOND_SERVER, SERVER};
use super::{WEB, arrival, client_asks, know_way_back, seen_from, web_both_ways};

on_all_backends![flows_pass_a_forward_chain_that_drops_and_nothing_else_does, anothers_dnat_on_a_port_of_ours_is_left_alone,];

/// How long a request that is dropped waits. A later request shows that it did not arrive.
const UNANSWERED: Duration = Duration::from_secs(1);

fn flows_pass_a_forward_chain_that_drops_and_nothing_else_does(variant: Variant) {
    let bed = Bed::new();
    let proxy = bed.proxy();
    proxy.iptables(variant, "-P FORWARD DROP");
    proxy.iptables(variant, "-A FORWARD -s 1.1.1.1 -j DROP");
    proxy.iptables(variant, "-A FORWARD -j DROP");
    let before = proxy.foreign_rules(variant);
    let both = web_both_ways();
    let syslog = super::spec("external: {addresses: [2.2.2.2]},", "ports: [{name: syslog, protocol: UDP, port: 514}]");
    let site = Site::serve(variant, bed, &[("web", &both), ("syslog", &syslog)]);
    let bed = &site.bed;
    let server = (Server::tcp(&bed.server, SERVER, [80, 8080]), Server::udp(&bed.server, SERVER, [514]));
    let _client = Server::tcp(&bed.client, CLIENT, [80]);
    assert_eq!(arrival(client_asks(bed, 80)), seen_from(EXTERNAL, (SERVER, 80)));
    let call = tcp_ask(&bed.server, SERVER, (EXTERNAL, 8443), ANSWER);
    assert_eq!(arrival(call), seen_from(INTERNAL, (CLIENT, 80)));
    let mut flow = UdpFlow::open(&bed.client, (CLIENT, 0), (INTERNAL, 514)).unwrap();
    assert_eq!(arrival(flow.ask(ANSWER)), seen_from(EXTERNAL, (SERVER, 514)));
    drop(server.1);
    assert_eq!(flow.ask(ANSWER), Err(Silence::Refused), "the error about the flow passes too");
    assert_eq!(tcp_ask(&bed.client, CLIENT, (SERVER, 8080), UNANSWERED), Err(Silence::TimedOut), "what is not ours is dropped");
    assert_eq!(arrival(client_asks(bed, 80)), seen_from(EXTERNAL, (SERVER, 80)), "what was asked later has arrived");
    assert!(server.0.seen().iter().all(|seen| seen.local.port() == 80), "{:?}", server.0.seen());
    assert_eq!(bed.proxy().foreign_rules(variant), before);
}

/// FORWARD and POSTROUTING know our flows by their mark, and not by the port on which they listen.
fn anothers_dnat_on_a_port_of_ours_is_left_alone(variant: Variant) {
    let bed = Bed::new();
    know_way_back(&bed, "1.1.1.0/24");
    let rule = format!("-d {INTERNAL} -s {SECOND_CLIENT} -p tcp --dport 80 -j DNAT --to-destination {SECOND_SERVER}:80");
    bed.proxy().iptables(variant, &format!("-t nat -A PREROUTING {rule}"));
    let site = Site::serve(variant, bed, &[("web", WEB)]);
    let bed = &site.bed;
    let servers = [Server::tcp(&bed.server, SERVER, [80]), Server::tcp(&bed.server, SECOND_SERVER, [80])];
    let other = || arrival(tcp_ask(&bed.client, SECOND_CLIENT, (INTERNAL, 80), UNANSWERED));
    assert_eq!(other(), seen_from(SECOND_CLIENT, (SECOND_SERVER, 80)), "its source is not ours to change");
    bed.proxy().iptables(variant, "-P FORWARD DROP");
    let before = servers[1].seen().len();
    assert_eq!(other(), Observation::Silent(Silence::TimedOut), "nor is it ours to accept");
    assert_eq!(arrival(client_asks(bed, 80)), seen_from(EXTERNAL, (SERVER, 80)), "the client that is served");
    assert_eq!(servers[1].seen().len(), before, "what was asked before has not arrived");
}
