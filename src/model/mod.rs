//! The words of this project as types: what a node is asked to hold and what it is known to be.
//!
//! Pure data. Imports `std` and [`ipnet`] (a CIDR is to this module what an address is to `std`) and
//! nothing else, so that planning and the kernel can meet here without knowing each other.

mod desired;
mod facts;
mod firewall;
mod interface;
mod next_hop;
mod ports;
mod protocol;
mod route;
mod target_ports;
mod translation;

pub use desired::Desired;
pub use facts::{
    Delivery, Facts, Link, Listener, LocalAddress, LocalRoute, LocalTable, Route, RouteKind, RouteTable, RpFilter, Virtual,
};
pub use firewall::{
    Action, BaseChain, Condition, Field, FilterRule, Firewall, Hook, NamePattern, Polarity, Policy, Purpose, TableFamily, Tool,
    Way,
};
pub use interface::{InterfaceName, InvalidInterfaceName};
pub use next_hop::{Answer, Answers, NextHop};
pub use ports::{InvalidPortRange, PortRange};
pub use protocol::{Family, Protocol};
pub use route::HostRoute;
pub use target_ports::{InvalidShift, Shift, TargetPorts};
pub use translation::{Destination, FlowMatch, SourceNat, Translation};
