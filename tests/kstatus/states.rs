//! The states of a forward, each created by the real status code, and the expected result of each tool.

use portforward_operator::api::{PortForwardStatus, Role};
use portforward_operator::dataplane::conntrack::Purged;
use portforward_operator::dataplane::routes::{RouteState, RoutesReport};
use portforward_operator::dataplane::rules::{Function, Overridden, Place, RulesError, RulesReport, Step};
use portforward_operator::dataplane::{Applied, Forwarded};
use portforward_operator::forward::{ForwardKey, Refusal};
use portforward_operator::model::HostRoute;
use portforward_operator::plan::{
    Acceptance, Conflict, NodeRefusal, NodeRefusalReason, Obstacle, ObstacleReason, RoutePlan, Verdict,
};
use portforward_operator::status::{Circumstance, Judgement, Reason, judge, unknown_form};
use serde_json::Value;

use crate::agents::{Agents, First};
use crate::argo::Health;
use crate::rules::Kstatus;

/// The error of an object with a mode of a newer version.
const UNKNOWN_MODE: &str = "spec.mode: \"Paused\" is not accepted here; write Enabled or Disabled";

/// States that are the same for every tool: the rows of the page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Row {
    /// New; no agent has seen it.
    Unseen,
    /// Changed; no agent has processed the change.
    Changed,
    /// Ready.
    Ready,
    /// Something stops the traffic.
    Stopped,
    /// The kernel does not hold the rules.
    NotProgrammed,
    /// No node holds the address.
    Nowhere,
    /// More than one node holds the address.
    Twice,
    /// Another client keeps overwriting the status.
    Contested,
    /// The state is not known.
    Unknown,
    /// The newest content cannot be decoded.
    Outdated,
    /// It conflicts with an older forward.
    Lost,
    /// The node refuses it.
    RefusedHere,
    /// The object is invalid.
    Refused,
    /// No content of it could be decoded.
    Undecoded,
    /// Disabled, but not withdrawn everywhere.
    Withdrawing,
    /// Disabled and withdrawn.
    Disabled,
    /// It is being deleted.
    Deleted,
}

impl Row {
    /// In the order of the page.
    pub(crate) const ALL: [Self; 17] = [
        Self::Unseen,
        Self::Changed,
        Self::Ready,
        Self::Stopped,
        Self::NotProgrammed,
        Self::Nowhere,
        Self::Twice,
        Self::Contested,
        Self::Unknown,
        Self::Outdated,
        Self::Lost,
        Self::RefusedHere,
        Self::Refused,
        Self::Undecoded,
        Self::Withdrawing,
        Self::Disabled,
        Self::Deleted,
    ];

    /// The text on the page.
    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::Unseen => "new, no agent has processed it",
            Self::Changed => "the spec was changed, no agent has processed the change yet",
            Self::Ready => "in force",
            Self::Stopped => "accepted, but something stops the traffic",
            Self::NotProgrammed => "accepted, but the kernel differs from the plan",
            Self::Nowhere => "no node holds the internal address",
            Self::Twice => "several nodes hold the internal address",
            Self::Contested => "another client keeps overwriting the status",
            Self::Unknown => {
                "not known: the agent of the active node does not run, or cannot read its node, or no agent follows the forward any more"
            }
            Self::Outdated => "changed, and the agent cannot decode the change; the last good content is in force",
            Self::Lost => "an older forward claims the same traffic",
            Self::RefusedHere => "the node refuses it",
            Self::Refused => "the object is invalid",
            Self::Undecoded => "new, and the agent cannot decode it",
            Self::Withdrawing => "`mode: Disabled`, not yet withdrawn from every node",
            Self::Disabled => "`mode: Disabled`, withdrawn",
            Self::Deleted => "deleted, but a finalizer of another program is set",
        }
    }

    /// The reasons of `Ready` in words, if there are too many for a list.
    pub(crate) fn reasons(self) -> Option<&'static str> {
        match self {
            Self::Stopped => Some("`False`, any of [these](reasons.md#something-stops-the-traffic)"),
            Self::RefusedHere => Some("`False`, any of [these](reasons.md#the-node-refuses-the-object)"),
            Self::Refused => Some("`False`, any of [these](reasons.md#the-object-is-invalid)"),
            Self::Changed | Self::Outdated => Some("unchanged"),
            _ => None,
        }
    }

    /// The expected result of kstatus.
    pub(crate) fn kstatus(self) -> Kstatus {
        match self {
            Self::Ready | Self::Disabled => Kstatus::Current,
            Self::Lost | Self::RefusedHere | Self::Refused | Self::Undecoded => Kstatus::Failed,
            Self::Deleted => Kstatus::Terminating,
            Self::Unseen
            | Self::Changed
            | Self::Stopped
            | Self::NotProgrammed
            | Self::Nowhere
            | Self::Twice
            | Self::Contested
            | Self::Unknown
            | Self::Outdated
            | Self::Withdrawing => Kstatus::InProgress,
        }
    }

    /// Whether `kubectl wait --for=condition=Ready` should return. The agents report a deleted forward as withdrawn.
    pub(crate) fn wait(self) -> bool {
        matches!(self, Self::Ready | Self::Disabled | Self::Deleted)
    }

    /// The expected health in Argo CD: as in kstatus, except for a disabled forward.
    pub(crate) fn argo(self) -> Health {
        match (self, self.kstatus()) {
            (Self::Disabled, _) => Health::Suspended,
            (_, Kstatus::Current) => Health::Healthy,
            (_, Kstatus::Failed) => Health::Degraded,
            (_, Kstatus::InProgress | Kstatus::Terminating) => Health::Progressing,
        }
    }
}

