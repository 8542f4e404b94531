//! When the folder may have changed, by inotify(7).
//!
//! Only says "look again". Must not be relied on alone: events get lost, and not every change makes one.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use notify::event::{AccessKind, AccessMode};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};
use tracing::warn;

/// The events of one folder.
pub(super) struct Events {
    changed: Arc<Notify>,
    watcher: Option<RecommendedWatcher>,
}

impl Events {
    /// No folder yet. Where the kernel gives no watcher (`fs.inotify.max_user_instances`), no event ever comes.
    pub(super) fn new() -> Self {
        let changed = Arc::new(Notify::new());
        let told = changed.clone();
        let watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
            if event.is_ok_and(|event| is_reading(event.kind)) {
                return;
            }
            told.notify_one();
        });
        let watcher = watcher.inspect_err(|error| warn!(%error, "changes of manifests are seen only every few seconds")).ok();
        Self { changed, watcher }
    }

    /// Watches what is at `dir` now. Called before every reading, because a folder that was replaced is another one.
    pub(super) fn arm(&mut self, dir: &Path) {
        if let Some(watcher) = &mut self.watcher {
            // A folder that cannot be watched cannot be read either, and reading it tells why.
            let _ = watcher.watch(dir, RecursiveMode::NonRecursive);
        }
    }

    /// Waits for a change, then until none came for `quiet`, but no longer than `burst`; gives when the first came.
    pub(super) async fn settled(&self, quiet: Duration, burst: Duration) -> Instant {
        self.changed.notified().await;
        let first = Instant::now();
        while first.elapsed() < burst && timeout(quiet, self.changed.notified()).await.is_ok() {}
        first
    }
}

/// Whether an event is only that somebody read; our own reading makes such.
fn is_reading(kind: EventKind) -> bool {
    match kind {
        EventKind::Access(access) => access != AccessKind::Close(AccessMode::Write),
        EventKind::Any | EventKind::Create(_) | EventKind::Modify(_) | EventKind::Remove(_) | EventKind::Other => false,
    }
}
