//! Removes the conntrack entries that are wrong under the rules in force, and no others. Marks those that are the operator's and
//! began before the rules that mark them.
//!
//! Entries are removed after the rules are in place: an entry that is removed earlier would be created again by the old rules.
//! [`verdict`] decides, [`table`] reads, deletes and marks. Independently of that, [`flows`] reports the traffic of entries.

mod concerned;
pub mod flows;
mod prod;
pub mod table;
pub mod verdict;

use std::collections::{BTreeSet, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::model::{Connmark, Desired, Protocol, Translations};
use crate::netlink::{NetlinkError, Refusal};
use crate::words::counted;
use concerned::Concerned;
use table::{Entry, Tuple};
use verdict::Index;

/// Why an operation on the conntrack table failed.
#[derive(Debug, thiserror::Error)]
pub enum ConntrackError {
    /// The table cannot be read or written; the kernel may lack `nf_conntrack_netlink`.
    #[error("the conntrack table cannot be read or written; is the kernel module nf_conntrack_netlink there?")]
    Netlink(#[from] NetlinkError),
    /// Some wrong entries are still in the table.
    #[error(
        "{} without a rule could not be removed; the kernel's first error: {first}",
        counted(*count, "conntrack entry", "conntrack entries")
    )]
    Refused {
        /// How many are left.
        count: usize,
        /// The kernel's error for the first of them.
        first: Refusal,
    },
    /// Some entries could not be marked.
    #[error(
        "{} could not be marked, so FORWARD may drop their packets; the kernel's first error: {first}",
        counted(*count, "conntrack entry", "conntrack entries")
    )]
    Unmarked {
        /// How many.
        count: usize,
        /// The kernel's error for the first of them.
        first: Refusal,
    },
}

impl ConntrackError {
    /// Whether a retry may succeed.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Netlink(error) => error.is_transient(),
            Self::Refused { first, .. } | Self::Unmarked { first, .. } => first.is_transient(),
        }
    }
}

/// The result of [`purge`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Purged {
    /// How many entries were removed.
    pub count: usize,
    /// The endpoints of TCP connections that were cut and that may not have noticed it yet. The route to them is still
    /// needed.
    pub ends: BTreeSet<IpAddr>,
}

/// Which connections are judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judged {
    /// All of them.
    All,
    /// Only those to the listen ports of translations that differ between what was in force and what is. The others were judged
    /// before, and nothing has changed for them since.
    Changes,
}

/// How long the removal of an entry is remembered if the entry does not come back.
const REMEMBERED: Duration = Duration::from_mins(10);
/// If more removals than this are remembered, only the newest ones are.
const MOST_REMEMBERED: usize = 10_000;

/// Removes wrong entries, but does not repeat this for an entry that comes back unchanged: if rules of another program
/// translate a flow differently, removing its entry would only cut it.
#[derive(Debug, Default)]
pub struct Purger {
    mark: Connmark,
    removed: HashMap<(Protocol, Tuple, Tuple), Removed>,
}

/// An entry that was removed so that its flow meets the rules in force.
#[derive(Debug)]
struct Removed {
    id: Option<u32>,
    /// The hash of the rules that it met.
    rules: u64,
    at: Instant,
}

/// Marks the translated flows of `now` that lack the bit `mark`: they began before the rules that mark them, or another program
/// removed the bit. Returns how many there were.
///
/// # Errors
/// When the table cannot be read, or when the kernel does not mark an entry.
pub async fn mark(now: &Translations, mark: Connmark) -> Result<usize, ConntrackError> {
    if now.is_empty() {
        return Ok(0);
    }
    let (mut table, index) = (table::Table::open()?, Index::new(now));
    let unmarked = table.unmarked(mark, |entry| verdict::lacks(entry, mark, &index)).await?;
    table.mark(&unmarked.iter().collect::<Vec<_>>(), mark).await
}

/// Removes the entries that are wrong now that `now` is in force and `before` was in force until now.
///
/// If it is not certain what was in force, `before` may contain more. An entry that matches neither is foreign.
///
/// # Errors
/// When the table cannot be read, or when the kernel does not remove an entry. Calling it again with the same arguments is
/// safe.
pub async fn purge(before: &Translations, now: &Desired) -> Result<Purged, ConntrackError> {
    Purger::default().purge(before, now, Judged::All).await
}

impl Purger {
    /// Marks the flows that stay with the bit `mark`.
    #[must_use]
    pub fn new(mark: Connmark) -> Self {
        Self { mark, ..Self::default() }
    }

