//! The status of an object: what each node says of it, and the summary that follows from that.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use k8s_openapi::jiff::Timestamp;

use super::condition::{Judged, Reason, State, Type};
use super::judge::Judgement;
use crate::api::{NodeStatus, PortForwardStatus, Role};

/// This node's entry; `None` if it is no candidate.
#[must_use]
pub fn node_status(node: &str, judgement: &Judgement, previous: Option<&NodeStatus>, now: Timestamp) -> Option<NodeStatus> {
    let role = judgement.role?;
    let before = previous.map_or(&[][..], |previous| &previous.conditions);
    Some(NodeStatus {
        node_name: node.to_owned(),
        role,
        observed_generation: Some(judgement.generation),
        conditions: judgement.conditions.iter().map(|judged| judged.condition(judgement.generation, before, now)).collect(),
    })
}

/// The summary of what the live nodes say. `own` is what the node that writes it says.
#[must_use]
pub fn summary(
    own: &Judgement,
    nodes: Vec<NodeStatus>,
    previous: Option<&PortForwardStatus>,
    now: Timestamp,
) -> PortForwardStatus {
    let before = previous.map_or(&[][..], |previous| &previous.conditions);
    let active: Vec<&NodeStatus> = nodes.iter().filter(|node| node.role == Role::Active).collect();
    let (active_node, generation, conditions) = match active.as_slice() {
        [only] => (Some(only.node_name.clone()), only.observed_generation, taken_over(&only.conditions, before)),
        [] => (
            None,
            Some(own.generation),
            without_active(own).iter().map(|judged| judged.condition(own.generation, before, now)).collect(),
        ),
        [first, ..] => {
            let names: Vec<&str> = active.iter().map(|node| node.node_name.as_str()).collect();
            let message = format!("{} hold the internal address; leave it on one node", names.join(", "));
            let several = Judged::new(Type::Ready, State::False, Reason::AddressOnSeveralNodes, message);
            let mut conditions = taken_over(&first.conditions, before);
            conditions.retain(|condition| condition.type_ != Type::Ready.as_str());
            conditions.push(several.condition(own.generation, before, now));
            (None, first.observed_generation, conditions)
        }
    };
    PortForwardStatus { observed_generation: generation, conditions, active_node, nodes }
}

/// The status of an object that one node alone carries.
#[must_use]
pub fn merge(node: &str, judgement: &Judgement, previous: Option<&PortForwardStatus>, now: Timestamp) -> PortForwardStatus {
    let before = previous.and_then(|previous| previous.nodes.iter().find(|entry| entry.node_name == node));
    let nodes = node_status(node, judgement, before, now).into_iter().collect();
    summary(judgement, nodes, previous, now)
}

/// The active node's conditions; a state that the summary had already keeps its time.
fn taken_over(conditions: &[Condition], before: &[Condition]) -> Vec<Condition> {
    let since = |condition: &Condition| {
        let same = before.iter().find(|before| before.type_ == condition.type_ && before.status == condition.status);
        same.map_or_else(|| condition.last_transition_time.clone(), |before| before.last_transition_time.clone())
    };
    conditions.iter().map(|condition| Condition { last_transition_time: since(condition), ..condition.clone() }).collect()
}

/// What is true where no node holds the address: the standby that writes this could take over, but nothing flows.
fn without_active(own: &Judgement) -> Vec<Judged> {
    let message = "no node holds the internal address; give it to an interface of a proxy node";
    let flows_nowhere = |judged: &Judged| judged.kind == Type::Ready && judged.reason == Reason::Standby;
    own.conditions
        .iter()
        .map(|judged| {
            if flows_nowhere(judged) {
                Judged::new(Type::Ready, State::False, Reason::NoActiveNode, message)
            } else {
                judged.clone()
            }
        })
        .collect()
}
