//! What the agent reports about a node with an obstacle, on the real kernel: condition, reason and advice.

use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::MetadataExt as _;

use serde_json::{Value, json};

use crate::bed::agent::{Agent, AgentOptions};
use crate::bed::client::{ANSWER, tcp_ask};
use crate::bed::kernel::Variant;
use crate::bed::server::Server;
use crate::bed::{Bed, CLIENT, EXTERNAL, GATEWAY, INTERNAL, NEIGHBOUR, SERVER};
use crate::stage::{FILE, Manifest, SEED, Stage, by, on_all_backends, servers, tcp, wait};

on_all_backends! {
    routing_that_is_off_is_told_and_switched_on_only_where_asked,
    routing_that_is_off_on_one_leg_is_told_and_switched_on_only_where_asked,
    a_policy_of_drop_is_named_and_does_not_stop_the_flows,
    a_missing_interface_is_waited_for,
    an_address_on_another_interface_is_told,
    a_missing_external_address_is_told_and_taken_when_it_comes,
    a_gateway_off_the_link_is_told,
    a_foreign_route_that_says_otherwise_is_told_and_stays,
    a_foreign_route_that_says_the_same_is_enough,
    a_missing_way_to_the_upstream_is_told,
    a_gateway_that_does_not_answer_is_told,
    a_gateway_that_dies_is_told_until_it_is_back_although_the_kernel_forgets_it,
    a_dead_next_hop_to_the_upstream_is_told,
    an_agent_that_starts_anew_takes_no_forward_for_unready,
    strict_source_validation_with_another_way_back_is_told,
    a_program_that_listens_keeps_its_port_and_a_later_one_does_not_take_it,
    a_reserved_port_is_refused_unless_the_administrator_frees_it,
    a_reverse_that_takes_from_a_program_says_so,
    a_standby_is_ready_for_the_address_and_becomes_active,
    a_forward_for_other_nodes_is_left_to_them,
    times_move_only_with_the_status_and_nothing_is_written_at_rest,
}

fn stage(variant: Variant, bed: Bed, manifest: Manifest) -> Stage {
    Stage::of(variant, bed, &[(FILE, manifest)])
}

fn ready(stage: &Stage) {
    stage.agent.wait_condition(SEED, "Ready", "True", "Ready");
}

/// Asserts that the forward is accepted and programmed but not ready, for this reason, and that the message contains `named`.
fn obstructed(stage: &Stage, reason: &str, named: &str) {
    stage.agent.wait_condition(SEED, "Ready", "False", reason);
    stage.agent.wait_condition(SEED, "Accepted", "True", "Accepted");
    stage.agent.wait_condition(SEED, "Programmed", "True", "Programmed");
    let message = stage.message(SEED, "Ready");
    assert!(message.contains(named), "{message}");
}

fn routing_that_is_off_is_told_and_switched_on_only_where_asked(variant: Variant) {
    let bed = Bed::new();
    let _servers = servers(&bed);
    bed.proxy().netns.set("ipv4/ip_forward", "0");
    let told = stage(variant, bed, Manifest::seed());
    obstructed(&told, "ForwardingDisabled", "--set-ip-forward");
    assert_eq!(told.proxy().netns.setting("ipv4/ip_forward"), "0");
    told.proxy().netns.set("ipv4/ip_forward", "1");
    ready(&told);

    let Stage { agent, manifests, mut options, bed } = told;
    assert!(agent.stop().success());
    options.extra.push("--set-ip-forward".to_owned());
    bed.proxy().netns.set("ipv4/ip_forward", "0");
    let agent = Agent::start(bed.proxy(), &manifests, &options);
    agent.wait_condition(SEED, "Ready", "True", "Ready");
    assert_eq!(tcp(&bed), by(SERVER, EXTERNAL));
}

