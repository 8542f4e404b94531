//! Runs the iptables programs: with a deadline, no shell, an environment of our choosing and bounded output.

use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};

use crate::progress;

/// How long one program may run. A load of 50,000 forwards takes a few seconds.
pub(super) const DEADLINE: Duration = Duration::from_mins(1);
/// How long a program waits for the lock that the xtables programs share, in seconds (`-w`, iptables(8)).
pub(super) const LOCK_WAIT_SECS: &str = "5";
/// The exit status of the legacy programs for what is busy (`RESOURCE_PROBLEM`, include/xtables.h).
const RESOURCE_PROBLEM: i32 = 4;
/// The most of a program's error text that is kept, in bytes.
const ERROR_BYTES: u64 = 4096;

/// Why a program did not do what it was told.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProgramError {
    /// It is not there.
    #[error("{program} is not installed on this node; install the package iptables")]
    Missing {
        /// The program.
        program: &'static str,
    },
    /// It refused.
    #[error("{program} refused ({status}): {stderr}")]
    Refused {
        /// The program.
        program: &'static str,
        /// How it ended.
        status: ExitStatus,
        /// What it said.
        stderr: String,
    },
    /// It did not end in time and was stopped.
    #[error("{program} did not end within {} s and was stopped", DEADLINE.as_secs())]
    Hangs {
        /// The program.
        program: &'static str,
    },
    /// It could not be run or fed.
    #[error("{program} could not be run: {error}")]
    Unusable {
        /// The program.
        program: &'static str,
        /// Why.
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
            | Self::Hangs { program }
            | Self::Unusable { program, .. } => program,
        }
    }

    /// Whether another try soon may end otherwise: what others hold or do passes, what a program does not take stays so.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Missing { .. } => false,
            // The lock was held by another program. The programs of nft take none, and end so where the kernel refuses.
            Self::Refused { program, status, .. } => {
                status.code().is_none_or(|code| code == RESOURCE_PROBLEM && program.contains("legacy"))
            }
            Self::Hangs { .. } | Self::Unusable { .. } => true,
        }
    }
}

/// What a program printed, and how it ended: one that fails may have told much until then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ran {
    /// What it printed.
    pub(super) printed: String,
    /// How it ended.
    pub(super) ended: Result<(), ProgramError>,
}

/// Runs `program` with `arguments`, feeds it `input` and gives what it prints.
///
/// # Errors
/// When it is missing, refuses, hangs or cannot be run.
pub(super) async fn run(program: &'static str, arguments: &[&str], input: &str) -> Result<String, ProgramError> {
    let Ran { printed, ended } = try_run(program, arguments, input).await?;
    ended.map(|()| printed)
}

/// The same, for whoever can use what a program prints before it refuses.
///
/// # Errors
/// When it is missing, hangs or cannot be run.
pub(super) async fn try_run(program: &'static str, arguments: &[&str], input: &str) -> Result<Ran, ProgramError> {
    let mut command = Command::new(program);
    command.args(arguments).env_clear().stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    // PATH finds the program; XTABLES_LOCKFILE moves the lock (iptables(8)), which hosts of several namespaces need.
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

async fn converse(program: &'static str, mut child: Child, input: &str) -> Result<Ran, ProgramError> {
    let unusable = |error: std::io::Error| ProgramError::Unusable { program, error: error.to_string() };
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let feed = async {
        if let Some(mut stdin) = stdin {
            // A program that refuses closes its input early; what it says then tells more than the broken pipe.
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
    let refused = || ProgramError::Refused { program, status, stderr: String::from_utf8_lossy(&error).trim().to_owned() };
    Ok(Ran { printed, ended: if status.success() { Ok(()) } else { Err(refused()) } })
}
