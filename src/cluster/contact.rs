//! What the tasks of this agent know about the cluster, for the metrics and the health endpoints. Decides nothing.

use tokio::sync::watch;

use super::Live;
use super::trouble::Outage;
use crate::metrics::ClusterView;

/// A view of the cluster, as the tasks of this agent last saw it.
#[derive(Clone, Debug)]
pub struct Contact {
    pub(super) live: watch::Receiver<Live>,
    pub(super) outage: Outage,
}

impl Contact {
    /// The view of an agent that has heard nothing from a cluster yet.
    #[must_use]
    pub fn none() -> Self {
        Self { live: watch::channel(None).1, outage: Outage::default() }
    }
}

impl ClusterView for Contact {
    fn live_agents(&self) -> usize {
        self.live.borrow().as_ref().map_or(0, |live| live.all.len())
    }

    fn is_reached(&self) -> bool {
        self.outage.is_over()
    }
}
