//! What the tasks of this agent know about the cluster, for the metrics and the health endpoints. Decides nothing.

use tokio::sync::watch;

use super::Live;
use super::trouble::Outage;

/// A view of the cluster, as the tasks of this agent last saw it.
#[derive(Clone, Debug)]
pub struct Contact {
    pub(super) live: watch::Receiver<Live>,
    pub(super) outage: Outage,
}

/// Whether the API server answered when it was last asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reached {
    /// It answered.
    Yes,
    /// It did not answer, or no request was made yet.
    No,
}

impl Contact {
    /// The view of an agent that has heard nothing from a cluster yet.
    #[must_use]
    pub fn none() -> Self {
        Self { live: watch::channel(None).1, outage: Outage::default() }
    }

    /// The number of agents that live; 0 until the Leases were read once.
    #[must_use]
    pub fn live_agents(&self) -> usize {
        self.live.borrow().as_ref().map_or(0, |live| live.all.len())
    }

    /// Whether the API server answered when it was last asked.
    #[must_use]
    pub fn reached(&self) -> Reached {
        if self.outage.is_over() { Reached::Yes } else { Reached::No }
    }
}
