//! Attributes counted connections to forwards.

use std::sync::Arc;

use tokio::sync::watch;

use crate::dataplane::Applied;
use crate::metrics::{Detail, Metrics, Owners};
use crate::plan::{Former, Plan};

/// Updates the owners of the translations, and counts the connections of each owner.
pub(super) struct Attribution {
    metrics: Arc<Metrics>,
    owners: watch::Sender<Arc<Owners>>,
}

impl Attribution {
    pub(super) fn new(metrics: Arc<Metrics>, owners: watch::Sender<Arc<Owners>>) -> Self {
        Self { metrics, owners }
    }

    /// Counts the connections that one apply read from the rules. Connections counted before the rules were written belong to
    /// the previous owners, and those counted afterwards belong to the new owners. `former` are the verdicts of the
    /// plan before that differ.
    pub(super) fn note(&mut self, plan: &Plan, former: &Former, applied: &Applied) {
        if self.metrics.per_forward().detail == Detail::Off {
            return;
        }
        let met = &applied.rules.met;
        self.metrics.connected(&self.owners.borrow(), &met.before);
        if !former.is_empty() {
            let mut owners = Arc::clone(&self.owners.borrow());
            Arc::make_mut(&mut owners).amend(former, &plan.verdicts);
            self.metrics.own(former.keys(), &plan.verdicts);
            self.owners.send_if_modified(|known| {
                let changed = **known != *owners;
                *known = owners;
                changed
            });
        }
        self.metrics.connected(&self.owners.borrow(), &met.after);
    }
}
