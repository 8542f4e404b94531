//! What is in force of the folder: the last good content of each file, each object once, each with its generation.
//!
//! Pure: knows files by name only.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::api::{PortForward, PortForwardSpec};
use crate::source::{FileReport, Key, Snapshot, Sourced, key};

use super::reading::{FileContent, Reading};

/// The memory of a folder between two readings.
#[derive(Debug, Default)]
pub(super) struct Contents {
    /// The last good content by file.
    good: BTreeMap<PathBuf, Arc<[PortForward]>>,
    /// How often each object's spec has changed, and what it is.
    generations: BTreeMap<Key, (i64, PortForwardSpec)>,
    /// The labels of this node.
    labels: BTreeMap<String, String>,
}

impl Contents {
    /// Goes on from what was in force before a restart. Objects that did not come from a folder are passed over.
    pub(super) fn remembering(remembered: Vec<Sourced>) -> Self {
        let mut files: BTreeMap<PathBuf, Vec<PortForward>> = BTreeMap::new();
        let mut generations = BTreeMap::new();
        for Sourced { object, origin, .. } in remembered {
            let Some(origin) = origin else { continue };
            let generation = object.metadata.generation.unwrap_or(1).max(1);
            generations.insert(key(&object), (generation, object.spec.clone()));
            files.entry(origin).or_default().push(Arc::unwrap_or_clone(object));
        }
        let good = files.into_iter().map(|(path, objects)| (path, objects.into())).collect();
        Self { good, generations, labels: BTreeMap::new() }
    }

    /// The same, on a node with these labels.
    pub(super) fn with_labels(self, labels: BTreeMap<String, String>) -> Self {
        Self { labels, ..self }
    }

    /// Takes in one reading of the folder; gives what is in force now.
    pub(super) fn update(&mut self, reading: &Reading) -> Snapshot {
        self.good.retain(|path, _| reading.files.contains_key(path));
        let mut in_force: BTreeMap<Key, (PortForward, &Path)> = BTreeMap::new();
        let mut files = Vec::new();
        for (path, content) in &reading.files {
            let error = self.admit(path, content, &in_force).err();
            for object in self.good.get(path).into_iter().flat_map(|objects| objects.iter()) {
                in_force.entry(key(object)).or_insert_with(|| (object.clone(), path));
            }
            files.push(FileReport { path: path.clone(), error });
        }
        Snapshot { forwards: self.number(in_force), files, labels: self.labels.clone(), ..Snapshot::default() }
    }

    /// Makes the content of a file its last good one, if it is good and no earlier file has one of its objects in force.
    fn admit(&mut self, path: &Path, content: &FileContent, taken: &BTreeMap<Key, (PortForward, &Path)>) -> Result<(), String> {
        let objects = content.objects.as_ref().map_err(Clone::clone)?;
        for object in objects.iter() {
            let key = key(object);
            if let Some((_, holder)) = taken.get(&key) {
                let (namespace, name) = key;
                return Err(format!("{namespace}/{name} is in force from {} already; remove one of them", holder.display()));
            }
        }
        self.good.insert(path.to_owned(), objects.clone());
        Ok(())
    }

    /// Gives each object its generation: 1 at first, one more with every change of its spec.
    fn number(&mut self, in_force: BTreeMap<Key, (PortForward, &Path)>) -> Vec<Sourced> {
        let keys: BTreeSet<&Key> = in_force.keys().collect();
        self.generations.retain(|key, _| keys.contains(key));
        let number = |(key, (mut object, origin)): (Key, (PortForward, &Path))| {
            let (generation, spec) = self.generations.entry(key).or_insert_with(|| (1, object.spec.clone()));
            if *spec != object.spec {
                *generation = generation.saturating_add(1);
                spec.clone_from(&object.spec);
            }
            object.metadata.generation = Some(*generation);
            Sourced { object: Arc::new(object), origin: Some(origin.to_owned()), trouble: None }
        };
        in_force.into_iter().map(number).collect()
    }
}
