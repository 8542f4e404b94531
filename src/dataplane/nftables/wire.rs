//! The messages that read and change the table (`include/uapi/linux/netfilter/nf_tables.h`).
//!
//! Decides nothing: the caller gives the changes.

use std::collections::{BTreeMap, BTreeSet};

use netlink_packet_core::{NLM_F_APPEND, NLM_F_CREATE, NLM_F_EXCL};
use rustix::io::Errno;

use super::class::Hooked;
use super::compare::{ACCEPT, Held, HeldChain, HeldElement, HeldSet, Step, base};
use super::expression::{DATA_VERDICT, Expression, NFTA_DATA_VALUE, NFTA_LIST_ELEM, VERDICT_CHAIN, VERDICT_CODE, listed};
use super::layout::{Definition, TABLE, VERDICT, Value};
use super::ownership::{Owner, Ownership};
use crate::netlink::raw::{Attributes, Raw, each, number, text, value};
use crate::netlink::{Change, NetlinkError, Refusal, Socket, generation};

const NEWTABLE: u16 = 0;
const GETTABLE: u16 = 1;
const DELTABLE: u16 = 2;
const NEWCHAIN: u16 = 3;
const GETCHAIN: u16 = 4;
const DELCHAIN: u16 = 5;
const NEWRULE: u16 = 6;
const GETRULE: u16 = 7;
const DELRULE: u16 = 8;
const NEWSET: u16 = 9;
const GETSET: u16 = 10;
const DELSET: u16 = 11;
const NEWSETELEM: u16 = 12;
const GETSETELEM: u16 = 13;
const DELSETELEM: u16 = 14;

const TABLE_NAME: u16 = 1;
const TABLE_FLAGS: u16 = 2;
/// Tables that do nothing (`NFT_TABLE_F_DORMANT`).
const DORMANT: u32 = 1;
/// Tables that only the socket changes that made them (`NFT_TABLE_F_OWNER`), and that stay when it is closed
/// (`NFT_TABLE_F_PERSIST`).
const OWNER: u32 = 2;
const PERSIST: u32 = 4;

const CHAIN_TABLE: u16 = 1;
const CHAIN_NAME: u16 = 3;
const CHAIN_HOOK: u16 = 4;
const CHAIN_POLICY: u16 = 5;
const CHAIN_TYPE: u16 = 7;
const CHAIN_FLAGS: u16 = 10;
/// A chain that belongs to one rule (`NFT_CHAIN_BINDING`).
const BINDING: u32 = 4;
const HOOK_NUMBER: u16 = 1;
const HOOK_PRIORITY: u16 = 2;

const RULE_TABLE: u16 = 1;
const RULE_CHAIN: u16 = 2;
const RULE_EXPRESSIONS: u16 = 4;

const SET_TABLE: u16 = 1;
const SET_NAME: u16 = 2;
const SET_FLAGS: u16 = 3;
const SET_KEY_TYPE: u16 = 4;
const SET_KEY_LEN: u16 = 5;
const SET_DATA_TYPE: u16 = 6;
const SET_DATA_LEN: u16 = 7;
const SET_ID: u16 = 10;
const SET_EXPRESSION: u16 = 17;
const SET_EXPRESSIONS: u16 = 18;
/// A set with values (`NFT_SET_MAP`), and one that the kernel made for a rule (`NFT_SET_ANONYMOUS`).
const MAP: u32 = 8;
const ANONYMOUS: u32 = 1;

const LIST_TABLE: u16 = 1;
const LIST_SET: u16 = 2;
const LIST_ELEMENTS: u16 = 3;
const ELEMENT_KEY: u16 = 1;
const ELEMENT_DATA: u16 = 2;
const ELEMENT_EXPRESSION: u16 = 7;
const ELEMENT_EXPRESSIONS: u16 = 11;
/// `NFT_GOTO`.
const GOTO: i32 = -4;
const EXPRESSION_DATA: u16 = 2;
const COUNTER_PACKETS: u16 = 2;

