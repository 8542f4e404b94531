//! The status of an object as one node alone can tell it, whatever other nodes do.

use k8s_openapi::jiff::Timestamp;

use super::condition::{Circumstance, Judged, State, Type};
use super::judge::{Judgement, Standing};
use super::summary::node_status;
use crate::api::{PortForwardStatus, Role};

/// What `node` says of an object: its own conditions and no summary, which would need the other nodes.
///
/// `now` becomes the transition time of every condition: one look knows no earlier one.
#[must_use]
pub fn here(node: &str, judgement: &Judgement, now: Timestamp) -> PortForwardStatus {
    let conditions = match judgement.standing {
        Standing::Elsewhere => elsewhere(&judgement.conditions),
        Standing::Carried | Standing::Withdrawn | Standing::Refused | Standing::RefusedHere => judgement.conditions.clone(),
    };
    PortForwardStatus {
        observed_generation: Some(judgement.generation),
        conditions: conditions.iter().map(|judged| judged.condition(judgement.generation, &[], now)).collect(),
        active_node: (judgement.role == Some(Role::Active)).then(|| node.to_owned()),
        nodes: node_status(node, judgement, None, now).into_iter().collect(),
    }
}

/// Another node may well carry it: only what this one is can be said.
fn elsewhere(conditions: &[Judged]) -> Vec<Judged> {
    let message = "this node is no candidate: it neither holds the internal address nor has a link in its subnet, or nodeSelector does not match it";
    let own = |judged: &Judged| match judged.kind {
        Type::Programmed | Type::Ready => Judged::new(judged.kind, State::False, Circumstance::NoActiveNode, message),
        Type::Accepted | Type::Stalled => judged.clone(),
    };
    conditions.iter().map(own).collect()
}
