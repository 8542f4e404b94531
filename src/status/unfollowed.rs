//! The summary of a forward whose labels no agent selects any more.

use std::collections::BTreeSet;

use k8s_openapi::jiff::Timestamp;

use super::condition::{Circumstance, Judged, State, Type};
use super::writes::same_summary;
use crate::api::PortForwardStatus;

const MESSAGE: &str = "the agents that followed this forward do not select its labels any more (--forward-selector), and no other agent has reported since; set labels that a pool of agents selects";

/// `status` of an object of this `generation`, with the summary of a forward that nobody follows.
#[must_use]
pub fn unfollowed(status: &PortForwardStatus, generation: i64, now: Timestamp) -> PortForwardStatus {
    let unknown = |kind| Judged::new(kind, State::Unknown, Circumstance::NotFollowed, MESSAGE);
    let kinds = [Type::Accepted, Type::Programmed, Type::Ready];
    let conditions = kinds.map(|kind| unknown(kind).condition(generation, &status.conditions, now)).into();
    PortForwardStatus { observed_generation: Some(generation), conditions, active_node: None, ..status.clone() }
}

/// Whether the summary is outdated and no agent but those of `pool`, which does not follow the forward any more, can have written
/// it: no node has an entry, and another pool has no active node.
#[must_use]
pub fn is_left_to(pool: &BTreeSet<String>, status: &PortForwardStatus, generation: i64) -> bool {
    let is_of_pool = status.active_node.as_ref().is_none_or(|node| pool.contains(node));
    let never_reported = status.observed_generation.is_none_or(|generation| generation < 0);
    let is_said = same_summary(status, &unfollowed(status, generation, Timestamp::UNIX_EPOCH));
    status.nodes.is_empty() && is_of_pool && !never_reported && !is_said
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{NodeStatus, Role};

    fn pool() -> BTreeSet<String> {
        BTreeSet::from(["px0".to_owned(), "px1".to_owned()])
    }

    fn status(active: Option<&str>, entries: &[&str]) -> PortForwardStatus {
        let entry = |node: &&str| NodeStatus {
            node_name: (*node).to_owned(),
            role: Role::Active,
            observed_generation: Some(1),
            conditions: Vec::new(),
        };
        let ready = Judged::new(Type::Ready, State::True, Circumstance::Ready, "").condition(1, &[], Timestamp::UNIX_EPOCH);
        let stalled =
            Judged::new(Type::Stalled, State::True, Circumstance::Conflict, "").condition(1, &[], Timestamp::UNIX_EPOCH);
        PortForwardStatus {
            observed_generation: Some(1),
            conditions: vec![ready, stalled],
            active_node: active.map(str::to_owned),
            ports: Some("TCP 80".to_owned()),
            reverse: None,
            nodes: entries.iter().map(entry).collect(),
        }
    }

    #[test]
    fn the_summary_of_a_forward_that_nobody_follows_claims_nothing() {
        let said = unfollowed(&status(Some("px0"), &[]), 3, Timestamp::UNIX_EPOCH);
        let conditions: Vec<_> =
            said.conditions.iter().map(|it| (it.type_.as_str(), it.status.as_str(), it.reason.as_str())).collect();
        assert_eq!(conditions, ["Accepted", "Programmed", "Ready"].map(|kind| (kind, "Unknown", "NotFollowed")));
        assert_eq!((said.active_node, said.observed_generation, said.ports.as_deref()), (None, Some(3), Some("TCP 80")));
    }

    #[test]
    fn the_last_agent_of_a_pool_that_leaves_corrects_the_summary_unless_another_pool_follows() {
        assert!(is_left_to(&pool(), &status(Some("px0"), &[]), 1));
        assert!(is_left_to(&pool(), &status(None, &[]), 1), "it was refused, or no node held the address");
        assert!(!is_left_to(&pool(), &status(Some("px0"), &["px1"]), 1), "another agent leaves after this one, or follows");
        assert!(!is_left_to(&pool(), &status(Some("other"), &[]), 1), "a node of another pool is active");
        let said = unfollowed(&status(None, &[]), 1, Timestamp::UNIX_EPOCH);
        assert!(!is_left_to(&pool(), &said, 1), "it is said already");
        let new = PortForwardStatus { observed_generation: Some(-1), ..status(None, &[]) };
        assert!(!is_left_to(&pool(), &new, 1), "nobody has seen it yet");
    }
}
