//! `nat POSTROUTING`: the new source of a translated flow, by its conntrack entry.
//!
//! If all flows to a port get the same source, one rule per range of such ports covers all clients. If the source differs
//! by client, there is one rule per client prefix, and prefixes with the same source are merged into one rule.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use super::prefix::{LEVEL, Prefix};
use super::runs::{merged, overlapping};
use super::stage::{host, narrowed};
use crate::dataplane::iptables::rule::{Matches, Original, Rule, Target};
use crate::model::{PortRange, Protocol, SourceNat, Translation};

/// The final rules of POSTROUTING.
pub(super) fn rules<'a>(translations: impl IntoIterator<Item = &'a Translation>) -> Vec<Rule> {
    let mut listeners = BTreeMap::<(Protocol, IpAddr), Vec<&Translation>>::new();
    for translation in translations {
        listeners.entry((translation.flows.protocol, translation.flows.destination)).or_default().push(translation);
    }
    listeners.into_iter().flat_map(|((protocol, address), served)| Listen { protocol, address }.rules(&served)).collect()
}

/// One listen address and protocol.
#[derive(Clone, Copy)]
struct Listen {
    protocol: Protocol,
    address: IpAddr,
}

impl Listen {
    fn rules(self, served: &[&Translation]) -> Vec<Rule> {
        let mut rules = Vec::new();
        let mut plain = BTreeMap::<SourceNat, Vec<PortRange>>::new();
        for run in runs(served) {
            let sources: BTreeSet<SourceNat> = run.iter().map(|translation| translation.source).collect();
            if let (1, Some(source)) = (sources.len(), sources.first()) {
                plain.entry(*source).or_default().extend(run.iter().map(|translation| translation.flows.ports));
            } else {
                rules.extend(self.by_client(&run));
            }
        }
        for (source, ports) in plain {
            rules.extend(merged(ports).into_iter().map(|ports| self.rule(None, None, ports, source)));
        }
        rules
    }

    /// The rules for a range of overlapping ports with different sources.
    fn by_client(self, run: &[&Translation]) -> BTreeSet<Rule> {
        let ports: BTreeSet<PortRange> = run.iter().map(|translation| translation.flows.ports).collect();
        let interfaces: BTreeSet<_> = run.iter().map(|translation| &translation.flows.interface).collect();
        if interfaces.len() > 1 {
            // One client and port may be served differently by interface, which POSTROUTING cannot see. The new destination
            // of the flow distinguishes them.
            let rule = |t: &&Translation| self.rule(Some(t.flows.source), Some(t.destination.address), t.flows.ports, t.source);
            run.iter().map(rule).collect()
        } else if let (1, Some(ports)) = (ports.len(), ports.first()) {
            let clients = run.iter().map(|translation| (translation.flows.source, translation.source)).collect();
            covered(clients).into_iter().map(|(client, source)| self.rule(Some(client), None, *ports, source)).collect()
        } else {
            run.iter().map(|t| self.rule(Some(t.flows.source), None, t.flows.ports, t.source)).collect()
        }
    }

    fn rule(self, client: Option<IpNet>, upstream: Option<IpAddr>, ports: PortRange, source: SourceNat) -> Rule {
        let matches = Matches {
            source: client.and_then(narrowed),
            destination: upstream.map(host),
            original: Some(Original { protocol: self.protocol, destination: Some(host(self.address)), ports: Some(ports) }),
            ..Matches::default()
        };
        let target = match source {
            SourceNat::Address(address) => Target::Snat(address),
            SourceNat::Masquerade => Target::Masquerade,
        };
        Rule { matches, target }
    }
}

/// The translations of one listen address, by ranges of overlapping ports.
fn runs<'a>(served: &[&'a Translation]) -> Vec<Vec<&'a Translation>> {
    let bounds = overlapping(served.iter().map(|translation| translation.flows.ports));
    let mut runs = vec![Vec::new(); bounds.len()];
    for translation in served {
        let run = bounds.partition_point(|run| run.last() < translation.flows.ports.first());
        runs[run].push(*translation);
    }
    runs
}

/// The smallest set of prefixes on whole levels that gives each client its source. It may also cover addresses that are not
/// clients: no DNAT rule accepts them.
fn covered(clients: BTreeMap<IpNet, SourceNat>) -> Vec<(IpNet, SourceNat)> {
    let clients: Vec<(Prefix, SourceNat)> =
        clients.into_iter().map(|(client, source)| (Prefix::of_network(client), source)).collect();
    let mut prefixes = Vec::new();
    cover(clients, None, &mut prefixes);
    prefixes
}

/// `within`: the prefix one level above that contains the clients.
fn cover(clients: Vec<(Prefix, SourceNat)>, within: Option<Prefix>, prefixes: &mut Vec<(IpNet, SourceNat)>) {
    let Some(source) = clients.first().map(|(_, source)| *source) else { return };
    if let Some(within) = within
        && clients.iter().all(|(_, other)| *other == source)
    {
        return prefixes.push((within.network(), source));
    }
    let Some(whole) = clients.iter().map(|(client, _)| *client).reduce(Prefix::common).map(Prefix::whole_levels) else { return };
    let mut children = BTreeMap::<Prefix, Vec<(Prefix, SourceNat)>>::new();
    for (client, source) in clients {
        if client.len() >= whole.len() + LEVEL {
            children.entry(client.truncated(whole.len() + LEVEL)).or_default().push((client, source));
        } else {
            prefixes.push((client.network(), source));
        }
    }
    for (within, clients) in children {
        cover(clients, Some(within), prefixes);
    }
}
