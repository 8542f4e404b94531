//! The forwards that must be planned anew after a change: those that changed, and all that meet them directly or through others.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use jiff::Timestamp;

use super::super::{Acceptance, Candidate, Grants, Inputs, NodeRefusalReason, Policy, RequireGrants, Verdict, plan_with, wires};
use super::super::{Former, Verdicts};
use super::meeting::{Content, Edge, Shared};
use super::{Changed, TooMuch};
use crate::forward::{Forward, ForwardKey};
use crate::grant::Limits;

/// The number of forwards that are planned alone at most. If more of them meet, all are planned.
const MOST: usize = 512;

/// The forwards that are planned alone.
pub(super) struct Neighbourhood<'a> {
    inputs: Inputs<'a>,
    changed: Changed<'a>,
    verdicts: &'a Verdicts,
    /// The former content of the objects that went or changed.
    former: BTreeMap<&'a ForwardKey, &'a Candidate>,
    part: BTreeMap<&'a ForwardKey, Member<'a>>,
}

/// One of them.
#[derive(Clone, Copy)]
struct Member<'a> {
    /// Its content; `None` if it went.
    candidate: Option<&'a Candidate>,
    routes: Routes,
}

/// What is known of the routes of a forward, and of its part in what others' routes may cover.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Routes {
    /// Nothing.
    Unknown,
    /// They are those of the former verdict if it stays carried, and only its upstream may change something for others.
    Same,
    /// It has none, and an older forward of its namespace keeps routes of others from its clients too.
    Represented,
}

impl<'a> Neighbourhood<'a> {
    pub(super) fn of(inputs: Inputs<'a>, changed: Changed<'a>, verdicts: &'a Verdicts) -> Result<Self, TooMuch> {
        let keys: BTreeSet<&ForwardKey> = changed.keys.union(changed.unsettled).collect();
        if keys.len() > MOST || budgets_matter(inputs.policy) {
            return Err(TooMuch);
        }
        let former = changed.former.iter().map(|candidate| (&candidate.key, candidate)).collect();
        let mut found = Self { inputs, changed, verdicts, former, part: BTreeMap::new() };
        let mut edge = found.begin(&keys);
        while !edge.is_empty() {
            edge = found.grow(&Edge::of(&edge))?;
        }
        if found.has_room() { Ok(found) } else { Err(TooMuch) }
    }

