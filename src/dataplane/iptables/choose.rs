//! Detects which iptables variant this node uses, in the way of `kubernetes-sigs/iptables-wrappers`.

use super::program::{self, ProgramError};
use super::variant::Variant;

/// The chains that show which variant the kubelet uses (KEP-3178, and the canary chain of older kubelets).
const HINTS: [&str; 2] = [":KUBE-IPTABLES-HINT ", ":KUBE-KUBELET-CANARY "];

/// Why no variant could be chosen.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("neither iptables-nft nor iptables-legacy can be run on this node; install the package iptables")]
pub struct NoVariant;

/// The variant that this node uses: the one with the hint of a kubelet, else the one with more rules, else `nft`.
///
/// # Errors
/// When the programs of neither variant can be run.
pub async fn choose() -> Result<Variant, NoVariant> {
    let mut found = Vec::new();
    for variant in Variant::ALL {
        if let Some(saved) = saved(variant).await {
            found.push((variant, saved));
        }
    }
    preferred(&found).ok_or(NoVariant)
}

impl Variant {
    /// Whether this node has the programs of the variant and, for legacy xtables, at least one table.
    pub async fn is_in_use(self) -> bool {
        saved(self).await.is_some_and(|saved| !saved.trim().is_empty())
    }
}

/// The content of all tables of `variant`, if its programs can be run.
async fn saved(variant: Variant) -> Option<String> {
    // Running the program would load the kernel modules if they are not loaded yet. If no table is in use, this is not
    // needed.
    if variant == Variant::Legacy && !legacy_in_use() {
        let missing = matches!(program::run(variant.command(), &["--version"], "").await, Err(ProgramError::Missing { .. }));
        return (!missing).then(String::new);
    }
    let ran = program::try_run(variant.save(), &[], "").await.ok()?;
    // The program stops at a rule that it cannot print. The output up to there is sufficient.
    (ran.ended.is_ok() || !ran.printed.is_empty()).then_some(ran.printed)
}

/// The tables of legacy xtables in the network namespace of this thread, one name per line.
const LEGACY_TABLES: &str = "/proc/thread-self/net/ip_tables_names";

/// The tables of legacy xtables that exist in this network namespace.
#[must_use]
pub fn legacy_tables() -> Vec<String> {
    std::fs::read_to_string(LEGACY_TABLES).map(|names| names.lines().map(str::to_owned).collect()).unwrap_or_default()
}

/// The same; `None` if this cannot be read. Without the module, there is no table.
pub(super) fn existing_tables() -> Option<Vec<String>> {
    match std::fs::read_to_string(LEGACY_TABLES) {
        Ok(names) => Some(names.lines().map(str::to_owned).collect()),
        Err(error) => (error.kind() == std::io::ErrorKind::NotFound).then(Vec::new),
    }
}

/// The content of one table of legacy xtables. The table must exist, otherwise the program creates it.
///
/// # Errors
/// When the program is missing or fails.
pub async fn print_legacy(table: &str) -> Result<String, ProgramError> {
    program::run(Variant::Legacy.save(), &["-t", table], "").await
}

/// Whether a table of legacy xtables exists in this network namespace.
pub(super) fn legacy_in_use() -> bool {
    std::fs::read_to_string(LEGACY_TABLES).is_ok_and(|names| !names.trim().is_empty())
}

/// Whether this table of legacy xtables exists in this network namespace, or whether this is not known.
pub(super) fn legacy_may_hold(table: &str) -> bool {
    match std::fs::read_to_string(LEGACY_TABLES) {
        Ok(names) => names.lines().any(|name| name == table),
        // The modules are not loaded.
        Err(error) => error.kind() != std::io::ErrorKind::NotFound,
    }
}

fn preferred(found: &[(Variant, String)]) -> Option<Variant> {
    let hinted = found.iter().find(|(_, saved)| saved.lines().any(|line| HINTS.iter().any(|hint| line.starts_with(hint))));
    let rules = |saved: &str| saved.lines().filter(|line| line.starts_with('-')).count();
    // `max_by_key` returns the last of equal elements. The order is reversed so that `nft` wins if both are equal.
    hinted.or_else(|| found.iter().rev().max_by_key(|(_, saved)| rules(saved))).map(|(variant, _)| *variant)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choose(nft: &str, legacy: &str) -> Option<Variant> {
        preferred(&[(Variant::Nft, nft.to_owned()), (Variant::Legacy, legacy.to_owned())])
    }

    #[test]
    fn the_kubelets_hint_decides_then_the_number_of_rules_then_nft() {
        let hint = "*mangle\n:KUBE-IPTABLES-HINT - [0:0]\nCOMMIT\n";
        assert_eq!(choose("-A INPUT -j X\n-A INPUT -j Y\n", hint), Some(Variant::Legacy));
        assert_eq!(choose(hint, "-A INPUT -j X\n"), Some(Variant::Nft));
        assert_eq!(choose("-A INPUT -j X\n", "-A INPUT -j X\n-A INPUT -j Y\n"), Some(Variant::Legacy));
        assert_eq!(choose("-A INPUT -j X\n", "-A INPUT -j X\n"), Some(Variant::Nft));
        assert_eq!(choose("", ""), Some(Variant::Nft));
        assert_eq!(preferred(&[]), None);
    }
}
