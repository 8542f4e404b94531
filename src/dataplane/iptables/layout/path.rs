//! The chains of the operator that the flows of a translation pass. Used for the output to users.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;

use super::Ruleset;
use super::stage::Stage;
use crate::dataplane::iptables::chain::ChainName;
use crate::dataplane::iptables::rule::{Matches, Target};
use crate::model::{Protocol, SourceNat, Translation};

impl Ruleset {
    /// The chains that the flows of `translation` pass in `stage`, from the root down to the one that decides.
    #[must_use]
    pub fn path(&self, stage: Stage, translation: &Translation) -> BTreeSet<ChainName> {
        let chains = self.chains(stage.table());
        let mut path = BTreeSet::new();
        let mut next: Vec<ChainName> = chains.contains_key(&stage.root()).then(|| stage.root()).into_iter().collect();
        while let Some(name) = next.pop() {
            for rule in chains.get(&name).into_iter().flatten() {
                if let Target::Jump(to) = &rule.target
                    && stage.meets(&rule.matches, translation)
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

impl Stage {
    /// Whether some packet of the translation's flows matches this rule of the stage.
    pub(in crate::dataplane::iptables) fn meets(self, matches: &Matches, translation: &Translation) -> bool {
        let flows = &translation.flows;
        // After PREROUTING, the destination of a packet is the upstream already.
        let towards = match self {
            Self::Prerouting => flows.destination,
            Self::Postrouting | Self::Forward => translation.destination.address,
            Self::Input => return answers(matches, translation) || Self::Prerouting.meets(matches, translation),
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
}

/// Whether what answers the flows of `translation` meets what a rule of INPUT matches.
fn answers(matches: &Matches, Translation { destination, source, flows }: &Translation) -> bool {
    let to = match source {
        SourceNat::Address(external) => matches.destination.is_none_or(|network| network.contains(external)),
        SourceNat::Masquerade => true,
    };
    to && flows.protocol == Protocol::Tcp
        && matches.original.is_none()
        && matches.ports.is_none()
        && matches.source.is_none_or(|network| network.contains(&destination.address))
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::dataplane::iptables::FANOUT;
    use crate::dataplane::iptables::rule::Rule;
    use crate::model::{Connmark, Destination, FlowMatch, PortRange, Protocol, SourceNat, TargetPorts, Translations};

    fn translation(number: u16) -> Translation {
        let [_, client] = number.to_be_bytes();
        Translation {
            flows: FlowMatch {
                protocol: Protocol::Tcp,
                destination: Ipv4Addr::new(192, 168, 0, 2).into(),
                ports: PortRange::single((80 + number).try_into().unwrap()),
                source: IpNet::from(IpAddr::from([10, 0, 0, client])),
                interface: None,
            },
            destination: Destination { address: [3, 3, 3, client].into(), ports: TargetPorts::One(80) },
            source: SourceNat::Address([2, 2, 2, client].into()),
        }
    }

    #[test]
    fn the_path_leads_from_the_root_to_the_chain_that_decides_and_nowhere_else() {
        let set: Translations = (0..200).map(translation).collect();
        let ruleset = Ruleset::of(&set, Connmark::default());
        for translation in &set {
            for stage in Stage::ALL {
                let path = ruleset.path(stage, translation);
                assert!(path.contains(&stage.root()) && path.len() < 8, "{stage:?}: {path:?}");
                let chains = ruleset.chains(stage.table());
                let decides = |rule: &Rule| rule.is_verdict() && stage.meets(&rule.matches, translation);
                let deciding: Vec<&ChainName> = chains
                    .iter()
                    .filter(|(name, rules)| of(stage, name) && rules.iter().any(decides))
                    .map(|(name, _)| name)
                    .collect();
                // INPUT decides about both directions.
                let single = deciding.len() == 1 || stage == Stage::Input && !deciding.is_empty();
                assert!(single && deciding.iter().all(|chain| path.contains(*chain)), "{stage:?}: {deciding:?} {path:?}");
            }
        }
        assert!(ruleset.chains(Stage::Prerouting.table()).len() > FANOUT);
        assert_eq!(Ruleset::default().path(Stage::Forward, &translation(0)), BTreeSet::new());
    }

    /// Whether a chain belongs to this stage: `nat` contains the chains of two stages.
    fn of(stage: Stage, name: &ChainName) -> bool {
        name.as_str().starts_with(&format!("PF-{}", stage.letter())) || *name == stage.root()
    }
}
