//! Which forwards the grants permit on this node, and under which grant each of them is carried.
//!
//! A forward that no grant permits claims nothing. Unlike other refusals, this one also withdraws what is in force, because a
//! forward in force is no border between tenants (ADR 50).

mod budget;
mod containment;
mod queue;

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Policy;
use super::verdict::{NodeRefusal, NodeRefusalReason, Note};
use crate::forward::{Forward, ForwardKey};
use crate::grant::Grant;
use budget::Budgets;
use containment::outside;

pub(super) use queue::{Queue, Turn};

/// Whether a forward needs a grant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum RequireGrants {
    /// No. Grants are ignored.
    #[default]
    No,
    /// No, but a note says which forwards would be refused.
    Report,
    /// Yes. Everything else is refused.
    Yes,
}

/// The grants, as far as this agent has read them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Grants {
    /// All of them.
    Read(Arc<[Grant]>),
    /// They were never read since the start. Only forwards of the record are carried.
    Unread {
        /// The forwards of which the record holds something in force.
        standing: BTreeMap<ForwardKey, Standing>,
        /// The grants of the record; `None` if the record holds none, because grants were not required then.
        recorded: Option<Arc<[Grant]>>,
    },
}

/// What the record says about a forward, while the grants were never read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It has the content of the record.
    Same,
    /// Its content was changed to this generation. The content of the record is planned.
    Changed {
        /// The generation of the new content.
        to: i64,
    },
}

impl Default for Grants {
    fn default() -> Self {
        Self::Unread { standing: BTreeMap::new(), recorded: None }
    }
}

/// What a forward may do on this node.
#[derive(Clone, Debug, Default)]
pub(super) struct Entitlement<'a> {
    /// The grants that contain it, the one with the highest priority first. Empty if it needs none.
    pub(super) grants: Vec<&'a Grant>,
    /// Why a new content of it is not carried yet.
    pub(super) objection: Option<NodeRefusal>,
    /// Why it would be refused if grants were required.
    pub(super) note: Option<Note>,
}

/// The grants that hold on this node, and what was used of each.
#[derive(Debug)]
pub(super) struct Granting<'a> {
    required: RequireGrants,
    standing: Option<&'a BTreeMap<ForwardKey, Standing>>,
    /// The grants of each namespace, ordered by priority and name; `None` if no grant is known and none is needed.
    scopes: Option<Scopes<'a>>,
    /// The grants for all nodes, by namespace, if grants are required and known.
    everywhere: Option<Scopes<'a>>,
    budgets: Budgets<'a>,
}

/// Grants by namespace.
#[derive(Debug, Default)]
pub(crate) struct Scopes<'a> {
    here: BTreeMap<&'a str, Vec<&'a Grant>>,
    /// The namespaces that only have grants for other nodes.
    elsewhere: BTreeMap<&'a str, &'a Grant>,
}

impl<'a> Scopes<'a> {
    /// The `grants` for which `holds` is true.
    pub(crate) fn of(grants: &'a [Grant], holds: impl Fn(&Grant) -> bool) -> Self {
        let mut scopes = Self::default();
        for grant in grants {
            let here = holds(grant);
            for namespace in &grant.namespaces {
                if here {
                    scopes.here.entry(namespace.as_str()).or_default().push(grant);
                } else {
                    scopes.elsewhere.entry(namespace.as_str()).or_insert(grant);
                }
            }
        }
        for grants in scopes.here.values_mut() {
            grants.sort_by(|a, b| (b.priority, &a.name).cmp(&(a.priority, &b.name)));
        }
        scopes
    }

    /// The grants that contain all of `forward`, the one with the highest priority first.
    ///
    /// # Errors
    /// When there is none: what lies outside of the grant that comes closest.
    pub(crate) fn containing(&self, forward: &Forward) -> Result<Vec<&'a Grant>, String> {
        let namespace = forward.key.namespace.as_str();
        let Some(grants) = self.here.get(namespace) else {
            return Err(match self.elsewhere.get(namespace) {
                Some(grant) => format!(
                    "no grant for the namespace {namespace} holds on this node; the nodeSelector of grant {} selects other nodes; ask the administrators of the nodes",
                    grant.name
                ),
                None => format!(
                    "no grant names the namespace {namespace}; ask the administrators of the nodes for a PortForwardGrant (kubectl get pfg)"
                ),
            });
        };
        let judged: Vec<_> = grants.iter().map(|grant| (*grant, outside(grant, forward))).collect();
        let containing: Vec<&Grant> = judged.iter().filter(|(_, outside)| outside.is_empty()).map(|(grant, _)| *grant).collect();
        if !containing.is_empty() {
            return Ok(containing);
        }
        let closest = judged.iter().min_by_key(|(_, outside)| outside.len());
        let (grant, first, more) =
            closest.and_then(|(grant, outside)| Some((grant, outside.first()?, outside.len() - 1))).ok_or_else(String::new)?;
        let more = if more == 0 { String::new() } else { format!(", and {more} more of its fields lie outside of it") };
        Err(format!(
            "{}{more}; write what the grant permits, or ask the administrators of the nodes to extend the grant",
            first.of(&grant.name)
        ))
    }
}

