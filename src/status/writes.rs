//! The next write of an agent to the status of one object, if there is one. A change of times alone is not written.

use std::collections::BTreeSet;
use std::hash::Hash;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use k8s_openapi::jiff::Timestamp;

use super::condition::{Circumstance, State, Type};
use super::judgement::{Judgement, Standing};
use super::summary::{node_status, summary};
use crate::api::{NodeStatus, PortForwardStatus, Role};

/// With this many entries or more, a standby adds none: the list holds 32, and there must be room for the active node.
const STANDBYS_SPEAK_BELOW: usize = 16;
/// How long a summary that may be temporary must stay due before it is written: nodes report one after the other, and tools
/// delete and recreate objects.
pub const SETTLE: Duration = Duration::from_secs(3);
/// How long an agent waits for the responsible one before it corrects a summary, and how much longer the next agent by name
/// waits.
const STEP_IN: Duration = Duration::from_secs(10);
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

impl Write {
    /// Whether this is the first report of its author about a generation of the object. `stored` is the status before.
    #[must_use]
    pub fn is_first_report(&self, stored: &PortForwardStatus) -> bool {
        match self {
            Self::Entry(entry) => {
                let before = stored.nodes.iter().find(|before| before.node_name == entry.node_name);
                before.is_none_or(|before| before.observed_generation != entry.observed_generation)
            }
            Self::Summary(summary) => stored.observed_generation != summary.observed_generation,
            Self::Withdraw(_) => false,
        }
    }
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
    /// The current generation of the object.
    pub generation: Option<i64>,
    /// The nodes with live agents, including its own node if its agent counts as live.
    pub live: &'a BTreeSet<String>,
    /// Those of them whose agents follow the same forwards as this one.
    pub peers: &'a BTreeSet<String>,
}

impl View<'_> {
    /// The next write: first the own entry, then the entries of dead nodes, then the summary. Nothing while the agent does
    /// not count as live itself, because the other agents would revert what it writes.
    #[must_use]
    pub fn next(&self, now: Timestamp) -> Option<Write> {
        if !self.live.contains(self.node) {
            return None;
        }
        self.own_entry(now).or_else(|| match self.duty() {
            Duty::Writer => self.dead_entry().or_else(|| self.summary(now).filter(|_| !self.is_behind())),
            Duty::Active => self.summary(now).filter(|write| self.changes_the_statement(write)),
            Duty::Watcher => (!self.is_outdated() && !self.is_justified()).then(|| self.denial(now)).flatten(),
        })
    }

    /// How long a write must stay due before it is made.
    #[must_use]
    pub fn patience(&self, write: &Write) -> Duration {
        match (write, self.duty()) {
            (Write::Summary(_), Duty::Watcher) => {
                let earlier = self.peers.iter().take_while(|node| node.as_str() < self.node).count();
                STEP_IN.saturating_mul(u32::try_from(earlier).unwrap_or(u32::MAX).saturating_add(1))
            }
            (Write::Summary(_), Duty::Writer | Duty::Active) if self.may_pass(write) => SETTLE,
            (Write::Summary(_) | Write::Entry(_) | Write::Withdraw(_), _) => Duration::ZERO,
        }
    }

    /// Whether a write reports a state that also occurs for a moment during changes: that no node or several nodes hold the
    /// address, while nodes process a new object or the address moves; that an older forward conflicts, while one is
    /// renamed; or that a node refuses the forward which may not become active. Some tools treat such a state as final, so
    /// it must last before it is written.
    fn may_pass(&self, write: &Write) -> bool {
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

    /// The first active node by name writes the summary. If there is no live one, the first live agent by name does that
    /// follows the same forwards. Another
    /// active node and the other agents correct it if the responsible agent does not: its entry and its Lease may be forged.
    fn duty(&self) -> Duty {
        let mut active: Vec<&str> =
            self.alive().filter(|entry| entry.role == Role::Active).map(|entry| entry.node_name.as_str()).collect();
        active.sort_unstable();
        if active.first().copied().or_else(|| self.peers.first().map(String::as_str)) == Some(self.node) {
            Duty::Writer
        } else if self.judgement.role == Some(Role::Active) && self.judgement.is_wanted() {
            Duty::Active
        } else {
            Duty::Watcher
        }
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

    /// Whether this node has not judged the newest content. Others may know more.
    fn is_outdated(&self) -> bool {
        self.generation.is_some_and(|generation| self.judgement.generation < generation)
    }

    /// Whether the stored summary is of an agent that has judged newer content than this node.
    fn is_behind(&self) -> bool {
        self.is_outdated() && self.status.observed_generation.is_some_and(|generation| generation > self.judgement.generation)
    }

    /// Whether the stored summary does not say that traffic flows, or says so rightly as far as the entries tell. Cheap: this is
    /// asked about every forward of other nodes.
    fn is_justified(&self) -> bool {
        if !says_ready(&self.status.conditions) {
            return true;
        }
        let mut active = self.alive().filter(|entry| entry.role == Role::Active);
        match (self.judgement.standing, active.next(), active.next()) {
            (Standing::Carried | Standing::Elsewhere | Standing::RefusedHere, Some(only), None) => {
                says_ready(&only.conditions) && self.status.active_node.as_ref() == Some(&only.node_name)
            }
            (Standing::Withdrawn, None, _) => self.alive().next().is_none(),
            (Standing::Carried | Standing::Elsewhere | Standing::RefusedHere | Standing::Withdrawn | Standing::Refused, _, _) => {
                false
            }
        }
    }

    /// The summary, if it does not say that traffic flows.
    fn denial(&self, now: Timestamp) -> Option<Write> {
        let wanted = summary(self.judgement, self.status, self.live, now);
        (!says_ready(&wanted.conditions)).then_some(Write::Summary(wanted))
    }

    /// Whether a summary differs from the stored one in more than texts and times, which may differ between versions of the
    /// agent.
    fn changes_the_statement(&self, write: &Write) -> bool {
        match write {
            Write::Summary(summary) => statement(summary) != statement(self.status),
            Write::Entry(_) | Write::Withdraw(_) => true,
        }
    }
}

/// What an agent has to do for the summary of one object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Duty {
    /// It writes every change.
    Writer,
    /// Its node is active, but another active node comes first: it corrects what the summary states.
    Active,
    /// It corrects a summary that wrongly says that traffic flows, if no other agent does.
    Watcher,
}

