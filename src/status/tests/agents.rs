//! The writes of several agents to one object, one after the other, until none has anything to write.

use std::collections::BTreeSet;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use super::*;

/// A small cluster: the object on the API server, and the judgements of the live agents.
pub(super) struct Agents {
    pub(super) status: PortForwardStatus,
    pub(super) says: BTreeMap<String, Judgement>,
    /// Nodes whose Lease is renewed, but not by an agent.
    pub(super) held: Vec<String>,
}

impl Agents {
    pub(super) fn new(says: &[(&str, Judgement)]) -> Self {
        let says = says.iter().map(|(node, judgement)| ((*node).to_owned(), judgement.clone())).collect();
        Self { status: PortForwardStatus::default(), says, held: Vec::new() }
    }

    /// Lets every live agent write until none has anything to write. Returns the number of writes.
    pub(super) fn settle(&mut self) -> usize {
        for writes in 0..100 {
            let Some(write) = self.says.keys().find_map(|node| self.next(node)) else { return writes };
            self.take(write);
        }
        panic!("the agents never come to rest: {:?}", self.status);
    }

    /// Lets one agent write until it has nothing to write.
    pub(super) fn settle_of(&mut self, node: &str) {
        while let Some(write) = self.next(node) {
            self.take(write);
        }
    }

    /// The next write of a node, however long it has to wait.
    pub(super) fn next(&self, node: &str) -> Option<Write> {
        let live = self.says.keys().chain(&self.held).cloned().collect();
        let generation = self.says.values().map(|judgement| judgement.generation).max();
        View { node, judgement: &self.says[node], status: &self.status, live: &live, peers: &live, generation }.next(at(7))
    }

    /// What the API server does with a write.
    pub(super) fn take(&mut self, write: Write) {
        match write {
            Write::Entry(entry) => self.forge(entry),
            Write::Withdraw(node) => self.status.nodes.retain(|entry| entry.node_name != node),
            Write::Summary(summary) => self.status = summary,
        }
    }

    /// Puts an entry into the status.
    pub(super) fn forge(&mut self, entry: NodeStatus) {
        self.status.nodes.retain(|other| other.node_name != entry.node_name);
        self.status.nodes.push(entry);
    }

    /// Overwrites the summary with these conditions, as somebody else does.
    pub(super) fn state(&mut self, conditions: &[(&str, &str)], active: Option<&str>) {
        let condition = |(kind, status): &(&str, &str)| Condition {
            type_: (*kind).to_owned(),
            status: (*status).to_owned(),
            reason: "Forged".to_owned(),
            message: String::new(),
            observed_generation: Some(3),
            last_transition_time: Time(at(1)),
        };
        self.status.conditions = conditions.iter().map(condition).collect();
        self.status.active_node = active.map(str::to_owned);
    }

    pub(super) fn entries(&self) -> Vec<String> {
        self.status.nodes.iter().map(|entry| format!("{} {:?}", entry.node_name, entry.role)).collect()
    }

    pub(super) fn ready(&self) -> String {
        summary_text(&self.status).into_iter().find(|line| line.starts_with("Ready")).unwrap()
    }
}

pub(super) fn as_active() -> Judgement {
    judge(&active(), &exact())
}

pub(super) fn as_standby() -> Judgement {
    judge(&verdict(Acceptance::Accepted, Some(Role::Standby)), &exact())
}

#[test]
fn an_agent_that_does_not_count_as_alive_writes_nothing() {
    let (judgement, status) = (as_active(), PortForwardStatus::default());
    let live = |nodes: &[&str]| nodes.iter().map(|node| (*node).to_owned()).collect();
    let next = |live| {
        View { node: "a", judgement: &judgement, status: &status, live: &live, peers: &live, generation: None }.next(at(7))
    };
    assert!(next(live(&["a", "b"])).is_some());
    assert_eq!(next(live(&["b"])), None);
}

#[test]
fn what_is_also_seen_while_things_move_may_pass_and_nothing_else() {
    let may_pass = |says: &[(&str, Judgement)]| {
        let mut agents = Agents::new(says);
        agents.settle();
        let (live, write) = (says.iter().map(|(node, _)| (*node).to_owned()).collect(), Write::Summary(agents.status.clone()));
        let view = View { node: "a", judgement: &says[0].1, status: &agents.status, live: &live, peers: &live, generation: None };
        view.patience(&write) != std::time::Duration::ZERO
    };
    assert!(may_pass(&[("a", as_standby()), ("b", as_standby())]), "nobody holds the address");
    assert!(may_pass(&[("a", as_active()), ("b", as_active())]), "two do");
    assert!(!may_pass(&[("a", as_active()), ("b", as_standby())]));
    assert!(may_pass(&[("a", lost()), ("b", as_standby())]), "the winner may be about to go");
    let refused = refused_here(NodeRefusalReason::ReservedPort);
    assert!(!may_pass(&[("a", refused.clone()), ("b", as_standby())]), "the active node has spoken");
    let standby = Judgement { role: Some(Role::Standby), ..refused };
    assert!(may_pass(&[("a", standby), ("b", as_standby())]), "the active node may not have spoken yet");
    let wrong = judge(&verdict(Acceptance::Refused(refusal()), None), &exact());
    assert!(!may_pass(&[("a", wrong)]), "no node will say otherwise");
}

#[test]
fn at_rest_nobody_writes() {
    let mut agents = Agents::new(&[("a", as_active()), ("b", as_standby())]);
    assert_eq!(agents.settle(), 3, "two entries and one summary");
    assert_eq!(agents.settle(), 0);
    assert_eq!((agents.status.active_node.as_deref(), agents.ready().as_str()), (Some("a"), "Ready=True Ready"));
}

