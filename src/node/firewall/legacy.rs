//! Tables of legacy xtables, as `iptables-legacy-save` prints them.

mod options;

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::ops::{BitOr, RangeInclusive};

use ipnet::Ipv4Net;

use super::{is_ours, xtables};
use crate::dataplane::Backend;
use crate::dataplane::iptables::{Variant, legacy_tables, print_legacy};
use crate::model::{Action, BaseChain, Condition, Field, FilterRule, Hook, NamePattern, Polarity, Policy, Purpose, Tool, Way};

/// The maximum number of rules that are read from a table. A table with more is not interpreted.
const MOST_RULES: usize = 2000;

/// The built-in chains of other programs that forwarded packets pass.
pub(super) async fn base_chains(ours: Backend) -> Vec<BaseChain> {
    let mut found = Vec::new();
    for table in legacy_tables() {
        let whole_is_ours = ours == Backend::Iptables(Variant::Legacy) && matches!(table.as_str(), "filter" | "nat");
        if whole_is_ours {
            continue;
        }
        // A table that was deleted, or that the program does not support, is left out.
        if let Ok(text) = print_legacy(&table).await {
            found.extend(parse(&table, &text).into_iter().filter(|chain| !is_ours(ours, Variant::Legacy, &table, chain.hook)));
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
    let list = words(text);
    let mut words = list.iter().peekable();
    let (mut conditions, mut action, mut polarity) = (Vec::new(), Action::Continue, Polarity::Is);
    while let Some(word) = words.next() {
        // An option has no value, one or several.
        let mut values = Vec::new();
        while word.is_option()
            && let Some(value) = words.next_if(|next| !next.is_option() && !next.is_negation())
        {
            values.push(value.text.as_str());
        }
        match (word.text.as_str(), values.as_slice()) {
            _ if word.is_negation() => {
                polarity = Polarity::IsNot;
                continue;
            }
            ("-m", [name, ..]) => conditions.extend(options::of_match(name, text)),
            ("-m" | "--comment", _) => {}
            (option, _) if options::is_detail(option) => {}
            // The arguments of a target are options of their own.
            ("-j", [target, ..]) => {
                let mut rest = || words.by_ref().map(|word| word.text.as_str()).collect::<Vec<_>>();
                action = match *target {
                    "CT" => options::tracking(&rest()),
                    "CONNMARK" => options::connmark(&rest()).unwrap_or(Action::Uncertain),
                    target => match xtables::action(target) {
                        Some(Action::Uncertain) if !is_extension(target) => Action::Jump(target.to_owned()),
                        Some(action) => action,
                        None => Action::Continue,
                    },
                };
                break;
            }
            ("-g", [chain, ..]) => {
                action = Action::Goto((*chain).to_owned());
                break;
            }
            (option, values) => conditions.push(condition(option, values, polarity)),
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

fn condition(option: &str, values: &[&str], polarity: Polarity) -> Condition {
    match (option, values) {
        (option, [value]) => condition_of_one(option, value, polarity),
        ("--tcp-flags", [mask, set]) => match (flags(mask), flags(set)) {
            (Some(mask), Some(value)) => Condition::Masked { field: Field::TcpFlags, mask, value, polarity },
            (_, _) => Condition::Uncertain,
        },
        ("-f", []) => {
            Condition::Masked { field: Field::Fragment, mask: xtables::FRAGMENT_OFFSET, value: 0, polarity: polarity.inverted() }
        }
        (option, values) => options::condition(option, values, polarity),
    }
}

fn condition_of_one(option: &str, value: &str, polarity: Polarity) -> Condition {
    let within = |field, range| Condition::Within { field, ranges: vec![range], polarity };
    let network = |field| {
        let network = value.parse::<Ipv4Net>().or_else(|_| value.parse::<Ipv4Addr>().map(Ipv4Net::from));
        network.map_or(Condition::Uncertain, |net| {
            within(field, u64::from(u32::from(net.network()))..=u64::from(u32::from(net.broadcast())))
        })
    };
    let ports = |field| port_range(value).map_or(Condition::Uncertain, |range| within(field, range));
    let list = || value.split(',').map(port_range).collect::<Option<Vec<_>>>();
    let several = |fields: &[Field]| list().map_or(Condition::Uncertain, |ranges| xtables::ports(fields, &ranges, polarity));
    let addresses = |field| {
        let number = |text: &str| text.parse::<Ipv4Addr>().ok().map(|address| u64::from(u32::from(address)));
        let range = value.split_once('-').and_then(|(first, last)| Some(number(first)?..=number(last)?));
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
        "--sports" => several(&[Field::SourcePort]),
        "--dports" => several(&[Field::DestinationPort]),
        "--ports" => several(&[Field::SourcePort, Field::DestinationPort]),
        "--src-range" => addresses(Field::Source),
        "--dst-range" => addresses(Field::Destination),
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
        option => options::condition(option, &[value], polarity),
    }
}

/// One port or a range, `first:last`.
fn port_range(text: &str) -> Option<RangeInclusive<u64>> {
    let (first, last) = text.split_once(':').unwrap_or((text, text));
    Some(first.parse().ok()?..=last.parse().ok()?)
}

/// The bits of a list of words; `None` if one is not known.
fn bits<T: Default + BitOr<Output = T>>(list: &str, bit: impl Fn(&str) -> Option<T>) -> Option<T> {
    list.split(',').map(bit).try_fold(T::default(), |all, bit| Some(all | bit?))
}

/// The flags of a TCP segment as bits.
fn flags(list: &str) -> Option<u64> {
    bits(list, |flag| match flag {
        "NONE" => Some(0),
        "FIN" => Some(0x01),
        "SYN" => Some(0x02),
        "RST" => Some(0x04),
        "PSH" => Some(0x08),
        "ACK" => Some(0x10),
        "URG" => Some(0x20),
        "ALL" => Some(0x3f),
        _ => None,
    })
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
    bits(list, |state| match state {
        "INVALID" => Some(1),
        "ESTABLISHED" => Some(2),
        "RELATED" => Some(4),
        "NEW" => Some(8),
        "SNAT" => Some(0x40),
        "DNAT" => Some(0x80),
        _ => None,
    })
}

/// A word of a rule.
#[derive(Default)]
struct Word {
    text: String,
    /// Whether it is in quotes, so that it is neither an option nor a negation.
    quoted: bool,
}

impl Word {
    fn is_option(&self) -> bool {
        !self.quoted && self.text.starts_with('-')
    }

    fn is_negation(&self) -> bool {
        !self.quoted && self.text == "!"
    }
}

/// The words of a line; text in quotes is one word.
fn words(text: &str) -> Vec<Word> {
    let (mut words, mut word, mut quoted, mut escaped) = (Vec::new(), Word::default(), false, false);
    for c in text.chars() {
        match c {
            c if escaped => {
                word.text.push(c);
                escaped = false;
            }
            '\\' if quoted => escaped = true,
            '"' => {
                word.quoted = true;
                quoted = !quoted;
            }
            ' ' if !quoted => {
                if !word.text.is_empty() || word.quoted {
                    words.push(std::mem::take(&mut word));
                }
            }
            c => word.text.push(c),
        }
    }
    if !word.text.is_empty() || word.quoted {
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
            "-m socket --transparent -j ACCEPT",
            "-m string --string \"-j ACCEPT\" --algo bm -j DROP",
            "-m conntrack --ctstatus ASSURED -j ACCEPT",
        ] {
            assert!(uncertain(text), "{text}: {:?}", rule(text));
        }
        for text in [
            "-i eth1 ! -o eth0 -p tcp -m tcp --dport 80:90 -j ACCEPT",
            "! -s 10.0.0.0/8 -d 1.1.1.1/32 -m comment --comment \"a -j b\" -j REJECT --reject-with icmp-port-unreachable",
            "-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
            "-m conntrack --ctstate DNAT --ctorigdst 192.168.0.2 -j ACCEPT",
            "-p tcp -m multiport ! --dports 80,443:445 -j ACCEPT",
            "-p tcp -m tcp ! --tcp-flags FIN,SYN,RST,ACK SYN -m state --state NEW -j DROP",
            "-m iprange --src-range 1.1.1.1-1.1.1.9 -j DROP",
            "-f -j DROP",
        ] {
            assert!(!uncertain(text), "{text}: {:?}", rule(text));
        }
    }

    #[test]
    fn the_action_follows_options_with_any_number_of_values() {
        for text in [
            "-f -j DROP",
            "-m rpfilter --loose --invert -j DROP",
            "-m set --match-set blocked src -j DROP",
            "-p tcp -m tcp --tcp-flags SYN,RST SYN -j DROP",
            "-m string --string \"-j ACCEPT ! \" --algo bm -m comment --comment ! -j DROP",
        ] {
            assert_eq!(rule(text).action, Action::Drop, "{text}");
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
