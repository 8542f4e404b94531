//! Which chains of ours the flows of a translation pass, for people who look.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;

use super::Ruleset;
use super::stage::Stage;
use crate::dataplane::iptables::chain::ChainName;
use crate::dataplane::iptables::rule::{Matches, Target};
use crate::model::Translation;

impl Ruleset {
    /// The chains that the flows of `translation` pass in `stage`, the root first, down to the one that decides.
    #[must_use]
    pub fn path(&self, stage: Stage, translation: &Translation) -> BTreeSet<ChainName> {
        let chains = self.chains(stage.table());
        let mut path = BTreeSet::new();
        let mut next: Vec<ChainName> = chains.contains_key(&stage.root()).then(|| stage.root()).into_iter().collect();
        while let Some(name) = next.pop() {
            for rule in chains.get(&name).into_iter().flatten() {
                if let Target::Jump(to) = &rule.target
                    && meets(stage, &rule.matches, translation)
                    && !path.contains(to)
                {
                    next.push(to.clone());
                }
            }
            path.insert(name);
        }
        path
    }
}

/// Whether some packet of the translation's flows meets what a rule of `stage` matches.
fn meets(stage: Stage, matches: &Matches, translation: &Translation) -> bool {
    let flows = &translation.flows;
    // Behind PREROUTING a packet goes to the upstream already.
    let towards = match stage {
        Stage::Prerouting => flows.destination,
        Stage::Postrouting | Stage::Forward => translation.destination.address,
    };
    let holds = |network: Option<IpNet>, address: IpAddr| network.is_none_or(|network| network.contains(&address));
    let original = matches.original.as_ref().is_none_or(|original| {
        original.protocol == flows.protocol
            && holds(original.destination, flows.destination)
            && original.ports.is_none_or(|ports| ports.overlaps(flows.ports))
    });
    original
        && matches.source.is_none_or(|source| source.contains(&flows.source) || flows.source.contains(&source))
        && holds(matches.destination, towards)
        && (matches.interface.is_none() || matches.interface == flows.interface)
        && matches.protocol.is_none_or(|protocol| protocol == flows.protocol)
        && matches.ports.is_none_or(|ports| ports.overlaps(flows.ports))
}
