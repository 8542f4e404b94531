//! The judgement of this node on every object. One that cannot have changed since the last sync is not made again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::key_of;
use super::planned::Former;
use crate::dataplane::Applied;
use crate::forward::ForwardKey;
use crate::plan::{Candidate, Plan};
use crate::source::{Snapshot, Sourced, Undecoded};
use crate::status::{Judgement, Judgements, Outcome, judge, leave, unknown_form};

/// The judgements of the last sync, and what they were made from beside the verdicts.
#[derive(Clone, Debug, Default)]
pub(super) struct Judging {
    outcome: Option<Outcome>,
    /// The objects whose judgement depends on more than their verdict and the outcome.
    special: BTreeSet<ForwardKey>,
    judgements: Arc<Judgements>,
}

impl Judging {
    pub(super) const fn judgements(&self) -> &Arc<Judgements> {
        &self.judgements
    }

    /// The judgements on `plan`, of which the verdicts on `former` changed, after `applied`. They include objects whose newest
    /// content cannot be decoded, and deleted ones in `leaving`.
    pub(super) fn renewed(
        self,
        (plan, former): (&Plan, &Former),
        applied: &Applied,
        snapshot: &Snapshot,
        leaving: &BTreeMap<ForwardKey, Sourced>,
    ) -> Self {
        let outcome = Outcome::of(applied);
        let special = Special::of(snapshot, leaving);
        let keys = special.keys();
        if self.outcome.as_ref() != Some(&outcome) {
            let all: BTreeSet<&ForwardKey> = plan.verdicts.keys().chain(&keys).collect();
            let judged = all.into_iter().filter_map(|key| {
                let judgement = special.judge(key, plan, applied)?;
                let same = self.judgements.get(key).filter(|before| ***before == judgement);
                Some((key.clone(), same.map_or_else(|| Arc::new(judgement), Arc::clone)))
            });
            return Self { outcome: Some(outcome), judgements: Arc::new(judged.collect()), special: keys };
        }
        let changed: BTreeSet<&ForwardKey> = former.keys().chain(&self.special).chain(&keys).collect();
        let mut judgements = self.judgements;
        for key in changed {
            let judgement = special.judge(key, plan, applied);
            if judgements.get(key).map(|before| &**before) == judgement.as_ref() {
                continue;
            }
            let judgements = Arc::make_mut(&mut judgements);
            match judgement {
                Some(judgement) => judgements.insert(key.clone(), Arc::new(judgement)),
                None => judgements.remove(key),
            };
        }
        Self { outcome: Some(outcome), special: keys, judgements }
    }
}

/// The objects whose judgement depends on more than their verdict.
struct Special<'a> {
    /// The newest content cannot be decoded, for this reason.
    troubled: BTreeMap<ForwardKey, &'a str>,
    /// No content could ever be decoded.
    undecoded: BTreeMap<ForwardKey, &'a Undecoded>,
    /// They were deleted, and something of them may be in force.
    leaving: &'a BTreeMap<ForwardKey, Sourced>,
}

impl<'a> Special<'a> {
    fn of(snapshot: &'a Snapshot, leaving: &'a BTreeMap<ForwardKey, Sourced>) -> Self {
        let troubled = snapshot.forwards.iter().filter_map(|sourced| {
            let error = sourced.trouble.as_deref()?;
            Some((Candidate::key(&sourced.object), error))
        });
        let undecoded = snapshot.undecoded.iter().map(|undecoded| (key_of(undecoded), undecoded));
        Self { troubled: troubled.collect(), undecoded: undecoded.collect(), leaving }
    }

    fn keys(&self) -> BTreeSet<ForwardKey> {
        self.troubled.keys().chain(self.undecoded.keys()).chain(self.leaving.keys()).cloned().collect()
    }

    fn judge(&self, key: &ForwardKey, plan: &Plan, applied: &Applied) -> Option<Judgement> {
        if let Some(sourced) = self.leaving.get(key) {
            return Some(leave(&sourced.object, applied));
        }
        if let Some(Undecoded { metadata, error, .. }) = self.undecoded.get(key) {
            return Some(unknown_form(metadata.uid.clone(), metadata.generation.unwrap_or(0), error));
        }
        let judgement = judge(plan.verdicts.get(key)?, applied);
        Some(match self.troubled.get(key) {
            Some(error) => judgement.outdated(error),
            None => judgement,
        })
    }
}
