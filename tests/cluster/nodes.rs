//! Tests several nodes: which node carries a forward while addresses move and agents die, and what its status says.

use std::time::Duration;

use crate::bed::wait::eventually;
use crate::bed::{INTERNAL, SERVER};
use crate::fleet::{Fleet, WEB, name, web};
use crate::plane::Resource;

/// A Lease counts for 40 s after the last renewal. Reading and writing take additional time, most of it on a busy machine.
const LEASE_AND_MORE: Duration = Duration::from_mins(3);

fn three_nodes() -> Fleet {
    let fleet = Fleet::new(3);
    fleet.apply(WEB, &web());
    fleet.wait_entries(WEB, &["px0 Active Ready", "px1 Standby Standby", "px2 Standby Standby"]);
    fleet.plane.wait_condition(WEB, "Ready", "True", "Ready");
    fleet.wait_active(WEB, Some(0));
    fleet
}

fn move_addresses(fleet: &Fleet, from: usize, to: usize) {
    fleet.bed.move_addresses(fleet.proxy(from), fleet.proxy(to));
}

/// Waits for this summary, longer than a Lease counts.
#[track_caller]
fn wait_summary(fleet: &Fleet, status: &str, reason: &str, active: Option<usize>) {
    let summary = || {
        let forward = fleet.plane.forward(WEB).unwrap();
        let ready = fleet.plane.condition(WEB, "Ready");
        (ready, forward["status"]["activeNode"].as_str().map(str::to_owned))
    };
    let wanted = (Some((status.to_owned(), reason.to_owned())), active.map(name));
    assert!(eventually(LEASE_AND_MORE, || summary() == wanted), "{:?} instead of {wanted:?}", summary());
}

#[test]
fn addresses_move_between_nodes_and_status_follows() {
    let fleet = three_nodes();
    fleet.reaches(80, SERVER, 80);
    for (from, to) in [(0, 1), (1, 2), (2, 0)] {
        move_addresses(&fleet, from, to);
        // At once, because the standby had the rules ready.
        fleet.reaches(80, SERVER, 80);
        wait_summary(&fleet, "True", "Ready", Some(to));
        let entries: Vec<String> = (0..3)
            .map(|node| if node == to { format!("px{node} Active Ready") } else { format!("px{node} Standby Standby") })
            .collect();
        fleet.wait_entries(WEB, &entries.iter().map(String::as_str).collect::<Vec<_>>());
    }

    fleet.proxy(0).netns.ip(&format!("addr del {INTERNAL}/24 dev eth1"));
    wait_summary(&fleet, "False", "NoActiveNode", None);
    fleet.wait_entries(WEB, &["px0 Standby Standby", "px1 Standby Standby", "px2 Standby Standby"]);

    for node in [0, 1] {
        fleet.proxy(node).netns.ip(&format!("addr add {INTERNAL}/24 dev eth1"));
    }
    wait_summary(&fleet, "False", "AddressOnSeveralNodes", None);
    let forward = fleet.plane.forward(WEB).unwrap();
    let ready = forward["status"]["conditions"].as_array().unwrap().iter().find(|one| one["type"] == "Ready").unwrap();
    let message = ready["message"].as_str().unwrap();
    assert!(message.contains("px0") && message.contains("px1") && !message.contains("px2"), "{message}");
    fleet.proxy(1).netns.ip(&format!("addr del {INTERNAL}/24 dev eth1"));
    wait_summary(&fleet, "True", "Ready", Some(0));
    assert_eq!((0..3).flat_map(|node| fleet.agent(node).complaints()).collect::<Vec<_>>(), Vec::<String>::new());
}

#[test]
fn an_active_node_that_has_lost_its_external_address_says_so() {
    let fleet = Fleet::new(1);
    fleet.apply(WEB, &web());
    fleet.plane.wait_condition(WEB, "Ready", "True", "Ready");
    fleet.proxy(0).netns.ip("addr add 2.2.2.50/24 dev eth0");
    fleet.proxy(0).netns.ip("addr del 2.2.2.2/24 dev eth0");
    fleet.plane.wait_condition(WEB, "Ready", "False", "ExternalAddressMissing");
    fleet.plane.wait_condition(WEB, "Accepted", "True", "Accepted");
}

pub(crate) fn each_agent_is_killed_in_turn_and_the_traffic_goes_on() {
    let mut fleet = three_nodes();
    // The active node is killed and the next one takes the addresses; then that one is killed.
    for (dead, next) in [(0, 1), (1, 2)] {
        fleet.kill(dead);
        fleet.reaches(80, SERVER, 80);
        move_addresses(&fleet, dead, next);
        fleet.reaches(80, SERVER, 80);
    }
    // Until their Leases are too old, the last entries of the dead nodes count.
    wait_summary(&fleet, "True", "Ready", Some(2));
    // Then their entries are removed.
    fleet.wait_entries(WEB, &["px2 Active Ready"]);

    fleet.start(0);
    fleet.wait_entries(WEB, &["px0 Standby Standby", "px2 Active Ready"]);
    fleet.kill(2);
    fleet.reaches(80, SERVER, 80);
    wait_summary(&fleet, "Unknown", "AgentUnavailable", None);
    fleet.plane.wait(Resource::Forwards, WEB, "the dead node is not named", |forward| {
        forward["status"]["conditions"].as_array().is_some_and(|all| {
            all.iter().any(|one| one["type"] == "Ready" && one["message"].as_str().is_some_and(|text| text.contains("px2")))
        })
    });
    fleet.reaches(80, SERVER, 80);
    // The addresses are back on the first node.
    fleet.start(2);
    wait_summary(&fleet, "True", "Ready", Some(2));
    fleet.reaches(80, SERVER, 80);
    fleet.wait_entries(WEB, &["px0 Standby Standby", "px2 Active Ready"]);
}
