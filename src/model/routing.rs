//! The routing rules of this node, and where they lead a forwarded packet (ip-rule(8)).
//!
//! Evaluates the rules as the kernel does (`fib_rules_lookup`, `net/core/fib_rules.c`; `fib_table_lookup`,
//! `net/ipv4/fib_trie.c`). Must not read them, and must not decide about forwards.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

use super::{Delivery, Facts, Hop, HostRoute, InterfaceName, Route, RouteKind, RouteTable};

/// The routing rules, and the tables that they use besides `main` and `local`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RoutingPolicy {
    /// The rules in the order of the kernel. Empty if there are only the three default rules, so that the main table decides.
    pub rules: Vec<RoutingRule>,
    /// The other tables, by number. A table that does not exist is empty.
    pub tables: BTreeMap<u32, RouteTable>,
}

/// A routing rule.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RoutingRule {
    /// The priority. The rule with the lowest number is evaluated first.
    pub priority: u32,
    /// The source addresses that it matches; `None`: all.
    pub source: Option<IpNet>,
    /// The destination addresses that it matches; `None`: all.
    pub destination: Option<IpNet>,
    /// The incoming interface that it matches.
    pub enters: Incoming,
    /// Selectors whose outcome is not known, for example `fwmark 0x1`, as ip-rule(8) writes them.
    pub unknown: Vec<String>,
    /// Whether the selectors match every other packet: `not` (ip-rule(8)).
    pub inverted: bool,
    /// What it does with a packet that matches.
    pub action: RuleAction,
}

/// The incoming interface that a rule matches.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Incoming {
    /// Any.
    #[default]
    Any,
    /// This one.
    Named(InterfaceName),
    /// None by which forwarded packets enter: the loopback interface, one that does not exist, or a rule with an outgoing
    /// interface, which the kernel evaluates only for sockets that are bound to it.
    NoForwarded(String),
}

/// What a rule does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum RuleAction {
    /// It does nothing.
    #[default]
    Nothing,
    /// It looks the destination up in a table. A route with a prefix of at most `suppressed` bits does not count
    /// (`suppress_prefixlength`).
    Table {
        /// The number of the table.
        table: u32,
        /// The longest prefix that does not count, in bits.
        suppressed: Option<u8>,
    },
    /// It drops the packet; the word of ip-rule(8), for example `blackhole`.
    Drop(&'static str),
    /// It continues with the rule of this priority.
    Goto(u32),
    /// It looks the destination up in the table of the VRF by which the packet enters.
    Vrf,
    /// Something that this version does not know.
    Unknown,
}

/// A forwarded packet at the moment of the routing decision: its destination is already translated, its source is not yet.
#[derive(Clone, Copy, Debug)]
pub struct Forwarded<'a> {
    /// The source address; a network if it may be any address of it.
    pub source: IpNet,
    /// The destination address; a network if it may be any address of it. The first one is looked up in the tables.
    pub destination: IpNet,
    /// How it enters.
    pub enters: Entry<'a>,
}

/// How a packet enters the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry<'a> {
    /// By this interface.
    By(&'a InterfaceName),
    /// By an interface that is not known.
    Unknown,
}

/// Where a packet ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End<'a> {
    /// It leaves by this interface through this gateway. The interface is not known if there are several next hops.
    Leaves {
        /// The interface.
        interface: Option<&'a InterfaceName>,
        /// The gateway; `None` if the destination is on the link.
        gateway: Option<IpAddr>,
        /// The next hops, if there are several.
        hops: &'a [Hop],
    },
    /// This route drops it, or delivers it to the node itself.
    Dropped(&'a Route),
    /// The rule drops it.
    Refused,
    /// There is no route.
    Missing,
    /// The table `local` delivers it, or it is not known.
    Unknown,
}

/// Where a packet ends, and the rule that decides it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Course<'a> {
    /// The rule; `None` if there are only the default rules, or if no rule finds a route.
    pub rule: Option<&'a RoutingRule>,
    /// Where the packet ends.
    pub end: End<'a>,
}