/// One state.
#[derive(Debug)]
pub(crate) struct State {
    /// A description of the state.
    pub(crate) name: String,
    /// Its row.
    pub(crate) row: Row,
    /// The object as the API server holds it.
    pub(crate) object: Value,
}

fn state(name: impl Into<String>, row: Row, object: Value) -> State {
    State { name: name.into(), row, object }
}

/// Every state.
pub(crate) fn states() -> Vec<State> {
    let mut changed = Agents::new(&[("a", ready(1))]);
    changed.course(First::Lowest);
    changed.edit();
    let mut deleted = Agents::new(&[("a", ready(1))]);
    deleted.course(First::Lowest);
    deleted.delete();
    deleted.say(&[("a", withdrawn(2, &exact()))]);
    let more = [
        state("the spec was changed", Row::Changed, changed.object()),
        state("deleted, and something else holds it", Row::Deleted, deleted.settle()),
    ];
    Reason::all().into_iter().flat_map(states_of).chain(more).collect()
}

/// The states with this reason.
pub(crate) fn states_of(reason: Reason) -> Vec<State> {
    let alone = |judgement: Judgement| Agents::new(&[("a", judgement)]).settle();
    let message = "what is wrong, and what to do".to_owned();
    match reason {
        Reason::Refused(reason) => {
            let refusal = Refusal { reason, message };
            vec![state(reason.as_str(), Row::Refused, alone(of(1, Acceptance::Refused(refusal), None)))]
        }
        Reason::RefusedHere(reason) => {
            vec![state(format!("{} here", reason.as_str()), Row::RefusedHere, alone(refused_here(1, reason, Role::Active)))]
        }
        Reason::Obstacle(reason) => {
            let row = match reason {
                ObstacleReason::RouteContested | ObstacleReason::RouteRefused => Row::NotProgrammed,
                ObstacleReason::ForwardingDisabled
                | ObstacleReason::WaitingForInterface
                | ObstacleReason::InterfaceDown
                | ObstacleReason::EnslavedInterface
                | ObstacleReason::AddressNotOnInterface
                | ObstacleReason::ExternalAddressMissing
                | ObstacleReason::GatewayNotOnLink
                | ObstacleReason::RouteCapturesNode
                | ObstacleReason::ForbiddenRoute
                | ObstacleReason::RouteCapturesClient
                | ObstacleReason::ApiServersUnknown
                | ObstacleReason::UpstreamIsService
                | ObstacleReason::NoRouteToClient
                | ObstacleReason::NoRouteToUpstream
                | ObstacleReason::UpstreamNotOnInterface
                | ObstacleReason::AsymmetricRoute
                | ObstacleReason::DroppedByFirewall
                | ObstacleReason::TranslatedFirst
                | ObstacleReason::MarkRemoved
                | ObstacleReason::GatewayUnreachable
                | ObstacleReason::GatewayPending => Row::Stopped,
            };
            vec![state(reason.as_str(), row, alone(stopped(1, reason)))]
        }
        Reason::Circumstance(circumstance) => circumstances(circumstance),
    }
}

