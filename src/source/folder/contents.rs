//! Computes what is in force from a folder: the last good content of each file, each object once, each with its generation.
//!
//! Pure: no I/O, and files are only names.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use tokio::time::Instant;

use crate::api::{PortForward, PortForwardGrant};
use crate::forward::ForwardKey;
use crate::source::{FileReport, Forwards, GrantSet, Snapshot, Sourced, SourcedGrant};

use super::Objects;
use super::generations::Generations;

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
    /// The forwards of the last reading.
    forwards: Forwards,
    /// The generation of each forward.
    generations: Generations<ForwardKey, PortForward>,
    /// The generation of each grant.
    grant_generations: Generations<String, PortForwardGrant>,
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
    objects: Arc<Objects>,
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
#[derive(Default)]
struct InForce<'a> {
    forwards: BTreeMap<ForwardKey, (Arc<PortForward>, &'a Path)>,
    grants: BTreeMap<String, (Arc<PortForwardGrant>, &'a Path)>,
}

/// Why the content of a file does not become its good content.
enum Kept {
    /// It is refused, for this reason.
    Refused(String),
    /// Another file, which is about to change, still has one of its objects.
    Waits,
}

impl Contents {
    /// Starts with the objects that were in force before a restart. Skips objects that did not come from a folder.
    pub(super) fn remembering(remembered: &Forwards) -> Self {
        let mut files: BTreeMap<PathBuf, Vec<Arc<PortForward>>> = BTreeMap::new();
        let mut generations = Generations::default();
        for Sourced { object, origin, .. } in remembered.iter() {
            let Some(origin) = origin else { continue };
            generations.insert(ForwardKey::of(object), object);
            files.entry(origin.clone()).or_default().push(Arc::clone(object));
        }
        let objects = |forwards| Arc::new(Objects { forwards, grants: Vec::new() });
        let good = files.into_iter().map(|(path, forwards)| (path, Good { objects: objects(forwards), digest: None })).collect();
        Self { good, generations, ..Self::default() }
    }

    /// The same, with the grants that were in force before a restart.
    pub(super) fn with_grants(mut self, remembered: Option<&GrantSet>) -> Self {
        for SourcedGrant { object, origin, .. } in remembered.into_iter().flat_map(|set| &set.grants) {
            let Some(origin) = origin else { continue };
            self.grant_generations.insert(grant_name(object), object);
            let nothing = || Good { objects: Arc::default(), digest: None };
            let good = self.good.entry(origin.clone()).or_insert_with(nothing);
            Arc::make_mut(&mut good.objects).grants.push(Arc::clone(object));
        }
        self
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
        let (mut in_force, mut files, mut due, mut waiting) = (InForce::default(), Vec::new(), None, BTreeSet::new());
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
            if let Some(good) = self.good.get(path) {
                in_force.add(&good.objects, path);
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
        let grants = Some(Arc::new(self.number_grants(in_force.grants)));
        let in_force = in_force.forwards;
        self.number(in_force);
        let forwards = self.forwards.clone();
        let snapshot = Snapshot { forwards, grants, files, labels: self.labels.clone(), ..Snapshot::default() };
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

    /// Takes over the forwards in force, each with its generation: 1 at first, increased by 1 with every change of its spec.
    fn number(&mut self, in_force: BTreeMap<ForwardKey, (Arc<PortForward>, &Path)>) {
        self.generations.retain(|key| in_force.contains_key(key));
        let gone: Vec<ForwardKey> = self.forwards.keys().filter(|key| !in_force.contains_key(*key)).cloned().collect();
        for key in gone {
            self.forwards.remove(&key);
        }
        for (key, (object, origin)) in in_force {
            let known = self.forwards.get(&key).cloned();
            let object = self.generations.numbered(key, &object);
            if known.is_none_or(|it| !Arc::ptr_eq(&it.object, &object) || it.origin.as_deref() != Some(origin)) {
                self.forwards.insert(Sourced::of(object, Some(origin.to_owned())));
            }
        }
    }

    /// The same for grants.
    fn number_grants(&mut self, in_force: BTreeMap<String, (Arc<PortForwardGrant>, &Path)>) -> GrantSet {
        self.grant_generations.retain(|name| in_force.contains_key(name));
        let number = |(name, (object, origin)): (String, (Arc<PortForwardGrant>, &Path))| {
            let object = self.grant_generations.numbered(name, &object);
            SourcedGrant { object, origin: Some(origin.to_owned()), trouble: None }
        };
        GrantSet { grants: in_force.into_iter().map(number).collect(), undecoded: Vec::new() }
    }
}

/// The objects of a file, if the file is valid and none of its objects is in force from another file.
fn admissible(content: &FileContent, taken: &InForce, waiting: &BTreeSet<&Path>) -> Result<Arc<Objects>, Kept> {
    let objects = content.objects.as_ref().map_err(|error| Kept::Refused(error.clone()))?;
    match taken.other(objects) {
        None => Ok(Arc::clone(objects)),
        Some((_, holder)) if waiting.contains(holder) => Err(Kept::Waits),
        Some((what, holder)) => {
            Err(Kept::Refused(format!("{what} is in force from {} already; remove one of them", holder.display())))
        }
    }
}

impl<'a> InForce<'a> {
    /// Adds the objects of a file.
    fn add(&mut self, objects: &Objects, path: &'a Path) {
        for object in &objects.forwards {
            self.forwards.entry(ForwardKey::of(object)).or_insert_with(|| (Arc::clone(object), path));
        }
        for grant in &objects.grants {
            self.grants.entry(grant_name(grant)).or_insert_with(|| (Arc::clone(grant), path));
        }
    }

    /// The first of `objects` that is in force from another file, and this file.
    fn other(&self, objects: &Objects) -> Option<(String, &'a Path)> {
        let forward = objects.forwards.iter().map(|object| ForwardKey::of(object)).find_map(|key| {
            let (_, holder) = self.forwards.get(&key)?;
            Some((key.to_string(), *holder))
        });
        forward.or_else(|| {
            objects.grants.iter().map(|grant| grant_name(grant)).find_map(|name| {
                let (_, holder) = self.grants.get(&name)?;
                Some((format!("the grant {name}"), *holder))
            })
        })
    }
}

/// The name of a grant. It is unique, because a grant is in no namespace.
fn grant_name(grant: &PortForwardGrant) -> String {
    grant.metadata.name.clone().unwrap_or_default()
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
