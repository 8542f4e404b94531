//! The state of a proxy's kernel as the tools of the system show it, for comparison in tests.
//!
//! Reads with these tools and never with code of the project, so that a bug of the project cannot hide itself.

use std::fmt;
use std::io::Write as _;
use std::process::Stdio;

use super::Proxy;
use super::netns::{must, output};

/// What holds the rules of an agent: one of the two kernel interfaces of iptables (xtables-nft(8), xtables-legacy(8)), or a table of
/// nftables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Variant {
    /// iptables, by the kernel's `nf_tables`.
    Nft,
    /// iptables, by the older `ip_tables`.
    Legacy,
    /// A table of nftables.
    Nftables,
}

impl Variant {
    /// Both variants of iptables.
    pub(crate) const ALL: [Self; 2] = [Self::Nft, Self::Legacy];

    /// The options of an agent for it.
    pub(crate) fn options(self) -> [String; 2] {
        match self {
            Self::Nft | Self::Legacy => ["--iptables".to_owned(), self.to_string()],
            Self::Nftables => ["--backend".to_owned(), "nftables".to_owned()],
        }
    }

    /// The variant of the iptables programs by which other programs write rules beside it.
    pub(crate) const fn tools(self) -> &'static str {
        match self {
            Self::Nft | Self::Nftables => "nft",
            Self::Legacy => "legacy",
        }
    }
}

/// Turns functions that take a [`Variant`] into tests `nft::NAME` and `legacy::NAME`.
macro_rules! on_both_variants {
    ($($name:ident),+ $(,)?) => {
        mod nft {
            $(#[test] fn $name() { super::$name($crate::bed::kernel::Variant::Nft); })+
        }
        mod legacy {
            $(#[test] fn $name() { super::$name($crate::bed::kernel::Variant::Legacy); })+
        }
    };
}
pub(crate) use on_both_variants;

/// Turns functions that take a [`Variant`] into tests `nft::NAME`, `legacy::NAME` and `nftables::NAME`.
macro_rules! on_all_backends {
    ($($name:ident),+ $(,)?) => {
        $crate::bed::kernel::on_both_variants![$($name),+];
        mod nftables {
            $(#[test] fn $name() { super::$name($crate::bed::kernel::Variant::Nftables); })+
        }
    };
}
pub(crate) use on_all_backends;

impl fmt::Display for Variant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nft => "nft",
            Self::Legacy => "legacy",
            Self::Nftables => "nftables",
        })
    }
}

impl Proxy {
    /// Runs `iptables -w ARGUMENTS`, which must succeed.
    pub(crate) fn iptables(&self, variant: Variant, arguments: &str) -> String {
        must(self.command(&format!("iptables-{}", variant.tools())).arg("-w").args(arguments.split_whitespace()))
    }

    /// Runs `iptables-restore --noflush -w` with this text, which must succeed.
    pub(crate) fn iptables_restore(&self, variant: Variant, rules: &str) {
        let mut restore = self
            .command(&format!("iptables-{}-restore", variant.tools()))
            .args(["--noflush", "-w"])
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("nsenter is installed");
        restore.stdin.take().expect("the input is piped").write_all(rules.as_bytes()).expect("iptables-restore reads");
        let output = restore.wait_with_output().expect("iptables-restore can be waited for");
        assert!(output.status.success(), "{}\n{rules}", String::from_utf8_lossy(&output.stderr));
    }

    /// `iptables-save` without the parts that differ between equal rulesets: comments with times, and counters.
    pub(crate) fn iptables_save(&self, variant: Variant) -> Vec<String> {
        let text = must(&mut self.command(&format!("iptables-{}-save", variant.tools())));
        let kept = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
        kept.map(|line| line.split(" [").next().unwrap_or(line).to_owned()).collect()
    }

    /// The operator's chains, jumps and rules, each line with its table before it.
    pub(crate) fn our_rules(&self, variant: Variant) -> Vec<String> {
        let mut table = String::new();
        let mut ours = Vec::new();
        if variant == Variant::Nftables {
            let listed = output(self.command("nft").args(["--stateless", "list", "table", "ip", "portforward"]));
            ours.extend(String::from_utf8_lossy(&listed.stdout).lines().map(str::to_owned));
        }
        for line in self.iptables_save(variant) {
            if let Some(name) = line.strip_prefix('*') {
                name.clone_into(&mut table);
            } else if is_ours(&line) {
                ours.push(format!("{table} {line}"));
            }
        }
        ours
    }

    /// Has another program remove the rules by which the operator translates.
    pub(crate) fn lose_rules(&self, variant: Variant) {
        match variant {
            Variant::Nft | Variant::Legacy => drop(self.iptables(variant, "-t nat -F")),
            Variant::Nftables => drop(must(self.command("nft").args(["delete", "table", "ip", "portforward"]))),
        }
    }

    /// All rules that are not the operator's, byte by byte. A table without rules and with default policies is left out,
    /// because iptables creates such tables when it only reads.
    pub(crate) fn foreign_rules(&self, variant: Variant) -> Vec<String> {
        let all = self.iptables_save(variant);
        let tables = all.split_inclusive(|line| line == "COMMIT");
        let foreign = tables.map(|table| table.iter().filter(|line| !is_ours(line)).cloned().collect::<Vec<_>>());
        let says_something = |line: &String| line.starts_with('-') || (line.starts_with(':') && !line.ends_with(" ACCEPT"));
        foreign.filter(|table| table.iter().any(says_something)).flatten().collect()
    }

    /// The native nftables ruleset without counters and handles. Other programs may have rules in it besides iptables.
    pub(crate) fn nft_ruleset(&self) -> String {
        must(self.command("nft").args(["--stateless", "list", "ruleset"]))
    }

    /// The IPv4 routes of the main table, as printed by `ip -j`.
    pub(crate) fn routes(&self) -> Vec<serde_json::Value> {
        let text = must(self.command("ip").args(["-j", "-4", "-d", "route", "show", "table", "main"]));
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("ip -j route: {error}: {text}"))
    }

    /// The routes to one destination, in the notation of `ip` (a host without a prefix length).
    pub(crate) fn routes_to(&self, destination: &str) -> Vec<serde_json::Value> {
        self.routes().into_iter().filter(|route| route["dst"] == destination).collect()
    }

    /// The conntrack entries that `conntrack -L FILTER` lists, one line each.
    pub(crate) fn conntrack(&self, filter: &str) -> Vec<String> {
        let listed = must(self.command("conntrack").arg("-L").args(filter.split_whitespace()));
        listed.lines().map(str::to_owned).collect()
    }

    /// Deletes the entries that `conntrack -D FILTER` matches. Returns their number.
    pub(crate) fn conntrack_delete(&self, filter: &str) -> usize {
        // conntrack exits with 1 if nothing matched (conntrack(8)).
        let deleted = output(self.command("conntrack").arg("-D").args(filter.split_whitespace()));
        String::from_utf8_lossy(&deleted.stdout).lines().count()
    }

    /// The neighbour entries, as printed by `ip -j`.
    pub(crate) fn neighbours(&self) -> Vec<serde_json::Value> {
        let text = must(self.command("ip").args(["-j", "-4", "neigh", "show"]));
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("ip -j neigh: {error}: {text}"))
    }
}

/// Whether a line of `iptables-save` declares, fills or names a chain of the operator.
fn is_ours(line: &str) -> bool {
    line.starts_with(":PF-") || line.split_whitespace().any(|word| word.starts_with("PF-"))
}
