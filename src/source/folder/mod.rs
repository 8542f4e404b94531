//! Reads and watches the manifests of forwards and grants in a folder, and keeps the last good content of each file.
//!
//! Decides which files count and which content of each is in force. Does not decide what a forward means: the caller passes the
//! check that refuses an object.

mod contents;
mod document;
mod events;
mod generations;
mod reading;
mod settling;
mod writers;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::{Notify, watch};
use tokio::task::spawn_blocking;
use tokio::time::Instant;
use tracing::{info, warn};

use crate::api::{DecodeErrors, PortForward, PortForwardGrant};
use crate::supervise::Tasks;

use super::{Forwards, GrantSet, Heard, Snapshot, Source};
use contents::{Contents, Update};
use events::Events;
use reading::Reading;

pub use reading::FolderError;

/// Checks a decoded object, or says what is wrong with the document. The error lists all mistakes for people, each with its
/// field.
pub type CheckOf<O> = fn(Result<O, DecodeErrors<O>>) -> Result<O, Vec<String>>;

/// The checks of each kind of object.
#[derive(Clone, Copy, Debug)]
pub struct Check {
    /// The check of a `PortForward`.
    pub forward: CheckOf<PortForward>,
    /// The check of a `PortForwardGrant`.
    pub grant: CheckOf<PortForwardGrant>,
}

/// The objects of one manifest.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Objects {
    /// The forwards.
    pub forwards: Vec<Arc<PortForward>>,
    /// The grants.
    pub grants: Vec<Arc<PortForwardGrant>>,
}

/// What was in force before a restart.
#[derive(Clone, Debug, Default)]
pub struct Remembered {
    /// The objects.
    pub forwards: Forwards,
    /// The grants; `None` if the record has none.
    pub grants: Option<Arc<GrantSet>>,
    /// A time at which the folder had their files; `None` if it is not known.
    pub seen: Option<SystemTime>,
}

/// How often a folder is read.
#[derive(Clone, Copy, Debug)]
struct Pace {
    /// The time without events after which a burst of changes counts as finished.
    quiet: Duration,
    /// The longest time that a burst may delay reading.
    burst: Duration,
    /// The interval of readings without events: events can be lost, and links can lead out of the folder.
    again: Duration,
    /// The interval of tries while the folder cannot be read.
    retry: Duration,
    /// How long the first set may wait for files that are being written.
    first: Duration,
}

impl Pace {
    const USUAL: Self = Self {
        quiet: Duration::from_millis(100),
        burst: Duration::from_secs(1),
        again: Duration::from_secs(10),
        retry: Duration::from_secs(1),
        first: Duration::from_secs(6),
    };
}

/// Watches the manifests (`*.yaml`, `*.yml`, `*.json`, without a leading dot) in `dir`, in a task of `tasks`.
///
/// - A file is one unit. If it does not parse, or decoding or `check` refuses one of its objects, its last good content
///   stays in force. `remembered` (from the record) is the first good content, with its generations. It is not checked
///   again here, because the plan checks every object.
/// - If two files contain the same object, the file with the lower path has it. The other file is refused and keeps its last
///   good content without such objects.
/// - The content of a file counts once its writer has finished: see `settling`.
/// - If a file is deleted, its objects are removed. If the folder is missing or cannot be read, nothing changes. If it is
///   another directory than the one that had the file, this takes longer, and much longer if that directory is empty: a
///   volume may not be mounted.
/// - `labels` are the labels of this node.
/// - `wake` is notified after every change.
///
/// Call it within a tokio runtime.
#[must_use]
pub fn watch(
    dir: PathBuf,
    labels: BTreeMap<String, String>,
    remembered: &Remembered,
    wake: Arc<Notify>,
    check: Check,
    tasks: &mut Tasks,
) -> Source {
    let contents = Contents::remembering(&remembered.forwards)
        .with_grants(remembered.grants.as_deref())
        .seen_at(remembered.seen)
        .with_labels(labels);
    watch_at(Pace::USUAL, dir, contents, wake, check, tasks)
}

/// Reads the manifests in `dir` once, by the rules of [`watch()`]. Uses no earlier content; every generation is 1.
///
/// # Errors
/// When the folder as a whole cannot be read. The error of a single file is in its report.
pub fn read(dir: &Path, check: Check) -> Result<Snapshot, FolderError> {
    let reading = reading::read(dir, &Reading::default(), &BTreeSet::new(), check)?;
    Ok(Contents::default().update(&reading.at_rest(), Instant::now()).snapshot)
}

