//! The tables and built-in chains of `nf_tables` that our chains hang in.
//!
//! Where they are missing, iptables-nft would make them when it is first told to write, and leave them for ever: an empty
//! `table ip nat` on a node that had none. So we make them, with a mark of ours on each, and `cleanup` removes those that
//! bear it and hold nothing. The mark is in the kernel: it is gone when they are, and no file has to remember. Nothing that was
//! there before us bears it, and nothing that holds a rule, a chain or a setting of anybody is removed.

mod wire;

use rustix::io::Errno;
use tracing::debug;

use super::layout::{Stage, Table};
use super::saved::{JumpState, SavedTable};
use crate::netlink::{NetlinkError, Refusal};
use wire::Wire;

/// How often a transaction is begun that the writes of other programs overtake.
const TRIES: usize = 8;

/// Why tables and built-in chains could not be made or removed.
#[derive(Debug, thiserror::Error)]
pub enum ScaffoldError {
    /// The kernel cannot be asked or told.
    #[error("nf_tables cannot be read or written")]
    Netlink(#[from] NetlinkError),
    /// The kernel refused all of it.
    #[error("the kernel refuses: {0}")]
    Refused(Refusal),
    /// Other programs were faster each time.
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
    /// How many chains, sets and other things it holds.
    uses: u32,
    /// Whether somebody has set it to something, such as dormant.
    altered: bool,
}

/// A built-in chain as it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
struct HeldChain {
    ours: bool,
    /// How many rules it holds and how many jump to it.
    uses: u32,
    /// Whether what no rule decides about passes.
    accepts: bool,
}

/// One change of one transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    MakeTable(Table),
    MakeChain(Stage),
    RemoveChain(Stage),
    RemoveTable(Table),
}

/// What was found of the tables and built-in chains that concern us.
#[derive(Debug, Default)]
struct Held {
    tables: Vec<(Table, HeldTable)>,
    chains: Vec<(Stage, HeldChain)>,
}

/// Makes what our chains in `table` hang in, before iptables-nft would: it would not be known for ours when we go.
pub(super) async fn prepare(table: Table, before: &SavedTable) {
    let mut stages = Stage::ALL.into_iter().filter(|stage| stage.table() == table);
    // Where our jumps are, so are the chains that they stand in.
    if stages.any(|stage| before.jump(stage) == JumpState::Missing)
        && let Err(error) = transact(|held| missing(held, table)).await
    {
        // iptables-nft makes them then, and they stay when we go.
        let error = &error as &(dyn std::error::Error + Send + Sync);
        debug!(table = table.name(), error, "tables and built-in chains are left for iptables-nft to make");
    }
}

/// Removes what bears our mark and holds nothing, in all tables.
///
/// # Errors
/// When the kernel cannot be asked, refuses, or is written by others all the time. All of it then stays.
pub async fn remove() -> Result<Removed, ScaffoldError> {
    let steps = transact(idle).await?;
    let count = |is: fn(&Step) -> bool| steps.iter().filter(|step| is(step)).count();
    Ok(Removed {
        tables: count(|step| matches!(step, Step::RemoveTable(_))),
        chains: count(|step| matches!(step, Step::RemoveChain(_))),
    })
}

/// Looks, decides and changes as one: the kernel refuses where anybody has written since the look.
async fn transact(decide: impl Fn(&Held) -> Vec<Step>) -> Result<Vec<Step>, ScaffoldError> {
    let mut wire = Wire::open()?;
    for _ in 0..TRIES {
        let Some(generation) = wire.generation().await? else {
            // Without nf_tables in the kernel nothing of it is ours, and iptables-nft says the rest.
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
