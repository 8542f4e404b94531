//! Which conntrack entries are wrong. Pure: reads no table, deletes nothing.
//!
//! An entry is wrong if no rule in force matches its original tuple, or if it began while the rule was missing and is not
//! translated, or if it is UDP with another translation than the rule in force gives. An entry of TCP stays with the
//! upstream it has until it ends: without its entry the rest of the session would go to another one. What no rule of ours
//! has ever matched is foreign and stays.

mod index;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::table::Entry;
use crate::model::{Protocol, SourceNat, Translation};

pub use index::Index;

/// The entries that are wrong now that `now` is in force, where until now `before` was, in the order of `entries`. Of the
/// listen addresses, this node has those that are `held`: what it merely routes to another one is not ours to judge.
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
        // Which interface it came in by is not recorded: any translation that fits will do.
        Protocol::Udp => !in_force.any(|translation| fits(entry, translation, before)),
    }
}

/// The translation in force, of those in `now`, that `entry` is a flow of; of several that differ by interface, one that gives
/// its destination.
#[must_use]
pub fn translation_of<'a>(entry: &Entry, now: &Index<'a>) -> Option<&'a Translation> {
    let given = |it: &&Translation| entry.reply.source == it.destination.address;
    now.matching(entry).find(given).or_else(|| now.matching(entry).next())
}

/// Whether the destination of `entry` was translated, by whomever.
fn is_translated(entry: &Entry) -> bool {
    (entry.reply.source, entry.reply.source_port) != (entry.original.destination, entry.original.destination_port)
}

/// Whether `entry` is translated as `translation` gives.
fn fits(entry: &Entry, translation: &Translation, before: &Index<'_>) -> bool {
    let port = translation.destination.ports.of(entry.original.destination_port);
    (entry.reply.source, entry.reply.source_port) == (translation.destination.address, port)
        && match translation.source {
            SourceNat::Address(address) => entry.reply.destination == address,
            SourceNat::Masquerade => is_masqueraded(entry, before),
        }
}

/// Whether the source of `entry` may have come from `MASQUERADE`. Which address that takes is the kernel's choice, so only
/// two are known to be wrong: the client's own, and the one that a rule named until now.
fn is_masqueraded(entry: &Entry, before: &Index<'_>) -> bool {
    let named = |translation: &Translation| translation.source == SourceNat::Address(entry.reply.destination);
    entry.reply.destination != entry.original.source && !before.matching(entry).any(named)
}