fn circumstances(circumstance: Circumstance) -> Vec<State> {
    let settled = |says: &[(&str, Judgement)]| Agents::new(says).settle();
    match circumstance {
        Circumstance::Accepted | Circumstance::Programmed | Circumstance::Ready => {
            vec![state("at work", Row::Ready, settled(&[("a", ready(1))]))]
        }
        Circumstance::Standby => {
            vec![state("at work, with a standby", Row::Ready, settled(&[("a", standby(1)), ("b", ready(1))]))]
        }
        Circumstance::Disabled => {
            let one = settled(&[("a", withdrawn(1, &exact()))]);
            let mut after_work = Agents::new(&[("a", ready(1)), ("b", standby(1))]);
            after_work.course(First::Lowest);
            after_work.edit();
            after_work.say(&[("a", withdrawn(2, &exact())), ("b", withdrawn(2, &exact()))]);
            vec![
                state("disabled from the start", Row::Disabled, one),
                state("disabled after it was at work", Row::Disabled, after_work.settle()),
            ]
        }
        Circumstance::Pending => {
            let mut half = Agents::new(&[("a", ready(1)), ("b", standby(1))]);
            half.course(First::Lowest);
            half.edit();
            half.say(&[("a", withdrawn(2, &exact())), ("b", standby(1))]);
            vec![
                state("no agent has seen it", Row::Unseen, Agents::new(&[]).object()),
                state("one of two has withdrawn it", Row::Withdrawing, half.settle()),
            ]
        }
        Circumstance::Conflict | Circumstance::NotAccepted => {
            let behind = settled(&[("a", standby(1)), ("b", lost(1, Role::Active))]);
            let standbys = settled(&[("a", lost(1, Role::Standby))]);
            vec![
                state("lost a conflict", Row::Lost, settled(&[("a", lost(1, Role::Active))])),
                state("lost a conflict on the active node only", Row::Lost, behind),
                state("lost a conflict where no node is active", Row::Lost, standbys),
            ]
        }
        Circumstance::ApplyFailed => apply_failed(),
        // Only an object of a deleted folder has it.
        Circumstance::Leaving => Vec::new(),
        Circumstance::Drifted => {
            let rules = RulesReport { differing: vec![place("PF-PRE")], ..RulesReport::default() };
            vec![state("drifted", Row::NotProgrammed, settled(&[("a", carried(1, rules))]))]
        }
        Circumstance::Overridden => {
            let (instead, chain) = ("-j OTHER".to_owned(), "PF-PRE".to_owned());
            let overridden = Overridden { place: place("PREROUTING"), instead, chain };
            let rules = RulesReport { overridden: vec![overridden], ..RulesReport::default() };
            vec![state("overridden", Row::NotProgrammed, settled(&[("a", carried(1, rules))]))]
        }
        Circumstance::NoActiveNode => vec![
            state("only standbys", Row::Nowhere, settled(&[("a", standby(1)), ("b", standby(1))])),
            state("no candidate", Row::Nowhere, settled(&[("a", elsewhere(1))])),
        ],
        Circumstance::AddressOnSeveralNodes => {
            vec![state("two hold the address", Row::Twice, settled(&[("a", ready(1)), ("b", ready(1))]))]
        }
        Circumstance::AgentUnavailable => {
            let gone = |before: Judgement| {
                let mut agents = Agents::new(&[("a", before), ("b", standby(1))]);
                agents.course(First::Lowest);
                agents.say(&[("b", standby(1))]);
                agents.settle()
            };
            vec![
                state("the agent of the active node is dead", Row::Unknown, gone(ready(1))),
                state("so is one that had lost a conflict", Row::Unknown, gone(lost(1, Role::Active))),
            ]
        }
        Circumstance::NotFollowed => vec![
            state("no agent follows it any more", Row::Unknown, Agents::new(&[("a", ready(1)), ("b", standby(1))]).left()),
            state("so is one that had lost a conflict", Row::Unknown, Agents::new(&[("a", lost(1, Role::Active))]).left()),
        ],
        Circumstance::StatusContested => {
            let forged = PortForwardStatus { active_node: Some("evil".to_owned()), ..PortForwardStatus::default() };
            vec![state("overwritten again and again", Row::Contested, Agents::new(&[("a", ready(1))]).contested(&forged))]
        }
        Circumstance::UnsupportedSchema => {
            let mut newer = Agents::new(&[("a", ready(1))]);
            newer.course(First::Lowest);
            newer.edit();
            newer.say(&[("a", ready(1).outdated(UNKNOWN_MODE))]);
            vec![
                state("changed to what cannot be decoded", Row::Outdated, newer.settle()),
                state("never decoded", Row::Undecoded, settled(&[("a", unknown_form(None, 1, UNKNOWN_MODE))])),
            ]
        }
        Circumstance::NodeUnreadable => {
            let unseen = |judgement: Judgement| settled(&[("a", judgement.unseen("no netlink"))]);
            vec![
                state("the node cannot be read", Row::Unknown, unseen(ready(1))),
                state("so is one that had lost a conflict", Row::Unknown, unseen(lost(1, Role::Active))),
            ]
        }
    }
}

