//! The summary of an object's status: a pure function of the entries of its nodes and of the set of live agents.

use std::collections::BTreeSet;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use k8s_openapi::jiff::Timestamp;

use super::condition::{Circumstance, Judged, State, Type, cut};
use super::judgement::{Judgement, Standing};
use crate::api::{NodeStatus, PortForwardStatus, Role, ShownPorts};
use crate::plan::ObstacleReason;
use crate::words::counted;

/// The entry of this node; `None` if there is nothing to report: the node is not a candidate, or has nothing of the forward
/// any more.
#[must_use]
pub fn node_status(node: &str, judgement: &Judgement, previous: Option<&NodeStatus>, now: Timestamp) -> Option<NodeStatus> {
    // If rules could not be withdrawn, they are still there: the node keeps its role until they are removed.
    let stuck = judgement.standing == Standing::Withdrawn
        && judgement.condition(Type::Programmed).is_some_and(|it| it.state != State::True);
    let role = judgement.role.or_else(|| previous.filter(|_| stuck).map(|previous| previous.role))?;
    let before = previous.map_or(&[][..], |previous| &previous.conditions);
    Some(NodeStatus {
        node_name: node.to_owned(),
        role,
        observed_generation: Some(judgement.generation),
        conditions: at(&judgement.conditions, judgement.generation, before, now),
    })
}

/// The status of an object that only one node carries.
#[must_use]
pub fn merge(node: &str, judgement: &Judgement, previous: Option<&PortForwardStatus>, now: Timestamp) -> PortForwardStatus {
    let before = previous.and_then(|previous| previous.nodes.iter().find(|entry| entry.node_name == node));
    let nodes = node_status(node, judgement, before, now).into_iter().collect();
    let status = PortForwardStatus { nodes, ..previous.cloned().unwrap_or_default() };
    summary(judgement, &status, &BTreeSet::from([node.to_owned()]), now)
}

/// `status` with the summary of its entries, given the nodes with `live` agents. `own` is the judgement of the node that
/// writes it.
#[must_use]
pub fn summary(own: &Judgement, status: &PortForwardStatus, live: &BTreeSet<String>, now: Timestamp) -> PortForwardStatus {
    let (alive, dead): (Vec<&NodeStatus>, Vec<&NodeStatus>) =
        status.nodes.iter().partition(|entry| live.contains(&entry.node_name));
    let active: Vec<&NodeStatus> = alive.iter().copied().filter(|entry| entry.role == Role::Active).collect();
    let lost = dead.into_iter().find(|entry| entry.role == Role::Active);
    let before = &status.conditions;
    let mine = |conditions: &[Judged]| at(conditions, own.generation, before, now);
    let (active_node, generation, conditions) = match (own.standing, active.as_slice()) {
        (Standing::Refused, _) => (None, Some(own.generation), mine(&own.conditions)),
        (Standing::Withdrawn, _) => (None, Some(own.generation), mine(&withdrawn(own, &alive))),
        (_, [only]) => {
            let conditions = noting_standbys(taken_over(&only.conditions, before), &alive);
            (Some(only.node_name.clone()), only.observed_generation, conditions)
        }
        (_, [first, ..]) => {
            let names: Vec<&str> = active.iter().map(|node| node.node_name.as_str()).collect();
            let message = format!("{} hold the internal address; leave it on one node", names.join(", "));
            let ready = Judged::new(Type::Ready, State::False, Circumstance::AddressOnSeveralNodes, message);
            let generation = active.iter().filter_map(|node| node.observed_generation).min();
            (None, generation, replaced(&taken_over(&first.conditions, before), &[ready], generation, before, now))
        }
        (_, []) => match lost {
            Some(lost) => (None, lost.observed_generation, unavailable(lost, before, now)),
            None => (None, Some(own.generation), without_active(own, &alive, before, now)),
        },
    };
    let ShownPorts { ports, reverse } = own.shown.clone();
    PortForwardStatus { observed_generation: generation, conditions, active_node, ports, reverse, nodes: status.nodes.clone() }
}

fn at(conditions: &[Judged], generation: i64, before: &[Condition], now: Timestamp) -> Vec<Condition> {
    conditions.iter().map(|judged| judged.condition(generation, before, now)).collect()
}

/// The conditions of a node. A condition with the same status as before keeps its transition time.
fn taken_over(conditions: &[Condition], before: &[Condition]) -> Vec<Condition> {
    let since = |condition: &Condition| {
        let same = before.iter().find(|before| before.type_ == condition.type_ && before.status == condition.status);
        same.map_or_else(|| condition.last_transition_time.clone(), |before| before.last_transition_time.clone())
    };
    conditions.iter().map(|condition| Condition { last_transition_time: since(condition), ..condition.clone() }).collect()
}

