//! The addresses that belong to the nodes of the cluster.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;

/// The addresses of all nodes of the cluster and the networks of their pods. Empty without a cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Nodes {
    /// Every IP address in the Node objects.
    pub addresses: BTreeSet<IpAddr>,
    /// The networks from which the nodes give addresses to their pods.
    pub pods: BTreeSet<IpNet>,
}
