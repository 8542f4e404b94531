//! One agent a node: a lock on the state directory.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;

use super::{RecordError, disk};

/// The name of the file in the state directory.
const FILE: &str = "lock";

/// The right to act on this node; given back when it is dropped or the process ends.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

/// Takes the lock (flock(2), exclusive) on the file `lock` in the state directory `dir`, without waiting.
///
/// The file names the process that holds it; the lock is the kernel's, so one that a crash left does not count.
///
/// # Errors
/// When another process holds it, or the file cannot be made.
pub fn lock(dir: &Path) -> Result<Lock, RecordError> {
    disk::make(dir)?;
    let path = dir.join(FILE);
    let mut file = disk::open_or_make(&path)?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => return Err(RecordError::Locked { path, pid: holder(&mut file) }),
        Err(error) => return Err(io(path, "lock it")(error.into())),
    }
    sign(&mut file).map_err(io(path, "write it"))?;
    Ok(Lock { _file: file })
}

fn io(path: PathBuf, action: &'static str) -> impl FnOnce(io::Error) -> RecordError {
    move |source| RecordError::Io { path, action, source }
}

fn holder(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.take(16).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

fn sign(file: &mut File) -> io::Result<()> {
    file.set_len(0)?;
    file.seek(SeekFrom::Start(0))?;
    writeln!(file, "{}", std::process::id())
}
