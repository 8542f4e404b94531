//! `nat PREROUTING`: one DNAT rule per translation, each with its destination address and its client.
//!
//! A flow is marked before it is compared with these rules. The mark is removed if it matches none of them. So exactly the
//! translated flows are marked, although no rule names them twice.

use super::stage::{host, narrowed};
use crate::dataplane::iptables::rule::{Matches, Packets, Rule, Target};
use crate::model::{Connmark, FlowMatch, Protocol, Translation};

/// The size from which on a range of TCP ports matches only the packet that opens a connection. The ports of such a large
/// range were not chosen one by one: connections of the node itself to the same host may use some of them.
const WIDE: u32 = 1024;

/// The final rules of PREROUTING.
pub(super) fn rules<'a>(translations: impl IntoIterator<Item = &'a Translation>) -> Vec<Rule> {
    translations.into_iter().map(rule).collect()
}

/// Adds to the rules of the root chain those that mark the translated flows.
pub(super) fn mark(root: &mut Vec<Rule>, mark: Connmark) {
    let rule = |target| Rule { matches: Matches::default(), target };
    root.insert(0, rule(Target::Mark(mark)));
    root.push(rule(Target::Unmark(mark)));
}

/// The rule of one translation.
pub(super) fn rule(translation: &Translation) -> Rule {
    let flows = &translation.flows;
    let matches = Matches {
        source: narrowed(flows.source),
        destination: Some(host(flows.destination)),
        interface: flows.interface.clone(),
        protocol: Some(flows.protocol),
        ports: Some(flows.ports),
        packets: packets(flows),
        ..Matches::default()
    };
    Rule { matches, target: Target::Dnat(translation.destination) }
}

/// Conntrack may first see a connection in its middle, for example a connection of the node itself when the first rules are
/// added. A packet of it that arrives at a port of a large range must not be treated as the first packet of a flow.
fn packets(flows: &FlowMatch) -> Packets {
    match flows.protocol {
        Protocol::Tcp if flows.ports.count() >= WIDE => Packets::Opening,
        Protocol::Tcp | Protocol::Udp => Packets::Any,
    }
}
