//! Reports when the folder may have changed, with inotify(7).
//!
//! Only signals that there may be a change. Callers must also read the folder periodically: events can be lost, and not every
//! change causes one.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use notify::event::{AccessKind, AccessMode, ModifyKind, RenameMode};
use notify::{ErrorKind, Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};
use tracing::warn;

/// The events of one folder.
pub(super) struct Events {
    changed: Arc<Notify>,
    moved: Moved,
    watcher: Option<RecommendedWatcher>,
    /// Whether the kernel had no watch left at the last call of `arm`.
    exhausted: bool,
}

/// The names that files were renamed to and that were not written to since then.
type Moved = Arc<Mutex<BTreeSet<PathBuf>>>;

impl Events {
    /// Watches no folder yet. If the kernel refuses a watcher (`fs.inotify.max_user_instances`), no event ever arrives.
    pub(super) fn new() -> Self {
        let changed = Arc::new(Notify::new());
        let (told, moved) = (changed.clone(), Moved::default());
        let noted = Arc::clone(&moved);
        let watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
            match event {
                Ok(event) if is_reading(event.kind) => return,
                Ok(event) => note(&event, &mut noted.lock().unwrap_or_else(PoisonError::into_inner)),
                // Events were lost, so a renamed file may have been written to since then.
                Err(_) => noted.lock().unwrap_or_else(PoisonError::into_inner).clear(),
            }
            told.notify_one();
        });
        let watcher = watcher.inspect_err(|error| warn!(%error, "inotify is not available; changes of manifests are seen only every few seconds. If the limit is reached, raise the sysctl fs.inotify.max_user_instances")).ok();
        Self { changed, moved, watcher, exhausted: false }
    }

    /// Watches the folder that is at `dir` now. Called before every reading, because the folder may have been replaced by
    /// another one.
    pub(super) fn arm(&mut self, dir: &Path) {
        let Some(watcher) = &mut self.watcher else { return };
        // If the folder cannot be watched for another reason, reading it fails too and gives the reason.
        let armed = watcher.watch(dir, RecursiveMode::NonRecursive);
        let exhausted = armed.is_err_and(|error| matches!(error.kind, ErrorKind::MaxFilesWatch));
        if exhausted && !self.exhausted {
            warn!(folder = %dir.display(), "the kernel has no inotify watch left; changes of manifests are seen only every few seconds. Raise the sysctl fs.inotify.max_user_watches");
        }
        self.exhausted = exhausted;
    }

    /// The names that files were renamed to since the last call.
    pub(super) fn take_moved(&self) -> BTreeSet<PathBuf> {
        std::mem::take(&mut *self.moved.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Waits for a change and then until no event arrived for `quiet`, at most for `burst`. Returns the time of the first
    /// event.
    pub(super) async fn settled(&self, quiet: Duration, burst: Duration) -> Instant {
        self.changed.notified().await;
        let first = Instant::now();
        while first.elapsed() < burst && timeout(quiet, self.changed.notified()).await.is_ok() {}
        first
    }
}

/// Records a rename, or a write after a rename.
fn note(event: &Event, moved: &mut BTreeSet<PathBuf>) {
    let Some(name) = event.paths.last().and_then(|path| path.file_name()).map(PathBuf::from) else { return };
    match event.kind {
        EventKind::Modify(ModifyKind::Name(RenameMode::To | RenameMode::Both)) => drop(moved.insert(name)),
        // A change of the mode or the owner.
        EventKind::Modify(ModifyKind::Metadata(_)) => {}
        EventKind::Any
        | EventKind::Access(_)
        | EventKind::Create(_)
        | EventKind::Modify(ModifyKind::Any | ModifyKind::Data(_) | ModifyKind::Name(_) | ModifyKind::Other)
        | EventKind::Remove(_)
        | EventKind::Other => drop(moved.remove(&name)),
    }
}

/// Whether an event only says that a program read a file. Our own reading causes such events.
fn is_reading(kind: EventKind) -> bool {
    match kind {
        EventKind::Access(access) => access != AccessKind::Close(AccessMode::Write),
        EventKind::Any | EventKind::Create(_) | EventKind::Modify(_) | EventKind::Remove(_) | EventKind::Other => false,
    }
}