#[test]
fn the_address_moves_and_the_summary_follows() {
    let mut agents = Agents::new(&[("a", as_active()), ("b", as_standby())]);
    agents.settle();
    agents.says = BTreeMap::from([("a".to_owned(), as_standby()), ("b".to_owned(), as_standby())]);
    agents.settle();
    assert_eq!((agents.status.active_node.as_deref(), agents.ready().as_str()), (None, "Ready=False NoActiveNode"));
    agents.says.insert("b".to_owned(), as_active());
    agents.settle();
    assert_eq!((agents.status.active_node.as_deref(), agents.ready().as_str()), (Some("b"), "Ready=True Ready"));
    agents.says.insert("a".to_owned(), as_active());
    agents.settle();
    assert_eq!((agents.status.active_node.as_deref(), agents.ready().as_str()), (None, "Ready=False AddressOnSeveralNodes"));
}

#[test]
fn the_only_active_node_dies_and_nobody_knows_until_another_is_active() {
    let mut agents = Agents::new(&[("a", as_active()), ("b", as_standby()), ("c", as_standby())]);
    agents.settle();
    agents.says.remove("a");
    agents.says.remove("c");
    agents.settle();
    assert_eq!((agents.ready().as_str(), agents.status.active_node.as_deref()), ("Ready=Unknown AgentUnavailable", None));
    assert_eq!(
        agents.entries(),
        ["a Active", "b Standby"],
        "a dead standby tells nothing; a dead active node tells why nobody knows"
    );
    assert_eq!(agents.settle(), 0);
    agents.says.insert("b".to_owned(), as_active());
    agents.settle();
    assert_eq!((agents.ready().as_str(), agents.entries()), ("Ready=True Ready", vec!["b Active".to_owned()]));
}

#[test]
fn a_refusal_is_not_stalled_any_more_once_its_agent_is_dead() {
    let refused = refused_here(NodeRefusalReason::ShadowsLocalListener);
    let mut agents = Agents::new(&[("a", refused), ("b", as_standby())]);
    agents.settle();
    assert_eq!(summary_text(&agents.status)[3..], ["Stalled=True ShadowsLocalListener"]);
    agents.says.remove("a");
    agents.settle();
    assert_eq!(
        summary_text(&agents.status),
        ["Accepted=False ShadowsLocalListener", "Programmed=Unknown AgentUnavailable", "Ready=Unknown AgentUnavailable"]
    );
}

#[test]
fn disabled_is_true_only_after_every_live_node_has_withdrawn() {
    let mut agents = Agents::new(&[("a", as_active()), ("b", as_standby())]);
    agents.settle();
    let disabled = Judgement { generation: 4, ..judge(&verdict(Acceptance::Disabled, None), &exact()) };
    agents.says.insert("b".to_owned(), disabled.clone());
    agents.settle();
    assert_eq!(agents.entries(), ["a Active"]);
    assert_ne!(agents.ready(), "Ready=True Disabled");
    agents.says.insert("a".to_owned(), disabled);
    agents.settle();
    assert_eq!((agents.ready().as_str(), agents.entries().len()), ("Ready=True Disabled", 0));
}

#[test]
fn a_refused_object_is_summed_up_by_the_first_live_agent() {
    let refused = judge(&verdict(Acceptance::Refused(refusal()), None), &exact());
    let mut agents = Agents::new(&[("a", refused.clone()), ("b", refused)]);
    assert_eq!(agents.settle(), 1);
    assert_eq!(agents.ready(), "Ready=False LoopbackAddress");
}

#[test]
fn a_standby_stays_silent_once_sixteen_entries_exist_and_an_active_node_speaks() {
    let nodes: Vec<String> = (0..20).map(|n| format!("n{n:02}")).collect();
    let mut agents = Agents::new(&nodes.iter().map(|node| (node.as_str(), as_standby())).collect::<Vec<_>>());
    agents.settle();
    assert_eq!(agents.entries().len(), 16);
    agents.says.insert("n19".to_owned(), as_active());
    agents.settle();
    assert_eq!((agents.entries().len(), agents.status.active_node.as_deref()), (17, Some("n19")));
}

#[test]
fn the_summary_shows_the_ports_of_the_object_whatever_was_decided_about_it() {
    let shown = |ports: &str| ShownPorts { ports: Some(ports.to_owned()), reverse: None };
    for judgement in [as_active(), as_standby(), refused_here(NodeRefusalReason::ReservedPort)] {
        let mut agents = Agents::new(&[("a", Judgement { shown: shown("TCP 80"), ..judgement.clone() })]);
        agents.settle();
        assert_eq!(agents.status.ports.as_deref(), Some("TCP 80"));
        assert_eq!(agents.settle(), 0, "equal is not written again");
        agents.says.insert("a".to_owned(), Judgement { shown: shown("TCP 81"), ..judgement });
        assert_eq!(agents.settle(), 1, "an edit that changes nothing else is written");
        assert_eq!(agents.status.ports.as_deref(), Some("TCP 81"));
    }
}

/// An agent of another pool does not see the forward.
#[test]
fn of_the_agents_that_follow_a_forward_without_an_active_node_the_first_one_reports() {
    let judgement = judge(&verdict(Acceptance::Refused(refusal()), None), &exact());
    let (status, names) = (PortForwardStatus::default(), |nodes: &[&str]| nodes.iter().map(|&node| node.to_owned()).collect());
    let (live, peers): (BTreeSet<String>, BTreeSet<String>) = (names(&["a", "b", "c"]), names(&["b", "c"]));
    let view = |node| View { node, judgement: &judgement, status: &status, live: &live, peers: &peers, generation: None };
    assert!(matches!(view("b").next(at(7)), Some(Write::Summary(_))));
    assert_eq!(view("c").next(at(7)), None);
}
