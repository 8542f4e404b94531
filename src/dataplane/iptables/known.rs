//! What the kernel holds, without reading it again while no other program writes.
//!
//! As long as the [`Version`] of the rules is that of the last reading, apart from the operator's own writes, only the chains that the
//! operator wrote are read back.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

use super::version::Version;
use super::{ChainName, Iptables, Memory, Report, Ruleset, SavedTable, Table, Tables, Variant, listing};
use crate::dataplane::Look;
use crate::dataplane::rules::Counting;

/// The most written chains that are read back one by one on legacy.
const SINGLY: usize = 64;

/// How much of the tables an apply read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Extent {
    /// Nothing: no program has written since the last reading.
    #[default]
    Nothing,
    /// The chains that were written.
    Written,
    /// All chains of the operator, and the built-in ones.
    Everything,
}

/// The content of each table.
#[derive(Debug)]
pub(super) struct Reading {
    pub(super) tables: Tables,
    /// The version that the tables show; `None` if another program may have written while they were read.
    version: Option<Version>,
    pub(super) extent: Extent,
}

impl Iptables {
    /// The tables. They are not read if `look` allows this and nothing was written since the last reading.
    pub(super) async fn look(&self, look: Look, memory: &mut Memory) -> Reading {
        let now = self.version().await;
        let same = |last: &Reading| last.version.as_ref().zip(now.as_ref()).is_some_and(|(last, now)| now.shows_ours_as(last));
        let last = memory.last.take().filter(same);
        // Another program may have written its own chains, and the facts that were read before may be older than that.
        memory.foreign = last.as_ref().is_none_or(|last| last.version != now);
        if let Some(last) = last
            && look == Look::Changes
        {
            return Reading { extent: Extent::Nothing, version: now, ..last };
        }
        let tables = self.read_all(memory).await;
        self.as_of(now, tables, Extent::Everything).await
    }

    /// `tables` as a reading that began with the version `begun`.
    async fn as_of(&self, begun: Option<Version>, tables: Tables, extent: Extent) -> Reading {
        let all = tables.values().all(Result::is_ok);
        let version = if all && begun.is_some() && self.version().await == begun { begun } else { None };
        Reading { tables, version, extent }
    }

    /// Takes over the counters of a reading. Before a chain is written, its counters are read once more: writing it resets them.
    pub(super) async fn count(&self, reading: &mut Reading, ruleset: &Ruleset, memory: &mut Memory) {
        let Some(Ok(nat)) = reading.tables.get_mut(&Table::Nat) else { return };
        if reading.extent == Extent::Everything {
            return memory.counters.read(nat);
        }
        if self.counting == Counting::Off {
            return;
        }
        let chains = ruleset.chains(Table::Nat);
        let changing: BTreeSet<ChainName> = nat.differing(chains).chain(nat.stale(chains)).cloned().collect();
        let held: BTreeSet<ChainName> = changing.into_iter().filter(|name| nat.chains.contains_key(name)).collect();
        if held.is_empty() {
            return;
        }
        if let Ok(read) = self.read_chains(Table::Nat, &held).await {
            memory.counters.read_part(&read);
        }
    }

    /// The tables after a write. Reads only what was written, if no other program has written since `before`, and if everything
    /// could be written. After a failure or a refusal, the report does not name each chain that was touched, and the kernel does not
    /// count a commit that changed nothing.
    pub(super) async fn read_back(
        &self,
        ruleset: &Ruleset,
        before: Reading,
        commits: u32,
        memory: &mut Memory,
        report: &Report,
    ) -> Reading {
        let now = self.version().await;
        let is_own = match (&before.version, &now) {
            (Some(before), Some(now)) => now.is_own(before, commits, report),
            (_, _) => false,
        };
        let all_named = report.failed.is_empty() && report.refused.is_empty() && report.stuck.is_empty();
        // `iptables-legacy` looks through the whole table for each chain that it prints.
        let few = self.variant == Variant::Nft || report.written.len() <= SINGLY;
        if let Some(now) = now.filter(|_| is_own && all_named && few)
            && let Some(tables) = self.read_written(ruleset, before.tables, &now, memory, report).await
        {
            let reading = self.as_of(Some(now), tables, Extent::Written).await;
            if reading.version.is_some() {
                return reading;
            }
        }
        // Everything could be written, and yet the tables are not as the operator left them.
        memory.foreign |= all_named || !is_own;
        let now = self.version().await;
        let tables = self.read_all(memory).await;
        if let Ok(nat) = &tables[&Table::Nat] {
            memory.counters.read_back(nat);
        }
        self.as_of(now, tables, Extent::Everything).await
    }

    /// `tables` with what was written, read back in the version `now`; `None` if it cannot be read.
    async fn read_written(
        &self,
        ruleset: &Ruleset,
        tables: Tables,
        now: &Version,
        memory: &mut Memory,
        report: &Report,
    ) -> Option<Tables> {
        let mut after = Tables::new();
        for (table, held) in tables {
            let mut held = held.ok()?;
            let chains = ruleset.chains(table);
            let written: BTreeSet<ChainName> = report.written.iter().filter(|name| chains.contains_key(*name)).cloned().collect();
            let deleted: Vec<&ChainName> = report.deleted.iter().filter(|name| held.chains.contains_key(*name)).collect();
            if !written.is_empty() || !deleted.is_empty() {
                let read = self.read_chains(table, &written).await.ok()?;
                if table == Table::Nat {
                    memory.counters.read_back_part(&read, report.deleted.iter());
                }
                if !deleted.is_empty() {
                    let there: BTreeSet<ChainName> = match now.chains(table) {
                        Some(names) => names.filter_map(|name| name.parse().ok()).collect(),
                        None => listing::our_chains(table).await.ok()??.into_iter().collect(),
                    };
                    held.chains.retain(|name, _| there.contains(name));
                }
                let SavedTable { chains, packets: _, builtins } = read;
                held.chains.extend(chains);
                held.builtins = builtins;
            }
            after.insert(table, Ok(held));
        }
        Some(after)
    }

    /// Whether no other program has written rules since the apply before the last one. What the caller read of the node
    /// before the last apply is then as new as that apply. `false` if this is not known.
    pub async fn is_untouched(&self) -> bool {
        let memory = self.memory.lock().await;
        let last = memory.last.as_ref().and_then(|last| last.version.as_ref());
        !memory.foreign && last.is_some() && last == self.version().await.as_ref()
    }

    /// The number of commits so far.
    pub(super) fn commits(&self) -> u32 {
        self.commits.load(Ordering::Relaxed)
    }
}
