//! What this node last applied, on its disk: for a reboot without an API server, and for a restart that must
//! know what the last one left undone.
//!
//! Decides what may be believed when it is read back. Must not believe more than any other input is believed,
//! and must not touch the kernel.

mod content;
mod disk;
mod error;
mod lock;
mod translation;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::Path;

use crate::model::Translation;
use crate::source::Sourced;

pub use crate::durable::Stored;
pub use error::RecordError;
pub use lock::{Holder, Lock, Numbering, Purpose, lock};

/// What a node last applied.
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

/// A record as it was read.
#[derive(Clone, Debug, PartialEq)]
pub struct Loaded {
    /// What could be believed of it.
    pub record: Record,
    /// What could not: one line for each entry that was left out, for people.
    pub lost: Vec<String>,
}

/// Reads the record of `node` from the state directory `dir`; `None` where there is none.
///
/// Every object is decoded and every translation parsed like any input; an entry that does not pass costs only itself.
///
/// # Errors
/// When the file is not safe to trust (a symbolic link, another owner than root or this user, open to others,
/// larger than 256 MiB), not what was written (checksum), of another version or of another node.
pub fn load(dir: &Path, node: &str) -> Result<Option<Loaded>, RecordError> {
    let path = dir.join(disk::FILE);
    disk::read(&path)?.map(|bytes| content::parse(&path, &bytes, node)).transpose()
}

/// Keeps `record` in the state directory `dir`, which is made (mode 0700) where it is missing.
///
/// The file (mode 0600) is replaced as a whole and has reached the disk when this returns. Equal content is
/// not written again.
///
/// # Errors
/// When the directory may be written by others, or the system refuses.
pub fn store(dir: &Path, record: &Record) -> Result<Stored, RecordError> {
    disk::write(dir, &content::render(record)?)
}

/// Removes the record from the state directory `dir`; none there is fine.
///
/// # Errors
/// When the system refuses.
pub fn remove(dir: &Path) -> Result<(), RecordError> {
    disk::remove(&dir.join(disk::FILE))
}

#[cfg(test)]
mod tests;
