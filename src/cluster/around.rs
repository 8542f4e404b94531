//! Combines what the agent watches in the cluster besides the forwards: its own Node object, the addresses of the API servers,
//! and the networks of Services.

use std::sync::Arc;

use tokio::sync::watch;

use super::endpoints::ApiServers;
use super::own_node::Own;
use super::services::ServiceNetworks;
use crate::source::Snapshot;

/// The values that belong to a set of forwards. A set is complete only with them.
pub(super) struct Around {
    /// The labels and addresses in the Node object of this node.
    pub(super) own: watch::Receiver<Option<Arc<Own>>>,
    /// The addresses of the API servers.
    pub(super) api_servers: watch::Receiver<ApiServers>,
    /// The networks of Services.
    pub(super) services: watch::Receiver<ServiceNetworks>,
}

impl Around {
    /// Waits for a change of one value.
    ///
    /// # Errors
    /// When the task that sends one of the values has ended, so that no change can follow.
    pub(super) async fn changed(&mut self) -> Result<(), watch::error::RecvError> {
        tokio::select! {
            changed = self.own.changed() => changed,
            changed = self.api_servers.changed() => changed,
            changed = self.services.changed() => changed,
        }
    }

    /// A set with the newest values and without forwards; `None` until the Node object and the API servers are known.
    pub(super) fn newest(&mut self) -> Option<Snapshot> {
        let (own, api_servers) = (self.own.borrow_and_update(), self.api_servers.borrow_and_update());
        let Own { labels, addresses } = own.as_deref()?.clone();
        let (api_servers, sight) = api_servers.as_deref()?.clone();
        let services = (**self.services.borrow_and_update()).clone();
        Some(Snapshot { labels, node_addresses: addresses, api_servers, sight, services, ..Snapshot::default() })
    }
}
