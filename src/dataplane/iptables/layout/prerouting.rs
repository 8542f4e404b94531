//! `nat PREROUTING`: one DNAT rule per translation, each with its destination address and its client.

use super::stage::{host, narrowed};
use crate::dataplane::iptables::rule::{Matches, Rule, Target};
use crate::model::Translation;

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
        original: None,
    };
    Rule { matches, target: Target::Dnat(translation.destination) }
}
