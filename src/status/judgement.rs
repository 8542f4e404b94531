//! The status of one forward on one node, before it has a time.

use std::sync::Arc;

use super::condition::{Circumstance, Judged, State, Type};
use crate::api::{Role, ShownPorts};
use crate::forward::ForwardKey;

/// The judgement on each object. One that did not change is the same `Arc` as in the judgements before. A copy shares its content
/// with the original.
pub type Judgements = imbl::OrdMap<ForwardKey, Arc<Judgement>>;

/// The status of one forward on this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// The `uid` of the object; `None` from a folder.
    pub uid: Option<String>,
    /// The relation of the forward to this node.
    pub standing: Standing,
    /// The generation of the spec that was processed.
    pub generation: i64,
    /// The ports of the object in the form of the status.
    pub shown: ShownPorts,
    /// The role of this node for the forward; `None` if the node is not a candidate.
    pub role: Option<Role>,
    /// The conditions, at most one of each type.
    pub conditions: Vec<Judged>,
}

/// The relation of a forward to a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// This node carries it.
    Carried,
    /// It is valid, but this node is not a candidate.
    Elsewhere,
    /// It is disabled or was deleted, for all nodes.
    Withdrawn,
    /// It is invalid, for all nodes.
    Refused,
    /// This node cannot carry it, or an older forward conflicts with it here.
    RefusedHere,
}

pub(super) fn upgrade(error: &str) -> String {
    format!("this agent does not know the form of the object ({error}); upgrade the agent")
}

impl Judgement {
    /// The condition of this type, if there is one.
    #[must_use]
    pub fn condition(&self, kind: Type) -> Option<&Judged> {
        self.conditions.iter().find(|condition| condition.kind == kind)
    }

    /// Whether something of the object should be in force.
    #[must_use]
    pub fn is_wanted(&self) -> bool {
        match self.standing {
            Standing::Carried | Standing::Elsewhere | Standing::RefusedHere => true,
            Standing::Withdrawn | Standing::Refused => false,
        }
    }

    /// The same judgement if the node could not be read because of `error`: what was true may have changed.
    #[must_use]
    pub fn unseen(&self, error: &str) -> Self {
        let mut unseen = self.clone();
        for judged in unseen.conditions.iter_mut().filter(|judged| matches!(judged.kind, Type::Programmed | Type::Ready)) {
            *judged = Judged::new(judged.kind, State::Unknown, Circumstance::NodeUnreadable, error);
        }
        // It is not known either whether this node still refuses it.
        let heals = matches!(self.standing, Standing::RefusedHere | Standing::Carried);
        unseen.conditions.retain(|judged| !(heals && judged.kind == Type::Stalled));
        unseen
    }

    /// The same judgement, of the last valid content, if the newest content cannot be decoded because of `error`.
    #[must_use]
    pub fn outdated(mut self, error: &str) -> Self {
        let message = format!("{}; its last good content, of generation {}, stays in force", upgrade(error), self.generation);
        let accepted = Judged::new(Type::Accepted, State::False, Circumstance::UnsupportedSchema, message);
        for judged in self.conditions.iter_mut().filter(|judged| judged.kind == Type::Accepted) {
            *judged = accepted.clone();
        }
        self
    }
}
