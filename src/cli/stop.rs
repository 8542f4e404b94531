//! The signals by which a program that stays is asked to end.

use anyhow::Context;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Hears SIGTERM and SIGINT (Ctrl-C). From then on they end nothing by themselves, also not as process 1 of a container,
/// which they would not end without it.
#[derive(Debug)]
pub(super) struct Stop {
    terminate: Signal,
    interrupt: Signal,
}

impl Stop {
    /// Begins to listen.
    pub(super) fn listen() -> anyhow::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate()).context("SIGTERM cannot be listened to")?,
            interrupt: signal(SignalKind::interrupt()).context("SIGINT cannot be listened to")?,
        })
    }

    /// Waits until one comes.
    pub(super) async fn requested(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
