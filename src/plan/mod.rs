//! Computes the desired state of this node's kernel and a verdict per forward, from all forwards and the facts of the node.
//!
//! Pure: no I/O, no clock, no log. The same set and facts give the same plan, in any order of the set.

mod admission;
mod amend;
mod assumed;
mod claims;
mod cycles;
mod explained;
mod floor;
mod forbidden;
mod grants;
mod in_force;
mod index;
mod node_rules;
mod notes;
mod obstacles;
mod owners;
mod protected;
mod reserved;
mod routes;
mod share;
mod small;
mod verdict;
mod wires;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

pub use amend::{Changed, TooMuch};
pub use assumed::{assumed_facts, is_assumed};
pub use claims::Conflict;
pub use explained::unexplained;
pub use forbidden::{ForbiddenNetworks, InvalidForbiddenNetworks};
pub(crate) use grants::Scopes;
pub use grants::{Grants, RequireGrants, Standing};
pub use in_force::InForce;
pub use reserved::{InvalidReservedPorts, ReservedPorts};
pub use share::{InvalidTranslationLimit, TranslationLimit};
pub use verdict::{Acceptance, NodeRefusal, NodeRefusalReason, Note, Obstacle, ObstacleReason, PlannedRoute, RoutePlan, Verdict};

use crate::api::{PortForward, Role, ShownPorts};
use crate::forward::{Forward, ForwardKey, Refusal};
use crate::model::{Connmark, Desired, Facts, NextHop, Translation};
use admission::{Admission, admit};
use claims::Claims;
use floor::Floor;
use grants::{Granting, Queue, Turn};
use protected::Protected;
use share::Shares;

/// The desired state of this node, and the decision about each forward.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// What the kernel should hold.
    pub desired: Desired,
    /// The decisions, by forward.
    pub verdicts: Verdicts,
    /// The neighbours that must answer for the forwards carried here.
    pub next_hops: BTreeSet<NextHop>,
}

/// The decisions about all forwards. Boxed, because a node of the tree has room for many that are not there.
pub type Verdicts = BTreeMap<ForwardKey, Box<Verdict>>;

/// The verdicts that changed, by forward, each with the former one; `None` for a forward that is new.
pub type Former = BTreeMap<ForwardKey, Option<Box<Verdict>>>;

impl Plan {
    /// What was in force and may come back without being a new claim; see [`Verdict::suspended`].
    pub fn suspended(&self) -> impl Iterator<Item = &Translation> {
        self.verdicts.values().flat_map(|verdict| &verdict.suspended)
    }
}

/// Settings of the node's administrator, in addition to the objects.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// The ports that the node reserves, on the addresses by which it is reached.
    pub reserved_ports: ReservedPorts,
    /// The networks that no forward may use, beside the API servers.
    pub forbidden_networks: ForbiddenNetworks,
    /// The most translations of one namespace on this node.
    pub translations: TranslationLimit,
    /// The bit of the connection mark that the flows of forwards have.
    pub connmark: Connmark,
    /// Whether a forward needs a grant.
    pub require_grants: RequireGrants,
    /// The grants. They come from the objects and not from the administrator of the node.
    pub grants: Grants,
}

impl Policy {
    /// The same, but grants are required at least as strictly as `required` says.
    #[must_use]
    pub fn requiring_at_least(&self, required: RequireGrants) -> Self {
        Self { require_grants: self.require_grants.max(required), ..self.clone() }
    }
}

