//! What a command gives back to the shell.

use std::future::Future;
use std::io::{self, Write};
use std::process::{ExitCode, Termination};
use std::time::Duration;

use anyhow::Context;

/// How a command ended. The numbers are part of the interface; `2` is clap's, for a wrong command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// 0: done.
    Done,
    /// 1: something failed.
    Failed,
    /// 3: some manifests are refused or in conflict.
    Refused,
}

impl Termination for Exit {
    fn report(self) -> ExitCode {
        match self {
            Self::Done => ExitCode::SUCCESS,
            Self::Failed => ExitCode::from(1),
            Self::Refused => ExitCode::from(3),
        }
    }
}

/// Runs a command that waits for the kernel, tools or files.
///
/// # Errors
/// What the command gives, or that no runtime could be started.
pub(super) fn with_runtime(command: impl Future<Output = anyhow::Result<Exit>>) -> anyhow::Result<Exit> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.context("the runtime could not be started")?;
    let ended = runtime.block_on(command);
    // A thread that waits for a lock that nobody gives back must not keep the program from ending.
    runtime.shutdown_timeout(Duration::from_secs(1));
    ended
}

/// Prints to standard output. Whoever stops reading early, such as `head`, gets no complaint.
///
/// # Errors
/// When standard output cannot be written for another reason.
pub(super) fn print(text: &str) -> anyhow::Result<()> {
    let mut output = io::stdout().lock();
    match output.write_all(text.as_bytes()).and_then(|()| output.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error).context("standard output cannot be written"),
        Ok(()) | Err(_) => Ok(()),
    }
}
