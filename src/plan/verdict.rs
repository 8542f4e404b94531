//! The decision of the plan about one forward on this node.

use std::fmt;

use super::claims::Conflict;
use crate::api::{Role, ShownPorts};
use crate::forward::{Direction, Refusal};
use crate::model::{HostRoute, InterfaceName, NextHop, Translation};
use crate::words::words;

/// The decision of the plan about one forward.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The `uid` of the object; `None` from a folder.
    pub uid: Option<String>,
    /// The generation of the spec that was read.
    pub generation: i64,
    /// Its ports in the form of the status.
    pub shown: ShownPorts,
    /// Whether it is carried, or why not.
    pub acceptance: Acceptance,
    /// What this node would refuse if the forward were new. Because the forward is in force, the part is left out or still
    /// carried.
    pub objection: Option<NodeRefusal>,
    /// The role of this node; `None` if it is not a candidate, or if this was not checked.
    pub role: Option<Role>,
    /// Whether a part of it was in force here until now.
    pub served: bool,
    /// The planned address translations.
    pub translations: Vec<Translation>,
    /// How many of the translations belong to `reverse`; these are the last ones.
    pub reversed: usize,
    /// What was in force and is withdrawn although the object asks for it unchanged, for example because the node lost the
    /// address. It is no new claim when it comes back.
    pub suspended: Vec<Translation>,
    /// The decision about the route to each client; empty without a gateway.
    pub routes: Vec<RoutePlan>,
    /// The interfaces by which its flows enter, as far as they are known.
    pub legs: Vec<InterfaceName>,
    /// The neighbours that must answer for its flows to pass. In order, each once.
    pub next_hops: Vec<NextHop>,
    /// The known obstacles, the worst first.
    pub obstacles: Vec<Obstacle>,
    /// The notes.
    pub notes: Vec<Note>,
    /// Whether a forward with another gateway has a client network that contains one of this forward, or the other way round.
    pub nested: bool,
}

/// Whether a forward is carried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Acceptance {
    /// It is valid and no older forward conflicts with it.
    Accepted,
    /// It is disabled or was deleted.
    Disabled,
    /// The object is invalid.
    Refused(Refusal),
    /// The object is valid, but not on this node.
    RefusedHere(NodeRefusal),
    /// An older forward claims the same.
    Conflict(Conflict),
}

/// Why this node cannot carry a valid forward.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeRefusal {
    /// The reason.
    pub reason: NodeRefusalReason,
    /// What is wrong, where, and what to do.
    pub message: String,
}

words! {
    /// The reasons of refusals that depend on the node.
    NodeRefusalReason {
        /// An address of a party is an address of this node, so the flow would come back to it.
        ForwardLoop,
        /// The upstream is an API server of the cluster, or lies in a network that the node forbids.
        ForbiddenUpstream,
        /// A client is an API server of the cluster, or lies in a network that the node forbids.
        ForbiddenClient,
        /// The internal or external address lies in a network of pods or Services.
        ForbiddenAddress,
        /// An address is the first one of its subnet (the network address).
        NetworkAddress,
        /// An address is the last one of its subnet (the broadcast address).
        BroadcastAddress,
        /// The internal address is on the interface of a container network.
        ForbiddenInterface,
        /// The port is reserved on this node, on an address by which it is reached.
        ReservedPort,
        /// A program of this node listens on the port, on an address by which the node is reached.
        ShadowsLocalListener,
        /// No grant permits all of the forward, and the agent requires grants.
        NotGranted,
        /// The forwards under a grant would ask for more than the limits of the grant permit, or those of a namespace for more
        /// translations than the node permits.
        TooMany,
    }
}

/// A known problem that stops the flows of a forward.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Obstacle {
    /// The reason.
    pub reason: ObstacleReason,
    /// What it is, where, and what to do.
    pub message: String,
}

words! {
    /// The reasons why flows stop that are accepted and programmed, the worst first.
    ObstacleReason {
        /// IP forwarding is off.
        ForwardingDisabled,
        /// A named interface does not exist.
        WaitingForInterface,
        /// An interface is down or has no carrier.
        InterfaceDown,
        /// A named interface is a port of a bridge or bond, which receives its packets.
        EnslavedInterface,
        /// An address is on another interface than the one named.
        AddressNotOnInterface,
        /// This node does not have the external address.
        ExternalAddressMissing,
        /// The gateway is in no subnet of its interface.
        GatewayNotOnLink,
        /// The route to a client would cover an address that this node needs.
        RouteCapturesNode,
        /// The route to a client would cover an address that the node forbids to forwards.
        ForbiddenRoute,
        /// The route to a client would take packets for a client of an older forward.
        RouteCapturesClient,
        /// It is not known where the API servers are, and a route might cover one.
        ApiServersUnknown,
        /// A route of another program to the client uses another next hop.
        RouteContested,
        /// The kernel refused a route.
        RouteRefused,
        /// The upstream is the address of a Service, which nothing translates any more.
        UpstreamIsService,
        /// There is no route to a client.
        NoRouteToClient,
        /// There is no route to the upstream.
        NoRouteToUpstream,
        /// The route to the upstream leaves by another interface than the named one.
        UpstreamNotOnInterface,
        /// The route back to the client leaves by another interface, and strict source validation drops the client's
        /// packets.
        AsymmetricRoute,
        /// A chain of another program drops the packets.
        DroppedByFirewall,
        /// A NAT chain of another program translates the flows before the rules of the operator do.
        TranslatedFirst,
        /// A chain of another program removes the mark by which the rules of the operator know the flows.
        MarkRemoved,
        /// The next hop does not answer.
        GatewayUnreachable,
        /// The next hop was not seen yet, and is being resolved.
        GatewayPending,
    }
}

/// A note: useful to know, but it stops nothing.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Note(pub String);

/// The decision about the route to one client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RoutePlan {
    /// It is installed.
    Install(PlannedRoute),
    /// It cannot be installed, or must not be.
    Withheld(Obstacle),
}

/// A route to install.
pub type PlannedRoute = HostRoute;

impl RoutePlan {
    /// The route, if it is installed.
    #[must_use]
    pub fn installed(&self) -> Option<&HostRoute> {
        match self {
            Self::Install(route) => Some(route),
            Self::Withheld(_) => None,
        }
    }
}

impl Verdict {
    /// A verdict without rules or routes in the kernel.
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
            suspended: Vec::new(),
            routes: Vec::new(),
            legs: Vec::new(),
            next_hops: Vec::new(),
            obstacles: Vec::new(),
            notes: Vec::new(),
            nested: false,
        }
    }

    /// Its translations, each with the direction in which its connections are opened.
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
