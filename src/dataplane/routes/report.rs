//! The state of each wanted route, from the table as it was read back. Only describes; changes nothing.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;

use super::RouteState;
use super::diff::{Wanted, foreign, is, is_ours, leads_to};
use crate::model::HostRoute;
use crate::netlink::Socket;
use crate::netlink::route::{KernelRoute, NextHop};
use netlink_packet_route::route::RouteProtocol;

/// The state of every wanted route, from the table and from the kernel's errors for refused routes.
pub(super) fn states(
    socket: &Socket,
    wanted: &[Wanted],
    table: &[KernelRoute],
    mut refused: BTreeMap<HostRoute, String>,
) -> BTreeMap<HostRoute, RouteState> {
    let foreign = foreign(wanted, table);
    let mut ours: HashMap<_, Vec<&KernelRoute>> = HashMap::new();
    for route in table.iter().filter(|route| is_ours(route)) {
        ours.entry(route.destination).or_default().push(route);
    }
    let mut states = BTreeMap::new();
    for wanted in wanted.iter().filter(|wanted| wanted.is_asked_for()) {
        let error = refused.remove(&wanted.route);
        let installed = ours.get(&wanted.destination).is_some_and(|routes| routes.iter().any(|route| is(route, wanted)));
        let state = match foreign.get(&wanted.destination) {
            Some(foreign) if leads_to(foreign, wanted) => RouteState::Satisfied,
            Some(foreign) => RouteState::Contested { foreign: describe(socket, foreign) },
            None if installed => RouteState::Installed,
            None => error.map_or(RouteState::Missing, |error| RouteState::Refused { error }),
        };
        states.insert(wanted.route.clone(), state);
    }
    states.extend(refused.into_iter().map(|(route, error)| (route, RouteState::Refused { error })));
    states
}

/// A route as `ip route` shows it.
pub(super) fn describe(socket: &Socket, route: &KernelRoute) -> String {
    let mut text = route.destination.to_string();
    if let NextHop::Nowhere = route.next_hop {
        text = format!("{} {text}", format!("{:?}", route.kind).to_lowercase());
    }
    let (gateway, interface) = route.next_hop.single();
    let mut add = |word: &str, value: &dyn std::fmt::Display| {
        let _ = write!(text, " {word} {value}");
    };
    if let Some(gateway) = gateway {
        add("via", &gateway);
    }
    if let Some(index) = interface {
        add("dev", &socket.name_of(index).unwrap_or_else(|_| format!("if{index}")));
    }
    if let NextHop::Several = route.next_hop {
        add("via", &"several next hops");
    }
    add("proto", &protocol(route.protocol));
    if route.metric != 0 {
        add("metric", &route.metric);
    }
    text
}

fn protocol(number: u8) -> String {
    match RouteProtocol::from(number) {
        RouteProtocol::Other(number) => number.to_string(),
        known => known.to_string().to_lowercase(),
    }
}