/// Every course that a packet may take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Courses<'a> {
    /// The one of a packet without any of the properties that are not known, for example without a mark.
    pub usual: Course<'a>,
    /// The others.
    pub others: Vec<Course<'a>>,
}

impl<'a> Courses<'a> {
    /// The course, if it is certain where the packet ends.
    #[must_use]
    pub fn certain(&self) -> Option<Course<'a>> {
        (self.others.iter().all(|other| other.end == self.usual.end) && self.usual.end != End::Unknown).then_some(self.usual)
    }
}

/// Whether a selector matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Match {
    No,
    Maybe,
    Yes,
}

impl RoutingPolicy {
    /// The number of the table `main` (include/uapi/linux/rtnetlink.h).
    pub const MAIN: u32 = 254;
    /// The number of the table `local`.
    pub const LOCAL: u32 = 255;
    /// The number of the table `default`.
    pub const DEFAULT: u32 = 253;

    /// Whether there are only the default rules.
    #[must_use]
    pub fn is_default(&self) -> bool {
        self.rules.is_empty()
    }
}

impl RoutingRule {
    /// The table that it looks destinations up in.
    #[must_use]
    pub fn table(&self) -> Option<u32> {
        match self.action {
            RuleAction::Table { table, .. } => Some(table),
            _ => None,
        }
    }

    /// Whether it matches a packet without any of the properties that are not known, for example `not fwmark 0x1`.
    #[must_use]
    pub fn usually_matches(&self) -> bool {
        self.inverted && !self.unknown.is_empty()
    }

    fn matches(&self, packet: &Forwarded<'_>) -> Match {
        let within = |wanted: Option<IpNet>, given: IpNet| match wanted {
            None => Match::Yes,
            Some(wanted) if wanted.contains(&given) => Match::Yes,
            Some(wanted) if given.contains(&wanted) => Match::Maybe,
            Some(_) => Match::No,
        };
        let enters = match (&self.enters, packet.enters) {
            (Incoming::Any, _) => Match::Yes,
            (Incoming::Named(name), Entry::By(enters)) if name == enters => Match::Yes,
            (Incoming::NoForwarded(_), _) | (Incoming::Named(_), Entry::By(_)) => Match::No,
            (Incoming::Named(_), Entry::Unknown) => Match::Maybe,
        };
        let unknown = if self.unknown.is_empty() { Match::Yes } else { Match::Maybe };
        let all =
            [within(self.source, packet.source), within(self.destination, packet.destination), enters, unknown].into_iter().min();
        match all.unwrap_or(Match::Yes) {
            Match::Yes if self.inverted => Match::No,
            Match::No if self.inverted => Match::Yes,
            found => found,
        }
    }
}

