//! The facts of this node, read from the kernel at each sync and never taken from memory.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::tables::{Delivery, LocalRoute, LocalTable, Route, RouteKind, RouteTable};
use super::{Answers, Firewall, InterfaceName, Nodes, Protocol, RoutingPolicy};

/// The facts of one node. Planning and status use nothing else of the node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// The labels of the node, for `nodeSelector`.
    pub labels: BTreeMap<String, String>,
    /// The network interfaces, without the loopback.
    pub links: BTreeMap<InterfaceName, Link>,
    /// The virtual interfaces (macvlan, ipvlan, dummy), and the link by which packets to them enter.
    pub virtuals: BTreeMap<InterfaceName, Virtual>,
    /// The addresses of this node, without 127.0.0.0/8.
    pub addresses: BTreeSet<LocalAddress>,
    /// The routing table `local`: the destinations that this node delivers to itself. `None` for an assumed node, which
    /// delivers exactly its addresses.
    pub local: Option<LocalTable>,
    /// The routes of the main table, including the routes of the operator.
    pub routes: RouteTable,
    /// Whether the next hops that forwards depend on answer.
    pub answers: Answers,
    /// `net.ipv4.ip_forward` (ip-sysctl): the default for new interfaces. The setting of each interface decides for the
    /// packets that enter by it.
    pub ip_forward: bool,
    /// The routing rules in addition to the three default rules of the kernel (ip-rule(8)). The main table alone then does not
    /// show which route a packet takes.
    pub routing: RoutingPolicy,
    /// The addresses by which the node itself is reached: the addresses of its Node object. Without a cluster: the source
    /// addresses of its default routes, also for a while after such a route is gone.
    pub node_addresses: BTreeSet<IpAddr>,
    /// The addresses by which the node may be reached, while [`Self::node_addresses`] is not known: all of its addresses.
    pub maybe_node_addresses: BTreeSet<IpAddr>,
    /// The ports on which programs of this node listen.
    pub listeners: BTreeSet<Listener>,
    /// The firewall rules of other programs that forwarded packets meet.
    pub firewall: Arc<Firewall>,
    /// The networks of the cluster's Services. Empty without a cluster.
    pub services: BTreeSet<IpNet>,
    /// The addresses of the cluster's nodes and pods. Empty without a cluster.
    pub nodes: Arc<Nodes>,
    /// The addresses of the API servers. No route of the operator may cover them. Empty without a cluster.
    pub api_servers: BTreeSet<IpAddr>,
    /// Whether these are all of them.
    pub sight: Sight,
}

/// Whether the addresses of the API servers are known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sight {
    /// All of them, or there is no cluster.
    #[default]
    Whole,
    /// Maybe not all.
    Partial,
}

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// The interface index (netdevice(7)). An interface that is deleted and created again gets a new index.
    pub index: u32,
    /// Whether it is administratively up and has carrier (`IFF_UP`, `IFF_LOWER_UP`).
    pub up: bool,
    /// The effective source validation: the larger of `conf/all/rp_filter` and `conf/IF/rp_filter` (ip-sysctl).
    pub rp_filter: RpFilter,
    /// Whether IPv4 packets that enter by it are routed: `conf/IF/forwarding` (ip-sysctl).
    pub forwarding: bool,
    /// The index of the bridge or bond that it is a port of. The addresses are then on that bridge or bond.
    pub master: Option<u32>,
}

/// A virtual interface that is not a link of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Virtual {
    /// A macvlan or ipvlan device on this parent link, for example that of a VRRP router (`use_vmac`, keepalived.conf(5)).
    /// On the network it is one more host of the same link.
    OnWireOf(InterfaceName),
    /// A dummy interface: it holds addresses, and no packet ever enters by it.
    Dummy,
}

/// Source validation by reverse path (RFC 3704; `rp_filter`, ip-sysctl).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RpFilter {
    /// 0: no validation.
    Off,
    /// 1: the route back to the source must leave by the interface that the packet entered by.
    Strict,
    /// 2: there must be a route back to the source.
    Loose,
}

/// An address of this node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LocalAddress {
    /// The address.
    pub address: IpAddr,
    /// The prefix length of its subnet, in bits.
    pub prefix_len: u8,
    /// The interface that holds it. `None` for the loopback, and for an interface name that no object can contain.
    pub interface: Option<InterfaceName>,
}

