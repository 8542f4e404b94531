//! The state that this node last applied, on its disk. It is used after a reboot without an API server, and after a
//! restart, to find what the last process left undone.
//!
//! Decides which entries are accepted when the record is read. It checks them like any other input, and it must not touch
//! the kernel.

mod closed;
mod content;
mod disk;
mod error;
mod keeper;
mod lock;
mod mark;
mod translation;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use ipnet::IpNet;

use content::{Rendered, Text};

use crate::model::{Nodes, Translations};
use crate::source::{Forwards, GrantSet, Sourced};

pub use crate::durable::Stored;
pub use closed::Closed;
pub use error::RecordError;
pub use keeper::{Haste, Keeper, Kept, Step};
pub use lock::{Holder, Lock, Numbering, Purpose, lock};
pub use mark::Outdated;

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
    /// The networks of the cluster's Services; empty without a cluster.
    pub services: BTreeSet<IpNet>,
    /// The addresses of the cluster's nodes and pods; empty without a cluster.
    pub nodes: Arc<Nodes>,
    /// The complete set of objects that was applied.
    pub forwards: Forwards,
    /// The grants that were read then; `None` if none were read.
    pub grants: Option<Arc<GrantSet>>,
    /// Whether forwards needed a grant.
    pub grants_required: bool,
    /// The translations that were in force.
    pub in_force: Translations,
}

/// A record as read from disk.
#[derive(Clone, Debug, PartialEq)]
pub struct Loaded {
    /// The entries that were accepted.
    pub record: Record,
    /// One line for each entry that was left out, for log and status messages.
    pub lost: Vec<String>,
    /// The checksum of the record.
    pub checksum: String,
    /// Why the kernel may be newer than the record; `None` if the record is up to date.
    pub outdated: Option<Outdated>,
    /// The boot in which the agent last changed the kernel.
    pub boot: Boot,
}

/// A boot of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Boot {
    /// The present one, or this is not known. What the kernel holds of ours may be newer than the record.
    This,
    /// An earlier one. What the kernel holds of ours does not come from an agent that changed it in this boot.
    Earlier,
}

impl Loaded {
    /// The record without the objects that must not be restored.
    #[must_use]
    pub fn restorable(&self) -> Record {
        let mut record = self.record.clone();
        if let Some(outdated) = &self.outdated {
            record.forwards = record.forwards.filtered(|sourced| !outdated.closed.contains(&sourced.object));
        }
        record
    }

    /// The objects that must not be restored. Something of them may still be in force.
    #[must_use]
    pub fn withheld(&self) -> Vec<Sourced> {
        let closed = self.outdated.iter().map(|outdated| &outdated.closed);
        closed.flat_map(|closed| self.record.forwards.iter().filter(|it| closed.contains(&it.object))).cloned().collect()
    }
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
    let Some(bytes) = disk::read(&path, disk::MOST_BYTES)? else { return Ok(None) };
    let loaded = content::parse(&path, &bytes, node)?;
    let (outdated, boot) = match mark::read(dir) {
        Ok(Some(mark)) => (mark.about(&loaded.checksum), mark.boot),
        Ok(None) => (None, String::new()),
        Err(error) => (Some(Outdated::wholly(&error.cause())), String::new()),
    };
    let boot = if boot.is_empty() || boot == mark::boot() { Boot::This } else { Boot::Earlier };
    Ok(Some(Loaded { outdated, boot, ..loaded }))
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
    store_checked(dir, record, None, &mut Rendered::default()).map(|(stored, _, _)| stored)
}

/// As [`store`]; also returns the checksum of the record, and its size in bytes. `last` is the checksum of the record on the disk, if
/// it is known.
fn store_checked(
    dir: &Path,
    record: &Record,
    last: Option<&str>,
    rendered: &mut Rendered,
) -> Result<(Stored, String, u64), RecordError> {
    let Text { bytes, checksum } = content::render(record, rendered)?;
    let differs = last.is_some_and(|last| last != checksum);
    Ok((disk::write(dir, &bytes, differs)?, checksum, bytes.len() as u64))
}

/// Removes the record, and the note about it, from the state directory `dir`. It is no error if there is none.
///
/// # Errors
/// When the system returns an error.
pub fn remove(dir: &Path) -> Result<(), RecordError> {
    disk::remove(&dir.join(disk::FILE))?;
    disk::remove(&dir.join(mark::FILE))
}

#[cfg(test)]
mod tests;
