//! The status of one forward on this node: from the plan's verdict and the kernel state that was read back.

use super::condition::{Circumstance, Judged, Reason, State, Type};
use super::judgement::{Judgement, Standing, upgrade};
use crate::api::{PortForward, Role, ShownPorts};
use crate::dataplane::routes::{RouteState, RoutesReport};
use crate::dataplane::rules::{ForwardPolicy, Overridden, RefusedRule, RulesReport};
use crate::dataplane::{Applied, Forwarded};
use crate::model::HostRoute;
use crate::plan::{Acceptance, NodeRefusal, Obstacle, ObstacleReason, RoutePlan, Verdict};
use crate::words::explained;

/// Judges one forward by its verdict and the result of the apply.
#[must_use]
pub fn judge(verdict: &Verdict, applied: &Applied) -> Judgement {
    let mut conditions = match &verdict.acceptance {
        Acceptance::Accepted if verdict.role.is_none() => not_here(),
        Acceptance::Accepted => objected(verdict, carried(verdict, applied)),
        Acceptance::Disabled => withdrawn(verdict, applied),
        Acceptance::Refused(refusal) => refused(Reason::Refused(refusal.reason), &refusal.message),
        Acceptance::RefusedHere(refusal) => refused(Reason::RefusedHere(refusal.reason), &refusal.message),
        Acceptance::Conflict(conflict) => refused(Circumstance::Conflict, &conflict.message),
    };
    conditions.extend(stalled(verdict));
    let standing = match &verdict.acceptance {
        Acceptance::Accepted if verdict.role.is_none() => Standing::Elsewhere,
        Acceptance::Accepted => Standing::Carried,
        Acceptance::Disabled => Standing::Withdrawn,
        Acceptance::Refused(_) => Standing::Refused,
        Acceptance::RefusedHere(_) | Acceptance::Conflict(_) => Standing::RefusedHere,
    };
    Judgement {
        uid: verdict.uid.clone(),
        standing,
        generation: verdict.generation,
        shown: verdict.shown.clone(),
        role: verdict.role,
        conditions,
    }
}

/// Judges a forward whose object was deleted while a part of it may still be in force.
#[must_use]
pub fn leave(object: &PortForward, applied: &Applied) -> Judgement {
    let (reason, message) =
        unclosed(applied).unwrap_or_else(|| (Circumstance::Leaving.into(), "nothing of it is left".to_owned()));
    let message = format!("the object is gone, but the forward is not closed yet: {message}");
    let conditions = vec![
        Judged::new(Type::Accepted, State::False, Circumstance::Leaving, message.clone()),
        Judged::new(Type::Programmed, State::False, reason, message.clone()),
        Judged::new(Type::Ready, State::False, reason, message),
    ];
    let metadata = &object.metadata;
    Judgement {
        uid: metadata.uid.clone(),
        standing: Standing::Withdrawn,
        generation: metadata.generation.unwrap_or(0),
        shown: ShownPorts::of(&object.spec),
        role: None,
        conditions,
    }
}

/// The judgement of an object that this program cannot decode and never could: nothing of it is in force.
#[must_use]
pub fn unknown_form(uid: Option<String>, generation: i64, error: &str) -> Judgement {
    let mut conditions = refused(Circumstance::UnsupportedSchema, &upgrade(error));
    conditions.push(Judged::new(Type::Stalled, State::True, Circumstance::UnsupportedSchema, upgrade(error)));
    Judgement { uid, standing: Standing::Refused, generation, shown: ShownPorts::default(), role: None, conditions }
}

fn accepted() -> Judged {
    Judged::new(Type::Accepted, State::True, Circumstance::Accepted, "the spec is usable and conflicts with no older forward")
}

