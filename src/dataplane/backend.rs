//! The choice of the kernel interface that holds the rules, and what can be done with rules without knowing which one it is.

use std::fmt;
use std::sync::Arc;

use tokio::sync::Notify;

use super::Look;
use super::iptables::{self, Table, Variant, scaffold};
use super::nftables::{self, Ownership};
use super::rules::{Counting, Place, RulesError, RulesReport};
use crate::model::{Connmark, NatPriorities, Translation, Translations};

pub use super::iptables::scaffold::{Removed as EmptyTables, ScaffoldError};

/// What holds the rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Backend {
    /// Chains of iptables.
    Iptables(Variant),
    /// A table of nftables.
    Nftables,
}

impl Backend {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Iptables(Variant::Nft), Self::Iptables(Variant::Legacy), Self::Nftables];

    /// Whether the rules are in `nf_tables`, so that an event of it may be the operator's own write.
    #[must_use]
    pub const fn is_in_nf_tables(self) -> bool {
        match self {
            Self::Iptables(Variant::Nft) | Self::Nftables => true,
            Self::Iptables(Variant::Legacy) => false,
        }
    }

    /// Watches the tables of which the kernel reports no change, those of legacy xtables. Notifies `rules` at a change of a table that
    /// holds the rules of this backend, and `wake` at any other change. Runs until the agent ends.
    pub async fn watch_unreported(self, wake: Arc<Notify>, rules: Arc<Notify>, again: Arc<Notify>) {
        match self {
            Self::Iptables(Variant::Legacy) => iptables::watch_legacy(rules, wake, again).await,
            Self::Iptables(Variant::Nft) | Self::Nftables => iptables::watch_legacy(Arc::clone(&wake), wake, again).await,
        }
    }

    /// The priorities of the operator's NAT chains.
    #[must_use]
    pub fn nat_priorities(self) -> NatPriorities {
        match self {
            Self::Iptables(_) => NatPriorities::default(),
            Self::Nftables => nftables::PRIORITIES,
        }
    }

    /// The names of the tables that hold rules of the operator.
    #[must_use]
    pub fn tables(self) -> Vec<&'static str> {
        match self {
            Self::Iptables(_) => Table::ALL.map(Table::name).into(),
            Self::Nftables => vec![nftables::TABLE],
        }
    }

    /// Whether the node has what the backend needs, so that rules of the operator may be there.
    pub async fn is_in_use(self) -> bool {
        match self {
            Self::Iptables(variant) => variant.is_in_use().await,
            Self::Nftables => nftables::is_in_use().await,
        }
    }

    /// Tries whether the kernel can hold the rules. Changes nothing.
    ///
    /// # Errors
    /// When it cannot, with what is missing.
    pub async fn probe(self) -> Result<(), RulesError> {
        match self {
            // The programs say it at the first write.
            Self::Iptables(_) => Ok(()),
            Self::Nftables => nftables::probe().await,
        }
    }

    /// Removes all rules of the operator.
    pub async fn remove(self) -> RulesReport {
        match self {
            Self::Iptables(variant) => iptables::remove(variant).await,
            Self::Nftables => nftables::remove().await,
        }
    }

    /// The rules of `translations` as text that a person can load, with flows marked by `mark`.
    #[must_use]
    pub fn render(self, translations: &Translations, mark: Connmark) -> String {
        match self {
            Self::Iptables(variant) => iptables::whole(variant, &iptables::Ruleset::of(translations, mark)),
            Self::Nftables => nftables::render(translations, mark),
        }
    }

    /// Where the rules of `translations` are.
    #[must_use]
    pub fn layout(self, translations: &Translations, mark: Connmark) -> Layout {
        match self {
            Self::Iptables(_) => Layout(LayoutOf::Iptables(iptables::Layout::of(translations, mark))),
            Self::Nftables => Layout(LayoutOf::Nftables(nftables::Text::of(translations, mark))),
        }
    }
}

