//! The content of a table of legacy xtables, as one number for each chain.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hasher};

use super::sockopt::Info;

/// The built-in chains by the number of their hook (`enum nf_inet_hooks`).
pub(in super::super) const BUILT_IN: [&str; 5] = ["PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"];
/// Offsets in `struct ipt_entry`: the offset of the target and of the next entry, what only the kernel uses, and the matches.
const TARGET_OFFSET: usize = 88;
const NEXT_OFFSET: usize = 90;
const KERNEL: usize = 92;
const MATCHES: usize = 112;
/// Offsets in `struct xt_entry_target`: the name of the target, and its data.
const NAME: usize = 2;
const DATA: usize = 32;
/// The target with which a chain of a user begins. Its data is the name of the chain.
const CHAIN: &[u8] = b"ERROR\0";

/// The content of a table: a hash for each chain, of its rules in order, without counters. Two tables with the same hashes have the
/// same rules.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in super::super) struct Content(BTreeMap<String, u64>);

/// One entry of the table.
struct Entry<'a> {
    at: usize,
    bytes: &'a [u8],
    target: &'a [u8],
}

impl<'a> Entry<'a> {
    fn at(table: &'a [u8], at: usize) -> Option<Self> {
        let rest = table.get(at..)?;
        let offset = |from: usize| rest.get(from..)?.first_chunk().copied().map(u16::from_ne_bytes).map(usize::from);
        let bytes = rest.get(..offset(NEXT_OFFSET)?).filter(|bytes| bytes.len() > MATCHES)?;
        Some(Self { at, bytes, target: bytes.get(offset(TARGET_OFFSET)?..)? })
    }

    fn end(&self) -> usize {
        self.at + self.bytes.len()
    }

    /// The name of the chain that begins with this entry.
    fn head(&self) -> Option<&'a str> {
        self.target
            .get(NAME..)?
            .starts_with(CHAIN)
            .then(|| self.target.get(DATA..)?.split(|byte| *byte == 0).next())?
            .map(str::from_utf8)?
            .ok()
    }

    /// The place that a jump leads to. It changes with every rule that comes or goes before it.
    fn jump(&self) -> Option<usize> {
        let is_standard = *self.target.get(NAME)? == 0;
        let verdict = self.target.get(DATA..)?.first_chunk().copied().map(i32::from_ne_bytes)?;
        usize::try_from(verdict).ok().filter(|_| is_standard)
    }
}

impl Content {
    /// The content of the entries that the kernel gave out; `None` if they are not understood.
    pub(super) fn of(info: &Info, table: &[u8]) -> Option<Self> {
        let mut entries = Vec::new();
        let mut names: BTreeMap<usize, &str> = info.begins().filter_map(|(hook, at)| Some((at, *BUILT_IN.get(hook)?))).collect();
        let mut at = 0;
        while at < table.len() {
            let entry = Entry::at(table, at)?;
            at = entry.end();
            if let Some(name) = entry.head() {
                names.insert(at, name);
            }
            entries.push(entry);
        }
        let (mut chains, mut last): (BTreeMap<String, DefaultHasher>, _) = (BTreeMap::new(), None);
        for entry in entries {
            if let Some(name) = entry.head() {
                // An empty chain is a chain, too.
                last = Some(name);
            } else if let Some(name) = names.get(&entry.at) {
                last = Some(name);
            }
            let hash = chains.entry(last?.to_owned()).or_default();
            hash.write(entry.bytes.get(..KERNEL)?);
            match entry.jump() {
                Some(to) => {
                    let data = entry.bytes.len() - entry.target.len() + DATA;
                    hash.write(entry.bytes.get(MATCHES..data)?);
                    // The next rule, for a rule without a verdict.
                    hash.write(if to == entry.end() { b"" } else { names.get(&to)?.as_bytes() });
                }
                None => hash.write(entry.bytes.get(MATCHES..)?),
            }
        }
        Some(Self(chains.into_iter().map(|(name, hash)| (name, hash.finish())).collect()))
    }

    /// The names of the chains that differ, or that only one of both has.
    pub(in super::super) fn differing<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = &'a str> {
        let differs = |(name, hash): &(&String, &u64), other: &Self| other.0.get(*name) != Some(hash);
        let changed = self.0.iter().filter(move |chain| differs(chain, other));
        let gone = other.0.iter().filter(move |(name, _)| !self.0.contains_key(*name));
        changed.chain(gone).map(|(name, _)| name.as_str())
    }

    /// The names of the chains.
    pub(in super::super) fn chains(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }
}
