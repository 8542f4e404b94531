//! The xtables matches and targets that iptables-nft still uses inside of `nf_tables` rules.

use std::ops::RangeInclusive;

use netlink_packet_core::{DefaultNla, Nla};

use super::expression::bytes;
use crate::model::{Action, Condition, Field, NewAddress, Polarity};

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
const DIRECTION: u16 = 1 << 12;
const STATE_ALIAS: u16 = 1 << 13;
/// The `NOTRACK` flag of the target `CT` (`include/uapi/linux/netfilter/xt_CT.h`).
const CT_NOTRACK: u16 = 1;
/// Its flags for a zone of the original direction alone, and for one that the mark gives.
const CT_ZONE_ORIGINAL: u16 = 4;
const CT_ZONE_MARK: u16 = 16;
/// The modes of the target `CONNMARK` (`include/uapi/linux/netfilter/xt_connmark.h`).
const CONNMARK_SET: u8 = 0;
const CONNMARK_SAVE: u8 = 1;
const CONNMARK_RESTORE: u8 = 2;

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
        other => vec![of_header(other, value(attributes, REVISION), &info).unwrap_or(Condition::Uncertain)],
    }
}

/// The matches with one condition for a field of the packet, or for its rate.
fn of_header(name: &str, revision: Option<Vec<u8>>, info: &[u8]) -> Option<Condition> {
    let byte = |place: usize| info.get(place).copied();
    let polarity = |place| Some(if byte(place)? == 0 { Polarity::Is } else { Polarity::IsNot });
    let wide = |place: usize| Some(u32::from_ne_bytes(info.get(place..place + 4)?.try_into().ok()?));
    let within = |field, range, polarity| Condition::Within { field, ranges: vec![range], polarity };
    let two = || Some(u64::from(number(info, 0)?)..=u64::from(number(info, 2)?));
    let revision = revision.and_then(|revision| revision.last().copied());
    match (name, revision) {
        // `struct xt_length_info`, `struct xt_tcpmss_match_info`: two numbers and whether it is inverted.
        ("length", _) => Some(within(Field::Length, two()?, polarity(4)?)),
        ("tcpmss", _) => Some(within(Field::SegmentSize, two()?, polarity(4)?)),
        // `struct ipt_ttl_info`: the mode and the number.
        ("ttl", _) => ttl(byte(0)?, byte(1)?.into()),
        // `struct xt_dscp_info`: the value and whether it is inverted.
        ("dscp", _) => Some(dscp(byte(0)?.into(), polarity(1)?)),
        // `struct xt_pkttype_info`: two numbers of four bytes.
        ("pkttype", _) => {
            let kind = u64::from(wide(0)?);
            Some(within(Field::PacketType, kind..=kind, polarity(4)?))
        }
        // `struct xt_mac_info`: the address, and after padding whether it is inverted.
        ("mac", _) => {
            let address = info.get(..6)?.iter().fold(0, |number, byte| number << 8 | u64::from(*byte));
            Some(within(Field::SourceHardware, address..=address, polarity(8)?))
        }
        // `struct xt_rpfilter_info`: flags, 1 for loose and 8 for inverted.
        ("rpfilter", _) => Some(source_route(byte(0)? & 1 != 0, if byte(0)? & 8 == 0 { Polarity::Is } else { Polarity::IsNot })),
        // `struct xt_hashlimit_mtinfo3`: a name of 255 bytes, two numbers of eight bytes, then the mode: 0x10 for inverted.
        ("hashlimit", Some(3)) => (wide(272)? & 0x10 != 0).then_some(Condition::Excess),
        // `struct xt_connlimit_info`: an address, the limit, and 1 for inverted.
        ("connlimit", Some(1)) => (wide(20)? & 1 == 0).then_some(Condition::Excess),
        ("addrtype", Some(1)) => addrtype(number(info, 0)?, number(info, 2)?, wide(4)?),
        (_, _) => None,
    }
}

/// The condition of the mode of `ttl`: 0 equal, 1 not equal, 2 less, 3 greater.
pub(super) fn ttl(mode: u8, value: u64) -> Option<Condition> {
    let (range, polarity) = match mode {
        0 => (value..=value, Polarity::Is),
        1 => (value..=value, Polarity::IsNot),
        2 => (value..=u64::MAX, Polarity::IsNot),
        3 => (0..=value, Polarity::IsNot),
        _ => return None,
    };
    Some(Condition::Within { field: Field::TimeToLive, ranges: vec![range], polarity })
}

