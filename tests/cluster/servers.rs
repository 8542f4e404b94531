//! Tests the API servers behind the address by which an agent reaches them: no forward leads to them, none of them is a client,
//! and no route covers them.

use std::net::Ipv4Addr;

use serde_json::json;

use crate::bed::agent::{operator, state_folder};
use crate::bed::netns::output;
use crate::bed::wait::eventually;
use crate::bed::{CLIENT, SERVER};
use crate::fleet::{Fleet, REFUSED, WEB, web};
use crate::plane::Resource;
use crate::plane::http::Request;
use crate::plane::objects::PATIENCE;

const SLICE: &str = "default/kubernetes";

/// Writes the addresses of the API servers as an API server does; without addresses, removes them.
fn set_servers(fleet: &Fleet, addresses: &[Ipv4Addr]) {
    if fleet.plane.get(Resource::EndpointSlices, SLICE).is_some() {
        fleet.plane.delete(Resource::EndpointSlices, SLICE);
    }
    if addresses.is_empty() {
        return;
    }
    let endpoint = |address| json!({"addresses": [address], "conditions": {"ready": true}});
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": "kubernetes", "labels": {"kubernetes.io/service-name": "kubernetes"}},
        "endpoints": addresses.iter().map(endpoint).collect::<Vec<_>>(),
        "ports": [{"name": "https", "port": 6443, "protocol": "TCP"}],
    });
    fleet.plane.must(&Request::post(Resource::EndpointSlices.path(Some("default"), None), slice));
}

fn route_to_client(fleet: &Fleet) -> bool {
    !output(fleet.proxy(0).command("ip").args(["route", "show", "1.1.1.1", "proto", "154"])).stdout.is_empty()
}

/// The output of another command of the program on the node, which uses only the record.
fn told(fleet: &Fleet, command: &str) -> String {
    let state = state_folder(fleet.proxy(0));
    let options = ["--node-name", "px0", "--iptables", "nft", "--state-dir", state.to_str().unwrap()];
    let told = operator(fleet.proxy(0), [command].iter().chain(&options));
    assert!(told.status.success(), "{told:?}");
    String::from_utf8_lossy(&told.stdout).into_owned()
}

#[test]
fn no_route_covers_an_api_server_behind_its_service_and_no_forward_leads_to_it() {
    let mut fleet = Fleet::without_agents(1);
    set_servers(&fleet, &[Ipv4Addr::new(10, 99, 0, 1), CLIENT]);
    fleet.apply(WEB, &web().replace("[1.1.1.1]", "[1.1.0.0/16]"));
    fleet.start(0);
    fleet.plane.wait_condition(WEB, "Ready", "False", "RouteCapturesNode");
    let said = fleet.agent(0).log();
    assert!(said.contains("routes=0") && !said.contains("routes=1"), "not even for a moment: {said}");
    fleet.apply(WEB, &web());
    fleet.plane.wait_condition(WEB, "Ready", "False", "ForbiddenClient");
    assert!(!fleet.holds(0, "DNAT"));

    set_servers(&fleet, &[]);
    fleet.plane.wait_condition(WEB, "Ready", "True", "Ready");
    fleet.reaches(80, SERVER, 80);
    assert!(route_to_client(&fleet));

    set_servers(&fleet, &[SERVER]);
    fleet.plane.wait_condition(WEB, "Ready", "False", "ForbiddenUpstream");
    fleet.plane.wait_condition(WEB, "Accepted", "False", "ForbiddenUpstream");
    fleet.wait_ask(80, REFUSED);
    assert!(!fleet.holds(0, "DNAT") && !route_to_client(&fleet));

    // The record contains the addresses, for a start without an API server.
    assert!(eventually(PATIENCE, || told(&fleet, "status").contains("ForbiddenUpstream")), "{}", told(&fleet, "status"));
    fleet.kill(0);
    fleet.plane.kill();
    assert!(told(&fleet, "restore").contains("ForbiddenUpstream"));
    fleet.start(0);
    let refusals = || fleet.agent(0).log().lines().filter(|line| line.contains("reason=ForbiddenUpstream")).count();
    assert!(eventually(PATIENCE, || refusals() == 2), "once for each agent: {}", refusals());
    assert_eq!(fleet.ask(80), REFUSED);
    assert!(!fleet.holds(0, "DNAT"));

    fleet.plane.start();
    set_servers(&fleet, &[]);
    fleet.plane.wait_condition(WEB, "Ready", "True", "Ready");
    fleet.reaches(80, SERVER, 80);
}

#[test]
fn an_agent_that_may_not_read_where_the_api_servers_are_says_so_and_installs_no_new_route() {
    let mut fleet = Fleet::without_agents(1);
    let role = "portforward-operator";
    let rules = fleet.plane.get(Resource::ClusterRoles, role).unwrap()["rules"].clone();
    let others = rules.as_array().unwrap().iter().filter(|rule| rule["resources"] != json!(["endpointslices"]));
    fleet.plane.patch(Resource::ClusterRoles, role, json!({"rules": others.collect::<Vec<_>>()}));
    set_servers(&fleet, &[CLIENT]);
    fleet.apply(WEB, &web());
    let agent = crate::plane::access::AGENT_USER;
    let asked = ["auth", "can-i", "list", "endpointslices.discovery.k8s.io/kubernetes", "-n", "default", "--as", agent];
    let answer = || String::from_utf8_lossy(&fleet.plane.kubectl(asked).stdout).trim().to_owned();
    assert!(eventually(PATIENCE, || answer() == "no"));
    fleet.start(0);
    fleet.plane.wait_condition(WEB, "Ready", "False", "ApiServersUnknown");
    fleet.plane.wait_condition(WEB, "Accepted", "True", "Accepted");
    assert!(fleet.holds(0, "DNAT") && !route_to_client(&fleet));
    let said_once = || {
        let said = fleet.agent(0).complaints();
        let about = |text: &str| said.iter().filter(|line| line.contains(text)).count();
        let (refused, unknown) = (about("the EndpointSlices of the API servers"), about("not completely known"));
        assert_eq!((said.len(), refused, unknown), (2, 1, 1), "{said:#?}");
    };
    said_once();
    // The same after a restart, although the record was written in the meantime.
    fleet.kill(0);
    fleet.start(0);
    fleet.plane.wait_condition(WEB, "Ready", "False", "ApiServersUnknown");
    assert!(!route_to_client(&fleet));
    fleet.plane.patch(Resource::ClusterRoles, role, json!({"rules": rules}));
    fleet.plane.wait_condition(WEB, "Ready", "False", "ForbiddenClient");
    assert!(!route_to_client(&fleet));
    set_servers(&fleet, &[]);
    fleet.plane.wait_condition(WEB, "Ready", "True", "Ready");
    assert!(route_to_client(&fleet));
}