/// The layout of some translations.
#[derive(Debug)]
pub struct Layout(LayoutOf);

#[derive(Debug)]
enum LayoutOf {
    Iptables(iptables::Layout),
    Nftables(nftables::Text),
}

impl Layout {
    /// The places that the flows of one of `translations` pass, in the order in which a packet passes them.
    #[must_use]
    pub fn places(&self, translations: &[Translation]) -> Vec<Place> {
        match &self.0 {
            LayoutOf::Iptables(layout) => layout.places(translations),
            LayoutOf::Nftables(layout) => layout.places(translations),
        }
    }
}

/// The rules of one backend.
#[derive(Debug)]
pub(super) enum Rules {
    Iptables(Box<iptables::Rules>),
    Nftables(Box<nftables::Rules>),
}

impl Rules {
    pub(super) fn new(backend: Backend) -> Self {
        match backend {
            Backend::Iptables(variant) => Self::Iptables(Box::new(iptables::Rules::new(variant))),
            Backend::Nftables => Self::Nftables(Box::new(nftables::Rules::new())),
        }
    }

    /// Sets the bit of the connection mark that the translated flows have.
    pub(super) fn marking(self, mark: Connmark) -> Self {
        match self {
            Self::Iptables(rules) => Self::Iptables(Box::new(rules.marking(mark))),
            Self::Nftables(rules) => Self::Nftables(Box::new(rules.marking(mark))),
        }
    }

    /// Sets whether the connections that match the rules are counted.
    pub(super) fn counting(self, counting: Counting) -> Self {
        match self {
            Self::Iptables(rules) => Self::Iptables(Box::new(rules.counting(counting))),
            Self::Nftables(rules) => Self::Nftables(Box::new(rules.counting(counting))),
        }
    }

    /// Sets whose the table of nftables is. Chains of iptables have no owner.
    pub(super) fn owned(self, ownership: Ownership) -> Self {
        match self {
            Self::Iptables(_) => self,
            Self::Nftables(rules) => Self::Nftables(Box::new(rules.owned(ownership))),
        }
    }

    /// Makes the rules those of `translations`, and reports what was read back.
    pub(super) async fn apply(&self, translations: &Translations, look: Look) -> RulesReport {
        match self {
            Self::Iptables(rules) => rules.apply(translations, look).await,
            Self::Nftables(rules) => rules.apply(translations, look).await,
        }
    }

    /// Reports what `apply` would find, and writes nothing.
    pub(super) async fn inspect(&self, translations: &Translations) -> RulesReport {
        match self {
            Self::Iptables(rules) => rules.inspect(translations).await,
            Self::Nftables(rules) => rules.inspect(translations).await,
        }
    }

    /// Whether no other program has written rules since the apply before the last one. `false` if this is not known.
    pub(super) async fn is_untouched(&self) -> bool {
        match self {
            Self::Iptables(rules) => rules.is_untouched().await,
            Self::Nftables(rules) => rules.is_untouched().await,
        }
    }

    /// The translations in the kernel. Their new source is not included.
    ///
    /// # Errors
    /// When the rules cannot be read.
    pub(super) async fn translated(&self) -> Result<Vec<Translation>, RulesError> {
        match self {
            Self::Iptables(rules) => rules.translated().await,
            Self::Nftables(rules) => rules.translated().await,
        }
    }
}

impl Default for Backend {
    /// What most nodes use.
    fn default() -> Self {
        Self::Iptables(Variant::Nft)
    }
}

/// Removes the tables and chains that the operator created in `nf_tables` to write rules of iptables, and that are empty now.
///
/// # Errors
/// When the kernel cannot be asked, when it refuses, or when other programs write at each attempt. Nothing is removed then.
pub async fn remove_empty_tables() -> Result<EmptyTables, ScaffoldError> {
    scaffold::remove().await
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Iptables(variant) => f.write_str(variant.command()),
            Self::Nftables => f.write_str("nftables"),
        }
    }
}
