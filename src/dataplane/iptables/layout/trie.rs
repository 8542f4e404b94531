//! Splits a set of rules over chains so that no chain has more than [`FANOUT`] verdicts and [`FANOUT`] jumps.
//!
//! The boundaries are fixed: [`LEVEL`] bits per level, first on the listen address, then on the port, then on the client.
//! Levels that do not split are skipped. So the chains depend only on the set, and a change of one rule changes one leaf
//! and, rarely, its parents.

use std::collections::BTreeMap;

use super::cell::{Cell, Covering};
use super::prefix::{LEVEL, Prefix};
use super::stage::{Apart, Key, Stage};
use crate::dataplane::iptables::chain::Chains;
use crate::dataplane::iptables::rule::{Matches, Rule, Target};
use crate::model::Protocol;

/// The maximum number of verdicts, and of jumps, in one chain.
pub const FANOUT: usize = 16;

struct Entry {
    key: Key,
    rule: Rule,
}

/// A chain below another one: the jump to it, its cell and its content.
struct Child {
    matches: Matches,
    cell: Cell,
    entries: Vec<Entry>,
}

/// The rules of one dimension, split at one level.
struct Split {
    children: BTreeMap<Prefix, Vec<Entry>>,
    /// The entries that no child covers.
    wide: Vec<Entry>,
}

/// The chains for `rules`, which are all verdicts of `stage`; no packet matches two of them. Always includes the root
/// chain.
pub(super) fn grow(stage: Stage, rules: impl IntoIterator<Item = Rule>) -> Chains {
    let mut entries: Vec<Entry> = rules.into_iter().filter_map(|rule| Some(Entry { key: stage.key(&rule)?, rule })).collect();
    entries.sort_by(|a, b| a.rule.cmp(&b.rule));
    let mut trie = Trie { stage, chains: Chains::new() };
    trie.plant(Cell::root(stage), entries);
    trie.chains
}

struct Trie {
    stage: Stage,
    chains: Chains,
}

impl Trie {
    /// Creates the chain of `cell` and the chains below it.
    fn plant(&mut self, cell: Cell, entries: Vec<Entry>) {
        if entries.len() <= FANOUT {
            self.chain(&cell, Vec::new(), entries);
        } else if let Some(protocol) = shared(&entries, |key| key.protocol) {
            self.plant_protocol(cell, protocol, entries);
        } else {
            let children = grouped(entries, |key| key.protocol);
            let children = children.into_iter().map(|(protocol, entries)| Child {
                matches: self.stage.to_protocol(protocol),
                cell: cell.protocol(protocol),
                entries,
            });
            self.chain(&cell.clone(), children.collect(), Vec::new());
        }
    }

    /// Splits the rules of one protocol by listen address.
    fn plant_protocol(&mut self, cell: Cell, protocol: Protocol, entries: Vec<Entry>) {
        let cell = cell.with_protocol(protocol);
        if let Some(address) = shared(&entries, |key| key.address) {
            return self.plant_address(cell.with_address(address), protocol, entries);
        }
        let (_, split) = split(entries, |key| key.address);
        let children = split.children.into_iter().map(|(address, entries)| Child {
            matches: self.stage.to_address(protocol, address),
            cell: cell.address(address),
            entries,
        });
        self.chain(&cell.clone(), children.collect(), split.wide);
    }

    /// Splits the rules of one listen address by port. A range that no child covers stays in this chain.
    fn plant_address(&mut self, cell: Cell, protocol: Protocol, entries: Vec<Entry>) {
        if cell.is_wide() {
            return self.plant_ports(&cell, protocol, entries);
        }
        if let Some(ports) = shared(&entries, |key| key.ports) {
            return self.plant_ports(&cell.with_ports(ports), protocol, entries);
        }
        let (whole, split) = split(entries, |key| key.ports);
        let mut children: Vec<Child> = split
            .children
            .into_iter()
            .map(|(ports, entries)| Child {
                matches: self.stage.to_ports(protocol, ports.ports()),
                cell: cell.ports(ports, Covering::Every),
                entries,
            })
            .collect();
        let mut kept = split.wide;
        if kept.len() > FANOUT {
            let matches = self.stage.to_ports(protocol, whole.ports());
            children.push(Child { matches, cell: cell.ports(whole, Covering::Wide), entries: std::mem::take(&mut kept) });
        }
        self.chain(&cell, children, kept);
    }

