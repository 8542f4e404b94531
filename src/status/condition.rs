//! One condition: its type, whether it holds, and why in one word of a closed list.

use std::fmt;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;

use crate::forward::RefusalReason;
use crate::plan::{NodeRefusalReason, ObstacleReason};
use crate::words::words;

words! {
    /// The conditions of a forward.
    Type {
        /// The spec is usable and won its conflicts.
        Accepted,
        /// The kernel, read back, equals the plan.
        Programmed,
        /// Besides, traffic can flow: no problem found on this node.
        Ready,
        /// No retry can heal it. Only there where it is true.
        Stalled,
    }
}

words! {
    /// Whether a condition holds.
    State {
        /// It does.
        True,
        /// It does not.
        False,
        /// Nobody can tell.
        Unknown,
    }
}

words! {
    /// Why a condition is as it is, where neither an object nor an obstacle is to blame.
    Circumstance {
        /// The spec is usable and won its conflicts.
        Accepted,
        /// The kernel equals the plan.
        Programmed,
        /// Nothing that is known stops the flow.
        Ready,
        /// The rules are ready for the address to come.
        Standby,
        /// It is switched off, and withdrawn.
        Disabled,
        /// The object is gone, and something of it may still be in force.
        Leaving,
        /// Nothing was tried yet.
        Pending,
        /// An older forward claims the same.
        Conflict,
        /// It is not carried, so there is nothing to programme.
        NotAccepted,
        /// A tool or the kernel refused.
        ApplyFailed,
        /// What was read back is not what was written.
        Drifted,
        /// Another program's rule stands before ours.
        Overridden,
        /// No node holds the internal address.
        NoActiveNode,
        /// More than one node holds the internal address.
        AddressOnSeveralNodes,
        /// The agent of the only active node is gone.
        AgentUnavailable,
        /// The agent is older than the object's form.
        UnsupportedSchema,
        /// The node could not be looked at.
        NodeUnreadable,
    }
}

/// Why a condition is as it is: one word from a closed list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// Neither an object nor an obstacle is to blame.
    Circumstance(Circumstance),
    /// The object is wrong by itself.
    Refused(RefusalReason),
    /// The object is wrong on this node.
    RefusedHere(NodeRefusalReason),
    /// Something that is known stops the flow.
    Obstacle(ObstacleReason),
}

/// One condition, less the times.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judged {
    /// Which condition.
    pub kind: Type,
    /// Whether it holds.
    pub state: State,
    /// Why.
    pub reason: Reason,
    /// Why, for people.
    pub message: String,
}

/// The most characters of a message that are kept (metav1 allows 32,768).
const MESSAGE_CHARS: usize = 1024;

impl Judged {
    /// A condition, with its message cut to a sane length.
    #[must_use]
    pub fn new(kind: Type, state: State, reason: impl Into<Reason>, message: impl Into<String>) -> Self {
        let (reason, message): (Reason, String) = (reason.into(), message.into());
        let message = match message.char_indices().nth(MESSAGE_CHARS) {
            Some((end, _)) => format!("{}…", &message[..end]),
            None => message,
        };
        Self { kind, state, reason, message }
    }

    /// The condition as the API has it. The transition time moves only when the state does.
    #[must_use]
    pub fn condition(&self, generation: i64, previous: &[Condition], now: Timestamp) -> Condition {
        let before = previous.iter().find(|condition| condition.type_ == self.kind.as_str());
        let since =
            before.filter(|before| before.status == self.state.as_str()).map(|before| before.last_transition_time.clone());
        Condition {
            type_: self.kind.as_str().to_owned(),
            status: self.state.as_str().to_owned(),
            reason: self.reason.as_str().to_owned(),
            message: self.message.clone(),
            observed_generation: Some(generation),
            last_transition_time: since.unwrap_or(Time(now)),
        }
    }
}

impl Reason {
    /// The word in `conditions[].reason`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Circumstance(reason) => reason.as_str(),
            Self::Refused(reason) => reason.as_str(),
            Self::RefusedHere(reason) => reason.as_str(),
            Self::Obstacle(reason) => reason.as_str(),
        }
    }

    /// Every reason there is, for the pages that explain them.
    #[must_use]
    pub fn all() -> Vec<Self> {
        let circumstances = Circumstance::ALL.iter().copied().map(Self::Circumstance);
        let refusals = RefusalReason::ALL.iter().copied().map(Self::Refused);
        let here = NodeRefusalReason::ALL.iter().copied().map(Self::RefusedHere);
        let obstacles = ObstacleReason::ALL.iter().copied().map(Self::Obstacle);
        circumstances.chain(refusals).chain(here).chain(obstacles).collect()
    }
}

impl From<Circumstance> for Reason {
    fn from(circumstance: Circumstance) -> Self {
        Self::Circumstance(circumstance)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
