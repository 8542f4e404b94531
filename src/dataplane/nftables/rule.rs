//! The rules of the table: a few for each key class, whatever the number of forwards.

use std::fmt::Write as _;
use std::net::Ipv4Addr;

use super::class::{ADDRESS_BITS, Class, Field, Hooked, PORT_BITS, Purpose, address_mask, port_mask};
use super::expression::Expression;
use super::layout::{ANSWERS, ANSWERS_ANYWHERE, LISTEN, TRANSLATED};
use crate::model::{Connmark, Protocol};

/// The type of an address of this node (`RTN_LOCAL`, `include/uapi/linux/rtnetlink.h`).
const LOCAL: u32 = 2;
/// A packet that conntrack takes for invalid (`NF_CT_STATE_INVALID_BIT`, `include/uapi/linux/netfilter/nf_tables.h`).
const INVALID: u32 = 1;
/// The flags of TCP (RFC 9293), those that are compared and the one that opens a connection.
const COMPARED_FLAGS: u8 = 0x17;
const SYN: u8 = 0x02;

/// A rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Rule {
    /// To the chain for a listen address and protocol.
    ToListen,
    /// To the chain for a flow that the operator has translated and marked, by the listen address and protocol that it had.
    ToTranslated(Connmark),
    /// Marks the flow.
    Mark(Connmark),
    /// Removes the mark of the flow.
    Unmark(Connmark),
    /// Does what the map or set of the class says.
    LookUp(Class),
    /// Drops what conntrack takes for invalid, from an upstream to an external address.
    DropAnswers,
    /// The same to whichever address.
    DropAnswersAnywhere,
}

impl Rule {
    /// As the kernel takes it.
    pub(super) fn expressions(self) -> Vec<Expression> {
        match self {
            Self::ToListen => vec![
                Expression::destination_type(0),
                Expression::is(0, &LOCAL.to_ne_bytes()),
                Expression::destination(0),
                Expression::protocol(1),
                Expression::verdict_in(LISTEN),
            ],
            Self::ToTranslated(mark) => {
                vec![
                    Expression::mark(0),
                    Expression::masked(0, &mark.bit().to_ne_bytes()),
                    Expression::is_not(0, &[0; 4]),
                    Expression::original_destination(0),
                    Expression::protocol(1),
                    Expression::verdict_in(TRANSLATED),
                ]
            }
            Self::Mark(mark) => marking(mark, mark.bit()),
            Self::Unmark(mark) => marking(mark, 0),
            Self::LookUp(class) => looked_up(class),
            Self::DropAnswers => {
                let found = [Expression::destination(0), Expression::source(1), Expression::in_set(ANSWERS), Expression::drop()];
                invalid().into_iter().chain(found).collect()
            }
            Self::DropAnswersAnywhere => {
                let found = [Expression::source(0), Expression::in_set(ANSWERS_ANYWHERE), Expression::drop()];
                invalid().into_iter().chain(found).collect()
            }
        }
    }

    /// As nft(8) takes it.
    pub(super) fn text(self) -> String {
        match self {
            Self::ToListen => format!("fib daddr type local ip daddr . meta l4proto vmap @{LISTEN}"),
            Self::ToTranslated(mark) => {
                format!("ct mark & {:#010x} != 0x00000000 ct original ip daddr . meta l4proto vmap @{TRANSLATED}", mark.bit())
            }
            Self::Mark(mark) => format!("ct mark set ct mark | {:#010x}", mark.bit()),
            Self::Unmark(mark) => format!("ct mark set ct mark & {:#010x}", !mark.bit()),
            Self::LookUp(class) => look_up_text(class),
            Self::DropAnswers => format!("meta l4proto tcp ct state invalid ip daddr . ip saddr @{ANSWERS} drop"),
            Self::DropAnswersAnywhere => format!("meta l4proto tcp ct state invalid ip saddr @{ANSWERS_ANYWHERE} drop"),
        }
    }
}

fn marking(mark: Connmark, set: u32) -> Vec<Expression> {
    let others = !mark.bit();
    vec![Expression::mark(0), Expression::bits(0, &others.to_ne_bytes(), &set.to_ne_bytes()), Expression::set_mark(0)]
}

/// The conditions of INPUT.
fn invalid() -> Vec<Expression> {
    let state = INVALID.to_ne_bytes();
    vec![
        Expression::protocol(0),
        Expression::is(0, &[Protocol::Tcp.number()]),
        Expression::state(0),
        Expression::masked(0, &state),
        Expression::is_not(0, &[0; 4]),
    ]
}

