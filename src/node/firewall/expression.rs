//! Translates one rule of `nf_tables`, expression by expression, to conditions and an action
//! (`include/uapi/linux/netfilter/nf_tables.h`).

mod attributes;

use std::collections::BTreeMap;

use netlink_packet_core::{DefaultNla, Nla};
use netlink_packet_netfilter::nftables::{
    Bitwise, Cmp, DataAttribute, ExpressionAttribute, Expressions, Immediate, ListAttribute, Lookup, Meta, MetaKey, Operator,
    Payload, Verdict, VerdictAttribute,
};

use super::field::{Loaded, Test, WORD};
use super::sets::{Set, Sets};
use super::xtables;
use crate::model::{Action, Condition, Field, FilterRule, NewAddress, Way};

/// The verdicts that end a chain (`include/uapi/linux/netfilter.h`).
const NF_DROP: u32 = 0;
const NF_ACCEPT: u32 = 1;
/// The bases of a load from the packet, and the register of the verdict.
const LINK_HEADER: u32 = 0;
const NETWORK_HEADER: u32 = 1;
const TRANSPORT_HEADER: u32 = 2;
const VERDICT_REGISTER: u32 = 0;

/// The names of the sets that a rule looks values up in.
pub(super) fn sets_of(list: &[ListAttribute<ExpressionAttribute>]) -> impl Iterator<Item = &str> {
    let parts = list.iter().filter_map(|expression| match expression {
        ListAttribute::Element(parts) => Some(parts),
        _ => None,
    });
    let lookups = parts.flatten().filter_map(|part| match part {
        ExpressionAttribute::Data(Expressions::Lookup(parts)) => Some(parts),
        _ => None,
    });
    lookups.flatten().filter_map(|part| if let Lookup::Set(name) = part { Some(name.as_str()) } else { None })
}

/// The rules that one rule is translated to: several if it looks up its verdict in a map.
pub(super) fn rules(list: &[ListAttribute<ExpressionAttribute>], sets: &Sets) -> Vec<FilterRule> {
    let mut reading = Reading { conditions: Vec::new(), registers: BTreeMap::new(), outcome: vec![], sets };
    for expression in list {
        let ListAttribute::Element(parts) = expression else { continue };
        let data = parts.iter().find_map(|part| match part {
            ExpressionAttribute::Data(data) => Some(data),
            _ => None,
        });
        let name = parts.iter().find_map(|part| match part {
            ExpressionAttribute::Name(name) => Some(name.as_str()),
            _ => None,
        });
        match (name, data) {
            (Some(name), Some(data)) => reading.take(name, data),
            (Some(name), None) => reading.take(name, &Expressions::Unknown(Vec::new())),
            (None, _) => reading.give_up(),
        }
    }
    reading.end()
}

struct Reading<'a> {
    conditions: Vec<Condition>,
    registers: BTreeMap<u32, Loaded>,
    /// The actions, each with its own conditions.
    outcome: Vec<(Vec<Condition>, Action)>,
    sets: &'a Sets,
}

