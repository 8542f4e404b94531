//! The routing tables of the node.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;

use super::InterfaceName;

/// A route of the table `local` (ip-route(8)).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalRoute {
    /// The destination: the address of an interface as /32, or a network that an administrator added.
    pub destination: IpNet,
    /// Whether the node delivers it to itself.
    pub delivery: Delivery,
    /// The interface of the route. `None` for the loopback, and for an interface name that no object can contain.
    pub interface: Option<InterfaceName>,
}

/// What happens to a packet that a route of the table `local` matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// The node delivers it to itself: type `local`, which `-m addrtype --dst-type LOCAL` matches (iptables-extensions(8)).
    Local,
    /// Any other type, for example broadcast.
    Other,
}

/// What a route does with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteKind {
    /// It sends the packet on.
    Unicast,
    /// It drops or refuses the packet: `blackhole`, `unreachable`, `prohibit` (ip-route(8)).
    Nowhere,
    /// It ends the search in its table: `throw`. The kernel continues with the next routing rule.
    Throw,
    /// It delivers the packet to the node itself: `local` in another table than `local`.
    Local,
}

/// A route of the main table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// What it does with a packet.
    pub kind: RouteKind,
    /// The destination; the default route is `0.0.0.0/0`.
    pub destination: IpNet,
    /// The next hop. `None` if the destination is directly on the link.
    pub gateway: Option<IpAddr>,
    /// The outgoing interface. `None` for a route with several next hops.
    pub interface: Option<InterfaceName>,
    /// The next hops, if there are several (ip-route(8), `nexthop`). The kernel distributes flows over them.
    pub hops: Vec<Hop>,
    /// The metric. Of routes to the same destination, the one with the lowest metric is used.
    pub metric: u32,
    /// Whether it has the protocol number of the operator's routes.
    pub ours: bool,
}

/// One of several next hops of a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hop {
    /// The address of the router. `None` if the destination is directly on the link.
    pub gateway: Option<IpAddr>,
    /// The outgoing interface.
    pub interface: InterfaceName,
}

/// The table `local`. Of several routes to one destination it holds the one that the kernel uses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LocalTable(BTreeMap<IpNet, LocalRoute>);

impl LocalTable {
    /// The route of the table for `address`: the one with the longest prefix.
    #[must_use]
    pub fn lookup(&self, address: IpAddr) -> Option<&LocalRoute> {
        longest(&self.0, address)
    }
}

impl FromIterator<LocalRoute> for LocalTable {
    fn from_iter<T: IntoIterator<Item = LocalRoute>>(routes: T) -> Self {
        // Of several routes to one destination, the kernel uses the one that it lists first.
        let mut table = BTreeMap::new();
        for route in routes {
            table.entry(route.destination).or_insert(route);
        }
        Self(table)
    }
}

/// The entry with the longest prefix that contains `address`.
fn longest<T>(table: &BTreeMap<IpNet, T>, address: IpAddr) -> Option<&T> {
    let host = IpNet::from(address);
    (0..=host.prefix_len()).rev().find_map(|length| table.get(&IpNet::new(address, length).ok()?.trunc()))
}

/// The routes of a table. Of several routes to one destination it holds the one that the kernel uses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RouteTable(BTreeMap<IpNet, Route>);

impl RouteTable {
    /// The route with the longest prefix that contains `address`, unless this route drops packets.
    #[must_use]
    pub fn lookup(&self, address: IpAddr) -> Option<&Route> {
        self.longest(address).filter(|route| route.kind == RouteKind::Unicast)
    }

    /// The route with the longest prefix that contains `address`, whatever it does.
    #[must_use]
    pub fn longest(&self, address: IpAddr) -> Option<&Route> {
        longest(&self.0, address)
    }

    /// The route of another program with the longest prefix that contains all of `network`, whatever it does.
    #[must_use]
    pub fn foreign_around(&self, network: IpNet) -> Option<&Route> {
        let around = |length| self.0.get(&IpNet::new(network.network(), length).ok()?.trunc());
        (0..=network.prefix_len()).rev().filter_map(around).find(|route| !route.ours)
    }

    /// All routes that the kernel uses, ordered by destination.
    pub fn iter(&self) -> impl Iterator<Item = &Route> {
        self.0.values()
    }

    /// The routes to a part of `network`, but not to all of it.
    pub fn within(&self, network: IpNet) -> impl Iterator<Item = &Route> {
        let inside = self.0.range(network..).take_while(move |(destination, _)| network.contains(&destination.network()));
        inside.map(|(_, route)| route).filter(move |route| route.destination.prefix_len() > network.prefix_len())
    }

    /// Whether the table has no route.
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
            kind: RouteKind::Unicast,
            destination: destination.parse().unwrap(),
            gateway: None,
            interface: None,
            hops: Vec::new(),
            metric,
            ours: false,
        };
        let routes = [("10.0.0.0/8", 0), ("10.1.0.0/16", 5), ("10.1.0.0/16", 3), ("10.1.0.0/16", 9)];
        let table: RouteTable = routes.into_iter().map(|(destination, metric)| route(destination, metric)).collect();
        let found =
            |address: &str| table.lookup(address.parse().unwrap()).map(|route| (route.destination.to_string(), route.metric));
        assert_eq!(found("10.1.2.3"), Some(("10.1.0.0/16".to_owned(), 3)));
        assert_eq!(found("10.9.9.9"), Some(("10.0.0.0/8".to_owned(), 0)));
        assert_eq!(found("11.0.0.0"), None);
        let inside: Vec<_> = table.within("10.0.0.0/8".parse().unwrap()).map(|route| route.destination.to_string()).collect();
        assert_eq!(inside, ["10.1.0.0/16"]);
    }
}
