//! The next hops that forwards depend on, and whether they answer.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::InterfaceName;

/// A neighbour to which this node sends packets. The same address on two interfaces is two neighbours.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NextHop {
    /// The outgoing interface.
    pub interface: InterfaceName,
    /// The address that is resolved by ARP.
    pub address: IpAddr,
}

/// Whether a next hop answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It was not asked yet, or the answer is still open.
    Awaited,
    /// It answered, and no later attempt failed; or it needs no answer.
    Seen,
    /// It did not answer, and has not answered since.
    Silent,
}

/// The state of the next hops.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Answers {
    /// Next hops are not checked; every one counts as answering. `render` uses this, because it shows a plan and not the
    /// state of a node.
    #[default]
    Assumed,
    /// The answers that the kernel reports. A next hop that is not listed is [`Answer::Awaited`].
    Asked(BTreeMap<NextHop, Answer>),
}

impl Answers {
    /// The state of `next_hop`.
    #[must_use]
    pub fn of(&self, next_hop: &NextHop) -> Answer {
        match self {
            Self::Assumed => Answer::Seen,
            Self::Asked(answers) => answers.get(next_hop).copied().unwrap_or(Answer::Awaited),
        }
    }

    /// Whether there is an answer for `next_hop`.
    #[must_use]
    pub fn covers(&self, next_hop: &NextHop) -> bool {
        match self {
            Self::Assumed => true,
            Self::Asked(answers) => answers.contains_key(next_hop),
        }
    }
}
