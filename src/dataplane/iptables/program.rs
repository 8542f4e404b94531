//! Runs the iptables programs: with a deadline, no shell, an environment of our choosing and bounded output.

use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::fs::Access;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};

use super::lockfile::{self, Holder};
use crate::progress;

/// The time-out for one program. Loading 50,000 forwards takes a few seconds.
pub(super) const DEADLINE: Duration = Duration::from_mins(1);
/// How long a program waits for the xtables lock, in seconds (`-w`, iptables(8)).
pub(super) const LOCK_WAIT_SECS: &str = "5";
/// The exit status of the legacy programs if a resource is busy (`RESOURCE_PROBLEM`, include/xtables.h).
const RESOURCE_PROBLEM: i32 = 4;
/// A part of the message of the legacy programs if another process holds the lock (`xtables_lock_main`, iptables/xshared.c).
const LOCK_HELD: &str = "holding the xtables lock";
/// Where programs are searched if the variable PATH is not set.
const DEFAULT_PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";
/// The maximum size of a program's error output that is kept, in bytes.
const ERROR_BYTES: u64 = 4096;

/// Why a program failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProgramError {
    /// It is not installed.
    #[error("{program} is not installed on this node; install the package iptables")]
    Missing {
        /// The program.
        program: &'static str,
    },
    /// It exited with an error.
    #[error("{program} refused ({status}): {stderr}")]
    Refused {
        /// The program.
        program: &'static str,
        /// The exit status.
        status: ExitStatus,
        /// Its error output.
        stderr: String,
    },
    /// Another process holds the lock of legacy xtables.
    #[error("{program} did not get the lock {} within {LOCK_WAIT_SECS} s: {holder}", lockfile::path().display())]
    Locked {
        /// The program.
        program: &'static str,
        /// Who holds it, as far as it is known.
        holder: Holder,
    },
    /// It did not exit in time and was killed.
    #[error("{program} did not end within {} s and was stopped", DEADLINE.as_secs())]
    Hangs {
        /// The program.
        program: &'static str,
    },
    /// It could not be started, or its input could not be written.
    #[error("{program} could not be run: {error}")]
    Unusable {
        /// The program.
        program: &'static str,
        /// The error.
        error: String,
    },
}

impl ProgramError {
    /// The program.
    #[must_use]
    pub const fn program(&self) -> &'static str {
        match self {
            Self::Missing { program }
            | Self::Refused { program, .. }
            | Self::Locked { program, .. }
            | Self::Hangs { program }
            | Self::Unusable { program, .. } => program,
        }
    }

    /// Whether a retry may succeed: a busy lock or resource is temporary, refused input is not.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Missing { .. } => false,
            // The nft programs exit with this status if the kernel refuses.
            Self::Refused { program, status, .. } => {
                status.code().is_none_or(|code| code == RESOURCE_PROBLEM && program.contains("legacy"))
            }
            Self::Locked { .. } | Self::Hangs { .. } | Self::Unusable { .. } => true,
        }
    }
}

/// The output of a program, and its result. A failed program may have printed useful output before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ran {
    /// The output.
    pub(super) printed: String,
    /// The result.
    pub(super) ended: Result<(), ProgramError>,
}

/// Runs `program` with `arguments`, writes `input` to it and returns its output.
///
/// # Errors
/// When it is missing, exits with an error, does not exit in time, or cannot be run.
pub(super) async fn run(program: &'static str, arguments: &[&str], input: &str) -> Result<String, ProgramError> {
    let Ran { printed, ended } = try_run(program, arguments, input).await?;
    ended.map(|()| printed)
}

/// As [`run`], for callers that use the output of a program that exits with an error.
///
/// # Errors
/// When it is missing, does not exit in time, or cannot be run.
pub(super) async fn try_run(program: &'static str, arguments: &[&str], input: &str) -> Result<Ran, ProgramError> {
    // With a path, the process is started without a copy of the memory of this one (posix_spawn(3)). For a name without a
    // path, `Command` would copy it, because the search uses the environment of the new process.
    let mut command = Command::new(located(program).ok_or(ProgramError::Missing { program })?);
    command.args(arguments).env_clear().stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    // XTABLES_LOCKFILE moves the lock (iptables(8)), which hosts with several namespaces need.
    for name in ["PATH", "XTABLES_LOCKFILE", "XTABLES_LIBDIR"] {
        command.envs(std::env::var_os(name).map(|value| (name, value)));
    }
    let child = command.spawn().map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => ProgramError::Missing { program },
        _ => ProgramError::Unusable { program, error: error.to_string() },
    })?;
    let ended = tokio::time::timeout(DEADLINE, converse(program, child, input)).await;
    progress::step();
    ended.unwrap_or(Err(ProgramError::Hangs { program }))
}

/// The path of a program, by the variable PATH.
fn located(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_else(|| DEFAULT_PATH.into());
    let may_run = |file: &PathBuf| rustix::fs::access(file, Access::EXEC_OK).is_ok() && file.is_file();
    std::env::split_paths(&path).map(|folder| folder.join(program)).find(may_run)
}

async fn converse(program: &'static str, mut child: Child, input: &str) -> Result<Ran, ProgramError> {
    let unusable = |error: std::io::Error| ProgramError::Unusable { program, error: error.to_string() };
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let feed = async {
        if let Some(mut stdin) = stdin {
            // A program that fails closes its input early. Its error output then explains more than the broken pipe.
            let _ = stdin.write_all(input.as_bytes()).await;
        }
    };
    let read_output = async {
        let mut output = Vec::new();
        if let Some(mut stdout) = stdout {
            stdout.read_to_end(&mut output).await?;
        }
        Ok(output)
    };
    let read_error = async {
        let mut error = Vec::new();
        if let Some(mut stderr) = stderr {
            (&mut stderr).take(ERROR_BYTES).read_to_end(&mut error).await?;
            tokio::io::copy(&mut stderr, &mut tokio::io::sink()).await?;
        }
        Ok(error)
    };
    let ((), output, error) = tokio::join!(feed, read_output, read_error);
    let (output, error) = (output.map_err(unusable)?, error.map_err(unusable)?);
    let status = child.wait().await.map_err(unusable)?;
    let printed = String::from_utf8_lossy(&output).into_owned();
    let refused = || {
        let stderr = String::from_utf8_lossy(&error).trim().to_owned();
        if status.code() == Some(RESOURCE_PROBLEM) && stderr.contains(LOCK_HELD) {
            return ProgramError::Locked { program, holder: lockfile::holder(&lockfile::path()) };
        }
        ProgramError::Refused { program, status, stderr }
    };
    Ok(Ran { printed, ended: if status.success() { Ok(()) } else { Err(refused()) } })
}
