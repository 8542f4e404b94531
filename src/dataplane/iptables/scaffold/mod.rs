//! The tables and built-in chains of `nf_tables` in which the jumps to the operator's chains are.
//!
//! If they are missing, iptables-nft creates them at its first write and never removes them: a node that had none would
//! keep an empty `table ip nat`. So the operator creates them and puts its mark on each. `cleanup` removes those that have
//! the mark and are empty. The mark is stored in the kernel: it disappears together with the table or chain, and no file is
//! needed. Tables and chains that existed before do not have the mark. Nothing that contains a rule, a chain or a setting
//! of another program is removed.

mod wire;

use rustix::io::Errno;
use tracing::debug;

use super::chain::Chains;
use super::layout::{Stage, Table};
use super::saved::{JumpState, SavedTable};
use crate::netlink::{NetlinkError, Refusal};
use wire::Wire;

/// The number of attempts for a transaction if other programs write at the same time.
const TRIES: usize = 8;

/// Why tables and built-in chains could not be created or removed.
#[derive(Debug, thiserror::Error)]
pub enum ScaffoldError {
    /// The communication with the kernel failed.
    #[error("nf_tables cannot be read or written")]
    Netlink(#[from] NetlinkError),
    /// The kernel refused the whole transaction.
    #[error("the kernel refuses: {0}")]
    Refused(Refusal),
    /// Other programs wrote in between at each attempt.
    #[error("other programs changed nf_tables during each of {TRIES} attempts; try again")]
    Overtaken,
}

/// What was removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// Tables.
    pub tables: usize,
    /// Built-in chains.
    pub chains: usize,
}

/// A table as it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
struct HeldTable {
    ours: bool,
    /// The number of chains, sets and other objects in it.
    uses: u32,
    /// Whether a flag such as dormant was set on it.
    altered: bool,
}

/// A built-in chain as it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
struct HeldChain {
    ours: bool,
    /// The number of its rules plus the number of jumps to it.
    uses: u32,
    /// Whether its policy is to accept.
    accepts: bool,
}

/// One change in a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    MakeTable(Table),
    MakeChain(Stage),
    RemoveChain(Stage),
    RemoveTable(Table),
}

/// The tables and built-in chains that were found.
#[derive(Debug, Default)]
struct Held {
    tables: Vec<(Table, HeldTable)>,
    chains: Vec<(Stage, HeldChain)>,
}

/// Creates the table and built-in chains for the jumps before iptables-nft would. Those of iptables-nft have no mark, so
/// cleanup could not remove them. `chains` are those that are going to be written.
pub(super) async fn prepare(table: Table, chains: &Chains, before: &SavedTable) {
    let mut stages = Stage::ALL.into_iter().filter(|stage| stage.table() == table && chains.contains_key(&stage.root()));
    // If the jumps exist, their chains exist too.
    if stages.any(|stage| before.jump(stage) == JumpState::Missing)
        && let Err(error) = transact(|held| missing(held, table)).await
    {
        // iptables-nft then creates them, and cleanup does not remove them.
        let error = &error as &(dyn std::error::Error + Send + Sync);
        debug!(table = table.name(), error, "tables and built-in chains are left for iptables-nft to make");
    }
}

/// Removes the tables and chains that have the mark and are empty.
///
/// # Errors
/// When the kernel cannot be asked, when it refuses, or when other programs write at each attempt. Nothing is removed then.
pub(in crate::dataplane) async fn remove() -> Result<Removed, ScaffoldError> {
    let steps = transact(idle).await?;
    let count = |is: fn(&Step) -> bool| steps.iter().filter(|step| is(step)).count();
    Ok(Removed {
        tables: count(|step| matches!(step, Step::RemoveTable(_))),
        chains: count(|step| matches!(step, Step::RemoveChain(_))),
    })
}

