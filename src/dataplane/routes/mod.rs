//! The host routes of this node: makes the operator's routes in the main table exactly those that the plan asks for
//! (ip-route(8), rtnetlink(7)).
//!
//! The operator's routes are identified by [`PROTOCOL`]. All other routes are foreign: they are never replaced, deleted or
//! changed. The operator never sets `onlink`: with it the kernel would accept a gateway that it cannot reach, and there
//! would be no error.

mod diff;
mod report;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use ipnet::{IpNet, Ipv4Net};
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rustix::io::Errno;

use crate::model::HostRoute;
use crate::netlink::route::{KernelRoute, NextHop, main_table};
use crate::netlink::{Change, NetlinkError, Refusal, Socket};
use diff::{Step, Wanted};

/// The protocol number of the operator's routes (`rtm_protocol`, rtnetlink(7)). It is unused in `/etc/iproute2/rt_protos`
/// and in include/uapi/linux/rtnetlink.h. The kernel stores it and gives it no meaning.
pub const PROTOCOL: u8 = 154;

/// The metric of the operator's routes. The kernel prefers a foreign route to the same destination with a lower metric, for
/// example 0 if none is given; this is reported. A foreign route with a higher metric is not used and is not changed.
pub const METRIC: u32 = 154;

/// The metric of a route that is not needed any more but stays for a while: connections of its clients were cut, and the
/// reset reaches them by this route. The kernel prefers any other route of the operator.
pub const LINGERING_METRIC: u32 = METRIC + 1;

/// How long such a route stays: longer than the retransmission time of a client (RFC 6298).
const LINGER: Duration = Duration::from_mins(1);

/// Which routes stay although the plan does not ask for them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Keep {
    /// The routes that were kept before, until their time is over, and the routes to these clients.
    To(BTreeSet<IpAddr>),
    /// All routes: their forwards are not closed yet.
    All,
}

/// The routes that stay although the plan does not ask for them, and until when.
#[derive(Debug, Default)]
pub struct Lingering(BTreeMap<Ipv4Net, Instant>);

/// A failure that concerns all routes. A failure for a single route is its [`RouteState`].
#[derive(Debug, thiserror::Error)]
pub enum RoutesError {
    /// The communication with the kernel failed.
    #[error("the main routing table cannot be read or written")]
    Netlink(#[from] NetlinkError),
}

impl RoutesError {
    /// Whether a retry may succeed.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Netlink(error) => error.is_transient(),
        }
    }
}

/// The state of one wanted route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RouteState {
    /// It is in the kernel, read back.
    Installed,
    /// A foreign route to the same destination, with a metric not above the operator's, has the same next hop. The
    /// operator's route exists in addition, or could not be added because the foreign one has the same metric.
    Satisfied,
    /// A foreign route to the same destination, with a metric not above the operator's, has another next hop. The
    /// operator's route is not installed.
    Contested {
        /// That route, as `ip route` shows it.
        foreign: String,
    },
    /// There is no such route, and the kernel reported no error for it.
    Missing,
    /// The kernel refused it.
    Refused {
        /// The kernel's error.
        error: String,
    },
}

/// What [`apply`] found and did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RoutesReport {
    /// The state of each wanted route.
    pub states: BTreeMap<HostRoute, RouteState>,
    /// How many routes were added.
    pub added: usize,
    /// How many of the operator's routes were removed.
    pub removed: usize,
    /// Routes of the operator that should be removed and that the kernel did not remove, and why.
    pub stuck: Vec<String>,
    /// Routes of the operator that should be removed, found by [`inspect`], which does not remove them.
    pub surplus: Vec<String>,
}

/// Makes the operator's routes in the main table exactly `routes`, and reports the state that was read back.
///
/// Writes nothing if nothing differs. A refused route does not affect the others.
///
/// # Errors
/// When the table cannot be read or written at all.
pub async fn apply(routes: &BTreeSet<HostRoute>) -> Result<RoutesReport, RoutesError> {
    make(routes, |_| BTreeSet::new()).await
}

impl Lingering {
    /// As [`apply`], but the routes in `keep` stay for a while, with [`LINGERING_METRIC`]. The metric is in the kernel, so
    /// this survives the agent: a new agent keeps such routes for the same time again.
    ///
    /// # Errors
    /// As for [`apply`].
    pub async fn apply(&mut self, routes: &BTreeSet<HostRoute>, keep: &Keep) -> Result<RoutesReport, RoutesError> {
        make(routes, |table| self.kept(table, keep, Instant::now())).await
    }

    /// The destinations of the operator's routes in `table` that stay although the plan does not ask for them.
    fn kept(&mut self, table: &[KernelRoute], keep: &Keep, now: Instant) -> BTreeSet<Ipv4Net> {
        let Self(until) = self;
        until.retain(|destination, until| {
            *until > now || table.iter().any(|it| it.destination == *destination && it.metric == LINGERING_METRIC)
        });
        for route in table.iter().filter(|route| diff::is_ours(route)) {
            let needed = match keep {
                Keep::To(clients) => clients.iter().any(|client| IpNet::V4(route.destination).contains(client)),
                Keep::All => true,
            };
            if needed {
                until.insert(route.destination, now + LINGER);
            } else if route.metric == LINGERING_METRIC {
                until.entry(route.destination).or_insert(now + LINGER);
            }
        }
        until.iter().filter(|(_, until)| **until > now).map(|(destination, _)| *destination).collect()
    }
}

