//! Reads every manifest file of the folder once: its objects, or its error.
//!
//! Does not decide what is in force.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::OFlags;
use sha2::{Digest as _, Sha256};

use crate::durable;
use crate::supervise::guarded;

use super::writers::{self, Writers};
use super::{Check, Objects, document};

/// The maximum size of one file in bytes.
const MOST_BYTES: u64 = 8 * 1024 * 1024;

/// The maximum number of manifest files in one folder.
const MOST_FILES: usize = 10_000;

/// How often a folder is read again because it changed during the reading.
const MOST_PASSES: usize = 5;

/// Why a folder as a whole cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// It is missing, is not a directory, or this program may not read it.
    #[error("{}: cannot be read; make it a directory that this program can read", path.display())]
    Unreadable {
        /// The folder.
        path: PathBuf,
        /// The error of the system.
        source: io::Error,
    },
    /// It holds more files than this program reads.
    #[error("{}: more than {most} manifests; put several objects into one file", path.display())]
    TooManyFiles {
        /// The folder.
        path: PathBuf,
        /// The maximum number of files.
        most: usize,
    },
    /// The task that reads the folder stopped.
    #[error("the task that reads the folder stopped")]
    Stopped(#[from] tokio::task::JoinError),
}

/// The result of one pass.
#[derive(Debug, Default)]
pub(super) struct Reading {
    /// The manifests, by path relative to the folder.
    pub(super) files: BTreeMap<PathBuf, FileContent>,
    /// The directory that was read; `None` before the first pass.
    pub(super) place: Option<Place>,
}

/// The directory that a path leads to. After a mount or a rename, the same path leads to another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// The device and the inode.
    pub(super) identity: (u64, u64),
    /// The time of the last change of its entries (mtime).
    pub(super) changed: SystemTime,
}

impl Reading {
    /// The same, as if no program were writing: for a caller that reads only once.
    pub(super) fn at_rest(mut self) -> Self {
        for content in self.files.values_mut() {
            content.writers = Writers::None;
        }
        self
    }
}

/// SHA-256 of the bytes of a file.
pub(super) type Digest = [u8; 32];

/// The content of one file, and the state of the file.
#[derive(Clone, Debug)]
pub(super) struct FileContent {
    /// The digest of its bytes; `None` if it cannot be read.
    pub(super) digest: Option<Digest>,
    /// Its objects, or its error.
    pub(super) objects: Result<Arc<Objects>, String>,
    /// Whether a program has it open for writing.
    pub(super) writers: Writers,
    /// The time since the last change, by the clocks of its file system and of this node.
    pub(super) age: Duration,
    /// How the file got its content, as far as is known.
    pub(super) arrival: Arrival,
}

/// How a file got its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arrival {
    /// A complete file was renamed to this name.
    Moved,
    /// Not known; a program may have written it in place.
    Unknown,
}

/// Reads every manifest in `dir`. A file with the same bytes as in `last` is not parsed again. `moved` are the files that were
/// renamed to their names since then.
///
/// If the folder changes during the reading, it is read again, so that an object that moves between files (or a mounted
/// `ConfigMap` that is replaced) is not missed.
pub(super) fn read(dir: &Path, last: &Reading, moved: &BTreeSet<PathBuf>, check: Check) -> Result<Reading, FolderError> {
    let mut before = (place(dir)?, list(dir)?);
    let mut passes = 1;
    loop {
        let arrival = |name: &PathBuf| if moved.contains(name) { Arrival::Moved } else { Arrival::Unknown };
        let read = |name: &PathBuf| FileContent { arrival: arrival(name), ..file(dir, name, last, check) };
        let files = before.1.keys().map(|name| (name.clone(), read(name))).collect();
        let after = (place(dir)?, list(dir)?);
        if after == before || passes == MOST_PASSES {
            return Ok(Reading { files, place: Some(before.0) });
        }
        before = after;
        passes += 1;
    }
}

/// Identifies one state of a file: device, inode, size, seconds and nanoseconds of the last change (ctime).
type Signature = (u64, u64, u64, i64, i64);

fn signature(meta: &Metadata) -> Signature {
    (meta.dev(), meta.ino(), meta.size(), meta.ctime(), meta.ctime_nsec())
}

