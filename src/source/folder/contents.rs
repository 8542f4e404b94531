//! Computes what is in force from a folder: the last good content of each file, each object once, each with its generation.
//!
//! Pure: no I/O, and files are only names.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use tokio::time::Instant;

use crate::api::{PortForward, PortForwardSpec};
use crate::source::{FileReport, Key, Snapshot, Sourced, key};

use super::reading::{Digest, FileContent, Place, Reading};
use super::settling::{EMPTIED, Former, HELD_OPEN, Missing, Settled, Settling};

/// The state of a folder between two readings.
#[derive(Debug, Default)]
pub(super) struct Contents {
    /// The last good content, by file.
    good: BTreeMap<PathBuf, Good>,
    /// The error of each file whose content counted and was refused.
    wrong: BTreeMap<PathBuf, String>,
    /// How long each file has been unchanged.
    settling: Settling,
    /// The generation of each object, and the spec that it belongs to.
    generations: BTreeMap<Key, (i64, PortForwardSpec)>,
    /// The directory that had the files in force.
    home: Home,
    /// The files of the last reading.
    listed: BTreeSet<PathBuf>,
    /// The labels of this node.
    labels: BTreeMap<String, String>,
}

/// The directory that had the files in force.
#[derive(Clone, Copy, Debug, Default)]
enum Home {
    /// Not known.
    #[default]
    Unknown,
    /// Not known, but it had the files at this time.
    At(SystemTime),
    /// This device and inode.
    Is((u64, u64)),
}

/// The content of a file that is in force.
#[derive(Debug)]
struct Good {
    objects: Arc<[PortForward]>,
    /// The digest of the file with this content; `None` after a restart.
    digest: Option<Digest>,
}

/// The result of one reading of the folder.
#[derive(Debug)]
pub(super) struct Update {
    /// The set that is in force now.
    pub(super) snapshot: Snapshot,
    /// The time of the next reading, if some content does not count yet.
    pub(super) due: Option<Instant>,
}

/// The objects that are in force so far, each with its file.
type InForce<'a> = BTreeMap<Key, (PortForward, &'a Path)>;

/// Why the content of a file does not become its good content.
enum Kept {
    /// It is refused, for this reason.
    Refused(String),
    /// Another file, which is about to change, still has one of its objects.
    Waits,
}

impl Contents {
    /// Starts with the objects that were in force before a restart. Skips objects that did not come from a folder.
    pub(super) fn remembering(remembered: Vec<Sourced>) -> Self {
        let mut files: BTreeMap<PathBuf, Vec<PortForward>> = BTreeMap::new();
        let mut generations = BTreeMap::new();
        for Sourced { object, origin, .. } in remembered {
            let Some(origin) = origin else { continue };
            let generation = object.metadata.generation.unwrap_or(1).max(1);
            generations.insert(key(&object), (generation, object.spec.clone()));
            files.entry(origin).or_default().push(Arc::unwrap_or_clone(object));
        }
        let good = files.into_iter().map(|(path, objects)| (path, Good { objects: objects.into(), digest: None })).collect();
        Self { good, generations, ..Self::default() }
    }

    /// The same. The files that are remembered were in the folder at this time.
    pub(super) fn seen_at(self, time: Option<SystemTime>) -> Self {
        Self { home: time.map_or(Home::Unknown, Home::At), ..self }
    }

    /// The same, with the labels of this node.
    pub(super) fn with_labels(self, labels: BTreeMap<String, String>) -> Self {
        Self { labels, ..self }
    }

