//! The signals that ask a running command to stop.

use anyhow::Context;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Receives SIGTERM and SIGINT (Ctrl-C). From then on, these signals do not end the process by themselves. Without a handler,
/// they would not end process 1 of a container at all.
#[derive(Debug)]
pub(super) struct Stop {
    terminate: Signal,
    interrupt: Signal,
}

impl Stop {
    /// Starts to receive the signals.
    pub(super) fn listen() -> anyhow::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate()).context("the handler of SIGTERM cannot be installed")?,
            interrupt: signal(SignalKind::interrupt()).context("the handler of SIGINT cannot be installed")?,
        })
    }

    /// Waits until one of the signals arrives.
    pub(super) async fn requested(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
