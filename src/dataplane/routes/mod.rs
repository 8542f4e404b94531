//! The host routes of this node: makes the main table hold exactly those that the plan asks for (ip-route(8), rtnetlink(7)).
//!
//! Ours are known by [`PROTOCOL`]. Everything else is foreign: never replaced, never deleted, never changed. A route is
//! never `onlink`: the kernel then sends to a gateway that it cannot reach, and nobody is told.

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

/// The protocol number of our routes (`rtm_protocol`, rtnetlink(7)). Free in `/etc/iproute2/rt_protos` and in
/// include/uapi/linux/rtnetlink.h; the kernel keeps it and gives it no meaning.
pub const PROTOCOL: u8 = 154;

/// The metric of our routes. A foreign route to the same destination with a lower one, such as 0 where none is stated,
/// wins in the kernel; it is reported. One with a higher metric loses to ours and is left alone.
pub const METRIC: u32 = 154;

/// The metric of a route that nothing asks for any more but that stays for a while: its clients had connections that were cut,
/// and the reset reaches them by it. The kernel prefers any other route of ours.
pub const LINGERING_METRIC: u32 = METRIC + 1;

/// How long such a route stays: longer than a client that has sent something waits before it sends it again (RFC 6298).
const LINGER: Duration = Duration::from_mins(1);

/// Which routes stay although nothing asks for them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Keep {
    /// Those that were kept before, until their time has come, and those to these clients.
    To(BTreeSet<IpAddr>),
    /// All: what they are for is not closed yet.
    All,
}

/// The routes that stay although nothing asks for them, and until when.
#[derive(Debug, Default)]
pub struct Lingering(BTreeMap<Ipv4Net, Instant>);

/// What can go wrong for all routes at once. What goes wrong for one of them is its [`RouteState`].
#[derive(Debug, thiserror::Error)]
pub enum RoutesError {
    /// The kernel cannot be asked or told.
    #[error("the main routing table cannot be read or written")]
    Netlink(#[from] NetlinkError),
}

impl RoutesError {
    /// Whether the same may work in a moment.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Netlink(error) => error.is_transient(),
        }
    }
}

/// What came of one wanted route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RouteState {
    /// The kernel holds it, read back.
    Installed,
    /// A foreign route to the same destination, of a metric not above ours, leads to the same next hop. Ours stands beside it, or
    /// could not be added because that one has our metric.
    Satisfied,
    /// A foreign route to the same destination, of a metric not above ours, leads elsewhere. Ours is not installed.
    Contested {
        /// That route, as `ip route` shows it.
        foreign: String,
    },
    /// No route leads there, and nothing was said against ours.
    Missing,
    /// The kernel does not take it.
    Refused {
        /// Why, in the kernel's words.
        error: String,
    },
}

/// What [`apply`] found and did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RoutesReport {
    /// What came of each wanted route.
    pub states: BTreeMap<HostRoute, RouteState>,
    /// How many routes were added.
    pub added: usize,
    /// How many routes of ours were removed.
    pub removed: usize,
    /// Routes of ours that should be gone and that the kernel did not remove, and why.
    pub stuck: Vec<String>,
    /// Routes of ours that should be gone and that nobody has tried to remove: what [`inspect`] found.
    pub surplus: Vec<String>,
}

/// Makes the main table hold exactly `routes` of ours, and reports from the kernel what then holds.
///
/// Writes nothing when nothing differs. A route that is refused stops no other.
///
/// # Errors
/// When the table cannot be read or written at all.
pub async fn apply(routes: &BTreeSet<HostRoute>) -> Result<RoutesReport, RoutesError> {
    make(routes, |_| BTreeSet::new()).await
}

impl Lingering {
    /// The same as [`apply`], but what `keep` says stays for a while, with [`LINGERING_METRIC`]. That is in the kernel, so it
    /// outlives the agent: what an earlier one kept stays as long again.
    ///
    /// # Errors
    /// As for [`apply`].
    pub async fn apply(&mut self, routes: &BTreeSet<HostRoute>, keep: &Keep) -> Result<RoutesReport, RoutesError> {
        make(routes, |table| self.kept(table, keep, Instant::now())).await
    }

    /// The destinations of the routes of ours in `table` that stay also where nothing asks for them.
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

/// Reads the main table and says how it differs from `routes`, with the judgement of [`apply`]; writes nothing.
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

/// Removes every route of ours from the main table, and reports how many and which the kernel did not remove.
///
/// # Errors
/// When the table cannot be read or written.
pub async fn remove_all() -> Result<RoutesReport, RoutesError> {
    apply(&BTreeSet::new()).await
}

/// What to say of a route that was not removed; nothing when it was gone already.
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

/// The request that removes exactly `route`: the kernel compares all that is named, our protocol number above all.
fn removal(route: &KernelRoute) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header = RouteHeader {
        address_family: AddressFamily::Inet,
        destination_prefix_length: route.destination.prefix_len(),
        tos: route.tos,
        table: RouteHeader::RT_TABLE_MAIN,
        protocol: RouteProtocol::Other(PROTOCOL),
        // Stands for every scope.
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
        // The kernel refuses to compare the hops of an object.
        NextHop::Object { id, gateway: _, interface: _ } => message.attributes.push(RouteAttribute::NhId(id)),
        NextHop::Nowhere | NextHop::Several => {}
    }
    message
}
