//! `nat PREROUTING`: one DNAT rule per translation, each with its destination address and its client.
//!
//! A flow is marked before it is compared with these rules. The mark is removed if it matches none of them. So exactly the
//! translated flows are marked, although no rule names them twice.

use super::stage::{host, narrowed};
use crate::dataplane::iptables::rule::{Matches, Packets, Rule, Target};
use crate::model::{Connmark, Translation};

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
        interface: flows.interface,
        protocol: Some(flows.protocol),
        ports: Some(flows.ports),
        packets: if flows.begins_with_opening() { Packets::Opening } else { Packets::Any },
        ..Matches::default()
    };
    Rule { matches, target: Target::Dnat(translation.destination) }
}