/// The maximum length of a list of elements, in bytes: a nested attribute has 64 KiB at most.
const LIST_LEN: usize = 60_000;
/// The send buffer, in bytes: a transaction is one datagram, and nothing is allocated beforehand.
const SEND_LEN: usize = 256 * 1024 * 1024;
/// The receive buffer, in bytes.
const RECEIVE_LEN: usize = 8 * 1024 * 1024;

/// A connection to the `nf_tables` of the network namespace of the thread that opened it.
pub(super) struct Wire(Socket);

impl std::fmt::Debug for Wire {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Wire")
    }
}

impl Wire {
    pub(super) fn open() -> Result<Self, NetlinkError> {
        let socket = Socket::open(netlink_sys::protocols::NETLINK_NETFILTER)?;
        // Without the right to this, small transactions and all readings work.
        let _ = socket.send_up_to(SEND_LEN).and_then(|()| socket.keep(RECEIVE_LEN));
        Ok(Self(socket))
    }

    /// The generation of the ruleset; `None` if the kernel has no `nf_tables`.
    pub(super) async fn generation(&mut self) -> Result<Option<u32>, NetlinkError> {
        generation(&mut self.0).await
    }

    /// Does all of `steps` or nothing, in `table`.
    pub(super) async fn transact(&mut self, table: &str, steps: &[Step]) -> Result<Result<(), Refusal>, NetlinkError> {
        let [begin, end] = Raw::borders();
        self.0.transact(begin, messages(table, steps), end).await
    }

    /// The whole table.
    pub(super) async fn read(&mut self) -> Result<Held, NetlinkError> {
        let Some(flags) = self.table().await? else { return Ok(Held::default()) };
        let owner = match (flags & OWNER != 0, flags & PERSIST != 0) {
            (true, _) => Owner::Some,
            (false, true) => Owner::Left,
            (false, false) => Owner::None,
        };
        let mut held = Held { exists: true, owner, dormant: flags & DORMANT != 0, ..Held::default() };
        held.chains = self.chains().await?;
        for (chain, expressions) in self.rules().await? {
            if let Some(chain) = held.chains.get_mut(&chain) {
                chain.rules.push(expressions);
            }
        }
        for (name, definition) in self.sets().await? {
            let request = Attributes::default().text(LIST_TABLE, TABLE).text(LIST_SET, &name);
            let elements = self.0.dump(Raw::nftables(GETSETELEM, request), |message| listed_elements(&message)).await?;
            held.sets.insert(name, HeldSet { definition, elements: elements.into_iter().flatten().collect() });
        }
        Ok(held)
    }

