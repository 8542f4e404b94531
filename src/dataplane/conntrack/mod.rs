//! Removes the conntrack entries that the rules in force have made wrong, and no others.
//!
//! Runs after the rules are in place: an entry that is removed earlier comes back by the old rules. [`verdict`] decides,
//! [`table`] reads and deletes. Apart from that, [`flows`] tells what entries have carried.

pub mod flows;
pub mod table;
pub mod verdict;

use std::collections::BTreeSet;

use crate::model::{Desired, Translation};
use crate::netlink::{NetlinkError, Refusal};
use verdict::Index;

/// What can go wrong with the conntrack table.
#[derive(Debug, thiserror::Error)]
pub enum ConntrackError {
    /// The table cannot be read or written; the kernel may lack `nf_conntrack_netlink`.
    #[error("the conntrack table cannot be read or written; is the kernel module nf_conntrack_netlink there?")]
    Netlink(#[from] NetlinkError),
    /// Some wrong entries are still there.
    #[error("{count} conntrack entries that no rule stands for any more could not be removed; the first: {first}")]
    Refused {
        /// How many are left.
        count: usize,
        /// What the kernel said to the first of them.
        first: Refusal,
    },
}

/// What [`purge`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Purged {
    /// How many entries were removed.
    pub count: usize,
}

/// Removes the entries that are wrong now that `now` is in force, where until now `before` was.
///
/// Where it is not certain what was in force, `before` may hold more than that; what matches none of both is foreign.
///
/// # Errors
/// When the table cannot be read, or when the kernel does not remove an entry. Calling again with the same arguments is safe.
pub async fn purge(before: &BTreeSet<Translation>, now: &Desired) -> Result<Purged, ConntrackError> {
    if before.is_empty() && now.translations.is_empty() {
        return Ok(Purged::default());
    }
    let mut table = table::Table::open()?;
    let entries = table.entries().await?;
    let stale = verdict::stale(&entries, &Index::new(before), &Index::new(&now.translations), &now.held);
    let count = table.remove(&stale).await?;
    Ok(Purged { count })
}
