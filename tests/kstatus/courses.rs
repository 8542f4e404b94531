//! Computes the sequences of states of an object, from new or changed to stable.

use portforward_operator::api::Role;
use portforward_operator::forward::{Refusal, RefusalReason};
use portforward_operator::plan::{Acceptance, NodeRefusalReason, ObstacleReason};
use portforward_operator::status::{Judgement, judge};
use serde_json::Value;

use crate::agents::{Agents, First};
use crate::states::{elsewhere, exact, hanging, lost, of, ready, refused_here, standby, stopped, verdict, withdrawn};

/// The judgement of one node about a content of some generation.
type Says = fn(i64) -> Judgement;

/// Every sequence of states of an object, new or changed, with two nodes that do not both hold the address, for both orders of
/// writing: its name, and the object after each write.
pub(crate) fn courses() -> Vec<(String, Vec<Value>)> {
    let active: [(&str, Says); 5] = [
        ("ready", ready),
        ("lost", |generation| lost(generation, Role::Active)),
        ("refused here", |generation| refused_here(generation, NodeRefusalReason::ShadowsLocalListener, Role::Active)),
        ("stopped", |generation| stopped(generation, ObstacleReason::ForwardingDisabled)),
        ("failing", |generation| judge(&verdict(generation, Acceptance::Accepted, Some(Role::Active)), &hanging())),
    ];
    let passive: [(&str, Says); 4] = [
        ("standby", standby),
        ("elsewhere", elsewhere),
        ("standby that lost", |generation| lost(generation, Role::Standby)),
        ("standby that refuses", |generation| refused_here(generation, NodeRefusalReason::ReservedPort, Role::Standby)),
    ];
    let refusal = || Refusal { reason: RefusalReason::LoopbackAddress, message: "…".to_owned() };
    let wrong = move |generation| of(generation, Acceptance::Refused(refusal()), None);
    let mut pairs: Vec<(String, [Judgement; 2], [Judgement; 2])> = Vec::new();
    let both = |one: Says, other: Says| ([one(1), other(1)], [one(2), other(2)]);
    for (name, says) in active.iter().chain(&passive) {
        for (other, others) in &passive {
            let (new, changed) = both(*says, *others);
            pairs.push((format!("{name}, {other}"), new, changed));
            let (new, changed) = both(*others, *says);
            pairs.push((format!("{other}, {name}"), new, changed));
        }
    }
    pairs.push(("wrong".to_owned(), [wrong(1), wrong(1)], [wrong(2), wrong(2)]));
    let off = |generation| withdrawn(generation, &exact());
    pairs.push(("disabled".to_owned(), [off(1), off(1)], [off(2), off(2)]));
    let mut courses = Vec::new();
    for (name, new, changed) in pairs {
        for first in [First::Lowest, First::Highest] {
            let [a, b] = new.clone();
            courses.push((format!("new: {name}, {first:?} first"), Agents::new(&[("a", a), ("b", b)]).course(first)));
            let mut agents = Agents::new(&[("a", ready(1)), ("b", standby(1))]);
            agents.course(First::Lowest);
            agents.edit();
            let [a, b] = changed.clone();
            agents.say(&[("a", a), ("b", b)]);
            courses.push((format!("changed: {name}, {first:?} first"), agents.course(first)));
        }
    }
    courses
}
