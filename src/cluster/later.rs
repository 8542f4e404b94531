//! When an object is looked at again although nothing changes, for the tasks that write status.

use std::collections::BTreeSet;

use tokio::time::{Instant, sleep_until};

use crate::forward::ForwardKey;

/// The moments at which objects are looked at again.
#[derive(Debug, Default)]
pub(super) struct Later(BTreeSet<(Instant, ForwardKey)>);

impl Later {
    /// Lets an object be looked at again at this moment.
    pub(super) fn put(&mut self, at: Instant, key: ForwardKey) {
        self.0.insert((at, key));
    }

    /// The next object whose moment has come.
    pub(super) fn due(&mut self, now: Instant) -> Option<ForwardKey> {
        if self.first()? > now {
            return None;
        }
        self.0.pop_first().map(|(_, key)| key)
    }

    /// The next moment.
    pub(super) fn first(&self) -> Option<Instant> {
        self.0.first().map(|(at, _)| *at)
    }
}

/// Waits until this moment; for ever if there is none.
pub(super) async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}
