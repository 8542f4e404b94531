//! The ways of a forward's packets through the routing rules and tables of the node, and what stops them there.
//!
//! The kernel routes a packet when its destination is already translated and its source is not yet. So packets of a client go
//! from the client to the upstream, and answers go from the upstream to the client.

use std::net::IpAddr;

use ipnet::IpNet;

use super::{Search, obstacle};
use crate::forward::Forward;
use crate::model::{Course, Courses, End, Entry, Facts, Forwarded, Hop, HostRoute, InterfaceName, RouteKind, Virtual};
use crate::plan::verdict::{Note, Obstacle, ObstacleReason, RoutePlan};

/// The next hop of packets: the interface, if there is only one, and the gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Leaving<'a> {
    pub(super) interface: Option<&'a InterfaceName>,
    pub(super) gateway: Option<IpAddr>,
    /// The next hops, if there are several.
    pub(super) several: &'a [Hop],
}

impl<'a> Leaving<'a> {
    pub(super) fn of(course: Course<'a>) -> Option<Self> {
        match course.end {
            End::Leaves { interface, gateway, hops } => Some(Self { interface, gateway, several: hops }),
            End::Dropped(_) | End::Refused | End::Missing | End::Unknown => None,
        }
    }
}

/// The ways of packets from each client to the upstream. Without routing rules, the way of the first client is that of all.
pub(super) fn to_upstream<'a>(facts: &'a Facts, forward: &Forward) -> Vec<(IpNet, Courses<'a>)> {
    let one = if facts.routing.is_default() { 1 } else { forward.clients.len() };
    let enters = entry_of_clients(facts, forward);
    let course = |client: &IpNet| {
        let packet = Forwarded { source: *client, destination: forward.upstream.into(), enters };
        (*client, facts.courses(&packet, None))
    };
    forward.clients.iter().take(one).map(course).collect()
}

/// The interface by which packets of the clients enter, if it is certain.
fn entry_of_clients<'a>(facts: &'a Facts, forward: &'a Forward) -> Entry<'a> {
    let holder = || {
        let holder = facts.interface_of(forward.internal.address)?;
        let back = |address: IpAddr| facts.route_to(address).and_then(|route| route.interface.as_ref()) == Some(holder);
        let all = match forward.gateway {
            Some(gateway) => back(gateway),
            None => forward.clients.iter().all(|client| back(client.network())),
        };
        all.then_some(holder)
    };
    entry(facts, forward.internal.interface.as_ref().or_else(holder))
}

/// Packets to an interface that shares its link with others enter by one of them.
fn entry<'a>(facts: &'a Facts, name: Option<&'a InterfaceName>) -> Entry<'a> {
    let shared = |name: &InterfaceName| {
        facts.virtuals.contains_key(name)
            || facts.virtuals.values().any(|device| matches!(device, Virtual::OnWireOf(lower) if lower == name))
    };
    name.filter(|name| !shared(name)).map_or(Entry::Unknown, Entry::By)
}

impl<'a> Search<'a> {
    /// The next hop of packets to the upstream, if it is certain and the same for all clients.
    pub(super) fn hop_to_upstream(&self) -> Option<Leaving<'a>> {
        let mut hops = self.to_upstream.iter().map(|(_, courses)| courses.certain().and_then(Leaving::of));
        let first = hops.next()??;
        hops.all(|hop| hop == Some(first)).then_some(first)
    }

    /// The ways of packets from the upstream to each client.
    pub(super) fn ways_to_clients(&self) -> Vec<(IpNet, Courses<'a>)> {
        let enters = self.entry_of_upstream();
        self.forward.clients.iter().map(|client| (*client, self.courses_to(*client, enters))).collect()
    }

    /// The route that the operator installs for a client entry.
    fn planned(&self, client: IpNet) -> Option<&'a HostRoute> {
        self.verdict.routes.iter().filter_map(RoutePlan::installed).find(|route| route.destination == client)
    }

    pub(super) fn courses_to(&self, client: IpNet, enters: Entry<'_>) -> Courses<'a> {
        let facts: &'a Facts = self.facts;
        let packet = Forwarded { source: self.forward.upstream.into(), destination: client, enters };
        facts.courses(&packet, self.planned(client))
    }

    /// The interface by which packets of the upstream enter, if it is certain.
    fn entry_of_upstream(&self) -> Entry<'a> {
        let facts: &'a Facts = self.facts;
        let leaves = self.hop_to_upstream().and_then(|hop| hop.interface);
        let holder = self.forward.external.map_or(leaves, |external| facts.interface_of(external));
        entry(facts, holder.filter(|holder| Some(*holder) == leaves))
    }

    /// What drops packets of the clients to the upstream.
    pub(super) fn stopped_to_upstream(&self) -> Option<Obstacle> {
        let upstream = self.forward.upstream;
        self.to_upstream.iter().find_map(|(client, courses)| {
            let course = stopping(courses)?;
            let packets = format!("packets from the client {client} to the upstream {upstream}");
            let advice = "add one, or a default route";
            let message = self.stopped(course, &format!("the upstream {upstream}"), advice, &packets)?;
            Some(obstacle(ObstacleReason::NoRouteToUpstream, message))
        })
    }

    /// What drops packets to the clients. Where the object asks for a route, it is missing only if a rule leads elsewhere.
    pub(super) fn stopped_to_clients(&self) -> Option<Obstacle> {
        let upstream = self.forward.upstream;
        let asked = self.forward.gateway.is_some();
        let concerned = |client: IpNet| client.prefix_len() > 0 && (!asked || self.planned(client).is_some());
        self.to_clients.iter().filter(|(client, _)| concerned(*client)).find_map(|(client, courses)| {
            let course = stopping(courses)?;
            let packets = format!("packets from the upstream {upstream} to the client {client}");
            let advice = "name internal.gateways, or add a route";
            let message = self.stopped(course, &format!("the client {client}"), advice, &packets)?;
            Some(obstacle(ObstacleReason::NoRouteToClient, message))
        })
    }

    /// Why `packets` do not reach a party. Without routing rules it is the main table that stops them; `advice` is for a
    /// missing route there.
    fn stopped(&self, course: Course<'_>, party: &str, advice: &str, packets: &str) -> Option<String> {
        if !self.facts.routing.is_default() {
            return stopped_by_rules(course, packets);
        }
        match course.end {
            End::Missing => Some(format!("this node has no route to {party}; {advice}")),
            End::Dropped(route) => {
                let network = route.destination;
                Some(format!("the route of this node to {network} drops packets to {party}; remove it (ip route show {network})"))
            }
            End::Leaves { .. } | End::Refused | End::Unknown => None,
        }
    }

    /// A rule that leads packets to a client past the route that the object asks for.
    pub(super) fn bypassed_route(&self) -> Option<Obstacle> {
        let upstream = self.forward.upstream;
        self.to_clients.iter().find_map(|(client, courses)| {
            let planned = self.planned(*client)?;
            let course = courses.certain()?;
            let (rule, hop) = (course.rule?, Leaving::of(course)?);
            if hop == (Leaving { interface: Some(&planned.interface), gateway: Some(planned.gateway), several: &[] }) {
                return None;
            }
            let table = rule.table()?;
            let (gateway, interface, priority) = (planned.gateway, &planned.interface, rule.priority);
            let message = format!(
                "packets from the upstream {upstream} to the client {client} {}, and not through the gateway {gateway}: the routing rule \"{rule}\" leads them past the main table; run ip route add {client} via {gateway} dev {interface} table {table}, or remove the rule (ip rule del pref {priority})",
                ends(course)
            );
            Some(obstacle(ObstacleReason::RouteContested, message))
        })
    }

    /// Rules that may lead packets elsewhere, which the agent cannot know.
    pub(super) fn undecided(&self) -> Vec<Note> {
        if self.facts.routing.is_default() {
            return Vec::new();
        }
        let upstream = self.forward.upstream;
        let requests = self.to_upstream.iter().find_map(|(client, courses)| {
            undecided(courses, &format!("packets from the client {client} to the upstream {upstream}"))
        });
        let answers = self.to_clients.iter().find_map(|(client, courses)| {
            undecided(courses, &format!("packets from the upstream {upstream} to the client {client}"))
        });
        requests.into_iter().chain(answers).collect()
    }
}

