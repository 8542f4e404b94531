//! A host route: how this node reaches a client.

use std::net::IpAddr;

use ipnet::IpNet;

use super::InterfaceName;

/// A route to a client through the gateway of its leg. Marked in the kernel by the project's own protocol number.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostRoute {
    /// The client: an address as /32, or its network.
    pub destination: IpNet,
    /// The next hop, on the link of `interface`.
    pub gateway: IpAddr,
    /// The interface by which the gateway is reached.
    pub interface: InterfaceName,
}