fn routing_that_is_off_on_one_leg_is_told_and_switched_on_only_where_asked(variant: Variant) {
    let bed = Bed::new();
    let _servers = servers(&bed);
    let keys = ["ipv4/conf/eth1/forwarding", "ipv4/conf/eth0/forwarding"];
    let told = stage(variant, bed, Manifest::seed());
    for key in keys {
        ready(&told);
        told.proxy().netns.set(key, "0");
        obstructed(&told, "ForwardingDisabled", &format!("sysctl -w net.{}=1", key.replace('/', ".")));
        told.proxy().netns.set(key, "1");
    }
    ready(&told);

    let Stage { agent, manifests, mut options, bed } = told;
    assert!(agent.stop().success());
    options.extra.push("--set-ip-forward".to_owned());
    for key in keys {
        bed.proxy().netns.set(key, "0");
    }
    bed.proxy().netns.ip("link add other type veth peer name other-end");
    bed.proxy().netns.set("ipv4/conf/other/forwarding", "0");
    let agent = Agent::start(bed.proxy(), &manifests, &options);
    agent.wait_condition(SEED, "Ready", "True", "Ready");
    assert_eq!(tcp(&bed), by(SERVER, EXTERNAL));
    assert_eq!(bed.proxy().netns.setting("ipv4/conf/other/forwarding"), "0", "no flow of a forward enters there");
}

fn a_policy_of_drop_is_named_and_does_not_stop_the_flows(variant: Variant) {
    let bed = Bed::new();
    let _servers = servers(&bed);
    bed.proxy().iptables(variant, "-P FORWARD DROP");
    let stage = stage(variant, bed, Manifest::seed());
    ready(&stage);
    assert!(stage.message(SEED, "Ready").contains("DROP"), "{}", stage.message(SEED, "Ready"));
    assert_eq!(tcp(&stage.bed), by(SERVER, EXTERNAL));
}

fn a_missing_interface_is_waited_for(variant: Variant) {
    let bed = Bed::new();
    let _servers = servers(&bed);
    let stage = stage(variant, bed, Manifest::seed().with("/spec/internal/interface", "line0"));
    stage.agent.wait_condition(SEED, "Ready", "False", "WaitingForInterface");
    assert!(stage.message(SEED, "Ready").contains("internal.interface line0 is not on this node"));
    stage.proxy().netns.ip_batch(["link set eth1 down", "link set eth1 name line0", "link set line0 up"]);
    ready(&stage);
    assert_eq!(tcp(&stage.bed), by(SERVER, EXTERNAL));
}

fn an_address_on_another_interface_is_told(variant: Variant) {
    let stage = stage(variant, Bed::new(), Manifest::seed().with("/spec/external/interface", "eth1"));
    obstructed(&stage, "AddressNotOnInterface", "external address 2.2.2.2 is on eth0 and not on external.interface eth1");
    // If there are several obstacles, the message contains all of them.
    assert!(stage.message(SEED, "Ready").contains("leave by eth0"));
}

fn a_missing_external_address_is_told_and_taken_when_it_comes(variant: Variant) {
    let bed = Bed::new();
    let _servers = servers(&bed);
    let stage = stage(variant, bed, Manifest::seed().with("/spec/external/addresses/0", "2.2.2.7"));
    obstructed(&stage, "ExternalAddressMissing", "2.2.2.7");
    stage.proxy().netns.ip("addr add 2.2.2.7/24 dev eth0");
    ready(&stage);
    assert_eq!(tcp(&stage.bed), by(SERVER, Ipv4Addr::new(2, 2, 2, 7)));
}

fn a_gateway_off_the_link_is_told(variant: Variant) {
    let bed = Bed::new();
    let _servers = servers(&bed);
    let stage = stage(variant, bed, Manifest::seed().with("/spec/internal/gateways/0", "192.168.9.1"));
    stage.agent.wait_condition(SEED, "Ready", "False", "GatewayNotOnLink");
    assert!(stage.message(SEED, "Ready").contains("192.168.9.1"));
    stage.bed.gateway.ip("addr add 192.168.9.1/24 dev line");
    stage.proxy().netns.ip("addr add 192.168.9.2/24 dev eth1");
    ready(&stage);
    assert_eq!(tcp(&stage.bed), by(SERVER, EXTERNAL));
}

fn a_foreign_route_that_says_otherwise_is_told_and_stays(variant: Variant) {
    let bed = Bed::new();
    let _servers = servers(&bed);
    bed.proxy().netns.ip(&format!("route add {CLIENT} via {NEIGHBOUR} dev eth1"));
    let foreign = bed.proxy().routes_to(&CLIENT.to_string());
    let stage = stage(variant, bed, Manifest::seed());
    stage.agent.wait_condition(SEED, "Programmed", "False", "RouteContested");
    stage.agent.wait_condition(SEED, "Ready", "False", "RouteContested");
    assert!(stage.message(SEED, "Ready").contains("192.168.0.9"), "{}", stage.message(SEED, "Ready"));
    assert_eq!(stage.proxy().routes_to(&CLIENT.to_string()), foreign);
    stage.proxy().netns.ip(&format!("route delete {CLIENT}"));
    ready(&stage);
    assert_eq!(tcp(&stage.bed), by(SERVER, EXTERNAL));

    // A conflicting route that is added later is not changed either.
    stage.proxy().netns.ip(&format!("route add {CLIENT} via {NEIGHBOUR} dev eth1"));
    stage.agent.wait_condition(SEED, "Programmed", "False", "RouteContested");
    assert_eq!(stage.proxy().routes_to(&CLIENT.to_string()), foreign);
}

