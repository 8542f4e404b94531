//! `filter INPUT`: what conntrack takes for invalid of our flows ends here, in silence.
//!
//! Such a packet misses the translation and comes to the node itself, which knows no such connection: its reset would end a
//! connection that is well. Lost, it is sent again.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use super::runs::merged;
use super::stage::{host, narrowed};
use super::trie::FANOUT;
use crate::dataplane::iptables::rule::{Matches, Rule, Target};
use crate::model::{PortRange, Protocol, SourceNat, Translation};

/// The verdicts of INPUT: from those who open flows of TCP, to what they open; and from those to whom the flows go, to whom
/// they answer.
pub(super) fn rules<'a>(translations: impl IntoIterator<Item = &'a Translation>) -> BTreeSet<Rule> {
    let (mut opened, mut answering) = (BTreeMap::<_, Opened>::new(), BTreeMap::<_, BTreeSet<IpAddr>>::new());
    for Translation { flows, destination, source } in translations {
        if flows.protocol != Protocol::Tcp {
            continue;
        }
        opened.entry(flows.destination).or_default().entry(flows.source).or_default().push(flows.ports);
        let external = match source {
            SourceNat::Address(external) => Some(*external),
            // To whichever address of the node.
            SourceNat::Masquerade => None,
        };
        answering.entry(external).or_default().insert(destination.address);
    }
    let mut rules: BTreeSet<Rule> = opened.into_iter().flat_map(|(address, opened)| to_listen_address(address, opened)).collect();
    for (external, upstreams) in answering {
        // Of many upstreams nobody is named, so that a change of one changes no rule here.
        if upstreams.len() <= FANOUT {
            rules.extend(upstreams.into_iter().map(|upstream| rule(Some(host(upstream)), external, None)));
        } else {
            rules.insert(rule(None, external, None));
        }
    }
    rules
}

/// What opens flows to one listen address, and to which ports.
type Opened = BTreeMap<IpNet, Vec<PortRange>>;

/// The rules for one listen address. Of many clients nobody is named: the rules would be as many as clients times ports. What is
/// invalid then ends there whoever sends it, at the ports of forwards only.
fn to_listen_address(address: IpAddr, opened: Opened) -> Vec<Rule> {
    let rules = |client: Option<IpNet>, ports: Vec<PortRange>| {
        let ports = merged(ports).into_iter().map(|ports| (ports != PortRange::ALL).then_some(ports));
        ports.map(|ports| rule(client, Some(address), ports)).collect::<Vec<_>>()
    };
    if opened.len() > FANOUT {
        return rules(None, opened.into_values().flatten().collect());
    }
    opened.into_iter().flat_map(|(client, ports)| rules(Some(client), ports)).collect()
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
