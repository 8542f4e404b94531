//! Writes one table: its chains, the jumps to them, and the deletion of chains that are not desired any more.
//!
//! Uses one transaction if it is accepted. If something is refused, writes chain by chain and rule by rule: first removes
//! the rules that a chain should not have, then adds the missing ones. So a refused rule neither keeps another flow open
//! nor closes one.

use std::borrow::Borrow;
use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;

use super::chain::Chains;
use super::program::{self, LOCK_WAIT_SECS};
use super::transaction::{delete, rewrite};
use super::{
    ChainName, Failure, Iptables, JumpState, Memory, ProgramError, Refused, Report, Rule, SavedTable, Stage, Table, Variant,
    jumps, scaffold,
};

/// The minimum time between two moves of a jump back to the first position, after another program put a rule before it.
const MOVE_INTERVAL: Duration = Duration::from_mins(1);
/// The number of COMMITs that one program gets. A program that deleted rules waits at its end until the kernel has freed them, about
/// 100 ms for 2,000 rules, so a program for each COMMIT takes several times as long.
const COMMITS_PER_PROGRAM: usize = 16;

impl Iptables {
    /// Makes the operator's chains in `table` exactly `chains`. `before` is the current content of the table.
    pub(super) async fn write(
        &self,
        table: Table,
        chains: &Chains,
        before: &SavedTable,
        memory: &mut Memory,
        report: &mut Report,
    ) -> Result<(), Failure> {
        let written = if chains.is_empty() {
            self.take_out_jumps(table, before, report).await
        } else {
            self.write_chains(table, chains, before, memory, report).await
        };
        if written.as_ref().is_err_and(Failure::is_transient) {
            return written;
        }
        let deleted = self.delete_stale(table, chains, before, report).await;
        written.and(deleted)
    }

    /// Writes the chains that differ and puts the jumps first, in an order in which a translated flow is already accepted
    /// and gets its new source.
    async fn write_chains(
        &self,
        table: Table,
        chains: &Chains,
        before: &SavedTable,
        memory: &mut Memory,
        report: &mut Report,
    ) -> Result<(), Failure> {
        if self.variant == Variant::Nft {
            scaffold::prepare(table, chains, before).await;
        }
        let differing: Vec<ChainName> = before.differing(chains).cloned().collect();
        let refused = self.rewrite(table, chains, &differing, before).await?;
        // A rule that is refused again is not reported as a change, and nothing was written for it.
        let is_news = |name: &ChainName| !before.holds(name, &taken(name, &chains[name], &refused));
        report.written.extend(differing.into_iter().filter(is_news));
        report.refused.extend(refused);
        for stage in Stage::ALL.into_iter().filter(|stage| stage.table() == table) {
            if chains.contains_key(&stage.root()) {
                self.place_jump(stage, before, memory, report).await?;
            } else {
                self.take_out_jump(stage, before, report).await?;
            }
        }
        Ok(())
    }

