//! The flows of one port entry: their packets as a chain of another program sees them, and the command that accepts them.

use std::net::IpAddr;
use std::ops::RangeInclusive;

use ipnet::IpNet;

use super::packet::{Packet, Value, number};
use crate::forward::Direction;
use crate::model::{
    BaseChain, Field, Hook, InterfaceName, PortRange, Protocol, Purpose, SourceNat, TableFamily, Tool, Translation,
};

/// The priorities at which the kernel tracks connections and translates them (`enum nf_ip_hook_priorities`,
/// `include/uapi/linux/netfilter_ipv4.h`).
const CONNTRACK: i32 = -200;
pub(super) const NAT_DST: i32 = -100;
pub(super) const NAT_SRC: i32 = 100;
/// The status bits of a flow for a translated source and a translated destination (`IPS_SRC_NAT`, `IPS_DST_NAT`).
const SRC_NAT: u64 = 0x10;
const DST_NAT: u64 = 0x20;
/// The flags of the first segments, and those of which it is certain. The newer ones are set where congestion is told.
const SYN: u64 = 0x02;
const ACK: u64 = 0x10;
const OLD_FLAGS: u64 = 0x3f;
/// The bits of the fragment offset (RFC 791, section 3.1).
const FRAGMENT_OFFSET: u64 = 0x1fff;
/// What packets usually are: a time to live that is left after a long way (systems begin with 64, 128 or 255), no DSCP but
/// any ECN, a length up to that of an Ethernet frame, and a segment size that leaves room for data.
const TIME_TO_LIVE: RangeInclusive<u64> = 30..=255;
const BEST_EFFORT: RangeInclusive<u64> = 0..=3;
const LENGTH: RangeInclusive<u64> = 40..=1500;
const SEGMENT_SIZE: RangeInclusive<u64> = 600..=8960;
/// The types of addresses (`RTN_*`, rtnetlink(7)).
const UNICAST: RangeInclusive<u64> = 1..=1;
const LOCAL: RangeInclusive<u64> = 2..=2;
/// A command contains at most this many clients.
const MOST_CLIENTS: usize = 4;

/// The flows of one port entry, of all clients.
pub(super) struct Flows<'a> {
    pub(super) direction: Direction,
    pub(super) one: &'a Translation,
    pub(super) clients: Vec<IpNet>,
    /// The incoming and the outgoing interface of the first packet, if they are certain.
    pub(super) request: (Option<&'a InterfaceName>, Option<&'a InterfaceName>),
    /// The same for the replies.
    pub(super) answer: (Option<&'a InterfaceName>, Option<&'a InterfaceName>),
}

/// Which packets of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// The first packet.
    Request,
    /// The replies.
    Answer,
}

/// Whether a translation is already done when the chain runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Done {
    No,
    Yes,
    /// Two programs have the same priority, so the order is not known.
    Unknown,
}

impl Done {
    pub(super) fn at(chain: &BaseChain, hook: Hook, priority: i32) -> Self {
        // No NAT chain sees a flow that another one has translated at the same hook.
        if chain.purpose == Purpose::Nat && chain.hook == hook {
            return Self::No;
        }
        match chain.hook.cmp(&hook).then(chain.priority.cmp(&priority)) {
            std::cmp::Ordering::Less => Self::No,
            std::cmp::Ordering::Equal => Self::Unknown,
            std::cmp::Ordering::Greater => Self::Yes,
        }
    }
}