/// Reads, decides and changes in one step: the kernel refuses the change if another program has written since the read.
async fn transact(decide: impl Fn(&Held) -> Vec<Step>) -> Result<Vec<Step>, ScaffoldError> {
    let mut wire = Wire::open()?;
    for _ in 0..TRIES {
        let Some(generation) = wire.generation().await? else {
            // Without nf_tables in the kernel there is nothing to create or remove. iptables-nft reports the error.
            return Ok(Vec::new());
        };
        let mut held = Held::default();
        for table in Table::ALL {
            held.tables.extend(wire.table(table).await?.map(|found| (table, found)));
        }
        for stage in Stage::ALL {
            held.chains.extend(wire.chain(stage).await?.map(|found| (stage, found)));
        }
        let steps = decide(&held);
        match wire.transact(generation, &steps).await? {
            Ok(()) => return Ok(steps),
            Err(refusal) if refusal.errno == Errno::RESTART => {}
            Err(refusal) => return Err(ScaffoldError::Refused(refusal)),
        }
    }
    Err(ScaffoldError::Overtaken)
}

fn missing(held: &Held, table: Table) -> Vec<Step> {
    let stages = Stage::ALL.into_iter().filter(|stage| stage.table() == table);
    let chains = stages.filter(|stage| !held.chains.iter().any(|(found, _)| found == stage)).map(Step::MakeChain);
    let tables = (!held.tables.iter().any(|(found, _)| *found == table)).then_some(Step::MakeTable(table));
    tables.into_iter().chain(chains).collect()
}

fn idle(held: &Held) -> Vec<Step> {
    let is_idle = |chain: &HeldChain| chain.ours && chain.uses == 0 && chain.accepts;
    let chains: Vec<Stage> = held.chains.iter().filter(|(_, chain)| is_idle(chain)).map(|(stage, _)| *stage).collect();
    let left = |table: Table, uses: u32| uses as usize != chains.iter().filter(|stage| stage.table() == table).count();
    let tables = held.tables.iter().filter(|(table, found)| found.ours && !found.altered && !left(*table, found.uses));
    let tables: Vec<Step> = tables.map(|(table, _)| Step::RemoveTable(*table)).collect();
    chains.into_iter().map(Step::RemoveChain).chain(tables).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(uses: u32) -> HeldTable {
        HeldTable { ours: true, uses, altered: false }
    }

    fn chain(uses: u32) -> HeldChain {
        HeldChain { ours: true, uses, accepts: true }
    }

    fn nat(table: HeldTable, prerouting: HeldChain, postrouting: HeldChain) -> Held {
        Held {
            tables: vec![(Table::Nat, table)],
            chains: vec![(Stage::Postrouting, postrouting), (Stage::Prerouting, prerouting)],
        }
    }

    #[test]
    fn what_is_missing_is_made_the_table_first() {
        use Step::{MakeChain, MakeTable};
        assert_eq!(
            missing(&Held::default(), Table::Nat),
            [MakeTable(Table::Nat), MakeChain(Stage::Postrouting), MakeChain(Stage::Prerouting)]
        );
        let held = Held { tables: vec![(Table::Nat, table(1))], chains: vec![(Stage::Prerouting, chain(0))] };
        assert_eq!(missing(&held, Table::Nat), [MakeChain(Stage::Postrouting)]);
        assert_eq!(missing(&nat(table(2), chain(0), chain(0)), Table::Nat), []);
    }

    #[test]
    fn what_is_ours_and_holds_nothing_goes_the_table_last() {
        use Step::{RemoveChain, RemoveTable};
        assert_eq!(
            idle(&nat(table(2), chain(0), chain(0))),
            [RemoveChain(Stage::Postrouting), RemoveChain(Stage::Prerouting), RemoveTable(Table::Nat)]
        );
    }

    #[test]
    fn what_holds_or_belongs_to_another_stays() {
        use Step::RemoveChain;
        let both = [RemoveChain(Stage::Postrouting), RemoveChain(Stage::Prerouting)];
        assert_eq!(idle(&nat(table(3), chain(0), chain(0))), both, "another chain, or a set, is in the table");
        assert_eq!(idle(&nat(HeldTable { ours: false, ..table(2) }, chain(0), chain(0))), both, "it was there before");
        assert_eq!(idle(&nat(HeldTable { altered: true, ..table(2) }, chain(0), chain(0))), both, "somebody made it dormant");
        for kept in [chain(1), HeldChain { accepts: false, ..chain(0) }, HeldChain { ours: false, ..chain(0) }] {
            assert_eq!(idle(&nat(table(2), kept, chain(0))), both[..1], "a rule, a policy, or not made by us");
        }
    }
}
