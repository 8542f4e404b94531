//! The source of forwards for the sync loop: one complete set at a time.
//!
//! Does not decide what the objects mean. Must never give out an incomplete set, because an object that is missing in a set is
//! removed from the kernel.

pub mod folder;
mod forwards;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use ipnet::IpNet;
use kube::core::ObjectMeta;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::api::{PortForward, PortForwardGrant, PortForwardGrantStatus, PortForwardStatus};
use crate::forward::ForwardKey;
use crate::model::{Nodes, Sight};

pub(crate) use forwards::Difference;
pub use forwards::Forwards;

/// An object and the place it was read from.
#[derive(Clone, Debug)]
pub struct Sourced {
    /// What is asked for, without a status and a version; `metadata.name`, `metadata.namespace` and `metadata.generation` are set.
    /// It stays the same value while only the status changes.
    pub object: Arc<PortForward>,
    /// What the API server stores besides; `None` for an object from a folder.
    pub stored: Option<Arc<Stored>>,
    /// The file, relative to its folder; `None` for an object from the API server.
    pub origin: Option<PathBuf>,
    /// Why a newer content of the object could not be decoded. `object` is then the last content that could be decoded.
    pub trouble: Option<String>,
}

/// What changes with each write of an object, also of its status.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Stored {
    /// `metadata.resourceVersion`.
    pub version: Option<String>,
    /// The status.
    pub status: Option<PortForwardStatus>,
}

impl Sourced {
    /// An object from a folder or from the record.
    #[must_use]
    pub const fn of(object: Arc<PortForward>, origin: Option<PathBuf>) -> Self {
        Self { object, stored: None, origin, trouble: None }
    }
}

/// An object of which no content could ever be decoded.
#[derive(Clone, Debug, PartialEq)]
pub struct Undecoded {
    /// Its metadata.
    pub metadata: ObjectMeta,
    /// Its status.
    pub status: Option<PortForwardStatus>,
    /// The reason, for people.
    pub error: String,
}

/// Objects that this program cannot decode.
pub type Unknown = imbl::OrdMap<ForwardKey, Arc<Undecoded>>;

/// A grant and the place it was read from.
#[derive(Clone, Debug, PartialEq)]
pub struct SourcedGrant {
    /// The object; `metadata.name` and `metadata.generation` are set.
    pub object: Arc<PortForwardGrant>,
    /// The file, relative to its folder; `None` for an object from the API server.
    pub origin: Option<PathBuf>,
    /// Why a newer content of the object could not be decoded. `object` is then the last content that could be decoded.
    pub trouble: Option<String>,
}

/// A grant of which no content could ever be decoded. It permits nothing.
#[derive(Clone, Debug, PartialEq)]
pub struct UndecodedGrant {
    /// Its metadata.
    pub metadata: ObjectMeta,
    /// Its status.
    pub status: Option<PortForwardGrantStatus>,
    /// The reason, for people.
    pub error: String,
}

/// All grants, ordered by name, without duplicates.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GrantSet {
    /// The grants that could be decoded at least once.
    pub grants: Vec<SourcedGrant>,
    /// The other ones.
    pub undecoded: Vec<UndecodedGrant>,
}

impl GrantSet {
    /// Whether two sets permit the same, or both were not read.
    #[must_use]
    pub fn are_the_same(a: Option<&Arc<Self>>, b: Option<&Arc<Self>>) -> bool {
        match (a, b) {
            (Some(a), Some(b)) => Arc::ptr_eq(a, b) || a.permits_the_same(b),
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        }
    }

    /// Whether both permit the same. A change of status alone does not count.
    #[must_use]
    pub fn permits_the_same(&self, other: &Self) -> bool {
        let content = |sourced: &SourcedGrant| {
            let metadata = &sourced.object.metadata;
            (metadata.name.clone(), metadata.uid.clone(), metadata.generation, sourced.trouble.clone())
        };
        let same = |(a, b): (&SourcedGrant, &SourcedGrant)| Arc::ptr_eq(&a.object, &b.object) || content(a) == content(b);
        self.grants.len() == other.grants.len()
            && self.grants.iter().zip(&other.grants).all(same)
            && self.undecoded.len() == other.undecoded.len()
            && self
                .undecoded
                .iter()
                .zip(&other.undecoded)
                .all(|(a, b)| (&a.metadata.uid, a.metadata.generation) == (&b.metadata.uid, b.metadata.generation))
    }
}

/// The complete set of objects at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Snapshot {
    /// Every object.
    pub forwards: Forwards,
    /// Every grant; `None` if the grants were not read, because that failed so far or because they are ignored.
    pub grants: Option<Arc<GrantSet>>,
    /// Every file that was read, ordered by path; empty if the objects come from the API server.
    pub files: Vec<FileReport>,
    /// Every object that cannot be planned because this program cannot decode it.
    pub undecoded: Unknown,
    /// The labels of this node, for `nodeSelector`.
    pub labels: BTreeMap<String, String>,
    /// The addresses of the API servers; empty without a cluster.
    pub api_servers: BTreeSet<IpAddr>,
    /// Whether these are all of them.
    pub sight: Sight,
    /// The addresses in the Node object of this node; empty without a cluster.
    pub node_addresses: BTreeSet<IpAddr>,
    /// The networks of Services; empty without a cluster or if they are not known.
    pub services: BTreeSet<IpNet>,
    /// The addresses of the cluster's nodes and pods, as last known; empty without a cluster, or if no list needs them.
    pub nodes: Arc<Nodes>,
    /// When the agent saw the change that led to this set.
    pub heard: Heard,
}

/// When the agent saw the change that led to a set; no time for the set that was found at the start. It is not part of the
/// content of the set, so any two are equal.
#[derive(Clone, Copy, Debug, Default)]
pub struct Heard(Option<Instant>);

impl Heard {
    /// Seen at this moment.
    #[must_use]
    pub const fn of(at: Instant) -> Self {
        Self(Some(at))
    }

    /// The moment; `None` for the set that was found at the start.
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

/// The result of reading one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileReport {
    /// The file, relative to its folder; [`Self::FOLDER`] for the folder itself.
    pub path: PathBuf,
    /// Its mistakes, for people, one line for each. The last good content of the file stays in force.
    pub error: Option<String>,
}

impl FileReport {
    /// The path of the folder itself.
    pub const FOLDER: &str = ".";

    /// Whether the report is about the folder itself.
    #[must_use]
    pub fn is_folder(&self) -> bool {
        self.path.as_os_str() == Self::FOLDER
    }
}

/// The objects, as a separate task reads them. This task wakes the sync loop after each change.
#[derive(Clone, Debug)]
pub struct Source {
    current: watch::Receiver<Option<Arc<Snapshot>>>,
}

impl Source {
    /// The source for the sets that a task sends to the other end of `current`.
    #[must_use]
    pub fn new(current: watch::Receiver<Option<Arc<Snapshot>>>) -> Self {
        Self { current }
    }

    /// The newest complete set; `None` until there is one.
    #[must_use]
    pub fn complete(&self) -> Option<Arc<Snapshot>> {
        self.current.borrow().clone()
    }
}
