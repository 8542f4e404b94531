//! The difference between the main table and the wanted routes. Decides which routes are added and removed. Does no I/O
//! except to look up interface names.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net};
use netlink_packet_route::route::RouteType;

use super::{LINGERING_METRIC, METRIC, PROTOCOL};
use crate::model::HostRoute;
use crate::netlink::Socket;
use crate::netlink::route::{KernelRoute, NextHop, Reach};

/// A wanted route as the kernel represents it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) route: HostRoute,
    pub(super) destination: Ipv4Net,
    pub(super) gateway: Ipv4Addr,
    pub(super) interface: u32,
    pub(super) metric: u32,
}

impl Wanted {
    /// Whether the plan asks for it. Otherwise it only stays for a while, for the ends of cut connections.
    pub(super) const fn is_asked_for(&self) -> bool {
        self.metric == METRIC
    }

    const fn key(&self) -> Key {
        (self.destination, self.gateway, self.interface, self.metric)
    }
}

/// The fields that identify a route of the operator.
type Key = (Ipv4Net, Ipv4Addr, u32, u32);

/// One change of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Remove(KernelRoute),
    Add(Wanted),
}

/// The wanted routes as the kernel represents them, and why the others cannot be represented.
pub(super) fn resolve(socket: &Socket, routes: &BTreeSet<HostRoute>) -> (Vec<Wanted>, BTreeMap<HostRoute, String>) {
    let mut indices = HashMap::new();
    let (mut wanted, mut refused) = (Vec::new(), BTreeMap::new());
    for route in routes {
        let index = indices.entry(&route.interface).or_insert_with(|| socket.index_of(route.interface.as_str()));
        match (route.destination, route.gateway, *index) {
            (IpNet::V4(destination), IpAddr::V4(gateway), Ok(interface)) => {
                let destination = destination.trunc();
                wanted.push(Wanted { route: route.clone(), destination, gateway, interface, metric: METRIC });
            }
            (IpNet::V4(_), IpAddr::V4(_), Err(errno)) => {
                refused.insert(route.clone(), format!("interface {}: {errno}", route.interface));
            }
            (IpNet::V6(_), _, _) | (_, IpAddr::V6(_), _) => {
                refused.insert(route.clone(), "host routes are IPv4 only".to_owned());
            }
        }
    }
    (wanted, refused)
}

/// The operator's routes to the destinations `kept` that no route in `wanted` replaces, with the metric for routes that
/// stay for a while.
pub(super) fn lingering(socket: &Socket, wanted: &[Wanted], table: &[KernelRoute], kept: &BTreeSet<Ipv4Net>) -> Vec<Wanted> {
    let asked: HashSet<_> = wanted.iter().map(|wanted| wanted.destination).collect();
    let mut lingering = BTreeMap::new();
    for route in table.iter().filter(|route| is_ours(route) && kept.contains(&route.destination)) {
        if let Some((destination, gateway, interface, metric)) = key(route)
            && !asked.contains(&destination)
            && let Ok(name) = socket.name_of(interface)
            && let Ok(name) = name.parse()
        {
            let route = HostRoute { destination: destination.into(), gateway: gateway.into(), interface: name };
            let kept = Wanted { route, destination, gateway, interface, metric: LINGERING_METRIC };
            // Of two, the one that the plan asked for last: the other one has the lingering metric already.
            match lingering.entry(destination) {
                Entry::Vacant(vacant) => drop(vacant.insert(kept)),
                Entry::Occupied(mut occupied) if metric == METRIC => drop(occupied.insert(kept)),
                Entry::Occupied(_) => {}
            }
        }
    }
    lingering.into_values().collect()
}

/// The changes that make the table hold the wanted routes, removals before additions of the same destination.
pub(super) fn steps(wanted: &[Wanted], table: &[KernelRoute]) -> Vec<Step> {
    let foreign = foreign(wanted, table);
    let kept: Vec<&Wanted> =
        wanted.iter().filter(|wanted| foreign.get(&wanted.destination).is_none_or(|f| leads_to(f, wanted))).collect();
    let keys: HashSet<Key> = kept.iter().map(|wanted| wanted.key()).collect();
    let mut present = HashSet::new();
    let mut steps: BTreeMap<Ipv4Net, Vec<Step>> = BTreeMap::new();
    for route in table.iter().filter(|route| is_ours(route)) {
        match key(route).filter(|key| keys.contains(key)) {
            Some(key) => {
                present.insert(key);
            }
            None => steps.entry(route.destination).or_default().push(Step::Remove(route.clone())),
        }
    }
    // The kernel allows one route per destination, type of service and metric.
    let taken = table.iter().filter(|route| !is_ours(route) && route.tos == 0);
    let taken: HashSet<_> = taken.map(|route| (route.destination, route.metric)).collect();
    for wanted in kept {
        if present.contains(&wanted.key()) || taken.contains(&(wanted.destination, wanted.metric)) {
            continue;
        }
        let steps = steps.entry(wanted.destination).or_default();
        // A lingering route replaces the one with the other metric without a gap.
        let place = if wanted.is_asked_for() { steps.len() } else { 0 };
        steps.insert(place, Step::Add(wanted.clone()));
    }
    steps.into_values().flatten().collect()
}

/// For each wanted destination, the foreign route that the kernel prefers to the operator's route, or has in its place: the
/// lowest metric, then the first. A foreign route with a higher metric is not used while the operator's route exists, and
/// one for a type of service does not carry these packets.
pub(super) fn foreign<'a>(wanted: &[Wanted], table: &'a [KernelRoute]) -> HashMap<Ipv4Net, &'a KernelRoute> {
    let destinations: HashSet<_> = wanted.iter().map(|wanted| wanted.destination).collect();
    let mut preferred: HashMap<Ipv4Net, &KernelRoute> = HashMap::new();
    let counts = |route: &&KernelRoute| !is_ours(route) && route.tos == 0 && route.metric <= METRIC;
    for route in table.iter().filter(|route| counts(route) && destinations.contains(&route.destination)) {
        let best = preferred.entry(route.destination).or_insert(route);
        if route.metric < best.metric {
            *best = route;
        }
    }
    preferred
}

/// Whether `route` has the same next hop as `wanted`.
pub(super) fn leads_to(route: &KernelRoute, wanted: &Wanted) -> bool {
    route.kind == RouteType::Unicast && route.next_hop.single() == (Some(IpAddr::V4(wanted.gateway)), Some(wanted.interface))
}

/// Whether `route` is exactly what the operator writes for `wanted`.
pub(super) fn is(route: &KernelRoute, wanted: &Wanted) -> bool {
    is_ours(route) && key(route) == Some(wanted.key())
}

pub(super) fn is_ours(route: &KernelRoute) -> bool {
    route.protocol == PROTOCOL
}

/// The fields that identify a route; `None` for a route that the operator would not write in this form.
fn key(route: &KernelRoute) -> Option<Key> {
    match route {
        KernelRoute {
            destination,
            tos: 0,
            kind: RouteType::Unicast,
            protocol: _,
            metric: metric @ (METRIC | LINGERING_METRIC),
            next_hop: NextHop::One { gateway: Some(IpAddr::V4(gateway)), interface, reach: Reach::Checked },
            source: _,
            hops: _,
        } => Some((*destination, *gateway, *interface, *metric)),
        _ => None,
    }
}
