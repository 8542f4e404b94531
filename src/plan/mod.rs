//! Computes the desired state of this node's kernel and a verdict per forward, from all forwards and the facts of the node.
//!
//! Pure: no I/O, no clock, no log. The same set and facts give the same plan, in any order of the set.

mod admission;
mod assumed;
mod claims;
mod in_force;
mod index;
mod node_rules;
mod notes;
mod obstacles;
mod reserved;
mod routes;
mod verdict;
mod wires;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

pub use assumed::{assumed_facts, is_assumed};
pub use claims::Conflict;
pub use in_force::InForce;
pub use reserved::{InvalidReservedPorts, ReservedPorts};
pub use verdict::{Acceptance, NodeRefusal, NodeRefusalReason, Note, Obstacle, ObstacleReason, PlannedRoute, RoutePlan, Verdict};

use crate::api::{DEFAULT_NAMESPACE, PortForward, Role, ShownPorts};
use crate::forward::{Forward, ForwardKey, Refusal};
use crate::model::{Desired, Facts, NextHop, Translation};
use admission::{Admission, admit};
use claims::Claims;

/// The desired state of this node, and the decision about each forward.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// What the kernel should hold.
    pub desired: Desired,
    /// The decisions, by forward.
    pub verdicts: BTreeMap<ForwardKey, Verdict>,
}

impl Plan {
    /// What was in force and may come back without being a new claim; see [`Verdict::suspended`].
    pub fn suspended(&self) -> impl Iterator<Item = &Translation> {
        self.verdicts.values().flat_map(|verdict| &verdict.suspended)
    }

    /// The neighbours that must answer for the forwards carried here.
    #[must_use]
    pub fn next_hops(&self) -> BTreeSet<NextHop> {
        self.verdicts.values().flat_map(|verdict| &verdict.next_hops).cloned().collect()
    }
}

/// Settings of the node's administrator, in addition to the objects.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// The ports that the node reserves, on the addresses by which it is reached.
    pub reserved_ports: ReservedPorts,
}

/// One object, as far as it could be parsed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The key of the object.
    pub key: ForwardKey,
    /// Its `uid`; `None` from a folder.
    pub uid: Option<String>,
    /// The generation of its spec.
    pub generation: i64,
    /// The creation time; `None` from a folder, where only the name decides about seniority.
    pub created: Option<Timestamp>,
    /// Its ports in the form of the status.
    pub shown: ShownPorts,
    /// The parsed forward, or why it is refused.
    pub forward: Result<Forward, Refusal>,
}

impl Candidate {
    /// The key of the object.
    #[must_use]
    pub fn key(object: &PortForward) -> ForwardKey {
        let namespace = object.metadata.namespace.clone().unwrap_or_else(|| DEFAULT_NAMESPACE.to_owned());
        ForwardKey { namespace, name: object.metadata.name.clone().unwrap_or_default() }
    }

    /// Parses and validates an object.
    #[must_use]
    pub fn of(object: &PortForward) -> Self {
        let metadata = &object.metadata;
        Self {
            key: Self::key(object),
            uid: metadata.uid.clone(),
            generation: metadata.generation.unwrap_or(0),
            created: metadata.creation_timestamp.as_ref().map(|time| time.0),
            shown: ShownPorts::of(&object.spec),
            forward: Forward::parse(object).map_err(|refusals| refusals.summary()),
        }
    }
}

