//! The judgement of this node on every object. One that cannot have changed since the last sync is not made again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::dataplane::Applied;
use crate::forward::ForwardKey;
use crate::plan::{Former, Plan};
use crate::source::{Snapshot, Sourced, Undecoded, Unknown};
use crate::status::{Judgement, Judgements, Outcome, judge, leave, unknown_form};

/// The judgements of the last sync, and what they were made from beside the verdicts.
#[derive(Clone, Debug, Default)]
pub(super) struct Judging {
    outcome: Option<Outcome>,
    /// The objects whose judgement depends on more than their verdict and the outcome.
    special: BTreeSet<ForwardKey>,
    judgements: Judgements,
}

impl Judging {
    pub(super) const fn judgements(&self) -> &Judgements {
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
        let Self { outcome: last, special: before, mut judgements } = self;
        let (outcome, special) = (Outcome::of(applied), Special::of(snapshot, leaving));
        let keys = special.keys();
        let mut changed: BTreeSet<&ForwardKey> = former.keys().chain(&before).chain(&keys).collect();
        if last.as_ref() != Some(&outcome) {
            changed.extend(plan.verdicts.keys());
        }
        for key in changed {
            let judgement = special.judge(key, plan, applied);
            if judgements.get(key).map(|before| &**before) == judgement.as_ref() {
                continue;
            }
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
    undecoded: &'a Unknown,
    /// They were deleted, and something of them may be in force.
    leaving: &'a BTreeMap<ForwardKey, Sourced>,
}

impl<'a> Special<'a> {
    fn of(snapshot: &'a Snapshot, leaving: &'a BTreeMap<ForwardKey, Sourced>) -> Self {
        let troubled = snapshot.forwards.iter().filter_map(|sourced| {
            let error = sourced.trouble.as_deref()?;
            Some((ForwardKey::of(&sourced.object), error))
        });
        Self { troubled: troubled.collect(), undecoded: &snapshot.undecoded, leaving }
    }

    fn keys(&self) -> BTreeSet<ForwardKey> {
        self.troubled.keys().chain(self.undecoded.keys()).chain(self.leaving.keys()).cloned().collect()
    }

    fn judge(&self, key: &ForwardKey, plan: &Plan, applied: &Applied) -> Option<Judgement> {
        if let Some(sourced) = self.leaving.get(key) {
            return Some(leave(&sourced.object, applied));
        }
        if let Some(Undecoded { metadata, error, .. }) = self.undecoded.get(key).map(AsRef::as_ref) {
            return Some(unknown_form(metadata.uid.clone(), metadata.generation.unwrap_or(0), error));
        }
        let judgement = judge(plan.verdicts.get(key)?, applied);
        Some(match self.troubled.get(key) {
            Some(error) => judgement.outdated(error),
            None => judgement,
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::api::{self, Role};
    use crate::dataplane::Forwarded;
    use crate::dataplane::conntrack::Purged;
    use crate::dataplane::routes::RoutesReport;
    use crate::dataplane::rules::{ForwardPolicy, RulesReport};
    use crate::plan::{Acceptance, Verdict};

    fn key(name: &str) -> ForwardKey {
        ForwardKey::new("lines", name)
    }

    fn plan(names: &[&str], role: Role) -> Plan {
        let verdict = |name: &&str| (key(name), Box::new(Verdict::new(None, 1, Acceptance::Accepted, Some(role))));
        Plan { verdicts: names.iter().map(verdict).collect(), ..Plan::default() }
    }

    fn applied(forward_policy: ForwardPolicy) -> Applied {
        let rules = RulesReport { forward_policy, ..RulesReport::default() };
        let (routes, conntrack) = (Ok(RoutesReport::default()), Ok(Purged::default()));
        Applied { rules, routes, conntrack, forwarding: Ok(Forwarded::default()) }
    }

    /// A set with one object, of which a newer content may have a mistake.
    fn set(name: &str, trouble: Option<&str>) -> Snapshot {
        let document = json!({
            "apiVersion": "portforward.dev/v1alpha1", "kind": "PortForward", "metadata": {"namespace": "lines", "name": name},
            "spec": {
                "client": {"addresses": ["1.1.1.1"]}, "internal": {"addresses": ["192.168.0.2"]},
                "upstream": {"targets": [{"address": "3.3.3.3"}]}, "ports": [{"port": 80}],
            },
        });
        let object = Arc::new(api::decode(document).unwrap());
        let forwards = [Sourced { trouble: trouble.map(str::to_owned), ..Sourced::of(object, None) }].into_iter().collect();
        Snapshot { forwards, ..Snapshot::default() }
    }

    /// The names of the objects of which the judgement is another one than before.
    fn others(before: &Judging, now: &Judging) -> String {
        let same = |key: &ForwardKey| match (before.judgements.get(key), now.judgements.get(key)) {
            (Some(before), Some(now)) => Arc::ptr_eq(before, now),
            (Some(_), None) | (None, _) => false,
        };
        let keys: BTreeSet<&ForwardKey> = before.judgements.keys().chain(now.judgements.keys()).collect();
        keys.into_iter().filter(|key| !same(key)).map(|key| key.name.as_str()).collect()
    }

    #[test]
    fn only_what_may_have_changed_is_judged_again() {
        let former = |names: &[&str]| names.iter().map(|name| (key(name), None)).collect::<Former>();
        let (none, good) = (BTreeMap::new(), set("b", None));
        let (accepts, drops) = (applied(ForwardPolicy::Accept), applied(ForwardPolicy::Drop));
        let judged = |before: &Judging, plan: &Plan, changed: &[&str], applied: &Applied, set: &Snapshot| {
            let now = before.clone().renewed((plan, &former(changed)), applied, set, &none);
            (others(before, &now), now)
        };
        let (both, one) = (plan(&["a", "b"], Role::Active), plan(&["a"], Role::Active));
        let (names, first) = judged(&Judging::default(), &both, &["a", "b"], &accepts, &good);
        assert_eq!(names, "ab");
        let (names, same) = judged(&first, &both, &[], &accepts, &good);
        assert!(names.is_empty() && first.judgements.ptr_eq(&same.judgements));
        let mut standby = both.clone();
        standby.verdicts.extend(plan(&["b"], Role::Standby).verdicts);
        assert_eq!(judged(&first, &standby, &["b"], &accepts, &good).0, "b", "its verdict changed");
        assert_eq!(judged(&first, &one, &["b"], &accepts, &good).0, "b", "it went");
        assert_eq!(judged(&first, &both, &[], &drops, &good).0, "ab", "the node changed");
        let (names, troubled) = judged(&first, &both, &[], &accepts, &set("b", Some("a mistake")));
        assert_eq!(names, "b", "its newest content has a mistake");
        let (names, mended) = judged(&troubled, &both, &[], &accepts, &good);
        assert_eq!((names.as_str(), &mended.judgements), ("b", &first.judgements), "the mistake is gone");
    }
}
