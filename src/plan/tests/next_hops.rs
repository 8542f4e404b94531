//! Which neighbours a forward depends on, and the effect of their answers.

use super::*;
use crate::model::{Answer, Answers, Hop, NextHop};

fn hop(address: &str, interface: &str) -> NextHop {
    NextHop { address: address.parse().unwrap(), interface: interface.parse().unwrap() }
}

fn asked(answers: &[(&str, &str, Answer)]) -> Facts {
    let answers = answers.iter().map(|(address, interface, answer)| (hop(address, interface), *answer));
    Facts { answers: Answers::Asked(answers.collect()), ..facts() }
}

fn next_hops(facts: &Facts, spec: Value) -> Vec<String> {
    let plan = planned(facts, &[object("one", spec)]);
    plan.next_hops.iter().map(|NextHop { interface, address }| format!("{address} {interface}")).collect()
}

const GATEWAY: (&str, &str) = ("192.168.0.1", "eth1");
const ROUTER: (&str, &str) = ("2.2.2.1", "eth0");

#[test]
fn a_forward_depends_on_its_gateway_and_on_the_next_hop_to_its_upstream() {
    assert_eq!(next_hops(&facts(), spec()), ["2.2.2.1 eth0", "192.168.0.1 eth1"]);
    let on_link = with(&[("/upstream/targets/0/address", json!("2.2.2.9"))]);
    assert_eq!(next_hops(&facts(), on_link), ["2.2.2.9 eth0", "192.168.0.1 eth1"]);
}

#[test]
fn a_client_on_the_link_may_be_switched_off_and_a_router_to_clients_may_not() {
    let on_link = with(&[("/internal/gateways", json!([])), ("/client/addresses", json!(["192.168.0.50"]))]);
    assert_eq!(next_hops(&facts(), on_link), ["2.2.2.1 eth0"]);
    let mut routed = facts();
    let by_gateway = Route {
        kind: crate::model::RouteKind::Unicast,
        destination: "1.1.1.0/24".parse().unwrap(),
        gateway: Some("192.168.0.1".parse().unwrap()),
        interface: Some("eth1".parse().unwrap()),
        hops: Vec::new(),
        metric: 0,
        ours: false,
    };
    routed.routes = facts().routes.iter().cloned().chain([by_gateway]).collect();
    assert_eq!(next_hops(&routed, with(&[("/internal/gateways", json!([]))])), ["2.2.2.1 eth0", "192.168.0.1 eth1"]);
}

#[test]
fn what_proves_nothing_asks_for_nothing() {
    let by_policy = Facts { routing: by_mark(), ..facts() };
    assert_eq!(next_hops(&by_policy, spec()), ["192.168.0.1 eth1"], "the way to the upstream depends on the mark");
    let mut several = facts();
    let without_interface = |route: &Route| Route { interface: None, ..route.clone() };
    several.routes = facts().routes.iter().map(without_interface).collect();
    assert_eq!(next_hops(&several, spec()), ["192.168.0.1 eth1"], "a route without any next hop");
    let refused = with(&[("/upstream/targets/0/address", json!("192.168.0.2"))]);
    assert_eq!(next_hops(&facts(), refused), [""; 0], "a forward that is refused");
}

#[test]
fn every_one_of_several_next_hops_must_answer() {
    let mut several = facts();
    let hop =
        |gateway: &str, interface: &str| Hop { gateway: Some(gateway.parse().unwrap()), interface: interface.parse().unwrap() };
    let hops = vec![hop("2.2.2.1", "eth0"), hop("2.2.2.7", "eth0")];
    let by_two = |route: &Route| match route.gateway {
        Some(_) => Route { gateway: None, interface: None, hops: hops.clone(), ..route.clone() },
        None => route.clone(),
    };
    several.routes = facts().routes.iter().map(by_two).collect();
    assert_eq!(next_hops(&several, spec()), ["2.2.2.1 eth0", "2.2.2.7 eth0", "192.168.0.1 eth1"]);
    let answers =
        asked(&[(GATEWAY.0, GATEWAY.1, Answer::Seen), (ROUTER.0, ROUTER.1, Answer::Seen), ("2.2.2.7", "eth0", Answer::Silent)]);
    several.answers = answers.answers;
    assert_eq!(worst(&several, spec()), Some(ObstacleReason::GatewayUnreachable));
    let message = verdict(&several, spec()).obstacles[0].message.clone();
    assert!(message.contains("2.2.2.7, one of several next hops to the upstream"), "{message}");
}

#[test]
fn a_forward_is_ready_only_when_all_of_its_next_hops_were_seen() {
    let answers = |gateway, router| asked(&[(GATEWAY.0, GATEWAY.1, gateway), (ROUTER.0, ROUTER.1, router)]);
    assert_eq!(worst(&asked(&[]), spec()), Some(ObstacleReason::GatewayPending), "nobody answered yet");
    assert_eq!(worst(&answers(Answer::Seen, Answer::Seen), spec()), None);
    assert_eq!(worst(&answers(Answer::Seen, Answer::Awaited), spec()), Some(ObstacleReason::GatewayPending));
    assert_eq!(worst(&answers(Answer::Seen, Answer::Silent), spec()), Some(ObstacleReason::GatewayUnreachable));
    assert_eq!(worst(&answers(Answer::Silent, Answer::Awaited), spec()), Some(ObstacleReason::GatewayUnreachable));
}

#[test]
fn the_answer_on_another_interface_counts_for_nothing() {
    let elsewhere =
        asked(&[(GATEWAY.0, "eth0", Answer::Silent), (GATEWAY.0, GATEWAY.1, Answer::Seen), (ROUTER.0, ROUTER.1, Answer::Seen)]);
    assert_eq!(worst(&elsewhere, spec()), None);
    let here = asked(&[(GATEWAY.0, "eth0", Answer::Seen), (ROUTER.0, ROUTER.1, Answer::Seen)]);
    assert_eq!(worst(&here, spec()), Some(ObstacleReason::GatewayPending));
}

#[test]
fn answers_change_what_is_said_and_nothing_in_the_kernel() {
    let silent = asked(&[(GATEWAY.0, GATEWAY.1, Answer::Silent)]);
    assert_eq!(planned(&silent, &[object("one", spec())]).desired, planned(&facts(), &[object("one", spec())]).desired);
}

#[test]
fn a_thousand_forwards_behind_one_gateway_are_one_question() {
    let many: Vec<Candidate> =
        (0..1000).map(|number| object(&format!("f{number}"), with(&[("/ports/0/port", json!(10_000 + number))]))).collect();
    assert_eq!(planned(&facts(), &many).next_hops.len(), 2);
}
