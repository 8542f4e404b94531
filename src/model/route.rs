//! A host route: the route of this node to a client.

use std::net::IpAddr;

use ipnet::IpNet;

use super::InterfaceName;

/// A route to a client through the gateway of its leg. The kernel stores it with the protocol number of the operator.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostRoute {
    /// The client: an address as /32, or a network.
    pub destination: IpNet,
    /// The next hop, on the link of `interface`.
    pub gateway: IpAddr,
    /// The interface by which the gateway is reached.
    pub interface: InterfaceName,
}
