//! The iptables backend, in both variants: makes our chains and the jumps to them exactly as laid out, and tells what it read back.

mod chain;
mod choose;
mod counters;
mod jumps;
mod layout;
mod program;
mod reading;
mod rule;
mod saved;
pub mod scaffold;
mod transaction;
mod variant;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;

pub use chain::{ChainName, Chains, ForeignChain};
pub use choose::{NoVariant, choose};
pub use counters::{Counting, Met};
pub use jumps::JumpError;
pub use layout::{FANOUT, Ruleset, Stage, Table};
pub use program::ProgramError;
pub use rule::{ForeignRule, Matches, Original, Rule, Target};
pub use saved::{Builtin, JumpState, SavedTable};
pub use transaction::{rewrite, whole};
pub use variant::Variant;

use crate::model::Translation;
use counters::Counters;
use program::LOCK_WAIT_SECS;

/// How often a jump of ours that another program moved ahead of goes back to the first place, at most.
const MOVE_INTERVAL: Duration = Duration::from_mins(1);

/// Our chains in the kernel, by the programs of one variant.
#[derive(Debug)]
pub struct Iptables {
    variant: Variant,
    counting: Counting,
    memory: Mutex<Memory>,
}

/// When things were last done, where to look, and what was counted. Never what the kernel holds: that is read.
#[derive(Debug, Default)]
struct Memory {
    moved: BTreeMap<Stage, Instant>,
    audited: BTreeMap<Table, Instant>,
    /// The chains of ours that were there when the table was last read.
    seen: BTreeMap<Table, BTreeSet<ChainName>>,
    counters: Counters,
}

/// What one apply found, did and read back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RulesReport {
    /// The translations whose DNAT was in force before.
    pub before: Vec<Translation>,
    /// The chains that were written, because they were missing or not as they should be.
    pub written: Vec<ChainName>,
    /// The chains that were deleted.
    pub deleted: Vec<ChainName>,
    /// The chains that should be gone, and hold nothing any more, but that a rule of another program jumps to.
    pub stuck: BTreeSet<ChainName>,
    /// The built-in chains in which our jump was put first.
    pub jumps: Vec<Stage>,
    /// Read back: the chains that are still not as they should be.
    pub differing: Vec<ChainName>,
    /// Read back: the built-in chains in which our jump is not first, and what stands there instead.
    pub overridden: BTreeMap<Stage, String>,
    /// Whether the policy of `filter FORWARD` is `DROP`, so that nothing passes but what a rule accepts.
    pub forward_policy: ForwardPolicy,
    /// Read back: how much of ours each table holds.
    pub held: BTreeMap<Table, Held>,
    /// The connections that met our rules, where they are counted.
    pub met: Met,
}

/// How much of ours a table holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Chains.
    pub chains: usize,
    /// Rules in them.
    pub rules: usize,
}

/// What becomes of a routed packet that no rule decides about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ForwardPolicy {
    /// It passes.
    #[default]
    Accept,
    /// It is dropped.
    Drop,
}

/// Why the rules could not be made as they should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RulesError {
    /// A program failed.
    #[error(transparent)]
    Program(#[from] ProgramError),
    /// A jump could not be changed.
    #[error(transparent)]
    Jump(#[from] JumpError),
    /// A table holds what the variant's programs cannot read.
    #[error("table {table} holds rules that {program} cannot read; move them to a table of their own, for example with nft")]
    Unreadable {
        /// The table.
        table: &'static str,
        /// The program.
        program: &'static str,
    },
}

/// Chains of ours that should be gone are still there, empty.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{count} chains of ours, {first} among them, are empty but cannot be deleted: rules of other programs jump to them; remove those rules"
)]
pub struct Stuck {
    count: usize,
    first: ChainName,
}

impl RulesReport {
    /// The chains that could not be deleted, if there are any.
    #[must_use]
    pub fn stuck(&self) -> Option<Stuck> {
        self.stuck.first().map(|first| Stuck { count: self.stuck.len(), first: first.clone() })
    }

