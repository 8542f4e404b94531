//! A checked `PortForward`, with typed addresses, ports and names. Code that uses it does not check them again.
//!
//! Decides whether one object is usable by itself. Does no I/O. Does not compare objects with each other or with a node; the
//! plan does that.

pub(crate) mod address;
mod consistency;
mod networks;
mod parse;
pub(crate) mod ports;
mod refusal;
pub(crate) mod selector;
#[cfg(test)]
mod tests;
mod translation;

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::ops::Deref;
use std::sync::Arc;

use ipnet::IpNet;
use jiff::Timestamp;
use kube::core::{ObjectMeta, Selector, SelectorExt};

pub use crate::api::Mode;
use crate::api::{DEFAULT_NAMESPACE, PortForward};
use crate::model::{InterfaceName, PortRange, Protocol, TargetPorts};

pub(crate) use networks::networks;
pub(crate) use parse::description;
pub(crate) use refusal::Found;
pub use refusal::{Refusal, RefusalReason, Refusals};
pub use translation::{Direction, Rewrite};

/// One usable `PortForward`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forward {
    /// The identity of the object.
    pub key: ForwardKey,
    /// The `uid` from the API server; `None` for an object from a folder.
    pub uid: Option<String>,
    /// The generation of the spec; 0 if the source gives none.
    pub generation: i64,
    /// The time of creation. In a conflict, the older forward wins. `None` for an object from a folder.
    pub created: Option<Timestamp>,
    /// Whether the object is being deleted.
    pub lifecycle: Lifecycle,
    /// Whether the forward is enabled.
    pub mode: Mode,
    /// The nodes that may carry it.
    pub node_selector: Selector,
    /// The addresses that may use the forward: never empty, sorted, merged, without overlaps. A single address is a /32.
    pub clients: Vec<IpNet>,
    /// The leg that faces the client.
    pub internal: Leg,
    /// The router to the clients; `None` means that no routes are installed.
    pub gateway: Option<IpAddr>,
    /// The source address that the upstream sees; `None` means masquerade.
    pub external: Option<IpAddr>,
    /// The interface by which flows must leave and by which flows of `reverse` must enter.
    pub external_interface: Option<InterfaceName>,
    /// The address of the server.
    pub upstream: IpAddr,
    /// The forwarded ports. No port occurs twice for one protocol. Empty only if `reverse` is not empty.
    pub ports: Vec<PortEntry>,
    /// The ports that the upstream may connect to; empty without `reverse`. If it is not empty, `external` is set and `clients`
    /// is one /32.
    pub reverse: Vec<PortEntry>,
}

/// The name of an object in its namespace. Ordered by namespace, then name. A copy shares its text with the original, because very
/// many of them are kept.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ForwardKey(Arc<NamespacedName>);

/// The text of a [`ForwardKey`].
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NamespacedName {
    /// The namespace.
    pub namespace: String,
    /// The name.
    pub name: String,
}

/// Whether an object is being deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lifecycle {
    /// It is not being deleted.
    Present,
    /// It has a deletion timestamp. It claims no ports or routes any more.
    Deleting,
}

/// The leg of the proxy that the client connects to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leg {
    /// The listen address.
    pub address: IpAddr,
    /// The interface by which packets must enter, if the object names one.
    pub interface: Option<InterfaceName>,
}

/// One port, or one range of ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortEntry {
    /// The name, unique in its list.
    pub name: String,
    /// The transport protocol.
    pub protocol: Protocol,
    /// The ports that the proxy listens on.
    pub ports: PortRange,
    /// The target ports. For a single port, this is [`TargetPorts::One`] also if the number stays the same.
    pub target: TargetPorts,
}

impl Forward {
    /// Whether the forward should be in force: enabled and not being deleted. A forward that should not be in force claims
    /// nothing.
    #[must_use]
    pub fn is_in_force(&self) -> bool {
        match (self.mode, self.lifecycle) {
            (Mode::Enabled, Lifecycle::Present) => true,
            (Mode::Disabled, _) | (_, Lifecycle::Deleting) => false,
        }
    }

    /// Whether a node with these labels may carry the forward.
    #[must_use]
    pub fn selects(&self, labels: &BTreeMap<String, String>) -> bool {
        self.node_selector.matches(labels)
    }
}

impl PortEntry {
    /// The same entry, restricted to `ports`, which must be a part of its own ports. Each port keeps its target.
    #[must_use]
    pub fn part(&self, ports: PortRange) -> Self {
        Self { ports, target: self.target.part(ports), ..self.clone() }
    }
}

impl ForwardKey {
    /// The object with this name in this namespace.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self(Arc::new(NamespacedName { namespace: namespace.into(), name: name.into() }))
    }

    /// The name of `object`. Without a namespace, it is in the default one.
    #[must_use]
    pub fn of(object: &PortForward) -> Self {
        Self::named(&object.metadata)
    }

    /// The name of the object with this metadata.
    #[must_use]
    pub fn named(metadata: &ObjectMeta) -> Self {
        let namespace = metadata.namespace.as_deref().unwrap_or(DEFAULT_NAMESPACE);
        Self::new(namespace, metadata.name.as_deref().unwrap_or_default())
    }
}

impl Deref for ForwardKey {
    type Target = NamespacedName;

    fn deref(&self) -> &NamespacedName {
        &self.0
    }
}

impl fmt::Debug for ForwardKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for ForwardKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}