/// Whether the conditions say that traffic flows.
pub(crate) fn says_ready(conditions: &[Condition]) -> bool {
    conditions.iter().any(|it| it.type_ == Type::Ready.as_str() && it.status == State::True.as_str())
}

/// What a summary states, without texts and times: the active node, the generation, and the type, status and reason of each
/// condition.
pub(super) type Statement<'a> = (Option<&'a str>, Option<i64>, BTreeSet<(&'a str, &'a str, &'a str)>);

pub(super) fn statement(status: &PortForwardStatus) -> Statement<'_> {
    let conditions = status.conditions.iter().map(|it| (it.type_.as_str(), it.status.as_str(), it.reason.as_str())).collect();
    (status.active_node.as_deref(), status.observed_generation, conditions)
}

/// Whether they are equal apart from transition times.
fn same_entry(a: &NodeStatus, b: &NodeStatus) -> bool {
    said(a) == said(b)
}

/// An entry without times.
pub(super) fn said(entry: &NodeStatus) -> impl Eq + Hash {
    (entry.role == Role::Active, entry.observed_generation, texts(&entry.conditions))
}

pub(super) fn same_summary(a: &PortForwardStatus, b: &PortForwardStatus) -> bool {
    let head = |status: &PortForwardStatus| {
        (status.active_node.clone(), status.observed_generation, status.ports.clone(), status.reverse.clone())
    };
    head(a) == head(b) && texts(&a.conditions) == texts(&b.conditions)
}

/// The conditions without times. The order of conditions has no meaning; the API server may change it.
fn texts(conditions: &[Condition]) -> BTreeSet<(String, String, String, String, Option<i64>)> {
    let text = |condition: &Condition| {
        let Condition { type_, status, reason, message, observed_generation, .. } = condition;
        (type_.clone(), status.clone(), reason.clone(), message.clone(), *observed_generation)
    };
    conditions.iter().map(text).collect()
}
