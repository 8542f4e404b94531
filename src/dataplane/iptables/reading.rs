//! Reads what the kernel holds, as little as will do: where only our chains are asked for, and where their counters.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::Instant;

use super::counters::Counting;
use super::program::{self, LOCK_WAIT_SECS};
use super::{ChainName, Iptables, Memory, RulesError, SavedTable, Stage, Table, Tables, Variant, choose};

/// How often a table is read whole, to find chains of ours that somebody else made. Between, only the chains that were
/// there last are: on `nf_tables`, reading a table costs the square of everybody's chains.
const AUDIT_INTERVAL: Duration = Duration::from_mins(10);

impl Iptables {
    /// Our chains and the built-in ones of every table.
    pub(super) async fn read_all(&self, memory: &mut Memory) -> Result<Tables, RulesError> {
        let mut tables = Tables::new();
        for table in Table::ALL {
            let saved = self.read(table, memory).await?;
            memory.seen.insert(table, saved.chains.keys().cloned().collect());
            tables.insert(table, saved);
        }
        Ok(tables)
    }

    async fn read(&self, table: Table, memory: &mut Memory) -> Result<SavedTable, RulesError> {
        let audited = memory.audited.get(&table).is_some_and(|audited| audited.elapsed() < AUDIT_INTERVAL);
        if let (true, Some(seen)) = (audited, memory.seen.get(&table))
            && let Some(saved) = self.read_seen(table, seen).await
        {
            return Ok(saved);
        }
        memory.audited.insert(table, Instant::now());
        self.read_whole(table).await
    }

    /// Only the chains `seen` last, if all of them are still there.
    async fn read_seen(&self, table: Table, seen: &BTreeSet<ChainName>) -> Option<SavedTable> {
        match self.variant {
            Variant::Legacy => None,
            Variant::Nft => {
                let builtins =
                    Stage::ALL.into_iter().filter(|stage| stage.table() == table).map(|stage| stage.builtin().to_owned());
                let ours = seen.iter().rev().map(|chain| format!("{chain}{}", self.with_counters(table, chain)));
                let list: String = builtins.chain(ours).map(|chain| format!("-S {chain}\n")).collect();
                let text = format!("*{}\n{list}COMMIT\n", table.name());
                let printed = program::run(self.variant.restore(), &["--noflush", "-w", LOCK_WAIT_SECS], &text).await.ok()?;
                Some(SavedTable::parse(&printed))
            }
        }
    }

    /// What asks for the counters of a chain besides its rules: only those of PREROUTING say how many connections began.
    fn with_counters(&self, table: Table, chain: &ChainName) -> &'static str {
        match (self.counting, table) {
            (Counting::On, Table::Nat) if !Stage::Postrouting.is_of(chain) => " -v",
            (Counting::Off | Counting::On, Table::Filter | Table::Nat) => "",
        }
    }

    /// A whole table.
    pub(super) async fn read_whole(&self, table: Table) -> Result<SavedTable, RulesError> {
        if self.variant == Variant::Legacy && !choose::legacy_may_hold(table.name()) {
            // The mere question would make the table.
            return Ok(SavedTable::default());
        }
        let program = self.variant.save();
        let counters = match (self.counting, table) {
            (Counting::On, Table::Nat) => &["-c"][..],
            (Counting::Off, Table::Filter | Table::Nat) | (Counting::On, Table::Filter) => &[],
        };
        let printed = program::run(program, &[&["-t", table.name()], counters].concat(), "").await?;
        // Said on standard output, with exit status 0: taken for an empty table, it would be written again and again.
        if printed.lines().any(|line| line.starts_with('#') && line.contains("is incompatible")) {
            return Err(RulesError::Unreadable { table: table.name(), program });
        }
        Ok(SavedTable::parse(&printed))
    }
}
