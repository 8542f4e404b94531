//! Reads the state of a node's kernel with the tools of the system, for a comparison byte by byte.

use std::fmt::Write as _;

use crate::bed::Bed;
use crate::node::Node;

/// The rules of both variants, the native ruleset, routes and policy rules, without counters and times.
///
/// Leaves out empty tables of legacy xtables: the kernel creates such a table when a program first reads it, and keeps it as
/// long as the network namespace exists.
pub(crate) fn without_counters(node: &Node, bed: &Bed) -> String {
    let mut text = String::new();
    for command in [
        "iptables-nft-save",
        "iptables-legacy-save",
        "ip6tables-legacy-save",
        "nft --stateless list ruleset",
        "ip route show table all",
        "ip rule",
    ] {
        let told = node.run(bed, command);
        let lines = told.lines().filter(|line| !line.starts_with('#')).map(|line| line.split(" [").next().unwrap_or(line));
        let lines: Vec<&str> = lines.collect();
        let kept = if command.ends_with("tables-legacy-save") { filled_tables(&lines) } else { lines };
        let _ = write!(text, "--- {command}\n{}\n", kept.join("\n"));
    }
    text
}

/// The tables that contain more than built-in chains with the policy ACCEPT.
fn filled_tables<'a>(lines: &[&'a str]) -> Vec<&'a str> {
    let says_something = |line: &&str| line.starts_with('-') || line.starts_with(':') && !line.ends_with(" ACCEPT");
    let tables = lines.split_inclusive(|line| *line == "COMMIT");
    tables.filter(|table| table.iter().any(says_something)).flatten().copied().collect()
}
