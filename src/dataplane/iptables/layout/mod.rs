//! Lays the translations out as chains: exact, atomic to replace, and as quick for ten thousand forwards as for one.
//!
//! Pure. One invariant carries it: no chain of ours holds more than [`FANOUT`] verdicts and [`FANOUT`] jumps, whatever the set.

mod cell;
mod forward;
mod path;
mod postrouting;
mod prefix;
mod prerouting;
mod runs;
mod stage;
mod trie;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

pub use stage::{Stage, Table};
pub use trie::FANOUT;

use super::chain::Chains;
use super::rule::Rule;
use crate::model::Translation;

/// All chains of ours, by table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ruleset(BTreeMap<Table, Chains>);

impl Ruleset {
    /// The chains for `translations`, no two of which match one packet. Without any, no chain at all.
    #[must_use]
    pub fn of(translations: &BTreeSet<Translation>) -> Self {
        let mut tables = BTreeMap::<Table, Chains>::new();
        if !translations.is_empty() {
            for stage in Stage::ALL {
                let rules: Vec<Rule> = match stage {
                    Stage::Prerouting => prerouting::rules(translations),
                    Stage::Postrouting => postrouting::rules(translations),
                    Stage::Forward => forward::rules(translations),
                };
                tables.entry(stage.table()).or_default().extend(trie::grow(stage, rules));
            }
        }
        Self(tables)
    }

    /// The chains of one table, by name.
    #[must_use]
    pub fn chains(&self, table: Table) -> &Chains {
        static NONE: Chains = Chains::new();
        self.0.get(&table).unwrap_or(&NONE)
    }

    /// The tables in the order in which they are written: nothing is translated that may not pass, neither when rules come
    /// nor when all of them go.
    pub(in crate::dataplane::iptables) fn tables(&self) -> [Table; 2] {
        let mut tables = Table::ALL;
        if self.is_empty() {
            tables.reverse();
        }
        tables
    }

    /// Whether there is nothing to lay out, so that nothing of ours should be in the kernel.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
