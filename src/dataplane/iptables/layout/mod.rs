//! Lays out the translations as chains: exact, replaceable atomically, and as fast for ten thousand forwards as for one.
//!
//! Pure. This depends on one invariant: no chain of the operator has more than [`FANOUT`] verdicts and [`FANOUT`] jumps.

mod amended;
mod cell;
mod forward;
mod input;
mod path;
mod postrouting;
mod prefix;
mod prerouting;
mod runs;
mod stage;
mod trie;

#[cfg(test)]
pub(in crate::dataplane) mod tests;

use std::collections::BTreeMap;

pub use stage::{Stage, Table};
pub use trie::FANOUT;

use super::chain::Chains;
use crate::model::{Connmark, Translations};

/// All chains of the operator, by table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ruleset {
    tables: BTreeMap<Table, Chains>,
    mark: Connmark,
}

impl Ruleset {
    /// The chains for `translations`, no two of which match the same packet. No chains if there are no translations. `mark` is set
    /// for the translated flows.
    #[must_use]
    pub fn of(translations: &Translations, mark: Connmark) -> Self {
        let mut tables = BTreeMap::<Table, Chains>::new();
        if !translations.is_empty() {
            for stage in Stage::ALL {
                tables.entry(stage.table()).or_default().extend(chains(stage, translations, mark));
            }
        }
        Self { tables, mark }
    }

    /// Only the chain of FORWARD, for flows that another backend translates and marks.
    #[must_use]
    pub fn accepting(mark: Connmark) -> Self {
        Self { tables: BTreeMap::from([(Stage::Forward.table(), chains(Stage::Forward, &Translations::new(), mark))]), mark }
    }

    /// The chains of one table, by name.
    #[must_use]
    pub fn chains(&self, table: Table) -> &Chains {
        static NONE: Chains = Chains::new();
        self.tables.get(&table).unwrap_or(&NONE)
    }

    /// The tables in the order in which they are written, so that no flow is translated that FORWARD does not accept,
    /// neither when rules are added nor when all of them are removed.
    pub(in crate::dataplane::iptables) fn tables(&self) -> [Table; 2] {
        let mut tables = Table::ALL;
        if self.is_empty() {
            tables.reverse();
        }
        tables
    }

    /// Whether there are no chains, so that the kernel should have no rules of the operator.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tables.is_empty()
    }
}

/// The chains of one stage.
fn chains(stage: Stage, translations: &Translations, mark: Connmark) -> Chains {
    let mut chains = match stage {
        Stage::Prerouting => trie::grow(stage, prerouting::rules(translations)),
        Stage::Postrouting => trie::grow(stage, postrouting::rules(translations)),
        Stage::Forward => Chains::from([(stage.root(), vec![forward::rule(mark)])]),
        Stage::Input => trie::grow(stage, input::rules(translations)),
    };
    if let Some(root) = chains.get_mut(&stage.root()) {
        match stage {
            Stage::Prerouting => prerouting::mark(root, mark),
            Stage::Postrouting => postrouting::skip_unmarked(root, mark),
            Stage::Forward | Stage::Input => {}
        }
    }
    chains
}
