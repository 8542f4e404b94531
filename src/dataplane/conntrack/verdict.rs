//! Decides which conntrack entries are wrong. Pure: reads no table and deletes nothing.
//!
//! An entry is wrong if no rule in force matches its original tuple; if it began while the rule was missing and is
//! therefore not translated; or if it is UDP and its translation is not the one of the rule in force. A TCP entry keeps its
//! upstream until the connection ends: without the entry, the rest of the session would be sent to another upstream. An
//! entry that no rule of the operator has ever matched is foreign and stays.

mod index;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::table::Entry;
use crate::model::{Connmark, Protocol, SourceNat, Translation};

pub use index::Index;

/// The entries that are wrong now that `now` is in force and `before` was in force until now, in the order of `entries`.
/// `held` are the listen addresses that this node has. Flows to other addresses are only routed by this node and are not
/// judged.
#[must_use]
pub fn stale<'a>(entries: &'a [Entry], before: &Index<'_>, now: &Index<'_>, held: &BTreeSet<IpAddr>) -> Vec<&'a Entry> {
    entries.iter().filter(|entry| is_stale(entry, before, now, held)).collect()
}

fn is_stale(entry: &Entry, before: &Index<'_>, now: &Index<'_>, held: &BTreeSet<IpAddr>) -> bool {
    let mut in_force = now.matching(entry).peekable();
    if in_force.peek().is_none() {
        return is_translated(entry) && before.matching(entry).next().is_some();
    }
    if !is_translated(entry) {
        return held.contains(&entry.original.destination);
    }
    match entry.protocol {
        Protocol::Tcp => false,
        // The incoming interface is not recorded in an entry, so any translation that fits is accepted.
        Protocol::Udp => !in_force.any(|translation| fits(entry, translation, before)),
    }
}

/// Whether `entry` is a translated flow of `now` without the bit `mark`.
#[must_use]
pub fn lacks(entry: &Entry, mark: Connmark, now: &Index<'_>) -> bool {
    !mark.is_set_in(entry.mark) && is_translated(entry) && now.matches(entry)
}

/// The translation of `now` that `entry` is a flow of. If several differ by interface, one that gives the destination of
/// the entry.
#[must_use]
pub fn translation_of<'a>(entry: &Entry, now: &Index<'a>) -> Option<&'a Translation> {
    let given = |it: &&Translation| entry.reply.source == it.destination.address;
    now.matching(entry).find(given).or_else(|| now.matching(entry).next())
}

/// Whether the destination of `entry` was translated, by the operator or by another program.
fn is_translated(entry: &Entry) -> bool {
    (entry.reply.source, entry.reply.source_port) != (entry.original.destination, entry.original.destination_port)
}

/// Whether `entry` is translated as `translation` specifies.
fn fits(entry: &Entry, translation: &Translation, before: &Index<'_>) -> bool {
    let port = translation.destination.ports.of(entry.original.destination_port);
    (entry.reply.source, entry.reply.source_port) == (translation.destination.address, port)
        && match translation.source {
            SourceNat::Address(address) => entry.reply.destination == address,
            SourceNat::Masquerade => is_masqueraded(entry, before),
        }
}

/// Whether the source of `entry` may come from `MASQUERADE`. The kernel chooses that address, so only two addresses are
/// certainly wrong: the client's own, and the one that a rule named until now.
fn is_masqueraded(entry: &Entry, before: &Index<'_>) -> bool {
    let named = |translation: &Translation| translation.source == SourceNat::Address(entry.reply.destination);
    entry.reply.destination != entry.original.source && !before.matching(entry).any(named)
}