/// The objects in the bytes of one manifest; all or none.
///
/// # Errors
/// When there are no bytes, when they are not YAML in UTF-8, or when an object is refused. The error lists all mistakes for people, one per line, each
/// with its object and its field.
pub fn objects(manifest: &[u8], check: Check) -> Result<Objects, String> {
    reading::objects(manifest, check).map(Arc::unwrap_or_clone)
}

fn watch_at(pace: Pace, dir: PathBuf, contents: Contents, wake: Arc<Notify>, check: Check, tasks: &mut Tasks) -> Source {
    let (sender, receiver) = watch::channel(None);
    tasks.spawn("manifests of the folder", keep(pace, dir, contents, check, sender, wake));
    Source::new(receiver)
}

/// Reads the folder repeatedly.
async fn keep(
    pace: Pace,
    dir: PathBuf,
    mut contents: Contents,
    check: Check,
    current: watch::Sender<Option<Arc<Snapshot>>>,
    wake: Arc<Notify>,
) {
    let mut events = Events::new();
    let mut last = Arc::new(Reading::default());
    let mut trouble = None;
    let mut heard = Heard::default();
    let started = Instant::now();
    loop {
        // The folder is watched before it is read, so that no change between the two is missed.
        events.arm(&dir);
        let pause = match read_aside(dir.clone(), last.clone(), events.take_moved(), check).await {
            Ok(reading) => {
                if trouble.take().is_some() {
                    info!(folder = %dir.display(), "manifest folder can be read again");
                }
                last = Arc::new(reading);
                let now = Instant::now();
                let Update { snapshot, due } = contents.update(&last, now);
                let first = current.borrow().is_none();
                if !first || due.is_none() || now - started >= pace.first {
                    offer(Snapshot { heard, ..snapshot }, &current, &wake);
                }
                due.map_or(pace.again, |due| pace.again.min(due - now))
            }
            Err(error) => {
                let error = format!("{:#}", anyhow::Error::from(error));
                if trouble.as_ref() != Some(&error) {
                    warn!(folder = %dir.display(), error, "manifest folder cannot be read; trying again, and the forwards stay as they are");
                    trouble = Some(error);
                }
                pace.retry
            }
        };
        tokio::select! {
            first = events.settled(pace.quiet, pace.burst) => heard = Heard::of(first),
            () = tokio::time::sleep(pause) => heard = Heard::of(Instant::now()),
        }
    }
}

async fn read_aside(dir: PathBuf, last: Arc<Reading>, moved: BTreeSet<PathBuf>, check: Check) -> Result<Reading, FolderError> {
    spawn_blocking(move || reading::read(&dir, &last, &moved, check)).await.unwrap_or_else(|stopped| Err(stopped.into()))
}

/// Passes `snapshot` on if it differs from the last one.
fn offer(snapshot: Snapshot, current: &watch::Sender<Option<Arc<Snapshot>>>, wake: &Notify) {
    let changed = current.send_if_modified(|old| {
        if old.as_deref() == Some(&snapshot) {
            return false;
        }
        log(old.as_deref(), &snapshot);
        *old = Some(Arc::new(snapshot));
        true
    });
    if changed {
        wake.notify_one();
    }
}

/// Logs one line for the change, and for each file whose report changed one line, or one for each mistake.
fn log(old: Option<&Snapshot>, new: &Snapshot) {
    let grants = new.grants.as_ref().map_or(0, |set| set.grants.len());
    info!(forwards = new.forwards.len(), grants, files = new.files.len(), "manifests read");
    let errors = |snapshot: &Snapshot| -> BTreeMap<PathBuf, String> {
        snapshot.files.iter().filter_map(|file| Some((file.path.clone(), file.error.clone()?))).collect()
    };
    let before = old.map(errors).unwrap_or_default();
    for file in &new.files {
        let path = file.path.display();
        match (&file.error, before.get(&file.path)) {
            (Some(error), was) if was != Some(error) && file.is_folder() => {
                warn!(error, "the manifests are missing; their forwards stay in force");
            }
            (Some(error), was) if was != Some(error) => {
                for mistake in error.lines() {
                    warn!(file = %path, mistake, "manifest refused; its last good content stays in force");
                }
            }
            (None, Some(_)) => info!(file = %path, "manifest is accepted again"),
            (Some(_), _) | (None, None) => {}
        }
    }
}

#[cfg(test)]
mod tests;
