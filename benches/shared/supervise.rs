//! Runs a measurement as a separate process, and removes its namespaces also after an interruption.

use std::process::ExitCode;

use tokio::signal::unix::{SignalKind, signal};

/// The argument with which a benchmark starts itself for the measurement.
const MEASURE: &str = "measure";

/// Runs `measure` with the arguments of the user in a process of its own, with its own lock of legacy iptables. Calls
/// `clean_up` when it has ended.
pub(crate) fn run(measure: impl FnOnce(&[String]) -> ExitCode, clean_up: impl FnOnce()) -> ExitCode {
    if !rustix::process::geteuid().is_root() {
        eprintln!("the benchmark makes network namespaces and needs root, for example: sudo make bench");
        return ExitCode::from(2);
    }
    // Cargo adds `--bench`.
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    if arguments.first().is_some_and(|first| first == MEASURE) {
        return measure(&arguments[1..]);
    }
    let status = start(&arguments);
    clean_up();
    match status {
        Ok(status) if status.success() => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("the measurement cannot be started: {error}");
            ExitCode::FAILURE
        }
    }
}

fn start(arguments: &[String]) -> std::io::Result<std::process::ExitStatus> {
    let files = tempfile::tempdir()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut measuring = tokio::process::Command::new(std::env::current_exe()?)
            .arg(MEASURE)
            .args(arguments)
            .env("XTABLES_LOCKFILE", files.path().join("xtables.lock"))
            .spawn()?;
        let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        tokio::select! {
            status = measuring.wait() => status,
            _ = interrupt.recv() => { measuring.start_kill()?; measuring.wait().await }
            _ = terminate.recv() => { measuring.start_kill()?; measuring.wait().await }
        }
    })
}