/// The node is not a candidate: its conditions say that the spec is valid, and which nodes carry the forward.
fn not_here() -> Vec<Judged> {
    let message = "no node holds the internal address, or has a link in its subnet, and matches nodeSelector";
    vec![
        accepted(),
        Judged::new(Type::Programmed, State::False, Circumstance::NoActiveNode, message),
        Judged::new(Type::Ready, State::False, Circumstance::NoActiveNode, message),
    ]
}

fn refused(reason: impl Into<Reason> + Copy, message: &str) -> Vec<Judged> {
    vec![
        Judged::new(Type::Accepted, State::False, reason, message),
        Judged::new(Type::Programmed, State::False, Circumstance::NotAccepted, "nothing of this forward is in the kernel"),
        Judged::new(Type::Ready, State::False, reason, message),
    ]
}

/// No retry solves a refusal: a user must change this object, the other object, or the node.
fn stalled(verdict: &Verdict) -> Option<Judged> {
    let (reason, message): (Reason, &String) = match &verdict.acceptance {
        Acceptance::Refused(refusal) => (Reason::Refused(refusal.reason), &refusal.message),
        Acceptance::RefusedHere(refusal) => (Reason::RefusedHere(refusal.reason), &refusal.message),
        Acceptance::Conflict(conflict) => (Circumstance::Conflict.into(), &conflict.message),
        Acceptance::Accepted => {
            let refusal = verdict.objection.as_ref()?;
            (Reason::RefusedHere(refusal.reason), &refusal.message)
        }
        Acceptance::Disabled => return None,
    };
    Some(Judged::new(Type::Stalled, State::True, reason, message.clone()))
}

/// The forward is disabled, and all of it was removed from the kernel. `Ready` is set so that a wait for it does not hang.
fn withdrawn(verdict: &Verdict, applied: &Applied) -> Vec<Judged> {
    let kinds = [Type::Accepted, Type::Programmed, Type::Ready];
    // If nothing of it was ever in force here, nothing must be withdrawn. A foreign rule before the jumps does not matter.
    let left = if verdict.served { unclosed(applied) } else { None };
    match left {
        None => kinds
            .map(|kind| {
                Judged::new(
                    kind,
                    State::True,
                    Circumstance::Disabled,
                    "mode is Disabled: withdrawn from the kernel, the object stays",
                )
            })
            .into(),
        Some((reason, message)) => {
            let message = format!("mode is Disabled, but the withdrawal is not done: {message}");
            let state = |kind| if kind == Type::Accepted { State::True } else { State::False };
            kinds
                .map(|kind| {
                    Judged::new(
                        kind,
                        state(kind),
                        if kind == Type::Accepted { Circumstance::Disabled.into() } else { reason },
                        message.clone(),
                    )
                })
                .into()
        }
    }
}

/// The forward is carried although the node refuses a part of it; the kernel has the rest.
fn objected(verdict: &Verdict, conditions: Vec<Judged>) -> Vec<Judged> {
    let Some(NodeRefusal { reason, message }) = &verdict.objection else { return conditions };
    let judged = |judged: Judged| match judged.kind {
        // An obstacle for the flows in force is reported unchanged.
        Type::Ready if judged.state != State::True => judged,
        Type::Accepted | Type::Ready => Judged::new(judged.kind, State::False, Reason::RefusedHere(*reason), message.clone()),
        Type::Programmed | Type::Stalled => judged,
    };
    conditions.into_iter().map(judged).collect()
}

fn carried(verdict: &Verdict, applied: &Applied) -> Vec<Judged> {
    if let Some((reason, message)) = refused_rule(verdict, applied).or_else(|| failure(applied)) {
        let broken = |kind| Judged::new(kind, State::False, reason, message.clone());
        return vec![accepted(), broken(Type::Programmed), broken(Type::Ready)];
    }
    let obstacles = obstacles(verdict, applied);
    let missing = missing_route(verdict, applied);
    let programmed = match unprogrammed_route(&obstacles).or_else(|| missing.clone()) {
        Some((reason, message)) => Judged::new(Type::Programmed, State::False, reason, message),
        None => {
            Judged::new(Type::Programmed, State::True, Circumstance::Programmed, "rules and routes, read back, are as planned")
        }
    };
    // The worst known obstacle is reported: a route may be refused because a link is down.
    let ready = match missing {
        Some((reason, message)) if obstacles.is_empty() => Judged::new(Type::Ready, State::False, reason, message),
        Some(_) | None => ready(verdict, applied, &obstacles),
    };
    vec![accepted(), programmed, ready]
}