    /// Whether anything was written.
    #[must_use]
    pub fn changed(&self) -> bool {
        !(self.written.is_empty() && self.deleted.is_empty() && self.jumps.is_empty())
    }

    /// Whether the kernel, read back, holds exactly what it should.
    #[must_use]
    pub fn is_exact(&self) -> bool {
        self.differing.is_empty() && self.overridden.is_empty()
    }
}

type Tables = BTreeMap<Table, SavedTable>;

impl Iptables {
    /// The chains of ours, by the programs of `variant`.
    #[must_use]
    pub fn new(variant: Variant) -> Self {
        Self { variant, counting: Counting::Off, memory: Mutex::default() }
    }

    /// The same, which counts the connections that meet our rules, or does not.
    #[must_use]
    pub fn counting(self, counting: Counting) -> Self {
        Self { counting, ..self }
    }

    /// The variant.
    #[must_use]
    pub const fn variant(&self) -> Variant {
        self.variant
    }

    /// Makes our chains exactly `ruleset` and reads them back.
    ///
    /// # Errors
    /// When a program fails or a table cannot be read. What was done until then stays, and serves every flow it served before.
    pub async fn apply(&self, ruleset: &Ruleset) -> Result<RulesReport, RulesError> {
        let mut memory = self.memory.lock().await;
        let before = self.read_all(&mut memory).await?;
        memory.counters.read(&before[&Table::Nat]);
        let mut report = RulesReport { before: before[&Table::Nat].translations(), ..RulesReport::default() };
        if ruleset.is_empty() {
            self.take_out(&before, &mut report).await?;
        } else {
            self.write(ruleset, &before, &mut memory, &mut report).await?;
        }
        self.delete_stale(ruleset, &before, &mut report).await?;
        let after = if report.changed() {
            let expected = |table| ruleset.chains(table).keys().chain(&report.stuck).cloned().collect();
            memory.seen = Table::ALL.into_iter().map(|table| (table, expected(table))).collect();
            memory.counters.written(&report.written);
            let after = self.read_all(&mut memory).await?;
            memory.counters.read_back(&after[&Table::Nat]);
            after
        } else {
            before
        };
        report.met = memory.counters.told();
        conclude(&mut report, ruleset, &after);
        Ok(report)
    }

    /// Reads our chains and says how they differ from `ruleset`, with the judgement of [`apply`](Self::apply); writes nothing.
    ///
    /// # Errors
    /// When a program fails or a table cannot be read.
    pub async fn inspect(&self, ruleset: &Ruleset) -> Result<RulesReport, RulesError> {
        let mut tables = Tables::new();
        for table in Table::ALL {
            tables.insert(table, self.read_whole(table).await?);
        }
        let mut report = RulesReport { before: tables[&Table::Nat].translations(), ..RulesReport::default() };
        conclude(&mut report, ruleset, &tables);
        Ok(report)
    }

    /// Writes the chains that differ and puts our jumps first. Whatever is translated may already pass and leaves translated.
    async fn write(
        &self,
        ruleset: &Ruleset,
        before: &Tables,
        memory: &mut Memory,
        report: &mut RulesReport,
    ) -> Result<(), RulesError> {
        for table in Table::ALL {
            let chains = ruleset.chains(table);
            if self.variant == Variant::Nft {
                scaffold::prepare(table, &before[&table]).await;
            }
            let differing: Vec<ChainName> = before[&table].differing(chains).cloned().collect();
            for text in rewrite(self.variant, table, chains, &differing) {
                self.restore(&text).await?;
            }
            report.written.extend(differing);
            for stage in Stage::ALL.into_iter().filter(|stage| stage.table() == table) {
                self.place_jump(stage, &before[&table], memory, report).await?;
            }
        }
        Ok(())
    }

