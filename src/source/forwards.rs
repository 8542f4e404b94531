//! The forwards of a set. A copy shares its content with the original, so a set with one change costs what the change costs.

use std::sync::Arc;

use imbl::OrdMap;
use imbl::ordmap::DiffItem;

use super::Sourced;
use crate::forward::ForwardKey;

/// Forwards, ordered by namespace and name, without duplicates.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Forwards(OrdMap<ForwardKey, Sourced>);

/// One forward that differs between two sets.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Difference<'a> {
    pub(crate) key: &'a ForwardKey,
    /// In the older set.
    pub(crate) before: Option<&'a Sourced>,
    /// In the newer set.
    pub(crate) now: Option<&'a Sourced>,
}

impl Forwards {
    /// The forward with this name.
    #[must_use]
    pub fn get(&self, key: &ForwardKey) -> Option<&Sourced> {
        self.0.get(key)
    }

    /// Adds a forward, or replaces the one with its name, which is returned.
    pub fn insert(&mut self, sourced: Sourced) -> Option<Sourced> {
        self.0.insert(ForwardKey::of(&sourced.object), sourced)
    }

    /// Removes the forward with this name, and returns it.
    pub fn remove(&mut self, key: &ForwardKey) -> Option<Sourced> {
        self.0.remove(key)
    }

    /// The forwards in their order.
    #[must_use]
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Sourced> {
        self.0.values()
    }

    /// Their names in their order.
    #[must_use]
    pub fn keys(&self) -> impl ExactSizeIterator<Item = &ForwardKey> {
        self.0.keys()
    }

    /// How many they are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Those for which `wanted` is true.
    #[must_use]
    pub fn filtered(&self, wanted: impl Fn(&Sourced) -> bool) -> Self {
        self.iter().filter(|sourced| wanted(sourced)).cloned().collect()
    }

    /// What differs in `newer`, in the order of the names. Does not look at what both share.
    pub(crate) fn differences<'a>(&'a self, newer: &'a Self) -> impl Iterator<Item = Difference<'a>> {
        self.0.diff(&newer.0).map(|item| match item {
            DiffItem::Add(key, now) => Difference { key, before: None, now: Some(now) },
            DiffItem::Update { old: (_, before), new: (key, now) } => Difference { key, before: Some(before), now: Some(now) },
            DiffItem::Remove(key, before) => Difference { key, before: Some(before), now: None },
        })
    }
}

impl FromIterator<Sourced> for Forwards {
    fn from_iter<T: IntoIterator<Item = Sourced>>(sourced: T) -> Self {
        Self(sourced.into_iter().map(|sourced| (ForwardKey::of(&sourced.object), sourced)).collect())
    }
}

impl Extend<Sourced> for Forwards {
    fn extend<T: IntoIterator<Item = Sourced>>(&mut self, sourced: T) {
        for sourced in sourced {
            self.insert(sourced);
        }
    }
}

impl PartialEq for Sourced {
    fn eq(&self, other: &Self) -> bool {
        (Arc::ptr_eq(&self.object, &other.object) || self.object == other.object)
            && (&self.stored, &self.origin, &self.trouble) == (&other.stored, &other.origin, &other.trouble)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    /// What two maps differ in, by a look at all entries.
    fn naive(before: &OrdMap<u16, u8>, now: &OrdMap<u16, u8>) -> BTreeMap<u16, (Option<u8>, Option<u8>)> {
        let keys = before.keys().chain(now.keys());
        let both = keys.map(|key| (*key, (before.get(key).copied(), now.get(key).copied())));
        both.filter(|(_, (before, now))| before != now).collect()
    }

    fn found(before: &OrdMap<u16, u8>, now: &OrdMap<u16, u8>) -> BTreeMap<u16, (Option<u8>, Option<u8>)> {
        before
            .diff(now)
            .map(|item| match item {
                DiffItem::Add(key, now) => (*key, (None, Some(*now))),
                DiffItem::Update { old: (key, before), new: (_, now) } => (*key, (Some(*before), Some(*now))),
                DiffItem::Remove(key, before) => (*key, (Some(*before), None)),
            })
            .collect()
    }

    fn edit() -> impl Strategy<Value = (u16, Option<u8>)> {
        (0u16..4000, prop::option::weighted(0.6, 0u8..3))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(500))]

        /// The agent relies on it: a difference that is missed is a change that never reaches the kernel. A version of the library
        /// before 7.0.2 missed some.
        #[test]
        fn no_difference_between_maps_with_shared_content_is_missed(
            size in 0u16..3000,
            step in 1u16..3,
            steps in prop::collection::vec(prop::collection::vec(edit(), 0..40), 1..6),
        ) {
            let first: OrdMap<u16, u8> = (0..size).map(|key| (key * step % 4000, 1)).collect();
            let mut versions = vec![first];
            for edits in steps {
                let mut next = versions[versions.len() - 1].clone();
                for (key, value) in edits {
                    match value {
                        Some(value) => next.insert(key, value),
                        None => next.remove(&key),
                    };
                }
                versions.push(next);
            }
            for before in &versions {
                for now in &versions {
                    prop_assert_eq!(found(before, now), naive(before, now));
                }
            }
        }
    }
}
