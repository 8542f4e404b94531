//! What this agent knows of the cluster around it, for whoever asks; decides nothing.

use tokio::sync::watch;

use super::Live;
use super::trouble::Outage;

/// A look at the cluster, as this agent's tasks last saw it.
#[derive(Clone, Debug)]
pub struct Contact {
    pub(super) live: watch::Receiver<Live>,
    pub(super) outage: Outage,
}

/// Whether the API server answered when it was last asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reached {
    /// It did.
    Yes,
    /// It did not, or was not asked yet.
    No,
}

impl Contact {
    /// With a cluster that nothing was heard of yet.
    #[must_use]
    pub fn none() -> Self {
        Self { live: watch::channel(None).1, outage: Outage::default() }
    }

    /// How many agents live; 0 until the Leases were read once.
    #[must_use]
    pub fn live_agents(&self) -> usize {
        self.live.borrow().as_ref().map_or(0, |live| live.len())
    }

    /// Whether the API server answered when it was last asked.
    #[must_use]
    pub fn reached(&self) -> Reached {
        if self.outage.is_over() { Reached::Yes } else { Reached::No }
    }
}