    /// Processes one reading of the folder at the moment `now`.
    pub(super) fn update(&mut self, reading: &Reading, now: Instant) -> Update {
        let paths: BTreeSet<PathBuf> = self.good.keys().chain(reading.files.keys()).cloned().collect();
        let (mut in_force, mut files, mut due, mut waiting) = (InForce::new(), Vec::new(), None, BTreeSet::new());
        let missing = self.missing(reading);
        for path in &paths {
            let settled = match reading.files.get(path) {
                Some(content) => self.take(path, content, &in_force, &waiting, now),
                None => self.lose(path, missing, now),
            };
            match settled {
                Settled::Yes => {}
                // The folder is read often enough for this.
                Settled::NotBefore(_) if missing == Missing::Emptied => drop(waiting.insert(path.as_path())),
                Settled::NotBefore(then) | Settled::HeldOpen(then) => {
                    due = Some(due.map_or(then, |due: Instant| due.min(then)));
                    waiting.insert(path.as_path());
                }
            }
            for object in self.good.get(path).into_iter().flat_map(|good| good.objects.iter()) {
                in_force.entry(key(object)).or_insert_with(|| (object.clone(), path));
            }
            if reading.files.contains_key(path) {
                let error = match settled {
                    Settled::HeldOpen(_) => Some(held_open()),
                    Settled::Yes | Settled::NotBefore(_) => self.wrong.get(path).cloned(),
                };
                files.push(FileReport { path: path.clone(), error });
            }
        }
        if missing == Missing::Emptied && !waiting.is_empty() {
            files.push(FileReport { path: FileReport::FOLDER.into(), error: Some(emptied()) });
        }
        if let Some(place) = reading.place
            && self.good.keys().all(|path| reading.files.contains_key(path))
        {
            self.home = Home::Is(place.identity);
        }
        let snapshot = Snapshot { forwards: self.number(in_force), files, labels: self.labels.clone(), ..Snapshot::default() };
        Update { snapshot, due }
    }

    /// Where the files are missing that `reading` does not have.
    fn missing(&mut self, reading: &Reading) -> Missing {
        let here = match (self.home, reading.place) {
            (Home::Is(home), Some(place)) => home == place.identity,
            // Removing a file changes the directory.
            (Home::At(time), Some(Place { changed, .. })) => changed >= time,
            (Home::Unknown, _) | (_, None) => true,
        };
        let listed = reading.files.keys().cloned().collect();
        let another = std::mem::replace(&mut self.listed, listed) != self.listed;
        match (here, reading.files.is_empty()) {
            (true, _) => Missing::Here,
            (false, true) => Missing::Emptied,
            (false, false) => {
                if another {
                    self.settling.all_gone_anew();
                }
                Missing::Elsewhere
            }
        }
    }

    /// Makes the content of a file its last good one, once it counts and is valid.
    fn take(&mut self, path: &Path, content: &FileContent, taken: &InForce, waiting: &BTreeSet<&Path>, now: Instant) -> Settled {
        let former = self.good.get(path).map_or(Former::Nothing, |good| Former::Good(good.digest));
        let settled = self.settling.content(path, content, former, now);
        if settled == Settled::Yes {
            match admissible(content, taken, waiting) {
                Ok(objects) => {
                    self.wrong.remove(path);
                    self.good.insert(path.to_owned(), Good { objects, digest: content.digest });
                }
                Err(Kept::Refused(error)) => drop(self.wrong.insert(path.to_owned(), error)),
                // The file is checked again when the other file has settled.
                Err(Kept::Waits) => {}
            }
        }
        settled
    }

    /// Removes the content of a file that no longer exists, once this counts.
    fn lose(&mut self, path: &Path, missing: Missing, now: Instant) -> Settled {
        let settled = self.settling.gone(path, missing, now);
        if settled == Settled::Yes {
            self.good.remove(path);
            self.wrong.remove(path);
        }
        settled
    }

    /// Gives each object its generation: 1 at first, increased by 1 with every change of its spec.
    fn number(&mut self, in_force: InForce) -> Vec<Sourced> {
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

/// The objects of a file, if the file is valid and none of its objects is in force from another file.
fn admissible(content: &FileContent, taken: &InForce, waiting: &BTreeSet<&Path>) -> Result<Arc<[PortForward]>, Kept> {
    let objects = content.objects.as_ref().map_err(|error| Kept::Refused(error.clone()))?;
    for object in objects.iter() {
        let key = key(object);
        match taken.get(&key) {
            None => {}
            Some((_, holder)) if waiting.contains(holder) => return Err(Kept::Waits),
            Some((_, holder)) => {
                let (namespace, name) = key;
                let holder = holder.display();
                return Err(Kept::Refused(format!("{namespace}/{name} is in force from {holder} already; remove one of them")));
            }
        }
    }
    Ok(Arc::clone(objects))
}

fn emptied() -> String {
    let minutes = EMPTIED.as_secs() / 60;
    format!(
        "the folder has no manifest, and it is not the directory that had them; is its volume mounted? The forwards stay in force for up to {minutes} minutes. To withdraw them now, write one manifest into the folder"
    )
}

fn held_open() -> String {
    let minutes = HELD_OPEN.as_secs() / 60;
    format!(
        "another program has this file open for writing, so its new content is not used yet; close the file in that program, or rename a complete file over it. Content that stays unchanged for {minutes} minutes is used nevertheless"
    )
}
