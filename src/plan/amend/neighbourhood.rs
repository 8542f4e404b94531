//! The forwards that must be planned anew after a change: those that changed, and all that meet them directly or through others.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use jiff::Timestamp;

use super::super::{Acceptance, Candidate, Grants, NodeRefusalReason, Policy, RequireGrants, Verdict, plan_with, wires};
use super::meeting::{Content, Edge, Shared};
use super::{Changed, Inputs, TooMuch};
use crate::forward::{Forward, ForwardKey};
use crate::grant::Limits;

/// The number of forwards that are planned alone at most. If more of them meet, all are planned.
const MOST: usize = 512;

/// The forwards that are planned alone.
pub(super) struct Neighbourhood<'a> {
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
    pub(super) fn of(
        inputs: Inputs<'a>,
        changed: Changed<'a>,
        verdicts: &BTreeMap<ForwardKey, Verdict>,
    ) -> Result<Self, TooMuch> {
        let keys: BTreeSet<&ForwardKey> = changed.keys.union(changed.unsettled).collect();
        if keys.len() > MOST || budgets_matter(inputs.policy) {
            return Err(TooMuch);
        }
        let find = |key: &ForwardKey| {
            let place = inputs.candidates.binary_search_by(|candidate| candidate.key.cmp(key)).ok()?;
            inputs.candidates.get(place)
        };
        let former: BTreeMap<&ForwardKey, &Candidate> =
            changed.former.iter().map(|candidate| (&candidate.key, candidate)).collect();
        let contents = |key: &ForwardKey| [former.get(key).copied(), find(key)].map(|candidate| candidate.and_then(claiming));
        let represented = Represented::of(inputs, &keys, verdicts);
        let mut part = BTreeMap::new();
        let mut edge = Vec::new();
        for key in keys {
            let both = contents(key);
            // Without another former content, only what is in force changed.
            let before = if former.contains_key(key) { both[0] } else { both[1] };
            let routes = match (before, both[1]) {
                (Some(before), Some(now)) if is_calm(verdicts.get(key)) && alike(inputs.policy, before, now) => Routes::Same,
                _ if both.into_iter().flatten().all(|forward| represented.stands_for(forward)) => Routes::Represented,
                _ => Routes::Unknown,
            };
            let parties = routes != Routes::Same || before.map(|it| it.upstream) != both[1].map(|it| it.upstream);
            edge.extend(both.into_iter().flatten().map(|forward| Content {
                forward,
                routes: routes == Routes::Unknown,
                parties,
            }));
            part.insert(key, Member { candidate: find(key), routes });
        }
        // What was in force of them may have changed with the change before. Only flows are in force, and no routes.
        let earlier = changed.earlier.iter().filter_map(claiming);
        edge.extend(earlier.map(|forward| Content { forward, routes: false, parties: false }));
        let any_lost = verdicts.values().any(lost);
        while !edge.is_empty() {
            let index = Edge::of(&edge);
            edge.clear();
            for forward in inputs.candidates.iter().filter_map(claiming) {
                let (key, met) = (&forward.key, index.meeting(forward));
                let known = part.get(key).map(|member| member.routes);
                if met.circle {
                    return Err(TooMuch);
                } else if met.routes && known != Some(Routes::Unknown) {
                    part.insert(key, Member { candidate: find(key), routes: Routes::Unknown });
                    edge.extend(contents(key).into_iter().flatten().map(|forward| Content {
                        forward,
                        routes: true,
                        parties: true,
                    }));
                } else if met.shared == Shared::Packets && known.is_none() {
                    let calm = is_calm(verdicts.get(key));
                    part.insert(key, Member { candidate: find(key), routes: if calm { Routes::Same } else { Routes::Unknown } });
                    edge.push(Content { forward, routes: !calm, parties: !calm });
                } else if met.shared == Shared::Address && any_lost && verdicts.get(key).is_some_and(lost) {
                    return Err(TooMuch);
                }
            }
            if part.len() > MOST {
                return Err(TooMuch);
            }
        }
        let part = Self { part };
        // A forward that stays carried and asks for as much as before changes nothing for the others of its namespace. If it was not
        // in force for the last plan, it now comes before others.
        let count = |forward: &Forward| wires::count(inputs.facts, forward, &inputs.policy.reserved_ports).max(1);
        let steady = |key: &ForwardKey| {
            let [before, now] = contents(key).map(|forward| forward.map(count));
            is_calm(verdicts.get(key))
                && !changed.unsettled.contains(key)
                && part.part[key].routes == Routes::Same
                && before.is_none_or(|before| now == Some(before))
        };
        let cramped = part.cramped(inputs, verdicts, count);
        let fits = part.keys().filter(|key| cramped.contains(key.namespace.as_str())).all(steady);
        if fits { Ok(part) } else { Err(TooMuch) }
    }

    /// The verdicts on the forwards of the part.
    pub(super) fn plan(
        &self,
        inputs: Inputs<'_>,
        verdicts: &BTreeMap<ForwardKey, Verdict>,
    ) -> Result<BTreeMap<ForwardKey, Verdict>, TooMuch> {
        let candidates: Vec<Candidate> = self.part.values().filter_map(|member| member.candidate).cloned().collect();
        let same = || self.part.iter().filter(|(_, member)| member.routes == Routes::Same).map(|(key, _)| *key);
        let routes = same().filter_map(|key| Some((key, verdicts.get(key)?.routes.as_slice()))).collect();
        let planned = plan_with(&routes, Inputs { candidates: &candidates, ..inputs }).verdicts;
        let stay_so = same().all(|key| is_calm(planned.get(key)));
        if stay_so && !planned.values().any(lost) { Ok(planned) } else { Err(TooMuch) }
    }

    /// The namespaces of the part that ask for more than their limit, or did until now, so that a forward depends on how many others
    /// there are.
    fn cramped(
        &self,
        inputs: Inputs<'_>,
        verdicts: &BTreeMap<ForwardKey, Verdict>,
        count: impl Fn(&Forward) -> usize,
    ) -> BTreeSet<&'a str> {
        let asked = |candidate: &Candidate| candidate.forward.as_ref().map_or(0, &count);
        let namespaces: BTreeSet<&str> = self.part.keys().map(|key| key.namespace.as_str()).collect();
        let asks_for_too_much = |namespace: &&str| {
            let first = inputs.candidates.partition_point(|candidate| candidate.key.namespace.as_str() < *namespace);
            let own = inputs.candidates.iter().skip(first).take_while(|candidate| candidate.key.namespace == **namespace);
            let start = ForwardKey { namespace: (*namespace).to_owned(), name: String::new() };
            let mut judged = verdicts.range(start..).take_while(|(key, _)| key.namespace == **namespace);
            own.map(asked).sum::<usize>() > inputs.policy.translations.get() || judged.any(|(_, verdict)| has_no_room(verdict))
        };
        namespaces.into_iter().filter(asks_for_too_much).collect()
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = &'a ForwardKey> {
        self.part.keys().copied()
    }
}

