//! Tests what no forward may have as upstream, as client or as route: the nodes, pods and Services of the cluster, and what the
//! administrator lists.

use std::net::Ipv4Addr;

use serde_json::json;

use crate::bed::agent::{operator, state_folder};
use crate::bed::wait::eventually;
use crate::bed::{CLIENT, INTERNAL, SERVER};
use crate::fleet::{Fleet, REFUSED, WEB, manifest, spec, web};
use crate::plane::Resource;
use crate::plane::http::Request;
use crate::plane::objects::PATIENCE;

/// Writes the address of a Node object, as its kubelet does.
fn set_address(fleet: &Fleet, node: &str, address: Ipv4Addr) {
    let status = json!({"status": {"addresses": [{"type": "InternalIP", "address": address}]}});
    fleet.plane.must(&Request::merge(format!("{}/status", Resource::Nodes.path(None, Some(node))), status));
}

fn refused(fleet: &Fleet, reason: &str) {
    fleet.plane.wait_condition(WEB, "Accepted", "False", reason);
    fleet.wait_ask(80, REFUSED);
    assert!(!fleet.holds(0, "DNAT"));
}

fn serves(fleet: &Fleet) {
    fleet.plane.wait_condition(WEB, "Ready", "True", "Ready");
    fleet.wait_reaches(80, SERVER, 80);
}

/// The output of another command of the program on the node, which uses only the record.
fn told(fleet: &Fleet, command: &str) -> String {
    let state = state_folder(fleet.proxy(0));
    let options = ["--node-name", "px0", "--iptables", "nft", "--state-dir", state.to_str().unwrap()];
    let told = operator(fleet.proxy(0), [command].iter().chain(&options));
    assert!(told.status.success(), "{told:?}");
    String::from_utf8_lossy(&told.stdout).into_owned()
}

/// The route of a client leads to a Node or a pod, or the upstream is one, also where it becomes one later.
#[test]
fn a_node_and_its_pods_are_neither_upstream_nor_client_and_a_restart_remembers_them() {
    let mut fleet = Fleet::new(1);
    fleet.apply(WEB, &web());
    serves(&fleet);
    fleet.plane.add_node("other", &json!({}));
    for (address, reason) in [(SERVER, "ForbiddenUpstream"), (CLIENT, "ForbiddenClient")] {
        set_address(&fleet, "other", address);
        refused(&fleet, reason);
    }
    fleet.plane.delete(Resource::Nodes, "other");
    serves(&fleet);
    let pods = json!({"metadata": {"name": "other"}, "spec": {"podCIDR": "3.3.3.0/24", "podCIDRs": ["3.3.3.0/24"]}});
    fleet.plane.must(&Request::post(Resource::Nodes.path(None, None), pods));
    refused(&fleet, "ForbiddenUpstream");

    // The record contains the networks, for a start without an API server.
    assert!(eventually(PATIENCE, || told(&fleet, "status").contains("ForbiddenUpstream")), "{}", told(&fleet, "status"));
    fleet.kill(0);
    fleet.plane.kill();
    assert!(told(&fleet, "restore").contains("ForbiddenUpstream"));
    fleet.start(0);
    fleet.agent(0).wait_log("reason=ForbiddenUpstream");
    assert_eq!(fleet.ask(80), REFUSED);
    fleet.plane.start();
    fleet.plane.delete(Resource::Nodes, "other");
    serves(&fleet);
}

