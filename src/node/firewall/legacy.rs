//! Tables of legacy xtables, as `iptables-legacy-save` prints them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use super::{is_ours, xtables};
use crate::dataplane::iptables::{Variant, legacy_tables, print_legacy};
use crate::model::{Action, BaseChain, Condition, Field, FilterRule, Hook, NamePattern, Polarity, Policy, Purpose, Tool, Way};

/// The maximum number of rules that are read from a table. A table with more is not interpreted.
const MOST_RULES: usize = 2000;

/// The built-in chains of other programs that forwarded packets pass.
pub(super) async fn base_chains(ours: Variant) -> Vec<BaseChain> {
    let mut found = Vec::new();
    for table in legacy_tables() {
        let whole_is_ours = ours == Variant::Legacy && matches!(table.as_str(), "filter" | "nat");
        if whole_is_ours {
            continue;
        }
        // A table that was deleted, or that the program does not support, is left out.
        if let Ok(text) = print_legacy(&table).await {
            found
                .extend(parse(&table, &text).into_iter().filter(|chain| ours != Variant::Legacy || !is_ours(&table, chain.hook)));
        }
    }
    found
}

/// The built-in chains of a table.
pub(super) fn parse(table: &str, text: &str) -> Vec<BaseChain> {
    let (mut chains, mut policies) = (BTreeMap::<String, Vec<FilterRule>>::new(), BTreeMap::<String, Policy>::new());
    let mut count = 0;
    for line in text.lines() {
        if let Some((name, rest)) = line.strip_prefix(':').and_then(|line| line.split_once(' ')) {
            chains.entry(name.to_owned()).or_default();
            match rest.split(' ').next() {
                Some("DROP") => drop(policies.insert(name.to_owned(), Policy::Drop)),
                Some("ACCEPT") => drop(policies.insert(name.to_owned(), Policy::Accept)),
                Some(_) | None => {}
            }
        } else if let Some((name, rule)) = line.strip_prefix("-A ").and_then(|line| line.split_once(' ')) {
            count += 1;
            let rules = chains.entry(name.to_owned()).or_default();
            rules.push(if count > MOST_RULES { FilterRule::uncertain() } else { self::rule(rule) });
            rules.truncate(MOST_RULES + 1);
        }
    }
    let base = |(name, policy): (String, Policy)| {
        let (hook, priority) = place(table, &name)?;
        let rules = chains.get(&name).cloned().unwrap_or_default();
        Some(BaseChain {
            tool: Tool::IptablesLegacy,
            table: table.to_owned(),
            purpose: if table == "nat" { Purpose::Nat } else { Purpose::Filter },
            hook,
            priority,
            devices: BTreeSet::new(),
            policy,
            jumps: reached(&rules, &chains),
            rules,
            name,
        })
    };
    policies.into_iter().filter_map(base).collect()
}

/// The hook and priority of a built-in chain (`enum nf_ip_hook_priorities`, `include/uapi/linux/netfilter_ipv4.h`).
fn place(table: &str, chain: &str) -> Option<(Hook, i32)> {
    let hook = match chain {
        "PREROUTING" => Hook::Prerouting,
        "FORWARD" => Hook::Forward,
        "POSTROUTING" => Hook::Postrouting,
        _ => return None,
    };
    let priority = match (table, hook) {
        ("raw", _) => -300,
        ("mangle", _) => -150,
        ("nat", Hook::Prerouting) => -100,
        ("nat", _) => 100,
        ("security", _) => 50,
        (_, _) => 0,
    };
    Some((hook, priority))
}

/// The chains that `rules` jump to, directly or through other chains.
fn reached(rules: &[FilterRule], chains: &BTreeMap<String, Vec<FilterRule>>) -> BTreeMap<String, Vec<FilterRule>> {
    let mut found = BTreeMap::new();
    let mut next: Vec<&FilterRule> = rules.iter().collect();
    while let Some(rule) = next.pop() {
        if let Action::Jump(name) | Action::Goto(name) = &rule.action
            && !found.contains_key(name)
            && let Some(rules) = chains.get(name)
        {
            found.insert(name.clone(), rules.clone());
            next.extend(rules);
        }
    }
    found
}