impl<'a> Flows<'a> {
    pub(super) fn packet(&self, part: Part, chain: &BaseChain) -> Packet<'a> {
        let one = self.one;
        let (destination, source) = (Done::at(chain, Hook::Prerouting, NAT_DST), Done::at(chain, Hook::Postrouting, NAT_SRC));
        let clients: Vec<_> = self.clients.iter().map(|net| number(net.network())..=number(net.broadcast())).collect();
        let listen = address(one.flows.destination);
        let target = address(one.destination.address);
        let external = match one.source {
            SourceNat::Address(external) => Some(address(external)),
            SourceNat::Masquerade => None,
        };
        let (listen_ports, target_ports) = (ports(one.flows.ports), target_ports(one));
        let mut packet = Packet::default()
            .with(Field::Family, 2)
            .with(Field::EtherType, 0x0800)
            .with(Field::Fragment, Value::Bits { known: FRAGMENT_OFFSET, set: 0 })
            .with(Field::Protocol, u64::from(one.flows.protocol.number()));
        if one.flows.protocol == Protocol::Tcp {
            let set = match part {
                Part::Request => SYN,
                Part::Answer => SYN | ACK,
            };
            packet = packet.with(Field::TcpFlags, Value::Bits { known: OLD_FLAGS, set });
        }
        let chosen = match part {
            Part::Request => Field::SourcePort,
            Part::Answer => Field::DestinationPort,
        };
        packet = packet.with(chosen, Value::Chosen([listen_ports.clone(), target_ports.clone()].concat()));
        let numbers = match part {
            Part::Request => [
                (Field::Source, either(source, Some(clients.clone()), external)),
                (Field::Destination, either(destination, Some(listen.clone()), Some(target))),
                (Field::DestinationPort, either(destination, Some(listen_ports.clone()), Some(target_ports))),
            ],
            Part::Answer => [
                (Field::Source, either(source, Some(target), Some(listen.clone()))),
                (Field::Destination, either(destination, external, Some(clients.clone()))),
                (Field::SourcePort, either(source, Some(target_ports), Some(listen_ports.clone()))),
            ],
        };
        packet = self.usual(part, packet);
        packet.values.extend(kinds(destination, source));
        packet.values.extend(numbers.into_iter().filter_map(|(field, ranges)| Some((field, Value::Within(ranges?)))));
        if is_tracked(chain) {
            packet = packet
                .with(Field::OriginalSource, clients)
                .with(Field::OriginalDestination, listen)
                .with(Field::OriginalDestinationPort, listen_ports);
            packet = match part {
                Part::Request => {
                    packet.with(Field::State, 8).with(Field::Direction, 0).with(Field::Status, first(destination, source))
                }
                Part::Answer => {
                    let status = Value::Bits { known: DST_NAT, set: DST_NAT };
                    packet.with(Field::State, 2).with(Field::Direction, 1).with(Field::Status, status)
                }
            };
        }
        packet
    }

    /// The fields that are usually in a range, and whether the route back to the source leaves where the packet enters.
    fn usual(&self, part: Part, mut packet: Packet<'a>) -> Packet<'a> {
        for (field, ranges) in [
            (Field::SourceHardware, vec![]),
            (Field::TimeToLive, vec![TIME_TO_LIVE]),
            (Field::Tos, vec![BEST_EFFORT]),
            (Field::Length, vec![LENGTH]),
            (Field::WholeLength, vec![LENGTH]),
            (Field::SegmentSize, vec![SEGMENT_SIZE]),
        ] {
            packet = packet.with(field, Value::Usual(ranges));
        }
        let (enters, back) = match part {
            Part::Request => (self.request.0, self.answer.1),
            Part::Answer => (self.answer.0, self.request.1),
        };
        if let (Some(enters), Some(back)) = (enters, back) {
            packet = packet.with(Field::StrictSourceRoute, u64::from(enters == back));
        }
        if back.is_some() {
            packet = packet.with(Field::LooseSourceRoute, 1);
        }
        packet.with(Field::PacketType, 0)
    }

    pub(super) fn description(&self, part: Part) -> String {
        let (protocol, ports, target) = (self.one.flows.protocol, self.one.flows.ports, self.one.destination.address);
        match (self.direction, part) {
            (Direction::Forward, Part::Request) => format!("what clients send to {protocol} {ports}"),
            (Direction::Forward, Part::Answer) => format!("the answers of the upstream {target} ({protocol} {ports})"),
            (Direction::Reverse, Part::Request) => format!("what the upstream opens to {protocol} {ports}"),
            (Direction::Reverse, Part::Answer) => format!("the answers of the client {target} ({protocol} {ports})"),
        }
    }

    /// The command that accepts these packets in `chain`, before its other rules.
    pub(super) fn command(&self, part: Part, chain: &BaseChain) -> String {
        let listen = self.one.flows.destination;
        let translated = is_tracked(chain) && Done::at(chain, Hook::Prerouting, NAT_DST) == Done::Yes;
        let (from, to) = self.parties(part, chain);
        let joined = |addresses: &[String]| addresses.join(",");
        let BaseChain { table, name, .. } = chain;
        match chain.tool {
            Tool::Nft(family) => {
                let set = |addresses: &[String]| match addresses {
                    [one] => one.clone(),
                    several => format!("{{ {} }}", several.join(", ")),
                };
                let part = |word: &str, addresses: &[String]| {
                    if addresses.is_empty() { String::new() } else { format!("ip {word} {} ", set(addresses)) }
                };
                let family = family_name(family);
                let asks = if translated {
                    format!("ct status dnat ct original ip daddr {listen} ")
                } else {
                    part("saddr", &from) + &part("daddr", &to)
                };
                format!("nft insert rule {family} {table} {name} {asks}accept")
            }
            Tool::IptablesNft | Tool::IptablesLegacy => {
                let program = if chain.tool == Tool::IptablesNft { "iptables-nft" } else { "iptables-legacy" };
                let part = |option: &str, addresses: &[String]| {
                    if addresses.is_empty() { String::new() } else { format!("{option} {} ", joined(addresses)) }
                };
                let asks = if translated {
                    format!("-m conntrack --ctstate DNAT --ctorigdst {listen} ")
                } else {
                    part("-s", &from) + &part("-d", &to)
                };
                format!("{program} -t {table} -I {name} {asks}-j ACCEPT")
            }
        }
    }

    /// The source and destination of the packets as `chain` sees them, as arguments of the command; empty if they are not
    /// restricted.
    fn parties(&self, part: Part, chain: &BaseChain) -> (Vec<String>, Vec<String>) {
        let text = |net: &IpNet| if net.prefix_len() == net.max_prefix_len() { net.addr().to_string() } else { net.to_string() };
        let clients = if self.clients.len() > MOST_CLIENTS { Vec::new() } else { self.clients.iter().map(text).collect() };
        let external = match self.one.source {
            SourceNat::Address(external) => vec![external.to_string()],
            SourceNat::Masquerade => Vec::new(),
        };
        let (listen, target) = (vec![self.one.flows.destination.to_string()], vec![self.one.destination.address.to_string()]);
        // The others in which the command names addresses come before any translation.
        match (part, chain.hook == Hook::Egress) {
            (Part::Request, false) => (clients, listen),
            (Part::Request, true) => (external, target),
            (Part::Answer, false) => (target, external),
            (Part::Answer, true) => (listen, clients),
        }
    }
}

