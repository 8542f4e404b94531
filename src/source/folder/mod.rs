//! `PortForward` manifests in a folder: read, watched, and kept at their last good content.
//!
//! Decides which files count and what is in force of each. Must not decide what a forward means: the check
//! that refuses an object is handed in.

mod contents;
mod document;
mod events;
mod reading;
mod settling;
mod writers;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::task::spawn_blocking;
use tokio::time::Instant;
use tracing::{info, warn};

use crate::api::PortForward;
use crate::supervise::Tasks;

use super::{Heard, Snapshot, Source, Sourced};
use contents::{Contents, Update};
use events::Events;
use reading::Reading;

pub use reading::FolderError;

/// Judges the values of an object. The error lists all mistakes for people, each with its place.
pub type Check = fn(&PortForward) -> Result<(), Vec<String>>;

/// When a folder is read again.
#[derive(Clone, Copy, Debug)]
struct Pace {
    /// How long no event must come before a burst of changes counts as finished.
    quiet: Duration,
    /// The longest that a burst may delay reading.
    burst: Duration,
    /// How often the folder is read without any event: events get lost, and links lead out of the folder.
    again: Duration,
    /// How often a folder is tried that cannot be read.
    retry: Duration,
    /// How long the first set may wait for files that somebody writes just then.
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

/// Watches the manifests (`*.yaml`, `*.yml`, `*.json`, no leading dot) in `dir`: one of `tasks`.
///
/// - A file is one unit: where it does not parse, or one of its objects is refused by decoding or by `check`, its
///   last good content stays in force. `remembered` (from the record) seeds that content, and the generations; it is
///   not checked again here, the plan does that for every object.
/// - An object that a file of a lower path has in force is refused in the other, which keeps its last good
///   content less such objects.
/// - The content of a file counts once its writer is done with it: see `settling`.
/// - A file that is gone takes its objects with it. A folder that is missing or cannot be read changes nothing.
/// - `labels` are the labels of this node, which a folder does not say.
/// - `wake` is notified after every change.
///
/// Call it within a tokio runtime.
#[must_use]
pub fn watch(
    dir: PathBuf,
    labels: BTreeMap<String, String>,
    remembered: Vec<Sourced>,
    wake: Arc<Notify>,
    check: Check,
    tasks: &mut Tasks,
) -> Source {
    watch_at(Pace::USUAL, dir, Contents::remembering(remembered).with_labels(labels), wake, check, tasks)
}

/// Reads the manifests in `dir` once, by the rules of [`watch()`]; nothing is remembered, every generation is 1.
///
/// # Errors
/// When the folder as a whole cannot be read. What is wrong with one file is in its report.
pub fn read(dir: &Path, check: Check) -> Result<Snapshot, FolderError> {
    let reading = reading::read(dir, &Reading::default(), &BTreeSet::new(), check)?;
    Ok(Contents::default().update(&reading.at_rest(), Instant::now()).snapshot)
}

/// The objects of one manifest, given as its text; all or none.
///
/// # Errors
/// When it is not YAML or an object is refused: all mistakes for people, one a line, each with its object and its place.
pub fn objects(text: &str, check: Check) -> Result<Vec<PortForward>, String> {
    document::objects(text, check)
}

fn watch_at(pace: Pace, dir: PathBuf, contents: Contents, wake: Arc<Notify>, check: Check, tasks: &mut Tasks) -> Source {
    let (sender, receiver) = watch::channel(None);
    tasks.spawn("manifests of the folder", keep(pace, dir, contents, check, sender, wake));
    Source::new(receiver)
}

/// Reads the folder again and again.
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
        // Watched before it is read, so that no change falls in between.
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
                    warn!(folder = %dir.display(), error, "manifest folder cannot be read; nothing changes until it can");
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

/// Hands `snapshot` on if it says anything new.
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
    info!(forwards = new.forwards.len(), files = new.files.len(), "manifests read");
    let errors = |snapshot: &Snapshot| -> BTreeMap<PathBuf, String> {
        snapshot.files.iter().filter_map(|file| Some((file.path.clone(), file.error.clone()?))).collect()
    };
    let before = old.map(errors).unwrap_or_default();
    for file in &new.files {
        let path = file.path.display();
        match (&file.error, before.get(&file.path)) {
            (Some(error), was) if was != Some(error) => {
                for mistake in error.lines() {
                    warn!(file = %path, mistake, "manifest refused; its last good content stays in force");
                }
            }
            (None, Some(_)) => info!(file = %path, "manifest is good again"),
            (Some(_), _) | (None, None) => {}
        }
    }
}

#[cfg(test)]
mod tests;
