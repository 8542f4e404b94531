//! The operator's chains: their names and their content.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use super::rule::Rule;

/// The operator's chains of one table, by name. The name of a parent sorts before the names of its children.
pub type Chains = BTreeMap<ChainName, Vec<Rule>>;

/// The name of one of the operator's chains: `PF-`, then letters, digits and `+-._`, at most 28 characters
/// (`XT_EXTENSION_MAXNAMELEN` minus one, `linux/netfilter/x_tables.h`).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChainName(String);

/// A name that is not the name of one of the operator's chains.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not the name of a chain of ours: PF-, then letters, digits and +-._, 28 characters at most")]
pub struct ForeignChain;

impl ChainName {
    /// The prefix of every name.
    pub const PREFIX: &'static str = "PF-";
    /// The maximum length that iptables accepts.
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
