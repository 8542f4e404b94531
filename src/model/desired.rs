//! The state that the operator wants in a node's kernel.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::{HostRoute, InterfaceName, Translations};

/// The whole state that this node's kernel should hold. Rules and routes of the operator that are not in here are removed.
///
/// No two translations match the same packet: [`crate::plan`] ensures this, and the layout of the rules relies on it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Desired {
    /// The address translations, each exact: a destination address, a protocol, ports and a client.
    pub translations: Translations,
    /// The host routes.
    pub routes: BTreeSet<HostRoute>,
    /// The listen addresses that this node holds. Translations for other addresses have no effect until the node gets the
    /// address.
    pub held: BTreeSet<IpAddr>,
    /// The interfaces by which flows enter, in both directions. The node must route the packets that enter by them.
    pub legs: BTreeSet<InterfaceName>,
}
