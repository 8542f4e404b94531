//! The routing rules, and the tables that they use (ip-rule(8)).

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_route::rule::{RuleAction as KernelAction, RuleAttribute, RuleFlags, RuleMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::links::Links;
use super::{FactsError, listing, routes};
use crate::model::{Incoming, RouteTable, RoutingPolicy, RoutingRule, RuleAction};
use crate::netlink::Socket;
use crate::netlink::route::table;

/// The default rules of the kernel, as priority and table: `local`, `main` and `default` (ip-rule(8)).
const OWN_RULES: [(u32, u32); 3] = [(0, RoutingPolicy::LOCAL), (32766, RoutingPolicy::MAIN), (32767, RoutingPolicy::DEFAULT)];
/// The tables that are read anyway.
const READ: [u32; 2] = [RoutingPolicy::MAIN, RoutingPolicy::LOCAL];

/// The rules and the tables that they use, unless there are only the default rules and the main table decides. (The table
/// `default` is empty unless somebody fills it.)
pub(super) async fn read(socket: &mut Socket, links: &Links) -> Result<RoutingPolicy, FactsError> {
    let mut request = RuleMessage::default();
    request.header.family = AddressFamily::Inet;
    let rules = socket
        .dump(RouteNetlinkMessage::GetRule(request), |message| match message {
            RouteNetlinkMessage::NewRule(rule) => Some(read_rule(&rule)),
            _ => None,
        })
        .await
        .map_err(listing("routing rules"))?;
    let mut tables = BTreeMap::new();
    for number in rules.iter().filter_map(RoutingRule::table).filter(|number| !READ.contains(number)) {
        if let Entry::Vacant(place) = tables.entry(number) {
            let listed = table(socket, number).await.map_err(listing("routes"))?;
            place.insert(routes::routes(&listed, links));
        }
    }
    let by_main = rules.iter().all(is_own) && rules.iter().any(|rule| rule.table() == Some(RoutingPolicy::MAIN));
    let others = tables.values().any(|table: &RouteTable| !table.is_empty());
    Ok(if by_main && !others { RoutingPolicy::default() } else { RoutingPolicy { rules, tables } })
}

fn is_own(rule: &RoutingRule) -> bool {
    OWN_RULES.iter().any(|&(priority, table)| {
        *rule == RoutingRule { priority, action: RuleAction::Table { table, suppressed: None }, ..RoutingRule::default() }
    })
}

fn read_rule(message: &RuleMessage) -> RoutingRule {
    let header = &message.header;
    let mut rule = RoutingRule { inverted: header.flags.contains(RuleFlags::Invert), ..RoutingRule::default() };
    let (mut table, mut suppressed, mut target, mut vrf) = (u32::from(header.table), None, None, false);
    let (mut mark, mut masked) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            RuleAttribute::Priority(value) => rule.priority = *value,
            RuleAttribute::Table(value) => table = *value,
            RuleAttribute::Source(address) => rule.source = network(*address, header.src_len),
            RuleAttribute::Destination(address) => rule.destination = network(*address, header.dst_len),
            RuleAttribute::Iifname(name) => rule.enters = incoming(name),
            RuleAttribute::Oifname(name) => rule.enters = Incoming::NoForwarded(format!("oif {name}")),
            RuleAttribute::FwMark(value) => mark = Some(*value),
            RuleAttribute::FwMask(value) => masked = Some(*value),
            RuleAttribute::L3MDev(value) => vrf = *value,
            RuleAttribute::Goto(priority) => target = Some(*priority),
            // The kernel gives the largest number if nothing is suppressed.
            RuleAttribute::SuppressPrefixLen(length) => suppressed = u8::try_from(*length).ok(),
            RuleAttribute::SuppressIfGroup(group) if *group != u32::MAX => {
                rule.unknown.push(format!("suppress_ifgroup {group}"));
            }
            RuleAttribute::IpProtocol(protocol) => rule.unknown.push(format!("ipproto {}", u8::from(*protocol))),
            RuleAttribute::SourcePortRange(range) => rule.unknown.push(format!("sport {}-{}", range.start, range.end)),
            RuleAttribute::DestinationPortRange(range) => rule.unknown.push(format!("dport {}-{}", range.start, range.end)),
            RuleAttribute::UidRange(range) => rule.unknown.push(format!("uidrange {}-{}", range.start, range.end)),
            RuleAttribute::TunId(id) => rule.unknown.push(format!("tun_id {id}")),
            RuleAttribute::Other(_) => rule.unknown.push("(an unknown selector)".to_owned()),
            _ => {}
        }
    }
    if header.tos != 0 {
        rule.unknown.push(format!("tos {:#x}", header.tos));
    }
    match (mark.unwrap_or(0), masked.unwrap_or(0)) {
        (0, 0) => {}
        (value, u32::MAX) => rule.unknown.push(format!("fwmark {value:#x}")),
        (value, bits) => rule.unknown.push(format!("fwmark {value:#x}/{bits:#x}")),
    }
    rule.action = match header.action {
        KernelAction::ToTable if vrf => RuleAction::Vrf,
        KernelAction::ToTable => RuleAction::Table { table, suppressed },
        // The target of a `goto` may be missing. The rule then does nothing.
        KernelAction::Goto if header.flags.contains(RuleFlags::Unresolved) => RuleAction::Nothing,
        KernelAction::Goto => target.map_or(RuleAction::Nothing, RuleAction::Goto),
        KernelAction::Nop => RuleAction::Nothing,
        KernelAction::Blackhole => RuleAction::Drop("blackhole"),
        KernelAction::Unreachable => RuleAction::Drop("unreachable"),
        KernelAction::Prohibit => RuleAction::Drop("prohibit"),
        _ => RuleAction::Unknown,
    };
    rule
}

fn network(address: IpAddr, length: u8) -> Option<IpNet> {
    IpNet::new(address, length).ok().map(|network| network.trunc())
}

fn incoming(name: &str) -> Incoming {
    match name.parse() {
        Ok(interface) if name != "lo" => Incoming::Named(interface),
        _ => Incoming::NoForwarded(format!("iif {name}")),
    }
}
