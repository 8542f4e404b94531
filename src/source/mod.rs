//! Where forwards come from, as the sync loop sees it: one complete set at a time.
//!
//! Decides nothing about what the objects say. Must never hand out an incomplete set: what is absent from a
//! set is removed from the kernel.

pub mod folder;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use ipnet::IpNet;
use kube::core::ObjectMeta;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::api::{PortForward, PortForwardStatus};
use crate::model::Sight;

/// An object and where it was read.
#[derive(Clone, Debug, PartialEq)]
pub struct Sourced {
    /// The object; `metadata.name`, `metadata.namespace` and `metadata.generation` are set.
    pub object: Arc<PortForward>,
    /// The file, relative to its folder; `None` for one from the API server.
    pub origin: Option<PathBuf>,
    /// Why a newer content of the object could not be decoded; `object` is then the last one that could.
    pub trouble: Option<String>,
}

/// An object that could not be decoded and never could before.
#[derive(Clone, Debug, PartialEq)]
pub struct Undecoded {
    /// What is known of it: its metadata, and the status that it has.
    pub metadata: ObjectMeta,
    /// The status that it has.
    pub status: Option<PortForwardStatus>,
    /// What is wrong, for people.
    pub error: String,
}

/// The complete set of objects at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Snapshot {
    /// Every object, ordered by namespace and name, no two of the same.
    pub forwards: Vec<Sourced>,
    /// Every file that was read, ordered by path; empty where objects come from the API server.
    pub files: Vec<FileReport>,
    /// Every object that cannot be planned with, because this program does not know its form.
    pub undecoded: Vec<Undecoded>,
    /// The labels of this node, for `nodeSelector`.
    pub labels: BTreeMap<String, String>,
    /// The addresses of the API servers; empty without a cluster.
    pub api_servers: BTreeSet<IpAddr>,
    /// Whether these are all of them.
    pub sight: Sight,
    /// The addresses of this node, as its Node object names them; empty without a cluster.
    pub node_addresses: BTreeSet<IpAddr>,
    /// The networks of Services; empty without a cluster, and where they are not known.
    pub services: BTreeSet<IpNet>,
    /// When the change was heard of that made this set.
    pub heard: Heard,
}

/// When the change was heard of that made a set; of one that was found at the start, never. No part of what the set says: any
/// two are equal.
#[derive(Clone, Copy, Debug, Default)]
pub struct Heard(Option<Instant>);

impl Heard {
    /// Heard of at this moment.
    #[must_use]
    pub const fn of(at: Instant) -> Self {
        Self(Some(at))
    }

    /// The moment.
    #[must_use]
    pub const fn at(self) -> Option<Instant> {
        self.0
    }
}

impl PartialEq for Heard {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

/// What reading one file gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileReport {
    /// The file, relative to its folder.
    pub path: PathBuf,
    /// What is wrong with it, for people, one line for each mistake; its last good content then stays in force.
    pub error: Option<String>,
}

/// The objects, as a task of their own keeps them; that task wakes the sync loop after each change.
#[derive(Clone, Debug)]
pub struct Source {
    current: watch::Receiver<Option<Arc<Snapshot>>>,
}

impl Source {
    /// The source whose task sends what it reads to the other end of `current`.
    #[must_use]
    pub fn new(current: watch::Receiver<Option<Arc<Snapshot>>>) -> Self {
        Self { current }
    }

    /// The newest complete set; `None` until there was one.
    #[must_use]
    pub fn complete(&self) -> Option<Arc<Snapshot>> {
        self.current.borrow().clone()
    }
}

/// What tells one object from another: namespace, then name.
pub(crate) type Key = (String, String);

/// The key of `object`.
pub(crate) fn key(object: &PortForward) -> Key {
    let text = |field: &Option<String>| field.clone().unwrap_or_default();
    (text(&object.metadata.namespace), text(&object.metadata.name))
}
