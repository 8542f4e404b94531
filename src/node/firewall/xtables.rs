//! The xtables matches and targets that iptables-nft still uses inside of `nf_tables` rules.

use std::ops::RangeInclusive;

use netlink_packet_core::{DefaultNla, Nla};

use super::expression::bytes;
use crate::model::{Action, Condition, Field, Polarity};

/// The bits of the fragment offset (RFC 791, section 3.1).
pub(super) const FRAGMENT_OFFSET: u64 = 0x1fff;

/// The attributes of both expressions (`NFTA_MATCH_*`, `NFTA_TARGET_*`).
const NAME: u16 = 1;
const REVISION: u16 = 2;
const INFO: u16 = 3;
/// The fields that a `conntrack` match can compare (`include/uapi/linux/netfilter/xt_conntrack.h`).
const STATE: u16 = 1;
const ORIGINAL_SOURCE: u16 = 1 << 2;
const ORIGINAL_DESTINATION: u16 = 1 << 3;
const STATUS: u16 = 1 << 6;
const STATE_ALIAS: u16 = 1 << 13;
/// The `NOTRACK` flag of the target `CT` (`include/uapi/linux/netfilter/xt_CT.h`).
const CT_NOTRACK: u16 = 1;

fn value(attributes: &[DefaultNla], kind: u16) -> Option<Vec<u8>> {
    attributes.iter().find(|attribute| attribute.kind() & 0x3fff == kind).map(bytes)
}

fn name(attributes: &[DefaultNla]) -> String {
    let name = value(attributes, NAME).unwrap_or_default();
    String::from_utf8_lossy(&name).trim_end_matches('\0').to_owned()
}

/// The conditions of a match.
pub(super) fn matches(attributes: &[DefaultNla]) -> Vec<Condition> {
    let info = value(attributes, INFO).unwrap_or_default();
    match name(attributes).as_str() {
        "comment" => Vec::new(),
        "conntrack" if value(attributes, REVISION) == Some(vec![0, 0, 0, 3]) => {
            conntrack(&info).unwrap_or_else(|| vec![Condition::Uncertain])
        }
        "mark" if value(attributes, REVISION) == Some(vec![0, 0, 0, 1]) => vec![mark(&info).unwrap_or(Condition::Uncertain)],
        "multiport" if value(attributes, REVISION) == Some(vec![0, 0, 0, 1]) => {
            vec![multiport(&info).unwrap_or(Condition::Uncertain)]
        }
        "iprange" if value(attributes, REVISION) == Some(vec![0, 0, 0, 1]) => {
            iprange(&info).unwrap_or_else(|| vec![Condition::Uncertain])
        }
        "tcp" => tcp(&info).unwrap_or_else(|| vec![Condition::Uncertain]),
        "udp" => udp(&info).unwrap_or_else(|| vec![Condition::Uncertain]),
        _ => vec![Condition::Uncertain],
    }
}

/// The condition that one of these fields is within `ranges`.
pub(super) fn ports(fields: &[Field], ranges: &[RangeInclusive<u64>], polarity: Polarity) -> Condition {
    let within = |field: &Field, polarity| Condition::Within { field: *field, ranges: ranges.to_vec(), polarity };
    match fields {
        [field] => within(field, polarity),
        fields => Condition::Any { cases: fields.iter().map(|field| vec![within(field, Polarity::Is)]).collect(), polarity },
    }
}

/// `struct xt_multiport_v1` (`include/uapi/linux/netfilter/xt_multiport.h`).
fn multiport(info: &[u8]) -> Option<Condition> {
    let fields = match info.first()? {
        0 => &[Field::SourcePort][..],
        1 => &[Field::DestinationPort],
        2 => &[Field::SourcePort, Field::DestinationPort],
        _ => return None,
    };
    let port = |index: usize| Some(u64::from(number(info, 2 + 2 * index)?));
    let (mut ranges, mut index) = (Vec::new(), 0);
    while index < usize::from(*info.get(1)?) {
        // A flag says that the port begins a range, which the next one ends.
        let width = usize::from(*info.get(32 + index)? != 0);
        ranges.push(port(index)?..=port(index + width)?);
        index += 1 + width;
    }
    let polarity = if *info.get(47)? == 0 { Polarity::Is } else { Polarity::IsNot };
    Some(ports(fields, &ranges, polarity))
}

/// `struct xt_iprange_mtinfo` (`include/uapi/linux/netfilter/xt_iprange.h`): four addresses of 16 bytes, then flags.
fn iprange(info: &[u8]) -> Option<Vec<Condition>> {
    let address = |place: usize| Some(u64::from(u32::from_be_bytes(info.get(place..place + 4)?.try_into().ok()?)));
    let flags = *info.get(64)?;
    let mut conditions = Vec::new();
    for (flag, place, field) in [(1, 0, Field::Source), (2, 32, Field::Destination)] {
        if flags & flag != 0 {
            let polarity = if flags & flag << 4 == 0 { Polarity::Is } else { Polarity::IsNot };
            conditions.push(Condition::Within { field, ranges: vec![address(place)?..=address(place + 16)?], polarity });
        }
    }
    Some(conditions)
}

/// `struct xt_tcp` (`include/uapi/linux/netfilter/xt_tcpudp.h`).
fn tcp(info: &[u8]) -> Option<Vec<Condition>> {
    let (option, mask, value, inverted) = (*info.get(8)?, *info.get(9)?, *info.get(10)?, *info.get(11)?);
    let mut conditions = port_pairs(info, inverted)?;
    if mask != 0 {
        let polarity = if inverted & 4 == 0 { Polarity::Is } else { Polarity::IsNot };
        conditions.push(Condition::Masked { field: Field::TcpFlags, mask: mask.into(), value: value.into(), polarity });
    }
    if option != 0 {
        conditions.push(Condition::Uncertain);
    }
    Some(conditions)
}

