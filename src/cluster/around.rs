//! Combines what the agent watches in the cluster besides the forwards: its own Node object, the addresses of the API servers
//! and of all nodes and pods, the networks of Services, and the grants.

use std::sync::Arc;

use tokio::sync::watch;

use super::endpoints::ApiServers;
use super::grants::Known;
use super::nodes::KnownNodes;
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
    /// The addresses of the cluster's nodes and pods.
    pub(super) nodes: watch::Receiver<KnownNodes>,
    /// The grants.
    pub(super) grants: watch::Receiver<Known>,
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
            changed = self.nodes.changed() => changed,
            changed = self.grants.changed() => changed,
        }
    }

    /// A set with the newest values and without forwards; `None` until all of them are known (the grants only if forwards need
    /// them), because a plan could otherwise open a way that must stay closed.
    pub(super) fn newest(&mut self) -> Option<Snapshot> {
        let (own, api_servers) = (self.own.borrow_and_update(), self.api_servers.borrow_and_update());
        let Own { labels, addresses } = own.as_deref()?.clone();
        let (api_servers, sight) = api_servers.as_deref()?.clone();
        let (services, nodes) = (self.services.borrow_and_update(), self.nodes.borrow_and_update());
        let (services, nodes) = (services.as_deref()?.clone(), nodes.clone()?);
        let grants = match &*self.grants.borrow_and_update() {
            Known::Awaited => return None,
            Known::Without => None,
            Known::Read(grants) => Some(Arc::clone(grants)),
        };
        let found =
            Snapshot { labels, node_addresses: addresses, api_servers, sight, services, nodes, grants, ..Snapshot::default() };
        Some(found)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;
    use crate::cluster::forwards::same_but_status;
    use crate::model::{Nodes, Sight};
    use crate::plan::RequireGrants;

    #[test]
    fn the_values_around_a_set_are_part_of_it_and_their_change_is_a_change_of_the_set() {
        let (own, own_receiver) = watch::channel(None);
        let (api_servers, api_server_receiver) = watch::channel(None);
        let (services, service_receiver) = watch::channel(None);
        let (nodes, node_receiver) = watch::channel(None);
        let (grants, grant_receiver) = watch::channel(Known::at_first(RequireGrants::Yes));
        let mut around = Around {
            own: own_receiver,
            api_servers: api_server_receiver,
            services: service_receiver,
            nodes: node_receiver,
            grants: grant_receiver,
        };
        assert!(around.newest().is_none());
        let labels = BTreeMap::from([("zone".to_owned(), "a".to_owned())]);
        let addresses = BTreeSet::from(["192.168.7.1".parse().unwrap()]);
        own.send_replace(Some(Arc::new(Own { labels, addresses: addresses.clone() })));
        assert!(around.newest().is_none(), "a route could cover an unknown address of an API server");
        api_servers.send_replace(Some(Arc::default()));
        assert!(around.newest().is_none(), "a forward needs a grant, and the grants were not read");
        grants.send_replace(Known::Without);
        services.send_replace(Some(Arc::default()));
        assert!(around.newest().is_none(), "an unknown address may be one that no forward may use");
        nodes.send_replace(Some(Arc::default()));
        let before = around.newest().unwrap();
        assert_eq!((before.labels["zone"].as_str(), &before.node_addresses), ("a", &addresses));
        api_servers.send_replace(Some(Arc::new((["10.0.0.1".parse().unwrap()].into(), Sight::Whole))));
        let after = around.newest().unwrap();
        assert!(!same_but_status(&before, &after) && same_but_status(&after, &around.newest().unwrap()));
        let grown = Nodes { addresses: ["10.0.0.7".parse().unwrap()].into(), ..Nodes::default() };
        nodes.send_replace(Some(Arc::new(grown)));
        let grown = around.newest().unwrap();
        assert!(!same_but_status(&after, &grown));
        grants.send_replace(Known::Read(Arc::default()));
        assert!(!same_but_status(&grown, &around.newest().unwrap()), "no grant is known now, before nothing was known");
    }
}