/// Plans this node: the desired state of its kernel, and a verdict for each of `candidates`.
///
/// `in_force` is what this node already translates. A refusal that concerns only new forwards removes nothing of that.
#[must_use]
pub fn plan(facts: &Facts, candidates: &[Candidate], policy: &Policy, in_force: &InForce) -> Plan {
    let mut plan = Plan::default();
    let mut claims = Claims::default();
    let mut accepted = Vec::new();
    for candidate in by_seniority(candidates) {
        let (verdict, admission) = judge(facts, candidate, policy, in_force, &mut claims);
        accepted.extend(admission.map(|admission| (candidate.key.clone(), admission)));
        plan.verdicts.insert(candidate.key.clone(), verdict);
    }
    let mut protected = routes::Protected::of(facts);
    for (key, Admission { forward, objection: _, notes }) in accepted {
        let forward = &*forward;
        // The older forwards first: a younger one takes no route away from them, and does not block a route of theirs.
        protected.protect(forward);
        let Some(verdict) = plan.verdicts.get_mut(&key) else { continue };
        (verdict.translations, verdict.reversed) = wires::translations(facts, forward);
        verdict.routes = routes::plan(facts, forward, &protected);
        let found = obstacles::find(facts, forward, verdict);
        plan.desired.legs.extend(found.legs);
        (verdict.obstacles, verdict.notes, verdict.next_hops) = (found.obstacles, found.notes, found.next_hops);
        let others = notes::find(facts, forward, verdict);
        verdict.notes.extend(notes);
        verdict.notes.extend(others);
        let listening = verdict.translations.iter().map(|translation| translation.flows.destination);
        plan.desired.held.extend(listening.filter(|address| facts.holds(*address)));
        plan.desired.translations.extend(verdict.translations.iter().cloned());
        plan.desired.routes.extend(verdict.routes.iter().filter_map(RoutePlan::installed).cloned());
    }
    for nested in claims.nested() {
        for (side, note) in nested.sides().into_iter().zip(notes::nested(nested)) {
            let verdict = plan.verdicts.get_mut(&side.forward).filter(|verdict| verdict.notes.len() < notes::MOST);
            if let Some(verdict) = verdict {
                verdict.notes.push(note);
            }
        }
    }
    plan
}

/// The older first, then by namespace and name. The first one to claim something keeps it.
fn by_seniority(candidates: &[Candidate]) -> Vec<&Candidate> {
    let mut ordered: Vec<&Candidate> = candidates.iter().collect();
    ordered.sort_by(|a, b| (a.created, &a.key).cmp(&(b.created, &b.key)));
    ordered
}

/// Decides about one forward. Returns the part of it that this node should carry.
fn judge<'a>(
    facts: &Facts,
    candidate: &'a Candidate,
    policy: &Policy,
    in_force: &InForce,
    claims: &mut Claims,
) -> (Verdict, Option<Admission<'a>>) {
    let verdict = |acceptance, role| Verdict {
        shown: candidate.shown.clone(),
        ..Verdict::new(candidate.uid.clone(), candidate.generation, acceptance, role)
    };
    let forward = match &candidate.forward {
        Err(refusal) => return (verdict(Acceptance::Refused(refusal.clone()), None), None),
        Ok(forward) if !forward.is_in_force() => {
            let served = in_force.serves(forward);
            return (Verdict { served, ..verdict(Acceptance::Disabled, None) }, None);
        }
        Ok(forward) => forward,
    };
    // Neither a lost address nor another forward makes a new claim of what is in force.
    let suspended = |verdict| Verdict { suspended: in_force.of_forward(forward), ..verdict };
    let Some(role) = role(facts, forward) else {
        let verdict = verdict(Acceptance::Accepted, None);
        return (if forward.selects(&facts.labels) { suspended(verdict) } else { verdict }, None);
    };
    let admission = match admit(facts, forward, policy, in_force) {
        Ok(admission) => admission,
        Err(refusal) => return (suspended(verdict(Acceptance::RefusedHere(refusal), Some(role))), None),
    };
    match claims.claim(&admission.forward, wires::translations(facts, &admission.forward).0) {
        Ok(()) => {
            let objection = admission.objection.clone();
            (Verdict { objection, ..verdict(Acceptance::Accepted, Some(role)) }, Some(admission))
        }
        Err(conflict) => (suspended(verdict(Acceptance::Conflict(conflict), Some(role))), None),
    }
}

/// The role of this node for the forward; `None` if the node is not a candidate.
fn role(facts: &Facts, forward: &Forward) -> Option<Role> {
    let address = forward.internal.address;
    if !forward.selects(&facts.labels) {
        None
    } else if facts.holds(address) {
        Some(Role::Active)
    } else {
        facts.connected(address).map(|_| Role::Standby)
    }
}