    /// Makes the chains `names` as they are in `chains`; reports which rules were refused.
    async fn rewrite(
        &self,
        table: Table,
        chains: &Chains,
        names: &[ChainName],
        before: &SavedTable,
    ) -> Result<Vec<Refused>, Failure> {
        for texts in rewrite(self.variant, table, chains, names).chunks(COMMITS_PER_PROGRAM) {
            match self.restore_all(texts).await {
                Ok(()) => {}
                Err(error) if is_refusal(&error) => return self.rewrite_singly(table, chains, names, before).await,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(Vec::new())
    }

    /// As [`Self::rewrite`], chain by chain. The chains of PREROUTING come last, without the rules for flows that would
    /// leave without their new source.
    async fn rewrite_singly(
        &self,
        table: Table,
        chains: &Chains,
        names: &[ChainName],
        before: &SavedTable,
    ) -> Result<Vec<Refused>, Failure> {
        let mut names: Vec<&ChainName> = names.iter().collect();
        // Children come before their parents, so that the target of every jump exists.
        names.sort_by_key(|name| (Stage::Prerouting.is_of(name), std::cmp::Reverse(*name)));
        let mut refused = Vec::new();
        for name in names {
            let rules = chains.get(name).map_or(&[][..], Vec::as_slice);
            self.write_rules(table, name, rules, before, &mut refused).await?;
        }
        Ok(refused)
    }

    /// Writes `rules` to one chain, without those that are refused.
    async fn write_rules(
        &self,
        table: Table,
        name: &ChainName,
        rules: &[Rule],
        before: &SavedTable,
        refused: &mut Vec<Refused>,
    ) -> Result<(), Failure> {
        let is_held = |rule: &Rule| before.chains.get(name).is_some_and(|held| held.iter().any(|held| held.as_ref() == Ok(rule)));
        // Without the rule that marks flows, or that leaves out unmarked ones, no other rule of the chain may stay.
        let unguarded = rules.iter().any(|rule| rule.guards() && !is_held(rule));
        let held = |rule: &&Rule| !unguarded && is_held(rule);
        let withheld = |rule: &&Rule| refused.iter().any(|other| other.withholds(name, rule));
        if !rules.iter().any(|rule| withheld(&rule)) {
            match self.restore(&self.chain_of(table, name, rules)).await {
                Ok(()) => return Ok(()),
                Err(error) if is_refusal(&error) => {}
                Err(error) => return Err(error.into()),
            }
        }
        // Removal comes first: rules that exist and stay are not changed, and all others are removed. In POSTROUTING a rule that goes
        // may be the source of flows that stay, until its successor is there.
        let mut kept: Vec<Rule> = rules.iter().filter(held).cloned().collect();
        let mut is_due = !before.holds(name, &kept);
        if is_due && !Stage::Postrouting.is_of(name) {
            match self.restore(&self.chain_of(table, name, &kept)).await {
                Ok(()) => is_due = false,
                // Even the reduced content is refused. The chain stays as it is, which is read back, and the other chains
                // are written.
                Err(error) if is_refusal(&error) => {
                    let lacking = rules.iter().filter(|rule| !held(rule)).cloned();
                    refused.extend(lacking.map(|rule| Refused { table, chain: name.clone(), rule, error: error.clone() }));
                    return Ok(());
                }
                Err(error) => return Err(error.into()),
            }
        }
        for rule in rules.iter().filter(|rule| !held(rule)) {
            let blocked = refused.iter().find(|other| other.withholds(name, rule)).map(|other| other.error.clone());
            // The whole chain, because the order of the rules counts.
            let more: Vec<Rule> = rules.iter().filter(|other| *other == rule || kept.contains(other)).cloned().collect();
            let added = match blocked {
                Some(error) => Err(error),
                None => self.restore(&self.chain_of(table, name, &more)).await,
            };
            match added {
                Ok(()) => (kept, is_due) = (more, false),
                Err(error) if is_refusal(&error) => {
                    refused.push(Refused { table, chain: name.clone(), rule: rule.clone(), error });
                }
                Err(error) => return Err(error.into()),
            }
        }
        if is_due && let Err(error) = self.restore(&self.chain_of(table, name, &kept)).await {
            // As above: a chain that is refused stays as it is, and the others are written.
            return if is_refusal(&error) { Ok(()) } else { Err(error.into()) };
        }
        Ok(())
    }

    /// The input that gives one chain these rules.
    fn chain_of(&self, table: Table, name: &ChainName, rules: &[Rule]) -> String {
        rewrite(self.variant, table, &[(name.clone(), rules.to_vec())].into(), [name]).concat()
    }

    async fn place_jump(
        &self,
        stage: Stage,
        before: &SavedTable,
        memory: &mut Memory,
        report: &mut Report,
    ) -> Result<(), Failure> {
        let due = match before.jump(stage) {
            JumpState::First => false,
            JumpState::Missing | JumpState::Changed => true,
            // What others let in or drop before is theirs to say; nothing of a flow is decided here.
            JumpState::Behind(_) if stage == Stage::Input => false,
            JumpState::Behind(_) => memory.moved.get(&stage).is_none_or(|moved| moved.elapsed() >= MOVE_INTERVAL),
        };
        if due {
            jumps::put_first(self.variant, stage, before).await?;
            memory.moved.insert(stage, Instant::now());
            report.jumps.push(stage);
        }
        Ok(())
    }

    /// Removes the jumps, in an order in which no flow is translated only partly. If one cannot be removed, the others
    /// still are.
    async fn take_out_jumps(&self, table: Table, before: &SavedTable, report: &mut Report) -> Result<(), Failure> {
        let mut outcome = Ok(());
        for stage in Stage::ALL.into_iter().rev().filter(|stage| stage.table() == table) {
            let taken = self.take_out_jump(stage, before, report).await;
            outcome = outcome.and(taken);
        }
        outcome
    }

    async fn take_out_jump(&self, stage: Stage, before: &SavedTable, report: &mut Report) -> Result<(), Failure> {
        if before.jump(stage) != JumpState::Missing {
            jumps::take_out(self.variant, stage, before).await?;
            report.jumps.push(stage);
        }
        Ok(())
    }

    async fn delete_stale(&self, table: Table, chains: &Chains, before: &SavedTable, report: &mut Report) -> Result<(), Failure> {
        let stale: Vec<ChainName> = before.stale(chains).cloned().collect();
        match self.delete(table, &stale).await {
            Ok(()) => report.deleted.extend(stale),
            // Most likely a rule of another program jumps to one of them. The other chains must still be deleted.
            Err(error) if is_refusal(&error) => self.delete_each(table, before, stale, report).await?,
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    /// Empties the chains `stale`, then deletes those that the kernel allows to be deleted.
    async fn delete_each(
        &self,
        table: Table,
        before: &SavedTable,
        stale: Vec<ChainName>,
        report: &mut Report,
    ) -> Result<(), Failure> {
        let full: Vec<ChainName> = stale.iter().filter(|name| !before.holds(name, &[])).cloned().collect();
        self.rewrite(table, &Chains::new(), &full, before).await?;
        report.written.extend(full);
        // Chains with jumps come first, so that their targets are not in use any more.
        for name in stale {
            match self.delete(table, std::slice::from_ref(&name)).await {
                Ok(()) => report.deleted.push(name),
                Err(error) if is_refusal(&error) => {
                    report.stuck.insert(name);
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    async fn delete(&self, table: Table, names: &[ChainName]) -> Result<(), ProgramError> {
        match delete(table, names) {
            Some(text) => self.restore(&text).await,
            None => Ok(()),
        }
    }

    async fn restore(&self, text: &str) -> Result<(), ProgramError> {
        self.restore_all(std::slice::from_ref(&text)).await
    }

    /// Passes several inputs, each with one COMMIT, to one program.
    async fn restore_all<T: Borrow<str>>(&self, texts: &[T]) -> Result<(), ProgramError> {
        program::run(self.variant.restore(), &["--noflush", "-w", LOCK_WAIT_SECS], &texts.concat()).await?;
        self.commits.fetch_add(u32::try_from(texts.len()).unwrap_or(u32::MAX), Ordering::Relaxed);
        Ok(())
    }
}

impl Refused {
    /// Whether `rule` must not be added to the chain `name`: without this refused rule, it would match flows of others or leave its
    /// flows unmarked, or its flows would match the refused rule in a later chain.
    fn withholds(&self, name: &ChainName, rule: &Rule) -> bool {
        if self.chain == *name && self.rule.guards() {
            return true;
        }
        let translation = super::saved::translation(rule);
        translation.is_some_and(|translation| Stage::Postrouting.is_of(&self.chain) && self.concerns(&translation))
    }
}

/// The rules of the chain `name` that were accepted.
fn taken(name: &ChainName, rules: &[Rule], refused: &[Refused]) -> Vec<Rule> {
    let refused: BTreeSet<&Rule> = refused.iter().filter(|it| it.chain == *name).map(|it| &it.rule).collect();
    rules.iter().filter(|rule| !refused.contains(rule)).cloned().collect()
}

/// Whether the content was refused, so that a reduced content may be accepted.
fn is_refusal(error: &ProgramError) -> bool {
    matches!(error, ProgramError::Refused { .. }) && !error.is_transient()
}