/// The client entries of forwards without a gateway that are carried and not changed, by namespace, each with the first of these
/// forwards. Where such a forward has an entry, a later one of its namespace adds nothing to what routes may not cover.
struct Represented<'a>(BTreeMap<(&'a str, IpNet), Rank<'a>>);

/// The order in which forwards are judged, without grants.
type Rank<'a> = (Option<Timestamp>, &'a ForwardKey);

impl<'a> Represented<'a> {
    /// Without the forwards `keys`, which changed.
    fn of(inputs: Inputs<'a>, keys: &BTreeSet<&ForwardKey>, verdicts: &BTreeMap<ForwardKey, Verdict>) -> Self {
        let mut first = BTreeMap::<_, Rank<'_>>::new();
        let all = || inputs.candidates.iter().filter_map(claiming);
        // Without grants, priorities do not matter. Without a gateway, there is no route.
        if inputs.policy.require_grants == RequireGrants::Yes || all().all(|forward| forward.gateway.is_none()) {
            return Self(first);
        }
        let namespaces: BTreeSet<&str> = keys.iter().map(|key| key.namespace.as_str()).collect();
        for forward in all().filter(|forward| forward.gateway.is_none() && namespaces.contains(forward.key.namespace.as_str())) {
            if keys.contains(&forward.key) || !is_calm(verdicts.get(&forward.key)) {
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
fn is_calm(verdict: Option<&Verdict>) -> bool {
    verdict.is_some_and(|verdict| verdict.is_carried() && verdict.objection.is_none() && !verdict.nested)
}

/// Whether two contents of a forward mean the same for its own routes, and for those of others apart from the upstream. If grants are
/// required, another content may lie in a grant of another priority.
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