/// `struct xt_udp`, in the same file.
fn udp(info: &[u8]) -> Option<Vec<Condition>> {
    port_pairs(info, *info.get(8)?)
}

/// The ports with which both structures begin: first and last source port, first and last destination port.
fn port_pairs(info: &[u8], inverted: u8) -> Option<Vec<Condition>> {
    let mut conditions = Vec::new();
    for (flag, place, field) in [(1, 0, Field::SourcePort), (2, 4, Field::DestinationPort)] {
        let range = u64::from(number(info, place)?)..=u64::from(number(info, place + 2)?);
        let polarity = if inverted & flag == 0 { Polarity::Is } else { Polarity::IsNot };
        if range != (0..=u64::from(u16::MAX)) || polarity == Polarity::IsNot {
            conditions.push(Condition::Within { field, ranges: vec![range], polarity });
        }
    }
    Some(conditions)
}

/// `struct xt_mark_mtinfo1` (`include/uapi/linux/netfilter/xt_mark.h`).
fn mark(info: &[u8]) -> Option<Condition> {
    let part = |place: usize| Some(u64::from(u32::from_ne_bytes(info.get(place..place + 4)?.try_into().ok()?)));
    let polarity = if *info.get(8)? == 0 { Polarity::Is } else { Polarity::IsNot };
    Some(marked(part(0)?, part(4)?, polarity))
}

/// The condition that a mark has this value in the bits of `mask`.
pub(super) fn marked(value: u64, mask: u64, polarity: Polarity) -> Condition {
    match (value, polarity) {
        (0, Polarity::Is) => Condition::AnyBit { field: Field::Mark, mask, polarity: Polarity::IsNot },
        (0, Polarity::IsNot) => Condition::AnyBit { field: Field::Mark, mask, polarity: Polarity::Is },
        (value, polarity) => Condition::AnyBit { field: Field::Mark, mask: value, polarity },
    }
}

/// The action of a target; `None` if it does not decide.
pub(super) fn target(attributes: &[DefaultNla]) -> Option<Action> {
    let info = value(attributes, INFO).unwrap_or_default();
    match name(attributes).as_str() {
        "CT" => (number(&info, 0)? & CT_NOTRACK != 0).then_some(Action::Untrack),
        name => action(name),
    }
}

/// The action of the target with this name; `None` if it does not decide.
pub(super) fn action(target: &str) -> Option<Action> {
    match target {
        "ACCEPT" => Some(Action::Accept),
        "DROP" | "REJECT" => Some(Action::Drop),
        "RETURN" => Some(Action::Return),
        "MASQUERADE" | "SNAT" | "DNAT" | "REDIRECT" | "NETMAP" => Some(Action::Translate),
        "NOTRACK" => Some(Action::Untrack),
        "LOG" | "NFLOG" | "ULOG" | "MARK" | "CONNMARK" | "TCPMSS" | "CLASSIFY" | "DSCP" | "TOS" | "TTL" | "TRACE" | "SECMARK"
        | "CONNSECMARK" | "CHECKSUM" | "CT" | "TEE" | "AUDIT" | "SET" => None,
        _ => Some(Action::Uncertain),
    }
}

fn number(info: &[u8], place: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(info.get(place..place + 2)?.try_into().ok()?))
}

/// `struct xt_conntrack_mtinfo3`: eight addresses of 16 bytes, then the other fields.
fn conntrack(info: &[u8]) -> Option<Vec<Condition>> {
    let (flags, inverted, states, statuses) = (number(info, 146)?, number(info, 148)?, number(info, 150)?, number(info, 152)?);
    let polarity = |flag| if inverted & flag == 0 { Polarity::Is } else { Polarity::IsNot };
    let mut conditions = Vec::new();
    if flags & STATE != 0 {
        conditions.push(state(states, polarity(STATE)));
    }
    if flags & STATUS != 0 {
        conditions.push(Condition::AnyBit { field: Field::Status, mask: u64::from(statuses), polarity: polarity(STATUS) });
    }
    for (flag, place, field) in
        [(ORIGINAL_SOURCE, 0, Field::OriginalSource), (ORIGINAL_DESTINATION, 32, Field::OriginalDestination)]
    {
        if flags & flag != 0 {
            let part = |place: usize| Some(u64::from(u32::from_be_bytes(info.get(place..place + 4)?.try_into().ok()?)));
            let (address, hidden) = (part(place)?, u64::from(u32::MAX) & !part(place + 16)?);
            conditions.push(Condition::Within { field, ranges: vec![address..=(address | hidden)], polarity: polarity(flag) });
        }
    }
    if flags & !(STATE | STATUS | ORIGINAL_SOURCE | ORIGINAL_DESTINATION | STATE_ALIAS) != 0 {
        conditions.push(Condition::Uncertain);
    }
    Some(conditions)
}

/// The condition for states, which include whether source or destination are translated.
pub(super) fn state(states: u16, polarity: Polarity) -> Condition {
    // The proper states have the same bits as in nf_tables: invalid 1, established 2, related 4, new 8.
    let (own, translated) = (u64::from(states & 0x0f), u64::from(states & 0xc0) >> 2);
    match (own, translated) {
        (0, _) if states & !0xc0 == 0 => Condition::AnyBit { field: Field::Status, mask: translated, polarity },
        (_, 0) if states & !0x0f == 0 => Condition::AnyBit { field: Field::State, mask: own, polarity },
        (_, _) => Condition::Uncertain,
    }
}
