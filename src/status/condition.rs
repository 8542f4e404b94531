//! One condition: its type, its status, and its reason from a closed list.

use std::fmt;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;

use crate::forward::RefusalReason;
use crate::plan::{NodeRefusalReason, ObstacleReason};
use crate::words::words;

words! {
    /// The conditions of a forward.
    Type {
        /// The spec is valid and no older forward conflicts with it.
        Accepted,
        /// The kernel, read back, has what was planned.
        Programmed,
        /// In addition to `Programmed`: traffic can flow; no problem was found on this node.
        Ready,
        /// No retry can solve the problem. Present only when it is true.
        Stalled,
    }
}

words! {
    /// The status of a condition.
    State {
        /// It holds.
        True,
        /// It does not hold.
        False,
        /// It is not known.
        Unknown,
    }
}

words! {
    /// Reasons that come neither from an error in an object nor from an obstacle.
    Circumstance {
        /// The spec is valid and no older forward conflicts with it.
        Accepted,
        /// The kernel has what was planned.
        Programmed,
        /// Traffic can flow: no problem found on this node.
        Ready,
        /// The rules are in place, but this node does not hold the address.
        Standby,
        /// The forward is disabled, and its rules and routes were removed.
        Disabled,
        /// The object was deleted, and a part of it may still be in force.
        Leaving,
        /// It was not applied yet.
        Pending,
        /// An older forward claims the same.
        Conflict,
        /// The forward is not accepted, so nothing is programmed.
        NotAccepted,
        /// A program or the kernel refused a part.
        ApplyFailed,
        /// The state that was read back differs from what was written.
        Drifted,
        /// A rule of another program is before the operator's jump.
        Overridden,
        /// No node holds the internal address.
        NoActiveNode,
        /// More than one node holds the internal address.
        AddressOnSeveralNodes,
        /// The agent of the only active node does not renew its Lease.
        AgentUnavailable,
        /// The agents that followed the forward do not select its labels any more.
        NotFollowed,
        /// Another client keeps overwriting the status.
        StatusContested,
        /// The agent is older than the API version of the object.
        UnsupportedSchema,
        /// The facts of the node could not be read.
        NodeUnreadable,
    }
}

/// The reason of a condition: one word from a closed list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// Neither an error in an object nor an obstacle.
    Circumstance(Circumstance),
    /// The object is invalid.
    Refused(RefusalReason),
    /// The object is valid, but not on this node.
    RefusedHere(NodeRefusalReason),
    /// A known problem stops the flow.
    Obstacle(ObstacleReason),
}

/// One condition, without its times.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judged {
    /// The type.
    pub kind: Type,
    /// The status.
    pub state: State,
    /// The reason.
    pub reason: Reason,
    /// The message for users.
    pub message: String,
}

/// The maximum length of a message, in characters. The schema refuses a longer one (metav1 allows 32,768).
const MESSAGE_CHARS: usize = 1024;

/// The message, cut to the maximum length. An ellipsis shows that a part is missing.
pub(super) fn cut(message: String) -> String {
    if message.chars().nth(MESSAGE_CHARS).is_none() {
        return message;
    }
    message.chars().take(MESSAGE_CHARS - 1).chain(['…']).collect()
}

impl Judged {
    /// A condition. Its message is cut to the maximum length.
    #[must_use]
    pub fn new(kind: Type, state: State, reason: impl Into<Reason>, message: impl Into<String>) -> Self {
        let (reason, message): (Reason, String) = (reason.into(), message.into());
        let message = cut(message);
        Self { kind, state, reason, message }
    }

    /// The condition in the form of the API. The transition time changes only when the status changes.
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

    /// All reasons, for the pages that explain them.
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
