//! Tests the requests of the agents to the API server: none without a change, one event per change, and no unused right.

use std::collections::BTreeSet;
use std::time::Instant;

use serde_json::json;

use crate::bed::SERVER;
use crate::bed::wait::eventually;
use crate::fleet::{Fleet, WEB, spec, web};
use crate::plane::access::SYSTEM;
use crate::plane::audit::AuditEvent;
use crate::plane::objects::PATIENCE;
use crate::plane::{Resource, deployed, proxy_address};

const OTHER: &str = "lines/other";

/// Two nodes, of which the second holds the addresses. The first one by name would write the summary if no node were active.
fn two_nodes() -> Fleet {
    let fleet = Fleet::without_agents(2);
    fleet.bed.move_addresses(fleet.proxy(0), fleet.proxy(1));
    fleet
}

fn started(fleet: Fleet) -> Fleet {
    started_with(fleet, &[])
}

fn started_with(mut fleet: Fleet, extra: &[&str]) -> Fleet {
    (0..2).for_each(|node| fleet.start_with(node, extra));
    // Both agents are known to live before the test continues.
    assert!(eventually(PATIENCE, || fleet
        .plane
        .list(Resource::Leases)
        .iter()
        .filter(|lease| lease["metadata"]["namespace"] == SYSTEM)
        .count()
        == 2));
    fleet
}

#[track_caller]
fn serves(fleet: &Fleet, key: &str) {
    fleet.plane.wait_condition(key, "Ready", "True", "Ready");
    fleet.wait_active(key, Some(1));
    fleet.wait_entries(key, &["px0 Standby Standby", "px1 Active Ready"]);
}

/// The calls that would change an object other than a Lease.
fn writes(calls: &[AuditEvent]) -> Vec<&str> {
    calls.iter().filter(|call| call.writes() && call.resource != "leases").map(|call| call.uri.as_str()).collect()
}

pub(crate) fn at_rest_and_over_a_restart_only_leases_are_written() {
    let mut fleet = started(two_nodes());
    fleet.apply(WEB, &web());
    fleet.apply(OTHER, &spec(82, SERVER, 82));
    serves(&fleet, WEB);
    serves(&fleet, OTHER);
    fleet.wait_events(WEB, 1);
    fleet.wait_events(OTHER, 1);
    // The objects include the resource version and the field managers, so every write would be visible.
    let objects = |fleet: &Fleet| [WEB, OTHER].map(|key| fleet.plane.forward(key).unwrap());

    // Two renewals of each Lease take 20 s. In this time, each agent also compares its kernel twice without an event.
    let (before, from, begun) = (objects(&fleet), fleet.plane.audit().len(), Instant::now());
    fleet.flush_and_wait_repaired(0);
    let renewed = |node: usize| {
        let renewals = fleet.calls(from).into_iter().filter(|call| call.resource == "leases" && call.writes());
        renewals.filter(|call| call.source == Some(proxy_address(node).into())).count()
    };
    assert!(eventually(PATIENCE, || (0..2).all(|node| renewed(node) >= 2)), "{:?}", [0, 1].map(renewed));
    // One more renewal is possible if the first one was due at once.
    let (renewals, most) = ([0, 1].map(renewed), begun.elapsed().as_secs() / 10 + 1);
    assert!(renewals.iter().all(|count| u64::try_from(*count).unwrap() <= most), "{renewals:?} of {most}");
    assert_eq!(writes(&fleet.calls(from)), Vec::<&str>::new());
    assert_eq!(objects(&fleet), before);

    let from = fleet.plane.audit().len();
    for node in [0, 1] {
        fleet.kill(node);
        fleet.start(node);
    }
    // An agent processes a new forward with this name after the others.
    fleet.apply("lines/zz", &spec(81, SERVER, 81));
    serves(&fleet, "lines/zz");
    let calls = fleet.calls(from);
    let about_others: Vec<&str> =
        writes(&calls).into_iter().filter(|uri| uri.contains("/portforwards/") && !uri.contains("/zz/")).collect();
    assert_eq!(about_others, Vec::<&str>::new());
    assert_eq!(objects(&fleet), before, "transition times are older than the agents");
    assert_eq!([WEB, OTHER].map(|key| fleet.events(key).len()), [1, 1]);
}

