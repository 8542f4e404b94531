//! The file of the record and its directory. Checks who can write them; does not look at their content.

use std::fs::{self, DirBuilder, File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use crate::durable::{self, Stored};

use super::RecordError;

/// The name of the file in the state directory.
pub(super) const FILE: &str = "record.json";

/// The maximum size of a record, in bytes.
pub(super) const MOST_BYTES: u64 = 256 * 1024 * 1024;

/// The bytes of a file with at most `most` bytes, or `None` if there is no file.
pub(super) fn read(path: &Path, most: u64) -> Result<Option<Vec<u8>>, RecordError> {
    let io = |action| move |source| RecordError::Io { path: path.to_owned(), action, source };
    let file = match OpenOptions::new().read(true).custom_flags(durable::nofollow()).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) => {
            return Err(untrusted(path, "is a symbolic link".to_owned()));
        }
        Err(error) => return Err(io("open it")(error)),
    };
    let metadata = file.metadata().map_err(io("read its owner and mode"))?;
    check_file(path, &metadata)?;
    let too_large = || RecordError::TooLarge { path: path.to_owned(), most };
    if metadata.len() > most {
        return Err(too_large());
    }
    let mut bytes = Vec::new();
    file.take(most + 1).read_to_end(&mut bytes).map_err(io("read it"))?;
    if bytes.len() as u64 > most { Err(too_large()) } else { Ok(Some(bytes)) }
}

/// Replaces the record in `dir`, unless it has the same content already. It is not read if it `differs` for certain.
pub(super) fn write(dir: &Path, bytes: &[u8], differs: bool) -> Result<Stored, RecordError> {
    make(dir)?;
    let path = dir.join(FILE);
    if bytes.len() as u64 > MOST_BYTES {
        return Err(RecordError::TooLarge { path, most: MOST_BYTES });
    }
    if !differs && matches!(read(&path, MOST_BYTES), Ok(Some(old)) if old == bytes) {
        return Ok(Stored::Unchanged);
    }
    durable::replace(&path, bytes, 0o600).map_err(|source| RecordError::Io { path, action: "write it", source })?;
    Ok(Stored::Written)
}

/// Removes the record, if it exists.
pub(super) fn remove(path: &Path) -> Result<(), RecordError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(RecordError::Io { path: path.to_owned(), action: "remove it", source: error })
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Creates the state directory, or checks the existing one.
pub(super) fn make(dir: &Path) -> Result<(), RecordError> {
    let io = |action| move |source| RecordError::Io { path: dir.to_owned(), action, source };
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(io("create this directory"))?;
    let metadata = fs::metadata(dir).map_err(io("read its owner and mode"))?;
    check_owner(dir, &metadata)?;
    if metadata.mode() & 0o022 != 0 {
        return Err(untrusted(dir, format!("other users can write to this directory (mode {:o})", metadata.mode() & 0o7777)));
    }
    Ok(())
}

/// Checks that only root and this user can write `path`, and that no other user can read it.
pub(super) fn check_file(path: &Path, metadata: &Metadata) -> Result<(), RecordError> {
    if !metadata.is_file() {
        return Err(untrusted(path, "is not a regular file".to_owned()));
    }
    check_owner(path, metadata)?;
    if metadata.mode() & 0o077 != 0 {
        return Err(untrusted(path, format!("is accessible by other users (mode {:o}, expected 600)", metadata.mode() & 0o7777)));
    }
    Ok(())
}

fn check_owner(path: &Path, metadata: &Metadata) -> Result<(), RecordError> {
    let ours = rustix::process::geteuid().as_raw();
    if metadata.uid() == 0 || metadata.uid() == ours {
        return Ok(());
    }
    Err(untrusted(path, format!("belongs to user {}, but must belong to root or to user {ours}", metadata.uid())))
}

fn untrusted(path: &Path, what: String) -> RecordError {
    RecordError::Untrusted { path: path.to_owned(), what }
}

/// Opens a file in the state directory for reading and writing, and creates it if it is missing. On a read-only file system, an
/// existing file is opened for reading.
pub(super) fn open_or_make(path: &Path) -> Result<File, RecordError> {
    let io = |action| move |source| RecordError::Io { path: path.to_owned(), action, source };
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600).custom_flags(durable::nofollow());
    let opened = options.open(path).or_else(|error| match error.kind() {
        io::ErrorKind::ReadOnlyFilesystem => OpenOptions::new().read(true).custom_flags(durable::nofollow()).open(path),
        _ => Err(error),
    });
    let file = opened.map_err(io("open it"))?;
    check_file(path, &file.metadata().map_err(io("read its owner and mode"))?)?;
    Ok(file)
}
