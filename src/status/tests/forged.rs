//! A status that somebody forges with the token of a node: what the agents of the other nodes write.

use std::collections::BTreeSet;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use super::agents::{Agents, as_active, as_standby};
use super::*;

/// The entry of a node that was taken over.
fn forged(node: &str, role: Role, conditions: &[(&str, &str)]) -> NodeStatus {
    let condition = |(kind, status): &(&str, &str)| Condition {
        type_: (*kind).to_owned(),
        status: (*status).to_owned(),
        reason: "Forged".to_owned(),
        message: String::new(),
        observed_generation: Some(99),
        last_transition_time: Time(at(1)),
    };
    NodeStatus {
        node_name: node.to_owned(),
        role,
        observed_generation: Some(99),
        conditions: conditions.iter().map(condition).collect(),
    }
}

fn ready(node: &str) -> NodeStatus {
    forged(node, Role::Active, &[("Accepted", "True"), ("Programmed", "True"), ("Ready", "True")])
}

/// The nodes `b` and `c` are honest; the Lease of `a`, the first by name, is renewed with a stolen token.
fn attacked(says: &[(&str, Judgement)], entry: NodeStatus) -> Agents {
    let mut agents = Agents::new(says);
    agents.held = vec!["a".to_owned()];
    agents.settle();
    agents.forge(entry);
    agents.status.nodes.rotate_right(1);
    agents
}

#[test]
fn an_active_node_writes_what_it_sees_although_a_forged_active_entry_comes_first() {
    let mut agents = attacked(&[("b", as_active()), ("c", as_standby())], ready("a"));
    agents.status.active_node = Some("a".to_owned());
    agents.settle();
    assert_eq!((agents.ready().as_str(), agents.status.active_node.as_deref()), ("Ready=False AddressOnSeveralNodes", None));
    assert_eq!(agents.settle(), 0);
}

#[test]
fn a_forged_entry_without_conditions_leaves_no_summary_without_ready() {
    let mut agents = attacked(&[("b", as_active())], forged("a", Role::Active, &[]));
    agents.settle();
    assert_eq!(agents.ready(), "Ready=False AddressOnSeveralNodes");
}

#[test]
fn a_forged_standby_does_not_make_a_forward_ready_that_is_active_nowhere() {
    for conditions in [&[("Accepted", "False"), ("Ready", "True")][..], &[("Accepted", "False")], &[]] {
        let mut agents = attacked(&[("b", as_standby())], forged("a", Role::Standby, conditions));
        agents.state(&[("Ready", "True")], None);
        agents.settle();
        assert_eq!(agents.ready(), "Ready=False NoActiveNode", "{conditions:?}");
    }
}

#[test]
fn a_disabled_forward_does_not_stay_ready_because_of_a_forged_active_entry() {
    let disabled = judge(&verdict(Acceptance::Disabled, None), &exact());
    let mut agents = attacked(&[("b", disabled.clone()), ("c", disabled)], ready("a"));
    agents.state(&[("Ready", "True")], Some("a"));
    agents.settle();
    assert_eq!(agents.ready(), "Ready=False Pending", "it waits until a has withdrawn it");
}

#[test]
fn a_forward_that_is_active_nowhere_does_not_stay_ready_if_the_first_agent_writes_nothing() {
    let mut agents = attacked(&[("b", as_standby()), ("c", as_standby())], forged("a", Role::Standby, &[]));
    agents.state(&[("Ready", "True")], Some("nowhere"));
    agents.settle();
    assert_eq!((agents.ready().as_str(), agents.status.active_node.as_deref()), ("Ready=False NoActiveNode", None));
}

/// Otherwise agents of two versions, whose texts differ, would write in turn.
#[test]
fn the_other_agents_leave_a_summary_alone_that_says_the_same_in_other_words() {
    let mut agents = Agents::new(&[("a", as_active()), ("b", as_standby())]);
    agents.settle();
    agents.status.conditions[2].message = "other words".to_owned();
    agents.says.remove("a");
    agents.held = vec!["a".to_owned()];
    assert_eq!(agents.settle(), 0);
    agents.status.conditions[2].status = "False".to_owned();
    assert_eq!(agents.settle(), 0, "nor what says less than the truth");
}

#[test]
fn an_agent_that_has_not_judged_the_newest_content_corrects_nobody() {
    let (judgement, live) = (as_standby(), BTreeSet::from(["a".to_owned(), "b".to_owned()]));
    let status = PortForwardStatus { conditions: ready("a").conditions, ..PortForwardStatus::default() };
    let next = |generation: i64| {
        let entry = node_status("b", &judgement, None, at(7)).unwrap();
        let status = PortForwardStatus { nodes: vec![ready("a"), entry], ..status.clone() };
        View { node: "b", judgement: &judgement, status: &status, live: &live, peers: &live, generation: Some(generation) }
            .next(at(7))
    };
    assert_eq!((next(4), next(3)), (None, None), "the entry of a says that it is active, and b cannot know better");
    let alone = |generation: i64| {
        let entry = node_status("b", &judgement, None, at(7)).unwrap();
        let status = PortForwardStatus { nodes: vec![entry], ..status.clone() };
        View { node: "b", judgement: &judgement, status: &status, live: &live, peers: &live, generation: Some(generation) }
            .next(at(7))
    };
    assert_eq!(alone(4), None);
    assert!(matches!(alone(3), Some(Write::Summary(_))));
}

#[test]
fn the_responsible_agent_writes_at_once_and_each_further_one_waits_longer() {
    let (judgement, live) = (as_standby(), ["a", "b", "c"].map(str::to_owned).into());
    let status = PortForwardStatus::default();
    let write = Write::Summary(PortForwardStatus::default());
    let patience = |node| {
        View { node, judgement: &judgement, status: &status, live: &live, peers: &live, generation: None }.patience(&write)
    };
    assert_eq!(["a", "b", "c"].map(patience), [0, 20, 30].map(Duration::from_secs));
}
