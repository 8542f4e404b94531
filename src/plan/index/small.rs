//! An ordered map that usually has one entry.

use std::collections::BTreeMap;
use std::ops::RangeBounds;

/// A map. A single entry needs no node of a tree, which has room for eleven.
#[derive(Clone, Debug)]
pub(super) enum Small<K, V> {
    Empty,
    One(K, V),
    Tree(BTreeMap<K, V>),
}

impl<K: Ord, V> Small<K, V> {
    pub(super) const fn is_empty(&self) -> bool {
        matches!(self, Self::Empty)
    }

    pub(super) fn get(&self, key: &K) -> Option<&V> {
        match self {
            Self::Empty => None,
            Self::One(one, value) => (one == key).then_some(value),
            Self::Tree(tree) => tree.get(key),
        }
    }

    pub(super) fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        match self {
            Self::Empty => None,
            Self::One(one, value) => (one == key).then_some(value),
            Self::Tree(tree) => tree.get_mut(key),
        }
    }

    /// The value of `key`; the default one is added if there is none.
    pub(super) fn or_default(&mut self, key: K) -> &mut V
    where
        V: Default,
    {
        let is_new = self.get(&key).is_none();
        *self = match std::mem::take(self) {
            Self::Empty => Self::One(key, V::default()),
            Self::One(one, value) if is_new => Self::Tree(BTreeMap::from([(one, value), (key, V::default())])),
            Self::Tree(mut tree) if is_new => {
                tree.insert(key, V::default());
                Self::Tree(tree)
            }
            same => return { *self = same; self.get_mut(&key).expect("it is there") },
        };
        todo!()
    }
}
