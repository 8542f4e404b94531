//! The expressions of which `netlink-packet-netfilter` gives only the attributes (`include/uapi/linux/netfilter/nf_tables.h`).

use netlink_packet_core::{DefaultNla, Nla};

use super::{Reading, bytes};
use crate::model::{Action, Condition, Field, NewAddress, Polarity};
use crate::node::firewall::field::Loaded;

/// The attributes of `ct`, `fib`, `nat` and `range`, and the keys of `ct` for the mark and the zone.
const CT_DREG: u16 = 1;
const CT_KEY: u16 = 2;
const CT_DIRECTION: u16 = 3;
const CT_SREG: u16 = 4;
const CT_MARK: u32 = 3;
const CT_ZONE: u32 = 17;
const FIB_REGISTER: u16 = 1;
const FIB_RESULT: u16 = 2;
const FIB_FLAGS: u16 = 3;
const NAT_ADDRESS: u16 = 3;
const NAT_LAST_ADDRESS: u16 = 4;
/// What `fib` looks up: an interface, its name, or the type of the address.
const FIB_INTERFACE: u32 = 1;
const FIB_TYPE: u32 = 3;
/// The flags of `fib`: source, destination, mark, incoming interface, and whether the result is only that there is one.
const FIB_SOURCE: u32 = 1;
const FIB_DESTINATION: u32 = 2;
const FIB_MARK: u32 = 4;
const FIB_IN: u32 = 8;
const FIB_PRESENT: u32 = 32;
/// The attributes of `exthdr`, and the TCP option for the maximum segment size.
const EXTHDR_REGISTER: u16 = 1;
const EXTHDR_TYPE: u16 = 2;
const EXTHDR_OFFSET: u16 = 3;
const EXTHDR_LENGTH: u16 = 4;
const EXTHDR_OPERATION: u16 = 6;
const SEGMENT_SIZE_OPTION: u8 = 2;
/// The attribute with the flags of `limit` and of `connlimit`, and the flag for what is over the limit.
const LIMIT_FLAGS: u16 = 5;
const CONNLIMIT_FLAGS: u16 = 2;
const OVER: u32 = 1;
/// The attributes of `dynset` with expressions that may not match.
const DYNSET_EXPRESSIONS: [u16; 2] = [7, 10];
const RANGE_SREG: u16 = 1;
const RANGE_OPERATOR: u16 = 2;
const RANGE_FROM: u16 = 3;
const RANGE_TO: u16 = 4;
/// The kind of an attribute without its flags, and the size of the header of a nested one.
const KIND: u16 = 0x3fff;
const NESTED: usize = 4;

