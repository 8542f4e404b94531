//! The iptables backend, for both variants: makes the operator's chains and the jumps to them exactly as laid out, and
//! reports what it read back.

mod accepting;
mod backend;
mod chain;
mod choose;
mod counters;
mod jumps;
mod known;
mod layout;
mod legacy;
mod listing;
mod lockfile;
mod program;
mod reading;
mod rule;
mod saved;
pub(super) mod scaffold;
mod transaction;
mod variant;
mod version;
mod writing;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::AtomicU32;

use tokio::sync::Mutex;
use tokio::time::Instant;

pub(super) use accepting::Accepting;
pub(super) use backend::Layout;
pub(super) use backend::{Rules, remove};
pub use chain::{ChainName, Chains, ForeignChain};
pub use choose::{NoVariant, choose, legacy_tables, print_legacy};
pub use jumps::JumpError;
#[cfg(test)]
pub(super) use layout::tests as samples;
pub use layout::{FANOUT, Ruleset, Stage, Table};
pub(super) use legacy::{LegacyTables, watch as watch_legacy};
pub use lockfile::Holder;
pub use program::ProgramError;
pub use rule::{ForeignRule, Matches, Original, Rule, Target};
pub use saved::{Builtin, JumpState, SavedTable};
pub use transaction::{rewrite, whole};
pub use variant::Variant;

use super::Look;
use super::rules::{Counting, ForwardPolicy, Held, Met};
use crate::model::Translation;
use counters::Counters;
pub use known::Extent;
use known::Reading;

/// The operator's chains in the kernel, managed with the programs of one variant.
#[derive(Debug)]
pub struct Iptables {
    variant: Variant,
    counting: Counting,
    /// The number of transactions that a program committed, apart from those that move a jump.
    commits: AtomicU32,
    memory: Mutex<Memory>,
}

/// When operations were last done, which chains were seen, the counters, and the last reading of the kernel.
#[derive(Debug, Default)]
struct Memory {
    moved: BTreeMap<Stage, Instant>,
    audited: BTreeMap<Table, Instant>,
    /// The operator's chains that existed at the last reading of the table.
    seen: BTreeMap<Table, BTreeSet<ChainName>>,
    counters: Counters,
    /// The last reading of the kernel, after the operator's writes.
    last: Option<Reading>,
    /// Whether another program may have written between the last two readings.
    foreign: bool,
    /// Whether rules may be in force that the last apply did not ask for.
    open: bool,
    /// Why the lock file could not be protected, as it was last logged.
    unprotected: Option<String>,
}

/// What one apply found, did and read back. A failure for one table or rule is reported for that one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The tables that could not be read, or not be written completely, and why. The report about the other tables is
    /// complete.
    pub failed: BTreeMap<Table, Failure>,
    /// The rules that the program or the kernel refused. All others are in place.
    pub refused: Vec<Refused>,
    /// Read back: the translations that are still in force although they should not be.
    pub left: Vec<Translation>,
    /// The translations whose DNAT was in force before; empty if these are what the last apply asked for.
    pub before: Vec<Translation>,
    /// The chains that were written because they were missing or had other content.
    pub written: Vec<ChainName>,
    /// The chains that were deleted.
    pub deleted: Vec<ChainName>,
    /// The chains that should be deleted and are empty, but that a rule of another program jumps to.
    pub stuck: BTreeSet<ChainName>,
    /// The built-in chains in which the jump was put first.
    pub jumps: Vec<Stage>,
    /// Whether another program changed the chains while they were written, so that they were written once more.
    pub disturbed: bool,
    /// Read back: the chains that still differ, apart from rules that were refused.
    pub differing: Vec<ChainName>,
    /// Read back: the built-in chains in which the jump is not first, and the rule that is there instead.
    pub overridden: BTreeMap<Stage, String>,
    /// The policy of `filter FORWARD`. With `DROP`, only packets that a rule accepts pass.
    pub forward_policy: ForwardPolicy,
    /// Read back: how many chains and rules of the operator each table has.
    pub held: BTreeMap<Table, Held>,
    /// The connections that matched the operator's rules, if they are counted.
    pub met: Met,
    /// How much of the tables was read.
    pub read: Extent,
}