fn place(dir: &Path) -> Result<Place, FolderError> {
    let unreadable = |source| FolderError::Unreadable { path: dir.to_owned(), source };
    let found = fs::metadata(dir).map_err(unreadable)?;
    Ok(Place { identity: (found.dev(), found.ino()), changed: found.modified().map_err(unreadable)? })
}

/// The manifest files, by name; `None` for a file that cannot be examined, such as a broken link.
fn list(dir: &Path) -> Result<BTreeMap<PathBuf, Option<Signature>>, FolderError> {
    let unreadable = |source| FolderError::Unreadable { path: dir.to_owned(), source };
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(dir).map_err(unreadable)? {
        let name = PathBuf::from(entry.map_err(unreadable)?.file_name());
        if !is_manifest(&name) {
            continue;
        }
        if files.len() == MOST_FILES {
            return Err(FolderError::TooManyFiles { path: dir.to_owned(), most: MOST_FILES });
        }
        let found = fs::metadata(dir.join(&name)).map(|meta| signature(&meta)).ok();
        files.insert(name, found);
    }
    Ok(files)
}

fn is_manifest(name: &Path) -> bool {
    let hidden = name.as_os_str().as_encoded_bytes().starts_with(b".");
    !hidden && name.extension().is_some_and(|extension| ["yaml", "yml", "json"].iter().any(|known| extension == *known))
}

fn file(dir: &Path, name: &Path, last: &Reading, check: Check) -> FileContent {
    let named = name.to_str().ok_or_else(|| "its name is not UTF-8 text; rename it".to_owned());
    let (bytes, writers, age) = match named.and_then(|_| bytes(&dir.join(name))) {
        Ok(read) => read,
        Err(error) => {
            let (writers, age) = (Writers::Unknown, Duration::ZERO);
            return FileContent { digest: None, objects: Err(error), writers, age, arrival: Arrival::Unknown };
        }
    };
    let digest = Some(Sha256::digest(&bytes).into());
    let objects = match last.files.get(name).filter(|known| known.digest == digest) {
        Some(same) => same.objects.clone(),
        None => objects(&bytes, check),
    };
    FileContent { digest, objects, writers, age, arrival: Arrival::Unknown }
}

/// The objects in the bytes of one manifest.
pub(super) fn objects(bytes: &[u8], check: Check) -> Result<Arc<Objects>, String> {
    // Many programs leave a file empty for a moment while they write it.
    if bytes.is_empty() {
        return Err("is empty; remove the file to withdraw its forwards".to_owned());
    }
    let text = document::text(bytes)?;
    guarded(|| document::objects(text, check)).map(Arc::new)
}

/// The bytes of a file, whether a program has it open for writing, and the time since its last change.
fn bytes(path: &Path) -> Result<(Vec<u8>, Writers, Duration), String> {
    let cannot = |error: io::Error| format!("cannot be read: {error}");
    // O_NONBLOCK: opening a FIFO must not block.
    let mut file: File =
        OpenOptions::new().read(true).custom_flags(durable::flags(OFlags::NONBLOCK)).open(path).map_err(cannot)?;
    let before = file.metadata().map_err(cannot)?;
    if !before.is_file() {
        return Err("is not a regular file; remove it or give it another name".to_owned());
    }
    let mut bytes = Vec::new();
    (&mut file).take(MOST_BYTES + 1).read_to_end(&mut bytes).map_err(cannot)?;
    if bytes.len() as u64 > MOST_BYTES {
        return Err(format!("is larger than {MOST_BYTES} bytes; split it"));
    }
    // Asked after the reading: a program that had the file open before and has closed it since then changed it after `before`.
    let writers = writers::of(&file);
    let after = file.metadata().map_err(cannot)?;
    let same = signature(&before) == signature(&after);
    Ok((bytes, if same { writers } else { Writers::Some }, if same { age(&after) } else { Duration::ZERO }))
}

/// The time since the last change of a file. It uses the ctime of the inode, which no program can set.
fn age(metadata: &Metadata) -> Duration {
    let nanos = u32::try_from(metadata.ctime_nsec()).unwrap_or_default();
    let changed = u64::try_from(metadata.ctime()).map(|secs| UNIX_EPOCH + Duration::new(secs, nanos));
    changed.ok().and_then(|changed| SystemTime::now().duration_since(changed).ok()).unwrap_or_default()
}
