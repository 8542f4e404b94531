//! The data types of the project: the desired state of a node, and the facts of a node.
//!
//! Pure data. Imports only `std`, [`ipnet`] (which adds CIDR types to the address types of `std`) and containers, so that planning and
//! the dataplane can share these types without depending on each other.

mod connmark;
mod desired;
mod facts;
mod firewall;
mod interface;
mod next_hop;
mod nodes;
mod ports;
mod protocol;
mod route;
mod routing;
mod tables;
mod target_ports;
mod translation;

pub use connmark::{Connmark, InvalidConnmark};
pub use desired::Desired;
pub use facts::{Facts, Link, Listener, LocalAddress, RpFilter, Sight, Virtual};
pub use firewall::{
    Action, BaseChain, Condition, Field, FilterRule, Firewall, Hook, NamePattern, NatPriorities, NewAddress, Polarity, Policy,
    Purpose, TableFamily, Tool, Way,
};
pub use interface::{InterfaceName, InvalidInterfaceName};
pub use next_hop::{Answer, Answers, NextHop};
pub use nodes::Nodes;
pub use ports::{InvalidPortRange, PortRange};
pub use protocol::{Family, Protocol};
pub use route::HostRoute;
pub use routing::{Course, Courses, End, Entry, Forwarded, Incoming, RoutingPolicy, RoutingRule, RuleAction};
pub use tables::{Delivery, Hop, LocalRoute, LocalTable, Route, RouteKind, RouteTable};
pub use target_ports::{InvalidShift, Shift, TargetPorts};
pub use translation::{Destination, FlowMatch, SourceNat, Translation, Translations};
