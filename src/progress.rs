//! That work goes on: each step of a long piece of work says so, to whoever watches over that piece.
//!
//! The steps are deep in the kernel side (a program that ended, an answer of netlink), and most callers watch over nothing. So
//! the watcher travels with the task and not through every function in between. Must not be used for anything else.

use std::future::Future;
use std::sync::Arc;

/// Hears of each step.
pub type Watcher = Arc<dyn Fn() + Send + Sync>;

tokio::task_local! {
    static WATCHER: Watcher;
}

/// Runs `work`; `watcher` hears of each step of it.
pub async fn watched<T>(watcher: Watcher, work: impl Future<Output = T>) -> T {
    WATCHER.scope(watcher, work).await
}

/// A step is done. Without a watcher nothing happens.
pub(crate) fn step() {
    let _ = WATCHER.try_with(|watcher| watcher());
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test]
    async fn the_steps_of_watched_work_are_heard_and_no_others() {
        let heard = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&heard);
        let watcher: Watcher = Arc::new(move || {
            count.fetch_add(1, Ordering::Relaxed);
        });
        step();
        let result = watched(watcher, async {
            step();
            tokio::task::yield_now().await;
            step();
            7
        });
        assert_eq!(result.await, 7);
        step();
        assert_eq!(heard.load(Ordering::Relaxed), 2);
    }
}