    /// Takes in the forwards `keys`. Returns the contents whose neighbours belong to the part too.
    fn begin(&mut self, keys: &BTreeSet<&'a ForwardKey>) -> Vec<Content<'a>> {
        let represented = Represented::of(self.inputs, keys, self.verdicts);
        let mut edge = Vec::new();
        for key in keys {
            let [former, now] = self.contents(key);
            // Without a former content, only what is in force changed.
            let before = if self.former.contains_key(key) { former } else { now };
            let contents = || former.into_iter().chain(now);
            let routes = match (before, now) {
                (Some(before), Some(now)) if self.is_calm(key) && alike(self.inputs.policy, before, now) => Routes::Same,
                _ if contents().all(|forward| represented.stands_for(forward)) => Routes::Represented,
                _ => Routes::Unknown,
            };
            let parties = routes != Routes::Same || before.map(|it| it.upstream) != now.map(|it| it.upstream);
            edge.extend(contents().map(|forward| Content { forward, routes: routes == Routes::Unknown, parties }));
            self.take(key, routes);
        }
        // What was in force of them may have changed with the change before. Only flows are in force, and no routes.
        let earlier = self.changed.earlier.iter().filter_map(claiming);
        edge.extend(earlier.map(|forward| Content { forward, routes: false, parties: false }));
        edge
    }

    /// Takes in what meets the `edge`. Returns the contents whose neighbours belong to the part too.
    fn grow(&mut self, edge: &Edge<'_>) -> Result<Vec<Content<'a>>, TooMuch> {
        let any_lost = self.verdicts.values().any(|verdict| lost(verdict));
        let mut next = Vec::new();
        for forward in self.inputs.candidates.iter().filter_map(claiming) {
            let (key, met) = (&forward.key, edge.meeting(forward));
            let known = self.part.get(key).map(|member| member.routes);
            if met.circle {
                return Err(TooMuch);
            } else if met.routes && known != Some(Routes::Unknown) {
                self.take(key, Routes::Unknown);
                let contents = self.contents(key).into_iter().flatten();
                next.extend(contents.map(|forward| Content { forward, routes: true, parties: true }));
            } else if known.is_none() && met.shared == Shared::Packets {
                let calm = self.is_calm(key);
                self.take(key, if calm { Routes::Same } else { Routes::Unknown });
                next.push(Content { forward, routes: !calm, parties: !calm });
            } else if known.is_none()
                && met.shared == Shared::Address
                && any_lost
                && self.verdicts.get(key).is_some_and(|verdict| lost(verdict))
            {
                return Err(TooMuch);
            }
        }
        if self.part.len() > MOST { Err(TooMuch) } else { Ok(next) }
    }

    fn take(&mut self, key: &'a ForwardKey, routes: Routes) {
        self.part.insert(key, Member { candidate: self.candidate(key), routes });
    }

    /// The new verdict on each forward of the part; `None` for one that went.
    pub(super) fn plan(&self) -> Result<Former, TooMuch> {
        let candidates: Vec<Candidate> = self.part.values().filter_map(|member| member.candidate).cloned().collect();
        let same = || self.part.iter().filter(|(_, member)| member.routes == Routes::Same).map(|(key, _)| *key);
        let routes = same().filter_map(|key| Some((key, self.verdicts.get(key)?.routes.as_slice()))).collect();
        let mut planned = plan_with(&routes, Inputs { candidates: &candidates, ..self.inputs }).verdicts;
        let stay_so = same().all(|key| planned.get(key).is_some_and(|verdict| is_calm(verdict)));
        if !stay_so || planned.values().any(|verdict| lost(verdict)) {
            return Err(TooMuch);
        }
        Ok(self.part.keys().map(|key| ((*key).clone(), planned.remove(key))).collect())
    }

    /// The content of an object now.
    fn candidate(&self, key: &ForwardKey) -> Option<&'a Candidate> {
        let Inputs { candidates, .. } = self.inputs;
        let place = candidates.binary_search_by(|candidate| candidate.key.cmp(key)).ok()?;
        candidates.get(place)
    }

    /// What an object claimed before it went or changed, and what it claims now.
    fn contents(&self, key: &ForwardKey) -> [Option<&'a Forward>; 2] {
        [self.former.get(key).copied(), self.candidate(key)].map(|candidate| candidate.and_then(claiming))
    }

    fn is_calm(&self, key: &ForwardKey) -> bool {
        self.verdicts.get(key).is_some_and(|verdict| is_calm(verdict))
    }

    /// Whether no forward of the part changes how much room is left for the others of its namespace, or there is room for all.
    fn has_room(&self) -> bool {
        let namespaces: BTreeSet<&str> = self.part.keys().map(|key| key.namespace.as_str()).collect();
        let cramped: BTreeSet<&str> = namespaces.into_iter().filter(|namespace| self.is_cramped(namespace)).collect();
        let mut part = self.part.iter().filter(|(key, _)| cramped.contains(key.namespace.as_str()));
        part.all(|(key, member)| self.is_steady(key, *member))
    }

    /// Whether a namespace asks for more than its limit, or did until now.
    fn is_cramped(&self, namespace: &str) -> bool {
        let Inputs { candidates, policy, .. } = self.inputs;
        let first = candidates.partition_point(|candidate| candidate.key.namespace.as_str() < namespace);
        let own = candidates.iter().skip(first).take_while(|candidate| candidate.key.namespace == namespace);
        let asked = own.map(|candidate| candidate.forward.as_ref().map_or(0, |forward| self.count(forward)));
        let start = ForwardKey::new(namespace, String::new());
        let mut judged = self.verdicts.range(start..).take_while(|(key, _)| key.namespace == namespace);
        asked.sum::<usize>() > policy.translations.get() || judged.any(|(_, verdict)| has_no_room(verdict))
    }

    /// Whether a forward stays carried and asks for as much as before. One that was not in force for the last plan now comes before
    /// others.
    fn is_steady(&self, key: &ForwardKey, member: Member<'_>) -> bool {
        let [before, now] = self.contents(key).map(|forward| forward.map(|forward| self.count(forward)));
        self.is_calm(key)
            && !self.changed.unsettled.contains(key)
            && member.routes == Routes::Same
            && before.is_none_or(|before| now == Some(before))
    }

    fn count(&self, forward: &Forward) -> usize {
        wires::count(self.inputs.facts, forward, &self.inputs.policy.reserved_ports).max(1)
    }
}

/// The client entries of forwards without a gateway that are carried and not changed, by namespace, each with the first of these
/// forwards. Where such a forward has an entry, a later one of its namespace adds nothing to what routes may not cover.
struct Represented<'a>(BTreeMap<(&'a str, IpNet), Rank<'a>>);