fn ready(verdict: &Verdict, applied: &Applied, obstacles: &[Obstacle]) -> Judged {
    if let Some(worst) = obstacles.first() {
        let message = obstacles.iter().map(|obstacle| obstacle.message.as_str()).collect::<Vec<_>>().join("; ");
        return Judged::new(Type::Ready, State::False, Reason::Obstacle(worst.reason), message);
    }
    let (reason, mut message) = match verdict.role {
        Some(Role::Standby) => {
            (Circumstance::Standby, "the rules are ready for the internal address to come to this node".to_owned())
        }
        Some(Role::Active) | None => (Circumstance::Ready, "traffic can flow: no problem found on this node".to_owned()),
    };
    if applied.rules.forward_policy == ForwardPolicy::Drop {
        message += "; the policy of FORWARD is DROP, and a rule of the operator accepts these flows";
    }
    for note in &verdict.notes {
        message = format!("{message}; {note}");
    }
    Judged::new(Type::Ready, State::True, reason, message)
}

/// A failure that concerns the whole node, if there is one.
fn failure(applied: &Applied) -> Option<(Reason, String)> {
    unfinished(applied).or_else(|| overridden(&applied.rules))
}

/// A refused rule of this forward, if there is one. Other forwards are not affected.
fn refused_rule(verdict: &Verdict, applied: &Applied) -> Option<(Reason, String)> {
    let concerned = |refused: &&RefusedRule| verdict.translations.iter().any(|translation| refused.concerns(translation));
    let refused = applied.rules.refused.iter().find(concerned)?;
    let message = format!("a rule of this forward, in {}, was not taken: {}", refused.place, refused.error);
    Some((Circumstance::ApplyFailed.into(), message))
}

/// What could not be applied as planned, if there is something.
fn unfinished(applied: &Applied) -> Option<(Reason, String)> {
    untold(applied).or_else(|| drifted(&applied.rules)).or_else(|| applied.routes.as_ref().ok().and_then(surplus))
}

/// What could not be closed, if there is something. Failures to add new rules do not count.
fn unclosed(applied: &Applied) -> Option<(Reason, String)> {
    let left = || {
        let first = applied.rules.left.first()?;
        let message = format!("{} is still translated for {}", first.flows.destination, first.flows.source);
        Some((Circumstance::Drifted.into(), message))
    };
    untold(applied).or_else(left).or_else(|| drifted(&applied.rules)).or_else(|| applied.routes.as_ref().ok().and_then(surplus))
}

/// What could not be read or applied, if there is something.
fn untold(applied: &Applied) -> Option<(Reason, String)> {
    let failed = |message| Some((Circumstance::ApplyFailed.into(), message));
    match (applied.rules.failure(), &applied.routes, &applied.conntrack) {
        (Some(error), _, _) => failed(error.to_string()),
        (None, Err(error), _) => failed(explained(error)),
        (None, _, Err(error)) => failed(explained(error)),
        (None, Ok(routes), Ok(_)) if !routes.stuck.is_empty() => {
            failed(format!("routes of ours are not removed: {}", routes.stuck.join("; ")))
        }
        (None, Ok(_), Ok(_)) => None,
    }
}

fn drifted(rules: &RulesReport) -> Option<(Reason, String)> {
    let first = rules.differing.first()?;
    let message = match rules.differing.len() {
        1 => format!("{first} is not as it was written; another program changes it"),
        count => {
            format!("{count} chains or maps, {first} among them, are not as they were written; another program changes them")
        }
    };
    Some((Circumstance::Drifted.into(), message))
}

