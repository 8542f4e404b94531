//! The next write of an agent to the status of one object, if there is one. A change of times alone is not written.

use std::collections::BTreeSet;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use k8s_openapi::jiff::Timestamp;

use super::condition::{Circumstance, Type};
use super::judgement::{Judgement, Standing};
use super::summary::{node_status, summary};
use crate::api::{NodeStatus, PortForwardStatus, Role};

/// With this many entries or more, a standby adds none: the list holds 32, and there must be room for the active node.
const STANDBYS_SPEAK_BELOW: usize = 16;
/// Reasons of a summary that often last only a moment during changes.
const PASSING: [Circumstance; 3] = [Circumstance::NoActiveNode, Circumstance::AddressOnSeveralNodes, Circumstance::Conflict];

/// One write.
#[derive(Clone, Debug, PartialEq)]
pub enum Write {
    /// The entry of this node.
    Entry(NodeStatus),
    /// Removes the entry of a node.
    Withdraw(String),
    /// The summary.
    Summary(PortForwardStatus),
}

/// The view of one agent of one object.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// The name of its node.
    pub node: &'a str,
    /// The agent's judgement.
    pub judgement: &'a Judgement,
    /// The current status of the object.
    pub status: &'a PortForwardStatus,
    /// The nodes with live agents, including its own node if its agent counts as live.
    pub live: &'a BTreeSet<String>,
}

impl View<'_> {
    /// The next write: first the own entry, then the entries of dead nodes, then the summary. Nothing while the agent does
    /// not count as live itself, because the other agents would revert what it writes.
    #[must_use]
    pub fn next(&self, now: Timestamp) -> Option<Write> {
        if !self.live.contains(self.node) {
            return None;
        }
        self.own_entry(now).or_else(|| if self.is_writer() { self.dead_entry().or_else(|| self.summary(now)) } else { None })
    }

    /// Whether a write reports a state that also occurs for a moment during changes: that no node or several nodes hold the
    /// address, while nodes process a new object or the address moves; that an older forward conflicts, while one is
    /// renamed; or that a node refuses the forward which may not become active. Some tools treat such a state as final, so
    /// it must last before it is written.
    #[must_use]
    pub fn may_pass(&self, write: &Write) -> bool {
        let for_every_node = match self.judgement.standing {
            Standing::Refused | Standing::Withdrawn => true,
            Standing::Carried | Standing::Elsewhere | Standing::RefusedHere => false,
        };
        match write {
            Write::Summary(summary) if !for_every_node => {
                let passes = |condition: &Condition| {
                    let reason = condition.reason.as_str();
                    PASSING.iter().any(|passing| passing.as_str() == reason)
                        || (summary.active_node.is_none() && condition.type_ == Type::Stalled.as_str())
                };
                summary.conditions.iter().any(passes)
            }
            Write::Summary(_) | Write::Entry(_) | Write::Withdraw(_) => false,
        }
    }

    fn own_entry(&self, now: Timestamp) -> Option<Write> {
        let previous = self.status.nodes.iter().find(|entry| entry.node_name == self.node);
        let wanted = node_status(self.node, self.judgement, previous, now);
        match (previous, wanted) {
            (Some(_), None) => Some(Write::Withdraw(self.node.to_owned())),
            (Some(previous), Some(wanted)) => (!same_entry(previous, &wanted)).then_some(Write::Entry(wanted)),
            (None, Some(wanted)) => {
                let silent = wanted.role == Role::Standby && self.status.nodes.len() >= STANDBYS_SPEAK_BELOW;
                (!silent).then_some(Write::Entry(wanted))
            }
            (None, None) => None,
        }
    }

    /// The active node writes the summary. If there is no live one, the first live agent by name does.
    fn is_writer(&self) -> bool {
        let mut active: Vec<&str> =
            self.alive().filter(|entry| entry.role == Role::Active).map(|entry| entry.node_name.as_str()).collect();
        active.sort_unstable();
        active.first().copied().or_else(|| self.live.first().map(String::as_str)) == Some(self.node)
    }

    fn alive(&self) -> impl Iterator<Item = &NodeStatus> {
        self.status.nodes.iter().filter(|entry| self.live.contains(&entry.node_name))
    }

    /// The entry of a dead node that has no use any more. The entry of a dead active node stays until another node is
    /// active, because it shows why the state of the traffic is not known.
    fn dead_entry(&self) -> Option<Write> {
        let replaced = self.alive().any(|entry| entry.role == Role::Active) || !self.judgement.is_wanted();
        let mut dead = self.status.nodes.iter().filter(|entry| !self.live.contains(&entry.node_name));
        let entry = dead.find(|entry| entry.role == Role::Standby || replaced)?;
        Some(Write::Withdraw(entry.node_name.clone()))
    }

    fn summary(&self, now: Timestamp) -> Option<Write> {
        let wanted = summary(self.judgement, self.status, self.live, now);
        (!same_summary(self.status, &wanted)).then_some(Write::Summary(wanted))
    }
}

/// Whether they are equal apart from transition times.
fn same_entry(a: &NodeStatus, b: &NodeStatus) -> bool {
    let head = |entry: &NodeStatus| (entry.role, entry.observed_generation);
    head(a) == head(b) && same_conditions(&a.conditions, &b.conditions)
}

fn same_summary(a: &PortForwardStatus, b: &PortForwardStatus) -> bool {
    let head = |status: &PortForwardStatus| {
        (status.active_node.clone(), status.observed_generation, status.ports.clone(), status.reverse.clone())
    };
    head(a) == head(b) && same_conditions(&a.conditions, &b.conditions)
}

/// The order of conditions has no meaning; the API server may change it.
fn same_conditions(a: &[Condition], b: &[Condition]) -> bool {
    let text = |condition: &Condition| {
        let Condition { type_, status, reason, message, observed_generation, .. } = condition;
        (type_.clone(), status.clone(), reason.clone(), message.clone(), *observed_generation)
    };
    let all = |conditions: &[Condition]| conditions.iter().map(text).collect::<BTreeSet<_>>();
    all(a) == all(b)
}