    /// As [`purge`], for repeated calls. Then marks the translated flows of `now` that lack the bit.
    ///
    /// # Errors
    /// As for [`purge`].
    pub async fn purge(&mut self, before: &Translations, now: &Desired, judged: Judged) -> Result<Purged, ConntrackError> {
        if before.is_empty() && now.translations.is_empty() {
            return Ok(Purged::default());
        }
        let mut table = table::Table::open()?;
        let (entries, before, index) = match judged {
            Judged::All => (table.entries().await?, Index::new(before), Index::new(&now.translations)),
            Judged::Changes => {
                let concerned = Concerned::of(before, &now.translations);
                let entries = table.entries_that(|entry| concerned.contains(entry)).await?;
                (entries, Index::new(concerned.among(before)), Index::new(concerned.among(&now.translations)))
            }
        };
        let stale = verdict::stale(&entries, &before, &index, &now.held);
        let stale = self.worth_removing(stale, &index, Instant::now());
        let count = table.remove(&stale).await?;
        // An entry that still matches a rule begins anew by that rule. An entry that matches none has ended, and both ends
        // are notified.
        let is_cut = |entry: &&Entry| entry.protocol == Protocol::Tcp && !index.matches(entry);
        let cut: Vec<&Entry> = stale.into_iter().filter(is_cut).collect();
        let ends = prod::tell(&mut table, &cut).await;
        let unmarked = entries.iter().filter(|entry| verdict::lacks(entry, self.mark, &index));
        table.mark(&unmarked.collect::<Vec<_>>(), self.mark).await?;
        Ok(Purged { count, ends })
    }

    /// The entries of `stale`, without those that came back unchanged after they were removed for the same rules.
    fn worth_removing<'a>(&mut self, stale: Vec<&'a Entry>, now: &Index<'_>, at: Instant) -> Vec<&'a Entry> {
        let mut removed = HashMap::new();
        let worth = |entry: &&Entry| {
            if !now.matches(entry) {
                return true;
            }
            let mut rules = DefaultHasher::new();
            now.matching(entry).for_each(|rule| rule.hash(&mut rules));
            let rules = rules.finish();
            let key = (entry.protocol, entry.original, entry.reply);
            let came_back = self.removed.get(&key).is_some_and(|last| last.id != entry.id && last.rules == rules);
            removed.insert(key, Removed { id: if came_back { None } else { entry.id }, rules, at });
            !came_back
        };
        let stale = stale.into_iter().filter(worth).collect();
        self.removed.retain(|key, last| !removed.contains_key(key) && at.duration_since(last.at) < REMEMBERED);
        if self.removed.len() + removed.len() > MOST_REMEMBERED {
            self.removed = removed;
        } else {
            self.removed.extend(removed);
        }
        stale
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Destination, FlowMatch, SourceNat, TargetPorts, Translation};

    fn rule(upstream: &str) -> Translation {
        Translation {
            flows: FlowMatch {
                protocol: Protocol::Udp,
                destination: "192.168.0.2".parse().unwrap(),
                ports: "53".parse().unwrap(),
                source: "1.1.1.1/32".parse().unwrap(),
                interface: None,
            },
            destination: Destination { address: upstream.parse().unwrap(), ports: TargetPorts::Same },
            source: SourceNat::Address("2.2.2.50".parse().unwrap()),
        }
    }

    /// A flow of the rule to 3.3.3.3, with the source changed to 2.2.2.2 by another program.
    fn flow(source_port: u16, id: u32) -> Entry {
        let original = Tuple {
            source: "1.1.1.1".parse().unwrap(),
            destination: "192.168.0.2".parse().unwrap(),
            source_port,
            destination_port: 53,
        };
        let reply = Tuple {
            source: "3.3.3.3".parse().unwrap(),
            destination: "2.2.2.2".parse().unwrap(),
            source_port: 53,
            destination_port: source_port,
        };
        let status = netlink_packet_netfilter::conntrack::Status::empty();
        Entry { protocol: Protocol::Udp, original, reply, status, id: Some(id), mark: 0 }
    }

    #[test]
    fn a_flow_that_comes_back_as_it_was_is_cut_once_for_each_rule() {
        let mut purger = Purger::default();
        let start = Instant::now();
        let mut cut = |upstream: &str, entries: &[Entry], after: Duration| {
            let rules = [rule(upstream)];
            let index = Index::new(&rules);
            purger.worth_removing(entries.iter().collect(), &index, start + after).len()
        };
        let secs = Duration::from_secs;
        assert_eq!(cut("3.3.3.3", &[flow(1, 1), flow(2, 2)], secs(0)), 2);
        assert_eq!(cut("3.3.3.3", &[flow(1, 1)], secs(1)), 1, "the kernel did not remove it");
        assert_eq!(cut("3.3.3.3", &[flow(1, 3), flow(2, 4)], secs(2)), 0, "both came back");
        assert_eq!(cut("3.3.3.3", &[flow(1, 3), flow(5, 5)], secs(3)), 1, "another flow");
        assert_eq!(cut("3.3.3.3", &[flow(2, 4)], secs(4)), 0, "and stays so");
        assert_eq!(cut("4.4.4.4", &[flow(1, 3)], secs(5)), 1, "another rule may have another outcome");
        assert_eq!(cut("4.4.4.4", &[flow(1, 6)], secs(6)), 0);
        assert_eq!(cut("4.4.4.4", &[], secs(6) + REMEMBERED), 0);
        assert_eq!(purger.removed.len(), 0, "what does not come back is forgotten");
    }
}