fn surplus(routes: &RoutesReport) -> Option<(Reason, String)> {
    let first = routes.surplus.first()?;
    let message = match routes.surplus.len() {
        1 => format!("1 route of ours, {first}, is in the kernel although no forward asks for it"),
        count => format!("{count} routes of ours, {first} among them, are in the kernel although no forward asks for them"),
    };
    Some((Circumstance::Drifted.into(), message))
}

fn overridden(rules: &RulesReport) -> Option<(Reason, String)> {
    let Overridden { place, instead, chain } = rules.overridden.first()?;
    let message = format!(
        "{place} begins with {instead:?} and not with the jump to {chain}: another program's rule decides first; it moves back at most once a minute"
    );
    Some((Circumstance::Overridden.into(), message))
}

/// The obstacles from the plan and those from the routes, the worst first.
fn obstacles(verdict: &Verdict, applied: &Applied) -> Vec<Obstacle> {
    let mut obstacles = verdict.obstacles.clone();
    // The plan was made before IP forwarding was enabled.
    match &applied.forwarding {
        Ok(Forwarded::AsFound) => {}
        Ok(Forwarded::SwitchedOn) => obstacles.retain(|obstacle| obstacle.reason != ObstacleReason::ForwardingDisabled),
        Err(error) => {
            for obstacle in obstacles.iter_mut().filter(|obstacle| obstacle.reason == ObstacleReason::ForwardingDisabled) {
                obstacle.message = error.to_string();
            }
        }
    }
    if let Ok(routes) = &applied.routes {
        let installed = verdict.routes.iter().filter_map(RoutePlan::installed);
        obstacles.extend(installed.filter_map(|route| route_obstacle(route, routes.states.get(route))));
    }
    obstacles.sort_by_key(|obstacle| obstacle.reason);
    obstacles.dedup();
    obstacles
}

fn route_obstacle(route: &HostRoute, state: Option<&RouteState>) -> Option<Obstacle> {
    let HostRoute { destination, gateway, interface } = route;
    let (reason, message) = match state {
        Some(RouteState::Installed | RouteState::Satisfied | RouteState::Missing) => return None,
        Some(RouteState::Contested { foreign }) => (
            ObstacleReason::RouteContested,
            format!(
                "the route to {destination} through {gateway} is not installed: another program's route says otherwise ({foreign}); remove that one, or correct the gateway"
            ),
        ),
        Some(RouteState::Refused { error }) => (
            ObstacleReason::RouteRefused,
            format!("the kernel does not take the route to {destination} through {gateway} by {interface}: {error}"),
        ),
        None => (ObstacleReason::RouteRefused, format!("the route to {destination} through {gateway} was not looked at")),
    };
    Some(Obstacle { reason, message })
}

/// A route that is missing without a known obstacle.
fn missing_route(verdict: &Verdict, applied: &Applied) -> Option<(Reason, String)> {
    let states = &applied.routes.as_ref().ok()?.states;
    let missing = |route: &&HostRoute| states.get(*route) == Some(&RouteState::Missing);
    let HostRoute { destination, gateway, interface } = verdict.routes.iter().filter_map(RoutePlan::installed).find(missing)?;
    let message =
        format!("the route to {destination} through {gateway} by {interface} is not in the kernel; another program removed it");
    Some((Circumstance::Drifted.into(), message))
}

/// A route that was planned and is not in the kernel: the kernel does not have what was planned.
fn unprogrammed_route(obstacles: &[Obstacle]) -> Option<(Reason, String)> {
    let missing = |obstacle: &&Obstacle| matches!(obstacle.reason, ObstacleReason::RouteContested | ObstacleReason::RouteRefused);
    obstacles.iter().find(missing).map(|obstacle| (Reason::Obstacle(obstacle.reason), obstacle.message.clone()))
}