/// The order in which forwards are judged, without grants.
type Rank<'a> = (Option<Timestamp>, &'a ForwardKey);

impl<'a> Represented<'a> {
    /// Without the forwards `keys`, which changed.
    fn of(inputs: Inputs<'a>, keys: &BTreeSet<&ForwardKey>, verdicts: &Verdicts) -> Self {
        let mut first = BTreeMap::<_, Rank<'_>>::new();
        let all = || inputs.candidates.iter().filter_map(claiming);
        // Without grants, priorities do not matter. Without a gateway, there is no route.
        if inputs.policy.require_grants == RequireGrants::Yes || all().all(|forward| forward.gateway.is_none()) {
            return Self(first);
        }
        let namespaces: BTreeSet<&str> = keys.iter().map(|key| key.namespace.as_str()).collect();
        for forward in all().filter(|forward| forward.gateway.is_none() && namespaces.contains(forward.key.namespace.as_str())) {
            if keys.contains(&forward.key) || !verdicts.get(&forward.key).is_some_and(|verdict| is_calm(verdict)) {
                continue;
            }
            let rank = (forward.created, &forward.key);
            for client in &forward.clients {
                let known = first.entry((forward.key.namespace.as_str(), *client)).or_insert(rank);
                *known = rank.min(*known);
            }
        }
        Self(first)
    }

    fn stands_for(&self, forward: &Forward) -> bool {
        let rank = (forward.created, &forward.key);
        let namespace = forward.key.namespace.as_str();
        let earlier = |client: &IpNet| self.0.get(&(namespace, *client)).is_some_and(|first| *first < rank);
        forward.gateway.is_none() && forward.clients.iter().all(earlier)
    }
}

/// Whether the forward is carried with all that it asks for, and has no notes about others.
fn is_calm(verdict: &Verdict) -> bool {
    verdict.is_carried() && verdict.objection.is_none() && !verdict.nested
}

/// Whether two contents of a forward mean the same for its own routes, and for those of others apart from the upstream. If grants
/// are required, another content may lie in a grant of another priority.
fn alike(policy: &Policy, before: &Forward, now: &Forward) -> bool {
    (&before.clients, before.gateway, &before.internal) == (&now.clients, now.gateway, &now.internal)
        && before.created == now.created
        && (policy.require_grants < RequireGrants::Yes || before == now)
}

/// Whether a forward may be judged by how many others there are under a grant, or by what the record says.
fn budgets_matter(policy: &Policy) -> bool {
    match (policy.require_grants, &policy.grants) {
        (RequireGrants::No, _) => false,
        (RequireGrants::Report | RequireGrants::Yes, Grants::Unread { .. }) => true,
        (RequireGrants::Report | RequireGrants::Yes, Grants::Read(grants)) => {
            grants.iter().any(|grant| grant.limits != Limits::default())
        }
    }
}

/// The forward, if it claims something.
fn claiming(candidate: &Candidate) -> Option<&Forward> {
    candidate.forward.as_ref().ok().filter(|forward| forward.is_in_force())
}

/// Whether the forward, or a part of it, has no room within the limits.
fn has_no_room(verdict: &Verdict) -> bool {
    let refusal = match &verdict.acceptance {
        Acceptance::RefusedHere(refusal) => Some(refusal),
        Acceptance::Accepted | Acceptance::Disabled | Acceptance::Refused(_) | Acceptance::Conflict(_) => None,
    };
    refusal.or(verdict.objection.as_ref()).is_some_and(|refusal| refusal.reason == NodeRefusalReason::TooMany)
}

/// Whether the forward lost a conflict.
const fn lost(verdict: &Verdict) -> bool {
    matches!(verdict.acceptance, Acceptance::Conflict(_))
}
