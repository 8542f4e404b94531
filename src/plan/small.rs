//! An ordered map that usually has one entry.

use std::collections::BTreeMap;
use std::ops::RangeBounds;

/// A map. A single entry is held without a node of a tree, which would have room for eleven.
#[derive(Clone, Debug)]
pub(super) enum Small<K, V> {
    One(Option<(K, V)>),
    Tree(BTreeMap<K, V>),
}

impl<K: Copy + Ord, V> Small<K, V> {
    pub(super) fn is_empty(&self) -> bool {
        match self {
            Self::One(one) => one.is_none(),
            Self::Tree(tree) => tree.is_empty(),
        }
    }

    pub(super) fn get(&self, key: &K) -> Option<&V> {
        match self {
            Self::One(one) => one.as_ref().filter(|(one, _)| one == key).map(|(_, value)| value),
            Self::Tree(tree) => tree.get(key),
        }
    }

    pub(super) fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        match self {
            Self::One(one) => one.as_mut().filter(|(one, _)| one == key).map(|(_, value)| value),
            Self::Tree(tree) => tree.get_mut(key),
        }
    }

    /// The value of `key`. The default value is added if there is none.
    pub(super) fn or_default(&mut self, key: K) -> &mut V
    where
        V: Default,
    {
        if let Self::One(one) = self
            && let Some(other) = one.take_if(|(one, _)| *one != key)
        {
            *self = Self::Tree(BTreeMap::from([other]));
        }
        match self {
            Self::One(one) => &mut one.get_or_insert_with(|| (key, V::default())).1,
            Self::Tree(tree) => tree.entry(key).or_default(),
        }
    }

    pub(super) fn remove(&mut self, key: &K) {
        match self {
            Self::One(one) => drop(one.take_if(|(one, _)| one == key)),
            Self::Tree(tree) => drop(tree.remove(key)),
        }
    }

    /// The entries with a key in `keys`, in their order.
    pub(super) fn range<R: RangeBounds<K> + Clone>(&self, keys: R) -> impl Iterator<Item = (&K, &V)> {
        let (one, tree) = match self {
            Self::One(one) => (one.as_ref().filter(|(key, _)| keys.contains(key)), None),
            Self::Tree(tree) => (None, Some(tree.range(keys))),
        };
        one.map(|(key, value)| (key, value)).into_iter().chain(tree.into_iter().flatten())
    }

    /// The same, to change the values.
    pub(super) fn range_mut<R: RangeBounds<K> + Clone>(&mut self, keys: R) -> impl Iterator<Item = (&K, &mut V)> {
        let (one, tree) = match self {
            Self::One(one) => (one.as_mut().filter(|(key, _)| keys.contains(key)), None),
            Self::Tree(tree) => (None, Some(tree.range_mut(keys))),
        };
        one.map(|(key, value)| (&*key, value)).into_iter().chain(tree.into_iter().flatten())
    }
}

impl<K, V> Default for Small<K, V> {
    fn default() -> Self {
        Self::One(None)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_is_the_same_map_as_a_tree(steps in prop::collection::vec((0u8..4, any::<bool>(), any::<u8>()), 0..30), low in 0u8..4, high in 0u8..4) {
            let (mut small, mut tree) = (Small::<u8, u8>::default(), BTreeMap::<u8, u8>::new());
            for (key, adds, value) in steps {
                if adds {
                    *small.or_default(key) = value;
                    *tree.entry(key).or_default() = value;
                } else {
                    small.remove(&key);
                    tree.remove(&key);
                }
                let range = low.min(high)..=low.max(high);
                prop_assert!(small.range(range.clone()).eq(tree.range(range.clone())));
                prop_assert!(small.range_mut(range.clone()).map(|(key, value)| (*key, *value)).eq(tree.range(range).map(|(key, value)| (*key, *value))));
                prop_assert!(small.range(..).eq(tree.iter()));
                prop_assert_eq!(small.get(&key), tree.get(&key));
                prop_assert_eq!(small.get_mut(&key).copied(), tree.get(&key).copied());
                prop_assert_eq!(small.is_empty(), tree.is_empty());
            }
        }
    }
}
