//! Why a record could not be read, written or locked.

use std::io;
use std::path::PathBuf;

use super::Holder;

/// Why a record could not be read, written or locked. The error names the file or directory; the error of the system is the
/// source.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The system returned an error.
    #[error("{}: cannot {action}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// The operation that failed.
        action: &'static str,
        /// The error of the system.
        source: io::Error,
    },
    /// Another user could have written it.
    #[error("{}: {what}; find out who changed it, then remove it; the agent writes a new one at the next change", path.display())]
    Untrusted {
        /// The file or directory.
        path: PathBuf,
        /// Why it is not trusted.
        what: String,
    },
    /// It is larger than the maximum size of a record.
    #[error("{}: is larger than {most} bytes; remove it; the agent writes a new one at the next change", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The maximum size, in bytes.
        most: u64,
    },
    /// The content is damaged.
    #[error("{}: is damaged ({detail}); remove it; the agent writes a new one at the next change", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// How the damage was detected.
        detail: String,
    },
    /// Another version of this program wrote it.
    #[error("{}: has format {found}, but this program reads formats up to {known}; remove it, or run the version that wrote it", path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// The format of the file.
        found: u64,
        /// The newest format that this program reads.
        known: u64,
    },
    /// It belongs to another node.
    #[error("{}: belongs to node {found}, but this is node {node}; remove it, or set the former name with --node-name", path.display())]
    OtherNode {
        /// The file.
        path: PathBuf,
        /// The node that it belongs to.
        found: String,
        /// The node that this program runs for.
        node: String,
    },
    /// Another process changes this node at the moment.
    #[error("{}: {holder} holds the lock of this node; stop it first, or use another --state-dir for another node", path.display())]
    Locked {
        /// The lock file.
        path: PathBuf,
        /// The process that holds the lock.
        holder: Holder,
    },
    /// The thread that wrote it stopped.
    #[error("the thread that writes the record stopped")]
    Stopped(#[source] tokio::task::JoinError),
    /// The record is not up to date, and this could not be noted. Contains the causes.
    #[error("{0}")]
    Unnoted(String),
    /// It could not be written as JSON.
    #[error("the record cannot be converted to JSON")]
    Unwritable(#[from] serde_json::Error),
}

impl RecordError {
    /// The error with its causes, in one line.
    #[must_use]
    pub fn cause(&self) -> String {
        let causes = std::iter::successors(Some(self as &dyn std::error::Error), |error| error.source());
        causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
    }
}
