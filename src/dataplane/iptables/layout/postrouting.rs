//! `nat POSTROUTING`: the new source of a translated flow, by its conntrack entry.
//!
//! Only marked flows come here, so a rule may cover addresses and ports on which no forward listens. If all flows of a protocol get
//! the same source, there is one rule for them, and otherwise one for each prefix of listen addresses with the same source. If the
//! source differs within one listen address, there is one rule for each range of ports with the same source. If it differs by
//! client, there is one rule for each client prefix with the same source.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use super::prefix::{LEVEL, Prefix};
use super::runs::{joined, overlapping};
use super::stage::{host, narrowed};
use crate::dataplane::iptables::rule::{MarkMatch, Matches, Original, Rule, Target};
use crate::model::{Connmark, PortRange, Protocol, SourceNat, Translation};

/// The final rules of POSTROUTING.
pub(super) fn rules<'a>(translations: impl IntoIterator<Item = &'a Translation>) -> Vec<Rule> {
    let mut protocols = BTreeMap::<Protocol, BTreeMap<IpAddr, Vec<&Translation>>>::new();
    for translation in translations {
        let flows = &translation.flows;
        protocols.entry(flows.protocol).or_default().entry(flows.destination).or_default().push(translation);
    }
    protocols.into_iter().flat_map(|(protocol, served)| of_protocol(protocol, &served)).collect()
}

/// Adds to the rules of the root chain the one that leaves out the flows of others.
pub(super) fn skip_unmarked(root: &mut Vec<Rule>, mark: Connmark) {
    let matches = Matches { mark: Some(MarkMatch::Unset(mark)), ..Matches::default() };
    root.insert(0, Rule { matches, target: Target::Return });
}

fn of_protocol(protocol: Protocol, served: &BTreeMap<IpAddr, Vec<&Translation>>) -> Vec<Rule> {
    let sources: BTreeMap<IpAddr, Option<SourceNat>> =
        served.iter().map(|(address, served)| (*address, source_of(served))).collect();
    let rule = |destination, source| rule(None, None, Original { protocol, destination, ports: None }, source);
    let mut different = sources.values();
    if let Some(Some(source)) = different.next()
        && different.all(|other| *other == Some(*source))
    {
        return vec![rule(None, *source)];
    }
    let by_address = covered(sources.iter().map(|(address, source)| (host(*address), *source)).collect());
    let mut rules: Vec<Rule> =
        by_address.into_iter().filter_map(|(addresses, source)| Some(rule(Some(addresses), source?))).collect();
    let mixed = served.iter().filter(|(address, _)| sources[*address].is_none());
    rules.extend(mixed.flat_map(|(address, served)| Listen { protocol, address: *address }.rules(served)));
    rules
}

/// The new source of all these flows, if it is the same one.
fn source_of(served: &[&Translation]) -> Option<SourceNat> {
    let (first, rest) = served.split_first()?;
    rest.iter().all(|other| other.source == first.source).then_some(first.source)
}

/// One listen address and protocol.
#[derive(Clone, Copy)]
struct Listen {
    protocol: Protocol,
    address: IpAddr,
}

impl Listen {
    /// The rules for different sources.
    fn rules(self, served: &[&Translation]) -> Vec<Rule> {
        let mut rules = Vec::new();
        // The last range of ports with one source. It grows over ports on which no forward listens.
        let mut last: Option<(PortRange, SourceNat)> = None;
        for (ports, run) in runs(served) {
            let source = source_of(&run);
            last = match (last, source) {
                (Some((before, same)), Some(source)) if same == source => Some((joined(before, ports), source)),
                (last, source) => {
                    rules.extend(last.map(|(ports, source)| self.rule(None, None, ports, source)));
                    source.map(|source| (ports, source))
                }
            };
            if source.is_none() {
                rules.extend(self.by_client(&run));
            }
        }
        rules.extend(last.map(|(ports, source)| self.rule(None, None, ports, source)));
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
        let original = Original { protocol: self.protocol, destination: Some(host(self.address)), ports: Some(ports) };
        rule(client, upstream, original, source)
    }
}

fn rule(client: Option<IpNet>, upstream: Option<IpAddr>, original: Original, source: SourceNat) -> Rule {
    let matches = Matches {
        source: client.and_then(narrowed),
        destination: upstream.map(host),
        original: Some(original),
        ..Matches::default()
    };
    let target = match source {
        SourceNat::Address(address) => Target::Snat(address),
        SourceNat::Masquerade => Target::Masquerade,
    };
    Rule { matches, target }
}

/// The translations of one listen address, by ranges of overlapping ports, in order.
fn runs<'a>(served: &[&'a Translation]) -> Vec<(PortRange, Vec<&'a Translation>)> {
    let bounds = overlapping(served.iter().map(|translation| translation.flows.ports));
    let mut runs: Vec<(PortRange, Vec<&Translation>)> = bounds.into_iter().map(|ports| (ports, Vec::new())).collect();
    for translation in served {
        let run = runs.partition_point(|(ports, _)| ports.last() < translation.flows.ports.first());
        runs[run].1.push(*translation);
    }
    runs
}

/// Prefixes that give each network its source: one for all neighbouring networks with the same source. A prefix of several networks
/// is on a whole level, and may cover other addresses.
fn covered<S: Copy + PartialEq>(networks: BTreeMap<IpNet, S>) -> Vec<(IpNet, S)> {
    let networks: Vec<(Prefix, S)> =
        networks.into_iter().map(|(network, source)| (Prefix::of_network(network), source)).collect();
    let mut prefixes = Vec::new();
    cover(networks, &mut prefixes);
    prefixes
}

fn cover<S: Copy + PartialEq>(networks: Vec<(Prefix, S)>, prefixes: &mut Vec<(IpNet, S)>) {
    if let [(network, source)] = networks[..] {
        return prefixes.push((network.network(), source));
    }
    let Some(whole) = networks.iter().map(|(network, _)| *network).reduce(Prefix::common).map(Prefix::whole_levels) else {
        return;
    };
    let mut sources = networks.iter().map(|(_, source)| *source);
    if let Some(source) = sources.next()
        && sources.all(|other| other == source)
    {
        return prefixes.push((whole.network(), source));
    }
    let mut children = BTreeMap::<Prefix, Vec<(Prefix, S)>>::new();
    for (network, source) in networks {
        if network.len() >= whole.len() + LEVEL {
            children.entry(network.truncated(whole.len() + LEVEL)).or_default().push((network, source));
        } else {
            prefixes.push((network.network(), source));
        }
    }
    for networks in children.into_values() {
        cover(networks, prefixes);
    }
}
