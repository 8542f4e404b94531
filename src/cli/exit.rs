//! The exit status and the output of a command.

use std::future::Future;
use std::io::{self, Write};
use std::process::{ExitCode, Termination};
use std::time::Duration;

use anyhow::Context;

/// The exit status of a command. The numbers are part of the interface. clap uses `2` for a wrong command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// 0: success.
    Done,
    /// 1: failure.
    Failed,
    /// 3: some manifests are refused or in conflict.
    Refused,
    /// 4: some forwards are not in the kernel as planned.
    NotProgrammed,
}

impl Termination for Exit {
    fn report(self) -> ExitCode {
        match self {
            Self::Done => ExitCode::SUCCESS,
            Self::Failed => ExitCode::from(1),
            Self::Refused => ExitCode::from(3),
            Self::NotProgrammed => ExitCode::from(4),
        }
    }
}

/// Runs a command that waits for the kernel, tools or files.
///
/// # Errors
/// The error of the command, or of the start of the runtime.
pub(super) fn with_runtime(command: impl Future<Output = anyhow::Result<Exit>>) -> anyhow::Result<Exit> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.context("the threads of the program cannot be started")?;
    let ended = runtime.block_on(command);
    // A thread that waits for a lock must not keep the program from ending.
    runtime.shutdown_timeout(Duration::from_secs(1));
    ended
}

/// Writes a message to standard error. Ignores a closed standard error.
pub(super) fn complain(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Prints to standard output. If the reader closes the pipe early, as `head` does, this is not an error.
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