impl<'a> Granting<'a> {
    /// The grants of `policy` that hold on a node with these labels.
    pub(super) fn of(policy: &'a Policy, labels: &BTreeMap<String, String>) -> Self {
        let (grants, standing): (Option<&[Grant]>, _) = match &policy.grants {
            Grants::Read(grants) => (Some(grants), None),
            Grants::Unread { standing, recorded } => (recorded.as_deref(), Some(standing)),
        };
        let scopes = match policy.require_grants {
            RequireGrants::No => None,
            RequireGrants::Report | RequireGrants::Yes => grants.map(|grants| Scopes::of(grants, |grant| grant.selects(labels))),
        };
        let everywhere = match policy.require_grants {
            RequireGrants::No | RequireGrants::Report => None,
            RequireGrants::Yes => grants.map(|grants| Scopes::of(grants, |_| true)),
        };
        Self { required: policy.require_grants, standing, scopes, everywhere, budgets: Budgets::default() }
    }

    /// What `forward` may do.
    ///
    /// # Errors
    /// When no grant permits it and grants are required.
    pub(super) fn entitle(&self, forward: &Forward) -> Result<Entitlement<'a>, NodeRefusal> {
        match self.required {
            RequireGrants::No => Ok(Entitlement::default()),
            RequireGrants::Report => Ok(match self.scopes.as_ref().map(|scopes| scopes.containing(forward)) {
                // Grants that were not read yet say nothing about any forward.
                None => Entitlement::default(),
                Some(Ok(grants)) => Entitlement { grants, ..Entitlement::default() },
                Some(Err(message)) => Entitlement { note: Some(reported(&message)), ..Entitlement::default() },
            }),
            RequireGrants::Yes => {
                let objection = match self.standing.map(|standing| standing.get(&forward.key)) {
                    None | Some(Some(Standing::Same)) => None,
                    Some(Some(Standing::Changed { to })) => Some(not_granted(format!(
                        "generation {to} of the object is not carried yet, and generation {} stays in force: {UNREAD}",
                        forward.generation
                    ))),
                    Some(None) => return Err(not_granted(format!("the forward is new, and nothing new is carried: {UNREAD}"))),
                };
                let grants = match &self.scopes {
                    Some(scopes) => scopes.containing(forward).map_err(not_granted)?,
                    None => Vec::new(),
                };
                Ok(Entitlement { grants, objection, note: None })
            }
        }
    }

    /// The highest priority with which some node may carry `forward`, the same on all nodes; `None` if no grant permits it.
    pub(super) fn priority_somewhere(&self, forward: &Forward) -> Option<i32> {
        let may_stand = self.standing.is_none_or(|standing| standing.contains_key(&forward.key));
        match (self.required, &self.everywhere) {
            (RequireGrants::Yes, _) if !may_stand => None,
            (RequireGrants::No | RequireGrants::Report, _) | (RequireGrants::Yes, None) => Some(0),
            (RequireGrants::Yes, Some(scopes)) => scopes.containing(forward).ok()?.first().map(|grant| grant.priority),
        }
    }

    /// Counts an accepted forward under its grant.
    pub(super) fn spend(&mut self, entitlement: &Entitlement<'a>, forward: &Forward) {
        if let Some(grant) = entitlement.grants.first() {
            self.budgets.spend(grant, forward);
        }
    }

    /// Why the first grant of `entitlement` has no room for `forward`, if it has none.
    fn refuse_more(&self, entitlement: &Entitlement<'a>, forward: &Forward) -> Option<NodeRefusal> {
        entitlement.grants.first().and_then(|grant| self.budgets.refuse(grant, forward))
    }

    /// What a forward may do for which no grant has room.
    fn over(&self, entitlement: Entitlement<'a>, full: NodeRefusal) -> Result<Entitlement<'a>, NodeRefusal> {
        match self.required {
            RequireGrants::Yes => Err(full),
            RequireGrants::Report | RequireGrants::No => Ok(Entitlement { note: Some(reported(&full.message)), ..entitlement }),
        }
    }

    /// The priority of a forward in conflicts. It counts only if grants are required.
    pub(super) fn priority(&self, entitlement: &Entitlement<'a>) -> i32 {
        match self.required {
            RequireGrants::Yes => entitlement.grants.first().map_or(0, |grant| grant.priority),
            RequireGrants::No | RequireGrants::Report => 0,
        }
    }
}

/// Why nothing new is carried, and what to do.
const UNREAD: &str = "this agent has not been able to read the grants since its start, and --require-grants is set; apply the CRD of PortForwardGrant, and give the agents the right to list and watch portforwardgrants (deploy/base/rbac.yaml); the log of the agent says what is missing";

fn not_granted(message: String) -> NodeRefusal {
    NodeRefusal { reason: NodeRefusalReason::NotGranted, message }
}

fn reported(message: &str) -> Note {
    Note(format!("no grant permits it, so it would be refused with --require-grants: {message}"))
}