/// A rule as iptables-save(8) prints it, without its chain.
pub(super) fn rule(text: &str) -> FilterRule {
    let words = words(text);
    let mut words = words.iter().map(String::as_str).peekable();
    let (mut conditions, mut action, mut polarity) = (Vec::new(), Action::Continue, Polarity::Is);
    while let Some(word) = words.next() {
        if word == "!" {
            polarity = Polarity::IsNot;
            continue;
        }
        let mut value = || words.next().unwrap_or_default();
        match word {
            "-m" | "--comment" => drop(value()),
            // The arguments of a target are options of their own.
            "-j" => {
                let target = value();
                action = match xtables::action(target) {
                    Some(Action::Uncertain) if !is_extension(target) => Action::Jump(target.to_owned()),
                    Some(action) => action,
                    None => Action::Continue,
                };
                if target == "CT" && words.by_ref().any(|word| word == "--notrack") {
                    action = Action::Untrack;
                }
                break;
            }
            "-g" => {
                action = Action::Goto(value().to_owned());
                break;
            }
            word => conditions.push(condition(word, value(), polarity)),
        }
        polarity = Polarity::Is;
    }
    FilterRule { conditions, action }
}

/// Whether a target is an extension and not a chain. A known extension ends the rule with an action that is not
/// interpreted.
fn is_extension(target: &str) -> bool {
    matches!(target, "QUEUE" | "NFQUEUE" | "TPROXY" | "SYNPROXY" | "CLUSTERIP" | "IDLETIMER" | "RATEEST" | "HMARK" | "LED")
}

fn condition(option: &str, value: &str, polarity: Polarity) -> Condition {
    let within = |field, range| Condition::Within { field, ranges: vec![range], polarity };
    let network = |field| {
        let network = value.parse::<Ipv4Net>().or_else(|_| value.parse::<Ipv4Addr>().map(Ipv4Net::from));
        network.map_or(Condition::Uncertain, |net| {
            within(field, u64::from(u32::from(net.network()))..=u64::from(u32::from(net.broadcast())))
        })
    };
    let ports = |field| {
        let (first, last) = value.split_once(':').unwrap_or((value, value));
        let range = first.parse().and_then(|first| Ok(first..=last.parse()?));
        range.map_or(Condition::Uncertain, |range| within(field, range))
    };
    let interface = |way| {
        let name = match value.strip_suffix('+') {
            Some(start) => NamePattern::Prefix(start.to_owned()),
            None => NamePattern::Exact(value.to_owned()),
        };
        Condition::Interface { way, names: vec![name], polarity }
    };
    match option {
        "-s" => network(Field::Source),
        "-d" => network(Field::Destination),
        "-i" => interface(Way::In),
        "-o" => interface(Way::Out),
        "-p" => protocol(value).map_or(Condition::Uncertain, |number| within(Field::Protocol, number..=number)),
        "--sport" => ports(Field::SourcePort),
        "--dport" => ports(Field::DestinationPort),
        "--ctorigsrc" => network(Field::OriginalSource),
        "--ctorigdst" => network(Field::OriginalDestination),
        "--ctorigdstport" => ports(Field::OriginalDestinationPort),
        "--mark" => {
            let number = |text: &str| match text.strip_prefix("0x") {
                Some(digits) => u64::from_str_radix(digits, 16).ok(),
                None => text.parse().ok(),
            };
            let (value, mask) = value.split_once('/').unwrap_or((value, "0xffffffff"));
            match (number(value), number(mask)) {
                (Some(value), Some(mask)) => xtables::marked(value, mask, polarity),
                (_, _) => Condition::Uncertain,
            }
        }
        "--ctstate" | "--state" => states(value).map_or(Condition::Uncertain, |states| xtables::state(states, polarity)),
        _ => Condition::Uncertain,
    }
}

fn protocol(name: &str) -> Option<u64> {
    match name {
        "tcp" => Some(6),
        "udp" => Some(17),
        "icmp" => Some(1),
        "sctp" => Some(132),
        number => number.parse().ok(),
    }
}