    /// Splits rules of the same ports by client. A client that no child covers stays in this chain, or gets a chain for its
    /// exact prefix.
    fn plant_ports(&mut self, cell: &Cell, protocol: Protocol, entries: Vec<Entry>) {
        if shared(&entries, |key| key.client).is_some() {
            return self.plant_client(cell, protocol, entries);
        }
        let (_, split) = split(entries, |key| key.client);
        let mut kept = split.wide;
        let exact = if kept.len() > FANOUT { grouped(std::mem::take(&mut kept), |key| key.client) } else { BTreeMap::new() };
        let child = |covering| {
            let stage = self.stage;
            move |(client, entries)| Child {
                matches: stage.to_client(protocol, client),
                cell: cell.client(client, covering),
                entries,
            }
        };
        let exact = exact.into_iter().map(child(Covering::Wide));
        let children = exact.chain(split.children.into_iter().map(child(Covering::Every))).collect();
        self.chain(cell, children, kept);
    }

    /// Splits rules of the same ports and client by what else distinguishes them, and finally by number.
    fn plant_client(&mut self, cell: &Cell, protocol: Protocol, mut entries: Vec<Entry>) {
        if shared(&entries, |key| key.apart.clone()).is_some() {
            let rest = entries.split_off(FANOUT);
            let rest = Child { matches: self.stage.to_protocol(protocol), cell: cell.part(0), entries: rest };
            return self.chain(cell, vec![rest], entries);
        }
        let children = grouped(entries, |key| key.apart.clone());
        let unnamed = |apart: Option<Apart>| apart.map_or_else(|| cell.part(0), |apart| cell.apart(apart));
        let children = children.into_iter().map(|(apart, entries)| Child {
            matches: self.stage.to_apart(protocol, apart.as_ref()),
            cell: unnamed(apart),
            entries,
        });
        self.chain(cell, children.collect(), Vec::new());
    }

    /// The chain of `cell`: the verdicts `kept`, then jumps to `children`. If there are too many jumps, intermediate chains
    /// are added.
    ///
    /// Large ranges come before small ones, because most flows then match early.
    fn chain(&mut self, cell: &Cell, children: Vec<Child>, kept: Vec<Entry>) {
        let mut rules: Vec<Rule> = kept.into_iter().map(|entry| entry.rule).collect();
        if children.len() <= FANOUT {
            for Child { matches, cell, entries } in children {
                rules.push(Rule { matches, target: Target::Jump(cell.name().clone()) });
                self.plant(cell, entries);
            }
        } else {
            let size = children.len().div_ceil(FANOUT).max(FANOUT);
            let mut children = children.into_iter();
            for number in 1.. {
                let part: Vec<Child> = children.by_ref().take(size).collect();
                if part.is_empty() {
                    break;
                }
                let part_cell = cell.part(number);
                rules.push(Rule { matches: Matches::default(), target: Target::Jump(part_cell.name().clone()) });
                self.chain(&part_cell, part, Vec::new());
            }
        }
        self.chains.insert(cell.name().clone(), rules);
    }
}

/// The common value of all keys, if all entries have the same.
fn shared<T: PartialEq>(entries: &[Entry], part: impl Fn(&Key) -> T) -> Option<T> {
    let first = part(&entries.first()?.key);
    entries.iter().all(|entry| part(&entry.key) == first).then_some(first)
}

fn grouped<T: Ord>(entries: Vec<Entry>, part: impl Fn(&Key) -> T) -> BTreeMap<T, Vec<Entry>> {
    let mut groups = BTreeMap::<T, Vec<Entry>>::new();
    for entry in entries {
        groups.entry(part(&entry.key)).or_default().push(entry);
    }
    groups
}

/// Splits at the first level at which the entries differ. Also returns their common prefix.
fn split(entries: Vec<Entry>, part: impl Fn(&Key) -> Prefix) -> (Prefix, Split) {
    let whole =
        entries.iter().map(|entry| part(&entry.key)).reduce(Prefix::common).map_or_else(|| unreachable!(), Prefix::whole_levels);
    let mut split = Split { children: BTreeMap::new(), wide: Vec::new() };
    for entry in entries {
        let prefix = part(&entry.key);
        if prefix.len() >= whole.len() + LEVEL {
            split.children.entry(prefix.truncated(whole.len() + LEVEL)).or_default().push(entry);
        } else {
            split.wide.push(entry);
        }
    }
    (whole, split)
}
