//! The iptables backend behind the interface that all backends have: it takes translations, and reports in words that hold for
//! every backend.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use tracing::{info, warn};

use super::{ChainName, Extent, Failure, Iptables, Refused, Report, Ruleset, Stage, Table, Variant, scaffold};
use crate::dataplane::rules::{Counting, Function, Overridden, Place, RefusedRule, RulesError, RulesReport, Step};
use crate::dataplane::{Look, nftables};
use crate::model::{Connmark, Translation, Translations};

/// The rules of the operator, written by the programs of one variant.
#[derive(Debug)]
pub(in crate::dataplane) struct Rules {
    iptables: Iptables,
    /// The bit of the connection mark that the translated flows have.
    mark: Connmark,
    /// The translations of the last apply, and their layout.
    laid_out: Mutex<(Translations, Ruleset)>,
    /// Whether the other variant was checked. Rules of the operator in the other variant, from an earlier choice, would be
    /// a second set.
    swept: AtomicBool,
}

/// The layout of some translations.
#[derive(Debug)]
pub(in crate::dataplane) struct Layout(Ruleset);

impl Rules {
    pub(in crate::dataplane) fn new(variant: Variant) -> Self {
        Self {
            iptables: Iptables::new(variant),
            mark: Connmark::default(),
            laid_out: Mutex::default(),
            swept: AtomicBool::new(false),
        }
    }

    /// Sets the bit of the connection mark that the translated flows have.
    pub(in crate::dataplane) fn marking(self, mark: Connmark) -> Self {
        let nothing = (Translations::new(), Ruleset::of(&Translations::new(), mark));
        Self { mark, laid_out: Mutex::new(nothing), ..self }
    }

    /// Sets whether the connections that match the rules are counted.
    pub(in crate::dataplane) fn counting(self, counting: Counting) -> Self {
        Self { iptables: self.iptables.counting(counting), ..self }
    }

    /// Makes the rules those of `translations`.
    pub(in crate::dataplane) async fn apply(&self, translations: &Translations, look: Look) -> RulesReport {
        let ruleset = self.lay_out(translations);
        let report = self.iptables.apply(&ruleset, look).await;
        *self.laid_out.lock().unwrap_or_else(PoisonError::into_inner) = (translations.clone(), ruleset);
        if report.failed.is_empty() {
            self.sweep_other_variant().await;
        }
        let mut report = told(report, translations);
        // On legacy, the rules may have been gone in between and be back as they were. Nothing in the tables shows this.
        report.as_left &= self.iptables.variant() == Variant::Nft;
        report
    }

    /// Reports what `apply` would find, and writes nothing.
    pub(in crate::dataplane) async fn inspect(&self, translations: &Translations) -> RulesReport {
        told(self.iptables.inspect(&Ruleset::of(translations, self.mark)).await, translations)
    }

    /// Whether no other program has written rules since the apply before the last one. `false` if this is not known.
    pub(in crate::dataplane) async fn is_untouched(&self) -> bool {
        self.iptables.is_untouched().await
    }

    /// The translations in the kernel. Their new source is not included.
    ///
    /// # Errors
    /// When the rules cannot be read.
    pub(in crate::dataplane) async fn translated(&self) -> Result<Vec<Translation>, RulesError> {
        self.iptables.translated().await.map_err(|failure| failure.told(Table::Nat))
    }

    /// The layout of `translations`, from the last one.
    fn lay_out(&self, translations: &Translations) -> Ruleset {
        let (before, ruleset) = std::mem::take(&mut *self.laid_out.lock().unwrap_or_else(PoisonError::into_inner));
        ruleset.amended(&before, translations)
    }

