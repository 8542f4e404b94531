//! A `PortForward` that has been checked: addresses, ports and names as types, nothing left to re-check.
//!
//! Decides whether one object is usable, by itself and without looking at a schema, a rule or a node. Must do
//! no I/O, and must not judge objects against each other or against a node: that is the plan's business.

mod address;
mod consistency;
mod parse;
mod ports;
mod refusal;
mod selector;
#[cfg(test)]
mod tests;
mod translation;

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use jiff::Timestamp;
use kube::core::{Selector, SelectorExt};

pub use crate::api::Mode;
use crate::model::{InterfaceName, PortRange, Protocol, TargetPorts};

pub use refusal::{Refusal, RefusalReason, Refusals};
pub use translation::Direction;

/// One usable `PortForward`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forward {
    /// Which object this is.
    pub key: ForwardKey,
    /// The `uid` that the API server gave it; `None` from a folder.
    pub uid: Option<String>,
    /// The generation of its spec; 0 where the source gives none.
    pub generation: i64,
    /// When it was created; the older of two that conflict wins. `None` from a folder.
    pub created: Option<Timestamp>,
    /// Whether it is on its way out.
    pub lifecycle: Lifecycle,
    /// Whether it is to be in force.
    pub mode: Mode,
    /// The nodes that may carry it.
    pub node_selector: Selector,
    /// Who may use it: never empty, sorted, no two overlap or could be one; an address is a /32.
    pub clients: Vec<IpNet>,
    /// The leg that faces the client.
    pub internal: Leg,
    /// The router to the clients; `None` asks for no routes.
    pub gateway: Option<IpAddr>,
    /// The address that the upstream sees; `None` is masquerade.
    pub external: Option<IpAddr>,
    /// The interface by which flows must leave and those of `reverse` enter.
    pub external_interface: Option<InterfaceName>,
    /// The server.
    pub upstream: IpAddr,
    /// What is forwarded: no port twice for one protocol. Empty only where `reverse` is not.
    pub ports: Vec<PortEntry>,
    /// What the upstream may open; empty without `reverse`. Not empty: `external` is there and `clients` is one /32.
    pub reverse: Vec<PortEntry>,
}

/// The name of an object in its namespace. Ordered by namespace, then name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ForwardKey {
    /// The namespace.
    pub namespace: String,
    /// The name.
    pub name: String,
}

/// Whether an object is on its way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lifecycle {
    /// It stays.
    Present,
    /// It has a deletion timestamp; it claims nothing any more.
    Deleting,
}

/// The leg of the proxy that the client connects to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leg {
    /// The listen address.
    pub address: IpAddr,
    /// The interface that packets must enter by, where the object names one.
    pub interface: Option<InterfaceName>,
}

/// One port, or one range of ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortEntry {
    /// Its name, unique in its list.
    pub name: String,
    /// The transport protocol.
    pub protocol: Protocol,
    /// The ports that the proxy listens on.
    pub ports: PortRange,
    /// The ports that they go on to. A single port is stated also where it stays the same.
    pub target: TargetPorts,
}

impl Forward {
    /// Whether it is to be in force: enabled and not being deleted. One that is not claims nothing.
    #[must_use]
    pub fn is_in_force(&self) -> bool {
        match (self.mode, self.lifecycle) {
            (Mode::Enabled, Lifecycle::Present) => true,
            (Mode::Disabled, _) | (_, Lifecycle::Deleting) => false,
        }
    }

    /// Whether a node with these labels may carry it.
    #[must_use]
    pub fn selects(&self, labels: &BTreeMap<String, String>) -> bool {
        self.node_selector.matches(labels)
    }
}

impl PortEntry {
    /// The same entry for `ports` alone, which are some of its own; each port goes on to where it went.
    #[must_use]
    pub fn part(&self, ports: PortRange) -> Self {
        Self { ports, target: self.target.part(ports), ..self.clone() }
    }
}

impl fmt::Display for ForwardKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}