impl Reading<'_> {
    pub(super) fn ct(&mut self, attributes: &[DefaultNla]) {
        let number = |kind| number(attributes, kind);
        let original = value(attributes, CT_DIRECTION).is_some_and(|direction| direction == [0]);
        if let (Some(from), Some(CT_ZONE)) = (number(CT_SREG), number(CT_KEY)) {
            // A zone for the original direction alone leaves the replies in zone 0.
            let zone = if original { Some(0) } else { self.constant(from).and_then(|value| zone(&value)) };
            self.does(Action::Zone(zone));
        }
        if let (Some(from), Some(CT_MARK)) = (number(CT_SREG), number(CT_KEY)) {
            match self.loaded(Some(from)) {
                Loaded::Connmark(0) => {}
                Loaded::Connmark(bits) => self.does(Action::Connmark(bits)),
                Loaded::Number { .. } | Loaded::Name(_) | Loaded::Constant(_) | Loaded::Unknown => {
                    self.does(Action::Connmark(u32::MAX));
                }
            }
        }
        let Some(register) = number(CT_DREG) else { return };
        if number(CT_KEY) == Some(CT_MARK) {
            return self.load(register, Loaded::Connmark(0));
        }
        let field = match number(CT_KEY) {
            Some(0) => Some(Field::State),
            Some(1) => Some(Field::Direction),
            Some(2) => Some(Field::Status),
            Some(8 | 19) if original => Some(Field::OriginalSource),
            Some(9 | 20) if original => Some(Field::OriginalDestination),
            Some(10) => Some(Field::Protocol),
            Some(12) if original => Some(Field::OriginalDestinationPort),
            Some(_) | None => None,
        };
        self.load(register, field.map_or(Loaded::Unknown, Loaded::number));
    }

    /// The result of a look-up of the packet's addresses in the routes.
    pub(super) fn fib(&mut self, attributes: &[DefaultNla]) {
        let number = |kind| number(attributes, kind);
        let Some(register) = number(FIB_REGISTER) else { return self.registers.clear() };
        let field = match (number(FIB_RESULT), number(FIB_FLAGS).map(|flags| flags & !FIB_MARK)) {
            (Some(FIB_INTERFACE), Some(flags)) if flags == FIB_SOURCE | FIB_IN | FIB_PRESENT => Some(Field::StrictSourceRoute),
            (Some(FIB_INTERFACE), Some(flags)) if flags == FIB_SOURCE | FIB_PRESENT => Some(Field::LooseSourceRoute),
            (Some(FIB_TYPE), Some(FIB_SOURCE)) => Some(Field::SourceType),
            (Some(FIB_TYPE), Some(FIB_DESTINATION)) => Some(Field::DestinationType),
            (_, _) => None,
        };
        self.load(register, field.map_or(Loaded::Unknown, Loaded::number));
    }

    pub(super) fn exthdr(&mut self, attributes: &[DefaultNla]) {
        let number = |kind| number(attributes, kind);
        // Without a destination register, it changes the packet.
        let Some(register) = number(EXTHDR_REGISTER) else { return };
        let (option, place) = (value(attributes, EXTHDR_TYPE), (number(EXTHDR_OFFSET), number(EXTHDR_LENGTH)));
        let is_size = option == Some(vec![SEGMENT_SIZE_OPTION]) && number(EXTHDR_OPERATION) == Some(1);
        let found = is_size && place == (Some(2), Some(2));
        self.load(register, if found { Loaded::number(Field::SegmentSize) } else { Loaded::Unknown });
    }

    /// A translation; the source or destination address is in a register.
    pub(super) fn nat(&mut self, attributes: &[DefaultNla]) {
        let address = |kind| number(attributes, kind).map(|register| self.constant(register));
        let new = match (address(NAT_ADDRESS), address(NAT_LAST_ADDRESS)) {
            // Only the port changes.
            (None, None) => NewAddress::Own,
            (Some(Some(first)), last) if last.as_ref().is_none_or(|last| last.as_ref() == Some(&first)) => {
                let address = <[u8; 4]>::try_from(first).map(u32::from_be_bytes);
                address.map_or(NewAddress::Unknown, |address| NewAddress::Fixed(u64::from(address)))
            }
            (_, _) => NewAddress::Unknown,
        };
        self.does(Action::Translate(new));
    }

    pub(super) fn limit(&mut self, attributes: &[DefaultNla]) {
        self.excess(number(attributes, LIMIT_FLAGS));
    }

    pub(super) fn connlimit(&mut self, attributes: &[DefaultNla]) {
        self.excess(number(attributes, CONNLIMIT_FLAGS));
    }

    /// A condition for what is over a limit, or for what is not.
    fn excess(&mut self, flags: Option<u32>) {
        let over = flags.is_some_and(|flags| flags & OVER != 0);
        self.conditions.push(if over { Condition::Excess } else { Condition::Uncertain });
    }

    /// Adds an element to a set. This alone is no condition, but the statements of the element are.
    pub(super) fn dynset(&mut self, attributes: &[DefaultNla]) {
        if attributes.iter().any(|attribute| DYNSET_EXPRESSIONS.contains(&(attribute.kind() & KIND))) {
            self.conditions.push(Condition::Uncertain);
        }
    }

    pub(super) fn range(&mut self, attributes: &[DefaultNla]) {
        let number = |kind| number(attributes, kind);
        // The value is nested in an attribute of its own.
        let edge = |kind| value(attributes, kind).and_then(|data| data.get(NESTED..).map(<[u8]>::to_vec));
        let condition = match (number(RANGE_OPERATOR), edge(RANGE_FROM), edge(RANGE_TO)) {
            (Some(operator @ (0 | 1)), Some(first), Some(last)) => {
                let polarity = if operator == 0 { Polarity::Is } else { Polarity::IsNot };
                between(&self.loaded(number(RANGE_SREG)), &first, &last, polarity)
            }
            (_, _, _) => None,
        };
        self.conditions.push(condition.unwrap_or(Condition::Uncertain));
    }
}

fn value(attributes: &[DefaultNla], kind: u16) -> Option<Vec<u8>> {
    attributes.iter().find(|attribute| attribute.kind() & KIND == kind).map(bytes)
}

fn number(attributes: &[DefaultNla], kind: u16) -> Option<u32> {
    Some(u32::from_be_bytes(value(attributes, kind)?.try_into().ok()?))
}

/// The number of a zone, in the byte order of this machine.
fn zone(value: &[u8]) -> Option<u16> {
    Some(u16::from_ne_bytes(value.try_into().ok()?))
}

/// The condition that a field is, or is not, between two values.
fn between(loaded: &Loaded, first: &[u8], last: &[u8], polarity: Polarity) -> Option<Condition> {
    let Loaded::Number { field, .. } = loaded else { return None };
    let range = *loaded.range(first)?.start()..=*loaded.range(last)?.end();
    Some(Condition::Within { field: *field, ranges: vec![range], polarity })
}
