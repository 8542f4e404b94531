//! The two variants of iptables: one writes `nf_tables`, the other legacy xtables. A node uses one of them.

use std::fmt;

/// Which iptables programs a node uses (iptables-nft(8)).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Variant {
    /// `iptables-nft`, over the kernel's `nf_tables`.
    Nft,
    /// `iptables-legacy`, over the kernel's legacy xtables.
    Legacy,
}

impl Variant {
    /// Both, in the order of detection.
    pub const ALL: [Self; 2] = [Self::Nft, Self::Legacy];

    /// The other one.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::Nft => Self::Legacy,
            Self::Legacy => Self::Nft,
        }
    }

    /// The program that changes single rules.
    #[must_use]
    pub const fn command(self) -> &'static str {
        match self {
            Self::Nft => "iptables-nft",
            Self::Legacy => "iptables-legacy",
        }
    }

    /// The program that loads rules, one transaction per table.
    #[must_use]
    pub const fn restore(self) -> &'static str {
        match self {
            Self::Nft => "iptables-nft-restore",
            Self::Legacy => "iptables-legacy-restore",
        }
    }

    /// The program that prints rules.
    #[must_use]
    pub const fn save(self) -> &'static str {
        match self {
            Self::Nft => "iptables-nft-save",
            Self::Legacy => "iptables-legacy-save",
        }
    }
}

impl fmt::Display for Variant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nft => "nft",
            Self::Legacy => "legacy",
        })
    }
}
