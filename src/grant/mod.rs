//! A checked `PortForwardGrant`, with typed addresses and ports. Code that uses it does not check them again.
//!
//! Decides whether one grant is usable by itself. Does no I/O. Does not compare a grant with forwards or with a node; the plan
//! does that.

mod parse;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use kube::core::{Selector, SelectorExt};

use crate::model::{PortRange, Protocol};

/// One usable `PortForwardGrant`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The name of the object.
    pub name: String,
    /// The `uid` from the API server; `None` for an object from a folder.
    pub uid: Option<String>,
    /// The generation of the spec; 0 if the source gives none.
    pub generation: i64,
    /// The namespaces whose forwards may use the grant; never empty.
    pub namespaces: BTreeSet<String>,
    /// The nodes on which the grant holds.
    pub node_selector: Selector,
    /// Where a forward may listen; never empty.
    pub listen: Vec<Sockets>,
    /// The permitted clients: never empty, sorted, merged, without overlaps. A single address is a /32.
    pub clients: Vec<IpNet>,
    /// Where a forward may lead; never empty.
    pub upstreams: Vec<Sockets>,
    /// The permitted external addresses: sorted, merged, without overlaps. If it is empty, only masquerade is permitted.
    pub external: Vec<IpNet>,
    /// The permitted gateways, each once, by address. If it is empty, no routes are permitted.
    pub gateways: Vec<GrantedGateway>,
    /// The ports on which the upstream may open connections. If it is empty, `reverse` is not permitted; otherwise `external`
    /// is not empty.
    pub reverse: Vec<GrantedPorts>,
    /// Whether both legs of a forward may have the same address or the same interface.
    pub one_leg: bool,
    /// How much all forwards that use the grant may ask for together on a node.
    pub limits: Limits,
    /// The forward whose grant has the higher priority wins a conflict. -1000 to 1000.
    pub priority: i32,
}

/// Permitted addresses with permitted ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sockets {
    /// The addresses: never empty, sorted, merged, without overlaps.
    pub cidrs: Vec<IpNet>,
    /// The protocol; `None` means every protocol.
    pub protocol: Option<Protocol>,
    /// The ports; [`PortRange::ALL`] if the object names none.
    pub ports: PortRange,
}

/// A permitted gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrantedGateway {
    /// The router.
    pub address: IpAddr,
    /// The clients to which routes may lead through it: never empty, sorted, merged, without overlaps.
    pub routes: Vec<IpNet>,
}

/// Permitted ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GrantedPorts {
    /// The protocol; `None` means every protocol.
    pub protocol: Option<Protocol>,
    /// The ports; [`PortRange::ALL`] if the object names none.
    pub ports: PortRange,
}

/// How much the forwards of a grant may ask for together. `None` means no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// The number of forwards.
    pub forwards: Option<u32>,
    /// The number of translations.
    pub translations: Option<u32>,
    /// The number of host routes.
    pub routes: Option<u32>,
}

impl Grant {
    /// Whether the grant holds on a node with these labels.
    #[must_use]
    pub fn selects(&self, labels: &BTreeMap<String, String>) -> bool {
        self.node_selector.matches(labels)
    }
}