/// A port on which a program of this node listens.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Listener {
    /// The transport protocol.
    pub protocol: Protocol,
    /// The address. Unspecified (0.0.0.0 or ::) if it listens on all addresses.
    pub address: IpAddr,
    /// The port, 1 to 65535.
    pub port: u16,
    /// The interface that the socket is bound to (`SO_BINDTODEVICE`, socket(7)). It then receives packets of this interface
    /// only.
    pub device: Option<InterfaceName>,
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
    /// The interface that holds `address`, or that a `local` route for it names. `None` if no object can contain its name.
    #[must_use]
    pub fn interface_of(&self, address: IpAddr) -> Option<&InterfaceName> {
        let holder = self.addresses.iter().filter(|local| local.address == address).find_map(|local| local.interface.as_ref());
        holder.or_else(|| self.delivered_by(IpNet::from(address))?.interface.as_ref())
    }

    /// Whether both interfaces are connected to the same link.
    #[must_use]
    pub fn on_one_wire(&self, a: &InterfaceName, b: &InterfaceName) -> bool {
        fn wire<'a>(facts: &'a Facts, name: &'a InterfaceName) -> &'a InterfaceName {
            match facts.virtuals.get(name) {
                Some(Virtual::OnWireOf(lower)) => lower,
                Some(Virtual::Dummy) | None => name,
            }
        }
        wire(self, a) == wire(self, b)
    }

    /// Whether this node delivers `address` to itself, as `-m addrtype --dst-type LOCAL` checks it: an address that a `local`
    /// route covers. The kernel adds such a route with each address of an interface, except in a VRF.
    #[must_use]
    pub fn holds(&self, address: IpAddr) -> bool {
        match &self.local {
            Some(_) => self.delivered_by(IpNet::from(address)).is_some(),
            None => self.addresses.iter().any(|local| local.address == address),
        }
    }

    /// The route of the table `local` by which this node delivers all of `network` to itself.
    #[must_use]
    pub fn delivered_by(&self, network: IpNet) -> Option<&LocalRoute> {
        let route = self.local.as_ref()?.lookup(network.network())?;
        (route.delivery == Delivery::Local && route.destination.contains(&network)).then_some(route)
    }

    /// The local address whose subnet contains `address`, on an interface whose name an object can contain. The longest
    /// prefix wins.
    #[must_use]
    pub fn connected(&self, address: IpAddr) -> Option<&LocalAddress> {
        self.addresses
            .iter()
            .filter(|local| local.interface.is_some() && local.prefix_len < 32 && local.subnet().contains(&address))
            .max_by_key(|local| local.prefix_len)
    }

    /// The route that a packet to `address` takes: the longest prefix, then the lowest metric. `None` if there is no route,
    /// or if that route drops the packet.
    #[must_use]
    pub fn route_to(&self, address: IpAddr) -> Option<&Route> {
        self.routes.lookup(address)
    }

    /// The destination of the route that drops packets to `address`, if there is one.
    #[must_use]
    pub fn dropped_by(&self, address: IpAddr) -> Option<IpNet> {
        let route = self.routes.longest(address)?;
        (route.kind != RouteKind::Unicast).then_some(route.destination)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_longer_prefix_that_leads_nowhere_is_no_way() {
        let route = |destination: &str, kind| Route {
            kind,
            destination: destination.parse().unwrap(),
            gateway: None,
            interface: None,
            hops: Vec::new(),
            metric: 0,
            ours: false,
        };
        let routes = [route("0.0.0.0/0", RouteKind::Unicast), route("3.3.3.0/24", RouteKind::Nowhere)].into_iter().collect();
        let facts = Facts { routes, ..Facts::default() };
        let found = |address: &str| facts.route_to(address.parse().unwrap()).is_some();
        assert!(found("3.3.4.1") && !found("3.3.3.1"));
        let dropped = |address: &str| facts.dropped_by(address.parse().unwrap()).map(|network| network.to_string());
        assert_eq!((dropped("3.3.3.1").as_deref(), dropped("3.3.4.1")), (Some("3.3.3.0/24"), None));
    }

    #[test]
    fn held_is_what_the_table_local_delivers_by_its_longest_prefix() {
        let route = |destination: &str, delivery, interface: Option<&str>| LocalRoute {
            destination: destination.parse().unwrap(),
            delivery,
            interface: interface.map(|name| name.parse().unwrap()),
        };
        let local = [
            route("10.200.0.0/24", Delivery::Local, None),
            route("10.200.0.255/32", Delivery::Other, None),
            route("10.201.0.9/32", Delivery::Local, Some("eth1")),
        ];
        let facts = Facts { local: Some(local.into_iter().collect()), ..Facts::default() };
        let held = |address: &str| facts.holds(address.parse().unwrap());
        assert!(held("10.200.0.9") && held("10.201.0.9") && !held("10.200.1.1"));
        assert!(!held("10.200.0.255"), "the node does not hold a broadcast address in that network");
        assert_eq!(facts.interface_of("10.201.0.9".parse().unwrap()).map(ToString::to_string).as_deref(), Some("eth1"));
    }
}
