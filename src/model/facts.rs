//! What is known of this node, read from the kernel and never from memory.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use super::{InterfaceName, Protocol};

/// The facts of one node that planning and status rest on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// The labels of the node, for `nodeSelector`.
    pub labels: BTreeMap<String, String>,
    /// The network interfaces, less the loopback.
    pub links: BTreeMap<InterfaceName, Link>,
    /// The addresses of this node, less 127.0.0.0/8.
    pub addresses: BTreeSet<LocalAddress>,
    /// The unicast routes of the main table, ours among them.
    pub routes: RouteTable,
    /// Next hops that do not answer: their neighbour entry is in state `FAILED` (ip-neighbour(8)).
    pub unreachable: BTreeSet<IpAddr>,
    /// What new interfaces begin with: `net.ipv4.ip_forward` (ip-sysctl). Each interface then decides for what enters by it.
    pub ip_forward: bool,
    /// Whether rules beyond the kernel's own three choose the routing table (ip-rule(8)); the main table then proves nothing.
    pub policy_routing: bool,
    /// The ports on which programs of this node listen.
    pub listeners: BTreeSet<Listener>,
    /// The addresses of the API servers, which no route of ours may cover. Empty without a cluster.
    pub api_servers: BTreeSet<IpAddr>,
}

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// The interface index (netdevice(7)); a link made anew has a new one.
    pub index: u32,
    /// Whether it is administratively up and has carrier (`IFF_UP`, `IFF_LOWER_UP`).
    pub up: bool,
    /// The effective source validation: the larger of `conf/all/rp_filter` and `conf/IF/rp_filter` (ip-sysctl).
    pub rp_filter: RpFilter,
    /// Whether IPv4 packets that enter by it are routed: `conf/IF/forwarding` (ip-sysctl).
    pub forwarding: bool,
    /// The bridge or bond that it is a port of; its address then belongs there.
    pub master: Option<u32>,
}

/// Source validation by reverse path, RFC 3704 (`rp_filter`, ip-sysctl).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RpFilter {
    /// 0: no validation.
    Off,
    /// 1: the way back must leave by the interface that the packet entered.
    Strict,
    /// 2: some way back must exist.
    Loose,
}

/// An address of this node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LocalAddress {
    /// The address.
    pub address: IpAddr,
    /// The length of its subnet's prefix, in bits.
    pub prefix_len: u8,
    /// The interface that holds it; `None` for the loopback and for a name that no object can write.
    pub interface: Option<InterfaceName>,
}

/// A unicast route of the main table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// The destination; the default route is `0.0.0.0/0`.
    pub destination: IpNet,
    /// The next hop; `None` where the destination is on the link.
    pub gateway: Option<IpAddr>,
    /// The interface by which it leaves; `None` for several next hops.
    pub interface: Option<InterfaceName>,
    /// The metric; the lowest wins among equal destinations.
    pub metric: u32,
    /// Whether it carries our protocol number.
    pub ours: bool,
}

/// A port on which a program of this node listens.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Listener {
    /// The transport protocol.
    pub protocol: Protocol,
    /// The address; unspecified where it listens on every one.
    pub address: IpAddr,
    /// The port, 1 to 65535.
    pub port: u16,
}

impl LocalAddress {
    /// The subnet that the address lies in.
    ///
    /// # Panics
    /// Never: the kernel gives no prefix longer than the address.
    #[must_use]
    pub fn subnet(&self) -> IpNet {
        IpNet::new(self.address, self.prefix_len).expect("the kernel gives a prefix that fits the address").trunc()
    }
}

impl Facts {
    /// The interface that holds `address`, if this node has it on one that an object can name.
    #[must_use]
    pub fn interface_of(&self, address: IpAddr) -> Option<&InterfaceName> {
        self.addresses.iter().filter(|local| local.address == address).find_map(|local| local.interface.as_ref())
    }

    /// Whether this node has `address`.
    #[must_use]
    pub fn holds(&self, address: IpAddr) -> bool {
        self.addresses.iter().any(|local| local.address == address)
    }

    /// The local address whose subnet `address` lies in, on an interface that an object can name; the longest prefix wins.
    #[must_use]
    pub fn connected(&self, address: IpAddr) -> Option<&LocalAddress> {
        self.addresses
            .iter()
            .filter(|local| local.interface.is_some() && local.prefix_len < 32 && local.subnet().contains(&address))
            .max_by_key(|local| local.prefix_len)
    }

    /// The route that a packet to `address` takes: the longest prefix, then the lowest metric.
    #[must_use]
    pub fn route_to(&self, address: IpAddr) -> Option<&Route> {
        self.routes.lookup(address)
    }
}

/// The routes of a table; of several to one destination, the one that the kernel takes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RouteTable(BTreeMap<IpNet, Route>);

impl RouteTable {
    /// The route with the longest prefix that holds `address`.
    #[must_use]
    pub fn lookup(&self, address: IpAddr) -> Option<&Route> {
        let host = IpNet::from(address);
        (0..=host.prefix_len()).rev().find_map(|length| self.0.get(&IpNet::new(address, length).ok()?.trunc()))
    }

    /// Every route that is taken, by destination.
    pub fn iter(&self) -> impl Iterator<Item = &Route> {
        self.0.values()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromIterator<Route> for RouteTable {
    fn from_iter<T: IntoIterator<Item = Route>>(routes: T) -> Self {
        let mut table = BTreeMap::<IpNet, Route>::new();
        for route in routes {
            let better = table.get(&route.destination).is_none_or(|other| route.metric < other.metric);
            if better {
                table.insert(route.destination, route);
            }
        }
        Self(table)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_prefix_wins_then_the_lowest_metric() {
        let route = |destination: &str, metric| Route {
            destination: destination.parse().unwrap(),
            gateway: None,
            interface: None,
            metric,
            ours: false,
        };
        let table: RouteTable =
            [route("10.0.0.0/8", 0), route("10.1.0.0/16", 5), route("10.1.0.0/16", 3), route("10.1.0.0/16", 9)]
                .into_iter()
                .collect();
        let found =
            |address: &str| table.lookup(address.parse().unwrap()).map(|route| (route.destination.to_string(), route.metric));
        assert_eq!(found("10.1.2.3"), Some(("10.1.0.0/16".to_owned(), 3)));
        assert_eq!(found("10.9.9.9"), Some(("10.0.0.0/8".to_owned(), 0)));
        assert_eq!(found("11.0.0.0"), None);
    }
}