/// The condition that the upper six bits of the type of service have this value.
pub(super) fn dscp(value: u64, polarity: Polarity) -> Condition {
    Condition::Within { field: Field::Tos, ranges: vec![value << 2..=(value << 2 | 3)], polarity }
}

/// The condition that there is a route back to the source, and unless it is `loose`, by the incoming interface.
pub(super) fn source_route(loose: bool, polarity: Polarity) -> Condition {
    let field = if loose { Field::LooseSourceRoute } else { Field::StrictSourceRoute };
    Condition::Within { field, ranges: vec![1..=1], polarity }
}

/// `struct xt_addrtype_info_v1`: bits of the types of source and destination, then flags: 1 and 2 for inverted.
fn addrtype(source: u16, destination: u16, flags: u32) -> Option<Condition> {
    let one = |field, types: u16, flag| {
        let ranges = (0..16).filter(|kind| types & 1 << kind != 0).map(|kind| kind..=kind).collect();
        Condition::Within { field, ranges, polarity: if flags & flag == 0 { Polarity::Is } else { Polarity::IsNot } }
    };
    let mut all = Vec::new();
    if source != 0 {
        all.push(one(Field::SourceType, source, 1));
    }
    if destination != 0 {
        all.push(one(Field::DestinationType, destination, 2));
    }
    (flags & !3 == 0).then_some(Condition::Any { cases: vec![all], polarity: Polarity::Is })
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
        "CT" => {
            let (flags, zone) = (number(&info, 0)?, number(&info, 2)?);
            if flags & CT_NOTRACK != 0 {
                return Some(Action::Untrack);
            }
            let zone = match flags {
                flags if flags & CT_ZONE_MARK != 0 => None,
                flags if flags & CT_ZONE_ORIGINAL != 0 => Some(0),
                _ => Some(zone),
            };
            (zone != Some(0)).then_some(Action::Zone(zone))
        }
        "CONNMARK" => Some(connmark(&info, value(attributes, REVISION)).unwrap_or(Action::Uncertain)),
        name => action(name),
    }
}

/// The action of `CONNMARK`. `struct xt_connmark_tginfo1` and `..2`: value and mask of the connection mark, mask of the packet
/// mark, and the mode, in the newer one after how the marks are shifted.
fn connmark(info: &[u8], revision: Option<Vec<u8>>) -> Option<Action> {
    let wide = |place: usize| Some(u32::from_ne_bytes(info.get(place..place + 4)?.try_into().ok()?));
    let (value, mask, of_packet) = (wide(0)?, wide(4)?, wide(8)?);
    let (mode, is_shifted) = match revision?.last()? {
        1 => (*info.get(12)?, false),
        2 => (*info.get(14)?, *info.get(13)? > 0),
        _ => return None,
    };
    match mode {
        CONNMARK_SET => Some(Action::Connmark(value | mask)),
        CONNMARK_SAVE => Some(Action::Connmark(if is_shifted { u32::MAX } else { mask | of_packet })),
        CONNMARK_RESTORE => Some(Action::Mark),
        _ => None,
    }
}

/// The action of the target with this name; `None` if it does not decide.
pub(super) fn action(target: &str) -> Option<Action> {
    match target {
        "ACCEPT" => Some(Action::Accept),
        "DROP" | "REJECT" => Some(Action::Drop),
        "RETURN" => Some(Action::Return),
        "MASQUERADE" | "REDIRECT" => Some(Action::Translate(NewAddress::Own)),
        "SNAT" | "DNAT" | "NETMAP" => Some(Action::Translate(NewAddress::Unknown)),
        "MARK" => Some(Action::Mark),
        "NOTRACK" => Some(Action::Untrack),
        "LOG" | "NFLOG" | "ULOG" | "TCPMSS" | "CLASSIFY" | "DSCP" | "TOS" | "TTL" | "TRACE" | "SECMARK" | "CONNSECMARK"
        | "CHECKSUM" | "CT" | "TEE" | "AUDIT" | "SET" => None,
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
    // The direction that is meant is the original one, and the inverted one that of replies.
    if flags & DIRECTION != 0 {
        conditions.push(Condition::Within { field: Field::Direction, ranges: vec![0..=0], polarity: polarity(DIRECTION) });
    }
    if flags & !(STATE | STATUS | ORIGINAL_SOURCE | ORIGINAL_DESTINATION | DIRECTION | STATE_ALIAS) != 0 {
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
