//! Whose the table is. The kernel lets only its owner change it, and a flush of all tables by another program leaves it out.

/// Whom the table should belong to. On a kernel before Linux 6.9 it is always [`Self::Open`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ownership {
    /// This program, while it runs: no other one can change the table. It stays when the program ends (`NFT_TABLE_F_OWNER` and
    /// `NFT_TABLE_F_PERSIST`).
    Owned,
    /// Nobody yet. Every program can change it, and the agent can make it its own as it is (`NFT_TABLE_F_PERSIST`).
    Unowned,
    /// Nobody. Every program with the right to change nftables can change it.
    #[default]
    Open,
}

/// The owner of the table in the kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Owner {
    /// It has none and cannot get one.
    #[default]
    None,
    /// It has none since its owner ended, and can get another one.
    Left,
    /// A program that runs: the agent itself, or another one.
    Some,
}
