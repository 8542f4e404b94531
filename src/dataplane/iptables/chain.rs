//! The chains of ours: their names and what they hold.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use super::rule::Rule;

/// Our chains of one table, by name. A parent's name sorts before its children's.
pub type Chains = BTreeMap<ChainName, Vec<Rule>>;

/// The name of a chain of ours: `PF-`, then letters, digits and `+-._`, 28 characters at most
/// (`XT_EXTENSION_MAXNAMELEN` less one, `linux/netfilter/x_tables.h`).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChainName(String);

/// A name that is not one of a chain of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not the name of a chain of ours: PF-, then letters, digits and +-._, 28 characters at most")]
pub struct ForeignChain;

impl ChainName {
    /// What every name begins with.
    pub const PREFIX: &'static str = "PF-";
    /// The most characters that iptables takes.
    pub const MAX_LEN: usize = 28;

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ChainName {
    type Err = ForeignChain;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.' | '_');
        if text.starts_with(Self::PREFIX) && text.len() <= Self::MAX_LEN && text.chars().all(plain) {
            Ok(Self(text.to_owned()))
        } else {
            Err(ForeignChain)
        }
    }
}

impl fmt::Display for ChainName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
