//! What is around the forwards of the cluster: this node's own object, the API servers, the networks of Services.

use std::sync::Arc;

use tokio::sync::watch;

use super::endpoints::ApiServers;
use super::own_node::Own;
use super::services::ServiceNetworks;
use crate::source::Snapshot;

/// What a set of forwards is handed on together with, once all of it is known.
pub(super) struct Around {
    /// What the Node object says of this node.
    pub(super) own: watch::Receiver<Option<Arc<Own>>>,
    /// The addresses of the API servers.
    pub(super) api_servers: watch::Receiver<ApiServers>,
    /// The networks of Services.
    pub(super) services: watch::Receiver<ServiceNetworks>,
}

impl Around {
    /// Waits for a change; an error when there will be none any more.
    pub(super) async fn changed(&mut self) -> Result<(), watch::error::RecvError> {
        tokio::select! {
            changed = self.own.changed() => changed,
            changed = self.api_servers.changed() => changed,
            changed = self.services.changed() => changed,
        }
    }

    /// A set with all of it and without forwards.
    pub(super) fn newest(&mut self) -> Option<Snapshot> {
        let (own, api_servers) = (self.own.borrow_and_update(), self.api_servers.borrow_and_update());
        let Own { labels, addresses } = own.as_deref()?.clone();
        let (api_servers, sight) = api_servers.as_deref()?.clone();
        let services = (**self.services.borrow_and_update()).clone();
        Some(Snapshot { labels, node_addresses: addresses, api_servers, sight, services, ..Snapshot::default() })
    }
}