    async fn place_jump(
        &self,
        stage: Stage,
        before: &SavedTable,
        memory: &mut Memory,
        report: &mut RulesReport,
    ) -> Result<(), RulesError> {
        let due = match before.jump(stage) {
            JumpState::First => false,
            JumpState::Missing | JumpState::Changed => true,
            JumpState::Behind(_) => memory.moved.get(&stage).is_none_or(|moved| moved.elapsed() >= MOVE_INTERVAL),
        };
        if due {
            jumps::put_first(self.variant, stage, before).await?;
            memory.moved.insert(stage, Instant::now());
            report.jumps.push(stage);
        }
        Ok(())
    }

    /// Takes our jumps out, in the order in which no flow is translated by halves.
    async fn take_out(&self, before: &Tables, report: &mut RulesReport) -> Result<(), RulesError> {
        for stage in Stage::ALL.into_iter().rev() {
            if before[&stage.table()].jump(stage) != JumpState::Missing {
                jumps::take_out(self.variant, stage, &before[&stage.table()]).await?;
                report.jumps.push(stage);
            }
        }
        Ok(())
    }

    async fn delete_stale(&self, ruleset: &Ruleset, before: &Tables, report: &mut RulesReport) -> Result<(), RulesError> {
        for table in Table::ALL.into_iter().rev() {
            let stale: Vec<ChainName> = before[&table].stale(ruleset.chains(table)).cloned().collect();
            match self.delete(table, &stale).await {
                Ok(()) => report.deleted.extend(stale),
                // Most likely a rule of another program jumps to one of them, which must not hold up anything else.
                Err(ProgramError::Refused { .. }) => self.delete_each(table, &before[&table], stale, report).await?,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Empties the chains `stale`, then deletes those that the kernel lets go.
    async fn delete_each(
        &self,
        table: Table,
        before: &SavedTable,
        stale: Vec<ChainName>,
        report: &mut RulesReport,
    ) -> Result<(), RulesError> {
        let full: Vec<ChainName> = stale.iter().filter(|name| !before.holds(name, &[])).cloned().collect();
        for text in rewrite(self.variant, table, &Chains::new(), &full) {
            self.restore(&text).await?;
        }
        report.written.extend(full);
        // Those that were jumped from come first, so that what they jumped to is free.
        for name in stale {
            match self.delete(table, std::slice::from_ref(&name)).await {
                Ok(()) => report.deleted.push(name),
                Err(ProgramError::Refused { .. }) => {
                    report.stuck.insert(name);
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    async fn delete(&self, table: Table, names: &[ChainName]) -> Result<(), ProgramError> {
        match transaction::delete(table, names) {
            Some(text) => self.restore(&text).await,
            None => Ok(()),
        }
    }

    async fn restore(&self, text: &str) -> Result<(), ProgramError> {
        program::run(self.variant.restore(), &["--noflush", "-w", LOCK_WAIT_SECS], text).await?;
        Ok(())
    }
}

fn conclude(report: &mut RulesReport, ruleset: &Ruleset, after: &Tables) {
    for table in Table::ALL {
        let held = &after[&table].chains;
        report.held.insert(table, Held { chains: held.len(), rules: held.values().map(Vec::len).sum() });
        let chains = ruleset.chains(table);
        report.differing.extend(after[&table].differing(chains).cloned());
        // One that should be gone may stay where another program holds on to it, but then it holds nothing.
        let stale = after[&table].stale(chains).filter(|name| !after[&table].holds(name, &[]));
        report.differing.extend(stale.cloned());
    }
    for stage in Stage::ALL.into_iter().filter(|_| !ruleset.is_empty()) {
        let instead = match after[&stage.table()].jump(stage) {
            JumpState::First => continue,
            JumpState::Missing => {
                report.differing.push(stage.root());
                "no jump to our chains".to_owned()
            }
            JumpState::Changed => "another jump to our chains".to_owned(),
            JumpState::Behind(rule) => rule,
        };
        report.overridden.insert(stage, instead);
    }
    report.forward_policy = match after[&Table::Filter].policy(Stage::Forward) {
        "DROP" => ForwardPolicy::Drop,
        _ => ForwardPolicy::Accept,
    };
}
