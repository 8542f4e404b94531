//! Which version of the rules a reading shows, so that what did not change is not read again.

use std::collections::{BTreeMap, BTreeSet};

use super::legacy::{self, Content};
use super::{ChainName, Iptables, Report, Table, Variant};
use crate::netlink::{Socket, generation};

/// A version of the rules of all programs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Version {
    /// The generation of `nf_tables`, which counts the writes of all programs.
    Generation(u32),
    /// The content of the tables of legacy xtables.
    Content(BTreeMap<Table, Content>),
}

impl Version {
    /// Whether the operator's own writes since `before` explain this version: so many transactions, which wrote what is in `report`.
    pub(super) fn is_own(&self, before: &Self, commits: u32, report: &Report) -> bool {
        match (before, self) {
            (Self::Generation(before), Self::Generation(now)) => before.wrapping_add(commits) == *now,
            (Self::Content(before), Self::Content(now)) => {
                let written: BTreeSet<&str> = report.written.iter().chain(&report.deleted).map(ChainName::as_str).collect();
                now.iter().all(|(table, now)| {
                    before.get(table).is_some_and(|before| now.differing(before).all(|name| written.contains(name)))
                })
            }
            (_, _) => false,
        }
    }

    /// Whether `before` shows the same chains of the operator and the same built-in ones, so that only chains of other programs may
    /// differ.
    pub(super) fn shows_ours_as(&self, before: &Self) -> bool {
        match (before, self) {
            (Self::Generation(before), Self::Generation(now)) => before == now,
            (Self::Content(before), Self::Content(now)) => now.iter().all(|(table, now)| {
                let concerns = |name: &str| name.parse::<ChainName>().is_ok() || legacy::BUILT_IN.contains(&name);
                before.get(table).is_some_and(|before| !now.differing(before).any(concerns))
            }),
            (_, _) => false,
        }
    }

    /// The names of the chains of a table, if the version shows them.
    pub(super) fn chains(&self, table: Table) -> Option<impl Iterator<Item = &str>> {
        match self {
            Self::Generation(_) => None,
            Self::Content(tables) => Some(tables.get(&table)?.chains()),
        }
    }
}

impl Iptables {
    /// The version of the rules now; `None` if the kernel does not say.
    pub(super) async fn version(&self) -> Option<Version> {
        match self.variant {
            Variant::Legacy => legacy::contents().map(Version::Content),
            Variant::Nft => {
                let mut socket = Socket::open(netlink_sys::protocols::NETLINK_NETFILTER).ok()?;
                generation(&mut socket).await.ok()?.map(Version::Generation)
            }
        }
    }
}
