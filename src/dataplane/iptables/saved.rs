//! The content of one table, as `iptables-save` or `iptables -S` prints it.
//!
//! Only the operator's chains are parsed as rules. Of the built-in chains, only the policy and the position of the jump are
//! read. Chains of other programs are skipped, because their text can be misleading (a native nft rule may print as another
//! rule).

use std::collections::{BTreeMap, BTreeSet};

use super::chain::{ChainName, Chains};
use super::layout::Stage;
use super::rule::{Rule, Target};
use crate::model::{FlowMatch, SourceNat, Translation};

/// The content of one table, as far as the operator needs it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SavedTable {
    /// The operator's chains. A rule that the operator does not write is kept as text.
    pub chains: BTreeMap<ChainName, Vec<Result<Rule, String>>>,
    /// The packet counter of each rule in the operator's chains, if counters were printed.
    pub packets: BTreeMap<ChainName, Vec<u64>>,
    /// The built-in chains.
    pub builtins: BTreeMap<String, Builtin>,
}

/// A built-in chain.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Builtin {
    /// The policy, for packets that no rule decides about: `ACCEPT` or `DROP`.
    pub policy: String,
    /// Its rules in order, as text, without the leading `-A CHAIN`.
    pub rules: Vec<String>,
}

/// The position of the jump in a built-in chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JumpState {
    /// It is the first rule, and there is no other jump to the chain.
    First,
    /// There is no jump.
    Missing,
    /// It is after a rule of another program, which has this text.
    Behind(String),
    /// It differs from what the operator writes, or there are several.
    Changed,
}