fn a_foreign_route_that_says_the_same_is_enough(variant: Variant) {
    let bed = Bed::new();
    let _servers = servers(&bed);
    bed.proxy().netns.ip(&format!("route add {CLIENT} via {GATEWAY} dev eth1"));
    let foreign = bed.proxy().routes_to(&CLIENT.to_string());
    let stage = stage(variant, bed, Manifest::seed());
    ready(&stage);
    assert!(stage.proxy().routes_to(&CLIENT.to_string()).contains(&foreign[0]));
    stage.manifests.remove(FILE);
    wait("only the foreign route stays", || stage.proxy().routes_to(&CLIENT.to_string()) == foreign);
}

fn a_missing_way_to_the_upstream_is_told(variant: Variant) {
    let stage = Stage::seed(variant);
    stage.proxy().netns.ip("route delete default");
    obstructed(&stage, "NoRouteToUpstream", "3.3.3.3");
    stage.proxy().netns.ip("route add default via 2.2.2.1 dev eth0");
    ready(&stage);
}

/// No program sends a packet to the gateway. The agent makes the kernel send a request.
fn a_gateway_that_does_not_answer_is_told(variant: Variant) {
    let stage = stage(variant, Bed::new(), Manifest::seed().with("/spec/internal/gateways/0", "192.168.0.77"));
    obstructed(&stage, "GatewayUnreachable", "192.168.0.77, the next hop to the clients, does not answer on eth1");
    stage.bed.gateway.ip("addr add 192.168.0.77/24 dev line");
    ready(&stage);
}

fn a_gateway_that_dies_is_told_until_it_is_back_although_the_kernel_forgets_it(variant: Variant) {
    let stage = Stage::seed(variant);
    stage.bed.gateway.ip(&format!("addr del {GATEWAY}/24 dev line"));
    obstructed(&stage, "GatewayUnreachable", "192.168.0.1, the next hop to the clients");
    stage.proxy().netns.ip("neigh flush all");
    let forgotten = stage.agent.log().len();
    stage.edit_unready(&Manifest::seed().for_second_server());
    obstructed(&stage, "GatewayUnreachable", "192.168.0.1, the next hop to the clients");
    assert!(!stage.agent.log()[forgotten..].contains("reason=Ready "), "{}", stage.agent.log());
    stage.bed.gateway.ip(&format!("addr add {GATEWAY}/24 dev line"));
    ready(&stage);
}

fn a_dead_next_hop_to_the_upstream_is_told(variant: Variant) {
    let stage = Stage::seed(variant);
    stage.bed.router.ip("addr del 2.2.2.1/24 dev wan");
    obstructed(&stage, "GatewayUnreachable", "2.2.2.1, the next hop to the upstream, does not answer on eth0");
    // An upstream on the link is its own next hop.
    stage.edit_unready(&Manifest::seed().with("/spec/upstream/targets/0/address", "2.2.2.9"));
    obstructed(&stage, "GatewayUnreachable", "2.2.2.9, the next hop to the upstream, does not answer on eth0");
    stage.bed.router.ip("addr add 2.2.2.9/24 dev wan");
    ready(&stage);
}

fn an_agent_that_starts_anew_takes_no_forward_for_unready(variant: Variant) {
    let Stage { agent, manifests, options, bed } = Stage::seed(variant);
    agent.kill();
    let before = fs::read_to_string(bed.proxy().files().join("agent.log")).unwrap().len();
    let agent = Agent::start(bed.proxy(), &manifests, &options);
    agent.wait_condition(SEED, "Ready", "True", "Ready");
    let log = agent.log();
    assert!(!log[before..].contains("Gateway"), "{}", &log[before..]);
}

