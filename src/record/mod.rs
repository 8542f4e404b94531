//! The state that this node last applied, on its disk. It is used after a reboot without an API server, and after a
//! restart, to find what the last process left undone.
//!
//! Decides which entries are accepted when the record is read. It checks them like any other input, and it must not touch
//! the kernel.

mod content;
mod disk;
mod error;
mod lock;
mod translation;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::Path;
use std::time::SystemTime;

use crate::model::Translation;
use crate::source::Sourced;

pub use crate::durable::Stored;
pub use error::RecordError;
pub use lock::{Holder, Lock, Numbering, Purpose, lock};

/// The state that a node last applied.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Record {
    /// The name of the node.
    pub node: String,
    /// The labels of the node.
    pub labels: BTreeMap<String, String>,
    /// The addresses of the API servers, which no forward may reach or cover; empty without a cluster.
    pub api_servers: BTreeSet<IpAddr>,
    /// The addresses of the node in its Node object; empty without a cluster.
    pub node_addresses: BTreeSet<IpAddr>,
    /// The complete set of objects that was applied.
    pub forwards: Vec<Sourced>,
    /// The translations that were in force.
    pub in_force: Vec<Translation>,
}

/// A record as read from disk.
#[derive(Clone, Debug, PartialEq)]
pub struct Loaded {
    /// The entries that were accepted.
    pub record: Record,
    /// One line for each entry that was left out, for log and status messages.
    pub lost: Vec<String>,
}

/// Reads the record of `node` from the state directory `dir`; `None` if there is none.
///
/// Every object is decoded and every translation is parsed like any other input. An invalid entry is left out; the others
/// are used.
///
/// # Errors
/// When the file cannot be trusted (a symbolic link, another owner than root or this user, accessible by others, larger
/// than 256 MiB), when it is damaged (checksum), or when it is of another version or of another node.
pub fn load(dir: &Path, node: &str) -> Result<Option<Loaded>, RecordError> {
    let path = dir.join(disk::FILE);
    disk::read(&path)?.map(|bytes| content::parse(&path, &bytes, node)).transpose()
}

/// When the record in the state directory `dir` was last written; `None` if there is none, or if it cannot be examined.
#[must_use]
pub fn written(dir: &Path) -> Option<SystemTime> {
    std::fs::symlink_metadata(dir.join(disk::FILE)).and_then(|metadata| metadata.modified()).ok()
}

/// Writes `record` to the state directory `dir`, which is created (mode 0700) if it is missing.
///
/// The file (mode 0600) is replaced as a whole and is on the disk when this returns. Equal content is not written again.
///
/// # Errors
/// When other users can write the directory, or when the system returns an error.
pub fn store(dir: &Path, record: &Record) -> Result<Stored, RecordError> {
    disk::write(dir, &content::render(record)?)
}

/// Removes the record from the state directory `dir`. It is no error if there is none.
///
/// # Errors
/// When the system returns an error.
pub fn remove(dir: &Path) -> Result<(), RecordError> {
    disk::remove(&dir.join(disk::FILE))
}

#[cfg(test)]
mod tests;
