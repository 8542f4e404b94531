//! Says what does not work once, and that it works again once: an outage is one line, not one per try.

use tracing::{info, warn};

/// Whether something works.
#[derive(Debug)]
pub(super) struct Trouble {
    what: &'static str,
    said: Option<String>,
}

impl Trouble {
    /// Of `what`, which is taken to work.
    pub(super) const fn new(what: &'static str) -> Self {
        Self { what, said: None }
    }

    /// It failed.
    pub(super) fn failed(&mut self, error: &dyn std::error::Error) {
        let text = error.to_string();
        // What is wrong with one try (a port, a deadline) changes; that it does not work is said once.
        if self.said.is_none() {
            warn!(
                what = self.what,
                error = text,
                "the API server cannot be used for this; trying again, and the kernel stays as it is"
            );
        }
        self.said = Some(text);
    }

    /// It worked.
    pub(super) fn worked(&mut self) {
        if self.said.take().is_some() {
            info!(what = self.what, "the API server can be used for this again");
        }
    }
}
