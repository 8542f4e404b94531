//! One address translation: which flows, to where, and as whom.

use std::net::IpAddr;

use ipnet::IpNet;

use super::{InterfaceName, PortRange, Protocol, TargetPorts};

/// The flows that a translation is for, by what their first packet shows before any translation.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FlowMatch {
    /// The transport protocol.
    pub protocol: Protocol,
    /// The listen address: where the packet is sent to, an address of a proxy node.
    pub destination: IpAddr,
    /// The ports that it is sent to.
    pub ports: PortRange,
    /// Where it comes from; nobody else may use the forward.
    pub source: IpNet,
    /// The interface that it must enter by, where the object names one.
    pub interface: Option<InterfaceName>,
}

/// What the destination becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Destination {
    /// The address that the flow goes on to.
    pub address: IpAddr,
    /// The port that it goes on to.
    pub ports: TargetPorts,
}

/// What the source becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SourceNat {
    /// This address; survives a flap of the link.
    Address(IpAddr),
    /// The address of the interface by which the flow leaves (`MASQUERADE`, iptables-extensions(8)).
    Masquerade,
}

/// One address translation, in one direction of one forward.
///
/// A forward is one of these for each port entry and client entry; its reverse direction one for each reverse port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Translation {
    /// Which flows.
    pub flows: FlowMatch,
    /// What their destination becomes (DNAT).
    pub destination: Destination,
    /// What their source becomes (SNAT).
    pub source: SourceNat,
}
