//! One address translation: which flows it matches, and their new destination and source.

use std::net::IpAddr;

use ipnet::IpNet;

use super::{InterfaceName, PortRange, Protocol, TargetPorts};

/// The flows that a translation matches, by the fields of their first packet before any translation.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FlowMatch {
    /// The transport protocol.
    pub protocol: Protocol,
    /// The listen address: the destination of the packet, an address of a proxy node.
    pub destination: IpAddr,
    /// The destination ports.
    pub ports: PortRange,
    /// The clients: only packets from this network match.
    pub source: IpNet,
    /// The incoming interface, if the object names one.
    pub interface: Option<InterfaceName>,
}

/// The size from which on a range of TCP ports matches only the packet that opens a connection. The ports of such a large
/// range were not chosen one by one: connections of the node itself to the same host may use some of them.
const WIDE: u32 = 1024;

impl FlowMatch {
    /// Whether only the packet that opens a connection may begin a flow.
    ///
    /// Conntrack may first see a connection in its middle, for example a connection of the node itself when the first rules are
    /// added. A packet of it that arrives at a port of a large range must not be treated as the first packet of a flow.
    #[must_use]
    pub fn begins_with_opening(&self) -> bool {
        self.protocol == Protocol::Tcp && self.ports.count() >= WIDE
    }
}

/// The new destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Destination {
    /// The address that the flow is sent on to.
    pub address: IpAddr,
    /// The port that it is sent on to.
    pub ports: TargetPorts,
}

/// The new source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SourceNat {
    /// This address. Connections survive when the link goes down and up.
    Address(IpAddr),
    /// The address of the outgoing interface (`MASQUERADE`, iptables-extensions(8)).
    Masquerade,
}

/// One address translation, in one direction of one forward.
///
/// A forward has one for each combination of port entry and client entry. Its reverse direction has one for each reverse
/// port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Translation {
    /// The flows that it matches.
    pub flows: FlowMatch,
    /// Their new destination (DNAT).
    pub destination: Destination,
    /// Their new source (SNAT).
    pub source: SourceNat,
}

/// Some translations. A copy shares its content with the original, and what differs between two copies is found without a look at
/// what they share.
pub type Translations = imbl::OrdSet<Translation>;

impl Translation {
    /// The same translation for `ports` only, which must be some of its ports.
    #[must_use]
    pub fn part(&self, ports: PortRange) -> Self {
        let mut part = self.clone();
        part.flows.ports = ports;
        part.destination.ports = part.destination.ports.part(ports);
        part
    }
}
