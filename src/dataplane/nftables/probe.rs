//! Whether the kernel can hold the table: tried with a table of its own that is gone when the transaction ends.

use super::class::{ADDRESS_BITS, Class, Hooked, PORT_BITS, Purpose};
use super::compare::Step;
use super::failure::is_race;
use super::layout::{Chain, Definition, LISTEN, TRANSLATED, TYPE_OF_WAYS};
use super::ownership::Ownership;
use super::rule::Rule;
use super::wire::Wire;
use crate::dataplane::rules::{RulesError, Step as Access};
use crate::model::Connmark;
use crate::netlink::NetlinkError;

/// The table of the probe.
const TABLE: &str = "portforward_probe";

/// What is tried: the rule, its chain, and what the kernel lacks if it refuses.
const TRIED: [(Hooked, Rule, &str); 7] = [
    (Hooked::Prerouting, Rule::ToListen, "look-ups of addresses in the routes (the module nft_fib_ipv4), or maps of verdicts"),
    (Hooked::Postrouting, Rule::ToTranslated(Connmark::DEFAULT), "matches of connection tracking (the module nft_ct)"),
    (
        Hooked::Prerouting,
        Rule::LookUp(class(Purpose::Dnat)),
        "translation of addresses from maps (the module nft_chain_nat or nft_nat)",
    ),
    (Hooked::Postrouting, Rule::LookUp(class(Purpose::Snat)), "translation of sources from maps (the module nft_nat)"),
    (Hooked::Postrouting, Rule::LookUp(class(Purpose::Masquerade)), "masquerading (the module nft_masq)"),
    (Hooked::Input, Rule::LookUp(class(Purpose::Invalid)), "the state of connections (the module nft_ct)"),
    (Hooked::Prerouting, Rule::Mark(Connmark::DEFAULT), "marks of connections (the module nft_ct, CONFIG_NF_CONNTRACK_MARK)"),
];

const fn class(purpose: Purpose) -> Class {
    Class { purpose, client: ADDRESS_BITS, port: PORT_BITS, apart: false, opening: false }
}

/// Tries whether the kernel can hold rules of every kind. Changes nothing.
///
/// # Errors
/// When it cannot, with what is missing.
pub(in crate::dataplane) async fn probe() -> Result<(), RulesError> {
    let missing = |what: &str| RulesError {
        text: format!("the kernel of this node cannot hold the rules in nftables: it lacks {what}; use --backend iptables"),
        step: Access::Write,
        transient: false,
    };
    let mut wire = Wire::open().map_err(|error| RulesError {
        text: format!("nf_tables cannot be reached: {error}"),
        step: Access::Read,
        transient: error.is_transient(),
    })?;
    if wire.generation().await.ok().flatten().is_none() {
        return Err(missing("nf_tables (the module nf_tables)"));
    }
    for (hooked, rule, what) in TRIED {
        match wire.transact(TABLE, &steps(hooked, rule)).await {
            Ok(Ok(())) => {}
            Ok(Err(refusal)) if refusal.is_transient() => {}
            Ok(Err(refusal)) => return Err(missing(&format!("{what}: {refusal}"))),
            Err(error) => return Err(missing(&format!("{what}: {error}"))),
        }
    }
    Ok(())
}

/// Whether the kernel can give a table an owner and keep it when the owner ends.
pub(super) async fn can_own(wire: &mut Wire) -> Result<bool, NetlinkError> {
    let tried = wire.transact(TABLE, &[Step::MakeTable(Ownership::Owned), Step::RemoveTable]).await?;
    match tried {
        Ok(()) => Ok(true),
        // A table of this name that another probe has left says nothing.
        Err(refusal) if refusal.is_transient() || is_race(&refusal) => Err(NetlinkError::Refused(refusal)),
        Err(_) => Ok(false),
    }
}

fn steps(hooked: Hooked, rule: Rule) -> Vec<Step> {
    let chain = |rules| Chain { hooked: Some(hooked), rules };
    let mut steps = vec![Step::MakeTable(Ownership::Open)];
    for way in [LISTEN, TRANSLATED] {
        steps.push(Step::MakeSet(way.to_owned(), TYPE_OF_WAYS));
    }
    if let Rule::LookUp(class) = rule {
        steps.push(Step::MakeSet(class.name(), Definition::of(class, true)));
    }
    let name = "probe".to_owned();
    steps.push(Step::MakeChain(name.clone(), Some(hooked)));
    steps.push(Step::Fill(name, chain(vec![rule])));
    steps.push(Step::RemoveTable);
    steps
}
