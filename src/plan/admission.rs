//! How much of a forward this node admits: all of it, nothing, or the part that is already in force plus everything that is
//! not refused.
//!
//! A node protects its reserved ports and the ports on which its programs listen, on the addresses by which the node is
//! reached. They never take anything out of force that is already in force.

use std::net::IpAddr;
use std::ops::Deref;

use ipnet::IpNet;

use super::floor::Floor;
use super::in_force::Listen;
use super::node_rules::{self, hears, refusal};
use super::notes::MOST;
use super::share::Fitting;
use super::verdict::{NodeRefusal, NodeRefusalReason, Note};
use super::{InForce, Policy};
use crate::forward::{Forward, PortEntry};
use crate::model::{Facts, PortRange};

/// A forward, or what is left of it.
#[derive(Clone, Debug)]
pub(super) enum Part<'a> {
    /// All of it.
    Whole(&'a Forward),
    /// Without some of its ports.
    Some(Box<Forward>),
}

impl Deref for Part<'_> {
    type Target = Forward;

    fn deref(&self) -> &Forward {
        match self {
            Self::Whole(forward) => forward,
            Self::Some(forward) => forward,
        }
    }
}

/// The part of a forward that this node carries.
#[derive(Clone, Debug)]
pub(super) struct Admission<'a> {
    /// The forward, without the parts that are left out.
    pub(super) forward: Part<'a>,
    /// Why a part is left out, or would be refused if it were new.
    pub(super) objection: Option<NodeRefusal>,
    /// Notes on parts that are left out without harm.
    pub(super) notes: Vec<Note>,
}

/// How much of a forward this node carries, above the `floor` and of the part that its namespace has room for.
///
/// # Errors
/// When it carries nothing: a new forward is admitted completely or not at all.
pub(super) fn admit<'a>(
    facts: &Facts,
    fitting: &Fitting<'a>,
    policy: &Policy,
    floor: &Floor<'_>,
    in_force: &InForce,
) -> Result<Admission<'a>, NodeRefusal> {
    let forward = &*fitting.forward;
    if let Some(refusal) = node_rules::refuse(facts, forward).or_else(|| floor.refuse(forward)) {
        return Err(refusal);
    }
    let objection = node_rules::refuse_new(facts, forward);
    let gate = Gate { facts, forward, policy, in_force };
    let ports: Vec<Passage> = forward.ports.iter().map(|entry| gate.towards_upstream(entry)).collect();
    let reverse: Vec<Passage> = forward.reverse.iter().map(|entry| gate.towards_client(entry)).collect();
    let passages = || ports.iter().chain(&reverse);
    let left_out = passages().find_map(|passage| passage.refusal().cloned());
    if let Some(refusal) = objection.as_ref().or(left_out.as_ref())
        && !gate.any_in_force()
    {
        return Err(refusal.clone());
    }
    let notes = passages().filter_map(|passage| passage.note().cloned()).collect();
    let whole = passages().all(|passage| matches!(passage, Passage::Whole));
    let carried = if whole { fitting.forward.clone() } else { Part::Some(Box::new(part(forward, &ports, &reverse))) };
    let stays = |refusal: NodeRefusal, how: &str| NodeRefusal { message: format!("{}; {how}", refusal.message), ..refusal };
    let objection = match (left_out, objection) {
        (Some(refusal), _) => Some(stays(refusal, "this is left out, and what else the forward asks for is in force")),
        (None, Some(refusal)) => Some(stays(refusal, "the forward was in force and stays, but a new one would be refused")),
        (None, None) => fitting.objection.clone(),
    };
    Ok(Admission { forward: carried, objection, notes })
}

/// The forward with the admitted parts of its port entries.
fn part(forward: &Forward, ports: &[Passage], reverse: &[Passage]) -> Forward {
    let entries = |list: &[PortEntry], passages: &[Passage]| {
        let passed = list.iter().zip(passages).flat_map(|(entry, passage)| match passage {
            Passage::Whole => vec![entry.clone()],
            Passage::Part { ports, .. } => ports.iter().map(|ports| entry.part(*ports)).collect(),
        });
        passed.collect()
    };
    Forward { ports: entries(&forward.ports, ports), reverse: entries(&forward.reverse, reverse), ..forward.clone() }
}

/// How much of one port entry is admitted.
enum Passage {
    /// All of it is carried.
    Whole,
    /// Only these of its ports are carried.
    Part { ports: Vec<PortRange>, why: LeftOut },
}

/// Why some ports of an entry are left out.
enum LeftOut {
    /// They are refused.
    Refused(NodeRefusal),
    /// The entry is a range that also works without them.
    Noted(Note),
}

impl Passage {
    fn refusal(&self) -> Option<&NodeRefusal> {
        match self {
            Self::Part { why: LeftOut::Refused(refusal), .. } => Some(refusal),
            Self::Part { why: LeftOut::Noted(_), .. } | Self::Whole => None,
        }
    }

    fn note(&self) -> Option<&Note> {
        match self {
            Self::Part { why: LeftOut::Noted(note), .. } => Some(note),
            Self::Part { why: LeftOut::Refused(_), .. } | Self::Whole => None,
        }
    }
}