fn strict_source_validation_with_another_way_back_is_told(variant: Variant) {
    let bed = Bed::new();
    bed.proxy().netns.set("ipv4/conf/eth1/rp_filter", "1");
    let stage = stage(variant, bed, Manifest::seed().without("/spec/internal/gateways"));
    obstructed(&stage, "AsymmetricRoute", "rp_filter");
    stage.proxy().netns.set("ipv4/conf/eth1/rp_filter", "2");
    ready(&stage);
    stage.proxy().netns.set("ipv4/conf/eth1/rp_filter", "1");
    obstructed(&stage, "AsymmetricRoute", "leave by eth0, and eth1");
    stage.edit_unready(&Manifest::seed());
    ready(&stage);
}

/// Without a cluster, a node is reached by the source address of its default route.
fn reached_by_its_internal_address(bed: &Bed) {
    bed.proxy().netns.ip(&format!("route replace default via 2.2.2.1 dev eth0 src {INTERNAL}"));
}

fn a_program_that_listens_keeps_its_port_and_a_later_one_does_not_take_it(variant: Variant) {
    let bed = Bed::new();
    let _servers = servers(&bed);
    reached_by_its_internal_address(&bed);
    let own = Server::tcp(&bed.proxy().netns, INTERNAL, [80]);
    let told = stage(variant, bed, Manifest::seed());
    told.agent.wait_condition(SEED, "Accepted", "False", "ShadowsLocalListener");
    told.agent.wait_condition(SEED, "Programmed", "False", "NotAccepted");
    assert!(told.message(SEED, "Accepted").contains("TCP port 80 of 192.168.0.2"), "{}", told.message(SEED, "Accepted"));
    let ask_own = |bed: &Bed| tcp_ask(&bed.neighbour, NEIGHBOUR, (INTERNAL, 80), ANSWER).unwrap();
    assert_eq!(ask_own(&told.bed).local.ip(), INTERNAL);

    drop(own);
    ready(&told);
    let own = Server::tcp(&told.proxy().netns, INTERNAL, [80]);
    told.edit(&Manifest::seed().with("/spec/ports/1/port", 515));
    assert_eq!(tcp(&told.bed), by(SERVER, EXTERNAL));
    assert_eq!(ask_own(&told.bed).local.ip(), INTERNAL);
    // After a restart, the agent still knows that the forward was there first.
    let Stage { agent, manifests, options, bed } = told;
    agent.kill();
    let agent = Agent::start(bed.proxy(), &manifests, &options);
    agent.wait_condition(SEED, "Ready", "True", "Ready");
    assert_eq!(own.seen().len(), 1);
}

fn a_reserved_port_is_refused_unless_the_administrator_frees_it(variant: Variant) {
    let bed = Bed::new();
    reached_by_its_internal_address(&bed);
    let Stage { agent, manifests, mut options, bed } = stage(variant, bed, Manifest::seed().with("/spec/ports/0/port", 22));
    agent.wait_condition(SEED, "Accepted", "False", "ReservedPort");
    agent.wait_condition(SEED, "Stalled", "True", "ReservedPort");
    assert_eq!(bed.proxy().our_rules(variant), [""; 0]);
    assert!(agent.stop().success());
    options.extra.push("--reserved-ports=22/UDP,53".to_owned());
    let agent = Agent::start(bed.proxy(), &manifests, &options);
    agent.wait_condition(SEED, "Ready", "True", "Ready");
    assert_eq!(agent.condition(SEED, "Stalled"), None);
}

fn a_reverse_that_takes_from_a_program_says_so(variant: Variant) {
    let bed = Bed::new();
    let _servers = servers(&bed);
    let _own = Server::tcp(&bed.proxy().netns, EXTERNAL, [9000]);
    let reverse = json!({"ports": [{"name": "all", "port": 1, "endPort": 65535, "targetPort": 80, "targetEndPort": 80}]});
    let stage = stage(variant, bed, Manifest::seed().with("/spec/reverse", reverse));
    ready(&stage);
    let message = stage.message(SEED, "Ready");
    assert!(message.contains("takes from programs of this node") && message.contains("TCP 9000"), "{message}");
    assert!(message.contains("leaves out TCP of 2.2.2.2") && message.contains("22, 2379:2380, 6443, 10249:10250"), "{message}");
}

