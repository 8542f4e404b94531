//! One process at a time acts on a node: a lock on the state directory.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;

use super::{RecordError, disk};

/// The name of the file in the state directory.
const FILE: &str = "lock";
/// The most of it that is read.
const MOST_BYTES: u64 = 256;

/// The right to act on this node; given back when it is dropped or the process ends.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

/// What a process holds the lock for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To keep the node as its forwards ask for, until it is stopped.
    Agent,
    /// To put back what was last applied.
    Restore,
    /// To take everything out.
    Cleanup,
}

/// Who holds the lock, as far as the file tells.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Holder {
    /// What for.
    pub purpose: Option<Purpose>,
    /// The process.
    pub pid: Option<u32>,
    /// Whether it numbers processes as this one does: the numbers of a container hold inside it alone.
    pub numbering: Numbering,
}

/// Whether two processes number processes alike (`pid_namespaces(7)`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Numbering {
    /// Alike.
    Ours,
    /// Each its own way, or nobody knows.
    #[default]
    Foreign,
}

impl Purpose {
    const ALL: [Self; 3] = [Self::Agent, Self::Restore, Self::Cleanup];

    /// The command that does it.
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
            (Some(pid), Numbering::Foreign) => write!(f, " (process {pid} of its own container or host, which is not this one)"),
            (None, _) => Ok(()),
        }
    }
}

/// Takes the lock (flock(2), exclusive) on the file `lock` in the state directory `dir`, without waiting.
///
/// The file names the process that holds it; the lock is the kernel's, so one that a crash left does not count.
///
/// # Errors
/// When another process holds it, or the file cannot be made.
pub fn lock(dir: &Path, purpose: Purpose) -> Result<Lock, RecordError> {
    disk::make(dir)?;
    let path = dir.join(FILE);
    let mut file = disk::open_or_make(&path)?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => return Err(RecordError::Locked { path, holder: holder(&mut file) }),
        Err(error) => return Err(io(path, "lock it")(error.into())),
    }
    sign(&mut file, purpose).map_err(io(path, "write it"))?;
    Ok(Lock { _file: file })
}

fn io(path: PathBuf, action: &'static str) -> impl FnOnce(io::Error) -> RecordError {
    move |source| RecordError::Io { path, action, source }
}

/// How this process numbers processes, as the kernel names it.
fn numbering() -> String {
    let link = fs::read_link("/proc/self/ns/pid");
    link.map_or_else(|_| "unknown".to_owned(), |name| name.to_string_lossy().into_owned())
}

fn holder(file: &mut File) -> Holder {
    let mut text = String::new();
    // What cannot be read tells nothing; that somebody holds the lock is known already.
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
    // In one write, so that nobody reads a part.
    file.write_all(format!("{} {} {}\n", std::process::id(), purpose.command(), numbering()).as_bytes())
}