impl SavedTable {
    /// Reads the output of `iptables-save -t TABLE` or of several `-S CHAIN`, with counters (`-c`, `-v`) or without.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let mut table = Self::default();
        for line in text.lines() {
            let (packets, line) = counted(line);
            let mut words = line.splitn(3, ' ');
            match (words.next(), words.next(), words.next()) {
                (Some("-N"), Some(chain), _) => table.declare(chain, "-"),
                (Some("-P"), Some(chain), Some(policy)) => table.declare(chain, policy),
                (Some("-A"), Some(chain), Some(rule)) => table.append(chain, rule, packets),
                (Some(head), Some(policy), _) if head.starts_with(':') => table.declare(&head[1..], policy),
                _ => {}
            }
        }
        table
    }

    fn declare(&mut self, chain: &str, policy: &str) {
        if let Ok(name) = chain.parse() {
            self.chains.entry(name).or_default();
        } else if policy != "-" {
            let policy = policy.to_owned();
            self.builtins.insert(chain.to_owned(), Builtin { policy, rules: Vec::new() });
        }
    }

    fn append(&mut self, chain: &str, rule: &str, packets: Option<u64>) {
        if let Some(builtin) = self.builtins.get_mut(chain) {
            builtin.rules.push(rule.to_owned());
        } else if let Ok(name) = chain.parse::<ChainName>()
            && let Some(rules) = self.chains.get_mut(&name)
        {
            rules.push(rule.parse().map_err(|_| rule.to_owned()));
            if let Some(packets) = packets {
                self.packets.entry(name).or_default().push(packets);
            }
        }
    }

    /// The DNAT rules with counters, by chain: the flow match and the number of packets of each.
    pub(super) fn counted(&self) -> impl Iterator<Item = (&ChainName, Vec<(FlowMatch, u64)>)> {
        self.packets.iter().map(|(name, packets)| {
            let rules = self.chains.get(name).map_or(&[][..], Vec::as_slice);
            let translated = |(rule, packets): (&Result<Rule, String>, &u64)| {
                translation(rule.as_ref().ok()?).map(|translation| (translation.flows, *packets))
            };
            (name, rules.iter().zip(packets).filter_map(translated).collect())
        })
    }

    /// Whether the chain `name` has exactly `rules`.
    #[must_use]
    pub fn holds(&self, name: &ChainName, rules: &[Rule]) -> bool {
        self.chains
            .get(name)
            .is_some_and(|held| held.len() == rules.len() && held.iter().zip(rules).all(|(held, rule)| held.as_ref() == Ok(rule)))
    }

    /// The names of the chains that differ from `desired`: they are missing or have other rules.
    pub fn differing<'a>(&'a self, desired: &'a Chains) -> impl Iterator<Item = &'a ChainName> {
        desired.iter().filter(|(name, rules)| !self.holds(name, rules)).map(|(name, _)| name)
    }

    /// The names of the operator's chains that are not in `desired`.
    pub fn stale<'a>(&'a self, desired: &'a Chains) -> impl Iterator<Item = &'a ChainName> {
        self.chains.keys().filter(|name| !desired.contains_key(*name))
    }

    /// The translations with a DNAT rule in force that are not in `desired`.
    #[must_use]
    pub fn translations_beside(&self, desired: &Chains) -> Vec<Translation> {
        if self.chains.keys().eq(desired.keys()) && self.differing(desired).next().is_none() {
            return Vec::new();
        }
        let wanted: BTreeSet<Translation> = desired.values().flatten().filter_map(translation).collect();
        self.translations().into_iter().filter(|translation| !wanted.contains(translation)).collect()
    }

    /// The position of the jump of `stage`.
    #[must_use]
    pub fn jump(&self, stage: Stage) -> JumpState {
        let ours = self.jumps(stage);
        match (ours.as_slice(), self.rules(stage).first()) {
            ([], _) | (_, None) => JumpState::Missing,
            ([only], Some(first)) if only == stage.jump() && first == only => JumpState::First,
            ([only], Some(first)) if only == stage.jump() => JumpState::Behind(first.clone()),
            ([..], Some(_)) => JumpState::Changed,
        }
    }

    /// The rules of the built-in chain that jump to the root chain of `stage`, as text.
    #[must_use]
    pub fn jumps(&self, stage: Stage) -> Vec<String> {
        let to = format!("-j {}", stage.root());
        self.rules(stage).iter().filter(|rule| rule.ends_with(&to)).cloned().collect()
    }

    fn rules(&self, stage: Stage) -> &[String] {
        self.builtins.get(stage.builtin()).map_or(&[], |builtin| &builtin.rules)
    }

    /// The policy of the built-in chain of `stage` (`ACCEPT` if the table does not exist yet).
    #[must_use]
    pub fn policy(&self, stage: Stage) -> &str {
        self.builtins.get(stage.builtin()).map_or("ACCEPT", |builtin| &builtin.policy)
    }

    /// The translations with a DNAT rule in force. Their new source is not known here and is given as `Masquerade`.
    #[must_use]
    pub fn translations(&self) -> Vec<Translation> {
        self.chains.values().flatten().filter_map(|rule| translation(rule.as_ref().ok()?)).collect()
    }
}

/// The packet counter of a rule: before the rule, as `iptables-save -c` prints it, or inside of it, as `-S -v` does; and
/// the rest of the line.
fn counted(line: &str) -> (Option<u64>, &str) {
    if let Some((counts, rule)) = line.strip_prefix('[').and_then(|rest| rest.split_once("] ")) {
        return (counts.split(':').next().and_then(|packets| packets.parse().ok()), rule);
    }
    let packets = line.split_once(" -c ").and_then(|(_, rest)| rest.split(' ').next()?.parse().ok());
    (packets, line)
}

