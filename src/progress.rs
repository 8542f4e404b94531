//! Reports the progress of a long piece of work, step by step, to a watcher.
//!
//! The steps happen deep in the dataplane: a program ended, or the kernel answered a netlink request. Most callers do not
//! watch. The watcher is therefore a task-local value and not a parameter of every function in between. It must not be used
//! for anything else.

use std::future::Future;
use std::sync::Arc;

/// Is called at each step.
pub type Watcher = Arc<dyn Fn() + Send + Sync>;

tokio::task_local! {
    static WATCHER: Watcher;
}

/// Runs `work` and calls `watcher` at each of its steps.
pub async fn watched<T>(watcher: Watcher, work: impl Future<Output = T>) -> T {
    WATCHER.scope(watcher, work).await
}

/// Reports one step. Without a watcher, this does nothing.
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
