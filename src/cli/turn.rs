//! Waits for the lock of the state directory, which only one process on this node holds at a time.

use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use tokio::time::{Instant, sleep};
use tracing::info;

use super::stop::Stop;
use crate::record::{self, Holder, Lock, Purpose, RecordError};

/// The time limit. A pod that is replaced has 10 seconds to end, and a restore holds the lock only for a moment.
const PATIENCE: Duration = Duration::from_secs(30);
/// The pause between two tries.
const PAUSE: Duration = Duration::from_millis(100);

/// The result of the wait.
#[derive(Debug)]
pub(super) enum Turn {
    /// This process holds the lock as long as it keeps this value.
    Ours(Lock),
    /// An agent runs on this node, so there is nothing to restore.
    Kept(Holder),
    /// A signal arrived first.
    Stopped,
}

/// Waits for the lock of the node, for `purpose`.
///
/// # Errors
/// When another process does not release the lock in time, or the lock cannot be taken for another reason.
pub(super) async fn wait(state_dir: &Path, purpose: Purpose, stop: &mut Stop) -> anyhow::Result<Turn> {
    let begun = Instant::now();
    let mut told = false;
    loop {
        match record::lock(state_dir, purpose) {
            Ok(lock) => return Ok(Turn::Ours(lock)),
            Err(RecordError::Locked { holder, .. }) if is_kept(purpose, &holder) => return Ok(Turn::Kept(holder)),
            Err(RecordError::Locked { holder, .. }) if begun.elapsed() < PATIENCE => {
                if !told {
                    info!(%holder, seconds = PATIENCE.as_secs(), "another process holds the lock of this node; waiting for its end, at most for this time");
                    told = true;
                }
            }
            Err(error @ RecordError::Locked { .. }) => {
                return Err(error).with_context(|| format!("the lock was not released within {} seconds", PATIENCE.as_secs()));
            }
            Err(error) => return Err(error.into()),
        }
        tokio::select! {
            () = sleep(PAUSE) => {}
            () = stop.requested() => return Ok(Turn::Stopped),
        }
    }
}

/// Whether the holder of the lock already does the work of `purpose`.
pub(super) fn is_kept(purpose: Purpose, holder: &Holder) -> bool {
    match purpose {
        Purpose::Restore => holder.purpose == Some(Purpose::Agent),
        Purpose::Agent | Purpose::Cleanup => false,
    }
}
