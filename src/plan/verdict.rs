//! What the plan decided about one forward on this node.

use std::collections::BTreeSet;
use std::fmt;

use super::claims::Conflict;
use crate::api::{Role, ShownPorts};
use crate::forward::{Direction, Refusal};
use crate::model::{HostRoute, NextHop, Translation};
use crate::words::words;

/// What the plan decided about one forward.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The `uid` of the object; `None` from a folder.
    pub uid: Option<String>,
    /// The generation of the spec that was looked at.
    pub generation: i64,
    /// Its ports as status shows them.
    pub shown: ShownPorts,
    /// Whether it is carried, and why not.
    pub acceptance: Acceptance,
    /// What this node would refuse if it were new, and does leave out or carry on because the forward is in force.
    pub objection: Option<NodeRefusal>,
    /// What this node is to it; `None` if it is no candidate, or was not asked.
    pub role: Option<Role>,
    /// Whether any of it was in force here until now.
    pub served: bool,
    /// The address translations that it gets.
    pub translations: Vec<Translation>,
    /// How many of them, the last, are of `reverse`.
    pub reversed: usize,
    /// What became of the route to each client; empty without a gateway.
    pub routes: Vec<RoutePlan>,
    /// The neighbours that must answer for its flows to pass.
    pub next_hops: BTreeSet<NextHop>,
    /// What is known to stop its flows, the worst first.
    pub obstacles: Vec<Obstacle>,
    /// What is worth knowing but stops nothing.
    pub notes: Vec<Note>,
}

/// Whether a forward is carried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Acceptance {
    /// It is usable and won its conflicts.
    Accepted,
    /// It is switched off or on its way out.
    Disabled,
    /// The object by itself is wrong.
    Refused(Refusal),
    /// The object is fine, but not on this node.
    RefusedHere(NodeRefusal),
    /// An older forward claims the same.
    Conflict(Conflict),
}

/// Why a forward that is fine by itself cannot be carried by this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeRefusal {
    /// The kind of mistake.
    pub reason: NodeRefusalReason,
    /// What is wrong, where, and what to do.
    pub message: String,
}

words! {
    /// The kinds of mistake that show only on a node.
    NodeRefusalReason {
        /// A party is an address of this node, so that the flow would come back to it.
        ForwardLoop,
        /// The upstream is an API server of the cluster.
        ForbiddenUpstream,
        /// An address is the first of its subnet, which names the subnet.
        NetworkAddress,
        /// An address is the last of its subnet, which names all its hosts.
        BroadcastAddress,
        /// The internal address is one of a container network.
        ForbiddenInterface,
        /// A port that this node keeps for itself, on an address by which it is reached.
        ReservedPort,
        /// A program of this node listens on the port, on an address by which the node is reached.
        ShadowsLocalListener,
    }
}

/// Something that is known to stop the flows of a forward.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Obstacle {
    /// The kind.
    pub reason: ObstacleReason,
    /// What it is, where, and what to do.
    pub message: String,
}

words! {
    /// What stops flows that are accepted and programmed, the worst first.
    ObstacleReason {
        /// The kernel routes no packets.
        ForwardingDisabled,
        /// A named interface is not there.
        WaitingForInterface,
        /// An interface is down or has no carrier.
        InterfaceDown,
        /// A named interface is a port of a bridge or bond, which takes its packets.
        EnslavedInterface,
        /// An address is on another interface than the one named.
        AddressNotOnInterface,
        /// This node does not have the external address.
        ExternalAddressMissing,
        /// The gateway lies in no subnet of its interface.
        GatewayNotOnLink,
        /// The route to a client would cover an address that this node needs.
        RouteCapturesNode,
        /// It is not known where the API servers are, and a route might cover one.
        ApiServersUnknown,
        /// A route of another program to the client says otherwise.
        RouteContested,
        /// The kernel did not take a route.
        RouteRefused,
        /// The upstream is the address of a Service, which nothing translates any more.
        UpstreamIsService,
        /// There is no route to a client.
        NoRouteToClient,
        /// There is no route to the upstream.
        NoRouteToUpstream,
        /// The way to the upstream leaves by another interface than the one named.
        UpstreamNotOnInterface,
        /// The way back to the client leaves elsewhere, and strict source validation drops what it sends.
        AsymmetricRoute,
        /// A chain of another program drops the packets.
        DroppedByFirewall,
        /// The next hop does not answer.
        GatewayUnreachable,
        /// The next hop was never heard of, and is being asked.
        GatewayPending,
    }
}

/// Something worth knowing that stops nothing.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Note(pub String);

/// What became of the route to one client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RoutePlan {
    /// It is to be installed.
    Install(PlannedRoute),
    /// It cannot or must not be installed.
    Withheld(Obstacle),
}

/// A route that is to be installed.
pub type PlannedRoute = HostRoute;

impl RoutePlan {
    /// The route, if it is to be installed.
    #[must_use]
    pub fn installed(&self) -> Option<&HostRoute> {
        match self {
            Self::Install(route) => Some(route),
            Self::Withheld(_) => None,
        }
    }
}

impl Verdict {
    /// A verdict without anything in the kernel.
    #[must_use]
    pub fn new(uid: Option<String>, generation: i64, acceptance: Acceptance, role: Option<Role>) -> Self {
        Self {
            uid,
            generation,
            shown: ShownPorts::default(),
            acceptance,
            objection: None,
            role,
            served: false,
            translations: Vec::new(),
            reversed: 0,
            routes: Vec::new(),
            next_hops: BTreeSet::new(),
            obstacles: Vec::new(),
            notes: Vec::new(),
        }
    }

    /// Its translations, each with who opens its flows.
    pub fn directed(&self) -> impl Iterator<Item = (Direction, &Translation)> {
        let towards_upstream = self.translations.len().saturating_sub(self.reversed);
        self.translations.iter().enumerate().map(move |(place, translation)| {
            (if place < towards_upstream { Direction::Forward } else { Direction::Reverse }, translation)
        })
    }

    /// Whether this node carries the forward.
    #[must_use]
    pub fn is_carried(&self) -> bool {
        self.acceptance == Acceptance::Accepted && self.role.is_some()
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
