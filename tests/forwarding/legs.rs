//! Tests a single leg, and a path with a smaller MTU than the links at its ends.

use super::bed::client::{ANSWER, Connection, tcp_ask};
use super::bed::kernel::{Variant, on_all_backends};
use super::bed::netns::Netns;
use super::bed::server::Server;
use super::bed::site::Site;
use super::bed::{Bed, CLIENT, EXTERNAL, GATEWAY, INTERNAL, Legs, NEIGHBOUR, ROUTER, SERVER, Topology};
use super::{arrival, client_asks, seen_from, web_both_ways};

on_all_backends![
    one_leg_forwards_both_ways_and_to_a_host_on_its_own_line,
    a_vrrp_device_serves_as_a_leg_on_either_side,
    a_vrrp_device_that_is_not_named_serves_too,
    large_transfers_pass_a_path_mtu_of_1280_both_ways,
    large_transfers_pass_a_path_mtu_of_1280_also_where_forward_drops,
];

fn one_leg_forwards_both_ways_and_to_a_host_on_its_own_line(variant: Variant) {
    let one_leg = |upstream, ports: &str| {
        format!(
            "client: {{addresses: [{CLIENT}]}}, internal: {{addresses: [{INTERNAL}], interface: eth1, gateways: [192.168.0.1]}}, \
             external: {{addresses: [{INTERNAL}], interface: eth1}}, upstream: {{targets: [{{address: {upstream}}}]}}, {ports}"
        )
    };
    let web = one_leg(SERVER, "ports: [{name: web, port: 80}], reverse: {ports: [{name: back, port: 8443, targetPort: 443}]}");
    let printer = one_leg(NEIGHBOUR, "ports: [{name: printer, port: 9100}]");
    let bed = Bed::with(&Topology { legs: Legs::One, ..Topology::default() });
    let site = Site::serve(variant, bed, &[("web", &web), ("printer", &printer)]);
    let bed = &site.bed;
    let _servers = [
        Server::tcp(&bed.server, SERVER, [80]),
        Server::tcp(&bed.neighbour, NEIGHBOUR, [9100]),
        Server::tcp(&bed.client, CLIENT, [443]),
    ];
    assert_eq!(arrival(client_asks(bed, 80)), seen_from(INTERNAL, (SERVER, 80)));
    assert_eq!(arrival(client_asks(bed, 9100)), seen_from(INTERNAL, (NEIGHBOUR, 9100)));
    let call = tcp_ask(&bed.server, SERVER, (INTERNAL, 8443), ANSWER);
    assert_eq!(arrival(call), seen_from(INTERNAL, (CLIENT, 443)));
}

/// As keepalived does with `use_vmac`: a macvlan in private mode holds only the address, with the MAC address of the virtual
/// router, and answers for it. The link below it has its own address, and packets leave by it.
fn bed_of_vrrp() -> Bed {
    let bed = Bed::new();
    let proxy = &bed.proxy().netns;
    for (link, device, own, held) in [("eth1", "vrrp.51", "192.168.0.3", INTERNAL), ("eth0", "vrrp.61", "2.2.2.3", EXTERNAL)] {
        let last = device.rsplit('.').next().unwrap_or_default();
        proxy.ip(&format!("link add {device} link {link} address 00:00:5e:00:01:{last} type macvlan mode private"));
        for (interface, key) in [(link, "arp_ignore"), (link, "arp_filter"), (device, "arp_ignore"), (device, "accept_local")] {
            proxy.set(&format!("ipv4/conf/{interface}/{key}"), "1");
        }
        proxy.ip_batch([
            format!("addr del {held}/24 dev {link}"),
            format!("addr add {own}/24 dev {link}"),
            format!("link set {device} up"),
            format!("addr add {held}/32 dev {device}"),
        ]);
    }
    proxy.ip(&format!("route replace default via {ROUTER} dev eth0"));
    for netns in [&bed.gateway, &bed.neighbour, &bed.router] {
        netns.ip("neigh flush all");
    }
    bed
}

fn a_vrrp_device_serves_as_a_leg_on_either_side(variant: Variant) {
    vrrp_serves(variant, ", interface: vrrp.51", ", interface: vrrp.61");
    vrrp_serves(variant, ", interface: eth1", ", interface: eth0");
}