/// Why the rules could not be applied.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// A program failed.
    #[error(transparent)]
    Program(#[from] ProgramError),
    /// A jump could not be changed.
    #[error(transparent)]
    Jump(#[from] JumpError),
    /// The kernel does not list its chains.
    #[error("the kernel does not list the chains of nf_tables: {error}")]
    Unlisted {
        /// Why.
        error: String,
    },
}

impl Failure {
    /// Whether a retry may succeed.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Program(error) => error.is_transient(),
            Self::Jump(_) | Self::Unlisted { .. } => true,
        }
    }
}

/// A rule of the operator that is not in the kernel because it was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The table.
    pub table: Table,
    /// The chain that it belongs to.
    pub chain: ChainName,
    /// The rule.
    pub rule: Rule,
    /// Why it is not there.
    pub error: ProgramError,
}

impl Refused {
    /// Whether a flow of `translation` needs the rule.
    #[must_use]
    pub fn concerns(&self, translation: &Translation) -> bool {
        Stage::ALL.into_iter().any(|stage| stage.table() == self.table && stage.meets(&self.rule.matches, translation))
    }
}

impl Report {
    /// Whether anything was written.
    #[must_use]
    pub fn changed(&self) -> bool {
        !(self.written.is_empty() && self.deleted.is_empty() && self.jumps.is_empty())
    }

    /// Whether the chains, read back, differ although all of them were written: another program changed them meanwhile.
    fn was_changed_meanwhile(&self) -> bool {
        let all_written = self.changed() && self.failed.is_empty() && self.refused.is_empty();
        all_written && !self.is_written()
    }

    /// Whether the kernel, read back, has exactly the desired rules.
    #[must_use]
    pub fn is_exact(&self) -> bool {
        self.is_written() && self.overridden.is_empty()
    }

    /// As [`Self::is_exact`], but the position of the jumps is ignored.
    fn is_written(&self) -> bool {
        self.failed.is_empty() && self.left.is_empty() && self.differing.is_empty() && self.refused.is_empty()
    }
}

/// The content of each table, or why it could not be read.
type Tables = BTreeMap<Table, Result<SavedTable, Failure>>;

impl Iptables {
    /// The operator's chains, managed with the programs of `variant`.
    #[must_use]
    pub fn new(variant: Variant) -> Self {
        Self { variant, counting: Counting::Off, commits: AtomicU32::new(0), memory: Mutex::default() }
    }

    /// Sets whether the connections that match the rules are counted.
    #[must_use]
    pub fn counting(self, counting: Counting) -> Self {
        Self { counting, ..self }
    }

    /// The variant.
    #[must_use]
    pub const fn variant(&self) -> Variant {
        self.variant
    }

    /// Makes our chains exactly `ruleset`, table by table, and reads them back. What fails for one table, chain or rule
    /// stops no other; what is there stays, and serves every flow that it served before.
    ///
    /// If another program changes the chains while they are written, they are written once more. If they differ after that
    /// too, the report says so.
    pub async fn apply(&self, ruleset: &Ruleset, look: Look) -> Report {
        let mut memory = self.memory.lock().await;
        if self.variant == Variant::Legacy {
            lockfile::protect(&mut memory.unprotected);
        }
        let mut before = self.look(look, &mut memory).await;
        self.count(&mut before, ruleset, &mut memory).await;
        let mut report = Report { read: before.extent, ..Report::default() };
        // Otherwise the rules are those of the last apply, which were all desired, and the caller knows them.
        if let Ok(nat) = &before.tables[&Table::Nat]
            && (before.extent == Extent::Everything || memory.open)
        {
            report.before = nat.translations();
        }
        let mut after = self.write_all(ruleset, before, &mut memory, &mut report).await;
        conclude(&mut report, ruleset, &after.tables);
        if report.was_changed_meanwhile() {
            report.disturbed = true;
            // The other program put them in force, and the second write removes them.
            report.before.append(&mut report.left);
            after = self.write_all(ruleset, after, &mut memory, &mut report).await;
            conclude(&mut report, ruleset, &after.tables);
        }
        memory.last = Some(after);
        memory.open = report.failed.contains_key(&Table::Nat) || !report.left.is_empty();
        report.met = memory.counters.told();
        report
    }