struct Gate<'a> {
    facts: &'a Facts,
    forward: &'a Forward,
    policy: &'a Policy,
    in_force: &'a InForce,
}

impl Gate<'_> {
    /// An entry of `ports`: new ports that the node protects cause a refusal, and only the ports in force are carried.
    fn towards_upstream(&self, entry: &PortEntry) -> Passage {
        let address = self.forward.internal.address;
        if self.reach(address) == Reach::No {
            return Passage::Whole;
        }
        let kept = self.in_force(entry, address, &self.forward.clients);
        let refusal = entry.ports.minus(&kept).into_iter().find_map(|ports| self.refuse(entry, address, ports));
        refusal.map_or(Passage::Whole, |refusal| Passage::Part { ports: kept, why: LeftOut::Refused(refusal) })
    }

    /// An entry of `reverse`: a range is carried without new ports that are reserved; a single port is refused.
    fn towards_client(&self, entry: &PortEntry) -> Passage {
        let Some(address) = self.forward.external.filter(|address| self.reach(*address) != Reach::No) else {
            return Passage::Whole;
        };
        let kept = self.in_force(entry, address, &[IpNet::from(self.forward.upstream)]);
        let reserved: Vec<PortRange> = self.policy.reserved_ports.of(entry.protocol).collect();
        let new = entry.ports.minus(&kept);
        let first = new.iter().find_map(|ports| self.policy.reserved_ports.first_in(entry.protocol, *ports));
        let Some(first) = first else { return Passage::Whole };
        let mut ports = [kept, new.iter().flat_map(|ports| ports.minus(&reserved)).collect()].concat();
        ports.sort();
        if ports.is_empty() {
            return Passage::Part { ports, why: LeftOut::Refused(reserved_port(entry, address, first, self.reach(address))) };
        }
        let note = format!(
            "reverse leaves out {} of {address}, which this node keeps for itself (--reserved-ports, chart value agent.reservedPorts): {}",
            entry.protocol,
            entry.ports.minus(&ports).iter().take(MOST).map(ToString::to_string).collect::<Vec<_>>().join(", ")
        );
        Passage::Part { ports, why: LeftOut::Noted(Note(note)) }
    }

    fn any_in_force(&self) -> bool {
        let Forward { internal, external, upstream, clients, ports, reverse, .. } = self.forward;
        let upstream = [IpNet::from(*upstream)];
        let towards_client =
            external.map(|address| reverse.iter().any(|entry| !self.in_force(entry, address, &upstream).is_empty()));
        towards_client == Some(true) || ports.iter().any(|entry| !self.in_force(entry, internal.address, clients).is_empty())
    }

    /// The ports of `entry` that are in force at `address`.
    fn in_force(&self, entry: &PortEntry, address: IpAddr, clients: &[IpNet]) -> Vec<PortRange> {
        let listen = Listen { protocol: entry.protocol, address, ports: entry.ports, clients };
        self.in_force.ports(&self.forward.key, &listen)
    }

    /// Why the ports `new` of `entry` are refused, if they are.
    fn refuse(&self, entry: &PortEntry, address: IpAddr, new: PortRange) -> Option<NodeRefusal> {
        if let Some(port) = self.policy.reserved_ports.first_in(entry.protocol, new) {
            return Some(reserved_port(entry, address, port, self.reach(address)));
        }
        if self.reach(address) != Reach::Certain {
            return None;
        }
        let enters = self.forward.internal.interface.as_ref().or_else(|| self.facts.interface_of(address));
        let listens = |listener: &&crate::model::Listener| {
            listener.protocol == entry.protocol && new.contains(listener.port) && hears(self.facts, listener, address, enters)
        };
        let listener = self.facts.listeners.iter().find(listens)?;
        let message = format!(
            "a program of this node listens on {} port {} of {address} (entry {}), an address by which the node itself is reached, and the forward would take the port from it; stop the program, bind it to another address, or listen on another port or address",
            listener.protocol, listener.port, entry.name
        );
        Some(refusal(NodeRefusalReason::ShadowsLocalListener, message))
    }

    /// Whether the node itself is reached by `address`. It protects no ports on other addresses.
    fn reach(&self, address: IpAddr) -> Reach {
        if self.facts.node_addresses.contains(&address) {
            Reach::Certain
        } else if self.facts.maybe_node_addresses.contains(&address) {
            Reach::Possible
        } else {
            Reach::No
        }
    }
}

/// Whether the node itself is reached by an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reach {
    Certain,
    /// It is not known by which of its addresses the node is reached. Only its reserved ports are protected then.
    Possible,
    No,
}

fn reserved_port(entry: &PortEntry, address: IpAddr, port: u16, reach: Reach) -> NodeRefusal {
    let (why, also) = match reach {
        Reach::Certain | Reach::No => ("which is reached by that address", ""),
        Reach::Possible => (
            "which may be reached by that address: it has had no default route since the agent started",
            "add the default route, ",
        ),
    };
    let message = format!(
        "{} port {port} of {address} (entry {}) is reserved on this node, {why}; {also}listen on another port, on an address that is for forwards only, or free the port (--reserved-ports, chart value agent.reservedPorts)",
        entry.protocol, entry.name
    );
    refusal(NodeRefusalReason::ReservedPort, message)
}
