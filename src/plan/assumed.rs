//! The facts of an assumed node: it holds every internal and external address that the objects name.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use super::Candidate;
use crate::forward::Forward;
use crate::model::{Facts, InterfaceName, Link, LocalAddress, Route, RouteKind, RpFilter};

/// The name of a leg's interface if the object names none.
const UNNAMED: &str = "unnamed";

/// Whether `interface` is such a name.
#[must_use]
pub fn is_assumed(interface: &InterfaceName) -> bool {
    interface.as_str() == UNNAMED
}

/// The facts of a node with `labels` that is active for each of `candidates` with a matching selector.
#[must_use]
pub fn assumed_facts(labels: BTreeMap<String, String>, candidates: &[Candidate]) -> Facts {
    let forwards = || candidates.iter().filter_map(|candidate| candidate.forward.as_ref().ok());
    let addresses: BTreeSet<LocalAddress> = forwards().flat_map(addresses).collect();
    let interfaces = addresses.iter().filter_map(|local| local.interface);
    let links = interfaces
        .zip(1..)
        .map(|(name, index)| (name, Link { index, up: true, rp_filter: RpFilter::Off, forwarding: true, master: None }))
        .collect();
    let anywhere = IpNet::from(ipnet::Ipv4Net::default());
    let default = Route {
        kind: RouteKind::Unicast,
        destination: anywhere,
        gateway: None,
        interface: None,
        hops: Vec::new(),
        metric: 0,
        ours: false,
    };
    let routes = [default].into_iter().collect();
    Facts { labels, links, addresses, routes, ip_forward: true, ..Facts::default() }
}

fn addresses(forward: &Forward) -> Vec<LocalAddress> {
    let internal = LocalAddress {
        address: forward.internal.address,
        prefix_len: forward.gateway.map_or(24, |gateway| shared_prefix(forward.internal.address, gateway)),
        interface: named(forward.internal.interface.as_ref()),
    };
    let external = forward.external.filter(|external| *external != forward.internal.address);
    let external =
        external.map(|address| LocalAddress { address, prefix_len: 32, interface: named(forward.external_interface.as_ref()) });
    std::iter::once(internal).chain(external).collect()
}

fn named(interface: Option<&InterfaceName>) -> Option<InterfaceName> {
    interface.copied().or_else(|| UNNAMED.parse().ok())
}

/// The length of the common prefix, at most 24 bits: the subnet in which the leg is assumed to be.
fn shared_prefix(a: IpAddr, b: IpAddr) -> u8 {
    let network = |address: IpAddr, length: u8| IpNet::new(address, length).map(|network| network.trunc());
    (0..=24).rev().find(|length| network(a, *length).is_ok_and(|network| network.contains(&b))).unwrap_or(0)
}
