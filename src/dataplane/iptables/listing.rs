//! Asks `nf_tables` directly for what its iptables programs cannot print: which chains a table has, and to which chain each
//! rule of a built-in chain jumps (`include/uapi/linux/netfilter/nf_tables.h`).
//!
//! Does not interpret expressions, so it also sees rules with features that iptables does not support.

use rustix::io::Errno;

use super::chain::ChainName;
use super::layout::{Stage, Table};
use crate::netlink::raw::{Attributes, Raw, each, text, value};
use crate::netlink::{NetlinkError, Socket};

const NFT_MSG_NEWCHAIN: u16 = 3;
const NFT_MSG_GETCHAIN: u16 = 4;
const NFT_MSG_NEWRULE: u16 = 6;
const NFT_MSG_GETRULE: u16 = 7;
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
    let rules = Attributes::default().text(NFTA_RULE_TABLE, table.name()).text(NFTA_RULE_CHAIN, builtin);
    let request = Raw::nftables(NFT_MSG_GETRULE, rules);
    let keep = |message: Raw| {
        let attributes = message.attributes(NFT_MSG_NEWRULE)?;
        // A kernel that does not support the filter lists every rule.
        let is = |kind, name: &str| text(attributes, kind) == Some(name);
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
        let here = text(attributes, NFTA_CHAIN_TABLE) == Some(table.name());
        let drops = value(attributes, NFTA_CHAIN_POLICY).is_some_and(|policy| policy == NF_DROP);
        text(attributes, NFTA_CHAIN_NAME).filter(|_| here).map(|name| Chain { name: name.to_owned(), drops })
    };
    let mut socket = Socket::open(netlink_sys::protocols::NETLINK_NETFILTER)?;
    match socket.dump(Raw::nftables(NFT_MSG_GETCHAIN, Attributes::default()), keep).await {
        // A kernel without nf_tables has no chains.
        Err(NetlinkError::Refused(refusal)) if matches!(refusal.errno, Errno::INVAL | Errno::OPNOTSUPP) => Ok(Vec::new()),
        listed => listed,
    }
}

/// The jump target of a rule with these attributes.
fn jump(rule: &[u8]) -> Option<String> {
    let mut jumps = each(value(rule, NFTA_RULE_EXPRESSIONS)?).filter_map(|(_, expression)| {
        let data = value(expression, NFTA_EXPR_DATA)?;
        let verdict = value(value(data, NFTA_IMMEDIATE_DATA)?, NFTA_DATA_VERDICT)?;
        text(verdict, NFTA_VERDICT_CHAIN)
    });
    jumps.next().map(str::to_owned)
}