/// The course of packets that certainly do not leave this node.
fn stopping<'a>(courses: &Courses<'a>) -> Option<Course<'a>> {
    courses.certain().filter(|course| Leaving::of(*course).is_none())
}

/// Why `packets` do not pass the routing rules; `None` if they do.
fn stopped_by_rules(course: Course<'_>, packets: &str) -> Option<String> {
    match (course.end, course.rule) {
        (End::Leaves { .. } | End::Unknown, _) => None,
        (End::Missing | End::Refused | End::Dropped(_), None) => {
            Some(format!("no routing rule of this node leads {packets} to a route (ip rule); add a route to the main table"))
        }
        (_, Some(rule)) => {
            let priority = rule.priority;
            let route = match (course.end, rule.table()) {
                (End::Dropped(route), Some(table)) => {
                    format!("; remove the route (ip route del {} table {table}) or the rule", route.destination)
                }
                _ => "; remove the rule".to_owned(),
            };
            Some(format!("the routing rule \"{rule}\" stops {packets}: {}{route} (ip rule del pref {priority})", ends(course)))
        }
    }
}

/// What happens to packets, as the end of a sentence about them.
fn ends(course: Course<'_>) -> String {
    match course.end {
        End::Leaves { interface, gateway, .. } => {
            let by = interface.map_or_else(|| "by several interfaces".to_owned(), |interface| format!("by {interface}"));
            gateway.map_or_else(|| format!("they leave {by}"), |gateway| format!("they leave {by} through {gateway}"))
        }
        End::Dropped(route) => match route.kind {
            RouteKind::Local => format!("the route to {} delivers them to the node itself", route.destination),
            RouteKind::Unicast | RouteKind::Nowhere | RouteKind::Throw => {
                format!("the route to {} drops them", route.destination)
            }
        },
        End::Refused => "it drops them".to_owned(),
        End::Missing => "there is no route for them".to_owned(),
        End::Unknown => "where they go is not known".to_owned(),
    }
}

/// A note on the first rule that may lead `packets` elsewhere. A rule for packets that a proxy of this node marks (`TPROXY`)
/// leads to the node itself, and says nothing about others.
fn undecided(courses: &Courses<'_>, packets: &str) -> Option<Note> {
    let usual = courses.usual;
    let to_the_node = |end: End<'_>| matches!(end, End::Dropped(route) if route.kind == RouteKind::Local);
    let elsewhere = |other: &&Course<'_>| other.end != usual.end && other.end != End::Unknown && !to_the_node(other.end);
    let other = courses.others.iter().find(elsewhere)?;
    let (rule, matched, unmatched) = match usual.rule.filter(|rule| rule.usually_matches()) {
        Some(rule) => (rule, usual, *other),
        None => (other.rule?, *other, usual),
    };
    Some(Note(format!(
        "where {packets} go depends on the routing rule \"{rule}\", and the agent does not see whether it matches: if it does, {}; otherwise, {}",
        ends(matched),
        ends(unmatched)
    )))
}