/// The reason and the count of each event.
fn told(fleet: &Fleet) -> BTreeSet<(String, u64)> {
    fleet.events(WEB).into_iter().map(|(reason, count, _)| (reason, count)).collect()
}

#[track_caller]
fn wait_told(fleet: &Fleet, wanted: &[(&str, u64)]) {
    let wanted = wanted.iter().map(|(reason, count)| ((*reason).to_owned(), *count)).collect();
    assert!(eventually(PATIENCE, || told(fleet) == wanted), "{:#?} instead of {wanted:?}", fleet.events(WEB));
}

fn set_mode(fleet: &Fleet, mode: &str) {
    fleet.plane.patch(Resource::Forwards, WEB, json!({"spec": {"mode": mode}}));
    fleet.plane.wait_condition(WEB, "Ready", "True", if mode == "Disabled" { "Disabled" } else { "Ready" });
}

/// The permissions that a call used. A server-side apply that creates an object also needs `create`.
fn used(call: &AuditEvent) -> Vec<String> {
    let made =
        (call.verb == "patch" && call.code == 201).then(|| AuditEvent { verb: "create".to_owned(), ..call.clone() }.permission());
    [call.permission()].into_iter().chain(made).collect()
}

/// Whether a call used a right for a namespace (`None`: for all namespaces). A right for all namespaces must be needed outside
/// of the namespaces in which an agent has separate rights.
fn uses(call: &AuditEvent, namespace: Option<&str>, right: &str) -> bool {
    let there = match namespace {
        Some(namespace) => call.namespace == namespace,
        None => ![SYSTEM, "default"].contains(&&*call.namespace),
    };
    // A right for one object is used if the call is about that object.
    used(call).iter().any(|used| (there && used == right) || format!("{used}/{}", call.name) == right)
}

/// A grant that permits everything.
const GRANT: &str = "
    apiVersion: portforward.dev/v1alpha1
    kind: PortForwardGrant
    metadata: {name: all}
    spec:
      namespaces: [lines]
      listen: [{cidrs: [0.0.0.0/0]}]
      clients: [0.0.0.0/0]
      upstreams: [{cidrs: [0.0.0.0/0]}]
      external: [0.0.0.0/0]
      gateways: [{address: 192.168.0.1, routes: [0.0.0.0/0]}]
      reverse: [{}]
";

#[test]
fn each_change_is_one_event_and_every_right_is_used_and_none_is_missing() {
    // Only agents that look at grants read them and write their status.
    let fleet = started_with(two_nodes(), &["--require-grants=report"]);
    fleet.plane.apply(GRANT);
    fleet.apply(WEB, &web());
    serves(&fleet, WEB);
    wait_told(&fleet, &[("Ready", 1)]);
    fleet.plane.wait(Resource::Grants, "all", "counts its forward", |grant| grant["status"]["forwards"] == 1);
    set_mode(&fleet, "Disabled");
    wait_told(&fleet, &[("Ready", 1), ("Disabled", 1)]);
    set_mode(&fleet, "Enabled");
    serves(&fleet, WEB);
    wait_told(&fleet, &[("Ready", 2), ("Disabled", 1)]);
    // An edit that does not change the state causes no event; neither does a move of the addresses.
    fleet.apply(WEB, &spec(81, SERVER, 81));
    serves(&fleet, WEB);
    fleet.bed.move_addresses(fleet.proxy(1), fleet.proxy(0));
    fleet.wait_active(WEB, Some(0));
    fleet.wait_entries(WEB, &["px0 Active Ready", "px1 Standby Standby"]);
    assert_eq!(told(&fleet), BTreeSet::from([("Ready".to_owned(), 2), ("Disabled".to_owned(), 1)]));

    let calls = fleet.calls(0);
    let denied: Vec<&AuditEvent> = calls.iter().filter(|call| call.code == 403).collect();
    assert!(denied.is_empty(), "{denied:#?}");
    let unused: Vec<(Option<String>, String)> = deployed::granted()
        .into_iter()
        .filter(|(namespace, right)| !calls.iter().any(|call| call.code < 400 && uses(call, namespace.as_deref(), right)))
        .collect();
    assert!(unused.is_empty(), "deploy/base gives what no agent uses: {unused:#?}");
}
