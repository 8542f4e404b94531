//! Asks `nf_tables` directly for what its iptables programs cannot print: which chains a table has, and to which chain each
//! rule of a built-in chain jumps (`include/uapi/linux/netfilter/nf_tables.h`).
//!
//! Does not interpret expressions, so it also sees rules with features that iptables does not support.

use netlink_packet_core::{
    DefaultNla, Emitable, NLA_TYPE_MASK, NetlinkDeserializable, NetlinkHeader, NetlinkSerializable, NlasIterator,
};
use rustix::io::Errno;

use super::chain::ChainName;
use super::layout::{Stage, Table};
use crate::netlink::{NetlinkError, Socket};

/// The netfilter subsystem id of `nf_tables` (`NFNL_SUBSYS_NFTABLES`), in the upper byte of a message type.
const NFTABLES: u16 = 10 << 8;
const NFT_MSG_NEWCHAIN: u16 = NFTABLES | 3;
const NFT_MSG_GETCHAIN: u16 = NFTABLES | 4;
const NFT_MSG_NEWRULE: u16 = NFTABLES | 6;
const NFT_MSG_GETRULE: u16 = NFTABLES | 7;
const NFTA_CHAIN_TABLE: u16 = 1;
const NFTA_CHAIN_NAME: u16 = 3;
const NFTA_CHAIN_POLICY: u16 = 5;
const NFTA_RULE_TABLE: u16 = 1;
const NFTA_RULE_CHAIN: u16 = 2;
const NFTA_RULE_EXPRESSIONS: u16 = 4;
const NFTA_EXPR_DATA: u16 = 2;
const NFTA_IMMEDIATE_DATA: u16 = 2;
const NFTA_DATA_VERDICT: u16 = 2;
const NFTA_VERDICT_CHAIN: u16 = 2;
/// `struct nfgenmsg` of an IPv4 request.
const IPV4: [u8; 4] = [2, 0, 0, 0];
/// The policy that drops (`NF_DROP`, `include/uapi/linux/netfilter.h`).
const NF_DROP: [u8; 4] = [0; 4];

/// A built-in chain, as far as it is known without the text of its rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Outline {
    /// Whether its policy is to drop.
    pub(super) drops: bool,
    /// The jump target of each of its rules, in order.
    pub(super) jumps: Vec<Option<String>>,
}

/// The operator's chains in `table`; `None` if the table does not exist.
pub(super) async fn our_chains(table: Table) -> Result<Option<Vec<ChainName>>, NetlinkError> {
    let found = chains(table).await?;
    let names = found.iter().filter_map(|chain| chain.name.parse().ok()).collect();
    Ok((!found.is_empty()).then_some(names))
}

/// The built-in chain of `stage`; `None` if it does not exist.
pub(super) async fn outline(stage: Stage) -> Result<Option<Outline>, NetlinkError> {
    let (table, builtin) = (stage.table(), stage.builtin());
    let Some(chain) = chains(table).await?.into_iter().find(|chain| chain.name == builtin) else { return Ok(None) };
    let request = request(NFT_MSG_GETRULE, &[(NFTA_RULE_TABLE, table.name()), (NFTA_RULE_CHAIN, builtin)]);
    let keep = |message: Raw| {
        let attributes = message.attributes(NFT_MSG_NEWRULE)?;
        // A kernel that does not support the filter lists every rule.
        let is = |kind, name: &str| text(attributes, kind).as_deref() == Some(name);
        (is(NFTA_RULE_TABLE, table.name()) && is(NFTA_RULE_CHAIN, builtin)).then(|| jump(attributes))
    };
    let jumps = Socket::open(netlink_sys::protocols::NETLINK_NETFILTER)?.dump(request, keep).await?;
    Ok(Some(Outline { drops: chain.drops, jumps }))
}

struct Chain {
    name: String,
    drops: bool,
}

async fn chains(table: Table) -> Result<Vec<Chain>, NetlinkError> {
    let keep = |message: Raw| {
        let attributes = message.attributes(NFT_MSG_NEWCHAIN)?;
        let here = text(attributes, NFTA_CHAIN_TABLE).as_deref() == Some(table.name());
        let drops = value(attributes, NFTA_CHAIN_POLICY).is_some_and(|policy| policy == NF_DROP);
        text(attributes, NFTA_CHAIN_NAME).filter(|_| here).map(|name| Chain { name, drops })
    };
    let mut socket = Socket::open(netlink_sys::protocols::NETLINK_NETFILTER)?;
    match socket.dump(request(NFT_MSG_GETCHAIN, &[]), keep).await {
        // A kernel without nf_tables has no chains.
        Err(NetlinkError::Refused(refusal)) if matches!(refusal.errno, Errno::INVAL | Errno::OPNOTSUPP) => Ok(Vec::new()),
        listed => listed,
    }
}

/// The jump target of a rule with these attributes.
fn jump(rule: &[u8]) -> Option<String> {
    let expressions = value(rule, NFTA_RULE_EXPRESSIONS)?;
    let mut jumps = NlasIterator::new(expressions.as_slice()).flatten().filter_map(|expression| {
        let data = value(expression.value(), NFTA_EXPR_DATA)?;
        let verdict = value(&value(&data, NFTA_IMMEDIATE_DATA)?, NFTA_DATA_VERDICT)?;
        text(&verdict, NFTA_VERDICT_CHAIN)
    });
    jumps.next()
}

fn value(attributes: &[u8], kind: u16) -> Option<Vec<u8>> {
    let found = NlasIterator::new(attributes).flatten().find(|attribute| attribute.kind() & NLA_TYPE_MASK == kind)?;
    Some(found.value().to_vec())
}

fn text(attributes: &[u8], kind: u16) -> Option<String> {
    let bytes = value(attributes, kind)?;
    Some(String::from_utf8_lossy(&bytes).trim_end_matches('\0').to_owned())
}

fn request(kind: u16, named: &[(u16, &str)]) -> Raw {
    let mut payload = IPV4.to_vec();
    for (kind, name) in named {
        let attribute = DefaultNla::new(*kind, [name.as_bytes(), &[0]].concat());
        let start = payload.len();
        payload.resize(start + attribute.buffer_len().next_multiple_of(4), 0);
        attribute.emit(&mut payload[start..]);
    }
    Raw { kind, payload }
}

/// A message with undecoded content.
#[derive(Clone, Debug)]
struct Raw {
    kind: u16,
    payload: Vec<u8>,
}

impl Raw {
    fn attributes(&self, kind: u16) -> Option<&[u8]> {
        if self.kind == kind { self.payload.get(IPV4.len()..) } else { None }
    }
}

impl NetlinkSerializable for Raw {
    fn message_type(&self) -> u16 {
        self.kind
    }

    fn buffer_len(&self) -> usize {
        self.payload.len()
    }

    fn serialize(&self, buffer: &mut [u8]) {
        buffer[..self.payload.len()].copy_from_slice(&self.payload);
    }
}

impl NetlinkDeserializable for Raw {
    type Error = std::convert::Infallible;

    fn deserialize(header: &NetlinkHeader, payload: &[u8]) -> Result<Self, Self::Error> {
        Ok(Self { kind: header.message_type, payload: payload.to_vec() })
    }
}