#[test]
fn nodes_that_may_not_be_read_withdraw_nothing_and_what_is_refused_stays_refused() {
    let mut fleet = Fleet::new(1);
    let bad = spec(81, Ipv4Addr::new(10, 55, 7, 7), 80);
    fleet.plane.add_node("other", &json!({}));
    set_address(&fleet, "other", Ipv4Addr::new(10, 55, 7, 7));
    fleet.apply(WEB, &web());
    fleet.apply("lines/bad", &bad);
    serves(&fleet);
    fleet.plane.wait_condition("lines/bad", "Accepted", "False", "ForbiddenUpstream");
    assert!(eventually(PATIENCE, || told(&fleet, "status").contains("ForbiddenUpstream")), "{}", told(&fleet, "status"));

    let role = "portforward-operator";
    let rules = fleet.plane.get(Resource::ClusterRoles, role).unwrap()["rules"].clone();
    let others = rules.as_array().unwrap().iter().filter(|rule| rule["resources"] != json!(["nodes"]));
    fleet.plane.patch(Resource::ClusterRoles, role, json!({"rules": others.collect::<Vec<_>>()}));
    let agent = crate::plane::access::AGENT_USER;
    let answer = || {
        String::from_utf8_lossy(&fleet.plane.kubectl(["auth", "can-i", "list", "nodes", "--as", agent]).stdout).trim().to_owned()
    };
    assert!(eventually(PATIENCE, || answer() == "no"));
    fleet.kill(0);
    fleet.start(0);
    fleet.agent(0).wait_log("the Nodes of the cluster");
    fleet.agent(0).wait_log("reason=ForbiddenUpstream");
    fleet.reaches(80, SERVER, 80);
    assert_eq!(fleet.ask(81), REFUSED);
    let said = fleet.agent(0).complaints().into_iter().filter(|line| line.contains("the Nodes of the cluster")).count();
    assert_eq!(said, 1);
    fleet.plane.patch(Resource::ClusterRoles, role, json!({"rules": rules}));
    fleet.plane.delete(Resource::Nodes, "other");
    fleet.plane.wait_condition("lines/bad", "Accepted", "True", "Accepted");
    fleet.reaches(80, SERVER, 80);
}

/// Attack 1: with one leg on the node's own address, a forward takes the connections of the API server to the kubelet.
#[test]
fn the_kubelets_port_is_taken_with_one_leg_neither_from_the_api_server_nor_from_a_network_around_it() {
    let mut fleet = Fleet::without_agents(1);
    set_address(&fleet, "px0", INTERNAL);
    fleet.plane.add_node("control", &json!({}));
    set_address(&fleet, "control", Ipv4Addr::new(1, 1, 1, 9));
    let attack = |client: &str| {
        format!(
            "client: {{addresses: [{client}]}}, internal: {{addresses: [{INTERNAL}]}}, external: {{addresses: [{INTERNAL}]}}, \
             upstream: {{targets: [{{address: {SERVER}}}]}}, ports: [{{port: 10250, targetPort: 80}}]"
        )
    };
    let tried = [
        ("lines/direct", "1.1.1.9", "ForbiddenClient"),
        ("lines/around", "1.1.1.0/24", "ReservedPort"),
        ("lines/all", "1.0.0.0/8", "ReservedPort"),
    ];
    for (key, client, _) in &tried {
        fleet.apply(key, &attack(client));
    }
    fleet.start(0);
    for (key, _, reason) in &tried {
        fleet.plane.wait_condition(key, "Accepted", "False", reason);
    }
    assert!(!fleet.holds(0, "DNAT"));
}

/// Attacks 10 and 11: the API server by the address of a load balancer, the Service `kubernetes`, cloud metadata.
#[test]
fn front_addresses_of_the_api_server_services_and_metadata_are_no_upstream() {
    let mut fleet = Fleet::new(1);
    let wait = |fleet: &Fleet, upstream: [u8; 4], condition: &str, status: &str, reason: &str| {
        fleet.plane.apply(&manifest(WEB, &spec(80, Ipv4Addr::from(upstream), 443)));
        fleet.plane.wait_condition(WEB, condition, status, reason);
    };
    let (service, kubernetes, metadata, front) = ([10, 96, 0, 77], [10, 96, 0, 1], [100, 100, 100, 200], [203, 0, 113, 9]);
    for upstream in [service, kubernetes, metadata] {
        wait(&fleet, upstream, "Accepted", "False", "ForbiddenUpstream");
        fleet.apply(WEB, &web());
        serves(&fleet);
    }
    wait(&fleet, front, "Accepted", "True", "Accepted");
    fleet.kill(0);
    fleet.start_with(0, &["--forbidden-networks=nodes,203.0.113.0/24"]);
    wait(&fleet, front, "Accepted", "False", "ForbiddenUpstream");
    wait(&fleet, service, "Ready", "False", "UpstreamIsService");
    wait(&fleet, kubernetes, "Accepted", "False", "ForbiddenUpstream");
    fleet.kill(0);
    fleet.start_with(0, &["--forbidden-networks="]);
    wait(&fleet, metadata, "Accepted", "True", "Accepted");
    wait(&fleet, kubernetes, "Accepted", "False", "ForbiddenUpstream");
}
