//! Properties of the conditions and the summary.

mod agents;
mod contest;
mod forged;
mod standbys;

use std::collections::BTreeMap;

use k8s_openapi::jiff::Timestamp;

use super::*;
use crate::api::{NodeStatus, PortForwardStatus, Role, ShownPorts};
use crate::dataplane::conntrack::Purged;
use crate::dataplane::routes::{RouteState, RoutesReport};
use crate::dataplane::rules::{ForwardPolicy, Function, Overridden, Place, RulesError, RulesReport, Step};
use crate::dataplane::{Applied, Forwarded, ForwardingError};
use crate::forward::{ForwardKey, Refusal, RefusalReason};
use crate::model::HostRoute;
use crate::plan::{Acceptance, Conflict, NodeRefusal, NodeRefusalReason, Note, Obstacle, ObstacleReason, RoutePlan, Verdict};

fn verdict(acceptance: Acceptance, role: Option<Role>) -> Verdict {
    Verdict::new(None, 3, acceptance, role)
}

fn active() -> Verdict {
    verdict(Acceptance::Accepted, Some(Role::Active))
}

fn failed(step: Step) -> RulesReport {
    let error = RulesError { text: "table nat: no answer".to_owned(), step, transient: true };
    RulesReport { failed: [(Function::Nat, error)].into(), ..RulesReport::default() }
}

fn place(table: &'static str, chain: &str) -> Place {
    Place { table, chain: chain.to_owned() }
}

fn overridden() -> RulesReport {
    let overridden = Overridden { place: place("filter", "FORWARD"), instead: "-j X".to_owned(), chain: "PF-FWD".to_owned() };
    RulesReport { overridden: vec![overridden], ..RulesReport::default() }
}

fn applied(rules: RulesReport) -> Applied {
    Applied { rules, routes: Ok(RoutesReport::default()), conntrack: Ok(Purged::default()), forwarding: Ok(Forwarded::default()) }
}

fn exact() -> Applied {
    applied(RulesReport::default())
}

/// The conditions as text: type, status, reason.
fn text(judgement: &Judgement) -> Vec<String> {
    let line = |judged: &Judged| format!("{}={} {}", judged.kind.as_str(), judged.state.as_str(), judged.reason);
    judgement.conditions.iter().map(line).collect()
}

fn route() -> HostRoute {
    HostRoute {
        destination: "1.1.1.1/32".parse().unwrap(),
        gateway: "192.168.0.1".parse().unwrap(),
        interface: "eth1".parse().unwrap(),
    }
}