    /// Removes, once, the rules that an earlier choice left in the other variant or in nftables. The rules of this variant are
    /// in place by then, so no flow is lost.
    async fn sweep_other_variant(&self) {
        let other = self.iptables.variant().other();
        if self.swept.load(Ordering::Relaxed) {
            return;
        }
        if other.is_in_use().await {
            let report = remove(other).await;
            if let Some(error) = report.failure() {
                return warn!(variant = %other, %error, "rules of ours may be left in the other iptables; trying again");
            }
            if report.changed() {
                info!(variant = %other, chains = report.deleted, "rules of ours in the other iptables removed");
            }
        }
        if other == Variant::Nft
            && let Err(error) = scaffold::remove().await
        {
            let error = &error as &(dyn std::error::Error + Send + Sync);
            warn!(error, "empty tables of ours may be left in nf_tables until cleanup");
        }
        if nftables::is_in_use().await {
            let report = nftables::remove().await;
            if let Some(error) = report.failure() {
                return warn!(%error, "rules of ours may be left in nftables; trying again");
            }
            info!("rules of ours in nftables removed");
        }
        self.swept.store(true, Ordering::Relaxed);
    }
}

/// Removes all rules of the operator in `variant`.
pub(in crate::dataplane) async fn remove(variant: Variant) -> RulesReport {
    told(Iptables::new(variant).apply(&Ruleset::default(), Look::Everything).await, &Translations::new())
}

impl Layout {
    pub(in crate::dataplane) fn of(translations: &Translations, mark: Connmark) -> Self {
        Self(Ruleset::of(translations, mark))
    }

    /// The places that the flows of one of `translations` pass, in the order in which a packet passes them.
    pub(in crate::dataplane) fn places(&self, translations: &[Translation]) -> Vec<Place> {
        let stages = [Stage::Prerouting, Stage::Forward, Stage::Postrouting];
        let path = |stage| {
            let paths = translations.iter().flat_map(move |it| self.0.path(stage, it));
            let chains: BTreeSet<ChainName> = paths.collect();
            chains.into_iter().map(move |chain| place(stage.table(), &chain))
        };
        stages.into_iter().flat_map(path).collect()
    }
}

fn place(table: Table, chain: &impl ToString) -> Place {
    Place { table: table.name(), chain: chain.to_string() }
}

impl Table {
    const fn function(self) -> Function {
        match self {
            Self::Filter => Function::Filter,
            Self::Nat => Function::Nat,
        }
    }
}

impl Failure {
    pub(super) fn told(&self, table: Table) -> RulesError {
        let (step, transient) = (self.step(), self.is_transient());
        RulesError { text: format!("table {}: {self}", table.name()), step, transient }
    }

    fn step(&self) -> Step {
        match self {
            Self::Program(error) if error.program().ends_with("-restore") => Step::Write,
            Self::Jump(_) => Step::Write,
            Self::Program(_) | Self::Unlisted { .. } => Step::Read,
        }
    }
}

/// A report in the words of every backend. `translations` are the desired ones.
pub(super) fn told(report: Report, translations: &Translations) -> RulesReport {
    let refused = |refused: &Refused| RefusedRule {
        place: place(refused.table, &refused.chain),
        error: RulesError { text: refused.error.to_string(), step: Step::Write, transient: refused.error.is_transient() },
        translations: translations.iter().filter(|translation| refused.concerns(translation)).cloned().collect(),
    };
    let overridden = |(stage, instead): (Stage, String)| Overridden {
        place: place(stage.table(), &stage.builtin()),
        instead,
        chain: stage.root().to_string(),
    };
    let of_stage = |chain: &_| Stage::ALL.into_iter().find(|stage| stage.is_of(chain)).map_or(Table::Nat, Stage::table);
    RulesReport {
        failed: report.failed.iter().map(|(table, failure)| (table.function(), failure.told(*table))).collect(),
        refused: report.refused.iter().map(refused).collect(),
        as_left: report.read != Extent::Everything,
        stuck: report.stuck.iter().map(|chain| place(of_stage(chain), chain)).collect(),
        differing: report.differing.iter().map(|chain| place(of_stage(chain), chain)).collect(),
        overridden: report.overridden.into_iter().map(overridden).collect(),
        held: report.held.into_iter().map(|(table, held)| (table.name(), held)).collect(),
        left: report.left,
        before: report.before,
        written: report.written.len(),
        deleted: report.deleted.len(),
        jumps: report.jumps.len(),
        disturbed: report.disturbed,
        forward_policy: report.forward_policy,
        met: report.met,
    }
}
