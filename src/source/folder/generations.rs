//! The objects of a folder with their generations: 1 at first, increased by 1 with every change of the spec.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;

use kube::Resource;
use kube::core::object::HasSpec;

/// Each object as it was read, and with its generation.
#[derive(Debug)]
pub(super) struct Generations<K, O>(BTreeMap<K, Numbered<O>>);

#[derive(Debug)]
struct Numbered<O> {
    read: Arc<O>,
    object: Arc<O>,
}

impl<K, O> Generations<K, O>
where
    K: Ord,
    O: Resource + HasSpec<Spec: PartialEq> + Clone + PartialEq,
{
    /// Takes over an object with the generation that it had before a restart.
    pub(super) fn insert(&mut self, key: K, object: &Arc<O>) {
        let number = object.meta().generation.unwrap_or(1).max(1);
        self.0.insert(key, Numbered { read: Arc::clone(object), object: with(object, number) });
    }

    /// Forgets every object for which `is_there` is false.
    pub(super) fn retain(&mut self, is_there: impl Fn(&K) -> bool) {
        self.0.retain(|key, _| is_there(key));
    }

    /// The object `read` with its generation. If nothing has changed, this is the same value as before.
    pub(super) fn numbered(&mut self, key: K, read: &Arc<O>) -> Arc<O> {
        match self.0.entry(key) {
            Entry::Vacant(vacant) => {
                Arc::clone(&vacant.insert(Numbered { read: Arc::clone(read), object: with(read, 1) }).object)
            }
            Entry::Occupied(mut occupied) => {
                let Numbered { read: before, object } = occupied.get_mut();
                if !Arc::ptr_eq(before, read) {
                    let number = object.meta().generation.unwrap_or(1);
                    let newest = with(read, if object.spec() == read.spec() { number } else { number.saturating_add(1) });
                    if *newest != **object {
                        *object = newest;
                    }
                    *before = Arc::clone(read);
                }
                Arc::clone(object)
            }
        }
    }
}

/// The object with this generation.
fn with<O: Resource + Clone>(object: &Arc<O>, generation: i64) -> Arc<O> {
    if object.meta().generation == Some(generation) {
        return Arc::clone(object);
    }
    let mut numbered = O::clone(object);
    numbered.meta_mut().generation = Some(generation);
    Arc::new(numbered)
}

impl<K, O> Default for Generations<K, O> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}