fn apply_failed() -> Vec<State> {
    let mut stuck = Agents::new(&[("a", ready(1))]);
    stuck.course(First::Lowest);
    stuck.edit();
    stuck.say(&[("a", withdrawn(2, &hanging()))]);
    let broken = Agents::new(&[("a", judge(&verdict(1, Acceptance::Accepted, Some(Role::Active)), &hanging()))]).settle();
    vec![
        state("iptables fails", Row::NotProgrammed, broken),
        state("disabled, and iptables fails", Row::Withdrawing, stuck.settle()),
    ]
}

pub(crate) fn verdict(generation: i64, acceptance: Acceptance, role: Option<Role>) -> Verdict {
    Verdict::new(None, generation, acceptance, role)
}

fn place(chain: &str) -> Place {
    Place { table: "nat", chain: chain.to_owned() }
}

fn applied(rules: RulesReport) -> Applied {
    Applied { rules, routes: Ok(RoutesReport::default()), conntrack: Ok(Purged::default()), forwarding: Ok(Forwarded::AsFound) }
}

pub(crate) fn exact() -> Applied {
    applied(RulesReport::default())
}

pub(crate) fn hanging() -> Applied {
    let error = RulesError { text: "no answer".to_owned(), step: Step::Write, transient: true };
    Applied { rules: RulesReport { failed: [(Function::Nat, error)].into(), ..RulesReport::default() }, ..exact() }
}

pub(crate) fn of(generation: i64, acceptance: Acceptance, role: Option<Role>) -> Judgement {
    judge(&verdict(generation, acceptance, role), &exact())
}

fn carried(generation: i64, rules: RulesReport) -> Judgement {
    judge(&verdict(generation, Acceptance::Accepted, Some(Role::Active)), &applied(rules))
}

pub(crate) fn ready(generation: i64) -> Judgement {
    of(generation, Acceptance::Accepted, Some(Role::Active))
}

pub(crate) fn standby(generation: i64) -> Judgement {
    of(generation, Acceptance::Accepted, Some(Role::Standby))
}

pub(crate) fn elsewhere(generation: i64) -> Judgement {
    of(generation, Acceptance::Accepted, None)
}

pub(crate) fn withdrawn(generation: i64, applied: &Applied) -> Judgement {
    judge(&Verdict { served: true, ..verdict(generation, Acceptance::Disabled, None) }, applied)
}

pub(crate) fn lost(generation: i64, role: Role) -> Judgement {
    let winner = ForwardKey::new("leased-lines", "older");
    let conflict = Conflict { winner, message: "leased-lines/older has it; delete one".to_owned() };
    of(generation, Acceptance::Conflict(conflict), Some(role))
}

pub(crate) fn refused_here(generation: i64, reason: NodeRefusalReason, role: Role) -> Judgement {
    let refusal = NodeRefusal { reason, message: "what is wrong here, and what to do".to_owned() };
    of(generation, Acceptance::RefusedHere(refusal), Some(role))
}

/// An accepted forward with one obstacle. Obstacles of routes are errors of the kernel, the others come from the plan.
pub(crate) fn stopped(generation: i64, reason: ObstacleReason) -> Judgement {
    let mut verdict = verdict(generation, Acceptance::Accepted, Some(Role::Active));
    let route = HostRoute {
        destination: "1.1.1.1/32".parse().expect("a network"),
        gateway: "192.168.0.1".parse().expect("an address"),
        interface: "eth1".parse().expect("an interface"),
    };
    let met = match reason {
        ObstacleReason::RouteContested => Some(RouteState::Contested { foreign: "1.1.1.1 via 192.168.0.9".to_owned() }),
        ObstacleReason::RouteRefused => Some(RouteState::Refused { error: "Network is unreachable".to_owned() }),
        _ => None,
    };
    let mut applied = exact();
    if let Some(met) = met {
        verdict.routes.push(RoutePlan::Install(route.clone()));
        applied.routes = Ok(RoutesReport { states: [(route, met)].into(), ..RoutesReport::default() });
    } else {
        verdict.obstacles.push(Obstacle { reason, message: "what stops it, and what to do".to_owned() });
    }
    judge(&verdict, &applied)
}