/// Whether connection tracking has already run when the chain runs.
fn is_tracked(chain: &BaseChain) -> bool {
    match chain.hook {
        Hook::Prerouting => chain.priority > CONNTRACK,
        Hook::Forward | Hook::Postrouting => true,
        Hook::Ingress | Hook::Egress => false,
    }
}

/// The status of a flow's first packet.
fn first(destination: Done, source: Done) -> Value {
    let (mut known, mut set) = (0, 0);
    match destination {
        Done::No => known |= DST_NAT,
        Done::Yes => (known, set) = (known | DST_NAT, set | DST_NAT),
        Done::Unknown => {}
    }
    match source {
        Done::No => known |= SRC_NAT,
        // If it is translated to the same address, the kernel does not count it as a translation.
        Done::Yes | Done::Unknown => {}
    }
    Value::Bits { known, set }
}

/// The types of source and destination: what this node listens on or goes out as is local.
fn kinds(destination: Done, source: Done) -> Vec<(Field, Value)> {
    let source = either(source, Some(vec![UNICAST]), Some(vec![LOCAL]));
    let destination = either(destination, Some(vec![LOCAL]), Some(vec![UNICAST]));
    let both = [(Field::SourceType, source), (Field::DestinationType, destination)];
    both.into_iter().filter_map(|(field, ranges)| Some((field, Value::Within(ranges?)))).collect()
}

type Ranges = Vec<RangeInclusive<u64>>;

fn either(done: Done, before: Option<Ranges>, after: Option<Ranges>) -> Option<Ranges> {
    match done {
        Done::No => before,
        Done::Yes => after,
        Done::Unknown => Some([before?, after?].concat()),
    }
}

fn address(address: IpAddr) -> Ranges {
    let address = number(address);
    vec![address..=address]
}

fn ports(range: PortRange) -> Ranges {
    vec![u64::from(range.first())..=u64::from(range.last())]
}

fn target_ports(one: &Translation) -> Ranges {
    let (ports, target) = (one.flows.ports, one.destination.ports);
    vec![u64::from(target.of(ports.first()))..=u64::from(target.of(ports.last()))]
}

/// The family as nft(8) writes it.
pub(super) const fn family_name(family: TableFamily) -> &'static str {
    match family {
        TableFamily::Ip => "ip",
        TableFamily::Inet => "inet",
        TableFamily::Netdev => "netdev",
        TableFamily::Bridge => "bridge",
    }
}
