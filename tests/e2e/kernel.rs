//! What the kernel of a node holds, as the system's own tools tell it, to be compared byte by byte.

use std::fmt::Write as _;

use crate::bed::Bed;
use crate::node::Node;

/// The rules of both variants, the native ruleset, routes and policy rules, without counters and times.
///
/// A table of the older xtables that holds nothing is left out: the kernel makes it when it is first asked for, and keeps it
/// as long as the network namespace lives.
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

/// The tables that hold more than built-in chains that accept.
fn filled_tables<'a>(lines: &[&'a str]) -> Vec<&'a str> {
    let says_something = |line: &&str| line.starts_with('-') || line.starts_with(':') && !line.ends_with(" ACCEPT");
    let tables = lines.split_inclusive(|line| *line == "COMMIT");
    tables.filter(|table| table.iter().any(says_something)).flatten().copied().collect()
}