impl Facts {
    /// Every course that `packet` may take. `planned` is the route that the operator installs for its destination.
    #[must_use]
    pub fn courses<'a>(&'a self, packet: &Forwarded<'_>, planned: Option<&'a HostRoute>) -> Courses<'a> {
        if self.routing.is_default() {
            let end = self.in_table(RoutingPolicy::MAIN, None, packet, planned).unwrap_or(End::Missing);
            return Courses { usual: Course { rule: None, end }, others: Vec::new() };
        }
        let (mut usual, mut others) = (None, Vec::new());
        let mut from = 0;
        for rule in &self.routing.rules {
            if rule.priority < from {
                continue;
            }
            let matches = rule.matches(packet);
            if matches == Match::No {
                continue;
            }
            let end = match rule.action {
                RuleAction::Nothing => None,
                RuleAction::Table { table, suppressed } => self.in_table(table, suppressed, packet, planned),
                RuleAction::Drop(_) => Some(End::Refused),
                RuleAction::Goto(priority) if matches == Match::Yes => {
                    from = priority;
                    None
                }
                RuleAction::Vrf if !self.may_enter_by_vrf(packet.enters) => None,
                RuleAction::Goto(_) | RuleAction::Vrf | RuleAction::Unknown => {
                    others.push(Course { rule: Some(rule), end: End::Unknown });
                    None
                }
            };
            let Some(end) = end else { continue };
            let course = Course { rule: Some(rule), end };
            match (matches, usual) {
                (Match::Yes, None) => return Courses { usual: course, others },
                (Match::Yes, Some(usual)) => {
                    others.push(course);
                    return Courses { usual, others };
                }
                (Match::Maybe | Match::No, None) if rule.usually_matches() => usual = Some(course),
                (Match::Maybe | Match::No, _) => others.push(course),
            }
        }
        let missing = Course { rule: None, end: End::Missing };
        match usual {
            None => Courses { usual: missing, others },
            Some(usual) => {
                others.push(missing);
                Courses { usual, others }
            }
        }
    }

    /// Only packets that enter by a port of a VRF are looked up in its table.
    fn may_enter_by_vrf(&self, enters: Entry<'_>) -> bool {
        match enters {
            Entry::By(name) => self.links.get(name).is_none_or(|link| link.master.is_some()),
            Entry::Unknown => self.links.values().any(|link| link.master.is_some()),
        }
    }

    /// Where the table sends the packet. `None` if the kernel continues with the next rule.
    fn in_table<'a>(
        &'a self,
        table: u32,
        suppressed: Option<u8>,
        packet: &Forwarded<'_>,
        planned: Option<&'a HostRoute>,
    ) -> Option<End<'a>> {
        let destination = packet.destination.network();
        let counts = |length: u8| suppressed.is_none_or(|suppressed| length > suppressed);
        let routes = match table {
            RoutingPolicy::LOCAL => {
                let local = self.local.as_ref()?.lookup(destination)?;
                return (local.delivery == Delivery::Local).then_some(End::Unknown);
            }
            RoutingPolicy::MAIN => &self.routes,
            other => self.routing.tables.get(&other)?,
        };
        if let Some(route) = planned.filter(|_| table == RoutingPolicy::MAIN) {
            let end = End::Leaves { interface: Some(&route.interface), gateway: Some(route.gateway), hops: &[] };
            return counts(route.destination.prefix_len()).then_some(end);
        }
        let route = routes.longest(destination)?;
        match route.kind {
            RouteKind::Throw => None,
            RouteKind::Nowhere | RouteKind::Local => Some(End::Dropped(route)),
            RouteKind::Unicast if !counts(route.destination.prefix_len()) => None,
            RouteKind::Unicast => {
                Some(End::Leaves { interface: route.interface.as_ref(), gateway: route.gateway, hops: &route.hops })
            }
        }
    }
}

/// The name that ip-route(8) gives a table.
struct TableName(u32);

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            RoutingPolicy::DEFAULT => f.write_str("default"),
            RoutingPolicy::MAIN => f.write_str("main"),
            RoutingPolicy::LOCAL => f.write_str("local"),
            number => write!(f, "{number}"),
        }
    }
}

/// As ip-rule(8) lists it.
impl fmt::Display for RoutingRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let network = |network: IpNet| {
            if network.prefix_len() == network.max_prefix_len() { network.addr().to_string() } else { network.to_string() }
        };
        write!(f, "{}: {}from ", self.priority, if self.inverted { "not " } else { "" })?;
        f.write_str(&self.source.map_or_else(|| "all".to_owned(), network))?;
        if let Some(destination) = self.destination {
            write!(f, " to {}", network(destination))?;
        }
        match &self.enters {
            Incoming::Any => {}
            Incoming::Named(name) => write!(f, " iif {name}")?,
            Incoming::NoForwarded(text) => write!(f, " {text}")?,
        }
        self.unknown.iter().try_for_each(|selector| write!(f, " {selector}"))?;
        match &self.action {
            RuleAction::Nothing => f.write_str(" nop"),
            RuleAction::Table { table, suppressed: None } => write!(f, " lookup {}", TableName(*table)),
            RuleAction::Table { table, suppressed: Some(length) } => {
                write!(f, " lookup {} suppress_prefixlength {length}", TableName(*table))
            }
            RuleAction::Drop(word) => write!(f, " {word}"),
            RuleAction::Goto(priority) => write!(f, " goto {priority}"),
            RuleAction::Vrf => f.write_str(" lookup [l3mdev-table]"),
            RuleAction::Unknown => f.write_str(" (an unknown action)"),
        }
    }
}