/// `conditions`, with those of the types in `judged` replaced or added. The entry of a node that was taken over may lack any of
/// them.
pub(super) fn replaced(
    conditions: &[Condition],
    judged: &[Judged],
    generation: Option<i64>,
    before: &[Condition],
    now: Timestamp,
) -> Vec<Condition> {
    let made = |judged: &Judged| judged.condition(generation.unwrap_or_default(), before, now);
    let replacement = |condition: &Condition| judged.iter().find(|judged| judged.kind.as_str() == condition.type_);
    let is_missing = |judged: &&Judged| conditions.iter().all(|condition| condition.type_ != judged.kind.as_str());
    let kept = conditions.iter().map(|condition| replacement(condition).map_or_else(|| condition.clone(), made));
    kept.chain(judged.iter().filter(is_missing).map(made)).collect()
}

/// How many standbys that cannot take over are named in the message.
const NAMED_STANDBYS: usize = 3;

/// `conditions` of the active node, with a note on the standbys that cannot take over. Traffic flows, so `Ready` does not
/// change.
fn noting_standbys(mut conditions: Vec<Condition>, alive: &[&NodeStatus]) -> Vec<Condition> {
    let ready = |condition: &&Condition| condition.type_ == Type::Ready.as_str();
    let standbys = || alive.iter().filter(|entry| entry.role == Role::Standby);
    let unfit: Vec<String> = standbys()
        .filter_map(|entry| {
            let found = entry.conditions.iter().find(ready).filter(|it| it.status != State::True.as_str())?;
            // The answer is known within seconds.
            let asking =
                [Circumstance::Pending.as_str(), ObstacleReason::GatewayPending.as_str()].contains(&found.reason.as_str());
            (!asking).then(|| format!("{} ({})", entry.node_name, found.reason))
        })
        .collect();
    if !unfit.is_empty() {
        let more = unfit.len().saturating_sub(NAMED_STANDBYS);
        let mut named = unfit[..unfit.len() - more].join(", ");
        if more > 0 {
            named = format!("{named} and {more} more");
        }
        let all = counted(standbys().count(), "standby", "standbys");
        let note = format!("; {} of {all} could not take over: {named}", unfit.len());
        let is_ready = |it: &&mut Condition| it.type_ == Type::Ready.as_str() && it.status == State::True.as_str();
        if let Some(condition) = conditions.iter_mut().find(is_ready) {
            condition.message = cut(std::mem::take(&mut condition.message) + &note);
        }
    }
    conditions
}

/// The forward is disabled. It is withdrawn as soon as no live node has an entry any more.
fn withdrawn(own: &Judgement, alive: &[&NodeStatus]) -> Vec<Judged> {
    let mut conditions = own.conditions.clone();
    let left: Vec<&str> = alive.iter().map(|entry| entry.node_name.as_str()).collect();
    if !left.is_empty() {
        let message = format!("mode is Disabled; waiting until {} has withdrawn it", left.join(", "));
        for judged in conditions.iter_mut().filter(|judged| judged.kind != Type::Accepted && judged.state == State::True) {
            *judged = Judged::new(judged.kind, State::False, Circumstance::Pending, message.clone());
        }
    }
    conditions
}

/// The agent of the only active node is gone. Its kernel may still forward, but this is not known.
fn unavailable(lost: &NodeStatus, before: &[Condition], now: Timestamp) -> Vec<Condition> {
    let node = &lost.node_name;
    let message = format!(
        "the agent of {node}, the active node, has not renewed its Lease; what {node} does is not known; start its agent, or move the address"
    );
    let unknown = [Type::Programmed, Type::Ready]
        .map(|kind| Judged::new(kind, State::Unknown, Circumstance::AgentUnavailable, message.clone()));
    // It is not known whether the node still refuses the forward: the problem may be solved in the meantime.
    let said: Vec<Condition> =
        lost.conditions.iter().filter(|condition| condition.type_ != Type::Stalled.as_str()).cloned().collect();
    replaced(&taken_over(&said, before), &unknown, lost.observed_generation, before, now)
}

/// No live node holds the address. A standby could take over, but no traffic flows.
fn without_active(own: &Judgement, alive: &[&NodeStatus], before: &[Condition], now: Timestamp) -> Vec<Condition> {
    let message = "no node holds the internal address; give it to an interface of a proxy node";
    let nowhere = Judged::new(Type::Ready, State::False, Circumstance::NoActiveNode, message);
    match alive.first() {
        Some(first) => {
            let conditions = taken_over(&first.conditions, before);
            let is_false =
                |kind: Type| conditions.iter().any(|it| it.type_ == kind.as_str() && it.status == State::False.as_str());
            let refused = is_false(Type::Accepted) && is_false(Type::Ready);
            let generation = first.observed_generation;
            if refused { conditions } else { replaced(&conditions, &[nowhere], generation, before, now) }
        }
        None => at(&own.conditions, own.generation, before, now),
    }
}