fn looked_up(class: Class) -> Vec<Expression> {
    let hooked = class.purpose.chain();
    let mut rule = if hooked == Hooked::Input { invalid() } else { Vec::new() };
    if class.opening {
        rule.extend([
            Expression::protocol(0),
            Expression::is(0, &[Protocol::Tcp.number()]),
            Expression::tcp_flags(0),
            Expression::masked(0, &[COMPARED_FLAGS]),
            Expression::is(0, &[SYN]),
        ]);
    }
    if class.port == 0 && hooked == Hooked::Prerouting {
        // Port 0 is no port of a forward.
        rule.extend([Expression::destination_port(0), Expression::is_not(0, &[0; 2])]);
    }
    let mut word = 0;
    for field in class.fields() {
        rule.extend(load(field, hooked, word));
        word += field.len() / 4;
    }
    let name = class.name();
    rule.extend(match class.purpose {
        Purpose::Dnat => vec![Expression::value_in(&name), Expression::dnat_with_port()],
        Purpose::DnatSamePort => vec![Expression::value_in(&name), Expression::dnat()],
        Purpose::Snat => vec![Expression::value_in(&name), Expression::snat()],
        Purpose::Masquerade => vec![Expression::in_set(&name), Expression::masquerade()],
        Purpose::Invalid => vec![Expression::in_set(&name), Expression::drop()],
    });
    rule
}

/// Loads a part of a key.
fn load(field: Field, hooked: Hooked, word: u32) -> Vec<Expression> {
    let translated = hooked == Hooked::Postrouting;
    let mut load = vec![match field {
        Field::Client(_) if translated => Expression::original_source(word),
        Field::Client(_) => Expression::source(word),
        Field::Port(_) if translated => Expression::original_port(word),
        Field::Port(_) => Expression::destination_port(word),
        Field::Listen if translated => Expression::original_destination(word),
        Field::Listen | Field::Upstream => Expression::destination(word),
        Field::Protocol => Expression::protocol(word),
        Field::Interface => Expression::interface(word),
    }];
    match field {
        Field::Client(bits) if bits < ADDRESS_BITS => load.push(Expression::masked(word, &address_mask(bits).to_be_bytes())),
        Field::Port(bits) if bits < PORT_BITS => load.push(Expression::masked(word, &port_mask(bits).to_be_bytes())),
        Field::Client(_) | Field::Port(_) | Field::Listen | Field::Protocol | Field::Interface | Field::Upstream => {}
    }
    load
}

fn look_up_text(class: Class) -> String {
    let hooked = class.purpose.chain();
    let mut text = String::new();
    if hooked == Hooked::Input {
        text += "meta l4proto tcp ct state invalid ";
    }
    if class.opening {
        text += "tcp flags & (fin | syn | rst | ack) == syn ";
    }
    if class.port == 0 && hooked == Hooked::Prerouting {
        text += "th dport != 0 ";
    }
    let fields: Vec<String> = class.fields().into_iter().map(|field| field_text(field, hooked)).collect();
    let (key, name) = (fields.join(" . "), class.name());
    // Writing to a string cannot fail.
    let _ = match class.purpose {
        Purpose::Dnat | Purpose::DnatSamePort => write!(text, "dnat ip to {key} map @{name}"),
        Purpose::Snat => write!(text, "snat to {key} map @{name}"),
        Purpose::Masquerade => write!(text, "{key} @{name} masquerade"),
        Purpose::Invalid => write!(text, "{key} @{name} drop"),
    };
    text
}

fn field_text(field: Field, hooked: Hooked) -> String {
    let original = if hooked == Hooked::Postrouting { "ct original " } else { "" };
    let port = if hooked == Hooked::Postrouting { "ct original proto-dst" } else { "th dport" };
    match field {
        Field::Client(bits) if bits < ADDRESS_BITS => {
            format!("{original}ip saddr & {}", Ipv4Addr::from_bits(address_mask(bits)))
        }
        Field::Client(_) => format!("{original}ip saddr"),
        Field::Port(bits) if bits < PORT_BITS => format!("{port} & {:#06x}", port_mask(bits)),
        Field::Port(_) => port.to_owned(),
        Field::Listen => format!("{original}ip daddr"),
        Field::Protocol => "meta l4proto".to_owned(),
        Field::Interface => "iifname".to_owned(),
        Field::Upstream => "ip daddr".to_owned(),
    }
}
