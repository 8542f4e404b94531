//! The xtables matches and targets that iptables-nft still uses inside of `nf_tables` rules.

use netlink_packet_core::{DefaultNla, Nla};

use super::expression::bytes;
use crate::model::{Action, Condition, Field, Polarity};

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
        _ => vec![Condition::Uncertain],
    }
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