/// The translation of a DNAT rule, as far as the rule shows it.
pub(super) fn translation(rule: &Rule) -> Option<Translation> {
    let Target::Dnat(destination) = rule.target else { return None };
    let matches = &rule.matches;
    let listen = matches.destination?.network();
    let anyone = match listen {
        std::net::IpAddr::V4(_) => ipnet::IpNet::from(ipnet::Ipv4Net::default()),
        std::net::IpAddr::V6(_) => ipnet::IpNet::from(ipnet::Ipv6Net::default()),
    };
    let flows = FlowMatch {
        protocol: matches.protocol?,
        destination: listen,
        ports: matches.ports?,
        source: matches.source.unwrap_or(anyone),
        interface: matches.interface,
    };
    Some(Translation { flows, destination, source: SourceNat::Masquerade })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAVED: &str = "# Generated by iptables-save
*nat
:PREROUTING ACCEPT [3:180]
:POSTROUTING ACCEPT [0:0]
:DOCKER - [0:0]
:PF-PRE - [0:0]
-A PREROUTING -m addrtype --dst-type LOCAL -j PF-PRE
-A PREROUTING -j DOCKER
-A POSTROUTING -s 10.0.0.0/8 -j MASQUERADE
-A POSTROUTING -j PF-POST
-A DOCKER -i docker0 -j RETURN
-A PF-PRE -s 1.1.1.1/32 -d 192.168.0.2/32 -p tcp -m tcp --dport 80 -j DNAT --to-destination 3.3.3.3:80
-A PF-PRE -j LOG
COMMIT
";

    #[test]
    fn a_saved_table_tells_our_chains_and_where_our_jumps_stand() {
        let table = SavedTable::parse(SAVED);
        assert_eq!(table.jump(Stage::Prerouting), JumpState::First);
        assert_eq!(table.jump(Stage::Postrouting), JumpState::Behind("-s 10.0.0.0/8 -j MASQUERADE".into()));
        assert_eq!(table.jumps(Stage::Postrouting), ["-j PF-POST"]);
        assert_eq!(table.jump(Stage::Forward), JumpState::Missing);
        let chain = &table.chains[&"PF-PRE".parse().unwrap()];
        assert!(chain[0].is_ok());
        assert_eq!(chain[1], Err("-j LOG".into()));
        assert_eq!(table.chains.len(), 1);
        assert_eq!(table.translations().len(), 1);
    }

    #[test]
    fn counters_are_read_in_both_forms_and_change_no_rule() {
        let dnat = "-d 192.168.0.2/32 -p tcp -m tcp --dport 80";
        let to = "-j DNAT --to-destination 3.3.3.3:80";
        let plain = SavedTable::parse(&format!("-N PF-pt\n-A PF-pt {dnat} {to}\n-A PF-pt -j PF-ptx\n"));
        assert_eq!(plain.packets, BTreeMap::new());
        for text in [
            format!("-N PF-pt\n-A PF-pt {dnat} -c 12 720 {to}\n-A PF-pt -c 3 180 -j PF-ptx\n"),
            format!(":PF-pt - [0:0]\n[12:720] -A PF-pt {dnat} {to}\n[3:180] -A PF-pt -j PF-ptx\n"),
        ] {
            let table = SavedTable::parse(&text);
            assert_eq!(table.chains, plain.chains, "{text}");
            let counted: Vec<_> = table.counted().collect();
            assert_eq!(counted.len(), 1, "{text}");
            assert_eq!(counted[0].0.as_str(), "PF-pt");
            assert_eq!(
                counted[0].1.iter().map(|(flows, packets)| (flows.ports.first(), *packets)).collect::<Vec<_>>(),
                [(80, 12)]
            );
        }
    }

    #[test]
    fn a_changed_or_doubled_jump_is_not_first() {
        for rules in [
            "-A PREROUTING -j PF-PRE",
            "-A PREROUTING -m addrtype --dst-type LOCAL -j PF-PRE\n-A PREROUTING -m addrtype --dst-type LOCAL -j PF-PRE",
        ] {
            assert_eq!(
                SavedTable::parse(&format!("-P PREROUTING ACCEPT\n{rules}\n")).jump(Stage::Prerouting),
                JumpState::Changed
            );
        }
    }
}
