//! Whose the connections are that met our rules.

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio::sync::watch;

use crate::dataplane::Applied;
use crate::metrics::{Detail, Metrics, Owners};
use crate::model::Translation;
use crate::plan::Plan;
use crate::source::Snapshot;

/// Tells the metrics, and whoever else counts, whose is what.
pub(super) struct Attribution {
    metrics: Arc<Metrics>,
    owners: watch::Sender<Arc<Owners>>,
    /// What the owners were found from.
    of: Option<(Arc<Snapshot>, BTreeSet<Translation>)>,
}

impl Attribution {
    pub(super) fn new(metrics: Arc<Metrics>, owners: watch::Sender<Arc<Owners>>) -> Self {
        Self { metrics, owners, of: None }
    }

    /// What met the rules before they were written was of those who owned them then.
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
