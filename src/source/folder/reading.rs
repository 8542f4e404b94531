//! One pass over the folder: every manifest file and what it holds or why not.
//!
//! Must not decide what is in force.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::OFlags;
use sha2::{Digest as _, Sha256};

use crate::api::PortForward;
use crate::durable;
use crate::supervise::guarded;

use super::writers::{self, Writers};
use super::{Check, document};

/// The most bytes of one file.
const MOST_BYTES: u64 = 8 * 1024 * 1024;

/// The most manifest files of one folder.
const MOST_FILES: usize = 10_000;

/// How often a folder is read anew because it changed meanwhile.
const MOST_PASSES: usize = 5;

/// Why a folder as a whole could not be read.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// It is missing, is no directory or may not be read.
    #[error("{}: cannot be read; make it a directory that this program can read", path.display())]
    Unreadable {
        /// The folder.
        path: PathBuf,
        /// The reason of the system.
        source: io::Error,
    },
    /// It holds more files than this program reads.
    #[error("{}: more than {most} manifests; put several objects into one file", path.display())]
    TooManyFiles {
        /// The folder.
        path: PathBuf,
        /// How many are read at most.
        most: usize,
    },
    /// The task that read it stopped.
    #[error("reading stopped")]
    Stopped(#[from] tokio::task::JoinError),
}

/// What one pass found, by path relative to the folder.
#[derive(Debug, Default)]
pub(super) struct Reading {
    pub(super) files: BTreeMap<PathBuf, FileContent>,
}

impl Reading {
    /// The same, as if nobody were writing: for whoever looks once.
    pub(super) fn at_rest(mut self) -> Self {
        for content in self.files.values_mut() {
            content.writers = Writers::None;
        }
        self
    }
}

/// SHA-256 of the bytes of a file.
pub(super) type Digest = [u8; 32];

/// What one file holds, and how it stood with it.
#[derive(Clone, Debug)]
pub(super) struct FileContent {
    /// The digest of its bytes, where they could be read.
    pub(super) digest: Option<Digest>,
    /// Its objects, or what is wrong with it.
    pub(super) objects: Result<Arc<[PortForward]>, String>,
    /// Who has it open for writing.
    pub(super) writers: Writers,
    /// How long ago it was changed last, by the clocks of its file system and of this node.
    pub(super) age: Duration,
    /// How it came to be there, as far as is known.
    pub(super) arrival: Arrival,
}

/// How a file came to hold what it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arrival {
    /// It was renamed to its name, as a whole.
    Moved,
    /// Nobody knows; it may have been written where it is.
    Unknown,
}

/// Reads every manifest in `dir`. Files whose bytes are those of `last` are not parsed again; `moved` are those that were
/// renamed to their names since.
///
/// Where the folder changes meanwhile it is read anew, so that an object that moves from file to file (or a
/// mounted `ConfigMap` that is swapped) is not missed.
pub(super) fn read(dir: &Path, last: &Reading, moved: &BTreeSet<PathBuf>, check: Check) -> Result<Reading, FolderError> {
    let mut before = list(dir)?;
    let mut passes = 1;
    loop {
        let arrival = |name: &PathBuf| if moved.contains(name) { Arrival::Moved } else { Arrival::Unknown };
        let read = |name: &PathBuf| FileContent { arrival: arrival(name), ..file(dir, name, last, check) };
        let files = before.keys().map(|name| (name.clone(), read(name))).collect();
        let after = list(dir)?;
        if after == before || passes == MOST_PASSES {
            return Ok(Reading { files });
        }
        before = after;
        passes += 1;
    }
}

/// What tells one state of a file from another: device, inode, size, seconds and nanoseconds of its last change.
type Signature = (u64, u64, u64, i64, i64);

fn signature(meta: &Metadata) -> Signature {
    (meta.dev(), meta.ino(), meta.size(), meta.ctime(), meta.ctime_nsec())
}

/// The manifest files, by name; `None` where a file cannot be looked at, such as a link to nowhere.
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

fn objects(bytes: &[u8], check: Check) -> Result<Arc<[PortForward]>, String> {
    // A file is empty for a moment while many programs write it.
    if bytes.is_empty() {
        return Err("is empty; remove the file to withdraw what it held".to_owned());
    }
    let text = str::from_utf8(bytes).map_err(|error| format!("is not UTF-8 text: {error}"))?;
    guarded(|| document::objects(text, check)).map(Into::into)
}

/// The bytes of a file, who has it open for writing, and how long ago it was changed last.
fn bytes(path: &Path) -> Result<(Vec<u8>, Writers, Duration), String> {
    let cannot = |error: io::Error| format!("cannot be read: {error}");
    // O_NONBLOCK: a FIFO must not hold up the others.
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
    // Asked after it was read: who had it open before, and has closed it since, changed it after `before`.
    let writers = writers::of(&file);
    let after = file.metadata().map_err(cannot)?;
    let same = signature(&before) == signature(&after);
    Ok((bytes, if same { writers } else { Writers::Some }, if same { age(&after) } else { Duration::ZERO }))
}

/// How long ago a file was changed last; the time of the last change of its inode is one that no program can set.
fn age(metadata: &Metadata) -> Duration {
    let nanos = u32::try_from(metadata.ctime_nsec()).unwrap_or_default();
    let changed = u64::try_from(metadata.ctime()).map(|secs| UNIX_EPOCH + Duration::new(secs, nanos));
    changed.ok().and_then(|changed| SystemTime::now().duration_since(changed).ok()).unwrap_or_default()
}
