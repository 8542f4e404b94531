//! What an agent has to write next about one object, if anything. Equal apart from time is not written.

use std::collections::BTreeSet;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use k8s_openapi::jiff::Timestamp;

use super::condition::{Circumstance, Type};
use super::judge::{Judgement, Standing};
use super::summary::{node_status, summary};
use crate::api::{NodeStatus, PortForwardStatus, Role};

/// How many entries there may be before a standby stays silent: the list takes 32, and an active node must find a place.
const STANDBYS_SPEAK_BELOW: usize = 16;
/// Reasons of a summary that are gone in a moment where things only move.
const PASSING: [Circumstance; 3] = [Circumstance::NoActiveNode, Circumstance::AddressOnSeveralNodes, Circumstance::Conflict];

/// One write.
#[derive(Clone, Debug, PartialEq)]
pub enum Write {
    /// This node's entry.
    Entry(NodeStatus),
    /// Takes the entry of a node out.
    Withdraw(String),
    /// The summary.
    Summary(PortForwardStatus),
}

/// What one agent knows about one object.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// The name of its node.
    pub node: &'a str,
    /// What it says.
    pub judgement: &'a Judgement,
    /// The status that the object has.
    pub status: &'a PortForwardStatus,
    /// The nodes whose agents live; its own too, if it could say so.
    pub live: &'a BTreeSet<String>,
}

impl View<'_> {
    /// What this agent has to write next: its own entry first, then those of the dead, then the summary. Nothing, while it does
    /// not count as alive itself: the others would take back what it writes.
    #[must_use]
    pub fn next(&self, now: Timestamp) -> Option<Write> {
        if !self.live.contains(self.node) {
            return None;
        }
        self.own_entry(now).or_else(|| if self.is_writer() { self.dead_entry().or_else(|| self.summary(now)) } else { None })
    }

    /// Whether a write says what is also seen while things move: that nobody or more than one node holds the address, while
    /// nodes take up a new object or the address changes hands; that an older forward is in the way, while one is renamed; or
    /// that a node refuses it which may not be the one that counts. Tools take some of it for the end, so it has to last.
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

    /// The active node writes the summary; where none lives, the first live agent by name.
    fn is_writer(&self) -> bool {
        let mut active: Vec<&str> =
            self.alive().filter(|entry| entry.role == Role::Active).map(|entry| entry.node_name.as_str()).collect();
        active.sort_unstable();
        active.first().copied().or_else(|| self.live.first().map(String::as_str)) == Some(self.node)
    }

    fn alive(&self) -> impl Iterator<Item = &NodeStatus> {
        self.status.nodes.iter().filter(|entry| self.live.contains(&entry.node_name))
    }

    /// The entry of a dead node that tells nothing any more. That of a dead active node tells why nobody knows whether traffic
    /// flows, until another node is active.
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

/// Equal apart from transition times.
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

/// The order of conditions means nothing: the API server keeps its own.
fn same_conditions(a: &[Condition], b: &[Condition]) -> bool {
    let text = |condition: &Condition| {
        let Condition { type_, status, reason, message, observed_generation, .. } = condition;
        (type_.clone(), status.clone(), reason.clone(), message.clone(), *observed_generation)
    };
    let all = |conditions: &[Condition]| conditions.iter().map(text).collect::<BTreeSet<_>>();
    all(a) == all(b)
}