/// What a plan is made from.
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a> {
    /// The facts of the node.
    pub facts: &'a Facts,
    /// All objects, ordered by namespace and name.
    pub candidates: &'a [Candidate],
    /// The settings.
    pub policy: &'a Policy,
    /// What is in force.
    pub in_force: &'a InForce,
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
    /// Parses and validates an object.
    #[must_use]
    pub fn of(object: &PortForward) -> Self {
        let metadata = &object.metadata;
        Self {
            key: ForwardKey::of(object),
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
    plan_with(&BTreeMap::new(), Inputs { facts, candidates, policy, in_force })
}

/// The same for forwards of which some have these routes, if they are carried.
fn plan_with(known: &BTreeMap<&ForwardKey, &[RoutePlan]>, inputs: Inputs<'_>) -> Plan {
    let Inputs { facts, candidates, policy, in_force } = inputs;
    let mut plan = Plan::default();
    let floor = Floor::of(facts, &policy.forbidden_networks);
    let mut accepted = Vec::new();
    let granting = Granting::of(policy, &facts.labels);
    let shares = Shares::of(facts, policy, in_force, candidates);
    let circles = cycles::find(candidates, |forward| granting.priority_somewhere(forward));
    let mut queue = Queue::new(candidates, &granting);
    let mut given = Given { granting, circles, shares, claims: Claims::default() };
    while let Some(turn) = queue.next(&given.granting) {
        let key = &turn.candidate.key;
        let (verdict, admission) = judge(facts, &turn, policy, &floor, in_force, &mut given);
        accepted.extend(admission.map(|admission| (key.clone(), admission)));
        plan.verdicts.insert(key.clone(), Box::new(verdict));
    }
    let mut protected = Protected::of(facts);
    for (key, Admission { forward, objection: _, notes }) in &accepted {
        let forward = &**forward;
        // The older forwards first: a younger one takes no route away from them, and does not block a route of theirs.
        protected.protect_parties(forward);
        let Some(verdict) = plan.verdicts.get_mut(key) else { continue };
        (verdict.translations, verdict.reversed) = wires::translations(facts, forward);
        verdict.routes = match known.get(key) {
            Some(routes) => routes.to_vec(),
            None => floor.withholding(routes::plan(facts, forward, &protected)),
        };
        protected.protect_clients(forward);
        let found = obstacles::find(facts, policy.connmark, forward, verdict);
        plan.desired.legs.extend(found.legs.iter().copied());
        plan.next_hops.extend(found.next_hops.iter().cloned());
        verdict.legs = found.legs;
        (verdict.obstacles, verdict.notes, verdict.next_hops) = (found.obstacles, found.notes, found.next_hops);
        let others = notes::find(facts, forward, verdict);
        verdict.notes.extend(notes.iter().cloned());
        verdict.notes.extend(others);
        let listening = verdict.translations.iter().map(|translation| translation.flows.destination);
        plan.desired.held.extend(listening.filter(|address| facts.holds(*address)));
        plan.desired.translations.extend(verdict.translations.iter().cloned());
        plan.desired.routes.extend(verdict.routes.iter().filter_map(RoutePlan::installed).cloned());
    }
    notes::add_nested(&mut plan.verdicts, given.claims.nested());
    plan
}

/// What forwards may have, and what those that were judged so far have.
struct Given<'a> {
    granting: Granting<'a>,
    /// The forwards that close a circle.
    circles: BTreeMap<&'a ForwardKey, NodeRefusal>,
    shares: Shares<'a>,
    claims: Claims,
}

/// Decides about one forward. Returns the part of it that this node should carry.
fn judge<'a>(
    facts: &Facts,
    turn: &Turn<'a>,
    policy: &Policy,
    floor: &Floor<'_>,
    in_force: &InForce,
    given: &mut Given<'a>,
) -> (Verdict, Option<Admission<'a>>) {
    let (candidate, shares) = (turn.candidate, &mut given.shares);
    let verdict = |acceptance, role| Verdict {
        shown: candidate.shown.clone(),
        ..Verdict::new(candidate.uid.clone(), candidate.generation, acceptance, role)
    };
    let forward = match &candidate.forward {
        Err(refusal) => return (verdict(Acceptance::Refused(refusal.clone()), None), None),
        Ok(forward) if !forward.is_in_force() => {
            let served =
                in_force.owns(forward) || in_force.may_serve(forward) && shares.look(forward) && in_force.serves(forward);
            return (Verdict { served, ..verdict(Acceptance::Disabled, None) }, None);
        }
        Ok(forward) => forward,
    };
    // Neither a lost address nor another forward makes a new claim of what is in force.
    let suspended = |verdict| Verdict { suspended: in_force.of_forward(forward), ..verdict };
    let Some(role) = role(facts, forward) else {
        shares.release(forward);
        let verdict = verdict(Acceptance::Accepted, None);
        return (if forward.selects(&facts.labels) { suspended(verdict) } else { verdict }, None);
    };
    // What no grant permits is withdrawn and comes back only as a new claim.
    let entitlement = match &turn.entitlement {
        Ok(entitlement) => entitlement,
        Err(refusal) => {
            shares.release(forward);
            return (verdict(Acceptance::RefusedHere(refusal.clone()), Some(role)), None);
        }
    };
    let circle = given.circles.get(&forward.key);
    let fitting = match circle.map_or_else(|| shares.fit(forward), |circle| Err(circle.clone())) {
        Ok(fitting) => fitting,
        Err(refusal) => {
            shares.release(forward);
            let suspended = in_force.part(forward).map_or_else(Vec::new, |part| part.translations());
            return (Verdict { suspended, ..verdict(Acceptance::RefusedHere(refusal), Some(role)) }, None);
        }
    };
    let mut admission = match admit(facts, &fitting, policy, floor, in_force) {
        Ok(admission) => admission,
        Err(refusal) => {
            shares.refuse(forward, &fitting);
            return (suspended(verdict(Acceptance::RefusedHere(refusal), Some(role))), None);
        }
    };
    let (priority, translations) = (given.granting.priority(entitlement), wires::translations(facts, &admission.forward).0);
    match given.claims.claim(&admission.forward, priority, translations) {
        Ok(()) => {
            shares.take(forward, &fitting);
            given.granting.spend(entitlement, forward);
            admission.notes.extend(entitlement.note.clone());
            let objection = entitlement.objection.clone().or_else(|| admission.objection.clone());
            (Verdict { objection, ..verdict(Acceptance::Accepted, Some(role)) }, Some(admission))
        }
        Err(conflict) => {
            shares.refuse(forward, &fitting);
            (suspended(verdict(Acceptance::Conflict(conflict), Some(role))), None)
        }
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
