//! The tasks of a long-running command. Each has a name, and none of them may end.
//!
//! If a task ends or panics, the other tasks continue with its last result. For example, without its watcher an agent would
//! not see any change and would still look healthy. So the process ends when one task ends. Nothing here restarts a task:
//! the kubelet or systemd restarts the process, with fresh memory.

use std::any::Any;
use std::collections::HashMap;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};

use tokio::task::{AbortHandle, Id, JoinError, JoinSet};

/// The tasks of a command. Dropping this aborts them.
#[derive(Debug, Default)]
pub struct Tasks {
    running: JoinSet<()>,
    names: HashMap<Id, &'static str>,
}

/// A task ended that has to run as long as the process does.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the task \"{task}\" {how}, so the process ends, because the other tasks would continue with outdated data. The rules and routes in the kernel stay. Start the process again; the DaemonSet and the systemd unit do so by themselves. This is a bug, please report it with the log lines before this one"
)]
pub struct TaskEnded {
    /// The name of the task.
    pub task: &'static str,
    /// How it ended.
    pub how: HowEnded,
}

/// How a task ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HowEnded {
    /// It returned.
    Returned,
    /// It panicked, with this message.
    Panicked(String),
}

impl std::fmt::Display for HowEnded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Returned => f.write_str("stopped by itself"),
            Self::Panicked(message) => write!(f, "crashed ({message})"),
        }
    }
}

impl Tasks {
    /// Starts a task. `name` describes what it does, for messages.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn spawn(&mut self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) -> AbortHandle {
        let handle = self.running.spawn(task);
        self.names.insert(handle.id(), name);
        handle
    }

    /// Waits until a task ends that was not aborted; waits for ever if none does.
    pub async fn ended(&mut self) -> TaskEnded {
        loop {
            let (id, how) = match self.running.join_next_with_id().await {
                None => std::future::pending().await,
                Some(Ok((id, ()))) => (id, Some(HowEnded::Returned)),
                Some(Err(error)) => (error.id(), panicked(error)),
            };
            let task = self.names.remove(&id).unwrap_or("unnamed");
            if let Some(how) = how {
                return TaskEnded { task, how };
            }
        }
    }
}

/// Why a task that did not return ended; `None` if it was aborted.
fn panicked(error: JoinError) -> Option<HowEnded> {
    let message = |panic: Box<dyn Any + Send>| panic_message(&*panic).to_owned();
    error.try_into_panic().ok().map(|panic| HowEnded::Panicked(message(panic)))
}

/// Reads untrusted input by `read`. If it panics, only this input is refused and the process continues.
pub(crate) fn guarded<T>(read: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    // The state that `read` worked on is dropped, so no half-finished state can be seen.
    catch_unwind(AssertUnwindSafe(read)).unwrap_or_else(|panic| {
        Err(format!(
            "the agent crashed while it read this object ({}); this is a bug, please report it with the object",
            panic_message(&*panic)
        ))
    })
}

/// The message of a panic.
fn panic_message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use futures::future::BoxFuture;

    use super::*;

    async fn ended(task: impl Future<Output = ()> + Send + 'static) -> TaskEnded {
        let mut tasks = Tasks::default();
        tasks.spawn("one that stays", std::future::pending());
        tasks.spawn("the other", task);
        tasks.ended().await
    }

    #[tokio::test]
    async fn a_task_that_returns_is_named() {
        assert_eq!(ended(async {}).await, TaskEnded { task: "the other", how: HowEnded::Returned });
    }

    #[tokio::test]
    async fn a_task_that_panics_is_named_with_what_it_said() {
        let panics = [(panicking("plain"), "plain"), (panicking("with 7".to_owned()), "with 7"), (panicking(7), "no message")];
        for (task, said) in panics {
            let ended = ended(task).await;
            assert_eq!(ended, TaskEnded { task: "the other", how: HowEnded::Panicked(said.to_owned()) });
            assert!(ended.to_string().contains("\"the other\" crashed"), "{ended}");
        }
    }

    fn panicking(with: impl Any + Send) -> BoxFuture<'static, ()> {
        async move { std::panic::panic_any(with) }.boxed()
    }

    #[test]
    fn what_panics_while_it_reads_is_an_error() {
        assert_eq!(guarded(|| Ok(1)), Ok(1));
        assert_eq!(guarded(|| Err::<(), _>("refused".to_owned())), Err("refused".to_owned()));
        let crashed = guarded(|| -> Result<(), String> { panic!("at {}", "byte 7") }).unwrap_err();
        assert!(crashed.contains("crashed while it read this object (at byte 7)"), "{crashed}");
    }

    #[tokio::test]
    async fn a_task_that_was_aborted_is_no_end_and_its_successor_is_watched() {
        let mut tasks = Tasks::default();
        tasks.spawn("aborted", std::future::pending()).abort();
        tasks.spawn("ends", tokio::task::yield_now());
        assert_eq!(tasks.ended().await.task, "ends");
    }
}