fn a_standby_is_ready_for_the_address_and_becomes_active(variant: Variant) {
    let bed = Bed::new();
    let _servers = servers(&bed);
    bed.proxy().netns.ip_batch([format!("addr del {INTERNAL}/24 dev eth1"), "addr add 192.168.0.77/24 dev eth1".to_owned()]);
    let stage = stage(variant, bed, Manifest::seed());
    stage.agent.wait_condition(SEED, "Ready", "False", "NoActiveNode");
    stage.agent.wait_condition(SEED, "Programmed", "True", "Programmed");
    let entry = || stage.agent.forward(SEED).unwrap()["status"]["nodes"][0].clone();
    assert_eq!((&entry()["role"], &entry()["nodeName"]), (&json!("Standby"), &json!("proxy")));
    let reasons =
        |entry: &Value| entry["conditions"].as_array().unwrap().iter().map(|each| each["reason"].clone()).collect::<Vec<_>>();
    assert_eq!(reasons(&entry()), ["Accepted", "Programmed", "Standby"]);

    stage.proxy().netns.ip(&format!("addr add {INTERNAL}/24 dev eth1"));
    ready(&stage);
    assert_eq!(entry()["role"], "Active");
    assert_eq!(stage.agent.forward(SEED).unwrap()["status"]["activeNode"], "proxy");
    assert_eq!(tcp(&stage.bed), by(SERVER, EXTERNAL));
}

fn a_forward_for_other_nodes_is_left_to_them(variant: Variant) {
    let selected = Manifest::seed().with("/spec/nodeSelector", json!({"matchLabels": {"line": "a"}}));
    let elsewhere = Manifest::seed().named("elsewhere").with("/spec/internal/addresses/0", "10.99.0.1");
    let files = [(FILE, selected), ("elsewhere.yaml", elsewhere)];
    let Stage { agent, manifests, mut options, bed } = Stage::of(variant, Bed::new(), &files);
    for key in [SEED, "lines/elsewhere"] {
        agent.wait_condition(key, "Accepted", "True", "Accepted");
        agent.wait_condition(key, "Programmed", "False", "NoActiveNode");
        agent.wait_condition(key, "Ready", "False", "NoActiveNode");
    }
    assert_eq!(bed.proxy().our_rules(variant), [""; 0]);
    assert!(agent.stop().success());
    options.labels.push("line=a".to_owned());
    let agent = Agent::start(bed.proxy(), &manifests, &options);
    agent.wait_condition(SEED, "Ready", "True", "Ready");
}

fn times_move_only_with_the_status_and_nothing_is_written_at_rest(variant: Variant) {
    let options = AgentOptions { extra: vec!["--log=debug".to_owned()], ..AgentOptions::new(variant) };
    let stage = Stage::with(options, Bed::new(), &[(FILE, Manifest::seed())]);
    ready(&stage);
    let time = |kind: &str| {
        let conditions = stage.agent.forward(SEED).unwrap()["status"]["conditions"].clone();
        conditions.as_array().unwrap().iter().find(|each| each["type"] == kind).unwrap()["lastTransitionTime"].clone()
    };
    let file = || {
        let metadata = fs::metadata(stage.proxy().files().join("status.json")).unwrap();
        (metadata.ino(), metadata.mtime(), metadata.mtime_nsec())
    };
    let syncs = || stage.agent.log().matches("synced").count();
    let (begun, written) = ([time("Accepted"), time("Programmed"), time("Ready")], file());
    for address in ["addr add 10.200.0.1/32 dev lo", "addr del 10.200.0.1/32 dev lo"] {
        let before = syncs();
        stage.proxy().netns.ip(address);
        wait("the agent looks again", || syncs() > before);
    }
    assert_eq!(file(), written, "no change of status, so no write");

    // Times have a resolution of one second, so the status must change in a later second.
    let changed = crate::bed::wait::until(crate::stage::SOON, || {
        stage.proxy().netns.set("ipv4/ip_forward", "0");
        stage.agent.wait_condition(SEED, "Ready", "False", "ForwardingDisabled");
        let moved = time("Ready");
        if moved == begun[2] {
            stage.proxy().netns.set("ipv4/ip_forward", "1");
            ready(&stage);
            return None;
        }
        Some(moved)
    });
    let changed = changed.expect("the transition time changes with the status");
    stage.edit_unready(&Manifest::seed().with("/spec/external/interface", "eth7"));
    wait("the message changes", || stage.message(SEED, "Ready").contains("eth7"));
    assert_eq!(time("Ready"), changed, "the status was False before, so the time stays");
    assert_eq!([time("Accepted"), time("Programmed")], begun[..2]);
}