/// States as the bits of `xt_conntrack.h`.
fn states(list: &str) -> Option<u16> {
    let bit = |state| match state {
        "INVALID" => Some(1),
        "ESTABLISHED" => Some(2),
        "RELATED" => Some(4),
        "NEW" => Some(8),
        "SNAT" => Some(0x40),
        "DNAT" => Some(0x80),
        _ => None,
    };
    list.split(',').map(bit).try_fold(0, |all, bit| Some(all | bit?))
}

/// The words of a line; text in quotes is one word.
fn words(text: &str) -> Vec<String> {
    let (mut words, mut word, mut quoted, mut escaped) = (Vec::new(), String::new(), false, false);
    for c in text.chars() {
        match c {
            c if escaped => {
                word.push(c);
                escaped = false;
            }
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            ' ' if !quoted => {
                if !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
            }
            c => word.push(c),
        }
    }
    if !word.is_empty() {
        words.push(word);
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_read_with_policies_and_the_chains_that_are_reached() {
        let text = "# Generated\n*filter\n:INPUT DROP [0:0]\n:FORWARD DROP [3:180]\n:a - [0:0]\n:b - [0:0]\n:c - [0:0]\n\
                    -A FORWARD -j a\n-A a -g b\n-A b -j RETURN\n-A c -j DROP\nCOMMIT\n";
        let chains = parse("filter", text);
        let [forward] = chains.as_slice() else { panic!("{chains:?}") };
        assert_eq!((forward.name.as_str(), forward.hook, forward.priority), ("FORWARD", Hook::Forward, 0));
        assert_eq!((forward.policy, forward.tool), (Policy::Drop, Tool::IptablesLegacy));
        assert_eq!(forward.rules, [FilterRule { conditions: vec![], action: Action::Jump("a".to_owned()) }]);
        assert_eq!(forward.jumps.keys().collect::<Vec<_>>(), ["a", "b"]);
    }

    #[test]
    fn what_is_not_understood_is_uncertain_and_never_left_out() {
        let uncertain = |text: &str| rule(text).conditions.contains(&Condition::Uncertain);
        for text in [
            "-m set --match-set trusted src -j ACCEPT",
            "-s 1.1.1.1 -m limit --limit 3/min -j DROP",
            "-p tcp -m multiport --dports 80,443 -j ACCEPT",
            "-p 6 -m tcp --tcp-flags SYN,RST SYN -j DROP",
            "-m conntrack --ctstatus ASSURED -j ACCEPT",
        ] {
            assert!(uncertain(text), "{text}: {:?}", rule(text));
        }
        for text in [
            "-i eth1 ! -o eth0 -p tcp -m tcp --dport 80:90 -j ACCEPT",
            "! -s 10.0.0.0/8 -d 1.1.1.1/32 -m comment --comment \"a -j b\" -j REJECT --reject-with icmp-port-unreachable",
            "-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
            "-m conntrack --ctstate DNAT --ctorigdst 192.168.0.2 -j ACCEPT",
        ] {
            assert!(!uncertain(text), "{text}: {:?}", rule(text));
        }
    }

    #[test]
    fn targets_are_verdicts_chains_or_nothing_that_decides() {
        let does = |target: &str| rule(&format!("-j {target}")).action;
        assert_eq!(does("DROP"), Action::Drop);
        assert_eq!(does("REJECT --reject-with tcp-reset"), Action::Drop);
        assert_eq!(does("LOG --log-prefix \"x \""), Action::Continue);
        assert_eq!(does("CT --notrack"), Action::Untrack);
        assert_eq!(does("CT --helper ftp"), Action::Continue);
        assert_eq!(does("NFQUEUE --queue-num 1"), Action::Uncertain);
        assert_eq!(does("KUBE-FORWARD"), Action::Jump("KUBE-FORWARD".to_owned()));
    }

    #[test]
    fn a_negation_is_of_the_condition_behind_it_alone() {
        let FilterRule { conditions, .. } = rule("! -i eth1 -o eth0 -j DROP");
        let polarities = conditions.iter().map(|condition| match condition {
            Condition::Interface { way, polarity, .. } => (*way, *polarity),
            _ => panic!("{condition:?}"),
        });
        assert_eq!(polarities.collect::<Vec<_>>(), [(Way::In, Polarity::IsNot), (Way::Out, Polarity::Is)]);
    }
}