fn refusal() -> Refusal {
    Refusal { reason: RefusalReason::LoopbackAddress, message: "spec.upstream: …".to_owned() }
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

#[test]
fn a_forward_that_the_kernel_holds_is_ready() {
    assert_eq!(text(&judge(&active(), &exact())), ["Accepted=True Accepted", "Programmed=True Programmed", "Ready=True Ready"]);
    let standby = judge(&verdict(Acceptance::Accepted, Some(Role::Standby)), &exact());
    assert_eq!(text(&standby), ["Accepted=True Accepted", "Programmed=True Programmed", "Ready=True Standby"]);
}

#[test]
fn programmed_is_true_only_from_a_read_back_that_equals_the_plan() {
    let programmed = |applied: &Applied| text(&judge(&active(), applied))[1..].to_vec();
    let differing = RulesReport { differing: vec![place("nat", "PF-PRE")], ..RulesReport::default() };
    assert_eq!(programmed(&applied(differing)), ["Programmed=False Drifted", "Ready=False Drifted"]);
    assert_eq!(programmed(&applied(overridden())), ["Programmed=False Overridden", "Ready=False Overridden"]);
    let missing = Applied { rules: failed(Step::Read), ..exact() };
    assert_eq!(programmed(&missing), ["Programmed=False ApplyFailed", "Ready=False ApplyFailed"]);
}

#[test]
fn a_route_that_is_not_there_is_neither_programmed_nor_ready() {
    let mut verdict = active();
    verdict.routes.push(RoutePlan::Install(route()));
    let with = |state: Option<RouteState>| {
        let routes =
            RoutesReport { states: state.map(|state| (route(), state)).into_iter().collect(), ..RoutesReport::default() };
        text(&judge(&verdict, &Applied { routes: Ok(routes), ..exact() }))[1..].to_vec()
    };
    assert_eq!(with(Some(RouteState::Installed)), ["Programmed=True Programmed", "Ready=True Ready"]);
    assert_eq!(with(Some(RouteState::Satisfied)), ["Programmed=True Programmed", "Ready=True Ready"]);
    let contested = RouteState::Contested { foreign: "1.1.1.1 via 192.168.0.9".to_owned() };
    assert_eq!(with(Some(contested)), ["Programmed=False RouteContested", "Ready=False RouteContested"]);
    let refused = RouteState::Refused { error: "Network is unreachable".to_owned() };
    assert_eq!(with(Some(refused)), ["Programmed=False RouteRefused", "Ready=False RouteRefused"]);
    assert_eq!(with(Some(RouteState::Missing)), ["Programmed=False Drifted", "Ready=False Drifted"]);
    let surplus = RoutesReport { surplus: vec!["1.1.1.9/32".to_owned()], ..RoutesReport::default() };
    let surplus = judge(&active(), &Applied { routes: Ok(surplus), ..exact() });
    assert_eq!(text(&surplus)[1..], ["Programmed=False Drifted", "Ready=False Drifted"]);
    assert_eq!(
        with(None),
        ["Programmed=False RouteRefused", "Ready=False RouteRefused"],
        "nothing is taken for true that was not read"
    );
}

#[test]
fn the_worst_obstacle_names_the_reason_and_the_message_tells_all() {
    let mut verdict = active();
    let obstacle = |reason, message: &str| Obstacle { reason, message: message.to_owned() };
    verdict.obstacles = vec![
        obstacle(ObstacleReason::ForwardingDisabled, "ip_forward is 0"),
        obstacle(ObstacleReason::GatewayUnreachable, "no answer"),
    ];
    let judgement = judge(&verdict, &exact());
    assert_eq!(text(&judgement)[1..], ["Programmed=True Programmed", "Ready=False ForwardingDisabled"]);
    assert_eq!(judgement.condition(Type::Ready).unwrap().message, "ip_forward is 0; no answer");
}

#[test]
fn forwarding_that_was_switched_on_stops_nothing_and_one_that_could_not_be_says_why() {
    let mut verdict = active();
    let obstacle = Obstacle { reason: ObstacleReason::ForwardingDisabled, message: "ip_forward is 0".to_owned() };
    verdict.obstacles = vec![obstacle];
    let on = judge(&verdict, &Applied { forwarding: Ok(Forwarded::SwitchedOn), ..exact() });
    assert_eq!(text(&on)[1..], ["Programmed=True Programmed", "Ready=True Ready"]);
    let error =
        ForwardingError { setting: "net.ipv4.ip_forward".to_owned(), reason: "/proc/sys: Read-only file system".to_owned() };
    let off = judge(&verdict, &Applied { forwarding: Err(error), ..exact() });
    assert_eq!(text(&off)[1..], ["Programmed=True Programmed", "Ready=False ForwardingDisabled"]);
    let message = &off.condition(Type::Ready).unwrap().message;
    assert!(message.contains("Read-only") && message.contains("/host/proc/sys/net"), "{message}");
}

#[test]
fn what_stops_nothing_is_said_and_stays_ready() {
    let mut verdict = active();
    verdict.notes.push(Note("reverse covers TCP 22".to_owned()));
    let drop = RulesReport { forward_policy: ForwardPolicy::Drop, ..RulesReport::default() };
    let judgement = judge(&verdict, &applied(drop));
    let ready = judgement.condition(Type::Ready).unwrap();
    assert_eq!(ready.state, State::True);
    assert!(ready.message.contains("DROP") && ready.message.contains("TCP 22"), "{}", ready.message);
}

#[test]
fn what_is_refused_is_stalled_whoever_has_to_change_something() {
    let refused = judge(&verdict(Acceptance::Refused(refusal()), None), &exact());
    assert_eq!(
        text(&refused),
        [
            "Accepted=False LoopbackAddress",
            "Programmed=False NotAccepted",
            "Ready=False LoopbackAddress",
            "Stalled=True LoopbackAddress"
        ]
    );
    assert_eq!(
        text(&lost()),
        ["Accepted=False Conflict", "Programmed=False NotAccepted", "Ready=False Conflict", "Stalled=True Conflict"]
    );
    for reason in NodeRefusalReason::ALL.iter().copied() {
        let here = text(&refused_here(reason));
        let reason = reason.as_str();
        assert_eq!(here[2..], [format!("Ready=False {reason}"), format!("Stalled=True {reason}")]);
    }
}

fn lost() -> Judgement {
    let conflict = Conflict { winner: ForwardKey::new("a", "b"), message: "a/b has it".to_owned() };
    judge(&verdict(Acceptance::Conflict(conflict), Some(Role::Active)), &exact())
}

fn refused_here(reason: NodeRefusalReason) -> Judgement {
    let refusal = NodeRefusal { reason, message: "…".to_owned() };
    judge(&verdict(Acceptance::RefusedHere(refusal), Some(Role::Active)), &exact())
}

#[test]
fn what_a_node_refused_is_not_stalled_any_more_where_nobody_can_look() {
    let refused = refused_here(NodeRefusalReason::ShadowsLocalListener);
    let unseen = text(&refused.unseen("no netlink"));
    assert_eq!(unseen[1..], ["Programmed=Unknown NodeUnreadable", "Ready=Unknown NodeUnreadable"]);
    let wrong = judge(&verdict(Acceptance::Refused(refusal()), None), &exact()).unseen("no netlink");
    assert_eq!(text(&wrong)[3..], ["Stalled=True LoopbackAddress"], "a wrong object is wrong whatever the node is");
}

#[test]
fn a_disabled_forward_is_true_all_over_once_it_is_withdrawn() {
    let disabled = verdict(Acceptance::Disabled, None);
    assert_eq!(text(&judge(&disabled, &exact())), ["Accepted=True Disabled", "Programmed=True Disabled", "Ready=True Disabled"]);
    let stuck = Applied { rules: failed(Step::Write), ..exact() };
    assert_eq!(
        text(&judge(&disabled, &stuck)),
        text(&judge(&disabled, &exact())),
        "what was never in force here needs no withdrawal"
    );
    let disabled = Verdict { served: true, ..disabled };
    assert_eq!(
        text(&judge(&disabled, &applied(overridden()))),
        text(&judge(&disabled, &exact())),
        "nor does a rule before ours hinder one"
    );
    assert_eq!(
        text(&judge(&disabled, &stuck)),
        ["Accepted=True Disabled", "Programmed=False ApplyFailed", "Ready=False ApplyFailed"]
    );
}

#[test]
fn a_transition_time_moves_only_with_the_status() {
    let ready = judge(&active(), &exact());
    let first = merge("a", &ready, None, at(100));
    let mut noted = active();
    noted.notes.push(Note("another message".to_owned()));
    let second = merge("a", &judge(&noted, &exact()), Some(&first), at(200));
    assert!(second.conditions.iter().all(|condition| condition.last_transition_time.0 == at(100)));
    let third = merge("a", &judge(&active(), &applied(overridden())), Some(&second), at(300));
    let times: Vec<_> =
        third.conditions.iter().map(|condition| (condition.type_.as_str(), condition.last_transition_time.0)).collect();
    assert_eq!(times, [("Accepted", at(100)), ("Programmed", at(300)), ("Ready", at(300))]);
    assert_eq!(third.nodes[0].conditions[0].last_transition_time.0, at(100));
}

#[test]
fn the_summary_follows_the_one_active_node() {
    let own = judge(&active(), &exact());
    let status = merge("a", &own, None, at(1));
    assert_eq!((status.active_node.as_deref(), status.observed_generation, status.nodes.len()), (Some("a"), Some(3), 1));
    let standby = judge(&verdict(Acceptance::Accepted, Some(Role::Standby)), &exact());
    let nobody = merge("b", &standby, None, at(1));
    assert_eq!(summary_text(&nobody), ["Accepted=True Accepted", "Programmed=True Programmed", "Ready=False NoActiveNode"]);
    assert_eq!(nobody.active_node, None);
    let entry = |node: &str| -> NodeStatus { node_status(node, &own, None, at(1)).unwrap() };
    let held = PortForwardStatus { nodes: vec![entry("a"), entry("b")], ..PortForwardStatus::default() };
    let both = summary(&own, &held, &["a".to_owned(), "b".to_owned()].into(), at(1));
    assert_eq!(
        summary_text(&both),
        ["Accepted=True Accepted", "Programmed=True Programmed", "Ready=False AddressOnSeveralNodes"]
    );
    let elsewhere = merge("c", &judge(&verdict(Acceptance::Accepted, None), &exact()), None, at(1));
    assert_eq!(summary_text(&elsewhere), ["Accepted=True Accepted", "Programmed=False NoActiveNode", "Ready=False NoActiveNode"]);
    assert!(elsewhere.nodes.is_empty(), "a node that is no candidate has no entry");
}

fn summary_text(status: &PortForwardStatus) -> Vec<String> {
    status.conditions.iter().map(|condition| format!("{}={} {}", condition.type_, condition.status, condition.reason)).collect()
}

#[test]
fn every_reason_is_one_word_that_metav1_takes() {
    let all = Reason::all();
    for reason in &all {
        // The schema and the admission policy accept no other words.
        let word = reason.as_str();
        assert!(word.len() <= 64 && word.starts_with(|c: char| c.is_ascii_uppercase()), "{word}");
        assert!(word.chars().all(|c| c.is_ascii_alphabetic()), "{word}");
    }
    assert!(all.len() > 50);
}

#[test]
fn the_crd_accepts_the_types_of_conditions_that_the_agents_write_and_no_others() {
    let crd = serde_json::to_value(crate::api::Kind::PortForward.crd()).unwrap();
    let status = crd.pointer("/spec/versions/0/schema/openAPIV3Schema/properties/status/properties").unwrap();
    let types: Vec<&str> = Type::ALL.iter().map(|kind| kind.as_str()).collect();
    for list in ["/conditions", "/nodes/items/properties/conditions"] {
        let list = status.pointer(list).unwrap();
        assert_eq!(list.pointer("/items/properties/type/enum").unwrap(), &serde_json::json!(types));
        assert_eq!(list["maxItems"], types.len());
    }
}

#[test]
fn a_message_is_cut_to_a_sane_length() {
    assert_eq!(Judged::new(Type::Ready, State::True, Circumstance::Ready, "é".repeat(5000)).message.chars().count(), 1024);
}

#[test]
fn a_content_of_unknown_form_is_said_and_the_last_good_one_stays() {
    let judgement = judge(&active(), &exact()).outdated("spec.mode: \"Paused\" is not accepted here; write Enabled or Disabled");
    assert_eq!(text(&judgement), ["Accepted=False UnsupportedSchema", "Programmed=True Programmed", "Ready=True Ready"]);
    assert_eq!(judgement.generation, 3);
    let unknown = unknown_form(None, 1, "spec.mode");
    assert_eq!(
        text(&unknown),
        [
            "Accepted=False UnsupportedSchema",
            "Programmed=False NotAccepted",
            "Ready=False UnsupportedSchema",
            "Stalled=True UnsupportedSchema"
        ]
    );
}
