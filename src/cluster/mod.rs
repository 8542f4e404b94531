//! Communicates with the API server: reads the forwards and writes their status.
//!
//! Each resource has a watcher in its own task with its own backoff, so a watcher that stalls delays no other. Writing status
//! and renewing the Lease are separate tasks, so a slow API server never delays the kernel.

mod around;
mod awaited;
mod connect;
mod contact;
mod contests;
mod endpoints;
mod follow;
mod forwards;
mod grant_status;
mod grants;
pub mod guard;
mod known;
mod later;
mod leases;
mod leaving;
mod leftovers;
mod nodes;
mod own_node;
mod patches;
mod publisher;
mod received;
mod recorder;
mod reporter;
mod scrapers;
mod selector;
mod services;
pub mod survey;
#[cfg(test)]
mod tests;
mod trouble;
mod turns;
mod write;

use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use tokio::sync::{Notify, watch};

pub use connect::{ConnectError, Connection, DEFAULT_NAMESPACE, connect};
pub use contact::Contact;
pub use leases::Alive;
pub use leaving::leave;
pub use nodes::OtherNodes;
pub use publisher::publish;
pub use scrapers::Scrapers;
pub use selector::{ForwardSelector, SelectorError};

use crate::metrics::Health;
use crate::plan::RequireGrants;
use crate::source::{Snapshot, Source};
use crate::supervise::Tasks;
use around::Around;
use endpoints::Known;
use grant_status::Counting;
use leases::Place;
use recorder::Events;
use trouble::Outage;

/// The time limit of one call.
const DEADLINE: Duration = Duration::from_secs(10);
/// The interval at which an agent renews its Lease.
const RENEW_EVERY: Duration = Duration::from_secs(10);
/// How long an agent counts as alive after the last renewal of its Lease.
const ALIVE_FOR: Duration = Duration::from_secs(40);

/// The nodes whose agents live; `None` until the Leases were read once.
pub type Live = Option<Arc<Alive>>;

/// The cluster, as this node sees it.
pub struct Cluster {
    /// The API server.
    pub client: Client,
    /// The forwards, with the labels and addresses of this node.
    pub source: Source,
    /// The same sets, for the publisher, which also needs changes of only the status.
    pub snapshots: watch::Receiver<Option<Arc<Snapshot>>>,
    /// The names of the nodes whose agents live.
    pub live: watch::Receiver<Live>,
    events: Events,
    outage: Outage,
}

impl Cluster {
    /// A view of the cluster that does not borrow from it.
    #[must_use]
    pub fn contact(&self) -> Contact {
        Contact { live: self.live.clone(), outage: self.outage.clone() }
    }
}

/// What an agent is in the cluster.
#[derive(Clone, Copy, Debug)]
pub struct Member<'a> {
    /// The name of its node.
    pub node: &'a str,
    /// The namespace of the agents.
    pub namespace: &'a str,
    /// Whether it needs to know the other nodes.
    pub others: OtherNodes,
    /// The forwards that it follows.
    pub forwards: &'a ForwardSelector,
}

/// Starts in `tasks`: the watchers of the forwards, of this Node, of all Nodes, of the API servers, of `ServiceCIDRs`, of the
/// grants unless they are ignored, and of the agents' Leases, the writer of events, and the renewal of this agent's Lease in the
/// namespace of `member`. The Lease is renewed while `health` reports a running sync loop.
///
/// Notifies `wake` when something changed that the kernel may depend on. `remembered` is the set that this node last applied:
/// an object that cannot be decoded keeps its content from there, and so does what cannot be read about the cluster.
#[must_use]
pub fn join(
    to: &Connection,
    member: Member<'_>,
    remembered: &Snapshot,
    require_grants: RequireGrants,
    wake: &Arc<Notify>,
    health: &Arc<Health>,
    tasks: &mut Tasks,
) -> Cluster {
    let client = to.client.clone();
    let Member { node, namespace, others, forwards: selector } = member;
    let (own_sender, own) = watch::channel(None);
    let (api_server_sender, api_servers) = watch::channel(None);
    let (sender, snapshots) = watch::channel(None);
    let (live_sender, live) = watch::channel(None);
    let outage = Outage::default();
    let events = Events::new(client.clone(), outage.clone(), node, tasks);
    let (node, place) = (node.to_owned(), Place { namespace: namespace.to_owned(), pool: selector.pool() });
    let own_name = node.clone();
    tasks.spawn("watcher of this Node", own_node::follow(client.clone(), outage.clone(), node.clone(), own_sender));
    let known = Known { host: to.host.clone(), own: to.api_servers.clone(), remembered: remembered.api_servers.clone() };
    tasks.spawn("watcher of the API servers", endpoints::follow(client.clone(), outage.clone(), known, api_server_sender));
    let (service_sender, services) = watch::channel(None);
    let known = remembered.services.clone();
    tasks.spawn("watcher of ServiceCIDRs", services::follow(client.clone(), outage.clone(), known, service_sender));
    let (nodes_sender, nodes) = watch::channel(None);
    let known = Arc::clone(&remembered.nodes);
    tasks.spawn("watcher of Nodes", nodes::follow(client.clone(), outage.clone(), others, known, nodes_sender));
    let (grant_sender, grants) = watch::channel(grants::Known::at_first(require_grants));
    let around = Around { own, api_servers, services, nodes, grants };
    let forwards =
        forwards::follow(client.clone(), outage.clone(), selector.clone(), remembered.clone(), around, sender, Arc::clone(wake));
    tasks.spawn("watcher of PortForwards", forwards);
    tasks.spawn("watcher of Leases", leases::follow(client.clone(), outage.clone(), place.clone(), live_sender));
    tasks.spawn("renewal of the Lease", leases::renew(client.clone(), outage.clone(), place, node, Arc::clone(health)));
    match require_grants {
        // The sets of forwards end with the last sender of a value, so this one is kept.
        RequireGrants::No => drop(tasks.spawn("keeper of no grants", async move {
            let _kept = grant_sender;
            std::future::pending::<()>().await;
        })),
        RequireGrants::Report | RequireGrants::Yes => {
            let follow = grants::follow(client.clone(), outage.clone(), remembered.grants.clone(), grant_sender);
            tasks.spawn("watcher of PortForwardGrants", follow);
            let counting = if selector.selects_all() { Counting::All } else { Counting::Unknown };
            let publish =
                grant_status::publish(client.clone(), outage.clone(), own_name, counting, snapshots.clone(), live.clone());
            tasks.spawn("publisher of the status of grants", publish);
        }
    }
    Cluster { client, source: Source::new(snapshots.clone()), snapshots, live, events, outage }
}
