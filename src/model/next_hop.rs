//! The next hops that flows depend on, and whether they answer.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::InterfaceName;

/// A neighbour to which this node hands packets. The same address on two interfaces is two neighbours.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NextHop {
    /// The interface by which packets leave.
    pub interface: InterfaceName,
    /// The address that the neighbour is asked for.
    pub address: IpAddr,
}

/// What is known of a next hop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It was never heard of.
    Awaited,
    /// It answered, and has not failed to since; or it needs no answer.
    Seen,
    /// It did not answer, and has not been seen since.
    Silent,
}

/// What the next hops answered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Answers {
    /// Nobody asks, so every next hop is taken for one that answers: `render` shows a plan and not the state of a node.
    #[default]
    Assumed,
    /// The kernel is asked. A next hop that is not listed is [`Answer::Awaited`].
    Asked(BTreeMap<NextHop, Answer>),
}

impl Answers {
    /// What is known of `next_hop`.
    #[must_use]
    pub fn of(&self, next_hop: &NextHop) -> Answer {
        match self {
            Self::Assumed => Answer::Seen,
            Self::Asked(answers) => answers.get(next_hop).copied().unwrap_or(Answer::Awaited),
        }
    }

    /// Whether `next_hop` was asked for at all.
    #[must_use]
    pub fn covers(&self, next_hop: &NextHop) -> bool {
        match self {
            Self::Assumed => true,
            Self::Asked(answers) => answers.contains_key(next_hop),
        }
    }
}
