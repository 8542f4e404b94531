//! `nat PREROUTING`: one DNAT rule per translation, each with its destination address and its client.

use super::stage::{host, narrowed};
use crate::dataplane::iptables::rule::{Matches, Packets, Rule, Target};
use crate::model::{FlowMatch, Protocol, Translation};

/// From how many ports on a range takes TCP only by the packet that opens a connection. So many were not chosen one by one:
/// connections that the node itself has to the same host may use some of them.
const WIDE: u32 = 1024;

/// The verdicts of PREROUTING.
pub(super) fn rules<'a>(translations: impl IntoIterator<Item = &'a Translation>) -> Vec<Rule> {
    translations.into_iter().map(rule).collect()
}

fn rule(translation: &Translation) -> Rule {
    let flows = &translation.flows;
    let matches = Matches {
        source: narrowed(flows.source),
        destination: Some(host(flows.destination)),
        interface: flows.interface.clone(),
        protocol: Some(flows.protocol),
        ports: Some(flows.ports),
        packets: packets(flows),
        original: None,
    };
    Rule { matches, target: Target::Dnat(translation.destination) }
}

/// Conntrack may meet a connection in its middle: one of the node itself, when the first rules come. A packet of it that comes
/// in by a port of a wide range must not be taken for the first of a flow.
fn packets(flows: &FlowMatch) -> Packets {
    match flows.protocol {
        Protocol::Tcp if flows.ports.count() >= WIDE => Packets::Opening,
        Protocol::Tcp | Protocol::Udp => Packets::Any,
    }
}
