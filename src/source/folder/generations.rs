//! The generations of the objects of a folder: 1 at first, increased by 1 with every change of the spec.

use std::collections::BTreeMap;

/// The generation of each object, and the spec that it belongs to.
#[derive(Debug)]
pub(super) struct Generations<K, S>(BTreeMap<K, (i64, S)>);

impl<K: Ord, S: Clone + PartialEq> Generations<K, S> {
    /// Sets the generation that an object had before a restart.
    pub(super) fn insert(&mut self, key: K, generation: i64, spec: S) {
        self.0.insert(key, (generation, spec));
    }

    /// Forgets every object for which `is_there` is false.
    pub(super) fn retain(&mut self, is_there: impl Fn(&K) -> bool) {
        self.0.retain(|key, _| is_there(key));
    }

    /// The generation of the object with this spec.
    pub(super) fn of(&mut self, key: K, spec: &S) -> i64 {
        let (generation, before) = self.0.entry(key).or_insert_with(|| (1, spec.clone()));
        if before != spec {
            *generation = generation.saturating_add(1);
            before.clone_from(spec);
        }
        *generation
    }
}

impl<K, S> Default for Generations<K, S> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}
