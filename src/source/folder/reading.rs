//! One pass over the folder: every manifest file and what it holds or why not.
//!
//! Must not decide what is in force.

use std::collections::BTreeMap;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::OFlags;
use sha2::{Digest, Sha256};

use crate::api::PortForward;
use crate::durable;
use crate::supervise::guarded;

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

/// What one file holds.
#[derive(Clone, Debug)]
pub(super) struct FileContent {
    /// SHA-256 of its bytes, where they could be read.
    digest: Option<[u8; 32]>,
    /// Its objects, or what is wrong with it.
    pub(super) objects: Result<Arc<[PortForward]>, String>,
}

/// Reads every manifest in `dir`. Files whose bytes are those of `last` are not parsed again.
///
/// Where the folder changes meanwhile it is read anew, so that an object that moves from file to file (or a
/// mounted `ConfigMap` that is swapped) is not missed.
pub(super) fn read(dir: &Path, last: &Reading, check: Check) -> Result<Reading, FolderError> {
    let mut before = list(dir)?;
    let mut passes = 1;
    loop {
        let files = before.keys().map(|name| (name.clone(), file(dir, name, last, check))).collect();
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
        let signature = |meta: Metadata| (meta.dev(), meta.ino(), meta.size(), meta.ctime(), meta.ctime_nsec());
        let found = fs::metadata(dir.join(&name)).map(signature).ok();
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
    let bytes = match named.and_then(|_| bytes(&dir.join(name))) {
        Ok(bytes) => bytes,
        Err(error) => return FileContent { digest: None, objects: Err(error) },
    };
    let digest = Some(Sha256::digest(&bytes).into());
    if let Some(same) = last.files.get(name).filter(|known| known.digest == digest) {
        return same.clone();
    }
    let text = str::from_utf8(&bytes).map_err(|error| format!("is not UTF-8 text: {error}"));
    let objects = text.and_then(|text| guarded(|| document::objects(text, check))).map(Into::into);
    FileContent { digest, objects }
}

fn bytes(path: &Path) -> Result<Vec<u8>, String> {
    let cannot = |error: io::Error| format!("cannot be read: {error}");
    // O_NONBLOCK: a FIFO must not hold up the others.
    let file: File = OpenOptions::new().read(true).custom_flags(durable::flags(OFlags::NONBLOCK)).open(path).map_err(cannot)?;
    if !file.metadata().map_err(cannot)?.is_file() {
        return Err("is not a regular file; remove it or give it another name".to_owned());
    }
    let mut bytes = Vec::new();
    file.take(MOST_BYTES + 1).read_to_end(&mut bytes).map_err(cannot)?;
    match bytes.len() as u64 {
        // A file is empty for a moment while many programs write it.
        0 => Err("is empty; remove the file to withdraw what it held".to_owned()),
        size if size > MOST_BYTES => Err(format!("is larger than {MOST_BYTES} bytes; split it")),
        _ => Ok(bytes),
    }
}