    /// Writes every table that differs from `ruleset`, and reads all of them back if anything was written.
    async fn write_all(&self, ruleset: &Ruleset, before: Reading, memory: &mut Memory, report: &mut Report) -> Reading {
        let commits = self.commits();
        for table in ruleset.tables() {
            let written = match &before.tables[&table] {
                Ok(held) => self.write(table, ruleset.chains(table), held, memory, report).await,
                Err(error) => Err(error.clone()),
            };
            if let Err(error) = written {
                report.failed.insert(table, error);
            }
        }
        if !report.changed() {
            return before;
        }
        memory.wrote(ruleset, report);
        let commits = self.commits().wrapping_sub(commits);
        let after = self.read_back(ruleset, before, commits, memory, report).await;
        report.read = report.read.max(after.extent);
        after
    }

    /// Reads our chains and says how they differ from `ruleset`, with the judgement of [`apply`](Self::apply); writes nothing.
    pub async fn inspect(&self, ruleset: &Ruleset) -> Report {
        let mut tables = Tables::new();
        for table in Table::ALL {
            tables.insert(table, self.read_whole(table).await);
        }
        let mut report = Report::default();
        if let Ok(nat) = &tables[&Table::Nat] {
            report.before = nat.translations();
        }
        conclude(&mut report, ruleset, &tables);
        report
    }
}

impl Memory {
    /// Remembers where to look after a write. What was not done as it should be may be anywhere.
    fn wrote(&mut self, ruleset: &Ruleset, report: &Report) {
        for table in Table::ALL {
            if report.failed.contains_key(&table) {
                self.seen.remove(&table);
            } else {
                self.seen.insert(table, ruleset.chains(table).keys().chain(&report.stuck).cloned().collect());
            }
        }
        self.counters.written(&report.written);
    }
}

/// Reports what was read back, in place of an earlier reading.
fn conclude(report: &mut Report, ruleset: &Ruleset, after: &Tables) {
    report.left.clear();
    report.differing.clear();
    report.overridden.clear();
    for (table, read) in after {
        match read {
            Ok(held) => conclude_table(report, ruleset, *table, held),
            Err(error) => drop(report.failed.entry(*table).or_insert_with(|| error.clone())),
        }
    }
}

fn conclude_table(report: &mut Report, ruleset: &Ruleset, table: Table, held: &SavedTable) {
    let chains = ruleset.chains(table);
    report.held.insert(table, Held { chains: held.chains.len(), rules: held.chains.values().map(Vec::len).sum() });
    let refused = |name: &ChainName, rule: &Rule| report.refused.iter().any(|it| it.chain == *name && it.rule == *rule);
    let but_for_refused = |name: &&ChainName| {
        let taken: Vec<Rule> = chains[*name].iter().filter(|rule| !refused(name, rule)).cloned().collect();
        held.holds(name, &taken)
    };
    let differing: Vec<ChainName> = held.differing(chains).filter(|name| !but_for_refused(name)).cloned().collect();
    // One that should be gone may stay where another program holds on to it, but then it holds nothing.
    let stale: Vec<ChainName> = held.stale(chains).filter(|name| !held.holds(name, &[])).cloned().collect();
    report.left.extend(held.translations_beside(chains));
    report.differing.extend(differing.into_iter().chain(stale));
    for stage in Stage::ALL.into_iter().filter(|stage| stage.table() == table && chains.contains_key(&stage.root())) {
        let instead = match held.jump(stage) {
            JumpState::First => continue,
            JumpState::Behind(_) if stage == Stage::Input => continue,
            JumpState::Missing => {
                report.differing.push(stage.root());
                "no jump to our chains".to_owned()
            }
            JumpState::Changed => "another jump to our chains".to_owned(),
            JumpState::Behind(rule) => rule,
        };
        report.overridden.insert(stage, instead);
    }
    if table == Stage::Forward.table() {
        report.forward_policy = match held.policy(Stage::Forward) {
            "DROP" => ForwardPolicy::Drop,
            _ => ForwardPolicy::Accept,
        };
    }
}
