//! Whose turn it is on this node: the lock of the state directory, waited for where its holder will soon give it back.

use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use tokio::time::{Instant, sleep};
use tracing::info;

use super::stop::Stop;
use crate::record::{self, Holder, Lock, Purpose, RecordError};

/// How long to wait. A pod that is replaced has 10 seconds to end, and whatever restores holds the lock for a moment.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long one try waits for the next.
const PAUSE: Duration = Duration::from_millis(100);

/// What became of the wait.
#[derive(Debug)]
pub(super) enum Turn {
    /// It is this process's turn, for as long as it keeps this.
    Ours(Lock),
    /// An agent keeps this node, so there is nothing to put back.
    Kept(Holder),
    /// A signal came first.
    Stopped,
}

/// Waits for the turn to act on the node for `purpose`.
///
/// # Errors
/// When another process does not give it back in time, or the lock cannot be taken for another reason.
pub(super) async fn wait(state_dir: &Path, purpose: Purpose, stop: &mut Stop) -> anyhow::Result<Turn> {
    let begun = Instant::now();
    let mut told = false;
    loop {
        match record::lock(state_dir, purpose) {
            Ok(lock) => return Ok(Turn::Ours(lock)),
            Err(RecordError::Locked { holder, .. }) if is_kept(purpose, &holder) => return Ok(Turn::Kept(holder)),
            Err(RecordError::Locked { holder, .. }) if begun.elapsed() < PATIENCE => {
                if !told {
                    info!(%holder, seconds = PATIENCE.as_secs(), "another process holds this node; waiting for its end, so long at most");
                    told = true;
                }
            }
            Err(error @ RecordError::Locked { .. }) => {
                return Err(error).with_context(|| format!("waited {} seconds in vain", PATIENCE.as_secs()));
            }
            Err(error) => return Err(error.into()),
        }
        tokio::select! {
            () = sleep(PAUSE) => {}
            () = stop.requested() => return Ok(Turn::Stopped),
        }
    }
}

/// Whether what `purpose` would do is being done already.
pub(super) fn is_kept(purpose: Purpose, holder: &Holder) -> bool {
    match purpose {
        Purpose::Restore => holder.purpose == Some(Purpose::Agent),
        Purpose::Agent | Purpose::Cleanup => false,
    }
}
