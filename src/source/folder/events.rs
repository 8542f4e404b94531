//! When the folder may have changed, by inotify(7).
//!
//! Only says "look again". Must not be relied on alone: events get lost, and not every change makes one.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use notify::event::{AccessKind, AccessMode, ModifyKind, RenameMode};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};
use tracing::warn;

/// The events of one folder.
pub(super) struct Events {
    changed: Arc<Notify>,
    moved: Moved,
    watcher: Option<RecommendedWatcher>,
}

/// The names that files were renamed to and not written to since.
type Moved = Arc<Mutex<BTreeSet<PathBuf>>>;

impl Events {
    /// No folder yet. Where the kernel gives no watcher (`fs.inotify.max_user_instances`), no event ever comes.
    pub(super) fn new() -> Self {
        let changed = Arc::new(Notify::new());
        let (told, moved) = (changed.clone(), Moved::default());
        let noted = Arc::clone(&moved);
        let watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
            match event {
                Ok(event) if is_reading(event.kind) => return,
                Ok(event) => note(&event, &mut noted.lock().unwrap_or_else(PoisonError::into_inner)),
                // Events were lost; what was moved may have been written to since.
                Err(_) => noted.lock().unwrap_or_else(PoisonError::into_inner).clear(),
            }
            told.notify_one();
        });
        let watcher = watcher.inspect_err(|error| warn!(%error, "changes of manifests are seen only every few seconds")).ok();
        Self { changed, moved, watcher }
    }

    /// Watches what is at `dir` now. Called before every reading, because a folder that was replaced is another one.
    pub(super) fn arm(&mut self, dir: &Path) {
        if let Some(watcher) = &mut self.watcher {
            // A folder that cannot be watched cannot be read either, and reading it tells why.
            let _ = watcher.watch(dir, RecursiveMode::NonRecursive);
        }
    }

    /// The names that files were renamed to since this was asked last.
    pub(super) fn take_moved(&self) -> BTreeSet<PathBuf> {
        std::mem::take(&mut *self.moved.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Waits for a change, then until none came for `quiet`, but no longer than `burst`; gives when the first came.
    pub(super) async fn settled(&self, quiet: Duration, burst: Duration) -> Instant {
        self.changed.notified().await;
        let first = Instant::now();
        while first.elapsed() < burst && timeout(quiet, self.changed.notified()).await.is_ok() {}
        first
    }
}

/// Takes note of a rename, or of a write after it.
fn note(event: &Event, moved: &mut BTreeSet<PathBuf>) {
    let Some(name) = event.paths.last().and_then(|path| path.file_name()).map(PathBuf::from) else { return };
    match event.kind {
        EventKind::Modify(ModifyKind::Name(RenameMode::To | RenameMode::Both)) => drop(moved.insert(name)),
        // The mode or the owner of it.
        EventKind::Modify(ModifyKind::Metadata(_)) => {}
        EventKind::Any
        | EventKind::Access(_)
        | EventKind::Create(_)
        | EventKind::Modify(ModifyKind::Any | ModifyKind::Data(_) | ModifyKind::Name(_) | ModifyKind::Other)
        | EventKind::Remove(_)
        | EventKind::Other => drop(moved.remove(&name)),
    }
}

/// Whether an event is only that somebody read; our own reading makes such.
fn is_reading(kind: EventKind) -> bool {
    match kind {
        EventKind::Access(access) => access != AccessKind::Close(AccessMode::Write),
        EventKind::Any | EventKind::Create(_) | EventKind::Modify(_) | EventKind::Remove(_) | EventKind::Other => false,
    }
}
