//! `filter INPUT`: what conntrack takes for invalid of our flows ends here, in silence.
//!
//! Such a packet misses the translation and comes to the node itself, which knows no such connection: its reset would end a
//! connection that is well. Lost, it is sent again.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;

use super::stage::{host, narrowed};
use super::trie::FANOUT;
use crate::dataplane::iptables::rule::{Matches, Rule, Target};
use crate::model::{PortRange, Protocol, SourceNat, Translation};

/// The verdicts of INPUT: from those who open flows of TCP, to what they open; and from those to whom the flows go, to whom
/// they answer.
pub(super) fn rules<'a>(translations: impl IntoIterator<Item = &'a Translation>) -> BTreeSet<Rule> {
    let (mut rules, mut masqueraded) = (BTreeSet::new(), BTreeSet::new());
    for Translation { flows, destination, source } in translations {
        if flows.protocol != Protocol::Tcp {
            continue;
        }
        let ports = (flows.ports != PortRange::ALL).then_some(flows.ports);
        rules.insert(rule(Some(flows.source), Some(flows.destination), ports));
        match source {
            SourceNat::Address(external) => drop(rules.insert(rule(Some(host(destination.address)), Some(*external), None))),
            SourceNat::Masquerade => drop(masqueraded.insert(destination.address)),
        }
    }
    // To whichever address of the node. Who answers cannot be looked up by it, so of many nobody is named.
    if masqueraded.len() <= FANOUT {
        rules.extend(masqueraded.into_iter().map(|upstream| rule(Some(host(upstream)), None, None)));
    } else {
        rules.insert(rule(None, None, None));
    }
    rules
}

fn rule(source: Option<IpNet>, destination: Option<IpAddr>, ports: Option<PortRange>) -> Rule {
    let matches = Matches {
        source: source.and_then(narrowed),
        destination: destination.map(host),
        protocol: Some(Protocol::Tcp),
        ports,
        ..Matches::default()
    };
    Rule { matches, target: Target::Drop }
}
