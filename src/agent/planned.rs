//! The plan of one sync or inspection, from the newest facts of the node and the parsed objects.

use std::borrow::Cow;
use std::sync::Arc;

use super::Memory;
use super::parsed::Parsed;
use crate::dataplane::Dataplane;
use crate::model::Facts;
use crate::node::{FactsError, Observer};
use crate::plan::{InForce, Plan, Policy, plan};
use crate::source::Snapshot;

/// A plan and its inputs.
pub(super) struct Planned<'a> {
    facts: Facts,
    candidates: Parsed,
    policy: Policy,
    in_force: Cow<'a, InForce>,
    pub(super) plan: Plan,
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
        let (grants, candidates) = memory.grants(policy.require_grants, snapshot);
        let policy = Policy { grants, ..policy.clone() };
        let mut in_force = Cow::Borrowed(memory.flows());
        if memory.is_fresh() {
            // The record may be lost, or older than the rules. A translation in the kernel is in force even if the record does
            // not contain it.
            in_force.to_mut().find(&dataplane.translated().await.unwrap_or_default());
        }
        let plan = plan(&facts, &candidates, &policy, &in_force);
        Ok(Self { facts, candidates, policy, in_force, plan })
    }

    /// Plans again, with the answers of the next hops. They affect only the verdicts and not the desired state, so the kernel
    /// is written before they are known.
    pub(super) async fn answered(self, observer: &Observer, memory: &Memory) -> Plan {
        let Self { mut facts, candidates, policy, in_force, plan: before } = self;
        let plan = if observer.want(&before.next_hops()).await {
            facts.answers = observer.answers();
            plan(&facts, &candidates, &policy, &in_force)
        } else {
            before
        };
        memory.keep_parsed(candidates);
        plan
    }
}
