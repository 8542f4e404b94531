//! A lock on the state directory: only one process at a time may change a node.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;

use super::{RecordError, disk};

/// The name of the file in the state directory.
const FILE: &str = "lock";
/// The number of bytes of the file that are read at most.
const MOST_BYTES: u64 = 256;

/// The lock of this process. It is released when it is dropped or when the process ends.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

/// What a process does while it holds the lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// The agent: applies the forwards of the node until it is stopped.
    Agent,
    /// Restore: puts the last applied state back into the kernel.
    Restore,
    /// Cleanup: removes all rules and routes of the operator.
    Cleanup,
}

/// The process that holds the lock, as far as the file shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Holder {
    /// What it does.
    pub purpose: Option<Purpose>,
    /// Its process id.
    pub pid: Option<u32>,
    /// Whether the process id is valid for this process too. Process ids of a container are valid only inside of it.
    pub numbering: Numbering,
}

/// Whether two processes use the same PID namespace (`pid_namespaces(7)`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Numbering {
    /// The same one.
    Ours,
    /// Different ones, or this is not known.
    #[default]
    Foreign,
}

impl Purpose {
    const ALL: [Self; 3] = [Self::Agent, Self::Restore, Self::Cleanup];

    /// The command that runs it.
    const fn command(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Restore => "restore",
            Self::Cleanup => "cleanup",
        }
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.purpose {
            Some(Purpose::Agent) => f.write_str("an agent")?,
            Some(Purpose::Restore) => f.write_str("restore")?,
            Some(Purpose::Cleanup) => f.write_str("cleanup")?,
            None => f.write_str("another process")?,
        }
        match (self.pid, self.numbering) {
            (Some(pid), Numbering::Ours) => write!(f, " (process {pid})"),
            (Some(pid), Numbering::Foreign) => write!(f, " (process {pid} in another container or on the host)"),
            (None, _) => Ok(()),
        }
    }
}

/// Takes the lock (flock(2), exclusive) on the file `lock` in the state directory `dir`, without waiting.
///
/// The file names the process that holds the lock. The lock itself is in the kernel, so a file left by a crash locks
/// nothing.
///
/// # Errors
/// When another process holds it, or when the file cannot be opened or created.
pub fn lock(dir: &Path, purpose: Purpose) -> Result<Lock, RecordError> {
    disk::make(dir)?;
    let path = dir.join(FILE);
    let mut file = disk::open_or_make(&path)?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => return Err(RecordError::Locked { path, holder: holder(&mut file) }),
        Err(error) => return Err(io(path, "lock it")(error.into())),
    }
    // A full or read-only disk must not stop an agent. The lock holds nevertheless; only its holder is not named.
    let _ = sign(&mut file, purpose);
    Ok(Lock { _file: file })
}

fn io(path: PathBuf, action: &'static str) -> impl FnOnce(io::Error) -> RecordError {
    move |source| RecordError::Io { path, action, source }
}

/// The PID namespace of this process, as the kernel names it.
fn numbering() -> String {
    let link = fs::read_link("/proc/self/ns/pid");
    link.map_or_else(|_| "unknown".to_owned(), |name| name.to_string_lossy().into_owned())
}

fn holder(file: &mut File) -> Holder {
    let mut text = String::new();
    // A read error is ignored: the lock is held in any case, only the holder stays unknown.
    let _ = file.take(MOST_BYTES).read_to_string(&mut text);
    let mut words = text.split_whitespace();
    let (pid, purpose, theirs) = (words.next(), words.next(), words.next());
    let is_ours = theirs.is_some_and(|theirs| theirs == numbering());
    Holder {
        purpose: Purpose::ALL.into_iter().find(|known| purpose == Some(known.command())),
        pid: pid.and_then(|pid| pid.parse().ok()),
        numbering: if is_ours { Numbering::Ours } else { Numbering::Foreign },
    }
}

fn sign(file: &mut File, purpose: Purpose) -> io::Result<()> {
    file.set_len(0)?;
    file.seek(SeekFrom::Start(0))?;
    // In one write, so that a reader never sees a part.
    file.write_all(format!("{} {} {}\n", std::process::id(), purpose.command(), numbering()).as_bytes())
}
