//! The input for `iptables-restore --noflush` that makes the chains of one table as desired.
//!
//! Chains are in descending order of name, each header followed by its rules. `iptables-nft-restore` keeps the names of the
//! chains that it changes in a sorted list and walks it for every line, so with this order a load takes linear time. All
//! chains are declared before the rules that jump to them, and each COMMIT leaves a state that serves every flow. What takes
//! several COMMITs is written stage by stage: a flow that PREROUTING begins to translate gets its source already.

use std::fmt::Write as _;

use super::chain::{ChainName, Chains};
use super::layout::{Ruleset, Stage, Table};
use super::rule::Rule;
use super::variant::Variant;

/// The maximum number of rules in one COMMIT on `nf_tables`. A larger one may never succeed while another program commits
/// every few milliseconds.
const RULES_PER_COMMIT: usize = 2_000;

/// The inputs that rewrite the chains `changed` of `desired`, to be passed to `iptables-restore` in this order.
#[must_use]
pub fn rewrite<'a>(
    variant: Variant,
    table: Table,
    desired: &Chains,
    changed: impl IntoIterator<Item = &'a ChainName>,
) -> Vec<String> {
    let mut names: Vec<&ChainName> = changed.into_iter().collect();
    names.sort_unstable_by(|a, b| b.cmp(a));
    let limit = match variant {
        Variant::Nft => RULES_PER_COMMIT,
        Variant::Legacy => usize::MAX,
    };
    let rules = |name: &ChainName| desired.get(name).map_or(&[][..], Vec::as_slice);
    let size = |name: &ChainName| rules(name).len().max(1);
    if names.iter().map(|name| size(name)).sum::<usize>() > limit {
        names.sort_by_key(|name| Stage::ALL.into_iter().position(|stage| stage.is_of(name)));
    }
    let mut texts = Vec::new();
    let (mut text, mut count) = (String::new(), 0);
    for name in names {
        if count > 0 && count + size(name) > limit {
            texts.push(committed(table, &text));
            (text, count) = (String::new(), 0);
        }
        chain(&mut text, variant, name, rules(name));
        count += size(name);
    }
    if count > 0 {
        texts.push(committed(table, &text));
    }
    texts
}

/// The complete input, with chains and jumps, for a kernel without rules of the operator.
#[must_use]
pub fn whole(variant: Variant, ruleset: &Ruleset) -> String {
    let mut text = String::new();
    for table in Table::ALL.into_iter().filter(|_| !ruleset.is_empty()) {
        let chains = ruleset.chains(table);
        text.extend(rewrite(variant, table, chains, chains.keys()));
        let stages = Stage::ALL.into_iter().filter(|stage| stage.table() == table);
        let jumps: String = stages.map(|stage| format!("-I {} 1 {}\n", stage.builtin(), stage.jump())).collect();
        text += &committed(table, &jumps);
    }
    text
}

/// The input that deletes the chains `stale`, which no desired rule jumps to. They are declared, and so emptied, and then
/// deleted, in one COMMIT.
#[must_use]
pub(super) fn delete<'a>(table: Table, stale: impl IntoIterator<Item = &'a ChainName>) -> Option<String> {
    let mut names: Vec<&ChainName> = stale.into_iter().collect();
    if names.is_empty() {
        return None;
    }
    names.sort_unstable_by(|a, b| b.cmp(a));
    let mut text: String = names.iter().fold(String::new(), |text, name| text + ":" + name.as_str() + " - [0:0]\n");
    for name in names {
        let _ = writeln!(text, "-X {name}");
    }
    Some(committed(table, &text))
}

fn chain(text: &mut String, variant: Variant, name: &ChainName, rules: &[Rule]) {
    let _ = writeln!(text, ":{name} - [0:0]");
    for rule in rules {
        let _ = writeln!(text, "-A {name} {}", rule.text(variant));
    }
}

fn committed(table: Table, text: &str) -> String {
    format!("*{}\n{text}COMMIT\n", table.name())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chains(text: &[(&str, &[&str])]) -> Chains {
        text.iter()
            .map(|(name, rules)| (name.parse().unwrap(), rules.iter().map(|rule| rule.parse().unwrap()).collect()))
            .collect()
    }

    #[test]
    fn children_come_first_each_header_with_its_rules() {
        let desired = chains(&[("PF-PRE", &["-p tcp -j PF-pt"]), ("PF-pt", &["-d 10.0.0.1/32 -j ACCEPT"]), ("PF-pu", &[])]);
        assert_eq!(
            rewrite(Variant::Nft, Table::Nat, &desired, desired.keys()),
            [
                "*nat\n:PF-pu - [0:0]\n:PF-pt - [0:0]\n-A PF-pt -d 10.0.0.1/32 -j ACCEPT\n:PF-PRE - [0:0]\n-A PF-PRE -p tcp -j PF-pt\nCOMMIT\n"
            ]
        );
    }

    #[test]
    fn a_large_load_is_many_commits_on_nft_with_the_new_sources_first_and_one_on_legacy() {
        let leaf = ["-d 10.0.0.1/32 -j ACCEPT"; 16];
        let names: Vec<String> = (0..400).map(|n| format!("PF-p{n:03}")).collect();
        let mut text: Vec<(&str, &[&str])> = names.iter().map(|name| (name.as_str(), &leaf[..])).collect();
        text.push(("PF-PRE", &["-j PF-p000"]));
        text.push(("PF-s0", &["-j MASQUERADE"]));
        text.push(("PF-POST", &["-j PF-s0"]));
        let desired = chains(&text);
        let texts = rewrite(Variant::Nft, Table::Nat, &desired, desired.keys());
        assert!(texts.iter().all(|text| text.matches("-A ").count() <= RULES_PER_COMMIT));
        assert_eq!(texts.len(), 4);
        assert!(
            texts[0]
                .starts_with("*nat\n:PF-s0 - [0:0]\n-A PF-s0 -j MASQUERADE\n:PF-POST - [0:0]\n-A PF-POST -j PF-s0\n:PF-p399 ")
        );
        assert!(texts.last().unwrap().ends_with("-A PF-PRE -j PF-p000\nCOMMIT\n"));
        assert_eq!(rewrite(Variant::Legacy, Table::Nat, &desired, desired.keys()).len(), 1);
    }

    #[test]
    fn stale_chains_are_emptied_and_deleted_in_one_commit() {
        let names = ["PF-pt".parse().unwrap(), "PF-pu".parse().unwrap()];
        assert_eq!(delete(Table::Nat, &names).unwrap(), "*nat\n:PF-pu - [0:0]\n:PF-pt - [0:0]\n-X PF-pu\n-X PF-pt\nCOMMIT\n");
        assert_eq!(delete(Table::Nat, []), None);
    }
}
