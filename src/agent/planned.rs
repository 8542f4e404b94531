//! The plan of one sync or inspection, from the newest facts of the node and the parsed objects.
//!
//! If only a few objects changed since the last plan, that plan is amended. Otherwise all objects are planned.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::Arc;

use super::Memory;
use super::judging::Judging;
use super::parsed::Parsed;
use crate::dataplane::Dataplane;
use crate::forward::ForwardKey;
use crate::model::Facts;
use crate::node::{FactsError, Observer};
use crate::plan::{Candidate, Changed, Former, InForce, Inputs, Plan, Policy, plan};
use crate::source::Snapshot;

/// A plan and its inputs.
pub(super) struct Planned<'a> {
    facts: Facts,
    candidates: Parsed,
    policy: Policy,
    in_force: Cow<'a, InForce>,
    pub(super) plan: Plan,
    former: Former,
    judging: Judging,
    /// As in [`Origin`].
    after_programmed: bool,
}

/// The last plan with its inputs, for the next one.
#[derive(Debug, Default)]
pub(super) struct LastPlan {
    parsed: Parsed,
    made: Option<Made>,
    judging: Judging,
    /// Whether the kernel then held exactly what the plan asked for.
    programmed: bool,
}

#[derive(Debug)]
struct Made {
    facts: Facts,
    policy: Policy,
    plan: Plan,
    /// The forwards on which another verdict may be given although no input but what is in force changed; `None`: all.
    unsettled: Option<BTreeSet<ForwardKey>>,
    /// The former content of the objects that went or changed with this plan.
    earlier: Vec<Candidate>,
}

/// What a plan was made from.
#[derive(Debug, Default)]
pub(super) struct Origin {
    facts: Facts,
    candidates: Parsed,
    policy: Policy,
    /// Whether what was in force for this plan is exactly what the plan before it asked for.
    pub(super) after_programmed: bool,
}

impl<'a> Planned<'a> {
    pub(super) async fn of<D: Dataplane>(
        observer: &Observer,
        dataplane: &D,
        policy: &Policy,
        memory: &'a Memory,
        snapshot: &Snapshot,
    ) -> Result<Self, FactsError> {
        let mut facts = Facts { labels: snapshot.labels.clone(), ..observer.facts().await? };
        facts.api_servers.extend(&snapshot.api_servers);
        facts.sight = snapshot.sight;
        if !snapshot.node_addresses.is_empty() {
            facts.node_addresses.clone_from(&snapshot.node_addresses);
            facts.maybe_node_addresses.clear();
        }
        facts.services.clone_from(&snapshot.services);
        facts.nodes = Arc::clone(&snapshot.nodes);
        let mut in_force = Cow::Borrowed(memory.flows());
        if memory.is_fresh() {
            // The record may be lost, or older than the rules. A translation in the kernel is in force even if the record does
            // not contain it.
            in_force.to_mut().find(&dataplane.translated().await.unwrap_or_default());
        }
        let LastPlan { parsed, made, judging, programmed } = memory.last();
        let (grants, candidates) = memory.grants(policy.require_grants, snapshot, parsed);
        let policy = Policy { grants, ..policy.clone() };
        let inputs = Inputs { facts: &facts, candidates: &candidates, policy: &policy, in_force: &in_force };
        let (plan, former) = match made {
            Some(made) => made.renewed(inputs, &candidates),
            None => all(inputs),
        };
        Ok(Self { facts, candidates, policy, in_force, plan, former, judging, after_programmed: programmed })
    }

    /// Plans again, with the answers of the next hops. They affect only the verdicts and not the desired state, so the kernel
    /// is written before they are known.
    pub(super) async fn answered(self, observer: &Observer) -> (Plan, Former, Origin, Judging) {
        let Self { mut facts, candidates, policy, in_force, plan: before, mut former, judging, after_programmed } = self;
        let mut newest = before;
        if observer.want(&newest.next_hops).await {
            facts.answers = observer.answers();
            let renewed = plan(&facts, &candidates, &policy, &in_force);
            for (key, verdict) in differing(newest, &renewed) {
                former.entry(key).or_insert(verdict);
            }
            newest = renewed;
        }
        (newest, former, Origin { facts, candidates, policy, after_programmed }, judging)
    }
}

impl LastPlan {
    /// The last plan, which changed the verdicts of `former`. `programmed`: the kernel now holds exactly what it asks for.
    pub(super) fn of(plan: Plan, former: Former, origin: Origin, judging: Judging, programmed: bool) -> Self {
        let Origin { facts, mut candidates, policy, after_programmed } = origin;
        let earlier = candidates.take_former();
        // A verdict is settled if the same one would be given again: what was in force for it, and what is in force now, are both
        // exactly what a plan asked for, and both plans ask for the same around it.
        let unsettled = (after_programmed && programmed).then(|| former.into_keys().collect());
        Self { parsed: candidates, made: Some(Made { facts, policy, plan, unsettled, earlier }), judging, programmed }
    }
}

impl Made {
    /// The plan for these inputs.
    fn renewed(self, inputs: Inputs<'_>, candidates: &Parsed) -> (Plan, Former) {
        let Self { facts, policy, plan: mut last, unsettled, earlier } = self;
        if let Some(unsettled) = unsettled
            && facts == *inputs.facts
            && policy == *inputs.policy
        {
            let (keys, former) = (candidates.changed(), candidates.former());
            let changed = Changed { keys, unsettled: &unsettled, former, earlier: &earlier };
            if let Ok(former) = last.amend(inputs, changed) {
                return (last, former);
            }
        }
        let Inputs { facts, candidates, policy, in_force } = inputs;
        let renewed = plan(facts, candidates, policy, in_force);
        let former = differing(last, &renewed);
        (renewed, former)
    }
}

/// The plan of all objects, of which none was planned before.
fn all(Inputs { facts, candidates, policy, in_force }: Inputs<'_>) -> (Plan, Former) {
    let plan = plan(facts, candidates, policy, in_force);
    let former = plan.verdicts.keys().map(|key| (key.clone(), None)).collect();
    (plan, former)
}

/// The verdicts of `former` that differ in `plan`, and `None` for those that are new in it.
fn differing(former: Plan, plan: &Plan) -> Former {
    let mut differing: Former =
        plan.verdicts.keys().filter(|key| !former.verdicts.contains_key(*key)).map(|key| (key.clone(), None)).collect();
    let others = former.verdicts.into_iter().filter(|(key, verdict)| plan.verdicts.get(key) != Some(verdict));
    differing.extend(others.map(|(key, verdict)| (key, Some(verdict))));
    differing
}
