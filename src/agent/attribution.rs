//! Attributes counted connections to forwards.

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio::sync::watch;

use crate::dataplane::Applied;
use crate::metrics::{Detail, Metrics, Owners};
use crate::model::Translation;
use crate::plan::Plan;
use crate::source::Snapshot;

/// Updates the owners of the translations, and counts the connections of each owner.
pub(super) struct Attribution {
    metrics: Arc<Metrics>,
    owners: watch::Sender<Arc<Owners>>,
    /// The input that the current owners were computed from.
    of: Option<(Arc<Snapshot>, BTreeSet<Translation>)>,
}

impl Attribution {
    pub(super) fn new(metrics: Arc<Metrics>, owners: watch::Sender<Arc<Owners>>) -> Self {
        Self { metrics, owners, of: None }
    }

    /// Counts the connections that one apply read from the rules. Connections counted before the rules were written belong to
    /// the previous owners, and those counted afterwards belong to the new owners.
    pub(super) fn note(&mut self, snapshot: &Arc<Snapshot>, plan: &Plan, applied: &Applied) {
        if self.metrics.per_forward().detail == Detail::Off {
            return;
        }
        let met = &applied.rules.met;
        self.metrics.connected(&self.owners.borrow(), &met.before);
        let translations = &plan.desired.translations;
        let same = |(of, owned): &(Arc<Snapshot>, BTreeSet<Translation>)| Arc::ptr_eq(of, snapshot) && owned == translations;
        if !self.of.as_ref().is_some_and(same) {
            let owners = Owners::of(&plan.verdicts);
            self.metrics.own(&owners, |forward| plan.verdicts.contains_key(forward));
            self.of = Some((Arc::clone(snapshot), translations.clone()));
            self.owners.send_if_modified(|former| {
                let changed = **former != owners;
                *former = Arc::new(owners);
                changed
            });
        }
        self.metrics.connected(&self.owners.borrow(), &met.after);
    }
}
