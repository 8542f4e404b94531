//! Tests what a node does not do: forwards of other nodes, and unnecessary writes of status.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::bed::wait::eventually;
use crate::bed::{INTERNAL, SERVER};
use crate::fleet::{Fleet, WEB, spec, web};
use crate::plane::access::SYSTEM;
use crate::plane::http::{Request, Response};
use crate::plane::objects::PATIENCE;
use crate::plane::{Resource, proxy_address};

/// The number of status writes about one forward by the agent of a node.
fn spoken(fleet: &Fleet, node: usize, name: &str) -> usize {
    let about = format!("/portforwards/{name}/status");
    let calls = fleet.calls(0).into_iter().filter(|call| call.source == Some(proxy_address(node).into()));
    calls.filter(|call| call.writes() && call.uri.contains(&about)).count()
}

#[test]
fn a_forward_for_another_node_costs_no_word_until_a_label_makes_this_one_a_candidate() {
    let fleet = Fleet::new(2);
    // The second node holds the addresses. The first agent would write the summary if no node were active.
    fleet.bed.move_addresses(fleet.proxy(0), fleet.proxy(1));
    fleet.apply(WEB, &format!("nodeSelector: {{matchLabels: {{line: a}}}}, {}", web()));
    fleet.plane.wait_condition(WEB, "Ready", "False", "NoActiveNode");
    fleet.wait_entries(WEB, &[]);
    assert!(!fleet.holds(1, "DNAT"));
    fleet.plane.patch(Resource::Nodes, "px1", json!({"metadata": {"labels": {"line": "a"}}}));
    fleet.plane.wait_condition(WEB, "Ready", "True", "Ready");
    fleet.reaches(80, SERVER, 80);
    fleet.wait_entries(WEB, &["px1 Active Ready"]);

    fleet.apply("lines/its", &format!("nodeSelector: {{matchLabels: {{line: a}}}}, {}", spec(81, SERVER, 81)));
    fleet.plane.wait_condition("lines/its", "Ready", "True", "Ready");
    // The first agent has processed both forwards when it has written about a third one.
    fleet.apply("lines/zz", &spec(82, SERVER, 82));
    fleet.wait_entries("lines/zz", &["px0 Standby Standby", "px1 Active Ready"]);
    assert_eq!(spoken(&fleet, 0, "its"), 0);
    fleet.wait_entries("lines/its", &["px1 Active Ready"]);

    fleet.plane.patch(Resource::Nodes, "px0", json!({"metadata": {"labels": {"line": "a"}}}));
    fleet.wait_entries("lines/its", &["px0 Standby Standby", "px1 Active Ready"]);
    fleet.plane.patch(Resource::Nodes, "px1", json!({"metadata": {"labels": {"line": null}}}));
    fleet.wait_entries("lines/its", &["px0 Standby Standby"]);
    fleet.plane.wait_condition("lines/its", "Ready", "False", "NoActiveNode");
    fleet.plane.wait_condition("lines/zz", "Ready", "True", "Ready");
}

/// If the Node object has no address, as here at first, the source address of the default route counts.
#[test]
fn the_addresses_of_the_node_object_keep_their_reserved_ports() {
    let fleet = Fleet::new(1);
    fleet.apply("lines/early", &spec(10250, SERVER, 80));
    fleet.plane.wait_condition("lines/early", "Ready", "True", "Ready");
    let status =
        json!({"status": {"addresses": [{"type": "InternalIP", "address": INTERNAL}, {"type": "Hostname", "address": "px0"}]}});
    fleet.plane.must(&Request::merge(format!("{}/status", Resource::Nodes.path(None, Some("px0"))), status));
    // The label is set after the addresses, so an agent that has seen the label has seen the addresses too.
    fleet.apply("lines/late", &format!("nodeSelector: {{matchLabels: {{line: a}}}}, {}", spec(22, SERVER, 80)));
    fleet.plane.patch(Resource::Nodes, "px0", json!({"metadata": {"labels": {"line": "a"}}}));
    fleet.plane.wait_condition("lines/late", "Accepted", "False", "ReservedPort");
    fleet.plane.wait_condition("lines/early", "Ready", "True", "Ready");
    fleet.reaches(10250, SERVER, 80);
    assert!(!fleet.holds(0, "--dport 22 "));
}

/// Leases of live agents.
fn other_agents(count: usize) -> Vec<Request> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let collection = Resource::Leases.path(Some(SYSTEM), None);
    let lease = |index: usize| {
        let time = format!("{}.000000Z", rfc3339(now));
        let spec = json!({"holderIdentity": other(index), "leaseDurationSeconds": 40, "renewTime": time});
        let metadata = json!({"name": other(index), "labels": {"portforward.dev/agent": "true"}});
        Request::post(&*collection, json!({"metadata": metadata, "spec": spec}))
    };
    (0..count).map(lease).collect()
}

fn other(index: usize) -> String {
    format!("other-{index:02}")
}

fn rfc3339(seconds: u64) -> String {
    let time = k8s_openapi::jiff::Timestamp::from_second(seconds.try_into().unwrap()).unwrap();
    time.strftime("%Y-%m-%dT%H:%M:%S").to_string()
}

/// Entries of other nodes. The first node is active.
fn entries(count: usize) -> Value {
    let entry = |index: usize| {
        let role = if index == 0 { "Active" } else { "Standby" };
        json!({"nodeName": other(index), "role": role, "observedGeneration": 1})
    };
    json!({"status": {"nodes": (0..count).map(entry).collect::<Vec<_>>()}})
}

#[test]
fn the_seventeenth_standby_is_silent_until_it_is_active() {
    let mut fleet = Fleet::without_agents(1);
    // The node is in the subnet but does not hold the address.
    fleet.proxy(0).netns.ip_batch([format!("addr del {INTERNAL}/24 dev eth1"), "addr add 192.168.0.77/24 dev eth1".to_owned()]);
    for (key, spec, count) in [(WEB, web(), 16), ("lines/zz", spec(81, SERVER, 81), 15)] {
        fleet.apply(key, &spec);
        let path = Resource::Forwards.path(Some("lines"), key.split_once('/').map(|(_, name)| name));
        fleet.plane.must(&Request::merge(format!("{path}/status"), entries(count)));
    }
    let answers = fleet.plane.send(&other_agents(16));
    assert!(answers.iter().all(Response::done), "{answers:?}");
    fleet.start(0);
    fleet.wait_holds(0, "dport 80", true);
    // An agent processes it after the other forward, and it has room for one more entry.
    assert!(eventually(PATIENCE, || fleet.entries("lines/zz").len() == 16), "{:?}", fleet.entries("lines/zz"));
    assert_eq!((spoken(&fleet, 0, "web"), fleet.entries(WEB).len()), (0, 16));
    fleet.proxy(0).netns.ip(&format!("addr add {INTERNAL}/24 dev eth1"));
    let active = || fleet.entries(WEB).contains(&"px0 Active Ready".to_owned());
    assert!(eventually(PATIENCE, active), "{:?}", fleet.entries(WEB));
}
