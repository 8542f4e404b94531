//! The iptables backend, in both variants.

mod chain;
mod layout;
mod rule;
mod variant;

pub use chain::{ChainName, Chains, ForeignChain};
pub use layout::{FANOUT, Ruleset, Stage, Table};
pub use rule::{ForeignRule, Matches, Original, Rule, Target};
pub use variant::Variant;
