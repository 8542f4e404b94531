//! The paths of packets on a node whose routes also come from other programs. The agent must follow the routing rules of the
//! kernel.

use std::net::Ipv4Addr;

use crate::bed::client::{ANSWER, tcp_ask};
use crate::bed::kernel::Variant;
use crate::bed::{Bed, CLIENT, EXTERNAL, GATEWAY, INTERNAL, NEIGHBOUR, SERVER};
use crate::stage::{FILE, Manifest, SEED, Stage, by, on_all_backends, servers, tcp, wait, way};

on_all_backends! {
    a_backup_route_of_another_program_leaves_ours_alone,
    a_client_inside_of_the_nodes_own_subnet_is_reached_through_the_named_gateway,
    an_address_that_a_local_route_delivers_is_listened_on,
    of_client_networks_within_each_other_the_longest_prefix_wins,
    a_routing_rule_that_stops_packets_is_named_with_the_command_that_removes_it,
}

fn a_backup_route_of_another_program_leaves_ours_alone(variant: Variant) {
    let stage = Stage::seed(variant);
    let _servers = servers(&stage.bed);
    let backup = format!("route add {CLIENT} via {NEIGHBOUR} dev eth1 metric 500");
    stage.proxy().netns.ip(&backup);
    // After this edit, the agent has certainly seen the route.
    stage.edit(&Manifest::seed().with("/spec/ports/0/targetPort", 80));
    let ours = |stage: &Stage| stage.proxy().routes_to(&CLIENT.to_string()).iter().any(|route| route["protocol"] == "154");
    assert!(ours(&stage));
    assert_eq!(stage.proxy().routes_to(&CLIENT.to_string()).len(), 2);
    stage.agent.wait_condition(SEED, "Programmed", "True", "Programmed");
    assert_eq!(tcp(&stage.bed), by(SERVER, EXTERNAL));
}

fn a_client_inside_of_the_nodes_own_subnet_is_reached_through_the_named_gateway(variant: Variant) {
    let inside = Ipv4Addr::new(192, 168, 0, 77);
    let bed = Bed::new();
    let _servers = servers(&bed);
    bed.client.ip(&format!("addr add {inside}/32 dev eth0"));
    bed.gateway.ip(&format!("route add {inside}/32 dev cli"));
    let stage = Stage::of(variant, bed, &[(FILE, Manifest::seed().with("/spec/client/addresses/0", inside.to_string()))]);
    stage.agent.wait_condition(SEED, "Ready", "True", "Ready");
    assert_eq!(stage.proxy().routes_to(&inside.to_string())[0]["gateway"], GATEWAY.to_string());
    let message = stage.message(SEED, "Ready");
    assert!(message.contains("192.168.0.0/24") && message.contains("internal.gateways says so"), "{message}");
    assert_eq!(way(tcp_ask(&stage.bed.client, inside, (INTERNAL, 80), ANSWER)), by(SERVER, EXTERNAL));
}

fn an_address_that_a_local_route_delivers_is_listened_on(variant: Variant) {
    let (one, of_a_network) = (Ipv4Addr::new(10, 200, 0, 9), Ipv4Addr::new(10, 201, 0, 9));
    let bed = Bed::new();
    let _servers = servers(&bed);
    bed.gateway.ip(&format!("route add 10.200.0.0/15 via {INTERNAL}"));
    let seed = Manifest::seed().with("/spec/internal/addresses/0", one.to_string());
    let stage = Stage::of(variant, bed, &[(FILE, seed)]);
    stage.agent.wait_condition(SEED, "Programmed", "False", "NoActiveNode");
    stage.proxy().netns.ip(&format!("route add local {one}/32 dev eth1"));
    stage.agent.wait_condition(SEED, "Ready", "True", "Ready");
    assert_eq!(way(tcp_ask(&stage.bed.client, CLIENT, (one, 80), ANSWER)), by(SERVER, EXTERNAL));
    stage.proxy().netns.ip("route add local 10.201.0.0/24 dev lo");
    stage.edit(&Manifest::seed().with("/spec/internal/addresses/0", of_a_network.to_string()));
    assert_eq!(way(tcp_ask(&stage.bed.client, CLIENT, (of_a_network, 80), ANSWER)), by(SERVER, EXTERNAL));
}

fn of_client_networks_within_each_other_the_longest_prefix_wins(variant: Variant) {
    let bed = Bed::new();
    let _servers = servers(&bed);
    let wide = Manifest::seed().named("wide").with("/spec/client/addresses/0", "1.1.0.0/16");
    let wide = wide
        .with("/spec/internal/gateways/0", NEIGHBOUR.to_string())
        .with("/spec/ports", serde_json::json!([{"name": "other", "port": 81}]));
    let stage = Stage::of(variant, bed, &[(FILE, Manifest::seed()), ("wide.yaml", wide)]);
    stage.agent.wait_ready(SEED);
    stage.agent.wait_ready("lines/wide");
    assert_eq!(stage.proxy().routes_to(&CLIENT.to_string())[0]["gateway"], GATEWAY.to_string());
    assert_eq!(stage.proxy().routes_to("1.1.0.0/16")[0]["gateway"], NEIGHBOUR.to_string());
    wait("both notes are in the message", || {
        stage.message(SEED, "Ready").contains("lines/wide") && stage.message("lines/wide", "Ready").contains(SEED)
    });
    assert_eq!(tcp(&stage.bed), by(SERVER, EXTERNAL));
}

/// Each rule stops the packets, the condition names it, and its command brings the packets back.
fn a_routing_rule_that_stops_packets_is_named_with_the_command_that_removes_it(variant: Variant) {
    let stage = Stage::seed(variant);
    let _servers = servers(&stage.bed);
    let proxy = |command: &str| stage.proxy().netns.ip(command);
    let rules = [
        (format!("rule add pref 100 from {CLIENT} iif eth1 prohibit"), "NoRouteToUpstream"),
        (format!("rule add pref 100 from {SERVER} to {CLIENT} lookup 100"), "RouteContested"),
        (format!("rule add pref 100 from {CLIENT} lookup 101"), "NoRouteToUpstream"),
    ];
    proxy(&format!("route add {CLIENT} via {NEIGHBOUR} dev eth1 table 100"));
    proxy("route add blackhole default table 101");
    for (rule, reason) in rules {
        stage.agent.wait_ready(SEED);
        assert_eq!(tcp(&stage.bed), by(SERVER, EXTERNAL), "before {rule}");
        proxy(&rule);
        stage.agent.wait_condition(SEED, "Ready", "False", reason);
        let message = stage.message(SEED, "Ready");
        assert!(message.contains("\"100: from") && message.contains("ip rule del pref 100"), "{message}");
        assert!(tcp(&stage.bed).is_err(), "no packet passes after {rule}");
        proxy("rule del pref 100");
    }
    stage.agent.wait_ready(SEED);
    proxy("rule add pref 100 fwmark 0x1 lookup 101");
    wait("the note about the mark", || stage.message(SEED, "Ready").contains("fwmark 0x1 lookup 101"));
    stage.agent.wait_ready(SEED);
    assert_eq!(tcp(&stage.bed), by(SERVER, EXTERNAL), "an unmarked packet");
}