impl Reading<'_> {
    fn take(&mut self, name: &str, data: &Expressions) {
        match data {
            Expressions::Meta(parts) => self.meta(parts),
            Expressions::Payload(parts) => self.payload(parts),
            Expressions::Bitwise(parts) => self.bitwise(parts),
            Expressions::Cmp(parts) => self.compare(parts),
            Expressions::Lookup(parts) => self.look_up(parts),
            Expressions::Immediate(parts) => self.immediate(parts),
            Expressions::Other { attributes, .. } => self.other(name, attributes),
            _ => self.other(name, &[]),
        }
    }

    fn end(self) -> Vec<FilterRule> {
        let Self { conditions, outcome, .. } = self;
        let rule = |(own, action): (Vec<Condition>, Action)| FilterRule {
            conditions: conditions.iter().cloned().chain(own).collect(),
            action,
        };
        outcome.into_iter().map(rule).collect()
    }

    fn give_up(&mut self) {
        self.conditions.push(Condition::Uncertain);
        self.outcome.push((Vec::new(), Action::Uncertain));
    }

    fn does(&mut self, action: Action) {
        self.outcome.push((Vec::new(), action));
    }

    fn meta(&mut self, parts: &[Meta]) {
        let key = parts.iter().find_map(|part| if let Meta::Key(key) = part { Some(*key) } else { None });
        let register =
            parts.iter().find_map(|part| if let Meta::DestinationRegister(to) = part { Some(u32::from(*to)) } else { None });
        let Some(register) = register else {
            // It sets a mark or similar.
            if key == Some(MetaKey::Mark) {
                self.does(Action::Mark);
            }
            return;
        };
        let loaded = match key {
            Some(MetaKey::Iifname) => Loaded::Name(Way::In),
            Some(MetaKey::Oifname) => Loaded::Name(Way::Out),
            Some(MetaKey::Iif) => Loaded::number(Field::InIndex),
            Some(MetaKey::Oif) => Loaded::number(Field::OutIndex),
            Some(MetaKey::Nfproto) => Loaded::number(Field::Family),
            Some(MetaKey::EtherTypeProtocol) => Loaded::number(Field::EtherType),
            Some(MetaKey::Mark) => Loaded::number(Field::Mark),
            Some(MetaKey::L4Proto) => Loaded::number(Field::Protocol),
            Some(MetaKey::Length) => Loaded::number(Field::WholeLength),
            Some(MetaKey::PacketType) => Loaded::number(Field::PacketType),
            Some(_) | None => Loaded::Unknown,
        };
        self.load(register, loaded);
    }

    fn payload(&mut self, parts: &[Payload]) {
        let (mut register, mut base, mut offset, mut length) = (None, 0, 0, 0);
        for part in parts {
            match part {
                Payload::DestinationRegister(to) => register = Some(u32::from(*to)),
                Payload::Base(value) => base = *value,
                Payload::Offset(value) => offset = *value,
                Payload::Len(value) => length = *value,
                _ => {}
            }
        }
        // Without a destination register, it changes the packet, for example the DSCP or the TTL.
        let Some(register) = register else { return };
        let field = match (base, offset, length) {
            (LINK_HEADER, 6, 6) => Some(Field::SourceHardware),
            (NETWORK_HEADER, 1, 1) => Some(Field::Tos),
            (NETWORK_HEADER, 2, 2) => Some(Field::Length),
            (NETWORK_HEADER, 8, 1) => Some(Field::TimeToLive),
            (NETWORK_HEADER, 6, 2) => Some(Field::Fragment),
            (NETWORK_HEADER, 9, 1) => Some(Field::Protocol),
            (NETWORK_HEADER, 12, 1..=4) => Some(Field::Source),
            (NETWORK_HEADER, 16, 1..=4) => Some(Field::Destination),
            (TRANSPORT_HEADER, 0, 2) => Some(Field::SourcePort),
            (TRANSPORT_HEADER, 2, 2) => Some(Field::DestinationPort),
            (TRANSPORT_HEADER, 13, 1) => Some(Field::TcpFlags),
            _ => None,
        };
        self.load(register, field.map_or(Loaded::Unknown, |field| Loaded::leading(field, length as usize)));
    }

    fn load(&mut self, register: u32, loaded: Loaded) {
        let first = aligned(register);
        // A value that is not one short number may reach into the next registers.
        if !matches!(loaded, Loaded::Number { .. }) {
            self.registers.retain(|other, _| !(first..first + 4).contains(other));
        }
        self.registers.insert(first, loaded);
    }

    fn loaded(&self, register: Option<u32>) -> Loaded {
        register.and_then(|register| self.registers.get(&aligned(register)).cloned()).unwrap_or(Loaded::Unknown)
    }

    /// The fields of a key with `size` bytes that begins in a register.
    fn concatenated(&self, from: Option<u32>, size: usize) -> Vec<Loaded> {
        let mut fields = vec![self.loaded(from)];
        let mut place = fields[0].padded();
        while place < size {
            let words = u32::try_from(place / WORD).unwrap_or(u32::MAX);
            let next = from.map(|register| aligned(register).saturating_add(words));
            let loaded = self.loaded(next);
            place += loaded.padded();
            fields.push(loaded);
        }
        fields
    }

    fn bitwise(&mut self, parts: &[Bitwise]) {
        let (mut from, mut to, mut mask, mut xor, mut plain) = (None, None, None, vec![0; WORD], true);
        for part in parts {
            match part {
                Bitwise::SourceRegister(register) => from = Some(u32::from(*register)),
                Bitwise::DestinationRegister(register) => to = Some(u32::from(*register)),
                Bitwise::Mask(DataAttribute::Value(value)) => mask = Some(value.clone()),
                Bitwise::Xor(DataAttribute::Value(value)) => xor.clone_from(value),
                Bitwise::Op(operation) => plain &= *operation == 0,
                Bitwise::Length(_) => {}
                _ => plain = false,
            }
        }
        let loaded = match (self.loaded(from), mask) {
            (loaded @ Loaded::Connmark(_), Some(mask)) if plain => loaded.remarked(&mask, &xor).unwrap_or(Loaded::Unknown),
            (loaded, Some(mask)) if plain && xor.iter().all(|byte| *byte == 0) => loaded.masked(&mask),
            (_, _) => Loaded::Unknown,
        };
        if let Some(to) = to {
            self.load(to, loaded);
        }
    }

    fn compare(&mut self, parts: &[Cmp]) {
        let (mut from, mut operator, mut data) = (None, None, None);
        for part in parts {
            match part {
                Cmp::SourceRegister(register) => from = Some(u32::from(*register)),
                Cmp::Op(found) => operator = Some(*found),
                Cmp::Data(DataAttribute::Value(value)) => data = Some(value.as_slice()),
                _ => {}
            }
        }
        let test = match operator {
            Some(Operator::Equal) => Some(Test::Equal),
            Some(Operator::NotEqual) => Some(Test::NotEqual),
            Some(Operator::LessThan) => Some(Test::Less),
            Some(Operator::LessThanEqual) => Some(Test::LessOrEqual),
            Some(Operator::GreaterThan) => Some(Test::Greater),
            Some(Operator::GreatherThanEqual) => Some(Test::GreaterOrEqual),
            Some(_) | None => None,
        };
        let condition = match (test, data) {
            (Some(test), Some(data)) => self.loaded(from).compared(test, data),
            (_, _) => Condition::Uncertain,
        };
        self.conditions.push(condition);
    }

    fn look_up(&mut self, parts: &[Lookup]) {
        let (mut set, mut from, mut to, mut flags) = (None, None, None, 0);
        for part in parts {
            match part {
                Lookup::Set(name) => set = Some(name.as_str()),
                Lookup::SourceRegister(register) => from = Some(u32::from(*register)),
                Lookup::DestinationRegister(register) => to = Some(u32::from(*register)),
                Lookup::Flags(found) => flags = *found,
                _ => {}
            }
        }
        let set = set.and_then(|name| self.sets.get(name));
        let fields = self.concatenated(from, set.map_or(0, Set::key_size));
        match (to, set) {
            (None, Some(set)) => self.conditions.push(set.condition(&fields, flags)),
            (None, None) => self.conditions.push(Condition::Uncertain),
            (Some(VERDICT_REGISTER), Some(set)) => {
                self.outcome.extend(set.verdicts(&fields));
            }
            (Some(VERDICT_REGISTER), None) => self.give_up(),
            // A key that is not in the map ends the rule.
            (Some(register), set) => {
                self.conditions.push(set.map_or(Condition::Uncertain, |set| set.condition(&fields, 0)));
                self.load(register, Loaded::Unknown);
            }
        }
    }

    fn immediate(&mut self, parts: &[Immediate]) {
        let (mut register, mut value) = (VERDICT_REGISTER, None);
        for part in parts {
            match part {
                Immediate::Data(DataAttribute::Verdict(found)) => self.does(verdict(found)),
                Immediate::Data(DataAttribute::Value(found)) => value = Some(found.clone()),
                Immediate::DestinationRegister(to) => register = u32::from(*to),
                _ => {}
            }
        }
        if register != VERDICT_REGISTER {
            self.load(register, value.map_or(Loaded::Unknown, Loaded::Constant));
        }
    }

    fn constant(&self, register: u32) -> Option<Vec<u8>> {
        if let Loaded::Constant(value) = self.loaded(Some(register)) { Some(value) } else { None }
    }

    fn other(&mut self, name: &str, attributes: &[DefaultNla]) {
        match name {
            "ct" => self.ct(attributes),
            "reject" => self.does(Action::Drop),
            "masq" | "redir" => self.does(Action::Translate(NewAddress::Own)),
            "nat" => self.nat(attributes),
            "notrack" => self.does(Action::Untrack),
            "counter" | "log" | "objref" | "dup" | "flow_offload" | "last" => {}
            "match" => self.conditions.extend(xtables::matches(attributes)),
            "target" => {
                if let Some(action) = xtables::target(attributes) {
                    self.does(action);
                }
            }
            "range" => self.range(attributes),
            "limit" => self.limit(attributes),
            "connlimit" => self.connlimit(attributes),
            "dynset" => self.dynset(attributes),
            "quota" => self.conditions.push(Condition::Uncertain),
            "fib" => self.fib(attributes),
            "exthdr" => self.exthdr(attributes),
            // They load a value that is not known here.
            "rt" | "socket" | "osf" | "hash" | "numgen" | "tunnel" | "xfrm" | "byteorder" => {
                self.registers.clear();
            }
            _ => self.give_up(),
        }
    }
}

