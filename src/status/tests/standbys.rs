//! The summary in the presence of standbys that cannot take over.

use super::*;

/// The judgement of a standby with one obstacle.
fn stopped(reason: ObstacleReason) -> Judgement {
    let mut verdict = verdict(Acceptance::Accepted, Some(Role::Standby));
    verdict.obstacles.push(Obstacle { reason, message: "what stops it".to_owned() });
    judge(&verdict, &exact())
}

fn fit() -> Judgement {
    judge(&verdict(Acceptance::Accepted, Some(Role::Standby)), &exact())
}

/// `Ready` of the summary, as status and message, if node `a` is active, with these standbys; the agents of the nodes
/// `dead` do not live.
fn ready(active: &Judgement, standbys: &[(&str, Judgement)], dead: &[&str]) -> (String, String) {
    let all = [("a", active.clone())].into_iter().chain(standbys.iter().cloned());
    let nodes = all.filter_map(|(name, judgement)| node_status(name, &judgement, None, at(1))).collect();
    let status = PortForwardStatus { nodes, ..PortForwardStatus::default() };
    let names = standbys.iter().map(|(name, _)| *name).chain(["a"]).filter(|name| !dead.contains(name));
    let summary = summary(active, &status, &names.map(str::to_owned).collect(), at(2));
    let ready = summary.conditions.into_iter().find(|it| it.type_ == "Ready").unwrap();
    (ready.status, ready.message)
}

fn at_work() -> Judgement {
    judge(&active(), &exact())
}

#[test]
fn a_standby_that_could_not_take_over_is_named_with_its_reason_and_the_forward_stays_ready() {
    let plain = ready(&at_work(), &[("b", fit())], &[]).1;
    let (state, message) = ready(&at_work(), &[("b", fit()), ("c", stopped(ObstacleReason::ForwardingDisabled))], &[]);
    assert_eq!(state, "True");
    assert_eq!(message, format!("{plain}; 1 of 2 standbys could not take over: c (ForwardingDisabled)"));
}

#[test]
fn a_standby_that_refuses_it_or_cannot_be_looked_at_could_not_take_over() {
    let refusal = NodeRefusal { reason: NodeRefusalReason::ReservedPort, message: "port 22".to_owned() };
    let refusing = judge(&verdict(Acceptance::RefusedHere(refusal), Some(Role::Standby)), &exact());
    let (state, message) = ready(&at_work(), &[("b", refusing), ("c", fit().unseen("no netlink"))], &[]);
    assert_eq!(state, "True");
    assert!(message.ends_with("; 2 of 2 standbys could not take over: b (ReservedPort), c (NodeUnreadable)"), "{message}");
}

#[test]
fn of_many_three_are_named() {
    let names = ["b", "c", "d", "e", "f"];
    let standbys: Vec<_> = names.map(|name| (name, stopped(ObstacleReason::GatewayUnreachable))).into();
    let (_, message) = ready(&at_work(), &standbys, &[]);
    assert!(
        message.ends_with(
            "; 5 of 5 standbys could not take over: b (GatewayUnreachable), c (GatewayUnreachable), d (GatewayUnreachable) and 2 more"
        ),
        "{message}"
    );
}

#[test]
fn one_that_is_dead_or_still_asks_or_is_fit_is_not_named() {
    let none = ready(&at_work(), &[], &[]);
    assert_eq!(ready(&at_work(), &[("b", fit())], &[]), none);
    assert_eq!(ready(&at_work(), &[("b", stopped(ObstacleReason::ForwardingDisabled))], &["b"]), none);
    assert_eq!(ready(&at_work(), &[("b", stopped(ObstacleReason::GatewayPending))], &[]), none);
}

#[test]
fn a_forward_that_is_not_ready_says_why_and_nothing_of_standbys() {
    let mut broken = active();
    broken.obstacles.push(Obstacle { reason: ObstacleReason::InterfaceDown, message: "eth0 is down".to_owned() });
    let (state, message) = ready(&judge(&broken, &exact()), &[("b", stopped(ObstacleReason::ForwardingDisabled))], &[]);
    assert_eq!((state.as_str(), message.as_str()), ("False", "eth0 is down"));
}