fn a_vrrp_device_that_is_not_named_serves_too(variant: Variant) {
    vrrp_serves(variant, "", "");
}

fn vrrp_serves(variant: Variant, internal: &str, external: &str) {
    let spec = format!(
        "client: {{addresses: [{CLIENT}]}}, internal: {{addresses: [{INTERNAL}]{internal}, gateways: [{GATEWAY}]}}, \
         external: {{addresses: [{EXTERNAL}]{external}}}, upstream: {{targets: [{{address: {SERVER}}}]}}, \
         ports: [{{port: 80}}], reverse: {{ports: [{{port: 9443, targetPort: 443}}]}}"
    );
    let site = Site::serve(variant, bed_of_vrrp(), &[("web", &spec)]);
    let bed = &site.bed;
    let route = bed.proxy().netns.ip(&format!("route show {CLIENT}"));
    assert!(route.contains(&format!("via {GATEWAY} dev eth1")), "{route}");
    let _servers = [Server::tcp(&bed.server, SERVER, [80]), Server::tcp(&bed.client, CLIENT, [443])];
    // The neighbours learn the address of the VRRP device from their own requests, and the address of the link below it from
    // requests of the proxy.
    for learnt in [0, 1] {
        assert_eq!(arrival(client_asks(bed, 80)), seen_from(EXTERNAL, (SERVER, 80)), "{learnt}");
        let call = tcp_ask(&bed.server, SERVER, (EXTERNAL, 9443), ANSWER);
        assert_eq!(arrival(call), seen_from(INTERNAL, (CLIENT, 443)), "{learnt}");
        bed.proxy().netns.ip("neigh flush all");
        for (netns, device) in [(&bed.gateway, "line"), (&bed.router, "wan")] {
            netns.ip(&format!("neigh flush dev {device}"));
        }
    }
}

fn large_transfers_pass_a_path_mtu_of_1280_both_ways(variant: Variant) {
    pass_a_small_path_mtu(variant, |_| {});
}

/// A router reports a packet that is too big with an ICMP error about a translated flow. FORWARD must accept it.
fn large_transfers_pass_a_path_mtu_of_1280_also_where_forward_drops(variant: Variant) {
    pass_a_small_path_mtu(variant, |bed| {
        bed.proxy().iptables(variant, "-P FORWARD DROP");
        bed.proxy().iptables(variant, "-A FORWARD -p icmp -j DROP");
    });
}

/// The router reports an MTU of 1280 bytes to the proxy's external address; the gateway reports 1200 bytes to its internal
/// address.
fn pass_a_small_path_mtu(variant: Variant, prepare: impl Fn(&Bed)) {
    let bed = Bed::with(&Topology { path_mtu: Some(1280), ..Topology::default() });
    prepare(&bed);
    bed.gateway.ip("route replace 1.1.1.0/24 dev cli mtu lock 1200");
    let both = web_both_ways();
    let site = Site::serve(variant, bed, &[("web", &both)]);
    let bed = &site.bed;
    let _servers = [Server::tcp(&bed.server, SERVER, [80]), Server::tcp(&bed.client, CLIENT, [80])];
    transfer(Connection::open(&bed.client, (CLIENT, 0), (INTERNAL, 80), ANSWER).unwrap());
    learnt(&bed.client, INTERNAL, 1280);
    learnt(&bed.server, EXTERNAL, 1200);
    for netns in [&bed.client, &bed.server] {
        netns.ip("route flush cache");
    }
    transfer(Connection::open(&bed.server, (SERVER, 0), (EXTERNAL, 8443), ANSWER).unwrap());
    learnt(&bed.client, INTERNAL, 1280);
    learnt(&bed.server, EXTERNAL, 1200);
}

fn transfer(mut connection: Connection) {
    connection.upload(1_000_000, ANSWER).unwrap();
    connection.download(1_000_000, ANSWER).unwrap();
}

/// Asserts that the host has learnt the path MTU, from an error that appeared to be about its own flow.
fn learnt(netns: &Netns, peer: std::net::Ipv4Addr, mtu: u16) {
    let route = netns.ip(&format!("route get {peer}"));
    assert!(route.contains(&format!("mtu {mtu}")), "{route}");
}