/// The action of a verdict.
pub(super) fn verdict(parts: &[VerdictAttribute]) -> Action {
    let code = parts.iter().find_map(|part| if let VerdictAttribute::Code(code) = part { Some(*code) } else { None });
    let chain = parts.iter().find_map(|part| if let VerdictAttribute::Chain(name) = part { Some(name.clone()) } else { None });
    match (code, chain) {
        (Some(Verdict::Jump), Some(chain)) => Action::Jump(chain),
        (Some(Verdict::Goto), Some(chain)) => Action::Goto(chain),
        (Some(Verdict::Return), _) => Action::Return,
        (Some(Verdict::Continue | Verdict::Break), _) => Action::Continue,
        (Some(Verdict::Other(NF_ACCEPT)), _) => Action::Accept,
        (Some(Verdict::Other(NF_DROP)), _) => Action::Drop,
        (_, _) => Action::Uncertain,
    }
}

/// A register of 16 bytes is the same as the first of four registers of 4 bytes.
fn aligned(register: u32) -> u32 {
    if (1..=4).contains(&register) { 4 + register * 4 } else { register }
}

pub(super) fn bytes(attribute: &DefaultNla) -> Vec<u8> {
    let mut bytes = vec![0; attribute.value_len()];
    attribute.emit_value(&mut bytes);
    bytes
}
