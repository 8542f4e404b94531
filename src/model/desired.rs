//! Everything that a node's kernel should hold for us.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::{HostRoute, InterfaceName, Translation};

/// The whole state that this node's kernel should hold; what is ours and not in here goes.
///
/// No two translations match one packet: [`crate::plan`] sees to it, and the layout of the rules relies on it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Desired {
    /// The address translations, each exact: a destination address, a protocol, ports and a client.
    pub translations: BTreeSet<Translation>,
    /// The host routes.
    pub routes: BTreeSet<HostRoute>,
    /// The listen addresses that this node has: the translations of others wait for their address to come.
    pub held: BTreeSet<IpAddr>,
    /// The interfaces by which the flows enter, in both directions: packets that enter there have to be routed.
    pub legs: BTreeSet<InterfaceName>,
}
