//! The status of an object from the view of one node, without other nodes.

use k8s_openapi::jiff::Timestamp;

use super::condition::{Circumstance, Judged, State, Type};
use super::judgement::{Judgement, Standing};
use super::summary::node_status;
use crate::api::{PortForwardStatus, Role};

/// The status of `node` for an object: its own conditions, without a summary, which would need the other nodes.
///
/// `now` is the transition time of every condition, because there is no earlier status to compare with.
#[must_use]
pub fn here(node: &str, judgement: &Judgement, now: Timestamp) -> PortForwardStatus {
    let conditions = match judgement.standing {
        Standing::Elsewhere => elsewhere(&judgement.conditions),
        Standing::Carried | Standing::Withdrawn | Standing::Refused | Standing::RefusedHere => judgement.conditions.clone(),
    };
    PortForwardStatus {
        ports: judgement.shown.ports.clone(),
        reverse: judgement.shown.reverse.clone(),
        observed_generation: Some(judgement.generation),
        conditions: conditions.iter().map(|judged| judged.condition(judgement.generation, &[], now)).collect(),
        active_node: (judgement.role == Some(Role::Active)).then(|| node.to_owned()),
        nodes: node_status(node, judgement, None, now).into_iter().collect(),
    }
}

/// Another node may carry the forward. Only the conditions that this node can judge are given.
fn elsewhere(conditions: &[Judged]) -> Vec<Judged> {
    let message = "this node is no candidate: it neither holds the internal address nor has a link in its subnet, or nodeSelector does not match it";
    let own = |judged: &Judged| match judged.kind {
        Type::Programmed | Type::Ready => Judged::new(judged.kind, State::False, Circumstance::NoActiveNode, message),
        Type::Accepted | Type::Stalled => judged.clone(),
    };
    conditions.iter().map(own).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::ShownPorts;

    fn judgement(standing: Standing, role: Option<Role>) -> Judgement {
        let judged = |kind, circumstance| Judged::new(kind, State::True, circumstance, "said");
        let conditions = vec![
            judged(Type::Accepted, Circumstance::Accepted),
            judged(Type::Programmed, Circumstance::Programmed),
            judged(Type::Ready, Circumstance::Standby),
        ];
        Judgement { uid: None, standing, generation: 7, shown: ShownPorts::default(), role, conditions }
    }

    fn told(standing: Standing, role: Option<Role>) -> (Vec<String>, Option<String>, usize) {
        let status = here("proxy", &judgement(standing, role), Timestamp::UNIX_EPOCH);
        assert_eq!(status.observed_generation, Some(7));
        let conditions = status.conditions.iter().map(|it| format!("{}={} {}", it.type_, it.status, it.reason)).collect();
        (conditions, status.active_node, status.nodes.len())
    }

    #[test]
    fn a_node_says_what_it_is_and_not_what_others_are() {
        let own = ["Accepted=True Accepted", "Programmed=True Programmed", "Ready=True Standby"].map(str::to_owned).to_vec();
        assert_eq!(told(Standing::Carried, Some(Role::Standby)), (own.clone(), None, 1), "another may hold the address");
        assert_eq!(told(Standing::Carried, Some(Role::Active)), (own, Some("proxy".to_owned()), 1));
        let (conditions, active, nodes) = told(Standing::Elsewhere, None);
        assert_eq!(conditions, ["Accepted=True Accepted", "Programmed=False NoActiveNode", "Ready=False NoActiveNode"]);
        assert_eq!((active, nodes), (None, 0));
        let status = here("proxy", &judgement(Standing::Elsewhere, None), Timestamp::UNIX_EPOCH);
        assert!(status.conditions[2].message.starts_with("this node is no candidate"));
    }
}