async fn make(
    routes: &BTreeSet<HostRoute>,
    kept: impl FnOnce(&[KernelRoute]) -> BTreeSet<Ipv4Net>,
) -> Result<RoutesReport, RoutesError> {
    let mut socket = Socket::open_route()?;
    let (mut wanted, mut refused) = diff::resolve(&socket, routes);
    let table = main_table(&mut socket).await?;
    wanted.extend(diff::lingering(&socket, &wanted, &table, &kept(&table)));
    let steps = diff::steps(&wanted, &table);
    if steps.is_empty() {
        return Ok(RoutesReport { states: report::states(&socket, &wanted, &table, refused), ..RoutesReport::default() });
    }
    let outcomes = socket.change(steps.iter().map(change).collect()).await?;
    let mut report = RoutesReport::default();
    for (step, outcome) in steps.iter().zip(outcomes) {
        match (step, outcome) {
            (Step::Add(_), Ok(())) => report.added += 1,
            (Step::Add(wanted), Err(refusal)) => {
                refused.insert(wanted.route.clone(), refusal.to_string());
            }
            (Step::Remove(_), Ok(())) => report.removed += 1,
            (Step::Remove(route), Err(refusal)) => report.stuck.extend(stuck(&socket, route, &refusal)),
        }
    }
    let table = main_table(&mut socket).await?;
    report.states = report::states(&socket, &wanted, &table, refused);
    Ok(report)
}

/// Reads the main table and reports how it differs from `routes`, by the same criteria as [`apply`]; writes nothing.
///
/// # Errors
/// When the table cannot be read at all.
pub async fn inspect(routes: &BTreeSet<HostRoute>) -> Result<RoutesReport, RoutesError> {
    let mut socket = Socket::open_route()?;
    let (mut wanted, refused) = diff::resolve(&socket, routes);
    let table = main_table(&mut socket).await?;
    let lingering = table.iter().filter(|route| route.metric == LINGERING_METRIC).map(|route| route.destination).collect();
    wanted.extend(diff::lingering(&socket, &wanted, &table, &lingering));
    let surplus = diff::steps(&wanted, &table).into_iter().filter_map(|step| match step {
        Step::Remove(route) => Some(report::describe(&socket, &route)),
        Step::Add(_) => None,
    });
    let surplus = surplus.collect();
    Ok(RoutesReport { states: report::states(&socket, &wanted, &table, refused), surplus, ..RoutesReport::default() })
}

/// Removes all routes of the operator from the main table. Reports how many were removed and which ones the kernel did not
/// remove.
///
/// # Errors
/// When the table cannot be read or written.
pub async fn remove_all() -> Result<RoutesReport, RoutesError> {
    apply(&BTreeSet::new()).await
}

/// The message for a route that was not removed; `None` if it did not exist any more.
fn stuck(socket: &Socket, route: &KernelRoute, refusal: &Refusal) -> Option<String> {
    (refusal.errno != Errno::SRCH).then(|| format!("{}: {refusal}", report::describe(socket, route)))
}

fn change(step: &Step) -> Change<RouteNetlinkMessage> {
    match step {
        Step::Add(wanted) => {
            Change { message: RouteNetlinkMessage::NewRoute(addition(wanted)), flags: NLM_F_CREATE | NLM_F_EXCL }
        }
        Step::Remove(route) => Change { message: RouteNetlinkMessage::DelRoute(removal(route)), flags: 0 },
    }
}

fn addition(wanted: &Wanted) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header = RouteHeader {
        address_family: AddressFamily::Inet,
        destination_prefix_length: wanted.destination.prefix_len(),
        table: RouteHeader::RT_TABLE_MAIN,
        protocol: RouteProtocol::Other(PROTOCOL),
        scope: RouteScope::Universe,
        kind: RouteType::Unicast,
        ..RouteHeader::default()
    };
    message.attributes = vec![
        RouteAttribute::Destination(RouteAddress::Inet(wanted.destination.network())),
        RouteAttribute::Gateway(RouteAddress::Inet(wanted.gateway)),
        RouteAttribute::Oif(wanted.interface),
        RouteAttribute::Priority(wanted.metric),
    ];
    message
}

/// The request that removes exactly `route`: the kernel compares all given fields, including the protocol number.
fn removal(route: &KernelRoute) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header = RouteHeader {
        address_family: AddressFamily::Inet,
        destination_prefix_length: route.destination.prefix_len(),
        tos: route.tos,
        table: RouteHeader::RT_TABLE_MAIN,
        protocol: RouteProtocol::Other(PROTOCOL),
        // Matches every scope.
        scope: RouteScope::NoWhere,
        kind: route.kind,
        ..RouteHeader::default()
    };
    message.attributes = vec![
        RouteAttribute::Destination(RouteAddress::Inet(route.destination.network())),
        RouteAttribute::Priority(route.metric),
    ];
    match route.next_hop {
        NextHop::One { gateway, interface, reach: _ } => {
            if let Some(std::net::IpAddr::V4(gateway)) = gateway {
                message.attributes.push(RouteAttribute::Gateway(RouteAddress::Inet(gateway)));
            }
            message.attributes.push(RouteAttribute::Oif(interface));
        }
        // The kernel refuses to compare the next hops of a nexthop object.
        NextHop::Object { id, gateway: _, interface: _ } => message.attributes.push(RouteAttribute::NhId(id)),
        NextHop::Nowhere | NextHop::Several => {}
    }
    message
}