    /// Some elements of a map or set. Those that do not exist are left out.
    pub(super) async fn elements(
        &mut self,
        name: &str,
        keys: &BTreeSet<Vec<u8>>,
    ) -> Result<BTreeMap<Vec<u8>, HeldElement>, NetlinkError> {
        let mut found = BTreeMap::new();
        for key in keys {
            let list = Attributes::default().nested(NFTA_LIST_ELEM, &Attributes::default().nested(ELEMENT_KEY, &data(key)));
            let request = Attributes::default().text(LIST_TABLE, TABLE).text(LIST_SET, name).nested(LIST_ELEMENTS, &list);
            match self.0.ask(Raw::nftables(GETSETELEM, request), |message| listed_elements(&message)).await {
                Ok(elements) => found.extend(elements.into_iter().flatten()),
                Err(NetlinkError::Refused(refusal)) if refusal.errno == Errno::NOENT => {}
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }

    /// Whether there is a table.
    pub(super) async fn exists(&mut self) -> Result<bool, NetlinkError> {
        Ok(self.generation().await?.is_some() && self.table().await?.is_some())
    }

    /// The flags of the table, if it exists.
    async fn table(&mut self) -> Result<Option<u32>, NetlinkError> {
        let request = Raw::nftables(GETTABLE, Attributes::default().text(TABLE_NAME, TABLE));
        let flags = |message: Raw| message.attributes(NEWTABLE).map(|found| number(found, TABLE_FLAGS).unwrap_or_default());
        match self.0.ask(request, flags).await {
            Err(NetlinkError::Refused(refusal)) if refusal.errno == Errno::NOENT => Ok(None),
            asked => Ok(asked?.pop()),
        }
    }

    async fn chains(&mut self) -> Result<BTreeMap<String, HeldChain>, NetlinkError> {
        let chain = |message: Raw| {
            let found = message.attributes(NEWCHAIN)?;
            let bound = number(found, CHAIN_FLAGS).unwrap_or_default() & BINDING != 0;
            (text(found, CHAIN_TABLE)? == TABLE && !bound)
                .then(|| Some((text(found, CHAIN_NAME)?.to_owned(), held_chain(found))))?
        };
        let request = Raw::nftables(GETCHAIN, Attributes::default().text(CHAIN_TABLE, TABLE));
        Ok(self.0.dump(request, chain).await?.into_iter().collect())
    }

    /// The rules in order: the chain and the expressions of each.
    async fn rules(&mut self) -> Result<Vec<(String, Vec<u8>)>, NetlinkError> {
        let rule = |message: Raw| {
            let found = message.attributes(NEWRULE)?;
            let expressions = value(found, RULE_EXPRESSIONS).unwrap_or_default().to_vec();
            (text(found, RULE_TABLE)? == TABLE).then(|| Some((text(found, RULE_CHAIN)?.to_owned(), expressions)))?
        };
        self.0.dump(Raw::nftables(GETRULE, Attributes::default().text(RULE_TABLE, TABLE)), rule).await
    }

    async fn sets(&mut self) -> Result<Vec<(String, Definition)>, NetlinkError> {
        let set = |message: Raw| {
            let found = message.attributes(NEWSET)?;
            // A set or chain without a name of its own goes with its rule.
            let named = number(found, SET_FLAGS).unwrap_or_default() & ANONYMOUS == 0;
            (text(found, SET_TABLE)? == TABLE && named)
                .then(|| Some((text(found, SET_NAME)?.to_owned(), held_definition(found))))?
        };
        self.0.dump(Raw::nftables(GETSET, Attributes::default().text(SET_TABLE, TABLE)), set).await
    }
}

fn held_chain(found: &[u8]) -> HeldChain {
    let base = value(found, CHAIN_HOOK).and_then(|hook| {
        let priority = number(hook, HOOK_PRIORITY)?.cast_signed();
        let policy = number(found, CHAIN_POLICY).unwrap_or(ACCEPT);
        Some((number(hook, HOOK_NUMBER)?, priority, text(found, CHAIN_TYPE)?.to_owned(), policy))
    });
    HeldChain { base, rules: Vec::new() }
}

fn held_definition(found: &[u8]) -> Definition {
    let flags = number(found, SET_FLAGS).unwrap_or_default();
    let data = (flags & MAP != 0).then(|| {
        let kind = number(found, SET_DATA_TYPE).unwrap_or_default();
        (kind, if kind == VERDICT { 0 } else { number(found, SET_DATA_LEN).unwrap_or_default() })
    });
    Definition {
        key_type: number(found, SET_KEY_TYPE).unwrap_or_default(),
        key_len: number(found, SET_KEY_LEN).unwrap_or_default(),
        data,
        counted: value(found, SET_EXPRESSION).is_some() || value(found, SET_EXPRESSIONS).is_some(),
    }
}

/// The elements in one message.
fn listed_elements(message: &Raw) -> Option<Vec<(Vec<u8>, HeldElement)>> {
    let list = value(message.attributes(NEWSETELEM)?, LIST_ELEMENTS)?;
    Some(each(list).filter_map(|(_, element)| held_element(element)).collect())
}

fn held_element(element: &[u8]) -> Option<(Vec<u8>, HeldElement)> {
    let key = value(value(element, ELEMENT_KEY)?, NFTA_DATA_VALUE)?.to_vec();
    let held = match value(element, ELEMENT_DATA) {
        None => Value::None,
        Some(data) => match value(data, DATA_VERDICT) {
            Some(verdict) => {
                Value::Goto(text(verdict, VERDICT_CHAIN).filter(|_| is_goto(verdict)).unwrap_or_default().to_owned())
            }
            None => Value::Data(value(data, NFTA_DATA_VALUE)?.to_vec()),
        },
    };
    let expression = value(element, ELEMENT_EXPRESSION)
        .or_else(|| each(value(element, ELEMENT_EXPRESSIONS)?).next().map(|(_, expression)| expression));
    let packets = expression
        .and_then(|expression| value(value(expression, EXPRESSION_DATA)?, COUNTER_PACKETS)?.first_chunk())
        .map_or(0, |packets| u64::from_be_bytes(*packets));
    Some((key, HeldElement { value: held, packets }))
}

fn is_goto(verdict: &[u8]) -> bool {
    number(verdict, VERDICT_CODE) == Some(GOTO.cast_unsigned())
}

fn data(bytes: &[u8]) -> Attributes {
    Attributes::default().bytes(NFTA_DATA_VALUE, bytes)
}

/// The messages for `steps`. Elements of one map that follow each other share a message.
fn messages(table: &str, steps: &[Step]) -> Vec<Change<Raw>> {
    let mut messages = Vec::new();
    let mut list = List::default();
    for (place, step) in steps.iter().enumerate() {
        match step {
            Step::Put(set, key, value) => list.add(&mut messages, (table, NEWSETELEM, set), &element(key, value)),
            Step::Take(set, key) => list.add(&mut messages, (table, DELSETELEM, set), &element(key, &Value::None)),
            Step::MakeTable(_)
            | Step::OwnTable
            | Step::RemoveTable
            | Step::MakeSet(..)
            | Step::RemoveSet(_)
            | Step::MakeChain(..)
            | Step::Fill(..)
            | Step::Flush(_)
            | Step::RemoveChain(_) => {
                list.end(&mut messages, table);
                messages.extend(structure(table, step, u32::try_from(place).unwrap_or_default()));
            }
        }
    }
    list.end(&mut messages, table);
    messages
}

/// Elements for one message.
#[derive(Default)]
struct List {
    kind: u16,
    set: String,
    elements: Attributes,
}

impl List {
    fn add(&mut self, messages: &mut Vec<Change<Raw>>, (table, kind, set): (&str, u16, &str), element: &Attributes) {
        if (self.kind, self.set.as_str()) != (kind, set) || self.elements.len() + element.len() > LIST_LEN {
            self.end(messages, table);
            (self.kind, self.set) = (kind, set.to_owned());
        }
        self.elements = std::mem::take(&mut self.elements).nested(NFTA_LIST_ELEM, element);
    }

    fn end(&mut self, messages: &mut Vec<Change<Raw>>, table: &str) {
        let elements = std::mem::take(&mut self.elements);
        if elements.len() > 0 {
            let attributes =
                Attributes::default().text(LIST_TABLE, table).text(LIST_SET, &self.set).nested(LIST_ELEMENTS, &elements);
            let flags = if self.kind == NEWSETELEM { NLM_F_CREATE | NLM_F_EXCL } else { 0 };
            messages.push(Change { message: Raw::nftables(self.kind, attributes), flags });
        }
    }
}

fn element(key: &[u8], value: &Value) -> Attributes {
    let element = Attributes::default().nested(ELEMENT_KEY, &data(key));
    match value {
        Value::None => element,
        Value::Data(value) => element.nested(ELEMENT_DATA, &data(value)),
        Value::Goto(chain) => {
            let verdict = Attributes::default().number(VERDICT_CODE, GOTO.cast_unsigned()).text(VERDICT_CHAIN, chain);
            element.nested(ELEMENT_DATA, &Attributes::default().nested(DATA_VERDICT, &verdict))
        }
    }
}

/// The messages of a step that is not about elements. `id` differs for each set of a transaction.
fn structure(table: &str, step: &Step, id: u32) -> Vec<Change<Raw>> {
    let change = |kind, attributes, flags| Change { message: Raw::nftables(kind, attributes), flags };
    let chain = |name: &str| Attributes::default().text(CHAIN_TABLE, table).text(CHAIN_NAME, name);
    let rule = |name: &str| Attributes::default().text(RULE_TABLE, table).text(RULE_CHAIN, name);
    let named = Attributes::default().text(TABLE_NAME, table);
    match step {
        Step::MakeTable(ownership) => {
            let table = match ownership {
                Ownership::Owned => named.number(TABLE_FLAGS, OWNER | PERSIST),
                Ownership::Unowned => named.number(TABLE_FLAGS, PERSIST),
                Ownership::Open => named,
            };
            vec![change(NEWTABLE, table, NLM_F_CREATE | NLM_F_EXCL)]
        }
        Step::OwnTable => vec![change(NEWTABLE, named.number(TABLE_FLAGS, OWNER | PERSIST), 0)],
        Step::RemoveTable => vec![change(DELTABLE, named, 0)],
        Step::MakeSet(name, definition) => vec![change(NEWSET, set(table, name, definition, id), NLM_F_CREATE | NLM_F_EXCL)],
        Step::RemoveSet(name) => {
            vec![change(DELSET, Attributes::default().text(SET_TABLE, table).text(SET_NAME, name), 0)]
        }
        Step::MakeChain(name, hooked) => {
            let attributes = hooked.map_or_else(|| chain(name), |hooked| hook(chain(name), hooked));
            vec![change(NEWCHAIN, attributes, NLM_F_CREATE | NLM_F_EXCL)]
        }
        Step::Fill(name, content) => {
            let added = content.rules.iter().map(|it| {
                change(NEWRULE, rule(name).nested(RULE_EXPRESSIONS, &listed(&it.expressions())), NLM_F_CREATE | NLM_F_APPEND)
            });
            std::iter::once(change(DELRULE, rule(name), 0)).chain(added).collect()
        }
        Step::Flush(name) => vec![change(DELRULE, rule(name), 0)],
        Step::RemoveChain(name) => vec![change(DELCHAIN, chain(name), 0)],
        Step::Put(..) | Step::Take(..) => Vec::new(),
    }
}

fn hook(chain: Attributes, hooked: Hooked) -> Attributes {
    let (number, priority, kind, policy) = base(hooked);
    let hook = Attributes::default().number(HOOK_NUMBER, number).number(HOOK_PRIORITY, priority.cast_unsigned());
    chain.nested(CHAIN_HOOK, &hook).number(CHAIN_POLICY, policy).text(CHAIN_TYPE, kind)
}

fn set(table: &str, name: &str, definition: &Definition, id: u32) -> Attributes {
    let Definition { key_type, key_len, data, counted } = definition;
    let flags = data.map_or(0, |_| MAP);
    let mut set = Attributes::default()
        .text(SET_TABLE, table)
        .text(SET_NAME, name)
        .number(SET_FLAGS, flags)
        .number(SET_KEY_TYPE, *key_type)
        .number(SET_KEY_LEN, *key_len)
        .number(SET_ID, id);
    if let Some((kind, len)) = data {
        set = set.number(SET_DATA_TYPE, *kind).number(SET_DATA_LEN, *len);
    }
    if *counted { set.nested(SET_EXPRESSION, &Expression::counter().encoded()) } else { set }
}
